//! A connection to a server: where it is, what every request carries, how long it may take, what it can do.
//!
//! Knows calls and their ends; unaware of what is asked for.

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use quipu_store::remote::RemoteError;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::api;
use crate::compressed::ZSTD;
use crate::config::{Config, ConfigError};
use crate::digests::Function;

/// Messages of a server may be this large, whatever it says of its own limits.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// What a message may hold when the server states no limit: a little under the protocol's own default.
const MAX_BATCH_BYTES: u64 = (4 << 20) - (64 << 10);
/// A transfer slower than this is none.
const MIN_BYTES_PER_SECOND: u64 = 64 << 10;
/// Before a call is tried once more on a new connection.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) type Service = InterceptedService<Channel, Headers>;

/// Adds to every request what its user wants it to carry.
#[derive(Clone)]
pub(crate) struct Headers(Arc<MetadataMap>);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for entry in self.0.iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(key, value) = entry {
                request.metadata_mut().insert(key, value.clone());
            }
        }
        Ok(request)
    }
}

/// What a server can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How it names blobs.
    pub(crate) function: Function,
    /// Most bytes of one batch.
    pub(crate) batch_bytes: u64,
    /// Whether large blobs may come and go compressed.
    pub(crate) zstd: bool,
    /// Whether those in batches may.
    pub(crate) zstd_in_batches: bool,
    /// Whether results may be put into its ActionCache.
    pub(crate) takes_results: bool,
    /// Whether it executes.
    pub(crate) executes: bool,
}

/// A server. Cheap to clone; connects at the first call.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    service: OnceCell<Service>,
    endpoint: Endpoint,
    headers: Headers,
    instance: String,
    deadline: Duration,
    blake3: bool,
    limits: OnceCell<Limits>,
}

impl Client {
    pub(crate) fn new(config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint()?;
        let mut metadata = config.metadata(env)?;
        metadata.insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", who());
        let inner = Inner {
            service: OnceCell::new(),
            endpoint,
            headers: Headers(Arc::new(metadata)),
            instance: config.instance.clone(),
            deadline: config.deadline()?,
            blake3: config.allows_blake3()?,
            limits: OnceCell::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn instance(&self) -> String {
        self.inner.instance.clone()
    }

    /// A resource of this instance.
    pub(crate) fn resource(&self, rest: &str) -> String {
        if self.inner.instance.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.inner.instance) }
    }

    pub(crate) async fn service(&self) -> Service {
        // Within a runtime, which a lazy channel needs.
        let connect =
            || async { InterceptedService::new(self.inner.endpoint.connect_lazy(), self.inner.headers.clone()) };
        self.inner.service.get_or_init(connect).await.clone()
    }

    pub(crate) async fn cas(&self) -> api::ContentAddressableStorageClient<Service> {
        api::ContentAddressableStorageClient::new(self.service().await).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) async fn bytes(&self) -> api::ByteStreamClient<Service> {
        api::ByteStreamClient::new(self.service().await).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) async fn execution(&self) -> api::ExecutionClient<Service> {
        api::ExecutionClient::new(self.service().await).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) async fn results(&self) -> api::ActionCacheClient<Service> {
        api::ActionCacheClient::new(self.service().await).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// How long one answer may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.inner.deadline
    }

    /// How long a wait may be quiet before somebody looks whether the server is still there.
    pub(crate) fn patience(&self) -> Duration {
        3 * self.inner.deadline
    }

