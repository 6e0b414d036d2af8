//! What would make a task run, or settle it.
//!
//! Knows where the task stands in a plan and what it is made of; unaware of how that is shown.

use quipu_runtime::explain::What;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::plan::{Planned, Reason, Status};
use quipu_runtime::task::{When, Work};
use quipu_runtime::workfile::Written;
use serde::Serialize;

use super::super::ingredients::Origin;
use super::Explainer;
use crate::render::count;

/// Most tasks that are named in one condition.
const MAX_NAMED: usize = 3;

/// What would change where a task stands.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Outlook {
    /// In words, for what follows; all there is to say when nothing does.
    pub(super) heading: String,
    /// Any one of these would do.
    pub(super) conditions: Vec<String>,
}

/// Of a task that is left out by a condition.
pub(super) fn of_left_out(condition: Option<Origin>) -> Outlook {
    let condition = match condition {
        Some(origin) => format!("its condition held {}", origin.text()),
        None => "what it needs were not left out".to_owned(),
    };
    Outlook { heading: "it would be part of a run if".to_owned(), conditions: vec![condition] }
}

/// Of a task of the workflow.
pub(super) fn of(explainer: &Explainer<'_>, planned: &Planned, written: Option<&Written<'_>>) -> Outlook {
    let name = &planned.name;
    let project = &explainer.opened.project;
    let outlook = |heading: String, conditions| Outlook { heading, conditions };
    match (planned.status, &planned.reason) {
        (Status::Cached | Status::CutOff, _) if project.is_external(planned.idx) => {
            outlook("it would have to be delivered again if".to_owned(), changes(explainer, planned.idx, written))
        }
        (Status::Cached | Status::CutOff, _) if is_awaited(explainer, planned.idx) => {
            let place = explainer.place(project.recipe(planned.idx).place);
            outlook(
                "it would wait for another receipt if".to_owned(),
                vec![format!("the workfile awaited another task ({place})")],
            )
        }
        (Status::Cached | Status::CutOff, _) => {
            let mut conditions = changes(explainer, planned.idx, written);
            conditions.push(format!("it were asked to: `quipu run --force={name} {name}`"));
            outlook("it would run again if".to_owned(), conditions)
        }
        (_, Some(Reason::Undelivered)) => outlook(
            "it is settled once somebody delivers it".to_owned(),
            vec![format!("`quipu deliver {name} --ok FILE`")],
        ),
        (_, Some(Reason::CausedBy { task } | Reason::SameAs { task })) if **task != **name => {
            outlook(format!("it goes as `{task}` goes: `quipu explain {task}`"), vec![])
        }
        (_, Some(Reason::Condition | Reason::Unmet)) if project.policy(planned.idx).when == When::Failure => {
            let watched = project.subject.after(planned.idx);
            outlook("it runs in a run in which".to_owned(), vec![format!("{} failed", names(explainer, &watched))])
        }
        (Status::Blocked, _) => outlook("it is settled once there is a receipt for it here".to_owned(), vec![]),
        (Status::Conditional, _) => {
            let first = planned.waits_for.iter().filter_map(|name| project.subject.workflow.find(name));
            let first: Vec<TaskIdx> = first.collect();
            let heading = format!("`quipu run {name}` settles that first, and then runs it if");
            outlook(heading, vec![format!("{} made something it has no receipt for", names(explainer, &first))])
        }
        _ => outlook(format!("`quipu run {name}` runs it"), vec![]),
    }
}

/// Whether a task is one of another workflow, by its id.
fn is_awaited(explainer: &Explainer<'_>, task: TaskIdx) -> bool {
    matches!(explainer.opened.project.subject.workflow.node(task).work, Work::External { .. })
}

/// A change of which ingredients would make it run.
fn changes(explainer: &Explainer<'_>, task: TaskIdx, written: Option<&Written<'_>>) -> Vec<String> {
    let project = &explainer.opened.project;
    let recipe = project.recipe(task);
    let origin = |what: What| {
        let found = written.and_then(|written| written.origin(&what, ""));
        found.map_or_else(String::new, |found| format!(" {}", explainer.origin(found).text()))
    };
    let mut conditions = vec![];
    match project.sources(task).len() {
        0 => {}
        1 => conditions.push(format!("its source file changed{}", origin(What::Sources))),
        n => conditions.push(format!("one of its {} changed{}", count(n, "source file"), origin(What::Sources))),
    }
    let inputs = project.subject.inputs(task);
    if !inputs.is_empty() {
        conditions.push(format!("{} made something else", names(explainer, &inputs)));
    }
    for name in &recipe.pass_env {
        let origin = origin(What::Environment(name.to_string()));
        conditions.push(format!("`{name}` of the environment changed{origin}"));
    }
    for tool in &recipe.tools {
        conditions.push(format!("the tool `{tool}` changed{}", origin(What::Tool(tool.to_string()))));
    }
    conditions.push(format!("the workfile said something else of it ({})", explainer.place(recipe.place)));
    conditions
}

/// Tasks by name, not too many of them.
fn names(explainer: &Explainer<'_>, tasks: &[TaskIdx]) -> String {
    let some: Vec<String> = tasks.iter().take(MAX_NAMED).map(|task| format!("`{}`", explainer.name(*task))).collect();
    match tasks.len().saturating_sub(MAX_NAMED) {
        0 => some.join(" or "),
        more => format!("{} or one of {more} more", some.join(", ")),
    }
}
