//! Checkouts: what comes to stand at a path, what is kept, and what is left alone.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::Take;
use crate::cid::{BlobId, Codec};
use crate::ingest::{ingest_dir, ingest_path};
use crate::stat_index::Standing;
use crate::test_dirs::{Shape, make, memory, read, shapes};
use crate::tree::{Name, Tree};

pub(super) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

pub(super) fn file(store: &Store, bytes: &[u8]) -> Entry {
    store.put(Codec::Raw, bytes.to_vec()).expect("put");
    Entry::File { blob: BlobId::of(bytes), size: bytes.len() as u64, exec: false }
}

pub(super) fn dir(store: &Store, entries: &[(&str, Entry)]) -> Entry {
    let entries = entries.iter().map(|(name, entry)| (Name::new(name).expect("valid"), entry.clone()));
    let tree = Tree::new(entries.collect()).expect("valid");
    Entry::Dir { tree: store.put_tree(&tree).expect("put") }
}

/// All names in a directory, hidden ones too.
pub(super) fn names(path: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(path).expect("listed").map(|e| e.expect("listed").file_name().into_string().expect("text"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

pub(super) fn files(pairs: &[(&str, &str)]) -> Shape {
    let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), Shape::File(text.as_bytes().to_vec(), false)));
    Shape::Dir(pairs.collect())
}

