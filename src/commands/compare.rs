//! In what two outcomes of one task differ: which output, from which byte on.
//!
//! Reads what the store has of both; unaware of why there are two.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};

use quipu_runtime::exec::Stream;
use quipu_store::cid::BlobId;
use quipu_store::receipt::Output;
use quipu_store::tree::Entry;
use quipu_store::tree_diff;
use quipu_store::{Blob, Store};
use serde::Serialize;

use crate::diagnose::Diagnosis;
use crate::render::harmless;

/// What standard error is called.
pub(super) const STDERR: &str = "standard error";
/// Most differences that are told of one pair.
const MAX_DIFFERENCES: usize = 50;

/// One output that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Differing {
    /// Its path, or the name of a stream.
    pub(super) output: String,
    /// How it differs: `content`, `kind`, `mode`, `target`, `only-first`, `only-second`.
    pub(super) how: &'static str,
    /// The first byte that differs, from 0, where both are files or streams whose content is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
    /// What it was the first time.
    pub(super) first: Option<String>,
    /// What it was the second time.
    pub(super) second: Option<String>,
}

/// When two outcomes of one task came out that ran twice.
pub(super) const TWICE: [&str; 2] = ["the first time", "the second time"];

impl Differing {
    /// In words, for a line that begins with the task; `when` says when the first and the second came out.
    pub(super) fn text(&self, when: [&str; 2]) -> String {
        let output = harmless(&self.output);
        let side = |text: &Option<String>| text.as_deref().map(harmless).unwrap_or_default();
        let (first, second) = (side(&self.first), side(&self.second));
        match (self.how, self.offset) {
            (_, Some(offset)) => format!("`{output}` differs at byte {offset}: {first} and {second}"),
            ("only-first", _) => format!("`{output}` was made {} only", when[0]),
            ("only-second", _) => format!("`{output}` was made {} only", when[1]),
            ("mode", _) => format!("`{output}` was executable only once"),
            _ => format!("`{output}` was {first} {}, and {second} {}", when[0], when[1]),
        }
    }
}

/// Which outputs differ, in order of their paths, and then the streams.
pub(super) fn outputs(store: &Store, first: &Output, second: &Output) -> Result<Vec<Differing>, Diagnosis> {
    let mut found = vec![];
    let paths = first.artifacts.keys().chain(second.artifacts.keys().filter(|p| !first.artifacts.contains_key(*p)));
    let mut paths: Vec<&str> = paths.map(|path| &**path).collect();
    paths.sort_unstable();
    for path in paths {
        entry(store, path, first.artifacts.get(path), second.artifacts.get(path), &mut found)?;
    }
    let streams = [(Stream::Stdout, first.stdout, second.stdout), (Stream::Stderr, first.stderr, second.stderr)];
    for (stream, a, b) in streams {
        if a != b {
            let name = if stream == Stream::Stdout { "standard output" } else { STDERR };
            found.push(Differing {
                output: name.to_owned(),
                how: "content",
                offset: first_byte(store, a, b)?,
                first: Some(a.map_or_else(|| "nothing".to_owned(), |id| id.to_string())),
                second: Some(b.map_or_else(|| "nothing".to_owned(), |id| id.to_string())),
            });
        }
    }
    found.truncate(MAX_DIFFERENCES);
    Ok(found)
}

fn entry(
    store: &Store,
    path: &str,
    first: Option<&Entry>,
    second: Option<&Entry>,
    found: &mut Vec<Differing>,
) -> Result<(), Diagnosis> {
    if first == second || found.len() >= MAX_DIFFERENCES {
        return Ok(());
    }
    if let (Some(Entry::Dir { tree: a }), Some(Entry::Dir { tree: b })) = (first, second)
        && let (Some(a), Some(b)) = (store.tree(*a)?, store.tree(*b)?)
        && let Ok(diff) = tree_diff::diff(|id| store.tree(id), &a, &b, MAX_DIFFERENCES - found.len())
    {
        for change in diff.changes {
            let path = format!("{path}/{}", change.path);
            entry(store, &path, change.old.as_ref(), change.new.as_ref(), found)?;
        }
        return Ok(());
    }
    let (how, offset) = match (first, second) {
        (_, None) => ("only-first", None),
        (None, _) => ("only-second", None),
        (Some(Entry::File { blob: a, .. }), Some(Entry::File { blob: b, .. })) if a == b => ("mode", None),
        (Some(Entry::File { blob: a, .. }), Some(Entry::File { blob: b, .. })) => {
            ("content", first_byte(store, Some(*a), Some(*b))?)
        }
        (Some(Entry::Symlink { .. }), Some(Entry::Symlink { .. })) => ("target", None),
        // What is in them is not here any more.
        (Some(Entry::Dir { .. }), Some(Entry::Dir { .. })) => ("content", None),
        _ => ("kind", None),
    };
    found.push(Differing { output: path.to_owned(), how, offset, first: first.map(said), second: second.map(said) });
    Ok(())
}

fn said(entry: &Entry) -> String {
    match entry {
        Entry::File { blob, .. } => blob.to_string(),
        Entry::Dir { tree } => tree.to_string(),
        Entry::Symlink { target } => format!("a link to {target}"),
    }
}

/// The first byte in which two blobs differ; the length of the shorter where that is all they differ in. None where one is
/// not here any more.
fn first_byte(store: &Store, a: Option<BlobId>, b: Option<BlobId>) -> Result<Option<u64>, Diagnosis> {
    let (Some(mut a), Some(mut b)) = (reader(store, a)?, reader(store, b)?) else { return Ok(None) };
    let unread = |e: io::Error| Diagnosis::system("cannot read what is compared", &e);
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut offset = 0;
    loop {
        let (m, n) = (fill(&mut a, &mut left).map_err(unread)?, fill(&mut b, &mut right).map_err(unread)?);
        let equal = left[..m].iter().zip(&right[..n]).take_while(|(a, b)| a == b).count();
        offset += equal as u64;
        if equal < left.len() {
            return Ok(Some(offset));
        }
    }
}

/// Reads until the buffer is full, or at the end.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match from.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

fn reader(store: &Store, id: Option<BlobId>) -> Result<Option<Box<dyn Read>>, Diagnosis> {
    let Some(id) = id else { return Ok(Some(Box::new(io::empty()))) };
    Ok(match store.blob(id)? {
        Some(Blob::Inline(bytes)) => Some(Box::new(Cursor::new(bytes))),
        Some(Blob::File { path, .. }) => {
            let file = File::open(path).map_err(|e| Diagnosis::system("cannot read what is compared", &e))?;
            Some(Box::new(BufReader::new(file)))
        }
        None => None,
    })
}
