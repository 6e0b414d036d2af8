//! Every path in a store's directory, and no other file names one.
//!
//! Unaware of what the files hold.

use std::path::{Path, PathBuf};

use crate::cid::Link;

/// Stands in a store's directory before there is anything else.
pub(crate) const SPACES: &str = "spaces";

/// A store's directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which format the store has. Its presence makes a directory a store.
    pub(crate) fn version(&self) -> PathBuf {
        self.dir.join("version")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index.redb")
    }

    /// Another file each time a commit does more than add: says something else of a task that was known, or drops something.
    pub(crate) fn rewritten(&self) -> PathBuf {
        self.dir.join("rewritten")
    }

    /// Where an index is made. Only who holds the lock for that is there.
    pub(crate) fn new_index(&self) -> PathBuf {
        self.tmp().join("index.redb")
    }

    /// 256 directories of files, each named by its id.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    pub(crate) fn blob(&self, link: Link) -> PathBuf {
        let [first, ..] = link.digest;
        let mut path = self.blobs();
        path.push(format!("{first:02x}"));
        path.push(link.to_string());
        path
    }

    /// Where an index is rebuilt. Only who has the store alone is there.
    pub(crate) fn rebuilt_index(&self) -> PathBuf {
        self.tmp().join("index.redb.rebuilt")
    }

    /// Journal segments: receipts and small blocks once more, so that the index can be lost.
    pub(crate) fn segments(&self) -> PathBuf {
        self.dir.join("receipts")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// What was found damaged, kept for a person to look at.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }

    /// Name spaces, each a store in a directory of its own.
    pub(crate) fn spaces(&self) -> PathBuf {
        self.dir.join(SPACES)
    }

    /// As old as the last use of a name space that is older than a day.
    pub(crate) fn last_used(&self) -> PathBuf {
        self.dir.join("last-used")
    }

    /// What runs that found nothing to do had looked at. Made when there is one; may be deleted at any time.
    pub(crate) fn glances(&self) -> PathBuf {
        self.dir.join("glances")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.dir.join("locks")
    }

    /// Held shared by who writes, exclusively by a collection.
    pub(crate) fn gc_lock(&self) -> PathBuf {
        self.locks().join("gc")
    }

    /// Held while the index is made.
    pub(crate) fn create_lock(&self) -> PathBuf {
        self.locks().join("create")
    }

    /// What the files are called of which leases are ranges, but for their numbers.
    pub(crate) fn leases(&self) -> PathBuf {
        self.locks().join("leases")
    }

    /// Everything that must be there before the first write.
    pub(crate) fn directories(&self) -> [PathBuf; 7] {
        [self.blobs(), self.segments(), self.tmp(), self.quarantine(), self.scratch(), self.runs(), self.locks()]
    }
}
