//! Tracing: which files of its workspace a task in a sandbox touches, and how. From single events to sets of paths.
//!
//! Knows paths and what was done with them; unaware of declarations and of why anybody wants to know. How the
//! events are got is in `listener` and `tracee`: `docs/design/sandbox.md`, "Tracing".

mod calls;
mod listener;
mod notify;
mod tracee;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;

pub(crate) use self::listener::Listener;
pub use self::notify::available;
pub(crate) use self::notify::{install, tell};

/// Most paths that are told apart. A task that touches more is told of as far as that goes.
const MAX_PATHS: usize = 1_000_000;

/// What a task did with the files of its workspace, by path from the workspace's root (empty for the root itself).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traced {
    /// Files and links that were there before and that it opened, ran, or came through.
    pub reads: BTreeSet<String>,
    /// Files and links that were there before and of which it asked for no more than whether and how they are there.
    pub looks: BTreeSet<String>,
    /// Paths that it asked for and that were not there.
    pub misses: BTreeSet<String>,
    /// Directories that were there before and that it asked for.
    pub dirs: BTreeSet<String>,
    /// Directories that were there before and whose entries it asked for.
    pub lists: BTreeSet<String>,
    /// Files it made or wrote to, directories it made: whether they are there afterwards is not known.
    pub writes: BTreeSet<String>,
    /// What was there before and was written to, replaced or removed.
    pub changes: BTreeSet<String>,
    /// Programs outside of the workspace that it ran.
    pub execs: BTreeSet<String>,
    /// Whether it touched more than could be kept.
    pub truncated: bool,
}

impl Traced {
    /// What it looked for in vain that is in the workspace at `root`: what a task in a sandbox may have failed for.
    pub fn undeclared(&self, root: &Path) -> Vec<&str> {
        let is_there = |path: &&str| root.join(path).symlink_metadata().is_ok();
        self.misses.iter().map(String::as_str).filter(is_there).collect()
    }
}

/// What is done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Whether and how it is there is asked for.
    Look,
    /// It is opened for reading.
    Read,
    /// It is opened for reading and writing.
    Change,
    /// It is made or written to.
    Write,
    /// A directory is made.
    MakeDir,
    /// It is removed.
    Remove,
    /// It gets another name, with all that is in it.
    MoveAway,
    /// Entries of a directory are asked for.
    List,
    /// It is run.
    Run,
}

/// What stands at a path at the moment it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A file, or a link where links are not followed.
    File,
    /// A directory.
    Dir,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into the workspace: the path from its root.
    Inside(String),
    /// Elsewhere: the whole path.
    Outside(String),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) act: Act,
    pub(crate) place: Place,
    pub(crate) found: Found,
}

/// What is known of a task so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    traced: Traced,
    /// What is there, or not there, because of the task.
    made: FxHashSet<String>,
}

impl Record {
    /// Whether the task made it, or what it is in.
    fn is_made(&self, path: &str) -> bool {
        let mut path = path;
        while !self.made.contains(path) {
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => return false,
            }
        }
        true
    }

    fn is_full(&self) -> bool {
        let t = &self.traced;
        let sets = [&t.reads, &t.looks, &t.misses, &t.dirs, &t.lists, &t.writes, &t.changes, &t.execs];
        sets.iter().map(|set| set.len()).sum::<usize>() + self.made.len() >= MAX_PATHS
    }

    /// Adds what happened next.
    pub(crate) fn add(&mut self, event: Event) {
        let path = match event.place {
            Place::Outside(path) => {
                if event.act == Act::Run && event.found == Found::File {
                    self.traced.execs.insert(path);
                }
                return;
            }
            Place::Inside(path) => path,
        };
        if self.is_full() {
            self.traced.truncated = true;
            return;
        }
        let is_made = self.is_made(&path);
        let traced = &mut self.traced;
        match (event.act, event.found) {
            (Act::Look | Act::Read | Act::List | Act::Run, _) if is_made => {}
            (Act::Look | Act::Read | Act::Run | Act::List, Found::Nothing) => drop(traced.misses.insert(path)),
            (Act::List, _) => drop(traced.lists.insert(path)),
            (Act::Look | Act::Read | Act::Run, Found::Dir) => drop(traced.dirs.insert(path)),
            (Act::Look, Found::File) => drop(traced.looks.insert(path)),
            (Act::Read | Act::Run, Found::File) => drop(traced.reads.insert(path)),
            (Act::MakeDir, Found::Nothing) => {
                traced.writes.insert(path.clone());
                self.made.insert(path);
            }
            // It is there, and what is in it stays as it is.
            (Act::MakeDir, _) | (Act::Change | Act::Remove, Found::Dir) if !is_made => drop(traced.dirs.insert(path)),
            (Act::MakeDir, _) | (Act::Remove | Act::MoveAway, Found::Nothing) => {}
            (act, found) => {
                if !is_made && found != Found::Nothing {
                    if act == Act::Change {
                        traced.reads.insert(path.clone());
                    }
                    traced.changes.insert(path.clone());
                }
                if matches!(act, Act::Change | Act::Write) {
                    traced.writes.insert(path.clone());
                }
                self.made.insert(path);
            }
        }
    }

    /// All of it.
    fn finish(self) -> Traced {
        let mut traced = self.traced;
        traced.looks.retain(|path| !traced.reads.contains(path));
        // What it looked for before it made it is its own affair.
        traced.misses.retain(|path| !self.made.contains(path));
        traced
    }
}

