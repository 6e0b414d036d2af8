//! What a run looked at, on its way to a file: collected, looked at once more, and written when all of it has rested.
//!
//! Unaware of how the next run compares it.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::parts;
use super::{
    FOLLOW, HEAD_BYTES, How, IDENTITY, KIND, Key, MAGIC, MANY, OWNED, PARTS, STAMP, THERE, VoidBy, digest, file, look,
    looks, looks_of, mode_of, open, parts_file,
};
use crate::beneath;
use crate::flat::Writer;
use crate::local::Layout;
use crate::parallel;
use crate::stamp::Stamp;

/// With fewer names in a directory, walking the whole path is cheaper than opening the directory.
const FEW: usize = 3;
/// Longest path that is given to the kernel.
const MAX_PATH_BYTES: usize = 4000;
/// Entries that one thread looks at in a row.
const RUN: usize = 512;
/// Most glances a store keeps; the oldest go first.
pub(super) const MAX_FILES: usize = 64;
/// Most of those that have what is known of the tasks beside them.
pub(super) const MAX_PARTS: usize = 16;

/// Entries by directory, with the name of each in it; whether no link may lead to the directory comes first.
type Groups<'s> = BTreeMap<Group<'s>, Vec<Named<'s>>>;
type Group<'s> = (bool, &'s [u8]);
type Named<'s> = (&'s Looked, &'s [u8]);

/// What a run looked at.
#[derive(Debug)]
pub struct Sight {
    workspace: PathBuf,
    paths: Vec<Looked>,
}

#[derive(Debug, Clone)]
struct Looked {
    how: How,
    path: OsString,
    /// The run would have ended otherwise if nothing had been there.
    there: bool,
    /// A task reads or made it, and nothing else follows from how it looks.
    owned: bool,
    /// How it looked when it was read, if that is all there is to know of it.
    stamp: Option<Stamp>,
}

impl Looked {
    fn dir(&self) -> &[u8] {
        split(self.path.as_bytes()).0
    }
}

impl Sight {
    /// Nothing yet, of a workspace.
    pub fn new(workspace: &Path) -> Self {
        Self { workspace: workspace.to_owned(), paths: vec![] }
    }

    /// Something was there. Relative paths begin in the workspace.
    pub fn saw(&mut self, how: How, path: impl Into<PathBuf>) {
        self.push(how, path.into(), true, false);
    }

    /// It was looked whether something is there.
    pub fn looked_for(&mut self, how: How, path: impl Into<PathBuf>) {
        self.push(how, path.into(), false, false);
    }

    fn push(&mut self, how: How, path: PathBuf, there: bool, owned: bool) {
        self.paths.push(Looked { how, path: path.into_os_string(), there, owned, stamp: None });
    }

    /// A file or link of the workspace was there that tasks read, or that one made, and looked so when its content was what
    /// the answer follows from.
    ///
    /// It is not looked at once more. A stamp that had rested when the run began is as good as its content: what was done to
    /// the file since, be it during the run, makes it look different to whoever looks next.
    pub fn saw_of_task(&mut self, path: impl Into<PathBuf>, stamp: Stamp) {
        let path = path.into().into_os_string();
        self.paths.push(Looked { how: How::Itself, path, there: true, owned: true, stamp: Some(stamp) });
    }

