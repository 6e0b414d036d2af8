//! Zip archives, good and hostile: what is kept of them, and what is refused.

mod kit;

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use kit::{kept, store};
use quipu_fetch::Bounds;
use quipu_runtime::fetch::Unpack;

/// One thing in an archive.
#[derive(Clone)]
struct Item<'a> {
    path: &'a [u8],
    mode: u32,
    body: &'a [u8],
    /// What the directory says of its size, if that is not so.
    claims: Option<u32>,
    flags: u16,
    method: u16,
}

fn file<'a>(path: &'a str, body: &'a [u8]) -> Item<'a> {
    Item { path: path.as_bytes(), mode: 0o100_644, body, claims: None, flags: 0, method: 8 }
}

fn other<'a>(mode: u32, path: &'a str, body: &'a str) -> Item<'a> {
    Item { mode, method: 0, ..file(path, body.as_bytes()) }
}

/// An archive, written by hand: a library would refuse half of these.
fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for item in items {
        let mut crc = flate2::Crc::new();
        crc.update(item.body);
        let mut deflated = DeflateEncoder::new(vec![], Compression::best());
        deflated.write_all(item.body).expect("in memory");
        let deflated = deflated.finish().expect("in memory");
        let packed = if item.method == 8 { &deflated } else { item.body };
        let size = item.claims.unwrap_or(item.body.len() as u32);
        let mut common = vec![];
        for n in [20, item.flags, item.method, 0, 0x21] {
            common.extend_from_slice(&u16::to_le_bytes(n));
        }
        for n in [crc.sum(), packed.len() as u32, size] {
            common.extend_from_slice(&n.to_le_bytes());
        }
        common.extend_from_slice(&(item.path.len() as u16).to_le_bytes());
        common.extend_from_slice(&[0; 2]);
        let at = out.len() as u32;
        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(item.mode << 16).to_le_bytes());
        directory.extend_from_slice(&at.to_le_bytes());
        directory.extend_from_slice(item.path);
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&common);
        out.extend_from_slice(item.path);
        out.extend_from_slice(packed);
    }
    let (count, at) = ((items.len() as u16).to_le_bytes(), (out.len() as u32).to_le_bytes());
    let length = (directory.len() as u32).to_le_bytes();
    out.extend_from_slice(&directory);
    out.extend_from_slice(&[b"PK\x05\x06\0\0\0\0", &count[..], &count, &length, &at, &[0; 2]].concat());
    out
}

fn list(archive: &[u8], strip: u32, bounds: &Bounds) -> Result<Vec<String>, String> {
    kit::list(archive, Unpack::Zip, strip, bounds)
}

#[test]
fn files_folders_and_links_are_kept() {
    let large = vec![b'x'; 100_000];
    let items = [
        other(0o040_755, "p-1/", ""),
        Item { mode: 0o100_755, ..file("./p-1/bin/tool", b"#!") },
        file("p-1/lib/a.h", b"one"),
        Item { method: 0, ..file("p-1/lib/a.h", b"two") },
        file("p-1/large", &large),
        other(0o040_755, "p-1/empty/", ""),
        other(0o120_777, "p-1/bin/up", "../lib/a.h"),
        // What some writers leave out.
        other(0, "p-1/plain", "plain"),
        file("beside", b"is stripped away"),
    ];
    let expected = [
        "bin/",
        "bin/tool* #!",
        "bin/up -> ../lib/a.h",
        "empty/",
        "large xxxxxxxx",
        "lib/",
        "lib/a.h two",
        "plain plain",
    ];
    let whole = archive(&items);
    assert_eq!(list(&whole, 1, &Bounds::default()).expect("is good"), expected);
    // Something may stand before it: that is how archives come that unpack themselves.
    let prefixed = [&b"#!/bin/sh\n"[..], &whole].concat();
    assert_eq!(list(&prefixed, 1, &Bounds::default()).expect("is good"), expected);
}

