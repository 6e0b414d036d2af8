//! What a store is asked and what it answers: options, records, what was found, roots.
//!
//! Data only; unaware of how any of it is kept.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cid::{Link, OutputId, ReceiptId};
use crate::error::CommitError;
use crate::receipt::{Receipt, Via};
use crate::sign::{SignedReceipt, Signer};

/// How a store behaves. Says nothing of where it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blocks up to this size live in the index, larger ones in files of their own.
    pub inline_max_bytes: u64,
    /// How long a queued write may wait for others to join its commit.
    pub batch_ms: u64,
    /// From how many receipts on a commit does not wait for company.
    pub batch_receipts: usize,
    /// How much of the index is kept in memory.
    pub cache_bytes: usize,
    /// Who signs.
    pub signer: SignerSource,
}

impl Options {
    /// The defaults, with this signer.
    pub fn new(signer: SignerSource) -> Self {
        Self { inline_max_bytes: 16 << 10, batch_ms: 200, batch_receipts: 1024, cache_bytes: 64 << 20, signer }
    }
}

/// Where the signing key comes from.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per store; a box would only burden callers")]
pub enum SignerSource {
    /// This very key.
    Fixed(Signer),
    /// A file, made at first use and read when the first receipt is signed.
    File(PathBuf),
}

impl SignerSource {
    pub(crate) fn signer(&self) -> Result<Signer, CommitError> {
        match self {
            Self::Fixed(signer) => Ok(signer.clone()),
            Self::File(path) => crate::key_file::read_or_create(path).map_err(|e| CommitError::Key(Arc::new(e))),
        }
    }
}

/// What may be done with a file given to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It stays as it is.
    Copy,
    /// It may be moved into the store: gone from its place afterwards.
    Move,
}

/// A file's content, in the form the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blob {
    /// Here it is; checked against its id.
    Inline(Vec<u8>),
    /// A file of the store: size checked, content to be checked by whoever copies it. Never to be written.
    File {
        /// Where it is.
        path: PathBuf,
        /// How long it is.
        size: u64,
    },
}

/// A receipt that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The receipt.
    pub signed: Arc<SignedReceipt>,
    /// The awaited outputs it was made from, for the task asked for. Empty when asked for by invocation or
    /// receipt id: `signed.receipt.meta.settles` has them by task.
    pub via: Via,
    /// Made here, or accepted for that task under this store's table.
    pub own: bool,
    /// Made here. What was made elsewhere counts as long as its issuer is trusted, accepted or not.
    pub made_here: bool,
}

/// What is known of a task.
#[derive(Debug, Clone, Default)]
pub struct FoundTask {
    /// Receipts that settle it or record its failures, oldest first, then by id.
    pub receipts: Vec<Found>,
    /// The one accepted, with the id of its output.
    pub accepted: Option<(ReceiptId, OutputId)>,
}

/// Told what became of a [`Record`].
pub type Done = Box<dyn FnOnce(Result<ReceiptId, CommitError>) + Send>;

/// A finished invocation to be signed and kept.
pub struct Record {
    /// What it says.
    pub receipt: Receipt,
    /// The task's and the invocation's blocks. Checked against their ids.
    pub blocks: Vec<(Link, Vec<u8>)>,
    /// Called once, from the store's writer thread, when it is durable or never will be. Must not call back
    /// into this store: send, do not work.
    pub done: Done,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("receipt", &self.receipt).finish_non_exhaustive()
    }
}

/// What must not be collected: the latest results of a workspace, or what a person pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The workspace it belongs to.
    pub path: String,
    /// Receipts to keep, with all they reach.
    pub receipts: Vec<ReceiptId>,
    /// Blocks to keep, with all they reach.
    pub links: Vec<Link>,
    /// When it was set, in seconds since 1970.
    pub at: u64,
}

/// What an id identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A signed receipt.
    Receipt,
    /// A task that a receipt settles.
    Task,
    /// An invocation that a receipt is of.
    Invocation,
    /// A directory node.
    Tree,
    /// A file's content.
    Blob,
    /// Another block.
    Block,
}

impl Kind {
    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receipt => "receipt",
            Self::Task => "task",
            Self::Invocation => "invocation",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Block => "block",
        }
    }
}

/// The right to run an invocation, held until dropped or until the process ends.
#[derive(Debug)]
#[must_use = "it is given up when dropped"]
pub struct Lease(#[allow(dead_code, reason = "held for its drop")] pub(crate) Box<dyn Held>);

/// Keeps a collection away while it lives.
#[derive(Debug)]
#[must_use = "it is given up when dropped"]
pub struct Hold(#[allow(dead_code, reason = "held for its drop")] pub(crate) Box<dyn Held>);

/// What is given up when it is dropped.
pub(crate) trait Held: Send + Sync + std::fmt::Debug {}
