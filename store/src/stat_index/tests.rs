//! The stat index against directories of real files.

use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::cid::BlobId;
use crate::test_dirs::{age, memory};

fn file(bytes: &[u8]) -> Entry {
    Entry::File { blob: BlobId::of(bytes), size: bytes.len() as u64, exec: false }
}

/// What a scan finds, errors as text.
fn scan(index: &mut StatIndex, paths: &[&str]) -> Vec<Result<Option<Entry>, String>> {
    let found = index.scan(paths).into_iter();
    found.map(|s| s.result.map(|r| r.map(|(entry, _)| entry)).map_err(|e| e.to_string())).collect()
}

fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir_all(dir.path().join("src/deep")).expect("made");
    for (path, bytes) in [("a", "1"), ("src/b", "22"), ("src/c", "3"), ("src/d", ""), ("src/deep/e", "5")] {
        std::fs::write(dir.path().join(path), bytes).expect("written");
    }
    symlink("../a", dir.path().join("src/link")).expect("made");
    age(&dir.path().join("src/link"));
    dir
}

const PATHS: [&str; 7] = ["a", "gone/x", "src/b", "src/c", "src/d", "src/deep/e", "src/link"];

#[test]
fn content_is_read_once_and_a_second_save_writes_nothing() {
    let (store, dir) = (memory(), workspace());
    let mut index = StatIndex::open(&store, dir.path());
    let first = scan(&mut index, &PATHS);
    let link = Entry::Symlink { target: "../a".into() };
    let expected =
        [Some(file(b"1")), None, Some(file(b"22")), Some(file(b"3")), Some(file(b"")), Some(file(b"5")), Some(link)];
    assert_eq!(first, expected.map(Ok));
    assert_eq!(index.counts().files_read, 6);
    index.save().expect("saved");
    assert_eq!(index.counts().chunks_written, 3);

    let mut index = StatIndex::open(&store, dir.path());
    let mut backwards = PATHS;
    backwards.reverse();
    let mut second = scan(&mut index, &backwards);
    second.reverse();
    assert_eq!(second, first, "the order of paths does not matter");
    index.save().expect("saved");
    assert_eq!(index.counts(), IndexCounts::default());
}

#[test]
fn what_changed_is_read_and_what_vanished_is_dropped() {
    let (store, dir) = (memory(), workspace());
    let mut index = StatIndex::open(&store, dir.path());
    scan(&mut index, &PATHS);
    index.save().expect("saved");
    let b = dir.path().join("src/b");
    let old = b.metadata().expect("there").modified().expect("known");
    std::fs::write(&b, "33").expect("written");
    std::fs::File::options().write(true).open(&b).expect("opens").set_modified(old).expect("set");
    std::fs::remove_file(dir.path().join("src/c")).expect("removed");
    std::fs::set_permissions(dir.path().join("src/d"), PermissionsExt::from_mode(0o744)).expect("set");
    age(&dir.path().join("src/d"));
    std::thread::sleep(std::time::Duration::from_millis(40));

    let mut index = StatIndex::open(&store, dir.path());
    let found = scan(&mut index, &PATHS);
    assert_eq!(found[2], Ok(Some(file(b"33"))), "size and time of writing are as before");
    assert_eq!(found[3], Ok(None));
    assert_eq!(found[4], Ok(Some(Entry::File { blob: BlobId::of(b""), size: 0, exec: true })));
    assert!(index.known("src/c").is_none());
    assert_eq!(index.counts().files_read, 2);
    index.save().expect("saved");
    assert_eq!(index.counts().chunks_written, 1);
    let mut index = StatIndex::open(&store, dir.path());
    assert_eq!(scan(&mut index, &PATHS), found);
    assert_eq!(index.counts().files_read, 0);
}

