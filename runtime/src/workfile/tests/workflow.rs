//! From recipes to tasks: what stands in their arguments.

use std::path::Path;

use quipu_store::cid::{BlobId, TreeId};

use crate::process::ProcessSpec;
use crate::task::Work;
use crate::value::Value;
use crate::workfile::{DEFAULT_PATH, Loaded, Surroundings, ToolAt, WorkflowError, load_text};
use crate::workflow::Workflow;

fn surroundings() -> Surroundings {
    Surroundings {
        env: [("CI", "1"), ("USER", "somebody")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        tools: [(ToolAt { name: "cc".into(), within: DEFAULT_PATH.into() }, BlobId::of(b"cc"))].into(),
        platform: ("linux".into(), "x86_64".into()),
    }
}

fn workflow(text: &str) -> (Loaded, Result<Workflow, WorkflowError>) {
    let loaded = load_text(Path::new("/nonexistent"), text).unwrap_or_else(|e| panic!("{e}"));
    let trees = vec![Some(TreeId::of(b"tree")); loaded.recipes.len()];
    let workflow = loaded.workflow(&trees, &surroundings());
    (loaded, workflow)
}

fn spec(workflow: &Workflow, name: &str) -> ProcessSpec {
    let Work::Task(task) = &workflow.node(workflow.find(name).expect(name)).work else { panic!("{name}") };
    assert_eq!(task.args.check(), Ok(()));
    ProcessSpec::from_args(&task.args).expect("arguments read back")
}

fn show(value: &Value) -> String {
    match value.as_promise() {
        Some(promise) => format!("{:?} {:?} {}", promise.branch, promise.on, promise.at.join(" > ")),
        None => format!("{value:?}"),
    }
}

#[test]
fn promises_environment_and_policy_stand_where_they_belong() {
    let (loaded, workflow) = workflow(
        "[workspace]\nsubject = 'did:web:example.org'\n[task.all]\nneeds = ['b']\n[task.a]\nrun = 'a'\noutputs = ['x', 'd/']\ncache = false\n[task.b]\nrun = ['b']\ninputs = ['x', 'd/e/f']\nneeds = ['a']\nafter = ['all2']\nstdin = 'x'\nstdout = 'y'\nenv = { TZ = 'CET', CI = '2' }\npass-env = ['CI', 'USER', 'NOPE']\ntools = ['cc']\nsandbox = 'ns'\nnetwork = true\n[task.all2]\nneeds = ['a']\n[task.c]\nrun = 'c'\nstdin = 's'\nsandbox = 'none'",
    );
    let workflow = workflow.unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = workflow.nodes().iter().map(|n| &*n.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(loaded.node(loaded.find("b").expect("b")), workflow.find("b"));
    let b = spec(&workflow, "b");
    let inputs: Vec<String> = b.inputs.iter().map(|(path, value)| format!("{path} = {}", show(value))).collect();
    assert_eq!(
        inputs,
        [
            "@d = Ok Here(TaskIdx(0)) outputs",
            "d/e/f = Ok Here(TaskIdx(0)) outputs > d > e > f",
            "x = Ok Here(TaskIdx(0)) outputs > x",
        ]
    );
    assert_eq!(b.stdin.as_ref().map(show).as_deref(), Some("Ok Here(TaskIdx(0)) outputs > x"));
    assert_eq!((b.stdout.as_deref(), b.outputs.len(), b.network, b.tier.name()), (Some("y"), 1, true, "ns"));
    assert_eq!(b.tools.get("cc"), Some(&BlobId::of(b"cc")));
    assert_eq!(b.sources, Some(TreeId::of(b"tree")));
    let env: Vec<String> = b.env.iter().map(|(k, v)| format!("{k}={}", v.as_text().unwrap_or_default())).collect();
    assert_eq!(
        env.join(" "),
        "CI=2 HOME=/home LANG=C.UTF-8 LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SOURCE_DATE_EPOCH=315532800 TMPDIR=/tmp TZ=CET USER=somebody"
    );
    let node = workflow.node(workflow.find("b").expect("b"));
    assert_eq!(*node.after, [workflow.find("a").expect("a")]);
    let Work::Task(task) = &node.work else { panic!("b") };
    assert_eq!((&*task.sub, &*task.cmd, task.nonce.len()), ("did:web:example.org", "/quipu/process", 0));
    assert!(!workflow.node(workflow.find("a").expect("a")).policy.cache);
    let c = spec(&workflow, "c");
    assert_eq!((c.stdin, c.env["HOME"].as_text()), (Some(Value::text("s")), Some("/nonexistent")));
}

#[test]
fn what_is_not_part_of_an_id_leaves_arguments_alone() {
    let args = |text: &str| {
        let workflow = workflow(text).1.unwrap_or_else(|e| panic!("{e}"));
        let Work::Task(task) = &workflow.nodes()[0].work else { panic!("{text}") };
        task.clone()
    };
    let plain = args("[task.a]\nrun = 'x'\ninputs = ['*.c']\noutputs = ['o']");
    let same = "description = 'd'\ntags = ['t']\ntimeout = 3\nretries = 1\ncache = false\nslots = 2\nmute = true\nshell = ['sh', '-euc']";
    assert_eq!(
        plain,
        args(&format!(
            "[vars]\nv = 'x'\n[task.b]\nrun = '{{{{v}}}}'\ninputs = ['./*.c']\noutputs = ['p/../o']\n{same}"
        ))
    );
    for other in [
        "run = 'y'",
        "dir = 'd'",
        "env = { A = 1 }",
        "outputs = ['p']",
        "stdout = 'p'",
        "tools = ['cc']",
        "network = true",
        "sandbox = 'none'",
        "shell = ['sh', '-c']",
    ] {
        let mut text = "[task.a]\ninputs = ['*.c']\n".to_owned();
        for line in ["run = 'x'", "outputs = ['o']"] {
            let (key, _) = line.split_once(' ').expect("has a key");
            if !other.starts_with(key) {
                text.push_str(line);
                text.push('\n');
            }
        }
        assert_ne!(plain, args(&format!("{text}{other}")), "{other}");
    }
}

#[test]
fn tools_must_be_found_and_trees_counted() {
    let (loaded, workflow) = workflow("[task.a]\nrun = 'x'\ntools = ['ld']");
    let error = workflow.err().map(|e| e.to_string());
    assert_eq!(error.as_deref(), Some("task `a` names the tool `ld`, which was not found"));
    let error = loaded.workflow(&[], &surroundings()).err().map(|e| e.to_string());
    assert_eq!(error.as_deref(), Some("1 recipes have 0 trees of sources"));
}
