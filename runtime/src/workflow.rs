//! Workflows: named tasks, in the order they were written, as an embedding program or a workfile makes them.
//!
//! Knows names and places; unaware of edges (see [`crate::graph`]) and ids (see [`crate::identity`]).

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use quipu_store::cid::TaskId;

use crate::graph::TaskIdx;
use crate::task::{Node, Task, Work};
use crate::value::{Branch, Text};

/// Tasks by name.
#[derive(Debug, Clone, Default)]
pub struct Workflow {
    nodes: Vec<Node>,
    /// By the hash of the name, which stands with the node.
    names: HashTable<TaskIdx>,
    hasher: RandomState,
}

/// A name given twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task `{0}` is defined twice")]
pub struct DuplicateName(pub String);

impl Workflow {
    /// A workflow without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A workflow without tasks, with room for so many.
    pub fn with_capacity(tasks: usize) -> Self {
        Self { nodes: Vec::with_capacity(tasks), ..Self::default() }
    }

    /// Adds a task and returns its place, by which other tasks' promises refer to it.
    pub fn add(&mut self, name: impl Into<Text>, task: Task) -> Result<TaskIdx, DuplicateName> {
        self.add_node(Node { name: name.into(), work: Work::Task(task), policy: Arc::default(), after: Box::default() })
    }

    /// Adds a task of another workflow, by its id, to be awaited as a success.
    pub fn add_external(&mut self, name: impl Into<Text>, id: TaskId) -> Result<TaskIdx, DuplicateName> {
        let work = Work::External { id, branch: Branch::Ok };
        self.add_node(Node { name: name.into(), work, policy: Arc::default(), after: Box::default() })
    }

    /// Adds a node with its policy and order-only edges. Tasks that are written one after the other are much alike: what it
    /// has in common with the last one is kept once.
    pub fn add_node(&mut self, node: Node) -> Result<TaskIdx, DuplicateName> {
        let idx = TaskIdx::new(self.nodes.len());
        let Self { nodes, names, hasher } = self;
        let name_of = |idx: &TaskIdx| &*nodes[idx.index()].name;
        let is_same = |idx: &TaskIdx| *name_of(idx) == *node.name;
        match names.entry(hasher.hash_one(&*node.name), is_same, |idx| hasher.hash_one(name_of(idx))) {
            Entry::Occupied(_) => return Err(DuplicateName(node.name.to_string())),
            Entry::Vacant(place) => drop(place.insert(idx)),
        }
        let node = if let Some(last) = nodes.last() { node.sharing(last) } else { node };
        nodes.push(node);
        Ok(idx)
    }

    /// All nodes, by index.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node at `idx`.
    pub fn node(&self, idx: TaskIdx) -> &Node {
        &self.nodes[idx.index()]
    }

    /// The node called `name`.
    pub fn find(&self, name: &str) -> Option<TaskIdx> {
        self.names.find(self.hasher.hash_one(name), |idx| *self.node(*idx).name == *name).copied()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every index, in order.
    pub fn indices(&self) -> impl Iterator<Item = TaskIdx> + use<> {
        (0..self.nodes.len()).map(TaskIdx::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Policy, Work};
    use crate::value::Value;

    #[test]
    fn tasks_are_found_by_name_and_a_name_is_given_once() {
        let mut workflow = Workflow::new();
        for n in 0..1000 {
            let args = Value::map([("n", Value::Int(n))]).expect("one key");
            let idx = workflow.add(format!("t{n}"), Task::new("/test/do", args)).expect("a new name");
            assert_eq!(idx.index() as i64, n);
        }
        assert_eq!(workflow.add("t7", Task::new("/test/do", Value::Null)), Err(DuplicateName("t7".to_owned())));
        assert_eq!(workflow.len(), 1000, "nothing came of it");
        let found: Vec<usize> = ["t0", "t7", "t999"].map(|n| workflow.find(n).expect(n).index()).into();
        assert_eq!((found, workflow.find("t1000")), (vec![0, 7, 999], None));
    }

    #[test]
    fn what_a_task_has_in_common_with_the_last_is_kept_once() {
        let mut workflow = Workflow::new();
        let mut add = |name: &str, cmd: &str, retries: u32| {
            let policy = Policy { retries, ..Policy::default() }.into();
            let work = Work::Task(Task::new(cmd, Value::map([("name", name.into())]).expect("one key")));
            workflow.add_node(Node { name: name.into(), work, policy, after: Box::default() }).expect("a new name")
        };
        let (a, b, c) = (add("a", "/test/do", 2), add("b", "/test/do", 2), add("c", "/test/other", 0));
        let [a, b, c] = [a, b, c].map(|t| workflow.node(t));
        assert!(Arc::ptr_eq(&a.policy, &b.policy) && !Arc::ptr_eq(&b.policy, &c.policy));
        let (Work::Task(a), Work::Task(b), Work::Task(c)) = (&a.work, &b.work, &c.work) else { panic!("tasks") };
        assert!(Arc::ptr_eq(&a.cmd, &b.cmd) && Arc::ptr_eq(&a.sub, &c.sub));
        assert_eq!((&*b.cmd, &*c.cmd), ("/test/do", "/test/other"));
        assert_eq!([a, b, c].map(|t| t.args.get("name").and_then(Value::as_text)), [Some("a"), Some("b"), Some("c")]);
    }
}
