//! The executor of `/quipu/process`: inputs in, steps run, outputs out.
//!
//! Knows the arguments of a process and the tiers it may run in; unaware of graphs and receipts.

mod in_sandbox;
mod learn;
mod serve;
pub mod worker;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use quipu_store::Blob;
use quipu_store::cid::BlobId;
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::tree::Entry;
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::runtime::Handle;

use self::in_sandbox::or_gone;
pub use self::learn::Learned;
use self::serve::{Place, Serve};
use super::capture::{ScratchDir, Streams};
use super::collect::{Artifacts, Declared};
use super::keeper::Keepers;
use super::landlock::{Allowed, Ruleset, RulesetError};
use super::orphans::{Orphans, Ticks};
use super::plain::{Halt, Plain, result_text};
use super::sandbox::Sandbox;
use super::secrets::Secrets;
use super::spawn::{Ended, Forced, Launch, Reads, launch};
use super::stop::StopFlag;
use super::sys::{Status, Usage};
use super::trace::{Trace, Traced};
use super::workspace::Workspace;
use super::{Done, Executor, Job, Stop, Unusable, lookup};
use crate::process::{OutputKind, ProcessSpec, Tier};
use crate::run::values::entry_of;
use crate::service::ServiceSpec;
use crate::task::SERVICE;
use crate::value::Value;

/// Runs processes, in the workspace itself or in sandboxes over it. Cheap to clone.
#[derive(Clone)]
pub struct ProcessExecutor {
    shared: Arc<Shared>,
}

struct Shared {
    workspace: Arc<Workspace>,
    /// Made when the first task runs in the workspace itself.
    orphans: OnceLock<Orphans>,
    keepers: Arc<Keepers>,
    sandbox: Mutex<Option<Arc<Sandbox>>>,
    /// Where the values of secrets are found.
    surroundings: BTreeMap<String, String>,
    /// Why a tier that a task asked for does not work on this machine.
    unavailable: OnceLock<String>,
    /// Flags that nobody raised, of tasks that have ended.
    flags: Mutex<Vec<StopFlag>>,
    /// How often the kernel had ended something for want of memory when last looked; first when a task starts.
    oom_kills: OnceLock<Mutex<Option<u64>>>,
}

impl ProcessExecutor {
    /// An executor over `workspace`. Nothing is made until the first task runs.
    pub fn new(workspace: Arc<Workspace>) -> Self {
        Self::with_surroundings(workspace, BTreeMap::new())
    }

    /// The same, with an environment in which the values of secrets are found.
    pub fn with_surroundings(workspace: Arc<Workspace>, surroundings: BTreeMap<String, String>) -> Self {
        let (orphans, unavailable, oom_kills) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let sandbox = Mutex::default();
        let (keepers, flags) = Default::default();
        let shared = Shared { workspace, orphans, keepers, sandbox, surroundings, unavailable, flags, oom_kills };
        Self { shared: Arc::new(shared) }
    }

    /// Why tasks could not be isolated as they ask to be, when that is so for all tasks on this machine.
    pub fn unavailable(&self) -> Option<&str> {
        self.shared.unavailable.get().map(String::as_str)
    }
}

impl Executor for ProcessExecutor {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(self.work(job, None))
    }

    fn begins_itself(&self, _: &str) -> bool {
        true
    }
}

impl ProcessExecutor {
    /// Carries out a job of the tier `ns` like any other, and tells which files of the workspace it touched. Files that
    /// it did not declare are among the misses.
    pub async fn trace(&self, job: Job) -> (Done, Result<Traced, String>) {
        let trace = Trace::default();
        let done = self.work(job, Some(trace.clone())).await;
        (done, trace.finish())
    }

    async fn work(&self, job: Job, trace: Option<Trace>) -> Done {
        let worked = self.in_background(job, move |shared, job, stop| shared.run(job, stop, trace.as_ref())).await;
        worked.unwrap_or_else(|failed| failed)
    }

