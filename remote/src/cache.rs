//! A server as a remote of a store: receipts by task and invocation, blocks by id.
//!
//! Checks every block before it is kept; leaves it to others whose receipts count and when to give up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use quipu_store::Store;
use quipu_store::car::MAX_DAG_BYTES;
use quipu_store::cid::{Codec, Link};
use quipu_store::remote::{
    Envelopes, Fetched, Incoming, Pushed, Remote, RemoteError, RemotePolicy, Subject, Want, reached,
};
use quipu_store::sign::SignedReceipt;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::api;
use crate::api::Digest;
use crate::cas::{self, CALLS, Source};
use crate::client::{Client, Threads};
use crate::config::{Config, ConfigError};
use crate::digests;
use crate::entry::{self, Entry, key_command};

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
}

impl Remote for GrpcRemote {
    fn name(&self) -> &str {
        &self.name
    }

    fn policy(&self) -> &RemotePolicy {
        &self.policy
    }

    fn find(&self, store: &Store, keep: bool, subjects: &[Subject]) -> Result<Vec<Envelopes>, RemoteError> {
        let (client, store, subjects) = (self.client.clone(), store.clone(), subjects.to_vec());
        self.threads.wait(async move { find(&client, &store, keep, subjects).await })
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
async fn find_entry(client: &Client, subject: Subject) -> Result<Option<Entry>, RemoteError> {
    let function = client.limits().await?.function;
    let key = entry::key(subject, function);
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
            (i, find_entry(&client, subject).await)
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
        if want.size.is_some_and(|size| size != said) || (structured && said > MAX_DAG_BYTES) {
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
                    fetched.add(keep(&store, *link, &data)?);
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
                fetched.add(fetch_large(&client, &store, &digest, *link).await?);
            }
            Ok(fetched)
        });
    }
    let (mut all, mut failed) = (Fetched::default(), None);
    // What others bring counts although one failed.
    while let Some(done) = work.join_next().await {
        match done.unwrap_or_else(|e| Err(RemoteError::Odd(e.to_string()))) {
            Ok(fetched) => all.add(fetched),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if all.blobs == 0 => Err(error),
        _ => Ok(all),
    }
}

/// Keeps bytes that are what the id says.
fn keep(store: &Store, link: Link, bytes: &[u8]) -> Result<Fetched, RemoteError> {
    let mut incoming = Incoming::new(store, link);
    incoming.write(bytes)?;
    finish(store, incoming)
}

/// Streams a large blob in.
async fn fetch_large(client: &Client, store: &Store, digest: &Digest, link: Link) -> Result<Fetched, RemoteError> {
    let mut incoming = Incoming::new(store, link);
    let whole = cas::read_stream(client, digest, &mut |chunk| incoming.write(chunk)).await?;
    if whole { finish(store, incoming) } else { Ok(Fetched::default()) }
}

/// Keeps a block, or forgets what was said of it when it is another.
fn finish(store: &Store, incoming: Incoming<'_>) -> Result<Fetched, RemoteError> {
    let link = incoming.link();
    let fetched = Fetched::one(incoming.finish()?);
    if fetched.false_blobs > 0 {
        digests::forget(store, link)?;
    }
    Ok(fetched)
}

async fn push(client: &Client, store: &Store, signed: &SignedReceipt, logs: bool) -> Result<Pushed, RemoteError> {
    let limits = client.limits().await?.clone();
    if !limits.takes_results {
        return Err(RemoteError::Denied("it takes no results".to_owned()));
    }
    let Some(links) = reached(store, signed, logs)? else { return Ok(Pushed::default()) };
    let mut ours = Entry { receipts: vec![signed.bytes.clone()], blocks: Default::default() };
    let mut blobs: HashMap<Digest, Source> = HashMap::new();
    for link in links {
        // Gone meanwhile: nobody could use the receipt.
        let Some(digest) = digests::compute(store, limits.function, link)? else { return Ok(Pushed::default()) };
        blobs.insert(digest.clone(), Source::Block(link));
        ours.blocks.insert(link, digest);
    }
    for bytes in [key_command(), vec![]] {
        blobs.insert(limits.function.of(&bytes), Source::Here(bytes));
    }
    let mut updates = vec![];
    for subject in Subject::all_of(signed) {
        let mut whole = ours.clone();
        if let Some(theirs) = find_entry(client, subject).await? {
            whole.merge(subject, theirs);
        }
        let (key, encoded) = (entry::key(subject, limits.function), whole.encode(limits.function));
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
