//! Promises on tasks of other workspaces: two that know nothing of each other but an id, and share a store.

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::kit::{Ran, TestSpace};

const LIB: &str = r#"
[workspace]
sandbox = "none"
[task.gen]
run = "cat version > gen.txt"
inputs = ["version"]
outputs = ["gen.txt"]
[task.make]
run = "mkdir -p dist && cat gen.txt > lib.txt && cp gen.txt dist/notes && cp gen.txt unlisted.txt && echo ' v'$(cat gen.txt)"
inputs = ["gen.txt"]
outputs = ["lib.txt", "dist/", "unlisted.txt"]
[task.test]
run = "grep -q good version || exit 3"
inputs = ["version"]
"#;

/// A workspace beside another one, which awaits what that makes. `{make}` and `{test}` are ids there.
fn two(app: &str) -> TestSpace {
    let space = TestSpace::new("");
    space.write("../lib/quipu.toml", LIB);
    space.write("../lib/version", "1\n");
    let app = app.replace("{make}", &id(&space, "make")).replace("{test}", &id(&space, "test"));
    space.write("quipu.toml", &format!("[workspace]\nsandbox = \"none\"\n{app}"));
    space
}

fn id(space: &TestSpace, name: &str) -> String {
    let plan = space.json(&["-C", "../lib", "plan", "--json", name]);
    let tasks = plan["tasks"].as_array().expect("a list");
    tasks.iter().find(|t| t["name"] == name).and_then(|t| t["task"].as_str()).expect("has an id").to_owned()
}

fn lib(space: &TestSpace, args: &[&str]) -> Ran {
    space.build(&[&["-C", "../lib"], args].concat())
}

const APP: &str = r#"
[task.lib]
await = "{make}"
outputs = ["lib.txt", "dist/"]
[task.app]
run = "cat lib.txt dist/notes > app.txt && echo {{needs.lib.stdout}} >> app.txt"
inputs = ["lib.txt", "dist/notes"]
outputs = ["app.txt"]
[task.whole]
run = "cat unlisted.txt"
inputs = []
needs = ["lib"]
[task.other]
run = "true"
inputs = []
"#;

#[test]
fn a_run_is_suspended_until_the_other_workspace_has_done_it() {
    let space = two(APP);
    for _ in 0..2 {
        let ran = space.build(&[]);
        assert_eq!((ran.output.status, ran.count("blocked")), (6, 3), "{}", ran.output.stderr);
    }
    let output = space.run(&["run"]);
    assert!(output.stderr.ends_with("suspended, waiting for 1: lib\n"), "{}", output.stderr);
    let plan = space.ok(&["plan"]).stdout;
    assert!(plan.contains("nobody has a receipt for it"), "{plan}");
    assert_eq!(space.json(&["ready", "--json"])["blocked"], 3);

    assert_eq!(lib(&space, &["make"]).ran(), "gen make");
    let ran = space.build_twice(&[]);
    assert_eq!((ran.ran().as_str(), ran.ended("cached").as_str()), ("app whole", "lib other"), "{:?}", ran.events);
    assert_eq!(space.read("app.txt"), "1\n1\nv1\n");
    // What is listed is put in place; what is not listed was there for the task alone, which had no sandbox.
    assert_eq!(space.read("lib.txt"), "1\n");
    assert_eq!(space.read("dist/notes"), "1\n");

    // The other workspace goes its way; the id means what it meant.
    space.write("../lib/version", "2\n");
    assert_eq!(lib(&space, &["make"]).ran(), "gen make");
    space.nothing_to_do(&[]);
    let new = id(&space, "make");
    let text = space.read("quipu.toml");
    let old = text.lines().find_map(|l| l.strip_prefix("await = ")).expect("awaits").trim_matches('"').to_owned();
    space.write("quipu.toml", &text.replace(&old, &new));
    assert_eq!(space.build_twice(&[]).ran(), "app whole");
    assert_eq!(space.read("app.txt"), "2\n2\nv2\n");
}

#[test]
fn outputs_that_are_not_listed_are_not_put_in_place() {
    let space = two("[task.lib]\nawait = { ok = \"{make}\" }\noutputs = [\"lib.txt\"]\n");
    lib(&space, &["make"]);
    space.build_twice(&[]);
    assert!(space.exists("lib.txt") && !space.exists("unlisted.txt") && !space.exists("dist"));
}

const BRANCHES: &str = r#"
[task.broken]
await = { error = "{test}" }
[task.either]
await = { any = "{test}" }
[task.passed]
await = { ok = "{make}" }
[task.tell]
run = ["sh", "-c", "cat > in.json; printf '%s\n' \"$0\" > error.json", "{{needs.broken.error}}"]
inputs = []
stdin = "{{needs.either.result}}"
outputs = ["in.json", "error.json"]
[task.wish]
run = "echo {{needs.passed.stdout}}"
inputs = []
"#;

