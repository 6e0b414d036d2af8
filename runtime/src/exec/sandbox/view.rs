//! What a task sees of the workspace: which files are bound one by one, which directories whole, and where it may write.
//!
//! Knows paths and what is listed in directories; unaware of mounts, of the store and of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quipu_store::stamp::{Stamp, now_ns};
use quipu_store::tree::{MAX_DEPTH, MAX_NAME_BYTES};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};

use crate::path::{is_within, parent};
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
///
/// Directories that outputs are written in are on disk, those that only have inputs in them cannot be written to (whether
/// they are bound whole or not), and the rest is in memory: what is left there is looked at and then gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) seen: BTreeMap<String, Seen>,
    /// Directories that are there although nothing is in them yet.
    pub(super) dirs: BTreeSet<String>,
    /// Outermost directories that have inputs in them and nothing else.
    pub(super) still: BTreeSet<String>,
    /// Outermost directories that outputs are written in.
    pub(super) disk: BTreeSet<String>,
    /// The directories that are bound whole, and those in them.
    pub(super) whole: Vec<Whole>,
}

/// A directory with nothing in it but what was declared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    dir: PathBuf,
    entries: usize,
    /// How it looked before its entries were counted.
    stamp: Stamp,
}

/// What a directory that the task sees is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// One that cannot be written to.
    Still,
    /// One on disk.
    Disk,
    /// One in memory.
    Memory,
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
    /// What earlier tasks found.
    pub(super) counts: &'a Counts,
}

/// How many entries directories have, as long as they look as they did when that was counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    known: Mutex<FxHashMap<PathBuf, (Stamp, Counted)>>,
    /// Directories in which something came or went while a task saw all of them.
    restless: Mutex<FxHashSet<PathBuf>>,
}

/// What was counted in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// So many entries.
    All(usize),
    /// More than so many.
    Over(usize),
}

impl Counts {
    /// How a directory (no link to one) looks that has exactly `count` entries, and in which nothing came or went under a task.
    fn is(&self, dir: &Path, count: usize) -> Option<Stamp> {
        if self.restless().contains(dir) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty()).ok()?;
        let stamp = rustix::fs::fstat(&fd).map(|stat| Stamp::of(&stat)).ok()?;
        let known = self.known().get(dir).copied();
        match known.filter(|(then, _)| *then == stamp) {
            Some((_, Counted::All(found))) => return (found == count).then_some(stamp),
            Some((_, Counted::Over(found))) if found >= count => return None,
            _ => {}
        }
        let looked_ns = now_ns();
        let found = entries(&fd, count)?;
        // A change right after it might leave the times as they are.
        if stamp.is_settled(looked_ns) {
            self.known().insert(dir.to_owned(), (stamp, found));
        }
        (found == Counted::All(count)).then_some(stamp)
    }

    fn known(&self) -> MutexGuard<'_, FxHashMap<PathBuf, (Stamp, Counted)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restless(&self) -> MutexGuard<'_, FxHashSet<PathBuf>> {
        self.restless.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many entries a directory has, as far as that is not more than `enough`.
fn entries(dir: &OwnedFd, enough: usize) -> Option<Counted> {
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut listing = RawDir::new(dir, &mut buffer);
    let mut found = 0;
    while let Some(entry) = listing.next() {
        found += usize::from(!matches!(entry.ok()?.file_name().to_bytes(), b"." | b".."));
        if found > enough {
            return Some(Counted::Over(enough));
        }
    }
    Some(Counted::All(found))
}

/// Whether `path` is relative, of plain components. `known` is a directory that was seen to be; it becomes that of `path`, so
/// that of many files in one directory only the names are looked at.
fn is_plain<'p>(path: &'p str, known: &mut Option<&'p str>) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= MAX_NAME_BYTES && !part.contains('\0');
    if let Some(name) = known.and_then(|dir| path.strip_prefix(dir)?.strip_prefix('/'))
        && !name.contains('/')
    {
        return is_name(name);
    }
    let Some((dir, name)) = path.rsplit_once('/') else { return is_name(path) };
    let mut depth = 1;
    let mut parts = dir.split('/').inspect(|_| depth += 1);
    if !parts.all(is_name) || depth > MAX_DEPTH {
        return false;
    }
    *known = Some(dir);
    is_name(name)
}

/// The directory that all matches of a pattern are in.
fn literal_prefix(pattern: &str) -> &str {
    let end = pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len());
    parent(&pattern[..end])
}

