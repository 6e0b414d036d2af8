//! Remotes: a store over a network, as those who look things up see it.
//!
//! Knows that receipts come as signed bytes and blocks by id; unaware of protocols, of trust and of when to
//! give up. Nothing that comes from a remote is believed: a receipt is verified by who asked, a block by
//! whoever implements this, before it reaches the store.

use std::process::Command;
use std::time::Duration;

use crate::car::MAX_DAG_BYTES;
use crate::cid::{Codec, InvocationId, Link, TaskId};
use crate::sign::SignedReceipt;
use crate::store::Store;

mod incoming;
mod outgoing;
mod subject;
pub mod workers;

pub use incoming::Incoming;
pub use outgoing::{Bytes, reached};
pub use subject::{MAX_ISSUERS, Subject};

/// What a remote may be used for, as its user says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePolicy {
    /// Whether receipts and blocks are looked for there.
    pub read: bool,
    /// Whether receipts made here are sent there.
    pub write: bool,
    /// How isolated a run must have been for its receipt to be sent: `ns`, `wasm`, ...
    pub tiers: Vec<String>,
    /// How long a run may wait at its end for what is still to be sent.
    pub push_wait: Duration,
}

/// Tiers whose receipts say all that the work depended on.
pub const CLOSED_TIERS: [&str; 3] = ["ns", "wasm", "fetch"];

impl Default for RemotePolicy {
    /// Read only; of what is written, once that is asked for, only what was isolated.
    fn default() -> Self {
        let tiers = CLOSED_TIERS.map(str::to_owned).to_vec();
        Self { read: true, write: false, tiers, push_wait: Duration::from_secs(30) }
    }
}

/// A block that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The block.
    pub link: Link,
    /// Its size, when whoever names it says so: a cap on what is read.
    pub size: Option<u64>,
}

impl Want {
    /// A blob whose size nobody has said: what a task printed.
    const MAX_UNSAID_BYTES: u64 = 1 << 30;

    /// Most bytes that are read for it.
    pub fn limit(&self) -> u64 {
        match self.link.codec {
            Codec::DagCbor => self.size.unwrap_or(MAX_DAG_BYTES).min(MAX_DAG_BYTES),
            Codec::Raw => self.size.unwrap_or(Self::MAX_UNSAID_BYTES),
        }
    }
}

/// What a fetch brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blocks that are in the store now.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks whose bytes were not what their ids say, and were not kept.
    pub false_blobs: usize,
}

impl Fetched {
    /// What one block counts as: kept, with its size, or false.
    pub fn one(kept: Option<u64>) -> Self {
        match kept {
            Some(bytes) => Self { blobs: 1, bytes, false_blobs: 0 },
            None => Self { false_blobs: 1, ..Self::default() },
        }
    }

    /// Counts what another fetch brought.
    pub fn add(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.false_blobs += other.false_blobs;
    }
}

/// What a push sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blocks that were not there before.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a remote gave no answer. Something that is not there is no error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// It cannot be reached, or went away in the middle.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Slow(Duration),
    /// It does not let us.
    #[error("access denied: {0}")]
    Denied(String),
    /// It said something that makes no sense.
    #[error("{0}")]
    Odd(String),
    /// Our own store failed.
    #[error("own store: {0}")]
    Store(String),
}

impl RemoteError {
    /// Whether asking again in this run would only cost the same time again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Slow(_) | Self::Denied(_) | Self::Store(_))
    }
}

impl From<crate::StoreError> for RemoteError {
    fn from(error: crate::StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// The bearer token that a user has said where to find: an environment variable, or what a command prints. `env` looks
/// a variable up.
pub fn token(
    variable: Option<&str>,
    command: Option<&[String]>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    if let Some(name) = variable {
        let missing = || format!("environment variable `{name}` with the token is not set");
        return env(name).filter(|t| !t.is_empty()).ok_or_else(missing).map(Some);
    }
    let Some([program, arguments @ ..]) = command else { return Ok(None) };
    let failed = |why: &str| format!("`{program}`, which prints the token: {why}");
    let output = Command::new(program).args(arguments).output().map_err(|e| failed(&e.to_string()))?;
    if !output.status.success() {
        return Err(failed(&output.status.to_string()));
    }
    let token = String::from_utf8(output.stdout).map_err(|_| failed("it is not text"))?;
    match token.trim() {
        "" => Err(failed("it printed nothing")),
        token => Ok(Some(token.to_owned())),
    }
}

/// Signed envelopes that may belong to an id: unverified bytes.
pub type Envelopes = Vec<Vec<u8>>;

/// A store over a network. Methods block and answer within a deadline of their own; they are called from
/// threads that may wait, several at a time.
pub trait Remote: Send + Sync {
    /// What its user calls it.
    fn name(&self) -> &str;

    /// What it may be used for.
    fn policy(&self) -> &RemotePolicy;

    /// Receipts that are about each subject, in the order asked. An entry some of whose blocks are gone is no entry. With
    /// `keep`, `store` is told where the blocks of what was found are to be had; without, nothing is written.
    fn find(&self, store: &Store, keep: bool, subjects: &[Subject]) -> Result<Vec<Envelopes>, RemoteError>;

    /// Receipts that settle tasks, likewise.
    fn find_tasks(&self, store: &Store, keep: bool, ids: &[TaskId]) -> Result<Vec<Envelopes>, RemoteError> {
        self.find(store, keep, &ids.iter().map(|id| Subject::Task(*id)).collect::<Vec<_>>())
    }

    /// Receipts of invocations, likewise.
    fn find_invocations(&self, store: &Store, keep: bool, ids: &[InvocationId]) -> Result<Vec<Envelopes>, RemoteError> {
        self.find(store, keep, &ids.iter().map(|id| Subject::Invocation(*id)).collect::<Vec<_>>())
    }

    /// Brings blocks into the store, each verified against its id; what is not there is left out.
    fn fetch(&self, store: &Store, wants: &[Want]) -> Result<Fetched, RemoteError>;

    /// Sends a receipt with all it reaches, blocks first.
    fn push(&self, store: &Store, receipt: &SignedReceipt) -> Result<Pushed, RemoteError>;
}
