//! Entries of a store put at paths of a workspace: whole or not at all, and nothing of a person's is lost.
//!
//! What is to stand at a path is made beside it under another name and renamed there in one step; what stood there
//! comes out under that other name, and is looked at before it is deleted. Unaware of tasks and receipts.

#[cfg(test)]
mod donor_tests;
mod error;
mod fresh;
#[cfg(test)]
mod jail_tests;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use rustix::io::Errno;

pub use self::error::CheckoutError;
pub use self::fresh::{Fresh, checkout_fresh};
use crate::Store;
use crate::beneath::{self, LIST, SEARCH};
pub use crate::donor::Donor;
use crate::donor::Giving;
use crate::ingest::{IngestOptions, Links, ingest_at};
use crate::materialise::{Maker, Plan, plan, within};
use crate::stamp::Stamp;
use crate::stat_index::{Known, StatIndex};
use crate::swap::{Place, temp_name};
use crate::tree::Entry;

/// What the names begin with under which things are made, and old ones put aside: seen only after a kill.
pub const TEMP_PREFIX: &str = ".quipu-tmp-";

/// What may be expanded.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most files, links and directories.
    pub max_files: u64,
    /// Most bytes, all files together.
    pub max_bytes: u64,
    /// Which symbolic links a directory may have.
    pub links: Links,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_files: 1 << 20, max_bytes: 1 << 40, links: Links::Inside }
    }
}

/// What quipu put at and below a path, by path.
pub type Ours = FxHashMap<String, Known>;

/// What becomes of something that stands where an entry is to go.
#[derive(Debug, Clone, Default)]
pub enum InTheWay {
    /// It is deleted. For directories in which there is nothing of a person's.
    #[default]
    Replace,
    /// What is not as quipu put it there (see [`StatIndex::ours`]) is first kept in the store.
    Keep(Ours),
}

/// How a checkout is done.
#[derive(Debug, Clone, Default)]
pub struct CheckoutOptions {
    /// What may be expanded.
    pub limits: Limits,
    /// What becomes of what stands in the way.
    pub in_the_way: InTheWay,
    /// Whose files are moved there, as far as they can be.
    pub donor: Option<Arc<Donor>>,
}

/// What a checkout did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// Every file and link that was put there, by path from the root, and how it looked then.
    pub files: Vec<(String, Entry, Stamp)>,
    /// Whether the stamps can be relied on at once: any later change is sure to show in them.
    pub settled: bool,
    /// What stood in the way and was not quipu's, by path, now in the store: the caller's to tell and to hold on to.
    pub kept: Vec<(String, Entry)>,
    /// Paths under which something old was left because it could not be deleted.
    pub left_behind: Vec<String>,
}

/// Puts `entry` at `rel` below `root`, in place of whatever is there.
pub fn checkout(store: &Store, entry: &Entry, root: &Path, rel: &str) -> Result<Placed, CheckoutError> {
    checkout_with(store, entry, root, rel, &CheckoutOptions::default())
}

/// Puts `entry` at `rel` below `root`.
///
/// No symbolic link below `root` is followed; what is made shares nothing with the store that a write to it could change.
pub fn checkout_with(
    store: &Store,
    entry: &Entry,
    root: &Path,
    rel: &str,
    options: &CheckoutOptions,
) -> Result<Placed, CheckoutError> {
    if !beneath::is_plain(rel) {
        return Err(CheckoutError::Path { path: rel.to_owned() });
    }
    let plan = match entry {
        Entry::Dir { tree } => Some(plan(store, *tree, rel, &options.limits)?),
        Entry::File { size, .. } => within(&options.limits, rel, 1, *size).map(|()| None)?,
        Entry::Symlink { .. } => within(&options.limits, rel, 1, 0).map(|()| None)?,
    };
    let (dir, name) = beneath::split(rel);
    let fd = beneath::open_root(root).map_err(|error| CheckoutError::io(&root.to_string_lossy(), error))?;
    let parent = beneath::make_dirs(fd.as_fd(), dir).map_err(|error| way(rel, error))?;
    let giving = options.donor.as_ref().and_then(|donor| Giving::into(donor, parent.as_fd()));
    let maker = Maker::new(store, giving);
    // What is moved to where nothing is needs no other name first.
    if let Some(made) = maker.straight(parent.as_fd(), name, rel, entry) {
        return Ok(Placed { files: made.files, settled: made.settled, ..Placed::default() });
    }
    store.placing(&std::path::absolute(root).unwrap_or_else(|_| root.to_owned()).join(dir));
    let temp = temp_name(parent.as_fd()).map_err(|error| CheckoutError::io(rel, error))?;
    let place = Place { store, root, rel, dir, name, parent: parent.as_fd(), options };
    let single = plan.is_none();
    let made = match plan {
        Some(plan) => maker.directory(place.parent, &temp, rel, plan),
        None => maker.leaf(place.parent, &temp, rel, entry),
    };
    let done = made.and_then(|made| place.swap_in(&temp, made, single));
    let left = match &done {
        Ok(placed) => !placed.left_behind.is_empty(),
        // It may be a person's.
        Err(CheckoutError::LeftAside { .. }) => true,
        // Whether it can be deleted or not, the first error is the one to tell.
        Err(_) => place.remove(&temp).is_err(),
    };
    if left {
        store.unplaced();
    }
    done
}

