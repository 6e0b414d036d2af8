//! Name spaces of a store: what they see, what they write, and what becomes of them.

mod kit;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kit::{blocks_of, invocation, open, open_space, options, receipt, record, task, via};
use quipu_store::cid::{BlobId, Codec, IdPrefix};
use quipu_store::receipt::Output;
use quipu_store::spaces::{self, Reads, SpaceName};
use quipu_store::tree::Entry;
use quipu_store::{GcError, GcOptions, Kind, OpenError, Root, Store, VerifyOptions};

/// A time later than anything in these tests.
const NOW: u64 = 4_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);

fn everything() -> GcOptions {
    GcOptions { max_age: Some(Duration::ZERO), grace: Duration::ZERO, wait: Duration::ZERO, ..GcOptions::new(NOW) }
}

fn both(dir: &Path, name: &str) -> Store {
    open_space(dir, name, Reads::OwnAndDefault)
}

fn own(dir: &Path, name: &str) -> Store {
    open_space(dir, name, Reads::Own)
}

fn name(text: &str) -> SpaceName {
    text.parse().expect("a name")
}

fn put(store: &Store, n: u8, size: usize) -> (BlobId, u64) {
    let link = store.put(Codec::Raw, vec![n; size]).expect("is put");
    (link.try_into().expect("raw"), size as u64)
}

fn sound(store: &Store) {
    let report = store.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
    assert_eq!(report.findings, []);
}

/// Files with their content, but for those below `spaces`, and locks.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("is listed") {
            let path = entry.expect("is listed").path();
            if path.is_dir() && path != dir.join("spaces") && path != dir.join("locks") {
                open.push(path);
            } else if path.is_file() {
                found.insert(path.clone(), fs::read(&path).expect("is read"));
            }
        }
    }
    found
}

#[test]
fn a_name_space_sees_the_default_and_the_default_sees_nothing_of_it() {
    let dir = kit::temp();
    let store = open(dir.path());
    let (large, small) = (put(&store, 1, 5000), put(&store, 2, 50));
    let first = record(&store, receipt(1, &[1], &[large, small]), blocks_of(1, &[1]));
    drop(store);
    let before = files(dir.path());

    let (space, other) = (both(dir.path(), "one"), both(dir.path(), "two"));
    let found = space.find_tasks(&[task(1)]).expect("reads").remove(0);
    assert_eq!(found.accepted.map(|(id, _)| id), Some(first));
    assert!(found.receipts[0].own && found.receipts[0].made_here);
    assert_eq!(space.find_invocations(&[invocation(1)]).expect("reads")[0].len(), 1);
    for (blob, size) in [large, small] {
        assert!(space.complete(&Entry::File { blob, size, exec: false }).expect("reads"));
        assert_eq!(space.get(blob.link(), 9999).expect("reads").map(|b| b.len() as u64), Some(size));
    }
    assert!(!spaces::dir(dir.path(), &name("one")).exists(), "reading makes nothing");

    let blob = put(&space, 3, 6000);
    let second = record(&space, receipt(2, &[2], &[blob]), blocks_of(2, &[2]));
    space.set_note("note", Some(vec![1])).expect("is set");
    let root = Root { path: "/w".to_owned(), receipts: vec![second], links: vec![], at: 1 };
    space.set_root("w", &root).expect("is set");
    space.flush().expect("commits");
    assert_eq!(files(dir.path()), before, "nothing of the default was written");
    for blind in [&open(dir.path()), &other, &own(dir.path(), "two")] {
        assert!(blind.find_tasks(&[task(2)]).expect("reads")[0].receipts.is_empty());
        assert!(blind.find_invocations(&[invocation(2)]).expect("reads")[0].is_empty());
        assert!(blind.receipt(second).expect("reads").is_none() && !blind.has(blob.0.link()).expect("reads"));
        assert!(blind.note("note").expect("reads").is_none() && blind.roots().expect("reads").is_empty());
        assert!(blind.resolve(&prefix(&second.to_string())).expect("reads").is_empty());
    }
    // Alone it knows what was made in it.
    drop(space);
    let alone = own(dir.path(), "one");
    assert_eq!(alone.find_tasks(&[task(2)]).expect("reads")[0].receipts.len(), 1);
    assert!(alone.find_tasks(&[task(1)]).expect("reads")[0].receipts.is_empty());
    assert!(!alone.has(large.0.link()).expect("reads"));
    sound(&alone);
    let both = both(dir.path(), "one");
    let kinds =
        |id: &str| both.resolve(&prefix(id)).expect("reads").into_iter().map(|(_, kind)| kind).collect::<Vec<_>>();
    assert_eq!((kinds(&first.to_string()), kinds(&second.to_string())), (vec![Kind::Receipt], vec![Kind::Receipt]));
    assert_eq!(kinds(&task(1).to_string()), [Kind::Task]);
}