#[test]
fn what_has_no_content_is_an_error_that_names_it() {
    let (store, dir) = (memory(), workspace());
    let at = |name: &str| dir.path().join(name);
    let fd = beneath::open_root(dir.path()).expect("opens");
    rustix::fs::mknodat(&fd, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
    let strange: &std::ffi::OsStr = OsStrExt::from_bytes(b"\xff");
    symlink(strange, at("strange")).expect("made");
    let mut index = StatIndex::open(&store, dir.path());
    for (path, text) in [
        ("src", "`src` is a directory"),
        ("fifo", "`fifo` is a named pipe, neither a file nor a symbolic link"),
        ("socket", "`socket` is a socket, neither a file nor a symbolic link"),
        ("strange", "`strange` is a symbolic link whose target is not UTF-8"),
        ("../a", "`../a` is not a relative path without `.` and `..`"),
        ("/etc/passwd", "`/etc/passwd` is not a relative path without `.` and `..`"),
        ("src//b", "`src//b` is not a relative path without `.` and `..`"),
        ("", "`` is not a relative path without `.` and `..`"),
    ] {
        assert_eq!(scan(&mut index, &[path, "a"]), [Err(text.to_owned()), Ok(Some(file(b"1")))]);
    }
    let mut nowhere = StatIndex::open(&store, &at("nowhere"));
    assert!(scan(&mut nowhere, &["a"])[0].is_err());
}

#[test]
fn rewrites_of_the_same_size_are_always_seen() {
    let (store, dir) = (memory(), workspace());
    let path = dir.path().join("a");
    let mut index = StatIndex::open(&store, dir.path());
    for round in 0..2000_u32 {
        let bytes = format!("{round:06}");
        if round % 3 == 0 {
            std::fs::write(&path, &bytes).expect("written");
        } else {
            // In place, without cutting it off first.
            let mut file = std::fs::File::options().write(true).open(&path).expect("opens");
            std::io::Write::write_all(&mut file, bytes.as_bytes()).expect("written");
        }
        assert_eq!(scan(&mut index, &["a"]), [Ok(Some(file(bytes.as_bytes())))], "round {round}");
        if round % 100 == 0 {
            assert!(index.known("a").is_none(), "what was just written is not relied on");
            index.save().expect("saved");
        }
    }
    age(&path);
    scan(&mut index, &["a"]);
    assert!(index.known("a").is_some_and(|known| known.trusted), "in the end it is");
}

#[test]
fn a_file_that_differs_from_its_stamp_is_read_again() {
    let dir = workspace();
    let fd = beneath::open_root(dir.path()).expect("opens");
    let stamp = beneath::lstat(&fd, "a").expect("looks").expect("there");
    let read = |path| {
        let mut jobs = [Job { index: 0, path, stamp }];
        read_all(fd.as_fd(), &mut jobs, 0).pop().expect("one job")
    };
    std::fs::write(dir.path().join("a"), "other").expect("written");
    let found = read("a").expect("read").expect("there");
    assert_eq!(found.entry, file(b"other"));
    assert!(found.looked_ns > 0, "as it looked later");
    assert!(read("gone").expect("read").is_none());
    assert!(matches!(read("src/link"), Ok(Some(Read { entry: Entry::Symlink { .. }, .. }))));
    assert!(matches!(read("src"), Err(ScanError::Directory { .. })));
}

#[test]
fn a_file_that_never_rests_is_an_error() {
    let (store, dir) = (memory(), workspace());
    let busy = std::fs::File::create(dir.path().join("busy")).expect("made");
    busy.set_len(64 << 20).expect("grown");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::os::unix::fs::FileExt::write_at(&busy, b"x", 0).expect("written");
            }
        });
        let mut index = StatIndex::open(&store, dir.path());
        let told = (0..20).any(|_| scan(&mut index, &["busy"])[0] == Err("`busy` changes while it is read".to_owned()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(told);
        assert!(index.known("busy").is_none());
    });
}

#[test]
fn a_damaged_chunk_is_as_none() {
    let (store, dir) = (memory(), workspace());
    let mut index = StatIndex::open(&store, dir.path());
    scan(&mut index, &PATHS);
    index.save().expect("saved");
    let key = index.key("src");
    let mut chunk = store.stat_chunk(&key).expect("read").expect("there");
    chunk[20] ^= 1;
    store.put_stat_chunk(&key, chunk).expect("put");
    let mut index = StatIndex::open(&store, dir.path());
    assert_eq!(scan(&mut index, &PATHS)[2], Ok(Some(file(b"22"))));
    assert_eq!(index.counts().files_read, 4);
}

