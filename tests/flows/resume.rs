//! After failures and kills: what is done stays done, and nothing half done counts.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use rustix::process::Signal;

use crate::kit::TestSpace;

/// `good` and `slow` stand beside `bad`, `after` behind it. Whether `bad` fails is decided beside the workspace.
const FAILING: &str = r#"
[workspace]
sandbox = "none"

[task.bad]
run = "echo complaint >&2; test -e ../fixed && echo ok > bad.out"
inputs = []
outputs = ["bad.out"]

[task.after]
run = "cat bad.out"
inputs = ["bad.out"]

[task.good]
run = "echo good > good.out"
inputs = []
outputs = ["good.out"]
"#;

#[test]
fn t17_with_keep_going_siblings_finish_and_dependents_are_skipped() {
    let space = TestSpace::new(FAILING);
    let ran = space.build(&["--keep-going"]);
    assert_eq!(ran.output.status, 1);
    let ends = [ran.ended("ran"), ran.ended("failed"), ran.ended("skipped")];
    assert_eq!(ends, ["good", "bad", "after"]);
    let skipped = ran.events.iter().find(|e| e["end"] == "skipped").expect("is told");
    assert_eq!(skipped["reason"], "`bad` did not succeed");
    // A failure settles nothing: it runs again, and what was good stays.
    std::fs::write(space.beside("fixed"), "").expect("is written");
    assert_eq!(space.build_twice(&[]).ran(), "after bad");
}

#[test]
fn t18_without_it_nothing_new_starts_and_what_runs_is_ended_with_all_it_started() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.slow]
        run = "sh -c 'echo $$ > ../pid; exec sleep 600' & wait"
        inputs = []
        [task.bad]
        run = "while ! test -s ../pid; do sleep 0.01; done; exit 3"
        inputs = []
        [task.late]
        run = "echo late"
        inputs = []
        "#,
    );
    let ran = space.build(&["--jobs=2"]);
    assert_eq!(ran.output.status, 1);
    assert_eq!((ran.ended("failed").as_str(), ran.count("ran")), ("bad", 0));
    assert!(ran.ended("cancelled").contains("slow"), "{:?}", ran.events);
    let pid = space.lines("pid").concat();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "what the task started is gone, too");
    let recorded: Vec<_> = ran.events.iter().filter(|e| e["event"] == "recorded").map(|e| &e["task"]).collect();
    assert_eq!(recorded, ["bad"], "no receipt for a task that was ended");
}

#[test]
fn what_a_failed_task_printed_is_there_to_be_read() {
    let space = TestSpace::new(FAILING);
    assert_eq!(space.run(&["run", "bad"]).status, 1);
    let log = space.ok(&["log", "bad"]);
    assert_eq!((log.stdout.as_str(), log.stderr.as_str()), ("", "complaint\n"));
    let plan = space.ok(&["plan", "bad"]).stdout;
    assert!(plan.contains("it failed the last time: exit code 1"), "{plan}");
}

#[test]
fn t27_a_task_that_is_never_cached_runs_each_time_but_not_twice_in_a_run_that_was_killed_and_resumed() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.always]
        run = "echo always >> ../ran; cat in > out"
        inputs = ["in"]
        outputs = ["out"]
        cache = false
        [task.slow]
        run = "cat out; while test -e ../hold; do sleep 0.01; done"
        inputs = ["out"]
        "#,
    );
    space.write("in", "1");
    std::fs::write(space.beside("hold"), "").expect("is written");
    let mut killed = space.start(&[]);
    killed.wait_for("recorded", "always");
    killed.signal(Signal::KILL);
    killed.end();
    std::fs::remove_file(space.beside("hold")).expect("is removed");
    let resumed = space.build(&[]);
    assert_eq!((resumed.output.status, resumed.ran().as_str()), (0, "slow"), "goes on where it was");
    assert_eq!(space.build(&[]).ran(), "always", "a new run does it again, and ends there");
    assert_eq!(space.lines("ran").len(), 2);
}

