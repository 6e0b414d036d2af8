//! Remote execution: invocations of sandboxed processes as actions of a server, and back.
//!
//! Knows how servers differ and when to run here instead; unaware of graphs and receipts. What a server says came
//! out is downloaded and hashed: the result names our content, never the server's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bazel_remote_apis::google::longrunning::operations_client::OperationsClient;
use bazel_remote_apis::google::longrunning::{CancelOperationRequest, Operation, operation};
use prost::Message;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::exec::{Done, Executor, Job, Stop, Stream, Unusable};
use quipu_store::cid::BlobId;
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::remote::RemoteError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use crate::action::{self, NotSent, Prepared, Workers};
use crate::api;
use crate::cas;
use crate::client::Client;
use crate::collect::{self, Collected};
use crate::config::{Config, ConfigError};

/// How isolated the work was: as its server saw to it.
pub const TIER: &str = "remote";

/// How often a wait that breaks at once is taken up again.
const MAX_WAITS: u32 = 5;
/// After so many failures in a row the server is not asked again in this run.
const MAX_FAILURES: u32 = 3;
/// Longest text of a worker's name that a receipt repeats.
const MAX_WORKER_CHARS: usize = 200;

/// Told, once, that the server is no use.
pub type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// Carries processes out on a server, and here what cannot be sent.
pub struct RemoteExecutor {
    name: String,
    client: Client,
    workspace: Arc<Workspace>,
    workers: Workers,
    fallback: bool,
    local: Arc<dyn Executor>,
    there: Arc<Semaphore>,
    here: Arc<Semaphore>,
    warn: Warn,
    warned: AtomicBool,
    failures: AtomicU32,
    given_up: AtomicBool,
}

/// What came of asking the server.
enum Answer {
    Done(Box<Done>),
    /// Not its work, or not its fault: somebody else should do it.
    Declined(String),
    /// It gives no answers.
    Failed(RemoteError),
}

impl RemoteExecutor {
    /// An executor on the server that its user calls `name`; `local` does what stays here, `jobs` of it at once.
    /// `warn` hears of the first failure that is the server's own.
    pub fn new(
        name: &str,
        config: &Config,
        env: &dyn Fn(&str) -> Option<String>,
        workspace: Arc<Workspace>,
        local: Arc<dyn Executor>,
        jobs: u32,
        warn: Warn,
    ) -> Result<Self, ConfigError> {
        let workers = Workers { platform: config.platform.clone(), same_tools: config.same_tools };
        let slots = |n: u32| Arc::new(Semaphore::new(n.max(1) as usize));
        Ok(Self {
            name: name.to_owned(),
            client: Client::new(config, env)?,
            workspace,
            workers,
            fallback: config.fallback,
            local,
            there: slots(config.slots),
            here: slots(jobs),
            warn,
            warned: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            given_up: AtomicBool::new(false),
        })
    }

