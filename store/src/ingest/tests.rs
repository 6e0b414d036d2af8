//! What is taken from the disk, and what is refused.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::test_dirs::{Shape, make, memory, shapes};
use crate::tree::MAX_DEPTH;

fn told(result: Result<Option<Entry>, IngestError>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let store = memory();
    for (name, text) in [
        ("fifo", "`out/sub/fifo` is a named pipe; only files, directories and symbolic links can be kept"),
        ("socket", "`out/sub/socket` is a socket; only files, directories and symbolic links can be kept"),
        ("absolute", "`out/sub/absolute` is a symbolic link to `/etc/passwd`, which may lead outside"),
        ("up", "`out/sub/up` is a symbolic link to `../../x`, which may lead outside"),
        ("round", "`out/sub/round` is a symbolic link to `top/../../x`, which may lead outside"),
        ("strange", "`out/sub/strange` has a name or a target that is not UTF-8"),
        ("other", "`out/sub/\u{fffd}` has a name or a target that is not UTF-8"),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sub = dir.path().join("out/sub");
        std::fs::create_dir_all(&sub).expect("made");
        std::fs::write(sub.join("good"), "").expect("written");
        symlink("../sub", sub.join("top")).expect("made");
        let strange: &std::ffi::OsStr = OsStrExt::from_bytes(b"\xff");
        let at = sub.join(name);
        match name {
            "fifo" => {
                let mode = rustix::fs::Mode::RUSR;
                rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).expect("made");
            }
            "socket" => drop(std::os::unix::net::UnixListener::bind(&at).expect("bound")),
            "absolute" => symlink("/etc/passwd", &at).expect("made"),
            "up" => symlink("../../x", &at).expect("made"),
            "round" => symlink("top/../../x", &at).expect("made"),
            "strange" => symlink(strange, &at).expect("made"),
            _ => std::fs::write(sub.join(strange), "").expect("written"),
        }
        assert_eq!(told(ingest_path(&store, &dir.path().join("out"), Take::Copy)), text);
    }
}

#[test]
fn modes_are_reduced_to_the_owner_s_execute_bit() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    for (mode, expected) in
        [(0o644, false), (0o755, true), (0o4755, true), (0o6644, false), (0o611, false), (0o100, true)]
    {
        let path = dir.path().join("f");
        std::fs::write(&path, "x").expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
        // Root may read what nobody may.
        let Ok(Some(Entry::File { exec, .. })) = ingest_path(&store, &path, Take::Copy) else {
            assert_eq!(mode, 0o100);
            continue;
        };
        assert_eq!(exec, expected, "{mode:o}");
        std::fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn files_that_run_as_their_owner_are_refused_when_asked_to_be() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    std::fs::create_dir(dir.path().join("d")).expect("made");
    let path = dir.path().join("d/f");
    std::fs::write(&path, "x").expect("written");
    let options = IngestOptions { set_id: false, ..IngestOptions::default() };
    for (mode, refused) in [(0o755, false), (0o4755, true), (0o2755, true), (0o1644, false)] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
        let found = ingest_at(&store, dir.path(), "d", &options);
        let is_refused = matches!(&found, Err(IngestError::SetId { path }) if path == "d/f");
        assert_eq!((is_refused, found.is_ok()), (refused, !refused), "{mode:o}: {found:?}");
    }
}

