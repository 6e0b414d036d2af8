//! A build that something else schedules: `plan --json` says what there is, `ready` again and again what can be done now,
//! and each task is run by a process of its own.

use std::collections::BTreeSet;

use crate::kit::TestSpace;

const BUILD: &str = "
[workspace]
sandbox = 'none'
[task.gen]
run = 'echo gen >> ../log; echo g > g'
inputs = []
outputs = ['g']
[task.unit]
matrix = { n = '{1..8}' }
run = 'echo unit{{n}} >> ../log; cat g src/{{n}} > o{{n}}'
inputs = ['g', 'src/{{n}}']
outputs = ['o{{n}}']
[task.lib]
matrix = { half = ['1', '2'] }
run = 'echo lib{{half}} >> ../log; cat o* > lib{{half}}'
inputs = []
needs = 'unit'
outputs = ['lib{{half}}']
[task.app]
run = 'echo app >> ../log; cat lib1 lib2 > app'
inputs = ['lib1', 'lib2']
outputs = ['app']
[task.test]
run = 'echo test >> ../log; test -s app'
inputs = ['app']
after = 'lint'
[task.lint]
run = 'echo lint >> ../log'
inputs = ['src']
";

fn space() -> TestSpace {
    let space = TestSpace::new(BUILD);
    (1..=8).for_each(|n| space.write(&format!("src/{n}"), &format!("{n}\n")));
    space
}

/// Runs what is ready, two processes at a time, until nothing is; the sets that were ready.
fn schedule(space: &TestSpace) -> Vec<BTreeSet<String>> {
    let mut rounds = vec![];
    loop {
        let answer = space.json(&["ready", "--json"]);
        let ready = answer["ready"].as_array().expect("is a list");
        let names: BTreeSet<String> =
            ready.iter().map(|t| t["name"].as_str().expect("has a name").to_owned()).collect();
        if names.is_empty() {
            assert_eq!(answer["waiting"], 0, "what waits gets ready");
            return rounds;
        }
        let all: Vec<&String> = names.iter().collect();
        for some in all.chunks(2) {
            let started: Vec<_> =
                some.iter().map(|name| space.command(&["run", "-q", name]).spawn().expect("starts")).collect();
            for mut process in started {
                assert!(process.wait().expect("ends").success());
            }
        }
        assert!(rounds.len() < 10, "it comes to an end: {rounds:?}");
        rounds.push(names);
    }
}

#[test]
fn a_build_goes_task_by_task_in_processes_of_their_own() {
    let space = space();
    let plan = space.json(&["plan", "--json"]);
    let tasks = plan["tasks"].as_array().expect("is a list");
    assert_eq!(tasks.len(), 14);
    // By the plan alone: after its first batch come tasks that wait for those of earlier ones only.
    let batch = |name: &str| tasks.iter().find(|t| t["name"] == name).expect("is there")["batch"].as_u64();
    for task in tasks {
        for before in task["waits_for"].as_array().into_iter().flatten() {
            assert!(batch(before.as_str().expect("is a name")) < task["batch"].as_u64(), "{task}");
        }
        assert!(task["task"].as_str().is_some_and(|id| id.starts_with("bafyr4i")), "{task}");
    }
    assert_eq!(space.ok(&["ready"]).stdout, "gen\nlint\n");
    let rounds = schedule(&space);
    let sizes: Vec<usize> = rounds.iter().map(BTreeSet::len).collect();
    assert_eq!(sizes, [2, 8, 2, 1, 1], "{rounds:?}");
    let mut log = space.lines("log");
    log.sort_unstable();
    let mut all: Vec<String> = (1..=8).map(|n| format!("unit{n}")).collect();
    all.extend(["app", "gen", "lib1", "lib2", "lint", "test"].map(String::from));
    all.sort_unstable();
    assert_eq!(log, all, "each once");
    space.nothing_to_do(&[]);
    // Of a change, only what it means is ready, and one process still does it all as well.
    space.write("src/3", "three\n");
    assert_eq!(space.ok(&["ready"]).stdout, "unit[3]\nlint\n");
    let rounds = schedule(&space);
    assert_eq!(rounds[0].iter().map(String::as_str).collect::<Vec<_>>(), ["lint", "unit[3]"]);
    assert_eq!(space.lines("log").len(), 14 + 6, "{rounds:?}");
    assert_eq!(space.ok(&["ready"]).stdout, "");
}
