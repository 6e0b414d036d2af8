//! What the handle and its writer thread share, and the first write: from a directory to a store.
//!
//! Unaware of what is written.

use std::fs::{self, File};
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use super::fault::Faults;
use super::index::Index;
use super::journal::Journal;
use super::layout::Layout;
use super::locks::Holding;
use super::marks::Mark;
use super::version;
use crate::counters::Counting;
use crate::error::{CommitError, StoreError};
use crate::terms::Options;

/// A store that is removed so often under our hands is not to be had.
const MAX_REMOVALS: usize = 8;

/// What the handle and its writer thread share.
pub(crate) struct Core {
    pub(super) layout: Layout,
    pub(super) options: Options,
    pub(super) faults: Faults,
    pub(super) counting: Arc<Counting>,
    pub(super) index: Index,
    pub(super) journal: Mutex<Journal>,
    /// Open since the first write, so that an error in writing back between two `syncfs` is reported by the next.
    pub(super) root: OnceLock<File>,
    /// Where workspaces may hold what would be left over.
    pub(super) mark: Mutex<Mark>,
    /// Set by the first write: the directory is a store, and collections wait for us.
    pub(super) writing: RwLock<Option<Holding>>,
}

impl Core {
    pub(super) fn ensure_made(&self) -> Result<(), StoreError> {
        if !version::check(&self.layout).map_err(|e| CommitError::Open(Arc::new(e)))? {
            version::create(&self.layout, &self.faults).map_err(|e| StoreError::io(self.layout.dir(), e))?;
        }
        for dir in self.layout.directories() {
            match fs::create_dir(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(StoreError::io(&dir, e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the directory a store and keeps collections away, once; and away from this handle's own too, as long
    /// as the guard lives. Not to be asked for while one is held.
    pub(super) fn ensure_writable(&self) -> Result<RwLockReadGuard<'_, Option<Holding>>, StoreError> {
        loop {
            let writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
            if writing.is_some() {
                return Ok(writing);
            }
            drop(writing);
            let mut writing = self.writing.write().unwrap_or_else(PoisonError::into_inner);
            if writing.is_none() {
                *writing = Some(self.hold_made()?);
                let dir = self.layout.dir();
                let _ = self.root.set(File::open(dir).map_err(|e| StoreError::io(dir, e))?);
            }
        }
    }

    /// Makes the directory a store, and keeps collections away from it.
    fn hold_made(&self) -> Result<Holding, StoreError> {
        for _ in 0..MAX_REMOVALS {
            self.ensure_made()?;
            match Holding::take(&self.layout) {
                // A name space that is removed at this moment: it begins anew.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other.map_err(|e| StoreError::io(&self.layout.gc_lock(), e)),
            }
        }
        self.hold()
    }

    pub(super) fn hold(&self) -> Result<Holding, StoreError> {
        Holding::take(&self.layout).map_err(|e| StoreError::io(&self.layout.gc_lock(), e))
    }

    /// The queue is full and nothing gets through.
    pub(super) fn full(&self) -> CommitError {
        CommitError::io(self.layout.dir(), io::Error::other("earlier results could not be written"))
    }
}
