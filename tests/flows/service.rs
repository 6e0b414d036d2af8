//! Services: processes that run while the tasks that need them do, and not a moment longer.

use std::path::Path;

use rustix::process::Signal;

use crate::kit::{TestSpace, needs_ns, needs_programs, wait_until};

/// `db` is ready a while after it was started, and starts a process that leaves its group. Two tasks use it, and say whether it is
/// there; both go on as long as somebody holds them up.
const SHARED: &str = r#"
[workspace]
sandbox = "none"

[task.db]
steps = [
  "rm -f ready",
  "echo started >> ../starts; echo $$ >> ../pids; setsid sh -c 'echo $$ >> ../pids; exec sleep 300' & sleep 0.1; echo up > ready; echo serving; wait",
]
inputs = ["db.conf"]
service = { file = "ready", interval = "10ms" }

[task.first]
run = "cat ready > first.out; while test -e ../hold; do sleep 0.01; done"
inputs = []
needs = ["db"]
outputs = ["first.out"]

[task.second]
run = "cat ready > second.out"
inputs = ["second.in"]
needs = ["db"]
outputs = ["second.out"]
"#;

fn space(workfile: &str) -> TestSpace {
    let space = TestSpace::new(workfile);
    space.write("db.conf", "1\n");
    space.write("second.in", "1\n");
    space
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Everything that the service ever started is gone.
fn assert_gone(space: &TestSpace, processes: usize) {
    let pids = space.lines("pids");
    assert_eq!(pids.len(), processes, "{pids:?}");
    wait_until("all that was started has ended", || !pids.iter().any(|pid| is_alive(pid)));
}

#[test]
fn one_instance_serves_all_that_need_it_and_is_started_for_them_alone() {
    let space = space(SHARED);
    let ran = space.build_twice(&["first", "second"]);
    assert_eq!(ran.ran(), "db first second");
    assert_eq!((space.read("first.out"), space.read("second.out")), ("up\n".into(), "up\n".into()));
    assert_eq!(space.lines("starts").len(), 1);
    assert_gone(&space, 2);
    let at = |event: &str, task: &str| ran.events.iter().position(|e| e["event"] == event && e["task"] == task);
    assert!(at("task-ready", "db") < at("task-started", "first"), "nobody starts before it is ready");
    assert!(at("task-ended", "second") < at("task-ended", "db"), "it is there until the last has ended");
    // One of them has to run again: the other, and the service before it is needed, are left alone.
    space.write("second.in", "2\n");
    assert_eq!(space.build_twice(&["first", "second"]).ran(), "db second");
    // What the service is counts for those that need it.
    space.write("db.conf", "2\n");
    assert_eq!(space.build_twice(&["first", "second"]).ran(), "db first second");
    assert_gone(&space, 6);
    assert_eq!(space.ok(&["log", "db"]).stdout, "serving\n");
}

#[test]
fn without_a_goal_nobody_starts_it_and_alone_it_is_tried() {
    let space = space(SHARED);
    assert_eq!(space.ok(&["ready"]).stdout, "first\nsecond\n", "nobody hands a service out");
    assert_eq!(space.build(&[]).ran(), "db first second");
    space.nothing_to_do(&[]);
    assert_eq!(space.build(&["db"]).ran(), "db");
    assert_gone(&space, 4);
}

#[test]
fn it_holds_no_slot() {
    assert_eq!(space(SHARED).build_twice(&["-j1", "first", "second"]).ran(), "db first second");
}

#[test]
fn it_is_ended_when_a_task_fails() {
    let space = space(&SHARED.replace("cat ready > second.out", "cat ready; exit 3"));
    let ran = space.build(&["second"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str(), ran.ran().as_str()), (1, "second", "db"));
    assert_gone(&space, 2);
}

#[test]
fn it_is_ended_after_those_that_need_it_when_the_run_is_stopped() {
    for signals in [&[Signal::INT][..], &[Signal::INT, Signal::INT]] {
        let space = space(SHARED);
        std::fs::write(space.beside("hold"), "").expect("is written");
        let mut running = space.start(&["first"]);
        running.wait_for("task-started", "first");
        signals.iter().for_each(|signal| running.signal(*signal));
        let ran = running.end();
        assert_eq!((ran.output.status, ran.ended("cancelled").as_str()), (130, "first"), "{:?}", ran.events);
        assert_gone(&space, 2);
    }
}

#[test]
fn it_does_not_outlive_a_quipu_that_is_killed() {
    let space = space(SHARED);
    std::fs::write(space.beside("hold"), "").expect("is written");
    let mut running = space.start(&["first"]);
    running.wait_for("task-started", "first");
    running.signal(Signal::KILL);
    running.end();
    assert_gone(&space, 2);
    std::fs::remove_file(space.beside("hold")).expect("is removed");
    assert_eq!(space.build_twice(&["first"]).ran(), "db first");
    assert_gone(&space, 4);
}

#[test]
fn what_never_becomes_ready_is_ended_with_its_log_and_those_that_need_it_are_skipped() {
    let late = SHARED
        .replace("echo up > ready; echo serving", "echo not yet")
        .replace("\"10ms\" }", "\"10ms\" }\ntimeout = \"300ms\"");
    let space = space(&late);
    let ran = space.build(&["first"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str(), ran.ended("skipped").as_str()), (1, "db", "first"));
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    assert_eq!((&failed["failure"], ran.count("ran")), (&"timeout".into(), 0));
    assert_gone(&space, 2);
    let shown = space.run(&["run", "first"]).stderr;
    assert!(shown.contains("not yet") && shown.contains("skipped first: `db` did not succeed"), "{shown}");
    assert!(space.ok(&["log", "db"]).stdout.contains("not yet"));
}

#[test]
fn what_ends_by_itself_fails_those_that_need_it_and_shows_its_log() {
    let space =
        space(&SHARED.replace("; wait\",", "; while test -e ../hold; do sleep 0.01; done; echo giving up; exit 4\","));
    std::fs::write(space.beside("hold"), "").expect("is written");
    let workfile = space
        .read("quipu.toml")
        .replace("while test -e ../hold; do sleep 0.01; done\"\ninputs = []", "rm ../hold; sleep 300\"\ninputs = []");
    space.write("quipu.toml", &workfile);
    let output = space.run(&["run", "-k", "first"]);
    assert_eq!(output.status, 1);
    for text in
        ["failed db", "exit code 4", "giving up", "failed first", "service `db` ended while it ran: exit code 4"]
    {
        assert!(output.stderr.contains(text), "{text} in {}", output.stderr);
    }
    assert_gone(&space, 2);
}

#[test]
fn what_is_there_before_it_is_started_is_not_taken_for_it() {
    let space = space(&SHARED.replace("  \"rm -f ready\",\n", ""));
    space.write("ready", "somebody else's\n");
    let ran = space.build(&["first"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str(), ran.ended("skipped").as_str()), (1, "db", "first"));
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    assert!(
        failed["reason"].as_str().is_some_and(|r| r.contains("`ready` is there before the service is started")),
        "{failed}"
    );
    assert!(space.lines("starts").is_empty());
}

#[test]
fn it_stays_for_what_cleans_up_and_comes_again_for_who_is_tried_again() {
    let space = space(
        &(SHARED
            .replace(
                "cat ready > second.out",
                "cat ready; test -e ../again || { touch ../again; exit 1; }; cat ready > second.out",
            )
            .replace(
                "needs = [\"db\"]\noutputs = [\"second.out\"]",
                "needs = [\"db\"]\noutputs = [\"second.out\"]\nretries = 1\nbackoff = \"20ms\"",
            )
            + "\n[task.dump]\nrun = \"cat ready > ../dump\"\ninputs = []\nneeds = [\"db\"]\nafter = [\"second\"]\nwhen = \"always\"\n"),
    );
    let ran = space.build(&["second", "dump"]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "db dump second"), "{:?}", ran.events);
    assert_eq!((space.lines("dump").concat().as_str(), space.lines("starts").len()), ("up", 1));
}

