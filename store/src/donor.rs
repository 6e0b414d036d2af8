//! Files that are moved to where they are to stand, and not written there once more: what of them must hold for that.
//!
//! Unaware of who made them, and of what stands where they go. What does not hold is no error: then a file is written.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustc_hash::FxHashMap;
use rustix::fs::{IFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::beneath::{self, LIST, READ, SEARCH};
use crate::ingest::Ingested;
use crate::stamp::Stamp;
use crate::tree::Entry;

/// Room that a file has beyond its size is more than file systems allot by themselves.
const SLACK_BYTES: u64 = 64 << 10;

/// A directory whose files may be moved to the same paths elsewhere, each once, when it is as it was taken into the store.
///
/// Who makes one vouches that nobody can write to its files any more: whoever could is gone, with all descriptors there were.
#[derive(Debug, Clone)]
pub struct Donor {
    root: PathBuf,
    files: FxHashMap<String, (Entry, Stamp)>,
}

impl Donor {
    /// Of what was taken from `root`.
    pub fn new(root: &Path, taken: impl IntoIterator<Item = Ingested>) -> Self {
        let files = taken.into_iter().flat_map(|taken| taken.files);
        let files = files.filter(|(_, entry, _)| matches!(entry, Entry::File { .. }));
        Self { root: root.to_owned(), files: files.map(|(path, entry, stamp)| (path, (entry, stamp))).collect() }
    }

    /// How many files it has.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// A donor whose files may go into one directory, and what is made there.
pub(crate) struct Giving<'d> {
    root: OwnedFd,
    files: &'d FxHashMap<String, (Entry, Stamp)>,
    owner: (u32, u32),
    umask: u32,
}

impl<'d> Giving<'d> {
    /// Nothing when what is made in `to` is not as what is moved there: it has a group or rights of its own for it.
    pub(crate) fn into(donor: &'d Donor, to: BorrowedFd<'_>) -> Option<Self> {
        if donor.files.is_empty() || !is_plain_directory(to) {
            return None;
        }
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let root = beneath::open_root(&donor.root).ok()?;
        Some(Self { root, files: &donor.files, owner, umask: umask()? })
    }

    /// Moves the file that is to stand at `path` to `name` in `dir`, where nothing may be, once `date` has given it a time:
    /// how it looks then. Nothing when it must be written.
    pub(crate) fn give(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        path: &str,
        entry: &Entry,
        date: impl FnOnce(&OwnedFd) -> Result<(), Errno>,
    ) -> Option<Stamp> {
        let (Entry::File { exec, .. }, (had, stamp)) = (entry, self.files.get(path)?) else { return None };
        let (from, from_name) = beneath::split(path);
        let from = beneath::open_dir(&self.root, from, SEARCH).ok()?;
        let file = rustix::fs::openat(&from, from_name, READ, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if had != entry || Stamp::of(&stat) != *stamp || !self.is_plain_file(&stat) || has_more(&file) {
            return None;
        }
        let mode = Mode::from_raw_mode(if *exec { 0o755 } else { 0o644 } & !self.umask);
        if Mode::from_raw_mode(stat.st_mode & 0o7777) != mode {
            rustix::fs::fchmod(&file, mode).ok()?;
        }
        date(&file).ok()?;
        // Another file system refuses it.
        rustix::fs::renameat_with(&from, from_name, dir, name, RenameFlags::NOREPLACE).ok()?;
        rustix::fs::fstat(&file).ok().map(|stat| Stamp::of(&stat))
    }

    /// Whether it has this one name, its owner as what we make, no rights that go beyond, and no more room than it needs.
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "not unnecessary everywhere")]
    fn is_plain_file(&self, stat: &Stat) -> bool {
        stat.st_nlink as u64 == 1
            && (stat.st_uid, stat.st_gid) == self.owner
            && stat.st_mode & 0o7000 == 0
            && (stat.st_blocks as u64).saturating_mul(512) <= (stat.st_size as u64).saturating_add(SLACK_BYTES)
    }
}

/// Whether something has extended attributes (lists of rights and capabilities among them), or flags that somebody set.
fn has_more(file: impl AsFd) -> bool {
    !attributes(&file).is_empty() || flags(&file) != 0
}

/// The names of something's extended attributes, each with a NUL behind it. What cannot be asked about has none.
pub(crate) fn attributes(file: impl AsFd) -> Vec<u8> {
    let mut names = [0; 1024];
    match rustix::fs::flistxattr(file, &mut names) {
        Ok(len) => names[..len].to_vec(),
        Err(Errno::RANGE) => b"many\0".to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Its flags, but for those that say how it is kept.
pub(crate) fn flags(file: impl AsFd) -> u32 {
    let silent = IFlags::from_bits_retain(EXTENTS | INLINE_DATA | HUGE_FILE | INDEX);
    rustix::fs::ioctl_getflags(file).map_or(0, |flags| (flags - silent).bits())
}

/// How a file system keeps something, which nobody chooses.
const EXTENTS: u32 = 0x0008_0000;
const INLINE_DATA: u32 = 0x1000_0000;
const HUGE_FILE: u32 = 0x0004_0000;
const INDEX: u32 = 0x0000_1000;

/// Whether what is made in a directory takes nothing from it: neither group nor lists of rights nor flags.
fn is_plain_directory(dir: BorrowedFd<'_>) -> bool {
    let Ok(dir) = rustix::fs::openat(dir, ".", LIST | OFlags::NOFOLLOW, Mode::empty()) else { return false };
    rustix::fs::fstat(&dir).is_ok_and(|stat| stat.st_mode & 0o2000 == 0) && !has_more(&dir)
}

/// What is taken from the modes of files that this process makes.
fn umask() -> Option<u32> {
    static UMASK: OnceLock<Option<u32>> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    })
}
