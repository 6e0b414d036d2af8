//! Glances: what a run that found nothing to do had looked at, in one file, so that the next run can look at all of it
//! again before it does anything else.
//!
//! Knows paths, stamps and one flat file; unaware of why something was looked at, and of what is in the index. Every
//! doubt reads as "look for yourself": a file that is missing, damaged or another's, a path that looks different, one
//! that was too young to be relied on.

mod parts;
mod sight;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{self, SEARCH};
use crate::flat::Reader;
use crate::local::Layout;
use crate::parallel;
use crate::stamp::{self, FileKind, Stamp};
pub use parts::Parts;
pub use sight::Sight;

/// What makes two runs ask for the same in the same surroundings, hashed.
pub type Key = [u8; 32];

const MAGIC: &[u8; 8] = b"qglance4";
/// The parts of a question, hashed one by one.
#[derive(Debug, Default)]
pub struct Question(blake3::Hasher);

impl Question {
    /// Without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more part; what it is called is its place.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// What stands for the question.
    pub fn key(&self) -> Key {
        *self.0.finalize().as_bytes()
    }
}

/// How the name of a file ends that has what is known of the tasks.
const PARTS: &str = "parts";
/// Magic, digest of what follows, key.
const HEAD_BYTES: usize = 8 + 32 + 32;
/// Largest file that is read back.
const MAX_BYTES: u64 = 1 << 30;
/// Looking at fewer entries takes less time than starting a thread saves.
const MANY: usize = 3000;
/// More threads than this only wait for each other in the kernel.
const MAX_THREADS: usize = 8;
/// The bytes of a stamp: device, inode, size, times, mode.
const LOOKS_BYTES: usize = 5 * 8 + 4;

/// Of an entry: links are followed, only the kind counts, there was something, only which file it is counts.
const FOLLOW: u8 = 1;
const KIND: u8 = 2;
const THERE: u8 = 4;
const IDENTITY: u8 = 8;
/// Of an entry: when it looks different, something is known of what follows.
const OWNED: u8 = 16;
/// Of an entry: it was looked at when it was read, and of its mode only counts what a [`Stamp`] has. Any change of the rest of
/// the mode is a change of the change time.
const STAMP: u8 = 32;
/// Paths that may look different before it is as good as not known how anything looked.
const MAX_CHANGED: usize = 1000;

/// What of a path counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// What is there, be it a link.
    Itself,
    /// What is there behind any links.
    Target,
    /// What is there, be it a link, and that no link leads there. For paths below the workspace.
    Real,
    /// Whether there is a file, a directory or nothing, behind any links.
    Kind,
    /// Which file it is, whatever is in it, behind any links.
    Identity,
}

/// Which commits to the store, by whomever, make a glance void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoidBy {
    /// All.
    AnyCommit,
    /// Those that do more than add: a task that was settled by a receipt is still settled by it after all others.
    Rewriting,
}

/// The clock of files, now: what changes from here on looks younger than this, but for the clock's grain.
pub fn now_ns() -> i64 {
    stamp::now_ns()
}

/// What a run had looked at, looked at again.
#[derive(Debug)]
pub struct Again {
    /// What was to be answered when everything looks as it did then.
    pub answer: Vec<u8>,
    /// What looks different, of what tasks read and made; nothing else does. Relative to the workspace.
    pub changed: Vec<PathBuf>,
    /// The workspace.
    pub workspace: PathBuf,
}

/// Looks again at everything that a run looked at; `None` where nothing is known of it, or what looks different is not what
/// tasks read or made.
pub fn look_again(dir: &Path, key: &Key) -> Option<Again> {
    let layout = Layout::new(dir);
    let bytes = read(&file(&layout, key)).ok()?;
    let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
    let (magic, head) = head.split_at(MAGIC.len());
    let (sum, found_key) = head.split_at(32);
    if magic != MAGIC || found_key != key || digest(key, body).as_bytes() != sum {
        return None;
    }
    let mut reader = Reader(body);
    let answer = reader.bytes()?.to_vec();
    let workspace = PathBuf::from(OsStr::from_bytes(reader.text()?.to_bytes()));
    let base = beneath::open_root(&workspace).ok()?;
    let mut groups = Vec::new();
    while !reader.0.is_empty() {
        groups.push(Group {
            real: reader.number(1)? != 0,
            count: usize::try_from(reader.number(4)?).ok()?,
            dir: reader.text()?.to_bytes(),
            entries: reader.bytes()?,
        });
    }
    let changed = changed(base.as_fd(), &groups)?;
    // Something may have been left in a workspace that the next run tidies up.
    (!crate::local::is_marked(&layout)).then_some(Again { answer, changed, workspace })
}

/// What a run knew of the tasks whose files it looked at: see [`Sight::keep`].
pub fn parts(dir: &Path, key: &Key, digest: &[u8; 32]) -> Option<Parts> {
    Parts::open(&parts_file(&Layout::new(dir), key), digest)
}

