//! What is made in a name space comes to `default` when all of it is green, and not before.

use std::fs;
use std::path::Path;

use super::share_walk::{blocks, shell};
use crate::kit::TestSpace;

const TASKS: &str = r#"
[workspace]
sandbox = "none"
[task.gen]
run = "echo gen >> ../ran; mkdir -p gen/deep; tr a-z A-Z < in > gen/deep/a; ln -s deep/a gen/l; echo made"
inputs = ["in"]
outputs = ["gen/"]
[task.sum]
run = "echo sum >> ../ran; (cat gen/deep/a other; head -c 100000 /dev/zero) > sum.txt"
inputs = ["other"]
needs = ["gen"]
outputs = ["sum.txt"]
[task.test]
run = "echo test >> ../ran; ! grep -q bad sum.txt"
needs = ["sum"]
"#;

const ONE: &[&str] = &["--namespace", "one"];

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("in", "text\n");
    space.write("other", "other\n");
    space
}

#[test]
fn what_is_green_is_promoted_whole_and_a_second_time_nothing_is() {
    let space = space();
    space.build_twice(ONE);
    let promoted = space.ok(&["promote", "one"]);
    assert!(promoted.stdout.starts_with("promoted 3 receipts, "), "{}", promoted.shown());
    assert_eq!(promoted.stderr, "");
    let before = space.listing();
    let again = space.ok(&["promote", "one"]).stdout;
    assert_eq!(again, "promoted 0 receipts (3 were there already), 0 blocks, 0 B\n");
    let files = |listing: crate::kit::Listing| {
        listing
            .into_iter()
            .filter(|(path, _)| path.is_file() && !path.to_string_lossy().contains("/locks"))
            .collect::<Vec<_>>()
    };
    assert_eq!(files(space.listing()), files(before), "a second promotion writes nothing");
    // `default` has it whole: without the name space nothing runs, and outputs and logs come from the store.
    space.ok(&["namespace", "remove", "one"]);
    space.remove("gen");
    space.remove("sum.txt");
    assert_eq!(space.build_twice(&[]).ran(), "");
    assert_eq!(space.read("gen/l"), "TEXT\n");
    assert!(space.read("sum.txt").starts_with("TEXT\nother\n"));
    assert_eq!(space.ok(&["verify"]).status, 0);
    let replayed = space.ok(&["run", "--replay"]).stderr;
    assert!(replayed.contains("made"), "{replayed}");
    // What they were made from is known down to the file.
    space.write("in", "other\n");
    let explained = space.ok(&["explain", "gen"]).stdout;
    assert!(explained.contains("in"), "{explained}");
    assert_eq!(space.lines("ran"), ["gen", "sum", "test"]);
}

#[test]
fn only_the_goals_asked_for_are_promoted_with_what_they_need() {
    let space = space();
    space.build_twice(ONE);
    assert!(space.ok(&["promote", "one", "gen"]).stdout.starts_with("promoted 1 receipt, "));
    assert_eq!(space.build_twice(&["sum"]).ran(), "sum");
    assert!(space.ok(&["promote", "one", "sum"]).stdout.contains("(1 were there already)"));
}

