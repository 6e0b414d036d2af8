//! From what an executor did to what a receipt says.
//!
//! Knows which results are worth a receipt; unaware of keys and stores.

use std::collections::BTreeMap;

use quipu_store::cid::{InvocationId, ReceiptId, TaskId};
use quipu_store::receipt::{Meta, Receipt, Via};

use crate::exec::Done;

/// What is known of finished work beside its result.
pub(crate) struct Circumstances {
    /// The invocation.
    pub(crate) ran: InvocationId,
    /// Tasks it settles, each with the awaited outputs it was made from.
    pub(crate) settles: BTreeMap<TaskId, Via>,
    /// Receipts of the inputs.
    pub(crate) ins: Vec<ReceiptId>,
    /// Wall time, in milliseconds.
    pub(crate) wall_ms: u64,
    /// Now, in seconds since 1970.
    pub(crate) now: u64,
}

/// The receipt of finished work; `None` when it is not worth one: stopped, made from inputs that changed
/// meanwhile, or a failure of ours rather than of the task.
pub(crate) fn receipt(done: &Done, about: Circumstances) -> Option<Receipt> {
    let recorded = match &done.result {
        Ok(_) => true,
        Err(failure) => failure.kind.is_recorded(),
    };
    if done.unusable.is_some() || !recorded {
        return None;
    }
    Some(Receipt {
        ran: about.ran,
        out: done.result.clone(),
        issued_at: about.now,
        expires_at: None,
        meta: Meta {
            settles: about.settles,
            ins: about.ins,
            wall_ms: about.wall_ms,
            cpu_ms: u64::try_from(done.cpu.as_millis()).unwrap_or(0),
            rss_bytes: done.rss_bytes,
            tier: done.tier.to_owned(),
            host: done.host.clone(),
        },
    })
}
