//! Locks between processes: whole-file locks that end with the process that took them.
//!
//! `flock` belongs to the open file description: two handles of one process exclude each other like two
//! processes do, and a killed process leaves nothing locked. Unaware of what is protected.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::layout::Layout;
use crate::terms::Held;

/// A lock file made for one purpose and deleted when it is given up.
#[derive(Debug)]
pub(crate) struct Owned {
    file: File,
    path: PathBuf,
}

impl Held for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // Deleted while still locked: who opened it meanwhile finds, once it gets the lock, that the name is
        // gone or another file, and tries again.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Owned {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives up the lock; the file stays.
    pub(super) fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

/// Makes and locks the file; `None` while somebody else has it.
pub(crate) fn try_own(path: &Path) -> io::Result<Option<Owned>> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e),
            Ok(()) if is_at(&file, path) => return Ok(Some(Owned { file, path: path.to_owned() })),
            Ok(()) => {}
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether this process was started by that one, or by one that was, and so on.
pub(crate) fn is_ancestor(pid: u32) -> bool {
    let parent_of = |of: u32| {
        let stat = fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
        // The name before it may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let mut at = std::process::id();
    // Numbers are used again: a circle of them has an end.
    for _ in 0..256 {
        match parent_of(at) {
            Some(parent) if parent == pid => return true,
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

/// A lock file that stays, held until dropped.
#[derive(Debug)]
pub(crate) struct Lasting(File);

/// Waits until nobody holds it exclusively.
pub(crate) fn share(path: &Path) -> io::Result<Lasting> {
    let file = open(path)?;
    file.lock_shared()?;
    Ok(Lasting(file))
}

/// `None` while somebody holds it exclusively.
pub(crate) fn try_share(path: &Path) -> io::Result<Option<Lasting>> {
    let file = open(path)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Lasting(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Waits until nobody holds it.
pub(crate) fn exclude(path: &Path) -> io::Result<Lasting> {
    let file = open(path)?;
    file.lock()?;
    Ok(Lasting(file))
}

/// Waits so long until nobody holds it.
pub(crate) fn exclude_within(path: &Path, wait: Duration) -> io::Result<Option<Lasting>> {
    let file = open(path)?;
    let end = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Lasting(file))),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Keeps collections away, and says in a file name whose process does so.
#[derive(Debug)]
pub(crate) struct Holding {
    _shared: Lasting,
    _name: Option<Owned>,
}

impl Held for Holding {}

impl Holding {
    /// `NotFound` where the store goes or was removed meanwhile.
    pub(crate) fn take(layout: &Layout) -> io::Result<Self> {
        let shared = share(&layout.gc_lock())?;
        if !is_at(&shared.0, &layout.gc_lock()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let pid = std::process::id();
        let mut name = None;
        for n in 0..64 {
            name = try_own(&layout.locks().join(format!("held-{pid}-{n}")))?;
            if name.is_some() {
                break;
            }
        }
        Ok(Self { _shared: shared, _name: name })
    }
}

/// Processes that keep collections away, as far as they left a name.
pub(crate) fn holders(layout: &Layout) -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir(layout.locks()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.strip_prefix("held-")?.split('-').next()?.parse().ok()) else {
            continue;
        };
        // Locked means alive; the lock is given back at once and the leftover deleted with it.
        if matches!(try_own(&entry.path()), Ok(None)) && !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

/// Deletes lock files whose owners are gone.
pub(crate) fn sweep(layout: &Layout) -> u64 {
    let mut deleted = 0;
    for entry in fs::read_dir(layout.locks()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with("held-"));
        if ours && let Ok(Some(owned)) = try_own(&entry.path()) {
            drop(owned);
            deleted += 1;
        }
    }
    deleted
}

/// A process's directory of scratch directories, deleted with it.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    made: u64,
    _lock: Owned,
}

impl Scratch {
    /// Takes a directory of its own, and deletes those whose owners are gone.
    pub(crate) fn take(layout: &Layout) -> io::Result<Self> {
        sweep_scratch(layout);
        let pid = std::process::id();
        for n in 0_u64.. {
            let dir = layout.scratch().join(format!("{pid}-{n}"));
            let Some(lock) = try_own(&dir.with_extension("lock"))? else { continue };
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Self { dir, made: 0, _lock: lock }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        unreachable!("there are more numbers than directories")
    }

    pub(crate) fn fresh(&mut self) -> io::Result<PathBuf> {
        self.made += 1;
        let dir = self.dir.join(self.made.to_string());
        fs::create_dir(&dir)?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove_tree(&self.dir);
    }
}

/// Whether a living process has a directory of scratch directories.
pub(crate) fn has_scratch(layout: &Layout) -> bool {
    sweep_scratch(layout);
    let mut entries = fs::read_dir(layout.scratch()).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
}

/// Deletes scratch directories whose owners are gone. Cheap: there is one for each living process.
pub(crate) fn sweep_scratch(layout: &Layout) -> u64 {
    let mut deleted = 0;
    for entry in fs::read_dir(layout.scratch()).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some() || !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if let Ok(Some(_lock)) = try_own(&path.with_extension("lock")) {
            deleted += u64::from(remove_tree(&path).is_ok());
        }
    }
    deleted
}

/// Deletes a directory with all in it, directories that forbid it included.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            unlock_tree(dir);
            fs::remove_dir_all(dir)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn unlock_tree(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            unlock_tree(&entry.path());
        }
    }
}
