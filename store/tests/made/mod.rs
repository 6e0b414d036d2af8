//! Makes the vectors. Everything here is fixed: keys, times, names. Unaware of the committed files.

mod receipts;
mod trees;

use quipu_store::cid::{BlobId, Codec, Link, TreeId};
use serde_json::{Value, json};

pub(crate) use receipts::{payload, receipts};
pub(crate) use trees::{links, trees};

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let nibble = |b: u8| char::from(b).to_digit(16).expect("hex digits") as u8;
    text.as_bytes().chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

/// A negative vector.
fn reject(name: &str, why: &str, bytes: &[u8]) -> Value {
    json!({"name": name, "why": why, "bytes": hex(bytes)})
}

/// `bytes` with the first `old` in them replaced.
fn swap(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|w| w == old).expect("the part to replace is there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

/// Content of the given length that any implementation can make: bytes 0, 1, ... 250, 0, 1, ...
fn counting(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

pub(crate) fn ids() -> Value {
    let described = |name: &str, link: Link| json!({"name": name, "cid": link.to_string(), "digest": hex(&link.digest), "binary": hex(&link.to_bytes())});
    let mut accept = vec![];
    for (name, bytes) in [("no bytes", &b""[..]), ("hello", b"hello"), ("a line", b"hello, world\n"), ("NUL", b"\0")] {
        let mut item = described(name, BlobId::of(bytes).link());
        item["codec"] = "raw".into();
        item["bytes"] = hex(bytes).into();
        accept.push(item);
    }
    // Lengths around BLAKE3's block, chunk and tree borders, and quipu's own border for inline blobs.
    for length in [63, 64, 65, 1023, 1024, 1025, 2048, 2049, 16_384, 16_385, 100_000] {
        let mut item = described("counting", BlobId::of(&counting(length)).link());
        item["codec"] = "raw".into();
        item["counting"] = length.into();
        accept.push(item);
    }
    for (name, bytes, block) in
        [("empty map", &b"\xa0"[..], json!({})), ("empty directory", b"\xa1\x61e\x80", json!({"e": []}))]
    {
        let mut item = described(name, Link::of(Codec::DagCbor, bytes));
        item["codec"] = "dag-cbor".into();
        item["block"] = block;
        item["bytes"] = hex(bytes).into();
        accept.push(item);
    }

    let hello = BlobId::of(b"hello").link();
    let text = hello.to_string();
    let tree = TreeId::of(b"\xa1\x61e\x80").to_string();
    let prefix = |prefix: &str, cid: &str, matches: bool| json!({"prefix": prefix, "cid": cid, "matches": matches});
    let prefixes = vec![
        prefix(&text, &text, true),
        prefix("b", &text, true),
        prefix("bafkr4i", &text, true),
        prefix(&text[..12], &text, true),
        prefix(&text[7..12], &text, true),
        prefix(&text[7..], &text, true),
        prefix(&text[8..], &text, false),
        prefix("bafyr4i", &text, false),
        prefix("bafyr4i", &tree, true),
        prefix(&tree[7..11], &tree, true),
        prefix(&tree[7..11], &text, false),
    ];

    let no =
        |name: &str, kind: &str, text: &str, why: &str| json!({"name": name, "as": kind, "text": text, "why": why});
    let reject = vec![
        no("nothing", "link", "", "malformed"),
        no("a word", "link", "hello", "malformed"),
        no("first half", "link", &text[..30], "malformed"),
        no("one character too many", "link", &format!("{text}a"), "malformed"),
        no("space before it", "link", &format!(" {text}"), "malformed"),
        no("upper case", "link", &text.to_uppercase(), "not-canonical"),
        no("path form", "link", &format!("/ipfs/{text}"), "not-canonical"),
        no("base16 form", "link", &format!("f{}", hex(&hello.to_bytes())), "not-canonical"),
        no("CIDv0", "link", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "unsupported"),
        no("SHA2-256", "link", "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq", "unsupported"),
        no("a tree where a blob goes", "blob", &tree, "wrong-codec"),
        no("a blob where a tree goes", "tree", &text, "wrong-codec"),
        no("empty prefix", "prefix", "", "malformed"),
        no("upper case prefix", "prefix", "BAFK", "malformed"),
        no("prefix with a character base32 lacks", "prefix", "bafk1", "malformed"),
        no("prefix longer than an id", "prefix", &format!("{text}a"), "malformed"),
    ];
    let binary = hello.to_bytes();
    let changed = |at: usize, to: u8| {
        let mut out = binary;
        out[at] = to;
        out
    };
    let reject_binary = vec![
        self::reject("nothing", "malformed", b""),
        self::reject("one byte short", "malformed", &binary[..35]),
        self::reject("one byte more", "malformed", &[&binary[..], &[0]].concat()),
        self::reject("version 2", "malformed", &changed(0, 2)),
        self::reject("codec dag-pb", "malformed", &changed(1, 0x70)),
        self::reject("codec dag-json", "malformed", &[&[1, 0xa9, 0x02][..], &binary[2..]].concat()),
        self::reject("hash SHA2-256", "malformed", &changed(2, 0x12)),
        self::reject("digest length 20", "malformed", &[&[1, 0x55, 0x1e, 20][..], &binary[4..24]].concat()),
        self::reject("codec as an overlong varint", "malformed", &[&[1, 0xd5, 0x00][..], &binary[2..]].concat()),
    ];
    json!({
        "about": "Content identifiers. Normative text: docs/formats/ids.md. `counting: n` stands for n bytes 0, 1, ... 250, 0, 1, ...",
        "accept": accept, "prefixes": prefixes, "reject": reject, "reject_binary": reject_binary,
    })
}
