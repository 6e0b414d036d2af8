//! What a store knows beside its file blobs, as rows in memory, and the operations that change them.
//!
//! The memory backend is these rows; the local backend lays them over its index while they wait for a
//! commit. Unaware of disks and of signing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::cid::{InvocationId, Link, OutputId, ReceiptId, TaskId};
use crate::receipt::Via;
use crate::sign::SignedReceipt;
use crate::terms::Kind;

/// Where a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In the index itself.
    Inline(Arc<[u8]>),
    /// In a file of its own, of this many bytes.
    Large(u64),
}

/// A receipt as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) signed: Arc<SignedReceipt>,
    pub(crate) own: bool,
}

/// That a receipt settles a task, and from what it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TaskRow {
    pub(crate) own: bool,
    pub(crate) via: Via,
}

/// Tables whose values mean nothing to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Stat,
    Note,
    Root,
}

/// One change. Applied in order, to rows in memory and to the index alike.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Block(Link, Arc<[u8]>),
    Large(Link, u64),
    /// The block is not here any more.
    Forget(Link),
    Receipt(Kept),
    Task(TaskId, ReceiptId, TaskRow),
    Accept(TaskId, ReceiptId, OutputId),
    Value(Table, Vec<u8>, Option<Vec<u8>>),
}

impl Op {
    /// Roughly what it holds in memory.
    pub(crate) fn weight_bytes(&self) -> usize {
        128 + match self {
            Self::Block(_, bytes) => bytes.len(),
            Self::Receipt(kept) => 2 * kept.signed.bytes.len(),
            Self::Task(_, _, row) => 64 * row.via.len(),
            Self::Value(_, key, value) => key.len() + value.as_ref().map_or(0, Vec::len),
            Self::Large(..) | Self::Forget(_) | Self::Accept(..) => 0,
        }
    }
}

/// The rows.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// By digest, then codec: a prefix of an id is a range. `None` is a block known to be gone.
    pub(crate) blocks: BTreeMap<([u8; 32], u8), Option<Stored>>,
    pub(crate) receipts: BTreeMap<ReceiptId, Kept>,
    pub(crate) by_task: BTreeMap<(TaskId, ReceiptId), TaskRow>,
    pub(crate) by_invocation: BTreeSet<(InvocationId, ReceiptId)>,
    pub(crate) accepted: BTreeMap<TaskId, (ReceiptId, OutputId)>,
    pub(crate) values: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
}

pub(crate) fn block_key(link: Link) -> ([u8; 32], u8) {
    (link.digest, link.codec.code() as u8)
}

impl Rows {
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Block(link, bytes) => {
                self.blocks.insert(block_key(*link), Some(Stored::Inline(bytes.clone())));
            }
            Op::Large(link, size) => {
                self.blocks.insert(block_key(*link), Some(Stored::Large(*size)));
            }
            Op::Forget(link) => {
                self.blocks.insert(block_key(*link), None);
            }
            Op::Receipt(kept) => {
                self.by_invocation.insert((kept.signed.receipt.ran, kept.signed.id));
                let own = kept.own || self.receipts.get(&kept.signed.id).is_some_and(|k| k.own);
                self.receipts.insert(kept.signed.id, Kept { own, ..kept.clone() });
            }
            Op::Task(task, receipt, row) => {
                let known = self.by_task.entry((*task, *receipt)).or_default();
                // What this store made or accepted stays so, whatever is imported later.
                if row.own || !known.own {
                    *known = row.clone();
                }
            }
            Op::Accept(task, receipt, output) => {
                self.accepted.insert(*task, (*receipt, *output));
            }
            Op::Value(table, key, value) => {
                self.values.insert((*table, key.clone()), value.clone());
            }
        }
    }

    /// `None` when these rows say nothing of it.
    pub(crate) fn block(&self, link: Link) -> Option<Option<Stored>> {
        self.blocks.get(&block_key(link)).cloned()
    }

    pub(crate) fn value(&self, table: Table, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.values.get(&(table, key.to_vec())).cloned()
    }

    pub(crate) fn of_task(&self, task: TaskId) -> impl Iterator<Item = (ReceiptId, &TaskRow)> {
        let (low, high) = bounds();
        self.by_task.range((task, low)..=(task, high)).map(|((_, receipt), row)| (*receipt, row))
    }

    pub(crate) fn of_invocation(&self, id: InvocationId) -> impl Iterator<Item = ReceiptId> {
        let (low, high) = bounds();
        self.by_invocation.range((id, low)..=(id, high)).map(|(_, receipt)| *receipt)
    }

    /// Everything with a digest in this range. A task's or invocation's block is named as such.
    pub(crate) fn scan(&self, low: [u8; 32], high: [u8; 32], found: &mut BTreeMap<Link, Kind>) {
        for (key, stored) in self.blocks.range((low, 0)..=(high, u8::MAX)) {
            let Some(link) = stored.is_some().then(|| link_of(key)).flatten() else { continue };
            found.entry(link).or_insert(Kind::Block);
        }
        for id in self.receipts.range(ReceiptId::from_digest(low)..=ReceiptId::from_digest(high)).map(|(id, _)| *id) {
            found.insert(id.link(), Kind::Receipt);
        }
        let (first, last) = bounds();
        let range =
            (Bound::Included((TaskId::from_digest(low), first)), Bound::Included((TaskId::from_digest(high), last)));
        for (task, _) in self.by_task.range(range).map(|(key, _)| *key) {
            found.insert(task.link(), Kind::Task);
        }
        let (low, high) = (InvocationId::from_digest(low), InvocationId::from_digest(high));
        for (id, _) in self.by_invocation.range((low, first)..=(high, last)) {
            found
                .entry(id.link())
                .and_modify(|k| {
                    if *k == Kind::Block {
                        *k = Kind::Invocation;
                    }
                })
                .or_insert(Kind::Invocation);
        }
    }
}

pub(crate) fn link_of((digest, codec): &([u8; 32], u8)) -> Option<Link> {
    use crate::cid::{Codec, DAG_CBOR, RAW};
    let codec = match u64::from(*codec) {
        RAW => Codec::Raw,
        DAG_CBOR => Codec::DagCbor,
        _ => return None,
    };
    Some(Link { codec, digest: *digest })
}

const fn bounds() -> (ReceiptId, ReceiptId) {
    (ReceiptId::from_digest([0; 32]), ReceiptId::from_digest([0xff; 32]))
}
