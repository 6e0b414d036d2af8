//! Something new put in the place of something old in one step; the old is looked at before it is deleted.
//!
//! What is not as quipu put it there is kept in the store first. Unaware of how the new was made.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::Store;
use crate::beneath;
use crate::checkout::{CheckoutError, CheckoutOptions, InTheWay, Placed, TEMP_PREFIX};
use crate::ingest::{IngestOptions, Links, ingest_at, list};
use crate::materialise::Made;
use crate::stamp::Stamp;
use crate::tree::Entry;

/// Names that nothing has but by chance.
pub(crate) fn temp_names() -> impl Iterator<Item = String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let pid = std::process::id();
    (0..1000).map(move |_| format!("{TEMP_PREFIX}{pid}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// The stamp of what was made and renamed: that changes its change time. If anything else is different, somebody was at it
/// already.
pub(crate) fn renamed(made: Stamp, now: Option<Stamp>) -> Option<Stamp> {
    now.filter(|now| (Stamp { ctime_ns: made.ctime_ns, ..*now }) == made)
}

/// A name that nothing in `parent` has.
pub(crate) fn temp_name(parent: BorrowedFd<'_>) -> Result<String, Errno> {
    for name in temp_names() {
        if beneath::lstat(parent, &*name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Errno::EXIST)
}

/// Where an entry goes.
pub(crate) struct Place<'a> {
    pub(crate) store: &'a Store,
    pub(crate) root: &'a Path,
    pub(crate) rel: &'a str,
    pub(crate) dir: &'a str,
    pub(crate) name: &'a str,
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) options: &'a CheckoutOptions,
}

/// Where what was in the way is now.
enum Aside {
    /// Nothing was there.
    Nothing,
    /// Under the name that the new one had.
    Exchanged,
    /// Under a name of its own.
    Renamed(String),
}

impl Place<'_> {
    fn io(&self, error: Errno) -> CheckoutError {
        CheckoutError::io(self.rel, error)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Errno> {
        beneath::remove_all(self.parent, &CString::new(name).map_err(|_| Errno::INVAL)?, 0)
    }

    /// Puts what is under `temp` in its place and deals with what was there. On an error all is as it was, but for `temp`.
    pub(crate) fn swap_in(&self, temp: &str, made: Made, single: bool) -> Result<Placed, CheckoutError> {
        let look = || beneath::lstat(self.parent, self.name).map_err(|error| self.io(error));
        let keep = matches!(self.options.in_the_way, InTheWay::Keep(_));
        let before = if keep { look()? } else { None };
        let aside = self.exchange(temp).map_err(|error| self.io(error))?;
        let mut placed = Placed { files: made.files, settled: made.settled, ..Placed::default() };
        let old = match &aside {
            Aside::Nothing => None,
            Aside::Exchanged => Some(temp),
            Aside::Renamed(name) => Some(name.as_str()),
        };
        if let Some(old) = old {
            match self.keep_foreign(old, before, &placed) {
                Ok(kept) => placed.kept = kept,
                Err(error) => {
                    return Err(match self.put_back(temp, &aside) {
                        Ok(()) => error,
                        Err(_) => CheckoutError::LeftAside {
                            path: self.rel.to_owned(),
                            aside: beneath::join(self.dir, old),
                            source: Box::new(error),
                        },
                    });
                }
            }
            if self.remove(old).is_err() {
                placed.left_behind.push(beneath::join(self.dir, old));
            }
        }
        if single && let Some((_, _, stamp)) = placed.files.first_mut() {
            match renamed(*stamp, look()?) {
                Some(now) => *stamp = now,
                None => placed.files.clear(),
            }
        }
        Ok(placed)
    }

    fn exchange(&self, temp: &str) -> Result<Aside, Errno> {
        let rename = |flags| rustix::fs::renameat_with(self.parent, temp, self.parent, self.name, flags);
        for _ in 0..100 {
            match rename(RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(Aside::Nothing),
                Err(Errno::EXIST) => {}
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return self.exchange_plainly(temp),
                Err(error) => return Err(error),
            }
            match rename(RenameFlags::EXCHANGE) {
                Ok(()) => return Ok(Aside::Exchanged),
                // It is gone again.
                Err(Errno::NOENT) => {}
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return self.exchange_plainly(temp),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY)
    }

    /// For file systems that cannot exchange two names: for a moment nothing is there.
    fn exchange_plainly(&self, temp: &str) -> Result<Aside, Errno> {
        let aside = temp_name(self.parent)?;
        let rename = |from: &str, to: &str| rustix::fs::renameat(self.parent, from, self.parent, to);
        match rename(self.name, &aside) {
            Err(Errno::NOENT) => rename(temp, self.name).map(|()| Aside::Nothing),
            Err(error) => Err(error),
            Ok(()) => match rename(temp, self.name) {
                Ok(()) => Ok(Aside::Renamed(aside)),
                Err(error) => {
                    rename(&aside, self.name)?;
                    Err(error)
                }
            },
        }
    }

    fn put_back(&self, temp: &str, aside: &Aside) -> Result<(), Errno> {
        let rename = |from: &str, to: &str| rustix::fs::renameat(self.parent, from, self.parent, to);
        match aside {
            Aside::Nothing => Ok(()),
            Aside::Exchanged => {
                rustix::fs::renameat_with(self.parent, temp, self.parent, self.name, RenameFlags::EXCHANGE)
            }
            Aside::Renamed(old) => {
                rename(self.name, temp)?;
                rename(old, self.name)
            }
        }
    }

    /// Keeps in the store what is under `old` and is not as quipu put it there, durably, and says what.
    fn keep_foreign(
        &self,
        old: &str,
        before: Option<Stamp>,
        placed: &Placed,
    ) -> Result<Vec<(String, Entry)>, CheckoutError> {
        let InTheWay::Keep(ours) = &self.options.in_the_way else { return Ok(Vec::new()) };
        let refused = |source| CheckoutError::InTheWay { path: self.rel.to_owned(), source: Box::new(source) };
        let options = IngestOptions { links: Links::Any, ..IngestOptions::default() };
        let old_path = beneath::join(self.dir, old);
        let Some(listing) = list(self.parent, old, &options).map_err(refused)? else { return Ok(Vec::new()) };
        let links = listing.links.iter().map(|(path, _, stamp)| (path, stamp));
        let mut foreign = Vec::new();
        for (path, stamp) in listing.files.iter().map(|file| (&file.path, &file.stamp)).chain(links) {
            let below = path[old.len()..].trim_start_matches('/');
            let at = beneath::join(self.rel, below);
            let mut stamp = *stamp;
            // A file that was renamed has a new change time; the old one is that of before.
            if below.is_empty()
                && let Some(before) = before
            {
                stamp.ctime_ns = before.ctime_ns;
            }
            if !ours.get(&at).is_some_and(|known| known.placed && known.trusted && known.stamp == stamp) {
                foreign.push((below, at));
            }
        }
        if foreign.is_empty() {
            return Ok(Vec::new());
        }
        let new: FxHashMap<&str, &Entry> = placed.files.iter().map(|(path, entry, _)| (path.as_str(), entry)).collect();
        let mut kept = Vec::new();
        for (below, at) in foreign {
            let found =
                ingest_at(self.store, self.root, &beneath::join(&old_path, below), &options).map_err(refused)?;
            let Some(found) = found else { continue };
            // Only its times differ from what quipu put there, or it is what is put there now: nothing is lost.
            let known = ours.get(&at).map(|known| &known.entry);
            if known != Some(&found.entry) && new.get(at.as_str()) != Some(&&found.entry) {
                kept.push((at, found.entry));
            }
        }
        if !kept.is_empty() {
            self.store.flush().map_err(|source| CheckoutError::NotKept { path: self.rel.to_owned(), source })?;
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::test_dirs::memory;

    #[test]
    fn file_systems_that_cannot_exchange_names_are_served_too() {
        let (store, root) = (memory(), tempfile::tempdir().expect("temporary directory"));
        let fd = beneath::open_root(root.path()).expect("opens");
        let options = CheckoutOptions::default();
        let place = Place {
            store: &store,
            root: root.path(),
            rel: "x",
            dir: "",
            name: "x",
            parent: fd.as_fd(),
            options: &options,
        };
        std::fs::write(root.path().join("new"), "new").expect("written");
        let aside = place.exchange_plainly("new").expect("renamed");
        assert!(matches!(aside, Aside::Nothing));
        std::fs::write(root.path().join("newer"), "newer").expect("written");
        let aside = place.exchange_plainly("newer").expect("renamed");
        assert_eq!(std::fs::read(root.path().join("x")).expect("read"), b"newer");
        place.put_back("newer", &aside).expect("renamed");
        let read = |name: &str| std::fs::read_to_string(root.path().join(name)).expect("read");
        assert_eq!((read("x"), read("newer")), ("new".to_owned(), "newer".to_owned()));
    }
}
