//! A person's working directory, as executors and the driver use it: things are put there and taken from there, and
//! nothing of the person's is lost.
//!
//! Knows files and what quipu put where; unaware of tasks' order and of receipts.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quipu_store::checkout::{
    CheckoutError, CheckoutOptions, InTheWay, Limits, Ours, checkout_fresh, checkout_with, holds, is_placed,
};
use quipu_store::cid::TreeId;
use quipu_store::ingest::{IngestOptions, Links, ingest_at};
use quipu_store::receipt::FailureKind;
use quipu_store::stamp::Stamp;
use quipu_store::stat_index::{SecondLook, Standing, StatIndex};
use quipu_store::tree::{Entry, Name};
use quipu_store::{Store, Take};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::collect::{Artifacts, Declared};
use super::footing::{Footing, Held};
use super::offers::{Offer, Offers};
use super::turns::Turns;
use crate::process::OutputSpec;
use crate::value::Text;

/// How what is in a workspace is reached.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// What was done to have something at a path.
enum Put {
    /// Something was written.
    Written,
    /// Nothing, since it stood there; how it looked, if that was asked.
    Stood(Option<Stamp>),
}

impl Put {
    fn of(is_written: bool) -> Self {
        if is_written { Self::Written } else { Self::Stood(None) }
    }
}

/// A working directory with what is known of its files. Shared by the driver and the executors of a run.
pub struct Workspace {
    root: PathBuf,
    store: Store,
    index: Mutex<StatIndex>,
    again: SecondLook,
    kept: Mutex<Vec<(String, Entry)>>,
    held: Held,
    /// Two who want the same at a path put it there once.
    turns: Turns,
    offers: Offers,
}

impl Workspace {
    /// The working directory at `root`.
    pub fn open(store: &Store, root: &Path) -> Self {
        let index = StatIndex::open(store, root);
        let (root, store, again) = (index.root().to_owned(), store.clone(), index.second_look());
        Self {
            root,
            store,
            index: Mutex::new(index),
            again,
            kept: Mutex::default(),
            held: Held::default(),
            turns: Turns::default(),
            offers: Offers::default(),
        }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store that its files go to and come from.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is known of its files. Held only while something is looked up or noted.
    pub fn index(&self) -> MutexGuard<'_, StatIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `rel` holds `entry`, as quipu put it there.
    pub fn holds(&self, rel: &str, entry: &Entry) -> bool {
        is_placed(&mut self.index(), entry, rel)
    }

    /// Sees to it that `rel` holds `entry`. What stood there and was not quipu's is kept in the store first.
    /// Says whether anything was written for it.
    pub fn place(&self, rel: &str, entry: &Entry) -> Result<bool, CheckoutError> {
        let _turn = self.turns.take([rel]);
        self.place_in_turn(rel, entry)
    }

    /// Takes in what a task made, to be moved to where it is placed when that is soon.
    pub(super) fn offer(&self, offer: Offer) {
        self.offers.add(offer);
    }

    /// Does what [`Workspace::place`] does for many: files go where nothing stands many at a time, all else goes one after the
    /// other. Says of each what came of it.
    pub fn place_all(&self, wanted: &[(&str, &Entry)]) -> Vec<Result<bool, CheckoutError>> {
        let _turn = self.turns.take(wanted.iter().map(|(rel, _)| *rel));
        let put = self.place_all_in_turn(wanted);
        put.into_iter().map(|put| put.map(|put| matches!(put, Put::Written))).collect()
    }

    fn place_all_in_turn(&self, wanted: &[(&str, &Entry)]) -> Vec<Result<Put, CheckoutError>> {
        // What is offered is moved there, which goes one after the other.
        let is_leaf = |(rel, entry): &(&str, &Entry)| !matches!(entry, Entry::Dir { .. }) && !self.offers.has(rel);
        let leaves: Vec<usize> = (0..wanted.len()).filter(|n| is_leaf(&wanted[*n])).collect();
        let of = |which: &[usize]| which.iter().map(|n| wanted[*n]).collect::<Vec<_>>();
        let mut out: Vec<Option<Result<Put, CheckoutError>>> = wanted.iter().map(|_| None).collect();
        let mut fresh = Vec::new();
        let standing = self.index().standing(&of(&leaves));
        for (n, standing) in leaves.iter().zip(standing) {
            match standing {
                Standing::Right(stamp) => out[*n] = Some(Ok(Put::Stood(Some(stamp)))),
                Standing::Nothing => fresh.push(*n),
                Standing::Other => {}
            }
        }
        if !fresh.is_empty() {
            let put = checkout_fresh(&self.store, &self.root, &of(&fresh));
            let mut index = self.index();
            for (n, put) in fresh.into_iter().zip(put) {
                out[n] = put
                    .map(|placed| {
                        placed.map(|placed| {
                            index.note_placed(&placed);
                            Put::of(!placed.files.is_empty())
                        })
                    })
                    .transpose();
            }
        }
        let rest = |(out, (rel, entry)): (Option<_>, &(&str, &Entry))| {
            out.unwrap_or_else(|| self.place_in_turn(rel, entry).map(Put::of))
        };
        out.into_iter().zip(wanted).map(rest).collect()
    }

    fn place_in_turn(&self, rel: &str, entry: &Entry) -> Result<bool, CheckoutError> {
        let offered = self.offers.take(rel);
        let ours = {
            let mut index = self.index();
            // What a running task wrote beside its inputs is not worth pulling them from under it.
            let is_right = if self.held.has(rel) { holds } else { is_placed };
            if is_right(&mut index, entry, rel) {
                return Ok(false);
            }
            index.ours(rel)
        };
        if let Entry::Dir { tree } = entry
            && self.held.has_below(rel)
        {
            return self.place_around(rel, *tree);
        }
        let old: Vec<String> = ours.keys().cloned().collect();
        let donor = offered.as_ref().map(|offer| offer.donor());
        let options = CheckoutOptions { limits: Limits::default(), in_the_way: InTheWay::Keep(ours), donor };
        let placed = checkout_with(&self.store, entry, &self.root, rel, &options)?;
        let mut index = self.index();
        old.iter().for_each(|path| index.forget(path));
        index.note_placed(&placed);
        drop(index);
        self.note_kept(placed.kept);
        Ok(!placed.files.is_empty())
    }

    /// Puts a directory in place piece by piece, since a running task stands on something in it.
    fn place_around(&self, rel: &str, tree: TreeId) -> Result<bool, CheckoutError> {
        let missing = || CheckoutError::Missing { path: rel.to_owned(), link: tree.link() };
        let tree = self.store.tree(tree)?.ok_or_else(missing)?;
        for entry in fs::read_dir(self.root.join(rel)).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{rel}/{name}");
            if tree.get(&name).is_none() && !self.held.has(&path) && !self.held.has_below(&path) {
                let failed = |kind: FailureKind| io::Error::other(kind.to_string());
                self.clear_output(&path).map_err(failed).map_err(|source| CheckoutError::Io { path, source })?;
            }
        }
        let place = |(name, entry): &(Name, Entry)| self.place_in_turn(&format!("{rel}/{name}"), entry);
        tree.entries().iter().try_fold(false, |wrote, entry| Ok(place(entry)? | wrote))
    }

