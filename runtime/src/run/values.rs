//! From outcomes to the values that promises stand for.
//!
//! Knows the shape awaited values have; unaware of states and of where directories are kept.

use std::sync::Arc;

use quipu_store::cid::{BlobId, Link};
use quipu_store::receipt::{Failure, Output};
use quipu_store::tree::Entry;

use crate::run::step::{Outcome, Part};
use crate::value::{Await, Branch, Text, Value};

/// What a promise stands for, as far as it can be told without reading directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The value, and the bytes its user will want.
    Ready(Value, Bytes),
    /// A name within a directory.
    Within(Part),
    /// The output has no such part.
    Missing,
    /// The task took the other branch.
    OtherBranch,
}

/// Bytes behind a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bytes {
    pub(super) entries: Vec<Entry>,
    pub(super) streams: Vec<BlobId>,
}

/// An outcome as a run keeps it: in little room, since there are as many as tasks.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Output(KeptOutput),
    Failure(Arc<Failure>),
}

#[derive(Debug, Clone)]
pub(super) struct KeptOutput {
    /// By path, in order.
    artifacts: Box<[(Box<str>, Entry)]>,
    /// What it printed, if it did: most tasks do not.
    streams: Option<Box<Streams>>,
}

#[derive(Debug, Clone)]
struct Streams {
    stdout: Option<BlobId>,
    stderr: Option<BlobId>,
}

impl Kept {
    pub(super) fn new(outcome: Outcome) -> Self {
        match outcome {
            Ok(output) => {
                let Output { artifacts, stdout, stderr } = Arc::unwrap_or_clone(output);
                let streams = (stdout.is_some() || stderr.is_some()).then(|| Streams { stdout, stderr }.into());
                Self::Output(KeptOutput { artifacts: artifacts.into_iter().collect(), streams })
            }
            Err(failure) => Self::Failure(failure),
        }
    }

    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Failure(_))
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Output(kept) => {
                let artifacts = kept.artifacts.iter().cloned().collect();
                let stderr = kept.streams.as_ref().and_then(|streams| streams.stderr);
                Ok(Arc::new(Output { artifacts, stdout: kept.stdout(), stderr }))
            }
            Self::Failure(failure) => Err(Arc::clone(failure)),
        }
    }

    /// Whether its output names this block.
    pub(super) fn has_link(&self, link: Link) -> bool {
        let Self::Output(kept) = self else { return false };
        kept.artifacts.iter().any(|(_, entry)| match entry {
            Entry::File { blob, .. } => blob.link() == link,
            Entry::Dir { tree } => tree.link() == link,
            Entry::Symlink { .. } => false,
        })
    }
}

impl KeptOutput {
    fn stdout(&self) -> Option<BlobId> {
        self.streams.as_ref()?.stdout
    }

    fn get(&self, path: &str) -> Option<&Entry> {
        let at = self.artifacts.binary_search_by(|(p, _)| (**p).cmp(path)).ok()?;
        Some(&self.artifacts[at].1)
    }
}

pub(super) fn resolve(kept: &Kept, promise: Await<'_>) -> Resolved {
    match (promise.branch, kept) {
        (Branch::Ok, Kept::Output(output)) => of_output(output, promise.at),
        (Branch::Error, Kept::Failure(failure)) => of_failure(failure, promise.at),
        (Branch::Any, Kept::Output(output)) => wrapped("ok", promise.at, |at| of_output(output, at)),
        (Branch::Any, Kept::Failure(failure)) => wrapped("error", promise.at, |at| of_failure(failure, at)),
        (Branch::Ok, Kept::Failure(_)) | (Branch::Error, Kept::Output(_)) => Resolved::OtherBranch,
    }
}

fn wrapped(key: &str, at: &[Text], inner: impl FnOnce(&[Text]) -> Resolved) -> Resolved {
    match at.split_first() {
        None => match inner(&[]) {
            Resolved::Ready(value, bytes) => Resolved::Ready(map([(key, value)]), bytes),
            other => other,
        },
        Some((first, rest)) if &**first == key => inner(rest),
        Some(_) => Resolved::Missing,
    }
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::map(pairs).expect("fixed keys are distinct")
}

fn of_output(output: &KeptOutput, at: &[Text]) -> Resolved {
    let streams: Vec<BlobId> = output.stdout().into_iter().collect();
    let artifacts = || {
        let pairs = output.artifacts.iter().map(|(path, entry)| (Text::from(&**path), artifact(entry)));
        Value::map(pairs).expect("paths are distinct")
    };
    let entries = || output.artifacts.iter().map(|(_, entry)| entry.clone()).collect();
    match at {
        [] => {
            let mut pairs = vec![("outputs", artifacts())];
            pairs.extend(output.stdout().map(|blob| ("stdout", blob.link().into())));
            let value = Value::map(pairs).expect("fixed keys are distinct");
            Resolved::Ready(value, Bytes { entries: entries(), streams })
        }
        [part] if &**part == "outputs" => Resolved::Ready(artifacts(), Bytes { entries: entries(), streams: vec![] }),
        [part] if &**part == "stdout" => match output.stdout() {
            Some(blob) => Resolved::Ready(blob.link().into(), Bytes { entries: vec![], streams }),
            None => Resolved::Missing,
        },
        [part, path, within @ ..] if &**part == "outputs" => match (output.get(path), within) {
            (Some(entry), []) => of_entry(entry.clone()),
            (Some(Entry::Dir { tree }), within) => Resolved::Within(Part { tree: *tree, path: within.to_vec() }),
            _ => Resolved::Missing,
        },
        _ => Resolved::Missing,
    }
}

pub(super) fn of_entry(entry: Entry) -> Resolved {
    Resolved::Ready(artifact(&entry), Bytes { entries: vec![entry], streams: vec![] })
}

fn of_failure(failure: &Failure, at: &[Text]) -> Resolved {
    if !at.is_empty() {
        return Resolved::Missing;
    }
    let value = map([("kind", failure.kind.name().into()), ("message", Value::text(failure.kind.to_string()))]);
    Resolved::Ready(value, Bytes::default())
}

/// An artifact as a value: the shape it has in a receipt.
pub fn artifact(entry: &Entry) -> Value {
    match entry {
        Entry::File { blob, size, exec } => {
            let size = Value::Int(i64::try_from(*size).unwrap_or(i64::MAX));
            let mut pairs = vec![("kind", "file".into()), ("cid", blob.link().into()), ("size", size)];
            pairs.extend(exec.then_some(("exec", Value::Bool(true))));
            Value::map(pairs).expect("fixed keys are distinct")
        }
        Entry::Dir { tree } => map([("kind", "dir".into()), ("cid", tree.link().into())]),
        Entry::Symlink { target } => map([("kind", "symlink".into()), ("target", Value::text(&**target))]),
    }
}

/// Reads an artifact back.
pub fn entry_of(value: &Value) -> Option<Entry> {
    let cid = || match value.get("cid") {
        Some(Value::Link(link)) => Some(**link),
        _ => None,
    };
    match value.get("kind")?.as_text()? {
        "file" => {
            let Some(Value::Int(size)) = value.get("size") else { return None };
            let exec = value.get("exec") == Some(&Value::Bool(true));
            Some(Entry::File { blob: cid()?.try_into().ok()?, size: (*size).try_into().ok()?, exec })
        }
        "dir" => Some(Entry::Dir { tree: cid()?.try_into().ok()? }),
        "symlink" => Some(Entry::Symlink { target: value.get("target")?.as_text()?.into() }),
        _ => None,
    }
}
