//! What is exported arrives whole or not at all.

use proptest::prelude::*;
use quipu_store::car::{CarError, ExportOptions, export};
use quipu_store::cid::{BlobId, Codec, InvocationId, OutputId, ReceiptId, TreeId};
use quipu_store::receipt::Receipt;
use quipu_store::tree::{Entry, Tree};
use quipu_store::{Store, Take};

use crate::hand::{Hand, link_cbor, name};
use crate::kit::{self, block, open, record, signer};
use crate::{envelope, exported, files_below, filled, receipt_of, shown, small, take};

#[test]
fn what_is_exported_arrives_as_made_elsewhere_and_the_second_time_there_is_nothing_to_do() {
    let from = Store::memory(kit::options());
    let [first, second] = filled(&from);
    let bytes = exported(&from, &[second], ExportOptions::default());
    assert_eq!(bytes, exported(&from, &[second, second], ExportOptions::default()), "the same bytes every time");

    let dir = tempfile::tempdir().expect("temp");
    let to = open(&dir.path().join("store"));
    let done = take(&to, &bytes).expect("is good");
    let issuers: Vec<_> = done.receipts.iter().map(|(_, key)| *key).collect();
    assert_eq!(issuers, [signer().public(); 2]);
    assert_eq!((done.known_receipts, done.known_blocks, done.strays), (0, 0, 0));
    assert_eq!(done.incomplete, []);
    for id in [first, second] {
        let found = to.receipt(id).expect("reads").expect("is here");
        assert!(!found.own && !found.made_here);
        assert_eq!(to.source_of(id).expect("reads").as_deref(), Some("files"));
        for entry in found.signed.receipt.out.as_ref().expect("ok").artifacts.values() {
            assert!(to.complete(entry).expect("reads"));
        }
        assert!(to.has(found.signed.receipt.ran.link()).expect("reads"));
        let log = found.signed.receipt.out.as_ref().expect("ok").stderr;
        assert!(log.is_none_or(|log| !to.has(log.link()).expect("reads")), "logs stay unless asked for");
    }
    let found = to.find_tasks(&[kit::task(2)]).expect("reads").remove(0);
    assert_eq!(found.receipts.len(), 1);
    assert!(found.accepted.is_none() && !found.receipts[0].own);

    let before = to.counters();
    let again = take(&to, &bytes).expect("is good");
    assert_eq!((again.receipts.len(), again.blocks, again.known_receipts), (0, 0, 2));
    assert_eq!(again.known_blocks, done.blocks);
    assert_eq!(to.counters().commits, before.commits, "nothing is written");
    drop(to);
    assert!(files_below(&dir.path().join("store/scratch")).is_empty());
}

#[test]
fn logs_and_sources_come_by_choice() {
    let from = Store::memory(kit::options());
    let [first, _] = filled(&from);
    let (with, without) = (ExportOptions { logs: true, sources: None }, ExportOptions::default());
    let to = Store::memory(kit::options());
    take(&to, &exported(&from, &[first], with)).expect("is good");
    let log = BlobId::of(b"said\n").link();
    assert!(to.has(log).expect("reads"));
    let other = Store::memory(kit::options());
    take(&other, &exported(&from, &[first], without)).expect("is good");
    assert!(!other.has(log).expect("reads"));

    // An invocation that names a directory of sources: its nodes are here, its files in a workspace.
    let dir = tempfile::tempdir().expect("temp");
    let (here, gone) = (dir.path().join("a.c"), BlobId::of(b"not there any more"));
    std::fs::write(&here, "int a;").expect("temp");
    let file = |blob, size| Entry::File { blob, size, exec: false };
    let files = vec![(name("a.c"), file(BlobId::of(b"int a;"), 6)), (name("b.c"), file(gone, 18))];
    let tree = from.put_tree(&Tree::new(files).expect("valid")).expect("is put");
    let invocation = link_cbor(tree.link());
    let ran = InvocationId::of(&invocation);
    let id = record(&from, Receipt { ran, ..kit::receipt(3, &[3], &[]) }, vec![(ran.link(), invocation)]);
    let find = |id: BlobId| (id == BlobId::of(b"int a;")).then(|| here.clone());
    let bytes = exported(&from, &[id], ExportOptions { logs: false, sources: Some(&find) });
    let to = Store::memory(kit::options());
    take(&to, &bytes).expect("is good");
    assert!(to.has(tree.link()).expect("reads") && to.has(BlobId::of(b"int a;").link()).expect("reads"));
    assert!(!to.has(gone.link()).expect("reads"));
    std::fs::write(&here, "int b;").expect("temp");
    let mut out = vec![];
    let changed = export(&from, &[id], ExportOptions { logs: false, sources: Some(&find) }, &mut out);
    assert!(matches!(changed, Err(CarError::Changed(_))), "{changed:?}");
}

