//! Which receipts this store goes by for tasks of a workspace: what `export`, `audit` and `attest` are about.

use std::convert::Infallible;

use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::Subject;
use quipu_runtime::task::Work;
use quipu_store::sign::SignedReceipt;
use quipu_store::trust::{self, Verdict};
use quipu_store::{Found, FoundTask};

use crate::diagnose::Diagnosis;
use crate::project::Opened;
use crate::quantity::now;

/// The goals and all they await, each once and after what it awaits.
pub(super) fn below(subject: &Subject, goals: &[TaskIdx]) -> Vec<TaskIdx> {
    let mut seen = vec![false; subject.workflow.len()];
    let mut all = vec![];
    let mut todo: Vec<(TaskIdx, bool)> = goals.iter().map(|g| (subject.ids.first(*g), false)).collect();
    while let Some((task, is_done)) = todo.pop() {
        if is_done {
            all.push(task);
        } else if !std::mem::replace(&mut seen[task.index()], true) {
            todo.push((task, true));
            todo.extend(subject.graph.awaits(task).iter().map(|input| (subject.ids.first(*input), false)));
        }
    }
    all
}

/// The receipt that each task is settled by: the accepted one, else one made here, else the best that counts.
pub(super) fn of(opened: &Opened, tasks: &[TaskIdx]) -> Result<Vec<(TaskIdx, Option<Found>)>, Diagnosis> {
    let ids: Vec<_> = tasks.iter().map(|t| opened.project.subject.ids.of(*t)).collect();
    let found = opened.store.find_tasks(&ids)?;
    tasks.iter().zip(found).map(|(task, found)| Ok((*task, best(opened, found)?))).collect()
}

fn best(opened: &Opened, found: FoundTask) -> Result<Option<Found>, Diagnosis> {
    let now = now();
    let keys = opened.trust.keys();
    let together: Vec<&SignedReceipt> = found.receipts.iter().map(|f| &*f.signed).collect();
    let mut best: Option<((bool, bool, u32, u64), usize)> = None;
    for (i, one) in found.receipts.iter().enumerate() {
        let signed = &one.signed;
        let rank = if one.made_here {
            Some(0)
        } else {
            let source = opened.store.source_of(signed.id)?.unwrap_or_default();
            let source = |_| Ok::<_, Infallible>(source);
            let verdict = trust::judge(&keys, &opened.trust.policies, now, signed, &together, source);
            let Ok(verdict) = verdict;
            match verdict {
                Verdict::Counts(rank) => Some(rank.unwrap_or(u32::MAX)),
                Verdict::Not(_) => None,
            }
        };
        let Some(rank) = rank.filter(|_| signed.receipt.out.is_ok()) else { continue };
        let is_accepted = found.accepted.is_some_and(|(id, _)| id == signed.id);
        let key = (!is_accepted, !one.made_here, rank, signed.receipt.issued_at);
        if best.as_ref().is_none_or(|(known, _)| key < *known) {
            best = Some((key, i));
        }
    }
    Ok(best.map(|(_, i)| found.receipts[i].clone()))
}

/// Names of tasks, for people.
pub(super) fn name(opened: &Opened, task: TaskIdx) -> String {
    opened.project.subject.workflow.node(task).name.to_string()
}

/// Whether the task is never shared with equal work: its nonce says so.
pub(super) fn is_private(opened: &Opened, task: TaskIdx) -> bool {
    matches!(&opened.project.subject.workflow.node(task).work, Work::Task(task) if !task.nonce.is_empty())
}
