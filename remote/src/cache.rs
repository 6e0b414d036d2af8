//! A server as a remote of a store: receipts by task and invocation, blocks by id.
//!
//! Checks every block before it is kept; leaves it to others whose receipts count and when to give up.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use quipu_store::cid::{Codec, InvocationId, Link, TaskId};
use quipu_store::receipt::Output;
use quipu_store::remote::{Envelopes, Fetched, Pushed, Remote, RemoteError, RemotePolicy, Want};
use quipu_store::sign::SignedReceipt;
use quipu_store::tree::{self, Entry as TreeEntry, Node};
use quipu_store::{Store, Take};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::api;
use crate::api::Digest;
use crate::cas::{self, CALLS, Source};
use crate::client::{Client, Threads};
use crate::config::{Config, ConfigError};
use crate::digests::{self, MAX_BLOCK_BYTES};
use crate::entry::{Entry, Subject, key_command};

/// Look-ups at once: they are small, and each waits for the wire alone.
const LOOKUPS: usize = 64;
/// What an entry needs beside itself is not larger than this.
const MAX_ENTRY_BYTES: i64 = 256 << 20;

/// A server of the Remote Execution API as a remote.
pub struct GrpcRemote {
    name: String,
    policy: RemotePolicy,
    logs: bool,
    client: Client,
    threads: Threads,
}

impl GrpcRemote {
    /// A remote that its user calls `name`. Connects to nobody before it is asked something; `env` looks up an
    /// environment variable.
    pub fn new(name: &str, config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let client = Client::new(config, env)?;
        let (policy, logs) = (config.policy()?, config.logs);
        Ok(Self { name: name.to_owned(), policy, logs, client, threads: Threads::default() })
    }

    fn find(&self, store: &Store, keep: bool, subjects: Vec<Subject>) -> Result<Vec<Envelopes>, RemoteError> {
        let (client, store) = (self.client.clone(), store.clone());
        self.threads.wait(async move { find(&client, &store, keep, subjects).await })
    }
}

impl Remote for GrpcRemote {
    fn name(&self) -> &str {
        &self.name
    }

    fn policy(&self) -> &RemotePolicy {
        &self.policy
    }

    fn find_tasks(&self, store: &Store, keep: bool, ids: &[TaskId]) -> Result<Vec<Envelopes>, RemoteError> {
        self.find(store, keep, ids.iter().map(|id| Subject::Task(*id)).collect())
    }

    fn find_invocations(&self, store: &Store, keep: bool, ids: &[InvocationId]) -> Result<Vec<Envelopes>, RemoteError> {
        self.find(store, keep, ids.iter().map(|id| Subject::Invocation(*id)).collect())
    }

    fn fetch(&self, store: &Store, wants: &[Want]) -> Result<Fetched, RemoteError> {
        let (client, store, wants) = (self.client.clone(), store.clone(), wants.to_vec());
        self.threads.wait(async move { fetch(&client, &store, wants).await })
    }

    fn push(&self, store: &Store, receipt: &SignedReceipt) -> Result<Pushed, RemoteError> {
        let (client, store, logs, signed) = (self.client.clone(), store.clone(), self.logs, receipt.clone());
        self.threads.wait(async move { push(&client, &store, &signed, logs).await })
    }
}

/// An entry of the ActionCache; `None` when there is none.
async fn entry(client: &Client, subject: Subject) -> Result<Option<Entry>, RemoteError> {
    let function = client.limits().await?.function;
    let key = subject.key(function);
    let results = client.results().await;
    let answer = client.call(0, || {
        let request = api::GetActionResultRequest {
            instance_name: client.instance(),
            action_digest: Some(key.digest.clone()),
            inline_stdout: true,
            digest_function: function.number(),
            ..Default::default()
        };
        let mut results = results.clone();
        async move { results.get_action_result(request).await }
    });
    let mut partial = match answer.await {
        Ok(result) => Entry::decode(result),
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => return Err(client.error(&status)),
    };
    if let Some(digest) = partial.receipts.clone() {
        let Some(bytes) = read_own(client, &digest).await? else { return Ok(None) };
        partial.add_receipts(&bytes);
    }
    if let Some(digest) = partial.blocks.clone() {
        let Some(bytes) = read_own(client, &digest).await? else { return Ok(None) };
        partial.add_blocks(&bytes);
    }
    Ok(partial.finish())
}

/// A blob by the server's own name for it, checked against that.
async fn read_own(client: &Client, digest: &Digest) -> Result<Option<Vec<u8>>, RemoteError> {
    if digests::parts(digest).is_none() || digest.size_bytes > MAX_ENTRY_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![];
    let mut take = |chunk: &[u8]| {
        bytes.extend_from_slice(chunk);
        Ok(())
    };
    let whole = cas::read_stream(client, digest, &mut take).await?;
    let function = client.limits().await?.function;
    Ok((whole && function.of(&bytes) == *digest).then_some(bytes))
}

