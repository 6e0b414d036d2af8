//! Events of a run: the one stream that the terminal, `--json` and the recorded log are made of.
//!
//! Knows what happened, in words that stay; unaware of how anything is shown. The JSON form of each event is
//! stable: `docs/formats/events.md`.

use std::sync::Arc;

use quipu_store::cid::{InvocationId, ReceiptId, TaskId};
use serde::{Serialize, Serializer};

use crate::exec::Stream;
use crate::run::Counts;
use crate::value::Text;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunEvent {
    /// The run began.
    RunStarted {
        /// Id of the run.
        run: Text,
        /// The workspace, when the run is of one.
        #[serde(skip_serializing_if = "Option::is_none")]
        workspace: Option<Text>,
        /// What was asked for.
        goals: Vec<Text>,
        /// Tasks the goals lead to.
        tasks: usize,
    },
    /// A task is not part of the run, since a condition says so.
    TaskLeftOut {
        /// Its name.
        task: Text,
        /// Which condition, and what it looked at.
        reason: Text,
    },
    /// Receipts were looked up as far as that goes without work.
    Planned {
        /// Settled already.
        settled: usize,
        /// Will run.
        certain: usize,
        /// May run, or be cut off.
        conditional: usize,
        /// Expected time with the given number of jobs, in milliseconds, when earlier runs tell.
        #[serde(skip_serializing_if = "Option::is_none")]
        expected_ms: Option<u64>,
    },
    /// A task started.
    TaskStarted {
        /// Its name.
        task: Text,
        /// Its id.
        #[serde(serialize_with = "as_text")]
        id: TaskId,
        /// Id of the invocation.
        #[serde(serialize_with = "as_text")]
        invocation: InvocationId,
        /// Which attempt, from 1.
        attempt: u32,
        /// Why it runs: a kind of [`Reason`](crate::plan::Reason), `never-cached` or `retry`.
        why: &'static str,
        /// How long it took earlier, in milliseconds, when that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        expected_ms: Option<u64>,
    },
    /// A task printed something.
    TaskOutput {
        /// Its name.
        task: Text,
        /// On which stream.
        stream: Stream,
        /// What, in whole lines where there are any; bytes that are no UTF-8 are replaced.
        text: String,
    },
    /// A task reached its end.
    TaskEnded {
        /// Its name.
        task: Text,
        /// Its id.
        #[serde(serialize_with = "as_text")]
        id: TaskId,
        /// How it ended.
        end: Ended,
        /// Wall time of its last attempt, in milliseconds, when it ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        wall_ms: Option<u64>,
        /// User and system time, in milliseconds, when it ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        cpu_ms: Option<u64>,
        /// Peak resident memory, in bytes, when it ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        rss_bytes: Option<u64>,
        /// The kind of failure, when it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<&'static str>,
        /// What went wrong, or why it did not run.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A service is ready: those that need it may start.
    TaskReady {
        /// Its name.
        task: Text,
    },
    /// A task is tried again.
    TaskRetry {
        /// Its name.
        task: Text,
        /// The attempt to come, from 2.
        attempt: u32,
    },
    /// A settled task runs again, since some of its bytes are gone.
    TaskHollow {
        /// Its name.
        task: Text,
    },
    /// A settled task is looked at again, since an input came out differently.
    TaskReopened {
        /// Its name.
        task: Text,
    },
    /// One task came out in two ways.
    Divergence {
        /// Its name.
        task: Text,
    },
    /// A receipt is on disk.
    Recorded {
        /// The task.
        task: Text,
        /// Its receipt.
        #[serde(serialize_with = "as_text")]
        receipt: ReceiptId,
    },
    /// A file that quipu had not written was in the way of an output; its content is in the store.
    Kept {
        /// Where it was.
        path: String,
        /// Its content; none for a symbolic link.
        #[serde(skip_serializing_if = "Option::is_none")]
        cid: Option<String>,
        /// What it led to, for a symbolic link: that is all it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<String>,
    },
    /// Something people should know.
    Warning {
        /// What.
        message: String,
    },
    /// The run ended.
    Summary(Summary),
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It ran and succeeded.
    Ran,
    /// A receipt under its task id settled it.
    Cached,
    /// A receipt under its invocation id settled it.
    CutOff,
    /// It failed.
    Failed,
    /// A task it depends on did not succeed.
    Skipped,
    /// It needs a task of another workflow that nobody has a receipt for.
    Blocked,
    /// Its condition is not met.
    Unmet,
    /// The run was stopped.
    Cancelled,
}

/// The last event of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Id of the run.
    pub run: Text,
    /// Tasks by how they ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// Tasks that conditions left out.
    pub left_out: usize,
    /// Blobs and resources fetched from elsewhere.
    pub fetched: usize,
    /// Wall time of the run, in milliseconds.
    pub ms: u64,
}

fn as_text<T: std::fmt::Display, S: Serializer>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Takes the events of a run. Called from several threads; never blocks for long.
pub trait Observer: Send + Sync {
    /// Takes an event, with the milliseconds since the run began.
    fn on(&self, at_ms: u64, event: &RunEvent);

    /// Nothing comes for a while: what was put off is done now.
    fn rest(&self) {}
}

/// Several observers as one.
#[derive(Clone, Default)]
pub struct Observers {
    all: Vec<Arc<dyn Observer>>,
}

impl Observers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn add(&mut self, observer: Arc<dyn Observer>) {
        self.all.push(observer);
    }

    /// Whether there is none, so that events need not be made.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Observer for Observers {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        self.all.iter().for_each(|o| o.on(at_ms, event));
    }

    fn rest(&self) {
        self.all.iter().for_each(|o| o.rest());
    }
}
