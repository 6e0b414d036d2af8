//! `quipu plan` and `quipu run --dry-run`: what a run would do, and why. Runs nothing and writes nothing.

use std::fmt::Write as _;

use quipu_runtime::dag_json::of_value;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::order::Order;
use quipu_runtime::plan::{LeftOut, Plan, Planned, Reason, Status};
use quipu_runtime::run::values::artifact;
use quipu_runtime::run::{Rules, Run};
use quipu_runtime::value::Text;
use quipu_store::tree::Entry;
use serde_json::Value as Json;

use super::{Context, memory, print, print_json};
use crate::cli::PlanArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::quantity::size;
use crate::render::{columns, count, duration, harmless, padded};

/// Characters of an id that tell it from others; `quipu show` takes them.
const SHORT: std::ops::Range<usize> = 7..19;
/// Most tasks that are named on one line.
const MAX_NAMED: usize = 3;

/// Plans.
pub(super) fn plan(context: &Context, args: &PlanArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let goals = opened.asked(context, &args.goals)?;
    let left_out = opened.project.loaded.left_out(&args.goals.goals);
    show(&opened, goals, left_out, Rules { jobs: 1, ..Rules::default() }, args.json)
}

/// Shows what a run with these rules would do.
pub(super) fn show(
    opened: &Opened,
    goals: Vec<TaskIdx>,
    left_out: Vec<(Text, Text)>,
    rules: Rules,
    as_json: bool,
) -> Result<Exit, Diagnosis> {
    let rules = Rules { expected_ms: memory::durations(&opened.store, &opened.key(), &opened.project), ..rules };
    let run = opened.look(goals, rules)?;
    let mut plan = Plan::of(&run);
    plan.left_out = left_out.into_iter().map(|(name, reason)| LeftOut { name, reason }).collect();
    if as_json { print_json(&full(opened, &run, &plan)) } else { print(&text(opened, &plan)?).map(|()| Exit::Ok) }
}

/// The plan with all that somebody else needs who carries it out.
fn full(opened: &Opened, run: &Run, plan: &Plan<'_>) -> Json {
    let mut json = serde_json::to_value(plan).expect("plans have text for keys");
    let mut trees = serde_json::Map::new();
    let tasks = json.get_mut("tasks").and_then(Json::as_array_mut).into_iter().flatten();
    for (task, planned) in tasks.zip(plan.tasks.iter()) {
        let order = serde_json::to_value(Order::of(run, planned.idx)).expect("orders have text for keys");
        if let Some(tree) = order["work"]["args"]["inputs"][""]["/"].as_str() {
            trees.entry(tree).or_insert_with(|| sources(opened, planned.idx));
        }
        if let (Json::Object(task), Json::Object(order)) = (task, order) {
            task.extend(order);
        }
    }
    json["trees"] = trees.into();
    json
}

/// The source files of a task, as its tree has them.
fn sources(opened: &Opened, task: TaskIdx) -> Json {
    let one = |(path, entry): (String, Entry)| {
        let mut file = of_value(&artifact(&entry));
        file["path"] = path.into();
        file
    };
    opened.project.sources(task).into_iter().map(one).collect()
}

/// The plan of one goal.
pub(super) fn of_one(opened: &Opened, task: TaskIdx) -> Result<Planned, Diagnosis> {
    let run = opened.look(vec![task], Rules { jobs: 1, ..Rules::default() })?;
    let first = opened.project.subject.ids.first(task);
    let found = Plan::of(&run).tasks.iter().find(|t| t.idx == first);
    Ok(found.expect("the goal of a plan is among its tasks"))
}

/// The word for a status.
pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Cached => "cached",
        Status::CutOff => "cut off",
        Status::Certain => "certain",
        Status::Conditional => "conditional",
        Status::Unneeded => "unneeded",
        Status::Blocked => "blocked",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
    }
}