fn prefix(text: &str) -> IdPrefix {
    IdPrefix::new(text).expect("an id")
}

#[test]
fn what_is_made_in_a_name_space_is_whole_without_the_default() {
    let dir = kit::temp();
    let store = open(dir.path());
    let known = put(&store, 1, 5000);
    record(&store, receipt(1, &[1], &[known]), blocks_of(1, &[1]));
    let space = both(dir.path(), "one");
    assert_eq!(put(&space, 1, 5000), known);
    record(&space, receipt(2, &[2], &[known]), blocks_of(2, &[2]));
    drop((space, store));
    let alone = own(dir.path(), "one");
    assert!(alone.complete(&Entry::File { blob: known.0, size: known.1, exec: false }).expect("reads"));
    sound(&alone);
}

#[test]
fn what_is_gone_by_behind_is_noted_in_front_and_not_by_who_sees_only_that() {
    let dir = kit::temp();
    let store = open(dir.path());
    let id = record(&store, receipt(1, &[1], &[]), blocks_of(1, &[1]));
    let out = Output::default().id();
    let space = both(dir.path(), "one");
    space.accept(task(9), id, via(&[(3, 4)])).expect("is accepted");
    for _ in 0..2 {
        let found = space.find_tasks(&[task(9)]).expect("reads").remove(0);
        assert_eq!(found.accepted, Some((id, out)));
        assert!(found.receipts[0].own && found.receipts[0].made_here);
        assert_eq!(found.receipts[0].via, via(&[(3, 4)]));
        space.flush().expect("commits");
    }
    assert!(open(dir.path()).find_tasks(&[task(9)]).expect("reads")[0].receipts.is_empty());
    let alone = own(dir.path(), "one");
    assert!(alone.find_tasks(&[task(9)]).expect("reads")[0].receipts.is_empty());
    sound(&alone);
    // What comes out of the task itself counts from then on, in either view.
    let newer = record(&space, receipt(9, &[9], &[]), blocks_of(9, &[9]));
    drop(space);
    for view in [both(dir.path(), "one"), own(dir.path(), "one")] {
        assert_eq!(view.find_tasks(&[task(9)]).expect("reads")[0].accepted, Some((newer, out)));
    }
    // And what is found behind again after that.
    let space = both(dir.path(), "one");
    space.accept(task(9), id, via(&[])).expect("is accepted");
    assert_eq!(space.find_tasks(&[task(9)]).expect("reads")[0].accepted, Some((id, out)));
    space.accept(task(9), newer, via(&[])).expect("is accepted");
    space.flush().expect("commits");
    assert_eq!(space.find_tasks(&[task(9)]).expect("reads")[0].accepted, Some((newer, out)));
    // Nothing is gone by that was collected.
    space.accept(task(8), id, via(&[])).expect("is accepted");
    drop((space, store));
    assert_eq!(open(dir.path()).gc(&everything()).expect("collects").kept_receipts, 0);
    assert!(both(dir.path(), "one").find_tasks(&[task(8)]).expect("reads")[0].receipts.is_empty());
}

#[test]
fn values_behind_are_seen_replaced_and_dropped_but_roots_are_everybodys_own() {
    let dir = kit::temp();
    let store = open(dir.path());
    for key in ["a", "b", "session:w"] {
        store.set_note(key, Some(key.into())).expect("is set");
    }
    store.put_stat_chunk(b"k", vec![1]).expect("is put");
    store.set_root("w", &Root { path: "/w".to_owned(), receipts: vec![], links: vec![], at: 1 }).expect("is set");
    store.flush().expect("commits");
    let space = both(dir.path(), "one");
    let note = |key: &str| space.note(key).expect("reads");
    assert_eq!((note("a"), space.stat_chunk(b"k").expect("reads")), (Some(b"a".to_vec()), Some(vec![1])));
    assert_eq!((note("session:w"), space.root("w").expect("reads")), (None, None));
    space.set_note("a", Some(vec![7])).expect("is set");
    space.set_note("b", None).expect("is dropped");
    assert_eq!((note("a"), note("b")), (Some(vec![7]), None));
    space.set_note("b", Some(vec![8])).expect("is set");
    space.flush().expect("commits");
    assert_eq!(note("b"), Some(vec![8]));
    assert_eq!(store.note("a").expect("reads"), Some(b"a".to_vec()));
    assert_eq!(store.note("b").expect("reads"), Some(b"b".to_vec()));
}

