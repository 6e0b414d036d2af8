//! CAR files out of one store and into another: what arrives, and what never does.

mod attacks;
mod hand;
#[path = "../kit/mod.rs"]
mod kit;
mod vectors;
mod whole;

use std::path::Path;

use hand::{Hand, file_of, name};
use kit::record;
use quipu_store::Store;
use quipu_store::car::{CarError, ExportOptions, ImportOptions, Imported, export, import};
use quipu_store::cid::{BlobId, Codec, IdPrefix, InvocationId, Link, ReceiptId, TaskId};
use quipu_store::receipt::{Meta, Output, Receipt};
use quipu_store::sign::Signer;
use quipu_store::tree::{Entry, Tree};

/// A receipt of task 1 with a file and a directory, and one of task 2 made from the first.
fn filled(store: &Store) -> [ReceiptId; 2] {
    let inner = Tree::new(vec![(name("deep"), file_of(store, b"deep down"))]).expect("valid");
    let inner = Entry::Dir { tree: store.put_tree(&inner).expect("is put") };
    let link = Entry::Symlink { target: "b".into() };
    let tree = vec![(name("b"), file_of(store, &[3; 300])), (name("d"), inner), (name("l"), link)];
    let dir = Entry::Dir { tree: store.put_tree(&Tree::new(tree).expect("valid")).expect("is put") };
    let log = BlobId::try_from(store.put(Codec::Raw, b"said\n".to_vec()).expect("is put")).expect("raw");
    let artifacts = [("out/a".into(), file_of(store, b"a")), ("out/dir".into(), dir)].into();
    let out = Output { artifacts, stdout: None, stderr: Some(log) };
    let receipt = Receipt { out: Ok(out.clone()), ..kit::receipt(1, &[1], &[]) };
    let first = record(store, receipt, kit::blocks_of(1, &[1]));
    let artifacts = [("out/large".into(), file_of(store, &vec![9; 200_000]))].into();
    let settles = [(kit::task(2), [(kit::task(1), out.id())].into())].into();
    let meta = Meta { settles, ins: vec![first], tier: "ns".to_owned(), ..Meta::default() };
    let second = Output { artifacts, ..Output::default() };
    let receipt = Receipt { out: Ok(second), meta, ..kit::receipt(2, &[2], &[]) };
    [first, record(store, receipt, kit::blocks_of(2, &[2]))]
}

fn exported(store: &Store, ids: &[ReceiptId], options: ExportOptions<'_>) -> Vec<u8> {
    let mut bytes = vec![];
    export(store, ids, options, &mut bytes).expect("exports");
    bytes
}

fn take(store: &Store, bytes: &[u8]) -> Result<Imported, CarError> {
    import(store, bytes, &ImportOptions::new("files"))
}

/// Everything a store has to show: what it found by task, by invocation and by block.
fn shown(store: &Store) -> String {
    let ids: Vec<TaskId> = (0..4).map(kit::task).collect();
    let ran: Vec<InvocationId> = (0..4).map(kit::invocation).collect();
    let all: Vec<_> = "abcdefghijklmnopqrstuvwxyz234567"
        .chars()
        .map(|c| store.resolve(&IdPrefix::new(&format!("bafkr4i{c}")).expect("valid")).expect("reads"))
        .collect();
    let tasks = store.find_tasks(&ids).expect("reads");
    format!("{tasks:?} {:?} {all:?}", store.find_invocations(&ran).expect("reads"))
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = vec![];
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { todo.push(entry.path()) } else { found.push(entry.path().display().to_string()) }
        }
    }
    found.sort();
    found
}

/// A receipt by key 5 as an envelope, changed at will before it is signed and after.
fn envelope(receipt: &Receipt) -> Vec<u8> {
    Signer::from_secret(&[5; 32]).sign(receipt).expect("fits").bytes
}

fn refused(blocks: &[(Codec, Vec<u8>)]) -> CarError {
    let root = Link::of(blocks[0].0, &blocks[0].1);
    let hand = blocks.iter().fold(Hand::new(&[root]), |hand, (codec, bytes)| hand.block(*codec, bytes));
    let store = Store::memory(kit::options());
    let error = take(&store, &hand.bytes).expect_err("must be refused");
    assert_eq!(shown(&store), shown(&Store::memory(kit::options())), "nothing is kept of a bad file");
    error
}

fn receipt_of(artifacts: Vec<(&str, Entry)>) -> Receipt {
    let artifacts = artifacts.into_iter().map(|(path, entry)| (path.into(), entry)).collect();
    Receipt { out: Ok(Output { artifacts, ..Output::default() }), ..kit::receipt(1, &[1], &[]) }
}

fn small() -> (Vec<u8>, ReceiptId) {
    let from = Store::memory(kit::options());
    let tree = Tree::new(vec![(name("f"), file_of(&from, b"content"))]).expect("valid");
    let tree = from.put_tree(&tree).expect("is put");
    let id = record(&from, receipt_of(vec![("out", Entry::Dir { tree })]), kit::blocks_of(1, &[1]));
    (exported(&from, &[id], ExportOptions::default()), id)
}
