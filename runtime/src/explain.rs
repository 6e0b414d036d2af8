//! Explanations: in which ingredients two tasks differ, and which earlier task is the nearest.
//!
//! Knows listings (what ids are made of, by path) and the names of a process's arguments; unaware of where
//! earlier tasks come from and of what is in directories: it says between which two trees to look.

use std::collections::{HashMap, HashSet};
use std::fmt;

use quipu_store::cid::{TaskId, TreeId};

use crate::identity::{Leaf, Listing};

/// One ingredient in which two tasks differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where it stands, as in the current task's listing; in the earlier one's when it was removed.
    pub path: String,
    /// What is different.
    pub change: Change,
    /// What it is to people.
    pub what: What,
}

/// How an ingredient differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The earlier task did not have it.
    Added(Leaf),
    /// The current task does not have it.
    Removed(Leaf),
    /// Both have it.
    Changed {
        /// In the earlier task.
        before: Leaf,
        /// In the current one.
        after: Leaf,
    },
}

/// What an ingredient is to people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum What {
    /// Part of a command line, by its place.
    Argument(String),
    /// A variable of the environment.
    Environment(String),
    /// The tree of source files.
    Sources,
    /// Something that comes from another task, by the path it is put at.
    Input(String),
    /// A tool the workfile names.
    Tool(String),
    /// A declared output, by its place.
    Output(String),
    /// Standard input.
    Stdin,
    /// Anything else, by a name for it.
    Other(String),
}

impl What {
    /// What the ingredient at a path is.
    pub fn of(path: &str) -> Self {
        let Some(rest) = path.strip_prefix("args.") else {
            let name = match path {
                "cmd" => "command",
                "sub" => "name space",
                other => other,
            };
            return Self::Other(name.to_owned());
        };
        let (key, within) = split(rest);
        let (inner, _) = split(within);
        match key {
            "steps" => Self::Argument(rest.to_owned()),
            "env" if !inner.is_empty() => Self::Environment(unquote(inner)),
            "inputs" if inner == "\"\"" => Self::Sources,
            "inputs" if !inner.is_empty() => Self::Input(unquote(inner)),
            "tools" if !inner.is_empty() => Self::Tool(unquote(inner)),
            "outputs" => Self::Output(rest.to_owned()),
            "stdin" => Self::Stdin,
            "dir" => Self::Other("working directory".to_owned()),
            "sandbox" => Self::Other("isolation".to_owned()),
            "stdout" => Self::Other("file for standard output".to_owned()),
            _ => Self::Other(rest.to_owned()),
        }
    }
}

/// The first key of a path, as it stands there, and the rest behind it.
fn split(path: &str) -> (&str, &str) {
    let end = if path.starts_with('"') {
        let mut escaped = false;
        let close = path.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        close.map_or(path.len(), |(i, _)| i + 1)
    } else {
        path.find(['.', '[']).unwrap_or(path.len())
    };
    let (key, rest) = path.split_at(end);
    (key, rest.strip_prefix('.').unwrap_or(rest))
}

fn unquote(key: &str) -> String {
    match key.strip_prefix('"').and_then(|k| k.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => key.to_owned(),
    }
}

impl Difference {
    /// The two trees to compare, when it is the source files that differ.
    pub fn trees(&self) -> Option<(TreeId, TreeId)> {
        match (&self.what, &self.change) {
            (What::Sources, Change::Changed { before: Leaf::Link(before), after: Leaf::Link(after) }) => {
                Some(((*before).try_into().ok()?, (*after).try_into().ok()?))
            }
            _ => None,
        }
    }

