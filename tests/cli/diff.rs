//! `quipu diff`, and logs of runs that grow old.

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::kit::TestSpace;

const TASKS: &str = r#"[workspace]
sandbox = "none"

[task.gen]
run = "cat src/a > gen.out"
inputs = ["src/"]
outputs = ["gen.out"]

[task.use]
run = "cat gen.out other"
inputs = ["gen.out", "other"]
env = { MODE = "fast" }

[task.apart]
run = "cat other"
inputs = ["other"]

[task.random]
run = "od -An -N8 -tx1 /dev/urandom"
inputs = []
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("src/a", "a\n");
    space.write("other", "other\n");
    space
}

#[test]
fn exactly_the_tasks_and_ingredients_that_differ_are_told() {
    let space = space();
    assert_eq!(space.run(&["diff"]).status, 2, "there are no two runs");
    space.build(&["gen", "use", "apart"]);
    space.write("src/a", "A\n");
    space.write("src/b", "b\n");
    space.build(&["gen", "use", "apart"]);
    assert_snapshot!(space.ok(&["diff"]).shown(), @r"
    gen (ran, then ran)
      source files changed
        changed src/a
        added src/b
    use (ran, then ran)
      what task `gen` makes
    1 task is the same in both
    ");
    space.edit("quipu.toml", "MODE = \"fast\"", "MODE = \"slow\"");
    space.write("src/a", "a\n");
    space.remove("src/b");
    space.build(&["use"]);
    // What was settled by an old receipt has the id it had then.
    assert_snapshot!(space.ok(&["diff", "last~2", "last"]).shown(), @r"
    apart: only in the first (ran)
    use (ran, then ran)
      environment `MODE` was `fast`, is `slow`
    1 task is the same in both
    ");
    let json: Json = space.json(&["diff", "last", "last~2", "--json"]);
    let task = json["tasks"].as_array().and_then(|all| all.iter().find(|t| t["name"] == "use")).expect("is told");
    let told = &task["differences"][0];
    assert_eq!((&told["before"], &told["after"]), (&"slow".into(), &"fast".into()), "{told}");
    assert_eq!((json["equal"].as_u64(), &task["second"]["end"]), (Some(1), &"ran".into()));
    let id = json["first"].as_str().expect("text");
    assert_eq!(space.ok(&["diff", id, "last"]).stdout, "2 tasks are the same in both\n");
}

#[test]
fn the_same_task_that_came_out_in_two_ways_is_told_by_its_outputs() {
    let space = space();
    space.build(&["random"]);
    space.build(&["--force", "random"]);
    let told = space.ok(&["diff"]).shown();
    assert!(
        told.starts_with("random: made of the same (ran, then ran)\n  `standard output` differs at byte "),
        "{told}"
    );
}

#[test]
fn logs_of_runs_go_with_age() {
    let space = space();
    for text in ["1", "2", "3"] {
        space.write("other", text);
        space.build(&["apart"]);
    }
    let runs = || space.ok(&["log"]).stdout.lines().count();
    assert_eq!(runs(), 3);
    space.ok(&["gc"]);
    space.ok(&["gc", "--max-age", "1h"]);
    assert_eq!(runs(), 3);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(90 * 86_400);
    for path in space.store_files("runs").into_iter().take(2) {
        std::fs::File::options().write(true).open(path).and_then(|f| f.set_modified(old)).expect("is set");
    }
    let dry = space.json(&["gc", "--max-age", "60d", "--dry-run", "--json"]);
    assert_eq!((dry["deleted"]["logs"].as_u64(), runs()), (Some(2), 3));
    let text = space.ok(&["gc", "--max-age", "60d"]).stdout;
    assert!(text.contains("deleted 2 logs of runs\n"), "{text}");
    assert_eq!(runs(), 1);
    assert!(space.ok(&["log", "--run", "last"]).stdout.contains("ran apart"));
}
