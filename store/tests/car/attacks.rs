//! Attacks on an import, numbered as in `docs/design/trust.md`.

use quipu_store::Store;
use quipu_store::car::{CarError, ExportOptions, ImportOptions, import};
use quipu_store::checkout::checkout;
use quipu_store::cid::{BlobId, Codec, InvocationId, Link, ReceiptId, TreeId};
use quipu_store::receipt::{Receipt, ReceiptError};
use quipu_store::sign::Signer;
use quipu_store::tree::{Entry, Tree};

use crate::hand::{Hand, file_of, head, link_cbor, name, text};
use crate::kit::{self, record};
use crate::{envelope, exported, files_below, filled, receipt_of, refused, shown, take};

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
