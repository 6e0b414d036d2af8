//! What stands in a worker's workspace: the inputs of the request at hand, and nothing of those before.
//!
//! Files that the next request has, too, stay where they are. Unaware of what is done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use quipu_store::Store;
use quipu_store::checkout::checkout;
use quipu_store::cid::TreeId;
use quipu_store::fenced::{Fenced, Looks};
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;

use super::super::super::plain::Halt;

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
pub(super) fn sources(store: &Store, tree: Option<TreeId>) -> Result<Vec<(String, Entry)>, Halt> {
    let Some(tree) = tree else { return Ok(vec![]) };
    files(store, "", tree).map_err(|halt| match halt {
        // Nobody else makes it.
        Halt::Gone(_) => not_listed(&format!("`{tree}` is not in the store")),
        failed @ Halt::Failed(_) => failed,
    })
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
) -> Result<Vec<(String, String)>, Halt> {
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
fn files(store: &Store, below: &str, tree: TreeId) -> Result<Vec<(String, Entry)>, Halt> {
    let (mut out, mut todo) = (vec![], vec![(below.to_owned(), tree)]);
    while let Some((dir, tree)) = todo.pop() {
        let found = store.tree(tree).map_err(|error| not_listed(&error.to_string()))?;
        let found = found.ok_or_else(|| Halt::Gone(vec![below.to_owned()]))?;
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

fn not_listed(why: &str) -> Halt {
    Halt::Failed(FailureKind::Executor { why: format!("its inputs cannot be listed: {why}") })
}

/// What stands in the workspace of one worker, which runs and may write to it at any time.
pub(super) struct Staged {
    root: PathBuf,
    fenced: Fenced,
    /// What was put there, and how it looked then.
    held: BTreeMap<String, (Entry, Option<Looks>)>,
}

impl Staged {
    /// Nothing, in the empty directory `root`.
    pub(super) fn new(root: PathBuf) -> io::Result<Self> {
        Ok(Self { fenced: Fenced::open(&root)?, root, held: BTreeMap::new() })
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
        self.held.retain(|path, (entry, looks)| {
            let stays = wanted.get(path.as_str()).is_some_and(|(wanted, _)| *wanted == entry);
            stays && is_as(&self.fenced, path, looks.as_ref())
        });
        let keep: BTreeSet<&str> = self.held.keys().map(String::as_str).collect();
        self.fenced.clear(&keep).map_err(failed("what is left"))?;
        for (path, (entry, from)) in wanted {
            if self.held.contains_key(*path) {
                continue;
            }
            match (entry, from) {
                // Whether it is still what it was is looked at when the task has ended.
                (Entry::File { .. }, From::Source) => {
                    self.fenced.copy_in(&workspace.join(path), path).map_err(failed(path))?;
                }
                (entry, _) => {
                    let put = checkout(store, entry, &self.root, path);
                    put.map_err(|error| Halt::input((*path).to_owned(), error))?;
                }
            }
            self.held.insert((*path).to_owned(), ((*entry).clone(), self.fenced.look(path)));
        }
        Ok(())
    }

    /// Makes a directory that is to be there before anything runs.
    pub(super) fn make_dir(&self, dir: &str) -> Result<(), FailureKind> {
        let made = self.fenced.make_dirs(dir);
        made.map_err(|error| FailureKind::Executor { why: format!("`{dir}` cannot be made for its worker: {error}") })
    }

    /// Whether all is as it was put there.
    pub(super) fn check(&self) -> Result<(), FailureKind> {
        match self.held.iter().find(|(path, (_, looks))| !is_as(&self.fenced, path, looks.as_ref())) {
            Some((path, _)) => Err(FailureKind::UndeclaredOutput { path: path.clone() }),
            None => Ok(()),
        }
    }
}

fn is_as(fenced: &Fenced, path: &str, looks: Option<&Looks>) -> bool {
    looks.is_some() && fenced.look(path).as_ref() == looks
}

#[cfg(test)]
mod tests {
    use quipu_store::sign::Signer;
    use quipu_store::{Options, SignerSource};

    use super::*;

    #[test]
    fn what_vanished_from_the_store_is_gone_and_no_failure() {
        let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))));
        let tree = TreeId::of(b"gone");
        let found = listed(&store, &[], &[("lib".to_owned(), Entry::Dir { tree })]);
        assert!(matches!(found, Err(Halt::Gone(paths)) if paths == ["lib"]));
        assert!(matches!(sources(&store, Some(tree)), Err(Halt::Failed(_))), "what nobody makes again");
    }
}
