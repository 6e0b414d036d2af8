//! Stops a store at every change it makes to the disk, once as an error and once for good, and looks at what is left.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::Local;
use super::fault::{Faults, Plan};
use crate::cid::{BlobId, Codec, InvocationId, Link, ReceiptId, TaskId};
use crate::counters::Counting;
use crate::error::CommitError;
use crate::gc::GcOptions;
use crate::receipt::{Meta, Output, Receipt, Via};
use crate::sign::Signer;
use crate::store::Store;
use crate::terms::{Options, Record, Root, SignerSource, Take};
use crate::tree::Entry;
use crate::verify::VerifyOptions;

const INLINE_BYTES: u64 = 100;

fn open(dir: &Path, faults: Faults) -> Option<Store> {
    let signer = SignerSource::Fixed(Signer::from_secret(&[7; 32]));
    let options = Options { inline_max_bytes: INLINE_BYTES, batch_ms: 60_000, ..Options::new(signer) };
    let counting = Arc::new(Counting::default());
    let local = Local::open_with(dir, options, counting.clone(), faults).ok()?;
    Some(Store::over(Box::new(local), INLINE_BYTES, counting))
}

/// In memory where there is such a place: syncs are counted here, not waited for.
fn temp() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

fn task(n: u8) -> TaskId {
    TaskId::of(&[0x41, n])
}

fn receipt(n: u8, blobs: &[(BlobId, u64)]) -> Receipt {
    let file = |(blob, size): &(BlobId, u64)| Entry::File { blob: *blob, size: *size, exec: false };
    let artifacts = blobs.iter().enumerate().map(|(i, b)| (i.to_string().into(), file(b))).collect();
    Receipt {
        ran: InvocationId::of(&[0x42, n]),
        out: Ok(Output { artifacts, ..Output::default() }),
        issued_at: 1_700_000_000,
        expires_at: None,
        meta: Meta { settles: [(task(n), Via::new())].into(), tier: "none".to_owned(), ..Meta::default() },
    }
}

/// What a store acknowledged.
#[derive(Default)]
struct Acknowledged {
    receipts: Vec<ReceiptId>,
    links: Vec<Link>,
}

/// One receipt with a small, a large and a moved file, if they can be put. Told through the channel.
fn one(store: &Store, n: u8, dir: &Path, tell: &mpsc::Sender<Result<ReceiptId, CommitError>>) -> Option<Vec<Link>> {
    let small = store.put(Codec::Raw, vec![n; 50]).ok()?;
    let large = store.put(Codec::Raw, vec![n; 5000]).ok()?;
    let path = dir.join("moved");
    std::fs::write(&path, vec![n; 3000]).expect("outside the store nothing fails");
    let (moved, _) = store.put_file(&path, Take::Move).ok()?;
    let raw = |link: Link| BlobId::try_from(link).expect("raw");
    let said = receipt(n, &[(raw(small), 50), (raw(large), 5000), (moved, 3000)]);
    let tell = tell.clone();
    let blocks = vec![(task(n).link(), vec![0x41, n]), (InvocationId::of(&[0x42, n]).link(), vec![0x42, n])];
    let done = Box::new(move |result| drop(tell.send(result)));
    store.record(Record { receipt: said, blocks, done }).ok()?;
    Some(vec![small, large, moved.link()])
}

/// Work that takes every path: three commits, a root, a collection.
fn work(store: &Store, dir: &Path) -> Acknowledged {
    let mut done = Acknowledged::default();
    let (tell, told) = mpsc::channel();
    for n in 0..3 {
        let links = one(store, n, dir, &tell);
        let flushed = store.flush();
        if let Ok(Ok(id)) = told.try_recv() {
            done.receipts.push(id);
            done.links.extend(links.into_iter().flatten());
            // It may say no on behalf of something older, but never yes for what is not durable.
            let root = Root { path: "/w".to_owned(), receipts: done.receipts.clone(), links: vec![], at: n.into() };
            let _ = store.set_root("w", &root);
        } else {
            assert!(links.is_none() || flushed.is_err(), "what is not acknowledged is reported");
        }
    }
    let _ = store.flush();
    // Not rooted: the collection has something to do.
    let _ = store.put(Codec::Raw, vec![77; 6000]);
    let _ = store.flush();
    let _ = store.gc(&collection());
    done
}

fn collection() -> GcOptions {
    GcOptions { grace: Duration::ZERO, wait: Duration::ZERO, ..GcOptions::new(4_000_000_000) }
}

