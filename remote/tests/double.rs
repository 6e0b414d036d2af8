//! A server of our own: stricter about the protocol than the real ones, and as bad as a test wants it to be.
//!
//! Keeps blobs and results in memory, wants what the protocol wants of a client, and can be told to go wrong at one
//! kind of question. Unaware of quipu.

mod bytes;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream as bs;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::double_exec;

const ZSTD: i32 = api::compressor::Value::Zstd as i32;

pub(crate) type Answer<T> = Result<Response<T>, Status>;
pub(crate) type Many<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Kinds of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Lookup,
    Fetch,
    Push,
    Execute,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ill {
    /// It says no.
    Refuse(Code),
    /// It is busy, and says for how many milliseconds.
    Busy(u64),
    /// It says nothing.
    Silent,
    /// One bit of what it sends is another.
    Flip,
    /// What it sends is cut, and ends as if it were whole.
    Short,
    /// What it sends is longer than it says.
    Long,
    /// What it said it had is not there.
    Gone,
    /// It answers twice, in another order, and what nobody asked.
    Mixed,
    /// Connections break in the middle.
    Break,
    /// It sends what is no message at all, or one that means nothing.
    Nonsense,
}

/// What a server is like.
pub(crate) struct Setup {
    pub(crate) instance: String,
    pub(crate) batch_bytes: i64,
    pub(crate) token: Option<String>,
    /// A header that every request must have.
    pub(crate) header: Option<(&'static str, &'static str)>,
    pub(crate) functions: Vec<api::digest_function::Value>,
    pub(crate) tls: Option<ServerTlsConfig>,
    /// Offers to compress, and compresses whatever it may.
    pub(crate) zstd: bool,
    /// Takes blobs that are not what their digests say.
    pub(crate) credulous: bool,
    /// Remembers what failed, and runs again what it remembers.
    pub(crate) remembers: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            instance: String::new(),
            batch_bytes: 4 << 20,
            token: None,
            header: None,
            functions: vec![api::digest_function::Value::Sha256],
            tls: None,
            zstd: false,
            credulous: false,
            remembers: false,
        }
    }
}

/// What it holds, and what it was asked.
pub(crate) struct State {
    pub(crate) setup: Setup,
    pub(crate) ill: Mutex<Option<(Verb, Ill)>>,
    pub(crate) blobs: Mutex<HashMap<String, Vec<u8>>>,
    pub(crate) results: Mutex<HashMap<String, api::ActionResult>>,
    pub(crate) calls: Mutex<HashMap<&'static str, usize>>,
}

/// A running server. Ends with the test.
pub(crate) struct Double {
    pub(crate) port: u16,
    pub(crate) state: Arc<State>,
    end: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<State>);

impl Double {
    pub(crate) fn start(setup: Setup) -> Self {
        let tls = setup.tls.clone();
        let (ill, blobs, results, calls) = Default::default();
        let state = Arc::new(State { setup, ill, blobs, results, calls });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let service = Service(Arc::clone(&state));
        let (end, ended) = oneshot::channel::<()>();
        let incoming = {
            let _in = runtime.enter();
            TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("loopback is there")
        };
        let port = incoming.local_addr().expect("it is bound").port();
        let server = Server::builder();
        let mut server = match tls {
            Some(tls) => server.tls_config(tls).expect("good certificates"),
            None => server,
        };
        let server = server
            .add_service(api::capabilities_server::CapabilitiesServer::new(service.clone()))
            .add_service(
                api::content_addressable_storage_server::ContentAddressableStorageServer::new(service.clone())
                    .max_decoding_message_size(8 << 20),
            )
            .add_service(api::action_cache_server::ActionCacheServer::new(service.clone()))
            .add_service(bs::byte_stream_server::ByteStreamServer::new(service.clone()))
            .add_service(api::execution_server::ExecutionServer::new(service.clone()))
            .add_service(double_exec::operations(service));
        runtime.spawn(server.serve_with_incoming_shutdown(incoming, async {
            let _ = ended.await;
        }));
        Self { port, state, end: Some(end), runtime: Some(runtime) }
    }

    /// From now on this goes wrong.
    pub(crate) fn fall_ill(&self, verb: Verb, ill: Ill) {
        *self.state.ill.lock().expect("nobody panics here") = Some((verb, ill));
    }