struct Group<'b> {
    real: bool,
    count: usize,
    dir: &'b [u8],
    entries: &'b [u8],
}

/// What looks different of what is owned; `None` when anything else does.
fn changed(base: BorrowedFd<'_>, groups: &[Group<'_>]) -> Option<Vec<PathBuf>> {
    let many = groups.iter().map(|group| group.count).sum::<usize>() > MANY;
    let threads = if many { parallel::cores().min(MAX_THREADS).min(groups.len()) } else { 1 };
    let (next, differs) = (AtomicUsize::new(0), AtomicBool::new(false));
    let changed = Mutex::new(Vec::new());
    let work = || {
        while !differs.load(Ordering::Relaxed)
            && let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if group.compare(base, &changed).is_none() {
                differs.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without the thread it takes longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let changed = changed.into_inner().unwrap_or_else(PoisonError::into_inner);
    (!differs.load(Ordering::Relaxed)).then_some(changed)
}

impl Group<'_> {
    fn compare(&self, base: BorrowedFd<'_>, changed: &Mutex<Vec<PathBuf>>) -> Option<()> {
        let at = open(base, self.real, self.dir);
        let mut reader = Reader(self.entries);
        for _ in 0..self.count {
            let flags = *reader.take(1)?.first()?;
            let known = if flags & THERE != 0 { Some(reader.take(LOOKS_BYTES)?) } else { None };
            let name = reader.text()?;
            let found = look(&at, name, flags).ok()?.map(|stat| looks(&stat, flags));
            if found.as_ref().map(|looks| &looks[..]) == known {
                continue;
            }
            let mut changed = changed.lock().unwrap_or_else(PoisonError::into_inner);
            if flags & OWNED == 0 || changed.len() >= MAX_CHANGED {
                return None;
            }
            changed.push([self.dir, name.to_bytes()].map(|part| Path::new(OsStr::from_bytes(part))).iter().collect());
        }
        reader.0.is_empty().then_some(())
    }
}

/// The directory that names are looked up in. Relative ones are below `base`.
fn open(base: BorrowedFd<'_>, real: bool, dir: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if dir.is_empty() { b"." } else { dir };
    if real {
        return beneath::open_dir(base, std::str::from_utf8(path).map_err(|_| Errno::ILSEQ)?, SEARCH);
    }
    rustix::fs::openat(if dir.starts_with(b"/") { CWD } else { base }, path, SEARCH | OFlags::CLOEXEC, Mode::empty())
}

fn look(at: &Result<OwnedFd, Errno>, name: &CStr, flags: u8) -> Result<Option<rustix::fs::Stat>, Errno> {
    let flags = if flags & FOLLOW != 0 { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    match at.as_ref().map_err(|error| *error).and_then(|at| rustix::fs::statat(at, name, flags)) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How something looks, as bytes.
#[allow(clippy::useless_conversion, reason = "not useless on every system")]
fn looks(stat: &rustix::fs::Stat, flags: u8) -> [u8; LOOKS_BYTES] {
    let mode = u32::from(stat.st_mode);
    let stamp = Stamp::of(stat);
    if flags & STAMP != 0 {
        return looks_of(&stamp, mode_of(&stamp), flags);
    }
    if flags & KIND != 0 {
        let mut out = [0; LOOKS_BYTES];
        out[40..].copy_from_slice(&(mode & 0o170_000).to_le_bytes());
        return out;
    }
    looks_of(&stamp, mode, flags)
}

/// What a stamp has of a file's mode.
fn mode_of(stamp: &Stamp) -> u32 {
    stamp.kind as u32 | u32::from(stamp.mode_exec) << 8
}

fn looks_of(stamp: &Stamp, mode: u32, flags: u8) -> [u8; LOOKS_BYTES] {
    let mut out = [0; LOOKS_BYTES];
    // What a directory's size says, its times say too, and some file systems never make it smaller.
    let size = if stamp.kind == FileKind::Dir { 0 } else { stamp.size };
    let numbers = [stamp.dev, stamp.ino, size, stamp.mtime_ns.cast_unsigned(), stamp.ctime_ns.cast_unsigned()];
    let counted = if flags & IDENTITY != 0 { 2 } else { numbers.len() };
    for (slot, number) in out.chunks_exact_mut(8).zip(&numbers[..counted]) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    out[40..].copy_from_slice(&mode.to_le_bytes());
    out
}

fn digest(key: &Key, body: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key, body)
}

fn file(layout: &Layout, key: &Key) -> PathBuf {
    layout.glances().join(&blake3::Hash::from_bytes(*key).to_hex()[..32])
}

fn parts_file(layout: &Layout, key: &Key) -> PathBuf {
    file(layout, key).with_extension(PARTS)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len().min(MAX_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
