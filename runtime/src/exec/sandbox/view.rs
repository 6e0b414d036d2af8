//! What a task sees of the workspace: which files are bound one by one, which directories whole, and where it may write.
//!
//! Knows paths and what is listed in directories; unaware of mounts, of the store and of processes.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use quipu_store::tree::{MAX_DEPTH, Name};
use rustc_hash::FxHashSet;
use rustix::fs::{FileType, Mode, OFlags, RawDir};

use crate::process::{OutputKind, OutputSpec};

/// What stands at a path in the workspace that the task sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file of this machine, bound.
    File(PathBuf),
    /// A directory of this machine with all below it, bound.
    Dir(PathBuf),
    /// A symbolic link of its own.
    Link(PathBuf),
}

/// What a task sees, by path from the workspace's root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) seen: BTreeMap<String, Seen>,
    /// Directories that are there although nothing is in them yet.
    pub(super) dirs: Vec<String>,
}

/// Why there is no such view.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    #[error("`{0}` is no path inside of the workspace")]
    Path(String),
    #[error("output `{output}` and input `{input}` are in each other's place")]
    Overlap { output: String, input: String },
    #[error("input `{inner}` lies in input `{outer}`, which is no directory of the sandbox's own")]
    Inside { inner: String, outer: String },
    #[error("input `{path}`: {source}")]
    Io { path: String, source: io::Error },
}

