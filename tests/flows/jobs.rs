//! `-j`: never more processes of tasks at once than that, in which order, and what happens to tasks that were got ready and
//! do not begin.

use std::fmt::Write as _;

use crate::kit::{TestSpace, has_ns, wait_until};

/// Each notes in its output when it began and when it ended: `w` takes two jobs, `g` the one `gpu`, `s` has two steps.
fn clocked(sandbox: &str) -> String {
    let mut text = format!("[workspace]\nsandbox = \"{sandbox}\"\n");
    for n in 0..8 {
        for (kind, more) in [("a", ""), ("w", "slots = 2\n"), ("g", "slots = { gpu = 1 }\n"), ("s", "")] {
            let note = format!("date +%s%N >> {kind}{n}");
            let work = match kind {
                "s" => format!("steps = ['{note}; sleep 0.02', '{note}']"),
                _ => format!("run = '{note}; sleep 0.02; {note}'"),
            };
            let _ = writeln!(text, "[task.{kind}{n}]\n{work}\ninputs = []\noutputs = ['{kind}{n}']\n{more}");
        }
    }
    text
}

/// The most that ran at once, each task counted as often as `weight` says.
fn most_at_once(space: &TestSpace, weight: impl Fn(&str) -> i32) -> i32 {
    let mut changes = vec![];
    for kind in ["a", "w", "g", "s"] {
        for n in 0..8 {
            let name = format!("{kind}{n}");
            let times: Vec<u64> = space.read(&name).lines().map(|l| l.parse().expect("a time")).collect();
            let [began, ended] = times[..] else { panic!("{name}: {times:?}") };
            changes.extend([(began, weight(kind)), (ended, -weight(kind))]);
        }
    }
    changes.sort_unstable();
    let mut now = 0;
    changes
        .iter()
        .map(|(_, change)| {
            now += change;
            now
        })
        .max()
        .unwrap_or(0)
}

#[test]
fn no_more_processes_run_at_once_than_jobs_and_named_slots_allow() {
    for sandbox in ["none", "ns"] {
        for jobs in 1..=3 {
            if sandbox == "ns" && !has_ns() {
                continue;
            }
            let space = TestSpace::new(&clocked(sandbox));
            assert_eq!(space.build_twice(&[&format!("-j{jobs}")]).count("ran"), 32);
            let wide = |kind: &str| if kind == "w" { jobs.min(2) } else { 1 };
            let most = most_at_once(&space, wide);
            assert!(most <= jobs, "{most} at once with -j{jobs} in {sandbox}");
            assert!(most_at_once(&space, |kind| i32::from(kind == "g")) <= 1, "one gpu");
        }
    }
}

/// `fails` goes on until nobody holds it up; the other two could start at any time. It is what took longest, and goes first.
fn failing(salt: &str) -> String {
    let task = |name: &str, run: &str| {
        format!("[task.{name}]\nrun = '{run}'\ninputs = []\noutputs = ['{name}.out']\nenv = {{ SALT = '{salt}' }}\n")
    };
    let fails = "echo > ../there; until test -e ../go; do sleep 0.01; done; echo fails >> ../ran; test -e ../well && sleep 2 && touch fails.out";
    let other = |name: &str| task(name, &format!("echo {name} >> ../ran; echo {salt} > {name}.out"));
    format!("[workspace]\nsandbox = \"none\"\n{}{}{}", task("fails", fails), other("one"), other("two"))
}

#[test]
fn what_was_got_ready_does_not_begin_after_a_failure_and_loses_nothing() {
    let space = TestSpace::new(&failing("first"));
    let touch = |name: &str| std::fs::write(space.beside(name), "").expect("is written");
    touch("go");
    touch("well");
    space.build_twice(&["-j1"]);
    assert_eq!(space.lines("ran"), ["fails", "one", "two"]);
    for name in ["go", "well", "ran"] {
        std::fs::remove_file(space.beside(name)).expect("is removed");
    }
    space.write("quipu.toml", &failing("second"));
    let mut running = space.start(&["-j1"]);
    running.wait_for("task-started", "fails");
    touch("go");
    let ran = running.end();
    assert_eq!(ran.output.status, 1, "{}", ran.output.stderr);
    assert_eq!((ran.ended("failed"), ran.count("cancelled")), ("fails".to_owned(), 2), "{:?}", ran.events);
    assert_eq!(ran.started(), "fails", "nobody is told that what only waited runs");
    assert_eq!(space.lines("ran"), ["fails"]);
    assert_eq!(space.read("one.out"), "first\n", "what has not begun has cleared nothing away");
    let ran = space.build(&["-j1", "--keep-going"]);
    assert_eq!((ran.ended("failed"), ran.ran()), ("fails".to_owned(), "one two".to_owned()));
    assert_eq!(space.read("one.out"), "second\n");
}

#[test]
fn what_was_got_ready_does_not_begin_when_people_stop_the_run() {
    let space = TestSpace::new(&failing("once"));
    let mut running = space.start(&["-j1"]);
    running.wait_for("task-started", "fails");
    wait_until("the process is there", || space.beside("there").exists());
    running.signal(rustix::process::Signal::INT);
    let ran = running.end();
    assert_eq!((ran.output.status, ran.started(), ran.count("cancelled")), (130, "fails".to_owned(), 3));
    assert!(space.lines("ran").is_empty());
}

#[test]
fn one_job_at_a_time_gives_the_same_order_every_time() {
    let mut text = "[workspace]\nsandbox = \"none\"\n".to_owned();
    for n in 0..16 {
        // Short ones and longer ones, some of which others need.
        let inputs = if n < 6 { String::new() } else { format!("'t{}.out', 't{}.out'", n - 6, (n * 5) % 6) };
        let run = format!("echo t{n} >> ../ran; sleep 0.0{}; echo {n} > t{n}.out", n % 3);
        let _ = writeln!(text, "[task.t{n}]\nrun = \"{run}\"\ninputs = [{inputs}]\noutputs = ['t{n}.out']");
    }
    let order = || {
        let space = TestSpace::new(&text);
        space.build_twice(&["-j1"]);
        space.lines("ran")
    };
    let first = order();
    assert_eq!(first.len(), 16);
    for _ in 0..4 {
        assert_eq!(order(), first);
    }
}

#[test]
fn the_time_of_a_task_begins_when_it_does() {
    let long = "[task.long]\nrun = 'sleep 2.2'\ninputs = []\n";
    let short = "[task.short]\nrun = 'true'\ninputs = []\ntimeout = '2s'\n";
    let space = TestSpace::new(&format!("[workspace]\nsandbox = \"none\"\n{long}{short}"));
    let ran = space.build_twice(&["-j1"]);
    assert_eq!((ran.started(), ran.count("ran")), ("long short".to_owned(), 2));
    let told = |event: &str| {
        let of_short = |e: &&serde_json::Value| e["event"] == event && e["task"] == "short";
        ran.events.iter().find(of_short).expect("was told")
    };
    assert!(told("task-started")["at"].as_u64() >= Some(2_200), "it began when the first had ended");
    assert!(told("task-ended")["wall_ms"].as_u64() < Some(2_000), "it did not wait in its own time");
}
