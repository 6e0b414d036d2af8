//! Whether all that something names is here, so that it could be put in place.
//!
//! Looks files up many at a time; unaware of what is asked of them.

use rustc_hash::FxHashSet;

use super::Store;
use crate::error::StoreError;
use crate::receipt::Output;
use crate::rows::Stored;
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
