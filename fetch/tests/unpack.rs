//! Tar archives, good and hostile, however they are compressed: what is kept of them, and what is refused.

mod kit;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use kit::{kept, listed, store};
use lzma_rust2::{XzOptions, XzWriter};
use quipu_fetch::Bounds;
use quipu_runtime::fetch::Unpack;
use tar::{EntryType, Header};

/// One thing in an archive.
struct Item<'a> {
    kind: EntryType,
    path: &'a str,
    mode: u32,
    body: &'a [u8],
    target: &'a str,
}

fn file<'a>(path: &'a str, body: &'a [u8]) -> Item<'a> {
    Item { kind: EntryType::Regular, path, mode: 0o644, body, target: "" }
}

fn other<'a>(kind: EntryType, path: &'a str, target: &'a str) -> Item<'a> {
    Item { kind, path, mode: 0o755, body: b"", target }
}

/// An archive, written by hand: a library would refuse half of these.
fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut out = vec![];
    for item in items {
        let mut header = Header::new_ustar();
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_size(item.body.len() as u64);
        let bytes = header.as_mut_bytes();
        bytes[..item.path.len()].copy_from_slice(item.path.as_bytes());
        bytes[157..157 + item.target.len()].copy_from_slice(item.target.as_bytes());
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(item.body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

fn list(items: &[Item<'_>], strip: u32) -> Result<Vec<String>, String> {
    kit::list(&archive(items), Unpack::Tar, strip, &Bounds::default())
}

#[test]
fn files_folders_and_links_are_kept() {
    let large = vec![b'x'; 100_000];
    let items = [
        other(EntryType::XGlobalHeader, "pax_global_header", ""),
        other(EntryType::Directory, "p-1/", ""),
        Item { mode: 0o755, ..file("./p-1/bin/tool", b"#!") },
        file("p-1/lib/a.h", b"one"),
        file("p-1/lib/a.h", b"two"),
        file("p-1/large", &large),
        other(EntryType::Directory, "p-1/empty", ""),
        other(EntryType::Symlink, "p-1/bin/up", "../lib/a.h"),
        other(EntryType::Link, "p-1/hard", "p-1/lib/a.h"),
        file("beside", b"is stripped away"),
    ];
    let expected =
        ["bin/", "bin/tool* #!", "bin/up -> ../lib/a.h", "empty/", "hard two", "large xxxxxxxx", "lib/", "lib/a.h two"];
    assert_eq!(list(&items, 1).expect("is good"), expected);

    for (how, packed) in packed(&archive(&items)) {
        let (store, mut out) = (store(), vec![]);
        let tree = kept(&store, &packed, how, 1, &Bounds::default()).expect("is good");
        listed(&store, &tree, "", &mut out);
        assert_eq!(out, expected, "{}", how.name());
    }
}

/// These bytes in each of the forms that there are, and once more in two parts one after the other.
fn packed(bytes: &[u8]) -> Vec<(Unpack, Vec<u8>)> {
    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut to = GzEncoder::new(vec![], Compression::best());
        to.write_all(bytes).expect("in memory");
        to.finish().expect("in memory")
    }
    fn bz2(bytes: &[u8]) -> Vec<u8> {
        let mut to = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::fast());
        to.write_all(bytes).expect("in memory");
        to.finish().expect("in memory")
    }
    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut to = XzWriter::new(vec![], XzOptions::with_preset(1)).expect("in memory");
        to.write_all(bytes).expect("in memory");
        to.finish().expect("in memory")
    }
    fn zst(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }
    type Pack = fn(&[u8]) -> Vec<u8>;
    let forms: [(Unpack, Pack); 4] =
        [(Unpack::TarGz, gz), (Unpack::TarBz2, bz2), (Unpack::TarXz, xz), (Unpack::TarZst, zst)];
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let whole = forms.iter().map(|(how, pack)| (*how, pack(bytes)));
    whole.chain(forms.iter().map(|(how, pack)| (*how, [pack(first), pack(second)].concat()))).collect()
}

#[test]
fn what_leads_out_or_cannot_be_kept_is_refused_by_name() {
    let item = |kind, path, target| vec![other(kind, path, target)];
    for (items, expected) in [
        (vec![file("../evil", b"x")], "the archive holds `../evil`, which leads out of it"),
        (vec![file("a/../../evil", b"x")], "the archive holds `a/../../evil`, which leads out of it"),
        (vec![file("/etc/evil", b"x")], "the archive holds `/etc/evil`, which leads out of it"),
        (item(EntryType::Symlink, "l", "/etc"), "the archive holds a link `l` to `/etc`, which may lead out of it"),
        (
            item(EntryType::Symlink, "a/l", "../../x"),
            "the archive holds a link `a/l` to `../../x`, which may lead out of it",
        ),
        (
            item(EntryType::Symlink, "l", "a/../../x"),
            "the archive holds a link `l` to `a/../../x`, which may lead out of it",
        ),
        (item(EntryType::Link, "h", "/etc/passwd"), "the archive holds `/etc/passwd`, which leads out of it"),
        (
            item(EntryType::Link, "h", "not/there"),
            "the archive holds a hard link `h` to `not/there`, which is no file before it",
        ),
        (
            vec![other(EntryType::Symlink, "l", "x"), other(EntryType::Link, "h", "l")],
            "the archive holds a hard link `h` to `l`, which is no file before it",
        ),
        (
            item(EntryType::Char, "null", ""),
            "the archive holds `null`, which is a device; only files, folders and links can be kept",
        ),
        (
            item(EntryType::Block, "sda", ""),
            "the archive holds `sda`, which is a device; only files, folders and links can be kept",
        ),
        (
            item(EntryType::Fifo, "p", ""),
            "the archive holds `p`, which is a pipe; only files, folders and links can be kept",
        ),
        (
            item(EntryType::new(b'Z'), "z", ""),
            "the archive holds `z`, which is of an unknown kind; only files, folders and links can be kept",
        ),
        // The old trick: a link, and then a file through it.
        (
            vec![other(EntryType::Symlink, "d", "e"), file("d/x", b"x")],
            "the archive holds `d` is there twice, or is both a file and a directory",
        ),
        (vec![], "nothing is left of the archive when 0 folders are stripped"),
    ] {
        assert_eq!(list(&items, 0).err().as_deref(), Some(expected));
    }
    assert_eq!(
        list(&[file("a", b"x")], 1).err().as_deref(),
        Some("nothing is left of the archive when 1 folders are stripped")
    );
    let deep = vec!["d"; 45].join("/");
    assert!(list(&[file(&deep, b"x")], 0).is_ok());
}

