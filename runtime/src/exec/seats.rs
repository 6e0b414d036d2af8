//! Seats: as many tasks of a run work at once as there are jobs, however many more are being got ready.
//!
//! Knows numbers and the order in which seats were promised; unaware of what work is. Why there are seats:
//! `docs/design/resume.md`, "Seats".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The seats of one run.
#[derive(Clone)]
pub(crate) struct Seats(Arc<Mutex<State>>);

struct State {
    all: u32,
    free: u32,
    /// How many were promised.
    promises: u64,
    /// Who was promised seats and has not asked for them.
    promised: BTreeSet<u64>,
    /// Who asked and waits, and for how many.
    asked: BTreeMap<u64, (u32, oneshot::Sender<()>)>,
    /// Who has how many.
    given: BTreeMap<u64, u32>,
}

/// What one task was promised: seats when it asks for them. Given back when dropped.
pub(crate) struct Seat {
    seats: Seats,
    number: u64,
    wants: u32,
}

impl Seats {
    /// So many, all free.
    pub(crate) fn new(all: u32) -> Self {
        let (promised, asked, given) = Default::default();
        Self(Arc::new(Mutex::new(State { all, free: all, promises: 0, promised, asked, given })))
    }

    /// Promises a task `wants` of them, at most all there are.
    pub(crate) fn promise(&self, wants: u32) -> Seat {
        let mut state = self.lock();
        let number = state.promises;
        state.promises += 1;
        state.promised.insert(number);
        Seat { seats: self.clone(), number, wants: wants.min(state.all) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives what is free to those who were promised it first, and keeps it for them while they are not ready: nobody begins before
    /// whom the queue chose.
    fn give(&mut self) {
        while let Some((number, (wants, _))) = self.asked.first_key_value() {
            let is_early = self.promised.first().is_some_and(|earlier| earlier < number);
            if is_early || *wants > self.free {
                return;
            }
            let Some((number, (wants, tell))) = self.asked.pop_first() else { return };
            self.free -= wants;
            self.given.insert(number, wants);
            // Who does not listen any more gives it back.
            let _ = tell.send(());
        }
    }
}

impl Seat {
    /// Its place in the order of promises, from 0.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits until it has what it was promised.
    pub(crate) async fn take(&self) {
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.seats.lock();
            if state.given.contains_key(&self.number) {
                return;
            }
            state.promised.remove(&self.number);
            state.asked.insert(self.number, (self.wants, tell));
            state.give();
        }
        // Nobody else takes the promise away.
        let _ = told.await;
    }

    /// Gives back what it has, and asks for nothing more.
    pub(crate) fn leave(&self) {
        let mut state = self.seats.lock();
        state.promised.remove(&self.number);
        state.asked.remove(&self.number);
        state.free += state.given.remove(&self.number).unwrap_or(0);
        state.give();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_given(take: &mut Pin<&mut impl Future<Output = ()>>) -> bool {
        take.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn no_more_are_given_than_there_are_and_the_first_promised_goes_first() {
        let seats = Seats::new(2);
        let [a, b, c, d] = [1, 1, 1, 1].map(|wants| seats.promise(wants));
        let (mut of_a, mut of_b, mut of_c, mut of_d) = (pin!(a.take()), pin!(b.take()), pin!(c.take()), pin!(d.take()));
        assert!(!is_given(&mut of_b), "the first is not ready");
        assert!(is_given(&mut of_a) && is_given(&mut of_b));
        assert!(!is_given(&mut of_d) && !is_given(&mut of_c));
        b.leave();
        b.leave();
        assert!(!is_given(&mut of_d) && is_given(&mut of_c), "it was promised earlier, though it asked later");
        a.leave();
        assert!(is_given(&mut of_d));
    }

    #[test]
    fn a_single_one_is_kept_for_the_first_promised_until_it_will_not_come() {
        let seats = Seats::new(1);
        let (a, b, c) = (seats.promise(1), seats.promise(9), seats.promise(1));
        let (mut of_b, mut of_c) = (pin!(b.take()), pin!(c.take()));
        assert!(!is_given(&mut of_b) && !is_given(&mut of_c), "the first is not ready");
        drop(a);
        assert!(!is_given(&mut of_c) && is_given(&mut of_b), "all there are: one");
        b.leave();
        assert!(is_given(&mut of_c));
    }

    #[test]
    fn who_stops_waiting_leaves_nothing_taken() {
        let seats = Seats::new(2);
        let (one, both) = (seats.promise(1), seats.promise(2));
        assert!(is_given(&mut pin!(one.take())));
        let mut of_both = Box::pin(both.take());
        assert!(!is_given(&mut of_both.as_mut()));
        one.leave();
        // Given, and not heard of.
        drop(of_both);
        assert!(!is_given(&mut pin!(seats.promise(1).take())));
        drop(both);
        assert!(is_given(&mut pin!(seats.promise(2).take())));
    }
}