    /// Does work that blocks on a thread of its own, which hears of the wish to stop.
    async fn in_background<R: Send + 'static>(
        &self,
        job: Job,
        work: impl FnOnce(&Shared, &Job, &StopFlag) -> R + Send + 'static,
    ) -> Result<R, Done> {
        let failed = |why: String| Done::failed(FailureKind::Executor { why }, "none");
        let flag = Arc::new(self.shared.flag().map_err(|e| failed(e.to_string()))?);
        // Whoever stops waiting for the result does not want the work to go on.
        let abandoned = RaiseOnDrop(Some(flag.clone()));
        let mut stop = job.stop.clone();
        flag.raise(*stop.borrow_and_update());
        self.shared.oom_kills.get_or_init(|| Mutex::new(oom_kills()));
        let (shared, heard) = (self.shared.clone(), flag.clone());
        let mut work = tokio::task::spawn_blocking(move || work(&shared, &job, &heard));
        let mut listening = true;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                changed = stop.changed(), if listening => match changed {
                    Ok(()) => flag.raise(*stop.borrow_and_update()),
                    Err(_) => listening = false,
                },
            }
        };
        self.shared.give_back(flag, abandoned);
        done.map_err(|e| failed(format!("the executor failed: {e}")))
    }
}

struct RaiseOnDrop(Option<Arc<StopFlag>>);

impl Drop for RaiseOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.raise(Stop::Kill));
    }
}

/// What ran, as far as it got.
struct Ran {
    usage: Usage,
    forced: Option<Forced>,
    result: Result<Artifacts, FailureKind>,
    /// Inputs made by other tasks that were moved from under it.
    moved: Vec<String>,
}

/// When a task has to end.
#[derive(Clone, Copy)]
struct Ends<'a> {
    deadline: Option<Instant>,
    stop: &'a StopFlag,
    /// Set for a service, whose last step goes on until it is asked to end.
    serve: Option<&'a Serve<'a>>,
}

impl Ends<'_> {
    /// Waits until the job may begin, whose time counts from then on. `None` when it is not to begin any more.
    fn begin(self, job: &Job) -> Option<Self> {
        Handle::current().block_on(job.begin.wait()).then(|| Self { deadline: deadline(job), ..self })
    }
}

fn deadline(job: &Job) -> Option<Instant> {
    job.timeout.and_then(|t| Instant::now().checked_add(t))
}

/// What a task under rules has of its own.
struct Confined {
    rules: Ruleset,
    env: Vec<(String, String)>,
    _scratch: ScratchDir,
}

impl Default for Ran {
    fn default() -> Self {
        Self { usage: Usage::default(), forced: None, result: Ok(Artifacts::new()), moved: vec![] }
    }
}

impl Ran {
    /// It was wished to stop before it began.
    fn stopped() -> Self {
        Self { forced: Some(Forced::Cancelled), ..FailureKind::Executor { why: "it was stopped".into() }.into() }
    }
}

impl From<FailureKind> for Ran {
    fn from(kind: FailureKind) -> Self {
        Self { result: Err(kind), ..Self::default() }
    }
}

fn executor_failed(what: &str) -> impl Fn(io::Error) -> FailureKind {
    move |e| FailureKind::Executor { why: format!("{what}: {e}") }
}

/// A file that is nowhere on disk, and that nobody changes: every step reads the same.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let memory = rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

impl Shared {
    /// A flag that is not raised.
    fn flag(&self) -> io::Result<StopFlag> {
        let flag = self.flags.lock().unwrap_or_else(PoisonError::into_inner).pop();
        flag.map_or_else(StopFlag::new, Ok)
    }

    /// Takes a flag back whose task has ended, for another task, unless somebody has raised it or still may.
    fn give_back(&self, flag: Arc<StopFlag>, mut abandoned: RaiseOnDrop) {
        abandoned.0 = None;
        if let Some(flag) = Arc::into_inner(flag).filter(|flag| flag.level() == Stop::No) {
            self.flags.lock().unwrap_or_else(PoisonError::into_inner).push(flag);
        }
    }

