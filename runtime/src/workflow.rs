//! Workflows: named tasks, in the order they were written, as an embedding program or a workfile makes them.
//!
//! Knows names and places; unaware of edges (see [`crate::graph`]) and ids (see [`crate::identity`]).

use std::collections::HashMap;

use quipu_store::cid::TaskId;

use crate::graph::TaskIdx;
use crate::task::{Node, Policy, Task, Work};
use crate::value::{Branch, Text};

/// Tasks by name.
#[derive(Debug, Clone, Default)]
pub struct Workflow {
    nodes: Vec<Node>,
    names: HashMap<Text, TaskIdx>,
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

    /// Adds a task and returns its place, by which other tasks' promises refer to it.
    pub fn add(&mut self, name: impl Into<Text>, task: Task) -> Result<TaskIdx, DuplicateName> {
        self.add_node(Node { name: name.into(), work: Work::Task(task), policy: Policy::default(), after: vec![] })
    }

    /// Adds a task of another workflow, by its id, to be awaited as a success.
    pub fn add_external(&mut self, name: impl Into<Text>, id: TaskId) -> Result<TaskIdx, DuplicateName> {
        let work = Work::External { id, branch: Branch::Ok };
        self.add_node(Node { name: name.into(), work, policy: Policy::default(), after: vec![] })
    }

    /// Adds a node with its policy and order-only edges.
    pub fn add_node(&mut self, node: Node) -> Result<TaskIdx, DuplicateName> {
        let idx = TaskIdx::new(self.nodes.len());
        if self.names.insert(node.name.clone(), idx).is_some() {
            return Err(DuplicateName(node.name.to_string()));
        }
        self.nodes.push(node);
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
        self.names.get(name).copied()
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
