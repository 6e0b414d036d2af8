//! Nothing is left of tasks: no process, no mount, no directory. Also when quipu is killed in the middle of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use rustix::process::Signal;

use crate::kit::{TestSpace, needs_ns, wait_until};

/// Tasks that each leave a process of their own session behind, which would write an output later.
fn space(tasks: usize, sleep: u64) -> TestSpace {
    let numbers = (0..tasks).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let space = TestSpace::new(&format!(
        "[workspace]\n[task.t]\nmatrix = {{ n = [{numbers}] }}\n\
         run = \"(setsid sh -c 'sleep {sleep}; echo late > out/{{{{n}}}}' &); mkdir -p out/deep; echo {{{{n}}}} > out/{{{{n}}}}; rmdir out/deep; cat in\"\n\
         inputs = [\"in\"]\noutputs = [\"out/{{{{n}}}}\"]\n"
    ));
    space.write("in", "in\n");
    space
}

/// Processes with this argument, whoever started them.
fn processes_with(argument: &str) -> usize {
    let all = fs::read_dir("/proc").expect("there is one").flatten();
    all.filter(|p| fs::read_to_string(p.path().join("cmdline")).is_ok_and(|c| c.contains(argument))).count()
}

/// Everything that descends from this process.
fn descendants(of: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("there is one").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let is_below = |mut pid: u32| loop {
        match parents.get(&pid) {
            Some(parent) if *parent == of => return true,
            Some(parent) => pid = *parent,
            None => return false,
        }
    };
    parents.keys().copied().filter(|pid| is_below(*pid)).collect()
}

fn is_alive(pid: &u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

/// Mounts that name something of this space.
fn mounts_of(space: &TestSpace) -> usize {
    let name = space.beside("").file_name().expect("has one").to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("is readable");
    mounts.lines().filter(|line| line.contains(&name)).count()
}

fn scratch(space: &TestSpace) -> Vec<std::path::PathBuf> {
    space
        .listing()
        .into_keys()
        .filter(|path| path.starts_with(space.store().join("scratch/")))
        .filter(|p| *p != space.store().join("scratch"))
        .collect()
}

fn nothing_is_left_of(tasks: usize) {
    let sleep = 100_000 + u64::from(std::process::id());
    let space = space(tasks, sleep);
    let ran = space.build(&[]);
    assert_eq!((ran.output.status, ran.count("ran")), (0, tasks as u64), "{}", ran.output.stderr);
    assert_eq!(processes_with(&format!("sleep {sleep}")), 0);
    assert_eq!(mounts_of(&space), 0);
    assert_eq!(scratch(&space), Vec::<std::path::PathBuf>::new());
    space.nothing_to_do(&[]);

    // Killed again and again.
    space.write("in", "other\n");
    let mut kills = 0;
    for at in [1, tasks / 20 + 2, tasks / 10 + 3] {
        let mut running = space.start(&[]);
        for _ in 0..at {
            running.wait_for_any("task-ended");
        }
        let below = descendants(running.id());
        assert!(!below.is_empty(), "cells and tasks are processes of their own");
        running.signal(Signal::KILL);
        running.end();
        kills += 1;
        wait_until("all that descended from it is gone", || !below.iter().any(is_alive));
        wait_until("tasks are gone with it", || processes_with(&format!("sleep {sleep}")) == 0);
        assert_eq!(mounts_of(&space), 0);
    }
    let resumed = space.build(&[]);
    assert_eq!((kills, resumed.output.status), (3, 0), "{}", resumed.output.stderr);
    assert_eq!(scratch(&space), Vec::<std::path::PathBuf>::new(), "what killed runs left was swept");
    let mut wrong = String::new();
    for n in 0..tasks {
        let found = space.read(&format!("out/{n}"));
        if found != format!("{n}\n") {
            let _ = writeln!(wrong, "out/{n}: {found}");
        }
    }
    assert_eq!(wrong, "");
    space.nothing_to_do(&[]);
}

#[test]
fn nothing_is_left_of_five_hundred_tasks_and_three_kills() {
    if needs_ns() {
        nothing_is_left_of(500);
    }
}

#[test]
#[ignore = "takes a minute where nothing else runs, and a quarter of an hour on a busy machine: `just test-all`, or cargo test --test main -- --ignored ten_thousand"]
fn nothing_is_left_of_ten_thousand_tasks_and_three_kills() {
    if needs_ns() {
        nothing_is_left_of(10_000);
    }
}

#[test]
fn what_a_task_abandons_outlives_neither_it_nor_quipu_without_namespaces() {
    for tier in ["none", "landlock"] {
        if tier == "landlock" && quipu_runtime::exec::sandbox::landlock().is_err() {
            continue;
        }
        let sleep = 200_000 + u64::from(std::process::id()) * 2 + u64::from(tier == "none");
        let space = TestSpace::new(&format!(
            "[workspace]\nsandbox = \"{tier}\"\n[task.leaves]\nrun = \"(setsid sleep {sleep} &); echo > out/a\"\ninputs = []\noutputs = [\"out/a\"]\n\
             [task.waits]\nrun = \"setsid sleep {sleep} & setsid sleep {sleep} & echo > out/b; sleep {sleep}\"\ninputs = []\noutputs = [\"out/b\"]\n"
        ));
        let sleepers = || processes_with(&format!("sleep\0{sleep}\0"));
        space.build_twice(&["leaves"]);
        assert_eq!(sleepers(), 0, "{tier}");
        let running = space.start(&["waits"]);
        wait_until("the task sleeps, with two that are in sessions of their own", || sleepers() == 3);
        running.signal(Signal::KILL);
        running.end();
        wait_until("all of it is gone with quipu", || sleepers() == 0);
    }
}
