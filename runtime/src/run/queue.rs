//! The ready queue: critical path first, bounded by slots.
//!
//! Knows priorities and counts; unaware of why a task is ready. Its order is a function of what is in it
//! alone, so that one job at a time gives the same order every time.

use std::collections::{BTreeMap, BinaryHeap};

use crate::graph::{Graph, TaskIdx};
use crate::value::Text;

/// Length of the longest way from each task to an end, by expected durations: what to start first.
pub fn critical_path(graph: &Graph, expected_ms: &[u64]) -> Vec<u64> {
    let mut length = vec![0_u64; graph.len()];
    for &task in graph.order().iter().rev() {
        let followers = graph.awaited_by(task).iter().chain(graph.before(task));
        let longest = followers.map(|f| length[f.index()]).max().unwrap_or(0);
        // Tasks nobody timed yet count as one millisecond, so that depth still orders them.
        let own = expected_ms.get(task.index()).copied().unwrap_or(0).max(1);
        length[task.index()] = longest.saturating_add(own);
    }
    length
}

/// Slots by name. The one with the empty name is what `-j` bounds.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    total: BTreeMap<Text, u32>,
    free: BTreeMap<Text, u32>,
}

/// The slots a task takes: at least one of the empty name, never more than there are.
pub(super) type Taken = Vec<(Text, u32)>;

impl Slots {
    /// `jobs` slots without a name, and the named ones.
    pub(super) fn new(jobs: u32, named: &BTreeMap<Text, u32>) -> Self {
        let mut total = named.clone();
        total.insert("".into(), jobs.max(1));
        Self { free: total.clone(), total }
    }

    /// Takes what a task wants, or nothing. A wish beyond the total is cut down to it; a name nobody set
    /// has one slot.
    pub(super) fn take(&mut self, wanted: &BTreeMap<Text, u32>) -> Option<Taken> {
        let mut taken: Taken = wanted
            .iter()
            .map(|(name, n)| (name.clone(), (*n).min(self.total.get(name).copied().unwrap_or(1))))
            .filter(|(_, n)| *n > 0)
            .collect();
        if !wanted.contains_key("") {
            taken.push(("".into(), 1));
        }
        let fits = taken.iter().all(|(name, n)| self.free.get(name).copied().unwrap_or(1) >= *n);
        if !fits {
            return None;
        }
        for (name, n) in &taken {
            *self.free.entry(name.clone()).or_insert(1) -= n;
        }
        Some(taken)
    }

    /// Gives back what was taken.
    pub(super) fn give(&mut self, taken: Taken) {
        for (name, n) in taken {
            *self.free.get_mut(&name).expect("what was taken is known") += n;
        }
    }
}

/// Tasks that could start, best first.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<(u64, std::cmp::Reverse<TaskIdx>, u32)>,
}

impl Queue {
    /// Adds a task with its priority; `epoch` tells later whether it still means the same wish.
    pub(super) fn push(&mut self, task: TaskIdx, priority: u64, epoch: u32) {
        self.heap.push((priority, std::cmp::Reverse(task), epoch));
    }

    /// Takes the best task that `start` accepts. `start` answers `None` for one that is queued no more,
    /// and `Some(false)` for one that does not fit now.
    pub(super) fn pop(&mut self, mut start: impl FnMut(TaskIdx, u32) -> Option<bool>) -> Option<TaskIdx> {
        let mut put_back = vec![];
        let mut found = None;
        while let Some(top) = self.heap.pop() {
            match start(top.1.0, top.2) {
                None => {}
                Some(true) => {
                    found = Some(top.1.0);
                    break;
                }
                Some(false) => put_back.push(top),
            }
        }
        self.heap.extend(put_back);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_beyond_the_total_is_cut_down_and_every_task_takes_a_job() {
        let mut slots = Slots::new(2, &BTreeMap::from([("gpu".into(), 1)]));
        let gpu = slots.take(&BTreeMap::from([("gpu".into(), 5)])).expect("cut down to one");
        assert_eq!(slots.take(&BTreeMap::from([("gpu".into(), 1)])), None);
        let job = slots.take(&BTreeMap::new()).expect("the second job");
        assert_eq!(slots.take(&BTreeMap::new()), None);
        slots.give(gpu);
        slots.give(job);
        assert!(slots.take(&BTreeMap::from([("".into(), 9)])).is_some(), "all jobs at once");
        assert_eq!(slots.take(&BTreeMap::new()), None);
    }

    #[test]
    fn the_best_that_fits_starts_and_the_rest_stays() {
        let mut queue = Queue::default();
        for (n, priority) in [(0, 5), (1, 9), (2, 9), (3, 1)] {
            queue.push(TaskIdx::new(n), priority, 0);
        }
        let mut order = vec![];
        while let Some(task) = queue.pop(|task, _| Some(task.index() != 1 || !order.is_empty())) {
            order.push(task.index());
        }
        assert_eq!(order, [2, 1, 0, 3]);
    }
}
