//! CAR files out of one store and into another: what arrives, and what never does.
//!
//! Attacks are numbered as in `docs/design/trust.md`.

mod kit;

use std::path::Path;

use kit::{block, open, record, signer};
use proptest::prelude::*;
use quipu_store::car::{CarError, ExportOptions, ImportOptions, Imported, export, import};
use quipu_store::checkout::checkout;
use quipu_store::cid::{BlobId, Codec, InvocationId, Link, OutputId, ReceiptId, TaskId, TreeId};
use quipu_store::receipt::{Meta, Output, Receipt, ReceiptError};
use quipu_store::sign::Signer;
use quipu_store::tree::{Entry, Name, Tree};
use quipu_store::{Store, Take};

/// A hand that writes CAR files, of whatever kind.
struct Hand {
    bytes: Vec<u8>,
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = vec![];
    while n > 0x7f {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn head(major: u8, n: usize) -> Vec<u8> {
    match n {
        0..=23 => vec![major << 5 | n as u8],
        24..=255 => vec![major << 5 | 24, n as u8],
        _ => [&[major << 5 | 25][..], &(n as u16).to_be_bytes()].concat(),
    }
}

fn link_cbor(link: Link) -> Vec<u8> {
    [&[0xd8, 42, 0x58, 37, 0][..], &link.to_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.as_bytes().to_vec()].concat()
}

impl Hand {
    fn new(roots: &[Link]) -> Self {
        let roots: Vec<u8> = roots.iter().flat_map(|r| link_cbor(*r)).collect::<Vec<_>>();
        let count = roots.len() / 41;
        let header = [b"\xa2\x65roots".to_vec(), head(4, count), roots, b"\x67version\x01".to_vec()].concat();
        Self { bytes: [varint(header.len() as u64), header].concat() }
    }

    fn block(mut self, codec: Codec, bytes: &[u8]) -> Self {
        let link = Link::of(codec, bytes);
        self.bytes.extend(varint(36 + bytes.len() as u64));
        self.bytes.extend(link.to_bytes());
        self.bytes.extend(bytes);
        self
    }
}

fn name(n: &str) -> Name {
    Name::new(n).expect("valid")
}

fn file_of(store: &Store, bytes: &[u8]) -> Entry {
    let blob = BlobId::try_from(store.put(Codec::Raw, bytes.to_vec()).expect("is put")).expect("raw");
    Entry::File { blob, size: bytes.len() as u64, exec: false }
}

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
        .map(|c| {
            store.resolve(&quipu_store::cid::IdPrefix::new(&format!("bafkr4i{c}")).expect("valid")).expect("reads")
        })
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
fn attack_2_swapped_and_appended_blocks_are_refused() {
    let from = Store::memory(kit::options());
    let [first, _] = filled(&from);
    let good = exported(&from, &[first], ExportOptions::default());
    let (a, b) = (BlobId::of(b"a").link().to_bytes(), BlobId::of(b"deep down").link().to_bytes());
    let at = |id: &[u8; 36]| good.windows(36).rposition(|w| w == id).expect("is in the file");
    let (at_a, at_b) = (at(&a), at(&b));
    let mut swapped = good.clone();
    swapped[at_a..at_a + 36].copy_from_slice(&b);
    swapped[at_b..at_b + 36].copy_from_slice(&a);
    let store = Store::memory(kit::options());
    assert!(matches!(take(&store, &swapped), Err(CarError::Mismatch { .. })));
    assert!(take(&store, &[&good[..], &[1]].concat()).is_err());
    assert!(take(&store, &[&good[..], &[0]].concat()).is_err(), "padding is not part of the format");
    assert_eq!(shown(&store), shown(&Store::memory(kit::options())));
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

#[test]
fn attack_1_a_receipt_is_found_for_what_is_signed_and_for_nothing_else() {
    // The signature of one receipt on another, the issuer's name changed, and a receipt offered under another id.
    let (one, two) = (envelope(&kit::receipt(1, &[1], &[])), envelope(&kit::receipt(2, &[2], &[])));
    let grafted = [&one[..68], &two[68..]].concat();
    let wrong = |e| matches!(e, CarError::Receipt { source: ReceiptError::Signature, .. });
    assert!(wrong(refused(&[(Codec::DagCbor, grafted)])));
    let renamed = kit::receipt(1, &[1], &[]);
    let other = Signer::from_secret(&[6; 32]).sign(&renamed).expect("fits").bytes;
    assert_eq!(other.len(), one.len());
    assert!(wrong(refused(&[(Codec::DagCbor, [&one[..68], &other[68..]].concat())])));
    // Unsigned: zeros, and no signature at all.
    assert!(wrong(refused(&[(Codec::DagCbor, [&one[..3], &[0; 64], &one[67..]].concat())])));
    let bare = refused(&[(Codec::DagCbor, one[67..].to_vec())]);
    assert!(matches!(bare, CarError::Receipt { .. }), "{bare:?}");
    // Replayed: what it settles is signed, so it is found under task 1 only.
    let store = Store::memory(kit::options());
    take(&store, &Hand::new(&[ReceiptId::of(&one).link()]).block(Codec::DagCbor, &one).bytes).expect("is good");
    assert!(store.find_tasks(&[kit::task(2)]).expect("reads")[0].receipts.is_empty());
    assert_eq!(store.find_tasks(&[kit::task(1)]).expect("reads")[0].receipts.len(), 1);
}

#[test]
fn attack_3_a_second_encoding_of_a_signed_receipt_is_refused() {
    let good = envelope(&kit::receipt(1, &[1], &[]));
    // The group order added to S: the textbook second signature.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut shifted = good.clone();
    let mut carry = 0;
    for (byte, l) in shifted[3 + 32..3 + 64].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(l) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert!(matches!(refused(&[(Codec::DagCbor, shifted)]), CarError::Receipt { source: ReceiptError::Signature, .. }));
    // The same value in longer form: the length of the signature in two bytes, the list in two.
    let long = [&[0x82, 0x59, 0, 64][..], &good[3..]].concat();
    let list = [&[0x98, 2][..], &good[1..]].concat();
    let indefinite = [&[0x9f][..], &good[1..], &[0xff]].concat();
    for bytes in [long, list, indefinite, [&good[..], &[0]].concat()] {
        let error = refused(&[(Codec::DagCbor, bytes)]);
        assert!(matches!(error, CarError::Receipt { source: ReceiptError::Dag(_), .. }), "{error:?}");
    }
}

#[test]
fn attack_4_huge_and_deep_blocks_are_refused_without_being_built() {
    // The invocation is anybody's to make: its bytes are where hostile structure goes.
    let with_invocation = |bytes: Vec<u8>| {
        let receipt = Receipt { ran: InvocationId::of(&bytes), ..kit::receipt(1, &[1], &[]) };
        refused(&[(Codec::DagCbor, envelope(&receipt)), (Codec::DagCbor, bytes)])
    };
    let deep = [vec![0x81; 1 << 20], vec![0]].concat();
    let wide = [&[0x9a, 0x00, 0x3f, 0xff, 0xf0][..], &vec![0x80; 0x3f_fff0]].concat();
    for (why, bytes) in [
        ("deep", deep),
        ("a list of 2^60", b"\x9b\x10\x00\x00\x00\x00\x00\x00\x00".to_vec()),
        ("a text of 2^60", b"\x7b\x10\x00\x00\x00\x00\x00\x00\x00".to_vec()),
        ("a float", b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00".to_vec()),
        ("duplicate keys", b"\xa2\x61a\x00\x61a\x00".to_vec()),
    ] {
        let error = with_invocation(bytes);
        assert!(matches!(error, CarError::Block { .. }), "{why}: {error:?}");
    }
    // Four million empty lists are in form, and take no more memory than their bytes.
    let receipt = Receipt { ran: InvocationId::of(&wide), ..kit::receipt(1, &[1], &[]) };
    let receipt = envelope(&receipt);
    let hand = Hand::new(&[ReceiptId::of(&receipt).link()]).block(Codec::DagCbor, &receipt);
    take(&Store::memory(kit::options()), &hand.block(Codec::DagCbor, &wide).bytes).expect("in form");
    // Larger than any block with structure.
    let huge = refused(&[(Codec::DagCbor, vec![0x60; (4 << 20) + 1])]);
    assert!(matches!(huge, CarError::TooLarge { .. }), "{huge:?}");
}

fn node_with(entry_name: &[u8]) -> Vec<u8> {
    // {"e": [{"l": "x", "n": name}]}
    let entry = [b"\xa2\x61l\x61x\x61n".to_vec(), head(3, entry_name.len()), entry_name.to_vec()].concat();
    [b"\xa1\x61e\x81".to_vec(), entry].concat()
}

#[test]
fn attack_5_names_that_lead_elsewhere_are_refused() {
    let good = node_with(b"x");
    for bad in [&b".."[..], b".", b"", b"a/b", b"/etc", b"a\0b", &[b'n'; 300], b"\xff"] {
        let node = node_with(bad);
        let receipt = receipt_of(vec![("out", Entry::Dir { tree: TreeId::of(&node) })]);
        let error = refused(&[(Codec::DagCbor, envelope(&receipt)), (Codec::DagCbor, node.clone())]);
        assert!(matches!(error, CarError::Tree { .. }), "{bad:x?}: {error:?}");
        // As a directory of sources, named by the invocation.
        let invocation = link_cbor(TreeId::of(&node).link());
        let receipt = Receipt { ran: InvocationId::of(&invocation), ..kit::receipt(1, &[1], &[]) };
        let blocks = [envelope(&receipt), invocation, node].map(|b| (Codec::DagCbor, b));
        let error = refused(&blocks);
        assert!(matches!(error, CarError::Tree { .. } | CarError::Block { .. }), "{bad:x?}: {error:?}");
    }
    let receipt = envelope(&receipt_of(vec![("out", Entry::Dir { tree: TreeId::of(&good) })]));
    let hand = Hand::new(&[ReceiptId::of(&receipt).link()]).block(Codec::DagCbor, &receipt);
    take(&Store::memory(kit::options()), &hand.block(Codec::DagCbor, &good).bytes).expect("its name is good");
    // Output paths of the receipt itself: written by hand, since no signer here would.
    for bad in ["../up", "/etc/x", "a//b", "a/../b", "."] {
        let honest = envelope(&receipt_of(vec![("PLACEHOLD", Entry::Symlink { target: "x".into() })]));
        let (from, to) = (text("PLACEHOLD"), text(bad));
        let at = honest.windows(from.len()).position(|w| w == from).expect("is there");
        let bytes = [&honest[..at], &to, &honest[at + from.len()..]].concat();
        let error = refused(&[(Codec::DagCbor, bytes)]);
        assert!(matches!(error, CarError::Receipt { .. }), "{bad}: {error:?}");
    }
}

#[test]
fn attack_6_links_that_lead_outside_are_not_made() {
    let from = Store::memory(kit::options());
    for target in ["/etc/passwd", "../../up", "d/../../x"] {
        let tree = Tree::new(vec![(name("l"), Entry::Symlink { target: target.into() })]).expect("valid");
        let tree = from.put_tree(&tree).expect("is put");
        let receipt = receipt_of(vec![("out", Entry::Dir { tree })]);
        let id = record(&from, receipt, kit::blocks_of(1, &[1]));
        let to = Store::memory(kit::options());
        take(&to, &exported(&from, &[id], ExportOptions::default())).expect("a link is content");
        let dir = tempfile::tempdir().expect("temp");
        let made = checkout(&to, &Entry::Dir { tree }, dir.path(), "out");
        assert!(made.is_err(), "{target}");
        assert_eq!(files_below(dir.path()), [] as [String; 0]);
    }
    // Output 1 is a link to somewhere, output 2 a file behind it: the second does not go through the first.
    let (dir, outside) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    std::os::unix::fs::symlink(outside.path(), dir.path().join("a")).expect("temp");
    let file = file_of(&from, b"through the link");
    assert!(checkout(&from, &file, dir.path(), "a/x").is_err());
    assert_eq!(files_below(outside.path()), [] as [String; 0]);
}

#[test]
fn attack_7_kinds_and_modes_beside_file_dir_link_have_no_encoding() {
    let blob = link_cbor(BlobId::of(b"x").link());
    let entries: Vec<(&str, Vec<u8>)> = vec![
        // {"f": link, "m": 2541, "n": "a", "s": 1}: a mode.
        ("a mode", [b"\xa4\x61f".to_vec(), blob.clone(), b"\x61m\x19\x09\xed\x61n\x61a\x61s\x01".to_vec()].concat()),
        (
            "exec that is a number",
            [b"\xa4\x61f".to_vec(), blob.clone(), b"\x61n\x61a\x61s\x01\x61x\x07".to_vec()].concat(),
        ),
        (
            "exec that is false",
            [b"\xa4\x61f".to_vec(), blob.clone(), b"\x61n\x61a\x61s\x01\x61x\xf4".to_vec()].concat(),
        ),
        ("a device", b"\xa2\x61n\x61a\x61v\x18\x2a".to_vec()),
        ("file and link at once", [b"\xa4\x61f".to_vec(), blob, b"\x61l\x61x\x61n\x61a\x61s\x01".to_vec()].concat()),
        ("nothing", b"\xa1\x61n\x61a".to_vec()),
    ];
    for (why, entry) in entries {
        let node = [b"\xa1\x61e\x81".to_vec(), entry].concat();
        let receipt = receipt_of(vec![("out", Entry::Dir { tree: TreeId::of(&node) })]);
        let error = refused(&[(Codec::DagCbor, envelope(&receipt)), (Codec::DagCbor, node)]);
        assert!(matches!(error, CarError::Tree { .. }), "{why}: {error:?}");
    }
    // A directory given as a file, and a size that is not the content's.
    let node = b"\xa1\x61e\x80".to_vec();
    let receipt = envelope(&receipt_of(vec![("out", Entry::File { blob: BlobId::of(b"x"), size: 7, exec: false })]));
    let error = refused(&[(Codec::DagCbor, receipt), (Codec::Raw, b"x".to_vec()), (Codec::DagCbor, node)]);
    assert!(matches!(error, CarError::Size { expected_bytes: 7, found_bytes: 1, .. }), "{error:?}");
}

#[test]
fn attack_8_directories_that_expand_without_end_are_refused() {
    // Each of 60 levels names the next one twice; and 70 levels, each once.
    for (levels, names) in [(60, &["a", "b"][..]), (70, &["a"])] {
        let store = Store::memory(kit::options());
        let mut tree = store.put_tree(&Tree::default()).expect("is put");
        for _ in 0..levels {
            let entries = names.iter().map(|n| (name(n), Entry::Dir { tree })).collect();
            tree = store.put_tree(&Tree::new(entries).expect("valid")).expect("is put");
        }
        let id = record(&store, receipt_of(vec![("out", Entry::Dir { tree })]), kit::blocks_of(1, &[1]));
        let bytes = exported(&store, &[id], ExportOptions::default());
        assert!(bytes.len() < 20_000);
        let to = Store::memory(kit::options());
        let error = take(&to, &bytes).expect_err("must be refused");
        assert!(matches!(error, CarError::Tree { .. }), "{error:?}");
        assert_eq!(shown(&to), shown(&Store::memory(kit::options())));
    }
    // One block that claims more bytes than any checkout may write.
    let receipt = receipt_of(vec![("out", Entry::File { blob: BlobId::of(b"x"), size: 1 << 50, exec: false })]);
    let error = refused(&[(Codec::DagCbor, envelope(&receipt))]);
    assert!(matches!(error, CarError::Tree { .. }), "{error:?}");
    // A directory in parts that names the same part many times.
    let part: Vec<u8> = [b"\xa1\x61e\x81".to_vec(), b"\xa2\x61l\x61x\x61n\x61a".to_vec()].concat();
    let link = link_cbor(TreeId::of(&part).link());
    let top = [b"\xa1\x61p\x99\x27\x10".to_vec(), link.repeat(10_000)].concat();
    let receipt = receipt_of(vec![("out", Entry::Dir { tree: TreeId::of(&top) })]);
    let blocks = [envelope(&receipt), top, part].map(|b| (Codec::DagCbor, b));
    assert!(matches!(refused(&blocks), CarError::Tree { .. }));
}

#[test]
fn attack_9_hostile_files_are_refused_within_their_budget() {
    let receipt = envelope(&kit::receipt(1, &[1], &[]));
    let root = ReceiptId::of(&receipt).link();
    let small = Hand::new(&[root]).block(Codec::DagCbor, &receipt);
    let store = Store::memory(kit::options());
    let budget =
        |bytes: &[u8], max_bytes| import(&store, bytes, &ImportOptions { max_bytes, ..ImportOptions::new("files") });
    // Ten thousand tiny blocks nobody asked for: over the budget, and within it as strays.
    let many = (0..10_000_u32).fold(small, |hand, n| hand.block(Codec::Raw, &n.to_le_bytes()));
    assert!(matches!(budget(&many.bytes, 100_000), Err(CarError::Budget(100_000))));
    assert!(store.receipt(root.try_into().expect("dag-cbor")).expect("reads").is_none());
    // The same block over and over is staged once.
    let again = (0..1000).fold(Hand::new(&[root]).block(Codec::DagCbor, &receipt), |h, _| h.block(Codec::Raw, b"x"));
    let done = budget(&again.bytes, u64::MAX).expect("odd but good");
    assert_eq!((done.receipts.len(), done.strays, done.blocks), (1, 1, 0));
    let done = take(&Store::memory(kit::options()), &many.bytes).expect("odd but good");
    assert_eq!((done.strays, done.blocks), (10_000, 0));
    // A root that is not there, one that is no receipt, one twice, one of raw bytes.
    let store = Store::memory(kit::options());
    let missing = Hand::new(&[ReceiptId::of(b"?").link()]).block(Codec::DagCbor, &receipt);
    assert!(matches!(take(&store, &missing.bytes), Err(CarError::MissingRoot(_))));
    let twice = Hand::new(&[root, root]).block(Codec::DagCbor, &receipt);
    assert!(matches!(take(&store, &twice.bytes), Err(CarError::Roots)));
    let raw = Hand::new(&[BlobId::of(b"x").link()]).block(Codec::Raw, b"x");
    assert!(matches!(take(&store, &raw.bytes), Err(CarError::Roots)));
    let odd = Hand::new(&[Link::of(Codec::DagCbor, b"\xa0")]).block(Codec::DagCbor, b"\xa0");
    assert!(matches!(take(&store, &odd.bytes), Err(CarError::Receipt { .. })));
    // One bad receipt among good ones: none is kept.
    let bad = [&receipt[..receipt.len() - 1], &[0x41]].concat();
    let both =
        Hand::new(&[root, ReceiptId::of(&bad).link()]).block(Codec::DagCbor, &receipt).block(Codec::DagCbor, &bad);
    assert!(take(&store, &both.bytes).is_err());
    assert_eq!(shown(&store), shown(&Store::memory(kit::options())));
}

#[test]
fn a_receipt_of_a_later_version_says_so() {
    let good = envelope(&kit::receipt(1, &[1], &[]));
    let at = good.windows(3).position(|w| w == b"\x61v\x01").expect("the version is there");
    let mut later = good;
    later[at + 2] = 9;
    // Its signature is not ours to make: the form is looked at after it.
    assert!(matches!(refused(&[(Codec::DagCbor, later)]), CarError::Receipt { .. }));
}

fn small() -> (Vec<u8>, ReceiptId) {
    let from = Store::memory(kit::options());
    let tree = Tree::new(vec![(name("f"), file_of(&from, b"content"))]).expect("valid");
    let tree = from.put_tree(&tree).expect("is put");
    let id = record(&from, receipt_of(vec![("out", Entry::Dir { tree })]), kit::blocks_of(1, &[1]));
    (exported(&from, &[id], ExportOptions::default()), id)
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
