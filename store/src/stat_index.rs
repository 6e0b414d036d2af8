//! The stat index of one workspace: what each path held when it was last read, so that it need not be read again.
//!
//! Loads one packed chunk per directory when it is first needed. Unaware of tasks. Every doubt is settled by reading:
//! a chunk that is missing or damaged, a stamp that differs, a file changed too close to when it was read.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use rustix::io::Errno;

use crate::beneath;
use crate::checkout::{Ours, Placed};
use crate::ingest::Ingested;
pub use crate::look::ScanError;
use crate::look::{Grouped, Job, Read, no_content, read_all};
use crate::stamp::{FileKind, Stamp, now_ns};
use crate::stat_chunk::Chunk;
pub use crate::stat_chunk::Known;
use crate::tree::{Entry, MAX_DEPTH, MAX_NAME_BYTES};
use crate::{Store, StoreError};

/// What one path holds.
#[derive(Debug)]
pub struct Scanned<'p> {
    /// The path asked for.
    pub path: &'p str,
    /// What is there and how it looks; `None` when nothing is there.
    pub result: Result<Option<(Entry, Stamp)>, ScanError>,
}

/// What is known of the files of one workspace. Belongs to one owner at a time.
#[derive(Debug)]
pub struct StatIndex {
    store: Store,
    root: PathBuf,
    fd: Result<OwnedFd, Errno>,
    workspace: [u8; 16],
    dirs: FxHashMap<Box<str>, Directory>,
    counts: IndexCounts,
}

/// What an index did since it was opened: tests assert on these where others would measure time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IndexCounts {
    /// Files and links whose content was read.
    pub files_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Chunks that were written.
    pub chunks_written: u64,
}

/// One directory's chunk as it was loaded, and what is different now.
#[derive(Debug, Default)]
struct Directory {
    base: Chunk,
    changes: BTreeMap<Box<str>, Option<Known>>,
}

impl Directory {
    fn get_near(&self, near: &mut usize, name: &str) -> Option<&Known> {
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(name)
        {
            return change.as_ref();
        }
        self.base.get_near(near, name)
    }

    fn get(&self, name: &str) -> Option<&Known> {
        self.get_near(&mut 0, name)
    }

    fn set(&mut self, name: &str, known: Option<Known>) {
        let known = known.filter(|_| name.len() <= MAX_NAME_BYTES);
        if self.get(name) != known.as_ref() {
            self.changes.insert(name.into(), known);
        }
    }

    /// The chunk with the changes in it; `None` when they change nothing.
    fn merged(&mut self) -> Option<Chunk> {
        let base = &self.base;
        self.changes.retain(|name, change| base.get_near(&mut 0, name) != change.as_ref());
        if self.changes.is_empty() {
            return None;
        }
        let mut merged = Chunk::default();
        let mut changes = std::mem::take(&mut self.changes).into_iter().peekable();
        for (name, known) in base.iter() {
            while let Some((added, change)) = changes.next_if(|(added, _)| **added < *name) {
                change.into_iter().for_each(|known| merged.push(&added, known));
            }
            match changes.next_if(|(changed, _)| **changed == *name) {
                Some((_, change)) => change.into_iter().for_each(|known| merged.push(name, known)),
                None => merged.push(name, known.clone()),
            }
        }
        for (added, change) in changes {
            change.into_iter().for_each(|known| merged.push(&added, known));
        }
        Some(merged)
    }
}

/// How a path looks beside what is known of it.
enum Probe {
    Missing,
    Same(Entry, Stamp),
    New(Stamp),
    Failed(Errno),
}

impl StatIndex {
    /// The index of the workspace at `root`. Reads nothing yet; a root that is not there shows in each scan.
    pub fn open(store: &Store, root: &Path) -> Self {
        let absolute = std::fs::canonicalize(root).or_else(|_| std::path::absolute(root));
        let absolute = absolute.unwrap_or_else(|_| root.to_owned());
        let mut workspace = [0; 16];
        workspace.copy_from_slice(&blake3::hash(absolute.as_os_str().as_bytes()).as_bytes()[..16]);
        let fd = beneath::open_root(&absolute);
        let counts = IndexCounts::default();
        Self { store: store.clone(), root: absolute, fd, workspace, dirs: FxHashMap::default(), counts }
    }

