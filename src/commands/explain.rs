//! `quipu explain`: why a task would run or not, which of its ingredients differ from the last time it was settled,
//! down to the file and to the line of the workfile, and what its id is made of.

use std::fmt::Write as _;

use quipu_runtime::explain::{Change, Difference, What, differences};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::identity::{Listing, decode_task};
use quipu_runtime::task::Work;
use quipu_store::cid::{TaskId, TreeId};
use quipu_store::sign::Signer;
use quipu_store::tree::Entry;
use quipu_store::tree_diff;
use quipu_store::{Options, SignerSource, Store};
use serde::Serialize;

use super::memory::{self, Memory};
use super::{Context, plan, print, print_json};
use crate::cli::ExplainArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::{count, harmless};

/// Most files named for one tree.
pub(super) const MAX_FILES: usize = 50;
/// Longest text of a value that is shown, in characters.
const MAX_VALUE: usize = 200;
/// Largest task block that is read back, in bytes.
pub(super) const MAX_TASK_BYTES: u64 = 64 << 20;

/// Everything there is to say of one task.
#[derive(Serialize)]
struct Explained {
    name: String,
    task: String,
    status: &'static str,
    because: String,
    /// Its id when it was last settled under this name; none when that is not known.
    earlier: Option<String>,
    /// The receipt it was settled by then.
    earlier_receipt: Option<String>,
    /// What differs from then; none when there is nothing to compare with.
    differences: Option<Vec<Told>>,
    ingredients: Vec<Ingredient>,
}

#[derive(Serialize)]
struct Ingredient {
    path: String,
    value: String,
}

/// One ingredient that differs.
#[derive(Serialize)]
struct Told {
    /// In words.
    message: String,
    /// Path of keys in the task.
    path: String,
    before: Option<String>,
    after: Option<String>,
    /// The key of the workfile it comes from.
    key: Option<&'static str>,
    /// Where that stands, or the task.
    place: String,
    /// For source files: what changed.
    files: Vec<FileChange>,
    /// For what another task makes: that task, and what differs in it.
    from: Option<Upstream>,
}

#[derive(Serialize)]
pub(super) struct FileChange {
    pub(super) path: String,
    pub(super) change: &'static str,
}

#[derive(Serialize)]
struct Upstream {
    name: String,
    /// None where it is told elsewhere, or there is nothing to compare with.
    differences: Option<Vec<Told>>,
}

/// Explains.
pub(super) fn explain(context: &Context, args: &ExplainArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let tasks = opened.goals(std::slice::from_ref(&args.task))?;
    let workflow = &opened.project.subject.workflow;
    let [task] = tasks[..] else {
        let names = tasks.iter().map(|t| workflow.node(*t).name.to_string());
        let heading = format!("`{}` means {}", args.task, count(tasks.len(), "task"));
        return Err(Diagnosis::ambiguous(heading, names).hint("name one"));
    };
    let explained = Explainer::new(&opened).explain(task)?;
    if args.json { print_json(&explained) } else { print(&explained.text()).map(|()| Exit::Ok) }
}

struct Explainer<'a> {
    opened: &'a Opened,
    memory: Memory,
    /// Directory nodes as they are now, which no store has yet.
    now: Store,
    /// Tasks that are told of already.
    told: Vec<TaskIdx>,
}