    pub(crate) fn recover(&self) {
        *self.state.ill.lock().expect("nobody panics here") = None;
    }

    /// How often a call was made.
    pub(crate) fn calls(&self, name: &str) -> usize {
        self.state.calls.lock().expect("nobody panics here").get(name).copied().unwrap_or(0)
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    /// Counts the call, wants the right name space and token, and says what goes wrong with it.
    pub(crate) async fn enter<T>(
        &self,
        name: &'static str,
        verb: Verb,
        instance: &str,
        request: &Request<T>,
    ) -> Result<Option<Ill>, Status> {
        *self.calls.lock().expect("nobody panics here").entry(name).or_default() += 1;
        if instance != self.setup.instance {
            return Err(Status::invalid_argument(format!("no instance `{instance}`")));
        }
        let wanted = self.setup.token.as_ref().map(|token| format!("Bearer {token}"));
        let said = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        if wanted.is_some() && wanted.as_deref() != said {
            return Err(Status::unauthenticated("no such token"));
        }
        if let Some((name, value)) = self.setup.header
            && request.metadata().get(name).and_then(|v| v.to_str().ok()) != Some(value)
        {
            return Err(Status::unauthenticated("no such header"));
        }
        let ill = *self.ill.lock().expect("nobody panics here");
        let ill = ill.filter(|(at, _)| *at == verb).map(|(_, ill)| ill);
        match ill {
            Some(Ill::Refuse(code)) => Err(Status::new(code, "not today")),
            Some(Ill::Busy(ms)) => Err(double_exec::busy(ms)),
            Some(Ill::Silent) => std::future::pending().await,
            ill => Ok(ill),
        }
    }

    pub(crate) fn blob(&self, digest: &api::Digest) -> Option<Vec<u8>> {
        if digest.size_bytes == 0 {
            return Some(vec![]);
        }
        self.blobs.lock().expect("nobody panics here").get(&digest.hash).cloned()
    }

    pub(crate) fn put(&self, bytes: Vec<u8>) -> api::Digest {
        let digest = self.digest(&bytes);
        self.blobs.lock().expect("nobody panics here").insert(digest.hash.clone(), bytes);
        digest
    }

    fn blake3(&self) -> bool {
        self.setup.functions == [api::digest_function::Value::Blake3]
    }

    pub(crate) fn digest(&self, bytes: &[u8]) -> api::Digest {
        let hash = if self.blake3() {
            blake3::hash(bytes).to_hex().to_string()
        } else {
            Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
        };
        api::Digest { hash, size_bytes: bytes.len() as i64 }
    }

    fn take(&self, digest: &api::Digest, bytes: Vec<u8>) -> Result<(), Status> {
        if !self.setup.credulous && self.digest(&bytes) != *digest {
            return Err(Status::invalid_argument("the data is not what its digest says"));
        }
        self.blobs.lock().expect("nobody panics here").insert(digest.hash.clone(), bytes);
        Ok(())
    }

    /// Bytes in the form in which they were asked for.
    fn in_form(&self, compressor: i32, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        if compressor == 0 {
            return Ok(bytes);
        }
        self.compresses("sent compressed")?;
        Ok(ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest))
    }

    /// Bytes as they are, that came in this form.
    fn plain(&self, compressor: i32, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        if compressor == 0 {
            return Ok(bytes);
        }
        self.compresses("took compressed")?;
        let (mut plain, wrong) = (vec![], || Status::invalid_argument("that is not compressed"));
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(&bytes[..]).map_err(|_| wrong())?;
        std::io::Read::read_to_end(&mut decoder, &mut plain).map_err(|_| wrong())?;
        Ok(plain)
    }

    fn compresses(&self, what: &'static str) -> Result<(), Status> {
        *self.calls.lock().expect("nobody panics here").entry(what).or_default() += 1;
        if self.setup.zstd { Ok(()) } else { Err(Status::invalid_argument("nothing is compressed here")) }
    }

    fn function(&self, number: i32) -> Result<(), Status> {
        let known = self.setup.functions.iter().any(|f| *f as i32 == number);
        if known { Ok(()) } else { Err(Status::invalid_argument("no such digest function")) }
    }
}

