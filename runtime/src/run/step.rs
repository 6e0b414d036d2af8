//! What a run asks for, what it is told, and the states of a task in between.
//!
//! Plain values; unaware of how they are carried out.
//!
//! ```text
//!   Idle -> Finding -> Settled(Cached)                                        rule 2: receipt under the task id
//!             |
//!          Waiting -> Selecting -> FindingInvocation -> Settled(CutOff)       rule 3: values of inputs, invocation id
//!             ^                         |
//!             |                     Ordering -> Staging -> Queued -> Running -> Settled(Ran) | Failed
//!             |                                    |          |
//!             +----- an input was hollow ----------+      Following           rule 4: bytes, then work
//!
//!   FindingInvocation -> FindingReads -> Settled(CutOff) | Ordering            a task with a depfile
//!   Ordering -> Awaiting -> Settled(CutOff) | Blocked                          a task that is done elsewhere
//!   Finding -> Awaiting -> Finding | Blocked                                  a task of another workflow
//!   Running -> Pausing -> Queued                                              a failure that is tried again
//!   Ordering -> Unmet | Waiting                                               a task with a condition, first of all
//!   Ordering -> Calling -> Staging                                            a task that needs services
//!   Running -> Serving -> Ran | Failed                                        a service, and -> Idle when it is needed again
//!
//!   any state -> Skipped | Blocked | Cancelled
//! ```

use std::sync::Arc;

use quipu_store::cid::{BlobId, InvocationId, OutputId, ReceiptId, TaskId, TreeId};
use quipu_store::receipt::{Failure, Output, Via};
use quipu_store::tree::Entry;

use crate::graph::TaskIdx;
use crate::task::Invocation;
use crate::value::Text;

/// What came out of a task.
pub type Outcome = Result<Arc<Output>, Arc<Failure>>;

/// A receipt that the store's owner trusts, as a lookup found it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its id.
    pub receipt: ReceiptId,
    /// What it says came out.
    pub result: Outcome,
    /// Id of that.
    pub out: OutputId,
    /// The awaited outputs it was made from, as it says for the task looked up.
    pub via: Via,
    /// Whether our own store made it, or accepted it under its own table.
    pub own: bool,
    /// Whether it was made in the session that is running or being resumed.
    pub session: bool,
    /// Place of its issuer in the order of trust; smaller is better.
    pub rank: u32,
    /// When it was issued, in seconds since 1970.
    pub issued_at: u64,
}

/// A part of a directory that some promise selects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// The directory.
    pub tree: TreeId,
    /// Names from there on.
    pub path: Vec<Text>,
}

/// Bytes of another task's output that a task is about to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Whose output.
    pub from: TaskIdx,
    /// Which artifacts.
    pub entries: Vec<Entry>,
    /// Which captured streams.
    pub streams: Vec<BlobId>,
}

/// Something to be done for a run. Each is answered by the event of the same name, with the same epoch.
#[derive(Debug, Clone)]
pub enum Step {
    /// Look up receipts by task id.
    Find {
        /// The task.
        task: TaskIdx,
        /// Its id.
        id: TaskId,
    },
    /// Look up receipts by invocation id.
    FindInvocation {
        /// The task.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// The invocation.
        id: InvocationId,
    },
    /// Look up receipts by what a task with a depfile read: those of other invocations that differ from this one
    /// only in files that were not read.
    FindReads {
        /// The task.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// The invocation.
        invocation: Arc<Invocation>,
    },
    /// Look up names in directories.
    Select {
        /// The task.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// What to look up.
        parts: Vec<Part>,
    },
    /// See to it that these bytes are here.
    Stage {
        /// The task that will use them.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// What is needed.
        needs: Vec<Need>,
    },
    /// Do the work. Look up receipts once more just before.
    Execute {
        /// The task.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// Which attempt, from 1.
        attempt: u32,
        /// Id of the invocation.
        id: InvocationId,
        /// What is to be done.
        invocation: Arc<Invocation>,
        /// Whether receipts must not settle it: forced, or its bytes are gone.
        must_run: bool,
        /// Awaited outputs it is made from.
        via: Via,
        /// Receipts of the inputs.
        ins: Vec<ReceiptId>,
    },
    /// Wait for what comes out of a task that is done elsewhere: somebody delivers it, or another workspace does it.
    Await {
        /// The task.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// By what its receipts are found.
        on: AwaitOn,
    },
    /// Wait before a task that failed is tried again, if there is time left for that.
    Pause {
        /// The task.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// The attempt to come, from 2.
        attempt: u32,
    },
    /// Remember that this receipt settles the task. Not answered.
    Accept {
        /// The task.
        task: TaskIdx,
        /// The receipt.
        receipt: ReceiptId,
        /// Awaited outputs it is made from.
        via: Via,
    },
    /// The receipt of what `leader` just did settles this task, too. Not answered.
    Share {
        /// The task that ran.
        leader: TaskIdx,
        /// The one with the same invocation.
        task: TaskIdx,
        /// Awaited outputs it would have been made from.
        via: Via,
    },
    /// Put a goal's output where people look for it.
    Place {
        /// The goal.
        task: TaskIdx,
        /// To be told back.
        epoch: u32,
        /// Its output.
        output: Arc<Output>,
        /// Whether it was made just now.
        fresh: bool,
    },
    /// End running work, a pause, or waiting. Answered by the answer to its `Execute`, `Pause` or `Await`.
    Cancel {
        /// The task.
        task: TaskIdx,
    },
    /// Something people want to know. Not answered.
    Tell(Notice),
}

