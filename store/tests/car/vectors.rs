//! The published files: `QUIPU_BLESS=1 cargo test -p quipu-store --test car` writes them anew.

use std::path::Path;

use quipu_store::Store;
use quipu_store::car::{CarError, ExportOptions};
use quipu_store::cid::Codec;

use crate::hand::{Hand, file_of, varint};
use crate::kit::{self, block, record};
use crate::{exported, receipt_of, take};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A receipt by key 7 of an invocation that made the file `out`, with all it reaches; and what a reader must refuse.
fn vectors() -> serde_json::Value {
    let from = Store::memory(kit::options());
    let receipt = receipt_of(vec![("out", file_of(&from, b"hi"))]);
    let id = record(&from, receipt, kit::blocks_of(1, &[1]));
    let good = exported(&from, &[id], ExportOptions::default());
    let receipt = from.get(id.link(), 1 << 20).expect("reads").expect("is here");
    let blocks = [(Codec::DagCbor, block(b'I', 1)), (Codec::DagCbor, block(b'T', 1)), (Codec::Raw, b"hi".to_vec())];
    let other =
        blocks.iter().rev().fold(Hand::new(&[id.link()]).block(Codec::DagCbor, &receipt), |hand, (codec, bytes)| {
            hand.block(*codec, bytes)
        });
    let header = |header: &[u8]| {
        [varint(header.len() as u64), header.to_vec(), good[1 + usize::from(good[0])..].to_vec()].concat()
    };
    let start = good.len() - receipt.len() - 36;
    let changed = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        bad
    };
    let long = [0xa5, 0x80, 0x00];
    let reject = [
        ("version 2", "version", b"\x0a\xa1\x67version\x02".to_vec()),
        ("no roots", "roots", header(b"\xa2\x65roots\x80\x67version\x01")),
        ("keys of the header out of order", "header", header(b"\xa2\x67version\x01\x65roots\x80")),
        ("a root twice", "roots", Hand::new(&[id.link(), id.link()]).block(Codec::DagCbor, &receipt).bytes),
        ("a root that is missing", "root", Hand::new(&[id.link()]).block(Codec::Raw, b"hi").bytes),
        ("a length in three bytes where one will do", "length", [&good[..], &long].concat()),
        ("a length of zero", "length", [&good[..], &[0]].concat()),
        ("cut short by a byte", "truncated", good[..good.len() - 1].to_vec()),
        ("cut before the last block", "root", good[..start - 2].to_vec()),
        ("an id of SHA2-256", "id", changed(start + 2, 0x12)),
        ("an id of another codec", "id", changed(start + 1, 0x70)),
        ("a byte of a block changed", "mismatch", changed(good.len() - 1, 0)),
    ];
    let reject: Vec<_> = reject
        .iter()
        .map(|(name, why, bytes)| serde_json::json!({ "name": name, "why": why, "bytes": hex(bytes) }))
        .collect();
    let accept = |name: &str, bytes: &[u8]| serde_json::json!({ "name": name, "bytes": hex(bytes), "receipts": [id.to_string()], "blocks": 4 });
    serde_json::json!({
        "accept": [accept("as quipu writes it", &good), accept("in another order", &other.bytes)],
        "reject": reject,
    })
}

#[test]
fn the_published_files_are_what_the_code_makes_and_refuses() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/cars.json");
    let made = vectors();
    if std::env::var_os("QUIPU_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&made).expect("vectors are JSON") + "\n";
        std::fs::write(&path, text).expect("vectors can be written");
    }
    let text = std::fs::read_to_string(&path).expect("vectors are committed");
    let there: serde_json::Value = serde_json::from_str(&text).expect("vectors are JSON");
    assert!(there == made, "tests/vectors/cars.json differs from what the code makes; QUIPU_BLESS=1 writes it anew");
    let unhex = |item: &serde_json::Value| -> Vec<u8> {
        let text = item["bytes"].as_str().expect("text").as_bytes();
        let digit = |c: u8| char::from(c).to_digit(16).expect("a digit") as u8;
        text.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    };
    for item in there["accept"].as_array().expect("list") {
        let done = take(&Store::memory(kit::options()), &unhex(item)).expect("is good");
        assert_eq!((done.receipts.len(), done.blocks, done.incomplete.len()), (1, 3, 0), "{item}");
    }
    for item in there["reject"].as_array().expect("list") {
        let error = take(&Store::memory(kit::options()), &unhex(item)).expect_err("must be refused");
        let class = match error {
            CarError::Version(_) => "version",
            CarError::Roots => "roots",
            CarError::Header(_) => "header",
            CarError::MissingRoot(_) => "root",
            CarError::Length { .. } => "length",
            CarError::Truncated { .. } => "truncated",
            CarError::Id { .. } => "id",
            CarError::Mismatch { .. } => "mismatch",
            other => panic!("{item}: {other}"),
        };
        assert_eq!(item["why"], class, "{item}");
    }
}
