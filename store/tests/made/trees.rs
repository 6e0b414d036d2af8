//! Vectors of directory nodes.

use quipu_store::cid::{BlobId, TreeId};
use quipu_store::tree::{Entry, MAX_NODE_BYTES, Name, Tree};
use serde_json::{Value, json};

use super::{hex, reject, swap};

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn file(text: &str) -> (Name, Entry) {
    (name(text), Entry::File { blob: BlobId::of(text.as_bytes()), size: text.len() as u64, exec: false })
}

fn numbered(count: usize) -> Tree {
    Tree::new((0..count).map(|i| file(&format!("f{i:05}"))).collect()).expect("names differ")
}

/// The node of links to `x` whose names are the numbers of `range`, spelled out byte by byte: [`Tree`] would
/// refuse to make some of these.
pub(crate) fn links(range: std::ops::Range<u64>) -> Vec<u8> {
    let count = u16::try_from(range.end - range.start).expect("a few thousand");
    let mut out = b"\xa1\x61e".to_vec();
    match count {
        0..24 => out.push(0x80 | count as u8),
        24..256 => out.extend([0x98, count as u8]),
        _ => out.extend([0x99, (count >> 8) as u8, count as u8]),
    }
    for i in range {
        out.extend(b"\xa2\x61l\x61x\x61n\x64");
        out.extend(format!("{i:04}").as_bytes());
    }
    out
}

fn node_bytes(tree: &Tree) -> Vec<u8> {
    let encoded = tree.encode().expect("fits");
    assert_eq!(encoded.nodes.len(), 1);
    encoded.nodes[0].1.clone()
}

/// A directory with all its nodes in full.
fn shown(what: &str, tree: &Tree) -> Value {
    let encoded = tree.encode().expect("fits");
    let entries = tree.entries().iter().map(|(name, entry)| {
        let mut item = serde_json::to_value(entry).expect("an entry is JSON");
        item["name"] = name.as_str().into();
        item
    });
    let nodes: Vec<Value> =
        encoded.nodes.iter().map(|(id, bytes)| json!({"id": id.to_string(), "bytes": hex(bytes)})).collect();
    json!({"name": what, "entries": entries.collect::<Vec<_>>(), "id": encoded.id.to_string(), "nodes": nodes})
}

/// A directory of `count` files by rule; the nodes that hold its entries by id alone.
fn ruled(what: &str, count: usize) -> Value {
    let encoded = numbered(count).encode().expect("fits");
    let many = encoded.nodes.len() > 1;
    let nodes = encoded.nodes.iter().map(|(id, bytes)| {
        let mut item = json!({"id": id.to_string(), "length": bytes.len()});
        if many && *id == encoded.id {
            item["bytes"] = hex(bytes).into();
        }
        item
    });
    json!({"name": what, "numbered": count, "id": encoded.id.to_string(), "nodes": nodes.collect::<Vec<_>>()})
}

