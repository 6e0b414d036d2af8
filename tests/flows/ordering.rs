//! What runs beside what, what comes after what, and what of that makes anything run again.

use crate::kit::{Ran, TestSpace};

/// Each of the two ends only once the other has begun.
const MEET: &str = r#"
[workspace]
sandbox = "none"

[task.common]
run = "echo once >> ../once; echo common > common"
inputs = []
outputs = ["common"]

[task.left]
run = "touch ../left; until test -e ../right; do sleep 0.01; done"
inputs = ["common"]
timeout = "1m"

[task.right]
run = "touch ../right; until test -e ../left; do sleep 0.01; done"
inputs = ["common"]
timeout = "1m"
"#;

#[test]
fn goals_on_one_line_run_together_and_what_is_independent_overlaps() {
    let space = TestSpace::new(MEET);
    assert_eq!(space.build_twice(&["-j2", "left", "right"]).ran(), "common left right");
    assert_eq!(space.lines("once"), ["once"], "what both need is done once");
}

#[test]
fn steps_are_a_sequence_in_one_place_and_end_at_the_first_that_fails() {
    let steps = |second: &str| {
        format!(
            "[task.a]\nsteps = ['echo one > /tmp/a; echo one', ['sh', '-c', '{second}'], 'cat /tmp/a > out; echo three']\n\
             inputs = []\noutputs = ['out']\n"
        )
    };
    let space = TestSpace::new(&steps("echo two >> /tmp/a; echo two"));
    space.build_twice(&[]);
    assert_eq!(space.ok(&["log", "a"]).stdout, "one\ntwo\nthree\n");
    let failing = TestSpace::new(&steps("echo two; exit 4"));
    assert_eq!(failing.build(&[]).output.status, 1);
    assert_eq!(failing.ok(&["log", "a"]).stdout, "one\ntwo\n");
    assert!(!failing.exists("out"));
}

#[test]
fn what_a_task_does_to_its_environment_is_its_own() {
    let space = TestSpace::new(
        "[task.a]\nrun = 'export X=a Y=a; echo $X'\ninputs = []\nenv = { X = 'given' }\n\
         [task.b]\nrun = 'echo ${X-none} ${Y-none} ${SEEN-none}'\ninputs = []\nafter = ['a']\n",
    );
    let output = space.finish(space.command(&["run"]).env("SEEN", "outside").env("X", "outside"));
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert_eq!(space.ok(&["log", "b"]).stdout, "none none none\n");
}

/// Packages of which one task is built in variants; `pack` takes one variant, `publish` only waits.
const PACKAGES: &str = r#"
[workspace]
sandbox = "none"

[task.build]
matrix = { unit = ["a", "b"] }
run = "cat {{unit}}.in > {{unit}}.out"
inputs = ["{{unit}}.in"]
outputs = ["{{unit}}.out"]
tags = ["made"]

[task.lint]
run = "cat lint.in"
inputs = ["lint.in"]
tags = ["checked"]

[task.spell]
run = "cat spell.in"
inputs = ["spell.in"]
tags = ["checked"]

[task.checks]
needs = ["lint", "spell"]

[task.pack]
run = "cat a.out > pack.out; ls *.out > ../seen"
inputs = []
needs = ["build[a]"]
after = ["checks"]
outputs = ["pack.out"]

[task.publish]
run = "echo published"
inputs = ["publish.in"]
after = ["tag:made", "tag:checked", "sp*"]
"#;

fn packages() -> TestSpace {
    let space = TestSpace::new(PACKAGES);
    for name in ["a", "b", "lint", "spell", "publish"] {
        space.write(&format!("{name}.in"), "1\n");
    }
    space
}

fn at(ran: &Ran, event: &str, task: &str) -> usize {
    let found = ran.events.iter().position(|e| e["event"] == event && e["task"] == task);
    found.unwrap_or_else(|| panic!("no {event} of {task}"))
}

#[test]
fn a_group_a_tag_and_a_form_are_barriers() {
    let space = packages();
    let ran = space.build_twice(&["-j3"]);
    for before in ["lint", "spell"] {
        assert!(at(&ran, "task-ended", before) < at(&ran, "task-started", "pack"), "the group before pack");
        assert!(at(&ran, "task-ended", before) < at(&ran, "task-started", "publish"));
    }
    for before in ["build[a]", "build[b]"] {
        assert!(at(&ran, "task-ended", before) < at(&ran, "task-started", "publish"), "the tag before publish");
    }
    space.edit("quipu.toml", "cat spell.in\"", "cat spell.in; exit 1\"");
    space.write("publish.in", "2\n");
    let ran = space.build(&["-k"]);
    assert_eq!((ran.ended("failed").as_str(), ran.ended("skipped").as_str()), ("spell", "publish"));
    let skipped = ran.events.iter().find(|e| e["end"] == "skipped").expect("one is");
    assert_eq!(skipped["reason"], "`spell` did not succeed");
}