    /// The two tasks to compare, when what it awaits comes from another task than before.
    pub fn tasks(&self) -> Option<(TaskId, TaskId)> {
        let is_promise = ["await/ok", "await/error", "await/*"].iter().any(|key| self.path.ends_with(key));
        match &self.change {
            Change::Changed { before: Leaf::Link(before), after: Leaf::Link(after) } if is_promise => {
                Some(((*before).try_into().ok()?, (*after).try_into().ok()?))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whether its value means something to people.
        let is_readable = match &self.what {
            What::Argument(place) => write!(f, "argument `{place}`").map(|()| true),
            What::Environment(name) => write!(f, "environment `{name}`").map(|()| true),
            What::Output(place) => write!(f, "declaration `{place}`").map(|()| true),
            What::Other(name) => write!(f, "{name}").map(|()| true),
            What::Sources => write!(f, "source files").map(|()| false),
            What::Tool(name) => write!(f, "tool `{name}`").map(|()| false),
            What::Input(path) => write!(f, "input `{path}`").map(|()| false),
            What::Stdin => write!(f, "standard input").map(|()| false),
        }?;
        let argument = |leaf: &Leaf| match (&self.what, leaf) {
            (What::Argument(_), Leaf::Text(text)) => format!(" `{text}`"),
            _ => String::new(),
        };
        match &self.change {
            Change::Added(leaf) => write!(f, "{} added", argument(leaf)),
            Change::Removed(leaf) => write!(f, "{} removed", argument(leaf)),
            Change::Changed { .. } if self.tasks().is_some() => write!(f, " comes from a task that changed"),
            Change::Changed { before, after } if is_readable => {
                write!(f, " was {}, is {}", shown(before), shown(after))
            }
            Change::Changed { .. } => write!(f, " changed"),
        }
    }
}

/// Text between backticks, the rest as it is, so that `1` and 1 are told apart.
fn shown(leaf: &Leaf) -> String {
    match leaf {
        Leaf::Text(text) if text.is_empty() => "empty".to_owned(),
        Leaf::Text(text) => format!("`{text}`"),
        other => other.to_string(),
    }
}

/// In what `current` differs from `earlier`: in the order of the current listing, what was removed last.
pub fn differences(current: &Listing, earlier: &Listing) -> Vec<Difference> {
    let mut before = aligned(current, earlier);
    let mut found = vec![];
    let mut add = |path: &str, change| {
        found.push(Difference { path: path.to_owned(), change, what: What::of(path) });
    };
    // An empty list that was not empty, or is not any more: what was or is in it is told.
    let (full_now, full_then) = (parents(current), parents(earlier));
    for (path, after) in &current.lines {
        match before.remove(&Place::At(path.clone())).map(|i| &earlier.lines[i].1) {
            Some(before) if before == after => {}
            Some(before) => add(path, Change::Changed { before: before.clone(), after: after.clone() }),
            None if full_then.contains(path.as_str()) => {}
            None => add(path, Change::Added(after.clone())),
        }
    }
    let mut gone: Vec<usize> = before.into_values().collect();
    gone.sort_unstable();
    for (path, leaf) in gone.into_iter().map(|i| &earlier.lines[i]) {
        if !full_now.contains(path.as_str()) {
            add(path, Change::Removed(leaf.clone()));
        }
    }
    found
}

/// Every path that has something below it.
fn parents(listing: &Listing) -> HashSet<&str> {
    let mut parents = HashSet::new();
    for (path, _) in &listing.lines {
        let mut path = path.as_str();
        while let Some(end) = parent(path) {
            path = &path[..end];
            if !parents.insert(path) {
                break;
            }
        }
    }
    parents
}

/// Where the parent of a path ends. A quoted key is one step, whatever it holds.
fn parent(path: &str) -> Option<usize> {
    match path.strip_suffix('"') {
        Some(path) => path.rfind(".\""),
        None => path.rfind(['.', '[']),
    }
}

/// Where a line of the earlier listing would stand in the current one.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    At(String),
    /// Nowhere; the number tells one from the other.
    Gone(usize),
}

/// The earlier lines by the place they would have now: what stands at the end of a command line that became
/// longer or shorter is compared with the end.
fn aligned(current: &Listing, earlier: &Listing) -> HashMap<Place, usize> {
    let (now, then) = (command_lines(current), command_lines(earlier));
    // Length now, length then, and how many at the end are equal.
    let mut ends = HashMap::<&str, (usize, usize, usize)>::new();
    for (list, then) in &then {
        let Some(now) = now.get(list) else { continue };
        let head = now.iter().zip(then).take_while(|(a, b)| a == b).count();
        let rest = now.len().min(then.len()) - head;
        let tail = now.iter().rev().zip(then.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
        ends.insert(list, (now.len(), then.len(), tail));
    }
    let place = |at: usize, path: &str| {
        let Some((list, i)) = item(path) else { return Place::At(path.to_owned()) };
        match ends.get(list) {
            Some((now, then, tail)) if i >= then - tail => Place::At(format!("{list}[{}]", i + now - then)),
            Some((now, _, tail)) if i >= now - tail => Place::Gone(at),
            _ => Place::At(path.to_owned()),
        }
    };
    earlier.lines.iter().enumerate().map(|(at, (path, _))| (place(at, path), at)).collect()
}

/// Command lines made of nothing but leaves, by path.
fn command_lines(listing: &Listing) -> HashMap<&str, Vec<&Leaf>> {
    let mut lines = HashMap::<&str, Vec<&Leaf>>::new();
    let mut mixed = HashSet::new();
    for (path, leaf) in &listing.lines {
        match (item(path), path.match_indices('[').nth(1)) {
            (Some((list, _)), _) => lines.entry(list).or_default().push(leaf),
            // A promise among them takes several lines; such a list is compared place by place.
            (None, Some((end, _))) => drop(mixed.insert(&path[..end])),
            (None, None) => {}
        }
    }
    lines.retain(|list, _| !mixed.contains(list));
    lines
}

/// The command line a path is an item of, and which.
fn item(path: &str) -> Option<(&str, usize)> {
    let open = path.strip_suffix(']')?.rfind('[')?;
    let list = &path[..open];
    (list.starts_with("args.steps[") && list.ends_with(']') && list.matches('[').count() == 1)
        .then(|| Some((list, path[open + 1..path.len() - 1].parse().ok()?)))?
}

/// Lines for people, each once.
pub fn lines(differences: &[Difference]) -> Vec<String> {
    let mut seen = HashSet::new();
    differences.iter().map(ToString::to_string).filter(|line| seen.insert(line.clone())).collect()
}

/// The earlier task with the fewest differences, the first of several, with what these are.
pub fn nearest<'a, K>(
    current: &Listing,
    candidates: impl IntoIterator<Item = (K, &'a Listing)>,
) -> Option<(K, Vec<Difference>)> {
    let compared = candidates.into_iter().map(|(key, earlier)| (key, differences(current, earlier)));
    compared.min_by_key(|(_, differences)| differences.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quipu_store::cid::BlobId;

    use super::*;
    use crate::process::{OutputKind, OutputSpec, ProcessSpec, Tier};
    use crate::task::{PROCESS, Task};
    use crate::value::{Branch, On, Value};

    fn spec() -> ProcessSpec {
        let promise = |task: &[u8], at: &str| Value::promise(Branch::Ok, On::Id(TaskId::of(task)), ["outputs", at]);
        ProcessSpec {
            steps: vec![vec!["cc".into(), "-c".into(), "-O1".into(), "main.c".into()]],
            env: BTreeMap::new(),
            dir: "".into(),
            stdin: None,
            stdout: None,
            depfile: None,
            sources: Some(TreeId::of(b"sources 1")),
            inputs: [("gen/types.h".into(), promise(b"generate 1", "types.h"))].into(),
            outputs: vec![OutputSpec { path: "main.o".into(), kind: OutputKind::File, optional: false }],
            platform: ("linux".into(), "x86_64".into()),
            tools: [("cc".into(), BlobId::of(b"cc 1"))].into(),
            tier: Tier::Ns,
            network: false,
            secrets: Vec::new(),
            services: vec![],
        }
    }

    fn listing(change: impl FnOnce(&mut ProcessSpec)) -> Listing {
        let mut spec = spec();
        change(&mut spec);
        Listing::of(&Task::new(PROCESS, spec.to_args().expect("distinct keys")))
    }

    /// What people read when `spec()` became what `change` makes of it.
    fn check(change: impl FnOnce(&mut ProcessSpec), expect: &[&str]) -> Vec<Difference> {
        let found = differences(&listing(change), &listing(|_| {}));
        assert_eq!(lines(&found), expect);
        found
    }

    #[test]
    fn equal_tasks_do_not_differ() {
        check(|_| {}, &[]);
    }

    #[test]
    fn each_ingredient_has_words_for_its_change() {
        check(|s| s.steps[0][2] = "-O2".into(), &["argument `steps[0][2]` was `-O1`, is `-O2`"]);
        check(|s| drop(s.env.insert("CFLAGS".into(), "-g".into())), &["environment `CFLAGS` added"]);
        check(|s| _ = s.tools.insert("cc".into(), BlobId::of(b"cc 2")), &["tool `cc` changed"]);
        check(|s| _ = s.tools.remove("cc"), &["tool `cc` removed"]);
        check(|s| s.dir = "src".into(), &["working directory was empty, is `src`"]);
        check(|s| s.tier = Tier::None, &["isolation was `ns`, is `none`"]);
        check(|s| s.network = true, &["network added"]);
        check(|s| s.platform.1 = "aarch64".into(), &["platform.arch was `x86_64`, is `aarch64`"]);
        check(|s| s.outputs[0].path = "a.o".into(), &["declaration `outputs[0].path` was `main.o`, is `a.o`"]);
        check(|s| s.stdin = s.inputs.values().next().cloned(), &["standard input added"]);
        check(|s| drop(s.inputs.remove("gen/types.h")), &["input `gen/types.h` removed"]);
    }

    #[test]
    fn what_is_put_into_or_taken_from_a_command_line_is_one_difference() {
        let added = ["argument `steps[0][1]` `-g` added"];
        check(|s| s.steps[0].insert(1, "-g".into()), &added);
        check(|s| drop(s.steps[0].remove(2)), &["argument `steps[0][2]` `-O1` removed"]);
        check(
            |s| drop(s.steps[0].splice(1..3, ["-g".into(), "-Wall".into(), "-O3".into()])),
            &[
                "argument `steps[0][1]` was `-c`, is `-g`",
                "argument `steps[0][2]` was `-O1`, is `-Wall`",
                "argument `steps[0][3]` `-O3` added",
            ],
        );
        check(|s| s.steps.push(vec!["strip".into()]), &["argument `steps[1][0]` `strip` added"]);
        check(
            |s| s.steps[0].truncate(1),
            &[
                "argument `steps[0][1]` `-c` removed",
                "argument `steps[0][2]` `-O1` removed",
                "argument `steps[0][3]` `main.c` removed",
            ],
        );
    }

    #[test]
    fn a_promise_among_arguments_is_compared_in_its_place() {
        let with = |task: &'static [u8], first: &'static str| {
            listing(|s| {
                s.steps[0][0] = first.into();
                s.steps[0][3] = Value::promise(Branch::Ok, On::Id(TaskId::of(task)), ["outputs", "main.c"]);
            })
        };
        let found = differences(&with(b"new", "gcc"), &with(b"old", "cc"));
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].tasks(), Some((TaskId::of(b"old"), TaskId::of(b"new"))));
        assert_eq!(found[0].to_string(), "argument `steps[0][0]` was `cc`, is `gcc`");
    }

    #[test]
    fn changed_sources_say_between_which_trees_to_look() {
        let found = check(|s| s.sources = Some(TreeId::of(b"sources 2")), &["source files changed"]);
        assert_eq!(found[0].trees(), Some((TreeId::of(b"sources 1"), TreeId::of(b"sources 2"))));
        assert_eq!(check(|s| s.sources = None, &["source files removed"])[0].trees(), None);
    }

    #[test]
    fn an_input_from_a_changed_task_says_between_which_tasks_to_look() {
        let other = Value::promise(Branch::Ok, On::Id(TaskId::of(b"generate 2")), ["outputs", "types.h"]);
        let found = check(
            |s| drop(s.inputs.insert("gen/types.h".into(), other)),
            &["input `gen/types.h` comes from a task that changed"],
        );
        assert_eq!(found[0].tasks(), Some((TaskId::of(b"generate 1"), TaskId::of(b"generate 2"))));
        let part = Value::promise(Branch::Ok, On::Id(TaskId::of(b"generate 1")), ["outputs", "other.h"]);
        check(|s| drop(s.inputs.insert("gen/types.h".into(), part)), &["input `gen/types.h` changed"]);
    }

    #[test]
    fn a_number_is_told_from_the_same_in_letters() {
        let one = |v: Value| Listing::of(&Task::new("/test/do", Value::map([("n", v)]).expect("one key")));
        let found = differences(&one(Value::text("1")), &one(Value::Int(1)));
        assert_eq!(lines(&found), ["n was 1, is `1`"]);
    }

    #[test]
    fn keys_are_not_mistaken_for_paths() {
        for key in ["CC", "a.b", "a\"b", "a[0]", "a].\"b", "\\", "x y", "\"quoted\""] {
            let line = format!("environment `{key}` added");
            let found = check(|s| drop(s.env.insert(key.into(), "v".into())), &[&line]);
            assert_eq!(found[0].what, What::Environment(key.to_owned()));
        }
    }

    #[test]
    fn the_nearest_is_the_one_with_the_fewest_differences_and_the_first_of_several() {
        let current = listing(|_| {});
        let far = listing(|s| {
            s.dir = "x".into();
            s.network = true;
        });
        let near = listing(|s| s.dir = "x".into());
        let as_near = listing(|s| s.dir = "y".into());
        let candidates = [("far", &far), ("near", &near), ("as near", &as_near)];
        let (key, found) = nearest(&current, candidates).expect("there are some");
        assert_eq!((key, found.len()), ("near", 1));
        assert_eq!(nearest(&current, [("same", &current)]).map(|(_, d)| d.len()), Some(0));
        assert!(nearest::<()>(&current, []).is_none());
    }
}
