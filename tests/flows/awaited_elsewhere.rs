//! Promises on tasks that somebody with another store has done: settled by receipts of a remote, or by those of a file.

use std::fs;

use super::share_serve::Serving;
use crate::kit::TestSpace;

const LIB: &str = r#"
[workspace]
sandbox = "none"
[task.gen]
run = "cat version > gen.txt"
inputs = ["version"]
outputs = ["gen.txt"]
[task.make]
run = "mkdir -p dist && cat gen.txt > lib.txt && cp gen.txt dist/notes && head -c 200000 /dev/zero > dist/large && echo ' v'$(cat gen.txt)"
inputs = ["gen.txt"]
outputs = ["lib.txt", "dist/"]
[task.test]
run = "grep -q good version || exit 3"
inputs = ["version"]
"#;

const APP: &str = r#"
[workspace]
sandbox = "none"
[task.lib]
await = "{make}"
outputs = ["lib.txt", "dist/"]
[task.app]
run = "cat lib.txt dist/notes > app.txt && wc -c < dist/large >> app.txt && echo {{needs.lib.stdout}} >> app.txt"
inputs = ["lib.txt", "dist/"]
outputs = ["app.txt"]
[task.either]
await = { any = "{make}" }
[task.tell]
run = ["tee", "told.json"]
inputs = []
stdin = "{{needs.either.result}}"
outputs = ["told.json"]
[task.other]
run = "true"
inputs = []
[task.broken]
await = { error = "{test}" }
"#;

/// Who makes the library, and who awaits it.
fn two() -> (TestSpace, TestSpace) {
    let lib = TestSpace::new(LIB);
    lib.write("version", "1\n");
    let plan = lib.json(&["plan", "--json"]);
    let id = |name: &str| {
        let tasks = plan["tasks"].as_array().expect("a list");
        let task = tasks.iter().find(|task| task["name"] == name).expect("is there");
        task["task"].as_str().expect("has an id").to_owned()
    };
    let app = TestSpace::new(&APP.replace("{make}", &id("make")).replace("{test}", &id("test")));
    app.use_key(2);
    (lib, app)
}

fn trusts(app: &TestSpace, lib: &TestSpace) {
    app.ok(&["trust", "add", "one", lib.ok(&["key", "show"]).stdout.trim()]);
}

fn asks(app: &TestSpace, url: &str) {
    fs::write(app.beside("config/config.toml"), format!("[remote.one]\nurl = \"{url}\"\n")).expect("is written");
}

const MADE: &str = "1\n1\n200000\nv1\n";

#[test]
fn a_receipt_of_a_remote_settles_what_is_awaited() {
    let (lib, app) = two();
    lib.build_twice(&["make"]);
    let serving = Serving::start(&lib, &["--all"]);
    asks(&app, &serving.url);
    // Whose receipts do not count has done nothing.
    assert_eq!(app.build(&["app"]).output.status, 6);
    trusts(&app, &lib);
    let ran = app.build(&["app", "tell"]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "app tell"), "{}", ran.output.stderr);
    assert_eq!(app.read("app.txt"), MADE);
    assert!(app.read("told.json").starts_with("{\"ok\":{"), "{}", app.read("told.json"));
    // Who asks for it has its outputs in place.
    app.build(&["lib"]);
    assert_eq!((app.read("lib.txt").as_str(), app.read("dist/notes").as_str()), ("1\n", "1\n"));
    drop(serving);
    app.nothing_to_do(&["lib", "app", "tell", "--offline"]);
    assert!(app.ok(&["verify"]).stderr.is_empty());
}

#[test]
fn a_run_that_waits_goes_on_when_a_remote_has_it() {
    let (lib, app) = two();
    let serving = Serving::start(&lib, &["--all"]);
    asks(&app, &serving.url);
    trusts(&app, &lib);
    let mut running = app.start(&["app", "other", "--wait"]);
    running.wait_for("recorded", "other");
    lib.build(&["make"]);
    let ran = running.end();
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "app other"), "{}", ran.output.stderr);
    assert_eq!(app.read("app.txt"), MADE);
}

#[test]
fn what_was_imported_settles_what_is_awaited() {
    let (lib, app) = two();
    lib.build(&["make"]);
    // What is awaited is what it printed, too.
    lib.ok(&["export", "--all", "--logs", "-o", "../lib.car", "make"]);
    trusts(&app, &lib);
    let car = lib.beside("lib.car");
    app.ok(&["import", car.to_str().expect("is text")]);
    let ran = app.build(&["app"]);
    assert_eq!(ran.ran(), "app", "{}{}", ran.output.stderr, ran.output.stdout);
    assert_eq!(app.read("app.txt"), MADE);
    app.nothing_to_do(&["app"]);
}

#[test]
fn a_workflow_by_its_id_takes_it_from_a_remote_too() {
    let (lib, app) = two();
    lib.build(&["make"]);
    let serving = Serving::start(&lib, &["--all"]);
    asks(&app, &serving.url);
    trusts(&app, &lib);
    let id = app.ok(&["export", "--workflow", "-o", "../app.car", "app"]).stdout.trim().to_owned();
    app.remove("quipu.toml");
    assert_eq!(app.build(&[&id]).ran(), "app");
    assert_eq!(app.read("app.txt"), MADE);
    app.nothing_to_do(&[&id]);
}

#[test]
fn a_failure_stays_where_it_happened() {
    let (lib, app) = two();
    assert_eq!(lib.build(&["test"]).output.status, 1);
    let serving = Serving::start(&lib, &["--all"]);
    asks(&app, &serving.url);
    trusts(&app, &lib);
    let said = app.run(&["run", "broken"]);
    assert_eq!(said.status, 6);
    assert!(said.stderr.ends_with("suspended, waiting for 1: broken\n"), "{}", said.stderr);
}
