//! Oracles of what people hand one another: workflows as blocks, and archives.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::OnceLock;

use quipu_fetch::{Bounds, unpack};
use quipu_runtime::fetch::Unpack;
use quipu_runtime::run::Subject;
use quipu_runtime::task::{Node, Policy, Task, Work};
use quipu_runtime::value::{Branch, On, Value};
use quipu_runtime::workflow::Workflow;
use quipu_runtime::workflow_block::{self, Beside, WorkflowBlockError};
use quipu_store::cid::{Codec, Link, TaskId, TreeId};
use quipu_store::ingest::stays_inside;
use quipu_store::tree::Entry;
use quipu_store::{Store, dag};

use super::{Source, mutate, options, scratch};

/// A workflow with something of everything.
fn genuine() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let map = |pairs: Vec<(&str, Value)>| Value::map(pairs).expect("distinct keys");
        let mut workflow = Workflow::new();
        let mut add = |name: &str, work, policy: Policy, after: Vec<_>| {
            workflow
                .add_node(Node { name: name.into(), work, policy: policy.into(), after: after.into() })
                .expect("a new name")
        };
        let there = Work::External { id: TaskId::of(b"there"), branch: Branch::Any };
        let there = add("there", there, Policy::default(), vec![]);
        let tree = TreeId::of(b"a directory");
        let read = map(vec![("inputs", map(vec![("", tree.link().into())]))]);
        let policy = Policy { retries: 2, slots: BTreeMap::from([("db".into(), 1)]), ..Policy::default() };
        let read = add("read", Work::Task(Task::new("/test/read", read)), policy, vec![]);
        let promise = |branch, on| Value::promise(branch, On::Here(on), ["outputs", "o"]);
        let site = map(vec![("a", promise(Branch::Ok, read)), ("b", promise(Branch::Any, there))]);
        let site = add("site", Work::Task(Task::new("/test/make", site)), Policy::default(), vec![read]);
        let check = map(vec![("site", promise(Branch::Ok, site))]);
        add("check", Work::Task(Task::new("/test/check", check)), Policy::default(), vec![]);
        let beside = Beside {
            sources: [(tree, vec!["a".into(), "b/c".into()])].into(),
            urls: [("read".into(), vec!["https://example.org/".into()])].into(),
            checks: [("site".into(), vec!["check".into()])].into(),
        };
        let subject = Subject::new(workflow).expect("no ring");
        workflow_block::encode(&subject, &[site], &beside).expect("is small").1
    })
}

/// Workflows: what is accepted is what writing gives, in both forms, and no change of one has its id.
pub(crate) fn workflow(bytes: &[u8]) {
    let mut changed = genuine().to_vec();
    mutate(&mut Source(bytes), &mut changed);
    for block in [bytes, &changed] {
        match workflow_block::decode(block) {
            Ok(read) => {
                assert!(workflow_block::looks_like_one(block) && dag::is_canonical(block));
                assert_eq!(read.id, Link::of(Codec::DagCbor, block));
                let again =
                    workflow_block::encode(&read.subject, &read.goals, &read.beside).expect("was written before");
                assert_eq!((again.0, &again.1[..]), (read.id, block));
                let json = workflow_block::to_json(block).expect("has the other form");
                assert_eq!(workflow_block::from_json(json.as_bytes()).expect("was just written"), block);
                let all: Vec<_> = read.subject.workflow.indices().collect();
                for (task, checks) in read.beside.gates(&read.subject, &all) {
                    assert!(
                        !checks.is_empty() && all.contains(&task) && checks.iter().all(|check| all.contains(check))
                    );
                }
            }
            Err(error) => assert!(block != genuine(), "{error}"),
        }
    }
    match workflow_block::from_json(bytes) {
        Ok(block) => assert!(workflow_block::decode(&block).is_ok()),
        Err(WorkflowBlockError::Json(error)) => assert!(!error.to_string().is_empty()),
        Err(_) => {}
    }
}

const BOUNDS: Bounds = Bounds { max_bytes: 1 << 20, max_entries: 1000, max_name_bytes: 1 << 16 };

/// Archives: what is kept of one stays inside and within its bounds, and is the same each time. The first byte says of which form.
pub(crate) fn archive(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else { return };
    let how = Unpack::ALL[usize::from(*form) % Unpack::ALL.len()];
    let dir = scratch("archive");
    let once = || {
        let store = Store::memory(options());
        let found = unpack(&store, Cursor::new(rest), how, u32::from(*form >> 7), &BOUNDS, &dir);
        (store, found.map_err(|error| error.to_string()))
    };
    let (store, first) = once();
    assert_eq!(first, once().1, "the same archive, unpacked otherwise");
    if let Ok(entry) = &first {
        assert!(store.complete(entry).expect("is read"));
        let Entry::Dir { tree } = entry else { panic!("an archive is a folder") };
        let (mut open, mut files, mut bytes) = (vec![(*tree, 0)], 0, 0);
        while let Some((tree, depth)) = open.pop() {
            for (_, entry) in store.tree(tree).expect("is read").expect("is there").entries() {
                files += 1;
                match entry {
                    Entry::Dir { tree } => open.push((*tree, depth + 1)),
                    Entry::Symlink { target } => assert!(stays_inside(target, depth), "{target} leads out"),
                    Entry::File { size, .. } => bytes = bytes.max(*size),
                }
            }
        }
        // Folders that are there by what is in them are not counted.
        assert!(files <= BOUNDS.max_entries + BOUNDS.max_name_bytes && bytes <= BOUNDS.max_bytes);
    }
    let _ = std::fs::remove_dir_all(&dir);
}