/// Why a task stands where it does.
pub(super) fn because(opened: &Opened, task: &Planned) -> Result<String, Diagnosis> {
    let waits = || {
        let some: Vec<String> = task.waits_for.iter().take(MAX_NAMED).map(|name| format!("`{name}`")).collect();
        match task.waits_for.len().saturating_sub(MAX_NAMED) {
            0 => some.join(", "),
            more => format!("{} and {more} more", some.join(", ")),
        }
    };
    Ok(match (task.status, &task.reason) {
        (Status::Cached, _) => "there is a receipt for it".to_owned(),
        (Status::CutOff, _) => "there is a receipt for the same work on the same inputs".to_owned(),
        (Status::Unneeded, _) => "nothing that would run needs it".to_owned(),
        (_, Some(Reason::Failure { message })) => message.clone(),
        (_, Some(Reason::CausedBy { task })) => format!("because of `{task}`"),
        (_, Some(Reason::Forced)) => "it was asked to run whatever receipts there are".to_owned(),
        (_, Some(Reason::BytesMissing)) => "there is a receipt for it, but bytes of its output are gone".to_owned(),
        (_, Some(Reason::SameAs { task })) => format!("`{task}` does the same work"),
        (_, Some(Reason::Condition)) => format!("it depends on what becomes of {}", waits()),
        (_, Some(Reason::Unmet)) => "its condition is not met by what it comes after".to_owned(),
        (_, Some(Reason::Undelivered)) => "it is done elsewhere, and nobody has delivered it".to_owned(),
        (Status::Blocked, _) => "nobody has a receipt for it".to_owned(),
        (_, Some(Reason::InputsMayChange)) => format!("it depends on what comes out of {}", waits()),
        (Status::Conditional, _) => format!("it depends on what comes out of {}", waits()),
        (_, reason) => {
            let policy = opened.project.policy(task.idx);
            let failed = failed_before(opened, task)?;
            let why = match (failed, reason) {
                (Some(failed), _) => format!("it failed the last time: {failed}"),
                _ if !policy.cache => "it is never cached".to_owned(),
                (None, Some(Reason::OtherInputs)) => "its receipts were made from other inputs".to_owned(),
                _ => "there is no receipt for it".to_owned(),
            };
            if task.waits_for.is_empty() { why } else { format!("{why}; it comes after {}", waits()) }
        }
    })
}

/// How it failed the last time, when it did.
pub(super) fn failed_before(opened: &Opened, task: &Planned) -> Result<Option<String>, Diagnosis> {
    let found = opened.store.find_tasks(&[task.task])?;
    let mut failures = found.iter().flat_map(|t| &t.receipts).filter_map(|f| f.signed.receipt.out.as_ref().err());
    Ok(failures.next_back().map(|failure| failure.kind.to_string()))
}

/// Whether it will not be done in this run although it is wanted.
fn is_held(task: &Planned) -> bool {
    matches!(task.status, Status::Blocked | Status::Failed | Status::Skipped) && task.reason != Some(Reason::Unmet)
}

fn text(opened: &Opened, plan: &Plan<'_>) -> Result<String, Diagnosis> {
    let width = plan.tasks.iter().map(|t| columns(&harmless(&t.name))).max().unwrap_or(0);
    let mut out = String::new();
    let line = |out: &mut String, task: &Planned| -> Result<(), Diagnosis> {
        let id = task.task.to_string();
        let also = if task.also.is_empty() { String::new() } else { format!(" (also `{}`)", task.also.join("`, `")) };
        let because = because(opened, task)?;
        let (status, short) = (word(task.status), id.get(SHORT).unwrap_or(&id));
        let _ = writeln!(
            out,
            "  {status:<11}  {}  {short}  {}{also}",
            padded(&harmless(&task.name), width),
            harmless(&because)
        );
        Ok(())
    };
    let (mut left, rest): (Vec<Planned>, Vec<Planned>) = plan.tasks.iter().partition(|task| task.batch.is_some());
    left.sort_by_key(|task| task.batch);
    for batch in left.chunk_by(|a, b| a.batch == b.batch) {
        let _ = writeln!(out, "batch {}", batch[0].batch.map_or(0, |n| n + 1));
        for task in batch {
            line(&mut out, task)?;
        }
    }
    let (held, settled): (Vec<Planned>, Vec<Planned>) = rest.into_iter().partition(is_held);
    for (heading, tasks) in [("settled", &settled), ("not done", &held)] {
        if !tasks.is_empty() {
            let _ = writeln!(out, "{heading}");
        }
        for task in tasks {
            line(&mut out, task)?;
        }
    }
    if !plan.left_out.is_empty() {
        out.push_str("left out\n");
        for LeftOut { name, reason } in &plan.left_out {
            let _ = writeln!(out, "  {}  {}", padded(&harmless(name), width), harmless(reason));
        }
    }
    let c = &plan.counts;
    let counts = [
        (c.certain, Status::Certain),
        (c.conditional, Status::Conditional),
        (c.cached, Status::Cached),
        (c.cut_off, Status::CutOff),
        (c.unneeded, Status::Unneeded),
        (c.blocked, Status::Blocked),
        (c.failed, Status::Failed),
        (c.skipped, Status::Skipped),
    ];
    let said: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, s)| format!("{n} {}", word(*s))).collect();
    let nothing = if plan.batches.is_empty() && held.is_empty() { "nothing to do: " } else { "" };
    let _ = writeln!(out, "{nothing}{}: {}", count(left.len() + settled.len() + held.len(), "task"), said.join(", "));
    let first: Vec<String> =
        left.iter().filter(|t| t.resume && t.waits_for.is_empty()).map(|t| harmless(&t.name)).collect();
    if !first.is_empty() {
        let _ = writeln!(out, "starts with {}", first.join(", "));
    }
    if let Some(ms) = plan.critical_path_ms {
        let _ = writeln!(out, "at least about {} by {}", duration(ms), plan.critical_path.join(" -> "));
    }
    for fetch in &plan.fetch {
        let _ = writeln!(out, "fetch {} of {} for {}", size(fetch.bytes), fetch.blob, harmless(&fetch.task));
    }
    Ok(out)
}
