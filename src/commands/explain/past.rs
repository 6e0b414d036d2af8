//! What became of a task in the last run that had to do with it, and what had changed by then.
//!
//! Reads the logs of runs and what the store has of earlier tasks; unaware of the workspace as it is now.

use std::path::PathBuf;

use quipu_runtime::graph::TaskIdx;
use quipu_store::cid::TaskId;
use serde::Serialize;

use super::super::ingredients::{Between, Told};
use super::super::runs::{self, Then};
use super::{Against, Explainer};
use crate::diagnose::Diagnosis;
use crate::project::Opened;

/// Logs of this workspace that are looked through.
const MAX_LOGS: usize = 200;

/// The last run that had to do with a task.
#[derive(Serialize)]
pub(super) struct Past {
    pub(super) run: String,
    /// Its id then; empty for one that was left out.
    #[serde(rename = "task")]
    id: String,
    /// When that run began, in milliseconds since 1970.
    pub(super) began_ms: u64,
    /// How the task ended there.
    pub(super) end: String,
    /// Why it ran, in the word of the event.
    why: Option<String>,
    /// Why it failed or did not run.
    reason: Option<String>,
    pub(super) wall_ms: Option<u64>,
    receipt: Option<String>,
    /// The run before in which it was settled, when it was not the same task then.
    pub(super) since: Option<String>,
    /// What had changed since then.
    pub(super) differences: Option<Vec<Told>>,
}

/// What became of a task, with what had changed when it ran.
pub(super) fn last(explainer: &Explainer<'_>, task: TaskIdx) -> Result<Option<Past>, Diagnosis> {
    let Some((mut last, ids)) = of_names(explainer.opened, &explainer.names(task))? else { return Ok(None) };
    let Some((then, before, log)) = ids else { return Ok(Some(last)) };
    let ids = &explainer.opened.project.subject.ids;
    let logged = runs::tasks(&log, &[]).unwrap_or_default();
    // What that task is called now, or was called then.
    let name = |id: TaskId| {
        let then = || logged.iter().find(|(_, then)| then.id == id.to_string()).map(|(name, _)| name.clone());
        ids.find(id).map(|task| explainer.name(task)).or_else(then)
    };
    let mut between = Between { store: &explainer.opened.store, name: &name, is_deep: true, seen: vec![] };
    last.differences = between.tell(before, then)?;
    Ok(Some(last))
}

/// The ids of a task in its last run and in the one before in which it was settled, when they differ; the log of the last.
type Ids = Option<(TaskId, TaskId, PathBuf)>;

/// What became of a task that has one of these names.
pub(super) fn of_names(opened: &Opened, names: &[String]) -> Result<Option<(Past, Ids)>, Diagnosis> {
    let (dir, key) = (opened.settings.own_dir().join("runs"), opened.key());
    let mut last: Option<(Past, Then, PathBuf)> = None;
    let logs = runs::files(&dir)?.into_iter().filter(|(_, path)| runs::is_of(path, Some(&key)));
    for (run, path) in logs.take(MAX_LOGS) {
        // A log that cannot be read tells nothing.
        let Some(then) = runs::tasks(&path, names).ok().and_then(|tasks| tasks.into_values().next()) else { continue };
        let Some((past, latest, log)) = &mut last else {
            let found = then.clone();
            let past = Past {
                began_ms: runs::began_ms(&run),
                run,
                id: then.id,
                end: then.end,
                why: then.why,
                reason: then.reason,
                wall_ms: then.wall_ms,
                receipt: then.receipt,
                since: None,
                differences: None,
            };
            if !matches!(&*past.end, "ran" | "failed" | "interrupted" | "cancelled" | "cut-off") {
                return Ok(Some((past, None)));
            }
            last = Some((past, found, path));
            continue;
        };
        if matches!(&*then.end, "ran" | "cached" | "cut-off") {
            let ids = latest.id.parse().ok().zip(then.id.parse().ok()).filter(|(now, before)| now != before);
            past.since = ids.is_some().then_some(run);
            let ids = ids.map(|(now, before)| (now, before, log.clone()));
            return Ok(last.map(|(past, ..)| (past, ids)));
        }
    }
    Ok(last.map(|(past, ..)| (past, None)))
}

impl Past {
    /// The task as it was then, to compare with.
    pub(super) fn against(&self) -> Option<Against> {
        let (task, run, end) = (self.id.clone(), self.run.clone(), self.end.clone());
        let against = Against { kind: "run", run: Some(run), end: Some(end), task, receipt: self.receipt.clone() };
        (!self.id.is_empty()).then_some(against)
    }

    /// What became of it, in words.
    pub(super) fn text(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("nobody said why");
        match &*self.end {
            "ran" => format!("ran{}", self.since_why()),
            "failed" => format!("failed: {reason}"),
            "cached" => "was settled by a receipt".to_owned(),
            "cut-off" => "did not run: there was a receipt for the same work on the same inputs".to_owned(),
            "left-out" => format!("was left out: {reason}"),
            "cancelled" => "was stopped with its run".to_owned(),
            "interrupted" => "was running when its run was interrupted, or still is".to_owned(),
            _ => format!("did not run: {reason}"),
        }
    }

    fn since_why(&self) -> String {
        let why = match self.why.as_deref() {
            Some("no-receipt") => "there was no receipt for it",
            Some("other-inputs") => "its receipts were made from other inputs",
            Some("forced") => "it was asked to, whatever receipts there were",
            Some("bytes-missing") => "bytes of its output were gone from the store",
            Some("inputs-may-change") => "a task it depends on was asked to run",
            Some("never-cached") => "it is never cached",
            Some("condition") => "its condition was met",
            _ => return String::new(),
        };
        format!(", since {why}")
    }
}