impl View {
    /// Makes the view.
    pub(super) fn new(mut wanted: Wanted<'_>) -> Result<Self, ViewError> {
        if !wanted.sources.is_sorted_by(|a, b| a < b) {
            wanted.sources.sort_unstable();
            wanted.sources.dedup();
        }
        let artifacts = wanted.artifacts.iter().map(|(path, _)| *path);
        let outputs = wanted.outputs.iter().map(|o| &*o.path);
        let dir = Some(wanted.dir).filter(|d| !d.is_empty());
        let mut known = None;
        for path in wanted.sources.iter().map(|(path, _)| *path).chain(artifacts).chain(outputs).chain(dir) {
            if !is_plain(path, &mut known) {
                return Err(ViewError::Path(path.to_owned()));
            }
        }
        let mut view = Self::default();
        let mut blocked: FxHashSet<&str> = FxHashSet::default();
        wanted.outputs.iter().for_each(|output| add_with_parents(written_in(output), &mut blocked));
        // The working directory can always be written to.
        add_with_parents(wanted.dir, &mut blocked);
        let mut shared = blocked.clone();
        wanted.artifacts.iter().for_each(|(path, _)| add_with_parents(path, &mut shared));
        let globs: Vec<&str> = wanted.outputs.iter().filter(|o| o.kind == OutputKind::Glob).map(written_in).collect();
        let covering = Covering { root: wanted.root, blocked: &shared, globs: &globs, counts: wanted.counts };
        covering.visit("", &wanted.sources, &mut view)?;
        view.seen.extend(wanted.artifacts.into_iter().map(|(path, seen)| (path.to_owned(), seen)));
        // Invariant: no input is below another, so that no place is ever made through a link.
        for path in view.seen.keys() {
            if let Some(outer) = view.holder(parent(path)) {
                return Err(ViewError::Inside { inner: path.clone(), outer: outer.to_owned() });
            }
        }
        for output in wanted.outputs.iter().filter(|o| o.kind != OutputKind::Glob) {
            view.check_apart(output)?;
        }
        let written: BTreeSet<&str> = wanted.outputs.iter().map(written_in).collect();
        view.dirs = written.iter().copied().chain([wanted.dir]).map(str::to_owned).collect();
        let outermost = written.iter().filter(|dir| !written.iter().any(|d| d != *dir && is_within(dir, d)));
        view.disk = outermost.map(|dir| (*dir).to_owned()).collect();
        for path in view.seen.keys() {
            let mut outermost = None;
            let mut dir = parent(path);
            while !dir.is_empty() && !blocked.contains(dir) {
                outermost = Some(dir);
                dir = parent(dir);
            }
            if let Some(dir) = outermost.filter(|dir| !globs.iter().any(|glob| is_within(dir, glob)))
                && !view.still.contains(dir)
            {
                view.still.insert(dir.to_owned());
            }
        }
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

    /// Whether something came or went in a directory that is bound whole: the task may have seen more than was declared. Such a
    /// directory is not bound whole again.
    pub(super) fn is_disturbed(&self, counts: &Counts) -> bool {
        let is_as_before = |whole: &&Whole| counts.is(&whole.dir, whole.entries) == Some(whole.stamp);
        let disturbed: Vec<PathBuf> =
            self.whole.iter().filter(|whole| !is_as_before(whole)).map(|w| w.dir.clone()).collect();
        let is_any = !disturbed.is_empty();
        counts.restless().extend(disturbed);
        is_any
    }

    /// What the directory `dir` is.
    pub(super) fn ground(&self, dir: &str) -> Ground {
        let mut dir = dir;
        loop {
            if self.still.contains(dir) {
                return Ground::Still;
            } else if self.disk.contains(dir) {
                return Ground::Disk;
            } else if dir.is_empty() {
                return Ground::Memory;
            }
            dir = parent(dir);
        }
    }

    fn is_on_disk(&self, path: &str) -> bool {
        self.ground(parent(path)) == Ground::Disk
    }

    /// The directories that are on disk before the task runs, each after the one it is in.
    pub(super) fn dirs_on_disk(&self) -> BTreeSet<String> {
        let still = self.still.iter().filter(|dir| self.is_on_disk(dir)).map(String::as_str);
        let seen = self.seen.iter().filter(|(path, _)| self.is_on_disk(path));
        let seen = seen.map(|(path, seen)| if let Seen::Dir(_) = seen { path } else { parent(path) });
        let dirs = self.dirs.iter().filter(|dir| self.ground(dir) == Ground::Disk && self.holder(dir).is_none());
        let mut all = FxHashSet::default();
        let disk = self.disk.iter().map(String::as_str);
        disk.chain(still).chain(seen).chain(dirs.map(String::as_str)).for_each(|dir| add_with_parents(dir, &mut all));
        all.into_iter().filter(|dir| !dir.is_empty()).map(str::to_owned).collect()
    }

    /// Makes what is on disk, in `ws`: directories that are not `there`, and places that inputs are bound over. `empty` is a
    /// file on the same file system: one more name for it is all a place needs.
    pub(super) fn make(&self, ws: &Path, empty: &Path, there: &BTreeSet<String>) -> io::Result<()> {
        let dirs = self.dirs_on_disk();
        let seen: Vec<_> =
            self.seen.iter().filter(|(path, seen)| !matches!(seen, Seen::Dir(_)) && self.is_on_disk(path)).collect();
        if seen.is_empty() && dirs.is_subset(there) {
            return Ok(());
        }
        let top = rustix::fs::open(ws, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for dir in dirs.difference(there) {
            rustix::fs::mkdirat(&top, &**dir, Mode::from_raw_mode(0o755))?;
        }
        for (path, seen) in seen {
            match seen {
                Seen::Link(target) => rustix::fs::symlinkat(target, &top, path)?,
                _ if rustix::fs::linkat(rustix::fs::CWD, empty, &top, path, AtFlags::empty()).is_ok() => {}
                _ => rustix::fs::mknodat(&top, path, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)?,
            }
        }
        Ok(())
    }

    /// The input that is at `path` or above it.
    pub(super) fn holder<'p>(&self, path: &'p str) -> Option<&'p str> {
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

/// The directory that an output is written in, or below.
fn written_in(output: &OutputSpec) -> &str {
    match output.kind {
        OutputKind::Glob => literal_prefix(&output.path),
        OutputKind::File | OutputKind::Dir => parent(&output.path),
    }
}

fn add_with_parents<'a>(path: &'a str, set: &mut FxHashSet<&'a str>) {
    let mut path = path;
    while set.insert(path) && !path.is_empty() {
        path = parent(path);
    }
}

/// The directories from the top down to `path` that were not given before; `given` remembers.
pub(super) fn new_dirs<'p>(path: &'p str, given: &mut FxHashSet<&'p str>) -> Vec<&'p str> {
    let mut dirs = Vec::new();
    let mut path = path;
    while !path.is_empty() && given.insert(path) {
        dirs.push(path);
        path = parent(path);
    }
    dirs.reverse();
    dirs
}

/// Finds the directories in which there is nothing but declared sources.
struct Covering<'a> {
    root: &'a Path,
    /// Directories below which there must be room for something else.
    blocked: &'a FxHashSet<&'a str>,
    /// Directories in which anything may be written.
    globs: &'a [&'a str],
    counts: &'a Counts,
}

