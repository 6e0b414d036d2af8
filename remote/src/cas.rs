//! Blobs to and from a server: which it lacks, small ones in batches, large ones as streams.
//!
//! Keeps to the server's limits and to deadlines. What comes is given on unchecked: whoever takes it hashes it.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quipu_store::Store;
use quipu_store::cid::Link;
use quipu_store::remote::{Bytes, RemoteError};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::api;
use crate::api::Digest;
use crate::client::Client;
use crate::compressed::{self, ZSTD, deflate};
use crate::digests;

/// What a blob costs in a batch beside its bytes.
const OVERHEAD_BYTES: u64 = 160;
/// Blobs of one question.
const MAX_ASKED: usize = 10_000;
/// Blobs of one batch.
const MAX_BATCHED: usize = 2_000;
/// Calls at once.
pub(crate) const CALLS: usize = 8;
/// Bytes of one message of a stream.
const CHUNK_BYTES: usize = 256 << 10;
/// How often a stream that broke is taken up where it was.
const MAX_RESUMES: u32 = 3;

/// Where bytes to be sent are.
#[derive(Clone)]
pub(crate) enum Source {
    Here(Vec<u8>),
    Block(Link),
    /// A person's file, whose content was looked at a moment ago.
    Path(PathBuf),
}

/// What the server lacks of these.
pub(crate) async fn missing(client: &Client, digests: Vec<Digest>) -> Result<HashSet<Digest>, RemoteError> {
    let function = client.limits().await?.function;
    let mut missing = HashSet::new();
    for asked in digests.chunks(MAX_ASKED) {
        let cas = client.cas().await;
        let answer = client.call(100 * asked.len() as u64, || {
            let request = api::FindMissingBlobsRequest {
                instance_name: client.instance(),
                blob_digests: asked.to_vec(),
                digest_function: function.number(),
            };
            let mut cas = cas.clone();
            async move { cas.find_missing_blobs(request).await }
        });
        missing.extend(answer.await.map_err(|s| client.error(&s))?.missing_blob_digests);
    }
    Ok(missing)
}

/// Sends what the server lacks; says how many blobs and bytes that were.
pub(crate) async fn upload(
    client: &Client,
    store: &Store,
    blobs: HashMap<Digest, Source>,
) -> Result<(usize, u64), RemoteError> {
    let lacking = missing(client, blobs.keys().cloned().collect()).await?;
    let batch_bytes = client.limits().await?.batch_bytes;
    let mut blobs: Vec<(Digest, Source)> = blobs.into_iter().filter(|(digest, _)| lacking.contains(digest)).collect();
    blobs.sort_by(|a, b| a.0.size_bytes.cmp(&b.0.size_bytes).then_with(|| a.0.hash.cmp(&b.0.hash)));
    let sent = (blobs.len(), blobs.iter().map(|(d, _)| size(d)).sum());
    let (small, large): (Vec<_>, Vec<_>) =
        blobs.into_iter().partition(|(d, _)| size(d) + OVERHEAD_BYTES <= batch_bytes);
    let gate = Arc::new(Semaphore::new(CALLS));
    let mut work = tokio::task::JoinSet::new();
    for batch in batches(small, batch_bytes, |(digest, _)| digest) {
        let (client, store, gate) = (client.clone(), store.clone(), Arc::clone(&gate));
        work.spawn(async move {
            let _turn = gate.acquire().await;
            send_batch(&client, &store, batch).await
        });
    }
    for (digest, source) in large {
        let (client, store, gate) = (client.clone(), store.clone(), Arc::clone(&gate));
        work.spawn(async move {
            let _turn = gate.acquire().await;
            send_stream(&client, &store, &digest, &source).await
        });
    }
    // The first that fails ends the others.
    while let Some(done) = work.join_next().await {
        done.unwrap_or_else(|e| Err(RemoteError::Odd(e.to_string())))?;
    }
    Ok(sent)
}

fn size(digest: &Digest) -> u64 {
    u64::try_from(digest.size_bytes).unwrap_or(0)
}