impl ViewError {
    fn io(path: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// What decides the view.
pub(super) struct Wanted<'a> {
    /// The workspace.
    pub(super) root: &'a Path,
    /// Every declared source file, and whether it is a symbolic link.
    pub(super) sources: Vec<(&'a str, bool)>,
    /// What comes from elsewhere, by its path in the workspace.
    pub(super) artifacts: Vec<(&'a str, Seen)>,
    /// What will be written.
    pub(super) outputs: &'a [OutputSpec],
    /// Where the task runs.
    pub(super) dir: &'a str,
}

/// Whether `path` is relative, of plain components.
fn is_plain(path: &str) -> bool {
    path.split('/').all(|part| Name::new(part).is_ok()) && path.split('/').count() <= MAX_DEPTH
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The directory that all matches of a pattern are in.
fn literal_prefix(pattern: &str) -> &str {
    let end = pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len());
    parent(&pattern[..end])
}

/// Whether `path` is `dir` or below it.
fn is_within(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl View {
    /// Makes the view.
    pub(super) fn new(mut wanted: Wanted<'_>) -> Result<Self, ViewError> {
        wanted.sources.sort_unstable();
        wanted.sources.dedup();
        let artifacts = wanted.artifacts.iter().map(|(path, _)| *path);
        let outputs = wanted.outputs.iter().map(|o| &*o.path);
        let dir = Some(wanted.dir).filter(|d| !d.is_empty());
        for path in wanted.sources.iter().map(|(path, _)| *path).chain(artifacts).chain(outputs).chain(dir) {
            if !is_plain(path) {
                return Err(ViewError::Path(path.to_owned()));
            }
        }
        let mut view = Self::default();
        let mut blocked: FxHashSet<&str> = FxHashSet::default();
        for path in wanted.artifacts.iter().map(|(path, _)| *path).chain(wanted.outputs.iter().map(|o| match o.kind {
            OutputKind::Glob => literal_prefix(&o.path),
            OutputKind::File | OutputKind::Dir => parent(&o.path),
        })) {
            add_with_parents(path, &mut blocked);
        }
        // The working directory can always be written to.
        add_with_parents(wanted.dir, &mut blocked);
        let covering = Covering { root: wanted.root, blocked: &blocked, globs: &globs(wanted.outputs) };
        covering.visit("", &wanted.sources, &mut view.seen)?;
        view.seen.extend(wanted.artifacts.into_iter().map(|(path, seen)| (path.to_owned(), seen)));
        // Invariant: no input is below another, so that no place is ever made through a link.
        for path in view.seen.keys() {
            if let Some(outer) = view.holder(parent(path)) {
                return Err(ViewError::Inside { inner: path.clone(), outer: outer.to_owned() });
            }
        }
        for output in wanted.outputs {
            let dir = match output.kind {
                OutputKind::Glob => literal_prefix(&output.path),
                OutputKind::File | OutputKind::Dir => {
                    view.check_apart(output)?;
                    parent(&output.path)
                }
            };
            view.dirs.push(dir.to_owned());
        }
        view.dirs.push(wanted.dir.to_owned());
        Ok(view)
    }

    /// An output may not be, contain, or lie in an input.
    fn check_apart(&self, output: &OutputSpec) -> Result<(), ViewError> {
        let overlap = |input: &str| ViewError::Overlap { output: output.path.to_string(), input: input.to_owned() };
        if let Some(input) = self.holder(&output.path) {
            return Err(overlap(input));
        }
        let below = format!("{}/", output.path);
        match self.seen.range(below.clone()..).next() {
            Some((input, _)) if input.starts_with(&below) => Err(overlap(input)),
            _ => Ok(()),
        }
    }

    /// Makes the places in `ws` that inputs are bound over, and the directories that are to be there.
    pub(super) fn make(&self, ws: &Path) -> io::Result<()> {
        let top = rustix::fs::open(ws, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut made: FxHashSet<&str> = FxHashSet::default();
        let (dir_mode, file_mode) = (Mode::from_raw_mode(0o755), Mode::from_raw_mode(0o644));
        let mut make_dir = |path| -> io::Result<()> {
            let mut missing = Vec::new();
            let mut path: &str = path;
            while !path.is_empty() && made.insert(path) {
                missing.push(path);
                path = parent(path);
            }
            for dir in missing.into_iter().rev() {
                match rustix::fs::mkdirat(&top, dir, dir_mode) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        };
        for (path, seen) in &self.seen {
            match seen {
                Seen::Dir(_) => make_dir(path)?,
                Seen::File(_) => {
                    make_dir(parent(path))?;
                    rustix::fs::mknodat(&top, path, FileType::RegularFile, file_mode, 0)?;
                }
                Seen::Link(target) => {
                    make_dir(parent(path))?;
                    rustix::fs::symlinkat(target, &top, path)?;
                }
            }
        }
        for dir in self.dirs.iter().filter(|dir| self.holder(dir).is_none()) {
            make_dir(dir)?;
        }
        Ok(())
    }

    /// The input that is at `path` or above it.
    fn holder<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut above = Some(path);
        while let Some(path) = above {
            if self.seen.contains_key(path) {
                return Some(path);
            }
            above = path.rsplit_once('/').map(|(parent, _)| parent);
        }
        None
    }
}

fn globs(outputs: &[OutputSpec]) -> Vec<&str> {
    outputs.iter().filter(|o| o.kind == OutputKind::Glob).map(|o| literal_prefix(&o.path)).collect()
}

fn add_with_parents<'a>(path: &'a str, set: &mut FxHashSet<&'a str>) {
    let mut path = path;
    while set.insert(path) && !path.is_empty() {
        path = parent(path);
    }
}

/// Finds the directories in which there is nothing but declared sources.
struct Covering<'a> {
    root: &'a Path,
    /// Directories below which there must be room for something else.
    blocked: &'a FxHashSet<&'a str>,
    /// Directories in which anything may be written.
    globs: &'a [&'a str],
}

impl Covering<'_> {
    /// Adds what is seen of `dir`, whose sources are `sources`; all of `dir` at once where that is the same.
    fn visit(&self, dir: &str, sources: &[(&str, bool)], seen: &mut BTreeMap<String, Seen>) -> Result<bool, ViewError> {
        let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let mut own = BTreeMap::new();
        let mut entries = 0_usize;
        let mut whole =
            !dir.is_empty() && !self.blocked.contains(dir) && !self.globs.iter().any(|glob| is_within(dir, glob));
        let mut files = Vec::new();
        let mut rest = sources;
        while let Some((first, link)) = rest.first() {
            entries += 1;
            let Some((name, _)) = first[skip..].split_once('/') else {
                files.push((*first, *link));
                rest = &rest[1..];
                continue;
            };
            let below = &first[..skip + name.len()];
            let count = rest.partition_point(|(path, _)| is_within(path, below));
            whole &= self.visit(below, &rest[..count], &mut own)?;
            rest = &rest[count..];
        }
        // Each declared source is there: it was looked at a moment ago, and is again afterwards. So if there are as many
        // entries as were declared, they are the declared ones.
        if whole && lists_exactly(&self.root.join(dir), entries) {
            seen.insert(dir.to_owned(), Seen::Dir(self.root.join(dir)));
            return Ok(true);
        }
        for (path, link) in files {
            let host = self.root.join(path);
            let what = if link {
                Seen::Link(std::fs::read_link(&host).map_err(ViewError::io(path))?)
            } else {
                Seen::File(host)
            };
            seen.insert(path.to_owned(), what);
        }
        seen.append(&mut own);
        Ok(false)
    }
}

/// Whether a directory (no link to one) has exactly `count` entries.
fn lists_exactly(dir: &Path, count: usize) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(dir, flags, Mode::empty()) else { return false };
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut listing = RawDir::new(&fd, &mut buffer);
    let mut found = 0;
    while let Some(entry) = listing.next() {
        let Ok(entry) = entry else { return false };
        found += usize::from(!matches!(entry.file_name().to_bytes(), b"." | b".."));
        if found > count {
            return false;
        }
    }
    found == count
}
