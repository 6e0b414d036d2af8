//! Somebody else's server as a remote of a store: receipts by task and invocation, blocks by id.
//!
//! Checks every block before it is kept, and reads no more and waits no longer than an answer is worth. Leaves it to
//! others whose receipts count and when to give up.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quipu_store::car::{self, MAX_DAG_BYTES};
use quipu_store::cid::{BlobHasher, BlobId, Codec, InvocationId, Link, TaskId};
use quipu_store::remote::{Envelopes, Fetched, Pushed, Remote, RemoteError, RemotePolicy, Want};
use quipu_store::sign::SignedReceipt;
use quipu_store::{Store, Take};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::ask::MAX_IDS;
use crate::config::{Config, ConfigError};

/// Blocks that are fetched side by side.
const FETCHES: usize = 8;
/// All receipts of one answer.
const MAX_RECEIPTS_BYTES: u64 = 64 << 20;
/// A blob whose size nobody has said: what a task printed.
const MAX_UNSAID_BYTES: u64 = 1 << 30;
/// Blobs up to this size are held in memory on their way.
const SMALL_BYTES: u64 = 1 << 20;
/// A peer that is slower than this is of no use.
const LEAST_BYTES_A_SECOND: u64 = 64 << 10;
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Shorter than the server keeps a connection that nothing is asked on.
const IDLE: Duration = Duration::from_secs(5);
const CAR: &str = "application/vnd.ipld.car";
const RAW: &str = "application/vnd.ipld.raw";

/// A server of `quipu serve` as a remote.
pub struct PeerRemote {
    name: String,
    policy: RemotePolicy,
    agent: Agent,
    base: String,
    token: Option<String>,
    deadline: Duration,
}

impl PeerRemote {
    /// A peer that its user calls `name`. Connects to nobody before it is asked something; `env` looks up an
    /// environment variable.
    pub fn new(name: &str, config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (base, deadline, token) = (config.base()?, config.deadline()?, config.token(env)?);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Whoever answers is who was asked: nobody sends us, or the token, elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_response_header_size(MAX_HEAD_BYTES)
            .max_idle_age(IDLE)
            .max_idle_connections(FETCHES)
            .max_idle_connections_per_host(FETCHES)
            .user_agent("quipu")
            .build()
            .into();
        let policy = RemotePolicy { read: config.read, write: false, ..RemotePolicy::default() };
        Ok(Self { name: name.to_owned(), policy, agent, base, token, deadline })
    }

