//! From what a task left on disk to its outputs: what is declared is taken, what cannot be kept is refused by name.
//!
//! Knows declarations and directories; unaware of who ran, and where.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use quipu_store::fenced::Fenced;
use quipu_store::ingest::{IngestError, IngestOptions, Ingested, ingest_at, ingest_below};
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;
use quipu_store::{Store, Take};

use super::secrets::Secrets;
use crate::path::parent;
use crate::process::{OutputKind, OutputSpec};
use crate::workfile::globs::Pattern;

/// Artifacts by path.
pub(crate) type Artifacts = BTreeMap<Box<str>, Entry>;

/// Declared outputs, ready to be compared with what is there.
pub(crate) struct Declared<'a> {
    outputs: Vec<(&'a OutputSpec, Option<Pattern>)>,
}

impl<'a> Declared<'a> {
    /// Reads the patterns among them.
    pub(crate) fn new(outputs: &'a [OutputSpec]) -> Result<Self, FailureKind> {
        let outputs = outputs.iter().map(|output| {
            let pattern = (output.kind == OutputKind::Glob).then(|| Pattern::read(&output.path)).transpose();
            Ok((output, pattern.map_err(|e| bad(&output.path, &e.to_string()))?))
        });
        Ok(Self { outputs: outputs.collect::<Result<_, FailureKind>>()? })
    }

    /// Directories that have to be there for the outputs to be written.
    pub(crate) fn parents(&self) -> impl Iterator<Item = String> {
        self.outputs.iter().map(|(output, pattern)| match pattern {
            Some(pattern) => pattern.prefix(),
            None => parent(&output.path).to_owned(),
        })
    }

    /// What is below `root` already and matches the patterns among them, leaving out what `is_input`.
    pub(crate) fn matches(&self, root: &Path, is_input: &dyn Fn(&str) -> bool) -> Result<Vec<String>, FailureKind> {
        let mut all = Vec::new();
        for pattern in self.outputs.iter().filter_map(|(_, pattern)| pattern.as_ref()) {
            all.extend(matches(root, pattern, is_input)?);
        }
        Ok(all)
    }

    /// Takes the outputs that are below `root`, which may be open as `dir`, leaving out what `is_input`. Calls `taken` with each.
    pub(crate) fn collect(
        &self,
        store: &Store,
        root: &Path,
        dir: Option<BorrowedFd<'_>>,
        take: Take,
        is_input: &dyn Fn(&str) -> bool,
        taken: &mut dyn FnMut(Ingested),
    ) -> Result<Artifacts, FailureKind> {
        let mut artifacts = Artifacts::new();
        let options = IngestOptions { take, set_id: false, ..IngestOptions::default() };
        let mut take_one = |path: &str| -> Result<Option<Entry>, FailureKind> {
            let found = match dir {
                Some(dir) => ingest_below(store, root, dir, path, &options),
                None => ingest_at(store, root, path, &options),
            };
            let found = found.map_err(|error| refused(path, error))?;
            Ok(found.map(|found| {
                let entry = found.entry.clone();
                taken(found);
                entry
            }))
        };
        for (output, pattern) in &self.outputs {
            let path = &*output.path;
            let missing = || FailureKind::MissingOutput { path: path.to_owned() };
            if let Some(pattern) = pattern {
                let matches = matches(root, pattern, is_input)?;
                if matches.is_empty() && !output.optional {
                    return Err(missing());
                }
                for path in matches {
                    if let Some(entry) = take_one(&path)? {
                        artifacts.insert(path.into(), entry);
                    }
                }
                continue;
            }
            match (take_one(path)?, output.kind) {
                (None, _) if output.optional => {}
                (None, _) => return Err(missing()),
                (Some(Entry::Dir { .. }), OutputKind::File) => {
                    return Err(bad(path, "it is a directory and declared as a file; write a `/` behind it"));
                }
                (Some(Entry::File { .. }), OutputKind::Dir) => {
                    return Err(bad(path, "it is a file and declared as a directory"));
                }
                (Some(Entry::Symlink { .. }), OutputKind::Dir) => {
                    return Err(bad(path, "it is a symbolic link and declared as a directory"));
                }
                (Some(entry), _) => drop(artifacts.insert(path.into(), entry)),
            }
        }
        Ok(artifacts)
    }

