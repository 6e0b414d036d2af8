//! The executor of `/quipu/fetch`. Time and the wish to stop are seen to by [`native`].
//!
//! Each content is brought here once, whichever tasks of whichever processes want it. Unaware of graphs and receipts.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quipu_runtime::exec::native::native;
use quipu_runtime::exec::{Done, Executor, Job, Stream};
use quipu_runtime::fetch::{FetchSpec, Sum};
use quipu_runtime::value::Text;
use quipu_store::Lease;
use quipu_store::receipt::{Failure, FailureKind, Output};
use tokio::sync::OnceCell;
use ureq::Agent;

use crate::content::{self, Content, Scratch};
use crate::error::FetchError;
use crate::flight::{Flights, Shared};
use crate::transfer::{Asked, transfer};
use crate::unpack::Bounds;

/// How long to wait before asking again whether another process has brought it, at first and at most.
const POLL_MS: (u64, u64) = (2, 50);
/// What receipts say of how isolated it was: nothing reaches the result but content of a known hash.
const TIER: &str = "fetch";

/// How things are fetched.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// What `file:` addresses without a slash are relative to: the workspace's root.
    pub root: PathBuf,
    /// Whether the network is left alone.
    pub offline: bool,
    /// More than this is refused, whatever its hash.
    pub max_bytes: u64,
    /// How much an archive may hold.
    pub bounds: Bounds,
    /// The pause before all places are asked again; doubled each time.
    pub pause: Duration,
}

impl FetchOptions {
    /// What is usual, for a workspace.
    pub fn new(root: PathBuf) -> Self {
        let pause = Duration::from_millis(500);
        Self { root, offline: false, max_bytes: 16 << 30, bounds: Bounds::default(), pause }
    }
}

/// Carries out tasks that fetch. Clones are one.
#[derive(Clone)]
pub struct FetchExecutor {
    inner: Arc<Inner>,
}

struct Inner {
    options: FetchOptions,
    agent: OnceCell<Agent>,
    flights: Flights<Sum, Brought>,
}

/// What came of it, and the places that were asked.
type Brought = (Shared<Content, FetchError>, Arc<[Text]>);

impl FetchExecutor {
    /// Carries out what comes; connects to nobody before.
    pub fn new(options: FetchOptions) -> Self {
        let inner = Inner { options, agent: OnceCell::new(), flights: Flights::default() };
        Self { inner: Arc::new(inner) }
    }
}

impl Executor for FetchExecutor {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(async move {
            let work = native(|job| async { self.inner.fetch(job).await });
            let done = work.execute(job).await;
            Done { tier: TIER, ..done }
        })
    }
}

impl Inner {
    async fn fetch(&self, job: Job) -> Result<Output, Failure> {
        let broken = |why: String| Failure::from(FailureKind::Executor { why });
        let Some(spec) = FetchSpec::from_args(&job.invocation.args) else {
            return Err(broken("its arguments say nothing to fetch".to_owned()));
        };
        let content = self.content(&job, spec.sum).await.map_err(|error| broken(error.to_string()))?;
        let (store, bounds, path) = (job.store.clone(), self.options.bounds, spec.path.to_string());
        let made = tokio::task::spawn_blocking(move || content::entry(&store, &spec, content, &bounds)).await;
        match made.map_err(|error| broken(format!("the executor panicked: {error}")))? {
            Ok(entry) => Ok(Output { artifacts: [(path.into(), entry)].into(), ..Output::default() }),
            // The same archive is refused wherever it is unpacked.
            Err(FetchError::Unpack(error)) => Err(FailureKind::BadOutput { path, why: error.to_string() }.into()),
            Err(error) => Err(broken(error.to_string())),
        }
    }

    /// Brings content here, unless it is.
    async fn content(&self, job: &Job, sum: Sum) -> Shared<Content, FetchError> {
        loop {
            let work = || async {
                let got = self.bring(job, sum).await.map_err(Arc::new);
                (got, Arc::clone(&job.urls))
            };
            let ((got, asked), of_another) = self.flights.join(sum, work).await;
            // What another could not get from the same places cannot be got; there may be more places, though.
            let same_places = || job.urls.iter().all(|url| asked.contains(url));
            if got.is_ok() || !of_another || same_places() {
                return got;
            }
        }
    }

    async fn bring(&self, job: &Job, sum: Sum) -> Result<Content, FetchError> {
        let mut wait_ms = POLL_MS.0;
        let lease = loop {
            if let Some(content) = content::find(&job.store, &sum)? {
                return Ok(content);
            }
            if let Some(lease) = job.store.lease(content::lease_id(&sum))? {
                break lease;
            }
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            wait_ms = (wait_ms * 2).min(POLL_MS.1);
        };
        let agent = self.agent.get_or_init(|| async { crate::agent::agent() }).await.clone();
        let (options, job, stop) = (self.options.clone(), job.clone(), Arc::new(AtomicBool::new(false)));
        let _stopping = Stopping(Arc::clone(&stop));
        let work = move || bring_now(&options, &agent, &job, sum, &stop, lease);
        match tokio::task::spawn_blocking(work).await {
            Ok(brought) => brought,
            Err(error) => Err(std::io::Error::other(error).into()),
        }
    }
}

/// The part that takes long, for as long as the lease is held.
fn bring_now(
    options: &FetchOptions,
    agent: &Agent,
    job: &Job,
    sum: Sum,
    stop: &AtomicBool,
    _lease: Lease,
) -> Result<Content, FetchError> {
    // Somebody may have brought it between the look and the lease.
    if let Some(content) = content::find(&job.store, &sum)? {
        return Ok(content);
    }
    let scratch = Scratch(job.store.scratch_dir()?);
    let file = scratch.0.join("content");
    let urls: Vec<&str> = job.urls.iter().map(|url| &**url).collect();
    let asked = Asked {
        sum: &sum,
        urls: &urls,
        root: &options.root,
        offline: options.offline,
        max_bytes: options.max_bytes,
        pause: options.pause,
        stop,
        tell: &|line| (job.sink)(Stream::Stderr, line.as_bytes()),
    };
    transfer(agent, &asked, &file)?;
    content::keep(&job.store, &sum, &file)
}

/// Tells the thread at work when nobody waits for it any more.
struct Stopping(Arc<AtomicBool>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
