//! Which files on disk are sources.

use super::{folder, loaded};

#[track_caller]
fn check(files: &[&str], ignore: &str, task: &str, expected: &str) {
    let workfile = format!("[task.t]\nrun = 'x'\n{task}");
    let mut all = vec![("quipu.toml", &*workfile), (".gitignore", ignore)];
    all.extend(files.iter().map(|path| (*path, "")));
    let dir = folder(&all);
    let loaded = loaded(dir.path());
    let found = loaded.match_sources().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found[0].join(" "), expected, "{task}");
}

const FILES: [&str; 9] =
    ["a.c", "b.h", "src/a.c", "src/.hid.c", "src/deep/x/y.c", "out/o.o", "target/big", ".git/config", ".quipu/x"];

#[test]
fn default_inputs_are_what_git_does_not_ignore_and_no_task_makes() {
    let all = ".gitignore a.c b.h out/o.o src/.hid.c src/a.c src/deep/x/y.c";
    check(&FILES, "target/\n", "", all);
    check(&FILES, "target/\n", "outputs = ['out/']", &all.replace("out/o.o ", ""));
    check(&FILES, "target/\n", "outputs = ['**/*.o', 'a.c']", &all.replace("out/o.o ", "").replace("a.c b.h", "b.h"));
    check(&FILES, "target/\n*.h\n", "inputs = ['!src', '!.gitignore']", "a.c out/o.o");
    check(&FILES, "target/\n", "inputs = []", "");
}

#[test]
fn globs_take_files_that_no_task_makes() {
    check(&FILES, "*", "inputs = ['**/*.c']", "a.c src/.hid.c src/a.c src/deep/x/y.c");
    check(
        &FILES,
        "",
        "inputs = ['**']\noutputs = ['out/', 'b.h']",
        ".gitignore a.c quipu.toml src/.hid.c src/a.c src/deep/x/y.c target/big",
    );
    check(&FILES, "", "inputs = ['src/*']", "src/.hid.c src/a.c");
    check(&FILES, "", "inputs = ['s*/*/', '!**/x/*.h']", "src/deep/x/y.c");
    check(&FILES, "", "inputs = ['src', '!**/deep', 'b.h', 'src/*.c']", "b.h src/.hid.c src/a.c");
    check(&FILES, "", "inputs = ['none/**', '[ab].?']", "a.c b.h");
}

#[test]
fn links_are_sources_and_are_not_followed() {
    let dir = folder(&[
        ("quipu.toml", "[task.t]\nrun = 'x'\ninputs = ['**/*.c', 'l']\n[task.u]\nrun = 'x'\n"),
        ("d/a.c", ""),
    ]);
    std::os::unix::fs::symlink("d", dir.path().join("l")).expect("a link");
    std::os::unix::fs::symlink("nowhere", dir.path().join("z.c")).expect("a link");
    let found = loaded(dir.path()).match_sources().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.iter().map(|l| l.join(" ")).collect::<Vec<_>>(), ["d/a.c l z.c", "d/a.c l z.c"]);
}

#[test]
fn a_member_has_files_of_its_own_and_equal_patterns_share_a_list() {
    let dir = folder(&[
        ("quipu.toml", "[workspace]\nmembers = ['m']\n[task.t]\nrun = 'x'\n[task.u]\nrun = 'y'\n"),
        ("m/quipu.toml", "[task.t]\nrun = 'x'\n"),
        ("m/a", ""),
        ("b", ""),
    ]);
    let found = loaded(dir.path()).match_sources().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.iter().map(|l| l.join(" ")).collect::<Vec<_>>(), ["b", "b", "m/a"]);
    assert!(std::sync::Arc::ptr_eq(&found[0], &found[1]));
}

#[test]
fn what_cannot_be_a_source_is_an_error_with_its_place() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder(&[("quipu.toml", "[task.t]\nrun = 'x'\ninputs = ['*.c', 's']\n")]);
    std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.c")), "").expect("a file");
    std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("a socket");
    let error = loaded(dir.path()).match_sources().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("quipu.toml:3:1: inputs of task `t`: folder ``: `\u{fffd}.c` is not UTF-8"), "{error}");
    assert!(error.contains("quipu.toml:3:18: input `s` of task `t` is neither file, link nor folder"), "{error}");
}
