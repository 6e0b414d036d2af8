//! `quipu run`, as people and programs see it.

use insta::assert_snapshot;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[workspace]
[task.hello]
run = "echo hello; cat name"
inputs = ["name"]
[task.file]
run = "cat name > copy"
inputs = ["name"]
outputs = ["copy"]
needs = ["hello"]
[task.fails]
run = "echo to stdout; echo to stderr >&2; exit 7"
inputs = []
[task.behind]
run = "echo never"
inputs = []
needs = ["fails"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("name", "you\n");
    space
}

#[test]
fn piped_it_prints_plain_lines_to_standard_error() {
    let space = space();
    assert_snapshot!(space.run(&["run", "-j1", "file"]).shown(), @r#"
    --- stderr
    ran hello ([time])
        hello
        you
    ran file ([time])
    2 tasks: 2 ran in [time]
    "#);
    assert_snapshot!(space.run(&["run", "file"]).shown(), @r#"
    --- stderr
    nothing to do: 2 tasks are up to date
    "#);
    assert_snapshot!(space.run(&["run", "-j1", "-k"]).shown(), @r#"
    exit 1
    --- stderr
    failed fails ([time]): exit code 7
        to stdout
        to stderr
    skipped behind: `fails` did not succeed
    4 tasks: 1 failed, 1 skipped, 2 cached in [time]
    "#);
}

#[test]
fn quiet_it_prints_failures_and_the_summary() {
    let space = space();
    assert_snapshot!(space.run(&["run", "-j1", "-k", "--quiet"]).shown(), @r#"
    exit 1
    --- stderr
    failed fails ([time]): exit code 7
        to stdout
        to stderr
    4 tasks: 2 ran, 1 failed, 1 skipped in [time]
    "#);
    assert_snapshot!(space.run(&["run", "-q", "hello"]).shown(), @r#"
    --- stderr
    nothing to do: 1 task is up to date
    "#);
}

#[test]
fn as_json_it_ends_with_a_summary_of_exactly_these_fields() {
    let space = space();
    let ran = space.build(&["-k"]);
    assert_eq!(ran.output.stderr, "");
    let summary = ran.events.last().and_then(|e| e.as_object()).expect("map");
    let mut fields: Vec<&str> = summary.keys().map(String::as_str).collect();
    fields.sort_unstable();
    let expected = [
        "blocked",
        "cached",
        "cancelled",
        "cut_off",
        "event",
        "failed",
        "fetched",
        "left_out",
        "ms",
        "ran",
        "run",
        "skipped",
        "unmet",
        "unneeded",
    ];
    assert_eq!(fields, expected);
    let number = |what: &str| summary[what].as_u64().expect("number");
    assert_eq!((number("ran"), number("failed"), number("skipped")), (2, 1, 1));
    let counts = ["ran", "cached", "cut_off", "unneeded", "failed", "skipped", "unmet", "blocked", "cancelled"];
    assert_eq!(ran.events[0]["tasks"].as_u64(), Some(counts.into_iter().map(number).sum()));
    for event in &ran.events[..ran.events.len() - 1] {
        assert!(event["at"].is_u64(), "{event}");
    }
    let order: Vec<&str> = ran.events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert_eq!((order[0], order[1], order[order.len() - 1]), ("run-started", "planned", "summary"));
}

#[test]
fn a_dry_run_is_a_plan_and_writes_nothing() {
    let space = space();
    let dry = space.ok(&["run", "--dry-run", "file"]);
    assert_eq!(dry.stdout, space.ok(&["plan", "file"]).stdout);
    assert!(space.listing().is_empty() && !space.exists("copy"));
    space.build(&["file"]);
    let before = space.listing();
    space.write("name", "them\n");
    let dry = space.ok(&["run", "-n", "--force", "file"]).stdout;
    assert!(dry.contains("it was asked to run whatever receipts there are"), "{dry}");
    assert_eq!(space.listing(), before);
}

#[test]
fn what_tasks_print_cannot_move_the_cursor() {
    let space = TestSpace::new("[workspace]\n[task.a]\nrun = \"printf '\\\\033[2Jred\\\\r\\\\n'\"\ninputs = []\n");
    let output = space.ok(&["run"]);
    assert!(output.stderr.contains("    \\u{1b}[2Jred\n") && !output.stderr.contains('\u{1b}'), "{:?}", output.stderr);
    assert_eq!(space.ok(&["log", "a"]).stdout, "\u{1b}[2Jred\r\n", "replayed as it was");
}

#[test]
fn an_output_that_is_not_written_is_a_failure_with_its_name() {
    let space = TestSpace::new("[workspace]\n[task.a]\nrun = \"true\"\ninputs = []\noutputs = [\"x\"]\n");
    assert_snapshot!(space.run(&["run"]).shown(), @r#"
    exit 1
    --- stderr
    failed a ([time]): did not write its declared output `x`
    1 task: 1 failed in [time]
    "#);
}