    /// Everything at and below a path of the workspace where a task's output stands: directories with the names in them, and
    /// what is no directory.
    pub fn made_all_below(&mut self, path: &Path) -> io::Result<()> {
        let mut dirs = Vec::new();
        let mut saw = |path: PathBuf, is_dir, dirs: &mut Vec<PathBuf>| {
            if is_dir {
                dirs.push(path.clone());
            }
            let path = path.into_os_string();
            self.paths.push(Looked { how: How::Real, path, there: true, owned: true, stamp: None });
        };
        saw(path.to_owned(), self.workspace.join(path).symlink_metadata()?.is_dir(), &mut dirs);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(self.workspace.join(&dir))? {
                let entry = entry?;
                saw(dir.join(entry.file_name()), entry.file_type()?.is_dir(), &mut dirs);
            }
        }
        Ok(())
    }

    /// Receipts were looked for in another store than the one that keeps this: any commit to it counts.
    pub fn read_store(&mut self, dir: &Path) {
        let layout = Layout::new(dir);
        for path in [layout.version(), layout.rewritten(), layout.index()] {
            self.looked_for(How::Target, path);
        }
    }

    /// Writes down how everything looks now, and what to answer when it looks so again. Does so only when nothing of it, nor
    /// of the store in `dir`, can have changed since `began_ns`: what the run saw is then what is there now.
    pub fn keep(self, dir: &Path, key: &Key, began_ns: i64, answer: &[u8], void_by: VoidBy) -> io::Result<bool> {
        self.keep_with(dir, key, began_ns, void_by, || (answer.to_vec(), vec![]))
    }

    /// The same, with what is known of the tasks, in parts: it is asked for when all else is settled, and the digest of the
    /// parts, if there are any, is put behind the answer.
    pub fn keep_with(
        mut self,
        dir: &Path,
        key: &Key,
        began_ns: i64,
        void_by: VoidBy,
        answer: impl FnOnce() -> (Vec<u8>, Vec<Vec<u8>>),
    ) -> io::Result<bool> {
        let layout = Layout::new(dir);
        // Whatever is known of tasks is in these.
        self.saw(How::Target, layout.version());
        self.looked_for(How::Target, layout.rewritten());
        let index = if void_by == VoidBy::AnyCommit { How::Target } else { How::Identity };
        self.saw(index, layout.index());
        let Some(looked) = self.encode(began_ns)? else { return Ok(false) };
        let (mut answer, parts) = answer();
        let glances = layout.glances();
        match fs::create_dir(&glances) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let temp = layout.tmp().join(format!("glance-{}", std::process::id()));
        // Neither is synced: what a power cut leaves of one is damaged, or does not fit the other, and does not count.
        if !parts.is_empty() {
            answer.extend(parts::write(&temp, &parts)?);
            fs::rename(&temp, parts_file(&layout, key))?;
        }
        let mut body = Writer::default();
        body.bytes(&answer);
        body.0.extend(looked);
        let body = body.0;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(digest(key, &body).as_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&body);
        fs::write(&temp, &bytes)?;
        fs::rename(&temp, file(&layout, key))?;
        thin_out(&glances);
        Ok(true)
    }

    fn encode(mut self, began_ns: i64) -> io::Result<Option<Vec<u8>>> {
        let base = beneath::open_root(&self.workspace)?;
        // Not `sort_unstable`: most of them come in order already, which this notices.
        self.paths.sort_by(|a, b| (a.how, &a.path).cmp(&(b.how, &b.path)));
        self.paths.dedup_by(|again, first| {
            let same = again.how == first.how && again.path == first.path;
            if same {
                first.there |= again.there;
                first.owned &= again.owned;
                first.stamp = first.stamp.filter(|stamp| again.stamp == Some(*stamp));
            }
            same
        });
        if self.paths.iter().any(|looked| looked.path.len() > MAX_PATH_BYTES || looked.path.as_bytes().contains(&0)) {
            return Ok(None);
        }
        let mut dirs: BTreeMap<(bool, &[u8]), Vec<&Looked>> = BTreeMap::new();
        for all in self.paths.chunk_by(|a, b| a.how == b.how && a.dir() == b.dir()) {
            dirs.entry((all[0].how == How::Real, all[0].dir())).or_default().extend(all);
        }
        let mut groups = Groups::new();
        for ((real, dir), all) in dirs {
            let few = !real && all.len() < FEW;
            for looked in all {
                let path = looked.path.as_bytes();
                let (dir, name) = match (few, path.strip_prefix(b"/")) {
                    (false, _) => (dir, split(path).1),
                    (true, Some(from_root)) => (&b"/"[..], from_root),
                    (true, None) => (&b""[..], path),
                };
                groups.entry((real, dir)).or_default().push((looked, if name.is_empty() { b"." } else { name }));
            }
        }
        let parts = groups.iter().flat_map(|(group, all)| all.chunks(RUN).map(|entries| (*group, entries)));
        let parts: Vec<(Group<'_>, &[Named<'_>])> = parts.collect();
        let threads = if self.paths.len() > MANY { parallel::cores() } else { 1 };
        let quiet = || Quiet { began_ns, base: base.as_fd(), known: BTreeMap::new() };
        let failed = AtomicBool::new(false);
        let bodies = parallel::map(threads, 1, &parts, quiet, |quiet, (group, entries)| {
            if failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let body = quiet.body(*group, entries);
            failed.fetch_or(!matches!(body, Ok(Some(_))), Ordering::Relaxed);
            body
        });
        let mut out = Writer::default();
        out.text(self.workspace.as_os_str().as_bytes());
        for (((real, dir), entries), body) in parts.into_iter().zip(bodies) {
            let Some(body) = body? else { return Ok(None) };
            out.number(u8::from(real), 1);
            out.number(entries.len() as u64, 4);
            out.text(dir);
            out.bytes(&body);
        }
        Ok(Some(out.0))
    }
}

