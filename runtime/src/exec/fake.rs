//! A scripted executor for tests: does what the script says, can be held back, and remembers what it was asked.
//!
//! Knows names of tasks; unaware of processes and of time.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quipu_store::cid::{BlobId, Codec, InvocationId};
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::tree::Entry;
use tokio::sync::watch;

use super::{Done, Executor, Job, Stop, Unusable};
use crate::value::Text;

type Script = Arc<dyn Fn(&Job) -> Result<Output, Failure> + Send + Sync>;

/// A scripted executor. Clones are one: keep one to script and to ask, register the other.
#[derive(Clone)]
pub struct Fake {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Tasks that may not end yet.
    held: watch::Sender<HashSet<Text>>,
}

struct State {
    by_name: HashMap<Text, Script>,
    otherwise: Script,
    ran: Vec<(Text, InvocationId)>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// Succeeds at everything, without output, until told otherwise.
    pub fn new() -> Self {
        let state = State { by_name: HashMap::new(), otherwise: Arc::new(|_| Ok(Output::default())), ran: Vec::new() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), held: watch::Sender::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the task called `name` does from now on.
    pub fn on(&self, name: &str, script: impl Fn(&Job) -> Result<Output, Failure> + Send + Sync + 'static) {
        self.state().by_name.insert(name.into(), Arc::new(script));
    }

    /// What every task does that no [`Fake::on`] names.
    pub fn otherwise(&self, script: impl Fn(&Job) -> Result<Output, Failure> + Send + Sync + 'static) {
        self.state().otherwise = Arc::new(script);
    }

    /// Keeps the task called `name` from ending until it is released.
    pub fn hold(&self, name: &str) {
        self.shared.held.send_modify(|held| {
            held.insert(name.into());
        });
    }

    /// Lets it end.
    pub fn release(&self, name: &str) {
        self.shared.held.send_modify(|held| {
            held.remove(name);
        });
    }

    /// Names of what was started, in that order.
    pub fn ran(&self) -> Vec<Text> {
        self.state().ran.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Ids of the invocations that were started, in that order.
    pub fn ran_ids(&self) -> Vec<InvocationId> {
        self.state().ran.iter().map(|(_, id)| *id).collect()
    }

    /// Forgets what was started.
    pub fn forget(&self) {
        self.state().ran.clear();
    }
}

/// An output of text files, by path, kept in the job's store.
pub fn files<'a>(job: &Job, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Output, Failure> {
    let mut output = Output::default();
    for (path, text) in files {
        let bytes = text.as_bytes().to_vec();
        let entry = Entry::File { blob: BlobId::of(&bytes), size: bytes.len() as u64, exec: false };
        job.store.put(Codec::Raw, bytes).map_err(|e| FailureKind::Executor { why: e.to_string() })?;
        output.artifacts.insert(path.into(), entry);
    }
    Ok(output)
}

impl Executor for Fake {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        let script = {
            let mut state = self.state();
            state.ran.push((job.name.clone(), job.id));
            state.by_name.get(&job.name).unwrap_or(&state.otherwise).clone()
        };
        Box::pin(async move {
            let (mut held, mut stop) = (self.shared.held.subscribe(), job.stop.clone());
            let done = |result, unusable| Done {
                result,
                cpu: Duration::ZERO,
                rss_bytes: 0,
                aside: Duration::ZERO,
                tier: "native",
                host: None,
                unusable,
            };
            tokio::select! {
                biased;
                Ok(_) = stop.wait_for(|s| *s != Stop::No) => {
                    let why = "it was stopped".to_owned();
                    done(Err(FailureKind::Executor { why }.into()), Some(Unusable::Cancelled))
                }
                Ok(_) = held.wait_for(|held| !held.contains(&job.name)) => done(script(&job), None),
                else => done(script(&job), None),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{job, runtime};
    use super::*;

    #[test]
    fn it_follows_the_script_and_ends_only_when_released() {
        runtime().block_on(async {
            let fake = Fake::new();
            fake.on("a", |job| files(job, [("out", "text")]));
            let (a, _stop) = job("a");
            let output = fake.execute(a).await.result.expect("scripted");
            assert!(output.artifacts.contains_key("out"));

            fake.hold("b");
            let (b, _stop) = job("b");
            let other = fake.clone();
            let running = tokio::spawn(async move { other.execute(b).await });
            while fake.ran().len() < 2 {
                tokio::task::yield_now().await;
            }
            assert!(!running.is_finished());
            fake.release("b");
            assert!(running.await.expect("no panic").result.is_ok());
            assert_eq!(fake.ran(), ["a".into(), "b".into()]);

            fake.hold("c");
            let (c, stop) = job("c");
            stop.send(Stop::Kill).expect("the job listens");
            assert_eq!(fake.execute(c).await.unusable, Some(Unusable::Cancelled));
        });
    }
}