#[test]
fn all_three_outcomes_can_be_awaited() {
    let space = two(BRANCHES);
    assert_eq!(space.build(&["tell"]).output.status, 6);
    assert_eq!(lib(&space, &["test"]).output.status, 1);
    let ran = space.build_twice(&["tell"]);
    assert_eq!(ran.ran(), "tell");
    let error: Json = serde_json::from_str(&space.read("error.json")).expect("is JSON");
    assert_eq!(error, serde_json::json!({ "kind": "exit", "message": "exit code 3" }));
    let either: Json = serde_json::from_str(&space.read("in.json")).expect("is JSON");
    assert_eq!(either, serde_json::json!({ "error": error }));
    space.nothing_to_do(&["broken", "either"]);
    // A failure never settles who awaits a success.
    assert_eq!(space.build(&["wish"]).output.status, 6);
}

#[test]
fn a_success_fails_who_awaits_a_failure_and_settles_who_awaits_either() {
    let space = two(&BRANCHES.replace("{test}", "{make}"));
    lib(&space, &["make"]);
    space.write("quipu.toml", &space.read("quipu.toml").replace("\"{{needs.broken.error}}\"", "\"none\""));
    space.build_twice(&["tell"]);
    let either: Json = serde_json::from_str(&space.read("in.json")).expect("is JSON");
    assert_eq!(either["ok"]["outputs"]["lib.txt"]["kind"], "file");
    assert!(either["ok"]["stdout"]["/"].as_str().is_some_and(|id| id.starts_with("bafkr4i")), "{either}");

    let space = two(&BRANCHES.replace("{test}", "{make}"));
    lib(&space, &["make"]);
    let ran = space.build(&["tell"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str()), (1, "tell"));
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    assert_eq!(failed["failure"], "branch-mismatch");
}

#[test]
fn a_run_that_waits_holds_no_slot_survives_and_goes_on_when_another_process_has_done_it() {
    let space = two(APP);
    let mut running = space.start(&["--wait", "-j1"]);
    running.wait_for("recorded", "other");
    running.signal(Signal::KILL);
    running.end();
    space.edit("quipu.toml", "run = \"true\"", "run = \"true again\"");
    let mut running = space.start(&["--wait", "-j1", "-k"]);
    running.wait_for("task-ended", "other");
    assert_eq!(lib(&space, &["make"]).output.status, 0);
    let ran = running.end();
    assert!(ran.ended("ran").contains("app"), "{:?}", ran.events);
    assert_eq!(space.read("app.txt"), "1\n1\nv1\n");
    space.nothing_to_do(&["app", "whole"]);
}

#[test]
fn waiting_ends_on_request() {
    let space = two(APP);
    let mut running = space.start(&["--wait"]);
    running.wait_for("recorded", "other");
    running.signal(Signal::INT);
    let ran = running.end();
    assert_eq!((ran.output.status, ran.count("cancelled")), (130, 3));
}

#[test]
fn a_task_of_this_workspace_that_is_awaited_is_done_here() {
    let space = two("");
    let text = format!(
        "{LIB}[task.own]\nawait = \"{}\"\n[task.use]\nrun = \"echo {{{{needs.own.stdout}}}}\"\ninputs = []\n",
        id(&space, "make")
    );
    space.write("../lib/quipu.toml", &text);
    let ran = lib(&space, &["use"]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "gen make use"), "{}", ran.output.stderr);
    assert_eq!(lib(&space, &["use"]).ran(), "");
}

#[test]
fn what_cannot_be_awaited_is_said_before_anything_runs() {
    let good = "bafyr4igxfwelrgywxgyjxsxkgwjnsh24colm2jg2k7izsy6ud5lseuygle";
    for (workfile, message) in [
        ("[task.a]\nawait = 'bafyr4i'".to_owned(), "`bafyr4i`, which task `a` awaits, is no task's id"),
        (format!("[task.a]\nawait = '{}'", good.replace("bafyr", "bafkr")), "is no task's id"),
        (format!("[task.a]\nawait = {{ ok = '{good}', any = '{good}' }}"), "`await` of task `a` names 2 outcomes"),
        (format!("[task.a]\nawait = {{ never = '{good}' }}"), "never"),
        (format!("[task.a]\nawait = '{good}'\nrun = 'x'"), "task `a` has `await`, and `run` beside it"),
        (format!("[task.a]\nawait = '{good}'\noutputs = ['*.o']"), "output `*.o` of task `a` is optional or a pattern"),
        (
            format!("[task.a]\nawait = {{ error = '{good}' }}\noutputs = ['a']"),
            "output `a` of task `a` may not be there: it is not awaited as a success",
        ),
        (
            format!("[task.a]\nawait = {{ any = '{good}' }}\n[task.b]\nrun = 'x'\nneeds = ['a']"),
            "task `b` needs what `a` makes, and it may have failed",
        ),
        (
            format!("[task.a]\nawait = '{good}'\n[task.b]\nrun = 'x {{{{needs.a.error}}}}'"),
            "task `b` takes of `a` its error, of which what it prints is awaited",
        ),
        ("[task.a]\nrun = 'x'\n[task.b]\nrun = 'x {{needs.a.result}}'".to_owned(), "takes of `a` its result"),
    ] {
        let space = TestSpace::new(&workfile);
        let output = space.run(&["run"]);
        assert_eq!(output.status, 2, "{workfile}");
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}
