//! One snapshot of the index, for reading.
//!
//! Unaware of what is queued and not committed, and of which bytes are right.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError};

use super::index::{Handle, guarded};
use super::tables::*;
use crate::cid::{InvocationId, Link, OutputId, ReceiptId, TaskId};
use crate::error::StoreError;
use crate::rows::{Kept, Stored, Table, TaskRow};

type ReadOnly<K, V> = redb::ReadOnlyTable<K, V>;

#[derive(Default)]
struct Tables {
    receipts: OnceLock<Option<ReadOnly<Id, Bytes>>>,
    by_task: OnceLock<Option<ReadOnly<Pair, Bytes>>>,
    by_invocation: OnceLock<Option<ReadOnly<Pair, ()>>>,
    accepted: OnceLock<Option<ReadOnly<Id, Bytes>>>,
    blocks: OnceLock<Option<ReadOnly<BlockKey, Bytes>>>,
}

/// One snapshot.
pub(crate) struct View {
    path: PathBuf,
    tables: Tables,
    txn: ReadTransaction,
    /// Closed after the transaction.
    _handle: Arc<Handle>,
}

fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
    txn: &ReadTransaction,
    definition: TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnly<K, V>>, redb::Error> {
    match txn.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Opens a table of a view once.
macro_rules! opened {
    ($view:expr, $field:ident, $definition:expr) => {
        match $view.tables.$field.get() {
            Some(table) => table.as_ref(),
            None => {
                let opened = table(&$view.txn, $definition)?;
                $view.tables.$field.get_or_init(|| opened).as_ref()
            }
        }
    };
}

impl View {
    pub(crate) fn new(path: PathBuf, txn: ReadTransaction, handle: Arc<Handle>) -> Self {
        Self { path, tables: Tables::default(), txn, _handle: handle }
    }

    pub(crate) fn guard<T>(&self, run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        guarded(&self.path, run)
    }

    /// How many commits this view has seen.
    pub(crate) fn commits(&self) -> Result<u64, StoreError> {
        self.guard(|| match table(&self.txn, META)? {
            Some(meta) => Ok(meta.get(COMMITS)?.map_or(0, |n| n.value())),
            None => Ok(0),
        })
    }

    pub(crate) fn block(&self, link: Link) -> Result<Option<Stored>, StoreError> {
        self.guard(|| {
            let Some(blocks) = opened!(self, blocks, BLOCKS) else { return Ok(None) };
            let key = flat_block_key(link);
            Ok(blocks.get(&key)?.and_then(|value| read_block(&key, value.value())))
        })
    }

    pub(crate) fn has_block_row(&self, link: Link) -> Result<bool, StoreError> {
        self.guard(|| {
            let Some(blocks) = opened!(self, blocks, BLOCKS) else { return Ok(false) };
            Ok(blocks.get(&flat_block_key(link))?.is_some())
        })
    }

    pub(crate) fn receipt(&self, id: ReceiptId) -> Result<Option<Kept>, StoreError> {
        self.guard(|| {
            let Some(receipts) = opened!(self, receipts, RECEIPTS) else { return Ok(None) };
            Ok(receipts.get(id.digest())?.and_then(|value| read_receipt(id, value.value()).ok()))
        })
    }

    pub(crate) fn of_task(&self, task: TaskId) -> Result<Vec<(ReceiptId, TaskRow)>, StoreError> {
        self.guard(|| {
            let mut found = Vec::new();
            let Some(by_task) = opened!(self, by_task, BY_TASK) else { return Ok(found) };
            let (low, high) = (pair(task.digest(), &[0; 32]), pair(task.digest(), &[0xff; 32]));
            for row in by_task.range::<&[u8; 64]>(&low..=&high)? {
                let (key, value) = row?;
                let row = read_task(key.value(), value.value());
                found.extend(row.map(|row| (ReceiptId::from_digest(halves(key.value()).1), row)));
            }
            Ok(found)
        })
    }

    pub(crate) fn of_invocation(&self, id: InvocationId) -> Result<Vec<ReceiptId>, StoreError> {
        self.guard(|| {
            let mut found = Vec::new();
            let Some(rows) = opened!(self, by_invocation, BY_INVOCATION) else { return Ok(found) };
            let (low, high) = (pair(id.digest(), &[0; 32]), pair(id.digest(), &[0xff; 32]));
            for row in rows.range::<&[u8; 64]>(&low..=&high)? {
                found.push(ReceiptId::from_digest(halves(row?.0.value()).1));
            }
            Ok(found)
        })
    }

    pub(crate) fn accepted(&self, task: TaskId) -> Result<Option<(ReceiptId, OutputId)>, StoreError> {
        self.guard(|| {
            let Some(accepted) = opened!(self, accepted, ACCEPTED) else { return Ok(None) };
            Ok(accepted.get(task.digest())?.and_then(|value| read_accepted(task.digest(), value.value())))
        })
    }

    pub(crate) fn value(&self, of: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.guard(|| {
            let definition = opaque(of);
            let Some(values) = table(&self.txn, definition)? else { return Ok(None) };
            Ok(values.get(key)?.and_then(|v| read_value(of, key, v.value())))
        })
    }

    pub(crate) fn values(&self, of: Table) -> Result<Vec<crate::backend::Pair>, StoreError> {
        self.guard(|| {
            let mut found = Vec::new();
            let Some(values) = table(&self.txn, opaque(of))? else { return Ok(found) };
            for row in values.iter()? {
                let (key, value) = row?;
                let value = read_value(of, key.value(), value.value());
                found.extend(value.map(|value| (key.value().to_vec(), value)));
            }
            Ok(found)
        })
    }

    /// Calls `see` for each row of a table, in order of keys, until it says no.
    pub(crate) fn each<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
        mut see: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> bool,
    ) -> Result<(), StoreError> {
        self.guard(|| {
            let Some(table) = table(&self.txn, definition)? else { return Ok(()) };
            for row in table.iter()? {
                let (key, value) = row?;
                if !see(key.value(), value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Keys of the four tables that are keyed by digest, in a range of digests.
    pub(crate) fn scan(
        &self,
        low: [u8; 32],
        high: [u8; 32],
        mut see: impl FnMut(Scanned) -> bool,
    ) -> Result<(), StoreError> {
        let pairs = (pair(&low, &[0; 32]), pair(&high, &[0xff; 32]));
        self.guard(|| {
            if let Some(blocks) = opened!(self, blocks, BLOCKS) {
                let (mut from, mut to) = ([0; 33], [0xff; 33]);
                from[..32].copy_from_slice(&low);
                to[..32].copy_from_slice(&high);
                for row in blocks.range::<&[u8; 33]>(&from..=&to)? {
                    if !link_of_key(row?.0.value()).is_none_or(|link| see(Scanned::Block(link))) {
                        break;
                    }
                }
            }
            if let Some(receipts) = opened!(self, receipts, RECEIPTS) {
                for row in receipts.range::<&[u8; 32]>(&low..=&high)? {
                    if !see(Scanned::Receipt(ReceiptId::from_digest(*row?.0.value()))) {
                        break;
                    }
                }
            }
            if let Some(by_task) = opened!(self, by_task, BY_TASK) {
                for row in by_task.range::<&[u8; 64]>(&pairs.0..=&pairs.1)? {
                    if !see(Scanned::Task(TaskId::from_digest(halves(row?.0.value()).0))) {
                        break;
                    }
                }
            }
            if let Some(rows) = opened!(self, by_invocation, BY_INVOCATION) {
                for row in rows.range::<&[u8; 64]>(&pairs.0..=&pairs.1)? {
                    if !see(Scanned::Invocation(InvocationId::from_digest(halves(row?.0.value()).0))) {
                        break;
                    }
                }
            }
            Ok(())
        })
    }
}

/// What [`View::scan`] comes across.
pub(crate) enum Scanned {
    Block(Link),
    Receipt(ReceiptId),
    Task(TaskId),
    Invocation(InvocationId),
}
