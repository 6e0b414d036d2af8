//! Promotion: receipts of one store, with every block they need, into another of the same user.
//!
//! Knows what belongs to a receipt and in which order it is kept; unaware of which tasks are asked for and of whether they
//! are done.

use std::io::Read;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::car::MAX_DAG_BYTES;
use crate::cid::{Codec, Link, ReceiptId, TaskId};
use crate::error::{CommitError, StoreError};
use crate::links::links;
use crate::receipt::Output;
use crate::remote::{Bytes, Incoming, RemoteError, reached};
use crate::sign::SignedReceipt;
use crate::store::Store;
use crate::terms::{Found, FoundTask};
use crate::tree::{self, Node};

/// Bytes of a block that are in memory at a time.
const PART_BYTES: usize = 64 << 10;

/// What was taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promoted {
    /// Receipts that the other store goes by now, and did not before.
    pub receipts: Vec<ReceiptId>,
    /// Tasks for which it went by another output until now.
    pub replaced: Vec<TaskId>,
    /// Receipts some of whose blocks are not here: they stay where they are.
    pub hollow: Vec<ReceiptId>,
    /// How many receipts it went by already.
    pub known: usize,
    /// Blocks that went along.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a promotion did not come to its end. What was taken over until then is whole, and stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromoteError {
    /// A store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was taken over could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A block could not be carried over.
    #[error("block {link} cannot be carried over: {why}")]
    Block {
        /// The block.
        link: Link,
        /// What is wrong.
        why: String,
    },
}

/// Makes `to` go, for each of these tasks, by the receipt that `from` has for it: blocks first, then the receipt, in the order
/// given. A kill leaves some of them, each with all it needs.
pub fn promote(from: &Store, to: &Store, settled: &[(TaskId, Found)]) -> Result<Promoted, PromoteError> {
    // Nothing is collected here or there, and neither store is removed meanwhile.
    let _held = (from.hold()?, to.hold()?);
    let mut done = Promoted::default();
    let ids: Vec<TaskId> = settled.iter().map(|(task, _)| *task).collect();
    for ((task, found), there) in settled.iter().zip(to.find_tasks(&ids)?) {
        let Ok(output) = &found.signed.receipt.out else { continue };
        if goes_by(&there, found) {
            done.known += 1;
            continue;
        }
        match needed(from, &found.signed)? {
            Some(links) if carry(from, to, &links, &mut done)? => {
                let source = from.source_of(found.signed.id)?;
                to.take_over(*task, found, output.id(), source.as_deref())?;
                done.receipts.push(found.signed.id);
                done.replaced.extend(there.accepted.filter(|(_, known)| *known != output.id()).map(|_| *task));
            }
            _ => done.hollow.push(found.signed.id),
        }
    }
    to.flush()?;
    Ok(done)
}

/// Whether a store goes by this very receipt already, and with the same right.
fn goes_by(there: &FoundTask, found: &Found) -> bool {
    let known = there.receipts.iter().find(|f| f.signed.id == found.signed.id);
    there.accepted.is_some_and(|(id, _)| id == found.signed.id)
        && known.is_some_and(|known| known.own && (known.made_here || !found.made_here) && known.via == found.via)
}

/// Every block that a receipt needs, what was printed included, and of what it was made from the directories, as far as they
/// are here: `explain` goes down in them. `None` where something that is needed is not here.
fn needed(from: &Store, signed: &SignedReceipt) -> Result<Option<Vec<Link>>, StoreError> {
    let Some(mut all) = reached(from, signed, true)? else { return Ok(None) };
    let mut seen: FxHashSet<Link> = all.iter().copied().collect();
    let outputs: FxHashSet<Link> = signed.receipt.out.iter().flat_map(Output::links).collect();
    let mut todo: Vec<Link> = all.iter().copied().filter(|link| !outputs.contains(link)).collect();
    while let Some(link) = todo.pop() {
        if link.codec != Codec::DagCbor {
            continue;
        }
        let Some(bytes) = from.get(link, MAX_DAG_BYTES)? else { continue };
        for below in links(&bytes).into_iter().filter(|below| below.codec == Codec::DagCbor) {
            let is_node = || -> Result<bool, StoreError> {
                let bytes = from.get(below, tree::MAX_NODE_BYTES as u64)?;
                Ok(bytes.is_some_and(|bytes| Node::decode(&bytes).is_ok()))
            };
            if !seen.contains(&below) && is_node()? {
                seen.insert(below);
                all.push(below);
                todo.push(below);
            }
        }
    }
    Ok(Some(all))
}

/// Carries over what is not there yet, each block checked against its id; `false` when one cannot be had.
fn carry(from: &Store, to: &Store, wanted: &[Link], done: &mut Promoted) -> Result<bool, PromoteError> {
    for link in wanted {
        if to.has(*link)? {
            continue;
        }
        let failed = |error: RemoteError| PromoteError::Block { link: *link, why: error.to_string() };
        let Some(bytes) = Bytes::open(from, *link)? else { return Ok(false) };
        let mut incoming = Incoming::new(to, *link);
        let mut reader = bytes.reader();
        let mut part = vec![0; PART_BYTES];
        loop {
            let read = reader.read(&mut part);
            match read.map_err(|e| PromoteError::Block { link: *link, why: e.to_string() })? {
                0 => break,
                n => incoming.write(&part[..n]).map_err(failed)?,
            }
        }
        match incoming.finish().map_err(failed)? {
            Some(size) => (done.blocks, done.bytes) = (done.blocks + 1, done.bytes + size),
            None => {
                from.corrupt(*link);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The receipt once more as what its bytes say, signature included.
pub(crate) fn verified(signed: &SignedReceipt) -> Result<Arc<SignedReceipt>, StoreError> {
    Ok(Arc::new(SignedReceipt::verify(&signed.bytes).map_err(|e| {
        StoreError::Dag(crate::dag::DagError::Shape(format!("receipt {} is not what it says: {e}", signed.id)))
    })?))
}
