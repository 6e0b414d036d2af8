//! Waiting for what is outside to be ready.

use crate::kit::TestSpace;

const WAITS: &str = r#"
[workspace]
sandbox = "none"

[task.start]
run = "sleep 0.2; echo up > ../up; touch ../up.file"
inputs = []
cache = false

[task.ready]
wait = { command = "echo look >> ../looks; test -e ../up.file", interval = "10ms" }
timeout = "1m"

[task.file]
wait = { file = "made/by/hand", interval = "10ms" }

[task.use]
run = "cat ../up"
inputs = []
after = ["ready"]
"#;

#[test]
fn it_holds_no_slot_and_is_never_cached() {
    let space = TestSpace::new(WAITS);
    for round in 1..=2 {
        // With a single slot, what is waited for could not be made by a task that had to wait for that slot.
        let ran = space.build(&["-j1", "start", "use", "ready"]);
        assert_eq!(ran.output.status, 0, "{}", ran.output.stdout);
        let expect = if round == 1 { "ready start use" } else { "ready start" };
        assert_eq!(ran.ran(), expect, "round {round}");
    }
    assert!(space.lines("looks").len() > 2, "it looked again and again");
}

#[test]
fn a_file_that_appears_ends_it() {
    let space = TestSpace::new(WAITS);
    let mut running = space.start(&["file"]);
    running.wait_for("task-started", "file");
    space.write("made/by/hand", "");
    assert_eq!(running.end().output.status, 0);
}

#[test]
fn it_fails_when_its_time_is_over_and_those_after_it_are_skipped() {
    let space = TestSpace::new(&WAITS.replace("1m", "30ms"));
    let ran = space.build(&["use"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str(), ran.ended("skipped").as_str()), (1, "ready", "use"));
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    assert_eq!(failed["failure"], "timeout");
}

#[test]
fn what_cannot_be_waited_for_is_an_error() {
    let space = TestSpace::new(
        "[task.a]\nwait = { tcp = 'x:1', file = 'y' }\n[task.b]\nwait = { tcp = 'nowhere' }\n\
         [task.c]\nwait = { http = 'https://x/' }\n[task.d]\nwait = { tcp = 'x:1', code = 200 }\n\
         [task.e]\nwait = { file = 'x' }\ncache = true\n[task.f]\nwait = {}\n",
    );
    let output = space.run(&["plan"]);
    for message in [
        "`wait` of task `a` is for 2 things",
        "`nowhere` is not an address such as `localhost:5432`, which task `b` is to wait for",
        "`https://x/` is not an address such as `http://localhost:8080/ready`, which task `c` is to wait for",
        "`wait` of task `d` has a `code`, and no `http`",
        "task `e` has `wait`, and `cache` beside it",
        "`wait` of task `f` is for 0 things",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}
