//! Content of a store as files under a fresh name: measured before anything is written, checked while it is copied.
//!
//! Knows how to make, unaware of what stands where it is to go.

use std::collections::hash_map::Entry as Slot;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::beneath::{self, DIR_MODE, SEARCH};
use crate::checkout::{CheckoutError, Limits};
use crate::cid::{BlobId, TreeId};
use crate::donor::Giving;
use crate::hash_file::{self, Buffer, LARGE_BYTES};
use crate::ingest::Links;
use crate::parallel;
use crate::stamp::{Stamp, now_ns};
use crate::tree::{Entry, MAX_DEPTH, Tree};
use crate::{Blob, Store};

/// From here on several threads take less time than one.
pub(crate) const MANY_FILES: usize = 64;
const MANY_BYTES: u64 = 1 << 20;

/// How many files share one read of the store's index at most: the small ones are in memory from then on.
pub(crate) const AT_ONCE: usize = 64;

/// A file or link to be made.
pub(crate) struct Leaf {
    /// Which of [`Plan::dirs`] it goes into.
    dir: usize,
    /// Its path from the workspace's root; the last component is its name in that directory.
    pub(crate) path: String,
    pub(crate) entry: Entry,
}

/// All that a directory expands to, known to be within bounds.
pub(crate) struct Plan {
    /// Paths below the directory: itself (empty), and every directory after the one it is in.
    pub(crate) dirs: Vec<String>,
    /// How many entries each directory has.
    pub(crate) counts: Vec<usize>,
    /// Those of one directory follow one another.
    pub(crate) leaves: Vec<Leaf>,
    bytes: u64,
}

impl Plan {
    /// The leaves in runs of at most `most`, those of each in one directory.
    fn runs(&self, most: usize) -> Vec<&[Leaf]> {
        self.leaves.chunk_by(|a, b| a.dir == b.dir).flat_map(|of_dir| of_dir.chunks(most)).collect()
    }
}

/// What a directory comes to when all is made that it names, as often as it names it.
#[derive(Clone, Copy)]
struct Size {
    entries: u64,
    bytes: u64,
    /// Directories on the longest way down.
    height: usize,
}

/// Expands the directory `tree`, to stand at `rel`, after having counted that it is within `limits`.
///
/// Each distinct directory is counted once, however often it is named: 60 levels that name the next one twice
/// are 60 look-ups, and are refused for their 2^60 files before anything is expanded.
pub(crate) fn plan(store: &Store, tree: TreeId, rel: &str, limits: &Limits) -> Result<Plan, CheckoutError> {
    let mut measure = Measure { store, rel, limits, known: FxHashMap::default() };
    let size = measure.directory(tree, 0)?;
    let mut plan = Plan { dirs: vec![String::new()], counts: vec![0], leaves: Vec::new(), bytes: size.bytes };
    let mut todo = vec![(tree, 0, 0)];
    while let Some((tree, dir, depth)) = todo.pop() {
        let entries = measure.known[&tree].0.entries();
        plan.counts[dir] = entries.len();
        for (name, entry) in entries {
            let below = || beneath::join(&plan.dirs[dir], name.as_str());
            match entry {
                Entry::Dir { tree } => {
                    let below = below();
                    plan.dirs.push(below);
                    plan.counts.push(0);
                    todo.push((*tree, plan.dirs.len() - 1, depth + 1));
                    continue;
                }
                Entry::Symlink { target } if limits.links == Links::Inside && !beneath::stays_inside(target, depth) => {
                    return Err(CheckoutError::Link { path: beneath::join(rel, &below()), target: target.clone() });
                }
                Entry::File { .. } | Entry::Symlink { .. } => {}
            }
            plan.leaves.push(Leaf { dir, path: beneath::join(rel, &below()), entry: entry.clone() });
        }
    }
    Ok(plan)
}

struct Measure<'a> {
    store: &'a Store,
    rel: &'a str,
    limits: &'a Limits,
    known: FxHashMap<TreeId, (Tree, Size)>,
}

