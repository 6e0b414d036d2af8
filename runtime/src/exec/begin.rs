//! When a job may begin: whoever hands it out may have it got ready before that.
//!
//! Unaware of what is waited for beyond a seat, and of how work is done.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OnceCell, watch};

use super::Stop;
use super::seats::Seat;

/// What is to be seen to once there is a seat; whether the job is to begin all the same.
pub(crate) type First = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The beginning of a job. Clones are one.
#[derive(Clone)]
pub struct Begin(Arc<Inner>);

struct Inner {
    seat: Option<Seat>,
    stop: Option<watch::Receiver<Stop>>,
    first: Mutex<Option<First>>,
    may: OnceCell<bool>,
    held: AtomicBool,
}

impl Begin {
    /// Of a job that nothing has to be waited for.
    pub fn at_once() -> Self {
        let (seat, stop, first, held) = Default::default();
        Self(Arc::new(Inner { seat, stop, first, may: OnceCell::new_with(Some(true)), held }))
    }

    /// Of a job that waits for its seat, if it needs one, and sees to what is `first` then, unless it is wished to stop.
    pub(crate) fn new(seat: Option<Seat>, stop: watch::Receiver<Stop>, first: First) -> Self {
        let (stop, first) = (Some(stop), Mutex::new(Some(first)));
        Self(Arc::new(Inner { seat, stop, first, may: OnceCell::new(), held: AtomicBool::new(false) }))
    }

    /// Waits until the job may begin. False when it is not to any more: it was wished to stop, or somebody else did the
    /// same meanwhile. Asked again, it says the same at once.
    pub async fn wait(&self) -> bool {
        *self.0.may.get_or_init(|| self.0.wait()).await
    }

    /// Tells that what the job was to do is done, and went well: another may begin while its results are taken care of.
    pub fn over(&self) {
        if !self.0.held.load(Ordering::SeqCst) {
            self.leave();
        }
    }

    /// Whether somebody waited for it, to the end.
    pub(crate) fn was_asked(&self) -> bool {
        self.0.may.initialized()
    }

    /// From now on nobody but [`Begin::leave`] ends it.
    pub(crate) fn hold(&self) {
        self.0.held.store(true, Ordering::SeqCst);
    }

    /// Gives its seat back.
    pub(crate) fn leave(&self) {
        self.0.seat.iter().for_each(Seat::leave);
    }

    /// Its place in the order in which seats were promised, if it needs one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.0.seat.as_ref().map(Seat::number)
    }
}

impl Inner {
    async fn wait(&self) -> bool {
        if let (Some(seat), Some(stop)) = (&self.seat, &self.stop) {
            let mut stop = stop.clone();
            let seated = tokio::select! {
                biased;
                // Also when nobody is left who could wish for it. Who failed gives its seat back after the others were told.
                _ = stop.wait_for(|wish| *wish > Stop::No) => false,
                () = seat.take() => true,
            };
            if !seated {
                seat.leave();
                return false;
            }
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let may = match first {
            Some(first) => first.await,
            // Somebody waited for it and gave up in the middle.
            None => false,
        };
        if !may {
            self.seat.iter().for_each(Seat::leave);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::super::seats::Seats;
    use super::*;

    #[test]
    fn a_job_begins_when_there_is_a_seat_unless_it_is_wished_to_stop_or_first_things_speak_against_it() {
        let (seats, stop) = (Seats::new(1), watch::channel(Stop::No).0);
        let begin = |first| Begin::new(Some(seats.promise(1)), stop.subscribe(), Box::pin(std::future::ready(first)));
        let [one, found, two, stopped] = [true, false, true, true].map(begin);
        let now = |begin: &Begin| pin!(begin.wait()).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!((now(&one), now(&one)), (Poll::Ready(true), Poll::Ready(true)));
        one.hold();
        one.over();
        assert_eq!(now(&found), Poll::Pending, "it is held, whatever who works says");
        assert!(one.was_asked() && !found.was_asked());
        one.leave();
        assert_eq!((now(&found), now(&two)), (Poll::Ready(false), Poll::Ready(true)), "its seat is free at once");
        two.over();
        stop.send_replace(Stop::Cancel);
        assert_eq!(now(&stopped), Poll::Ready(false), "although there is a seat");
        assert_eq!(now(&Begin::at_once()), Poll::Ready(true));
    }
}