#[test]
fn a_damaged_block_behind_is_made_again_in_front_and_left_to_its_owner_there() {
    let dir = kit::temp();
    let store = open(dir.path());
    let blob = put(&store, 1, 5000);
    store.flush().expect("commits");
    let quipu_store::Blob::File { path, .. } = store.blob(blob.0).expect("reads").expect("is there") else {
        panic!("it is large")
    };
    drop(store);
    fs::write(&path, vec![9; 5000]).expect("is written");
    let space = both(dir.path(), "one");
    assert_eq!(space.get(blob.0.link(), 9999).expect("reads"), None);
    assert_eq!(space.take_findings().len(), 1);
    assert!(!space.has(blob.0.link()).expect("reads"), "not asked for again");
    assert!(path.exists());
    assert_eq!(put(&space, 1, 5000), blob);
    space.flush().expect("commits");
    assert_eq!(both(dir.path(), "one").get(blob.0.link(), 9999).expect("reads"), Some(vec![1; 5000]));
}

#[test]
fn a_file_in_front_that_is_not_whole_is_no_match_for_one_behind() {
    let dir = kit::temp();
    let store = open(dir.path());
    let blob = put(&store, 1, 5000);
    store.flush().expect("commits");
    let space = both(dir.path(), "one");
    put(&space, 1, 5000);
    space.flush().expect("commits");
    let quipu_store::Blob::File { path, .. } = space.blob(blob.0).expect("reads").expect("is there") else {
        panic!("it is large")
    };
    assert!(path.starts_with(dir.path().join("spaces")));
    fs::write(path, "torn").expect("is written");
    assert_eq!(space.get(blob.0.link(), 9999).expect("reads"), Some(vec![1; 5000]));
}

#[test]
fn a_collection_of_the_default_keeps_what_name_spaces_keep() {
    let dir = kit::temp();
    let store = open(dir.path());
    let mut ids = vec![];
    for n in 1..=3 {
        ids.push(record(&store, receipt(n, &[n], &[]), blocks_of(n, &[n])));
    }
    drop(store);
    let space = both(dir.path(), "one");
    let root = Root { path: "/w".to_owned(), receipts: vec![ids[0]], links: vec![], at: 1 };
    space.set_root("w", &root).expect("is set");
    space.flush().expect("commits");

    let busy = open(dir.path()).gc(&everything());
    assert!(matches!(busy, Err(GcError::Busy { .. })), "what a name space at work may read stays: {busy:?}");
    drop(space);
    let store = open(dir.path());
    let kept = |store: &Store| ids.iter().map(|id| store.receipt(*id).expect("reads").is_some()).collect::<Vec<_>>();
    store.gc(&everything()).expect("collects");
    assert_eq!(kept(&store), [true, false, false], "what a root of a name space names stays");
    sound(&store);
    drop(store);
    assert!(spaces::remove(dir.path(), &name("one"), Duration::ZERO).expect("is removed"));
    open(dir.path()).gc(&everything()).expect("collects");
    assert_eq!(kept(&open(dir.path())), [false, false, false]);
}

