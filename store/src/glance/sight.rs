//! What a run looked at, on its way to a file: collected, looked at once more, and written when all of it has rested.
//!
//! Unaware of how the next run compares it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::parts;
use super::{
    FOLLOW, HEAD_BYTES, How, IDENTITY, KIND, Key, MAGIC, OWNED, PARTS, THERE, VoidBy, digest, file, look, looks, open,
    parts_file,
};
use crate::beneath;
use crate::flat::Writer;
use crate::local::Layout;
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
type Groups<'s> = BTreeMap<(bool, &'s [u8]), Vec<(&'s Looked, &'s [u8])>>;

/// What a run looked at.
#[derive(Debug)]
pub struct Sight {
    workspace: PathBuf,
    paths: Vec<Looked>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Looked {
    how: How,
    path: PathBuf,
    /// The run would have ended otherwise if nothing had been there.
    there: bool,
    /// A task reads or made it, and nothing else follows from how it looks.
    owned: bool,
}

impl Sight {
    /// Nothing yet, of a workspace.
    pub fn new(workspace: &Path) -> Self {
        Self { workspace: workspace.to_owned(), paths: vec![] }
    }

    /// Something was there. Relative paths begin in the workspace.
    pub fn saw(&mut self, how: How, path: impl Into<PathBuf>) {
        self.paths.push(Looked { how, path: path.into(), there: true, owned: false });
    }

    /// It was looked whether something is there.
    pub fn looked_for(&mut self, how: How, path: impl Into<PathBuf>) {
        self.paths.push(Looked { how, path: path.into(), there: false, owned: false });
    }

    /// A file of the workspace was there that tasks read, or that one made.
    pub fn saw_of_task(&mut self, path: impl Into<PathBuf>) {
        self.paths.push(Looked { how: How::Itself, path: path.into(), there: true, owned: true });
    }

    /// Everything at and below a path of the workspace where a task's output stands: directories with the names in them, and
    /// what is no directory.
    pub fn made_all_below(&mut self, path: &Path) -> io::Result<()> {
        let mut open = vec![path.to_owned()];
        while let Some(path) = open.pop() {
            let full = self.workspace.join(&path);
            if full.symlink_metadata()?.is_dir() {
                for entry in fs::read_dir(&full)? {
                    open.push(path.join(entry?.file_name()));
                }
            }
            self.paths.push(Looked { how: How::Real, path, there: true, owned: true });
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
        self.paths.sort_unstable();
        self.paths.dedup_by(|again, first| {
            let same = again.how == first.how && again.path == first.path;
            if same {
                first.there |= again.there;
                first.owned &= again.owned;
            }
            same
        });
        let mut dirs: BTreeMap<(bool, &[u8]), Vec<&Looked>> = BTreeMap::new();
        for looked in &self.paths {
            let path = looked.path.as_os_str().as_bytes();
            if path.len() > MAX_PATH_BYTES || path.contains(&0) {
                return Ok(None);
            }
            dirs.entry((looked.how == How::Real, split(path).0)).or_default().push(looked);
        }
        let mut groups = Groups::new();
        for ((real, dir), all) in dirs {
            let few = !real && all.len() < FEW;
            for looked in all {
                let path = looked.path.as_os_str().as_bytes();
                let (dir, name) = match (few, path.strip_prefix(b"/")) {
                    (false, _) => (dir, split(path).1),
                    (true, Some(from_root)) => (&b"/"[..], from_root),
                    (true, None) => (&b""[..], path),
                };
                groups.entry((real, dir)).or_default().push((looked, if name.is_empty() { b"." } else { name }));
            }
        }
        let mut out = Writer::default();
        out.text(self.workspace.as_os_str().as_bytes());
        let mut quiet = Quiet { began_ns, base: base.as_fd(), known: BTreeMap::new() };
        for ((real, dir), entries) in groups {
            for entries in entries.chunks(RUN) {
                let mut body = Writer::default();
                let at = open(base.as_fd(), real, dir);
                for (looked, name) in entries {
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
                        Some(stat) => Stamp::of(stat).is_settled(began_ns),
                        None => !looked.there && quiet.around(&looked.path),
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
                out.number(u8::from(real), 1);
                out.number(entries.len() as u64, 4);
                out.text(dir);
                out.bytes(&body.0);
            }
        }
        Ok(Some(out.0))
    }
}

/// What is not there: was it not there either when it was looked for?
struct Quiet<'b> {
    began_ns: i64,
    base: BorrowedFd<'b>,
    known: BTreeMap<PathBuf, bool>,
}

impl Quiet<'_> {
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
