//! One suite for every backend: what holds of a store, wherever it keeps things.

mod kit;

use kit::{blocks_of, failed, invocation, receipt, record, record_later, task, via};
use quipu_store::cid::{BlobId, Codec, IdPrefix, Link, TreeId};
use quipu_store::tree::{Entry, Name, Tree};
use quipu_store::{Blob, Kind, Record, Root, Store, StoreError, Take};

/// Calls each function with a store in memory, with one in a directory, with one in a directory whose every block is a
/// file, and with a name space of another.
macro_rules! suite {
    ($($name:ident)*) => {
        mod memory { $(
            #[test]
            fn $name() {
                super::$name(&quipu_store::Store::memory(super::kit::options()));
            }
        )* }
        mod local { $(
            #[test]
            fn $name() {
                let dir = super::kit::temp();
                super::$name(&super::kit::open(&dir.path().join("store")));
            }
        )* }
        mod files_only { $(
            #[test]
            fn $name() {
                let dir = super::kit::temp();
                let options = quipu_store::Options { inline_max_bytes: 0, ..super::kit::options() };
                super::$name(&quipu_store::Store::open(dir.path(), options).expect("opens"));
            }
        )* }
        mod name_space { $(
            #[test]
            fn $name() {
                let dir = super::kit::temp();
                super::kit::open(dir.path()).set_note("behind", Some(vec![])).expect("is set");
                super::$name(&super::kit::open_space(dir.path(), "one", quipu_store::spaces::Reads::OwnAndDefault));
            }
        )* }
    };
}

suite! {
    what_is_put_is_there_at_once_and_after_a_commit
    a_block_has_a_limit_where_it_is_read
    files_are_taken_by_copy_and_by_move
    many_blobs_are_read_in_the_order_asked
    trees_are_joined_and_completeness_sees_what_is_missing
    a_receipt_is_found_before_and_after_its_commit
    a_flush_returns_when_those_who_wait_for_receipts_were_told
    a_failure_is_found_and_settles_nothing
    one_receipt_settles_many_tasks_and_a_task_has_many_receipts
    an_imported_receipt_is_not_ours_until_accepted
    a_record_with_foreign_bytes_is_refused
    values_are_kept_replaced_and_dropped
    roots_do_not_change_with_time_alone
    a_lease_excludes_until_dropped
    prefixes_find_every_kind
    scratch_directories_are_fresh
    counters_tell_writes_from_reads
    threads_see_their_own_work_at_once
}

fn what_is_put_is_there_at_once_and_after_a_commit(store: &Store) {
    for (codec, size) in
        [(Codec::Raw, 0), (Codec::Raw, 10), (Codec::Raw, 5000), (Codec::DagCbor, 20), (Codec::DagCbor, 700)]
    {
        let bytes = vec![b'x'; size];
        let link = Link::of(codec, &bytes);
        assert!(!store.has(link).expect("reads"));
        assert_eq!(store.get(link, 9999).expect("reads"), None);
        assert_eq!(store.put(codec, bytes.clone()).expect("is put"), link);
        for _ in 0..2 {
            assert!(store.has(link).expect("reads"));
            assert_eq!(store.get(link, 9999).expect("reads"), Some(bytes.clone()));
            store.flush().expect("commits");
        }
        let other = if codec == Codec::Raw { Codec::DagCbor } else { Codec::Raw };
        assert!(!store.has(Link { codec: other, ..link }).expect("reads"), "codecs are apart");
    }
    assert_eq!(store.take_findings(), []);
}

fn a_block_has_a_limit_where_it_is_read(store: &Store) {
    for size in [200, 2000] {
        let link = store.put(Codec::Raw, vec![1; size]).expect("is put");
        assert!(store.get(link, size as u64).expect("reads").is_some());
        let refused = store.get(link, size as u64 - 1);
        assert!(matches!(refused, Err(StoreError::TooLarge { found_bytes, .. }) if found_bytes == size as u64));
    }
}

