//! In which ingredients tasks differ, in words and as JSON: what `explain` and `diff` have in common.
//!
//! Reads what the store has of tasks; unaware of runs and of the workspace as it is now.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use quipu_runtime::explain::{Change, Difference, differences};
use quipu_runtime::identity::{Leaf, Listing, decode_task};
use quipu_store::cid::{TaskId, TreeId};
use quipu_store::tree::{Entry, Tree};
use quipu_store::tree_diff;
use quipu_store::{Store, StoreError};
use serde::Serialize;

use crate::diagnose::Diagnosis;
use crate::render::harmless;

/// Most files named for one tree.
const MAX_FILES: usize = 50;
/// Longest text of a value that is shown, in characters.
const MAX_VALUE: usize = 200;
/// Largest task block that is read back, in bytes.
const MAX_TASK_BYTES: u64 = 64 << 20;
/// Columns that text is folded to.
const WIDTH: usize = 80;

/// One ingredient that differs.
#[derive(Serialize)]
pub(super) struct Told {
    /// In words.
    pub(super) message: String,
    /// Path of keys in the task.
    pub(super) path: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// Where the workfile says it, if it does.
    #[serde(flatten)]
    pub(super) origin: Option<Origin>,
    /// For source files: what changed.
    pub(super) files: Vec<FileChange>,
    /// For what another task makes: that task, and what differs in it.
    pub(super) from: Option<Upstream>,
}

/// Where in the workfiles something comes from.
#[derive(Clone, Serialize)]
pub(super) struct Origin {
    /// The key it is the value of.
    pub(super) key: &'static str,
    /// File, line and column.
    pub(super) place: String,
    /// Variables, params and lists of a matrix that went into it.
    pub(super) used: Vec<Used>,
}

/// A name that went into an ingredient.
#[derive(Clone, Serialize)]
pub(super) struct Used {
    pub(super) name: String,
    /// `variable`, `param` or `matrix`.
    pub(super) what: &'static str,
    /// Where it gets its value, or where it is declared when somebody else gives it.
    pub(super) place: String,
    /// Who gives it, when it is not the workfile.
    pub(super) given: Option<String>,
}

/// A file that is not as it was.
#[derive(Serialize)]
pub(super) struct FileChange {
    pub(super) path: String,
    pub(super) change: &'static str,
    /// Where the workfile says that it is read, if it does.
    #[serde(flatten)]
    pub(super) origin: Option<Origin>,
}

/// A task whose outcome is an ingredient.
#[derive(Serialize)]
pub(super) struct Upstream {
    pub(super) name: String,
    /// None where it is told elsewhere, or there is nothing to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) differences: Option<Vec<Told>>,
}

/// What a task is made of, where the store has it.
pub(super) fn listing(store: &Store, id: TaskId) -> Result<Option<Listing>, Diagnosis> {
    let block = store.get(id.link(), MAX_TASK_BYTES)?;
    Ok(block.and_then(|block| decode_task(&block).ok()).map(|task| Listing::of(&task)))
}

/// Two earlier tasks, compared by what the store has of them.
pub(super) struct Between<'a> {
    pub(super) store: &'a Store,
    /// What people call a task.
    pub(super) name: &'a dyn Fn(TaskId) -> Option<String>,
    /// Whether the tasks that it awaits are compared, too, each once.
    pub(super) is_deep: bool,
    pub(super) seen: Vec<TaskId>,
}

impl Between<'_> {
    /// In what `after` differs from `before`; none when it is not known any more what one of them was made of.
    pub(super) fn tell(&mut self, before: TaskId, after: TaskId) -> Result<Option<Vec<Told>>, Diagnosis> {
        self.seen.push(after);
        let store = self.store;
        let (Some(then), Some(now)) = (listing(store, before)?, listing(store, after)?) else { return Ok(None) };
        let mut all = vec![];
        for found in differences(&now, &then) {
            let mut told = told(&found, |id| store.tree(id))?;
            if let Some((before, after)) = found.tasks()
                && let Some(name) = (self.name)(after)
            {
                let is_told = !self.is_deep || self.seen.contains(&after);
                let differences = if is_told { None } else { self.tell(before, after)? };
                told.from = Some(Upstream { name, differences });
            }
            all.push(told);
        }
        Ok(Some(all))
    }
}

