//! Several processes on one store, some of them killed: what was acknowledged stays, nobody is in the way.
//!
//! The processes are this test binary, started again with a directory in its environment.

mod kit;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kit::{invocation, receipt, signer, task};
use quipu_store::cid::{BlobId, Codec};
use quipu_store::{Finding, GcError, GcOptions, Options, Record, SignerSource, Store, VerifyOptions};

const ROLE: &str = "QUIPU_TEST_ROLE";
const DIR: &str = "QUIPU_TEST_DIR";
const BASE: &str = "QUIPU_TEST_BASE";

fn options() -> Options {
    Options { inline_max_bytes: 256, batch_ms: 5, batch_receipts: 8, ..Options::new(SignerSource::Fixed(signer())) }
}

fn content(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(if n.is_multiple_of(2) { 10 } else { 500 })
}

/// What a child does; in the parent there is nothing to do here.
#[test]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    let store = Store::open(Path::new(&dir), options()).expect("opens");
    match role.as_str() {
        "write" => write(&store, std::env::var(BASE).expect("set").parse().expect("a number")),
        "append" => append(Path::new(&dir)),
        _ => {
            let lease = store.lease(invocation(1)).expect("locks");
            say(&format!("lease {}", lease.is_some()));
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more when the parent is done.
    let _ = writeln!(out, "\n{line}").and_then(|()| out.flush());
}

fn write(store: &Store, base: u64) {
    for n in base.. {
        let bytes = content(n);
        let size = bytes.len() as u64;
        let blob = BlobId::try_from(store.put(Codec::Raw, bytes).expect("is put")).expect("raw");
        let blocks = vec![(task(n).link(), kit::block(b'T', n))];
        let done = Box::new(move |result: Result<_, _>| {
            result.expect("commits");
            say(&format!("acknowledged {n}"));
        });
        store.record(Record { receipt: receipt(n, &[n], &[(blob, size)]), blocks, done }).expect("is queued");
        // As slow as work is, and never more than a few ahead.
        std::thread::sleep(Duration::from_millis(2));
        if n % 16 == 0 {
            store.flush().expect("commits");
        }
    }
}

/// Records, and commits nothing.
fn append(dir: &Path) {
    let store = Store::open(dir, Options { batch_ms: 600_000, ..options() }).expect("opens");
    for n in 0..3 {
        let before = store.counters().journal_bytes;
        let bytes = content(2 * n + 1);
        let size = bytes.len() as u64;
        let blob = BlobId::try_from(store.put(Codec::Raw, bytes).expect("is put")).expect("raw");
        let blocks = vec![(task(n).link(), kit::block(b'T', n))];
        let done = Box::new(move |_| say(&format!("acknowledged {n}")));
        store.record(Record { receipt: receipt(n, &[n], &[(blob, size)]), blocks, done }).expect("is queued");
        while store.counters().journal_bytes == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        say(&format!("appended {n}"));
    }
    std::thread::sleep(Duration::from_secs(60));
}

fn start(role: &str, dir: &Path, base: u64, tell: &mpsc::Sender<String>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(DIR, dir).env(BASE, base.to_string());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let (out, tell) = (child.stdout.take().expect("piped"), tell.clone());
    std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    child
}

#[test]
fn killed_writers_lose_nothing_they_acknowledged() {
    let temp = kit::temp();
    let dir = temp.path().join("store");
    let (tell, told) = mpsc::channel();
    let mut next = 0;
    let mut fresh = || {
        next += 1;
        start("write", &dir, next * 1_000_000, &tell)
    };
    let mut children: Vec<Child> = (0..3).map(|_| fresh()).collect();
    let mut seed = 7_u64;
    let mut acknowledged = Vec::new();
    let begun = Instant::now();
    let mut kills = 0;
    // Until there was enough of both, and not for ever.
    while (kills < 12 || acknowledged.len() < 100) && begun.elapsed() < Duration::from_secs(60) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (seed >> 33) % 80));
        let all_at_once = kills % 10 == 9;
        for (n, child) in (0..).zip(&mut children) {
            if all_at_once || n == (seed >> 20) % 3 {
                assert!(child.try_wait().expect("is ours").is_none(), "a writer ended by itself");
                child.kill().expect("is ours");
                child.wait().expect("is ours");
                *child = fresh();
                kills += 1;
            }
        }
        let numbers = told.try_iter().filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        acknowledged.extend(numbers);
        // Others read meanwhile, and are told the truth.
        let reader = Store::open(&dir, options()).expect("opens");
        for n in acknowledged.iter().rev().take(20) {
            let found = reader.find_tasks(&[task(*n)]).expect("reads").remove(0);
            assert_eq!(found.receipts.len(), 1, "{n} was acknowledged");
        }
        let gc = reader.gc(&GcOptions { wait: Duration::ZERO, ..GcOptions::new(0) });
        assert!(matches!(gc, Err(GcError::Busy { .. }) | Ok(_)), "{gc:?}");
    }
    for child in &mut children {
        child.kill().expect("is ours");
        child.wait().expect("is ours");
    }
    assert!(acknowledged.len() >= 100, "{} in {kills} kills", acknowledged.len());

    let store = Store::open(&dir, options()).expect("opens");
    for n in &acknowledged {
        let found = store.find_tasks(&[task(*n)]).expect("reads").remove(0);
        assert_eq!(found.accepted.map(|a| a.0), Some(found.receipts[0].signed.id));
        let bytes = store.get(BlobId::of(&content(*n)).link(), 9999).expect("reads");
        assert_eq!(bytes, Some(content(*n)), "{n} was acknowledged");
    }
    let report = store.verify(&VerifyOptions { repair: false, rehash: true }).expect("reads");
    assert!(
        !report.findings.iter().any(|f| f.is_damage() || matches!(f, Finding::Hollow { .. })),
        "{:?}",
        report.findings
    );
    // What the dead left is swept when nobody is at work.
    let options = GcOptions { grace: Duration::ZERO, wait: Duration::ZERO, ..GcOptions::new(0) };
    store.gc(&options).expect("nobody is at work");
    assert_eq!(store.verify(&VerifyOptions::default()).expect("reads").findings, []);
}