fn files_are_taken_by_copy_and_by_move(store: &Store) {
    let dir = kit::temp();
    let path = dir.path().join("file");
    for size in [0_usize, 100, 256, 257, 300_000] {
        for (take, twice) in [(Take::Copy, false), (Take::Copy, true), (Take::Move, true), (Take::Move, false)] {
            let mut bytes = vec![3; size];
            if !twice {
                bytes.extend_from_slice(format!("{take:?}").as_bytes());
            }
            std::fs::write(&path, &bytes).expect("writes");
            let (id, found) = store.put_file(&path, take).expect("is taken");
            assert_eq!((id, found), (BlobId::of(&bytes), bytes.len() as u64));
            assert_eq!(path.exists(), take == Take::Copy);
            assert_eq!(store.get(id.link(), 1 << 20).expect("reads"), Some(bytes.clone()));
            match store.blob(id).expect("reads").expect("is there") {
                Blob::Inline(inline) => assert_eq!(inline, bytes),
                Blob::File { path, size } => {
                    assert_eq!(size, bytes.len() as u64);
                    assert_eq!(std::fs::read(path).expect("reads"), bytes);
                }
            }
        }
    }
    assert!(matches!(store.put_file(&dir.path().join("none"), Take::Copy), Err(StoreError::Io { .. })));
    assert!(store.put_file(dir.path(), Take::Copy).is_err(), "a directory is no file");
}

fn many_blobs_are_read_in_the_order_asked(store: &Store) {
    let sizes = [100, 300, 0, 5000, 2];
    let all: Vec<Vec<u8>> = sizes.iter().map(|size| vec![4; *size]).collect();
    for (n, bytes) in all.iter().enumerate() {
        store.put(Codec::Raw, bytes.clone()).expect("is put");
        if n == 2 {
            store.flush().expect("is kept");
        }
    }
    let mut ids: Vec<BlobId> = all.iter().map(|bytes| BlobId::of(bytes)).collect();
    ids.insert(1, BlobId::of(b"none"));
    ids.push(ids[0]);
    let found = store.blobs(&ids).expect("reads").into_iter().map(|blob| {
        blob.map(|blob| match blob {
            Blob::Inline(bytes) => bytes.len() as u64,
            Blob::File { size, .. } => size,
        })
    });
    assert_eq!(found.collect::<Vec<_>>(), [Some(100), None, Some(300), Some(0), Some(5000), Some(2), Some(100)]);
    assert_eq!(store.blobs(&[]).expect("reads"), []);
}

fn trees_are_joined_and_completeness_sees_what_is_missing(store: &Store) {
    let name = |n: &str| Name::new(n).expect("valid");
    let content = vec![9; 1000];
    let file = |bytes: &[u8]| Entry::File { blob: BlobId::of(bytes), size: bytes.len() as u64, exec: false };
    let wide = Tree::new((0..5000).map(|i| (name(&format!("f{i:04}")), file(&content))).collect()).expect("valid");
    let wide_id = store.put_tree(&wide).expect("is put");
    assert_eq!(store.tree(wide_id).expect("reads"), Some(wide));
    let link = Entry::Symlink { target: "elsewhere".into() };
    let top = Tree::new(vec![(name("d"), Entry::Dir { tree: wide_id }), (name("l"), link)]).expect("valid");
    let entry = Entry::Dir { tree: store.put_tree(&top).expect("is put") };

    assert!(!store.complete(&entry).expect("reads"), "the content is missing");
    store.put(Codec::Raw, content.clone()).expect("is put");
    assert!(store.complete(&entry).expect("reads"));
    let lying = Entry::File { blob: BlobId::of(&content), size: 999, exec: false };
    assert!(!store.complete(&lying).expect("reads"), "of another size");
    assert!(!store.complete(&Entry::Dir { tree: TreeId::of(b"none") }).expect("reads"));
    let odd = store.put(Codec::DagCbor, b"\x60".to_vec()).expect("is put");
    assert!(!store.complete(&Entry::Dir { tree: odd.try_into().expect("dag-cbor") }).expect("reads"), "no directory");
    assert!(matches!(store.tree(odd.try_into().expect("dag-cbor")), Err(StoreError::Tree(_))));
}

