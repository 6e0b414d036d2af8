//! Damage as data: what is done to a store on disk, and what is said and done about it.

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::{blocks_of, open, options, receipt, record, task};
use quipu_store::cid::{BlobId, Codec, Link, ReceiptId};
use quipu_store::{Finding, OpenError, Options, Root, Store, StoreError, VerifyOptions};

const CHECK: VerifyOptions = VerifyOptions { repair: false, rehash: true };
const REPAIR: VerifyOptions = VerifyOptions { repair: true, rehash: true };

/// A closed store with ten receipts, each with a small and a large output.
fn store(dir: &Path) -> Vec<(ReceiptId, BlobId, BlobId)> {
    let store = open(dir);
    let made = (0..10_u8).map(|n| {
        let small = BlobId::try_from(store.put(Codec::Raw, vec![n; 100]).expect("is put")).expect("raw");
        let large = BlobId::try_from(store.put(Codec::Raw, vec![n; 3000]).expect("is put")).expect("raw");
        let said = receipt(n.into(), &[n.into(), 100], &[(small, 100), (large, 3000)]);
        (record(&store, said, blocks_of(n.into(), &[n.into(), 100])), small, large)
    });
    let made: Vec<_> = made.collect();
    let root = Root { path: "/w".to_owned(), receipts: vec![made[0].0], links: vec![], at: 1 };
    store.set_root("w", &root).expect("is set");
    store.set_note("n", Some(b"note".to_vec())).expect("is set");
    store.put_stat_chunk(b"dir", vec![1; 500]).expect("is put");
    made
}

fn path_of(dir: &Path, id: BlobId) -> PathBuf {
    dir.join(format!("blobs/{:02x}/{id}", id.digest()[0]))
}

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("reads");
    change(&mut bytes);
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("writes");
}

fn all_there(store: &Store, made: &[(ReceiptId, BlobId, BlobId)]) {
    for (n, (id, small, large)) in made.iter().enumerate() {
        assert!(store.receipt(*id).expect("reads").is_some());
        assert_eq!(store.get(small.link(), 9999).expect("reads"), Some(vec![n as u8; 100]));
        assert_eq!(store.get(large.link(), 9999).expect("reads"), Some(vec![n as u8; 3000]));
        let found = store.find_tasks(&[task(n as u64)]).expect("reads").remove(0);
        assert_eq!(found.accepted.map(|a| a.0), Some(*id));
    }
    assert_eq!(store.find_tasks(&[task(100)]).expect("reads")[0].receipts.len(), made.len());
    assert_eq!(store.root("w").expect("reads").map(|root| root.receipts), Some(vec![made[0].0]));
    assert_eq!(store.verify(&CHECK).expect("reads").findings, []);
}

#[test]
fn a_sound_store_has_no_findings_and_checking_writes_nothing() {
    let dir = kit::temp();
    let made = store(dir.path());
    let store = open(dir.path());
    all_there(&store, &made);
    assert!(!store.counters().wrote(), "{:?}", store.counters());
    let report = store.verify(&CHECK).expect("reads");
    assert_eq!((report.receipts, report.files, report.is_sound()), (10, 10, true));
}

#[test]
fn a_damaged_file_is_absent_when_read_set_aside_and_can_be_put_again() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("flip", |b| b[1500] ^= 1),
        ("cut", |b| b.truncate(10)),
        ("empty", Vec::clear),
        ("grow", |b| b.push(0)),
        ("zeros", |b| b.fill(0)),
    ];
    for (what, damage) in damages {
        let dir = kit::temp();
        let made = store(dir.path());
        let (_, _, large) = made[3];
        overwrite(&path_of(dir.path(), large), damage);
        let store = open(dir.path());
        assert_eq!(store.get(large.link(), 9999).expect("reads"), None, "{what}");
        let findings = store.take_findings();
        let [Finding::CorruptBlock { link, moved_to: Some(path) }] = &findings[..] else {
            panic!("{what}: {findings:?}")
        };
        assert!(*link == large.link() && path.starts_with(dir.path().join("quarantine")) && path.exists());
        assert!(!store.has(large.link()).expect("reads"));
        let report = store.verify(&CHECK).expect("reads");
        let hollow = Finding::Hollow { receipt: made[3].0, missing: 1, first: large.link() };
        assert_eq!((report.is_sound(), report.findings), (true, vec![hollow]));
        store.put(Codec::Raw, vec![3; 3000]).expect("is put");
        store.flush().expect("commits");
        all_there(&store, &made);
    }
}

