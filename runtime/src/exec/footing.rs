//! What a task that works in the workspace itself stands on: its inputs as they were when it started.
//!
//! No other task of its run moves them meanwhile; another process, a person or the task itself may. Then nobody can say what
//! it read.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quipu_store::stamp::{FileKind, Stamp};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::path::is_within;

/// How many running tasks stand on what is at a path.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<String, usize>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a running task uses what is at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.lock().contains_key(path)
    }

    /// Whether a running task uses something below `dir`.
    pub(super) fn has_below(&self, dir: &str) -> bool {
        self.lock().keys().any(|path| path != dir && is_within(path, dir))
    }

    fn add(&self, path: &str) {
        *self.lock().entry(path.to_owned()).or_default() += 1;
    }

    fn remove(&self, path: &str) {
        let mut held = self.lock();
        if let Some(users) = held.get_mut(path) {
            *users -= 1;
            if *users == 0 {
                held.remove(path);
            }
        }
    }
}

/// Inputs that stay as they are while this lives, as far as this process goes.
pub(super) struct Footing<'w> {
    root: BorrowedFd<'w>,
    held: &'w Held,
    inputs: Vec<(String, Option<Look>)>,
}

/// How an input looked.
enum Look {
    /// By all but the time of the last change of its attributes: another name, or another mode, is not another content.
    Leaf(Stamp),
    /// By what it is. Held open, so that its number is nobody else's.
    Dir { ino: u64, _open: OwnedFd },
}

impl<'w> Footing<'w> {
    /// Nothing is held yet.
    pub(super) fn new(root: BorrowedFd<'w>, held: &'w Held) -> Self {
        Self { root, held, inputs: vec![] }
    }

    /// An input is in place, and looked so when that was found.
    pub(super) fn hold(&mut self, path: &str, looked: Option<Stamp>) {
        self.held.add(path);
        self.inputs.push((path.to_owned(), looked.map(Look::Leaf)));
    }

    /// All inputs are in place.
    pub(super) fn settle(&mut self) {
        for (path, look) in self.inputs.iter_mut().filter(|(_, look)| look.is_none()) {
            *look = look_at(self.root, path);
        }
    }

    /// Inputs that are not any more what they were, or nowhere to be seen.
    pub(super) fn moved(&self) -> Vec<String> {
        let moved = self.inputs.iter().filter(|(path, before)| {
            let now = look_at(self.root, path);
            match (before, now) {
                (Some(Look::Leaf(a)), Some(Look::Leaf(b))) => *a != Stamp { ctime_ns: a.ctime_ns, ..b },
                (Some(Look::Dir { ino: a, .. }), Some(Look::Dir { ino: b, .. })) => *a != b,
                _ => true,
            }
        });
        moved.map(|(path, _)| path.clone()).collect()
    }
}

impl Drop for Footing<'_> {
    fn drop(&mut self) {
        self.inputs.iter().for_each(|(path, _)| self.held.remove(path));
    }
}

fn look_at(root: BorrowedFd<'_>, path: &str) -> Option<Look> {
    let stamp = Stamp::of(&rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW).ok()?);
    if stamp.kind != FileKind::Dir {
        return Some(Look::Leaf(stamp));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(root, path, flags, Mode::empty()).ok()?;
    let ino = rustix::fs::fstat(&open).ok()?.st_ino;
    Some(Look::Dir { ino, _open: open })
}

#[cfg(test)]
mod tests {
    use std::slice;
    use std::sync::Barrier;

    use quipu_store::tree::{Entry, Name, Tree};

    use super::super::test_place::Place;

    /// Two tasks put an input each in place at once, again and again: each time there is something of the time before.
    fn compete(place: &Place, inputs: impl Fn(u32) -> [(String, Entry); 2]) {
        for round in 0..300 {
            let inputs = inputs(round);
            let (before, after) = (Barrier::new(2), Barrier::new(2));
            let stand = |input| {
                before.wait();
                let footing = place.workspace.place_inputs(slice::from_ref(input));
                after.wait();
                footing.map_err(|(path, _)| path).expect("is placed").moved()
            };
            let moved = std::thread::scope(|scope| {
                let other = scope.spawn(|| stand(&inputs[0]));
                [stand(&inputs[1]), other.join().expect("no panic")]
            });
            assert_eq!(moved, [vec![], vec![] as Vec<String>], "round {round}");
        }
    }

    #[test]
    fn two_that_want_the_same_input_at_once_do_not_pull_it_from_under_each_other() {
        let place = Place::new();
        compete(&place, |round| {
            let input = ("gen/values.h".to_owned(), place.file(&format!("{round}"), false));
            [input.clone(), input]
        });
    }

    #[test]
    fn what_a_directory_has_no_more_goes_although_somebody_stands_on_a_file_of_it() {
        let place = Place::new();
        let dir = |names: &[&str]| {
            let entries = names.iter().map(|name| (Name::new(name).expect("valid"), place.file(name, false)));
            Entry::Dir { tree: place.store.put_tree(&Tree::new(entries.collect()).expect("valid")).expect("kept") }
        };
        place.workspace.place("gen", &dir(&["a.h", "b.h", "old.h"])).expect("is placed");
        place.write("gen/mine", "a person's");
        let input = |path: &str, entry| [(path.to_owned(), entry)];
        let stands =
            place.workspace.place_inputs(&input("gen/b.h", place.file("b.h", false))).map_err(|(path, _)| path);
        let stands = stands.expect("is placed");
        let whole =
            place.workspace.place_inputs(&input("gen", dir(&["a.h", "b.h", "new.h"]))).map_err(|(path, _)| path);
        assert_eq!(whole.expect("is placed").moved(), Vec::<String>::new());
        assert_eq!(stands.moved(), Vec::<String>::new());
        let listed = std::fs::read_dir(place.path("gen")).expect("listed");
        let mut names: Vec<_> = listed.map(|e| e.expect("listed").file_name().into_string().expect("text")).collect();
        names.sort();
        assert_eq!(names, ["a.h", "b.h", "new.h"]);
        let kept: Vec<String> = place.workspace.take_kept().into_iter().map(|(path, _)| path).collect();
        assert_eq!(kept, ["gen/mine"]);
    }

    #[test]
    fn nor_do_one_that_wants_a_directory_and_one_that_wants_a_file_of_it() {
        let place = Place::new();
        compete(&place, |round| {
            let file = place.file(&format!("{round}"), false);
            let names = ["a.h", "b.h"].map(|name| (Name::new(name).expect("valid"), file.clone()));
            let tree = place.store.put_tree(&Tree::new(names.to_vec()).expect("valid")).expect("kept");
            [("gen".to_owned(), Entry::Dir { tree }), ("gen/b.h".to_owned(), file)]
        });
    }
}