    /// The workspace's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store that content is compared with and the index is kept in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What was done so far.
    pub fn counts(&self) -> IndexCounts {
        self.counts
    }

    fn key(&self, dir: &str) -> Vec<u8> {
        [&self.workspace, dir.as_bytes()].concat()
    }

    fn load(&mut self, dir: &str) -> &mut Directory {
        if !self.dirs.contains_key(dir) {
            let key = self.key(dir);
            let chunk = self.store.stat_chunk(&key).ok().flatten();
            let base = chunk.and_then(|bytes| Chunk::decode(&key, &bytes)).unwrap_or_default();
            self.dirs.insert(dir.into(), Directory { base, changes: BTreeMap::new() });
        }
        self.dirs.get_mut(dir).expect("it was loaded above")
    }

    fn probe(&mut self, grouped: &Grouped<'_>) -> Vec<Probe> {
        for dir in &grouped.dirs {
            self.load(dir);
        }
        let fd = match &self.fd {
            Ok(fd) => fd.as_fd(),
            Err(error) => return grouped.items.iter().map(|_| Probe::Failed(*error)).collect(),
        };
        let dirs: Vec<&Directory> = grouped.dirs.iter().map(|dir| &self.dirs[*dir]).collect();
        grouped.look(fd, |near, item, found| match found {
            Ok(None) => Probe::Missing,
            Err(error) => Probe::Failed(error),
            Ok(Some(stamp)) => match dirs[item.dir].get_near(near, item.name) {
                Some(known) if known.trusted && known.stamp == stamp => Probe::Same(known.entry.clone(), stamp),
                _ => Probe::New(stamp),
            },
        })
    }

