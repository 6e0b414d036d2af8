//! Several processes at once in one workspace and one store.

use std::fmt::Write as _;

use rustix::process::Signal;

use crate::kit::TestSpace;

fn workfile() -> String {
    let mut text = "[workspace]\nsandbox = \"none\"\n".to_owned();
    for n in 0..6 {
        let _ = write!(
            text,
            "[task.t{n}]\nrun = \"echo t{n} >> ../ran; sleep 0.02; cat in > o/{n}\"\ninputs = [\"in\"]\noutputs = [\"o/{n}\"]\n"
        );
    }
    text + "[task.all]\nrun = \"echo all >> ../ran; cat o/*\"\nneeds = [\"t?\"]\ninputs = []\n"
}

#[test]
fn t24_two_runs_at_once_run_each_task_once() {
    for _ in 0..4 {
        let space = TestSpace::new(&workfile());
        space.write("in", "1");
        let runs = [space.start(&["--jobs=2"]), space.start(&["--jobs=2"])];
        for run in runs.map(crate::kit::Running::end) {
            assert_eq!(run.output.status, 0, "{:?}{}", run.events, run.output.stderr);
        }
        let mut ran = space.lines("ran");
        ran.sort_unstable();
        assert_eq!(ran, ["all", "t0", "t1", "t2", "t3", "t4", "t5"]);
        space.nothing_to_do(&[]);
    }
}

#[test]
fn t24_the_death_of_one_frees_the_other() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.slow]
        run = "echo slow >> ../ran; while test -e ../hold; do sleep 0.01; done; echo done > out"
        inputs = []
        outputs = ["out"]
        "#,
    );
    std::fs::write(space.beside("hold"), "").expect("is written");
    let mut first = space.start(&[]);
    first.wait_for("task-started", "slow");
    crate::kit::wait_until("it runs", || space.lines("ran").len() == 1);
    let mut second = space.start(&[]);
    second.wait_for("task-started", "slow");
    assert_eq!(space.lines("ran").len(), 1, "the second waits");
    first.signal(Signal::KILL);
    first.end();
    crate::kit::wait_until("the second runs", || space.lines("ran").len() == 2);
    std::fs::remove_file(space.beside("hold")).expect("is removed");
    let ran = second.end();
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "slow"));
    space.nothing_to_do(&[]);
}

#[test]
fn who_only_reads_is_not_kept_waiting_by_a_run() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.first]
        run = "echo first"
        inputs = []
        [task.slow]
        run = "while test -e ../hold; do sleep 0.01; done"
        inputs = []
        needs = ["first"]
        "#,
    );
    std::fs::write(space.beside("hold"), "").expect("is written");
    let mut running = space.start(&[]);
    running.wait_for("recorded", "first");
    let plan = space.json(&["plan", "--json"]);
    assert_eq!((&plan["tasks"][0]["status"], &plan["tasks"][1]["status"]), (&"cached".into(), &"certain".into()));
    for args in
        [&["log"][..], &["log", "first"], &["explain", "first"], &["list"], &["verify", "--quick"], &["gc", "-n"]]
    {
        space.ok(args);
    }
    std::fs::remove_file(space.beside("hold")).expect("is removed");
    assert_eq!(running.end().output.status, 0);
}

#[test]
fn two_workspaces_with_equal_content_share_their_work() {
    let first = TestSpace::new(&workfile());
    first.write("in", "1");
    first.build_twice(&[]);
    // Another directory, the same store.
    crate::kit::copy(&first.path(""), &first.beside("other"));
    std::fs::remove_dir_all(first.beside("other/o")).expect("is removed");
    let other = first.beside("other");
    let run = first.ok(&["-C", other.to_str().expect("text"), "run"]);
    assert_eq!(run.stderr, "nothing to do: 7 tasks are up to date\n");
    assert_eq!(std::fs::read_to_string(other.join("o/3")).expect("is put there"), "1");
}

