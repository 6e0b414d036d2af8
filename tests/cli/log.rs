//! `quipu log`.

use insta::assert_snapshot;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[workspace]
[task.talk]
run = "printf 'no end of line'; printf 'a\\0b\\n' >&2; cat in"
inputs = ["in"]
[task.fails]
run = "cat in; exit 1"
inputs = ["in"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("in", " one\n");
    space
}

#[test]
fn runs_are_listed_newest_first() {
    let space = space();
    assert_eq!(space.ok(&["log"]).stdout, "", "no store yet");
    assert!(!space.store().exists());
    space.build(&["talk"]);
    space.build(&["talk"]);
    space.build(&["fails"]);
    assert_snapshot!(space.ok(&["log"]).shown(), @r#"
    [run]  [moment]  fails: 1 failed, [time]
    [run]  [moment]  talk: 1 ran, [time]
    "#);
    let runs: Vec<serde_json::Value> =
        space.ok(&["log", "--json"]).stdout.lines().map(|l| serde_json::from_str(l).expect("is JSON")).collect();
    assert_eq!(
        (runs.len(), runs[0]["summary"]["failed"].as_u64(), runs[1]["summary"]["ran"].as_u64()),
        (2, Some(1), Some(1))
    );
    let id = runs[1]["run"].as_str().expect("text");
    let told = space.ok(&["log", "--run", id]).shown();
    let told: Vec<&str> = told.lines().map(str::trim_start).filter(|line| !line.contains('|')).collect();
    assert_eq!(
        told,
        ["[time]  run [run] of talk", "[time]  started talk", "[time]  ran talk ([time])", "[time]  1 ran"]
    );
    assert!(space.ok(&["log", "--run", id]).stdout.contains("  talk| no end of line one\n"));
    let events = space.ok(&["log", "--json", "--run", id]).stdout;
    assert!(events.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok_and(|e| e["event"].is_string())));
    assert_eq!(space.run(&["log", "--run", "9"]).status, 2);
    assert!(space.run(&["log", "--run", "1"]).stderr.contains("begins several runs"));
}

#[test]
fn what_a_task_printed_is_replayed_byte_for_byte() {
    let space = space();
    space.build(&["talk"]);
    let log = space.ok(&["log", "talk"]);
    assert_eq!((log.stdout.as_str(), log.stderr.as_str()), ("no end of line one\n", "a\0b\n"));
    space.write("in", " two\n");
    space.build(&["talk"]);
    assert_eq!(space.ok(&["log", "talk"]).stdout, "no end of line two\n", "the last run");
    let runs = space.ok(&["log", "--json"]).stdout;
    let first: serde_json::Value = serde_json::from_str(runs.lines().nth(1).expect("two")).expect("is JSON");
    let id = first["run"].as_str().expect("text");
    assert_eq!(space.ok(&["log", "talk", "--run", id]).stdout, "no end of line one\n", "the one asked for");
    space.run(&["run", "fails"]);
    assert_eq!(space.ok(&["log", "fails"]).stdout, " two\n", "of a failed one, too");
}

#[test]
fn a_task_that_never_ran_or_is_several_is_told_apart() {
    let space = space();
    assert_snapshot!(space.run(&["log", "talk"]).shown(), @r#"
    exit 2
    --- stderr
    error: task `talk` has not run here, as far as is known
    help: `quipu list` lists tasks, `quipu log` runs
    "#);
    space.write("quipu.toml", "[task.m]\nmatrix = { x = [\"a\", \"b\"] }\nrun = \"echo {{x}}\"\ninputs = []\n");
    assert_snapshot!(space.run(&["log", "m"]).shown(), @r#"
    exit 2
    --- stderr
    error: `m` means 2 tasks
      m[a]
      m[b]
    help: name one
    "#);
}

#[test]
fn a_broken_workfile_is_no_reason_not_to_say_what_happened() {
    let space = space();
    space.build(&["talk"]);
    space.write("quipu.toml", "[task.talk\n");
    assert_eq!(space.ok(&["log"]).stdout.lines().count(), 1);
    assert_eq!(space.ok(&["log", "talk"]).stdout, "no end of line one\n");
}

#[test]
fn runs_of_other_workspaces_are_listed_when_asked_for() {
    let space = space();
    space.build(&["talk"]);
    crate::kit::copy(&space.path(""), &space.beside("other"));
    let other = space.beside("other");
    let other = other.to_str().expect("text");
    assert_eq!(space.ok(&["-C", other, "log"]).stdout, "");
    assert_eq!(space.ok(&["-C", other, "log", "--all"]).stdout.lines().count(), 1);
}
