//! Name spaces: stores of their own below a store, which read it if they may and are never read by it.
//!
//! Knows their names, where they are, when they were last used and how one goes; unaware of what is in them.
//! `docs/design/spaces.md` has the reasons.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::counters::Counting;
use crate::error::{CommitError, GcError, OpenError, StoreError};
use crate::layered::Layered;
use crate::local::{Layout, Local, locks, version};
use crate::store::Store;
use crate::terms::Options;

/// What the store itself is called among its name spaces.
pub const DEFAULT: &str = "default";

/// Most characters of a name.
const MAX_NAME: usize = 64;
/// How finely it is known when a name space was last read.
const DAY: Duration = Duration::from_secs(86_400);
/// Begins the name of what is being removed; no name space has such a name.
const REMOVED: &str = ".removed-";

/// The name of a name space: a plain name in every file system, and never `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceName(Box<str>);

/// Why a text is no name of a name space.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceNameError {
    /// Other characters, or too many.
    #[error(
        "a name space is named by up to {MAX_NAME} of `a` to `z`, `0` to `9`, `-`, `_` and `.`, the first a letter or digit"
    )]
    Form,
    /// It is the store itself.
    #[error("`{DEFAULT}` is the store itself, and no name space of it")]
    Default,
}

impl FromStr for SpaceName {
    type Err = SpaceNameError;

    fn from_str(text: &str) -> Result<Self, SpaceNameError> {
        // Capitals would name one space on some file systems and two on others.
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = text.len() <= MAX_NAME
            && text.bytes().next().is_some_and(plain)
            && text.bytes().all(|c| plain(c) || matches!(c, b'-' | b'_' | b'.'));
        match text {
            DEFAULT => Err(SpaceNameError::Default),
            _ if fits => Ok(Self(text.into())),
            _ => Err(SpaceNameError::Form),
        }
    }
}

impl SpaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a name space sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// What was made in it, and what the store itself has.
    #[default]
    OwnAndDefault,
    /// What was made in it.
    Own,
}

/// The directory of a name space of the store in `store`.
pub fn dir(store: &Path, name: &SpaceName) -> PathBuf {
    Layout::new(store).spaces().join(name.as_str())
}

/// Opens a name space of the store in `store`: a store of its own, which is all that is written, and behind it, where it
/// is to be read, what the store itself has. Neither has to be there yet.
pub fn open(store: &Path, name: &SpaceName, reads: Reads, options: Options) -> Result<Store, OpenError> {
    let own = dir(store, name);
    // A directory that is no store, or one of the future, is not written into either.
    version::check(&Layout::new(store))?;
    touch(store, name);
    if reads == Reads::Own {
        return Store::open(&own, options);
    }
    let counting = Arc::new(Counting::default());
    let inline_max_bytes = options.inline_max_bytes;
    let behind = Local::open(store, options.clone(), Arc::clone(&counting))?;
    let front = Local::open(&own, options, Arc::clone(&counting))?;
    let layered = Layered::new(Box::new(front), Box::new(behind));
    let opened = Store::over(Box::new(layered), inline_max_bytes, counting);
    opened.note_medium(&own);
    Ok(opened)
}

/// A name space that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Its name.
    pub name: SpaceName,
    /// When it was last used, to a day.
    pub used: SystemTime,
}

