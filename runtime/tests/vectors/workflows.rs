//! The published vectors of workflows: what the code makes now must be what `tests/vectors/workflows.json` says, and every
//! negative vector must be refused.

use std::path::Path;
use std::time::Duration;

use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::Subject;
use quipu_runtime::task::{Node, Policy, Task, When, Work};
use quipu_runtime::value::{Branch, On, Value};
use quipu_runtime::workflow::Workflow;
use quipu_runtime::workflow_block::{self, Beside};
use quipu_store::cid::{Codec, Link, TaskId, TreeId};
use serde_json::{Value as Json, json};

use super::{hex, map, swap, task, unhex};

fn smallest() -> (Subject, Vec<TaskIdx>, Beside) {
    let mut workflow = Workflow::new();
    let nothing = workflow.add("nothing", task("/test/nothing", map([]))).expect("new name");
    (Subject::new(workflow).expect("no ring"), vec![nothing], Beside::default())
}

/// One task of another workflow, whose failure is awaited; one with sources and limits; one that comes after it.
fn larger() -> (Subject, Vec<TaskIdx>, Beside) {
    let mut workflow = Workflow::new();
    let node = |name: &str, work, policy: Policy, after: Vec<TaskIdx>| Node {
        name: name.into(),
        work,
        policy: policy.into(),
        after: after.into(),
    };
    let there = Work::External { id: TaskId::of(b"a task of another workflow"), branch: Branch::Error };
    let there = workflow.add_node(node("there", there, Policy::default(), vec![])).expect("new name");
    let tree = TreeId::of(b"a directory");
    let read = task("/test/read", map([("inputs", map([("", tree.link().into())]))]));
    let policy = Policy {
        timeout: Some(Duration::from_secs(60)),
        retries: 2,
        backoff: Some(Duration::from_millis(500)),
        slots: [("db".into(), 1)].into(),
        mute: true,
        ..Policy::default()
    };
    let read = workflow.add_node(node("read", Work::Task(read), policy, vec![])).expect("new name");
    let at = Value::promise(Branch::Ok, On::Here(read), ["outputs", "o"]);
    let error = Value::promise(Branch::Error, On::Here(there), [""; 0]);
    let work = Task { nonce: b"always use".as_slice().into(), ..task("/test/use", map([("a", at), ("e", error)])) };
    let policy = Policy { when: When::Always, cache: false, ..Policy::default() };
    let last = workflow.add_node(node("use[a,b]", Work::Task(work), policy, vec![read])).expect("new name");
    let sources = [(tree, vec!["a.txt".into(), "b/c.txt".into()])].into();
    let urls = [("read".into(), vec!["https://example.org/a".into()])].into();
    let beside = Beside { sources, urls, ..Beside::default() };
    (Subject::new(workflow).expect("no ring"), vec![last], beside)
}

/// What is published, with a check on it that no goal leads to otherwise.
fn checked() -> (Subject, Vec<TaskIdx>, Beside) {
    let mut workflow = Workflow::new();
    let site = workflow.add("site", task("/test/make", map([]))).expect("new name");
    let at = Value::promise(Branch::Ok, On::Here(site), ["outputs", "o"]);
    workflow.add("links", task("/test/check", map([("site", at)]))).expect("new name");
    let checks = [("site".into(), vec!["links".into()])].into();
    (Subject::new(workflow).expect("no ring"), vec![site], Beside { checks, ..Beside::default() })
}

fn made() -> Json {
    let one = |name: &str, (subject, goals, beside): (Subject, Vec<TaskIdx>, Beside)| {
        let (id, bytes) = workflow_block::encode(&subject, &goals, &beside).expect("small");
        let json = workflow_block::to_json(&bytes).expect("has a form");
        let block: Json = serde_json::from_str(&json).expect("is JSON");
        json!({ "name": name, "id": id.to_string(), "bytes": hex(&bytes), "json": json, "block": block })
    };
    let small = one("the smallest", smallest());
    let bytes = unhex(small["bytes"].as_str().expect("hex"));
    let refused = |name: &str, old: &[u8], new: &[u8]| json!({ "name": name, "bytes": hex(&swap(&bytes, old, new)) });
    json!({
        "about": "Workflow blocks. Normative text: docs/formats/workflow.md. `json` is the DAG-JSON of the block, byte for byte.",
        "accept": [small, one("of another workflow, with sources, limits and order", larger()), one("with a check", checked())],
        "reject": [
            refused("another version", b"quipu/workflow\x01", b"quipu/workflow\x02"),
            refused("a version in a longer form", b"quipu/workflow\x01", b"quipu/workflow\x18\x01"),
            refused("no goals", b"goals\x81\x67nothing", b"goals\x80"),
            refused("a goal twice", b"goals\x81\x67nothing", b"goals\x82\x67nothing\x67nothing"),
            refused("a goal that is no task", b"goals\x81\x67nothing", b"goals\x81\x67nowhere"),
            refused("a field nobody knows", b"\xa4\x65goals", b"\xa5\x61a\x01\x65goals"),
            refused("sources that no task reads", b"sources\xa0", &[&b"sources\xa1\x78\x3b"[..], TreeId::of(b"?").to_string().as_bytes(), b"\x80"].concat()),
            refused("empty meta", b"nothing\xa1\x63run", b"nothing\xa2\x64meta\xa0\x63run"),
            refused("meta that says the default", b"nothing\xa1\x63run", b"nothing\xa2\x64meta\xa1\x65cache\xf5\x63run"),
            refused("a task after itself", b"nothing\xa1\x63run", b"nothing\xa2\x64meta\xa1\x65after\x81\x67nothing\x63run"),
            refused("a check that is no task", b"nothing\xa1\x63run", b"nothing\xa2\x64meta\xa1\x66checks\x81\x65links\x63run"),
            refused("no checks, said", b"nothing\xa1\x63run", b"nothing\xa2\x64meta\xa1\x66checks\x80\x63run"),
            refused("bytes behind it", b"quipu/workflow\x01", b"quipu/workflow\x01\x00"),
        ],
    })
}

#[test]
fn workflows_are_as_published() {
    let made = made();
    for item in made["accept"].as_array().expect("a list") {
        let bytes = unhex(item["bytes"].as_str().expect("hex"));
        assert_eq!(workflow_block::decode(&bytes).expect("accepted").id, Link::of(Codec::DagCbor, &bytes));
        assert_eq!(
            workflow_block::from_json(item["json"].as_str().expect("text").as_bytes()).expect("accepted"),
            bytes
        );
    }
    for item in made["reject"].as_array().expect("a list") {
        let bytes = unhex(item["bytes"].as_str().expect("hex"));
        assert!(workflow_block::decode(&bytes).is_err(), "{} must be refused", item["name"]);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/workflows.json");
    if std::env::var_os("QUIPU_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&made).expect("JSON") + "\n").expect("can be written");
    }
    let there: Json = serde_json::from_slice(&std::fs::read(&path).expect("vectors are committed")).expect("JSON");
    assert!(
        there == made,
        "tests/vectors/workflows.json differs from what the code makes; QUIPU_BLESS=1 writes it anew"
    );
}