    /// Fails when an output below `root` holds the value of a secret, which would be kept with it.
    pub(crate) fn check_hides(
        &self,
        root: &Path,
        secrets: &Secrets,
        is_input: &dyn Fn(&str) -> bool,
    ) -> Result<(), FailureKind> {
        match self.holding(root, secrets, is_input).first() {
            Some(path) => Err(bad(path, "it holds the value of a secret, which is written down nowhere")),
            None => Ok(()),
        }
    }

    /// The outputs below `root` that hold the value of a secret, or of which that cannot be said.
    pub(crate) fn holding(&self, root: &Path, secrets: &Secrets, is_input: &dyn Fn(&str) -> bool) -> Vec<String> {
        if secrets.is_empty() {
            return Vec::new();
        }
        let plain = self.outputs.iter().filter(|(_, pattern)| pattern.is_none());
        let plain = plain.map(|(output, _)| output.path.to_string());
        let all = plain.chain(self.matches(root, is_input).unwrap_or_default());
        all.filter(|path| secrets.are_below(&root.join(path)).unwrap_or(true)).collect()
    }

    /// Fails when anything below `root` is neither declared nor `is_input`. Empty directories count as nothing.
    pub(crate) fn check_nothing_else(&self, root: &Path, is_input: &dyn Fn(&str) -> bool) -> Result<(), FailureKind> {
        let mut undeclared = Vec::new();
        walk(root, "", &mut |path, is_dir| {
            if is_input(path) {
                return false;
            }
            let declared = self.outputs.iter().any(|(output, pattern)| match pattern {
                Some(pattern) => !is_dir && pattern.matches(path),
                None => *output.path == *path,
            });
            if !declared && !is_dir {
                undeclared.push(path.to_owned());
            }
            is_dir && !declared
        })?;
        undeclared.sort_unstable();
        match &undeclared[..] {
            [] => Ok(()),
            [path] => Err(FailureKind::UndeclaredOutput { path: path.clone() }),
            [first, rest @ ..] => {
                Err(FailureKind::UndeclaredOutput { path: format!("{first} (and {} more)", rest.len()) })
            }
        }
    }
}

fn matches(root: &Path, pattern: &Pattern, is_input: &dyn Fn(&str) -> bool) -> Result<Vec<String>, FailureKind> {
    let mut matches = Vec::new();
    walk(root, &pattern.prefix(), &mut |path, is_dir| {
        if !is_dir && pattern.matches(path) && !is_input(path) {
            matches.push(path.to_owned());
        }
        is_dir
    })?;
    matches.sort_unstable();
    Ok(matches)
}

fn bad(path: &str, why: &str) -> FailureKind {
    FailureKind::BadOutput { path: path.to_owned(), why: why.to_owned() }
}

fn refused(path: &str, error: IngestError) -> FailureKind {
    match error {
        IngestError::Store(_) | IngestError::Io { .. } => {
            FailureKind::Executor { why: format!("output `{path}`: {error}") }
        }
        other => FailureKind::BadOutput { path: path.to_owned(), why: other.to_string() },
    }
}

/// Calls `visit` with every path below `dir` of `root` and whether it is a directory; goes into those it says yes to. No
/// link below `root` is followed, nor one that takes a directory's place meanwhile.
fn walk(root: &Path, dir: &str, visit: &mut dyn FnMut(&str, bool) -> bool) -> Result<(), FailureKind> {
    let is_gone = |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let fenced = match Fenced::open(root) {
        Err(e) if is_gone(&e) => return Ok(()),
        other => other.map_err(|e| bad(dir, &e.to_string()))?,
    };
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let listing = match fenced.list(&dir) {
            Err(e) if is_gone(&e) => continue,
            other => other.map_err(|e| bad(&dir, &e.to_string()))?,
        };
        for (name, is_dir) in listing {
            let Some(name) = name.to_str() else {
                return Err(bad(&format!("{dir}/{}", name.display()), "its name is not UTF-8"));
            };
            let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            if visit(&path, is_dir) {
                left.push(path);
            }
        }
    }
    Ok(())
}
