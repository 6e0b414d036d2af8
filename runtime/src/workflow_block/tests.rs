//! Workflows as blocks: what is written reads back, and nothing else is read.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::task::Policy;
use crate::value::Branch;

/// Task `i` awaits or follows tasks before it; the last one is of another workflow.
fn subject(edges: &[(usize, usize, u8)], nodes: usize) -> Subject {
    let mut workflow = Workflow::new();
    for i in 0..nodes {
        let on =
            |kind: u8| edges.iter().filter(move |e| e.0 == i && e.1 < i && e.2 % 3 == kind).map(|e| TaskIdx::new(e.1));
        let reads = on(0).map(|t| Value::promise(Branch::Ok, On::Here(t), ["outputs", "o"]));
        let reads = reads.chain(on(1).map(|t| Value::promise(Branch::Any, On::Here(t), [""; 0])));
        let args = map([("n", Value::Int(i as i64)), ("in", Value::list(reads))]);
        let policy = Policy {
            timeout: (i % 2 == 0).then(|| Duration::from_millis(1500)),
            retries: i as u32 % 3,
            slots: if i % 3 == 0 { [("db".into(), 2)].into() } else { BTreeMap::new() },
            cache: i % 4 != 1,
            ..Policy::default()
        };
        let node = Node {
            name: format!("t{i}").into(),
            work: Work::Task(Task::new("/test/x", args)),
            policy: policy.into(),
            after: on(2).collect(),
        };
        workflow.add_node(node).expect("new name");
    }
    Subject::new(workflow).expect("no ring")
}

