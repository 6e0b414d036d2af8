//! `quipu check`.

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::kit::{TestSpace, needs_ns};

/// `note` is what tasks write down about having run.
fn space(tasks: &str) -> TestSpace {
    let space = TestSpace::new("");
    let note = space.beside("note");
    space.write(
        "quipu.toml",
        &format!("[workspace]\nsandbox = \"none\"\n{}", tasks.replace("NOTE", &note.to_string_lossy())),
    );
    space
}

const SOUND: &str = r#"
[task.up]
run = "echo up >> NOTE; echo up > up.txt"
inputs = []
outputs = ["up.txt"]

[task.sound]
run = "echo sound >> NOTE; mkdir -p out/sub; cp up.txt out/sub/copy; echo said"
inputs = ["up.txt"]
outputs = ["out/"]
"#;

#[test]
fn what_comes_out_equal_twice_counts_as_run() {
    let space = space(SOUND);
    assert_snapshot!(space.ok(&["check", "sound"]).shown(), @"sound: came out equal twice");
    assert_eq!(space.lines("note"), ["up", "sound", "sound"], "what it needs runs once");
    assert_eq!(space.build(&["sound"]).ran(), "");
    // Not from the cache.
    assert_eq!(space.ok(&["check", "sound", "up"]).stdout, "up: came out equal twice\nsound: came out equal twice\n");
    assert_eq!(space.lines("note").len(), 7);
    space.nothing_to_do(&[]);
}

#[test]
fn the_first_output_that_differs_is_named_with_the_byte() {
    let space = space(
        r#"
[task.stamp]
run = "mkdir -p out/b; echo same > out/a; echo same > out/b/same; (printf 'same '; date +%s | rev) > out/b/c"
inputs = []
outputs = ["out/"]
stdout = "aside"

[task.next]
run = "cat aside"
inputs = ["aside"]

[task.time]
run = "date +%s"
inputs = []

[task.never]
run = "echo a complaint >&2; exit 3"
inputs = []

[task.after]
run = "true"
needs = ["never"]
"#,
    );
    let output = space.run(&["check", "stamp"]);
    assert_snapshot!(output.shown(), @r"
    exit 5
    stamp: `out/b/c` differs at byte 5: [id] and [id]
    1 task is not deterministic; `quipu show ID` prints both outcomes, and `cache = false` in the workfile says that each run counts
    ");
    // Both outcomes can be looked at.
    let ids: Vec<&str> = output.stdout.split_whitespace().filter(|word| word.starts_with("bafkr4i")).collect();
    let shown: Vec<String> = ids.iter().map(|id| space.ok(&["show", id]).stdout).collect();
    assert!(shown.len() == 2 && shown[0] != shown[1] && shown.iter().all(|s| s.starts_with("same ")), "{shown:?}");
    // Nobody relies on either: what comes next runs it.
    assert_eq!(space.build(&["next"]).ran(), "next stamp");

    let output = space.run(&["check", "--json", "stamp", "time", "after"]);
    assert_eq!(output.status, 5);
    let json: Json = serde_json::from_str(&output.stdout).expect("is JSON");
    let of =
        |name: &str| json["tasks"].as_array().and_then(|all| all.iter().find(|t| t["task"] == name)).expect("is told");
    let first = &of("stamp")["differences"][0];
    assert_eq!((&first["output"], &first["offset"], &first["how"]), (&"out/b/c".into(), &5.into(), &"content".into()));
    let first = &of("time")["differences"][0];
    assert_eq!((&of("time")["result"], &first["output"]), (&"differs".into(), &"standard output".into()));
    assert_eq!(
        (&of("after")["result"], &of("after")["reason"]),
        (&"skipped".into(), &"`never` did not succeed".into())
    );

    let failed = space.run(&["check", "never"]);
    assert_eq!((failed.status, &*failed.stdout), (1, "never: failed: exit code 3\n"));
    assert!(failed.stderr.contains("a complaint"), "{}", failed.stderr);
    assert_eq!(space.run(&["check"]).status, 2);
}

#[test]
fn in_namespaces_of_their_own_tasks_are_compared_as_well() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        r#"
[task.sound]
run = "test $PWD = /ws && cat in > out"
inputs = ["in"]
outputs = ["out"]

[task.new]
run = "test $PWD = /ws && mkdir ids && echo same > ids/a && cat out /proc/sys/kernel/random/uuid > ids/b"
inputs = ["out"]
outputs = ["ids/"]
"#,
    );
    space.write("in", "0123456789\n");
    assert_eq!(space.ok(&["check", "sound"]).stdout, "sound: came out equal twice\n");
    assert_eq!(space.build_twice(&["sound"]).ran(), "", "what was checked counts as run");
    let output = space.run(&["check", "new"]);
    assert_eq!(output.status, 5, "{}", output.stderr);
    let told = output.stdout.strip_prefix("new: `ids/b` differs at byte ").expect(&output.stdout);
    let byte: u64 = told.split(':').next().and_then(|n| n.parse().ok()).expect(&output.stdout);
    assert!((11..47).contains(&byte), "{}", output.stdout);
    assert_eq!(space.build(&["new"]).ran(), "new", "nobody relies on either");
}

/// Says when it was asked.
const WORKER: &str = r#"while IFS= read -r line; do
  id=${line##*\"requestId\":}; id=${id%%[,\}]*}
  date +%s%N > out
  printf '{"exitCode":0,"output":"","requestId":%s}\n' "$id"
done
"#;

#[test]
fn a_worker_is_asked_twice() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[task.ask]\nworker = ['sh', 'worker.sh']\nrun = ['now']\ninputs = ['worker.sh']\noutputs = ['out']\n",
    );
    space.write("worker.sh", WORKER);
    let output = space.run(&["check", "ask"]);
    assert_eq!(
        (output.status, output.stdout.starts_with("ask: `out` differs at byte ")),
        (5, true),
        "{}",
        output.shown()
    );
    space.edit("worker.sh", "date +%s%N", "echo always");
    assert_eq!(space.ok(&["check", "ask"]).stdout, "ask: came out equal twice\n");
}

#[test]
fn what_does_not_run_here_is_not_called_equal() {
    let space = space(
        r#"
[task.server]
run = "touch up; sleep 60"
inputs = []
service = { file = "up" }

[task.approval]
external = true

[task.publish]
run = "echo {{needs.approval.stdout}} >> NOTE"
inputs = []
"#,
    );
    for (task, message) in [("server", "`server` is a service"), ("approval", "`approval` is done elsewhere")] {
        let output = space.run(&["check", "publish", task]);
        assert!(output.status == 2 && output.stderr.contains(message), "{}", output.shown());
    }
    for tasks in ["publish", "*"] {
        let output = space.run(&["check", tasks]);
        let waits = "publish: blocked: `approval` is done elsewhere, and was not delivered\n";
        assert_eq!((output.status, &*output.stdout), (6, waits), "{}", output.stderr);
    }
    space.write("yes.txt", "yes");
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    assert_eq!(space.ok(&["check", "*"]).stdout, "publish: came out equal twice\n");
    assert_eq!(space.lines("note"), ["yes", "yes"]);
}
