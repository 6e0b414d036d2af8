//! Random work on a store, beside an obvious model of it: sets and maps, and a list of what a commit would lose.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kit::{block, blocks_of, failed, invocation, options, receipt, signer, task, via};
use proptest::prelude::*;
use quipu_store::cid::{BlobId, Codec, Link, OutputId, ReceiptId};
use quipu_store::receipt::{Receipt, Via};
use quipu_store::{GcOptions, Record, Root, Store, Take, VerifyOptions};

#[derive(Debug, Clone)]
enum Op {
    Put(u8),
    PutFile(u8, bool),
    Record { n: u64, tasks: Vec<u64>, blob: u8, ok: bool },
    Import { n: u64, tasks: Vec<u64> },
    Accept { task: u64, pick: usize, via: u64 },
    Note(u8, Option<u8>),
    Root(u8, usize),
    Unroot(u8),
    Flush,
    Gc { all: bool },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let tasks = || proptest::collection::btree_set(0..4_u64, 1..3).prop_map(|t| t.into_iter().collect());
    prop_oneof![
        3 => (0..6_u8).prop_map(Op::Put),
        2 => (0..6_u8, any::<bool>()).prop_map(|(n, moved)| Op::PutFile(n, moved)),
        5 => (0..6_u64, tasks(), 0..6_u8, prop::bool::weighted(0.8))
            .prop_map(|(n, tasks, blob, ok)| Op::Record { n, tasks, blob, ok }),
        1 => (10..13_u64, tasks()).prop_map(|(n, tasks)| Op::Import { n, tasks }),
        2 => (0..4_u64, any::<usize>(), 0..3_u64).prop_map(|(task, pick, via)| Op::Accept { task, pick, via }),
        1 => (0..3_u8, any::<Option<u8>>()).prop_map(|(key, value)| Op::Note(key, value)),
        2 => (0..2_u8, any::<usize>()).prop_map(|(name, pick)| Op::Root(name, pick)),
        1 => (0..2_u8).prop_map(Op::Unroot),
        2 => Just(Op::Flush),
        1 => any::<bool>().prop_map(|all| Op::Gc { all }),
        2 => Just(Op::Reopen),
    ]
}

/// Content number `n`: even ones fit the index, odd ones do not.
fn content(n: u8) -> Vec<u8> {
    vec![n; if n.is_multiple_of(2) { 40 } else { 900 }]
}

fn blob(n: u8) -> BlobId {
    BlobId::of(&content(n))
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    blocks: BTreeSet<Link>,
    receipts: BTreeMap<ReceiptId, Receipt>,
    by_task: BTreeMap<(u64, ReceiptId), (bool, Via)>,
    accepted: BTreeMap<u64, (ReceiptId, OutputId)>,
    notes: BTreeMap<u8, u8>,
    roots: BTreeMap<u8, ReceiptId>,
}

const TASKS: std::ops::Range<u64> = 0..4;

impl Model {
    fn number(&self, id: &quipu_store::cid::TaskId) -> u64 {
        TASKS.clone().find(|n| task(*n) == *id).expect("one of ours")
    }

    fn record(&mut self, id: ReceiptId, said: &Receipt, own: bool) {
        self.receipts.insert(id, said.clone());
        for (task, via) in &said.meta.settles {
            let task = self.number(task);
            let row = self.by_task.entry((task, id)).or_default();
            if own || !row.0 {
                *row = (own, via.clone());
            }
            if own && let Ok(output) = &said.out {
                self.accepted.insert(task, (id, output.id()));
            }
        }
    }

    fn collect(&mut self, all: bool) {
        if all {
            let rooted: BTreeSet<_> = self.roots.values().copied().collect();
            self.receipts.retain(|id, _| rooted.contains(id));
        }
        let receipts = &self.receipts;
        self.by_task.retain(|(_, id), _| receipts.contains_key(id));
        self.accepted.retain(|_, (id, _)| receipts.contains_key(id));
        let mut live = BTreeSet::new();
        for said in receipts.values() {
            live.insert(said.ran.link());
            live.extend(said.out.iter().flat_map(|output| output.links()));
        }
        live.extend(self.by_task.keys().map(|(n, _)| task(*n).link()));
        self.blocks.retain(|link| live.contains(link));
    }

    fn pick(&self, pick: usize) -> Option<ReceiptId> {
        self.receipts.keys().nth(pick % self.receipts.len().max(1)).copied()
    }

    fn compare(&self, store: &Store) {
        for n in 0..6 {
            assert_eq!(store.get(blob(n).link(), 999).expect("reads"), self.content(blob(n).link(), || content(n)));
        }
        for n in TASKS {
            assert_eq!(store.get(task(n).link(), 99).expect("reads"), self.content(task(n).link(), || block(b'T', n)));
        }
        let found = store.find_tasks(&TASKS.map(task).collect::<Vec<_>>()).expect("reads");
        for (n, found) in TASKS.zip(found) {
            let rows: BTreeMap<_, _> = found.receipts.iter().map(|f| (f.signed.id, (f.own, f.via.clone()))).collect();
            let of_task = self.by_task.iter().filter(|((t, _), _)| *t == n);
            assert_eq!(rows, of_task.map(|((_, id), row)| (*id, row.clone())).collect(), "task {n}");
            assert!(found.receipts.iter().all(|f| self.receipts[&f.signed.id] == f.signed.receipt));
            assert_eq!(found.accepted, self.accepted.get(&n).copied(), "task {n}");
        }
        let ids: Vec<_> = (0..13).map(invocation).collect();
        let found: BTreeSet<_> =
            store.find_invocations(&ids).expect("reads").into_iter().flatten().map(|f| f.signed.id).collect();
        assert_eq!(found, self.receipts.keys().copied().collect());
        for n in 0..3_u8 {
            let note = store.note(&n.to_string()).expect("reads");
            assert_eq!(note, self.notes.get(&n).map(|value| vec![*value]));
        }
        let roots: Vec<_> =
            store.roots().expect("reads").into_iter().map(|(name, root)| (name, root.receipts)).collect();
        assert_eq!(roots, self.roots.iter().map(|(n, id)| (n.to_string(), vec![*id])).collect::<Vec<_>>());
    }

