//! One function over many items on as many threads as there are cores.
//!
//! Unaware of what the work is; whether it pays is the caller's to say.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The cores this process may use.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Applies `work` to every item and returns the results in the order of the items.
///
/// Each thread has a state of its own, made by `state`, and takes runs of `grain` items that follow one another.
pub(crate) fn map<T: Sync, S, R: Send>(
    threads: usize,
    grain: usize,
    items: &[T],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    let grain = grain.max(1);
    let threads = threads.min(items.len().div_ceil(grain));
    if threads <= 1 {
        let mut state = state();
        return items.iter().map(|item| work(&mut state, item)).collect();
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut state = state();
        let mut done = Vec::new();
        loop {
            let start = next.fetch_add(grain, Ordering::Relaxed);
            let Some(run) =
                items.get(start..items.len().min(start.saturating_add(grain))).filter(|run| !run.is_empty())
            else {
                return done;
            };
            done.push((start, run.iter().map(|item| work(&mut state, item)).collect::<Vec<_>>()));
        }
    };
    let mut runs = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        let mut runs = worker();
        for other in others {
            runs.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        runs
    });
    runs.sort_unstable_by_key(|(start, _)| *start);
    let mut out = Vec::with_capacity(items.len());
    out.extend(runs.into_iter().flat_map(|(_, run)| run));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for (threads, grain, len) in [(1, 1, 10), (4, 1, 10), (4, 3, 10), (4, 100, 10), (3, 0, 7), (4, 1, 0)] {
            let items: Vec<usize> = (0..len).collect();
            let doubled = map(threads, grain, &items, || (), |(), n| n * 2);
            assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>(), "{threads} {grain} {len}");
        }
    }
}