    async fn run(&self, job: Job) -> Done {
        if self.given_up.load(Ordering::Acquire) {
            return self.run_here(job, "it was given up").await;
        }
        let function = match self.client.limits().await {
            Ok(limits) if limits.executes => limits.function,
            Ok(_) => {
                let error = RemoteError::Denied("it does not execute".to_owned());
                return self.failed(job, &error).await;
            }
            Err(error) => return self.failed(job, &error).await,
        };
        let prepared = {
            let (job, workers, root) = (job.clone(), self.workers.clone(), self.workspace.root().to_owned());
            tokio::task::spawn_blocking(move || action::prepare(&job, &root, &workers, function)).await
        };
        let prepared = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(NotSent::Here(_))) => return self.run_here_now(job).await,
            Ok(Err(NotSent::Gone(paths))) => return unusable(Unusable::InputsGone(paths)),
            Ok(Err(NotSent::Changed(paths))) => return unusable(Unusable::InputsChanged(paths)),
            Ok(Err(NotSent::Broken(why))) => return Done::failed(FailureKind::Executor { why }, TIER),
            Err(e) => return Done::failed(FailureKind::Executor { why: e.to_string() }, TIER),
        };
        let Some(turn) = self.turn().await else { return self.run_here_now(job).await };
        let mut stop = job.stop.clone();
        let stopped = async move {
            while *stop.borrow_and_update() == Stop::No {
                if stop.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let answer = tokio::select! {
            answer = self.ask(&job, &prepared) => answer,
            // The server is told by `ask`'s guard that nobody waits any more.
            () = stopped => return unusable(Unusable::Cancelled),
        };
        drop(turn);
        match answer {
            Answer::Done(mut done) => {
                self.failures.store(0, Ordering::Release);
                let changed = self.workspace.sources_changed(&job.sources);
                if !changed.is_empty() {
                    done.unusable = Some(Unusable::InputsChanged(changed));
                }
                *done
            }
            Answer::Declined(why) => {
                self.failures.store(0, Ordering::Release);
                self.told(&why);
                self.run_here(job, &why).await
            }
            Answer::Failed(error) => self.failed(job, &error).await,
        }
    }

    /// The server failed, not the work. What went wrong is said once; when asking again would only cost the same
    /// time again, it is not asked again.
    async fn failed(&self, job: Job, error: &RemoteError) -> Done {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
        if error.is_final() || failures >= MAX_FAILURES {
            self.given_up.store(true, Ordering::Release);
        }
        let why = error.to_string();
        self.told(&why);
        self.run_here(job, &why).await
    }

    fn told(&self, why: &str) {
        if self.fallback && !self.warned.swap(true, Ordering::AcqRel) {
            (self.warn)(format!("remote `{}`: {why}; what it does not do runs here", self.name));
        }
    }

    /// A place on the server; `None` when all are taken and there is one here.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(turn) = Arc::clone(&self.there).try_acquire_owned() {
            return Some(turn);
        }
        tokio::select! {
            biased;
            turn = Arc::clone(&self.there).acquire_owned() => turn.ok(),
            here = Arc::clone(&self.here).acquire_owned() => {
                drop(here);
                None
            }
        }
    }

    /// Does here what the server does not do; its user may have ruled that out.
    async fn run_here(&self, job: Job, why: &str) -> Done {
        if !self.fallback {
            let why = format!("remote `{}`: {why}", self.name);
            return Done::failed(FailureKind::Executor { why }, TIER);
        }
        self.run_here_now(job).await
    }

    async fn run_here_now(&self, job: Job) -> Done {
        let _turn = self.here.acquire().await;
        self.local.execute(job).await
    }

    /// Sends it, waits, and takes what came out. Once more where the server lost something meanwhile.
    async fn ask(&self, job: &Job, prepared: &Prepared) -> Answer {
        let mut outcome = self.attempt(job, prepared, job.forced).await;
        if matches!(outcome, Ok(Outcome::Lost(_) | Outcome::OldFailure)) {
            outcome = self.attempt(job, prepared, true).await;
        }
        match outcome {
            Ok(Outcome::Done(done)) => Answer::Done(done),
            Ok(Outcome::Lost(why) | Outcome::Declined(why)) => Answer::Declined(why),
            Ok(Outcome::OldFailure) => Answer::Declined("it gives nothing but failures of the past".to_owned()),
            Err(error) => Answer::Failed(error),
        }
    }

    async fn attempt(&self, job: &Job, prepared: &Prepared, anew: bool) -> Result<Outcome, RemoteError> {
        if !anew && let Some(result) = self.known(&prepared.action).await? {
            // Servers keep failures, and results without what was declared: neither is taken from the past.
            if result.exit_code == 0
                && let Collected::All(output) =
                    collect::collect(&self.client, &job.store, &prepared.spec, &result).await?
            {
                return Ok(Outcome::Done(Box::new(self.done(job, &result, Ok(output)))));
            }
        }
        cas::upload(&self.client, &job.store, prepared.blobs.clone()).await?;
        let response = match self.execute(&prepared.action, anew).await? {
            Ok(response) => response,
            Err(status) => return self.judge(&status, job),
        };
        let status = response.status.unwrap_or_default();
        if status.code != Code::Ok as i32 {
            return self.judge(&Status::new(Code::from(status.code), status.message), job);
        }
        let Some(result) = response.result else { return Ok(Outcome::Declined("it gave no result".to_owned())) };
        if result.exit_code != 0 {
            if response.cached_result && !anew {
                return Ok(Outcome::OldFailure);
            }
            let streams = collect::streams(&self.client, &job.store, &result).await?;
            let Some((stdout, stderr)) = streams else { return Ok(Outcome::Lost("what was printed is gone".into())) };
            let failure = Failure { kind: FailureKind::Exit { code: result.exit_code }, stdout, stderr };
            return Ok(Outcome::Done(Box::new(self.done(job, &result, Err(failure)))));
        }
        match collect::collect(&self.client, &job.store, &prepared.spec, &result).await? {
            Collected::All(output) => Ok(Outcome::Done(Box::new(self.done(job, &result, Ok(output))))),
            Collected::Wrong(_) if response.cached_result && !anew => Ok(Outcome::OldFailure),
            Collected::Wrong(failure) => Ok(Outcome::Done(Box::new(self.done(job, &result, Err(failure))))),
            Collected::Gone(why) => Ok(Outcome::Lost(why)),
        }
    }

    /// What the server did before: asked by ourselves, since not every server looks.
    async fn known(&self, action: &api::Digest) -> Result<Option<api::ActionResult>, RemoteError> {
        let function = self.client.limits().await?.function;
        let results = self.client.results().await;
        let answer = self.client.call(0, || {
            let request = api::GetActionResultRequest {
                instance_name: self.client.instance(),
                action_digest: Some(action.clone()),
                digest_function: function.number(),
                ..Default::default()
            };
            let mut results = results.clone();
            async move { results.get_action_result(request).await }
        });
        match answer.await {
            Ok(result) => Ok(Some(result)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.client.error(&status)),
        }
    }

    /// Executes, and follows the operation to its end: an answer, a refusal, or no answer. Stages are not needed: some
    /// servers tell none.
    async fn execute(
        &self,
        action: &api::Digest,
        anew: bool,
    ) -> Result<Result<api::ExecuteResponse, Status>, RemoteError> {
        let function = self.client.limits().await?.function;
        let mut execution = self.client.execution().await;
        let request = api::ExecuteRequest {
            instance_name: self.client.instance(),
            skip_cache_lookup: anew,
            action_digest: Some(action.clone()),
            digest_function: function.number(),
            inline_stdout: true,
            inline_stderr: true,
            ..Default::default()
        };
        let slow = || RemoteError::Slow(self.client.deadline());
        let start = tokio::time::timeout(self.client.deadline(), execution.execute(request)).await;
        let mut stream = match start.map_err(|_| slow())? {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut guard = Following { client: self.client.clone(), name: None };
        let (mut waits, mut since) = (0, Instant::now());
        loop {
            let Ok(message) = tokio::time::timeout(self.client.patience(), stream.message()).await else {
                // Quiet: it works, or it is gone. Pings would do, but servers take them for an attack.
                self.client.probe().await.map_err(|status| self.client.error(&status))?;
                continue;
            };
            let status = match message {
                Ok(Some(operation)) => {
                    if !operation.name.is_empty() {
                        guard.name = Some(operation.name.clone());
                    }
                    if operation.done {
                        guard.name = None;
                        return Ok(response(operation));
                    }
                    continue;
                }
                Ok(None) => Status::unavailable("the wait ended before the work"),
                Err(status) => status,
            };
            // A wait that was one counts from the beginning again.
            waits = if since.elapsed() > self.client.patience() { 1 } else { waits + 1 };
            let broken = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
            let Some(name) = guard.name.clone().filter(|_| broken && waits <= MAX_WAITS) else {
                return Ok(Err(status));
            };
            tokio::time::sleep(Duration::from_millis(100 << waits)).await;
            let again = execution.wait_execution(api::WaitExecutionRequest { name });
            stream = match tokio::time::timeout(self.client.deadline(), again).await.map_err(|_| slow())? {
                Ok(answer) => answer.into_inner(),
                Err(status) => return Ok(Err(status)),
            };
            since = Instant::now();
        }
    }

    /// What a refusal means. Servers say missing inputs in several ways, and their own trouble in the same ones.
    fn judge(&self, status: &Status, job: &Job) -> Result<Outcome, RemoteError> {
        let said = status.message().chars().filter(|c| !c.is_control()).take(200).collect::<String>();
        let why = format!("{}: {said}", status.code());
        match (status.code(), job.timeout) {
            (Code::DeadlineExceeded, Some(limit)) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Ok(Outcome::Done(Box::new(Done::failed(FailureKind::Timeout { limit_ms }, TIER))))
            }
            (Code::FailedPrecondition | Code::Internal | Code::NotFound, _) => Ok(Outcome::Lost(why)),
            (Code::InvalidArgument | Code::OutOfRange, _) => Ok(Outcome::Declined(why)),
            _ => Err(self.client.error(status)),
        }
    }

    fn done(&self, job: &Job, result: &api::ActionResult, outcome: Result<Output, Failure>) -> Done {
        let (stdout, stderr) = match &outcome {
            Ok(output) => (output.stdout, output.stderr),
            Err(failure) => (failure.stdout, failure.stderr),
        };
        for (stream, blob) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            if let Some(bytes) = blob.and_then(|b: BlobId| job.store.get(b.link(), 1 << 20).ok().flatten()) {
                (job.sink)(stream, &bytes);
            }
        }
        // Wall time on the worker is the closest that the protocol has.
        let moment = |t: &Option<bazel_remote_apis::google::protobuf::Timestamp>| {
            t.as_ref().map(|t| t.seconds as f64 + f64::from(t.nanos) / 1e9)
        };
        let metadata = result.execution_metadata.clone().unwrap_or_default();
        let took = moment(&metadata.execution_completed_timestamp)
            .zip(moment(&metadata.execution_start_timestamp))
            .map_or(0.0, |(end, start)| (end - start).clamp(0.0, 1e7));
        let worker: String = metadata.worker.chars().filter(|c| !c.is_control()).take(MAX_WORKER_CHARS).collect();
        let worker = worker.trim();
        let host = if worker.is_empty() { self.name.clone() } else { format!("{}: {worker}", self.name) };
        let cpu = Duration::from_secs_f64(took);
        let aside = Duration::ZERO;
        Done { result: outcome, cpu, rss_bytes: 0, aside, tier: TIER, host: Some(host), unusable: None }
    }
}