#[test]
fn workspaces_and_paths_do_not_mix() {
    let (store, one, two) = (memory(), workspace(), workspace());
    let mut index = StatIndex::open(&store, one.path());
    scan(&mut index, &PATHS);
    index.save().expect("saved");
    let mut index = StatIndex::open(&store, two.path());
    scan(&mut index, &PATHS);
    assert_eq!(index.counts().files_read, 6);
}

#[test]
fn changes_since_a_stamp_are_told() {
    let (store, dir) = (memory(), workspace());
    let mut index = StatIndex::open(&store, dir.path());
    let seen: Vec<_> =
        index.scan(&PATHS).into_iter().filter_map(|s| Some((s.path.to_owned(), s.result.ok()??.1))).collect();
    let look = index.second_look();
    assert_eq!(look.changed(&seen), Vec::<String>::new());
    std::fs::write(dir.path().join("src/b"), "44").expect("written");
    std::fs::write(dir.path().join("x"), "3").expect("written");
    std::fs::rename(dir.path().join("x"), dir.path().join("src/c")).expect("renamed");
    std::fs::remove_dir_all(dir.path().join("src/deep")).expect("removed");
    assert_eq!(look.changed(&seen), ["src/b", "src/c", "src/deep/e"]);
    let no_path = |path: &str| (path.to_owned(), seen[0].1);
    assert_eq!(look.changed(&[no_path("a"), no_path("../a"), no_path("src/..")]), ["../a", "src/.."]);
}

#[test]
fn changes_are_told_wherever_they_are_among_many_files() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    let mut paths: Vec<String> = (0..6000).map(|n| format!("{}/{n:04}", n % 2)).collect();
    // A directory amidst the files of another.
    paths.extend((0..6).map(|n| format!("0/3000/{n}")));
    paths.retain(|path| path != "0/3000");
    paths.sort_unstable();
    for path in &paths {
        std::fs::create_dir_all(dir.path().join(path).parent().expect("has one")).expect("made");
        std::fs::write(dir.path().join(path), path).expect("written");
    }
    let mut index = StatIndex::open(&store, dir.path());
    let all: Vec<&str> = paths.iter().map(String::as_str).collect();
    let seen: Vec<_> =
        index.scan(&all).into_iter().filter_map(|s| Some((s.path.to_owned(), s.result.ok()??.1))).collect();
    assert_eq!(seen.len(), paths.len());
    assert_eq!(index.second_look().changed(&seen), Vec::<String>::new());
    let last = paths.len() - 1;
    let changed: Vec<&str> = [0, 1, 255, 256, 1503, 3001, last].into_iter().map(|n| all[n]).collect();
    for path in &changed {
        std::fs::write(dir.path().join(path), "changed").expect("written");
    }
    assert_eq!(index.second_look().changed(&seen), changed);
    std::fs::rename(dir.path().join("1"), dir.path().join("other")).expect("renamed");
    assert_eq!(index.second_look().changed(&seen).len(), 3000 + 6);
}

#[test]
fn many_paths_are_looked_at_on_several_threads() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    let paths: Vec<String> = (0..3000).map(|n| format!("{}/{n:04}", n % 7)).collect();
    for path in &paths {
        std::fs::create_dir_all(dir.path().join(path).parent().expect("has one")).expect("made");
        std::fs::write(dir.path().join(path), path).expect("written");
    }
    age(&dir.path().join(paths.last().expect("some")));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut index = StatIndex::open(&store, dir.path());
    for read in [3000, 3000] {
        let found = scan(&mut index, &paths);
        for (path, found) in paths.iter().zip(found) {
            assert_eq!(found, Ok(Some(file(path.as_bytes()))));
        }
        assert_eq!(index.counts().files_read, read);
    }
}

