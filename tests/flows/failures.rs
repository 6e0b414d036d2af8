//! Failures as people handle them: tried again, within a time, and cleaned up after.

use rustix::process::Signal;

use crate::kit::{TestSpace, wait_until};

const FLAKY: &str = r#"
[workspace]
sandbox = "none"

[task.flaky]
run = "echo try >> ../tries; test $(wc -l < ../tries) -ge 3; echo done > out"
inputs = []
outputs = ["out"]
retries = 3
backoff = "5ms"
timeout = "1h"

[task.use]
run = "cat out"
inputs = ["out"]
"#;

#[test]
fn a_task_is_tried_again_after_a_pause_until_it_succeeds() {
    let space = TestSpace::new(FLAKY);
    let ran = space.build_twice(&[]);
    assert_eq!(ran.ran(), "flaky use");
    assert_eq!(space.lines("tries").len(), 3);
    let retries = ran.events.iter().filter(|e| e["event"] == "task-retry").map(|e| e["attempt"].as_u64());
    assert_eq!(retries.collect::<Vec<_>>(), [Some(2), Some(3)]);
}

#[test]
fn pauses_count_towards_the_time_of_a_task() {
    let space = TestSpace::new(&FLAKY.replace("5ms", "1h").replace("timeout = \"1h\"", "timeout = \"5m\""));
    let ran = space.build(&[]);
    assert_eq!((ran.output.status, ran.count("failed"), ran.count("skipped")), (1, 1, 1));
    assert_eq!(space.lines("tries").len(), 1, "a pause that ends too late is not begun");
    let warned =
        ran.events.iter().any(|e| e["message"] == "`flaky` is not tried again: its 300000 ms are over by then");
    assert!(warned, "{:?}", ran.events);
}

#[test]
fn a_pause_ends_when_the_run_is_to_end() {
    let space = TestSpace::new(&FLAKY.replace("5ms", "1h"));
    let mut running = space.start(&[]);
    running.wait_for("recorded", "flaky");
    running.signal(Signal::INT);
    let ran = running.end();
    assert_eq!((ran.output.status, ran.count("failed")), (130, 1));
    assert_eq!(space.lines("tries").len(), 1);
}

const CLEANED: &str = r#"
[workspace]
sandbox = "none"

[task.up]
run = "echo up >> ../log"
cache = false

[task.test]
run = "echo test >> ../log; test -e ../good"
inputs = []
after = ["up"]

[task.report]
run = "echo report >> ../log"
inputs = []
needs = ["test"]

[task.down]
run = "echo down >> ../log"
after = ["report"]
when = "always"

[task.alarm]
run = "echo alarm >> ../log"
after = ["report"]
when = "failure"

[task.ci]
needs = ["report", "down", "alarm"]
"#;

fn sorted(names: &str) -> Vec<&str> {
    let mut names: Vec<&str> = names.split(' ').collect();
    names.sort_unstable();
    names
}

#[test]
fn who_cleans_up_runs_whatever_failed_before() {
    let space = TestSpace::new(CLEANED);
    let text = space.ok(&["plan", "ci"]).stdout;
    assert!(text.contains("it depends on what becomes of `report`"), "{text}");
    for round in 1..=2 {
        let ran = space.build(&["ci"]);
        assert_eq!(ran.output.status, 1);
        assert_eq!((ran.ended("failed"), ran.ended("skipped")), ("test".to_owned(), "report".to_owned()));
        assert_eq!(sorted(&ran.ended("ran")), ["alarm", "down", "up"], "round {round}");
    }
    let mut log = space.lines("log");
    log[2..4].sort_unstable();
    assert_eq!(log[..4], ["up", "test", "alarm", "down"]);
    std::fs::write(space.beside("good"), "").expect("is written");
    let ran = space.build(&["ci"]);
    assert_eq!((ran.output.status, sorted(&ran.ended("ran"))), (0, vec!["down", "report", "test", "up"]));
    let unmet = ran.events.iter().find(|e| e["end"] == "unmet").expect("one has nothing to do");
    assert_eq!((&unmet["task"], &unmet["reason"]), (&"alarm".into(), &"nothing that it comes after failed".into()));
    // Cleaning up is not what a receipt could stand for.
    let ran = space.build(&["ci"]);
    assert_eq!((ran.ended("ran").as_str(), ran.count("unmet")), ("down", 1));
    let text = space.ok(&["run", "ci"]).stderr;
    assert!(text.contains("skipped alarm: nothing that it comes after failed"), "{text}");
}

#[test]
fn who_cleans_up_runs_when_people_end_the_run_and_not_when_they_do_so_twice() {
    let hang = CLEANED.replace("test -e ../good", "trap '' TERM; echo > ../hangs; while sleep 0.05; do :; done");
    for times in 1..=2 {
        let hang = if times == 1 { hang.replace("trap '' TERM; ", "") } else { hang.clone() };
        let space = TestSpace::new(&hang);
        let mut running = space.start(&["ci"]);
        running.wait_for("task-started", "test");
        wait_until("it hangs", || !space.lines("hangs").is_empty());
        // Two of a kind may arrive as one.
        [Signal::INT, Signal::TERM][..times].iter().for_each(|signal| running.signal(*signal));
        let ran = running.end();
        assert_eq!(ran.output.status, 130);
        let down = if times == 1 { "up down" } else { "up" };
        assert_eq!((ran.ended("ran").as_str(), ran.count("failed")), (down, 0), "{times} times");
    }
}

#[test]
fn who_cleans_up_already_is_not_ended_by_the_first_wish_to_stop() {
    let space = TestSpace::new(&CLEANED.replace("echo down >>", "echo > ../cleans; sleep 0.2; echo down >>"));
    let running = space.start(&["ci"]);
    wait_until("it cleans up", || !space.lines("cleans").is_empty());
    running.signal(Signal::INT);
    let ran = running.end();
    assert_eq!(ran.output.status, 130);
    assert!(sorted(&ran.ended("ran")).contains(&"down"), "{:?}", ran.events);
    assert!(space.lines("log").contains(&"down".to_owned()));
}

#[test]
fn conditions_that_say_nothing_are_errors() {
    let space = TestSpace::new(
        "[task.a]\nrun = 'x'\nwhen = 'always'\n[task.b]\nrun = 'x'\nafter = 'a'\nwhen = 'never'\n\
         [task.c]\nrun = 'x'\nafter = 'a'\nwhen = 'failure'\ncache = true\n[task.d]\nrun = 'x'\nbackoff = 1\n",
    );
    let output = space.run(&["plan"]);
    assert_eq!(output.status, 2);
    for message in [
        "task `a` has `when`, but comes after no task",
        "`when` of task `b` looks at `never`, which is not defined",
        "task `c` runs on `failure`, and is to be cached",
        "task `d` has `backoff`, but is never tried again",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}
