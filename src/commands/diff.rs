//! `quipu diff`: in which tasks two runs differ, and in which ingredients of these.
//!
//! Reads what the runs logged and what the store has of their tasks; unaware of the workspace as it is now.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quipu_store::Store;
use quipu_store::cid::{ReceiptId, TaskId};
use quipu_store::receipt::Output;
use serde::Serialize;

use super::compare::{self, Differing};
use super::ingredients::{self, Between, Told};
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
    let dir = settings.own_dir().join("runs");
    let (first, first_path) = runs::find(&dir, key.as_deref(), &args.first)?;
    let (second, second_path) = runs::find(&dir, key.as_deref(), &args.second)?;
    let (before, after) = (runs::tasks(&first_path, &[])?, runs::tasks(&second_path, &[])?);
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
    let (Ok(before), Ok(after)) = (before.parse::<TaskId>(), after.parse::<TaskId>()) else { return Ok(None) };
    let name = |id: TaskId| names.get(&*id.to_string()).map(|name| (*name).to_owned());
    Between { store, name: &name, is_deep: false, seen: vec![] }.tell(before, after)
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
            // How it ended says it of one that was left out.
            let is_made = |side: &Option<Side>| side.as_ref().is_some_and(|side| !side.id.is_empty());
            if task.differs == "ingredients"
                && task.differences.is_none()
                && is_made(&task.first)
                && is_made(&task.second)
            {
                out.push_str("  what it was made of is not in the store any more\n");
            }
            ingredients::text(&mut out, task.differences.as_deref().unwrap_or_default(), 2);
            for output in &task.outputs {
                let _ = writeln!(out, "  {}", output.text(compare::TWICE));
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