    /// Receipts of whatever these ids are of, in one question for each 1024.
    fn envelopes(&self, ids: &[Link]) -> Result<Vec<Vec<u8>>, RemoteError> {
        let mut all = vec![];
        for ids in ids.chunks(MAX_IDS) {
            let list: String = ids.iter().map(|id| format!("{id}\n")).collect();
            let mut asking = self.agent.post(format!("{}/quipu/v1/receipts", self.base)).header("Accept", CAR);
            if let Some(token) = &self.token {
                asking = asking.header("Authorization", format!("Bearer {token}"));
            }
            let asking = asking.config().timeout_global(Some(self.deadline)).build();
            let mut answer = asking.send(list.as_bytes()).map_err(|e| self.error(e))?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NO_CONTENT => continue,
                // There may be something else at that address.
                _ => return Err(self.unexpected(&answer)),
            }
            let body = answer.body_mut().with_config().limit(MAX_RECEIPTS_BYTES).reader();
            let read = car::unpack(io::BufReader::with_capacity(64 << 10, body), MAX_RECEIPTS_BYTES);
            all.extend(read.map_err(|e| match e {
                car::CarError::Io { source, .. } => self.cut(source),
                other => RemoteError::Odd(format!("its receipts cannot be read: {other}")),
            })?);
        }
        Ok(all)
    }

    /// Receipts that are about each id. What cannot be verified is handed on, so that it is told of.
    fn find(&self, ids: &[Link], about: impl Fn(&SignedReceipt) -> Vec<Link>) -> Result<Vec<Envelopes>, RemoteError> {
        let mut places: HashMap<Link, Vec<usize>> = HashMap::new();
        for (i, id) in ids.iter().enumerate() {
            places.entry(*id).or_default().push(i);
        }
        let mut all: Vec<Envelopes> = vec![vec![]; ids.len()];
        for bytes in self.envelopes(ids)? {
            match SignedReceipt::verify(&bytes) {
                Ok(signed) => {
                    for i in about(&signed).iter().filter_map(|link| places.get(link)).flatten() {
                        all[*i].push(bytes.clone());
                    }
                }
                Err(_) => all.first_mut().into_iter().for_each(|first| first.push(bytes.clone())),
            }
        }
        Ok(all)
    }

    fn get(&self, link: Link, most: Duration) -> Result<Response<Body>, RemoteError> {
        let mut asking = self.agent.get(format!("{}/ipfs/{link}?format=raw", self.base)).header("Accept", RAW);
        if let Some(token) = &self.token {
            asking = asking.header("Authorization", format!("Bearer {token}"));
        }
        let asking = asking.config().timeout_recv_response(Some(self.deadline)).timeout_global(Some(most)).build();
        asking.call().map_err(|e| self.error(e))
    }

    /// Brings one block into the store, or says that it is false, or not there.
    fn fetch_one(&self, store: &Store, want: Want, ends: Instant) -> Result<Fetched, RemoteError> {
        let link = want.link;
        let limit = match (link.codec, want.size) {
            (Codec::DagCbor, size) => size.unwrap_or(MAX_DAG_BYTES).min(MAX_DAG_BYTES),
            (Codec::Raw, size) => size.unwrap_or(MAX_UNSAID_BYTES),
        };
        let left = ends.saturating_duration_since(Instant::now());
        let most = (self.deadline + time_for(limit)).min(left);
        if most.is_zero() {
            return Err(RemoteError::Slow(self.deadline));
        }
        let mut answer = self.get(link, most)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Fetched::default()),
            _ => return Err(self.unexpected(&answer)),
        }
        let is_false = Fetched { false_blobs: 1, ..Fetched::default() };
        let said = answer.body().content_length();
        if said.is_some_and(|n| n > limit || want.size.is_some_and(|size| size != n)) {
            return Ok(is_false);
        }
        // One byte more than there may be, to see that there is more.
        let mut body =
            answer.body_mut().with_config().limit(limit.saturating_add(1)).reader().take(limit.saturating_add(1));
        let bytes = if link.codec == Codec::DagCbor || limit <= SMALL_BYTES {
            let mut bytes = vec![];
            body.read_to_end(&mut bytes).map_err(|e| self.cut(e))?;
            if Link::of(link.codec, &bytes) != link {
                return Ok(is_false);
            }
            let size = bytes.len() as u64;
            store.put(link.codec, bytes)?;
            size
        } else {
            match self.stream(store, BlobId::from_digest(link.digest), &mut body)? {
                Some(size) => size,
                None => return Ok(is_false),
            }
        };
        Ok(Fetched { blobs: 1, bytes, false_blobs: 0 })
    }

    /// Writes a blob beside the store's, hashes it on the way, and moves it in when it is right.
    fn stream(&self, store: &Store, id: BlobId, body: &mut dyn Read) -> Result<Option<u64>, RemoteError> {
        let own = |e: io::Error| RemoteError::Store(e.to_string());
        let dir = Scratch(store.scratch_dir().map_err(own)?);
        let path = dir.0.join("blob");
        let mut file = File::create_new(&path).map_err(own)?;
        let (mut hasher, mut size, mut part) = (BlobHasher::default(), 0, vec![0; 128 << 10]);
        loop {
            let n = match body.read(&mut part) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.cut(e)),
            };
            hasher.update(&part[..n]);
            file.write_all(&part[..n]).map_err(own)?;
            size += n as u64;
        }
        drop(file);
        if hasher.id() != id {
            return Ok(None);
        }
        store.put_file(&path, Take::Move)?;
        Ok(Some(size))
    }

    fn error(&self, error: ureq::Error) -> RemoteError {
        match error {
            ureq::Error::Timeout(_) => RemoteError::Slow(self.deadline),
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => RemoteError::Slow(self.deadline),
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                RemoteError::Unreachable(format!("`{}` cannot be reached: {error}", self.base))
            }
            other => RemoteError::Odd(format!("`{}` answers nonsense: {other}", self.base)),
        }
    }

    /// Why an answer broke off.
    fn cut(&self, error: io::Error) -> RemoteError {
        if error.kind() == io::ErrorKind::TimedOut {
            return RemoteError::Slow(self.deadline);
        }
        match error.downcast::<ureq::Error>() {
            Ok(inner) => self.error(inner),
            Err(error) => RemoteError::Unreachable(format!("`{}` breaks off: {error}", self.base)),
        }
    }

    fn unexpected(&self, answer: &Response<Body>) -> RemoteError {
        let status = answer.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.token.is_none() => {
                RemoteError::Denied(format!("`{}` asks for a token ({status})", self.base))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RemoteError::Denied(format!("`{}` does not take our token ({status})", self.base))
            }
            _ => RemoteError::Odd(format!("`{}` answers {status}", self.base)),
        }
    }
}

