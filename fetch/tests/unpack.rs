//! Archives, good and hostile: what is kept of them, and what is refused.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use quipu_fetch::{Bounds, UnpackError, unpack};
use quipu_runtime::fetch::Unpack;
use quipu_store::sign::Signer;
use quipu_store::tree::{Entry, Tree};
use quipu_store::{Options, SignerSource, Store};
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

fn store() -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))
}

fn kept(store: &Store, archive: &[u8], how: Unpack, strip: u32, bounds: &Bounds) -> Result<Tree, UnpackError> {
    let scratch = tempfile::tempdir().expect("a folder");
    let entry = unpack(store, archive, how, strip, bounds, scratch.path())?;
    let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("is there").collect();
    assert!(left.is_empty(), "nothing is left of what was on its way");
    let Entry::Dir { tree } = entry else { panic!("an archive is a folder") };
    Ok(store.tree(tree).expect("can be read").expect("is there"))
}

/// Paths with what stands there: content, `dir`, `-> target`, and `*` for what may be executed.
fn listed(store: &Store, tree: &Tree, below: &str, out: &mut Vec<String>) {
    for (name, entry) in tree.entries() {
        let path = format!("{below}{name}");
        match entry {
            Entry::File { blob, exec, .. } => {
                let bytes = store.get(blob.link(), 1 << 20).expect("can be read").expect("is there");
                let star = if *exec { "*" } else { "" };
                out.push(format!("{path}{star} {}", String::from_utf8_lossy(&bytes[..bytes.len().min(8)])));
            }
            Entry::Symlink { target } => out.push(format!("{path} -> {target}")),
            Entry::Dir { tree } => {
                out.push(format!("{path}/"));
                let tree = store.tree(*tree).expect("can be read").expect("is there");
                listed(store, &tree, &format!("{path}/"), out);
            }
        }
    }
}

fn list(items: &[Item<'_>], strip: u32) -> Result<Vec<String>, String> {
    let store = store();
    let tree = kept(&store, &archive(items), Unpack::Tar, strip, &Bounds::default()).map_err(|e| e.to_string())?;
    let mut out = vec![];
    listed(&store, &tree, "", &mut out);
    Ok(out)
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

    let mut packed = GzEncoder::new(vec![], Compression::fast());
    packed.write_all(&archive(&items)).expect("in memory");
    let packed = packed.finish().expect("in memory");
    let (store, mut out) = (store(), vec![]);
    let tree = kept(&store, &packed, Unpack::TarGz, 1, &Bounds::default()).expect("is good");
    listed(&store, &tree, "", &mut out);
    assert_eq!(out, expected, "compressed");
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
    let mut bomb = GzEncoder::new(vec![], Compression::best());
    let mut header = Header::new_gnu();
    header.set_path("bomb").expect("is short");
    header.set_size(64 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).expect("in memory");
    bomb.write_all(&vec![0; 8 << 20]).expect("in memory");
    let bomb = bomb.finish().expect("in memory");
    assert_eq!(
        refused(&bomb, Unpack::TarGz, Bounds { max_bytes: 1 << 20, ..usual }),
        "the archive has more than 1048576 bytes in its files"
    );
    for (archive, how) in [
        (&three[..700], Unpack::Tar),
        (&three[..], Unpack::TarGz),
        (&b"nonsense"[..], Unpack::Tar),
        (&bomb[..bomb.len() / 2], Unpack::TarGz),
    ] {
        let said = refused(archive, how, usual);
        assert!(said.starts_with("the archive cannot be read: "), "{said}");
    }
}
