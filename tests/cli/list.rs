//! `quipu list`.

use insta::assert_snapshot;
use serde_json::json;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[task.compile]
description = "Compile\nwith care"
tags = ["ci", "fast"]
matrix = { unit = ["main", "util"] }
run = "echo {{unit}}"
inputs = []
[task.all]
needs = ["compile"]
"#;

#[test]
fn tasks_are_listed_with_what_they_do() {
    let space = TestSpace::new(TASKS);
    assert_snapshot!(space.ok(&["list"]).shown(), @r#"
    compile[main]  Compile  [ci, fast]
    compile[util]  Compile  [ci, fast]
    all
    "#);
    assert_eq!(space.ok(&["list", "compile[main]"]).stdout.lines().count(), 1);
    assert_eq!(space.ok(&["list", "all", "tag:ci"]).stdout.lines().count(), 2, "each once");
    assert!(!space.store().exists());
}

#[test]
fn programs_get_all_there_is() {
    let space = TestSpace::new(TASKS);
    let listed = space.json(&["list", "--json"]);
    let main = json!({
        "name": "compile[main]", "task": "compile", "variant": { "unit": "main" },
        "description": "Compile\nwith care", "tags": ["ci", "fast"], "group": false, "place": "quipu.toml:2:7",
    });
    assert_eq!(listed[0], main);
    assert_eq!((&listed[2]["name"], &listed[2]["group"]), (&json!("all"), &json!(true)));
}
