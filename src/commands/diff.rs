//! `quipu diff`: in which tasks two runs differ, and in which ingredients of these.
//!
//! Reads what the runs logged and what the store has of their tasks; unaware of the workspace as it is now.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quipu_runtime::explain::{Change, Difference, differences};
use quipu_runtime::identity::{Listing, decode_task};
use quipu_store::Store;
use quipu_store::cid::{ReceiptId, TaskId};
use quipu_store::receipt::Output;
use quipu_store::tree_diff;
use serde::Serialize;

use super::compare::{self, Differing};
use super::explain::{FileChange, MAX_FILES, MAX_TASK_BYTES, file_change, short};
use super::runs::{self, Then};
use super::{Context, print, print_json};
use crate::cli::DiffArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project;
use crate::render::{count, harmless};

#[derive(Serialize)]
struct Compared {
    first: String,
    second: String,
    /// Tasks that differ, by name.
    tasks: Vec<Task>,
    /// How many are the same in both.
    equal: usize,
}

#[derive(Serialize)]
struct Task {
    name: String,
    /// `ingredients`, `outcome`, `only-first` or `only-second`.
    differs: &'static str,
    first: Option<Side>,
    second: Option<Side>,
    /// In which ingredients; none when what it was made of is not in the store any more.
    differences: Option<Vec<Told>>,
    /// In which outputs, where the same task came out in two ways.
    outputs: Vec<Differing>,
}

#[derive(Serialize)]
struct Side {
    id: String,
    end: String,
    receipt: Option<String>,
}

#[derive(Serialize)]
struct Told {
    message: String,
    path: String,
    before: Option<String>,
    after: Option<String>,
    files: Vec<FileChange>,
    /// The task whose outcome it is.
    from: Option<String>,
}

impl From<&Then> for Side {
    fn from(then: &Then) -> Self {
        Self { id: then.id.clone(), end: then.end.clone(), receipt: then.receipt.clone() }
    }
}

/// Compares two runs.
pub(super) fn diff(context: &Context, args: &DiffArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let store = settings.open_store()?;
    let key = project::root(&context.start).map(|root| root.to_string_lossy().into_owned());
    let dir = settings.store.join("runs");
    let (first, first_path) = runs::find(&dir, key.as_deref(), &args.first)?;
    let (second, second_path) = runs::find(&dir, key.as_deref(), &args.second)?;
    let (before, after) = (runs::tasks(&first_path)?, runs::tasks(&second_path)?);
    let names: BTreeMap<&str, &str> = after.iter().map(|(name, then)| (&*then.id, &**name)).collect();
    let mut compared = Compared { first, second, tasks: vec![], equal: 0 };
    let mut all: Vec<&String> = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))).collect();
    all.sort_unstable();
    for name in all {
        let (then, now) = (before.get(name), after.get(name));
        let (differs, differences, outputs) = match (then, now) {
            (Some(then), Some(now)) if then.id != now.id => {
                ("ingredients", ingredients(&store, &then.id, &now.id, &names)?, vec![])
            }
            (Some(then), Some(now)) => {
                let outputs = outcomes(&store, then, now)?;
                if outputs.is_empty() && succeeded(then) == succeeded(now) {
                    compared.equal += 1;
                    continue;
                }
                ("outcome", Some(vec![]), outputs)
            }
            (Some(_), None) => ("only-first", None, vec![]),
            (None, _) => ("only-second", None, vec![]),
        };
        let (first, second) = (then.map(Side::from), now.map(Side::from));
        compared.tasks.push(Task { name: name.clone(), differs, first, second, differences, outputs });
    }
    if args.json { print_json(&compared) } else { print(&compared.text()).map(|()| Exit::Ok) }
}

fn succeeded(then: &Then) -> bool {
    matches!(&*then.end, "ran" | "cached" | "cut-off")
}