/// The name spaces of the store in `store`, by name.
pub fn list(store: &Path) -> io::Result<Vec<Space>> {
    let spaces = Layout::new(store).spaces();
    let listing = match fs::read_dir(&spaces) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other?,
    };
    let mut found = vec![];
    for entry in listing {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if entry.path().is_dir() {
            let used = last_used(&Layout::new(&entry.path()));
            found.push(Space { name, used });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn last_used(layout: &Layout) -> SystemTime {
    let at = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let written = || at(layout.index()).max(at(layout.version())).or_else(|| at(layout.dir().to_owned()));
    at(layout.last_used()).or_else(written).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn set_last_used(layout: &Layout, at: SystemTime) {
    // Where it fails it may go sooner, which costs work and nothing else.
    let _ = fs::File::create(layout.last_used()).and_then(|file| file.set_modified(at));
}

/// Notes that a name space is in use, where that was not known for a day: one that is only read is not written to. Nothing happens to one that is not there, or that may not be written.
pub fn touch(store: &Path, name: &SpaceName) {
    let layout = Layout::new(&dir(store, name));
    let is_stale = || last_used(&layout).elapsed().is_ok_and(|age| age >= DAY);
    if layout.version().is_file() && is_stale() {
        set_last_used(&layout, SystemTime::now());
    }
}

/// Removes a name space with all that was made in it; says whether there was one. Waits up to `wait` for processes that
/// use it, and then leaves it alone.
pub fn remove(store: &Path, name: &SpaceName, wait: Duration) -> Result<bool, GcError> {
    let outer = Layout::new(store);
    let layout = Layout::new(&dir(store, name));
    if fs::symlink_metadata(layout.dir()).is_err() {
        return Ok(false);
    }
    version::check(&layout).map_err(|e| StoreError::Commit(CommitError::Open(Arc::new(e))))?;
    let failed = |path: &Path, e: io::Error| GcError::from(StoreError::io(path, e));
    if layout.locks().is_dir() {
        let lock = layout.gc_lock();
        let alone = locks::exclude_within(&lock, wait).map_err(|e| failed(&lock, e))?;
        if alone.is_none() || locks::has_scratch(&layout) {
            return Err(GcError::Busy { pids: locks::holders(&layout) });
        }
        // Under another name at once: whoever comes now begins a new one.
        move_away(&outer, &layout)?;
    } else {
        move_away(&outer, &layout)?;
    }
    sweep(&outer);
    Ok(true)
}

/// Removes the name spaces that nobody has used for `age`, which is a day at least; gives their names. Those in use stay. A
/// dry run only says which.
pub fn remove_unused(store: &Path, age: Duration, dry_run: bool) -> Result<Vec<SpaceName>, GcError> {
    let spaces = list(store).map_err(|e| StoreError::io(&Layout::new(store).spaces(), e))?;
    let mut removed = vec![];
    for space in spaces {
        if space.used.elapsed().is_ok_and(|unused| unused >= age.max(DAY)) {
            match if dry_run { Ok(true) } else { remove(store, &space.name, Duration::ZERO) } {
                Ok(_) => removed.push(space.name),
                Err(GcError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        } else if !dry_run {
            // A collection in it is not a use.
            let layout = Layout::new(&dir(store, &space.name));
            if !layout.last_used().exists() {
                set_last_used(&layout, space.used);
            }
        }
    }
    Ok(removed)
}

fn move_away(outer: &Layout, layout: &Layout) -> Result<(), GcError> {
    for n in 0_u32.. {
        let to = outer.spaces().join(format!("{REMOVED}{}-{n}", std::process::id()));
        match fs::rename(layout.dir(), &to) {
            Ok(()) => break,
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {}
            // Somebody else removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(StoreError::io(layout.dir(), e).into()),
        }
    }
    Ok(())
}

/// Deletes what is being removed, also by a process that did not come to its end; gives how many there were.
pub(crate) fn sweep(outer: &Layout) -> u64 {
    let mut deleted = 0;
    for entry in fs::read_dir(outer.spaces()).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(REMOVED.as_bytes()) {
            deleted += u64::from(locks::remove_tree(&entry.path()).is_ok());
        }
    }
    deleted
}

/// Where the name spaces of a store are that are there.
pub(crate) fn dirs(outer: &Layout) -> impl Iterator<Item = PathBuf> {
    let named = |path: &Path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<SpaceName>().is_ok());
    let entries = fs::read_dir(outer.spaces()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(move |path| named(path) && path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_nothing_else_is_one() {
        for name in ["a", "pr-17", "0", "feature_x.2", &"x".repeat(MAX_NAME)] {
            assert_eq!(name.parse::<SpaceName>().map(|n| n.to_string()), Ok(name.to_owned()));
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "../x",
            "A",
            "-x",
            "_x",
            ".x",
            "a b",
            "\u{e9}",
            "a\0",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert_eq!(bad.parse::<SpaceName>(), Err(SpaceNameError::Form), "{bad:?}");
        }
        assert_eq!("default".parse::<SpaceName>(), Err(SpaceNameError::Default));
    }
}
