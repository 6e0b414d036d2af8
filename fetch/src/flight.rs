//! One fetch of one content at a time among all tasks of a process: the others wait, and get what it got.
//!
//! Unaware of what is fetched and how. Between processes the store's leases do the same.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What came of it, once something has.
type Outcome<V> = watch::Receiver<Option<V>>;

/// Fetches under way, by what is fetched.
pub(crate) struct Flights<K, V> {
    under_way: Mutex<HashMap<K, Outcome<V>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

/// Takes its flight off the list, also when it is dropped half way.
struct Landing<'f, K: Eq + Hash, V> {
    flights: &'f Flights<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        self.flights.list().remove(&self.key);
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    /// What `work` gives, or what somebody else's gave that was under way already; then the flag is set. Work that is
    /// given up on half way is begun anew by one of those who waited.
    pub(crate) async fn join<W: Future<Output = V>>(&self, key: K, work: impl FnOnce() -> W) -> (V, bool) {
        let sender = loop {
            let mut waiting = {
                let mut list = self.list();
                match list.get(&key) {
                    Some(waiting) => waiting.clone(),
                    None => {
                        let (sender, receiver) = watch::channel(None);
                        list.insert(key.clone(), receiver);
                        break sender;
                    }
                }
            };
            if let Ok(outcome) = waiting.wait_for(Option::is_some).await
                && let Some(value) = outcome.clone()
            {
                return (value, true);
            }
        };
        let landing = Landing { flights: self, key };
        let value = work().await;
        drop(landing);
        sender.send_replace(Some(value.clone()));
        (value, false)
    }
}

impl<K, V> Flights<K, V> {
    fn list(&self) -> MutexGuard<'_, HashMap<K, Outcome<V>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What several tasks were given.
pub(crate) type Shared<T, E> = Result<T, Arc<E>>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("starts").block_on(work)
    }

    #[test]
    fn those_who_wait_get_what_the_first_got() {
        block_on(async {
            let (flights, go, runs) = (Flights::default(), Notify::new(), AtomicU32::new(0));
            let work = || async {
                runs.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                "error"
            };
            let start = async {
                tokio::task::yield_now().await;
                go.notify_one();
            };
            let (a, b, c, ()) =
                tokio::join!(flights.join(1, work), flights.join(1, work), flights.join(1, work), start);
            assert_eq!((a, b, c), (("error", false), ("error", true), ("error", true)));
            assert_eq!(runs.load(Ordering::Relaxed), 1);
            go.notify_one();
            assert_eq!(flights.join(1, work).await, ("error", false), "nothing is remembered");
        });
    }

    #[test]
    fn work_that_is_dropped_is_taken_over() {
        block_on(async {
            let flights = Flights::default();
            let mut first = Box::pin(flights.join(1, std::future::pending::<&str>));
            let poll = std::future::poll_fn(|context| {
                assert!(first.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            });
            poll.await;
            let second = flights.join(1, || async { "here" });
            let give_up = async {
                tokio::task::yield_now().await;
                drop(first);
            };
            let (second, ()) = tokio::join!(second, give_up);
            assert_eq!(second, ("here", false));
        });
    }
}