#[test]
fn what_is_too_much_or_damaged_is_refused_and_costs_no_memory() {
    let refused = |archive: &[u8], how, bounds: Bounds| {
        kept(&store(), archive, how, 0, &bounds).expect_err("is refused").to_string()
    };
    let three = archive(&[file("a", b"1234"), file("b", b"1234"), file("c", b"1234")]);
    let usual = Bounds::default();
    assert_eq!(
        refused(&three, Unpack::Tar, Bounds { max_bytes: 11, ..usual }),
        "the archive has more than 11 bytes in its files"
    );
    assert_eq!(
        refused(&three, Unpack::Tar, Bounds { max_entries: 2, ..usual }),
        "the archive has more than 2 files, folders and links"
    );
    assert_eq!(
        refused(&three, Unpack::Tar, Bounds { max_name_bytes: 2, ..usual }),
        "the archive has more than 2 bytes in its names"
    );
    assert!(
        kept(&store(), &three, Unpack::Tar, 0, &Bounds { max_bytes: 12, max_entries: 3, max_name_bytes: 3 }).is_ok()
    );

    // A name of 4 MiB, and one that claims to be of 8 GiB.
    for (claimed, sent) in [(4 << 20, 4 << 20), (8_u64 << 30, 4 << 20)] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_path("././@LongLink").expect("is short");
        header.set_size(claimed);
        header.set_cksum();
        let mut long = header.as_bytes().to_vec();
        long.resize(long.len() + sent, b'n');
        let said = refused(&long, Unpack::Tar, usual);
        assert!(said.contains("bytes stand before a file"), "{said}");
    }
    // Zeros that are few when they are packed.
    let mut header = Header::new_gnu();
    header.set_path("bomb").expect("is short");
    header.set_size(64 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    let bomb = [header.as_bytes(), &vec![0; 2 << 20][..]].concat();
    for (how, bomb) in packed(&bomb) {
        assert!(bomb.len() < 1 << 20, "{}", how.name());
        assert_eq!(
            refused(&bomb, how, Bounds { max_bytes: 1 << 20, ..usual }),
            "the archive has more than 1048576 bytes in its files"
        );
        let said = refused(&bomb, how, usual);
        assert!(said.starts_with("the archive cannot be read: "), "{}: {said}", how.name());
        let said = refused(&bomb[..bomb.len() / 2], how, usual);
        assert!(said.starts_with("the archive cannot be read: "), "{}: {said}", how.name());
    }
    for (how, evil) in packed(&archive(&[file("../evil", b"x")])) {
        assert_eq!(refused(&evil, how, usual), "the archive holds `../evil`, which leads out of it", "{}", how.name());
    }
    let all = Unpack::ALL.map(|how| (&b"nonsense"[..], how));
    for (archive, how) in
        [(&three[..700], Unpack::Tar), (&three[..], Unpack::TarGz), (&b""[..], Unpack::TarZst)].into_iter().chain(all)
    {
        let said = refused(archive, how, usual);
        assert!(said.starts_with("the archive cannot be read: "), "{said}");
    }
}

#[test]
fn a_stream_that_wants_too_much_memory_is_refused() {
    // What `xz --lzma2=dict=1536MiB` and `zstd --ultra --long=31` write: the head says what is to be remembered.
    let mut to = XzWriter::new(vec![], XzOptions::with_preset(1)).expect("in memory");
    to.write_all(&archive(&[file("a", b"x")])).expect("in memory");
    let mut xz = to.finish().expect("in memory");
    let said =
        |archive: &[u8], how| kept(&store(), archive, how, 0, &Bounds::default()).map(drop).map_err(|e| e.to_string());
    assert_eq!(said(&xz, Unpack::TarXz), Ok(()));
    // The head of the first block: its size, flags, the filter, the size of what it says, and the dictionary.
    assert_eq!(xz[12..16], [2, 0, 0x21, 1]);
    xz[16] = 37;
    let crc = crc32(&xz[12..20]);
    xz[20..24].copy_from_slice(&crc.to_le_bytes());
    let why = said(&xz, Unpack::TarXz).expect_err("is refused");
    assert!(why.contains("memory"), "{why}");
    let zst = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3][..], &[1, 0, 0]].concat();
    let why = said(&zst, Unpack::TarZst).expect_err("is refused");
    assert!(why.contains("window_size"), "{why}");
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