/// Why the directory that something was to be put in could not be had.
fn way(rel: &str, error: Errno) -> CheckoutError {
    match error {
        Errno::LOOP | Errno::NOTDIR => CheckoutError::Way { path: rel.to_owned() },
        error => CheckoutError::io(rel, error),
    }
}

/// Deletes what checkouts that were killed, or could not clean up, left under names of the moment. Its content is kept in the store
/// first: it may be what stood in the way. Says under which paths there was something that the store did not have.
pub fn tidy(store: &Store) -> Vec<(String, Entry)> {
    let mut kept = Vec::new();
    store.abandoned(&mut |pid, dir| {
        let Ok(fd) = beneath::open_root(dir).and_then(|fd| beneath::open_dir(&fd, "", LIST)) else { return true };
        let (prefix, mut names) = (format!("{TEMP_PREFIX}{pid}-"), Vec::new());
        let listed = beneath::for_each_name::<Errno>(&fd, |name| {
            names.extend(name.to_str().ok().filter(|name| name.starts_with(&prefix)).map(str::to_owned));
            Ok(())
        });
        let options = IngestOptions { links: Links::Any, ..IngestOptions::default() };
        listed.is_ok()
            && names.iter().all(|name| {
                let before = store.counters().puts;
                let Ok(Some(found)) = ingest_at(store, dir, name, &options) else { return false };
                if store.flush().is_err() {
                    return false;
                }
                if store.counters().puts != before {
                    kept.push((dir.join(name).to_string_lossy().into_owned(), found.entry));
                }
                let name = CString::new(name.as_str()).expect("names of files have no NUL");
                beneath::remove_all(fd.as_fd(), &name, 0).is_ok()
            })
    });
    kept
}

/// Whether `rel` holds exactly `entry`, by the index where it can be relied on and by reading where not: every file as it
/// should be, and for a directory nothing beside them. Whoever put it there.
pub fn is_placed(index: &mut StatIndex, entry: &Entry, rel: &str) -> bool {
    let dir_is_real =
        |index: &StatIndex, dir: &str, flags| index.root_fd().and_then(|fd| beneath::open_dir(fd, dir, flags)).ok();
    if !beneath::is_plain(rel) || dir_is_real(index, beneath::split(rel).0, SEARCH).is_none() {
        return false;
    }
    let Entry::Dir { tree } = entry else { return index.all_hold(&[(rel, entry)]) };
    // Nothing is expanded for a directory that is not there.
    if dir_is_real(index, rel, LIST).is_none() {
        return false;
    }
    let limits = Limits { max_bytes: u64::MAX, links: Links::Any, ..Limits::default() };
    let Ok(plan) = plan(index.store(), *tree, rel, &limits) else {
        return false;
    };
    for (dir, count) in plan.dirs.iter().zip(&plan.counts) {
        let Some(fd) = dir_is_real(index, &beneath::join(rel, dir), LIST) else { return false };
        let mut left = *count;
        let listed = beneath::for_each_name::<Errno>(&fd, |_| {
            left = left.checked_sub(1).ok_or(Errno::TOOBIG)?;
            Ok(())
        });
        // Fewer are found missing below.
        if listed.is_err() {
            return false;
        }
    }
    hold_leaves(index, &plan)
}

/// Whether every file of `entry` is at its place at `rel`, whatever else is beside them.
pub fn holds(index: &mut StatIndex, entry: &Entry, rel: &str) -> bool {
    let Entry::Dir { tree } = entry else { return is_placed(index, entry, rel) };
    let limits = Limits { max_bytes: u64::MAX, links: Links::Any, ..Limits::default() };
    beneath::is_plain(rel) && plan(index.store(), *tree, rel, &limits).is_ok_and(|plan| hold_leaves(index, &plan))
}

fn hold_leaves(index: &mut StatIndex, plan: &Plan) -> bool {
    let wanted: Vec<_> = plan.leaves.iter().map(|leaf| (leaf.path.as_str(), &leaf.entry)).collect();
    index.all_hold(&wanted)
}