#[test]
fn an_output_that_is_gone_is_told_of_on_both_sides() {
    let from = Store::memory(kit::options());
    let gone = BlobId::of(b"gone");
    let id = record(&from, kit::receipt(1, &[1], &[(gone, 4)]), kit::blocks_of(1, &[1]));
    let mut bytes = vec![];
    let done = export(&from, &[id], ExportOptions::default(), &mut bytes).expect("exports");
    assert_eq!(done.missing, [gone.link()]);
    let to = Store::memory(kit::options());
    assert_eq!(take(&to, &bytes).expect("is good").incomplete, [id]);
    assert!(matches!(
        export(&to, &[ReceiptId::of(b"?")], ExportOptions::default(), &mut bytes),
        Err(CarError::UnknownReceipt(_))
    ));
}

#[test]
fn content_damaged_in_the_store_is_not_exported() {
    let dir = tempfile::tempdir().expect("temp");
    let from = open(&dir.path().join("store"));
    let [_, second] = filled(&from);
    from.flush().expect("commits");
    let large = files_below(&dir.path().join("store/blobs"));
    let large = large.iter().find(|p| std::fs::metadata(p).is_ok_and(|m| m.len() == 200_000)).expect("is a file");
    std::fs::remove_file(large).expect("own file");
    std::fs::write(large, vec![8; 200_000]).expect("own file");
    let mut out = vec![];
    let result = export(&from, &[second], ExportOptions::default(), &mut out);
    assert!(matches!(result, Err(CarError::Damaged(_))), "{result:?}");
}

#[test]
fn a_flipped_bit_at_every_byte_is_never_accepted_as_something_else() {
    let (good, id) = small();
    let untouched = shown(&Store::memory(kit::options()));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let store = Store::memory(kit::options());
        assert!(take(&store, &bad).is_err(), "byte {at}");
        assert_eq!(shown(&store), untouched, "byte {at}");
        assert!(store.receipt(id).expect("reads").is_none());
    }
}

#[test]
fn a_file_cut_at_any_length_is_refused() {
    let (good, _) = small();
    let untouched = shown(&Store::memory(kit::options()));
    for len in 0..good.len() {
        let store = Store::memory(kit::options());
        assert!(take(&store, &good[..len]).is_err(), "cut at {len}");
        assert_eq!(shown(&store), untouched, "cut at {len}");
    }
    assert_eq!(take(&Store::memory(kit::options()), &good).expect("is good").blocks, 4);
}

#[test]
fn blocks_that_another_writer_left_out_are_missed_and_told_of() {
    // The receipt first and nothing else: in form, and of no use but to say what there would be.
    let tree = Entry::Dir { tree: TreeId::of(b"not in the file") };
    let receipt = envelope(&receipt_of(vec![("out", tree)]));
    let hand = Hand::new(&[ReceiptId::of(&receipt).link()]).block(Codec::DagCbor, &receipt);
    let done = take(&Store::memory(kit::options()), &hand.bytes).expect("in form");
    assert_eq!(done.incomplete, [ReceiptId::of(&receipt)]);
}

#[test]
fn an_import_that_fails_leaves_a_store_on_disk_as_it_was() {
    let (good, id) = small();
    let dir = tempfile::tempdir().expect("temp");
    let store = open(dir.path());
    let from = Store::memory(kit::options());
    let [_, second] = filled(&from);
    let mut bad = exported(&from, &[second], ExportOptions::default());
    *bad.last_mut().expect("not empty") ^= 1;
    take(&store, &good).expect("is good");
    let before = (shown(&store), files_below(dir.path()));
    assert!(take(&store, &bad).is_err());
    assert_eq!((shown(&store), files_below(dir.path())), before);
    assert!(store.receipt(id).expect("reads").is_some());
}