#[test]
fn among_many_files_each_is_what_it_is_whether_it_is_read_at_once_or_later() {
    let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
    let mut paths: Vec<String> = (0..2500).map(|n| format!("d/{n:04}")).collect();
    std::fs::create_dir_all(dir.path().join("d/dir")).expect("made");
    let content = |n: usize| vec![n as u8; [0, 1, 4095, 4096, 65_535, 65_536, 65_537, 300_000][n % 8]];
    for (n, path) in paths.iter().enumerate().filter(|(n, _)| n % 50 < 8) {
        std::fs::write(dir.path().join(path), content(n)).expect("written");
    }
    symlink("0000", dir.path().join("d/link")).expect("made");
    paths.extend(["d/link", "d/dir", "link", "none/x"].map(str::to_owned));
    age(&dir.path().join("d/link"));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut index = StatIndex::open(&store, dir.path());
    for _ in 0..2 {
        for (n, found) in scan(&mut index, &paths).into_iter().enumerate() {
            match paths[n] {
                "d/link" => assert_eq!(found, Ok(Some(Entry::Symlink { target: "0000".into() }))),
                "d/dir" => assert_eq!(found, Err("`d/dir` is a directory".to_owned())),
                _ => assert_eq!(found, Ok((n < 2500 && n % 50 < 8).then(|| file(&content(n)))), "{}", paths[n]),
            }
        }
        assert_eq!(index.counts().files_read, 401, "once");
        index.save().expect("saved");
    }
}

#[test]
fn what_changes_between_being_looked_at_and_being_read_is_not_taken_for_what_it_was() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| dir.path().join("d").join(name);
    std::fs::create_dir(dir.path().join("d")).expect("made");
    type Edit = (&'static str, fn(&Path));
    let edits: [Edit; 6] = [
        ("same", |_| {}),
        ("edited", |path| {
            std::fs::File::options().write(true).open(path).and_then(|f| f.set_len(1)).expect("is edited");
        }),
        ("grown", |path| {
            let mut file = std::fs::File::options().append(true).open(path).expect("opens");
            std::io::Write::write_all(&mut file, b"more").expect("written");
        }),
        ("replaced", |path| std::fs::rename(path.with_file_name("other"), path).expect("is replaced")),
        ("gone", |path| std::fs::remove_file(path).expect("is removed")),
        ("dir", |path| {
            std::fs::remove_file(path).and_then(|()| std::fs::create_dir(path)).expect("is replaced");
        }),
    ];
    for name in edits.iter().map(|(name, _)| *name).chain(["other"]) {
        std::fs::write(at(name), "1234").expect("written");
    }
    age(&at("other"));
    let mut paths: Vec<String> = edits.iter().map(|(name, _)| format!("d/{name}")).collect();
    // So many that small files are read at once.
    paths.extend((0..3000).map(|n| format!("d/none-{n}")));
    let grouped = Grouped::new(paths.iter().map(String::as_str));
    let root = beneath::open_root(dir.path()).expect("opens");
    let read = grouped.look(root.as_fd(), &[], |here, item, found| {
        let stamp = found.expect("is looked at")?;
        edits.iter().filter(|(name, _)| *name == item.name).for_each(|(name, edit)| edit(&at(name)));
        here.read(item, &stamp)
    });
    let taken: Vec<usize> = (0..paths.len()).filter(|n| read[*n].is_some()).collect();
    assert_eq!((taken, read[0].clone()), (vec![0], Some(file(b"1234"))), "only what stayed");
}

#[test]
fn the_mark_of_what_was_placed_stays_with_the_content() {
    let (store, dir) = (memory(), workspace());
    let mut index = StatIndex::open(&store, dir.path());
    let Ok(Some((entry, stamp))) = index.scan(&["a"]).remove(0).result else { panic!("there") };
    index.placed("a", &entry, stamp, true);
    assert!(index.known("a").is_some_and(|known| known.placed && known.trusted));
    let mut other = StatIndex::open(&store, dir.path());
    other.placed("a", &entry, stamp, true);
    assert!(other.known("a").is_some_and(|known| !known.trusted), "nobody said when it was read");
    std::fs::write(dir.path().join("a"), "1").expect("written");
    scan(&mut index, &["a"]);
    assert!(index.known("a").is_some_and(|known| known.placed && !known.trusted), "the same content once more");
    assert_eq!(index.ours("a").len(), 1);
    std::fs::write(dir.path().join("a"), "2").expect("written");
    scan(&mut index, &["a"]);
    assert!(index.ours("a").is_empty());
}

#[derive(Debug, Clone)]
enum Edit {
    Write(usize, u8),
    Touch(usize),
    Link(usize),
    Remove(usize),
    Rename(usize, usize),
    Exec(usize),
    Reopen,
}

