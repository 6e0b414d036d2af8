//! What can go wrong with a store, one enum per operation.
//!
//! Knows the text a person reads; unaware of how a program exits.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cid::{InvocationId, Link, ReceiptId};
use crate::dag::DagError;
use crate::key_file::KeyFileError;
use crate::receipt::ReceiptError;
use crate::tree::TreeError;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A directory with other things in it.
    #[error("`{}` is not empty and is no quipu store; name another directory, or an empty one", .0.display())]
    Foreign(PathBuf),
    /// Written by a later quipu.
    #[error(
        "`{}` has format {found}, and this quipu understands formats up to {known}; use the newer quipu, \
         or another store with `QUIPU_STORE`", .dir.display()
    )]
    Newer {
        /// The store.
        dir: PathBuf,
        /// Version it has.
        found: u64,
        /// Latest version this program knows.
        known: u64,
    },
    /// The version file says something else than a version.
    #[error("`{}` does not say which format the store has; restore it, or move the store aside", .0.display())]
    Version(PathBuf),
    /// The index cannot be read.
    #[error("index `{}` cannot be read ({why}); `quipu verify --repair` moves it aside and rebuilds it", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file system said no.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Why reading from, or queueing for, a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system said no.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The index is damaged.
    #[error("index `{}` cannot be read ({why}); `quipu verify --repair` moves it aside and rebuilds it", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A block is larger than the caller takes.
    #[error("{link} has {found_bytes} bytes, more than the {limit_bytes} this place takes")]
    TooLarge {
        /// The block.
        link: Link,
        /// Its size.
        found_bytes: u64,
        /// What the caller allows.
        limit_bytes: u64,
    },
    /// A value has no canonical form or is no block of its kind.
    #[error(transparent)]
    Dag(#[from] DagError),
    /// A directory cannot be encoded, or a node of it is no directory.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A receipt that is to be accepted is not in the store.
    #[error("receipt {0} is not in this store")]
    UnknownReceipt(ReceiptId),
    /// A receipt that failed settles nothing.
    #[error("receipt {0} records a failure, which settles no task")]
    NotOk(ReceiptId),
    /// Who waits for it is started by who has it, and neither would ever go on.
    #[error("{id} is being run by process {pid}, which waits for this one: a task cannot run itself")]
    Nested {
        /// What is being run.
        id: InvocationId,
        /// By whom.
        pid: u32,
    },
    /// What was queued before could not be written, and there is too much of it to go on.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl StoreError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Why what was queued is not durable.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The file system said no (no space, I/O error, ...).
    #[error("failed to keep results in `{}`: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: Arc<io::Error>,
    },
    /// The index did not take it.
    #[error("failed to write index `{}`: {why}; `quipu verify --repair` moves it aside and rebuilds it", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// The signing key cannot be had.
    #[error("failed to sign: {0}")]
    Key(#[from] Arc<KeyFileError>),
    /// The receipt cannot be encoded.
    #[error("failed to sign: {0}")]
    Receipt(#[from] ReceiptError),
    /// The store cannot be written: not ours, of another format, or not openable.
    #[error("failed to open the store for writing: {0}")]
    Open(Arc<OpenError>),
}

impl CommitError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Why a collection did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// Other processes write to the store and did not finish in time.
    #[error("store is in use by process {}; try again when it has ended", list(.pids))]
    Busy {
        /// Who holds it, as far as they said.
        pids: Vec<u32>,
    },
    /// Reading failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

fn list(pids: &[u32]) -> String {
    if pids.is_empty() {
        return "(unknown)".to_owned();
    }
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
