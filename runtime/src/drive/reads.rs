//! Receipts by what a task with a depfile read: found by it, and kept for the next run.
//!
//! Under each weak id the store has a note: strong ids and the receipts they stand for, newest first. A note that is lost
//! costs a run of the task and no more. Unaware of what makes the ids; that is for [`crate::narrow`].

use std::collections::HashMap;

use quipu_store::StoreError;
use quipu_store::cid::ReceiptId;
use quipu_store::receipt::Output;
use quipu_store::tree::Entry;

use super::{Drive, DriveError, Listing};
use crate::graph::TaskIdx;
use crate::narrow::{self, Depfile, Files, Fingerprint, MAX_DEPFILE_BYTES};
use crate::observe::RunEvent;
use crate::path::is_within;
use crate::process::SANDBOX_ROOT;
use crate::run::step::Candidate;
use crate::task::Invocation;
use crate::value::{Text, Value};

/// Receipts kept for one weak id: more than a person switches between.
const MAX_KEPT: usize = 32;
/// Bytes of one of them: a strong id and a receipt id.
const KEPT_BYTES: usize = 64;

/// What is known of path sets in this run.
pub(super) struct Reads {
    listing: Option<Listing>,
    /// Weak and strong id of what ran, until there is a receipt.
    unkept: HashMap<TaskIdx, (Fingerprint, Fingerprint)>,
}

impl Reads {
    pub(super) fn new(listing: Option<Listing>) -> Self {
        Self { listing, unkept: HashMap::new() }
    }

    fn files(&self, task: TaskIdx, invocation: &Invocation) -> Option<Files> {
        let sources = self.listing.as_ref()?(task);
        narrow::files(&invocation.args, sources.iter().map(|(path, entry)| (&**path, entry)))
    }
}

fn key(weak: &Fingerprint) -> String {
    let digits: String = weak.iter().map(|b| format!("{b:02x}")).collect();
    format!("reads:{digits}")
}

impl Drive {
    /// Receipts of invocations that read the same, in files of the same names.
    pub(super) fn by_reads(&mut self, task: TaskIdx, invocation: &Invocation) -> Result<Vec<Candidate>, DriveError> {
        let Some(depfile) = Depfile::of(&invocation.args) else { return Ok(vec![]) };
        let Some(files) = self.reads.files(task, invocation) else { return Ok(vec![]) };
        let weak = narrow::weak(invocation, &depfile, &files);
        let note = self.engine.store.note(&key(&weak))?.unwrap_or_default();
        let mut found = vec![];
        for kept in note.chunks_exact(KEPT_BYTES).take(MAX_KEPT) {
            let (strong, receipt) = kept.split_at(KEPT_BYTES / 2);
            let receipt = ReceiptId::from_digest(receipt.try_into().expect("half of a chunk"));
            let Some(receipt) = self.engine.store.receipt(receipt)? else { continue };
            let Ok(output) = &receipt.signed.receipt.out else { continue };
            let read = self.read_by(invocation, &depfile, &files, output)?.and_then(Result::ok);
            if read.and_then(|read| narrow::strong(weak, &files, &read)).is_some_and(|id| id == *strong) {
                found.push(receipt);
            }
        }
        self.candidates(&found)
    }

    /// What a task says it read.
    fn read_by(
        &self,
        invocation: &Invocation,
        depfile: &Depfile,
        files: &Files,
        output: &Output,
    ) -> Result<Option<Result<Vec<Text>, String>>, StoreError> {
        let Some(Entry::File { blob, size, .. }) = output.artifacts.get(&*depfile.path) else {
            return Ok(Some(Err("it is no file".to_owned())));
        };
        if *size > MAX_DEPFILE_BYTES {
            return Ok(Some(Err(format!("it has {size} bytes, more than {MAX_DEPFILE_BYTES}"))));
        }
        let Some(bytes) = self.engine.store.get(blob.link(), MAX_DEPFILE_BYTES)? else {
            // It was made elsewhere, and nobody needed it here.
            return Ok(None);
        };
        let dir = invocation.args.get("dir").and_then(Value::as_text).unwrap_or_default();
        let mut roots = vec![SANDBOX_ROOT];
        roots.extend(self.workspace.as_deref());
        let is_own = |path: &str| output.artifacts.keys().any(|own| is_within(path, own));
        Ok(Some(narrow::reads(&bytes, dir, &roots, files, is_own).map_err(|e| e.to_string())))
    }

    /// Works out what a task that ran is to be found by, once it has a receipt.
    pub(super) fn note_reads(
        &mut self,
        task: TaskIdx,
        invocation: &Invocation,
        output: Option<&Output>,
    ) -> Result<(), StoreError> {
        let (Some(output), Some(depfile)) = (output, Depfile::of(&invocation.args)) else { return Ok(()) };
        let Some(files) = self.reads.files(task, invocation) else { return Ok(()) };
        match self.read_by(invocation, &depfile, &files, output)? {
            None => {}
            Some(Ok(read)) => {
                let weak = narrow::weak(invocation, &depfile, &files);
                if let Some(strong) = narrow::strong(weak, &files, &read) {
                    self.reads.unkept.insert(task, (weak, strong));
                }
            }
            Some(Err(why)) => {
                let (name, path) = (self.name(task), depfile.path);
                let message =
                    format!("all inputs of `{name}` count, since its depfile `{path}` cannot be gone by: {why}");
                self.emit(|| RunEvent::Warning { message });
            }
        }
        Ok(())
    }

    /// Writes down what a receipt can be found by.
    pub(super) fn keep_reads(&mut self, task: TaskIdx, receipt: ReceiptId) -> Result<(), StoreError> {
        let Some((weak, strong)) = self.reads.unkept.remove(&task) else { return Ok(()) };
        let old = self.engine.store.note(&key(&weak))?.unwrap_or_default();
        let mut note = [strong, *receipt.digest()].concat();
        let others = old.chunks_exact(KEPT_BYTES).filter(|kept| kept[..KEPT_BYTES / 2] != strong).take(MAX_KEPT - 1);
        others.for_each(|kept| note.extend(kept));
        self.engine.store.set_note(&key(&weak), Some(note))?;
        self.unflushed = true;
        Ok(())
    }
}
