//! `quipu explain`: why a task would run or not, which of its ingredients differ from the last time it was settled,
//! down to the file and to the line of the workfile, and what its id is made of.

use std::collections::BTreeMap;

use quipu_runtime::graph::TaskIdx;
use quipu_runtime::identity::{Leaf, Listing};
use quipu_runtime::run::{Rules, Run};
use quipu_runtime::task::Work;
use quipu_store::cid::{TaskId, TreeId};
use quipu_store::sign::Signer;
use quipu_store::tree::Entry;
use quipu_store::tree_diff;
use quipu_store::{Options, SignerSource, Store};
use serde::Serialize;

use super::memory::{self, Memory};
use super::plan::Standing;
use super::{Context, print, print_json, show};
use crate::cli::ExplainArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::{count, harmless};

/// Most files named for one tree.
const MAX_FILES: usize = 50;
/// Longest text of a value that is shown, in characters.
const MAX_VALUE: usize = 200;
/// Largest task block that is read back, in bytes.
const MAX_TASK_BYTES: u64 = 64 << 20;

/// Everything there is to say of one task.
#[derive(Serialize)]
struct Explained {
    task: String,
    id: String,
    state: &'static str,
    reason: String,
    /// Its id when it was last settled under this name; none when that is not known.
    earlier: Option<String>,
    /// The receipt it was settled by then.
    receipt: Option<String>,
    /// What differs from then; none when there is nothing to compare with.
    differences: Option<Vec<Difference>>,
    ingredients: Vec<Ingredient>,
}

#[derive(Serialize)]
struct Ingredient {
    path: String,
    value: String,
}

/// One ingredient that differs.
#[derive(Serialize)]
struct Difference {
    /// Path of keys in the task.
    ingredient: String,
    was: Option<String>,
    is: Option<String>,
    /// The key of the workfile it comes from, and where that stands.
    key: Option<&'static str>,
    place: String,
    /// For source files: what changed.
    files: Vec<FileChange>,
    /// For what another task makes: that task, and what differs in it.
    from: Option<Upstream>,
}

#[derive(Serialize)]
struct FileChange {
    path: String,
    change: &'static str,
}