fn a_receipt_is_found_before_and_after_its_commit(store: &Store) {
    let blob = BlobId::try_from(store.put(Codec::Raw, vec![5; 600]).expect("is put")).expect("raw");
    let mut said = receipt(1, &[10], &[(blob, 600)]);
    said.meta.settles.insert(task(10), via(&[(3, 4)]));
    let answer = record_later(store, said.clone(), blocks_of(1, &[10]));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let found = store.find_tasks(&[task(11), task(10)]).expect("reads");
        assert!(found[0].receipts.is_empty() && found[0].accepted.is_none());
        let [one] = &found[1].receipts[..] else { panic!("one receipt: {:?}", found[1]) };
        assert_eq!((&one.signed.receipt, &one.via, one.own), (&said, &via(&[(3, 4)]), true));
        assert_eq!(one.signed.issuer, kit::signer().public());
        let id = one.signed.id;
        assert_eq!(found[1].accepted, Some((id, said.out.as_ref().expect("ok").id())));
        let by_invocation = store.find_invocations(&[invocation(1), invocation(2)]).expect("reads");
        assert_eq!(by_invocation.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(by_invocation[0][0].signed.id, id);
        assert_eq!(store.receipt(id).expect("reads").expect("is there").signed.receipt, said);
        assert_eq!(store.get(id.link(), 9999).expect("reads").as_ref(), Some(&one.signed.bytes));
        assert!(store.has(id.link()).expect("reads"));
        assert_eq!(store.get(task(10).link(), 99).expect("reads"), Some(kit::block(b'T', 10)));
        store.flush().expect("commits");
        ids.push(id);
    }
    assert_eq!(answer.recv().expect("is told").expect("is durable"), ids[0]);
    assert_eq!(ids[0], ids[1]);
}

fn a_flush_returns_when_those_who_wait_for_receipts_were_told(store: &Store) {
    for n in 0..50 {
        let answer = record_later(store, receipt(n, &[n], &[]), blocks_of(n, &[n]));
        store.flush().expect("commits");
        assert!(answer.try_recv().is_ok_and(|told| told.is_ok()), "told by then");
    }
}

fn a_failure_is_found_and_settles_nothing(store: &Store) {
    let id = record(store, failed(1, &[1]), blocks_of(1, &[1]));
    let found = store.find_tasks(&[task(1)]).expect("reads").remove(0);
    assert_eq!((found.receipts.len(), found.accepted), (1, None));
    assert!(matches!(store.accept(task(1), id, via(&[])), Err(StoreError::NotOk(_))));
}

fn one_receipt_settles_many_tasks_and_a_task_has_many_receipts(store: &Store) {
    let first = record(store, receipt(1, &[1, 2], &[]), blocks_of(1, &[1, 2]));
    let second = record(store, receipt(2, &[2], &[]), blocks_of(2, &[2]));
    let found = store.find_tasks(&[task(1), task(2), task(2)]).expect("reads");
    let ids = |n: usize| found[n].receipts.iter().map(|f| f.signed.id).collect::<Vec<_>>();
    assert_eq!((ids(0), ids(1), ids(2)), (vec![first], vec![first, second], vec![first, second]), "oldest first");
    assert_eq!(found[1].accepted.map(|a| a.0), Some(second), "the last one recorded");
    store.accept(task(2), first, via(&[(8, 8)])).expect("is there");
    let found = store.find_tasks(&[task(2)]).expect("reads").remove(0);
    assert_eq!(found.accepted.map(|a| a.0), Some(first));
    assert_eq!(found.receipts[0].via, via(&[(8, 8)]));
    let unknown = quipu_store::cid::ReceiptId::of(b"none");
    assert!(matches!(store.accept(task(2), unknown, via(&[])), Err(StoreError::UnknownReceipt(_))));
}