    fn run(&self, job: &Job, stop: &StopFlag, trace: Option<&Trace>) -> Done {
        let service = match Self::service(job) {
            Ok(service) => service,
            Err(kind) => return Done::failed(kind, "none"),
        };
        let args = service.as_ref().map_or(&job.invocation.args, |service| &service.process);
        let plain = match Plain::read(&job.store, args) {
            Ok(plain) => plain,
            Err(Halt::Failed(kind)) => return Done::failed(kind, "none"),
            Err(Halt::Gone(paths)) => return gone(paths, "none"),
        };
        let tier = plain.spec.tier;
        let secrets = match Secrets::find(&plain.spec.secrets, &self.surroundings) {
            Ok(secrets) => secrets,
            Err(kind) => return Done::failed(kind, tier.name()),
        };
        let plain = Plain { env: plain.env.into_iter().chain(secrets.pairs()).collect(), ..plain };
        let deadline = deadline(job);
        if !plain.spec.services.is_empty() && job.company.is_none() {
            let why = "it needs services, and is run without them".to_owned();
            return Done::failed(FailureKind::Executor { why }, tier.name());
        }
        let serve = service.as_ref().map(|service| Serve::new(&service.ready, job, deadline));
        let ends = Ends { deadline, stop, serve: serve.as_ref() };
        let mut streams = Streams::new(&job.store, job.sink.clone(), &secrets);
        let ran = if stop.level() == Stop::No {
            let ran = match tier {
                Tier::Ns => self
                    .run_in_sandbox(job, &plain, &secrets, ends, &mut streams, trace)
                    .map_err(|halt| or_gone(halt, &job.store, &plain.artifacts)),
                _ if trace.is_some() => {
                    Err(FailureKind::Spawn { why: "only in the sandbox `ns` can a task be traced".into() }.into())
                }
                Tier::None | Tier::Landlock => self.run_here(job, &plain, &secrets, ends, &mut streams),
            };
            match ran {
                Ok(ran) => ran,
                Err(Halt::Failed(kind)) => kind.into(),
                Err(Halt::Gone(paths)) => return gone(paths, tier.name()),
            }
        } else {
            Ran::stopped()
        };
        let ran = Ran { result: ran.result.map_err(|kind| secrets.tell(kind)), ..ran };
        let ran = serve.iter().fold(ran, |ran, serve| serve.judge(ran));
        let done = self.finish(job, &plain.spec, ran, streams);
        // Who is traced was run before, and failed.
        if trace.is_none() && done.result.is_ok() && done.unusable.is_none() {
            job.begin.over();
        }
        done
    }

    /// The arguments of a job that is a service.
    fn service(job: &Job) -> Result<Option<ServiceSpec>, FailureKind> {
        if &*job.invocation.cmd != SERVICE {
            return Ok(None);
        }
        let why = "its arguments are not those of a service".to_owned();
        ServiceSpec::from_args(&job.invocation.args).map(Some).ok_or(FailureKind::Executor { why })
    }

    fn finish(&self, job: &Job, spec: &ProcessSpec, ran: Ran, streams: Streams) -> Done {
        let limit_ms = job.timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let result = match ran.forced {
            Some(Forced::Timeout) => Err(FailureKind::Timeout { limit_ms }),
            Some(Forced::Cancelled) => Err(FailureKind::Executor { why: "it was stopped".into() }),
            None => ran.result,
        };
        let result = match (result, streams.finish(spec.stdout.is_none())) {
            (Ok(artifacts), Ok((stdout, stderr))) => Ok(Output { artifacts, stdout, stderr }),
            (Err(kind), Ok((stdout, stderr))) => Err(Failure { kind, stdout, stderr }),
            (_, Err(e)) => Err(FailureKind::Executor { why: format!("what it printed could not be kept: {e}") }.into()),
        };
        // A service that did what it was to do is looked at no more.
        let is_over = &*job.invocation.cmd == SERVICE && result.is_ok();
        let mut changed = if is_over { vec![] } else { self.workspace.sources_changed(&job.sources) };
        changed.extend(ran.moved.into_iter().filter(|_| !is_over));
        let unusable = if ran.forced == Some(Forced::Cancelled) {
            Some(Unusable::Cancelled)
        } else {
            (!changed.is_empty()).then_some(Unusable::InputsChanged(changed))
        };
        let usage = ran.usage;
        Done {
            result,
            cpu: usage.cpu,
            rss_bytes: usage.rss_bytes,
            aside: Duration::ZERO,
            tier: spec.tier.name(),
            host: None,
            unusable,
        }
    }