/// By what the receipts of a task that is done elsewhere are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitOn {
    /// By its invocation: it is a task of this workflow.
    Invocation(InvocationId),
    /// By its id: it is a task of another one.
    Task(TaskId),
}

/// What happened, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A task reached its end.
    Ended {
        /// The task.
        task: TaskIdx,
        /// How.
        end: End,
    },
    /// A task that had ended is looked at again, since something it was made from came out differently.
    Reopened {
        /// The task.
        task: TaskIdx,
    },
    /// A service can be used.
    Ready {
        /// The service.
        task: TaskIdx,
    },
    /// A task is tried again.
    Retry {
        /// The task.
        task: TaskIdx,
        /// The attempt to come, from 2.
        attempt: u32,
    },
    /// Bytes of a finished task are gone; it runs again.
    Hollow {
        /// The task.
        task: TaskIdx,
    },
    /// One invocation came out in two ways.
    Divergence {
        /// The task.
        task: TaskIdx,
        /// What was known.
        known: OutputId,
        /// What came out now, or stands in another receipt.
        other: OutputId,
    },
}

/// Something that happened outside.
#[derive(Debug, Clone)]
pub enum Event {
    /// Answer to [`Step::Find`].
    Found {
        /// The task.
        task: TaskIdx,
        /// Usable receipts, in any order.
        candidates: Vec<Candidate>,
        /// The receipt and output this store goes by for the task.
        accepted: Option<(ReceiptId, OutputId)>,
    },
    /// Answer to [`Step::FindInvocation`].
    FoundInvocation {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// Usable receipts, in any order.
        candidates: Vec<Candidate>,
    },
    /// Answer to [`Step::FindReads`].
    FoundReads {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// Usable receipts, in any order.
        candidates: Vec<Candidate>,
    },
    /// Answer to [`Step::Select`].
    Selected {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// One for each part: the entry, or `None` when there is none of that name.
        entries: Vec<Option<Entry>>,
        /// Producers whose directories could not be read.
        hollow: Vec<TreeId>,
    },
    /// Answer to [`Step::Stage`], or instead of an answer to [`Step::Execute`] when bytes vanished meanwhile.
    Staged {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// Producers some of whose bytes are neither here nor to be had.
        hollow: Vec<TaskIdx>,
    },
    /// Answer to [`Step::Execute`]: it ran.
    Finished {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// What came out.
        result: Outcome,
        /// Whether it was stopped on request.
        cancelled: bool,
    },
    /// Before the answer to [`Step::Execute`]: the service can be used.
    Ready {
        /// The service.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
    },
    /// Answer to [`Step::Await`].
    Awaited {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// Receipts that were delivered; none when the run does not wait any longer.
        candidates: Vec<Candidate>,
    },
    /// Answer to [`Step::Pause`].
    Paused {
        /// The task.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// Whether it is tried again; otherwise its failure stands.
        go_on: bool,
    },
    /// Instead of an answer to [`Step::Execute`]: somebody else's receipt arrived and nothing ran. Also
    /// taken unasked while the task is queued.
    Arrived {
        /// The task.
        task: TaskIdx,
        /// The receipt.
        candidate: Candidate,
    },
    /// Answer to [`Step::Place`].
    Placed {
        /// The goal.
        task: TaskIdx,
        /// As in the step.
        epoch: u32,
        /// What became of it.
        placed: Placed,
    },
    /// People asked for an end. Asked again, what would clean up does not start either.
    Stop,
}

/// What became of placing a goal's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is where it belongs.
    Done,
    /// Some of its bytes are gone.
    Hollow,
    /// The workspace did not take it; the reason was reported.
    Failed,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nobody asked for it.
    #[default]
    Idle,
    /// Receipts by its task id are being looked up.
    Finding,
    /// It waits for the values of its inputs.
    Waiting,
    /// Parts of directories are being looked up.
    Selecting,
    /// Receipts by its invocation id are being looked up.
    FindingInvocation,
    /// Receipts by what it read are being looked up.
    FindingReads,
    /// It waits for tasks it must come after.
    Ordering,
    /// It waits for services it needs.
    Calling,
    /// Bytes of its inputs are being seen to.
    Staging,
    /// It waits for slots.
    Queued,
    /// Another task with the same invocation is running.
    Following,
    /// It runs.
    Running,
    /// It is a service, and can be used.
    Serving,
    /// It failed, and is tried again after a pause.
    Pausing,
    /// It is done elsewhere, and nobody has delivered it yet.
    Awaiting,
    /// It reached its end.
    Ended(End),
}

/// How a task ended. Each task of a run ends in exactly one of these, or is never asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// A receipt under its task id settled it.
    Cached,
    /// A receipt under its invocation id settled it.
    CutOff,
    /// It ran and succeeded.
    Ran,
    /// It failed.
    Failed,
    /// A task it depends on did not succeed.
    Skipped {
        /// That task.
        cause: TaskIdx,
    },
    /// It needs a task of another workflow, or one that is done elsewhere, that nobody has a receipt for.
    Blocked {
        /// That task.
        cause: TaskIdx,
    },
    /// Its condition on what became of the tasks it comes after is not met.
    Unmet,
    /// The run was stopped before it ended.
    Cancelled,
}
