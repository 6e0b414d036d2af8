//! What a run is about: a workflow with its edges and ids, the same task under two names seen as one.
//!
//! Unaware of states and receipts.

use std::borrow::Cow;

use quipu_store::cid::TaskId;

use crate::graph::{Cycle, Graph, TaskIdx};
use crate::identity::{IdentityError, Ids};
use crate::task::{SERVICE, Work};
use crate::workflow::Workflow;

/// A workflow with its edges and ids: what a run is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The tasks.
    pub workflow: Workflow,
    /// Their edges.
    pub graph: Graph,
    /// Their ids.
    pub ids: Ids,
}

/// How many of the tasks that one awaits are looked at one by one.
const NEAR: usize = 16;

/// Why tasks are no subject of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// Tasks wait for one another.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// A task has no id.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Subject {
    /// Finds the edges and ids of a workflow.
    pub fn new(workflow: Workflow) -> Result<Self, SubjectError> {
        let graph = Graph::build(&workflow)?;
        let ids = Ids::compute(&workflow, &graph)?;
        let subject = Self { workflow, graph, ids };
        subject.check_merged()?;
        Ok(subject)
    }

    /// Two names of one task may close a ring that neither closes alone, by way of order-only edges.
    fn check_merged(&self) -> Result<(), Cycle> {
        if !self.ids.has_synonyms() {
            return Ok(());
        }
        // 0: not seen, 1: on the way, 2: done. A stack of its own: chains may be long.
        let mut seen = vec![0_u8; self.workflow.len()];
        for start in self.workflow.indices().filter(|i| self.ids.first(*i) == *i) {
            let mut way = vec![];
            let mut stack = vec![(start, false)];
            while let Some((task, leave)) = stack.pop() {
                if leave {
                    seen[task.index()] = 2;
                    way.pop();
                    continue;
                }
                match std::mem::replace(&mut seen[task.index()], 1) {
                    0 => {
                        way.push(task);
                        stack.push((task, true));
                        stack.extend(self.inputs(task).iter().chain(self.after(task).iter()).map(|d| (*d, false)));
                    }
                    1 => {
                        let from = way.iter().position(|t| *t == task).expect("what is on the way was put there");
                        return Err(Cycle { ring: way.split_off(from) });
                    }
                    _ => seen[task.index()] = 2,
                }
            }
        }
        Ok(())
    }

    /// Whether a task is a service: it runs while those that come after it do.
    pub fn is_service(&self, task: TaskIdx) -> bool {
        matches!(&self.workflow.node(task).work, Work::Task(recipe) if &*recipe.cmd == SERVICE)
    }

    /// What a task awaits, each once, the same task under two names as one.
    pub fn inputs(&self, task: TaskIdx) -> Cow<'_, [TaskIdx]> {
        self.firsts(self.graph.awaits(task))
    }

    /// The task with this id, which is most likely one that `task` awaits.
    pub fn awaited(&self, task: TaskIdx, id: TaskId) -> Option<TaskIdx> {
        // They are near, and the table of all ids is not.
        let near = self.graph.awaits(task).iter().take(NEAR).find(|awaited| self.ids.of(**awaited) == id);
        near.map(|awaited| self.ids.first(*awaited)).or_else(|| self.ids.find(id))
    }

    /// What must end before a task starts, under any of its names.
    pub fn after(&self, task: TaskIdx) -> Cow<'_, [TaskIdx]> {
        self.of_names(task, Graph::after)
    }

    /// Who awaits a task, under any of its names.
    pub fn awaiters(&self, task: TaskIdx) -> Cow<'_, [TaskIdx]> {
        self.of_names(task, Graph::awaited_by)
    }

    /// Who starts after a task, under any of its names.
    pub fn before(&self, task: TaskIdx) -> Cow<'_, [TaskIdx]> {
        self.of_names(task, Graph::before)
    }

    fn firsts<'a>(&self, tasks: &'a [TaskIdx]) -> Cow<'a, [TaskIdx]> {
        if !self.ids.has_synonyms() {
            return Cow::Borrowed(tasks);
        }
        let mut firsts: Vec<TaskIdx> = tasks.iter().map(|d| self.ids.first(*d)).collect();
        firsts.sort_unstable();
        firsts.dedup();
        Cow::Owned(firsts)
    }

    fn of_names<'a>(&'a self, task: TaskIdx, row: impl Fn(&'a Graph, TaskIdx) -> &'a [TaskIdx]) -> Cow<'a, [TaskIdx]> {
        match self.ids.others(task) {
            None => self.firsts(row(&self.graph, task)),
            Some(names) => {
                let all: Vec<TaskIdx> = names.iter().flat_map(|n| row(&self.graph, *n)).copied().collect();
                Cow::Owned(self.firsts(&all).into_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{DEFAULT_SUBJECT, Node, Task};
    use crate::value::{Branch, On, Value};

    #[test]
    fn two_names_of_one_task_may_close_a_ring_that_neither_closes_alone() {
        let node = |name: &str, args: Value, after: &[usize]| Node {
            name: name.into(),
            work: Work::Task(Task {
                sub: DEFAULT_SUBJECT.into(),
                cmd: "/test/sim".into(),
                args,
                nonce: Box::default(),
            }),
            policy: std::sync::Arc::default(),
            after: after.iter().copied().map(TaskIdx::new).collect(),
        };
        let mut w = Workflow::new();
        // x starts after z; z awaits y, which is x by another name.
        w.add_node(node("x", Value::Int(1), &[2])).expect("new");
        w.add_node(node("y", Value::Int(1), &[])).expect("new");
        let await_y = Value::promise(Branch::Ok, On::Here(TaskIdx::new(1)), ["outputs"]);
        w.add_node(node("z", await_y, &[])).expect("new");
        assert!(Graph::build(&w).is_ok(), "by names there is no ring");
        let ring = vec![TaskIdx::new(0), TaskIdx::new(2)];
        assert_eq!(Subject::new(w).map(|_| ()), Err(SubjectError::Cycle(Cycle { ring })));
    }
}