impl Measure<'_> {
    fn directory(&mut self, id: TreeId, depth: usize) -> Result<Size, CheckoutError> {
        if let Some((_, size)) = self.known.get(&id) {
            return Ok(*size);
        }
        if depth >= MAX_DEPTH {
            return Err(CheckoutError::Depth { path: self.rel.to_owned() });
        }
        let tree = self.store.tree(id)?.ok_or_else(|| CheckoutError::missing(id.link(), self.rel))?;
        let mut size = Size { entries: 0, bytes: 0, height: 1 };
        for (_, entry) in tree.entries() {
            size.entries = size.entries.saturating_add(1);
            match entry {
                Entry::File { size: bytes, .. } => size.bytes = size.bytes.saturating_add(*bytes),
                Entry::Symlink { target } => size.bytes = size.bytes.saturating_add(target.len() as u64),
                Entry::Dir { tree } => {
                    let below = self.directory(*tree, depth + 1)?;
                    size.entries = size.entries.saturating_add(below.entries);
                    size.bytes = size.bytes.saturating_add(below.bytes);
                    size.height = size.height.max(below.height + 1);
                }
            }
            within(self.limits, self.rel, size.entries, size.bytes)?;
        }
        // A directory met before at a lesser depth may be too deep here.
        if depth + size.height > MAX_DEPTH {
            return Err(CheckoutError::Depth { path: self.rel.to_owned() });
        }
        if let Slot::Vacant(slot) = self.known.entry(id) {
            slot.insert((tree, size));
        }
        Ok(size)
    }
}

pub(crate) fn within(limits: &Limits, rel: &str, entries: u64, bytes: u64) -> Result<(), CheckoutError> {
    if entries > limits.max_files || bytes > limits.max_bytes {
        let (max_files, max_bytes) = (limits.max_files, limits.max_bytes);
        return Err(CheckoutError::TooLarge { path: rel.to_owned(), max_files, max_bytes });
    }
    Ok(())
}

/// What was made.
pub(crate) struct Made {
    pub(crate) files: Vec<(String, Entry, Stamp)>,
    /// See [`crate::checkout::Placed::settled`].
    pub(crate) settled: bool,
}

/// Makes files and directories from one store.
pub(crate) struct Maker<'s> {
    store: &'s Store,
    giving: Option<Giving<'s>>,
    /// Nobody asks twice for what the file system cannot do.
    no_clone: AtomicBool,
    unsettled: AtomicBool,
}

impl<'s> Maker<'s> {
    /// What `giving` has is moved.
    pub(crate) fn new(store: &'s Store, giving: Option<Giving<'s>>) -> Self {
        Self { store, giving, no_clone: AtomicBool::new(false), unsettled: AtomicBool::new(false) }
    }

    /// Makes one file or link called `name`, which must not be there, to stand at `path`.
    pub(crate) fn leaf(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        path: &str,
        entry: &Entry,
    ) -> Result<Made, CheckoutError> {
        let content = self.contents([entry])?.pop().flatten();
        let stamp = self.make(dir, name, path, entry, content.as_ref(), &mut None)?;
        Ok(self.made(vec![(path.to_owned(), entry.clone(), stamp)]))
    }

    /// Makes the directory `name`, which must not be there, and all that is planned below it.
    pub(crate) fn directory(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        rel: &str,
        plan: Plan,
    ) -> Result<Made, CheckoutError> {
        rustix::fs::mkdirat(dir, name, DIR_MODE).map_err(|error| CheckoutError::io(rel, error))?;
        let top = beneath::open_dir(dir, name, SEARCH).map_err(|error| CheckoutError::io(rel, error))?;
        for below in &plan.dirs[1..] {
            let (parent, name) = beneath::split(below);
            let made = match parent {
                "" => rustix::fs::mkdirat(&top, name, DIR_MODE),
                parent => {
                    beneath::open_dir(&top, parent, SEARCH).and_then(|dir| rustix::fs::mkdirat(dir, name, DIR_MODE))
                }
            };
            made.map_err(|error| CheckoutError::io(&beneath::join(rel, below), error))?;
        }
        let many = plan.leaves.len() > MANY_FILES || plan.bytes > MANY_BYTES;
        let threads = if many { parallel::cores() } else { 1 };
        let runs = plan.runs((plan.leaves.len() / (16 * threads)).clamp(1, AT_ONCE));
        let failed = AtomicBool::new(false);
        let made = parallel::map(
            threads,
            1,
            &runs,
            || None,
            |buffer, leaves| {
                if failed.load(Ordering::Relaxed) {
                    return None;
                }
                let made = self.run(&top, &plan.dirs[leaves[0].dir], leaves, buffer);
                failed.fetch_or(made.is_err(), Ordering::Relaxed);
                Some(made)
            },
        );
        // What was left out came after an error, which `collect` comes to instead, or before one on another thread.
        let stamps = made.into_iter().flatten().collect::<Result<Vec<_>, _>>()?.concat();
        let files = plan.leaves.into_iter().zip(stamps).map(|(leaf, stamp)| (leaf.path, leaf.entry, stamp));
        Ok(self.made(files.collect()))
    }

