//! What stands in a worker's workspace: the inputs of the request at hand, and nothing of those before.
//!
//! Files that the next request has, too, stay where they are. Unaware of what is done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quipu_store::Store;
use quipu_store::checkout::checkout;
use quipu_store::cid::TreeId;
use quipu_store::receipt::FailureKind;
use quipu_store::stamp::Stamp;
use quipu_store::tree::Entry;
use rustix::fs::{AtFlags, CWD, statat};

use super::super::super::plain::Halt;
use super::super::super::workspace::remove_dir;

/// Where an input is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The workspace.
    Source,
    /// Another task.
    Task,
}

/// Inputs by path.
pub(super) type Wanted<'a> = BTreeMap<&'a str, (&'a Entry, From)>;

/// The files of a tree by path.
pub(super) fn sources(store: &Store, tree: Option<TreeId>) -> Result<Vec<(String, Entry)>, FailureKind> {
    match tree {
        Some(tree) => files(store, "", tree),
        None => Ok(vec![]),
    }
}

/// All inputs of a request.
pub(super) fn wanted<'a>(sources: &'a [(String, Entry)], artifacts: &'a [(String, Entry)]) -> Wanted<'a> {
    let of = |from| move |(path, entry): &'a (String, Entry)| (path.as_str(), (entry, from));
    sources.iter().map(of(From::Source)).chain(artifacts.iter().map(of(From::Task))).collect()
}

/// All files of all inputs, each with its content's id, as a request lists them.
pub(super) fn listed(
    store: &Store,
    sources: &[(String, Entry)],
    artifacts: &[(String, Entry)],
) -> Result<Vec<(String, String)>, FailureKind> {
    let mut all = BTreeMap::new();
    let mut add = |path: &str, entry: &Entry| {
        if let Entry::File { blob, .. } = entry {
            all.insert(path.to_owned(), blob.to_string());
        }
    };
    for (path, entry) in sources.iter().chain(artifacts) {
        match entry {
            Entry::Dir { tree } => files(store, path, *tree)?.iter().for_each(|(path, entry)| add(path, entry)),
            entry => add(path, entry),
        }
    }
    Ok(all.into_iter().collect())
}

/// The files and links below a directory of the store, by path.
fn files(store: &Store, below: &str, tree: TreeId) -> Result<Vec<(String, Entry)>, FailureKind> {
    let failed = |why: String| FailureKind::Executor { why: format!("its inputs cannot be listed: {why}") };
    let (mut out, mut todo) = (vec![], vec![(below.to_owned(), tree)]);
    while let Some((dir, tree)) = todo.pop() {
        let found = store.tree(tree).map_err(|error| failed(error.to_string()))?;
        let found = found.ok_or_else(|| failed(format!("`{tree}` is not in the store")))?;
        for (name, entry) in found.entries() {
            let path = if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") };
            match entry {
                Entry::Dir { tree } => todo.push((path, *tree)),
                entry => out.push((path, entry.clone())),
            }
        }
    }
    Ok(out)
}

/// What stands in the workspace of one worker.
pub(super) struct Staged {
    root: PathBuf,
    store: Store,
    /// What was put there, and how it looked then; directories have no look of their own.
    held: BTreeMap<String, (Entry, Option<Stamp>)>,
}

impl Staged {
    /// Nothing, in the empty directory `root`.
    pub(super) fn new(root: PathBuf, store: Store) -> Self {
        Self { root, store, held: BTreeMap::new() }
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether what is at `path` was put there to be read.
    pub(super) fn holds(&self, path: &str) -> bool {
        let mut above = Some(path);
        while let Some(at) = above {
            if self.held.get(at).is_some_and(|(entry, _)| at == path || matches!(entry, Entry::Dir { .. })) {
                return true;
            }
            above = at.rsplit_once('/').map(|(above, _)| above);
        }
        false
    }

    /// Lets exactly the wanted stand there.
    pub(super) fn bring(&mut self, workspace: &Path, store: &Store, wanted: &Wanted<'_>) -> Result<(), Halt> {
        let failed = |path: &str| {
            let path = path.to_owned();
            move |error: io::Error| {
                Halt::Failed(FailureKind::Executor { why: format!("input `{path}` for its worker: {error}") })
            }
        };
        self.held.retain(|path, (entry, stamp)| {
            let stays = wanted.get(path.as_str()).is_some_and(|(wanted, _)| *wanted == entry);
            stays && stamp.is_some() && *stamp == look(&self.root.join(path))
        });
        let keep: BTreeSet<&str> = self.held.keys().map(String::as_str).collect();
        clear(&self.root, "", &keep).map_err(failed("what is left"))?;
        for (path, (entry, from)) in wanted {
            if self.held.contains_key(*path) {
                continue;
            }
            let target = self.root.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(failed(path))?;
            }
            match (entry, from) {
                (Entry::Symlink { target: link }, _) => {
                    std::os::unix::fs::symlink(&**link, &target).map_err(failed(path))?;
                }
                // Whether it is still what it was is looked at when the task has ended.
                (Entry::File { .. }, From::Source) => {
                    fs::copy(workspace.join(path), &target).map(drop).map_err(failed(path))?;
                }
                (entry, _) => {
                    let put = checkout(store, entry, &self.root, path);
                    put.map_err(|error| Halt::input((*path).to_owned(), error))?;
                }
            }
            let stamp = if matches!(entry, Entry::Dir { .. }) { None } else { look(&target) };
            self.held.insert((*path).to_owned(), ((*entry).clone(), stamp));
        }
        Ok(())
    }

    /// Whether all is as it was put there.
    pub(super) fn check(&self) -> Result<(), FailureKind> {
        for (path, (entry, stamp)) in &self.held {
            let is_same = match entry {
                Entry::Dir { .. } => {
                    let found =
                        quipu_store::ingest::ingest_path(&self.store, &self.root.join(path), quipu_store::Take::Copy);
                    found.is_ok_and(|found| found.as_ref() == Some(entry))
                }
                _ => *stamp == look(&self.root.join(path)),
            };
            if !is_same {
                return Err(FailureKind::UndeclaredOutput { path: path.clone() });
            }
        }
        Ok(())
    }
}

fn look(path: &Path) -> Option<Stamp> {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| Stamp::of(&stat))
}

/// Removes all below `dir` but what is to be kept.
fn clear(root: &Path, dir: &str, keep: &BTreeSet<&str>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str();
        let path = name.map(|name| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") });
        let is_dir = entry.file_type()?.is_dir();
        match path {
            Some(path) if keep.contains(path.as_str()) => {}
            Some(path) if is_dir && has_below(keep, &path) => clear(root, &path, keep)?,
            _ if is_dir => remove_dir(&entry.path())?,
            _ => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn has_below(keep: &BTreeSet<&str>, dir: &str) -> bool {
    let below = format!("{dir}/");
    keep.range(below.as_str()..).next().is_some_and(|path| path.starts_with(&below))
}