    /// The tiers `none` and `landlock`: in the workspace itself.
    fn run_here(
        &self,
        job: &Job,
        plain: &Plain,
        secrets: &Secrets,
        ends: Ends<'_>,
        streams: &mut Streams,
    ) -> Result<Ran, Halt> {
        let (spec, workspace) = (&plain.spec, &*self.workspace);
        // Before anything is written: what a killed run left running may write to the same files.
        let orphans = self.orphans.get_or_init(|| Orphans::open(workspace.store(), workspace.root()));
        let declared = Declared::new(&spec.outputs)?;
        let stdin = self.stdin(spec)?;
        let Some(ends) = ends.begin(job) else { return Ok(Ran::stopped()) };
        let footing = workspace.place_inputs(&plain.artifacts).map_err(|(path, e)| Halt::input(path, e))?;
        for output in spec.outputs.iter().filter(|o| o.kind != OutputKind::Glob) {
            workspace.clear_output(&output.path)?;
        }
        let is_input = |path: &str| {
            let source = job.sources.binary_search_by(|(source, _)| (**source).cmp(path));
            source.is_ok() || plain.artifacts.iter().any(|(input, _)| input == path)
        };
        workspace.clear_matches(&declared, &is_input)?;
        workspace.make_parents(&declared)?;
        let dir = workspace.root().join(&*spec.dir);
        let stdout = match &spec.stdout {
            Some(path) => {
                Some(File::create(workspace.root().join(&**path)).map_err(executor_failed("standard output"))?)
            }
            None => None,
        };
        let confined = if spec.tier == Tier::Landlock { Some(self.confine(job, plain)?) } else { None };
        let path = plain.path();
        let mut ran = Ran::default();
        // Where it is not, nothing starts there.
        let not_started = |why: String| match dir.is_dir() {
            true => FailureKind::Spawn { why },
            false => FailureKind::Spawn { why: format!("working directory `{}` is not there", spec.dir) },
        };
        let start = |argv: &[String], stdin: &Reads, stdout: Option<&File>| {
            let program = lookup::find(&argv[0], path, &dir).map_err(not_started)?;
            let what = Launch {
                program: &program,
                argv,
                env: confined.as_ref().map_or(&plain.env, |confined| &confined.env),
                dir: &dir,
                stdin,
                stdout,
                rules: confined.as_ref().map(|confined| &confined.rules),
            };
            launch(&what, &self.keepers).map_err(|e| not_started(lookup::not_started(&argv[0], &program, &e)))
        };
        let files = |path: &str| workspace.root().join(path).exists();
        let beside = |argv: &[String]| start(argv, &Reads::Nothing, None);
        let place = Place { files: &files, start: &beside, socket: None };
        for (i, argv) in plain.steps.iter().enumerate() {
            let serve = ends.serve.filter(|_| i + 1 == plain.steps.len());
            let mut step = || -> Result<Ended, FailureKind> {
                serve.map_or(Ok(()), |serve| serve.expect_nothing(&place))?;
                let since = Ticks::now();
                let process = start(argv, &stdin, stdout.as_ref())?;
                let _noted = orphans.note(process.pid, since);
                let ended = match serve {
                    None => process.supervise(streams, ends.deadline, ends.stop, &mut || {}),
                    Some(serve) => serve.attend(process, streams, ends.stop, &mut || {}, &place),
                };
                ended.map_err(executor_failed("waiting for it"))
            };
            match step() {
                Ok(ended) => self.note(&mut ran, ended),
                // What earlier steps left is seen to all the same.
                Err(kind) => ran.result = Err(kind),
            }
            if ran.forced.is_some() || ran.result.is_err() {
                break;
            }
        }
        if ran.forced.is_none() && ran.result.is_ok() {
            ran.result = declared.check_hides(workspace.root(), secrets, &is_input).map(|()| Artifacts::new());
            if ran.result.is_ok() {
                ran.result = workspace.collect(&spec.outputs, &is_input);
            }
        }
        if ran.forced.is_some() || ran.result.is_err() {
            // What is kept of a leftover is kept in the store.
            for path in declared.holding(workspace.root(), secrets, &is_input) {
                workspace.discard(&path)?;
            }
            workspace.note_leftovers(&spec.outputs, &is_input);
        }
        ran.moved = footing.moved();
        Ok(ran)
    }

