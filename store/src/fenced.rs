//! A directory in which somebody else is at work at the same time: no symbolic link below it is ever followed, however late
//! it was put there.
//!
//! Everything is reached from an open directory. Unaware of who else is at work, and of what the files are for.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::beneath::{self, LIST, SEARCH};
use crate::donor;
use crate::ingest::{IngestOptions, Links, list};
use crate::stamp::{FileKind, Stamp};

/// An open directory that others write to.
#[derive(Debug)]
pub struct Fenced {
    root: OwnedFd,
}

/// How everything at and below a path looked: files and links with their stamps, empty directories without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks(Vec<(String, Option<Stamp>)>);

/// How a new directory looks in which nothing is, times aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bare {
    mode: u32,
    owner: (u32, u32),
    size: i64,
    flags: u32,
    attributes: Vec<u8>,
}

impl Bare {
    fn of(dir: &OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(dir)?;
        let (flags, attributes) = (donor::flags(dir), donor::attributes(dir));
        Ok(Self { mode: stat.st_mode, owner: (stat.st_uid, stat.st_gid), size: stat.st_size, flags, attributes })
    }

    /// Whether `dir` looks the same. Of attributes that their owner may set the names alone do not tell.
    fn is_like(&self, dir: &OwnedFd) -> Result<bool, Errno> {
        let is_labels = self.attributes.split_inclusive(|byte| *byte == 0).all(|name| name.starts_with(b"security."));
        Ok(is_labels && Self::of(dir)? == *self)
    }
}

impl Fenced {
    /// The directory `root`, by a path that is followed as usual.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: beneath::open_root(root)? })
    }

    /// Makes the directory `rel` and those it is in, as far as they are not there.
    pub fn make_dirs(&self, rel: &str) -> io::Result<()> {
        Ok(self.dir(rel).map(drop)?)
    }

    /// Copies the file `from`, which lies elsewhere, to `rel`, where nothing may be.
    pub fn copy_in(&self, from: &Path, rel: &str) -> io::Result<()> {
        let mut from = File::open(from)?;
        let mode = Mode::from_raw_mode(from.metadata()?.permissions().mode() & 0o777);
        let (dir, name) = beneath::split(rel);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut to = File::from(rustix::fs::openat(self.dir(dir)?, name, flags, mode)?);
        io::copy(&mut from, &mut to)?;
        // Whatever is masked when files are made.
        Ok(rustix::fs::fchmod(&to, mode)?)
    }

    /// What is directly in the directory `rel`, and whether it is a directory. A link in the way is an error.
    pub fn list(&self, rel: &str) -> io::Result<Vec<(OsString, bool)>> {
        let dir = beneath::open_dir(&self.root, rel, LIST)?;
        let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 16 << 10];
        let (mut names, mut found) = (RawDir::new(&dir, &mut buffer), Vec::new());
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name();
            let is_dir = match entry.file_type() {
                // Not every file system says.
                FileType::Unknown => beneath::lstat(&dir, name)?.is_some_and(|stamp| stamp.kind == FileKind::Dir),
                kind => kind == FileType::Directory,
            };
            if !matches!(name.to_bytes(), b"." | b"..") {
                found.push((OsString::from_vec(name.to_bytes().to_vec()), is_dir));
            }
        }
        Ok(found)
    }

    /// How all looks at and below `rel`; `None` when nothing is there, or something that cannot be an input.
    pub fn look(&self, rel: &str) -> Option<Looks> {
        let any = IngestOptions { links: Links::Any, ..IngestOptions::default() };
        let found = list(self.root.as_fd(), rel, &any).ok()??;
        let files = found.files.into_iter().map(|file| (file.path, Some(file.stamp)));
        let links = found.links.into_iter().map(|(path, _, stamp)| (path, Some(stamp)));
        let mut all: Vec<_> = files.chain(links).chain(found.empty.into_iter().map(|path| (path, None))).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Some(Looks(all))
    }

    /// Removes everything but what is at and below the paths `keep`, and the directories these are in.
    pub fn clear(&self, keep: &BTreeSet<&str>) -> io::Result<()> {
        Ok(clear(&beneath::open_dir(&self.root, "", LIST)?, "", keep)?)
    }

    /// How the top looks, which is new.
    pub fn bare(&self) -> io::Result<Bare> {
        Ok(Bare::of(&beneath::open_dir(&self.root, "", LIST)?)?)
    }

    /// Removes everything but those of the directories `made` that look like new ones, in which nothing is left but each other. Says which
    /// these are; nothing when the top does not look like a new one.
    pub fn renew(&self, made: &BTreeSet<String>, new: &Bare) -> io::Result<Option<BTreeSet<String>>> {
        let (top, mut kept) = (beneath::open_dir(&self.root, "", LIST)?, BTreeSet::new());
        renew(&top, "", made, new, &mut kept)?;
        Ok(new.is_like(&top)?.then_some(kept))
    }

    fn dir(&self, rel: &str) -> Result<OwnedFd, Errno> {
        match rel {
            "" => beneath::open_dir(&self.root, "", SEARCH),
            rel if beneath::is_plain(rel) => beneath::make_dirs(self.root.as_fd(), rel),
            _ => Err(Errno::INVAL),
        }
    }
}

fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    beneath::for_each_name::<Errno>(dir, |name| {
        names.push(name.to_owned());
        Ok(())
    })?;
    Ok(names)
}