#[test]
fn a_task_that_is_never_cached_runs_in_each_of_two_runs_at_once() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.always]
        run = "echo always >> ../ran"
        inputs = []
        cache = false
        [task.slow]
        run = "while test -e ../hold; do sleep 0.01; done"
        inputs = []
        "#,
    );
    std::fs::write(space.beside("hold"), "").expect("is written");
    let mut first = space.start(&["always", "slow"]);
    first.wait_for("recorded", "always");
    // What another run does is not of this one's session, whatever its goals are.
    assert_eq!(space.build(&["always"]).ran(), "always", "other goals");
    let mut second = space.start(&["slow", "always"]);
    second.wait_for("recorded", "always");
    assert_eq!(space.lines("ran").len(), 3, "the same goals");
    second.signal(Signal::KILL);
    second.end();
    first.signal(Signal::KILL);
    first.end();
    std::fs::remove_file(space.beside("hold")).expect("is removed");
    // Nobody took away what the first left to go on with.
    assert_eq!(space.build(&["slow", "always"]).ran(), "slow");
    assert_eq!(space.build(&["slow", "always"]).ran(), "always");
    assert_eq!(space.lines("ran").len(), 4);
}

#[test]
fn a_run_in_which_nothing_is_done_takes_no_lock_for_what_is_never_cached() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = 'none'\n[task.t]\nrun = 'true'\ninputs = []\n\
         [task.mourns]\nrun = 'true'\ninputs = []\nafter = ['t']\nwhen = 'failure'\n",
    );
    assert_eq!(space.build(&[]).ran(), "t");
    let locks = || std::fs::metadata(space.store().join("locks")).expect("is there").modified().expect("is known");
    let before = locks();
    assert_eq!(space.build(&[]).ran(), "");
    assert_eq!(locks(), before);
}

/// Twelve tasks in three layers, each of which writes down that it ran.
fn layers() -> String {
    let mut text = "[workspace]\n".to_owned();
    for layer in 0..3 {
        for n in 0..4 {
            let inputs = match layer {
                0 => "\"in\"".to_owned(),
                _ => format!("\"o/{}{n}\", \"o/{}{}\"", layer - 1, layer - 1, (n + 1) % 4),
            };
            let files = inputs.replace(['"', ','], "");
            let _ = write!(
                text,
                "[task.t{layer}{n}]\nrun = \"cat {files} > o/{layer}{n}; sleep 0.01; echo {layer}{n} >> o/{layer}{n}\"\n\
                 inputs = [{inputs}]\noutputs = [\"o/{layer}{n}\"]\n"
            );
        }
    }
    text
}

#[test]
fn t25_killed_at_any_moment_nothing_recorded_is_lost_and_nothing_half_done_counts() {
    let undisturbed = TestSpace::new(&layers());
    undisturbed.write("in", "in\n");
    undisturbed.build_twice(&[]);

    // A number that differs from run to run of the test is no part of what is asserted.
    let mut random = std::process::id();
    let mut kills = 0;
    while kills < 30 {
        let space = TestSpace::new(&layers());
        space.write("in", "in\n");
        let mut recorded = BTreeSet::new();
        let mut done = false;
        for _ in 0..10 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let running = space.start(&["--jobs=4"]);
            std::thread::sleep(Duration::from_millis(u64::from(random >> 16) % 120));
            running.signal(Signal::KILL);
            kills += 1;
            let ran = running.end();
            for again in ran.ended("ran").split_whitespace() {
                assert!(!recorded.contains(again), "{again} ran again although it had a receipt");
            }
            let now = ran.events.iter().filter(|e| e["event"] == "recorded").filter_map(|e| e["task"].as_str());
            recorded.extend(now.map(str::to_owned));
            done = ran.events.last().is_some_and(|e| e["event"] == "summary");
            if done || kills >= 30 {
                break;
            }
        }
        let last = space.build(&[]);
        assert_eq!(last.output.status, 0, "{}", last.output.stderr);
        assert!(!done || last.ran().is_empty());
        for again in last.ended("ran").split_whitespace() {
            assert!(!recorded.contains(again), "{again} ran again although it had a receipt");
        }
        for name in ["20", "21", "22", "23"] {
            let path = format!("o/{name}");
            assert_eq!(space.read(&path), undisturbed.read(&path));
        }
        space.nothing_to_do(&[]);
        assert_eq!(space.run(&["verify"]).status, 0);
    }
}
