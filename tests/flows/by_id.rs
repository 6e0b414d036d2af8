//! Workflows as blocks: exported, imported, and run by their ids.

use std::fs;

use serde_json::Value as Json;

use crate::kit::{Output, TestSpace};

const BUILD: &str = r#"
[task.gen]
run = "cat words/*.txt | sort > gen/all"
inputs = ["words/*.txt"]
outputs = ["gen/all"]
timeout = "1m"
[task.count]
run = "wc -l < gen/all > count.txt"
inputs = ["gen/all"]
outputs = ["count.txt"]
retries = 1
[task.note]
run = "echo noted"
inputs = []
after = ["count"]
[task.report]
run = "cat count.txt title > report.txt && echo {{needs.note.stdout}} >> report.txt"
inputs = ["count.txt", "title"]
outputs = ["report.txt"]
[task.unrelated]
run = "true"
inputs = []
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(BUILD);
    space.write("words/a.txt", "one\ntwo\n");
    space.write("words/b.txt", "three\n");
    space.write("title", "words\n");
    fs::create_dir(space.beside("empty")).expect("is made");
    space
}

/// The id that an export or import printed.
fn id(output: &Output) -> String {
    let id = output.stdout.trim();
    assert!(id.starts_with("bafyr4i") && id.len() == 59, "{}", output.stdout);
    id.to_owned()
}

/// With another store.
fn elsewhere<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--store", "../other"], args].concat()
}

fn ran(space: &TestSpace, args: &[&str]) -> (i32, String) {
    let ran = space.build(args);
    (ran.output.status, ran.ran())
}

#[test]
fn a_workflow_is_run_by_its_id_where_its_store_is() {
    let space = space();
    let made = id(&space.ok(&["export", "--workflow", "report", "-o", "../wf.car"]));
    space.build(&["report"]);
    // Settled by the same receipts, and put in place below an empty directory.
    let first = ["-C", "../empty", &made];
    assert_eq!(ran(&space, &first), (0, String::new()));
    assert_eq!(space.read("../empty/report.txt"), "3\nwords\nnoted\n");
    space.nothing_to_do(&first);
    // All of it again, with nothing there but the store.
    assert_eq!(ran(&space, &["-C", "../empty", "--force", &made]).1, "report");
    let count = ["-C", "../empty", &made, "count"];
    assert_eq!(ran(&space, &count), (0, String::new()));
    assert_eq!(space.read("../empty/count.txt"), "3\n");
    assert!(!space.exists("../empty/words") && !space.exists("../empty/gen"), "sources are nobody's to place");
}

#[test]
fn a_car_file_has_all_that_is_read_and_runs_anywhere() {
    let space = space();
    let made = id(&space.ok(&["export", "--workflow=car", "report", "-o", "../wf.car"]));
    let imported = space.ok(&elsewhere(&["import", "../wf.car"]));
    assert_eq!(id(&imported), made);
    let run = elsewhere(&["-C", "../empty", &made]);
    let first = space.build(&run);
    assert_eq!((first.output.status, first.ran().as_str()), (0, "count gen note report"), "{}", first.output.stderr);
    assert_eq!(space.read("../empty/report.txt"), "3\nwords\nnoted\n");
    assert_eq!(ran(&space, &run), (0, String::new()));
    // A file that is there in another form is kept, and what a run put there is replaced without a word.
    space.write("../empty/report.txt", "mine\n");
    let again = space.build(&run);
    assert!(again.events.iter().any(|e| e["event"] == "kept" && e["path"] == "report.txt"), "{:?}", again.events);
    assert_eq!(space.read("../empty/report.txt"), "3\nwords\nnoted\n");
    // The same twice is the same file.
    space.ok(&["export", "--workflow", "report", "-o", "../again.car"]);
    assert_eq!(fs::read(space.beside("wf.car")).ok(), fs::read(space.beside("again.car")).ok());
    space.ok(&elsewhere(&["verify"]));
}

#[test]
fn json_and_the_block_run_where_the_sources_are() {
    for (format, file) in [("--workflow=dag-json", "wf.json"), ("--workflow=dag-cbor", "wf.block")] {
        let space = space();
        let made = id(&space.ok(&["export", format, "report", "-o", &format!("../{file}")]));
        assert_eq!(id(&space.ok(&elsewhere(&["import", &format!("../{file}")]))), made, "{format}");
        let lost = space.run(&elsewhere(&["-C", "../empty", "run", &made]));
        assert_eq!(lost.status, 2, "{}", lost.stderr);
        assert!(
            lost.stderr.contains("neither in the store nor in this directory as the workflow names it"),
            "{}",
            lost.stderr
        );
        // The same files elsewhere, and no workfile.
        for path in ["words/a.txt", "words/b.txt", "title"] {
            space.write(&format!("../empty/{path}"), &space.read(path));
        }
        space.write("../empty/title", "other\n");
        assert_eq!(space.run(&elsewhere(&["-C", "../empty", "run", &made])).status, 2, "a file is another");
        space.write("../empty/title", "words\n");
        let run = elsewhere(&["-C", "../empty", &made]);
        assert_eq!(ran(&space, &run), (0, "count gen note report".to_owned()));
        assert_eq!(space.read("../empty/report.txt"), "3\nwords\nnoted\n");
        assert_eq!(ran(&space, &run), (0, String::new()));
    }
}