#[derive(Serialize)]
struct Upstream {
    task: String,
    /// None where it is told elsewhere, or there is nothing to compare with.
    differences: Option<Vec<Difference>>,
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
    let run = opened.look(vec![task], Rules { jobs: 1, ..Rules::default() })?;
    let explained = Explainer::new(&opened)?.explain(task, &run)?;
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
    fn new(opened: &'a Opened) -> Result<Self, Diagnosis> {
        let memory = memory::read(&opened.store, &opened.key());
        // Nothing is signed in it.
        let now = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[0; 32]))));
        Ok(Self { opened, memory, now, told: vec![] })
    }

    fn explain(mut self, task: TaskIdx, run: &Run) -> Result<Explained, Diagnosis> {
        let standing = Standing::of(self.opened, run, task)?;
        let name = self.opened.project.subject.workflow.node(task).name.to_string();
        let known = self.memory.get(&name).cloned();
        let ingredients = self.listing(task).lines;
        let ingredients =
            ingredients.into_iter().map(|(path, leaf)| Ingredient { path, value: leaf.to_string() }).collect();
        Ok(Explained {
            id: self.opened.project.subject.ids.of(task).to_string(),
            state: standing.state,
            reason: standing.reason,
            differences: self.differences(task)?,
            earlier: known.as_ref().map(|k| k.id.clone()),
            receipt: known.and_then(|k| k.receipt),
            ingredients,
            task: name,
        })
    }

    fn listing(&self, task: TaskIdx) -> Listing {
        match &self.opened.project.subject.workflow.node(task).work {
            Work::Task(recipe) => self.opened.project.subject.ids.listing(recipe),
            Work::External(_) => Listing::default(),
        }
    }

    /// What differs from when the task was last settled; `None` when that is not known any more.
    fn differences(&mut self, task: TaskIdx) -> Result<Option<Vec<Difference>>, Diagnosis> {
        self.told.push(task);
        let subject = &self.opened.project.subject;
        let Some(known) = self.memory.get(&*subject.workflow.node(task).name) else { return Ok(None) };
        let Ok(earlier) = known.id.parse::<TaskId>() else { return Ok(None) };
        if earlier == subject.ids.of(task) {
            return Ok(Some(vec![]));
        }
        let Some(block) = self.opened.store.get(earlier.link(), MAX_TASK_BYTES)? else { return Ok(None) };
        let Some(old) = show::listing(&block) else { return Ok(None) };
        let new = self.listing(task);
        let was: BTreeMap<&str, &Leaf> = old.lines.iter().map(|(path, leaf)| (&**path, leaf)).collect();
        let is: BTreeMap<&str, &Leaf> = new.lines.iter().map(|(path, leaf)| (&**path, leaf)).collect();
        // In the order they are hashed now, and then what is gone.
        let gone = old.lines.iter().map(|(path, _)| &**path).filter(|path| !is.contains_key(path));
        let paths: Vec<&str> = new.lines.iter().map(|(path, _)| &**path).chain(gone).collect();
        let mut differences = vec![];
        for path in paths {
            let (was, is) = (was.get(path).copied(), is.get(path).copied());
            if was != is {
                differences.push(self.difference(task, path, was, is)?);
            }
        }
        Ok(Some(differences))
    }

    fn difference(
        &mut self,
        task: TaskIdx,
        path: &str,
        was: Option<&Leaf>,
        is: Option<&Leaf>,
    ) -> Result<Difference, Diagnosis> {
        let project = &self.opened.project;
        let recipe = project.recipe(task);
        let key = self.key(task, path);
        let (file, line, column) = project.loaded.locate(key.map_or(recipe.place, |key| recipe.key_place(key)));
        let files = if path == SOURCES { self.files(task, was, is)? } else { vec![] };
        let from = match is {
            Some(Leaf::Link(link)) if path.contains(".await/") || path.starts_with("await/") => {
                let id = TaskId::try_from(*link).ok();
                id.and_then(|id| project.subject.ids.find(id))
            }
            _ => None,
        };
        let from = match from {
            Some(upstream) if self.told.contains(&upstream) => Some((upstream, None)),
            Some(upstream) => Some((upstream, self.differences(upstream)?)),
            None => None,
        };
        let name = |task| self.opened.project.subject.workflow.node(task).name.to_string();
        Ok(Difference {
            ingredient: path.to_owned(),
            was: was.map(ToString::to_string),
            is: is.map(ToString::to_string),
            key,
            place: format!("{file}:{line}:{column}"),
            files,
            from: from.map(|(task, differences)| Upstream { task: name(task), differences }),
        })
    }

    /// The key of the workfile that an ingredient comes from.
    fn key(&self, task: TaskIdx, path: &str) -> Option<&'static str> {
        let recipe = self.opened.project.recipe(task);
        let written = |key: &&'static str| recipe.key_places.iter().any(|(k, _)| k == key);
        let (first, rest) = path.strip_prefix("args.")?.split_once(['.', '[']).unwrap_or((&path[5..], ""));
        let keys: &[&'static str] = match first {
            "steps" => &["run", "steps"],
            "env" if recipe.env.keys().any(|k| **k == *rest) => &["env"],
            "env" => &["pass-env", "env"],
            "inputs" if rest.starts_with('@') || rest.starts_with("\"@") => &["needs"],
            "inputs" => &["inputs"],
            "dir" => &["dir"],
            "outputs" => &["outputs"],
            "stdin" => &["stdin"],
            "stdout" => &["stdout"],
            "tools" => &["tools"],
            "sandbox" => &["sandbox"],
            "network" => &["network"],
            _ => &[],
        };
        keys.iter().copied().find(written)
    }

    /// Which source files differ.
    fn files(&self, task: TaskIdx, was: Option<&Leaf>, is: Option<&Leaf>) -> Result<Vec<FileChange>, Diagnosis> {
        self.opened.project.keep_tree(&self.now, task)?;
        let lookup = |id: TreeId| {
            self.opened.store.tree(id).and_then(|tree| tree.map_or_else(|| self.now.tree(id), |t| Ok(Some(t))))
        };
        let tree = |leaf: Option<&Leaf>| match leaf {
            Some(Leaf::Link(link)) => TreeId::try_from(*link).map_or(Ok(None), lookup),
            _ => Ok(Some(quipu_store::tree::Tree::default())),
        };
        // An earlier tree that was collected cannot be compared: then only the ids are shown.
        let (Some(was), Some(is)) = (tree(was)?, tree(is)?) else { return Ok(vec![]) };
        let Ok(diff) = tree_diff::diff(lookup, &was, &is, MAX_FILES) else { return Ok(vec![]) };
        let mut files: Vec<FileChange> = diff.changes.into_iter().map(file_change).collect();
        if diff.more {
            files.push(FileChange { path: "...".to_owned(), change: "more" });
        }
        Ok(files)
    }
}

