//! Tables of the index: their names, with versions, and the encodings of keys and values.
//!
//! Unaware of transactions. redb checks its pages only when it repairs, so what no id protects carries a
//! checksum here: damage is absence, never another value.

use std::sync::Arc;

use redb::TableDefinition;

use crate::cid::{Link, OutputId, ReceiptId, TaskId};
use crate::rows::{Kept, Stored, Table, TaskRow, block_key, link_of};
use crate::sign::SignedReceipt;

pub(crate) type Bytes = &'static [u8];
pub(crate) type Id = &'static [u8; 32];
pub(crate) type Pair = &'static [u8; 64];
pub(crate) type BlockKey = &'static [u8; 33];

pub(crate) const RECEIPTS: TableDefinition<Id, Bytes> = TableDefinition::new("receipts-0");
pub(crate) const BY_TASK: TableDefinition<Pair, Bytes> = TableDefinition::new("by-task-0");
pub(crate) const BY_INVOCATION: TableDefinition<Pair, ()> = TableDefinition::new("by-invocation-0");
pub(crate) const ACCEPTED: TableDefinition<Id, Bytes> = TableDefinition::new("accepted-0");
pub(crate) const BLOCKS: TableDefinition<BlockKey, Bytes> = TableDefinition::new("blocks-0");
pub(crate) const STAT: TableDefinition<Bytes, Bytes> = TableDefinition::new("stat-0");
pub(crate) const NOTES: TableDefinition<Bytes, Bytes> = TableDefinition::new("notes-0");
pub(crate) const ROOTS: TableDefinition<Bytes, Bytes> = TableDefinition::new("roots-0");
/// Receipt to the day it was last used, in days since 1970. Decides only what a collection takes first.
pub(crate) const USED: TableDefinition<Id, u32> = TableDefinition::new("used-0");
/// How many commits there were.
pub(crate) const META: TableDefinition<&'static str, u64> = TableDefinition::new("meta-0");
pub(crate) const COMMITS: &str = "commits";

pub(crate) const INLINE: u8 = 0;
pub(crate) const LARGE: u8 = 1;
const SEAL_BYTES: usize = 8;

pub(crate) fn opaque(table: Table) -> TableDefinition<'static, Bytes, Bytes> {
    match table {
        Table::Stat => STAT,
        Table::Note => NOTES,
        Table::Root => ROOTS,
    }
}

/// A value with a checksum over its table, key and itself, so that damage is absence and never another value.
pub(crate) fn seal(table: &str, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + value.len());
    sealed.extend_from_slice(&checksum(table, key, value));
    sealed.extend_from_slice(value);
    sealed
}

pub(crate) fn unseal<'a>(table: &str, key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, value) = sealed.split_at_checked(SEAL_BYTES)?;
    (checksum(table, key, value) == *sum).then_some(value)
}

fn checksum(table: &str, key: &[u8], value: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.as_bytes()).update(&(key.len() as u64).to_le_bytes()).update(key).update(value);
    *hasher.finalize().as_bytes().first_chunk().expect("32 bytes hold 8")
}

pub(crate) fn flat_block_key(link: Link) -> [u8; 33] {
    let (digest, codec) = block_key(link);
    let mut key = [codec; 33];
    key[..32].copy_from_slice(&digest);
    key
}

pub(crate) fn link_of_key(key: &[u8; 33]) -> Option<Link> {
    let (digest, codec) = key.split_first_chunk::<32>()?;
    link_of(&(*digest, codec[0]))
}

pub(crate) fn pair(a: &[u8; 32], b: &[u8; 32]) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(a);
    key[32..].copy_from_slice(b);
    key
}

pub(crate) fn halves(key: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (a, b) = key.split_first_chunk::<32>().expect("64 bytes begin with 32");
    (*a, b.try_into().expect("64 bytes end with 32"))
}

pub(crate) fn pack_task(row: &TaskRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + 64 * row.via.len());
    value.push(u8::from(row.own));
    for (task, output) in &row.via {
        value.extend_from_slice(task.digest());
        value.extend_from_slice(output.digest());
    }
    value
}

pub(crate) fn unpack_task(value: &[u8]) -> Option<TaskRow> {
    let (own, via) = value.split_first()?;
    let (pairs, []) = via.as_chunks::<64>() else { return None };
    let via = pairs.iter().map(halves).map(|(task, out)| (TaskId::from_digest(task), OutputId::from_digest(out)));
    Some(TaskRow { own: *own == 1, via: via.collect() })
}

pub(crate) fn read_block(key: &[u8; 33], value: &[u8]) -> Option<Stored> {
    match value.split_first()? {
        (&INLINE, bytes) => Some(Stored::Inline(bytes.into())),
        (&LARGE, sealed) => {
            let size = unseal("blocks-0", key, sealed)?;
            Some(Stored::Large(u64::from_le_bytes(size.try_into().ok()?)))
        }
        _ => None,
    }
}

pub(crate) fn read_receipt(id: ReceiptId, value: &[u8]) -> Result<Kept, String> {
    let (own, bytes) = value.split_first().ok_or("it is empty")?;
    if ReceiptId::of(bytes) != id {
        return Err("bytes do not match the id".to_owned());
    }
    let signed = SignedReceipt::read_own(bytes).map_err(|e| e.to_string())?;
    Ok(Kept { signed: Arc::new(signed), own: *own == 1 })
}

pub(crate) fn read_accepted(task: &[u8; 32], value: &[u8]) -> Option<(ReceiptId, OutputId)> {
    let (receipt, output) = halves(unseal("accepted-0", task, value)?.try_into().ok()?);
    Some((ReceiptId::from_digest(receipt), OutputId::from_digest(output)))
}

pub(crate) fn read_task(key: &[u8; 64], value: &[u8]) -> Option<TaskRow> {
    unseal("by-task-0", key, value).and_then(unpack_task)
}

pub(crate) fn read_value(table: Table, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    unseal(name_of(table), key, value).map(<[u8]>::to_vec)
}

pub(crate) const fn name_of(table: Table) -> &'static str {
    match table {
        Table::Stat => "stat-0",
        Table::Note => "notes-0",
        Table::Root => "roots-0",
    }
}