#[test]
fn a_link_by_itself_may_lead_anywhere_below_the_root_given() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    std::fs::create_dir(dir.path().join("lib")).expect("made");
    symlink("../real/x", dir.path().join("lib/x")).expect("made");
    let options = IngestOptions::default();
    let found = ingest_at(&store, dir.path(), "lib/x", &options).expect("kept").expect("there");
    assert_eq!(found.entry, Entry::Symlink { target: "../real/x".into() });
    assert!(ingest_path(&store, &dir.path().join("lib/x"), Take::Copy).is_err());
    assert!(ingest_at(&store, dir.path(), "lib", &options).is_err(), "but a directory's own stay in it");
    symlink(dir.path(), dir.path().join("way")).expect("made");
    assert!(ingest_at(&store, dir.path(), "way/lib/x", &options).is_err(), "none is followed");
    assert!(ingest_at(&store, dir.path(), "lib/none/x", &options).expect("nothing").is_none());
    assert!(ingest_path(&store, &dir.path().join("none"), Take::Copy).expect("nothing").is_none());
    assert!(ingest_dir(&store, &dir.path().join("none"), Take::Copy).is_err());
}

#[test]
fn depth_and_number_are_bounded() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    let deep = |n: usize| dir.path().join(vec!["d"; n].join("/"));
    std::fs::create_dir_all(deep(MAX_DEPTH - 1)).expect("made");
    assert!(ingest_dir(&store, dir.path(), Take::Copy).is_ok());
    std::fs::create_dir_all(deep(MAX_DEPTH)).expect("made");
    assert!(matches!(ingest_dir(&store, dir.path(), Take::Copy), Err(IngestError::Depth { .. })));
    let options = IngestOptions { max_entries: 10, ..IngestOptions::default() };
    assert!(matches!(ingest_at(&store, dir.path(), "d", &options), Err(IngestError::TooMany { .. })));
}

#[test]
fn a_file_with_another_name_is_not_moved() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    for name in ["linked", "single"] {
        std::fs::write(dir.path().join(name), vec![1; 100_000]).expect("written");
    }
    std::fs::hard_link(dir.path().join("linked"), dir.path().join("also")).expect("linked");
    ingest_dir(&store, dir.path(), Take::Move).expect("kept");
    assert!(dir.path().join("linked").exists() && dir.path().join("also").exists());
    assert!(!dir.path().join("single").exists());
}

#[test]
fn a_file_that_differs_from_its_stamp_is_read_again() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    let fd = beneath::open_root(dir.path()).expect("opens");
    for (old, new) in [(10, 10), (10, 20), (10, 100_000), (100_000, 10), (100_000, 100_000)] {
        std::fs::write(dir.path().join("f"), vec![1; old]).expect("written");
        let listing = list(fd.as_fd(), "f", &IngestOptions::default()).expect("listed").expect("there");
        std::fs::write(dir.path().join("f"), vec![2; new]).expect("written");
        let (_, entry, stamp) = keep_file(&store, dir.path(), fd.as_fd(), &listing.files[0], Take::Copy).expect("kept");
        assert_eq!(Some(stamp), look(fd.as_fd(), "f").expect("looks"));
        assert_eq!(entry, Entry::File { blob: BlobId::of(&vec![2; new]), size: new as u64, exec: false });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn equals_the_tree_of_its_files(shape in shapes()) {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        let top = dir.path().join("top");
        make(&top, &Shape::Dir(shape));
        let options = IngestOptions { links: Links::Any, ..IngestOptions::default() };
        let found = ingest_at(&store, dir.path(), "top", &options).expect("kept").expect("there");
        prop_assert!(store.complete(&found.entry).expect("readable"));
        let listing = list(beneath::open_root(&top).expect("opens").as_fd(), "", &options).expect("listed").expect("there");
        let empty = Entry::Dir { tree: Tree::default().encode().expect("small").id };
        let files = found.files.iter().map(|(path, entry, _)| (&path["top/".len()..], entry));
        let files = files.chain(listing.empty.iter().map(|path| (path.as_str(), &empty)));
        let (tree, nodes) = tree_of(None, files).expect("a tree");
        prop_assert_eq!(Entry::Dir { tree }, found.entry);
        prop_assert_eq!(nodes.last().expect("its own").0, tree);
        for (id, bytes) in nodes {
            prop_assert_eq!(store.get(id.link(), 1 << 20).expect("readable"), Some(bytes));
        }
    }
}
