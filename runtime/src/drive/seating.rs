//! Who of a run works: as many tasks as there are jobs, although one more is got ready.
//!
//! Keeps the order in which one job at a time is heard of; unaware of how work is done.

use std::collections::BTreeMap;

use super::work::Worked;
use crate::exec::Begin;
use crate::exec::seats::{Seat, Seats};

/// The seats of a run, and what came of those who had one.
pub(super) struct Seating {
    jobs: u32,
    seats: Seats,
    /// Of one job at a time: ends that came before their turn to be heard, and the number whose turn it is.
    early: BTreeMap<u64, Worked>,
    turn: u64,
    /// Those who failed keep their seats until what follows from that was seen to, so that nobody begins before.
    failed: Vec<Begin>,
}

impl Seating {
    pub(super) fn new(jobs: u32) -> Self {
        Self { jobs, seats: Seats::new(jobs), early: BTreeMap::new(), turn: 0, failed: vec![] }
    }

    /// Promises a task the jobs it takes; `None` when it takes none.
    pub(super) fn promise(&self, jobs: u32) -> Option<Seat> {
        (jobs > 0).then(|| self.seats.promise(jobs))
    }

    /// What ended, if it may be heard at once. With one job ends are heard one by one, in the order in which tasks were
    /// handed out: what is handed out next is then the same every time.
    pub(super) fn hear(&mut self, worked: Worked) -> Option<Worked> {
        match worked.begin.number().filter(|_| self.jobs == 1) {
            None => Some(worked),
            Some(number) => {
                self.early.insert(number, worked);
                None
            }
        }
    }

    /// The next one whose turn it is to be heard. To be asked for when all that followed from the last one was seen to.
    pub(super) fn next(&mut self) -> Option<Worked> {
        let worked = self.early.remove(&self.turn)?;
        self.turn += 1;
        Some(worked)
    }

    /// Lets a task keep its seat until the run has gone on.
    pub(super) fn keep(&mut self, begin: Begin) {
        self.failed.push(begin);
    }

    /// What follows from all that was heard was seen to.
    pub(super) fn go_on(&mut self) {
        self.failed.drain(..).for_each(|begin| begin.leave());
    }
}