impl Remote for PeerRemote {
    fn name(&self) -> &str {
        &self.name
    }

    fn policy(&self) -> &RemotePolicy {
        &self.policy
    }

    fn find_tasks(&self, _: &Store, _: bool, ids: &[TaskId]) -> Result<Vec<Envelopes>, RemoteError> {
        let ids: Vec<Link> = ids.iter().map(|id| id.link()).collect();
        self.find(&ids, |signed| signed.receipt.meta.settles.keys().map(|id| id.link()).collect())
    }

    fn find_invocations(&self, _: &Store, _: bool, ids: &[InvocationId]) -> Result<Vec<Envelopes>, RemoteError> {
        let ids: Vec<Link> = ids.iter().map(|id| id.link()).collect();
        self.find(&ids, |signed| vec![signed.receipt.ran.link()])
    }

    fn fetch(&self, store: &Store, wants: &[Want]) -> Result<Fetched, RemoteError> {
        // However little each answer takes of its own time, all together have an end.
        let bytes = wants.iter().filter_map(|want| want.size).fold(0, u64::saturating_add);
        let ends = Instant::now()
            + self.deadline
            + time_for(bytes)
            + self.deadline / 100 * u32::try_from(wants.len()).unwrap_or(u32::MAX).min(100_000);
        let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcome = Mutex::new((Fetched::default(), None));
        let work = || {
            while !ended.load(Ordering::Acquire)
                && let Some(want) = wants.get(next.fetch_add(1, Ordering::AcqRel))
            {
                let fetched = self.fetch_one(store, *want, ends);
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match fetched {
                    Ok(one) => {
                        outcome.0.blobs += one.blobs;
                        outcome.0.bytes += one.bytes;
                        outcome.0.false_blobs += one.false_blobs;
                    }
                    Err(error) => {
                        outcome.1.get_or_insert(error);
                        ended.store(true, Ordering::Release);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            // The calling thread is one of them.
            for _ in 1..FETCHES.min(wants.len()) {
                scope.spawn(work);
            }
            work();
        });
        let (fetched, error) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => Err(error),
            None => Ok(fetched),
        }
    }

    fn push(&self, _: &Store, _: &SignedReceipt) -> Result<Pushed, RemoteError> {
        Err(RemoteError::Denied("a peer is only read from".to_owned()))
    }
}

/// How long so many bytes may take: never for more than a day.
fn time_for(bytes: u64) -> Duration {
    Duration::from_secs((bytes / LEAST_BYTES_A_SECOND).min(86_400))
}

/// A directory that goes when it is not needed any more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