#[test]
fn order_alone_makes_nothing_run_again() {
    let space = packages();
    space.build_twice(&[]);
    for name in ["lint", "spell"] {
        space.write(&format!("{name}.in"), "2\n");
    }
    assert_eq!(space.build_twice(&[]).ran(), "lint spell");
    space.edit("quipu.toml", "after = [\"checks\"]\n", "");
    assert_eq!(space.build(&[]).ran(), "");
}

#[test]
fn who_needs_one_variant_has_nothing_to_do_with_the_others() {
    let space = packages();
    assert_eq!(space.build_twice(&["pack"]).ran(), "build[a] lint pack spell", "order alone asks for it, too");
    space.write("b.in", "2\n");
    space.nothing_to_do(&["pack"]);
    space.write("a.in", "2\n");
    assert_eq!(space.build_twice(&["pack"]).ran(), "build[a] pack");
}

#[test]
fn what_is_as_it_was_counts_as_done_and_stands_in_the_record() {
    let space = packages();
    space.build_twice(&[]);
    space.write("a.in", "2\n");
    let ran = space.build(&[]);
    assert_eq!(ran.ran(), "build[a] pack");
    let cached = ran.ended("cached");
    let mut cached: Vec<&str> = cached.split(' ').collect();
    cached.sort_unstable();
    assert_eq!(cached, ["build[b]", "lint", "publish", "spell"]);
    let record = space.ok(&["log", "--run", "last"]).stdout;
    for line in ["cached lint", "cached build[b]", "ran build[a]", "ran pack"] {
        assert!(record.contains(line), "{line} in {record}");
    }
}

#[test]
fn what_waits_for_something_new_runs_only_then() {
    let space = packages();
    let tell = "\n[task.tell]\nrun = 'echo told >> ../told'\ninputs = []\nafter = ['pack', 'lint']\nwhen = 'changed'\n";
    space.write("quipu.toml", &(PACKAGES.to_owned() + tell));
    assert_eq!(space.build(&["tell"]).ran(), "build[a] lint pack spell tell");
    let again = space.build(&["tell"]);
    assert_eq!((again.output.status, again.ran().as_str(), again.count("unmet")), (0, "", 1));
    let unmet = again.events.iter().find(|e| e["end"] == "unmet").expect("it says so");
    assert_eq!(unmet["reason"], "nothing that it comes after had to run");
    space.write("lint.in", "2\n");
    assert_eq!(space.build(&["tell"]).ran(), "lint tell");
    space.write("lint.in", "3\n");
    space.edit("quipu.toml", "cat lint.in", "cat lint.in; exit 1");
    let ran = space.build(&["-k", "tell"]);
    assert_eq!((ran.ended("failed").as_str(), ran.ended("skipped").as_str()), ("lint", "tell"));
    assert_eq!(space.lines("told").len(), 2);
}

#[test]
fn all_failures_are_told_together() {
    let space = TestSpace::new(
        "[task.a]\nrun = 'echo of a; exit 3'\ninputs = []\n[task.b]\nrun = 'echo of b; exit 4'\ninputs = []\n\
         [task.c]\nrun = 'echo of c'\ninputs = []\n",
    );
    let output = space.run(&["run", "-k", "-j1"]);
    let (_, end) = output.stderr.split_once("\n2 tasks failed:\n").unwrap_or_else(|| panic!("{}", output.stderr));
    for text in ["a: exit code 3\n    of a\n", "b: exit code 4\n    of b\n"] {
        assert!(end.contains(text), "{text} in {end}");
    }
}

#[test]
fn tasks_that_do_the_same_cannot_come_one_after_the_other() {
    let space =
        TestSpace::new("[task.a]\nrun = 'true'\ninputs = []\n[task.b]\nrun = 'true'\ninputs = []\nafter = ['a']\n");
    let said = space.run(&["plan"]);
    assert_eq!(said.status, 2);
    let expected = "error: `a` would wait for itself: tasks that do exactly the same are one task\n";
    assert!(said.stderr.starts_with(expected), "{}", said.stderr);
}