    /// Makes leaves that all go into `dir`.
    fn run(
        &self,
        top: &OwnedFd,
        dir: &str,
        leaves: &[Leaf],
        buffer: &mut Option<Buffer>,
    ) -> Result<Vec<Stamp>, CheckoutError> {
        let dir = beneath::open_dir(top, dir, SEARCH).map_err(|error| CheckoutError::io(&leaves[0].path, error))?;
        let contents = self.contents(leaves.iter().map(|leaf| &leaf.entry))?;
        let made = leaves.iter().zip(contents).map(|(leaf, content)| {
            self.make(dir.as_fd(), beneath::split(&leaf.path).1, &leaf.path, &leaf.entry, content.as_ref(), buffer)
        });
        made.collect()
    }

    /// The content of each entry that is a file, as far as it is here, in one read of the store's index.
    pub(crate) fn contents<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
    ) -> Result<Vec<Option<Blob>>, CheckoutError> {
        let blobs =
            entries.into_iter().map(|entry| if let Entry::File { blob, .. } = entry { Some(*blob) } else { None });
        let blobs: Vec<Option<BlobId>> = blobs.collect();
        let asked: Vec<BlobId> = blobs.iter().copied().flatten().collect();
        let mut found = self.store.blobs(&asked)?.into_iter();
        Ok(blobs.into_iter().map(|blob| blob.and_then(|_| found.next().flatten())).collect())
    }

    fn made(&self, files: Vec<(String, Entry, Stamp)>) -> Made {
        Made { files, settled: self.is_settled() }
    }

    /// See [`crate::checkout::Placed::settled`]: of all that was made so far.
    pub(crate) fn is_settled(&self) -> bool {
        !self.unsettled.load(Ordering::Relaxed)
    }

    /// Makes one file or link and says how it looks.
    pub(crate) fn make(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        path: &str,
        entry: &Entry,
        content: Option<&Blob>,
        buffer: &mut Option<Buffer>,
    ) -> Result<Stamp, CheckoutError> {
        let io = |error| CheckoutError::io(path, error);
        match entry {
            Entry::File { blob, size, exec } => {
                if let Some(stamp) = self.moved(dir, name, path, entry) {
                    return Ok(stamp);
                }
                let mode = Mode::from_raw_mode(if *exec { 0o755 } else { 0o644 });
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let content = content.ok_or_else(|| CheckoutError::missing(blob.link(), path))?;
                let file = rustix::fs::openat(dir, name, flags, mode).map_err(io)?;
                self.fill(&file, content, *blob, *size, path, buffer)?;
                let mtime_ns = self.date(|times| rustix::fs::futimens(&file, times)).map_err(io)?;
                let stamp = Stamp::of(&rustix::fs::fstat(&file).map_err(io)?);
                self.unsettled.fetch_or(stamp.mtime_ns != mtime_ns, Ordering::Relaxed);
                Ok(stamp)
            }
            Entry::Symlink { target } => {
                rustix::fs::symlinkat(&**target, dir, name).map_err(io)?;
                let nofollow = AtFlags::SYMLINK_NOFOLLOW;
                let mtime_ns = self.date(|times| rustix::fs::utimensat(dir, name, times, nofollow)).map_err(io)?;
                let stamp = beneath::lstat(dir, name).map_err(io)?.ok_or(Errno::NOENT).map_err(io)?;
                self.unsettled.fetch_or(stamp.mtime_ns != mtime_ns, Ordering::Relaxed);
                Ok(stamp)
            }
            Entry::Dir { .. } => unreachable!("directories are expanded before"),
        }
    }

    /// Has one file given to where it is to stand in the end, if nothing is there.
    pub(crate) fn straight(&self, dir: BorrowedFd<'_>, name: &str, path: &str, entry: &Entry) -> Option<Made> {
        // Who is refused when it comes to it has a new time for nothing, and is not given any more.
        let is_free = self.giving.is_some() && beneath::lstat(dir, name) == Ok(None);
        let stamp = is_free.then(|| self.moved(dir, name, path, entry))??;
        Some(self.made(vec![(path.to_owned(), entry.clone(), stamp)]))
    }

    /// Has the file given away by who has it already.
    fn moved(&self, dir: BorrowedFd<'_>, name: &str, path: &str, entry: &Entry) -> Option<Stamp> {
        let mut mtime_ns = 0;
        let date = |file: &OwnedFd| -> Result<(), Errno> {
            mtime_ns = self.date(|times| rustix::fs::futimens(file, times))?;
            Ok(())
        };
        let stamp = self.giving.as_ref()?.give(dir, name, path, entry, date)?;
        self.unsettled.fetch_or(stamp.mtime_ns != mtime_ns, Ordering::Relaxed);
        Some(stamp)
    }

    /// Gives what was made the time to the nanosecond, and says which.
    ///
    /// The kernel dates writes by a clock that moves in ticks. A time between two ticks is one that no later write
    /// can have, so the stamp can be relied on at once: without this, all that was placed would be read again by the next
    /// run, as anything is that was written just before it was looked at.
    fn date(&self, set: impl FnOnce(&Timestamps) -> Result<(), Errno>) -> Result<i64, Errno> {
        let now = now_ns();
        let now = if now % 1000 == 0 { now + 1 } else { now };
        let last_modification = Timespec { tv_sec: now / 1_000_000_000, tv_nsec: now % 1_000_000_000 };
        set(&Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification })?;
        Ok(now)
    }

    /// Writes a blob's bytes into a new file and makes sure that they are its bytes.
    fn fill(
        &self,
        file: &OwnedFd,
        content: &Blob,
        blob: BlobId,
        size: u64,
        path: &str,
        buffer: &mut Option<Buffer>,
    ) -> Result<(), CheckoutError> {
        let io = |error| CheckoutError::io(path, error);
        let found = match content {
            Blob::Inline(bytes) => bytes.len() as u64,
            Blob::File { size, .. } => *size,
        };
        if found != size {
            let (path, link) = (path.to_owned(), blob.link());
            return Err(CheckoutError::Size { path, link, expected_bytes: size, found_bytes: found });
        }
        let digest = match content {
            Blob::Inline(bytes) => return write_all(file, bytes, 0).map_err(io),
            Blob::File { path: from, .. } => {
                let source = match open_source(from) {
                    Err(Errno::NOENT) => return Err(CheckoutError::missing(blob.link(), path)),
                    other => other.map_err(|error| CheckoutError::io(&from.to_string_lossy(), error))?,
                };
                if self.clone_whole(file, &source) {
                    let large = size >= LARGE_BYTES;
                    let threads = if large { parallel::cores() } else { 1 };
                    hash_file::hash_large(file, size, threads).map_err(io)?
                } else {
                    copy(&source, file, size, buffer.get_or_insert_with(Buffer::new)).map_err(io)?
                }
            }
        };
        if digest.as_ref() == Some(blob.digest()) {
            return Ok(());
        }
        self.store.corrupt(blob.link());
        Err(CheckoutError::Corrupt(blob.link()))
    }

    /// Shares the source's blocks with the new file, where the file system can.
    fn clone_whole(&self, file: &OwnedFd, source: &OwnedFd) -> bool {
        if self.no_clone.load(Ordering::Relaxed) {
            return false;
        }
        let cloned = rustix::fs::ioctl_ficlone(file, source).is_ok();
        self.no_clone.fetch_or(!cloned, Ordering::Relaxed);
        cloned
    }
}