async fn find(
    client: &Client,
    store: &Store,
    keep: bool,
    subjects: Vec<Subject>,
) -> Result<Vec<Envelopes>, RemoteError> {
    let function = client.limits().await?.function;
    let gate = Arc::new(Semaphore::new(LOOKUPS));
    let mut work = tokio::task::JoinSet::new();
    let count = subjects.len();
    for (i, subject) in subjects.into_iter().enumerate() {
        let (client, gate) = (client.clone(), Arc::clone(&gate));
        work.spawn(async move {
            let _turn = gate.acquire().await;
            (i, entry(&client, subject).await)
        });
    }
    let mut entries: Vec<Option<Entry>> = vec![None; count];
    while let Some(done) = work.join_next().await {
        let (i, found) = done.map_err(|e| RemoteError::Odd(e.to_string()))?;
        entries[i] = found?;
    }
    // One question for all: what of these is neither there nor here? An entry that lacks something is no entry.
    let mut asked = HashSet::new();
    for (link, digest) in entries.iter().flatten().flat_map(|e| &e.blocks) {
        if digests::parts(digest).is_some() && !asked.contains(digest) && !store.has(*link)? {
            asked.insert(digest.clone());
        }
    }
    let missing =
        if asked.is_empty() { HashSet::new() } else { cas::missing(client, asked.into_iter().collect()).await? };
    let mut all = Vec::with_capacity(count);
    for entry in entries {
        let whole = |e: &Entry| e.blocks.values().all(|d| digests::parts(d).is_some() && !missing.contains(d));
        let Some(entry) = entry.filter(whole) else {
            all.push(vec![]);
            continue;
        };
        for (link, digest) in entry.blocks.iter().filter(|_| keep) {
            digests::learn(store, function, *link, digest)?;
        }
        all.push(entry.receipts);
    }
    Ok(all)
}