/// An echo server, in words that every system has.
const ECHO: &str = r#"
use strict; use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 5, ReuseAddr => 1) or die "bind: $!";
while (my $client = $server->accept) { my $line = <$client>; print $client "HTTP/1.0 200 OK\r\n\r\n$ARGV[1]: $line" if defined $line; close $client }
"#;
const ASK: &str = r#"
use strict; use IO::Socket::INET;
my $server = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $ARGV[0]) or die "connect: $!\n";
print $server "hello\n"; local $/; print <$server>;
"#;

const NETWORK: &str = r#"
[task.low]
run = ["perl", "echo.pl", "8765", "low"]
inputs = ["echo.pl"]
service = { tcp = "127.0.0.1:8765", interval = "10ms" }

[task.high]
run = ["perl", "echo.pl", "8766", "high"]
inputs = ["echo.pl"]
needs = ["low"]
service = { http = "http://127.0.0.1:8766/", interval = "10ms" }

[task.use]
run = "perl ask.pl 8766 > used.txt; perl ask.pl 8765 >> used.txt"
inputs = ["ask.pl"]
needs = ["high", "low"]
outputs = ["used.txt"]

[task.stranger]
run = "! perl ask.pl 8765 2> /dev/null; echo nobody > stranger.txt"
inputs = ["ask.pl"]
after = ["low"]
outputs = ["stranger.txt"]