    /// Whether the server still answers.
    pub(crate) async fn probe(&self) -> Result<(), Status> {
        let mut client = api::CapabilitiesClient::new(self.service().await);
        let request = api::GetCapabilitiesRequest { instance_name: self.instance() };
        match tokio::time::timeout(self.deadline(), client.get_capabilities(request)).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Status::deadline_exceeded("")),
        }
    }

    /// How long this many bytes may take.
    pub(crate) fn deadline_for(&self, bytes: u64) -> Duration {
        self.inner.deadline + Duration::from_secs_f64(bytes as f64 / MIN_BYTES_PER_SECOND as f64)
    }

    /// Makes a call that carries this many bytes either way; once more where the connection was lost.
    pub(crate) async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        bytes: u64,
        mut make: impl FnMut() -> F,
    ) -> Result<T, Status> {
        let attempts = async {
            match make().await {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                    let pause = retry_after(&status).unwrap_or(PAUSE);
                    if pause >= self.deadline() {
                        return Err(status);
                    }
                    tokio::time::sleep(pause).await;
                    make().await
                }
                other => other,
            }
        };
        match tokio::time::timeout(self.deadline_for(bytes), attempts).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("")),
        }
    }

    /// What the server can do; asked once.
    pub(crate) async fn limits(&self) -> Result<&Limits, RemoteError> {
        self.inner.limits.get_or_try_init(|| self.ask_limits()).await
    }

    async fn ask_limits(&self) -> Result<Limits, RemoteError> {
        let client = api::CapabilitiesClient::new(self.service().await);
        let answer = self.call(0, || {
            let request = api::GetCapabilitiesRequest { instance_name: self.instance() };
            let mut client = client.clone();
            async move { client.get_capabilities(request).await }
        });
        let answer = answer.await.map_err(|s| self.error(&s))?;
        let cache = answer.cache_capabilities.unwrap_or_default();
        let has = |function: api::digest_function::Value| cache.digest_functions.contains(&(function as i32));
        let function = if self.inner.blake3 && has(api::digest_function::Value::Blake3) {
            Function::Blake3
        } else if cache.digest_functions.is_empty() || has(api::digest_function::Value::Sha256) {
            Function::Sha256
        } else {
            return Err(RemoteError::Odd("it has neither SHA-256 nor BLAKE3".to_owned()));
        };
        let stated = u64::try_from(cache.max_batch_total_size_bytes).unwrap_or(0);
        let batch_bytes = if stated == 0 { MAX_BATCH_BYTES } else { stated.min(MAX_BATCH_BYTES) };
        let takes_results = cache.action_cache_update_capabilities.is_some_and(|c| c.update_enabled);
        let executes = answer.execution_capabilities.is_some_and(|e| e.exec_enabled);
        let zstd = cache.supported_compressors.contains(&ZSTD);
        let zstd_in_batches = cache.supported_batch_update_compressors.contains(&ZSTD);
        Ok(Limits { function, batch_bytes, zstd, zstd_in_batches, takes_results, executes })
    }

    /// What a refusal means for the run.
    pub(crate) fn error(&self, status: &Status) -> RemoteError {
        let text = || {
            let said: String = status.message().chars().filter(|c| !c.is_control()).take(200).collect();
            if said.is_empty() { status.code().to_string() } else { said }
        };
        match status.code() {
            Code::DeadlineExceeded => RemoteError::Slow(self.inner.deadline),
            Code::Unauthenticated | Code::PermissionDenied => RemoteError::Denied(text()),
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::ResourceExhausted | Code::Aborted => {
                RemoteError::Unreachable(text())
            }
            _ => RemoteError::Odd(text()),
        }
    }
}

/// When a busy server wants to be asked again.
fn retry_after(status: &Status) -> Option<Duration> {
    use prost::Message as _;
    let detailed = bazel_remote_apis::google::rpc::Status::decode(status.details()).ok()?;
    let info = detailed.details.into_iter().find(|d| d.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay?;
    let (seconds, nanos) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?);
    Some(Duration::new(seconds.min(86_400), nanos.min(999_999_999)))
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<bazel_remote_apis::google::protobuf::Duration>,
}

/// Who asks, for the server's log.
fn who() -> tonic::metadata::MetadataValue<tonic::metadata::Binary> {
    use prost::Message as _;
    let tool_details =
        Some(api::ToolDetails { tool_name: "quipu".to_owned(), tool_version: env!("CARGO_PKG_VERSION").to_owned() });
    let metadata = api::RequestMetadata { tool_details, ..api::RequestMetadata::default() };
    tonic::metadata::MetadataValue::from_bytes(&metadata.encode_to_vec())
}

/// Threads for what is asked of a server, started at the first question. Callers wait on threads of their own,
/// which may belong to another runtime.
#[derive(Default)]
pub(crate) struct Threads {
    runtime: std::sync::Mutex<Option<Runtime>>,
}

impl Threads {
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let handle = {
            let mut runtime = self.runtime.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if runtime.is_none() {
                let made = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_name("quipu-remote")
                    .enable_all()
                    .build()
                    .map_err(|e| RemoteError::Unreachable(format!("no threads: {e}")))?;
                *runtime = Some(made);
            }
            runtime.as_ref().expect("made above").handle().clone()
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        handle.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver.recv().unwrap_or_else(|_| Err(RemoteError::Odd("asking it failed on our side".to_owned())))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // May be dropped by a thread of another runtime, which must not wait.
        if let Some(runtime) = runtime.take() {
            runtime.shutdown_background();
        }
    }
}
