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

/// How many jobs a task takes that wants these slots.
pub fn jobs_of(wanted: &BTreeMap<Text, u32>) -> u32 {
    wanted.get("").copied().unwrap_or(1)
}

/// How many tasks are handed out beyond the jobs there are, to be got ready: the fewest that keep the jobs busy, since a better
/// task that could start meanwhile comes after them.
const AHEAD: u32 = 1;

/// Slots by name. The one with the empty name is what `-j` bounds.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    total: BTreeMap<Text, u32>,
    free: BTreeMap<Text, u32>,
    /// Jobs handed out beyond those there are.
    ahead: u32,
}

/// The slots a task takes: at least one of the empty name, never more than there are.
pub(super) type Taken = Vec<(Text, u32)>;

impl Slots {
    /// `jobs` slots without a name, and the named ones.
    pub(super) fn new(jobs: u32, named: &BTreeMap<Text, u32>) -> Self {
        let mut total = named.clone();
        total.insert("".into(), jobs.max(1));
        Self { free: total.clone(), total, ahead: 0 }
    }

    /// A wish beyond the total is cut down to it; a name nobody set has one slot.
    fn cut_down(&self, wanted: &Wish) -> Taken {
        let named = wanted.iter().filter(|(name, _)| !name.is_empty()).map(|(name, n)| (name.clone(), *n));
        let taken = std::iter::once(("".into(), jobs_of(wanted))).chain(named);
        let cut_down = taken.map(|(name, n)| (n.min(self.total.get(&name).copied().unwrap_or(1)), name));
        cut_down.filter(|(n, _)| *n > 0).map(|(n, name)| (name, n)).collect()
    }

    fn fits(&self, wanted: &Taken) -> Fits {
        let lacks = |(name, n): &&(Text, u32)| self.free.get(name).copied().unwrap_or(1) < *n;
        match wanted.iter().find(lacks) {
            None => Fits::Now,
            // Names are in order, and this one is the first.
            Some((name, n)) if name.is_empty() && !wanted[1..].iter().any(|named| lacks(&named)) => Fits::Later(*n),
            Some(_) => Fits::Not,
        }
    }

    /// Takes what a task wants, or nothing.
    #[cfg(test)]
    pub(super) fn take(&mut self, wanted: &Wish) -> Option<Taken> {
        let taken = self.cut_down(wanted);
        (self.fits(&taken) == Fits::Now).then(|| self.take_all(taken))
    }

    /// Takes what fits, or fits but for a job.
    fn take_all(&mut self, wanted: Taken) -> Taken {
        for (name, n) in &wanted {
            let free = self.free.entry(name.clone()).or_insert(1);
            let beyond = n.saturating_sub(*free);
            self.ahead += beyond;
            *free -= n - beyond;
        }
        wanted
    }

    /// Gives back what was taken.
    pub(super) fn give(&mut self, taken: Taken) {
        for (name, n) in taken {
            let owed = if name.is_empty() { n.min(self.ahead) } else { 0 };
            self.ahead -= owed;
            *self.free.get_mut(&name).expect("what was taken is known") += n - owed;
        }
    }
}

/// Whether there are slots for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    Now,
    /// There are, but for the jobs it wants.
    Later(u32),
    Not,
}

/// What a task wants, apart from which task it is.
type Wish = BTreeMap<Text, u32>;

/// Tasks that could start, best first. Those that want the same slots stand in one line, so that a line
/// nobody of which fits costs one look, however long it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    lines: Lines,
    /// Of tasks that can be got ready before there is a job for them.
    got_ready: Lines,
}

type Lines = BTreeMap<Wish, BinaryHeap<(u64, Reverse<TaskIdx>, u32)>>;

impl Queue {
    /// Adds a task with its priority and the slots it wants; `epoch` tells later whether it still means
    /// the same wish.
    pub(super) fn push(&mut self, task: TaskIdx, priority: u64, epoch: u32, wanted: &Wish, gets_ready: bool) {
        let entry = (priority, Reverse(task), epoch);
        let lines = if gets_ready { &mut self.got_ready } else { &mut self.lines };
        match lines.get_mut(wanted) {
            Some(line) => line.push(entry),
            None => drop(lines.insert(wanted.clone(), BinaryHeap::from([entry]))),
        }
    }

