//! What the tasks of the simulation do, and how they are written down.
//!
//! Unaware of the world they do it in.

use crate::graph::TaskIdx;
use crate::narrow::{DEPFILE, Depfile};
use crate::task::{DEFAULT_SUBJECT, Task};
use crate::value::{Branch, On, Value};

/// What a task of the simulation does. Each writes files `o` and `p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Its output is a hash of its arguments.
    Hash,
    /// Its output is always the same: edits upstream are cut off here.
    Same,
    /// Its output is one of two values.
    Collapse,
    /// `o` is a hash of its arguments, `p` always the same.
    Half,
    /// As `Half`, and a directory `d` with `x` (a hash) and `y` (always the same).
    Dir,
    /// Its output is another one each time.
    Vary,
    /// It fails.
    Fail,
    /// It fails the first two times.
    Flaky,
    /// What it has read so far decides what it reads next; it says what that was.
    Picks,
}

impl Does {
    fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Same => "same",
            Self::Collapse => "collapse",
            Self::Half => "half",
            Self::Dir => "dir",
            Self::Vary => "vary",
            Self::Fail => "fail",
            Self::Flaky => "flaky",
            Self::Picks => "picks",
        }
    }
}

/// A task of the simulation: what it does, its source, and which outputs of which tasks it reads.
pub(super) fn recipe(does: Does, source: i64, reads: &[(TaskIdx, Branch, &[&str])]) -> Task {
    let reads = reads.iter().map(|(on, branch, at)| Value::promise(*branch, On::Here(*on), at.iter().copied()));
    let mut pairs = vec![("does", does.name().into()), ("source", Value::Int(source))];
    if does == Does::Picks {
        let files = reads.enumerate().map(|(i, promise)| (format!("f{i}"), promise));
        pairs.push(("inputs", Value::map(files).expect("distinct keys")));
        pairs.push((DEPFILE, Depfile { path: "o.d".into(), always: vec![] }.to_value()));
    } else {
        pairs.push(("reads", Value::list(reads)));
    }
    let args = Value::map(pairs);
    Task {
        sub: DEFAULT_SUBJECT.into(),
        cmd: "/test/sim".into(),
        args: args.expect("distinct keys"),
        nonce: Box::default(),
    }
}

/// The same task, at work in the workspace itself.
pub(super) fn in_place(recipe: Task) -> Task {
    let Value::Map(pairs) = &recipe.args else { unreachable!("arguments are a map") };
    let pairs = pairs.iter().cloned().chain([("sandbox".into(), "none".into())]);
    Task { args: Value::map(pairs).expect("distinct keys"), ..recipe }
}
