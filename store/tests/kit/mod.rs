//! What the store's integration tests share: receipts by number, and stores of every kind.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::Path;
use std::sync::mpsc;

use quipu_store::cid::{BlobId, InvocationId, Link, OutputId, ReceiptId, TaskId};
use quipu_store::receipt::{Failure, FailureKind, Meta, Output, Receipt, Via};
use quipu_store::sign::Signer;
use quipu_store::spaces::{self, Reads};
use quipu_store::tree::Entry;
use quipu_store::{CommitError, Options, Record, SignerSource, Store};

/// A directory in memory where there is such a place: for tests that are not about syncing.
pub(crate) fn temp() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

pub(crate) fn signer() -> Signer {
    Signer::from_secret(&[7; 32])
}

/// Small limits, so that a few hundred bytes go through every path. Commits only when told to.
pub(crate) fn options() -> Options {
    Options { inline_max_bytes: 256, batch_ms: 60_000, ..Options::new(SignerSource::Fixed(signer())) }
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, options()).expect("opens")
}

/// A name space of the store in `dir`.
pub(crate) fn open_space(dir: &Path, name: &str, reads: Reads) -> Store {
    spaces::open(dir, &name.parse().expect("a name"), reads, options()).expect("opens")
}

pub(crate) fn task(n: u64) -> TaskId {
    TaskId::of(&block(b'T', n))
}

pub(crate) fn invocation(n: u64) -> InvocationId {
    InvocationId::of(&block(b'I', n))
}

/// Bytes standing in for a task's or invocation's block: a CBOR text, so that links can be looked for in it.
pub(crate) fn block(kind: u8, n: u64) -> Vec<u8> {
    let text = format!("{} {n:08}", char::from(kind));
    let mut bytes = vec![0x60 + text.len() as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(crate) fn via(pairs: &[(u64, u64)]) -> Via {
    pairs.iter().map(|(t, o)| (task(*t), OutputId::of(&o.to_le_bytes()))).collect()
}

/// Receipt of invocation `n` for tasks, with these files as outputs.
pub(crate) fn receipt(n: u64, tasks: &[u64], blobs: &[(BlobId, u64)]) -> Receipt {
    let file = |(blob, size): &(BlobId, u64)| Entry::File { blob: *blob, size: *size, exec: false };
    let artifacts = blobs.iter().enumerate().map(|(i, b)| (format!("out/{i}").into(), file(b))).collect();
    Receipt {
        ran: invocation(n),
        out: Ok(Output { artifacts, stdout: None, stderr: None }),
        issued_at: 1_700_000_000 + n,
        expires_at: None,
        meta: Meta {
            settles: tasks.iter().map(|t| (task(*t), Via::new())).collect(),
            tier: "none".to_owned(),
            ..Meta::default()
        },
    }
}

pub(crate) fn failed(n: u64, tasks: &[u64]) -> Receipt {
    Receipt { out: Err(Failure::from(FailureKind::Exit { code: 1 })), ..receipt(n, tasks, &[]) }
}

/// The blocks a record carries.
pub(crate) fn blocks_of(n: u64, tasks: &[u64]) -> Vec<(Link, Vec<u8>)> {
    let mut blocks = vec![(invocation(n).link(), block(b'I', n))];
    blocks.extend(tasks.iter().map(|t| (task(*t).link(), block(b'T', *t))));
    blocks
}

pub(crate) type Answer = mpsc::Receiver<Result<ReceiptId, CommitError>>;

pub(crate) fn record_later(store: &Store, receipt: Receipt, blocks: Vec<(Link, Vec<u8>)>) -> Answer {
    let (tell, answer) = mpsc::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    store.record(Record { receipt, blocks, done }).expect("is queued");
    answer
}

/// Records and waits until it is durable.
pub(crate) fn record(store: &Store, receipt: Receipt, blocks: Vec<(Link, Vec<u8>)>) -> ReceiptId {
    let answer = record_later(store, receipt, blocks);
    store.flush().expect("commits");
    answer.recv().expect("is told").expect("is durable")
}