#[test]
fn a_missing_file_is_absent_and_can_be_put_again() {
    let dir = kit::temp();
    let made = store(dir.path());
    let (id, _, large) = made[3];
    fs::remove_file(path_of(dir.path(), large)).expect("is there");
    let store = open(dir.path());
    assert!(!store.has(large.link()).expect("reads"));
    assert_eq!(store.blob(large).expect("reads"), None);
    assert_eq!(store.take_findings(), [Finding::MissingFile { link: large.link() }]);
    assert!(!store.counters().wrote(), "reading writes nothing");
    let findings = store.verify(&CHECK).expect("reads").findings;
    let hollow = Finding::Hollow { receipt: id, missing: 1, first: large.link() };
    assert_eq!(findings, [Finding::MissingFile { link: large.link() }, hollow.clone()]);
    assert_eq!(store.verify(&REPAIR).expect("repairs").repaired, 1);
    assert_eq!(store.verify(&CHECK).expect("reads").findings, [hollow]);
    store.put(Codec::Raw, vec![3; 3000]).expect("is put");
    store.flush().expect("commits");
    all_there(&store, &made);
}

#[test]
fn verify_finds_damaged_files_and_repair_sets_them_aside() {
    let dir = kit::temp();
    let made = store(dir.path());
    overwrite(&path_of(dir.path(), made[1].2), |b| b[0] ^= 0x80);
    overwrite(&path_of(dir.path(), made[2].2), |b| b.truncate(7));
    let store = open(dir.path());
    let quick = store.verify(&VerifyOptions::default()).expect("reads");
    assert_eq!(quick.findings.iter().filter(|f| f.is_damage()).count(), 1, "the size, not the content");
    let found = store.verify(&CHECK).expect("reads");
    assert!(found.findings.contains(&Finding::CorruptBlock { link: made[1].2.link(), moved_to: None }));
    let expected = Finding::WrongSize { link: made[2].2.link(), expected_bytes: 3000, found_bytes: 7 };
    assert!(found.findings.contains(&expected));
    assert_eq!(store.verify(&REPAIR).expect("repairs").repaired, 2);
    assert!(store.verify(&CHECK).expect("reads").is_sound());
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).expect("is there").count(), 2);
}

#[test]
fn strays_are_found() {
    let dir = kit::temp();
    let made = store(dir.path());
    let stray = path_of(dir.path(), made[0].2).with_file_name("stray");
    fs::write(&stray, "x").expect("writes");
    fs::write(dir.path().join("tmp/left"), "x").expect("writes");
    let findings = open(dir.path()).verify(&CHECK).expect("reads").findings;
    assert_eq!(findings, [Finding::Orphan { path: stray }, Finding::Leftover { path: dir.path().join("tmp/left") }]);
}

#[test]
fn a_lost_or_unreadable_index_is_rebuilt_and_nothing_is_lost() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, bool); 4] = [
        ("gone", |p| fs::remove_file(p).expect("is there"), false),
        ("head", |p| overwrite(p, |b| b[..64].fill(0xff)), true),
        ("cut", |p| overwrite(p, |b| b.truncate(5000)), true),
        ("text", |p| fs::write(p, "something else").expect("writes"), true),
    ];
    for (what, damage, refused) in damages {
        let dir = kit::temp();
        let made = store(dir.path());
        damage(&dir.path().join("index.redb"));
        let opened = Store::open(dir.path(), options());
        if refused {
            let Err(e @ OpenError::Index { .. }) = opened else { panic!("{what}: {opened:?}") };
            assert!(e.to_string().contains("quipu verify --repair"), "{e}");
        } else {
            drop(opened);
        }
        let (store, report) = Store::rebuild(dir.path(), options(), Duration::ZERO).expect("rebuilds");
        assert_eq!((report.receipts, report.files, report.old_index.is_some()), (10, 10, refused), "{what}");
        all_there(&store, &made);
        drop(store);
        all_there(&open(dir.path()), &made);
    }
}

#[test]
fn rebuilding_checks_what_it_takes_over() {
    let dir = kit::temp();
    let made = store(dir.path());
    overwrite(&path_of(dir.path(), made[4].2), |b| b[9] ^= 1);
    fs::write(dir.path().join("blobs/stray"), "x").expect("writes");
    fs::remove_file(dir.path().join("index.redb")).expect("is there");
    let (store, report) = Store::rebuild(dir.path(), options(), Duration::ZERO).expect("rebuilds");
    assert_eq!((report.files, report.quarantined_files), (9, 2));
    assert!(!store.has(made[4].2.link()).expect("reads"));
    assert!(store.verify(&CHECK).expect("reads").is_sound());
}

#[test]
fn a_damaged_journal_is_found_while_the_index_can_still_mend_it() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("flip in the middle", |b| {
            let n = b.len() / 2;
            b[n] ^= 1;
        }),
        ("cut", |b| {
            let n = b.len() - 100;
            b.truncate(n);
        }),
        ("magic", |b| b[0] ^= 1),
        ("length", |b| b[20] ^= 0x40),
    ];
    for (what, damage) in damages {
        let dir = kit::temp();
        let made = store(dir.path());
        let segment = fs::read_dir(dir.path().join("receipts")).expect("is there").next().expect("one").expect("reads");
        overwrite(&segment.path(), damage);
        let store = open(dir.path());
        let found = store.verify(&CHECK).expect("reads").findings;
        assert!(
            found.iter().any(|f| matches!(f, Finding::NotInJournal { .. } | Finding::BadSegment { .. })),
            "{what}: {found:?}"
        );
        store.verify(&REPAIR).expect("repairs");
        all_there(&store, &made);
        drop(store);
        let (store, _) = Store::rebuild(dir.path(), options(), Duration::ZERO).expect("rebuilds");
        all_there(&store, &made);
    }
}