/// Cuts a list into batches that fit.
pub(crate) fn batches<T>(list: Vec<T>, batch_bytes: u64, digest: impl Fn(&T) -> &Digest) -> Vec<Vec<T>> {
    let mut batches = vec![];
    let (mut batch, mut bytes) = (vec![], 0);
    for item in list {
        let cost = size(digest(&item)) + OVERHEAD_BYTES;
        if !batch.is_empty() && (bytes + cost > batch_bytes || batch.len() >= MAX_BATCHED) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += cost;
        batch.push(item);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn gone(link: Link) -> RemoteError {
    RemoteError::Store(format!("{link} went away while it was sent"))
}

fn read_whole(store: &Store, source: &Source) -> Result<Vec<u8>, RemoteError> {
    match source {
        Source::Here(bytes) => Ok(bytes.clone()),
        Source::Path(path) => std::fs::read(path).map_err(|e| RemoteError::Store(format!("`{}`: {e}", path.display()))),
        Source::Block(link) => {
            let mut bytes = vec![];
            let open = Bytes::open(store, *link)?.ok_or_else(|| gone(*link))?;
            open.reader().read_to_end(&mut bytes).map_err(|_| gone(*link))?;
            Ok(bytes)
        }
    }
}

async fn send_batch(client: &Client, store: &Store, batch: Vec<(Digest, Source)>) -> Result<(), RemoteError> {
    let limits = client.limits().await?;
    let function = limits.function;
    let mut requests = Vec::with_capacity(batch.len());
    for (digest, source) in &batch {
        let whole = read_whole(store, source)?;
        let shorter = if limits.zstd_in_batches && compressed::pays(size(digest)) { deflate(&whole) } else { None };
        let compressor = if shorter.is_some() { ZSTD } else { 0 };
        let (digest, data) = (Some(digest.clone()), shorter.unwrap_or(whole));
        requests.push(api::batch_update_blobs_request::Request { digest, data, compressor });
    }
    let bytes = batch.iter().map(|(d, _)| size(d)).sum();
    let request =
        api::BatchUpdateBlobsRequest { instance_name: client.instance(), requests, digest_function: function.number() };
    let cas = client.cas().await;
    let answer = client.call(bytes, || {
        let (mut cas, request) = (cas.clone(), request.clone());
        async move { cas.batch_update_blobs(request).await }
    });
    let answer = answer.await.map_err(|s| client.error(&s))?;
    for response in answer.responses {
        let status = response.status.unwrap_or_default();
        // Somebody else may have sent it meanwhile.
        if status.code != Code::Ok as i32 && status.code != Code::AlreadyExists as i32 {
            return Err(client.error(&Status::new(Code::from(status.code), status.message)));
        }
    }
    Ok(())
}

/// Numbers uploads of this process, so that no two are one to the server.
static UPLOADS: AtomicU64 = AtomicU64::new(0);

async fn send_stream(client: &Client, store: &Store, digest: &Digest, source: &Source) -> Result<(), RemoteError> {
    let limits = client.limits().await?;
    let function = limits.function;
    let mut size = size(digest);
    let shorter = if limits.zstd && compressed::pays(size) {
        let whole = read_whole(store, source)?;
        compressed::aside(move || deflate(&whole)).await
    } else {
        None
    };
    let kind = if shorter.is_some() { "compressed-blobs/zstd" } else { "blobs" };
    let source = &shorter.map_or_else(|| source.clone(), Source::Here);
    if let Source::Here(bytes) = source {
        size = bytes.len() as u64;
    }
    let name = {
        let number = UPLOADS.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let unique = format!("{}/{number}/{now}/{}", std::process::id(), digest.hash);
        // A UUID by form: servers may parse it.
        let id = digests::hex(&blake3::hash(unique.as_bytes()).as_bytes()[..16]);
        let id = format!("{}-{}-4{}-8{}-{}", &id[..8], &id[8..12], &id[13..16], &id[17..20], &id[20..32]);
        client.resource(&format!("uploads/{id}/{kind}/{}{}/{}", function.infix(), digest.hash, digest.size_bytes))
    };
    let mut offset = 0;
    let mut resumes = 0;
    loop {
        let messages = Chunks::new(store, source, name.clone(), offset, size)?;
        let mut bytes = client.bytes().await;
        let write = bytes.write(tokio_stream::iter(messages));
        let status = match tokio::time::timeout(client.deadline_for(size - offset), write).await {
            Err(_) => return Err(RemoteError::Slow(client.deadline_for(size - offset))),
            Ok(Ok(answer)) => {
                let committed = answer.into_inner().committed_size;
                // Somebody else may have sent it meanwhile: then servers say -1 of what is compressed.
                if u64::try_from(committed).is_ok_and(|c| c == size) || (kind != "blobs" && committed == -1) {
                    return Ok(());
                }
                Status::unavailable(format!("took {committed} of {size} bytes"))
            }
            Ok(Err(status)) if status.code() == Code::AlreadyExists => return Ok(()),
            Ok(Err(status)) => status,
        };
        resumes += 1;
        let broken = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted);
        if !broken || resumes > MAX_RESUMES {
            return Err(client.error(&status));
        }
        // Go on where the server says it is; from the start when it does not know.
        let answer = client.call(0, || {
            let request = api::QueryWriteStatusRequest { resource_name: name.clone() };
            let mut bytes = bytes.clone();
            async move { bytes.query_write_status(request).await }
        });
        offset = match answer.await {
            Ok(state) if state.complete => return Ok(()),
            Ok(state) => u64::try_from(state.committed_size).unwrap_or(0).min(size),
            Err(_) => 0,
        };
    }
}

/// A blob as the messages of an upload.
struct Chunks {
    reader: Box<dyn Read + Send>,
    name: String,
    offset: u64,
    size: u64,
    ended: bool,
}

impl Chunks {
    fn new(store: &Store, source: &Source, name: String, offset: u64, size: u64) -> Result<Self, RemoteError> {
        let mut reader: Box<dyn Read + Send> = match source {
            Source::Here(bytes) => Box::new(std::io::Cursor::new(bytes.clone())),
            Source::Path(path) => Box::new(std::fs::File::open(path).map_err(|e| RemoteError::Store(e.to_string()))?),
            Source::Block(link) => Bytes::open(store, *link)?.ok_or_else(|| gone(*link))?.reader(),
        };
        let skipped = std::io::copy(&mut reader.by_ref().take(offset), &mut std::io::sink());
        skipped.map_err(|e| RemoteError::Store(e.to_string()))?;
        Ok(Self { reader, name, offset, size, ended: false })
    }
}

impl Iterator for Chunks {
    type Item = api::WriteRequest;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let length = (self.size - self.offset).min(CHUNK_BYTES as u64);
        let mut data = vec![0; usize::try_from(length).unwrap_or(CHUNK_BYTES)];
        if self.reader.read_exact(&mut data).is_err() {
            // The server sees an upload that does not end, and drops it.
            self.ended = true;
            return None;
        }
        let write_offset = i64::try_from(self.offset).ok()?;
        self.offset += length;
        self.ended = self.offset >= self.size;
        Some(api::WriteRequest { resource_name: self.name.clone(), write_offset, finish_write: self.ended, data })
    }
}