    /// Takes the best task that fits, with its slots. `current` tells which entries still count.
    ///
    /// When the jobs are taken that may be one to be got ready, but only the best of all that wait for nothing else: what
    /// wants more jobs, or cannot be got ready, is not overtaken for that.
    pub(super) fn pop(
        &mut self,
        slots: &mut Slots,
        current: impl Fn(TaskIdx, u32) -> bool,
    ) -> Option<(TaskIdx, Taken)> {
        let (mut now, mut later) = (None, None);
        for (lines, gets_ready) in [(&mut self.lines, false), (&mut self.got_ready, true)] {
            for (wish, line) in lines {
                while line.peek().is_some_and(|(_, task, epoch)| !current(task.0, *epoch)) {
                    line.pop();
                }
                let Some(top) = line.peek().copied() else { continue };
                let is_best = |of: &Option<(_, _, bool)>| of.as_ref().is_none_or(|(other, ..)| top > *other);
                if !is_best(&now) && !is_best(&later) {
                    continue;
                }
                let wanted = slots.cut_down(wish);
                match slots.fits(&wanted) {
                    Fits::Now if is_best(&now) => now = Some((top, wish.clone(), gets_ready)),
                    Fits::Later(jobs) if is_best(&later) => {
                        later = Some((top, wish.clone(), gets_ready && jobs == 1 && slots.ahead < AHEAD));
                    }
                    _ => {}
                }
            }
        }
        let ((_, task, _), wish, gets_ready) = now.or(later.filter(|(.., is_taken_ahead)| *is_taken_ahead))?;
        let lines = if gets_ready { &mut self.got_ready } else { &mut self.lines };
        lines.get_mut(&wish)?.pop();
        let wanted = slots.cut_down(&wish);
        Some((task.0, slots.take_all(wanted)))
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
            queue.push(TaskIdx::new(n), priority, 0, wish, false);
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
            queue.push(TaskIdx::new(n), 1, 0, &wishes[n % 2], false);
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

    #[test]
    fn one_is_taken_ahead_that_can_be_got_ready_and_only_the_best_of_all() {
        let (one, two) = (BTreeMap::new(), BTreeMap::from([("".into(), 2)]));
        let gpu = BTreeMap::from([("gpu".into(), 1)]);
        let mut queue = Queue::default();
        for (n, priority, wish, gets_ready) in [
            (0, 9, &gpu, true),
            (1, 8, &one, true),
            (2, 7, &gpu, true),
            (3, 6, &one, true),
            (4, 5, &one, true),
            (5, 4, &two, true),
            (6, 3, &one, false),
            (7, 2, &one, true),
        ] {
            queue.push(TaskIdx::new(n), priority, 0, wish, gets_ready);
        }
        let mut slots = Slots::new(2, &BTreeMap::new());
        let mut next = |slots: &mut Slots| {
            let all: Vec<_> = std::iter::from_fn(|| queue.pop(slots, |_, _| true)).collect();
            let (tasks, taken): (Vec<_>, Vec<_>) = all.into_iter().map(|(task, taken)| (task.index(), taken)).unzip();
            (tasks, taken)
        };
        let (tasks, mut taken) = next(&mut slots);
        assert_eq!(tasks, [0, 1, 3], "two jobs and one ahead; who waits for the gpu waits for that");
        slots.give(taken.remove(1));
        let (tasks, more) = next(&mut slots);
        assert_eq!(tasks, [4], "what was taken ahead has the job now");
        taken.extend(more);
        slots.give(taken.remove(0));
        let (tasks, more) = next(&mut slots);
        assert_eq!(tasks, [2]);
        taken.extend(more);
        taken.drain(..).for_each(|taken| slots.give(taken));
        let (tasks, mut taken) = next(&mut slots);
        assert_eq!(tasks, [5], "both jobs; behind it is one that cannot be got ready, and is not overtaken");
        slots.give(taken.remove(0));
        assert_eq!(next(&mut slots).0, [6, 7]);
    }
}