#[test]
fn directories_that_are_no_store_or_of_the_future_are_refused_and_left_alone() {
    let dir = kit::temp();
    fs::write(dir.path().join("thesis.txt"), "x").expect("writes");
    assert!(matches!(Store::open(dir.path(), options()), Err(OpenError::Foreign(_))));
    assert_eq!(fs::read_dir(dir.path()).expect("is there").count(), 1);

    for (text, newer) in [("quipu store 2\n", true), ("quipu store x\n", false), ("", false), ("quipu store 1", false)]
    {
        let dir = kit::temp();
        store(dir.path());
        fs::write(dir.path().join("version"), text).expect("writes");
        match Store::open(dir.path(), options()) {
            Err(e @ OpenError::Newer { found: 2, known: 1, .. }) if newer => {
                assert!(e.to_string().contains("format 2"));
            }
            Err(OpenError::Version(_)) if !newer => {}
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn reading_a_store_that_is_not_there_makes_nothing() {
    let dir = kit::temp();
    let path = dir.path().join("deep/store");
    let store = open(&path);
    assert!(store.find_tasks(&[task(1)]).expect("reads")[0].receipts.is_empty());
    assert!(!store.has(Link::of(Codec::Raw, b"x")).expect("reads"));
    store.flush().expect("nothing to do");
    assert!(!path.exists());
    store.put(Codec::Raw, b"x".to_vec()).expect("is put");
    drop(store);
    assert!(open(&path).has(Link::of(Codec::Raw, b"x")).expect("reads"), "the last handle commits");
}

/// Flips bytes all over the index. Whatever happens, it is an error that says so, or absence: no panic gets out,
/// and no receipt or block is another than it was.
#[test]
fn no_flipped_byte_in_the_index_panics_or_gives_wrong_content() {
    let dir = kit::temp();
    let made = store(dir.path());
    let index = dir.path().join("index.redb");
    let good = fs::read(&index).expect("reads");
    // Damaged pages make redb panic in debug builds; what it says is of no interest here.
    std::panic::set_hook(Box::new(|_| ()));
    let (mut refused, mut absent, mut unharmed) = (0, 0, 0);
    let mut seed = 1_u64;
    for round in 0..400_usize {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Half of them where the header and the first pages are, the others anywhere that is not empty.
        let range = if round % 2 == 0 { 8192 } else { good.len() };
        let mut at = (seed >> 20) as usize % range;
        while round % 2 == 1 && good[at] == 0 {
            at = (at + 1) % good.len();
        }
        let mut bytes = good.clone();
        bytes[at] ^= 1 << ((seed >> 8) % 8);
        fs::write(&index, bytes).expect("writes");
        match Store::open(dir.path(), Options { cache_bytes: 1 << 20, ..options() }) {
            Err(OpenError::Index { .. } | OpenError::Io { .. }) => refused += 1,
            Err(e) => panic!("byte {at}: {e}"),
            Ok(store) => match read_all(&store, &made) {
                Ok(true) => unharmed += 1,
                Ok(false) => absent += 1,
                Err(StoreError::Index { .. } | StoreError::Io { .. }) => refused += 1,
                Err(e) => panic!("byte {at}: {e}"),
            },
        }
    }
    let _ = std::panic::take_hook();
    assert!(refused > 0 && absent > 0 && unharmed > 0, "{refused} refused, {absent} absent, {unharmed} unharmed");
}

/// Whether everything is found. What is found must be right.
fn read_all(store: &Store, made: &[(ReceiptId, BlobId, BlobId)]) -> Result<bool, StoreError> {
    let mut all = true;
    for (n, (id, small, large)) in made.iter().enumerate() {
        let mut see = |found: bool| all &= found;
        see(store.receipt(*id)?.inspect(|found| assert_eq!(found.signed.id, *id)).is_some());
        see(store.get(small.link(), 9999)?.inspect(|bytes| assert_eq!(*bytes, vec![n as u8; 100])).is_some());
        see(store.get(large.link(), 9999)?.inspect(|bytes| assert_eq!(*bytes, vec![n as u8; 3000])).is_some());
        let found = store.find_tasks(&[task(n as u64)])?.remove(0);
        see(found.accepted.inspect(|accepted| assert_eq!(accepted.0, *id)).is_some());
        see(found.receipts.iter().any(|found| found.signed.id == *id && found.via.is_empty()));
    }
    all &= store.note("n")?.inspect(|note| assert_eq!(note, b"note")).is_some();
    all &= store.stat_chunk(b"dir")?.inspect(|chunk| assert_eq!(*chunk, vec![1; 500])).is_some();
    all &= store.root("w")?.is_some();
    Ok(all)
}
