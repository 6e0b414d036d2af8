//! What the stat index knows of one directory: its chunk as it was loaded, and what is different since.
//!
//! Unaware of disks and of the store.

use std::collections::BTreeMap;

use crate::stat_chunk::{Chunk, Known};
use crate::tree::MAX_NAME_BYTES;

/// One directory's chunk as it was loaded, and what is different now.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// What else is known of names that were there, or come after all of them, is changed here.
    pub(super) base: Chunk,
    /// Whether it was.
    is_changed: bool,
    /// All else, which counts first.
    changes: BTreeMap<Box<str>, Option<Known>>,
}

impl Directory {
    pub(super) fn get_near(&self, near: &mut usize, name: &str) -> Option<&Known> {
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(name)
        {
            return change.as_ref();
        }
        self.base.get_near(near, name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Known> {
        self.get_near(&mut 0, name)
    }

    pub(super) fn set(&mut self, name: &str, known: Option<Known>) {
        self.set_near(&mut 0, name, known);
    }

    /// The same where names come in order: `near` as for [`Directory::get_near`].
    pub(super) fn set_near(&mut self, near: &mut usize, name: &str, known: Option<Known>) {
        let known = known.filter(|_| name.len() <= MAX_NAME_BYTES);
        let expected = *near;
        if self.get_near(near, name) == known.as_ref() {
            return;
        }
        match known {
            Some(known) if !self.changes.contains_key(name) => {
                *near = expected;
                if let Some(place) = self.base.place_near(near, name) {
                    *place = known;
                } else if self.base.ends_before(name) {
                    self.base.push(name, known);
                    *near = self.base.len();
                } else {
                    self.changes.insert(name.into(), Some(known));
                    return;
                }
                self.is_changed = true;
            }
            known => drop(self.changes.insert(name.into(), known)),
        }
    }

    /// The chunk with the changes in it, which takes the place of what there was; `None` when they change nothing.
    pub(super) fn merged(&mut self) -> Option<Chunk> {
        let (base, mut near) = (&self.base, 0);
        self.changes.retain(|name, change| base.get_near(&mut near, name) != change.as_ref());
        if self.changes.is_empty() {
            return std::mem::take(&mut self.is_changed).then(|| std::mem::take(&mut self.base));
        }
        self.is_changed = false;
        let mut merged = Chunk::default();
        let mut changes = std::mem::take(&mut self.changes).into_iter().peekable();
        for (name, known) in base.iter() {
            while let Some((added, change)) = changes.next_if(|(added, _)| **added < *name) {
                change.into_iter().for_each(|known| merged.push(&added, known));
            }
            match changes.next_if(|(changed, _)| **changed == *name) {
                Some((_, change)) => change.into_iter().for_each(|known| merged.push(name, known)),
                None => merged.push(name, known.clone()),
            }
        }
        for (added, change) in changes {
            change.into_iter().for_each(|known| merged.push(&added, known));
        }
        Some(merged)
    }
}

impl From<Chunk> for Directory {
    fn from(base: Chunk) -> Self {
        Self { base, ..Self::default() }
    }
}