    /// Says what each of `paths` (relative, best sorted) holds: what is known where that can be relied on, and read
    /// where not. What is missing and what is a directory is forgotten.
    pub fn scan<'p>(&mut self, paths: &[&'p str]) -> Vec<Scanned<'p>> {
        let grouped = Grouped::new(paths.iter().copied());
        // Before the first look: what changes from here on has times not before this, but for the clock's grain.
        let looked_ns = now_ns();
        let probes = self.probe(&grouped);
        let mut out: Vec<_> = paths.iter().map(|path| Scanned { path, result: Ok(None) }).collect();
        for index in grouped.bad {
            out[index].result = Err(ScanError::Path { path: paths[index].to_owned() });
        }
        let mut jobs = Vec::new();
        for (item, probe) in grouped.items.iter().zip(probes) {
            match probe {
                Probe::Same(entry, stamp) => out[item.index].result = Ok(Some((entry, stamp))),
                Probe::Missing => self.forget(item.path),
                Probe::Failed(error) => out[item.index].result = Err(ScanError::io(item.path, error)),
                Probe::New(stamp) if beneath::is_content(stamp.kind) => {
                    jobs.push(Job { index: item.index, path: item.path, stamp });
                }
                Probe::New(stamp) => {
                    self.forget(item.path);
                    out[item.index].result = Err(no_content(item.path, stamp.kind));
                }
            }
        }
        self.counts.files_read += jobs.len() as u64;
        self.counts.bytes_read += jobs.iter().map(|job| job.stamp.size).sum::<u64>();
        let read = match &self.fd {
            Ok(fd) if !jobs.is_empty() => read_all(fd.as_fd(), &mut jobs, looked_ns),
            _ => Vec::new(),
        };
        for (job, read) in jobs.iter().zip(read) {
            out[job.index].result = read.map(|read| {
                self.note_read(job.path, read.as_ref());
                read.map(|read| (read.entry, read.stamp))
            });
        }
        out
    }

    /// Keeps what was read, if an equal stamp will mean equal content.
    fn note_read(&mut self, path: &str, read: Option<&Read>) {
        let (dir, name) = beneath::split(path);
        let directory = self.load(dir);
        let known = read.and_then(|Read { entry, stamp, looked_ns }| {
            let trusted = stamp.is_settled(*looked_ns);
            let placed = directory.get(name).is_some_and(|known| known.placed && known.entry == *entry);
            // Without trust only the mark is worth keeping.
            (trusted || placed).then(|| Known { stamp: *stamp, entry: entry.clone(), placed, trusted })
        });
        directory.set(name, known);
    }

    /// The paths of `seen` that do not look now as they did then, those that are gone included.
    pub fn unchanged(&self, seen: &[(String, Stamp)]) -> Vec<String> {
        let grouped = Grouped::new(seen.iter().map(|(path, _)| path.as_str()));
        let Ok(fd) = &self.fd else { return seen.iter().map(|(path, _)| path.clone()).collect() };
        let same = grouped.look(fd.as_fd(), |_, item, found| found == Ok(Some(seen[item.index].1)));
        let mut changed: Vec<usize> = grouped.bad;
        changed.extend(grouped.items.iter().zip(same).filter(|(_, same)| !same).map(|(item, _)| item.index));
        changed.sort_unstable();
        changed.into_iter().map(|index| seen[index].0.clone()).collect()
    }

    /// What is known of `path`, whether it can be relied on or not.
    pub fn known(&mut self, path: &str) -> Option<&Known> {
        let (dir, name) = beneath::split(path);
        self.load(dir).get(name)
    }

    /// Sets whether quipu put `entry` at `path`.
    ///
    /// Adds no trust in the stamp, since it is not said when the content was read: unless the same is known
    /// already, the content is read again at the next scan. [`StatIndex::note_placed`] and
    /// [`StatIndex::note_ingested`] know more.
    pub fn placed(&mut self, path: &str, entry: &Entry, stamp: Stamp, placed: bool) {
        let (dir, name) = beneath::split(path);
        let directory = self.load(dir);
        let trusted = directory.get(name).is_some_and(|k| k.trusted && k.stamp == stamp && k.entry == *entry);
        let known = Known { stamp, entry: entry.clone(), placed, trusted };
        directory.set(name, Some(known).filter(|_| !matches!(entry, Entry::Dir { .. })));
    }

    /// Keeps the stamps of what a checkout put into this workspace.
    pub fn note_placed(&mut self, placed: &Placed) {
        for (path, entry, stamp) in &placed.files {
            let (dir, name) = beneath::split(path);
            let known = Known { stamp: *stamp, entry: entry.clone(), placed: true, trusted: placed.settled };
            self.load(dir).set(name, Some(known));
        }
    }

    /// Keeps the stamps of what was ingested from this workspace and stayed there; `placed` says that a task of
    /// quipu's made it.
    pub fn note_ingested(&mut self, ingested: &Ingested, placed: bool) {
        for (path, entry, stamp) in &ingested.files {
            let (dir, name) = beneath::split(path);
            let trusted = stamp.is_settled(ingested.looked_ns);
            let known = (trusted || placed).then(|| Known { stamp: *stamp, entry: entry.clone(), placed, trusted });
            self.load(dir).set(name, known);
        }
    }

    /// Forgets what is known of `path`.
    pub fn forget(&mut self, path: &str) {
        let (dir, name) = beneath::split(path);
        self.load(dir).set(name, None);
    }

    /// Everything at or below `rel` that quipu put there, as far as it is still listed by the directories.
    pub fn ours(&mut self, rel: &str) -> Ours {
        let mut ours = Ours::default();
        let Ok(parent) = self.root_fd().and_then(|fd| beneath::open_dir(fd, beneath::split(rel).0, beneath::SEARCH))
        else {
            return ours;
        };
        match beneath::lstat(parent, beneath::split(rel).1) {
            Ok(Some(stamp)) if stamp.kind == FileKind::Dir => self.ours_below(rel, 0, &mut ours),
            Ok(Some(_)) => {
                ours.extend(self.known(rel).filter(|known| known.placed).map(|k| (rel.to_owned(), k.clone())));
            }
            _ => {}
        }
        ours
    }

    fn ours_below(&mut self, dir: &str, depth: usize, ours: &mut Ours) {
        // What is nested deeper, or cannot be listed, was not put there by quipu.
        let Ok(fd) = self.root_fd().and_then(|fd| beneath::open_dir(fd, dir, beneath::LIST)) else { return };
        let mut below = Vec::new();
        let listed = beneath::for_each_name::<Errno>(&fd, |name| {
            if let Ok(name) = name.to_str() {
                let known = self.known(&beneath::join(dir, name)).filter(|known| known.placed);
                match known {
                    Some(known) => drop(ours.insert(beneath::join(dir, name), known.clone())),
                    None if matches!(beneath::lstat(&fd, name), Ok(Some(s)) if s.kind == FileKind::Dir) => {
                        below.push(beneath::join(dir, name));
                    }
                    None => {}
                }
            }
            Ok(())
        });
        if listed.is_ok() && depth + 1 < MAX_DEPTH {
            below.iter().for_each(|dir| self.ours_below(dir, depth + 1, ours));
        }
    }

    pub(crate) fn root_fd(&self) -> Result<std::os::fd::BorrowedFd<'_>, Errno> {
        self.fd.as_ref().map(AsFd::as_fd).map_err(|error| *error)
    }

    /// Whether each path holds exactly the entry beside it. Reads only what may yet turn out to be right.
    pub(crate) fn all_hold(&mut self, wanted: &[(&str, &Entry)]) -> bool {
        let grouped = Grouped::new(wanted.iter().map(|(path, _)| *path));
        let probes = self.probe(&grouped);
        let mut doubtful = Vec::new();
        for (item, probe) in grouped.items.iter().zip(&probes) {
            let entry = wanted[item.index].1;
            match probe {
                Probe::Same(found, _) if found == entry => {}
                Probe::New(stamp) if may_hold(stamp, entry) => doubtful.push(item.index),
                _ => return false,
            }
        }
        let paths: Vec<_> = doubtful.iter().map(|index| wanted[*index].0).collect();
        let scanned = self.scan(&paths);
        grouped.bad.is_empty()
            && doubtful.iter().zip(scanned).all(|(index, found)| match found.result {
                Ok(Some((entry, _))) => entry == *wanted[*index].1,
                _ => false,
            })
    }

    /// Writes the chunks that changed; nothing when nothing did.
    pub fn save(&mut self) -> Result<(), StoreError> {
        for (dir, directory) in &mut self.dirs {
            let Some(merged) = directory.merged() else { continue };
            let key = [&self.workspace, dir.as_bytes()].concat();
            // A directory too large for any chunk is read anew each time.
            if let Some(bytes) = merged.encode(&key) {
                self.store.put_stat_chunk(&key, bytes)?;
                self.counts.chunks_written += 1;
            }
            directory.base = merged;
        }
        Ok(())
    }
}