#[test]
fn what_a_killed_process_had_not_committed_is_entered_by_the_next_as_far_as_it_is_whole() {
    for torn in [None, Some(1)] {
        let temp = kit::temp();
        let dir = temp.path().join("store");
        let (tell, told) = mpsc::channel();
        let mut child = start("append", &dir, 0, &tell);
        let said: Vec<String> = told.iter().take_while(|line| line != "appended 2").collect();
        child.kill().expect("is ours");
        child.wait().expect("is ours");
        assert!(!said.iter().any(|line| line.starts_with("acknowledged")), "nothing was committed: {said:?}");
        if let Some(torn) = torn {
            // As a power cut may leave it, in part.
            let name = BlobId::of(&content(2 * torn + 1)).link().to_string();
            let dirs = std::fs::read_dir(dir.join("blobs")).expect("is listed");
            let files = dirs.map(|d| d.expect("is listed").path().join(&name));
            std::fs::write(files.into_iter().find(|f| f.exists()).expect("is there"), "torn").expect("is written");
        }
        // Whoever comes first enters it, and the second finds nothing left to enter.
        for commits in [1, 0] {
            let store = Store::open(&dir, options()).expect("opens");
            assert_eq!(store.counters().commits, commits);
            for n in 0..3 {
                let there = torn.is_none_or(|torn| n < torn);
                let found = store.find_tasks(&[task(n)]).expect("reads").remove(0);
                assert_eq!(found.receipts.len(), usize::from(there), "{n}, torn: {torn:?}");
                let blob = store.get(BlobId::of(&content(2 * n + 1)).link(), 9999).expect("reads");
                assert_eq!(blob.is_some(), there, "{n}, torn: {torn:?}");
            }
        }
        let store = Store::open(&dir, options()).expect("opens");
        let options = GcOptions { grace: Duration::ZERO, wait: Duration::ZERO, ..GcOptions::new(0) };
        store.gc(&options).expect("nobody is at work");
        assert_eq!(store.verify(&VerifyOptions::default()).expect("reads").findings, []);
        let left = std::fs::read_dir(dir.join("locks")).expect("is listed").flatten();
        let left: Vec<_> = left.map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with("ahead-")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_lease_ends_with_its_process() {
    let temp = kit::temp();
    let (tell, told) = mpsc::channel();
    let mut child = start("lease", temp.path(), 0, &tell);
    let granted = told.iter().find(|line| line.starts_with("lease "));
    assert_eq!(granted.as_deref(), Some("lease true"));
    let store = Store::open(temp.path(), options()).expect("opens");
    assert!(store.lease(invocation(1)).expect("locks").is_none());
    child.kill().expect("is ours");
    child.wait().expect("is ours");
    assert!(store.lease(invocation(1)).expect("locks").is_some());
}

#[test]
fn what_somebody_else_commits_is_seen_at_once_by_who_goes_by_one_look_at_the_index_for_several_questions() {
    let temp = tempfile::tempdir().expect("a directory");
    let open = || Store::open(temp.path(), options()).expect("opens");
    let (one, other) = (open(), open());
    // Only who writes goes by one look for long.
    one.put(Codec::Raw, vec![0]).expect("is put");
    one.flush().expect("commits");
    let mut shared = 0;
    for n in 1..20 {
        let bytes = content(n);
        let link = BlobId::of(&bytes).link();
        // Until the index is old enough for that.
        std::thread::sleep(Duration::from_millis(40));
        assert!(!one.has(link).expect("looks"));
        let before = one.counters().reads;
        assert!(!one.has(link).expect("looks"));
        shared += usize::from(one.counters().reads == before);
        other.put(Codec::Raw, bytes).expect("is put");
        other.flush().expect("commits");
        assert!(one.has(link).expect("looks"), "{n}");
    }
    assert!(shared > 0);
}