/// A trace of one task over all its steps. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    record: Record,
    failed: Option<String>,
}

impl Trace {
    fn add(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).record.add(event);
    }

    /// What was made or written to so far.
    pub(crate) fn writes(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).record.traced.writes.clone()
    }

    fn fail(&self, why: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed.get_or_insert(why);
    }

    /// What was traced, or why not all of it was.
    pub(crate) fn finish(&self) -> Result<Traced, String> {
        let state = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        match state.failed {
            Some(why) => Err(why),
            None => Ok(state.record.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(events: &[(Act, &str, Found)]) -> Traced {
        let mut record = Record::default();
        for (act, path, found) in events {
            let place = match path.strip_prefix('/') {
                Some(_) => Place::Outside((*path).to_owned()),
                None => Place::Inside((*path).to_owned()),
            };
            record.add(Event { act: *act, place, found: *found });
        }
        record.finish()
    }

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn each_act_is_told_by_what_was_there_before_the_task() {
        let all = traced(&[
            (Act::Read, "a.c", Found::File),
            (Act::Look, "a.c", Found::File),
            (Act::Look, "b.c", Found::File),
            (Act::Look, "lib", Found::Dir),
            (Act::Read, "lib", Found::Dir),
            (Act::List, "lib", Found::Dir),
            (Act::Read, "no.h", Found::Nothing),
            (Act::Look, "out.o", Found::Nothing),
            (Act::Write, "out.o", Found::Nothing),
            (Act::Read, "out.o", Found::File),
            (Act::Run, "/usr/bin/cc", Found::File),
            (Act::Run, "/usr/local/bin/cc", Found::Nothing),
            (Act::Read, "/etc/passwd", Found::File),
            (Act::Run, "gen.sh", Found::File),
        ]);
        assert_eq!(all.reads, set(&["a.c", "gen.sh"]));
        assert_eq!(all.looks, set(&["b.c"]));
        assert_eq!(all.dirs, set(&["lib"]));
        assert_eq!(all.lists, set(&["lib"]));
        assert_eq!(all.misses, set(&["no.h"]));
        assert_eq!(all.writes, set(&["out.o"]));
        assert_eq!(all.execs, set(&["/usr/bin/cc"]));
        assert_eq!(all.changes, set(&[]));
    }

    #[test]
    fn what_the_task_made_is_no_input_and_neither_is_what_is_in_it() {
        let all = traced(&[
            (Act::MakeDir, "obj", Found::Nothing),
            (Act::Look, "obj/none", Found::Nothing),
            (Act::List, "obj", Found::Dir),
            (Act::Write, "obj/a.o", Found::Nothing),
            (Act::Read, "obj/a.o", Found::File),
            (Act::MakeDir, "src", Found::Dir),
            (Act::Change, "src", Found::Dir),
            (Act::Remove, "src", Found::Dir),
            (Act::Read, "src/a.c", Found::File),
            (Act::MoveAway, "old", Found::Dir),
            (Act::Look, "old/b.c", Found::Nothing),
        ]);
        assert_eq!((all.reads, all.misses, all.lists), (set(&["src/a.c"]), set(&[]), set(&[])));
        assert_eq!(all.writes, set(&["obj", "obj/a.o"]));
    }

    #[test]
    fn what_was_there_and_is_written_to_is_told() {
        let all = traced(&[
            (Act::Change, "db", Found::File),
            (Act::Write, "old", Found::File),
            (Act::Remove, "gone", Found::File),
            (Act::Read, "gone", Found::Nothing),
            (Act::Remove, "never", Found::Nothing),
            (Act::Write, "tmp", Found::Nothing),
            (Act::Remove, "tmp", Found::File),
        ]);
        assert_eq!(all.changes, set(&["db", "gone", "old"]));
        assert_eq!(all.reads, set(&["db"]));
        assert_eq!(all.writes, set(&["db", "old", "tmp"]));
        assert_eq!(all.misses, set(&[]));
    }
}
