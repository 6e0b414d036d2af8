//! What is remembered of a workspace between runs: each task's id, duration and receipt when it was last settled.
//!
//! A help for people and for the order of work; decides nothing about what runs.

use std::collections::BTreeMap;

use quipu_runtime::drive::Report;
use quipu_runtime::project::Project;
use quipu_runtime::run::step::{End, State};
use quipu_store::cid::ReceiptId;
use quipu_store::{Root, Store};
use serde::{Deserialize, Serialize};

use crate::diagnose::Diagnosis;
use crate::project::Opened;
use crate::quantity::now;

/// Files that a run without news may read anew each time rather than write down what it read.
const MAX_READ_FILES: u64 = 64;
/// Bytes of such files.
const MAX_READ_BYTES: u64 = 8 << 20;

/// What is known of a task from the last run that did something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    /// Its id then.
    pub(super) id: String,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ms: Option<u64>,
    /// The receipt it was settled by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<String>,
}

/// What is known of all tasks of a workspace, by name.
pub(super) type Memory = BTreeMap<String, Known>;

/// Reads what earlier runs of the workspace `key` left; what cannot be read is as if it were not there.
pub(super) fn read(store: &Store, key: &str) -> Memory {
    let note = store.note(&format!("memory:{key}")).ok().flatten();
    note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// How long each task took earlier, by index; 0 where that is not known.
pub(super) fn durations(store: &Store, key: &str, project: &Project) -> Vec<u64> {
    let memory = read(store, key);
    let known = |name: &str| memory.get(name).and_then(|known| known.ms).unwrap_or(0);
    project.subject.workflow.nodes().iter().map(|node| known(&node.name)).collect()
}

/// Keeps what the next run and `explain` want to know, and what `gc` must not delete. Writes nothing when
/// nothing is new.
pub(super) fn keep(opened: &Opened, report: &Report, placed: bool) -> Result<(), Diagnosis> {
    let counts = &report.summary.counts;
    let news = counts.ran + counts.cut_off + counts.failed > 0 || opened.store.root(&opened.key())?.is_none();
    if news {
        keep_tasks(opened, report)?;
    }
    let read = opened.workspace.index().counts();
    if news || placed || read.files_read > MAX_READ_FILES || read.bytes_read > MAX_READ_BYTES {
        opened.workspace.index().save()?;
        opened.project.save_tools()?;
        opened.store.flush()?;
    }
    Ok(())
}

fn keep_tasks(opened: &Opened, report: &Report) -> Result<(), Diagnosis> {
    let mut memory = read(&opened.store, &opened.key());
    let workflow = &opened.project.subject.workflow;
    for task in workflow.indices() {
        if !matches!(report.run.state(task), State::Ended(End::Ran | End::Cached | End::CutOff)) {
            continue;
        }
        let name = workflow.node(task).name.to_string();
        let old = memory.get(&name);
        let ms = report.wall_ms.get(&task).copied().or_else(|| old.and_then(|k| k.ms));
        let receipt = report.receipt(task).map(|r| r.to_string());
        memory.insert(name, Known { id: opened.project.subject.ids.of(task).to_string(), ms, receipt });
    }
    // Tasks that the workfile does not name any more are forgotten, others keep what is known of them.
    memory.retain(|name, _| workflow.find(name).is_some());
    let bytes = serde_json::to_vec(&memory).unwrap_or_default();
    opened.store.set_note(&format!("memory:{}", opened.key()), Some(bytes))?;
    let mut receipts: Vec<ReceiptId> = memory.values().filter_map(|k| k.receipt.as_ref()?.parse().ok()).collect();
    receipts.sort_unstable();
    receipts.dedup();
    let at = now();
    Ok(opened.store.set_root(&opened.key(), &Root { path: opened.key(), receipts, links: vec![], at })?)
}