proptest! {
    #[test]
    fn what_is_written_reads_back_with_the_same_ids(
        edges in proptest::collection::vec((0_usize..8, 0_usize..8, any::<u8>()), 0..20),
        nodes in 1_usize..8,
    ) {
        let subject = subject(&edges, nodes);
        let goals = [TaskIdx::new(nodes - 1)];
        let (id, bytes) = encode(&subject, &goals, &Beside::default()).expect("fits");
        prop_assert!(looks_like_one(&bytes) && quipu_store::dag::is_canonical(&bytes));
        let read = decode(&bytes).expect("reads");
        prop_assert_eq!(read.id, id);
        for node in read.subject.workflow.nodes() {
            let (there, here) = (read.subject.workflow.find(&node.name), subject.workflow.find(&node.name));
            let (there, here) = (there.expect("is there"), here.expect("was there"));
            prop_assert_eq!(read.subject.ids.of(there), subject.ids.of(here));
            prop_assert_eq!(&node.policy, &subject.workflow.node(here).policy);
        }
        let json = to_json(&bytes).expect("has a form");
        prop_assert_eq!(from_json(json.as_bytes()).expect("reads"), bytes);
    }

    #[test]
    fn a_changed_byte_is_refused_or_another_workflow(
        edges in proptest::collection::vec((0_usize..5, 0_usize..5, any::<u8>()), 0..8),
        at in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let (id, mut bytes) = encode(&subject(&edges, 5), &[TaskIdx::new(4)], &Beside::default()).expect("fits");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = decode(&bytes) {
            prop_assert_ne!(other.id, id);
            prop_assert_eq!(encode(&other.subject, &other.goals, &other.beside).expect("fits").1, bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err() && from_json(&bytes).is_err());
    }
}

#[test]
fn what_is_another_form_of_the_same_is_refused() {
    let (_, bytes) = encode(&subject(&[], 1), &[TaskIdx::new(0)], &Beside::default()).expect("fits");
    let json = String::from_utf8(to_json(&bytes).expect("has a form").into_bytes()).expect("is text");
    assert!(from_json(json.as_bytes()).is_ok());
    for (from, to) in [
        ("\"quipu/workflow\":1", "\"quipu/workflow\":2"),
        ("\"quipu/workflow\":1", "\"quipu/workflow\":1,\"more\":1"),
        ("[\"t0\"]", "[\"t0\",\"t0\"]"),
        ("[\"t0\"]", "[\"t1\"]"),
        ("[\"t0\"]", "[]"),
        ("\"timeout_ms\":1500", "\"timeout_ms\":-1"),
        ("\"timeout_ms\":1500", "\"timeout_ms\":1500,\"cache\":true"),
        ("\"timeout_ms\":1500", "\"timeout_ms\":1500,\"retries\":0"),
        ("\"timeout_ms\":1500", "\"timeout_ms\":1500,\"after\":[]"),
        ("\"timeout_ms\":1500", "\"timeout_ms\":1500,\"after\":[\"t0\"]"),
        ("\"timeout_ms\":1500", "\"timeout_ms\":1500,\"other\":1"),
        ("\"sources\":{}", "\"sources\":{\"bafyr4igxfwelrgywxgyjxsxkgwjnsh24colm2jg2k7izsy6ud5lseuygle\":[]}"),
        ("\"sources\":{}", "\"sources\":[]"),
        ("\"t0\":{", "\"\":{"),
        ("\"t0\":{", "\"t\\u0000\":{"),
        ("\"run\":{", "\"run\":{\"extra\":1,"),
        ("\"n\":0", "\"n\":{\"await/ok\":{\"/\":\"bafyr4igxfwelrgywxgyjxsxkgwjnsh24colm2jg2k7izsy6ud5lseuygle\"}}"),
    ] {
        assert!(json.contains(from), "{from} in {json}");
        assert!(from_json(json.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn files_are_named_for_the_trees_that_are_read() {
    let (tree, other) = (TreeId::of(b"tree"), TreeId::of(b"other"));
    let mut workflow = Workflow::new();
    let args = map([("inputs", Value::map([("", tree.link().into())]).expect("one key"))]);
    let task = workflow.add("a", Task::new("/test/x", args)).expect("new name");
    let subject = Subject::new(workflow).expect("no ring");
    let sources: Sources = [(tree, vec!["b".into(), "a/c".into(), "b".into()]), (other, vec!["x".into()])].into();
    let (_, bytes) = encode(&subject, &[task], &Beside { sources, ..Beside::default() }).expect("fits");
    assert_eq!(decode(&bytes).expect("reads").beside.sources, [(tree, vec!["a/c".into(), "b".into()])].into());
    let json = to_json(&bytes).expect("has a form");
    for bad in [r#"["b","a/c"]"#, r#"["a/../c","b"]"#, r#"["/a","b"]"#, r#"["a/c","b","b"]"#, r#"["",""]"#, r#"[1]"#] {
        assert!(json.contains(r#"["a/c","b"]"#), "{json}");
        assert!(from_json(json.replace(r#"["a/c","b"]"#, bad).as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_task_of_another_workflow_is_the_promise_on_it() {
    let there = TaskId::of(b"there");
    let mut workflow = Workflow::new();
    let work = Work::External { id: there, branch: Branch::Error };
    let lib =
        workflow.add_node(Node { name: "lib".into(), work, policy: std::sync::Arc::default(), after: Box::default() });
    let args = Value::promise(Branch::Error, On::Here(lib.expect("new name")), [""; 0]);
    let app = workflow.add("app", Task::new("/test/x", args)).expect("new name");
    let subject = Subject::new(workflow).expect("no ring");
    let (_, bytes) = encode(&subject, &[app], &Beside::default()).expect("fits");
    let json = to_json(&bytes).expect("has a form");
    assert!(json.contains(&format!("\"lib\":{{\"run\":{{\"await/error\":{{\"/\":\"{there}\"}}}}}}")), "{json}");
    let read = decode(&bytes).expect("reads");
    let lib = read.subject.workflow.find("lib").expect("is there");
    assert_eq!(read.subject.workflow.node(lib).work, Work::External { id: there, branch: Branch::Error });
    assert_eq!(read.subject.graph.awaits(read.goals[0]), [lib]);
}
