//! The ready queue: critical path first, bounded by slots.
//!
//! Knows priorities and counts; unaware of why a task is ready. Its order is a function of what is in it
//! alone, so that one job at a time gives the same order every time.

use std::cmp::Reverse;
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

    /// A wish beyond the total is cut down to it; a name nobody set has one slot.
    fn cut_down(&self, wanted: &Wish) -> Taken {
        let mut taken: Taken = wanted
            .iter()
            .map(|(name, n)| (name.clone(), (*n).min(self.total.get(name).copied().unwrap_or(1))))
            .filter(|(_, n)| *n > 0)
            .collect();
        if wanted.get("") != Some(&0) && taken.first().is_none_or(|(name, _)| !name.is_empty()) {
            taken.push(("".into(), 1));
        }
        taken
    }

    fn fits(&self, wanted: &Wish) -> bool {
        self.fits_cut_down(&self.cut_down(wanted))
    }

    fn fits_cut_down(&self, wanted: &Taken) -> bool {
        wanted.iter().all(|(name, n)| self.free.get(name).copied().unwrap_or(1) >= *n)
    }

    /// Takes what a task wants, or nothing.
    pub(super) fn take(&mut self, wanted: &Wish) -> Option<Taken> {
        let taken = self.cut_down(wanted);
        if !self.fits_cut_down(&taken) {
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

/// What a task wants, apart from which task it is.
type Wish = BTreeMap<Text, u32>;

/// Tasks that could start, best first. Those that want the same slots stand in one line, so that a line
/// nobody of which fits costs one look, however long it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    lines: BTreeMap<Wish, BinaryHeap<(u64, Reverse<TaskIdx>, u32)>>,
}

impl Queue {
    /// Adds a task with its priority and the slots it wants; `epoch` tells later whether it still means
    /// the same wish.
    pub(super) fn push(&mut self, task: TaskIdx, priority: u64, epoch: u32, wanted: &Wish) {
        let entry = (priority, Reverse(task), epoch);
        match self.lines.get_mut(wanted) {
            Some(line) => line.push(entry),
            None => drop(self.lines.insert(wanted.clone(), BinaryHeap::from([entry]))),
        }
    }

    /// Takes the best task that fits, with its slots. `current` tells which entries still count.
    pub(super) fn pop(
        &mut self,
        slots: &mut Slots,
        current: impl Fn(TaskIdx, u32) -> bool,
    ) -> Option<(TaskIdx, Taken)> {
        let mut best: Option<(&Wish, _)> = None;
        for (wish, line) in &mut self.lines {
            while line.peek().is_some_and(|(_, task, epoch)| !current(task.0, *epoch)) {
                line.pop();
            }
            let Some(top) = line.peek().copied() else { continue };
            if best.as_ref().is_none_or(|(_, other)| top > *other) && slots.fits(wish) {
                best = Some((wish, top));
            }
        }
        let wish = best.map(|(wish, _)| wish.clone())?;
        let (_, task, _) = self.lines.get_mut(&wish)?.pop()?;
        Some((task.0, slots.take(&wish)?))
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
        let gpu = BTreeMap::from([("gpu".into(), 1)]);
        for (n, priority, wish) in [(0, 5, &gpu), (1, 9, &gpu), (2, 9, &gpu), (3, 1, &BTreeMap::new()), (4, 7, &gpu)] {
            queue.push(TaskIdx::new(n), priority, 0, wish);
        }
        let mut slots = Slots::new(2, &BTreeMap::from([("gpu".into(), 1)]));
        let mut next =
            |slots: &mut Slots| queue.pop(slots, |task, _| task.index() != 4).map(|(t, taken)| (t.index(), taken));
        let (first, taken) = next(&mut slots).expect("the better of two, the first of equals");
        assert_eq!((first, next(&mut slots).map(|(t, _)| t)), (1, Some(3)), "the gpu is taken, a job is not");
        assert_eq!(next(&mut slots), None);
        slots.give(taken);
        assert_eq!(next(&mut slots).map(|(t, _)| t), Some(2));
    }

    #[test]
    fn a_full_house_costs_one_look_at_each_line() {
        let mut queue = Queue::default();
        let wishes = [BTreeMap::new(), BTreeMap::from([("gpu".into(), 1)])];
        for n in 0..1000 {
            queue.push(TaskIdx::new(n), 1, 0, &wishes[n % 2]);
        }
        let mut slots = Slots::new(1, &BTreeMap::new());
        let looks = std::cell::Cell::new(0);
        let mut pop = |slots: &mut Slots| {
            looks.set(0);
            let popped = queue.pop(slots, |_, _| {
                looks.set(looks.get() + 1);
                true
            });
            (popped.map(|(task, _)| task.index()), looks.get())
        };
        assert_eq!(pop(&mut slots), (Some(0), 2));
        assert_eq!(pop(&mut slots), (None, 2));
    }
}
