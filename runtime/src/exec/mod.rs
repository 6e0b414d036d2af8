//! Executors: what carries out an invocation. The trait, what goes in and what comes out.
//!
//! Knows one unit of work at a time; unaware of graphs, of receipts and of what else runs.

mod begin;
mod capture;
mod collect;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod filter;
mod footing;
mod keeper;
mod landlock;
mod lookup;
pub mod native;
mod offers;
mod orphans;
#[cfg(test)]
mod placing_tests;
mod plain;
mod probe;
pub mod process;
#[cfg(test)]
mod process_tests;
pub mod sandbox;
#[cfg(test)]
mod sandbox_tests;
pub(crate) mod seats;
mod secrets;
mod spawn;
mod stop;
mod sys;
#[cfg(test)]
mod test_place;
pub mod trace;
#[cfg(test)]
mod trace_tests;
mod turns;
pub mod wait;
pub mod workspace;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quipu_store::Store;
use quipu_store::cid::InvocationId;
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::stamp::Stamp;
use tokio::sync::watch;

pub use self::begin::Begin;
pub use crate::task::Invocation;
use crate::value::Text;

/// Which of a task's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes a task's output while it runs, whole lines where there are any. Called from any thread.
pub type Sink = Arc<dyn Fn(Stream, &[u8]) + Send + Sync>;

/// Takes it that a service is ready. Called from any thread.
pub type Ready = Arc<dyn Fn() + Send + Sync>;

/// How urgently work should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stop {
    /// Go on.
    #[default]
    No,
    /// End it: first politely, after a grace period by force.
    Cancel,
    /// End it by force now.
    Kill,
}

/// One unit of work, with all it may use.
#[derive(Clone)]
pub struct Job {
    /// The name people know the task by.
    pub name: Text,
    /// Id of the invocation.
    pub id: InvocationId,
    /// What is to be done.
    pub invocation: Arc<Invocation>,
    /// The source files it reads, all of them, by path from the workspace's root and in that order, as they looked when they
    /// were hashed.
    pub sources: Arc<[(Text, Stamp)]>,
    /// Where what it fetches is to be had, best first.
    pub urls: Arc<[Text]>,
    /// Ended when it runs longer.
    pub timeout: Option<Duration>,
    /// Asked to run although it has run before: nothing that anybody remembers will do.
    pub forced: bool,
    /// Where blobs come from and go to.
    pub store: Store,
    /// Where output goes while it runs.
    pub sink: Sink,
    /// Told when work should stop.
    pub stop: watch::Receiver<Stop>,
    /// Which services and tasks that need them it belongs to; those of one number share a network of their own.
    pub company: Option<u32>,
    /// To be called once it is ready, if it is a service.
    pub ready: Ready,
    /// When it may begin. Heeded by executors that [begin themselves](Executor::begins_itself); for others it has begun.
    pub begin: Begin,
}

/// What was done, and what it took.
#[derive(Debug, Clone)]
pub struct Done {
    /// What came out.
    pub result: Result<Output, Failure>,
    /// User and system time.
    pub cpu: Duration,
    /// Peak resident memory, in bytes.
    pub rss_bytes: u64,
    /// Time that went into other things than the work, such as finding out why it failed; it is not the task's.
    pub aside: Duration,
    /// How isolated it was: `ns`, `landlock`, `none`, `wasm`, `native`, `remote`.
    pub tier: &'static str,
    /// Where it ran, when that was elsewhere.
    pub host: Option<String>,
    /// Set when the result must not be recorded: cancelled, or made from inputs that changed meanwhile.
    pub unusable: Option<Unusable>,
}

/// Why a result is not worth a receipt although something ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It was asked to stop.
    Cancelled,
    /// These inputs changed while it ran.
    InputsChanged(Vec<String>),
    /// Bytes of these inputs were gone when it was about to start; nothing ran.
    InputsGone(Vec<String>),
}

impl Done {
    /// A failure that used nothing.
    pub fn failed(kind: FailureKind, tier: &'static str) -> Self {
        let aside = Duration::ZERO;
        Self { result: Err(kind.into()), cpu: Duration::ZERO, rss_bytes: 0, aside, tier, host: None, unusable: None }
    }

    /// It was wished to stop before it could begin.
    pub(crate) fn stopped(tier: &'static str) -> Self {
        let done = Self::failed(FailureKind::Executor { why: "stopped".into() }, tier);
        Self { unusable: Some(Unusable::Cancelled), ..done }
    }
}

/// Carries out invocations of one command.
pub trait Executor: Send + Sync {
    /// Does the work. Failures are values; a panic is ours and counts as failure of the executor.
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>>;

    /// Whether it gets jobs of this command ready first, and waits for [`Job::begin`] then: before it changes anything that
    /// others see, and before time counts. Such a job may be handed to it while as many work as may.
    fn begins_itself(&self, _command: &str) -> bool {
        false
    }
}

/// Executors by the command they carry out.
#[derive(Clone, Default)]
pub struct Executors {
    by_command: HashMap<Text, Arc<dyn Executor>>,
}

impl Executors {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `executor` carry out `command`, in place of any before it.
    pub fn register(&mut self, command: impl Into<Text>, executor: impl Executor + 'static) {
        self.by_command.insert(command.into(), Arc::new(executor));
    }

    /// Commands whose jobs are got ready before they begin.
    pub(crate) fn got_ready(&self) -> BTreeSet<Text> {
        let all = self.by_command.iter();
        all.filter(|(command, e)| e.begins_itself(command)).map(|(command, _)| command.clone()).collect()
    }

    /// The executor of `command`.
    pub fn find(&self, command: &str) -> Option<&Arc<dyn Executor>> {
        self.by_command.get(command)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::value::Value;
    use quipu_store::sign::Signer;
    use quipu_store::{Options, SignerSource};

    /// A runtime for one test.
    pub(crate) fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the test may start threads")
    }

    /// A store in memory.
    pub(crate) fn memory() -> Store {
        Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))
    }

    /// A job with no arguments, and the other end of its wish to stop.
    pub(crate) fn job(name: &str) -> (Job, watch::Sender<Stop>) {
        let (sender, stop) = watch::channel(Stop::No);
        let invocation =
            Invocation { sub: "did:web:test".into(), cmd: "/test".into(), args: Value::Null, nonce: Box::default() };
        let job = Job {
            name: name.into(),
            id: InvocationId::of(name.as_bytes()),
            invocation: Arc::new(invocation),
            sources: Arc::new([]),
            urls: Arc::new([]),
            timeout: None,
            forced: false,
            store: memory(),
            sink: Arc::new(|_, _| {}),
            stop,
            company: None,
            ready: Arc::new(|| {}),
            begin: Begin::at_once(),
        };
        (job, sender)
    }
}