/// Reads small blobs; those the server has not are left out.
pub(crate) async fn read_batch(client: &Client, digests: Vec<Digest>) -> Result<Vec<(Digest, Vec<u8>)>, RemoteError> {
    let limits = client.limits().await?;
    let function = limits.function;
    let bytes = digests.iter().map(size).sum();
    let cas = client.cas().await;
    let request = api::BatchReadBlobsRequest {
        instance_name: client.instance(),
        digests,
        acceptable_compressors: limits.zstd_in_batches.then_some(ZSTD).into_iter().collect(),
        digest_function: function.number(),
    };
    let answer = client.call(bytes, || {
        let (mut cas, request) = (cas.clone(), request.clone());
        async move { cas.batch_read_blobs(request).await }
    });
    let mut read = vec![];
    for response in answer.await.map_err(|s| client.error(&s))?.responses {
        let status = response.status.unwrap_or_default();
        match (Code::from(status.code), response.digest) {
            (Code::Ok, Some(digest)) if response.compressor == 0 => read.push((digest, response.data)),
            (Code::Ok, Some(digest)) if response.compressor == ZSTD => {
                // What is no blob of that size is no blob of that name either.
                let data = compressed::inflate(&response.data, size(&digest)).unwrap_or_default();
                read.push((digest, data));
            }
            (Code::Unauthenticated | Code::PermissionDenied, _) => {
                return Err(client.error(&Status::new(Code::from(status.code), status.message)));
            }
            // Not there, or of no use: absent.
            _ => {}
        }
    }
    Ok(read)
}