/// `c` reads what `p` made, in two halves; `d` reads it, too, when `e` has ended.
const SHARED: &str = r#"
    [workspace]
    sandbox = "none"
    [task.p]
    run = "echo p >> ../ran; head -c 30000 /dev/zero > out/p; sleep 0.2; echo end >> out/p"
    inputs = []
    outputs = ["out/p"]
    [task.e]
    run = "until test -e ../go-e; do sleep 0.01; done"
    inputs = []
    [task.c]
    run = "head -c 9 out/p > out/c; until test -e ../go-c; do sleep 0.01; done; cat out/p >> out/c"
    inputs = ["out/p"]
    outputs = ["out/c"]
    [task.d]
    run = "wc -c < out/p > out/d"
    needs = ["e"]
    inputs = ["out/p"]
    outputs = ["out/d"]
"#;

fn go(space: &TestSpace, name: &str) {
    std::fs::write(space.beside(name), "").expect("is written");
}

#[test]
fn without_a_sandbox_nothing_is_made_again_under_the_feet_of_a_running_task() {
    let space = TestSpace::new(SHARED);
    space.ok(&["run", "p"]);
    let mut running = space.start(&["--jobs=3", "c", "d"]);
    running.wait_for("task-started", "c");
    crate::kit::wait_until("c reads", || space.exists("out/c"));
    // Somebody else deletes what is large in the store.
    let files = space.store_files("blobs");
    assert_eq!(files.len(), 1);
    std::fs::remove_file(&files[0]).expect("is deleted");
    go(&space, "go-e");
    running.wait_for("task-hollow", "p");
    go(&space, "go-c");
    let ran = running.end();
    assert_eq!(ran.output.status, 0, "{:?}{}", ran.events, ran.output.stderr);
    let at = |event: &str, task: &str| ran.events.iter().position(|e| e["event"] == event && e["task"] == task);
    assert!(at("task-ended", "c") < at("task-started", "p"), "{:?}", ran.events);
    assert_eq!(space.lines("ran"), ["p", "p"]);
    assert_eq!((space.read("out/c").len(), space.read("out/d").as_str()), (30_013, "30004\n"));
    space.nothing_to_do(&["c", "d"]);
}

#[test]
fn without_a_sandbox_what_another_run_made_anew_meanwhile_spoils_the_result() {
    let space = TestSpace::new(SHARED);
    space.ok(&["run", "p"]);
    let mut running = space.start(&["c"]);
    running.wait_for("task-started", "c");
    crate::kit::wait_until("c reads", || space.exists("out/c"));
    // The same content, but for a while there was none, or half of it.
    space.ok(&["run", "--force=p", "p"]);
    go(&space, "go-c");
    let ran = running.end();
    assert_eq!((ran.output.status, ran.ended("failed").as_str()), (1, "c"), "{:?}", ran.events);
    let ended = ran.events.iter().find(|e| e["event"] == "task-ended" && e["task"] == "c").expect("it ended");
    assert_eq!(ended["failure"], "input-changed");
    let again = space.build_twice(&["c"]);
    assert_eq!((again.ran().as_str(), space.read("out/c").len()), ("c", 30_013));
}

#[test]
fn without_a_sandbox_what_tasks_leave_beside_their_inputs_spoils_nothing() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.lib]
        run = "mkdir -p lib && echo x > lib/x"
        inputs = []
        outputs = ["lib/"]
        [task.one]
        run = "touch lib/cache-one; ln lib/x x-too; until test -e ../go-one; do sleep 0.01; done; cat lib/x > one"
        inputs = ["lib/"]
        outputs = ["one"]
        [task.two]
        run = "until test -e lib/cache-one; do sleep 0.01; done; cat lib/x > two"
        inputs = ["lib/"]
        outputs = ["two"]
        [task.three]
        run = "cat lib/x > three"
        needs = ["two"]
        inputs = ["lib/"]
        outputs = ["three"]
        "#,
    );
    let mut running = space.start(&["--jobs=3"]);
    running.wait_for("task-ended", "three");
    go(&space, "go-one");
    let ran = running.end();
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "lib one three two"), "{:?}", ran.events);
}
