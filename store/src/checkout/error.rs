//! Why something of a store was not put at a path of a workspace.

use rustix::io::Errno;

use crate::StoreError;
use crate::cid::Link;
use crate::error::CommitError;
use crate::ingest::IngestError;

/// Why an entry was not put in its place. Nothing is there then that was not there before, except perhaps directories.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckoutError {
    /// Not a relative path of plain components.
    #[error("`{path}` is not a relative path without `.` and `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// The way there leads over a symbolic link, or something that is no directory.
    #[error("a directory on the way to `{path}` is a symbolic link or not a directory")]
    Way {
        /// The path.
        path: String,
    },
    /// Not in the store.
    #[error("`{path}`: {link} is not in the store")]
    Missing {
        /// The path it was needed for.
        path: String,
        /// What is missing.
        link: Link,
    },
    /// In the store with other bytes than its id says. It was taken out of use.
    #[error("{0} is damaged in the store")]
    Corrupt(Link),
    /// The tree says another size than the content has.
    #[error("`{path}`: {link} has {found_bytes} bytes, its directory says {expected_bytes}")]
    Size {
        /// The path.
        path: String,
        /// The content.
        link: Link,
        /// What the directory says.
        expected_bytes: u64,
        /// What it has.
        found_bytes: u64,
    },
    /// Beyond the limits.
    #[error("`{path}` would have more than {max_files} files or {max_bytes} bytes")]
    TooLarge {
        /// The path.
        path: String,
        /// Most files.
        max_files: u64,
        /// Most bytes.
        max_bytes: u64,
    },
    /// Nested too deeply.
    #[error("`{path}` is nested more than {} directories deep", crate::tree::MAX_DEPTH)]
    Depth {
        /// The path.
        path: String,
    },
    /// A link of a tree that may lead out of it.
    #[error("`{path}` is a symbolic link to `{target}`, which may lead outside")]
    Link {
        /// The path.
        path: String,
        /// Its target.
        target: Box<str>,
    },
    /// What stands in the way is not quipu's and cannot be kept.
    #[error("`{path}` is in the way and cannot be kept: {source}")]
    InTheWay {
        /// The path that was to be placed.
        path: String,
        /// Why it cannot be kept. Its path is the one it had for the moment.
        source: Box<IngestError>,
    },
    /// What stood in the way could not be made durable in the store.
    #[error("`{path}` is in the way and cannot be kept: {source}")]
    NotKept {
        /// The path that was to be placed.
        path: String,
        /// Why.
        source: CommitError,
    },
    /// What stood in the way could be neither kept nor put back; it is beside its place.
    #[error("what was at `{path}` is at `{aside}` now, and could not be put back: {source}")]
    LeftAside {
        /// The path that was to be placed.
        path: String,
        /// Where the old one is.
        aside: String,
        /// Why it could not be kept.
        source: Box<Self>,
    },
    /// The file system said no.
    #[error("`{path}`: {source}")]
    Io {
        /// The path.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CheckoutError {
    pub(crate) fn io(path: &str, error: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }

    pub(crate) fn missing(link: Link, path: &str) -> Self {
        Self::Missing { path: path.to_owned(), link }
    }
}