fn may_hold(stamp: &Stamp, entry: &Entry) -> bool {
    match entry {
        Entry::File { size, exec, .. } => {
            stamp.kind == FileKind::File && stamp.size == *size && stamp.mode_exec == *exec
        }
        Entry::Symlink { .. } => stamp.kind == FileKind::Symlink,
        Entry::Dir { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;
    use crate::cid::BlobId;
    use crate::test_dirs::{age, memory};

    fn file(bytes: &[u8]) -> Entry {
        Entry::File { blob: BlobId::of(bytes), size: bytes.len() as u64, exec: false }
    }

    /// What a scan finds, errors as text.
    fn scan(index: &mut StatIndex, paths: &[&str]) -> Vec<Result<Option<Entry>, String>> {
        let found = index.scan(paths).into_iter();
        found.map(|s| s.result.map(|r| r.map(|(entry, _)| entry)).map_err(|e| e.to_string())).collect()
    }

    fn workspace() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("src/deep")).expect("made");
        for (path, bytes) in [("a", "1"), ("src/b", "22"), ("src/c", "3"), ("src/d", ""), ("src/deep/e", "5")] {
            std::fs::write(dir.path().join(path), bytes).expect("written");
        }
        symlink("../a", dir.path().join("src/link")).expect("made");
        age(&dir.path().join("src/link"));
        dir
    }

    const PATHS: [&str; 7] = ["a", "gone/x", "src/b", "src/c", "src/d", "src/deep/e", "src/link"];

    #[test]
    fn content_is_read_once_and_a_second_save_writes_nothing() {
        let (store, dir) = (memory(), workspace());
        let mut index = StatIndex::open(&store, dir.path());
        let first = scan(&mut index, &PATHS);
        let link = Entry::Symlink { target: "../a".into() };
        let expected = [
            Some(file(b"1")),
            None,
            Some(file(b"22")),
            Some(file(b"3")),
            Some(file(b"")),
            Some(file(b"5")),
            Some(link),
        ];
        assert_eq!(first, expected.map(Ok));
        assert_eq!(index.counts().files_read, 6);
        index.save().expect("saved");
        assert_eq!(index.counts().chunks_written, 3);

        let mut index = StatIndex::open(&store, dir.path());
        let mut backwards = PATHS;
        backwards.reverse();
        let mut second = scan(&mut index, &backwards);
        second.reverse();
        assert_eq!(second, first, "the order of paths does not matter");
        index.save().expect("saved");
        assert_eq!(index.counts(), IndexCounts::default());
    }

    #[test]
    fn what_changed_is_read_and_what_vanished_is_dropped() {
        let (store, dir) = (memory(), workspace());
        let mut index = StatIndex::open(&store, dir.path());
        scan(&mut index, &PATHS);
        index.save().expect("saved");
        let b = dir.path().join("src/b");
        let old = b.metadata().expect("there").modified().expect("known");
        std::fs::write(&b, "33").expect("written");
        std::fs::File::options().write(true).open(&b).expect("opens").set_modified(old).expect("set");
        std::fs::remove_file(dir.path().join("src/c")).expect("removed");
        std::fs::set_permissions(dir.path().join("src/d"), PermissionsExt::from_mode(0o744)).expect("set");
        age(&dir.path().join("src/d"));
        std::thread::sleep(std::time::Duration::from_millis(40));

        let mut index = StatIndex::open(&store, dir.path());
        let found = scan(&mut index, &PATHS);
        assert_eq!(found[2], Ok(Some(file(b"33"))), "size and time of writing are as before");
        assert_eq!(found[3], Ok(None));
        assert_eq!(found[4], Ok(Some(Entry::File { blob: BlobId::of(b""), size: 0, exec: true })));
        assert!(index.known("src/c").is_none());
        assert_eq!(index.counts().files_read, 2);
        index.save().expect("saved");
        assert_eq!(index.counts().chunks_written, 1);
        let mut index = StatIndex::open(&store, dir.path());
        assert_eq!(scan(&mut index, &PATHS), found);
        assert_eq!(index.counts().files_read, 0);
    }

    #[test]
    fn what_has_no_content_is_an_error_that_names_it() {
        let (store, dir) = (memory(), workspace());
        let at = |name: &str| dir.path().join(name);
        let fd = beneath::open_root(dir.path()).expect("opens");
        rustix::fs::mknodat(&fd, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
        let strange: &std::ffi::OsStr = OsStrExt::from_bytes(b"\xff");
        symlink(strange, at("strange")).expect("made");
        let mut index = StatIndex::open(&store, dir.path());
        for (path, text) in [
            ("src", "`src` is a directory"),
            ("fifo", "`fifo` is a named pipe, neither a file nor a symbolic link"),
            ("socket", "`socket` is a socket, neither a file nor a symbolic link"),
            ("strange", "`strange` is a symbolic link whose target is not UTF-8"),
            ("../a", "`../a` is not a relative path without `.` and `..`"),
            ("/etc/passwd", "`/etc/passwd` is not a relative path without `.` and `..`"),
            ("src//b", "`src//b` is not a relative path without `.` and `..`"),
            ("", "`` is not a relative path without `.` and `..`"),
        ] {
            assert_eq!(scan(&mut index, &[path, "a"]), [Err(text.to_owned()), Ok(Some(file(b"1")))]);
        }
        let mut nowhere = StatIndex::open(&store, &at("nowhere"));
        assert!(scan(&mut nowhere, &["a"])[0].is_err());
    }

    #[test]
    fn rewrites_of_the_same_size_are_always_seen() {
        let (store, dir) = (memory(), workspace());
        let path = dir.path().join("a");
        let mut index = StatIndex::open(&store, dir.path());
        for round in 0..2000_u32 {
            let bytes = format!("{round:06}");
            if round % 3 == 0 {
                std::fs::write(&path, &bytes).expect("written");
            } else {
                // In place, without cutting it off first.
                let mut file = std::fs::File::options().write(true).open(&path).expect("opens");
                std::io::Write::write_all(&mut file, bytes.as_bytes()).expect("written");
            }
            assert_eq!(scan(&mut index, &["a"]), [Ok(Some(file(bytes.as_bytes())))], "round {round}");
            if round % 100 == 0 {
                assert!(index.known("a").is_none(), "what was just written is not relied on");
                index.save().expect("saved");
            }
        }
        age(&path);
        scan(&mut index, &["a"]);
        assert!(index.known("a").is_some_and(|known| known.trusted), "in the end it is");
    }

    #[test]
    fn a_file_that_differs_from_its_stamp_is_read_again() {
        let dir = workspace();
        let fd = beneath::open_root(dir.path()).expect("opens");
        let stamp = beneath::lstat(&fd, "a").expect("looks").expect("there");
        let read = |path| {
            let mut jobs = [Job { index: 0, path, stamp }];
            read_all(fd.as_fd(), &mut jobs, 0).pop().expect("one job")
        };
        std::fs::write(dir.path().join("a"), "other").expect("written");
        let found = read("a").expect("read").expect("there");
        assert_eq!(found.entry, file(b"other"));
        assert!(found.looked_ns > 0, "as it looked later");
        assert!(read("gone").expect("read").is_none());
        assert!(matches!(read("src/link"), Ok(Some(Read { entry: Entry::Symlink { .. }, .. }))));
        assert!(matches!(read("src"), Err(ScanError::Directory { .. })));
    }

    #[test]
    fn a_file_that_never_rests_is_an_error() {
        let (store, dir) = (memory(), workspace());
        let busy = std::fs::File::create(dir.path().join("busy")).expect("made");
        busy.set_len(64 << 20).expect("grown");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::os::unix::fs::FileExt::write_at(&busy, b"x", 0).expect("written");
                }
            });
            let mut index = StatIndex::open(&store, dir.path());
            let told =
                (0..20).any(|_| scan(&mut index, &["busy"])[0] == Err("`busy` changes while it is read".to_owned()));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(told);
            assert!(index.known("busy").is_none());
        });
    }

    #[test]
    fn a_damaged_chunk_is_as_none() {
        let (store, dir) = (memory(), workspace());
        let mut index = StatIndex::open(&store, dir.path());
        scan(&mut index, &PATHS);
        index.save().expect("saved");
        let key = index.key("src");
        let mut chunk = store.stat_chunk(&key).expect("read").expect("there");
        chunk[20] ^= 1;
        store.put_stat_chunk(&key, chunk).expect("put");
        let mut index = StatIndex::open(&store, dir.path());
        assert_eq!(scan(&mut index, &PATHS)[2], Ok(Some(file(b"22"))));
        assert_eq!(index.counts().files_read, 4);
    }

    #[test]
    fn workspaces_and_paths_do_not_mix() {
        let (store, one, two) = (memory(), workspace(), workspace());
        let mut index = StatIndex::open(&store, one.path());
        scan(&mut index, &PATHS);
        index.save().expect("saved");
        let mut index = StatIndex::open(&store, two.path());
        scan(&mut index, &PATHS);
        assert_eq!(index.counts().files_read, 6);
    }

    #[test]
    fn changes_since_a_stamp_are_told() {
        let (store, dir) = (memory(), workspace());
        let mut index = StatIndex::open(&store, dir.path());
        let seen: Vec<_> =
            index.scan(&PATHS).into_iter().filter_map(|s| Some((s.path.to_owned(), s.result.ok()??.1))).collect();
        assert_eq!(index.unchanged(&seen), Vec::<String>::new());
        std::fs::write(dir.path().join("src/b"), "44").expect("written");
        std::fs::write(dir.path().join("x"), "3").expect("written");
        std::fs::rename(dir.path().join("x"), dir.path().join("src/c")).expect("renamed");
        std::fs::remove_dir_all(dir.path().join("src/deep")).expect("removed");
        assert_eq!(index.unchanged(&seen), ["src/b", "src/c", "src/deep/e"]);
    }

    #[test]
    fn many_paths_are_looked_at_on_several_threads() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        let paths: Vec<String> = (0..3000).map(|n| format!("{}/{n:04}", n % 7)).collect();
        for path in &paths {
            std::fs::create_dir_all(dir.path().join(path).parent().expect("has one")).expect("made");
            std::fs::write(dir.path().join(path), path).expect("written");
        }
        age(&dir.path().join(paths.last().expect("some")));
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let mut index = StatIndex::open(&store, dir.path());
        for read in [3000, 3000] {
            let found = scan(&mut index, &paths);
            for (path, found) in paths.iter().zip(found) {
                assert_eq!(found, Ok(Some(file(path.as_bytes()))));
            }
            assert_eq!(index.counts().files_read, read);
        }
    }

    #[test]
    fn the_mark_of_what_was_placed_stays_with_the_content() {
        let (store, dir) = (memory(), workspace());
        let mut index = StatIndex::open(&store, dir.path());
        let Ok(Some((entry, stamp))) = index.scan(&["a"]).remove(0).result else { panic!("there") };
        index.placed("a", &entry, stamp, true);
        assert!(index.known("a").is_some_and(|known| known.placed && known.trusted));
        let mut other = StatIndex::open(&store, dir.path());
        other.placed("a", &entry, stamp, true);
        assert!(other.known("a").is_some_and(|known| !known.trusted), "nobody said when it was read");
        std::fs::write(dir.path().join("a"), "1").expect("written");
        scan(&mut index, &["a"]);
        assert!(index.known("a").is_some_and(|known| known.placed && !known.trusted), "the same content once more");
        assert_eq!(index.ours("a").len(), 1);
        std::fs::write(dir.path().join("a"), "2").expect("written");
        scan(&mut index, &["a"]);
        assert!(index.ours("a").is_empty());
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Write(usize, u8),
        Touch(usize),
        Link(usize),
        Remove(usize),
        Rename(usize, usize),
        Exec(usize),
        Reopen,
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let path = 0..6_usize;
        prop_oneof![
            4 => (path.clone(), 0..3_u8).prop_map(|(p, n)| Edit::Write(p, n)),
            1 => path.clone().prop_map(Edit::Touch),
            1 => path.clone().prop_map(Edit::Link),
            1 => path.clone().prop_map(Edit::Remove),
            1 => (path.clone(), path.clone()).prop_map(|(a, b)| Edit::Rename(a, b)),
            1 => path.prop_map(Edit::Exec),
            2 => Just(Edit::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_scan_finds_what_is_there(edits in prop::collection::vec(edit(), 1..24)) {
            let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
            std::fs::create_dir(dir.path().join("d")).expect("made");
            let paths = ["a", "b", "c", "d/a", "d/b", "d/c"];
            let at = |n: usize| dir.path().join(paths[n]);
            let mut index = StatIndex::open(&store, dir.path());
            for edit in edits {
                // Edits of what is not there do nothing.
                let _ = match edit {
                    Edit::Write(p, n) => std::fs::remove_file(at(p)).is_err() | std::fs::write(at(p), [n; 3]).is_ok(),
                    Edit::Touch(p) => std::fs::File::open(at(p)).is_ok_and(|f| f.set_modified(std::time::SystemTime::now()).is_ok()),
                    Edit::Link(p) => symlink("x", at(p)).is_ok(),
                    Edit::Remove(p) => std::fs::remove_file(at(p)).is_ok(),
                    Edit::Rename(a, b) => std::fs::rename(at(a), at(b)).is_ok(),
                    Edit::Exec(p) => !at(p).is_symlink() && std::fs::set_permissions(at(p), PermissionsExt::from_mode(0o755)).is_ok(),
                    Edit::Reopen => {
                        index.save().expect("saved");
                        index = StatIndex::open(&store, dir.path());
                        true
                    }
                };
                let found = scan(&mut index, &paths);
                for (n, found) in found.into_iter().enumerate() {
                    let meta = at(n).symlink_metadata().ok();
                    let expected = meta.map(|meta| match std::fs::read_link(at(n)) {
                        Ok(_) => Entry::Symlink { target: "x".into() },
                        Err(_) => {
                            let bytes = std::fs::read(at(n)).expect("read");
                            let exec = meta.permissions().mode() & 0o100 != 0;
                            Entry::File { blob: BlobId::of(&bytes), size: bytes.len() as u64, exec }
                        }
                    });
                    prop_assert_eq!(found, Ok(expected), "{}", paths[n]);
                }
            }
        }
    }
}
