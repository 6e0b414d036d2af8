//! Turns at paths: of those who want to put something at one path, or at paths of which one holds the other, one does so at
//! a time.
//!
//! Unaware of what they put there.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::path::is_within;

/// The paths at which somebody is putting something.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<Vec<String>>,
    given_back: Condvar,
}

/// Nobody else puts anything at these paths, above or below them while this lives.
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    paths: Vec<&'t str>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else is at any of `paths`, above or below it, and has them all from then on.
    ///
    /// Invariant: who has a turn asks for no other, or two could wait for each other.
    pub(super) fn take<'t>(&'t self, paths: impl IntoIterator<Item = &'t str>) -> Turn<'t> {
        let paths: Vec<&str> = paths.into_iter().collect();
        let is_in_the_way = |other: &String| paths.iter().any(|path| is_within(path, other) || is_within(other, path));
        let mut taken = self
            .given_back
            .wait_while(self.lock(), |taken| taken.iter().any(is_in_the_way))
            .unwrap_or_else(PoisonError::into_inner);
        taken.extend(paths.iter().map(|path| (*path).to_owned()));
        Turn { turns: self, paths }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        // Last in, first out: nobody searches through all that was taken at once.
        for path in self.paths.iter().rev() {
            let at = taken.iter().rposition(|other| other == path).expect("it was put there when the turn was taken");
            taken.swap_remove(at);
        }
        drop(taken);
        self.turns.given_back.notify_all();
    }
}
