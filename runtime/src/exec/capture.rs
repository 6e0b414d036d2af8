//! A task's two streams: handed on in whole lines while it runs, kept for the receipt.
//!
//! Knows bytes and lines; unaware of processes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quipu_store::cid::{BlobId, Codec};
use quipu_store::{Store, StoreError, Take};

use super::secrets::{Masker, Secrets};
use super::workspace::remove_dir;
use super::{Sink, Stream};

/// A stream longer than this goes on in a file.
const MEMORY_BYTES: usize = 1 << 20;
/// A line longer than this is handed on in pieces.
const LINE_BYTES: usize = 8 << 10;

/// Both streams of one task, over all its steps.
pub(crate) struct Streams {
    stdout: Capture,
    stderr: Capture,
    sink: Sink,
}

impl Streams {
    /// Nothing yet. What does not fit memory goes to files in a scratch directory of `store`. Neither what is handed on nor
    /// what is kept holds any of the `secrets`.
    pub(crate) fn new(store: &Store, sink: Sink, secrets: &Secrets) -> Self {
        let capture = |stream| Capture {
            stream,
            store: store.clone(),
            kept: Kept::default(),
            line: Vec::new(),
            masker: secrets.masker(),
        };
        Self { stdout: capture(Stream::Stdout), stderr: capture(Stream::Stderr), sink }
    }

    /// Takes what one stream brought.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let capture = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if capture.masker.is_idle() {
            return capture.take(bytes, &self.sink);
        }
        let masked = capture.masker.pass(bytes);
        capture.take(&masked, &self.sink)
    }

    /// Hands on what is left of a last line without end, and keeps both streams in the store. `None` for a silent standard
    /// error, and for standard output when it was not to be `captured`.
    pub(crate) fn finish(mut self, captured: bool) -> io::Result<(Option<BlobId>, Option<BlobId>)> {
        for capture in [&mut self.stdout, &mut self.stderr] {
            let held = capture.masker.finish();
            capture.take(&held, &self.sink)?;
            if !capture.line.is_empty() {
                (self.sink)(capture.stream, &capture.line);
            }
        }
        let keep_stdout = captured || !self.stdout.kept.is_empty();
        let stdout =
            keep_stdout.then(|| self.stdout.kept.finish(&self.stdout.store)).transpose().map_err(io::Error::other)?;
        let keep_stderr = !self.stderr.kept.is_empty();
        let stderr =
            keep_stderr.then(|| self.stderr.kept.finish(&self.stderr.store)).transpose().map_err(io::Error::other)?;
        Ok((stdout, stderr))
    }
}

struct Capture {
    stream: Stream,
    store: Store,
    kept: Kept,
    line: Vec<u8>,
    masker: Masker,
}

impl Capture {
    fn take(&mut self, bytes: &[u8], sink: &Sink) -> io::Result<()> {
        self.hand_on(bytes, sink);
        self.kept.add(bytes, &self.store)
    }

    fn hand_on(&mut self, bytes: &[u8], sink: &Sink) {
        let Some(end) = bytes.iter().rposition(|&b| b == b'\n') else {
            self.line.extend_from_slice(bytes);
            if self.line.len() >= LINE_BYTES {
                sink(self.stream, &self.line);
                self.line.clear();
            }
            return;
        };
        let (whole, rest) = bytes.split_at(end + 1);
        if self.line.is_empty() {
            sink(self.stream, whole);
        } else {
            self.line.extend_from_slice(whole);
            sink(self.stream, &self.line);
            self.line.clear();
        }
        self.line.extend_from_slice(rest);
    }
}

#[derive(Default)]
struct Kept {
    memory: Vec<u8>,
    spilled: Option<Spilled>,
}

struct Spilled {
    file: File,
    path: PathBuf,
    dir: ScratchDir,
}

impl Kept {
    fn add(&mut self, bytes: &[u8], store: &Store) -> io::Result<()> {
        if let Some(spilled) = &mut self.spilled {
            return spilled.file.write_all(bytes);
        }
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > MEMORY_BYTES {
            let dir = ScratchDir::new(store)?;
            let path = dir.path().join("stream");
            let mut file = File::create(&path)?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.spilled = Some(Spilled { file, path, dir });
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.spilled.is_none()
    }

    fn finish(self, store: &Store) -> Result<BlobId, StoreError> {
        if let Some(Spilled { file, path, dir }) = self.spilled {
            drop(file);
            let (id, _) = store.put_file(&path, Take::Move)?;
            drop(dir);
            return Ok(id);
        }
        let id = BlobId::of(&self.memory);
        store.put(Codec::Raw, self.memory)?;
        Ok(id)
    }
}

/// A directory for one task on the store's file system; gone with all in it when dropped.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    /// A fresh one.
    pub(crate) fn new(store: &Store) -> io::Result<Self> {
        store.scratch_dir().map(Self)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What stays all the same is swept with the store's scratch directories.
        let _ = remove_dir(&self.0);
    }
}