pub(crate) fn trees() -> Value {
    let empty = Tree::default();
    let empty_id = empty.encode().expect("fits").id;
    let symlink = |n: &str, target: &str| (name(n), Entry::Symlink { target: target.into() });
    let mixed = Tree::new(vec![
        (name("README.md"), Entry::File { blob: BlobId::of(b"hello\n"), size: 6, exec: false }),
        (name("build.sh"), Entry::File { blob: BlobId::of(b"#!/bin/sh\n"), size: 10, exec: true }),
        (
            name("src"),
            Entry::Dir { tree: TreeId::of(&node_bytes(&Tree::new(vec![file("main.c")]).expect("one name"))) },
        ),
        symlink("latest", "README.md"),
    ]);
    let order = Tree::new(["b", "B", "a", "aa", "a.b", "a-b", "\u{e9}", "\u{1f9f6}", "Z", "~", " "].map(file).to_vec());
    let long = Tree::new(vec![file(&"n".repeat(255)), symlink("to", &"../".repeat(1365))]);
    let sizes = [0, 23, 24, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, (1 << 53) - 1];
    let sized = |(i, size): (usize, &u64)| {
        (name(&format!("s{i}")), Entry::File { blob: BlobId::of(b""), size: *size, exec: false })
    };
    let sizes = Tree::new(sizes.iter().enumerate().map(sized).collect());
    let accept = vec![
        shown("empty", &empty),
        shown("one file", &Tree::new(vec![file("a")]).expect("valid")),
        shown("a file, an executable, a directory and a link", &mixed.expect("valid")),
        shown("names in byte order, whatever their script", &order.expect("valid")),
        shown("longest name and longest target", &long.expect("valid")),
        shown("sizes at the borders of integer forms", &sizes.expect("valid")),
        ruled("the most one node holds", 2048),
        ruled("two parts, the second with one entry", 2049),
        ruled("three parts", 4097),
    ];

    let one = node_bytes(&Tree::new(vec![file("a")]).expect("valid"));
    let two = node_bytes(&Tree::new(vec![file("a"), file("b")]).expect("valid"));
    let dir = node_bytes(&Tree::new(vec![(name("d"), Entry::Dir { tree: empty_id })]).expect("valid"));
    let link = node_bytes(&Tree::new(vec![symlink("l", "x")]).expect("valid"));
    let exec = node_bytes(
        &Tree::new(vec![(name("a"), Entry::File { blob: BlobId::of(b"a"), size: 1, exec: true })]).expect("valid"),
    );
    let top = numbered(2049).encode().expect("fits").nodes.pop().expect("a top node").1;
    // Each entry is `a3 61 66 f 61 6e n 61 73 s`; of equal length, so that they can be exchanged.
    let (head, rest) = two.split_at(4);
    let (first, second) = rest.split_at(rest.len() / 2);
    let long_target = |target: &str| {
        let mut out = b"\xa1\x61e\x81\xa2\x61l\x79".to_vec();
        out.extend((target.len() as u16).to_be_bytes());
        out.extend(target.as_bytes());
        out.extend(b"\x61n\x61l");
        out
    };
    let with_name = |n: &str| {
        let text = if n.len() < 24 {
            vec![0x60 | n.len() as u8]
        } else {
            [&[0x79][..], &(n.len() as u16).to_be_bytes()].concat()
        };
        swap(&one, b"\x61n\x61a", &[&b"\x61n"[..], &text, n.as_bytes()].concat())
    };
    let mut negative = vec![
        reject("no bytes", "form", b""),
        reject("an integer", "form", b"\x01"),
        reject("a list", "form", b"\x80"),
        reject("neither entries nor parts", "parts", b"\xa0"),
        reject("entries and parts", "parts", b"\xa2\x61e\x80\x61p\x80"),
        reject("a field nobody knows", "form", b"\xa2\x61e\x80\x61z\x80"),
        reject("entries of null", "form", b"\xa1\x61e\xf6"),
        reject("trailing bytes", "form", &[&one[..], b"\x00"].concat()),
        reject("cut short", "form", &one[..one.len() - 1]),
        reject("map of indefinite length", "form", &[&b"\xbf"[..], &one[1..], b"\xff"].concat()),
        reject("list of indefinite length", "form", &[&b"\xa1\x61e\x9f"[..], &one[4..], b"\xff"].concat()),
        reject("key of indefinite length", "form", b"\xa1\x7f\x61e\xff\x80"),
        reject("map length in the long form", "form", &[&b"\xb8\x01"[..], &one[1..]].concat()),
        reject("text length in the long form", "form", &swap(&one, b"\x61n\x61a", b"\x61n\x78\x01a")),
        reject("integer in the long form", "form", &swap(&one, b"\x61s\x01", b"\x61s\x18\x01")),
        reject("link tag in the long form", "form", &swap(&one, b"\xd8\x2a", b"\xd9\x00\x2a")),
        reject("link without its leading NUL", "form", &swap(&one, b"\x58\x25\x00", b"\x58\x24")),
        reject("keys out of order", "form", &swap(&link, b"\x61l\x61x\x61n\x61l", b"\x61n\x61l\x61l\x61x")),
        reject("a key twice", "form", &swap(&link, b"\xa2\x61l\x61x", b"\xa3\x61l\x61x\x61l\x61x")),
        reject("names out of order", "order", &[head, second, first].concat()),
        reject("a name twice", "order", &[head, first, first].concat()),
        reject("size as a float", "form", &swap(&one, b"\x61s\x01", b"\x61s\xfb\x3f\xf0\0\0\0\0\0\0")),
        reject("negative size", "form", &swap(&one, b"\x61s\x01", b"\x61s\x20")),
        reject("size of 2^53", "form", &swap(&one, b"\x61s\x01", b"\x61s\x1b\x00\x20\0\0\0\0\0\0")),
        reject("file without size", "form", &swap(&swap(&one, b"\x61s\x01", b""), b"\xa3", b"\xa2")),
        reject("exec that is false", "form", &swap(&exec, b"\x61x\xf5", b"\x61x\xf4")),
        reject("entry of no kind", "form", b"\xa1\x61e\x81\xa1\x61n\x61a"),
        reject("entry of two kinds", "form", &swap(&swap(&dir, b"\x61n\x61d", b"\x61l\x61x\x61n\x61d"), b"\x81\xa2", b"\x81\xa3")),
        reject("directory that is a blob", "form", &swap(&dir, &[1, 0x71, 0x1e], &[1, 0x55, 0x1e])),
        reject("file that is a tree", "form", &swap(&one, &[1, 0x55, 0x1e], &[1, 0x71, 0x1e])),
        reject("link of another hash", "form", &swap(&one, &[1, 0x55, 0x1e], &[1, 0x55, 0x12])),
        reject("name as bytes", "form", &swap(&one, b"\x61n\x61a", b"\x61n\x41a")),
        reject("name that is not UTF-8", "form", &swap(&one, b"\x61n\x61a", b"\x61n\x61\xff")),
        reject("empty target", "target", b"\xa1\x61e\x81\xa2\x61l\x60\x61n\x61a"),
        reject("target with a NUL", "target", &swap(&link, b"\x61l\x61x", b"\x61l\x61\0")),
        reject("target of 4096 bytes", "target", &long_target(&"t".repeat(4096))),
        reject("one part", "parts", b"\xa1\x61p\x81\xd8\x2a\x58\x25\x00\x01\x71\x1e\x20\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"),
        reject("no part", "parts", b"\xa1\x61p\x80"),
        reject("part that is a blob", "form", &swap(&top, &[1, 0x71, 0x1e], &[1, 0x55, 0x1e])),
        reject("huge claimed length", "form", b"\xa1\x61e\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"),
        json!({"name": "larger than a node may be", "why": "too-large", "repeat": {"bytes": "00", "times": MAX_NODE_BYTES + 1}}),
    ];
    for bad in ["", ".", "..", "a/b", "/", "a\0"] {
        negative.push(reject(&format!("name {bad:?}"), "form", &with_name(bad)));
    }
    negative.push(reject("name of 256 bytes", "form", &with_name(&"n".repeat(256))));
    negative.push(json!({"name": "2049 entries in one node", "why": "parts", "links": {"from": 0, "to": 2049}}));

    let join = |what: &str, why: &str, parts: &[(usize, usize)]| {
        let parts: Vec<Value> = parts.iter().map(|(from, to)| json!({"links": {"from": from, "to": to}})).collect();
        json!({"name": what, "why": why, "parts": parts})
    };
    json!({
        "about": "Directory nodes. Normative text: docs/formats/tree.md. `numbered: n` stands for n files f00000, f00001, ..., each holding its own name; `links` for the node of links to `x` named from, from+1, ... up to and without to, in four digits; `repeat` for bytes that many times. `reject_join` lists parts, each good by itself, that make no directory together.",
        "accept": accept,
        "reject": negative,
        "reject_join": [
            join("first part is not full", "parts", &[(0, 2047), (2047, 3000)]),
            join("last part is empty", "parts", &[(0, 2048), (0, 0)]),
            join("one part", "parts", &[(0, 2048)]),
            join("second part comes before the first", "order", &[(2048, 4096), (0, 1000)]),
            join("parts share a name", "order", &[(0, 2048), (2047, 3000)]),
        ],
    })
}