#[test]
fn what_is_not_green_is_named_and_nothing_is_promoted() {
    let space = space();
    space.write("other", "bad\n");
    assert_eq!(space.build(ONE).output.status, 1);
    let refused = space.run(&["promote", "one"]);
    assert_eq!(refused.status, 1, "{}", refused.shown());
    for part in [
        "error: name space `one` is not green: 1 task not settled there",
        "`test`: it failed the last time",
        "help: `quipu run --namespace one`",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!space.store().join("index.redb").exists(), "default has nothing");
    // What is green of it can be had by name.
    assert!(space.ok(&["promote", "one", "sum"]).stdout.starts_with("promoted 2 receipts, "));
    // Not run at all, and changed since.
    space.write("other", "good\n");
    let refused = space.run(&["promote", "one", "sum"]);
    assert!(refused.stderr.contains("`sum`: there is no receipt for it"), "{}", refused.stderr);
    for (args, said) in [
        (&["promote", "two"][..], "there is no name space `two`"),
        (&["promote", "default"], "is the store itself"),
        (&["promote", "../x"], "a name space is named by"),
        (&["promote", "one", "--namespace", "two"], "comes to `default`"),
        (&["promote", "one", "none"], "none"),
    ] {
        let refused = space.run(args);
        assert_eq!(refused.status, 2, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    // The environment of who works in it is no reason against it.
    assert_eq!(space.build_twice(ONE).ran(), "sum test");
    let done = space.finish(space.command(&["promote", "one"]).env("QUIPU_NAMESPACE", "one"));
    assert!(done.stdout.starts_with("promoted 2 receipts"), "{}", done.shown());
}

#[test]
fn tasks_that_are_never_cached_are_green_when_they_last_ran_well() {
    let space = space();
    let more = "[task.check]\nrun = \"echo check >> ../ran; test ! -e ../broken\"\nneeds = [\"sum\"]\ncache = false\n";
    space.write("quipu.toml", &(TASKS.to_owned() + more));
    assert_eq!(space.build(&[ONE, &["test"]].concat()).output.status, 0);
    let refused = space.run(&["promote", "one"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("`check`: it is never cached"), "{}", refused.stderr);
    fs::write(space.beside("broken"), "").expect("is written");
    assert_eq!(space.build(ONE).output.status, 1);
    assert_eq!(space.run(&["promote", "one"]).status, 1);
    fs::remove_file(space.beside("broken")).expect("is removed");
    assert_eq!(space.build(ONE).ran(), "check");
    assert!(space.ok(&["promote", "one"]).stdout.starts_with("promoted 3 receipts"));
    // What it is now has not run.
    space.write("quipu.toml", &(TASKS.to_owned() + &more.replace("echo check", "echo another")));
    assert_eq!(space.run(&["promote", "one"]).status, 1);
}

#[test]
fn what_came_out_differently_in_default_is_replaced_and_nothing_mixes() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = \"none\"\n[task.roll]\nrun = \"echo roll >> ../ran; date +%s%N > roll.txt\"\ninputs = []\noutputs = [\"roll.txt\"]\n\
         [task.use]\nrun = \"echo use >> ../ran; cat roll.txt > use.txt\"\nneeds = [\"roll\"]\noutputs = [\"use.txt\"]\n",
    );
    assert_eq!(space.build_twice(&["--namespace", "one", "--only-namespace"]).ran(), "roll use");
    let made = space.read("use.txt");
    assert_eq!(space.build(&["--force"]).ran(), "roll use");
    assert_ne!(space.read("use.txt"), made);
    let promoted = space.ok(&["promote", "one", "--only-namespace"]);
    assert!(promoted.stderr.contains("`roll` came out differently in default"), "{}", promoted.shown());
    assert_eq!(space.build(&[]).ran(), "");
    assert_eq!((space.read("roll.txt"), space.read("use.txt")), (made.clone(), made));
    space.nothing_to_do(&[]);
}

#[test]
fn two_promotions_at_once_are_one() {
    let space = space();
    space.build_twice(ONE);
    let start = || space.command(&["promote", "one"]).stdout(std::process::Stdio::null()).spawn().expect("starts");
    for mut child in [start(), start(), start()] {
        assert!(child.wait().expect("ends").success());
    }
    assert_eq!(space.build_twice(&[]).ran(), "");
    assert_eq!(space.ok(&["verify"]).status, 0);
    assert!(space.ok(&["promote", "one"]).stdout.starts_with("promoted 0 receipts"));
}

#[test]
#[cfg(feature = "remote")]
fn what_is_promoted_is_sent_to_who_takes_it() {
    if !crate::kit::needs_ns() {
        return;
    }
    let Some(server) = crate::kit::server::Server::start(false) else { return };
    let space = TestSpace::new("[task.a]\nrun = \"echo canary-a > a.out\"\ninputs = []\noutputs = [\"a.out\"]\n");
    let remote = format!("[remote.cache]\nurl = 'grpc://127.0.0.1:{}'\npush = true\n", server.port);
    fs::write(space.beside("config/config.toml"), remote).expect("is written");
    space.build_twice(ONE);
    assert!(server.holding(b"canary-a\n").is_empty());
    let promoted = space.ok(&["promote", "one"]);
    assert_eq!(promoted.stderr, "");
    assert!(!server.holding(b"canary-a\n").is_empty());
}

#[test]
fn the_page_does_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/spaces.md");
    let page = blocks(&fs::read_to_string(page).expect("is there"));
    let space = TestSpace::new(&page.iter().find(|(head, _)| head == "toml quipu.toml").expect("has one").1);
    space.write("text", "some words\n");
    let mut said = String::new();
    for (_, script) in page.iter().filter(|(head, _)| head == "sh") {
        let output = shell(&space, script);
        said += &(String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
    }
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("`{text}`: {said}"));
    assert!(
        at("starts with count") < at("promoted 2 receipts") && at("promoted 2") < at("nothing to do: 2 tasks"),
        "{said}"
    );
    assert!(at("nothing to do: 2 tasks") < at("fresh  used"), "{said}");
    assert_eq!(space.ok(&["namespace", "list"]).stdout, "");
}
