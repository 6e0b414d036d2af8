//! What of a store is given to others: receipts that may leave it and whose outputs are all here.
//!
//! Unaware of the protocol.

use std::collections::HashSet;
use std::sync::Arc;

use quipu_store::cid::{InvocationId, Link, TaskId};
use quipu_store::sign::SignedReceipt;
use quipu_store::{Found, Store, StoreError};

use crate::serve::Share;

/// Receipts for one id at most: made here first, then the oldest.
const MAX_RECEIPTS: usize = 16;

/// A store with what may leave it.
#[derive(Clone)]
pub(crate) struct Shelf {
    pub(crate) store: Store,
    pub(crate) share: Share,
}

impl Shelf {
    /// Receipts of tasks and invocations, each once.
    pub(crate) fn receipts(&self, ids: &[Link]) -> Result<Vec<Arc<SignedReceipt>>, StoreError> {
        let tasks: Vec<TaskId> = ids.iter().filter_map(|id| TaskId::try_from(*id).ok()).collect();
        let invocations: Vec<InvocationId> = ids.iter().filter_map(|id| InvocationId::try_from(*id).ok()).collect();
        let of_tasks = self.store.find_tasks(&tasks)?.into_iter().map(|task| task.receipts);
        let of_invocations = self.store.find_invocations(&invocations)?;
        let (mut seen, mut all) = (HashSet::new(), vec![]);
        for mut found in of_tasks.chain(of_invocations) {
            found.sort_by_key(|f| !f.made_here);
            let mut given = 0;
            for Found { signed, .. } in found {
                if given == MAX_RECEIPTS {
                    break;
                }
                if seen.contains(&signed.id) || (self.may_leave(&signed) && self.is_whole(&signed)?) {
                    given += 1;
                    if seen.insert(signed.id) {
                        all.push(signed);
                    }
                }
            }
        }
        Ok(all)
    }

    fn may_leave(&self, signed: &SignedReceipt) -> bool {
        signed.receipt.out.is_ok() && (self.share)(&self.store, signed)
    }

    /// Whether all that came out is here: who asks would do the work again otherwise, later.
    fn is_whole(&self, signed: &SignedReceipt) -> Result<bool, StoreError> {
        let Ok(output) = &signed.receipt.out else { return Ok(false) };
        for entry in output.artifacts.values() {
            if !self.store.complete(entry)? {
                return Ok(false);
            }
        }
        match output.stdout {
            Some(id) => self.store.has(id.link()),
            None => Ok(true),
        }
    }
}