#[test]
fn an_import_that_was_killed_half_way_is_taken_up_by_the_next() {
    // What it leaves at most: content without receipts, and a scratch directory of a process that is gone.
    let from = Store::memory(kit::options());
    let [first, second] = filled(&from);
    let bytes = exported(&from, &[second], ExportOptions::default());
    let dir = tempfile::tempdir().expect("temp");
    let (path, dir) = (dir.path().join("store"), dir);
    {
        let store = open(&path);
        let large = dir.path().join("large");
        std::fs::write(&large, vec![9; 200_000]).expect("temp");
        store.put_file(&large, Take::Move).expect("is put");
        store.put(Codec::Raw, b"deep down".to_vec()).expect("is put");
        store.flush().expect("commits");
    }
    let store = open(&path);
    assert!(store.receipt(first).expect("reads").is_none());
    let done = take(&store, &bytes).expect("is good");
    assert_eq!((done.known_blocks, done.receipts.len()), (2, 2));
    assert_eq!(done.incomplete, []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Bytes that begin as a good file does and go on as they like: no panic, and nothing but what their ids say.
    #[test]
    fn any_bytes_behind_a_good_header_are_refused_or_harmless(
        cut in 0_usize..900,
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let (good, id) = small();
        let bytes = [&good[..cut.min(good.len())], &tail].concat();
        let store = Store::memory(kit::options());
        if take(&store, &bytes).is_ok() && bytes != good {
            prop_assert!(store.receipt(id).expect("reads").is_some());
        }
    }

    /// Blocks in any order, with strangers among them: the receipts and all they reach arrive, and nothing else.
    #[test]
    fn order_does_not_matter_and_strangers_stay_outside(seed in any::<u64>(), strangers in 0_u8..5) {
        let from = Store::memory(kit::options());
        let [first, second] = filled(&from);
        let mut blocks: Vec<(Codec, Vec<u8>)> = vec![];
        let good = exported(&from, &[second], ExportOptions::default());
        let mut at = 0;
        let length = |at: &mut usize| {
            let start = *at;
            *at += good[start..].iter().position(|b| *b < 0x80).expect("lengths end") + 1;
            good[start..*at].iter().rev().fold(0, |n, b| n << 7 | usize::from(b & 0x7f))
        };
        let header = length(&mut at);
        at += header;
        while at < good.len() {
            let len = length(&mut at);
            let codec = if good[at + 1] == 0x55 { Codec::Raw } else { Codec::DagCbor };
            blocks.push((codec, good[at + 36..at + len].to_vec()));
            at += len;
        }
        let count = blocks.len() - 2;
        blocks.extend((0..strangers).map(|n| (Codec::Raw, vec![n; 9])));
        let mut state = seed | 1;
        for i in (1..blocks.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            blocks.swap(i, (state >> 33) as usize % (i + 1));
        }
        let mut roots = [first.link(), second.link()];
        roots.sort();
        let hand = blocks.iter().fold(Hand::new(&roots), |hand, (codec, bytes)| hand.block(*codec, bytes));
        let to = Store::memory(kit::options());
        let done = take(&to, &hand.bytes).expect("is good");
        prop_assert_eq!((done.blocks as usize, done.strays), (count, u64::from(strangers)));
        prop_assert!(done.incomplete.is_empty());
    }
}

#[test]
fn the_id_of_an_output_stays_what_it_was() {
    let from = Store::memory(kit::options());
    let [first, _] = filled(&from);
    let out: OutputId =
        from.receipt(first).expect("reads").expect("here").signed.receipt.out.as_ref().expect("ok").id();
    let to = Store::memory(kit::options());
    take(&to, &exported(&from, &[first], ExportOptions::default())).expect("is good");
    to.accept(kit::task(1), first, Default::default()).expect("is here");
    assert_eq!(to.find_tasks(&[kit::task(1)]).expect("reads")[0].accepted, Some((first, out)));
    // Accepted for the task, and made elsewhere all the same.
    let found = to.find_tasks(&[kit::task(1)]).expect("reads").remove(0).receipts.remove(0);
    assert!(found.own && !found.made_here);
    assert!(block(b'T', 1).len() > 4);
}