fn an_imported_receipt_is_not_ours_until_accepted(store: &Store) {
    let theirs = quipu_store::sign::Signer::from_secret(&[8; 32]);
    let mut said = receipt(1, &[1], &[]);
    said.meta.settles.insert(task(1), via(&[(5, 5)]));
    let signed = theirs.sign(&said).expect("encodes");
    for _ in 0..2 {
        store.import(signed.clone()).expect("is queued");
        let found = store.find_tasks(&[task(1)]).expect("reads").remove(0);
        assert_eq!((found.receipts.len(), found.receipts[0].own, found.accepted), (1, false, None));
        assert_eq!(found.receipts[0].via, via(&[(5, 5)]));
        store.flush().expect("commits");
    }
    store.accept(task(1), signed.id, via(&[(5, 5)])).expect("is there");
    for _ in 0..2 {
        let found = store.find_tasks(&[task(1)]).expect("reads").remove(0);
        assert_eq!((found.receipts.len(), found.receipts[0].own), (1, true));
        assert_eq!(found.accepted.map(|a| a.0), Some(signed.id));
        store.import(signed.clone()).expect("is queued");
        store.flush().expect("commits");
    }
}

fn a_record_with_foreign_bytes_is_refused(store: &Store) {
    let blocks = vec![(Link::of(Codec::DagCbor, b"other"), b"bytes".to_vec())];
    let refused = store.record(Record { receipt: receipt(1, &[1], &[]), blocks, done: Box::new(|_| ()) });
    assert!(matches!(refused, Err(StoreError::Dag(_))));
    assert!(store.find_tasks(&[task(1)]).expect("reads")[0].receipts.is_empty());
}

fn values_are_kept_replaced_and_dropped(store: &Store) {
    for round in 0..3_u8 {
        store.put_stat_chunk(b"dir", vec![round; 300]).expect("is put");
        store.set_note("a", Some(vec![round])).expect("is set");
        assert_eq!(store.stat_chunk(b"dir").expect("reads"), Some(vec![round; 300]));
        assert_eq!(store.note("a").expect("reads"), Some(vec![round]));
        if round > 0 {
            store.flush().expect("commits");
        }
    }
    store.set_note("a", None).expect("is dropped");
    for _ in 0..2 {
        assert_eq!(store.note("a").expect("reads"), None);
        store.flush().expect("commits");
    }
    assert_eq!(store.stat_chunk(b"none").expect("reads"), None);
}

fn roots_do_not_change_with_time_alone(store: &Store) {
    let root = Root { path: "/w".to_owned(), receipts: vec![], links: vec![BlobId::of(b"").link()], at: 5 };
    store.set_root("w", &root).expect("is set");
    store.flush().expect("commits");
    store.set_root("w", &Root { at: 6, ..root.clone() }).expect("is set");
    assert_eq!(store.root("w").expect("reads"), Some(root.clone()));
    let changed = Root { links: vec![], at: 7, ..root.clone() };
    store.set_root("w", &changed).expect("is set");
    store.set_root("v", &root).expect("is set");
    for _ in 0..2 {
        let roots = store.roots().expect("reads");
        assert_eq!(roots, [("v".to_owned(), root.clone()), ("w".to_owned(), changed.clone())]);
        store.flush().expect("commits");
    }
    store.remove_root("w").expect("is dropped");
    assert_eq!(store.roots().expect("reads").len(), 1);
    assert_eq!(store.root("w").expect("reads"), None);
}

fn a_lease_excludes_until_dropped(store: &Store) {
    let held = store.lease(invocation(1)).expect("locks");
    assert!(held.is_some());
    assert!(store.clone().lease(invocation(1)).expect("locks").is_none());
    let other = store.lease(invocation(2)).expect("locks");
    assert!(other.is_some(), "another invocation is free");
    drop(held);
    assert!(store.lease(invocation(1)).expect("locks").is_some());
}

