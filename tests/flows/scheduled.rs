//! Builds that something else schedules: by `plan --json` and `ready`, one task a process; and one that needs nothing
//! but the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use crate::kit::TestSpace;

fn texts(list: &Json) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Json::as_str).collect()
}

fn tasks(plan: &Json) -> BTreeMap<&str, &Json> {
    let tasks = plan["tasks"].as_array().expect("a plan has tasks");
    tasks.iter().map(|task| (task["name"].as_str().expect("a task has a name"), task)).collect()
}

#[test]
fn a_whole_build_goes_through_plan_and_ready_with_a_process_for_each_task() {
    let space = TestSpace::example("monorepo");
    let plan = space.json(&["plan", "--json"]);
    let tasks = tasks(&plan);
    assert_eq!(tasks.len(), 25);
    let mut done = BTreeSet::new();
    let (mut rounds, mut most_at_once) = (0, 0);
    loop {
        let ready = space.json(&["ready", "--json"]);
        let names: Vec<String> = ready["ready"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|t| t["name"].as_str())
            .map(Into::into)
            .collect();
        if names.is_empty() {
            assert_eq!((&ready["waiting"], &ready["blocked"]), (&0.into(), &0.into()));
            break;
        }
        assert_eq!(ready["waiting"], tasks.len() - done.len() - names.len());
        // Several at once, each in a process that knows of no other.
        for some in names.chunks(3) {
            let start = |name: &String| {
                let before =
                    texts(&tasks[name.as_str()]["needs"]).into_iter().chain(texts(&tasks[name.as_str()]["after"]));
                before.for_each(|need| assert!(done.contains(need), "{name} is ready before {need}"));
                let mut command = space.command(&["run", "--json", name]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
            };
            let running: Vec<_> = some.iter().map(|name| (name, start(name))).collect();
            most_at_once = most_at_once.max(running.len());
            for (name, child) in running {
                let output = child.wait_with_output().expect("ends");
                let text = String::from_utf8_lossy(&output.stdout);
                let ran: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
                let ran = ran.iter().filter(|e| e["event"] == "task-ended" && e["end"] == "ran");
                let ran: Vec<&str> = ran.filter_map(|e| e["task"].as_str()).collect();
                assert_eq!((output.status.code(), &ran[..]), (Some(0), &[name.as_str()][..]), "{text}");
                assert!(done.insert(name.clone()), "{name} was ready twice");
            }
        }
        rounds += 1;
    }
    assert_eq!(done.len(), tasks.len());
    assert!(rounds > 1 && most_at_once > 1, "{rounds} rounds, {most_at_once} at once");
    space.nothing_to_do(&[]);
    let plan = space.json(&["plan", "--json"]);
    assert!(
        plan["tasks"].as_array().expect("a list").iter().all(|t| t["receipt"].is_string() || t["status"] == "unneeded")
    );
}

#[test]
fn a_failed_task_stays_ready_and_says_how_it_failed() {
    let space = TestSpace::new(
        r#"
[task.bad]
run = "exit 7"
inputs = []
[task.next]
run = "true"
inputs = []
needs = ["bad"]
[task.person]
external = true
"#,
    );
    let ready = space.json(&["ready", "--json"]);
    assert_eq!((&ready["ready"][0]["name"], &ready["ready"][0]["failed"]), (&"bad".into(), &Json::Null));
    assert_eq!((&ready["waiting"], &ready["blocked"]), (&1.into(), &1.into()));
    assert_eq!(space.run(&["run", "bad"]).status, 1);
    assert_eq!(space.json(&["ready", "--json"])["ready"][0]["failed"], "exit code 7");
    assert_eq!(space.ok(&["ready"]).stdout, "bad\n");
}

const WORDS: &str = r#"
[task.gen]
run = "cat words.txt extra/*.txt | tr a-z A-Z > gen/words"
inputs = ["words.txt", "extra/*.txt"]
outputs = ["gen/words"]
[task.sort]
run = ["sort", "-r"]
inputs = []
stdin = "gen/words"
stdout = "sorted.txt"
timeout = "1m"
retries = 2
backoff = "3s"
[task.count]
steps = ["echo $GREETING > ../count.txt", ["sh", "-c", "wc -l < ../sorted.txt >> ../count.txt"]]
dir = "extra"
inputs = []
needs = ["sort"]
env = { GREETING = "hello" }
outputs = ["count.txt"]
slots = { db = 2 }
after = ["gen"]
"#;

/// Carries a process out in a directory where its inputs are, as its order says and by nothing else.
fn carry_out(order: &Json, root: &Path) {
    let args = &order["work"]["args"];
    assert_eq!(order["work"]["cmd"], "/quipu/process");
    for step in args["steps"].as_array().expect("a list") {
        let argv = texts(step);
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir(root.join(args["dir"].as_str().expect("text"))).env_clear();
        for (name, value) in args["env"].as_object().expect("a map") {
            command.env(name, value.as_str().expect("text"));
        }
        // Standard input is an artifact: here that of the one input it is promised from.
        if let Some(at) = args["stdin"]["quipu/at"].as_array() {
            let path = at.last().and_then(Json::as_str).expect("a path");
            command.stdin(fs::File::open(root.join(path)).expect("is there"));
        }
        if let Some(path) = args["stdout"].as_str() {
            command.stdout(fs::File::create(root.join(path)).expect("is made"));
        }
        assert!(command.status().expect("starts").success(), "{argv:?}");
    }
}

#[test]
fn a_plan_alone_is_enough_to_do_all_the_work_without_quipu() {
    let space = TestSpace::new(WORDS);
    space.write("words.txt", "one\ntwo\n");
    space.write("extra/more.txt", "three\n");
    space.write("extra/unread.md", "no input\n");
    let plan = space.json(&["plan", "--json"]);
    let tasks = tasks(&plan);
    let elsewhere = tempfile::tempdir().expect("is made");
    let root = elsewhere.path();
    for batch in plan["batches"].as_array().expect("a list") {
        for name in texts(batch) {
            let order = tasks[name];
            let args = &order["work"]["args"];
            if let Some(tree) = args["inputs"][""]["/"].as_str() {
                for file in plan["trees"][tree].as_array().expect("the files of a tree are told") {
                    let path = file["path"].as_str().expect("text");
                    let to = root.join(path);
                    fs::create_dir_all(to.parent().expect("has one")).expect("is made");
                    fs::copy(space.path(path), to).expect("is copied");
                }
            }
            let outputs = args["outputs"].as_array().expect("a list").iter().filter_map(|o| o["path"].as_str());
            outputs.for_each(|path| fs::create_dir_all(root.join(path).parent().expect("has one")).expect("is made"));
            carry_out(order, root);
        }
    }
    assert!(!root.join("extra/unread.md").exists());
    space.build_twice(&[]);
    for path in ["gen/words", "sorted.txt", "count.txt"] {
        assert_eq!(fs::read_to_string(root.join(path)).expect("was made"), space.read(path), "{path}");
    }
    let sort = tasks["sort"];
    assert_eq!((&sort["timeout_ms"], &sort["retries"], &sort["backoff_ms"]), (&60_000.into(), &2.into(), &3000.into()));
    let count = tasks["count"];
    assert_eq!(count["slots"], serde_json::json!({ "": 1, "db": 2 }));
    assert_eq!((texts(&count["needs"]), texts(&count["after"])), (vec!["sort"], vec!["gen"]));
}

#[test]
fn what_is_ready_is_said_with_values_in_place_of_promises() {
    let space = TestSpace::new(WORDS);
    space.write("words.txt", "one\n");
    space.write("extra/more.txt", "two\n");
    space.build(&["gen"]);
    let plan = space.json(&["plan", "--json"]);
    let sort = tasks(&plan)["sort"];
    assert_eq!(sort["invoked"]["args"]["stdin"]["kind"], "file", "{sort}");
    assert_eq!(sort["invoked"]["args"]["stdin"]["size"], 8);
    let ready = space.json(&["ready", "--json"]);
    assert_eq!(ready["ready"][0]["invocation"], sort["invocation"]);
    assert!(sort["invocation"].is_string() && tasks(&plan)["count"]["invoked"].is_null());
    assert_ne!(sort["work"]["args"]["stdin"], sort["invoked"]["args"]["stdin"]);
}

#[test]
fn every_field_of_plans_is_documented() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats/plan.md")).expect("is there");
    let space = TestSpace::new(&format!(
        "{WORDS}[task.bad]\nrun = \"exit 1\"\ninputs = []\nwhen = \"always\"\nafter = [\"gen\"]\n"
    ));
    space.write("words.txt", "one\n");
    space.write("extra/more.txt", "two\n");
    let mut fields = BTreeSet::new();
    for goal in [&["gen"][..], &[]] {
        for json in [space.json(&["plan", "--json"]), space.json(&["ready", "--json"])] {
            let lists = [&json["tasks"], &json["ready"]].into_iter().filter_map(Json::as_array).flatten();
            let maps = lists.chain([&json]).filter_map(Json::as_object);
            fields.extend(maps.flat_map(|map| map.keys().cloned()));
        }
        space.build(goal);
    }
    assert!(fields.len() > 25, "{fields:?}");
    for field in fields {
        assert!(page.contains(&format!("`{field}`")), "{field}");
    }
}