/// The path of a task's source files among its ingredients.
const SOURCES: &str = "args.inputs.\"\"";

fn file_change(change: tree_diff::Change) -> FileChange {
    let blob = |entry: &Entry| match entry {
        Entry::File { blob, .. } => Some(*blob),
        _ => None,
    };
    let said = match (&change.old, &change.new) {
        (None, _) => "added",
        (_, None) => "removed",
        (Some(old), Some(new)) if blob(old).is_some() && blob(old) == blob(new) => "mode changed",
        _ => "changed",
    };
    FileChange { path: change.path, change: said }
}

impl Explained {
    fn text(&self) -> String {
        let mut out = format!("{}: {}: {}\n", harmless(&self.task), self.state, harmless(&self.reason));
        match (&self.differences, &self.earlier) {
            (_, None) => out.push_str("nothing is known of an earlier task of this name\n"),
            (None, Some(_)) => {
                out.push_str("what it was made of when it was last settled is not in the store any more\n")
            }
            (Some(all), _) if all.is_empty() => out.push_str("nothing differs from when it was last settled\n"),
            (Some(all), _) => {
                out.push_str("what differs from when it was last settled:\n");
                tell(&mut out, all, 1);
            }
        }
        out.push_str(&format!("\nid {}\n", self.id));
        if let Some(earlier) = self.earlier.as_ref().filter(|earlier| **earlier != self.id) {
            out.push_str(&format!("earlier {earlier}\n"));
        }
        if let Some(receipt) = &self.receipt {
            out.push_str(&format!("last receipt {receipt}\n"));
        }
        out.push_str("made of\n");
        for ingredient in &self.ingredients {
            out.push_str(&format!("  {} = {}\n", harmless(&ingredient.path), short(&ingredient.value)));
        }
        out
    }
}

fn tell(out: &mut String, differences: &[Difference], depth: usize) {
    let pad = "  ".repeat(depth);
    for d in differences {
        let label = d.ingredient.strip_prefix("args.").unwrap_or(&d.ingredient);
        let written = d.key.map_or_else(String::new, |key| format!(" (`{key}`, {})", d.place));
        if let Some(from) = &d.from {
            let what =
                if from.differences.as_ref().is_some_and(|all| !all.is_empty()) { ", where this differs:" } else { "" };
            out.push_str(&format!("{pad}what task `{}` makes{written}{what}\n", harmless(&from.task)));
            tell(out, from.differences.as_deref().unwrap_or_default(), depth + 1);
        } else if d.ingredient == SOURCES {
            out.push_str(&format!("{pad}source files{written}\n"));
            let mut said = false;
            for file in &d.files {
                said = true;
                out.push_str(&format!("{pad}  {} {}\n", file.change, harmless(&file.path)));
            }
            if !said {
                out.push_str(&format!(
                    "{pad}  which ones cannot be said: the earlier directory is not in the store any more\n"
                ));
            }
        } else {
            let value = |v: &Option<String>| v.as_ref().map_or_else(|| "nothing".to_owned(), |v| short(v));
            out.push_str(&format!("{pad}{}{written}\n", harmless(label)));
            out.push_str(&format!("{pad}  was {}\n{pad}  is  {}\n", value(&d.was), value(&d.is)));
        }
    }
}

/// A value on a line of its own.
fn short(text: &str) -> String {
    let line = harmless(text).replace('\n', "\\n");
    match line.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}