    /// What the tier `landlock` adds.
    fn confine(&self, job: &Job, plain: &Plain) -> Result<Confined, FailureKind> {
        let scratch = ScratchDir::new(&job.store).map_err(executor_failed("scratch directory"))?;
        let artifacts = plain.artifacts.iter().map(|(path, _)| &**path);
        let stdin = plain.spec.stdin.as_ref().and_then(Value::as_text);
        let runs = job.store.runs_dir();
        let rules = Ruleset::new(&Allowed {
            root: self.workspace.root(),
            store: runs.as_deref().and_then(Path::parent),
            scratch: scratch.path(),
            inputs: job.sources.iter().map(|(path, _)| &**path).chain(artifacts).chain(stdin).collect(),
            outputs: &plain.spec.outputs,
            network: plain.spec.network,
        });
        let rules = rules.map_err(|error| {
            let why = error.to_string();
            if matches!(error, RulesetError::Refused(_)) {
                let _ = self.unavailable.set(why.clone());
            }
            FailureKind::Executor { why }
        })?;
        let mut env = plain.env.clone();
        // Files of short life are nobody else's, and gone with the task.
        for (_, value) in env.iter_mut().filter(|(name, value)| name == "TMPDIR" && value == "/tmp") {
            *value = scratch.path().display().to_string();
        }
        Ok(Confined { rules, env, _scratch: scratch })
    }

    /// Adds what a step took and how it ended.
    fn note(&self, ran: &mut Ran, ended: Ended) {
        ran.usage = ran.usage.and(ended.usage);
        ran.forced = ended.forced;
        if let Err(kind) = self.judge(ended.status) {
            ran.result = Err(kind);
        }
    }

    /// What the task reads from its standard input.
    fn stdin(&self, spec: &ProcessSpec) -> Result<Reads, Halt> {
        let failed = executor_failed("standard input");
        let blob = match &spec.stdin {
            None => return Ok(Reads::Nothing),
            Some(Value::Text(path)) => return Ok(Reads::File(self.workspace.root().join(&**path))),
            Some(Value::Link(link)) => BlobId::try_from(**link).ok(),
            Some(other) => match (entry_of(other), result_text(other)) {
                (Some(Entry::File { blob, .. }), _) => Some(blob),
                (_, Some(text)) => return in_memory(text.as_bytes()).map(Reads::Copy).map_err(|e| failed(e).into()),
                _ => None,
            },
        };
        let blob = blob.ok_or_else(|| FailureKind::Executor { why: "standard input is not a file".into() })?;
        match self.workspace.store().whole(blob) {
            Ok(Some(Blob::File { path, .. })) => Ok(Reads::File(path)),
            Ok(Some(Blob::Inline(bytes))) => in_memory(&bytes).map(Reads::Copy).map_err(|e| failed(e).into()),
            Ok(None) => Err(Halt::Gone(vec!["standard input".into()])),
            Err(e) => Err(FailureKind::Executor { why: format!("standard input: {e}") }.into()),
        }
    }

    fn judge(&self, status: Status) -> Result<(), FailureKind> {
        match status {
            Status::Exit(0) => Ok(()),
            Status::Exit(code) => Err(FailureKind::Exit { code }),
            Status::Signal(libc::SIGKILL) if self.memory_ran_out() => Err(FailureKind::OutOfMemory),
            Status::Signal(signal) => Err(FailureKind::Signal { signal }),
        }
    }

    /// Whether the kernel ended something for want of memory since this was last asked. The only sign there is
    /// without a control group: another process on the machine may have been meant.
    fn memory_ran_out(&self) -> bool {
        let now = oom_kills();
        let before = self.oom_kills.get_or_init(|| Mutex::new(now));
        let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
        now > std::mem::replace(&mut *before, now)
    }
}

/// Nothing ran: inputs have to be made, or fetched, again.
fn gone(paths: Vec<String>, tier: &'static str) -> Done {
    let why = format!("bytes of `{}` are not in the store any more", paths.join("`, `"));
    let unusable = Some(Unusable::InputsGone(paths));
    Done { unusable, ..Done::failed(FailureKind::Executor { why }, tier) }
}

fn oom_kills() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/vmstat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}
