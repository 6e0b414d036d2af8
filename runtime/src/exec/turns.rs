//! Turns at paths: of those who want to put something at one path, or at paths of which one holds the other, one does so at
//! a time.
//!
//! Unaware of what they put there.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::path::is_within;

#[derive(Debug, Default)]
struct Taken {
    paths: Vec<String>,
    /// How many wait for some of them.
    waiting: usize,
}

/// The paths at which somebody is putting something.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<Taken>,
    given_back: Condvar,
}

/// Nobody else puts anything at these paths, above or below them while this lives.
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    paths: Vec<&'t str>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else is at any of `paths`, above or below it, and has them all from then on.
    ///
    /// Invariant: who has a turn asks for no other, or two could wait for each other.
    pub(super) fn take<'t>(&'t self, paths: impl IntoIterator<Item = &'t str>) -> Turn<'t> {
        let paths: Vec<&str> = paths.into_iter().collect();
        let is_in_the_way = |other: &String| paths.iter().any(|path| is_within(path, other) || is_within(other, path));
        let mut taken = self.lock();
        while taken.paths.iter().any(is_in_the_way) {
            taken.waiting += 1;
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
            taken.waiting -= 1;
        }
        taken.paths.extend(paths.iter().map(|path| (*path).to_owned()));
        Turn { turns: self, paths }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        // Last in, first out: nobody searches through all that was taken at once.
        for path in self.paths.iter().rev() {
            let at =
                taken.paths.iter().rposition(|other| other == path).expect("it was put there when the turn was taken");
            taken.paths.swap_remove(at);
        }
        let is_awaited = taken.waiting > 0;
        drop(taken);
        // Telling nobody is a call to the kernel all the same.
        if is_awaited {
            self.turns.given_back.notify_all();
        }
    }
}
