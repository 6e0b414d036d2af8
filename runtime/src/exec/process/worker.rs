//! The executor of `/quipu/worker`: tasks as requests to processes that stay, in the form of Bazel's persistent workers.
//!
//! A worker lives in one sandbox, whose workspace holds what the request at hand declares and nothing else. Unaware of
//! graphs and receipts.

mod keep;
mod stage;
mod talk;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quipu_store::Take;
use quipu_store::cid::BlobId;
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;

use self::keep::Worker;
use self::stage::Staged;
use super::super::capture::Streams;
use super::super::collect::Declared;
use super::super::plain::{Halt, Plain};
use super::super::secrets::Secrets;
use super::super::spawn::Forced;
use super::super::stop::StopFlag;
use super::super::sys::Usage;
use super::super::{Done, Executor, Job, Stop};
use super::{Ends, ProcessExecutor, Ran, Shared, gone};
use crate::value::Text;
use crate::worker;

/// What receipts say of how isolated it was: in namespaces, and not alone there.
const TIER: &str = "worker";

/// Workers that wait at once, of all kinds together: each is processes and memory.
const MAX_IDLE: usize = 32;

/// Carries out tasks by workers. Clones are one; the workers end with the last of them.
#[derive(Clone)]
pub struct WorkerExecutor {
    processes: ProcessExecutor,
    idle: Arc<Idle>,
}

/// Workers that wait for a request, the one that has waited longest first.
#[derive(Default)]
struct Idle(Mutex<Vec<(Key, Worker)>>);

impl Idle {
    /// One of the kind that still runs.
    fn take(&self, key: &Key) -> Option<Worker> {
        loop {
            let mut all = self.lock();
            let at = all.iter().rposition(|(kind, _)| kind == key)?;
            let (_, worker) = all.remove(at);
            // The end of one takes its time, and is nobody else's.
            drop(all);
            if worker.is_alive() {
                return Some(worker);
            }
        }
    }

    /// Keeps one for the next request; where there are too many, the one that has waited longest ends.
    fn give_back(&self, key: Key, worker: Worker) {
        let mut all = self.lock();
        all.push((key, worker));
        let oldest = (all.len() > MAX_IDLE).then(|| all.remove(0));
        drop(all);
        drop(oldest);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Key, Worker)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes two workers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    dir: Text,
    network: bool,
    tools: Vec<(Text, BlobId)>,
    /// Inputs that its command line names.
    programs: Vec<(String, Entry)>,
}

impl ProcessExecutor {
    /// An executor of workers over the same workspace, with none yet.
    pub fn workers(&self) -> WorkerExecutor {
        WorkerExecutor { processes: self.clone(), idle: Arc::default() }
    }
}

impl Executor for WorkerExecutor {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        let idle = Arc::clone(&self.idle);
        Box::pin(async move {
            let work = move |shared: &Shared, job: &Job, stop: &StopFlag| serve(shared, &idle, job, stop);
            let done = self.processes.in_background(job, work).await.unwrap_or_else(|failed| failed);
            Done { tier: TIER, ..done }
        })
    }
}

fn serve(shared: &Shared, idle: &Idle, job: &Job, stop: &StopFlag) -> Done {
    let plain = match Plain::read(&job.store, &job.invocation.args) {
        Ok(plain) => plain,
        Err(Halt::Failed(kind)) => return Done::failed(kind, TIER),
        Err(Halt::Gone(paths)) => return gone(paths, TIER),
    };
    let mut streams = Streams::new(&job.store, job.sink.clone(), &Secrets::default());
    let ends = Ends { deadline: job.timeout.and_then(|t| Instant::now().checked_add(t)), stop, serve: None };
    let ran = if stop.level() == Stop::No {
        match serve_one(shared, idle, job, &plain, ends, &mut streams) {
            Ok(ran) => ran,
            Err(Halt::Failed(kind)) => kind.into(),
            Err(Halt::Gone(paths)) => return gone(paths, TIER),
        }
    } else {
        Ran { forced: Some(Forced::Cancelled), ..FailureKind::Executor { why: "it was stopped".into() }.into() }
    };
    shared.finish(job, &plain.spec, ran, streams)
}

fn serve_one(
    shared: &Shared,
    idle: &Idle,
    job: &Job,
    plain: &Plain,
    ends: Ends<'_>,
    streams: &mut Streams,
) -> Result<Ran, Halt> {
    let failed = |why: String| Halt::Failed(FailureKind::Executor { why });
    let spec = &plain.spec;
    let argv = worker::command(&job.invocation.args).ok_or_else(|| failed("no worker is named".to_owned()))?;
    let [arguments] = &plain.steps[..] else { return Err(failed("a worker takes one request at a time".to_owned())) };
    let sources = stage::sources(&job.store, spec.sources)?;
    let wanted = stage::wanted(&sources, &plain.artifacts);
    let programs = argv.iter().filter_map(|arg| Some((arg.clone(), wanted.get(arg.as_str())?.0.clone()))).collect();
    let key = Key {
        argv,
        env: plain.env.clone(),
        dir: spec.dir.clone(),
        network: spec.network,
        tools: spec.tools.iter().map(|(name, id)| (name.clone(), *id)).collect(),
        programs,
    };
    let mut worker = match idle.take(&key) {
        Some(worker) => worker,
        None => Worker::enter(shared, &key).map_err(Halt::from)?,
    };
    let declared = Declared::new(&spec.outputs)?;
    worker.staged.bring(shared.workspace.root(), &job.store, &wanted)?;
    for parent in declared.parents().chain([spec.dir.to_string()]) {
        worker.staged.make_dir(&parent)?;
    }
    worker.start()?;
    let inputs = stage::listed(&job.store, &sources, &plain.artifacts)?;
    let mut ran = Ran { usage: Usage::default(), forced: None, result: Ok(Default::default()), moved: vec![] };
    match worker.ask(arguments, &inputs, ends, streams)? {
        talk::Answer::Forced(forced) => {
            // What it was doing is not known: it is not asked again.
            ran.forced = Some(forced);
            return Ok(ran);
        }
        talk::Answer::Said { code: 0 } => {}
        talk::Answer::Said { code } => ran.result = Err(FailureKind::Exit { code }),
    }
    let is_input = |path: &str| worker.staged.holds(path);
    if ran.result.is_ok() {
        let root = worker.staged.root();
        let kept = worker.staged.check().and_then(|()| declared.check_nothing_else(root, &is_input));
        // What was moved the worker could still write to, which goes on.
        ran.result = kept.and_then(|()| declared.collect(&job.store, root, None, Take::Copy, &is_input, &mut |_| {}));
    }
    idle.give_back(key, worker);
    Ok(ran)
}
