//! Collection in a directory: what goes, what stays, and who is waited for.

mod kit;

use std::fs;
use std::path::Path;
use std::time::Duration;

use kit::{blocks_of, open, receipt, record, task};
use quipu_store::cid::{BlobId, Codec};
use quipu_store::tree::{Entry, Name, Tree};
use quipu_store::{GcError, GcOptions, Root, Store, VerifyOptions};

/// A time later than anything in these tests.
const NOW: u64 = 4_000_000_000;

fn everything() -> GcOptions {
    GcOptions { max_age: Some(Duration::ZERO), grace: Duration::ZERO, wait: Duration::ZERO, ..GcOptions::new(NOW) }
}

fn put(store: &Store, n: u8, size: usize) -> (BlobId, u64) {
    let link = store.put(Codec::Raw, vec![n; size]).expect("is put");
    (link.try_into().expect("raw"), size as u64)
}

fn files(dir: &Path) -> usize {
    let dirs = fs::read_dir(dir.join("blobs")).expect("is there");
    dirs.map(|d| fs::read_dir(d.expect("reads").path()).expect("reads").count()).sum()
}

fn sound(store: &Store) {
    let report = store.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
    assert_eq!(report.findings, []);
}

#[test]
fn what_roots_reach_stays_with_its_trees_and_the_rest_goes() {
    let dir = kit::temp();
    let store = open(dir.path());
    let (large, small) = (put(&store, 1, 5000), put(&store, 2, 50));
    let file = |(blob, size)| Entry::File { blob, size, exec: false };
    let name = |n: &str| Name::new(n).expect("valid");
    let inner = Tree::new(vec![(name("a"), file(large)), (name("b"), file(small))]).expect("valid");
    let inner = store.put_tree(&inner).expect("is put");
    let outer =
        store.put_tree(&Tree::new(vec![(name("d"), Entry::Dir { tree: inner })]).expect("valid")).expect("is put");
    let mut said = receipt(1, &[1], &[]);
    let output = said.out.as_mut().expect("ok");
    output.artifacts.insert("out".into(), Entry::Dir { tree: outer });
    let kept = record(&store, said, blocks_of(1, &[1]));
    let lost = put(&store, 3, 6000);
    let gone = record(&store, receipt(2, &[2], &[lost, small]), blocks_of(2, &[2]));
    put(&store, 4, 7000);
    put(&store, 5, 70);
    let root = Root { path: "/w".to_owned(), receipts: vec![kept], links: vec![], at: 1 };
    store.set_root("w", &root).expect("is set");
    store.flush().expect("commits");
    assert_eq!(files(dir.path()), 3);

    let dry = store.gc(&GcOptions { dry_run: true, ..everything() }).expect("decides");
    assert_eq!((files(dir.path()), store.receipt(gone).expect("reads").is_some()), (3, true));
    let stats = store.gc(&everything()).expect("collects");
    assert_eq!(stats, dry, "a dry run says what happens");
    // Kept: two trees, two files, a task's and an invocation's block.
    assert_eq!((stats.kept_receipts, stats.kept_blocks, stats.deleted_receipts, stats.deleted_blocks), (1, 6, 1, 5));
    assert_eq!(files(dir.path()), 1);
    assert!(store.complete(&Entry::Dir { tree: outer }).expect("reads"));
    assert!(store.receipt(gone).expect("reads").is_none());
    let found = store.find_tasks(&[task(1), task(2)]).expect("reads");
    assert_eq!((found[0].receipts.len(), found[1].receipts.len(), found[1].accepted), (1, 0, None));
    sound(&store);

    let again = store.gc(&everything()).expect("collects");
    assert_eq!((again.deleted_receipts, again.deleted_blocks, again.deleted_leftovers), (0, 0, 0));
    store.remove_root("w").expect("is dropped");
    store.flush().expect("commits");
    assert_eq!(store.gc(&everything()).expect("collects").kept_blocks, 0);
    assert_eq!(files(dir.path()), 0);
    sound(&store);
}

