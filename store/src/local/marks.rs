//! Where a process puts things in workspaces under names of the moment, said beforehand: who comes after a kill finds
//! them by it.
//!
//! A mark is a lock file that lists directories. Unaware of what is put there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use super::layout::Layout;
use super::locks::{Owned, try_own};

/// What the names of marks begin with.
const MARK: &str = "placing-";

/// The mark of this process, made when it is first needed and gone when it ends in order.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    owned: Option<Owned>,
    noted: FxHashSet<PathBuf>,
    stays: bool,
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.stays
            && let Some(owned) = self.owned.take()
        {
            owned.leave();
        }
    }
}

impl Mark {
    /// Sees to it that the mark lists `dir`.
    pub(crate) fn note(&mut self, layout: &Layout, dir: &Path) -> io::Result<()> {
        if self.noted.contains(dir) {
            return Ok(());
        }
        let pid = std::process::id();
        let mut n = 0_u32;
        while self.owned.is_none() {
            self.owned = try_own(&layout.locks().join(format!("{MARK}{pid}-{n}")))?;
            // One that a process of the same number left behind is not ours to add to.
            if let Some(owned) = &self.owned
                && owned.file().metadata()?.len() > 0
                && let Some(owned) = self.owned.take()
            {
                owned.leave();
            }
            n += 1;
        }
        let mut line = dir.as_os_str().as_bytes().to_vec();
        line.push(0);
        self.owned.as_ref().expect("taken above").file().write_all(&line)?;
        self.noted.insert(dir.to_owned());
        Ok(())
    }
}

impl Mark {
    /// Something was left that could not be dealt with: the mark is to be found as if this process had been killed.
    pub(crate) fn stay(&mut self) {
        self.stays = true;
    }
}

/// What a killed process may have left in workspaces: its number, and the directories it named.
#[derive(Debug)]
pub(crate) struct Abandoned {
    owned: Owned,
    pub(crate) pid: u32,
    pub(crate) dirs: Vec<PathBuf>,
}

impl Abandoned {
    /// Not all could be dealt with: it is there for the next one.
    pub(crate) fn leave(self) {
        self.owned.leave();
    }
}

/// Whether there is any mark, of a process that is gone or not.
pub(crate) fn is_marked(layout: &Layout) -> bool {
    // What cannot be listed may hold one.
    let Ok(entries) = fs::read_dir(layout.locks()) else { return true };
    entries.into_iter().any(|entry| entry.is_ok_and(|e| e.file_name().as_encoded_bytes().starts_with(MARK.as_bytes())))
}

/// Marks whose processes are gone. Each is locked until it is dropped, which deletes it.
pub(crate) fn abandoned(layout: &Layout) -> Vec<Abandoned> {
    let mut found = Vec::new();
    for entry in fs::read_dir(layout.locks()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.strip_prefix(MARK)?.split('-').next()?.parse().ok()) else {
            continue;
        };
        if let Ok(Some(owned)) = try_own(&entry.path()) {
            let listed = fs::read(entry.path()).unwrap_or_default();
            // A name that was cut off was not used yet.
            let whole = listed.split_inclusive(|b| *b == 0).filter_map(|line| line.strip_suffix(&[0]));
            let dirs = whole.map(|line| PathBuf::from(std::ffi::OsString::from_vec(line.to_vec()))).collect();
            found.push(Abandoned { owned, pid, dirs });
        }
    }
    found
}