/// Reads a blob as a stream into `take`, which gets at most the digest's number of bytes. `false` when the
/// server has it not, or not all of it.
pub(crate) async fn read_stream(
    client: &Client,
    digest: &Digest,
    take: &mut (dyn FnMut(&[u8]) -> Result<(), RemoteError> + Send),
) -> Result<bool, RemoteError> {
    let limits = client.limits().await?;
    let function = limits.function;
    let size = size(digest);
    if limits.zstd && compressed::pays(size) {
        match read_compressed(client, digest).await? {
            Compressed::Whole(bytes) => return take(&bytes).map(|()| true),
            Compressed::Nothing => return Ok(false),
            // As it is, it may still come.
            Compressed::Broken => {}
        }
    }
    let name = client.resource(&format!("blobs/{}{}/{}", function.infix(), digest.hash, digest.size_bytes));
    let deadline = client.deadline_for(size);
    let mut offset = 0_u64;
    let work = async {
        for attempt in 0..=MAX_RESUMES {
            let mut bytes = client.bytes().await;
            // Some servers take a limit for damage: the end is ours to see.
            let read_offset = i64::try_from(offset).unwrap_or(i64::MAX);
            let request = api::ReadRequest { resource_name: name.clone(), read_offset, read_limit: 0 };
            let before = offset;
            let begun = tokio::time::timeout(client.deadline(), bytes.read(request)).await;
            let status = match begun.map_err(|_| RemoteError::Slow(client.deadline()))? {
                Ok(answer) => {
                    let mut stream = answer.into_inner();
                    loop {
                        match tokio::time::timeout(client.deadline(), stream.message()).await {
                            Err(_) => return Err(RemoteError::Slow(client.deadline())),
                            Ok(Ok(Some(message))) => {
                                if message.data.len() as u64 > size - offset {
                                    // More than there can be: not the blob.
                                    return Ok(false);
                                }
                                take(&message.data)?;
                                offset += message.data.len() as u64;
                            }
                            Ok(Ok(None)) if offset == size => return Ok(true),
                            // Cut short: whatever the reason, the rest may still come.
                            Ok(Ok(None)) => break Status::unavailable("stream ended early"),
                            Ok(Err(status)) => break status,
                        }
                    }
                }
                Err(status) => status,
            };
            match status.code() {
                Code::NotFound | Code::OutOfRange => return Ok(false),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted | Code::Internal
                    if attempt < MAX_RESUMES && (offset > before || attempt == 0) => {}
                Code::Unavailable if offset > 0 => return Ok(false),
                _ => return Err(client.error(&status)),
            }
        }
        Ok(false)
    };
    tokio::time::timeout(deadline, work).await.unwrap_or(Err(RemoteError::Slow(deadline)))
}

/// What became of a blob that was asked for in its compressed form.
enum Compressed {
    /// Bytes; none where they make no blob of that size, so that whoever checks them sees that it is false.
    Whole(Vec<u8>),
    Nothing,
    Broken,
}

/// Reads a blob as a stream in its compressed form, which is held until it has ended.
async fn read_compressed(client: &Client, digest: &Digest) -> Result<Compressed, RemoteError> {
    let function = client.limits().await?.function;
    let (size, slow) = (size(digest), || RemoteError::Slow(client.deadline()));
    let name = format!("compressed-blobs/zstd/{}{}/{}", function.infix(), digest.hash, digest.size_bytes);
    let request = api::ReadRequest { resource_name: client.resource(&name), read_offset: 0, read_limit: 0 };
    let mut bytes = client.bytes().await;
    let work = async {
        let begun = tokio::time::timeout(client.deadline(), bytes.read(request)).await.map_err(|_| slow())?;
        let mut stream = match begun {
            Ok(answer) => answer.into_inner(),
            Err(status) => return refused(client, &status),
        };
        let mut all = vec![];
        loop {
            match tokio::time::timeout(client.deadline(), stream.message()).await.map_err(|_| slow())? {
                Ok(Some(message)) => {
                    all.extend_from_slice(&message.data);
                    if all.len() as u64 > compressed::most(size) {
                        return Ok(Compressed::Whole(vec![]));
                    }
                }
                Ok(None) => {
                    let whole = compressed::aside(move || compressed::inflate(&all, size)).await;
                    return Ok(Compressed::Whole(whole.unwrap_or_default()));
                }
                Err(status) => return refused(client, &status),
            }
        }
    };
    tokio::time::timeout(client.deadline_for(size), work).await.unwrap_or_else(|_| Err(slow()))
}

fn refused(client: &Client, status: &Status) -> Result<Compressed, RemoteError> {
    match status.code() {
        Code::NotFound | Code::OutOfRange => Ok(Compressed::Nothing),
        Code::Unauthenticated | Code::PermissionDenied | Code::DeadlineExceeded => Err(client.error(status)),
        _ => Ok(Compressed::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digests::Function;

    #[test]
    fn batches_stay_within_the_limit_and_lose_nothing() {
        let digest = |n: usize| Digest { size_bytes: n as i64, ..Function::Sha256.of(&n.to_le_bytes()) };
        for limit in [65_536, 4 << 20] {
            let list: Vec<Digest> = (0..5000).map(|n| digest(n * 7 % 30_000)).collect();
            let cut = batches(list.clone(), limit, |d| d);
            for batch in &cut {
                let bytes: u64 = batch.iter().map(|d| size(d) + OVERHEAD_BYTES).sum();
                assert!(batch.len() <= MAX_BATCHED && (bytes <= limit || batch.len() == 1));
            }
            assert_eq!(cut.concat(), list);
        }
        assert!(batches(vec![], 1, |d: &Digest| d).is_empty());
    }
}
