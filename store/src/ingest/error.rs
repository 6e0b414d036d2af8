//! Why something on the disk cannot be kept in a store.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::StoreError;
use crate::stamp::FileKind;
use crate::tree::MAX_DEPTH;
use crate::tree_build::TreeOfError;

/// Why something on the disk cannot be kept. Paths are below the root given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// Not a relative path of plain components.
    #[error("`{path}` is not a relative path without `.` and `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// Of a kind that has no content.
    #[error("`{path}` is {kind}; only files, directories and symbolic links can be kept")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: FileKind,
    },
    /// A file that runs as its owner.
    #[error("`{path}` has a setuid or setgid bit, which is not kept")]
    SetId {
        /// The path.
        path: String,
    },
    /// A link that leads, or may lead, out of the directory it is kept in.
    #[error("`{path}` is a symbolic link to `{target}`, which may lead outside")]
    Link {
        /// The path.
        path: String,
        /// Its target.
        target: Box<str>,
    },
    /// A name, or a link's target, that is not UTF-8.
    #[error("`{}` has a name or a target that is not UTF-8", .path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// Nested deeper than a tree may be.
    #[error("`{path}` is nested more than {MAX_DEPTH} directories deep")]
    Depth {
        /// The path.
        path: String,
    },
    /// More entries than were allowed.
    #[error("`{path}` has more than {limit} entries")]
    TooMany {
        /// The path that was to be kept.
        path: String,
        /// How many were allowed.
        limit: usize,
    },
    /// It was written to each time it was read, or removed meanwhile.
    #[error("`{path}` changes while it is read")]
    Changing {
        /// The path.
        path: String,
    },
    /// The file system said no.
    #[error("`{path}`: {source}")]
    Io {
        /// The path.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The paths make no tree.
    #[error(transparent)]
    Tree(#[from] TreeOfError),
}

impl IngestError {
    pub(super) fn io(path: &str, error: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }
}
