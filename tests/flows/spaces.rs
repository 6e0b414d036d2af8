//! Name spaces: what is made in one stays there, is found there, and comes to `default` when it is promoted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::kit::{Ran, TestSpace, wait_until};

const TASKS: &str = r#"
[task.gen]
run = "echo gen >> ../ran; cat in | tr a-z A-Z > gen.txt"
inputs = ["in"]
outputs = ["gen.txt"]
sandbox = "none"
[task.sum]
run = "echo sum >> ../ran; (cat gen.txt other; head -c 100000 /dev/zero) > sum.txt"
inputs = ["other"]
needs = ["gen"]
outputs = ["sum.txt"]
sandbox = "none"
"#;

const ONE: &[&str] = &["--namespace", "one"];
const TWO: &[&str] = &["--namespace", "two"];
const ALONE: &[&str] = &["--namespace", "one", "--only-namespace"];

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("in", "text\n");
    space.write("other", "other\n");
    space
}

/// A run that succeeds.
fn build(space: &TestSpace, args: &[&str]) -> Ran {
    let ran = space.build(args);
    assert_eq!(ran.output.status, 0, "{}{}", ran.output.stdout, ran.output.stderr);
    ran
}

/// Files of the store itself with their content, but for locks.
fn default(space: &TestSpace) -> BTreeMap<PathBuf, Vec<u8>> {
    let apart = [space.store().join("spaces"), space.store().join("locks")];
    let files = space.store_files("").into_iter().filter(|path| !apart.iter().any(|dir| path.starts_with(dir)));
    files.map(|path| (path.clone(), fs::read(path).expect("is read"))).collect()
}

/// What makes files look as if nobody had touched them for so many days.
fn age(space: &TestSpace, below: &str, days: u32) {
    for path in space.store_files(below) {
        let file = fs::File::options().write(true).open(path).expect("is there");
        file.set_modified(SystemTime::now() - days * Duration::from_secs(86_400)).expect("is set");
    }
}

#[test]
fn a_name_space_finds_what_default_has_and_its_own_and_nobody_else_finds_what_it_made() {
    let space = space();
    assert_eq!(space.build_twice(&[]).ran(), "gen sum");
    let before = default(&space);
    // All is in `default`: nothing runs, and nothing is written there.
    assert_eq!(space.build_twice(ONE).ran(), "");
    // Outputs come from there, too.
    space.remove("sum.txt");
    build(&space, ONE);
    assert!(space.read("sum.txt").starts_with("TEXT\nother\n"));

    space.write("other", "changed\n");
    assert_eq!(space.build_twice(ONE).ran(), "sum", "what default has is not made again");
    assert!(space.read("sum.txt").starts_with("TEXT\nchanged\n"));
    assert_eq!(default(&space), before, "nothing of it is in default");
    // Neither default nor another name space sees it.
    for (name, args) in [("two", TWO), ("default", &[])] {
        let plan = space.json(&[&["plan", "--json"], args].concat());
        assert_eq!(plan["counts"]["certain"], 1, "{name}: {plan}");
        assert_eq!(space.build_twice(args).ran(), "sum", "{name}");
    }
    space.nothing_to_do(ONE);
    assert_eq!(space.lines("ran"), ["gen", "sum", "sum", "sum", "sum"]);
}