fn renew(
    dir: &OwnedFd,
    rel: &str,
    made: &BTreeSet<String>,
    new: &Bare,
    kept: &mut BTreeSet<String>,
) -> Result<(), Errno> {
    for name in names(dir)? {
        let path = name.to_str().ok().map(|name| beneath::join(rel, name)).filter(|path| made.contains(path));
        if let Some(path) = path
            && let Ok(Some(below)) = open_below(dir.as_fd(), &name)
        {
            let mut kept_below = BTreeSet::new();
            let renewed = renew(&below, &path, made, new, &mut kept_below);
            if renewed.is_ok() && new.is_like(&below)? {
                kept.append(&mut kept_below);
                kept.insert(path);
                continue;
            }
        }
        beneath::remove_all(dir.as_fd(), &name, 0)?;
    }
    Ok(())
}

fn clear(dir: &OwnedFd, rel: &str, keep: &BTreeSet<&str>) -> Result<(), Errno> {
    for name in names(dir)? {
        let path = name.to_str().ok().map(|name| beneath::join(rel, name));
        let below = match &path {
            Some(path) if keep.contains(path.as_str()) => continue,
            Some(path) if has_below(keep, path) => open_below(dir.as_fd(), &name)?,
            _ => None,
        };
        match (below, path) {
            (Some(below), Some(path)) => clear(&below, &path, keep)?,
            _ => beneath::remove_all(dir.as_fd(), &name, 0)?,
        }
    }
    Ok(())
}

/// Opens a directory; `None` when it is something else.
fn open_below(dir: BorrowedFd<'_>, name: &CString) -> Result<Option<OwnedFd>, Errno> {
    match rustix::fs::openat(dir, name, LIST | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn has_below(keep: &BTreeSet<&str>, dir: &str) -> bool {
    let below = format!("{dir}/");
    keep.range(below.as_str()..).next().is_some_and(|path| path.starts_with(&below))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_to_stay_stays_and_looks_as_it_did() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let at = |rel: &str| temp.path().join(rel);
        fs::write(at("from"), "x").expect("written");
        fs::set_permissions(at("from"), fs::Permissions::from_mode(0o751)).expect("set");
        fs::create_dir(at("root")).expect("made");
        let root = Fenced::open(&at("root")).expect("opens");
        for rel in ["a/b/one", "a/b/two", "a/three", "ab/four", "five"] {
            root.copy_in(&at("from"), rel).expect("copied");
        }
        assert_eq!(root.copy_in(&at("from"), "five").map_err(|e| e.kind()), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::metadata(at("root/five")).expect("there").permissions().mode() & 0o777, 0o751);
        root.make_dirs("a/b/c").expect("made");
        let before = root.look("a/b");
        assert!(before.is_some() && root.look("none").is_none());
        root.clear(&["a/b", "five", "gone/x"].into()).expect("cleared");
        let mut left: Vec<_> = root.list("").expect("listed").into_iter().collect();
        left.sort();
        assert_eq!(left, [("a".into(), true), ("five".into(), false)]);
        assert_eq!(root.list("a").expect("listed"), [("b".into(), true)]);
        assert_eq!(root.look("a/b"), before);
        type Change = fn(&Path) -> io::Result<()>;
        let changes: [Change; 3] =
            [|b| fs::write(b.join("new"), ""), |b| fs::write(b.join("one"), "y"), |b| fs::remove_dir(b.join("c"))];
        for change in changes {
            let before = root.look("a/b");
            change(&at("root/a/b")).expect("changed");
            assert_ne!(root.look("a/b"), before);
        }
    }

    #[test]
    fn no_link_that_is_put_there_meanwhile_leads_outside() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let at = |rel: &str| temp.path().join(rel);
        fs::create_dir_all(at("outside/d")).expect("made");
        fs::create_dir(at("root")).expect("made");
        for file in ["from", "outside/keep", "outside/d/keep"] {
            fs::write(at(file), "x").expect("written");
        }
        fs::write(at("from"), "new").expect("written");
        let (root, stop) = (Fenced::open(&at("root")).expect("opens"), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Errors are the other side getting there first.
                while !stop.load(Ordering::Relaxed) {
                    let _ = symlink(at("outside/keep"), at("root/keep"));
                    let _ = fs::rename(at("root/d"), at("root/aside"));
                    let _ = symlink(at("outside"), at("root/d"));
                    std::thread::yield_now();
                    let _ = fs::remove_file(at("root/d"));
                    let _ = fs::rename(at("root/aside"), at("root/d"));
                }
            });
            for _ in 0..200 {
                let _ = root.copy_in(&at("from"), "keep");
                let _ = root.copy_in(&at("from"), "d/keep");
                let _ = root.make_dirs("d/d/e");
                let listed = root.list("d").unwrap_or_default();
                assert!(!listed.iter().any(|(name, is_dir)| name == "keep" && *is_dir));
                let _ = root.clear(&["d/d/none"].into());
                let _ = root.clear(&BTreeSet::new());
            }
            stop.store(true, Ordering::Relaxed);
        });
        root.clear(&BTreeSet::new()).expect("cleared");
        root.copy_in(&at("from"), "d/keep").expect("copied");
        assert_eq!(fs::read_to_string(at("outside/keep")).expect("there"), "x");
        assert_eq!(fs::read_dir(at("outside")).expect("listed").count(), 2);
        assert_eq!(fs::read_dir(at("outside/d")).expect("listed").count(), 1);
    }
}