fn edit() -> impl Strategy<Value = Edit> {
    let path = 0..6_usize;
    prop_oneof![
        4 => (path.clone(), 0..3_u8).prop_map(|(p, n)| Edit::Write(p, n)),
        1 => path.clone().prop_map(Edit::Touch),
        1 => path.clone().prop_map(Edit::Link),
        1 => path.clone().prop_map(Edit::Remove),
        1 => (path.clone(), path.clone()).prop_map(|(a, b)| Edit::Rename(a, b)),
        1 => path.prop_map(Edit::Exec),
        2 => Just(Edit::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_scan_finds_what_is_there(edits in prop::collection::vec(edit(), 1..24)) {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        std::fs::create_dir(dir.path().join("d")).expect("made");
        let paths = ["a", "b", "c", "d/a", "d/b", "d/c"];
        let at = |n: usize| dir.path().join(paths[n]);
        let mut index = StatIndex::open(&store, dir.path());
        for edit in edits {
            // Edits of what is not there do nothing.
            let _ = match edit {
                Edit::Write(p, n) => std::fs::remove_file(at(p)).is_err() | std::fs::write(at(p), [n; 3]).is_ok(),
                Edit::Touch(p) => std::fs::File::open(at(p)).is_ok_and(|f| f.set_modified(std::time::SystemTime::now()).is_ok()),
                Edit::Link(p) => symlink("x", at(p)).is_ok(),
                Edit::Remove(p) => std::fs::remove_file(at(p)).is_ok(),
                Edit::Rename(a, b) => std::fs::rename(at(a), at(b)).is_ok(),
                Edit::Exec(p) => !at(p).is_symlink() && std::fs::set_permissions(at(p), PermissionsExt::from_mode(0o755)).is_ok(),
                Edit::Reopen => {
                    index.save().expect("saved");
                    index = StatIndex::open(&store, dir.path());
                    true
                }
            };
            let found = scan(&mut index, &paths);
            for (n, found) in found.into_iter().enumerate() {
                let meta = at(n).symlink_metadata().ok();
                let expected = meta.map(|meta| match std::fs::read_link(at(n)) {
                    Ok(_) => Entry::Symlink { target: "x".into() },
                    Err(_) => {
                        let bytes = std::fs::read(at(n)).expect("read");
                        let exec = meta.permissions().mode() & 0o100 != 0;
                        Entry::File { blob: BlobId::of(&bytes), size: bytes.len() as u64, exec }
                    }
                });
                prop_assert_eq!(found, Ok(expected), "{}", paths[n]);
            }
        }
    }
}

#[test]
fn what_was_young_when_it_was_read_is_read_once_more_before_it_counts_as_unchanged() {
    let (store, dir) = (memory(), workspace());
    let mut index = StatIndex::open(&store, dir.path());
    let stamp_of =
        |path: &str| crate::beneath::lstat(rustix::fs::CWD, dir.path().join(path)).expect("looks").expect("is there");
    let write = |path: &str, text: &str| std::fs::write(dir.path().join(path), text).expect("written");
    for path in ["a", "src/b"] {
        write(path, "old");
        // As young as can be, however long it takes until it is read.
        let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
        let file = std::fs::File::options().write(true).open(dir.path().join(path)).expect("opens");
        file.set_modified(ahead).expect("is set");
        scan(&mut index, &[path, "src/c"]);
    }
    let read = index.counts().files_read;
    // The stamps of now: as if the clock had not moved between the reading and the writing.
    write("src/b", "new");
    let seen = ["a", "src/b", "src/c"].map(|path| (path, stamp_of(path)));
    assert_eq!(index.second_look().changed(&seen), [""; 0]);
    for _ in 0..2 {
        assert_eq!(index.changed_when_young(&seen), ["src/b"]);
    }
    assert!(index.counts().files_read >= read + 2, "both young ones");
    scan(&mut index, &["src/b"]);
    let seen = ["a", "src/b", "src/c"].map(|path| (path, stamp_of(path)));
    assert_eq!(index.changed_when_young(&seen), [""; 0], "what it holds now was found by a scan");
    // What had rested is not read.
    write("a", "old");
    write("src/b", "new");
    age(&dir.path().join("src/b"));
    scan(&mut index, &["a", "src/b", "src/c"]);
    let read = index.counts().files_read;
    assert_eq!(index.changed_when_young(&seen), [""; 0]);
    assert_eq!(index.counts().files_read, read);
}
