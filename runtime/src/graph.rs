//! The graph of a workflow: who awaits whom, in compressed rows, and its order.
//!
//! Knows indices and edges; unaware of what a task does, of ids and of receipts. Rows and Kahn's algorithm
//! rather than a graph library: the ready set of the one is the scheduler's queue, and it is an order of
//! magnitude faster to build and to sort at 100,000 nodes.

use crate::task::Work;
use crate::value::On;
use crate::workflow::Workflow;

/// A task's place in its workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskIdx(u32);

impl TaskIdx {
    /// The index of the `n`-th task; workflows are bounded far below `u32::MAX`.
    pub fn new(n: usize) -> Self {
        Self(u32::try_from(n).expect("a workflow has fewer than 2^32 tasks"))
    }

    /// As an index into a slice.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Rows of task indices, one after the other in one allocation.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Where each begins, and the last ends; nothing when all of them are empty.
    starts: Vec<u32>,
    items: Vec<TaskIdx>,
}

impl Rows {
    /// Row `i`.
    pub fn of(&self, i: TaskIdx) -> &[TaskIdx] {
        if self.items.is_empty() {
            return &[];
        }
        &self.items[self.starts[i.index()] as usize..self.starts[i.index() + 1] as usize]
    }

    /// How many items there are in all rows.
    pub fn total(&self) -> usize {
        self.items.len()
    }

    fn from_rows(rows: impl Iterator<Item = Vec<TaskIdx>>) -> Self {
        let mut out = Self { starts: vec![0], items: vec![] };
        for row in rows {
            out.items.extend(row);
            out.starts.push(u32::try_from(out.items.len()).expect("fewer than 2^32 edges"));
        }
        if out.items.is_empty() { Self::default() } else { out }
    }

    /// The same edges the other way round; each row in ascending order.
    fn reversed(&self, nodes: usize) -> Self {
        if self.items.is_empty() {
            return Self::default();
        }
        let mut starts = vec![0_u32; nodes + 1];
        for to in &self.items {
            starts[to.index() + 1] += 1;
        }
        for i in 0..nodes {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut items = vec![TaskIdx(0); self.items.len()];
        for from in 0..nodes {
            for to in self.of(TaskIdx::new(from)) {
                items[next[to.index()] as usize] = TaskIdx::new(from);
                next[to.index()] += 1;
            }
        }
        Self { starts, items }
    }
}

/// Edges and an order in which every task comes after all it depends on.
#[derive(Debug, Clone)]
pub struct Graph {
    /// What each task awaits, each once, ascending.
    awaits: Rows,
    /// Tasks that must end before each starts, without being awaited.
    after: Rows,
    /// Who awaits each task.
    awaited_by: Rows,
    /// Who starts after each task.
    before: Rows,
    order: Vec<TaskIdx>,
}

/// Tasks that wait for one another in a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tasks wait for one another in a ring")]
pub struct Cycle {
    /// The ring, each awaiting the next, the last the first; the smallest index first.
    pub ring: Vec<TaskIdx>,
}

impl Graph {
    /// Finds the edges of a workflow and an order of its tasks, or a ring among them.
    pub fn build(workflow: &Workflow) -> Result<Self, Cycle> {
        let nodes = workflow.len();
        let awaits = Rows::from_rows(workflow.nodes().iter().map(|node| {
            let mut row = vec![];
            if let Work::Task(task) = &node.work {
                task.args.promises(&mut |promise| {
                    if let On::Here(on) = promise.on {
                        row.push(on);
                    }
                });
            }
            row.sort_unstable();
            row.dedup();
            row
        }));
        let after = Rows::from_rows(workflow.nodes().iter().map(|node| {
            let mut row = node.after.to_vec();
            row.sort_unstable();
            row.dedup();
            row
        }));
        let (awaited_by, before) = (awaits.reversed(nodes), after.reversed(nodes));
        let mut graph = Self { awaits, after, awaited_by, before, order: vec![] };
        graph.order = graph.sort(nodes)?;
        Ok(graph)
    }

    fn sort(&self, nodes: usize) -> Result<Vec<TaskIdx>, Cycle> {
        let mut missing: Vec<u32> =
            (0..nodes).map(TaskIdx::new).map(|i| (self.awaits.of(i).len() + self.after.of(i).len()) as u32).collect();
        let mut order: Vec<TaskIdx> = (0..nodes).map(TaskIdx::new).filter(|i| missing[i.index()] == 0).collect();
        let mut head = 0;
        while let Some(&done) = order.get(head) {
            head += 1;
            for &next in self.awaited_by.of(done).iter().chain(self.before.of(done)) {
                missing[next.index()] -= 1;
                if missing[next.index()] == 0 {
                    order.push(next);
                }
            }
        }
        if order.len() == nodes { Ok(order) } else { Err(self.ring(&missing)) }
    }