#[test]
fn a_name_space_in_use_is_not_removed_and_one_that_was_removed_begins_anew() {
    let dir = kit::temp();
    let space = both(dir.path(), "one");
    record(&space, receipt(1, &[1], &[]), blocks_of(1, &[1]));
    let busy = spaces::remove(dir.path(), &name("one"), Duration::ZERO);
    assert!(matches!(&busy, Err(GcError::Busy { pids }) if *pids == [std::process::id()]), "{busy:?}");
    drop(space);

    // One that was only read, and written to after it was removed.
    let reader = both(dir.path(), "one");
    assert_eq!(reader.find_tasks(&[task(1)]).expect("reads")[0].receipts.len(), 1);
    assert!(spaces::remove(dir.path(), &name("one"), Duration::ZERO).expect("is removed"));
    assert!(!spaces::remove(dir.path(), &name("one"), Duration::ZERO).expect("is not there"));
    assert!(fs::read_dir(dir.path().join("spaces")).expect("is there").next().is_none(), "nothing is left of it");
    let large = put(&reader, 3, 6000);
    record(&reader, receipt(2, &[2], &[large]), blocks_of(2, &[2]));
    drop(reader);
    let space = own(dir.path(), "one");
    let found = space.find_tasks(&[task(1), task(2)]).expect("reads");
    assert_eq!((found[0].receipts.len(), found[1].receipts.len()), (0, 1));
    assert!(space.complete(&Entry::File { blob: large.0, size: large.1, exec: false }).expect("reads"));
    sound(&space);
}

#[test]
fn name_spaces_that_nobody_used_for_long_go_and_others_stay() {
    let dir = kit::temp();
    for name in ["old", "read", "held", "new"] {
        record(&both(dir.path(), name), receipt(1, &[1], &[]), blocks_of(1, &[1]));
    }
    fs::create_dir_all(dir.path().join("spaces/.removed-1-0/blobs")).expect("is made");
    let held = both(dir.path(), "held").hold().expect("is held");
    let age = |name: &str| {
        for file in ["index.redb", "version"] {
            let file = fs::File::options().write(true).open(dir.path().join("spaces").join(name).join(file));
            file.expect("is there").set_modified(SystemTime::now() - 10 * DAY).expect("is set");
        }
    };
    ["old", "read", "held"].into_iter().for_each(age);
    both(dir.path(), "read").find_tasks(&[task(1)]).expect("reads");
    let names = || spaces::list(dir.path()).expect("lists").into_iter().map(|s| s.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["held", "new", "old", "read"]);
    let unused = |age, dry| spaces::remove_unused(dir.path(), age, dry).expect("works");
    assert_eq!(unused(5 * DAY, true), [name("held"), name("old")]);
    assert_eq!(unused(20 * DAY, false), []);
    assert_eq!(names().len(), 4);
    assert_eq!(unused(5 * DAY, false), [name("old")]);
    // However little is asked for: when one was last read is known to a day.
    assert_eq!(unused(Duration::ZERO, false), []);
    assert_eq!(names(), ["held", "new", "read"]);
    assert!(!dir.path().join("spaces/.removed-1-0").exists());
    drop(held);
    assert_eq!(unused(5 * DAY, false), [name("held")]);
    // A second look within the day writes nothing.
    let at = |name: &str| fs::metadata(dir.path().join("spaces").join(name).join("last-used")).expect("was noted");
    let first = at("read").modified().expect("is known");
    both(dir.path(), "read").find_tasks(&[task(1)]).expect("reads");
    assert_eq!(at("read").modified().expect("is known"), first);
    // A collection in it is no use of it.
    let used = || spaces::list(dir.path()).expect("lists").remove(0).used;
    let before = used();
    Store::open(&spaces::dir(dir.path(), &name("new")), options()).expect("opens").gc(&everything()).expect("collects");
    assert_eq!(used(), before);
}

#[test]
fn a_name_space_may_be_the_first_and_what_is_no_store_has_none() {
    let dir = kit::temp();
    record(&both(dir.path(), "one"), receipt(1, &[1], &[]), blocks_of(1, &[1]));
    assert!(!dir.path().join("version").exists(), "the default was not made");
    let store = open(dir.path());
    assert!(store.find_tasks(&[task(1)]).expect("reads")[0].receipts.is_empty());
    record(&store, receipt(2, &[2], &[]), blocks_of(2, &[2]));
    sound(&store);
    drop(store);
    assert_eq!(both(dir.path(), "one").find_tasks(&[task(2)]).expect("reads")[0].receipts.len(), 1);

    let other = kit::temp();
    fs::write(other.path().join("letter"), "dear").expect("is written");
    for reads in [Reads::Own, Reads::OwnAndDefault] {
        let refused = spaces::open(other.path(), &name("one"), reads, options());
        assert!(matches!(refused, Err(OpenError::Foreign(_))), "{reads:?}");
    }
}