#[test]
fn what_leads_out_or_cannot_be_kept_is_refused_by_name() {
    for (item, expected) in [
        (file("../evil", b"x"), "the archive holds `../evil`, which leads out of it"),
        (file("a/../../evil", b"x"), "the archive holds `a/../../evil`, which leads out of it"),
        (file("/etc/evil", b"x"), "the archive holds `/etc/evil`, which leads out of it"),
        (other(0o040_755, "../evil/", ""), "the archive holds `../evil/`, which leads out of it"),
        (other(0o120_777, "l", "/etc"), "the archive holds a link `l` to `/etc`, which may lead out of it"),
        (other(0o120_777, "a/l", "../../x"), "the archive holds a link `a/l` to `../../x`, which may lead out of it"),
        (
            other(0o020_644, "n", ""),
            "the archive holds `n`, which is a device; only files, folders and links can be kept",
        ),
        (
            other(0o010_644, "n", ""),
            "the archive holds `n`, which is a pipe; only files, folders and links can be kept",
        ),
        (
            other(0o140_644, "n", ""),
            "the archive holds `n`, which is of an unknown kind; only files, folders and links can be kept",
        ),
        (Item { flags: 1, ..file("n", b"x") }, "the archive holds `n`, which is encrypted"),
        (
            Item { method: 14, ..file("n", b"x") },
            "the archive holds `n`, which is compressed by LZMA, which cannot be read here",
        ),
        (
            Item { path: b"\xff", ..file("", b"x") },
            "the archive holds `\u{fffd}`, the name or target of which is not UTF-8",
        ),
        (Item { claims: Some(1), ..file("n", b"more") }, "the archive cannot be read: Invalid size: expected"),
        (Item { claims: Some(9), ..file("n", b"less") }, "the archive cannot be read: "),
        (
            Item { claims: Some(5000), ..other(0o120_777, "l", "x") },
            "the archive has more than 4096 bytes in the target of a link",
        ),
    ] {
        let said = list(&archive(&[item]), 0, &Bounds::default()).expect_err("is refused");
        assert!(said.starts_with(expected), "{said}");
    }
    // The old trick: a link, and then a file through it.
    let trick = archive(&[other(0o120_777, "d", "e"), file("d/x", b"x")]);
    let said = list(&trick, 0, &Bounds::default()).expect_err("is refused");
    assert_eq!(said, "the archive holds `d` is there twice, or is both a file and a directory");
    let nothing = list(&archive(&[file("a", b"x")]), 1, &Bounds::default()).expect_err("is refused");
    assert_eq!(nothing, "nothing is left of the archive when 1 folders are stripped");
}

#[test]
fn what_is_too_much_or_damaged_is_refused() {
    let usual = Bounds::default();
    let three = archive(&[file("a", b"1234"), file("b", b"1234"), file("c", b"1234")]);
    for (bounds, expected) in [
        (Bounds { max_bytes: 11, ..usual }, "the archive has more than 11 bytes in its files"),
        (Bounds { max_entries: 2, ..usual }, "the archive has more than 2 files, folders and links"),
        (Bounds { max_name_bytes: 2, ..usual }, "the archive has more than 2 bytes in its names"),
    ] {
        assert_eq!(list(&three, 0, &bounds).err().as_deref(), Some(expected));
    }
    assert!(list(&three, 0, &Bounds { max_bytes: 12, max_entries: 3, max_name_bytes: 3 }).is_ok());

    // Zeros that are few when they are packed, and that are not counted by what the directory says of them.
    let zeros = vec![0; 8 << 20];
    let bomb = archive(&[file("bomb", &zeros)]);
    assert!(bomb.len() < 1 << 16);
    let small = Bounds { max_bytes: 1 << 20, ..usual };
    assert_eq!(list(&bomb, 0, &small).err().as_deref(), Some("the archive has more than 1048576 bytes in its files"));
    let lying = archive(&[Item { claims: Some(10), ..file("bomb", &zeros) }]);
    let said = list(&lying, 0, &small).expect_err("is refused");
    assert_eq!(said, "the archive cannot be read: Invalid size: expected 10, got 11");

    let mut changed = archive(&[Item { method: 0, ..file("a", b"content") }]);
    let at = changed.windows(7).position(|w| w == b"content").expect("is there");
    changed[at] ^= 1;
    // Fewer entries than the end says, and an end that is missing.
    let mut fewer = three.clone();
    let end = fewer.len() - 22;
    fewer[end + 10] = 4;
    for damaged in [&changed[..], &fewer, &three[..end], &three[..end - 5], b"nonsense", b""] {
        let said = list(damaged, 0, &usual).expect_err("is refused");
        assert!(said.starts_with("the archive cannot be read: "), "{said}");
    }
    // Whatever becomes of its bytes, it is unpacked or refused.
    let store = store();
    for at in 0..three.len() {
        for bit in [1, 0x80] {
            let mut bytes = three.clone();
            bytes[at] ^= bit;
            let _ = kept(&store, &bytes, Unpack::Zip, 0, &usual);
        }
    }
}
