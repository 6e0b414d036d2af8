//! Many blocks fetched side by side by threads that wait, until all are here, one fails or the time is over.
//!
//! Unaware of how one is fetched.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Fetched, RemoteError};

/// A remote that is slower than this is of no use.
const LEAST_BYTES_A_SECOND: u64 = 64 << 10;

/// How long so many bytes may take beside what an answer may: never more than a day.
pub fn time_for(bytes: u64) -> Duration {
    Duration::from_secs((bytes / LEAST_BYTES_A_SECOND).min(86_400))
}

/// When so many answers with so many bytes together have to be there. However little each takes of its own time, all
/// together have an end.
pub fn ends(deadline: Duration, answers: usize, bytes: u64) -> Instant {
    let each = deadline / 100 * u32::try_from(answers).unwrap_or(u32::MAX).min(100_000);
    Instant::now() + deadline + time_for(bytes) + each
}

/// How long one answer of at most so many bytes may take, when all have to be there at `ends`.
pub fn time_left(deadline: Duration, bytes: u64, ends: Instant) -> Result<Duration, RemoteError> {
    let left = ends.saturating_duration_since(Instant::now());
    let most = (deadline + time_for(bytes)).min(left);
    if most.is_zero() { Err(RemoteError::Slow(deadline)) } else { Ok(most) }
}

/// Does `work` to every item on up to `threads` threads, the caller's among them; the first failure ends it.
pub fn each<T: Sync>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<Fetched, RemoteError> + Sync,
) -> Result<Fetched, RemoteError> {
    let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcome = Mutex::new((Fetched::default(), None));
    let worker = || {
        while !ended.load(Ordering::Acquire)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::AcqRel))
        {
            let done = work(item);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(one) => outcome.0.add(one),
                Err(error) => {
                    outcome.1.get_or_insert(error);
                    ended.store(true, Ordering::Release);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    let (fetched, error) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    match error {
        Some(error) => Err(error),
        None => Ok(fetched),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_and_a_failure_ends_it() {
        let items: Vec<u64> = (0..1000).collect();
        let one = |n: &u64| Ok(Fetched { blobs: 1, bytes: *n, false_blobs: 0 });
        for threads in [1, 8, 5000] {
            let all = each(threads, &items, one).expect("nothing fails");
            assert_eq!((all.blobs, all.bytes), (1000, 499_500));
        }
        assert_eq!(each(8, &[], one).expect("nothing fails"), Fetched::default());
        let done = AtomicUsize::new(0);
        let failed = each(1, &items, |n| {
            done.fetch_add(1, Ordering::SeqCst);
            if *n == 10 { Err(RemoteError::Odd("ten".into())) } else { one(n) }
        });
        assert!(matches!(failed, Err(RemoteError::Odd(_))));
        assert_eq!(done.load(Ordering::SeqCst), 11);
    }

    #[test]
    fn answers_have_an_end_of_their_own_and_one_together() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        assert_eq!(time_left(second, 128 << 10, now + Duration::from_secs(60)).expect("there is some"), second * 3);
        assert!(time_left(second, 0, now + second / 2).expect("there is some") <= second / 2);
        assert!(matches!(time_left(second, 0, now), Err(RemoteError::Slow(_))));
        assert!(ends(second, 100, 0) >= now + 2 * second && ends(second, usize::MAX, u64::MAX) > now);
    }
}
