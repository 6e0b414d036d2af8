//! Whether all that something names is here, so that it could be put in place.
//!
//! Looks files up many at a time; unaware of what is asked of them.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::PoisonError;

use rustc_hash::FxHashSet;

use super::Store;
use crate::cid::BlobId;
use crate::error::StoreError;
use crate::hash_file::hash_large;
use crate::parallel;
use crate::receipt::Output;
use crate::rows::Stored;
use crate::terms::Blob;
use crate::tree::Entry;

/// How many blocks share one read of the index at most: small ones are read with their rows.
const BLOCKS_AT_ONCE: usize = 256;

impl Store {
    /// Whether everything under an entry is here: nodes by content, files by presence and size.
    pub fn complete(&self, entry: &Entry) -> Result<bool, StoreError> {
        self.complete_all([entry])
    }

    /// The same for all of several; their files are looked up many in one read of the index.
    pub fn complete_all<'e>(&self, entries: impl IntoIterator<Item = &'e Entry>) -> Result<bool, StoreError> {
        let backend = &*self.inner.backend;
        let mut seen = FxHashSet::default();
        let mut todo: Vec<Entry> = entries.into_iter().cloned().collect();
        loop {
            let (mut links, mut sizes) = (Vec::new(), Vec::new());
            while links.len() < BLOCKS_AT_ONCE
                && let Some(entry) = todo.pop()
            {
                match entry {
                    Entry::Symlink { .. } => {}
                    Entry::File { blob, size, .. } => {
                        if seen.insert(blob.link()) {
                            links.push(blob.link());
                            sizes.push(size);
                        }
                    }
                    Entry::Dir { tree } => {
                        if seen.insert(tree.link()) {
                            let Some(tree) = self.directory(tree)? else { return Ok(false) };
                            todo.extend(tree.entries().iter().map(|(_, entry)| entry.clone()));
                        }
                    }
                }
            }
            if links.is_empty() {
                return Ok(true);
            }
            for ((link, size), stored) in links.iter().zip(sizes).zip(backend.blocks(&links)?) {
                let found = match self.sound(backend, *link, stored)? {
                    Some(Stored::Inline(bytes)) => bytes.len() as u64,
                    Some(Stored::Large(size)) => size,
                    None => return Ok(false),
                };
                if found != size {
                    return Ok(false);
                }
            }
        }
    }

    /// A file's content, in the form the store has it, for who reads it where it is. What is in a file of the store is read
    /// through until this handle has found it to be whole; one that is not what its id says counts as absent, is set aside and noted.
    pub fn whole(&self, id: BlobId) -> Result<Option<Blob>, StoreError> {
        let Some(blob) = self.blob(id)? else { return Ok(None) };
        let Blob::File { path, size } = &blob else { return Ok(Some(blob)) };
        let known = || self.inner.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(&id) {
            let failed = |error: std::io::Error| StoreError::io(path, error);
            let file = match File::open(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                other => other.map_err(failed)?,
            };
            let digest = hash_large(&file, *size, parallel::cores()).map_err(|errno| failed(errno.into()))?;
            if digest.as_ref() != Some(id.digest()) {
                self.corrupt(id.link());
                return Ok(None);
            }
            known().insert(id);
        }
        Ok(Some(blob))
    }

    /// Whether all that a task made and printed is here.
    pub fn holds_output(&self, output: &Output) -> Result<bool, StoreError> {
        if !self.complete_all(output.artifacts.values())? {
            return Ok(false);
        }
        for stream in output.stdout.iter().chain(&output.stderr) {
            if !self.has(stream.link())? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