/// Looks at entries once more, and at what is around those that are not there: were they not there either when they were looked
/// for?
struct Quiet<'b> {
    began_ns: i64,
    base: BorrowedFd<'b>,
    known: BTreeMap<PathBuf, bool>,
}

impl Quiet<'_> {
    /// How entries of one directory look now; `None` when any of them may have changed since the beginning.
    fn body(&mut self, (real, dir): Group<'_>, entries: &[Named<'_>]) -> io::Result<Option<Vec<u8>>> {
        let mut body = Writer::default();
        let at = open(self.base, real, dir);
        for (looked, name) in entries {
            if let Some(stamp) = looked.stamp.filter(|_| looked.owned) {
                if !stamp.is_settled(self.began_ns) {
                    return Ok(None);
                }
                let flags = OWNED | THERE | STAMP;
                body.number(flags, 1);
                body.0.extend_from_slice(&looks_of(&stamp, mode_of(&stamp), flags));
                body.text(name);
                continue;
            }
            let name = [name, &b"\0"[..]].concat();
            let name = CStr::from_bytes_with_nul(&name).map_err(io::Error::other)?;
            let how = match looked.how {
                How::Itself | How::Real => 0,
                How::Target => FOLLOW,
                How::Kind => FOLLOW | KIND,
                How::Identity => FOLLOW | IDENTITY,
            };
            let flags = how | if looked.owned { OWNED } else { 0 };
            let Ok(found) = look(&at, name, flags) else { return Ok(None) };
            let fine = match &found {
                Some(_) if matches!(looked.how, How::Kind | How::Identity) => true,
                Some(stat) => Stamp::of(stat).is_settled(self.began_ns),
                None => !looked.there && self.around(Path::new(&looked.path)),
            };
            if !fine {
                return Ok(None);
            }
            body.number(flags | if found.is_some() { THERE } else { 0 }, 1);
            if let Some(stat) = found {
                body.0.extend_from_slice(&looks(&stat, flags));
            }
            body.text(name.to_bytes());
        }
        Ok(Some(body.0))
    }

    /// Whether the directory that would hold a path has had the same names since the beginning. Outside of the workspace that
    /// is not asked: homes and temporary directories never rest, and all that is looked for there are settings.
    fn around(&mut self, path: &Path) -> bool {
        if path.is_absolute() {
            return true;
        }
        let mut dir = path.parent();
        while let Some(at) = dir {
            if let Some(known) = self.known.get(at) {
                return *known;
            }
            let name = if at.as_os_str().is_empty() { Path::new(".") } else { at };
            let quiet = match rustix::fs::statat(self.base, name, AtFlags::empty()) {
                Ok(stat) => Some(Stamp::of(&stat).is_settled(self.began_ns)),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(_) => Some(false),
            };
            if let Some(quiet) = quiet {
                self.known.insert(at.to_owned(), quiet);
                return quiet;
            }
            dir = at.parent();
        }
        false
    }
}

/// Deletes the oldest where there are many: workspaces come and go.
fn thin_out(glances: &Path) {
    let files = fs::read_dir(glances).into_iter().flatten().flatten();
    let files = files.filter_map(|f| Some((f.metadata().ok()?.modified().ok()?, f.path())));
    let (mut parts, mut files): (Vec<_>, Vec<_>) =
        files.partition(|(_, path)| path.extension().is_some_and(|e| e == PARTS));
    for (files, most) in [(&mut files, MAX_FILES), (&mut parts, MAX_PARTS)] {
        files.sort_unstable();
        let too_many = files.len().saturating_sub(most);
        // One that another process deleted is gone as well.
        files.iter().take(too_many).for_each(|(_, path)| drop(fs::remove_file(path)));
    }
}

/// A path's directory, empty for none, and its last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
