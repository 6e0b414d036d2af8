//! What this test binary does when it is started again as a process of its own: tools on a store, and a writer without end.
//!
//! Ends with 3 where a tool says no, and with 101 where it panics: a difference the campaigns look at.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quipu_store::cid::{BlobId, Codec, InvocationId, TaskId};
use quipu_store::receipt::{Meta, Output, Receipt, Via};
use quipu_store::sign::Signer;
use quipu_store::tree::Entry;
use quipu_store::{GcError, GcOptions, Options, Record, SignerSource, Store, Take, VerifyOptions};

const ROLE: &str = "QUIPU_TEST_ROLE";
const DIR: &str = "QUIPU_TEST_DIR";

/// A command that does `role` on the store in `dir`.
pub(crate) fn command(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["crash::child::child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(DIR, dir);
    command
}

/// The store as the tools open it.
pub(crate) fn options() -> Options {
    Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32])))
}

#[test]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    let dir = PathBuf::from(dir);
    let done = match role.as_str() {
        "gc" => gc(&dir, GcOptions { max_age: Some(Duration::ZERO), ..collection() }),
        "gc-unused" => gc(&dir, GcOptions { grace: Duration::from_secs(30), ..collection() }),
        "repair" => verify(&dir, true),
        "verify" => verify(&dir, false),
        "rebuild" => Store::rebuild(&dir, options(), Duration::from_secs(5)).map(drop).map_err(|e| e.to_string()),
        "churn" => churn(&dir),
        "hostile" => super::attacks::read_hostile_blocks(),
        other => Err(format!("no such role: {other}")),
    };
    if let Err(why) = done {
        let _ = writeln!(std::io::stderr(), "said no: {why}");
        std::process::exit(3);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn collection() -> GcOptions {
    GcOptions { grace: Duration::ZERO, wait: Duration::from_millis(200), ..GcOptions::new(now()) }
}

fn gc(dir: &Path, options: GcOptions) -> Result<(), String> {
    match open(dir)?.gc(&options) {
        // Others are at work: nothing was done, and that is an answer.
        Ok(_) | Err(GcError::Busy { .. }) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

fn open(dir: &Path) -> Result<Store, String> {
    Store::open(dir, options()).map_err(|e| e.to_string())
}

fn verify(dir: &Path, repair: bool) -> Result<(), String> {
    let report = open(dir)?.verify(&VerifyOptions { repair, rehash: true }).map_err(|e| e.to_string())?;
    for finding in report.findings.iter().filter(|f| f.is_damage()) {
        say(&format!("found {finding}"));
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more when the parent is done.
    let _ = writeln!(out, "\n{line}").and_then(|()| out.flush());
}

/// The content of a churned blob: small, or large.
pub(crate) fn content(n: u64, part: u64) -> Vec<u8> {
    let length = if part == 0 { 200 } else { 17_000 + (n * 7919 + part * 104_729) % 50_000 };
    let mut bytes = Vec::with_capacity(length as usize + 8);
    let mut word = n.wrapping_mul(31).wrapping_add(part);
    while (bytes.len() as u64) < length {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The task of the `n`th churned receipt.
pub(crate) fn churned(n: u64) -> TaskId {
    TaskId::of(format!("churned {n}").as_bytes())
}

/// Puts three blobs a receipt, one by moving a file, and says which receipts were acknowledged, until it is killed.
fn churn(dir: &Path) -> Result<(), String> {
    let store =
        Store::open(dir, Options { batch_ms: 20, batch_receipts: 16, ..options() }).map_err(|e| e.to_string())?;
    for n in 0..u64::MAX {
        let mut artifacts = std::collections::BTreeMap::new();
        for part in 0..3 {
            let bytes = content(n, part);
            let size = bytes.len() as u64;
            let blob = if part == 2 {
                let scratch = store.scratch_dir().map_err(|e| e.to_string())?;
                std::fs::write(scratch.join("x"), bytes).map_err(|e| e.to_string())?;
                store.put_file(&scratch.join("x"), Take::Move).map_err(|e| e.to_string())?.0
            } else {
                BlobId::try_from(store.put(Codec::Raw, bytes).map_err(|e| e.to_string())?).expect("raw")
            };
            artifacts.insert(part.to_string().into(), Entry::File { blob, size, exec: false });
        }
        let (ran, task) = (InvocationId::of(&n.to_le_bytes()), churned(n));
        let receipt = Receipt {
            ran,
            out: Ok(Output { artifacts, ..Output::default() }),
            issued_at: now(),
            expires_at: None,
            meta: Meta { settles: [(task, Via::new())].into(), tier: "none".to_owned(), ..Meta::default() },
        };
        let done = Box::new(move |result: Result<_, _>| match result {
            Ok(_) => say(&format!("acknowledged {n}")),
            Err(e) => say(&format!("refused {n}: {e}")),
        });
        store.record(Record { receipt, blocks: vec![], done }).map_err(|e| e.to_string())?;
    }
    Ok(())
}