impl<'a> Explainer<'a> {
    fn new(opened: &'a Opened) -> Self {
        let memory = memory::read(&opened.store, &opened.key());
        // Nothing is signed in it.
        let now = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[0; 32]))));
        Self { opened, memory, now, told: vec![] }
    }

    fn name(&self, task: TaskIdx) -> String {
        self.opened.project.subject.workflow.node(task).name.to_string()
    }

    fn explain(mut self, task: TaskIdx) -> Result<Explained, Diagnosis> {
        let planned = plan::of_one(self.opened, task)?;
        let known = self.memory.get(&self.name(task)).cloned();
        let lines = self.listing(task).lines.into_iter();
        Ok(Explained {
            name: self.name(task),
            task: planned.task.to_string(),
            status: plan::word(planned.status),
            because: plan::because(self.opened, &planned)?,
            differences: self.differences(task)?,
            earlier: known.as_ref().map(|k| k.id.clone()),
            earlier_receipt: known.and_then(|k| k.receipt),
            ingredients: lines.map(|(path, leaf)| Ingredient { path, value: leaf.to_string() }).collect(),
        })
    }

    fn listing(&self, task: TaskIdx) -> Listing {
        match &self.opened.project.subject.workflow.node(task).work {
            Work::Task(recipe) => self.opened.project.subject.ids.listing(recipe),
            Work::External { .. } => Listing::default(),
        }
    }

    /// What differs from when the task was last settled; `None` when that is not known any more.
    fn differences(&mut self, task: TaskIdx) -> Result<Option<Vec<Told>>, Diagnosis> {
        self.told.push(task);
        let Some(known) = self.memory.get(&self.name(task)) else { return Ok(None) };
        let Ok(earlier) = known.id.parse::<TaskId>() else { return Ok(None) };
        if earlier == self.opened.project.subject.ids.of(task) {
            return Ok(Some(vec![]));
        }
        let Some(block) = self.opened.store.get(earlier.link(), MAX_TASK_BYTES)? else { return Ok(None) };
        let Ok(earlier) = decode_task(&block) else { return Ok(None) };
        let found = differences(&self.listing(task), &Listing::of(&earlier));
        found.iter().map(|difference| self.tell(task, difference)).collect::<Result<Vec<_>, _>>().map(Some)
    }

    fn tell(&mut self, task: TaskIdx, difference: &Difference) -> Result<Told, Diagnosis> {
        let project = &self.opened.project;
        let recipe = project.recipe(task);
        let key = self.key(task, difference);
        let (file, line, column) = project.loaded.locate(key.map_or(recipe.place, |key| recipe.key_place(key)));
        let files = match difference.trees() {
            Some((before, after)) => self.files(task, before, after)?,
            None => vec![],
        };
        let upstream = difference.tasks().and_then(|(_, now)| project.subject.ids.find(now));
        let from = match upstream {
            None => None,
            Some(task) if self.told.contains(&task) => Some(Upstream { name: self.name(task), differences: None }),
            Some(task) => Some(Upstream { name: self.name(task), differences: self.differences(task)? }),
        };
        let (before, after) = match &difference.change {
            Change::Added(after) => (None, Some(after)),
            Change::Removed(before) => (Some(before), None),
            Change::Changed { before, after } => (Some(before), Some(after)),
        };
        Ok(Told {
            message: difference.to_string(),
            path: difference.path.clone(),
            before: before.map(ToString::to_string),
            after: after.map(ToString::to_string),
            key,
            place: format!("{file}:{line}:{column}"),
            files,
            from,
        })
    }

    /// The key of the workfile that an ingredient comes from.
    fn key(&self, task: TaskIdx, difference: &Difference) -> Option<&'static str> {
        let recipe = self.opened.project.recipe(task);
        let written = |key: &&'static str| recipe.key_places.iter().any(|(k, _)| k == key);
        let keys: &[&'static str] = match &difference.what {
            What::Argument(_) => &["run", "steps"],
            What::Environment(name) if recipe.env.contains_key(name.as_str()) => &["env"],
            What::Environment(_) => &["pass-env", "env"],
            What::Sources => &["inputs"],
            What::Input(path) if path.starts_with('@') => &["needs"],
            What::Input(_) => &["inputs", "needs"],
            What::Tool(_) => &["tools"],
            What::Output(_) => &["outputs"],
            What::Stdin => &["stdin"],
            _ => match difference.path.as_str() {
                "args.dir" => &["dir"],
                "args.stdout" => &["stdout"],
                "args.sandbox" => &["sandbox"],
                "args.network" => &["network"],
                path if path.starts_with("args.secrets") => &["secret-env"],
                _ => &[],
            },
        };
        keys.iter().copied().find(written)
    }

    /// Which source files differ. None where the earlier directory was collected: then only the ids are known.
    fn files(&self, task: TaskIdx, before: TreeId, after: TreeId) -> Result<Vec<FileChange>, Diagnosis> {
        self.opened.project.keep_tree(&self.now, task)?;
        let lookup = |id: TreeId| match self.opened.store.tree(id)? {
            None => self.now.tree(id),
            found => Ok(found),
        };
        let (Some(before), Some(after)) = (lookup(before)?, lookup(after)?) else { return Ok(vec![]) };
        let Ok(diff) = tree_diff::diff(lookup, &before, &after, MAX_FILES) else { return Ok(vec![]) };
        let mut files: Vec<FileChange> = diff.changes.into_iter().map(file_change).collect();
        if diff.more {
            files.push(FileChange { path: "others".to_owned(), change: "and" });
        }
        Ok(files)
    }
}

pub(super) fn file_change(change: tree_diff::Change) -> FileChange {
    let said = match (&change.old, &change.new) {
        (None, _) => "added",
        (_, None) => "removed",
        (Some(Entry::File { blob: a, .. }), Some(Entry::File { blob: b, .. })) if a == b => "mode changed of",
        _ => "changed",
    };
    FileChange { path: change.path, change: said }
}

impl Explained {
    fn text(&self) -> String {
        let mut out = format!("{}: {}: {}\n", harmless(&self.name), self.status, harmless(&self.because));
        match (&self.differences, &self.earlier) {
            (_, None) => out.push_str("nothing is known of an earlier task of this name\n"),
            (None, Some(_)) => {
                out.push_str("what it was made of when it was last settled is not in the store any more\n");
            }
            (Some(all), _) if all.is_empty() => out.push_str("nothing differs from when it was last settled\n"),
            (Some(all), _) => {
                out.push_str("what differs from when it was last settled:\n");
                tell(&mut out, all, 1);
            }
        }
        let _ = writeln!(out, "\ntask {}", self.task);
        if let Some(earlier) = self.earlier.as_ref().filter(|earlier| **earlier != self.task) {
            let _ = writeln!(out, "earlier {earlier}");
        }
        if let Some(receipt) = &self.earlier_receipt {
            let _ = writeln!(out, "last receipt {receipt}");
        }
        out.push_str("made of\n");
        for ingredient in &self.ingredients {
            let _ = writeln!(out, "  {} = {}", harmless(&ingredient.path), short(&ingredient.value));
        }
        out
    }
}

fn tell(out: &mut String, all: &[Told], depth: usize) {
    let pad = "  ".repeat(depth);
    for told in all {
        let written = told.key.map_or_else(String::new, |key| format!(" (`{key}`, {})", told.place));
        let what = match &told.from {
            Some(from) => format!("what task `{}` makes", from.name),
            None => told.message.clone(),
        };
        let more = told.from.as_ref().and_then(|from| from.differences.as_ref()).filter(|all| !all.is_empty());
        let _ = writeln!(out, "{pad}{}{written}{}", short(&what), if more.is_some() { ", in which" } else { "" });
        for file in &told.files {
            let _ = writeln!(out, "{pad}  {} {}", file.change, harmless(&file.path));
        }
        tell(out, more.map_or(&[], Vec::as_slice), depth + 1);
    }
}

/// A value on a line of its own.
pub(super) fn short(text: &str) -> String {
    let line = harmless(text).replace('\n', "\\n");
    match line.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}
