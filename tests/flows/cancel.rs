//! Ctrl-C and SIGTERM: once to end in order, twice to end at once.

use rustix::process::Signal;

use crate::kit::{TestSpace, wait_until};

/// `first` is done at once; `slow` goes on as long as somebody holds it up.
const HELD: &str = r#"
[workspace]
sandbox = "none"

[task.first]
run = "echo first >> ../ran; echo first > first.out"
inputs = []
outputs = ["first.out"]

[task.slow]
run = "cat first.out; echo $$ > ../pid; while test -e ../hold; do sleep 0.01; done; echo done > slow.out"
inputs = ["first.out"]
outputs = ["slow.out"]

[task.last]
run = "cat slow.out"
inputs = ["slow.out"]
"#;

fn held(workfile: &str) -> TestSpace {
    let space = TestSpace::new(workfile);
    std::fs::write(space.beside("hold"), "").expect("is written");
    space
}

fn is_running(space: &TestSpace) -> bool {
    std::path::Path::new(&format!("/proc/{}/exe", space.lines("pid").concat())).exists()
}

#[test]
fn one_signal_ends_in_order_and_keeps_what_is_done() {
    for signal in [Signal::INT, Signal::TERM] {
        let space = held(HELD);
        let mut running = space.start(&[]);
        running.wait_for("task-started", "slow");
        wait_until("the process is there", || !space.lines("pid").is_empty());
        running.signal(signal);
        let ran = running.end();
        assert_eq!(ran.output.status, 130, "{}", ran.output.stderr);
        assert_eq!((ran.count("ran"), ran.count("cancelled"), ran.count("failed")), (1, 2, 0));
        assert!(!is_running(&space), "what ran is ended");
        assert!(!space.exists("slow.out"));
        let log = space.ok(&["log", "slow"]);
        assert_eq!(log.stdout, "first\n", "what it had printed");
        assert!(log.stderr.starts_with("`slow` left no receipt in run ") && log.stderr.ends_with(": it was stopped\n"));
        std::fs::remove_file(space.beside("hold")).expect("is removed");
        assert_eq!(space.build_twice(&[]).ran(), "last slow");
        assert_eq!(space.lines("ran"), ["first"]);
        assert_eq!(space.ok(&["log", "slow"]).shown(), "first\n", "it has a receipt now");
    }
}

#[test]
fn what_is_ended_is_told_with_what_it_printed() {
    let space = held(HELD);
    let child = space.command(&["run"]).stderr(std::process::Stdio::piped()).spawn().expect("starts");
    wait_until("the process is there", || !space.lines("pid").is_empty());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("is one");
    rustix::process::kill_process(pid, Signal::INT).expect("is there");
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    let told = said.split_once("\ncancelled slow (").expect("is told").1;
    assert_eq!(told.lines().nth(1), Some("    first"), "{said}");
    assert!(!said.contains("cancelled last"), "what never began is not: {said}");
}

#[test]
fn a_second_signal_ends_what_does_not_listen() {
    let deaf = HELD.replace("cat first.out; echo $$", "trap '' TERM INT; cat first.out; echo $$");
    let space = held(&deaf);
    let mut running = space.start(&[]);
    running.wait_for("task-started", "slow");
    wait_until("the process is there", || !space.lines("pid").is_empty());
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    let ran = running.end();
    assert_eq!((ran.output.status, ran.count("cancelled")), (130, 2));
    assert!(!is_running(&space));
}

#[test]
fn a_signal_before_anything_runs_leaves_nothing_behind() {
    let space = held(HELD);
    let running = space.start(&[]);
    running.signal(Signal::TERM);
    running.end();
    std::fs::remove_file(space.beside("hold")).expect("is removed");
    assert_eq!(space.build_twice(&[]).output.status, 0);
    assert_eq!(space.read("slow.out"), "done\n");
}
