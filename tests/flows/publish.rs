//! Publishing: an artifact is placed whole, and only once every check on it has passed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::kit::{TestSpace, needs_ns};

const SITE: &str = r#"
[task.site]
run = "mkdir site; cp -r src/. site; cp VERSION site/version"
inputs = ["src", "VERSION"]
outputs = ["site/"]
publish = true

[task.links]
run = "! grep -r broken site"
inputs = ["site/"]

[task.api]
run = "mkdir api; cp VERSION api/v"
inputs = ["VERSION"]
outputs = ["api/"]
publish = true

[task.policy]
description = "No version that is not released"
run = "! grep -rq beta site/version api"
inputs = ["site/version", "api/"]

[task.report]
run = "ls site > report.txt"
inputs = ["site/"]
outputs = ["report.txt"]
"#;

fn site() -> TestSpace {
    let space = TestSpace::new(SITE);
    space.write("VERSION", "1\n");
    space.write("src/index", "one\n");
    space.write("src/old", "old\n");
    space
}

#[test]
fn a_failing_check_leaves_what_was_published_and_a_passing_one_replaces_all_of_it() {
    if !needs_ns() {
        return;
    }
    let space = site();
    // Who asks for what is published asks for the checks on it.
    assert_eq!(space.build_twice(&["site"]).ran(), "api links policy site");
    assert_eq!(space.read("site/index"), "one\n");
    assert!(!space.exists("api"), "nobody asked for it");

    space.write("src/index", "broken\n");
    space.remove("src/old");
    let output = space.run(&["run", "site", "report"]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("`site` is not published: `links` has not passed"), "{}", output.stderr);
    assert_eq!((space.read("site/index").as_str(), space.exists("site/old")), ("one\n", true), "as it was");
    let ran = space.build(&["--keep-going", "site", "report"]);
    assert_eq!(ran.output.status, 1, "it stays so: a check that failed is made again");
    assert_eq!(space.read("report.txt"), "index\nversion\n", "what is made of it is no check on it");
    assert_eq!(space.read("site/index"), "one\n");

    space.write("src/index", "two\n");
    space.build_twice(&["site"]);
    assert_eq!((space.read("site/index").as_str(), space.exists("site/old")), ("two\n", false), "stale files are gone");
}

#[test]
fn a_policy_gates_all_that_it_reads() {
    if !needs_ns() {
        return;
    }
    let space = site();
    space.build_twice(&[]);
    assert_eq!((space.read("site/version").as_str(), space.read("api/v").as_str()), ("1\n", "1\n"));
    space.write("VERSION", "2-beta\n");
    assert_eq!(space.build(&["--keep-going"]).output.status, 1);
    assert_eq!((space.read("site/version").as_str(), space.read("api/v").as_str()), ("1\n", "1\n"));
    space.write("VERSION", "2\n");
    space.build_twice(&[]);
    assert_eq!((space.read("site/version").as_str(), space.read("api/v").as_str()), ("2\n", "2\n"));
    // What somebody changed there is put right.
    space.write("site/index", "mine\n");
    assert_eq!((space.build(&["site"]).ran().as_str(), space.read("site/index").as_str()), ("", "one\n"));
}

#[test]
fn a_run_that_is_killed_while_it_publishes_leaves_the_old_or_the_new_whole() {
    if !needs_ns() {
        return;
    }
    const FILES: usize = 400;
    let space = TestSpace::new(
        "[task.tree]\nrun = 'mkdir tree; tee $(seq -f tree/f%g 0 399) < v > /dev/null'\n\
         inputs = ['v']\noutputs = ['tree/']\npublish = true\n\
         [task.check]\nrun = 'test -f tree/f0'\ninputs = ['tree/']\n",
    );
    // Each file is larger than what a receipt's index holds, so that placing takes its time.
    let content = |version: usize| format!("{version}\n").repeat(9000);
    space.write("v", &content(0));
    space.build_twice(&[]);
    let (mut before, mut interrupted) = (0, 0);
    for version in 1..=8 {
        space.write("v", &content(version));
        let running = space.start(&[]);
        // While it is being placed, something that is neither the old nor the new stands beside it.
        let begun = std::time::Instant::now();
        let is_placing = || {
            let names = fs::read_dir(space.path("")).expect("is there").flatten().map(|e| e.file_name());
            names.into_iter().any(|name| !["v", "tree", "quipu.toml"].iter().any(|known| name == *known))
        };
        while !is_placing() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_micros(200));
        }
        interrupted += usize::from(is_placing());
        running.signal(Signal::KILL);
        running.end();
        let files: Vec<_> = fs::read_dir(space.path("tree")).expect("is there").flatten().collect();
        let found: BTreeSet<String> =
            files.iter().map(|file| fs::read_to_string(file.path()).expect("can be read")).collect();
        assert_eq!(files.len(), FILES, "version {version}");
        assert_eq!(found.len(), 1, "version {version}: parts of two");
        let is = (before..=version).find(|v| found.contains(&content(*v)));
        before = is.unwrap_or_else(|| panic!("version {version}: neither the old nor the new"));
    }
    assert!(interrupted > 0, "no run was killed in the middle");
    let ran = space.build(&[]);
    assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    assert_eq!(space.read("tree/f7"), content(8));
    let names: BTreeSet<_> = fs::read_dir(space.path("")).expect("is there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 3, "nothing is left beside it: {names:?}");
}

#[test]
fn nothing_sees_it_before_it_is_published() {
    let space = TestSpace::new(
        "[task.a]\nrun = 'x'\noutputs = ['a']\npublish = true\nsandbox = 'none'\n\
         [task.b]\nrun = 'x'\noutputs = ['b']\npublish = true\nsandbox = 'ns'\n\
         [task.c]\nrun = 'x'\ninputs = ['b']\nsandbox = 'none'\n\
         [task.d]\nrun = 'x'\npublish = true\nsandbox = 'ns'\n",
    );
    let output = space.run(&["plan"]);
    for message in [
        "task `a` is published, and runs in the workspace itself",
        "task `c` runs in the workspace itself, and reads what `b` publishes",
        "task `d` has `publish`, and no outputs",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}