async fn fetch(client: &Client, store: &Store, wants: Vec<Want>) -> Result<Fetched, RemoteError> {
    let limits = client.limits().await?.clone();
    let mut by_digest: HashMap<Digest, Vec<Link>> = HashMap::new();
    for want in wants {
        let Some(digest) = digests::find(store, limits.function, want.link)? else { continue };
        let said = u64::try_from(digest.size_bytes).unwrap_or(u64::MAX);
        let structured = want.link.codec == Codec::DagCbor;
        if want.size.is_some_and(|size| size != said) || (structured && said > MAX_BLOCK_BYTES) {
            // What was said cannot be true.
            digests::forget(store, want.link)?;
            continue;
        }
        by_digest.entry(digest).or_default().push(want.link);
    }
    let small = |d: &Digest| u64::try_from(d.size_bytes).is_ok_and(|n| n + 1024 <= limits.batch_bytes);
    let (small, large): (Vec<Digest>, Vec<Digest>) = by_digest.keys().cloned().partition(small);
    let by_digest = Arc::new(by_digest);
    let gate = Arc::new(Semaphore::new(CALLS));
    let mut work = tokio::task::JoinSet::new();
    for batch in cas::batches(small, limits.batch_bytes, |d| d) {
        let (client, store, gate, by_digest) =
            (client.clone(), store.clone(), Arc::clone(&gate), Arc::clone(&by_digest));
        work.spawn(async move {
            let _turn = gate.acquire().await;
            let mut fetched = Fetched::default();
            for (digest, data) in cas::read_batch(&client, batch).await? {
                for link in by_digest.get(&digest).into_iter().flatten() {
                    keep(&store, *link, &data, &mut fetched)?;
                }
            }
            Ok(fetched)
        });
    }
    for digest in large {
        let (client, store, gate, by_digest) =
            (client.clone(), store.clone(), Arc::clone(&gate), Arc::clone(&by_digest));
        work.spawn(async move {
            let _turn = gate.acquire().await;
            let mut fetched = Fetched::default();
            for link in by_digest.get(&digest).into_iter().flatten() {
                fetch_large(&client, &store, &digest, *link, &mut fetched).await?;
            }
            Ok(fetched)
        });
    }
    let (mut all, mut failed) = (Fetched::default(), None);
    // What others bring counts although one failed.
    while let Some(done) = work.join_next().await {
        match done.unwrap_or_else(|e| Err(RemoteError::Odd(e.to_string()))) {
            Ok(fetched) => {
                all.blobs += fetched.blobs;
                all.bytes += fetched.bytes;
                all.false_blobs += fetched.false_blobs;
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if all.blobs == 0 => Err(error),
        _ => Ok(all),
    }
}

/// Keeps bytes that are what the id says.
fn keep(store: &Store, link: Link, bytes: &[u8], fetched: &mut Fetched) -> Result<(), RemoteError> {
    if Link::of(link.codec, bytes) == link {
        store.put(link.codec, bytes.to_vec())?;
        fetched.blobs += 1;
        fetched.bytes += bytes.len() as u64;
    } else {
        fetched.false_blobs += 1;
        digests::forget(store, link)?;
    }
    Ok(())
}

/// Streams a large blob into a file beside the store's, hashes it on the way, and moves it in when it is right.
async fn fetch_large(
    client: &Client,
    store: &Store,
    digest: &Digest,
    link: Link,
    fetched: &mut Fetched,
) -> Result<(), RemoteError> {
    let own = |e: std::io::Error| RemoteError::Store(e.to_string());
    let dir = Scratch(store.scratch_dir().map_err(own)?);
    let path = dir.0.join("blob");
    let mut file = std::fs::File::create_new(&path).map_err(own)?;
    let mut hasher = blake3::Hasher::new();
    let mut take = |chunk: &[u8]| {
        hasher.update(chunk);
        file.write_all(chunk).map_err(own)
    };
    if !cas::read_stream(client, digest, &mut take).await? {
        return Ok(());
    }
    drop(file);
    if *hasher.finalize().as_bytes() != link.digest {
        fetched.false_blobs += 1;
        digests::forget(store, link)?;
        return Ok(());
    }
    match link.codec {
        Codec::Raw => drop(store.put_file(&path, Take::Move)?),
        Codec::DagCbor => drop(store.put(link.codec, std::fs::read(&path).map_err(own)?)?),
    }
    fetched.blobs += 1;
    fetched.bytes += u64::try_from(digest.size_bytes).unwrap_or(0);
    Ok(())
}

/// A directory that goes when it is not needed any more.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn push(client: &Client, store: &Store, signed: &SignedReceipt, logs: bool) -> Result<Pushed, RemoteError> {
    let limits = client.limits().await?.clone();
    if !limits.takes_results {
        return Err(RemoteError::Denied("it takes no results".to_owned()));
    }
    let Some(links) = closure(store, signed, logs)? else { return Ok(Pushed::default()) };
    let mut ours = Entry { receipts: vec![signed.bytes.clone()], blocks: Default::default() };
    let mut blobs: HashMap<Digest, Source> = HashMap::new();
    for link in links {
        // Gone meanwhile: nobody could use the receipt.
        let Some(digest) = digests::compute(store, limits.function, link)? else { return Ok(Pushed::default()) };
        blobs.insert(digest.clone(), Source::Block(link));
        ours.blocks.insert(link, digest);
    }
    let tasks = signed.receipt.meta.settles.keys().map(|id| Subject::Task(*id));
    let subjects: Vec<Subject> = tasks.chain([Subject::Invocation(signed.receipt.ran)]).collect();
    for bytes in [key_command(), vec![]] {
        blobs.insert(limits.function.of(&bytes), Source::Here(bytes));
    }
    let mut updates = vec![];
    for subject in subjects {
        let mut whole = ours.clone();
        if let Some(theirs) = entry(client, subject).await? {
            whole.merge(subject, theirs);
        }
        let (key, encoded) = (subject.key(limits.function), whole.encode(limits.function));
        blobs.insert(key.digest.clone(), Source::Here(key.action));
        blobs.extend(encoded.blobs.into_iter().map(|(digest, bytes)| (digest, Source::Here(bytes))));
        updates.push((key.digest, encoded.result));
    }
    let (sent, bytes) = cas::upload(client, store, blobs).await?;
    for (key, result) in updates {
        let results = client.results().await;
        let request = api::UpdateActionResultRequest {
            instance_name: client.instance(),
            action_digest: Some(key),
            action_result: Some(result),
            results_cache_policy: None,
            digest_function: limits.function.number(),
        };
        let answer = client.call(0, || {
            let (mut results, request) = (results.clone(), request.clone());
            async move { results.update_action_result(request).await }
        });
        answer.await.map_err(|s: Status| client.error(&s))?;
    }
    Ok(Pushed { blobs: sent, bytes })
}

/// Every block that a receipt reaches; `None` when some are not here. The blocks of its tasks and of the
/// invocation are sent as far as they are here: nobody needs them to use the result.
fn closure(store: &Store, signed: &SignedReceipt, logs: bool) -> Result<Option<Vec<Link>>, RemoteError> {
    let Ok(output) = &signed.receipt.out else { return Ok(None) };
    let mut links = vec![];
    let blocks = signed.receipt.meta.settles.keys().map(|id| id.link()).chain([signed.receipt.ran.link()]);
    for link in blocks {
        if store.has(link)? {
            links.push(link);
        }
    }
    let mut seen: HashSet<Link> = HashSet::new();
    let mut todo: Vec<Link> = Output { stderr: output.stderr.filter(|_| logs), ..output.clone() }.links().collect();
    while let Some(link) = todo.pop() {
        if !seen.insert(link) {
            continue;
        }
        links.push(link);
        if link.codec == Codec::Raw {
            continue;
        }
        let Some(bytes) = store.get(link, tree::MAX_NODE_BYTES as u64)? else { return Ok(None) };
        match Node::decode(&bytes) {
            Ok(Node::Parts(parts)) => todo.extend(parts.into_iter().map(|p| p.link())),
            Ok(Node::Whole(tree)) => todo.extend(tree.entries().iter().filter_map(|(_, entry)| match entry {
                TreeEntry::File { blob, .. } => Some(blob.link()),
                TreeEntry::Dir { tree } => Some(tree.link()),
                TreeEntry::Symlink { .. } => None,
            })),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(links))
}