fn check(dir: &Path, done: &Acknowledged, what: &str) {
    let store = open(dir, Faults::default()).unwrap_or_else(|| panic!("{what}: does not open"));
    for id in &done.receipts {
        assert!(store.receipt(*id).expect("reads").is_some(), "{what}: an acknowledged receipt is gone");
    }
    for link in &done.links {
        assert!(store.get(*link, 9999).expect("reads").is_some(), "{what}: {link} is gone");
    }
    let report = store.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
    let bad: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.is_damage() || matches!(f, crate::finding::Finding::Hollow { .. }))
        .collect();
    assert!(bad.is_empty(), "{what}: {bad:?}");

    // The same work again, now that nothing fails, ends as if nothing ever had.
    let again = work(&store, dir);
    assert_eq!(again.receipts.len(), 3, "{what}");
    let report = store.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
    assert_eq!(report.findings, [], "{what}");
}

#[test]
fn stopped_at_any_change_a_store_keeps_its_promises() {
    let dir = temp();
    let plan = Plan::new(u64::MAX, false);
    let done = work(&open(&dir.path().join("store"), plan.faults()).expect("opens"), dir.path());
    assert_eq!(done.receipts.len(), 3);
    let changes = plan.done();
    for verb in ["write", "rename", "syncfs", "index write", "index sync", "delete"] {
        assert!(plan.log().contains(&verb), "{verb} is among {:?}", plan.log());
    }
    for at in 0..changes + 2 {
        for for_good in [false, true] {
            let temp = temp();
            let dir = temp.path().join("store");
            let plan = Plan::new(at, for_good);
            let done = open(&dir, plan.faults()).map(|store| work(&store, temp.path())).unwrap_or_default();
            let what = format!("at {at} of {changes} ({:?}), for good: {for_good}", plan.log().get(at as usize));
            // The files of the work itself are beside the store.
            check(&dir, &done, &what);
        }
    }
}

#[test]
fn after_a_failed_commit_what_was_put_is_still_readable_and_committed_later() {
    let temp = temp();
    let dir = temp.path().join("store");
    let count = Plan::new(u64::MAX, false);
    {
        let store = open(&dir, count.faults()).expect("opens");
        store.put(Codec::Raw, vec![1; 50]).expect("is put");
        store.flush().expect("commits");
    }
    // The receipt goes to a new segment in two writes, and the commit fails, once.
    let plan = Plan::new(3, false);
    let store = open(&dir, plan.faults()).expect("opens");
    let link = store.put(Codec::Raw, vec![2; 50]).expect("is queued");
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    store.record(Record { receipt: receipt(1, &[]), blocks: vec![], done }).expect("is queued");
    assert!(store.flush().is_err());
    assert_eq!(plan.log()[..4], ["open", "write", "write", "open index"]);
    assert!(told.recv().expect("is told").is_err());
    assert!(store.find_tasks(&[task(1)]).expect("reads")[0].receipts.is_empty(), "nothing half is visible");
    assert_eq!(store.get(link, 99).expect("reads"), Some(vec![2; 50]), "a run can go on");
    store.flush().expect("the second attempt succeeds");
    drop(store);
    assert!(open(&dir, Faults::default()).expect("opens").has(link).expect("reads"));
}

#[test]
fn who_records_faster_than_the_store_writes_waits_and_loses_nothing() {
    let temp = temp();
    let signer = SignerSource::Fixed(Signer::from_secret(&[7; 32]));
    let options = Options { batch_ms: 60_000, batch_receipts: 2, inline_max_bytes: 1 << 30, ..Options::new(signer) };
    let store = Store::open(temp.path(), options).expect("opens");
    let (tell, told) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let record = |n: u8, done: crate::terms::Done| {
        let bytes = vec![n; if n < 2 { 1 } else { 30 << 20 }];
        let blocks = vec![(Link::of(Codec::Raw, &bytes), bytes)];
        store.record(Record { receipt: receipt(n, &[]), blocks, done }).expect("is queued");
    };
    let then_tells = |n: u8| {
        let tell = tell.clone();
        Box::new(move |result: Result<ReceiptId, CommitError>| {
            let _ = tell.send((n, result.is_ok()));
        })
    };
    // The store is kept from going on by whom it tells of the first.
    let (reached, is_there) = mpsc::channel();
    let first = then_tells(0);
    let waits = move |result| {
        let _ = (reached.send(()), gate.recv());
        first(result);
    };
    record(0, Box::new(waits));
    record(1, then_tells(1));
    is_there.recv().expect("two are a commit");
    (2..5).for_each(|n| record(n, then_tells(n)));
    let (past, is_past) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            record(5, then_tells(5));
            let _ = past.send(());
        });
        is_past.recv_timeout(Duration::from_millis(100)).expect_err("64 MiB wait already");
        open.send(()).expect("the store waits");
        is_past.recv().expect("there is room again");
    });
    store.flush().expect("commits");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5].map(|n| (n, true)));
}
