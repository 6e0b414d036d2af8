//! Whether files still look as they did: what is asked of a task's sources when it has run.
//!
//! Knows stamps, directories and threads; unaware of tasks and of what is in the files.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::beneath::{self, SEARCH};
use crate::parallel;
use crate::stamp::Stamp;

/// Looking at fewer files takes less time than starting a thread saves.
const MANY: usize = 2000;
/// Files that one thread looks at in a row.
const RUN: usize = 256;

/// A directory whose files are looked at a second time. Cheap to clone, and in nobody's way: it shares nothing but a
/// descriptor with the index it is of.
#[derive(Debug, Clone)]
pub struct SecondLook(pub(crate) Result<Arc<OwnedFd>, Errno>);

/// Where a thread looks.
#[derive(Default)]
struct Here<'s> {
    dir: &'s str,
    fd: Option<OwnedFd>,
    /// A name, on its way to the kernel.
    name: Vec<u8>,
}

impl SecondLook {
    /// The directory, open.
    pub fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.0.as_ref().map(AsFd::as_fd).map_err(|error| *error)
    }

    /// The paths of `seen` that do not look now as they did then, those that are gone included, in the order of `seen`.
    ///
    /// It is quickest when `seen` is sorted, so that the files of a directory follow one another.
    pub fn changed<P: AsRef<str> + Sync>(&self, seen: &[(P, Stamp)]) -> Vec<String> {
        let Ok(root) = &self.0 else { return seen.iter().map(|(path, _)| path.as_ref().to_owned()).collect() };
        let runs: Vec<_> = seen.chunks(RUN).collect();
        let threads = if seen.len() > MANY { parallel::cores() } else { 1 };
        let changed = parallel::map(threads, 1, &runs, Here::default, |here, &run| {
            let mut changed = Vec::new();
            for (at, (path, stamp)) in run.iter().enumerate() {
                let ahead = run.get(at + 2).map(|(path, _)| path.as_ref());
                if here.look(root.as_fd(), path.as_ref(), ahead) != Ok(Some(*stamp)) {
                    changed.push(path.as_ref().to_owned());
                }
            }
            changed
        });
        changed.concat()
    }
}

impl<'s> Here<'s> {
    /// Looks at `path`; `ahead` is the path after the next one.
    ///
    /// Links on the way to a path are followed: these are a person's own files, read with that person's rights.
    fn look(&mut self, root: BorrowedFd<'_>, path: &'s str, ahead: Option<&str>) -> Result<Option<Stamp>, Errno> {
        let mut name = self.fd.as_ref().and_then(|_| name_in(path, self.dir));
        if name.is_none() {
            (self.dir, self.fd) = (beneath::split(path).0, None);
            // For one or two names it is cheaper to walk the whole path than to open and close the directory.
            let is_many = ahead.is_some_and(|path| name_in(path, self.dir).is_some());
            if is_many && beneath::is_plain(self.dir) {
                self.fd = rustix::fs::openat(root, self.dir, SEARCH, Mode::empty()).ok();
                name = self.fd.as_ref().and_then(|_| name_in(path, self.dir));
            }
        }
        match (&self.fd, name) {
            (Some(fd), Some(name)) if !matches!(name, "" | "." | "..") => {
                self.name.clear();
                self.name.extend_from_slice(name.as_bytes());
                self.name.push(0);
                beneath::lstat(fd, CStr::from_bytes_with_nul(&self.name).map_err(|_| Errno::INVAL)?)
            }
            _ if beneath::is_plain(path) => beneath::lstat(root, path),
            // No file of the directory.
            _ => Err(Errno::INVAL),
        }
    }
}

/// The name of what is right in a directory.
fn name_in<'p>(path: &'p str, dir: &str) -> Option<&'p str> {
    path.strip_prefix(dir)?.strip_prefix('/').filter(|name| !name.contains('/'))
}