#[test]
fn only_its_own_proves_that_all_is_made_from_scratch() {
    let space = space();
    build(&space, &[]);
    // In part by what default has, by task and by invocation: the inputs differ, and what comes of them does not.
    space.write("in", "TEXT\n");
    build(&space, &["gen"]);
    space.write("in", "tExT\n");
    let ran = build(&space, ONE);
    assert_eq!((ran.ran().as_str(), ran.count("cut_off")), ("gen", 1));
    space.nothing_to_do(ONE);
    // What was accepted there does not count for who sees nothing of default.
    assert_eq!(build(&space, ALONE).ran(), "sum");
    space.nothing_to_do(ALONE);
    let two = &["--namespace", "two", "--only-namespace"];
    assert_eq!(build(&space, two).ran(), "gen sum");
    space.nothing_to_do(two);
    let refused = space.run(&["run", "--only-namespace"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("help: name one with `--namespace` or QUIPU_NAMESPACE"), "{}", refused.stderr);
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_configuration() {
    let space = space();
    let made_in = |space: &TestSpace| {
        let there = |name: &&str| space.store().join("spaces").join(name).is_dir();
        let made: Vec<&str> = ["flag", "env", "file"].into_iter().filter(there).collect();
        let _ = fs::remove_dir_all(space.store());
        made.join(" ")
    };
    let run = |env: Option<&str>, args: &[&str]| {
        let mut command = space.command(&[&["run"], args].concat());
        command.envs(env.map(|name| ("QUIPU_NAMESPACE", name)));
        let output = space.finish(&mut command);
        assert_eq!(output.status, 0, "{}", output.stderr);
    };
    fs::write(space.beside("config/config.toml"), "namespace = \"file\"\n").expect("is written");
    for (env, args, expected) in [
        (None, &[][..], "file"),
        (Some(""), &[], "file"),
        (Some("env"), &[], "env"),
        (Some("env"), &["--namespace=flag"], "flag"),
        (Some("default"), &[], ""),
        (Some("env"), &["--namespace=default"], ""),
    ] {
        run(env, args);
        assert_eq!(made_in(&space), expected, "{env:?} {args:?}");
    }
}

#[test]
fn a_bad_name_is_an_error_that_says_where_it_stands() {
    let space = space();
    for bad in ["../out", "", "PR-17", "a/b", ".hidden", &"x".repeat(65)] {
        let refused = space.run(&["run", "--namespace", bad]);
        assert_eq!(refused.status, 2, "{bad}: {}", refused.stderr);
        assert!(refused.stderr.contains("a name space is named by up to 64 of `a` to `z`"), "{}", refused.stderr);
        assert!(refused.stderr.contains("help: it stands in --namespace"), "{}", refused.stderr);
    }
    let refused = space.finish(space.command(&["run"]).env("QUIPU_NAMESPACE", "no/path"));
    assert!(refused.stderr.contains("help: it stands in QUIPU_NAMESPACE"), "{}", refused.stderr);
    fs::write(space.beside("config/config.toml"), "namespace = \"no path\"\n").expect("is written");
    let refused = space.run(&["run"]);
    assert!(refused.stderr.contains("config.toml`"), "{}", refused.stderr);
    assert_eq!(space.listing().len(), 0, "nothing was made");
}

#[test]
fn a_run_with_nothing_to_do_is_short_until_something_changes_in_either_store() {
    let space = space();
    build(&space, &[]);
    build(&space, ONE);
    let glances = || -> Vec<_> {
        let files = space.store_files("spaces/one/glances").into_iter();
        files.map(|path| (path.metadata().expect("is there").ino(), path)).collect()
    };
    // What a short run looked at it does not write down again.
    let until_short = || {
        wait_until("runs become short", || {
            let before = glances();
            let output = space.ok(&[&["run"], ONE].concat());
            assert!(output.stderr.contains("nothing to do"), "{}", output.stderr);
            std::thread::sleep(Duration::from_millis(20));
            !before.is_empty() && before == glances()
        });
    };
    until_short();
    let (first, listing) = (glances(), space.listing());
    space.ok(&[&["run"], ONE].concat());
    assert_eq!(space.listing(), listing, "a short run writes nothing");
    // Whatever default says now may be something else.
    space.write("elsewhere/quipu.toml", "[task.x]\nrun = \"true\"\n");
    assert_eq!(space.run(&["-C", "elsewhere", "run"]).status, 0);
    wait_until("it is looked at anew", || {
        assert!(space.ok(&[&["run"], ONE].concat()).stderr.contains("nothing to do"));
        std::thread::sleep(Duration::from_millis(20));
        glances() != first
    });
    until_short();
    assert!(space.store_files("glances").is_empty(), "they are the name space's");
}

#[test]
fn what_lists_and_shows_sees_the_name_space_and_what_is_behind_it() {
    let space = space();
    build(&space, &[]);
    space.write("other", "changed\n");
    build(&space, ONE);
    // Explained and shown is what counts there.
    let receipt = |name: &str| {
        let plan = space.json(&[&["plan", "--json", name], ONE].concat());
        let task = plan["tasks"].as_array().expect("is one").iter().find(|task| task["name"] == name);
        task.expect("is planned")["receipt"].as_str().expect("there is one").to_owned()
    };
    let (gen_, sum) = (receipt("gen"), receipt("sum"));
    assert_eq!(space.run(&["show", &sum]).status, 2, "default has it not");
    for (args, receipt) in [(ONE, &sum), (ONE, &gen_), (&[], &gen_)] {
        assert_eq!(space.run(&[&["show", receipt], args].concat()).status, 0);
    }
    let explained = space.ok(&[&["explain", "sum"], ONE].concat()).stdout;
    assert!(explained.contains("there is a receipt"), "{explained}");
    // Its own runs, and what a task printed wherever that was.
    let runs = |args: &[&str]| space.ok(&[&["log", "--json"], args].concat()).stdout.lines().count();
    assert_eq!((runs(&[]), runs(ONE), runs(TWO)), (1, 1, 0));
    assert_eq!(space.run(&[&["log", "gen"], ONE].concat()).status, 0);
    // What goes out is what counts there, from either store.
    let out = space.ok(&[&["export", "--all", "-o", "../x.car"], ONE].concat()).stdout;
    assert!(out.starts_with("exported 2 receipts, "), "{out}");
    // And what comes in stays there.
    let before = default(&space);
    let two = TestSpace::new(TASKS);
    two.write("in", "text\n");
    two.write("other", "changed\n");
    two.ok(&["trust", "add", "me", two.ok(&["key", "show"]).stdout.trim()]);
    let file = space.beside("x.car");
    two.ok(&[&["import", file.to_str().expect("text")], ONE].concat());
    assert_eq!((build(&two, ONE).ran(), build(&two, &[]).ran()), (String::new(), "gen sum".to_owned()));
    assert_eq!(default(&space), before);
    for args in [&[][..], ONE] {
        let verified = space.ok(&[&["verify"], args].concat()).stdout;
        assert!(verified.contains("sound"), "{verified}");
    }
    let verified = space.json(&["verify", "--json"]);
    assert_eq!((verified["receipts"].as_u64(), verified["namespaces"]["one"]["receipts"].as_u64()), (Some(2), Some(1)));
}

#[test]
fn damage_in_a_name_space_is_found_and_mended_from_outside_and_from_within() {
    let space = space();
    for args in [&["verify"][..], &["verify", "--namespace", "one"]] {
        build(&space, ONE);
        let blob = space.store_files("spaces/one/blobs").pop().expect("there is one");
        fs::write(&blob, "torn").expect("is written");
        assert_eq!(space.run(args).status, 5);
        assert_eq!(space.run(&[args, &["--repair"]].concat()).status, 0);
        assert_eq!(space.run(args).status, 0);
        space.remove("sum.txt");
        assert_eq!(build(&space, ONE).ran(), "sum");
        fs::write(space.store().join("spaces/one/index.redb"), "no index").expect("is written");
        assert_eq!(space.run(&[args, &["--repair"]].concat()).status, 0);
        space.nothing_to_do(ONE);
        assert_eq!(space.run(&["namespace", "remove", "one"]).status, 0);
    }
}

#[test]
fn name_spaces_are_listed_and_removed_and_the_unused_are_collected() {
    let space = space();
    build(&space, &[]);
    assert_eq!(space.ok(&["namespace", "list"]).stdout, "");
    space.write("other", "changed\n");
    build(&space, ONE);
    build(&space, TWO);
    assert_eq!(space.ok(&["namespace", "list"]).stdout, "one  used within a day\ntwo  used within a day\n");
    let missing = space.run(&["namespace", "remove", "one", "three"]);
    assert_eq!(missing.status, 2);
    assert!(missing.stderr.contains("there is no name space `three`"), "{}", missing.stderr);
    space.ok(&["namespace", "remove", "one"]);
    assert_eq!(space.ok(&["namespace", "list"]).stdout, "two  used within a day\n");
    assert!(!space.store().join("spaces/one").exists());
    assert_eq!(space.build_twice(ONE).ran(), "sum", "it begins anew");

    age(&space, "spaces/one", 9);
    age(&space, "spaces/two", 9);
    assert_eq!(space.json(&["namespace", "list", "--json"])[0]["name"], "one");
    assert!(space.ok(&["namespace", "list"]).stdout.starts_with("one  used 9 days ago\n"));
    // One that is only read is in use as well.
    space.ok(&[&["run"], ONE].concat());
    assert!(space.ok(&["gc", "--max-age=30d"]).stdout.starts_with("deleted 0 receipts"));
    assert!(space.ok(&["gc", "--max-age=7d", "--dry-run"]).stdout.contains("would delete name space two\n"));
    assert_eq!(space.json(&["gc", "--max-age=7d", "--json"])["deleted"]["namespaces"], serde_json::json!(["two"]));
    assert_eq!(space.ok(&["namespace", "list"]).stdout, "one  used within a day\n");
    space.nothing_to_do(ONE);
}

#[test]
fn a_collection_of_the_store_leaves_what_name_spaces_go_by_and_collects_in_them() {
    let space = space();
    build(&space, &[]);
    // The name space goes by default's receipts; default goes on to others.
    build(&space, ONE);
    space.write("other", "changed\n");
    build(&space, &[]);
    build(&space, TWO);
    let stats = space.json(&["gc", "--max-age=0s", "--json"]);
    assert_eq!((stats["deleted"]["receipts"].as_u64(), stats["kept"]["receipts"].as_u64()), (Some(0), Some(3)));
    space.write("other", "other\n");
    assert_eq!(build(&space, ONE).ran(), "");
    space.nothing_to_do(ONE);
    // In a name space as in the store: what its workspaces go by stays.
    for text in ["a\n", "b\n", "c\n"] {
        space.write("other", text);
        build(&space, ONE);
    }
    let before = default(&space);
    assert!(space.ok(&[&["gc", "--max-age=0s"], ONE].concat()).stdout.starts_with("deleted 2 receipts, "));
    assert_eq!(default(&space), before);
    space.nothing_to_do(ONE);
}

#[test]
fn a_name_space_that_a_run_uses_is_neither_removed_nor_collected() {
    let space = TestSpace::new(
        "[task.a]\nrun = \"touch ../up; while [ ! -e ../go ]; do sleep 0.01; done\"\nsandbox = \"none\"\n",
    );
    let mut running = space.start(ONE);
    running.wait_for("task-started", "a");
    wait_until("the task runs", || space.beside("up").exists());
    let mut remove = space.command(&["namespace", "remove", "one"]).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(300));
    assert!(remove.try_wait().expect("is asked").is_none(), "it waits");
    fs::write(space.beside("go"), "").expect("is written");
    let ran = running.end();
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "a"));
    assert!(remove.wait().expect("ends").success());
    assert_eq!(space.ok(&["namespace", "list"]).stdout, "");
}

#[test]
fn two_runs_in_one_name_space_do_each_task_once() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = \"none\"\n[task.a]\nrun = \"echo a >> ../ran; sleep 0.2; echo a > a.out\"\noutputs = [\"a.out\"]\ninputs = []\n",
    );
    let (first, second) = (space.start(ONE), space.start(ONE));
    for ran in [first.end(), second.end()] {
        assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    }
    assert_eq!(space.lines("ran"), ["a"]);
    space.nothing_to_do(ONE);
}