#[test]
fn json_says_what_the_block_says_and_has_one_id() {
    let space = space();
    let made = id(&space.ok(&["export", "--workflow=dag-json", "report", "-o", "../wf.json"]));
    let json: Json = serde_json::from_str(&space.read("../wf.json")).expect("is JSON");
    assert_eq!((&json["goals"], &json["quipu/workflow"]), (&serde_json::json!(["report"]), &1.into()));
    let tasks = json["tasks"].as_object().expect("a map");
    assert_eq!(tasks.keys().collect::<Vec<_>>(), ["count", "gen", "note", "report"]);
    assert_eq!(tasks["note"]["meta"], serde_json::json!({ "after": ["count"] }));
    assert_eq!(tasks["gen"]["meta"], serde_json::json!({ "timeout_ms": 60_000 }));
    let plan = space.json(&["plan", "--json"]);
    let planned = plan["tasks"].as_array().expect("a list").iter().find(|t| t["name"] == "report").expect("is there");
    assert_eq!(tasks["report"]["run"], planned["work"], "the same task, in the same form");
    // In another layout it is the same; by its id it is exported again.
    space.write("../pretty.json", &serde_json::to_string_pretty(&json).expect("is JSON"));
    assert_eq!(id(&space.ok(&["import", "../pretty.json"])), made);
    assert_eq!(id(&space.ok(&["export", "--workflow=dag-json", &made, "-o", "../by-id.json"])), made);
    assert_eq!(space.read("../by-id.json"), space.read("../wf.json"));
    assert!(space.ok(&["show", &made]).stdout.contains("quipu/workflow"));
}

#[test]
fn what_is_no_workflow_is_refused() {
    let space = space();
    let made = id(&space.ok(&["export", "--workflow=dag-json", "report", "-o", "../wf.json"]));
    let text = space.read("../wf.json");
    for (from, to) in [
        ("\"quipu/workflow\":1", "\"quipu/workflow\":9"),
        ("\"retries\":1", "\"retries\":0"),
        ("[\"report\"]", "[\"nobody\"]"),
        ("\"after\":[\"count\"]", "\"after\":[\"note\"]"),
        ("words/a.txt", "words/../../a"),
    ] {
        assert!(text.contains(from), "{from}");
        space.write("../bad.json", &text.replacen(from, to, 1));
        let refused = space.run(&["import", "../bad.json"]);
        assert_eq!(refused.status, 5, "{to}: {}", refused.stdout);
        assert!(refused.stderr.contains("is refused, and nothing of it is kept"), "{}", refused.stderr);
    }
    space.write("../bad.json", &"[".repeat(100_000));
    assert_ne!(space.run(&["import", "../bad.json"]).status, 0);
    let task = space.json(&["plan", "--json"])["tasks"][0]["task"].as_str().expect("text").to_owned();
    space.build(&["gen"]);
    let output = space.run(&["run", &task]);
    assert_eq!(output.status, 2);
    assert!(output.stderr.contains("is no workflow, but a task"), "{}", output.stderr);
    let output = space.run(&["run", &made, "nobody"]);
    assert!(output.stderr.contains("`nobody` is no task of this workflow"), "{}", output.stderr);
    let output = space.run(&["run", "--dry-run", &made]);
    assert!(output.stderr.contains("does not go with --dry-run"), "{}", output.stderr);
}

#[test]
fn a_workflow_that_awaits_another_is_suspended_by_id_too() {
    let space = space();
    let plan = space.json(&["plan", "--json", "report"]);
    let report = plan["tasks"].as_array().expect("a list").iter().find(|t| t["name"] == "report").expect("is there");
    let report = report["task"].as_str().expect("text");
    space.write(
        "../app/quipu.toml",
        &format!("[task.r]\nawait = '{report}'\n[task.app]\nrun = 'cat report.txt > app.txt'\ninputs = []\nneeds = ['r']\noutputs = ['app.txt']\n"),
    );
    let made = id(&space.ok(&["-C", "../app", "export", "--workflow=dag-json", "app", "-o", "../wf.json"]));
    assert!(space.read("../wf.json").contains(&format!("\"r\":{{\"run\":{{\"await/ok\":{{\"/\":\"{report}\"}}}}}}")));
    let args = ["-C", "../empty", &made];
    let suspended = space.run(&["-C", "../empty", "run", &made]);
    assert_eq!(suspended.status, 6);
    assert!(suspended.stderr.ends_with("suspended, waiting for 1: r\n"), "{}", suspended.stderr);
    space.build(&["report"]);
    assert_eq!(ran(&space, &args), (0, "app".to_owned()));
    assert_eq!(space.read("../empty/app.txt"), "3\nwords\nnoted\n");
    space.nothing_to_do(&args);
}

#[test]
fn what_was_imported_outlives_a_collection() {
    let space = space();
    let made = id(&space.ok(&["export", "--workflow", "report", "-o", "../wf.car"]));
    space.ok(&["--store", "../other", "import", "../wf.car"]);
    space.ok(&["--store", "../other", "gc", "--max-size", "1"]);
    assert_eq!(ran(&space, &["--store", "../other", "-C", "../empty", &made]).0, 0);
}
