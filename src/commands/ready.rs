//! `quipu ready`: which tasks can be done now, for whoever hands them out. Runs nothing and writes nothing.

use quipu_runtime::plan::Plan;
use quipu_runtime::run::Rules;
use quipu_runtime::value::Text;
use serde::Serialize;

use super::plan::failed_before;
use super::{Context, memory, print, print_json};
use crate::cli::PlanArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;

#[derive(Serialize)]
struct Ready<'a> {
    /// Tasks that are not done, and all that they need and come after is.
    ready: Vec<One<'a>>,
    /// How many others are not done either, and wait for these.
    waiting: usize,
    /// How many are not done, and wait for what is done elsewhere or cannot be done.
    blocked: usize,
}

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    task: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation: Option<String>,
    /// How it failed the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_ms: Option<u64>,
}

/// Lists.
pub(super) fn ready(context: &Context, args: &PlanArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let goals = opened.asked(context, &args.goals)?;
    let expected_ms = memory::durations(&opened.store, &opened.key(), &opened.project);
    let run = opened.look(goals, Rules { jobs: 1, expected_ms, ..Rules::default() })?;
    let plan = Plan::of(&run);
    let subject = &opened.project.subject;
    // Who needs a service starts it: nobody hands one out.
    let left = plan.tasks.iter().filter(|task| task.batch.is_some() && !subject.is_service(task.idx));
    let is_service = |name: &Text| subject.workflow.find(name).is_some_and(|task| subject.is_service(task));
    let (ready, waiting): (Vec<_>, Vec<_>) = left.partition(|task| task.waits_for.iter().all(is_service));
    if args.json {
        let blocked = plan.counts.blocked + plan.counts.failed + plan.counts.skipped;
        let mut list = vec![];
        for task in &ready {
            list.push(One {
                name: &task.name,
                task: task.task.to_string(),
                invocation: task.invocation.map(|id| id.to_string()),
                failed: failed_before(&opened, task)?,
                expected_ms: task.expected_ms,
            });
        }
        return print_json(&Ready { ready: list, waiting: waiting.len(), blocked });
    }
    let text: String = ready.iter().map(|task| format!("{}\n", task.name)).collect();
    print(&text).map(|()| Exit::Ok)
}
