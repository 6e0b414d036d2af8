//! Many paths below one root looked at: stamps by directory, and content where a stamp is not enough.
//!
//! Knows system calls and threads; unaware of what was known of the paths before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustc_hash::FxHashMap;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{self, READ, SEARCH};
use crate::cid::BlobId;
use crate::hash_file::{self, Buffer, LARGE_BYTES};
use crate::parallel;
use crate::stamp::{FileKind, Stamp, now_ns};
use crate::tree::Entry;

/// Looking at fewer paths than this takes less time than starting a thread saves.
const MANY_PATHS: usize = 2000;
/// The same for what is to be hashed, in bytes and in files.
const MANY_BYTES: u64 = 256 << 10;
const MANY_FILES: usize = 64;
/// Files of up to this size are read right after they were looked at, where many are looked at: name and inode are still at
/// hand in the kernel's caches, and the directory is open. Larger ones are shared out evenly afterwards.
const SMALL_BYTES: u64 = 64 << 10;
/// Paths that one thread looks at in a row, at most.
const RUN: usize = 512;
/// How often a file that changes while it is read is read again.
const ATTEMPTS: usize = 3;

/// Why a path's content is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// Not a relative path of plain components.
    #[error("`{path}` is not a relative path without `.` and `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// A directory stands there.
    #[error("`{path}` is a directory")]
    Directory {
        /// The path.
        path: String,
    },
    /// Something without content stands there.
    #[error("`{path}` is {kind}, neither a file nor a symbolic link")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: FileKind,
    },
    /// It was written to each time it was read.
    #[error("`{path}` changes while it is read")]
    Changing {
        /// The path.
        path: String,
    },
    /// A link to somewhere that has no name in UTF-8.
    #[error("`{path}` is a symbolic link whose target is not UTF-8")]
    NotText {
        /// The path.
        path: String,
    },
    /// The file system said no.
    #[error("`{path}`: {source}")]
    Io {
        /// The path.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
}

impl ScanError {
    pub(crate) fn io(path: &str, error: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }
}

/// One of the paths to look at.
pub(crate) struct Item<'p> {
    /// Which of [`Grouped::dirs`] it is in.
    pub(crate) dir: usize,
    /// Which of the paths given it is.
    pub(crate) index: usize,
    /// Its last component.
    pub(crate) name: &'p str,
    /// All of it.
    pub(crate) path: &'p str,
}

/// Paths by directory: those of one directory follow one another.
#[derive(Default)]
pub(crate) struct Grouped<'p> {
    /// Each directory once.
    pub(crate) dirs: Vec<&'p str>,
    pub(crate) items: Vec<Item<'p>>,
    /// Indexes of what is no path.
    pub(crate) bad: Vec<usize>,
    sizes: Vec<usize>,
}

impl<'p> Grouped<'p> {
    pub(crate) fn new(paths: impl ExactSizeIterator<Item = &'p str>) -> Self {
        let mut out = Self { items: Vec::with_capacity(paths.len()), ..Self::default() };
        let mut known = FxHashMap::default();
        let (mut last, mut sorted) = (None, true);
        for (index, path) in paths.enumerate() {
            if !beneath::is_plain(path) {
                out.bad.push(index);
                continue;
            }
            let (dir, name) = beneath::split(path);
            let dir = match last {
                Some((text, at)) if text == dir => at,
                _ => *known.entry(dir).or_insert_with(|| {
                    out.dirs.push(dir);
                    out.sizes.push(0);
                    out.dirs.len() - 1
                }),
            };
            sorted &= last.is_none_or(|(_, before)| before <= dir);
            last = Some((out.dirs[dir], dir));
            out.sizes[dir] += 1;
            out.items.push(Item { dir, index, name, path });
        }
        if !sorted {
            out.items.sort_by_key(|item| item.dir);
        }
        out
    }

    /// Looks at all items, in those of the directories that are `open` there; `each` gets the stamp (`None` when nothing is
    /// there) and where the thread is. Results are in the order of [`Grouped::items`].
    ///
    /// Links on the way to a path are followed: these are a person's own files, read with that person's rights.
    pub(crate) fn look<R: Send>(
        &self,
        root: BorrowedFd<'_>,
        open: &[Result<Option<OwnedFd>, Errno>],
        each: impl Fn(&mut Here<'_>, &Item<'p>, Result<Option<Stamp>, Errno>) -> R + Sync,
    ) -> Vec<R> {
        let many = self.items.len() > MANY_PATHS;
        let threads = if many { parallel::cores() } else { 1 };
        let start = || Here { root, dir: usize::MAX, fd: Ok(None), near: 0, buffer: many.then(|| Buffer::up_to(0)) };
        let grain = self.items.len().div_ceil(4 * threads).min(RUN);
        parallel::map(threads, grain, &self.items, start, |here, item| {
            if here.dir != item.dir {
                (here.dir, here.fd, here.near) = (item.dir, Ok(None), 0);
                // For one or two names it is cheaper to walk the whole path than to open and close the directory.
                let dir = self.dirs[item.dir];
                let is_open = matches!(open.get(item.dir), Some(Ok(Some(_))));
                if !is_open && self.sizes[item.dir] > 2 && !dir.is_empty() {
                    here.fd = rustix::fs::openat(root, dir, SEARCH, Mode::empty()).map(Some);
                }
            }
            let found = match (open.get(item.dir), &here.fd) {
                (Some(Ok(Some(fd))), _) | (_, Ok(Some(fd))) => beneath::lstat(fd, item.name),
                (_, Ok(None)) => beneath::lstat(root, item.path),
                (_, Err(Errno::NOENT | Errno::NOTDIR)) => Ok(None),
                (_, Err(error)) => Err(*error),
            };
            each(here, item, found)
        })
    }
}