/// Sees to it that `rel` holds `entry`: does nothing when it does; otherwise keeps what is not quipu's, puts `entry` there,
/// and notes in the index what was put.
fn place(index: &mut StatIndex, entry: &Entry, rel: &str, limits: &Limits) -> Result<Placed, CheckoutError> {
    if is_placed(index, entry, rel) {
        return Ok(Placed { settled: true, ..Placed::default() });
    }
    let ours = index.ours(rel);
    let old: Vec<String> = ours.keys().cloned().collect();
    let options = CheckoutOptions { limits: *limits, in_the_way: InTheWay::Keep(ours), ..CheckoutOptions::default() };
    let placed = checkout_with(index.store(), entry, index.root(), rel, &options)?;
    old.iter().for_each(|path| index.forget(path));
    index.note_placed(&placed);
    Ok(placed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_ingested_is_what_is_checked_out(old in shapes(), new in shapes()) {
        let (store, root) = (memory(), temp());
        let (top, at) = (root.path().join("top"), root.path().join("out/at"));
        let new = Shape::Dir(new);
        make(&top, &new);
        make(&at, &Shape::Dir(old));
        let any = IngestOptions { links: Links::Any, ..IngestOptions::default() };
        let entry = ingest_at(&store, root.path(), "top", &any).expect("kept").expect("there").entry;
        let limits = Limits { links: Links::Any, ..Limits::default() };
        let mut index = StatIndex::open(&store, root.path());
        let placed = place(&mut index, &entry, "out/at", &limits).expect("placed");
        prop_assert_eq!(read(&at), new);
        prop_assert_eq!(names(&root.path().join("out")), ["at"]);
        let again = ingest_at(&store, root.path(), "out/at", &any).expect("kept").expect("there").entry;
        prop_assert_eq!(&again, &entry);
        prop_assert!(placed.settled && placed.left_behind.is_empty());
        index.save().expect("saved");

        let mut index = StatIndex::open(&store, root.path());
        let again = place(&mut index, &entry, "out/at", &limits).expect("placed");
        prop_assert_eq!(again, Placed { settled: true, ..Placed::default() }, "nothing is done twice");
        prop_assert_eq!(index.counts(), Default::default(), "nor read");
    }
}

#[test]
fn kinds_replace_one_another_and_nothing_is_left_over() {
    let (store, root) = (memory(), temp());
    let big: Vec<(String, Entry)> = (0..200_u8).map(|n| (format!("{n}"), file(&store, &[n]))).collect();
    let big: Vec<(&str, Entry)> = big.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
    let entries = [
        file(&store, b"one"),
        dir(&store, &big),
        Entry::Symlink { target: "x".into() },
        dir(&store, &[("d", dir(&store, &[])), ("f", file(&store, b"two"))]),
        file(&store, b""),
    ];
    for entry in entries.iter().chain(entries.iter().rev()) {
        let placed = checkout(&store, entry, root.path(), "new/dir/at").expect("placed");
        assert_eq!(
            ingest_path(&store, &root.path().join("new/dir/at"), Take::Copy).expect("kept").as_ref(),
            Some(entry)
        );
        assert_eq!(names(&root.path().join("new/dir")), ["at"]);
        for (path, _, stamp) in &placed.files {
            let found = beneath::lstat(beneath::open_root(root.path()).expect("opens"), path.as_str());
            assert_eq!(found, Ok(Some(*stamp)), "{path}");
            assert!(!placed.settled || stamp.mtime_ns % 1000 != 0, "between two ticks: {path}");
            assert_eq!(root.path().join(path).symlink_metadata().expect("there").nlink(), 1);
        }
    }
}

#[test]
fn on_an_error_everything_is_as_it_was() {
    let (store, root) = (memory(), temp());
    make(&root.path().join("at"), &files(&[("old", "x")]));
    let gone = Entry::File { blob: BlobId::of(b"gone"), size: 4, exec: false };
    let wrong = Entry::File { blob: BlobId::of(b"good"), size: 5, exec: false };
    let good = file(&store, b"good");
    for bad in
        [gone.clone(), wrong.clone(), dir(&store, &[("a", good.clone()), ("b", gone)]), dir(&store, &[("b", wrong)])]
    {
        assert!(checkout(&store, &bad, root.path(), "at").is_err());
        assert_eq!(names(root.path()), ["at"]);
        assert_eq!(read(&root.path().join("at")), files(&[("old", "x")]));
    }
    std::fs::write(root.path().join("plain"), "").expect("written");
    assert!(matches!(checkout(&store, &good, root.path(), "plain/x"), Err(CheckoutError::Way { .. })));
}

#[test]
fn what_is_not_quipu_s_is_kept_and_told() {
    let (store, root) = (memory(), temp());
    let at = |rel: &str| root.path().join(rel);
    let mut index = StatIndex::open(&store, root.path());
    let limits = Limits::default();
    let (one, two) = (file(&store, b"one"), file(&store, b"two"));
    let mut put = |entry: &Entry, rel: &str| place(&mut index, entry, rel, &limits).expect("placed").kept;

    std::fs::write(at("f"), "mine").expect("written");
    let mine = Entry::File { blob: BlobId::of(b"mine"), size: 4, exec: false };
    assert_eq!(put(&one, "f"), [("f".to_owned(), mine.clone())]);
    assert!(store.complete(&mine).expect("readable"));
    assert_eq!(put(&two, "f"), [], "what quipu put there is not kept");
    std::fs::write(at("f"), "mine").expect("written");
    assert_eq!(put(&one, "f"), [("f".to_owned(), mine.clone())], "what was changed since is");
    std::fs::write(at("f"), "one").expect("written");
    assert_eq!(put(&two, "f"), [], "the same content again is nobody's loss");

    let tree = |files: &[(&str, Entry)]| dir(&store, &[("sub", dir(&store, files)), ("z", one.clone())]);
    assert_eq!(put(&tree(&[("a", one.clone()), ("b", two.clone())]), "d"), []);
    std::fs::write(at("d/sub/a"), "mine").expect("written");
    std::fs::write(at("d/new"), "new").expect("written");
    symlink("/etc", at("d/sub/link")).expect("made");
    let new = Entry::File { blob: BlobId::of(b"new"), size: 3, exec: false };
    let mut kept = put(&tree(&[("b", two.clone())]), "d");
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    let link = Entry::Symlink { target: "/etc".into() };
    assert_eq!(kept, [("d/new", new), ("d/sub/a", mine), ("d/sub/link", link)].map(|(p, e)| (p.to_owned(), e)));
    assert_eq!(names(&at("d/sub")), ["b"]);
    assert_eq!(put(&one, "d"), [], "all of it was quipu's");
    assert_eq!(names(root.path()), ["d", "f"]);
}

#[test]
fn what_is_quipu_s_is_not_read_to_be_replaced() {
    let (store, root) = (memory(), temp());
    let mut index = StatIndex::open(&store, root.path());
    let (one, two) = (file(&store, b"one"), file(&store, b"two"));
    let mut asked = Vec::new();
    for (entry, rel) in [(&one, "a"), (&two, "a"), (&one, "b"), (&two, "b")] {
        let before = store.counters().has;
        place(&mut index, entry, rel, &Limits::default()).expect("placed");
        asked.push(store.counters().has - before);
    }
    assert_eq!(asked, [asked[0]; 4], "the new content, and never the old");
}

/// A store with an index on disk.
fn on_disk(dir: &Path) -> Store {
    let signer = crate::SignerSource::Fixed(crate::sign::Signer::from_secret(&[7; 32]));
    Store::open(dir, crate::Options::new(signer)).expect("opens")
}

#[test]
fn files_of_a_directory_share_reads_of_the_index() {
    let (dirs, root) = (temp(), temp());
    let files: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let entry = {
        let store = on_disk(dirs.path());
        let entries: Vec<_> = files.iter().map(|name| (name.as_str(), file(&store, name.as_bytes()))).collect();
        let entry = dir(&store, &[("a", dir(&store, &entries)), ("b", dir(&store, &entries[..30]))]);
        store.flush().expect("kept");
        entry
    };
    let store = on_disk(dirs.path());
    let before = store.counters();
    checkout(&store, &entry, root.path(), "at").expect("placed");
    let after = store.counters();
    assert_eq!(after.gets - before.gets, 3 + 330, "each block is read once");
    assert!(after.reads - before.reads < 60, "{} reads of the index", after.reads - before.reads);
    let before = store.counters().reads;
    assert!(store.complete(&entry).expect("looked up"));
    assert!(store.counters().reads - before < 10, "{}", store.counters().reads - before);
    assert_eq!(names(&root.path().join("at/a")), files);
}

#[test]
fn content_damaged_in_the_store_is_never_placed() {
    let (dirs, root) = (temp(), temp());
    let store = on_disk(dirs.path());
    let bytes = vec![1; 100_000];
    std::fs::write(root.path().join("f"), &bytes).expect("written");
    let large = ingest_path(&store, &root.path().join("f"), Take::Move).expect("kept").expect("there");
    let Entry::File { blob, .. } = large else { panic!("a file") };
    let Ok(Some(crate::Blob::File { path, .. })) = store.blob(blob) else { panic!("in a file of its own") };
    let entry = dir(&store, &[("a", file(&store, b"small")), ("b", large.clone())]);
    for entry in [&large, &entry] {
        checkout(&store, entry, root.path(), "at").expect("placed");
        std::fs::remove_file(root.path().join("at"))
            .or_else(|_| std::fs::remove_dir_all(root.path().join("at")))
            .expect("removed");
    }
    let mut bad = bytes.clone();
    bad[50_000] ^= 1;
    // The store's own may not be writable.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, &bad).expect("written");
    let done = checkout(&store, &entry, root.path(), "at");
    assert!(matches!(done, Err(CheckoutError::Corrupt(link)) if link == blob.link()), "{done:?}");
    assert!(names(root.path()).is_empty());
    assert!(
        matches!(checkout(&store, &large, root.path(), "at"), Err(CheckoutError::Missing { .. })),
        "it is out of use"
    );
}

#[test]
fn what_cannot_be_kept_stays_where_it_is() {
    let (store, root) = (memory(), temp());
    make(&root.path().join("d"), &files(&[("mine", "x")]));
    let fd = beneath::open_root(&root.path().join("d")).expect("opens");
    rustix::fs::mknodat(&fd, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
    let mut index = StatIndex::open(&store, root.path());
    let entry = file(&store, b"one");
    let done = place(&mut index, &entry, "d", &Limits::default());
    assert!(matches!(done, Err(CheckoutError::InTheWay { .. })), "{done:?}");
    assert_eq!(names(root.path()), ["d"]);
    assert_eq!(names(&root.path().join("d")), ["fifo", "mine"]);
}

#[test]
fn a_directory_is_placed_only_if_nothing_is_beside_it() {
    let (store, root) = (memory(), temp());
    let at = |rel: &str| root.path().join(rel);
    let mut index = StatIndex::open(&store, root.path());
    let entry = dir(&store, &[("f", file(&store, b"x")), ("d", dir(&store, &[]))]);
    assert!(!is_placed(&mut index, &entry, "a/at"));
    place(&mut index, &entry, "a/at", &Limits::default()).expect("placed");
    assert!(is_placed(&mut index, &entry, "a/at"));
    type Change<'a> = &'a dyn Fn();
    let changes: [(Change<'_>, Change<'_>); 5] = [
        (&|| std::fs::write(at("a/at/d/new"), "").expect("written"), &|| {
            std::fs::remove_file(at("a/at/d/new")).expect("removed");
        }),
        (&|| std::fs::remove_dir(at("a/at/d")).expect("removed"), &|| {
            std::fs::create_dir(at("a/at/d")).expect("made");
        }),
        (&|| std::fs::write(at("a/at/f"), "y").expect("written"), &|| {
            std::fs::write(at("a/at/f"), "x").expect("written");
        }),
        (&|| std::fs::write(at("a/at/f"), "longer").expect("written"), &|| {
            std::fs::write(at("a/at/f"), "x").expect("written");
        }),
        (
            &|| {
                std::fs::rename(at("a"), at("b")).expect("renamed");
                symlink("b", at("a")).expect("made");
            },
            &|| {
                std::fs::remove_file(at("a")).expect("removed");
                std::fs::rename(at("b"), at("a")).expect("renamed");
            },
        ),
    ];
    for (n, (change, undo)) in changes.iter().enumerate() {
        change();
        assert!(!is_placed(&mut index, &entry, "a/at"), "{n}");
        undo();
        assert!(is_placed(&mut index, &entry, "a/at"), "{n} undone");
    }
    assert!(!is_placed(&mut index, &file(&store, b"x"), "a/at"));
    assert!(!is_placed(&mut index, &entry, "a/at/f"));
    assert!(is_placed(&mut index, &file(&store, b"x"), "a/at/f"));
}

#[test]
fn a_large_directory_is_as_one_made_of_parts() {
    let (store, source, root) = (memory(), temp(), temp());
    let below: BTreeMap<_, _> = (0..5000).map(|n| (format!("{n}"), Shape::File(vec![n as u8], n % 2 == 0))).collect();
    let shape = Shape::Dir(below);
    make(source.path(), &shape);
    let entry = ingest_dir(&store, source.path(), Take::Move).expect("kept");
    checkout(&store, &entry, root.path(), "at").expect("placed");
    assert_eq!(read(&root.path().join("at")), shape);
}

#[test]
fn many_are_put_where_nothing_stands_and_one_that_fails_is_no_other_s_loss() {
    let (dirs, root) = (temp(), temp());
    let store = on_disk(dirs.path());
    let mut wanted: Vec<(String, Entry)> =
        (0..500).map(|n| (format!("out/{}/{n:03}", n / 250), file(&store, format!("{n}").as_bytes()))).collect();
    store.flush().expect("kept");
    wanted.push(("out/link".to_owned(), Entry::Symlink { target: "0/000".into() }));
    let good = wanted.len();
    let gone = Entry::File { blob: BlobId::of(b"gone"), size: 4, exec: false };
    let wrong = Entry::File { blob: BlobId::of(b"1"), size: 5, exec: false };
    std::fs::write(root.path().join("plain"), "mine").expect("written");
    symlink("/tmp", root.path().join("away")).expect("made");
    for (rel, entry) in [
        ("out/0/gone", gone),
        ("out/0/wrong", wrong),
        ("plain/x", wanted[0].1.clone()),
        ("away/x", wanted[0].1.clone()),
        ("../x", wanted[0].1.clone()),
        ("plain", wanted[0].1.clone()),
        ("dir", dir(&store, &[])),
    ] {
        wanted.push((rel.to_owned(), entry));
    }
    let asked: Vec<(&str, &Entry)> = wanted.iter().map(|(rel, entry)| (rel.as_str(), entry)).collect();
    let before = store.counters();
    let put = checkout_fresh(&store, root.path(), &asked);
    assert!(store.counters().reads - before.reads < 30, "{} reads of the index", store.counters().reads - before.reads);
    let mut index = StatIndex::open(&store, root.path());
    for ((rel, entry), put) in wanted.iter().zip(&put).take(good) {
        let placed = put.as_ref().expect("placed").as_ref().expect("nothing stood there");
        assert!(matches!(&placed.files[..], [(path, found, _)] if path == rel && found == entry) && placed.settled);
        index.note_placed(placed);
    }
    assert!(matches!(put[good], Err(CheckoutError::Missing { .. })));
    assert!(matches!(put[good + 1], Err(CheckoutError::Size { .. })));
    assert!(matches!(put[good + 2], Err(CheckoutError::Way { .. })));
    assert!(matches!(put[good + 3], Err(CheckoutError::Way { .. })));
    assert!(matches!(put[good + 4], Err(CheckoutError::Path { .. })));
    assert!(matches!((&put[good + 5], &put[good + 6]), (Ok(None), Ok(None))));
    assert_eq!(std::fs::read(root.path().join("plain")).expect("read"), b"mine", "what stands there is left alone");
    assert_eq!(names(root.path()), ["away", "out", "plain"]);
    assert_eq!(names(&root.path().join("out")), ["0", "1", "link"], "nothing of the moment is left");
    assert_eq!(names(&root.path().join("out/0")).len(), 250);

    let standing = index.standing(&asked);
    assert!(standing[..good].iter().all(|s| matches!(s, Standing::Right(_))));
    let rest =
        [Standing::Nothing, Standing::Nothing, Standing::Other, Standing::Other, Standing::Other, Standing::Other];
    assert_eq!(standing[good..good + 6], rest);
    assert_eq!(index.counts().files_read, 0, "all of it is known by its stamps");
    for put in checkout_fresh(&store, root.path(), &asked[..good]) {
        assert!(matches!(put, Ok(None)));
    }
}

#[test]
fn a_name_of_the_moment_that_is_taken_is_not_touched() {
    let (store, root) = (memory(), temp());
    let one = file(&store, b"one");
    let next = |name: String| name.rsplit_once('-').expect("a number").1.parse::<u64>().expect("a number");
    let begin = next(crate::swap::temp_names().next().expect("one"));
    // Tests beside this one take some of them.
    let taken: Vec<String> = (begin..begin + 200).map(|n| format!("{TEMP_PREFIX}{}-{n}", std::process::id())).collect();
    for name in &taken {
        std::fs::write(root.path().join(name), "mine").expect("written");
    }
    let put = checkout_fresh(&store, root.path(), &[("x", &one)]);
    assert!(matches!(&put[..], [Ok(Some(_))]), "{put:?}");
    assert_eq!(std::fs::read(root.path().join("x")).expect("read"), b"one");
    for name in &taken {
        assert_eq!(std::fs::read(root.path().join(name)).expect("there"), b"mine");
    }
    assert_eq!(names(root.path()).len(), taken.len() + 1);
}