fn open_source(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, beneath::READ, Mode::empty())
}

/// Copies `size` bytes and says what their hash is; `None` when there are fewer or more.
fn copy(from: &OwnedFd, to: &OwnedFd, size: u64, buffer: &mut Buffer) -> Result<Option<[u8; 32]>, Errno> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    loop {
        let read = hash_file::read(from, buffer.bytes(), at)?;
        if read == 0 {
            return Ok((at == size).then(|| *hasher.finalize().as_bytes()));
        }
        let bytes = &buffer.bytes()[..read];
        if at + read as u64 > size {
            return Ok(None);
        }
        hasher.update(bytes);
        write_all(to, bytes, at)?;
        at += read as u64;
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, at))? {
            0 => return Err(Errno::IO),
            n => {
                bytes = &bytes[n..];
                at += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dirs::memory;
    use crate::tree::Name;

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    /// A directory that names the next one twice, so many levels deep, over one with `leaf` in it.
    fn doubling(store: &Store, levels: usize, leaf: Entry) -> TreeId {
        let mut id = store.put_tree(&Tree::new(vec![(name("f"), leaf)]).expect("valid")).expect("put");
        for _ in 0..levels {
            let twice = vec![(name("a"), Entry::Dir { tree: id }), (name("b"), Entry::Dir { tree: id })];
            id = store.put_tree(&Tree::new(twice).expect("valid")).expect("put");
        }
        id
    }

    #[test]
    fn a_tree_that_doubles_at_each_level_is_refused_at_once() {
        let store = memory();
        let leaf = |size| Entry::File { blob: BlobId::of(b""), size, exec: false };
        let limits = Limits::default();
        let id = doubling(&store, 60, leaf(0));
        let before = store.counters().gets;
        assert!(matches!(plan(&store, id, "x", &limits), Err(CheckoutError::TooLarge { .. })));
        assert!(store.counters().gets - before <= 61, "each node is read once");
        let id = doubling(&store, 10, leaf(u64::MAX >> 11));
        assert!(matches!(plan(&store, id, "x", &limits), Err(CheckoutError::TooLarge { .. })), "bytes count too");
        let id = doubling(&store, 10, leaf(1));
        let found = plan(&store, id, "x", &limits).expect("within");
        assert_eq!((found.dirs.len(), found.leaves.len(), found.bytes), (2047, 1024, 1024));
        let exact = Limits { max_files: 2046 + 1024, max_bytes: 1024, ..limits };
        assert!(plan(&store, id, "x", &exact).is_ok());
        for less in [Limits { max_files: 3069, ..exact }, Limits { max_bytes: 1023, ..exact }] {
            assert!(matches!(plan(&store, id, "x", &less), Err(CheckoutError::TooLarge { .. })));
        }
    }

    #[test]
    fn depth_is_that_of_the_longest_way_down() {
        let store = memory();
        let mut id = store.put_tree(&Tree::default()).expect("put");
        let mut trees = vec![id];
        for _ in 0..MAX_DEPTH {
            // Before the next level there is a shallow use of it, by which it is counted first.
            let tree = Tree::new(vec![(name("d"), Entry::Dir { tree: id })]).expect("valid");
            id = store.put_tree(&tree).expect("put");
            trees.push(id);
        }
        let limits = Limits::default();
        assert!(plan(&store, trees[MAX_DEPTH - 1], "x", &limits).is_ok());
        assert!(matches!(plan(&store, trees[MAX_DEPTH], "x", &limits), Err(CheckoutError::Depth { .. })));
        let half = trees[MAX_DEPTH / 2];
        let mut id = half;
        for n in 0..MAX_DEPTH / 2 {
            let shallow = vec![(name("a"), Entry::Dir { tree: half }), (name("b"), Entry::Dir { tree: id })];
            id = store.put_tree(&Tree::new(shallow).expect("valid")).expect("put");
            assert_eq!(plan(&store, id, "x", &limits).is_ok(), n + 1 < MAX_DEPTH / 2, "{n}");
        }
    }

    #[test]
    fn what_is_missing_is_named_before_anything_is_made() {
        let store = memory();
        let gone = TreeId::of(b"gone");
        let id = store.put_tree(&Tree::new(vec![(name("d"), Entry::Dir { tree: gone })]).expect("valid")).expect("put");
        assert!(
            matches!(plan(&store, id, "x", &Limits::default()), Err(CheckoutError::Missing { link, .. }) if link == gone.link())
        );
    }

    #[test]
    fn a_file_of_the_store_is_checked_while_it_is_copied() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        let (maker, from) = (Maker::new(&store, None), dir.path().join("from"));
        for len in [100_usize, 300_000, 5_000_000] {
            let good: Vec<u8> = (0..len).map(|n| (n / 7) as u8).collect();
            let blob = BlobId::of(&good);
            let fill = |bytes: &[u8], said: u64| {
                std::fs::write(&from, bytes).expect("written");
                let to = std::fs::File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(dir.path().join("to"));
                let content = Blob::File { path: from.clone(), size: said };
                maker.fill(&to.expect("made").into(), &content, blob, len as u64, "x", &mut None)
            };
            fill(&good, len as u64).expect("copied");
            assert!(std::fs::read(dir.path().join("to")).expect("read") == good);
            for at in [0, len / 2, len - 1] {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(matches!(fill(&bad, len as u64), Err(CheckoutError::Corrupt(link)) if link == blob.link()));
            }
            for bad in [&good[1..], &good[..len - 1], &[&good[..], b"x"].concat()] {
                assert!(
                    matches!(fill(bad, len as u64), Err(CheckoutError::Corrupt(_))),
                    "whatever the store says of its size"
                );
                assert!(matches!(fill(bad, bad.len() as u64), Err(CheckoutError::Size { .. })));
            }
            assert_eq!(store.take_findings().len(), 1, "the store is told");
        }
    }
}