/// Where one of the threads is that look at paths.
pub(crate) struct Here<'r> {
    root: BorrowedFd<'r>,
    dir: usize,
    fd: Result<Option<OwnedFd>, Errno>,
    /// Starts at 0 for each directory.
    pub(crate) near: usize,
    /// There where many are looked at.
    buffer: Option<Buffer>,
}

impl Here<'_> {
    /// The content of the item that was just looked at, if that is worth reading now and looked like `stamp` before and after.
    /// `None` says nothing of the file: it is still to be read, and whatever is wrong with it shows then.
    pub(crate) fn read(&mut self, item: &Item<'_>, stamp: &Stamp) -> Option<Entry> {
        let buffer = self.buffer.as_mut().filter(|_| stamp.kind == FileKind::File && stamp.size <= SMALL_BYTES)?;
        buffer.make_room(stamp.size);
        match &self.fd {
            Ok(Some(dir)) => read_as(dir.as_fd(), item.name, stamp, buffer),
            _ => read_as(self.root, item.path, stamp, buffer),
        }
        .ok()??
    }
}

/// A file or link whose content is to be read.
pub(crate) struct Job<'p> {
    pub(crate) index: usize,
    pub(crate) path: &'p str,
    pub(crate) stamp: Stamp,
}

/// What was read, how the file looked before and after, and since when it is known to have looked so.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) entry: Entry,
    pub(crate) stamp: Stamp,
    pub(crate) looked_ns: i64,
}

impl Read {
    /// Whether an equal stamp will mean equal content.
    pub(crate) fn is_settled(&self) -> bool {
        self.stamp.is_settled(self.looked_ns)
    }
}

/// Reads all, large ones first; results are in the order of `jobs`, which is changed. `None` is what vanished.
pub(crate) fn read_all(
    root: BorrowedFd<'_>,
    jobs: &mut [Job<'_>],
    looked_ns: i64,
) -> Vec<Result<Option<Read>, ScanError>> {
    jobs.sort_unstable_by_key(|job| (std::cmp::Reverse(job.stamp.size), job.index));
    let large = jobs.partition_point(|job| job.stamp.size >= LARGE_BYTES);
    let (large, small) = jobs.split_at(large);
    let mut out: Vec<_> = large.iter().map(|job| read(root, job, looked_ns, &mut Buffer::new())).collect();
    let bytes = small.iter().fold(0_u64, |sum, job| sum.saturating_add(job.stamp.size));
    let threads = if bytes > MANY_BYTES || small.len() > MANY_FILES { parallel::cores() } else { 1 };
    let grain = (small.len() / (16 * threads)).clamp(1, 64);
    let largest = small.first().map_or(0, |job| job.stamp.size);
    let buffer = || Buffer::up_to(largest);
    out.extend(parallel::map(threads, grain, small, buffer, |buffer, job| read(root, job, looked_ns, buffer)));
    out
}

/// Reads one path's content: looked at before (the job's stamp) and after, and again if that differs.
fn read(root: BorrowedFd<'_>, job: &Job<'_>, looked_ns: i64, buffer: &mut Buffer) -> Result<Option<Read>, ScanError> {
    let (mut stamp, mut looked_ns) = (job.stamp, looked_ns);
    for _ in 0..ATTEMPTS {
        match read_as(root, job.path, &stamp, buffer) {
            Ok(Some(Some(entry))) => return Ok(Some(Read { entry, stamp, looked_ns })),
            Ok(Some(None)) => return Err(ScanError::NotText { path: job.path.to_owned() }),
            // It may have become a link, a link a file, either something else, or nothing.
            Ok(None) | Err(Errno::LOOP | Errno::NXIO | Errno::INVAL | Errno::ISDIR | Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(ScanError::io(job.path, error)),
        }
        looked_ns = now_ns();
        match beneath::lstat(root, job.path).map_err(|error| ScanError::io(job.path, error))? {
            None => return Ok(None),
            Some(now) => stamp = now,
        }
        if !beneath::is_content(stamp.kind) {
            return Err(no_content(job.path, stamp.kind));
        }
    }
    Err(ScanError::Changing { path: job.path.to_owned() })
}

/// The error for what has no content to read.
pub(crate) fn no_content(path: &str, kind: FileKind) -> ScanError {
    match kind {
        FileKind::Dir => ScanError::Directory { path: path.to_owned() },
        kind => ScanError::Kind { path: path.to_owned(), kind },
    }
}

/// The content under `path` if it looks like `stamp` before and after; `Some(None)` is a link to no text.
///
/// Nothing needs to be looked at between opening and reading: an equal change time afterwards, on the same inode,
/// says that nothing of it changed since the stamp was taken. Also a file replaced by another changes: it loses a name.
fn read_as(
    root: BorrowedFd<'_>,
    path: &str,
    stamp: &Stamp,
    buffer: &mut Buffer,
) -> Result<Option<Option<Entry>>, Errno> {
    if stamp.kind == FileKind::Symlink {
        let target = beneath::read_link(root, path)?;
        let same = beneath::lstat(root, path)?.as_ref() == Some(stamp);
        return Ok(same.then_some(target.map(|target| Entry::Symlink { target })));
    }
    let fd = rustix::fs::openat(root, path, OFlags::RDONLY | READ, Mode::empty())?;
    let size = stamp.size;
    let digest = if size >= LARGE_BYTES {
        hash_file::hash_large(fd.as_fd(), size, parallel::cores())
    } else {
        hash_file::hash(&fd, size, buffer)
    };
    let same = Stamp::of(&rustix::fs::fstat(&fd)?) == *stamp;
    let blob = digest?.filter(|_| same).map(BlobId::from_digest);
    Ok(blob.map(|blob| Some(Entry::File { blob, size, exec: stamp.mode_exec })))
}
