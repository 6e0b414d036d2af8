//! Leases: lock files named after invocations, each with the number of the process that holds it.
//!
//! Files go from one name to the next, still locked: a file system takes longer the more files were made and deleted
//! in the seconds before, and a run has a lease for each task. Unaware of what is done under a lease.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::locks::{Owned, try_own_named};
use crate::terms::Held;

/// More than can be out at once: then files are deleted.
const MAX_SPARE: usize = 1024;

/// The lock files of this process that stand for no invocation now.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    spare: Mutex<Vec<Owned>>,
    named: AtomicU64,
}

/// A lock file that stands for an invocation. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    owned: Option<Owned>,
    leases: Arc<Leases>,
}

impl Held for Lent {}

impl Leases {
    /// None yet; spare files are kept in `dir`, beside those that are out.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, spare: Mutex::default(), named: AtomicU64::new(0) }
    }

    /// Takes the lock of this name; where somebody else has it, the number of their process, if it is known.
    pub(crate) fn take(self: &Arc<Self>, path: &Path) -> io::Result<Result<Lent, Option<u32>>> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // Where there is a file of that name, its lock decides.
        let moved = spare.filter(|owned| owned.is_in_place()).and_then(|owned| match moved(owned, path) {
            Ok(owned) => Some(owned),
            Err(spare) => {
                self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(spare);
                None
            }
        });
        let lent = |owned| Lent { owned: Some(owned), leases: Arc::clone(self) };
        match moved {
            Some(owned) => Ok(Ok(lent(owned))),
            None => Ok(try_own_named(path)?.map(lent)),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(owned) = self.owned.take().filter(Owned::is_in_place) else { return };
        if self.leases.spare.lock().unwrap_or_else(PoisonError::into_inner).len() >= MAX_SPARE {
            return;
        }
        let n = self.leases.named.fetch_add(1, Ordering::Relaxed);
        let path = self.leases.dir.join(format!("lease-spare-{}-{n}", std::process::id()));
        // One that cannot be moved is deleted.
        if let Ok(owned) = moved(owned, &path) {
            self.leases.spare.lock().unwrap_or_else(PoisonError::into_inner).push(owned);
        }
    }
}

/// The file under another name, unless there is one of that name.
fn moved(mut owned: Owned, to: &Path) -> Result<Owned, Owned> {
    match renameat_with(CWD, owned.path(), CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {
            owned.set_path(to);
            Ok(owned)
        }
        Err(_) => Err(owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::locks::try_own;

    #[test]
    fn a_lock_file_goes_from_name_to_name_and_is_nobody_elses_meanwhile() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| temp.path().join(name);
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(temp.path()).expect("is listed").flatten().collect();
            names.sort_by_key(std::fs::DirEntry::file_name);
            names.into_iter().map(|e| e.file_name().into_string().expect("is text")).collect::<Vec<_>>()
        };
        let (ours, others) = (Arc::new(Leases::new(at(""))), Arc::new(Leases::new(at(""))));
        let me = Some(std::process::id());
        let first = ours.take(&at("lease-a")).expect("locks").expect("is free");
        assert_eq!(others.take(&at("lease-a")).expect("looks").map(drop), Err(me));
        drop(first);
        let spare = format!("lease-spare-{}-0", std::process::id());
        assert_eq!(names(), [&*spare]);
        assert!(try_own(&at(&spare)).expect("looks").is_none(), "it is kept locked");
        let second = ours.take(&at("lease-b")).expect("locks").expect("is free");
        assert_eq!(names(), ["lease-b"], "the same file");
        assert_eq!(std::fs::read_to_string(at("lease-b")).ok(), me.map(|pid| pid.to_string()));
        assert_eq!(others.take(&at("lease-b")).expect("looks").map(drop), Err(me));
        // Ours is spare, and there is one of that name: left by somebody who was killed, and somebody's.
        drop(second);
        std::fs::write(at("lease-c"), "1").expect("is written");
        let third = ours.take(&at("lease-c")).expect("locks").expect("nobody holds it");
        assert_eq!(ours.take(&at("lease-c")).expect("looks").map(drop), Err(me));
        drop(third);
        let theirs = others.take(&at("lease-d")).expect("locks").expect("is free");
        assert_eq!(ours.take(&at("lease-d")).expect("looks").map(drop), Err(me));
        drop((theirs, ours, others));
        assert_eq!(names(), Vec::<String>::new(), "nothing is left");
    }
}