/// What one attempt came to.
enum Outcome {
    Done(Box<Done>),
    /// A failure, or a result without what was declared, that the server remembered.
    OldFailure,
    /// Blobs were gone: sent, or asked for, once more.
    Lost(String),
    Declined(String),
}

fn response(operation: Operation) -> Result<api::ExecuteResponse, Status> {
    match operation.result {
        Some(operation::Result::Response(any)) => {
            api::ExecuteResponse::decode(&any.value[..]).map_err(|_| Status::data_loss("its answer cannot be read"))
        }
        Some(operation::Result::Error(error)) => Err(Status::new(Code::from(error.code), error.message)),
        None => Err(Status::data_loss("it ended without an answer")),
    }
}

/// An operation that somebody waits for; dropped before its end, the server is told that nobody does.
struct Following {
    client: Client,
    name: Option<String>,
}

impl Drop for Following {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let client = self.client.clone();
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            handle.spawn(async move {
                let mut operations = OperationsClient::new(client.service().await);
                let told = operations.cancel_operation(CancelOperationRequest { name });
                let _ = tokio::time::timeout(Duration::from_secs(2), told).await;
            });
        }
    }
}

fn unusable(why: Unusable) -> Done {
    let text = match &why {
        Unusable::Cancelled => "stopped".to_owned(),
        Unusable::InputsChanged(paths) => format!("`{}` changed", paths.join("`, `")),
        Unusable::InputsGone(paths) => format!("bytes of `{}` are not in the store any more", paths.join("`, `")),
    };
    Done { unusable: Some(why), ..Done::failed(FailureKind::Executor { why: text }, TIER) }
}

impl Executor for RemoteExecutor {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(self.run(job))
    }
}