/// What becomes of bytes that are sent.
fn spoilt(ill: Option<Ill>, mut bytes: Vec<u8>) -> Vec<u8> {
    match ill {
        Some(Ill::Flip) if !bytes.is_empty() => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Some(Ill::Short) => bytes.truncate(bytes.len() / 2),
        Some(Ill::Long) => bytes.extend_from_within(..),
        Some(Ill::Nonsense) => bytes.fill(0xff),
        _ => {}
    }
    bytes
}

fn broken() -> Status {
    Status::unavailable("the connection broke")
}

#[tonic::async_trait]
impl api::capabilities_server::Capabilities for Service {
    async fn get_capabilities(&self, request: Request<api::GetCapabilitiesRequest>) -> Answer<api::ServerCapabilities> {
        let instance = request.get_ref().instance_name.clone();
        self.0.enter("GetCapabilities", Verb::Lookup, &instance, &request).await?;
        let functions: Vec<i32> = self.0.setup.functions.iter().map(|f| *f as i32).collect();
        let cache = api::CacheCapabilities {
            digest_functions: functions.clone(),
            action_cache_update_capabilities: Some(api::ActionCacheUpdateCapabilities { update_enabled: true }),
            max_batch_total_size_bytes: self.0.setup.batch_bytes,
            supported_compressors: self.0.setup.zstd.then_some(ZSTD).into_iter().collect(),
            supported_batch_update_compressors: self.0.setup.zstd.then_some(ZSTD).into_iter().collect(),
            ..Default::default()
        };
        let execution =
            api::ExecutionCapabilities { exec_enabled: true, digest_functions: functions, ..Default::default() };
        Ok(Response::new(api::ServerCapabilities {
            cache_capabilities: Some(cache),
            execution_capabilities: Some(execution),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl api::action_cache_server::ActionCache for Service {
    async fn get_action_result(&self, request: Request<api::GetActionResultRequest>) -> Answer<api::ActionResult> {
        let instance = request.get_ref().instance_name.clone();
        let ill = self.0.enter("GetActionResult", Verb::Lookup, &instance, &request).await?;
        let request = request.into_inner();
        self.0.function(request.digest_function)?;
        let digest = request.action_digest.ok_or_else(|| Status::invalid_argument("no digest"))?;
        let found = self.0.results.lock().expect("nobody panics here").get(&digest.hash).cloned();
        let Some(mut result) = found else { return Err(Status::not_found("no result")) };
        result.stdout_raw = spoilt(ill, result.stdout_raw);
        match ill {
            Some(Ill::Break) => return Err(broken()),
            Some(Ill::Mixed) => {
                let other = self.0.results.lock().expect("nobody panics here").values().next().cloned();
                result.output_files.extend(other.into_iter().flat_map(|o| o.output_files));
                result.output_files.reverse();
            }
            Some(Ill::Nonsense) => {
                for file in &mut result.output_files {
                    file.digest = Some(api::Digest { hash: "../../etc/passwd".to_owned(), size_bytes: i64::MIN });
                }
            }
            _ => {}
        }
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<api::UpdateActionResultRequest>,
    ) -> Answer<api::ActionResult> {
        let instance = request.get_ref().instance_name.clone();
        let ill = self.0.enter("UpdateActionResult", Verb::Push, &instance, &request).await?;
        if ill == Some(Ill::Break) {
            return Err(broken());
        }
        let request = request.into_inner();
        self.0.function(request.digest_function)?;
        let (Some(digest), Some(result)) = (request.action_digest, request.action_result) else {
            return Err(Status::invalid_argument("no digest or no result"));
        };
        // As servers that check entries do.
        let named = result.output_files.iter().filter_map(|f| f.digest.as_ref()).chain(&result.stdout_digest);
        for blob in named.chain([&digest]) {
            if self.0.blob(blob).is_none() {
                return Err(Status::failed_precondition(format!("{} is not here", blob.hash)));
            }
        }
        if ill != Some(Ill::Gone) {
            self.0.results.lock().expect("nobody panics here").insert(digest.hash, result.clone());
        }
        Ok(Response::new(result))
    }
}

#[tonic::async_trait]
impl api::content_addressable_storage_server::ContentAddressableStorage for Service {
    async fn find_missing_blobs(
        &self,
        request: Request<api::FindMissingBlobsRequest>,
    ) -> Answer<api::FindMissingBlobsResponse> {
        let instance = request.get_ref().instance_name.clone();
        let ill = self.0.enter("FindMissingBlobs", Verb::Lookup, &instance, &request).await?;
        let request = request.into_inner();
        self.0.function(request.digest_function)?;
        let asked = request.blob_digests.iter();
        let missing = asked.filter(|d| ill == Some(Ill::Gone) || self.0.blob(d).is_none()).cloned().collect();
        Ok(Response::new(api::FindMissingBlobsResponse { missing_blob_digests: missing }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<api::BatchUpdateBlobsRequest>,
    ) -> Answer<api::BatchUpdateBlobsResponse> {
        let instance = request.get_ref().instance_name.clone();
        let ill = self.0.enter("BatchUpdateBlobs", Verb::Push, &instance, &request).await?;
        if ill == Some(Ill::Break) {
            return Err(broken());
        }
        let request = request.into_inner();
        self.0.function(request.digest_function)?;
        let total: usize = request.requests.iter().map(|r| r.data.len()).sum();
        if total as i64 > self.0.setup.batch_bytes {
            return Err(Status::invalid_argument("the batch is too large"));
        }
        let mut responses = vec![];
        for one in request.requests {
            let digest = one.digest.unwrap_or_default();
            let taken = match ill {
                Some(Ill::Gone) => Ok(()),
                ill => self.0.plain(one.compressor, spoilt(ill, one.data)).and_then(|data| self.0.take(&digest, data)),
            };
            let status = taken.err().unwrap_or_else(|| Status::ok(""));
            let status = Some(bazel_remote_apis::google::rpc::Status {
                code: status.code() as i32,
                message: status.message().to_owned(),
                details: vec![],
            });
            responses.push(api::batch_update_blobs_response::Response { digest: Some(digest), status });
        }
        Ok(Response::new(api::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<api::BatchReadBlobsRequest>,
    ) -> Answer<api::BatchReadBlobsResponse> {
        let instance = request.get_ref().instance_name.clone();
        let ill = self.0.enter("BatchReadBlobs", Verb::Fetch, &instance, &request).await?;
        if ill == Some(Ill::Break) {
            return Err(broken());
        }
        let request = request.into_inner();
        self.0.function(request.digest_function)?;
        let total: i64 = request.digests.iter().map(|d| d.size_bytes).sum();
        if total > self.0.setup.batch_bytes {
            return Err(Status::invalid_argument("the batch is too large"));
        }
        let mut responses = vec![];
        for digest in request.digests {
            let found = self.0.blob(&digest).filter(|_| ill != Some(Ill::Gone));
            let code = if found.is_some() { Code::Ok } else { Code::NotFound };
            let status = bazel_remote_apis::google::rpc::Status { code: code as i32, ..Default::default() };
            let compressor = if request.acceptable_compressors.contains(&ZSTD) { ZSTD } else { 0 };
            let data = spoilt(ill, self.0.in_form(compressor, found.unwrap_or_default())?);
            let (digest, status) = (Some(digest), Some(status));
            responses.push(api::batch_read_blobs_response::Response { digest, data, status, compressor });
        }
        if ill == Some(Ill::Mixed) {
            // Each with the bytes of another, then all of them once more as they should be, backwards.
            let mut wrong = responses.clone();
            let last = wrong.iter().map(|r| r.data.clone()).rev().collect::<Vec<_>>();
            wrong.iter_mut().zip(last).for_each(|(r, data)| r.data = data);
            wrong.extend(responses.into_iter().rev());
            responses = wrong;
        }
        Ok(Response::new(api::BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = Many<api::GetTreeResponse>;

    async fn get_tree(&self, _: Request<api::GetTreeRequest>) -> Answer<Self::GetTreeStream> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn split_blob(&self, _: Request<api::SplitBlobRequest>) -> Answer<api::SplitBlobResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    type GetChunkMappingStream = Many<api::GetChunkMappingResponse>;

    async fn get_chunk_mapping(&self, _: Request<api::GetChunkMappingRequest>) -> Answer<Self::GetChunkMappingStream> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn splice_blob(&self, _: Request<api::SpliceBlobRequest>) -> Answer<api::SpliceBlobResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<api::RegisterChunkMappingRequest>>,
    ) -> Answer<api::RegisterChunkMappingResponse> {
        Err(Status::unimplemented("nobody asks"))
    }
}
