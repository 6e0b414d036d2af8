//! The published vectors, checked by implementations that share no code with this one: `tests/independent/`
//! under node, with packages from the npm registry pinned by a lock file.
//!
//! Where node or the registry cannot be had the test says that it is skipped; `QUIPU_REQUIRE_INDEPENDENT=1` makes
//! that a failure.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Oldest node that the pinned packages run under.
const NODE: (u32, u32) = (20, 19);

pub(crate) fn run(dir: &Path, program: &str, args: &[&OsStr]) -> Result<Output, String> {
    let spawned = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output();
    spawned.map_err(|e| format!("{program}: {e}"))
}

pub(crate) fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether `v20.19.4` and the like is new enough.
fn new_enough(version: &str) -> bool {
    let mut parts = version.trim().trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= NODE
}

/// A directory below `target/` with the scripts and their packages; without one the caller's test is skipped, and
/// that is said.
pub(crate) fn prepared_or_skip() -> Option<PathBuf> {
    static PREPARED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PREPARED.get_or_init(prepared) {
        Ok(dir) => Some(dir.clone()),
        Err(why) => {
            assert!(std::env::var_os("QUIPU_REQUIRE_INDEPENDENT").is_none(), "independent verification: {why}");
            // Not through `eprintln!`, whose output a passing test swallows.
            let said = format!("skipped: independent verification needs node and the npm registry ({why})\n");
            std::io::stderr().write_all(said.as_bytes()).expect("stderr is open");
            None
        }
    }
}

fn prepared() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("independent");
    let from = Path::new(ROOT).join("tests/independent");
    fs::create_dir_all(&dir).expect("target directory can be written");

    let version = shown(&run(&dir, "node", &["--version".as_ref()])?);
    if !new_enough(&version) {
        return Err(format!("node {}.{} or newer; this is {}", NODE.0, NODE.1, version.trim()));
    }
    let lock = fs::read(from.join("package-lock.json")).expect("lock file is committed");
    let done = dir.join("installed.lock");
    for file in ["package.json", "package-lock.json", "verify.mjs", "share.mjs"] {
        fs::copy(from.join(file), dir.join(file)).expect("target directory can be written");
    }
    if fs::read(&done).is_ok_and(|bytes| bytes == lock) {
        return Ok(dir);
    }
    let args = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"].map(OsStr::new);
    let installed = run(&dir, "npm", &args)?;
    if !installed.status.success() {
        let said = shown(&installed);
        // A registry that serves other bytes than the lock names, or a lock that does not fit, is no reason to skip.
        assert!(!said.contains("EINTEGRITY") && !said.contains("EUSAGE"), "{said}");
        return Err(format!("npm ci: {}", said.lines().next().unwrap_or("failed without a word")));
    }
    fs::write(done, lock).expect("target directory can be written");
    Ok(dir)
}

fn verify(dir: &Path, vectors: &Path) -> Output {
    run(dir, "node", &["verify.mjs".as_ref(), vectors.as_os_str()]).expect("node was there a moment ago")
}

#[test]
fn an_implementation_that_shares_no_code_agrees_with_every_vector() {
    let Some(dir) = prepared_or_skip() else { return };
    let vectors = Path::new(ROOT).join("tests/vectors");
    let agreed = verify(&dir, &vectors);
    assert!(agreed.status.success(), "{}", shown(&agreed));
    for file in ["ids.json", "trees.json", "receipts.json", "tasks.json"] {
        assert!(shown(&agreed).contains(&format!("{file}: ")), "{file} was not read: {}", shown(&agreed));
    }

    // It would have noticed: one changed character in one id, and one negative vector made good.
    let changed = tempfile::tempdir().expect("a temporary directory");
    for entry in fs::read_dir(&vectors).expect("vectors are there") {
        let path = entry.expect("vectors can be listed").path();
        fs::copy(&path, changed.path().join(path.file_name().expect("a file"))).expect("a copy");
    }
    let path = changed.path().join("receipts.json");
    let mut receipts: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    let good = receipts["accept"][0].clone();
    receipts["accept"][1]["id"] = good["id"].clone();
    receipts["reject"][0] = serde_json::json!({"name": "a good one", "why": "form", "bytes": good["bytes"]});
    fs::write(&path, receipts.to_string()).expect("written");
    let noticed = verify(&dir, changed.path());
    let said = shown(&noticed);
    assert_eq!(noticed.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("DISAGREES").count(), 2, "{said}");
    assert!(said.contains("a good one must be refused") && said.contains("2 disagreements"), "{said}");
}

#[test]
fn versions_of_node_are_compared_by_number() {
    assert!(new_enough("v20.19.0\n") && new_enough("v100.0.0") && new_enough("v22.1.0"));
    assert!(!new_enough("v20.9.0") && !new_enough("v18.20.4") && !new_enough("") && !new_enough("nodejs"));
}