    fn content(&self, link: Link, bytes: impl FnOnce() -> Vec<u8>) -> Option<Vec<u8>> {
        self.blocks.contains(&link).then(bytes)
    }
}

/// Does one thing to both.
fn apply(op: &Op, model: &mut Model, store: &Store, dir: &std::path::Path) {
    match op {
        Op::Put(n) => {
            store.put(Codec::Raw, content(*n)).expect("is put");
            model.blocks.insert(blob(*n).link());
        }
        Op::PutFile(n, moved) => {
            let path = dir.join("file");
            std::fs::write(&path, content(*n)).expect("writes");
            store.put_file(&path, if *moved { Take::Move } else { Take::Copy }).expect("is put");
            model.blocks.insert(blob(*n).link());
        }
        Op::Record { n, tasks, blob: b, ok } => {
            store.put(Codec::Raw, content(*b)).expect("is put");
            model.blocks.insert(blob(*b).link());
            let file = [(blob(*b), content(*b).len() as u64)];
            let said = if *ok { receipt(*n, tasks, &file) } else { failed(*n, tasks) };
            let blocks = blocks_of(*n, tasks);
            model.blocks.extend(blocks.iter().map(|(link, _)| *link));
            model.record(signer().sign(&said).expect("encodes").id, &said, true);
            let done = Box::new(|result: Result<_, _>| assert!(result.is_ok(), "{result:?}"));
            store.record(Record { receipt: said, blocks, done }).expect("is queued");
        }
        Op::Import { n, tasks } => {
            let theirs = quipu_store::sign::Signer::from_secret(&[8; 32]);
            let signed = theirs.sign(&receipt(*n, tasks, &[])).expect("encodes");
            if !model.receipts.contains_key(&signed.id) {
                model.record(signed.id, &signed.receipt, false);
            }
            store.import(signed).expect("is queued");
        }
        Op::Accept { task: t, pick, via: v } => {
            let Some(id) = model.pick(*pick) else { return };
            let via = via(&[(*v, *v)]);
            let accepted = store.accept(task(*t), id, via.clone());
            match &model.receipts[&id].out {
                Ok(output) => {
                    accepted.expect("is ok");
                    model.by_task.insert((*t, id), (true, via));
                    model.accepted.insert(*t, (id, output.id()));
                }
                Err(_) => assert!(accepted.is_err()),
            }
        }
        Op::Note(key, value) => {
            store.set_note(&key.to_string(), value.map(|v| vec![v])).expect("is set");
            match value {
                Some(value) => model.notes.insert(*key, *value),
                None => model.notes.remove(key),
            };
        }
        Op::Root(name, pick) => {
            let Some(id) = model.pick(*pick) else { return };
            let root = Root { path: "/w".to_owned(), receipts: vec![id], links: vec![], at: 1 };
            store.set_root(&name.to_string(), &root).expect("is set");
            model.roots.insert(*name, id);
        }
        Op::Unroot(name) => {
            store.remove_root(&name.to_string()).expect("is dropped");
            model.roots.remove(name);
        }
        Op::Flush => store.flush().expect("commits"),
        Op::Gc { all } => {
            let max_age = all.then_some(Duration::ZERO);
            let options =
                GcOptions { max_age, grace: Duration::ZERO, wait: Duration::ZERO, ..GcOptions::new(4_000_000_000) };
            store.gc(&options).expect("collects");
            model.collect(*all);
        }
        Op::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_what_the_model_says(ops in proptest::collection::vec(op(), 1..40)) {
        let temp = kit::temp();
        let dir = temp.path().join("store");
        let mut local = kit::open(&dir);
        let memory = Store::memory(options());
        let mut model = Model::default();
        for op in &ops {
            let mut of_memory = model.clone();
            apply(op, &mut of_memory, &memory, temp.path());
            apply(op, &mut model, &local, temp.path());
            if matches!(op, Op::Reopen) {
                drop(local);
                local = kit::open(&dir);
            }
            model.compare(&local);
            model.compare(&memory);
        }
        local.flush().expect("commits");
        let report = local.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
        assert!(report.is_sound(), "{:?}", report.findings);
        drop(local);
        // What is rebuilt is the same, but for notes, which are not journalled.
        let (rebuilt, _) = Store::rebuild(&dir, options(), Duration::ZERO).expect("rebuilds");
        model.notes.clear();
        // Receipts and blocks that were collected may come back: the journal still speaks of them.
        if !ops.iter().any(|op| matches!(op, Op::Gc { .. })) {
            model.compare(&rebuilt);
        }
        let report = rebuilt.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
        assert!(report.is_sound(), "{:?}", report.findings);
    }
}
