//! The stat index of one workspace: what each path held when it was last read, so that it need not be read again.
//!
//! Loads one packed chunk per directory when it is first needed. Unaware of tasks. Every doubt is settled by reading:
//! a chunk that is missing or damaged, a stamp that differs, a file changed too close to when it was read.

mod directory;
mod holds;
mod second_look;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use rustix::io::Errno;

use self::directory::Directory;
pub use self::holds::Standing;
pub use self::second_look::SecondLook;
use crate::beneath;
use crate::checkout::Placed;
use crate::ingest::Ingested;
pub use crate::look::ScanError;
use crate::look::{Grouped, Job, Read, no_content, read_all};
use crate::stamp::{Stamp, now_ns};
use crate::stat_chunk::Chunk;
pub use crate::stat_chunk::Known;
use crate::tree::Entry;
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
    fd: Result<Arc<OwnedFd>, Errno>,
    workspace: [u8; 16],
    dirs: FxHashMap<Box<str>, Directory>,
    /// What was so young when it was read that an equal stamp does not mean equal content, with what it held.
    young: FxHashMap<Box<str>, Entry>,
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

/// How a path looks beside what is known of it.
enum Probe {
    Missing,
    Same(Entry, Stamp),
    /// It was something else, and was read.
    Read(Entry, Stamp),
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
        let fd = beneath::open_root(&absolute).map(Arc::new);
        let (dirs, young, counts) = Default::default();
        Self { store: store.clone(), root: absolute, fd, workspace, dirs, young, counts }
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
            self.dirs.insert(dir.into(), base.into());
        }
        self.dirs.get_mut(dir).expect("it was loaded above")
    }

    /// Looks at paths, in those of the directories that are `open` there; with `read`, reads what is new where that is best done
    /// at once.
    fn probe(&mut self, grouped: &Grouped<'_>, open: &[Result<Option<OwnedFd>, Errno>], read: bool) -> Vec<Probe> {
        for dir in &grouped.dirs {
            self.load(dir);
        }
        let fd = match &self.fd {
            Ok(fd) => fd.as_fd(),
            Err(error) => return grouped.items.iter().map(|_| Probe::Failed(*error)).collect(),
        };
        let dirs: Vec<&Directory> = grouped.dirs.iter().map(|dir| &self.dirs[*dir]).collect();
        grouped.look(fd, open, |here, item, found| match found {
            Ok(None) => Probe::Missing,
            Err(error) => Probe::Failed(error),
            Ok(Some(stamp)) => match dirs[item.dir].get_near(&mut here.near, item.name) {
                Some(known) if known.trusted && known.stamp == stamp => Probe::Same(known.entry.clone(), stamp),
                _ if read => here.read(item, &stamp).map_or(Probe::New(stamp), |entry| Probe::Read(entry, stamp)),
                _ => Probe::New(stamp),
            },
        })
    }

    /// Says what each of `paths` (relative, best sorted) holds: what is known where that can be relied on, and read
    /// where not. What is missing and what is a directory is forgotten.
    pub fn scan<'p>(&mut self, paths: &[&'p str]) -> Vec<Scanned<'p>> {
        let (out, young) = self.scan_now(paths);
        if !self.young.is_empty() {
            out.iter().for_each(|scanned| drop(self.young.remove(scanned.path)));
        }
        for index in young {
            if let Ok(Some((entry, _))) = &out[index].result {
                self.young.insert(paths[index].into(), entry.clone());
            }
        }
        out
    }

    /// The paths of `seen`, files that were scanned, that do not hold any more what they held then, although they may look the
    /// same: written to right after they were read, within the grain of the clock. Only those are read once more that were
    /// that young.
    pub fn changed_when_young(&mut self, seen: &[(impl AsRef<str>, Stamp)]) -> Vec<String> {
        if self.young.is_empty() {
            return vec![];
        }
        let held = seen.iter().filter_map(|(path, _)| self.young.get_key_value(path.as_ref()));
        let (paths, held): (Vec<_>, Vec<_>) = held.map(|(path, entry)| (path.clone(), entry.clone())).unzip();
        let paths: Vec<&str> = paths.iter().map(|path| &**path).collect();
        let now = self.scan_now(&paths).0.into_iter().zip(held);
        let changed = now.filter(|(now, held)| !matches!(&now.result, Ok(Some((entry, _))) if entry == held));
        changed.map(|(now, _)| now.path.to_owned()).collect()
    }

    /// What each of `paths` holds, and which of these cannot be relied on to look different once they are.
    fn scan_now<'p>(&mut self, paths: &[&'p str]) -> (Vec<Scanned<'p>>, Vec<usize>) {
        let grouped = Grouped::new(paths.iter().copied());
        // Before the first look: what changes from here on has times not before this, but for the clock's grain.
        let looked_ns = now_ns();
        let mut probes = self.probe(&grouped, &[], true).into_iter();
        let mut out: Vec<_> = paths.iter().map(|path| Scanned { path, result: Ok(None) }).collect();
        for index in grouped.bad {
            out[index].result = Err(ScanError::Path { path: paths[index].to_owned() });
        }
        let (mut jobs, mut young) = (Vec::new(), Vec::new());
        for items in grouped.items.chunk_by(|a, b| a.dir == b.dir) {
            let directory = self.dirs.get_mut(grouped.dirs[items[0].dir]).expect("it was loaded to look at its files");
            let mut near = 0;
            for (item, probe) in items.iter().zip(&mut probes) {
                match probe {
                    Probe::Same(entry, stamp) => out[item.index].result = Ok(Some((entry, stamp))),
                    Probe::Read(entry, stamp) => {
                        self.counts.files_read += 1;
                        self.counts.bytes_read += stamp.size;
                        let read = Read { entry, stamp, looked_ns };
                        young.extend(Some(item.index).filter(|_| !read.is_settled()));
                        note_read(directory, &mut near, item.name, Some(&read));
                        out[item.index].result = Ok(Some((read.entry, stamp)));
                    }
                    Probe::Missing => directory.set_near(&mut near, item.name, None),
                    Probe::Failed(error) => out[item.index].result = Err(ScanError::io(item.path, error)),
                    Probe::New(stamp) if beneath::is_content(stamp.kind) => {
                        jobs.push(Job { index: item.index, path: item.path, stamp });
                    }
                    Probe::New(stamp) => {
                        directory.set_near(&mut near, item.name, None);
                        out[item.index].result = Err(no_content(item.path, stamp.kind));
                    }
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
                let (dir, name) = beneath::split(job.path);
                note_read(self.load(dir), &mut 0, name, read.as_ref());
                young.extend(read.as_ref().filter(|read| !read.is_settled()).map(|_| job.index));
                read.map(|read| (read.entry, read.stamp))
            });
        }
        (out, young)
    }

    /// What looks at its files a second time.
    pub fn second_look(&self) -> SecondLook {
        SecondLook(self.fd.clone())
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

    pub(crate) fn root_fd(&self) -> Result<std::os::fd::BorrowedFd<'_>, Errno> {
        self.fd.as_ref().map(AsFd::as_fd).map_err(|error| *error)
    }

    /// Writes the chunks that changed; nothing when nothing did.
    pub fn save(&mut self) -> Result<(), StoreError> {
        for (dir, directory) in &mut self.dirs {
            let Some(merged) = directory.merged() else { continue };
            let key = [&self.workspace, dir.as_bytes()].concat();
            // A directory too large for any chunk is read anew each time.
            let bytes = merged.encode(&key);
            directory.base = merged;
            if let Some(bytes) = bytes {
                self.store.put_stat_chunk(&key, bytes)?;
                self.counts.chunks_written += 1;
            }
        }
        Ok(())
    }
}

/// Keeps what was read, if an equal stamp will mean equal content. `near` is where its name may be.
fn note_read(directory: &mut Directory, near: &mut usize, name: &str, read: Option<&Read>) {
    let known = read.and_then(|read| {
        let (Read { entry, stamp, .. }, trusted) = (read, read.is_settled());
        let before = directory.get_near(&mut near.clone(), name);
        let placed = before.is_some_and(|known| known.placed && known.entry == *entry);
        // Without trust only the mark is worth keeping.
        (trusted || placed).then(|| Known { stamp: *stamp, entry: entry.clone(), placed, trusted })
    });
    directory.set_near(near, name, known);
}