[task.twin]
run = ["perl", "echo.pl", "8765", "twin"]
inputs = ["echo.pl"]
service = { command = "perl ask.pl 8765", interval = "10ms" }

[task.use-twin]
run = "perl ask.pl 8765 > twin.txt"
inputs = ["ask.pl"]
needs = ["twin"]
outputs = ["twin.txt"]
"#;

fn network() -> Option<TestSpace> {
    if !needs_ns() || !needs_programs(&["perl"]) {
        return None;
    }
    let space = TestSpace::new(&NETWORK.replace(
        "inputs = [\"echo.pl\"]\nservice = { command",
        "inputs = [\"echo.pl\", \"ask.pl\"]\nservice = { command",
    ));
    space.write("echo.pl", ECHO);
    space.write("ask.pl", ASK);
    Some(space)
}

#[test]
fn services_and_those_that_need_them_have_a_network_of_their_own() {
    let Some(space) = network() else { return };
    // Two services on one port do not meet, and nobody reaches what he does not need.
    let ran = space.build_twice(&["-j4"]);
    assert_eq!(ran.ran(), "high low stranger twin use use-twin");
    assert_eq!(
        space.read("used.txt").replace('\r', ""),
        "HTTP/1.0 200 OK\n\nhigh: hello\nHTTP/1.0 200 OK\n\nlow: hello\n"
    );
    assert!(space.read("twin.txt").ends_with("twin: hello\n"));
    assert_eq!(space.read("stranger.txt"), "nobody\n");
}

#[test]
fn two_runs_at_once_do_not_meet() {
    let Some(space) = network() else { return };
    let other = network().expect("as before");
    for space in [&space, &other] {
        space.edit("quipu.toml", "perl ask.pl 8766 > used.txt", "sleep 0.5; perl ask.pl 8766 > used.txt");
    }
    let runs: Vec<_> = [&space, &other].map(|space| space.start(&["use"])).into_iter().collect();
    for run in runs {
        let ran = run.end();
        assert_eq!((ran.output.status, ran.ran().as_str()), (0, "high low use"), "{:?}", ran.events);
    }
}

#[test]
fn a_change_of_the_service_of_a_service_runs_those_that_need_it_again() {
    let Some(space) = network() else { return };
    space.build_twice(&["use"]);
    space.edit("quipu.toml", "\"8765\", \"low\"", "\"8765\", \"lower\"");
    assert_eq!(space.build_twice(&["use"]).ran(), "high low use");
}

#[test]
fn what_cannot_be_a_service_or_reach_one_is_an_error() {
    let space = TestSpace::new(
        "[task.db]\nrun = 'x'\ninputs = []\nservice = { tcp = 'localhost:1' }\n\
         [task.net]\nrun = 'x'\ninputs = []\nnetwork = true\nneeds = ['db']\n\
         [task.here]\nrun = 'x'\ninputs = []\nsandbox = 'none'\nneeds = ['db']\n\
         [task.wait]\nwait = { file = 'x' }\nafter = ['db']\n\
         [task.away]\nexternal = true\nneeds = ['db']\n\
         [task.made]\nrun = 'x'\ninputs = []\nservice = { file = 'x' }\noutputs = ['y']\ncache = true\n\
         [task.many]\nrun = 'x'\ninputs = []\nservice = { file = 'x', tcp = 'localhost:1' }\n\
         [task.none]\nservice = { file = 'x' }\n\
         [task.late]\nrun = 'x'\ninputs = []\nafter = ['net']\nwhen = 'failure'\nservice = { file = 'x' }\n\
         [task.says]\nrun = 'echo {{needs.db.stdout}}'\ninputs = []\n",
    );
    let output = space.run(&["plan"]);
    for message in [
        "task `made` is a service, and has `outputs`",
        "task `made` is a service, and has `cache`",
        "`service` of task `many` is for 2 things",
        "task `none` has `service` but no `run`",
        "task `late` is a service, and is to run on `failure`",
        "task `says` takes what `db` prints, which is a service",
        "task `net` needs the service `db` and cannot reach it: it has the network of the machine, the service the network of services",
        "task `here` needs the service `db` and cannot reach it",
        "task `away` is done elsewhere, and needs the service `db`",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}