#[test]
fn a_writing_process_is_waited_for_and_named() {
    let dir = kit::temp();
    let (one, other) = (open(dir.path()), open(dir.path()));
    put(&one, 1, 5000);
    one.flush().expect("commits");
    let refused = other.gc(&everything());
    assert!(matches!(&refused, Err(GcError::Busy { pids }) if *pids == [std::process::id()]), "{refused:?}");
    drop(one);
    let hold = other.hold().expect("locks");
    assert!(matches!(other.gc(&everything()), Err(GcError::Busy { .. })));
    drop(hold);
    assert_eq!(other.gc(&everything()).expect("collects").deleted_blocks, 1);
    put(&other, 2, 5000);
    other.flush().expect("goes on writing");
    sound(&other);
}

#[test]
fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let dir = kit::temp();
    let (store, living) = (open(dir.path()), open(dir.path()));
    put(&store, 1, 5000);
    store.flush().expect("commits");
    let scratch = living.scratch_dir().expect("is made");
    let dead = dir.path().join("scratch/999999-0/1/locked");
    fs::create_dir_all(&dead).expect("makes");
    fs::write(dead.join("file"), "x").expect("writes");
    fs::set_permissions(&dead, std::os::unix::fs::PermissionsExt::from_mode(0o500)).expect("own directory");
    fs::write(dir.path().join("tmp/left"), "x").expect("writes");
    fs::write(dir.path().join("locks/held-999999-0"), "").expect("writes");
    let blobs = fs::read_dir(dir.path().join("blobs")).expect("is there").next().expect("one").expect("reads").path();
    fs::write(blobs.join("stray"), "x").expect("writes");

    let careful = GcOptions { grace: Duration::from_secs(3600), ..GcOptions::new(NOW) };
    store.gc(&GcOptions { max_age: None, ..careful }).expect("collects");
    assert!(!dir.path().join("scratch/999999-0").exists(), "its owner is gone");
    assert!(!dir.path().join("locks/held-999999-0").exists(), "its owner is gone");
    assert!(blobs.join("stray").exists() && dir.path().join("tmp/left").exists(), "too young to tell");
    store.gc(&everything()).expect("collects");
    assert!(!blobs.join("stray").exists() && !dir.path().join("tmp/left").exists());
    assert!(scratch.exists(), "its owner lives");
    drop(living);
    assert!(!scratch.exists(), "its owner cleans up");
}

#[test]
fn the_journal_and_the_index_shrink_with_what_it_speaks_of() {
    let dir = kit::temp();
    let store =
        Store::open(dir.path(), quipu_store::Options { inline_max_bytes: 1 << 20, ..kit::options() }).expect("opens");
    for n in 0..10 {
        put(&store, n, 900_000);
    }
    let kept = record(&store, receipt(1, &[1], &[put(&store, 50, 100)]), blocks_of(1, &[1]));
    let root = Root { path: "/w".to_owned(), receipts: vec![kept], links: vec![], at: 1 };
    store.set_root("w", &root).expect("is set");
    store.flush().expect("commits");
    let size = || {
        fs::read_dir(dir.path().join("receipts"))
            .expect("is there")
            .map(|e| e.expect("reads").metadata().expect("reads").len())
            .sum::<u64>()
    };
    let index = || fs::metadata(dir.path().join("index.redb")).expect("is there").len();
    assert!(size() > 9_000_000 && index() > 9_000_000);
    store.gc(&everything()).expect("collects");
    assert!(size() < 10_000, "{}", size());
    assert!(index() < 3_000_000, "{}", index());
    sound(&store);
    drop(store);
    let (store, report) = Store::rebuild(dir.path(), kit::options(), Duration::ZERO).expect("rebuilds");
    assert_eq!(report.receipts, 1);
    assert_eq!(store.root("w").expect("reads"), Some(root));
    sound(&store);
}
