//! What a run is given and what it gives back: an engine, a request, a report. Unaware of how it is driven.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use quipu_store::cid::ReceiptId;
use quipu_store::receipt::Output;
use quipu_store::remote::Remote;
use quipu_store::sign::PublicKey;
use quipu_store::tree::Entry;
use quipu_store::trust::Policies;
use quipu_store::{CommitError, Store, StoreError};

use crate::clock::Clock;
use crate::exec::Executors;
use crate::graph::TaskIdx;
use crate::observe::{Observers, Summary};
use crate::run::step::Placed;
use crate::run::{Rules, Run, Subject};
use crate::value::Text;

/// What a run works with.
#[derive(Clone)]
pub struct Engine {
    /// Where receipts and blobs are.
    pub store: Store,
    /// Who carries out what.
    pub executors: Executors,
    /// Who is told.
    pub observers: Observers,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Keys whose receipts count beside those of this store, best first.
    pub trusted: Vec<PublicKey>,
    /// What is asked of receipts made elsewhere, by where they came from.
    pub policies: Policies,
    /// Stores elsewhere, asked in this order for what is not here.
    pub remotes: Vec<Arc<dyn Remote>>,
    /// Whether what is made is sent to those that take it: not from a name space, which nobody else is to see.
    pub sends: bool,
}

impl Engine {
    /// An engine that tells nobody and trusts its own store alone.
    pub fn new(store: Store) -> Self {
        let clock = Arc::new(crate::clock::SystemClock::new());
        let (executors, observers) = (Executors::new(), Observers::new());
        let (policies, remotes) = Default::default();
        Self { store, executors, observers, clock, trusted: vec![], policies, remotes, sends: true }
    }
}

/// A goal's output, to be put where people look for it.
#[derive(Debug, Clone)]
pub struct Goal {
    /// The goal.
    pub task: TaskIdx,
    /// Its output.
    pub output: Arc<Output>,
    /// Whether it was made just now.
    pub fresh: bool,
}

/// Puts goals' outputs where people look for them, and says of each what came of it.
pub type Placer = Box<dyn FnMut(&[Goal]) -> Vec<Result<Placed, String>> + Send>;

/// A placer that knows one goal at a time.
pub fn place_each(mut place: impl FnMut(&Goal) -> Result<Placed, String> + Send + 'static) -> Placer {
    Box::new(move |goals| goals.iter().map(&mut place).collect())
}

/// Tells how long each task took earlier, by index; asked only when something will run.
pub type Durations = Box<dyn FnOnce() -> Vec<u64> + Send>;

/// Adds to a job what its executor needs beside the invocation.
pub type Equip = Box<dyn Fn(TaskIdx, &mut crate::exec::Job) + Send>;

/// Tells the source files of a task, by path: what tasks with a depfile are looked up by.
pub type Listing = Box<dyn Fn(TaskIdx) -> Vec<(String, Entry)> + Send>;

/// What a run is about beyond its workflow.
#[derive(Debug, Clone)]
pub struct Beside {
    /// How many tasks.
    pub tasks: usize,
    /// What people are told that was asked for.
    pub goals: Vec<Text>,
}

/// What a run is to do.
pub struct Request {
    /// The tasks.
    pub subject: Arc<Subject>,
    /// What is asked for.
    pub goals: Vec<TaskIdx>,
    /// How it decides.
    pub rules: Rules,
    /// Id of the run.
    pub id: Text,
    /// The workspace it is of, for those who are told.
    pub workspace: Option<Text>,
    /// The workspace, or what stands for it, in which a run of the same goals goes on where a crashed one was, also with tasks
    /// that are never cached.
    pub session: Option<String>,
    /// Puts goals' outputs in place.
    pub place: Option<Placer>,
    /// Tells how long each task took earlier, by index; asked only when something will run.
    pub durations: Option<Durations>,
    /// Adds to each job what its executor needs beside the invocation.
    pub equip: Option<Equip>,
    /// Tells the source files of a task; without it, depfiles narrow nothing.
    pub listing: Option<Listing>,
    /// Tasks that are settled and no part of the workflow: told of as if they were. Where there are some, tasks of other
    /// workflows are among them.
    pub beside: Option<Beside>,
    /// Tasks that are no part of the workflow, and why: told, and nothing else.
    pub left_out: Vec<(Text, Text)>,
    /// Whether a run goes on waiting for tasks that are done elsewhere when nothing else is left to do.
    pub wait: bool,
}

impl Request {
    /// A request with nothing but the tasks and the goals.
    pub fn new(subject: Arc<Subject>, goals: Vec<TaskIdx>, rules: Rules) -> Self {
        let id = "run".into();
        let (workspace, session, place, durations, equip, listing, beside, left_out) = Default::default();
        let wait = false;
        Self { subject, goals, rules, id, workspace, session, place, durations, equip, listing, beside, left_out, wait }
    }
}

/// Why a run could not go on. Failed tasks are no such reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was done could not be recorded.
    #[error("results could not be recorded: {0}")]
    Commit(#[from] CommitError),
    /// The threads for work could not be started.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// A finished run.
#[derive(Debug)]
pub struct Report {
    /// The last event.
    pub summary: Summary,
    /// The state machine, for questions about single tasks.
    pub run: Run,
    /// How long each task that ran took, in milliseconds.
    pub wall_ms: HashMap<TaskIdx, u64>,
    /// Receipts made, by task.
    pub recorded: HashMap<TaskIdx, ReceiptId>,
    /// Whether a receipt was looked at that counts only until some time, or did.
    pub has_expiring: bool,
}

impl Report {
    /// The receipt that a task goes by: one that was found, or made.
    pub fn receipt(&self, task: TaskIdx) -> Option<ReceiptId> {
        let made = self.recorded.get(&self.run.subject().ids.first(task));
        self.run.receipt(task).or(made.copied())
    }
}