fn prefixes_find_every_kind(store: &Store) {
    let id = record(store, receipt(1, &[1], &[]), blocks_of(1, &[1]));
    let tree = store.put_tree(&Tree::default()).expect("is put");
    let blob = store.put(Codec::Raw, b"content".to_vec()).expect("is put");
    let block = store.put(Codec::DagCbor, b"\x61x".to_vec()).expect("is put");
    let expected = [
        (id.link(), Kind::Receipt),
        (task(1).link(), Kind::Task),
        (invocation(1).link(), Kind::Invocation),
        (tree.link(), Kind::Tree),
        (blob, Kind::Blob),
        (block, Kind::Block),
    ];
    for _ in 0..2 {
        for (link, kind) in expected {
            let text = link.to_string();
            for part in [&text[..], &text[..20], &text[7..20], &text[7..19]] {
                let prefix = IdPrefix::new(part).expect("own text");
                assert_eq!(store.resolve(&prefix).expect("reads"), [(link, kind)], "{part}");
            }
        }
        let all = store.resolve(&IdPrefix::new("baf").expect("valid")).expect("reads");
        assert_eq!(all.len(), expected.len());
        store.flush().expect("commits");
    }
    assert_eq!(store.resolve(&IdPrefix::new("zzzzzzzzzzzz").expect("valid")).expect("reads"), []);
}

fn scratch_directories_are_fresh(store: &Store) {
    let dirs = [store.scratch_dir().expect("is made"), store.scratch_dir().expect("is made")];
    assert_ne!(dirs[0], dirs[1]);
    for dir in dirs {
        assert_eq!(std::fs::read_dir(dir).expect("is there").count(), 0);
    }
}

fn counters_tell_writes_from_reads(store: &Store) {
    record(store, receipt(1, &[1], &[]), blocks_of(1, &[1]));
    let before = store.counters();
    store.find_tasks(&[task(1), task(2)]).expect("reads");
    store.put(Codec::DagCbor, kit::block(b'T', 1)).expect("is there already");
    store.flush().expect("nothing to commit");
    let after = store.counters();
    assert_eq!(after.lookups - before.lookups, 2);
    assert_eq!((after.puts, after.commits, after.files_written), (before.puts, before.commits, before.files_written));
    assert_eq!(after.signatures, 1);
}

fn threads_see_their_own_work_at_once(store: &Store) {
    let work = |thread: u64| {
        for n in thread * 1000..thread * 1000 + 100 {
            let bytes = n.to_le_bytes().repeat(if n % 2 == 0 { 4 } else { 100 });
            let blob = BlobId::try_from(store.put(Codec::Raw, bytes.clone()).expect("is put")).expect("raw");
            let said = receipt(n, &[n, thread], &[(blob, bytes.len() as u64)]);
            let answer = record_later(store, said, blocks_of(n, &[n, thread]));
            let found = store.find_tasks(&[task(n)]).expect("reads").remove(0);
            assert!(found.receipts.len() == 1 && found.accepted.is_some(), "{n}");
            assert_eq!(store.get(blob.link(), 9999).expect("reads"), Some(bytes));
            if n % 10 == 0 {
                store.flush().expect("commits");
                answer.try_recv().expect("was told before flush returned").expect("is durable");
            }
            assert_eq!(store.find_invocations(&[invocation(n)]).expect("reads")[0].len(), 1);
        }
        assert_eq!(store.find_tasks(&[task(thread)]).expect("reads")[0].receipts.len(), 100);
    };
    std::thread::scope(|scope| (1..5).for_each(|thread| drop(scope.spawn(move || work(thread)))));
    let report = store.verify(&quipu_store::VerifyOptions { repair: false, rehash: true }).expect("reads");
    assert_eq!(report.findings, []);
}
