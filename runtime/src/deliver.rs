//! Delivering what comes out of a task that is done elsewhere: a receipt as if it had run here.
//!
//! Unaware of who did the work; the receipt says who says so.

use std::collections::BTreeMap;
use std::sync::mpsc;

use quipu_store::cid::ReceiptId;
use quipu_store::receipt::{FailureKind, Output};
use quipu_store::{CommitError, Record, StoreError};

use crate::attest::{self, Circumstances};
use crate::drive::Engine;
use crate::exec::Done;
use crate::graph::TaskIdx;
use crate::run::Run;
use crate::task::Work;

/// Why something was not delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// The task is not done elsewhere, or what it needs is not there yet.
    #[error("task `{0}` does not wait for anything to be delivered")]
    NotAwaited(String),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It did not get to disk.
    #[error("it could not be recorded: {0}")]
    Commit(#[from] CommitError),
}

/// Records what came out of a task that `run`, which only looked, found to be waited for. An error is what people say
/// went wrong.
pub fn deliver(
    engine: &Engine,
    run: &Run,
    task: TaskIdx,
    result: Result<Output, String>,
) -> Result<ReceiptId, DeliverError> {
    let subject = run.subject();
    let task = subject.ids.first(task);
    let node = subject.workflow.node(task);
    let not_awaited = || DeliverError::NotAwaited(node.name.to_string());
    let awaited = run.awaited(task).ok_or_else(not_awaited)?;
    let id = subject.ids.of(task);
    let about = Circumstances {
        ran: awaited.id,
        settles: BTreeMap::from([(id, awaited.via)]),
        ins: awaited.ins,
        wall_ms: 0,
        now: engine.clock.unix_s(),
    };
    let mut done = Done::failed(FailureKind::Delivered { why: String::new() }, "none");
    done.result = result.map_err(|why| FailureKind::Delivered { why }.into());
    let receipt = attest::receipt(&done, about).ok_or_else(not_awaited)?;
    let mut blocks = vec![(awaited.id.link(), awaited.invocation.encode().1)];
    if let Work::Task(recipe) = &node.work {
        blocks.push((id.link(), subject.ids.block(recipe)));
    }
    let (sender, recorded) = mpsc::channel();
    let told = move |result| drop(sender.send(result));
    engine.store.record(Record { receipt, blocks, done: Box::new(told) })?;
    engine.store.flush()?;
    Ok(recorded.recv().map_err(|_| not_awaited())??)
}
