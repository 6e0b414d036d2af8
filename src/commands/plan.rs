//! `quipu plan` and `quipu run --dry-run`: what a run would do, and why. Runs nothing and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::step::{End, State};
use quipu_runtime::run::{Rules, Run, Subject};
use quipu_store::cid::TaskId;
use serde::Serialize;

use super::{Context, print, print_json};
use crate::cli::PlanArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::{count, harmless};

/// Characters of an id that tell it from others; `quipu show` takes them.
const SHORT: std::ops::Range<usize> = 7..19;
/// Most tasks that are named in a reason.
const MAX_NAMED: usize = 3;

/// Where a task stands before anything ran, and why.
pub(super) struct Standing {
    pub(super) state: &'static str,
    pub(super) reason: String,
}

#[derive(Serialize)]
struct Shown {
    goals: Vec<String>,
    tasks: Vec<Task>,
    /// What is left, in levels: a task is in the first one after all it waits for. For display; a task starts when
    /// what it waits for is done, whatever else is in the level.
    batches: Vec<Vec<String>>,
    /// What would be fetched from elsewhere.
    fetch: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

#[derive(Serialize)]
struct Task {
    name: String,
    id: String,
    state: &'static str,
    reason: String,
    /// Where that is known before anything runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation: Option<String>,
    /// What settles it.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
    /// Which level of what is left, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    /// The tasks it waits for.
    awaits: Vec<String>,
}

/// Plans.
pub(super) fn plan(context: &Context, args: &PlanArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let goals = opened.goals(&args.goals.goals)?;
    show(&opened, goals, Rules { jobs: 1, ..Rules::default() }, args.json)
}

/// Shows what a run with these rules would do.
pub(super) fn show(opened: &Opened, goals: Vec<TaskIdx>, rules: Rules, as_json: bool) -> Result<Exit, Diagnosis> {
    let run = opened.look(goals.clone(), rules)?;
    let shown = Shown::of(opened, &run, &goals)?;
    if as_json { print_json(&shown) } else { print(&shown.text()).map(|()| Exit::Ok) }
}

impl Standing {
    /// Where `task` stands in `run`, which only looked.
    pub(super) fn of(opened: &Opened, run: &Run, task: TaskIdx) -> Result<Self, Diagnosis> {
        let node = |task| opened.project.subject.workflow.node(task);
        let (state, reason) = match run.state(task) {
            State::Ended(End::Cached) => ("cached", "there is a receipt for it".to_owned()),
            State::Ended(End::CutOff) => {
                ("cached", "there is a receipt for the same work on the same inputs".to_owned())
            }
            State::Ended(End::Blocked { cause }) => {
                ("blocked", format!("nobody has a receipt for `{}`", node(cause).name))
            }
            State::Ended(End::Failed) => ("failed", "a receipt says that it failed".to_owned()),
            State::Ended(End::Skipped { cause }) => ("skipped", format!("`{}` did not succeed", node(cause).name)),
            State::Ended(_) | State::Idle => ("unneeded", "nothing that would run needs it".to_owned()),
            State::Waiting | State::Ordering if !run.is_forced(task) => {
                let waits = |tasks: &[TaskIdx]| -> Vec<String> {
                    let left = tasks.iter().filter(|t| !matches!(run.state(**t), State::Ended(_) | State::Idle));
                    left.map(|t| format!("`{}`", node(*t).name)).collect()
                };
                let awaited = waits(&firsts(run.subject(), run.subject().graph.awaits(task)));
                if awaited.is_empty() {
                    let first = waits(&firsts(run.subject(), run.subject().graph.after(task)));
                    ("certain", format!("there is no receipt for it; it comes after {}", named(&first)))
                } else {
                    ("conditional", format!("it depends on what comes out of {}", named(&awaited)))
                }
            }
            _ if run.is_forced(task) => ("certain", "it was asked to run whatever receipts there are".to_owned()),
            _ if run.is_hollow(task) => {
                ("certain", "there is a receipt for it, but bytes of its output are gone".to_owned())
            }
            _ if !node(task).policy.cache => ("certain", "it is never cached".to_owned()),
            _ => ("certain", failed_before(opened, task)?.unwrap_or_else(|| "there is no receipt for it".to_owned())),
        };
        Ok(Self { state, reason })
    }
}

/// How it failed the last time, when it did.
fn failed_before(opened: &Opened, task: TaskIdx) -> Result<Option<String>, Diagnosis> {
    let id: TaskId = opened.project.subject.ids.of(task);
    let found = opened.store.find_tasks(&[id])?;
    let failures = found.iter().flat_map(|t| &t.receipts).filter_map(|f| f.signed.receipt.out.as_ref().err());
    Ok(failures.last().map(|failure| format!("it failed the last time: {}", failure.kind)))
}

/// Tasks by their first names, each once.
fn firsts(subject: &Subject, tasks: &[TaskIdx]) -> Vec<TaskIdx> {
    let firsts: BTreeSet<TaskIdx> = tasks.iter().map(|t| subject.ids.first(*t)).collect();
    firsts.into_iter().collect()
}

/// All that a task waits for.
fn before(subject: &Subject, task: TaskIdx) -> Vec<TaskIdx> {
    firsts(subject, &[subject.graph.awaits(task), subject.graph.after(task)].concat())
}

fn named(names: &[String]) -> String {
    let some = names.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

impl Shown {
    fn of(opened: &Opened, run: &Run, goals: &[TaskIdx]) -> Result<Self, Diagnosis> {
        let subject = &opened.project.subject;
        let name = |task: TaskIdx| subject.workflow.node(task).name.to_string();
        let left = |task: TaskIdx| !matches!(run.state(task), State::Ended(_) | State::Idle);
        // Levels from what comes first. A task under several names stands where its first name does.
        let mut level: BTreeMap<TaskIdx, usize> = BTreeMap::new();
        for &task in subject.graph.order() {
            if run.in_scope(task) && left(task) {
                let before = before(subject, task).iter().filter_map(|t| level.get(t)).max().copied();
                level.insert(task, before.map_or(0, |n| n + 1));
            }
        }
        let mut batches = vec![vec![]; level.values().max().map_or(0, |n| n + 1)];
        let mut tasks = vec![];
        let mut counts: BTreeMap<&'static str, usize> =
            ["blocked", "cached", "certain", "conditional", "unneeded"].into_iter().map(|state| (state, 0)).collect();
        for task in subject.workflow.indices().filter(|t| run.in_scope(*t)) {
            let standing = Standing::of(opened, run, task)?;
            *counts.entry(standing.state).or_default() += 1;
            let batch = level.get(&task).copied();
            if let Some(n) = batch {
                batches[n].push(name(task));
            }
            tasks.push(Task {
                name: name(task),
                id: subject.ids.of(task).to_string(),
                state: standing.state,
                reason: standing.reason,
                invocation: run.invocation(task).map(|id| id.to_string()),
                receipt: run.receipt(task).map(|id| id.to_string()),
                batch: batch.map(|n| n + 1),
                awaits: before(subject, task).into_iter().map(name).collect(),
            });
        }
        let goals = goals.iter().map(|g| name(*g)).collect();
        Ok(Self { goals, tasks, batches, fetch: vec![], counts })
    }

    fn text(&self) -> String {
        let width = self.tasks.iter().map(|t| harmless(&t.name).chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        let line = |out: &mut String, task: &Task| {
            let short = task.id.get(SHORT).unwrap_or(&task.id);
            let _ = writeln!(
                out,
                "  {:<11}  {:width$}  {short}  {}",
                task.state,
                harmless(&task.name),
                harmless(&task.reason)
            );
        };
        for batch in 1..=self.batches.len() {
            let _ = writeln!(out, "batch {batch}");
            self.tasks.iter().filter(|t| t.batch == Some(batch)).for_each(|t| line(&mut out, t));
        }
        let rest: Vec<&Task> = self.tasks.iter().filter(|t| t.batch.is_none()).collect();
        if !rest.is_empty() {
            out.push_str("settled\n");
            rest.into_iter().for_each(|t| line(&mut out, t));
        }
        let counted = |state: &str| self.counts.get(state).copied().unwrap_or(0);
        let said = ["certain", "conditional", "cached", "unneeded", "blocked", "failed", "skipped"];
        let said: Vec<String> = said.iter().filter(|s| counted(s) > 0).map(|s| format!("{} {s}", counted(s))).collect();
        let nothing = if self.batches.is_empty() { "nothing to do: " } else { "" };
        let fetch = if self.fetch.is_empty() {
            "nothing to fetch".to_owned()
        } else {
            format!("to fetch: {}", self.fetch.join(", "))
        };
        let _ = writeln!(out, "{nothing}{}: {}; {fetch}", count(self.tasks.len(), "task"), said.join(", "));
        out
    }
}