    /// Follows unfinished dependencies from the smallest unfinished task until one comes again.
    fn ring(&self, missing: &[u32]) -> Cycle {
        let mut at = TaskIdx::new(missing.iter().position(|m| *m > 0).expect("some task was not reached"));
        let mut seen = vec![usize::MAX; missing.len()];
        let mut path = vec![];
        while seen[at.index()] == usize::MAX {
            seen[at.index()] = path.len();
            path.push(at);
            let mut next = self.awaits.of(at).iter().chain(self.after.of(at)).copied();
            at = next.find(|d| missing[d.index()] > 0).expect("an unreached task waits for an unreached one");
        }
        let mut ring = path.split_off(seen[at.index()]);
        let first = (0..ring.len()).min_by_key(|i| ring[*i]).expect("a ring has a member");
        ring.rotate_left(first);
        Cycle { ring }
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What `task` awaits: each once, ascending.
    pub fn awaits(&self, task: TaskIdx) -> &[TaskIdx] {
        self.awaits.of(task)
    }

    /// Who awaits `task`.
    pub fn awaited_by(&self, task: TaskIdx) -> &[TaskIdx] {
        self.awaited_by.of(task)
    }

    /// Tasks that end before `task` starts, without being awaited.
    pub fn after(&self, task: TaskIdx) -> &[TaskIdx] {
        self.after.of(task)
    }

    /// Tasks that start after `task` ended, without awaiting it.
    pub fn before(&self, task: TaskIdx) -> &[TaskIdx] {
        self.before.of(task)
    }

    /// Every task after all it depends on.
    pub fn order(&self) -> &[TaskIdx] {
        &self.order
    }

    /// Number of edges of both kinds.
    pub fn edges(&self) -> usize {
        self.awaits.total() + self.after.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Node, Task};
    use crate::value::{Branch, Value};
    use petgraph::algo::{is_cyclic_directed, toposort};
    use petgraph::graph::DiGraph;
    use proptest::prelude::*;

    /// A workflow whose task `i` awaits, or comes after, the tasks that `edges` names for it.
    fn workflow(nodes: usize, edges: &[(usize, usize, bool)]) -> Workflow {
        let mut workflow = Workflow::new();
        for i in 0..nodes {
            let own =
                |awaited: bool| edges.iter().filter(move |e| e.0 == i && e.2 == awaited).map(|e| TaskIdx::new(e.1));
            let reads = own(true).map(|on| Value::promise(Branch::Ok, On::Here(on), ["outputs"]));
            let args = Value::list([Value::list(reads)]);
            let work = Work::Task(Task::new("/test/graph", args));
            let node = Node {
                name: format!("t{i}").into(),
                work,
                policy: std::sync::Arc::default(),
                after: own(false).collect(),
            };
            workflow.add_node(node).expect("new name");
        }
        workflow
    }

    proptest! {
        /// A graph library knows orders and rings, too: it is the oracle, and nothing else here uses it.
        #[test]
        fn orders_and_rings_are_those_of_the_oracle(
            nodes in 1_usize..12,
            edges in proptest::collection::vec((0_usize..12, 0_usize..12, any::<bool>()), 0..24),
        ) {
            let edges: Vec<_> = edges.into_iter().map(|(a, b, k)| (a % nodes, b % nodes, k)).collect();
            let mut oracle = DiGraph::<(), ()>::new();
            let at: Vec<_> = (0..nodes).map(|_| oracle.add_node(())).collect();
            for (task, on, _) in &edges {
                oracle.update_edge(at[*on], at[*task], ());
            }
            match Graph::build(&workflow(nodes, &edges)) {
                Ok(graph) => {
                    prop_assert!(toposort(&oracle, None).is_ok());
                    let mut place = vec![usize::MAX; nodes];
                    graph.order().iter().enumerate().for_each(|(n, t)| place[t.index()] = n);
                    prop_assert!(place.iter().all(|p| *p < nodes), "every task stands in the order once");
                    for (task, on, awaited) in &edges {
                        prop_assert!(place[*on] < place[*task]);
                        let (task, on) = (TaskIdx::new(*task), TaskIdx::new(*on));
                        let (there, back) = if *awaited {
                            (graph.awaits(task), graph.awaited_by(on))
                        } else {
                            (graph.after(task), graph.before(on))
                        };
                        prop_assert!(there.contains(&on) && back.contains(&task));
                    }
                }
                Err(cycle) => {
                    prop_assert!(is_cyclic_directed(&oracle));
                    let ring = &cycle.ring;
                    for (i, task) in ring.iter().enumerate() {
                        let on = ring[(i + 1) % ring.len()];
                        prop_assert!(edges.iter().any(|e| e.0 == task.index() && e.1 == on.index()), "{ring:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_ring_begins_with_its_smallest_task_and_is_whole() {
        let found = Graph::build(&workflow(5, &[(4, 2, true), (2, 3, true), (3, 2, false), (1, 0, true)]));
        let ring = found.expect_err("2 and 3 wait for each other").ring;
        assert_eq!(ring.iter().map(|t| t.index()).collect::<Vec<_>>(), [2, 3]);
        let own = Graph::build(&workflow(1, &[(0, 0, true)])).expect_err("it waits for itself");
        assert_eq!(own.ring, [TaskIdx::new(0)]);
    }
}