/// In what two tasks differ.
fn ingredients(
    store: &Store,
    before: &str,
    after: &str,
    names: &BTreeMap<&str, &str>,
) -> Result<Option<Vec<Told>>, Diagnosis> {
    let (Some(before), Some(after)) = (listing(store, before)?, listing(store, after)?) else { return Ok(None) };
    differences(&after, &before).iter().map(|found| tell(store, found, names)).collect::<Result<_, _>>().map(Some)
}

/// What a task is made of, where the store has it.
pub(super) fn listing(store: &Store, id: &str) -> Result<Option<Listing>, Diagnosis> {
    let Ok(id) = id.parse::<TaskId>() else { return Ok(None) };
    let block = store.get(id.link(), MAX_TASK_BYTES)?;
    Ok(block.and_then(|block| decode_task(&block).ok()).map(|task| Listing::of(&task)))
}

fn tell(store: &Store, found: &Difference, names: &BTreeMap<&str, &str>) -> Result<Told, Diagnosis> {
    let mut files = vec![];
    if let Some((before, after)) = found.trees()
        && let (Some(before), Some(after)) = (store.tree(before)?, store.tree(after)?)
        && let Ok(diff) = tree_diff::diff(|id| store.tree(id), &before, &after, MAX_FILES)
    {
        files = diff.changes.into_iter().map(file_change).collect();
    }
    let from = found.tasks().and_then(|(_, now)| names.get(&*now.to_string()).map(|name| (*name).to_owned()));
    let (before, after) = match &found.change {
        Change::Added(after) => (None, Some(after)),
        Change::Removed(before) => (Some(before), None),
        Change::Changed { before, after } => (Some(before), Some(after)),
    };
    let text = |leaf: Option<&quipu_runtime::identity::Leaf>| leaf.map(ToString::to_string);
    Ok(Told {
        message: found.to_string(),
        path: found.path.clone(),
        before: text(before),
        after: text(after),
        files,
        from,
    })
}

/// In which outputs one task differs that ran in both runs.
fn outcomes(store: &Store, then: &Then, now: &Then) -> Result<Vec<Differing>, Diagnosis> {
    let output = |then: &Then| -> Result<Option<Output>, Diagnosis> {
        let Some(id) = then.receipt.as_ref().and_then(|id| id.parse::<ReceiptId>().ok()) else { return Ok(None) };
        Ok(store.receipt(id)?.and_then(|found| found.signed.receipt.out.clone().ok()))
    };
    match (output(then)?, output(now)?) {
        (Some(then), Some(now)) if then != now => compare::outputs(store, &then, &now),
        _ => Ok(vec![]),
    }
}

impl Compared {
    fn text(&self) -> String {
        let mut out = String::new();
        for task in &self.tasks {
            let name = harmless(&task.name);
            let end = |side: &Option<Side>| side.as_ref().map_or("-", |side| side.end.as_str()).to_owned();
            let (first, second) = (end(&task.first), end(&task.second));
            let _ = match task.differs {
                "only-first" => writeln!(out, "{name}: only in the first ({first})"),
                "only-second" => writeln!(out, "{name}: only in the second ({second})"),
                "outcome" => writeln!(out, "{name}: made of the same ({first}, then {second})"),
                _ => writeln!(out, "{name} ({first}, then {second})"),
            };
            match &task.differences {
                None if task.differs == "ingredients" => {
                    out.push_str("  what it was made of is not in the store any more\n");
                }
                _ => {}
            }
            let mut said = std::collections::BTreeSet::new();
            for told in task.differences.iter().flatten() {
                let what = match &told.from {
                    Some(from) => format!("what task `{from}` makes"),
                    None => told.message.clone(),
                };
                if said.insert(what.clone()) {
                    let _ = writeln!(out, "  {}", short(&what));
                }
                for file in &told.files {
                    let _ = writeln!(out, "    {} {}", file.change, harmless(&file.path));
                }
            }
            for output in &task.outputs {
                let _ = writeln!(out, "  {}", output.text());
            }
        }
        let _ = writeln!(
            out,
            "{} the same in both",
            if self.equal == 1 { "1 task is".to_owned() } else { format!("{} are", count(self.equal, "task")) }
        );
        out
    }
}
