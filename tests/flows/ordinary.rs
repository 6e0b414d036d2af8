//! The sandbox as an ordinary user has it. Whoever runs the tests as root has them run once more, those of the sandbox, by a
//! user without rights: in directories of that user's own, so that every row is shown for both.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::kit::{binary, needs_ns};

/// A user who owns nothing else.
const NOBODY: u32 = 65_534;

/// What is shown, by the tests that show it, and how many of these there are at least.
const ROWS: [(&str, &str, usize); 11] = [
    ("what denial does to tools", "flows::tools::", 6),
    ("denial by default, and its refusal", "flows::sandbox::", 9),
    ("what may come out, and what may be asked for", "flows::confined::", 3),
    ("a secret is seen nowhere", "flows::secrets::", 2),
    ("what was looked for and not declared", "flows::undeclared::", 3),
    ("exact headers", "flows::depfile::", 5),
    ("nothing outlives a task", "flows::leftovers::what_a_task_abandons", 1),
    ("what was made comes to its place as it is", "flows::moved::", 5),
    ("learning", "cli::learn::", 4),
    ("checking", "cli::check::in_namespaces", 1),
    ("what this machine can do", "cli::doctor::", 2),
];

#[test]
fn every_row_of_the_sandbox_holds_for_an_ordinary_user_too() {
    if !rustix::process::geteuid().is_root() || !needs_ns() {
        // The rows are shown for this user already.
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), open.clone()).expect("is set");
    let own = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).and_then(|()| chown(&path, Some(NOBODY), Some(NOBODY))).expect("is made");
        path
    };
    // The programs may be where nobody else may go.
    let copied = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        fs::copy(from, &to).and_then(|_| fs::set_permissions(&to, open.clone())).expect("is copied");
        to
    };
    let tests = copied(&std::env::current_exe().expect("is known"), "tests");
    let quipu = copied(&binary(), "quipu");
    let (home, tmp) = (own("home"), own("tmp"));
    let mut command = Command::new(tests);
    command.args(ROWS.map(|(_, tests, _)| tests)).current_dir(&home).uid(NOBODY).gid(NOBODY).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &home).env("TMPDIR", &tmp);
    command.env("QUIPU_TEST_BINARY", quipu).env("QUIPU_TEST_NEEDS_NS", "1");
    command.env("INSTA_WORKSPACE_ROOT", &home).env("INSTA_UPDATE", "no");
    let output = command.output().expect("starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for (what, tests, least) in ROWS {
        let is_row = |line: &&str| line.starts_with(&format!("test {tests}")) && line.ends_with(" ... ok");
        let shown = said.lines().filter(is_row).count();
        assert!(shown >= least, "{what}: {shown} tests\n{said}");
    }
}