/// A difference with the files behind it, as far as `tree` has their directories.
pub(super) fn told(
    found: &Difference,
    tree: impl Fn(TreeId) -> Result<Option<Tree>, StoreError>,
) -> Result<Told, Diagnosis> {
    let mut files = vec![];
    if let Some((before, after)) = found.trees()
        && let (Some(before), Some(after)) = (tree(before)?, tree(after)?)
        && let Ok(diff) = tree_diff::diff(&tree, &before, &after, MAX_FILES)
    {
        files = diff.changes.into_iter().map(file_change).collect();
        if diff.more {
            files.push(FileChange { path: "others".to_owned(), change: "and", origin: None });
        }
    }
    let (before, after) = match &found.change {
        Change::Added(after) => (None, Some(after)),
        Change::Removed(before) => (Some(before), None),
        Change::Changed { before, after } => (Some(before), Some(after)),
    };
    let text = |leaf: Option<&Leaf>| leaf.map(ToString::to_string);
    let (before, after) = (text(before), text(after));
    Ok(Told { message: found.to_string(), path: found.path.clone(), before, after, origin: None, files, from: None })
}

fn file_change(change: tree_diff::Change) -> FileChange {
    let said = match (&change.old, &change.new) {
        (None, _) => "added",
        (_, None) => "removed",
        (Some(Entry::File { blob: a, .. }), Some(Entry::File { blob: b, .. })) if a == b => "mode changed of",
        _ => "changed",
    };
    FileChange { path: change.path, change: said, origin: None }
}

impl Origin {
    /// In words, behind what it is the origin of.
    pub(super) fn text(&self) -> String {
        let mut out = format!("(`{}`, {}", self.key, self.place);
        for used in &self.used {
            let list = if used.what == "matrix" { " list" } else { "" };
            let _ = write!(out, "; {}{list} `{}`, ", used.what, used.name);
            match &used.given {
                Some(given) => _ = write!(out, "given by {given}"),
                None => out.push_str(&used.place),
            }
        }
        out + ")"
    }
}

/// Differences as lines, each once, what is behind them deeper.
pub(super) fn text(out: &mut String, all: &[Told], indent: usize) {
    let mut said = BTreeSet::new();
    for told in all {
        let what = match &told.from {
            Some(from) => format!("what task `{}` makes", from.name),
            None => told.message.clone(),
        };
        let more = told.from.as_ref().and_then(|from| from.differences.as_deref()).filter(|all| !all.is_empty());
        let origin = told.origin.as_ref().map_or_else(String::new, |origin| format!(" {}", origin.text()));
        let line = format!("{}{origin}{}", short(&what), if more.is_some() { ", in which" } else { "" });
        if !said.insert(line.clone()) {
            continue;
        }
        fold(out, indent, &line);
        let whole = told.origin.as_ref().map(|origin| &origin.place);
        for file in &told.files {
            // What was said of all of them is not said again of each.
            let own = file.origin.as_ref().filter(|own| Some(&own.place) != whole);
            let own = own.map_or_else(String::new, |own| format!(" {}", own.text()));
            fold(out, indent + 2, &format!("{} {}{own}", file.change, harmless(&file.path)));
        }
        text(out, more.unwrap_or_default(), indent + 2);
    }
}

/// Adds text that is broken at blanks, so that it fits a terminal; what follows the first line stands deeper.
pub(super) fn fold(out: &mut String, indent: usize, text: &str) {
    let mut column = indent;
    let _ = write!(out, "{:indent$}", "");
    for (i, word) in harmless(text).split(' ').enumerate() {
        let len = word.chars().count();
        if i > 0 && column + 1 + len > WIDTH {
            column = indent + 4;
            let _ = write!(out, "\n{:column$}", "");
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out.push('\n');
}

/// A value on a line of its own.
pub(super) fn short(text: &str) -> String {
    let line = harmless(text).replace('\n', "\\n");
    match line.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_folded_at_blanks_and_stays_as_it_is_within_words() {
        let folded = |text: &str| {
            let mut out = String::new();
            fold(&mut out, 2, text);
            out
        };
        assert_eq!(folded("a  b"), "  a  b\n");
        let long = "x".repeat(90);
        assert_eq!(folded(&format!("a {long} b")), format!("  a\n      {long}\n      b\n"));
        let words = folded(&"word ".repeat(40));
        assert!(words.lines().count() > 2 && words.lines().all(|line| line.chars().count() <= WIDTH), "{words}");
        assert_eq!(words.split_whitespace().count(), 40);
    }
}