impl Covering<'_> {
    /// Adds what is seen of `dir`, whose sources are `sources`; all of `dir` at once where that is the same.
    fn visit(&self, dir: &str, sources: &[(&str, bool)], view: &mut View) -> Result<bool, ViewError> {
        let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let mut own = View::default();
        let mut entries = 0_usize;
        let mut whole =
            !dir.is_empty() && !self.blocked.contains(dir) && !self.globs.iter().any(|glob| is_within(dir, glob));
        let mut rest = sources;
        while let Some((first, _)) = rest.first() {
            entries += 1;
            let Some(end) = first.as_bytes()[skip..].iter().position(|byte| *byte == b'/') else {
                rest = &rest[1..];
                continue;
            };
            let below = &first[..skip + end];
            let count = rest.partition_point(|(path, _)| is_within(path, below));
            whole &= self.visit(below, &rest[..count], &mut own)?;
            rest = &rest[count..];
        }
        // Each declared source is there: it was looked at a moment ago, and is again afterwards. So if there are as many
        // entries as were declared, they are the declared ones.
        let host = self.root.join(dir);
        let stamp = if whole { self.counts.is(&host, entries) } else { None };
        view.whole.append(&mut own.whole);
        if let Some(stamp) = stamp {
            view.whole.push(Whole { dir: host.clone(), entries, stamp });
            view.seen.insert(dir.to_owned(), Seen::Dir(host));
            return Ok(true);
        }
        for (path, link) in sources.iter().filter(|(path, _)| !path[skip..].contains('/')) {
            let host = self.root.join(path);
            let what = if *link {
                Seen::Link(std::fs::read_link(&host).map_err(ViewError::io(path))?)
            } else {
                Seen::File(host)
            };
            view.seen.insert((*path).to_owned(), what);
        }
        view.seen.append(&mut own.seen);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_is_no_plain_path_whatever_was_seen_before() {
        let deep = |n: usize| vec!["d"; n].join("/");
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        let bad =
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../a", "a/./a", "a\0", "a\0/b", "a/b\0", &long];
        let too_deep = deep(MAX_DEPTH + 1);
        for before in [None, Some("a"), Some("a/b"), Some("d")] {
            for path in bad.into_iter().chain([&*too_deep]) {
                let mut known = before;
                assert!(!is_plain(path, &mut known), "{path:?} after {before:?}");
            }
            for path in ["a", "a/b", "a/b/c", "...", &deep(MAX_DEPTH)] {
                assert!(is_plain(path, &mut { before }), "{path:?} after {before:?}");
            }
        }
    }

    #[test]
    fn a_directory_is_covered_when_it_has_exactly_so_many_entries_whatever_was_asked_before() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["a", "b", "c"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        // So that what is counted is remembered.
        std::thread::sleep(std::time::Duration::from_millis(40));
        let counts = Counts::default();
        for _ in 0..2 {
            for count in [1, 0, 2, 3, 4, 2, 1] {
                assert_eq!(counts.is(dir.path(), count).is_some(), count == 3, "{count}");
            }
        }
        std::fs::remove_file(dir.path().join("a")).expect("removed");
        assert!(
            counts.is(dir.path(), 2).is_some() && counts.is(dir.path(), 3).is_none(),
            "what is remembered is of then"
        );
    }
}
