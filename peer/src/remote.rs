//! Somebody else's server as a remote of a store: receipts by task and invocation, blocks by id.
//!
//! Checks every block before it is kept, and reads no more and waits no longer than an answer is worth. Leaves it to
//! others whose receipts count and when to give up.

use std::collections::HashMap;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use quipu_store::Store;
use quipu_store::car;
use quipu_store::cid::Link;
use quipu_store::remote::{
    Envelopes, Fetched, Incoming, Pushed, Remote, RemoteError, RemotePolicy, Subject, Want, workers,
};
use quipu_store::sign::SignedReceipt;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::ask::MAX_IDS;
use crate::config::{Config, ConfigError};

/// Blocks that are fetched side by side.
const FETCHES: usize = 8;
/// All receipts of one answer.
const MAX_RECEIPTS_BYTES: u64 = 64 << 20;
/// What is read at once.
const PART_BYTES: usize = 128 << 10;
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
            .timeout_per_read(Some(deadline))
            .timeout_per_write(Some(deadline))
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
        let limit = want.limit();
        let mut answer = self.get(link, workers::time_left(self.deadline, limit, ends)?)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Fetched::default()),
            _ => return Err(self.unexpected(&answer)),
        }
        let said = answer.body().content_length();
        if said.is_some_and(|n| n > limit || want.size.is_some_and(|size| size != n)) {
            return Ok(Fetched::one(None));
        }
        // One byte more than there may be, to see that there is more.
        let most = limit.saturating_add(1);
        let mut body = answer.body_mut().with_config().limit(most).reader().take(most);
        let (mut incoming, mut part) = (Incoming::new(store, link), vec![0; PART_BYTES.min(most as usize)]);
        loop {
            match body.read(&mut part) {
                Ok(0) => return Ok(Fetched::one(incoming.finish()?)),
                Ok(n) => incoming.write(&part[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.cut(e)),
            }
        }
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

    /// Receipts that are about each subject. What cannot be verified is handed on, so that it is told of.
    fn find(&self, _: &Store, _: bool, subjects: &[Subject]) -> Result<Vec<Envelopes>, RemoteError> {
        let mut places: HashMap<Subject, Vec<usize>> = HashMap::new();
        for (i, subject) in subjects.iter().enumerate() {
            places.entry(*subject).or_default().push(i);
        }
        let ids: Vec<Link> = subjects.iter().map(|subject| subject.link()).collect();
        let mut all: Vec<Envelopes> = vec![vec![]; ids.len()];
        for bytes in self.envelopes(&ids)? {
            match SignedReceipt::verify(&bytes) {
                Ok(signed) => {
                    for i in Subject::all_of(&signed).iter().filter_map(|subject| places.get(subject)).flatten() {
                        all[*i].push(bytes.clone());
                    }
                }
                Err(_) => all.first_mut().into_iter().for_each(|first| first.push(bytes.clone())),
            }
        }
        Ok(all)
    }

    fn fetch(&self, store: &Store, wants: &[Want]) -> Result<Fetched, RemoteError> {
        let bytes = wants.iter().filter_map(|want| want.size).fold(0, u64::saturating_add);
        let ends = workers::ends(self.deadline, wants.len(), bytes);
        workers::each(FETCHES, wants, |want| self.fetch_one(store, *want, ends))
    }

    fn push(&self, _: &Store, _: &SignedReceipt) -> Result<Pushed, RemoteError> {
        Err(RemoteError::Denied("a peer is only read from".to_owned()))
    }
}