    /// Puts a task's inputs in place, to stay there as long as what is given back lives.
    pub(super) fn place_inputs(&self, inputs: &[(String, Entry)]) -> Result<Footing<'_>, (String, CheckoutError)> {
        let dir = self.dir().map_err(|source| (String::new(), CheckoutError::Io { path: ".".into(), source }))?;
        let mut footing = Footing::new(dir, &self.held);
        let turn = self.turns.take(inputs.iter().map(|(path, _)| &**path));
        let wanted = inputs.iter().map(|(path, entry)| (&**path, entry));
        let (dirs, leaves): (Vec<_>, Vec<_>) = wanted.partition(|(_, entry)| matches!(entry, Entry::Dir { .. }));
        for ((path, _), placed) in leaves.iter().zip(self.place_all_in_turn(&leaves)) {
            let placed = placed.map_err(|error| ((*path).to_owned(), error))?;
            // How it looked when its content was known: whoever changes it from there on is noticed.
            let looked = if let Put::Stood(looked) = placed { looked } else { None };
            footing.hold(path, looked);
        }
        // Each on the footing of those before, which may be in it.
        for (path, entry) in dirs {
            self.place_in_turn(path, entry).map_err(|error| (path.to_owned(), error))?;
            footing.hold(path, None);
        }
        drop(turn);
        footing.settle();
        Ok(footing)
    }

    /// Removes what is at `rel`, a declared output that is about to be made anew. What is not quipu's is kept in the
    /// store first.
    pub fn clear_output(&self, rel: &str) -> Result<(), FailureKind> {
        let failed = |e: io::Error| FailureKind::Spawn { why: format!("output `{rel}` could not be removed: {e}") };
        check_inside(rel).map_err(failed)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Most often nothing is there, which one question tells.
        if let Err(Errno::NOENT) = rustix::fs::openat2(self.dir().map_err(failed)?, rel, flags, Mode::empty(), INSIDE) {
            return Ok(());
        }
        let Some((parent, name)) = self.parent_of(rel).map_err(failed)? else { return Ok(()) };
        // The parent's descriptor stands for its path: no link can lead elsewhere any more.
        let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        let found = match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        let ours = self.index().ours(rel);
        // What has no content cannot be lost.
        if !found.file_type().is_fifo() && !found.file_type().is_socket() && !all_ours(&path, rel, &ours) {
            self.keep(rel)?;
        }
        if found.is_dir() { remove_dir(&path) } else { fs::remove_file(&path) }.map_err(failed)?;
        let mut index = self.index();
        ours.keys().for_each(|path| index.forget(path));
        Ok(())
    }

    /// Removes what is at `rel` for good.
    pub(crate) fn discard(&self, rel: &str) -> Result<(), FailureKind> {
        let failed = |e: io::Error| FailureKind::Executor { why: format!("output `{rel}` could not be removed: {e}") };
        let Some((parent, name)) = self.parent_of(rel).map_err(failed)? else { return Ok(()) };
        let path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        let removed = if is_dir { remove_dir(&path) } else { fs::remove_file(&path) };
        removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(failed(e)) })
    }

    fn keep(&self, rel: &str) -> Result<(), FailureKind> {
        let in_the_way = |e: &dyn std::fmt::Display| FailureKind::BadOutput {
            path: rel.to_owned(),
            why: format!("what is there is not quipu's and cannot be kept: {e}"),
        };
        let options = IngestOptions { take: Take::Copy, links: Links::Any, ..IngestOptions::default() };
        if let Some(found) = ingest_at(&self.store, &self.root, rel, &options).map_err(|e| in_the_way(&e))? {
            self.store.flush().map_err(|e| in_the_way(&e))?;
            self.note_kept([(rel.to_owned(), found.entry)]);
        }
        Ok(())
    }

    fn note_kept(&self, kept: impl IntoIterator<Item = (String, Entry)>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
    }

    /// What was in the way since this was last asked, by the path it had: now in the store, and to be told to its owner.
    pub fn take_kept(&self) -> Vec<(String, Entry)> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The directory itself, open as long as this lives.
    fn dir(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.again.root()?)
    }

    /// The directory that `rel` is in, reached without following a link; `None` when it is not there.
    fn parent_of<'p>(&self, rel: &'p str) -> io::Result<Option<(OwnedFd, &'p str)>> {
        check_inside(rel)?;
        let (parent, name) = rel.rsplit_once('/').unwrap_or((".", rel));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(self.dir()?, parent, flags, Mode::empty(), INSIDE) {
            Ok(parent) => Ok(Some((parent, name))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the directories that outputs are to be written in.
    pub(crate) fn make_parents(&self, declared: &Declared<'_>) -> Result<(), FailureKind> {
        for parent in declared.parents() {
            let dir = self.root.join(&parent);
            // Most often it is there: to look is cheaper than to try.
            let made = if dir.is_dir() { Ok(()) } else { fs::create_dir_all(dir) };
            made.map_err(|e| FailureKind::Spawn { why: format!("directory `{parent}` for outputs: {e}") })?;
        }
        Ok(())
    }

    /// Removes what matches the patterns among the outputs and is as quipu put it there. What else matches stays: it is no
    /// output yet.
    pub(crate) fn clear_matches(
        &self,
        declared: &Declared<'_>,
        is_input: &dyn Fn(&str) -> bool,
    ) -> Result<(), FailureKind> {
        for path in declared.matches(&self.root, is_input)? {
            if self.index().known(&path).is_some_and(|known| known.placed) {
                self.clear_output(&path)?;
            }
        }
        Ok(())
    }

    /// Takes a task's outputs, which it wrote right here, into the store; they stay where they are. What `is_input` matches
    /// no pattern.
    pub(crate) fn collect(
        &self,
        outputs: &[OutputSpec],
        is_input: &dyn Fn(&str) -> bool,
    ) -> Result<Artifacts, FailureKind> {
        let mut all = Vec::new();
        let declared = Declared::new(outputs)?;
        let artifacts =
            declared.collect(&self.store, &self.root, self.dir().ok(), Take::Copy, is_input, &mut |found| {
                all.push(found);
            })?;
        let mut index = self.index();
        for found in &all {
            index.note_ingested(found, true);
        }
        Ok(artifacts)
    }

    /// Notes what a task that failed left at its declared outputs: it stays to be looked at, and is quipu's to remove.
    pub(crate) fn note_leftovers(&self, outputs: &[OutputSpec], is_input: &dyn Fn(&str) -> bool) {
        // One by one, since one that cannot be kept says nothing about the others.
        for output in outputs {
            let _ = self.collect(std::slice::from_ref(output), is_input);
        }
    }

    /// Which of the files `seen` do not look any more as they did then; where all do, which of those that were too young to look
    /// different do not hold any more what they held.
    pub fn sources_changed(&self, seen: &[(Text, Stamp)]) -> Vec<String> {
        let changed = self.again.changed(seen);
        if changed.is_empty() { self.index().changed_when_young(seen) } else { changed }
    }
}

fn check_inside(rel: &str) -> io::Result<()> {
    let is_inside = rel.split('/').all(|part| Name::new(part).is_ok());
    is_inside
        .then_some(())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no path inside of the workspace"))
}

/// Whether everything at `path` is as quipu put it there.
fn all_ours(path: &Path, rel: &str, ours: &Ours) -> bool {
    let Ok(stat) = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return ours.get(rel).is_some_and(|known| known.stamp == Stamp::of(&stat));
    }
    let Ok(listing) = fs::read_dir(path) else { return false };
    listing.into_iter().all(|entry| {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        name.to_str().is_some_and(|name| all_ours(&entry.path(), &format!("{rel}/{name}"), ours))
    })
}

/// Deletes a directory with all in it, what its owner may not write to included.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            unlock(dir);
            fs::remove_dir_all(dir)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn unlock(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        open.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}
