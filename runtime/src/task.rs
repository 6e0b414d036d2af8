//! Tasks: one unit of work as the UCAN quadruple `{sub, cmd, args, nonce}`, and beside it what never
//! reaches its id.
//!
//! Knows what identifies work and what does not; unaware of graphs, stores and how work is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::graph::TaskIdx;
use crate::value::{Branch, Text, Value};

/// The subject of every task of a workspace that sets no name space of its own: a fixed public constant, so
/// that equal work has equal ids everywhere. It names no machine and no person, and nobody signs as it.
pub const DEFAULT_SUBJECT: &str = "did:web:quipu.build";

/// The command of a process task.
pub const PROCESS: &str = "/quipu/process";

/// The command of a task that is done elsewhere: nobody here carries it out.
pub const EXTERNAL: &str = "/quipu/external";

/// The command of a task that fetches content by its hash.
pub const FETCH: &str = "/quipu/fetch";

/// The command of a service: a process that runs while those that come after it do.
pub const SERVICE: &str = "/quipu/service";

/// The command of a task that a persistent worker does.
pub const WORKER: &str = "/quipu/worker";

/// The command of a task that waits until something outside is ready.
pub const WAIT: &str = "/quipu/wait";

/// One unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Name space, a DID.
    pub sub: Text,
    /// What is to be done, a UCAN command.
    pub cmd: Text,
    /// Everything that can change the result.
    pub args: Value,
    /// Empty for pure work; anything else opts out of sharing with equal work.
    pub nonce: Box<[u8]>,
}

impl Task {
    /// Pure work in the default name space.
    pub fn new(cmd: impl Into<Text>, args: Value) -> Self {
        Self { sub: DEFAULT_SUBJECT.into(), cmd: cmd.into(), args, nonce: Box::default() }
    }
}

/// A task with every promise replaced by its value: exactly what an executor is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Name space, a DID.
    pub sub: Text,
    /// What is to be done.
    pub cmd: Text,
    /// Everything that can change the result; holds no promise.
    pub args: Value,
    /// As in the task.
    pub nonce: Box<[u8]>,
}

/// What a task may use and how it is handled. Never part of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The time it may take: all attempts together, with the pauses between them.
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure.
    pub retries: u32,
    /// The pause before it is tried again; doubled each time.
    pub backoff: Option<Duration>,
    /// What must have become of the tasks it comes after.
    pub when: When,
    /// Whether its receipts settle it in later runs.
    pub cache: bool,
    /// Slots it takes while it runs, by name. The slot with the empty name is the one `-j` counts; it takes one of those
    /// unless it says 0.
    pub slots: BTreeMap<Text, u32>,
    /// Whether its output is kept from the terminal.
    pub mute: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: None,
            retries: 0,
            backoff: None,
            when: When::Success,
            cache: true,
            slots: BTreeMap::new(),
            mute: false,
        }
    }
}

/// The longest pause between two attempts, however often they were doubled.
const MAX_PAUSE: Duration = Duration::from_secs(600);

impl Policy {
    /// How long to wait before an attempt, from the second on.
    pub fn pause_before(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.checked_pow(attempt.saturating_sub(2)).unwrap_or(u32::MAX);
        self.backoff.unwrap_or_default().saturating_mul(doubled).min(MAX_PAUSE)
    }
}

/// What must have become of the tasks that a task comes after, for it to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum When {
    /// All of them succeeded.
    #[default]
    Success,
    /// One of them failed, or was not started since another had failed.
    Failure,
    /// Whatever became of them, also when the run is being stopped.
    Always,
    /// All of them succeeded, and one of them had to run for that.
    Changed,
}

impl When {
    /// Whether it goes on in a run that is being stopped: it cleans up.
    pub const fn cleans_up(self) -> bool {
        matches!(self, Self::Failure | Self::Always)
    }

    /// Why a task is not run when this is not met.
    pub const fn unmet(self) -> &'static str {
        match self {
            Self::Changed => "nothing that it comes after had to run",
            _ => "nothing that it comes after failed",
        }
    }

    /// The name in workfiles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
            Self::Changed => "changed",
        }
    }
}

/// A task as it stands in a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name people use. The same task under two names is two nodes here and one in the graph.
    pub name: Text,
    /// The work; `None` for a task of another workflow, known by its id alone.
    pub work: Work,
    /// How it is handled.
    pub policy: Arc<Policy>,
    /// Tasks that end before this one starts, without being part of its id.
    pub after: Box<[TaskIdx]>,
}

impl Node {
    /// The same node; what `other` says, too, is kept once for both.
    pub(crate) fn sharing(mut self, other: &Self) -> Self {
        if self.policy == other.policy {
            self.policy = Arc::clone(&other.policy);
        }
        if let (Work::Task(own), Work::Task(other)) = (&mut self.work, &other.work) {
            for (own, other) in [(&mut own.sub, &other.sub), (&mut own.cmd, &other.cmd)] {
                if own == other {
                    *own = Arc::clone(other);
                }
            }
            own.args = own.args.sharing(&other.args);
        }
        self
    }
}

/// What a node stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A task of this workflow.
    Task(Task),
    /// A task of another workflow: settled by a receipt or not at all.
    External {
        /// Its id.
        id: quipu_store::cid::TaskId,
        /// What is awaited of it. A failure settles it unless that is its success.
        branch: Branch,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stay_bounded() {
        let policy = Policy { backoff: Some(Duration::from_secs(1)), ..Policy::default() };
        let pauses: Vec<u64> = [2, 3, 4, 5, 100, u32::MAX].map(|n| policy.pause_before(n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 8, 600, 600]);
        assert_eq!(Policy::default().pause_before(7), Duration::ZERO);
    }
}
