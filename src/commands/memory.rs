//! What is remembered of a workspace between runs: each task's id, duration and receipt when it was last settled.
//!
//! A help for people and for the order of work; decides nothing about what runs.

use std::collections::{BTreeMap, BTreeSet};

use quipu_runtime::drive::Report;
use quipu_runtime::project::Project;
use quipu_runtime::run::step::{End, State};
use quipu_store::cid::{BlobId, ReceiptId};
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

/// Which tasks of its workspace a run was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All: what it does not know is not there any more.
    All,
    /// Some: nothing is said of the others.
    Some,
}

/// Tasks that share a note, about: a run that does little writes few of them.
const TASKS_IN_PART: usize = 64;
/// Most notes of one workspace.
const MAX_PARTS: usize = 4096;

/// In how many notes it is, each with a root of its own. Under which of them a task is follows from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    parts: usize,
}

impl Layout {
    fn for_tasks(tasks: usize) -> Self {
        Self { parts: tasks.div_ceil(TASKS_IN_PART).next_power_of_two().min(MAX_PARTS) }
    }

    fn read(store: &Store, key: &str) -> Option<Self> {
        let note = store.note(&format!("memory:{key}")).ok().flatten()?;
        serde_json::from_slice(&note).ok().filter(|layout: &Self| (1..=MAX_PARTS).contains(&layout.parts))
    }

    fn part_of(self, name: &str) -> usize {
        let id = BlobId::of(name.as_bytes());
        usize::from(u16::from_le_bytes([id.digest()[0], id.digest()[1]])) % self.parts
    }
}

/// What a part and its root are called; the root of the first part is that of the workspace.
fn names(key: &str, part: usize) -> (String, String) {
    (format!("memory:{key}\n{part}"), if part == 0 { key.to_owned() } else { format!("{key}\n{part}") })
}

/// Reads what earlier runs of the workspace `key` left; what cannot be read is as if it were not there.
pub(super) fn read(store: &Store, key: &str) -> Memory {
    let parts = Layout::read(store, key).map_or(0, |layout| layout.parts);
    (0..parts).flat_map(|part| read_part(store, key, part)).collect()
}

fn read_part(store: &Store, key: &str, part: usize) -> Memory {
    let note = store.note(&names(key, part).0).ok().flatten();
    note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The parts in which these tasks are.
fn read_some<'n>(
    store: &Store,
    key: &str,
    layout: Layout,
    tasks: impl Iterator<Item = &'n str>,
) -> BTreeMap<usize, Memory> {
    let parts: BTreeSet<usize> = tasks.map(|name| layout.part_of(name)).collect();
    parts.into_iter().map(|part| (part, read_part(store, key, part))).collect()
}

/// How long each task took earlier, by index; 0 where that is not known.
pub(super) fn durations(store: &Store, key: &str, project: &Project) -> Vec<u64> {
    let nodes = project.subject.workflow.nodes();
    let Some(layout) = Layout::read(store, key) else { return vec![0; nodes.len()] };
    let parts = read_some(store, key, layout, nodes.iter().map(|node| &*node.name));
    let known = |name: &str| parts.get(&layout.part_of(name))?.get(name)?.ms;
    nodes.iter().map(|node| known(&node.name).unwrap_or(0)).collect()
}

/// Keeps what the next run and `explain` want to know, and what `gc` must not delete. Writes nothing when
/// nothing is new.
pub(super) fn keep(opened: &Opened, report: &Report, placed: bool, scope: Scope) -> Result<(), Diagnosis> {
    let counts = &report.summary.counts;
    let news = counts.ran + counts.cut_off + counts.failed > 0 || opened.store.root(&opened.key())?.is_none();
    if news {
        keep_tasks(opened, report, scope)?;
    }
    let read = opened.workspace.index().counts();
    if news || placed || read.files_read > MAX_READ_FILES || read.bytes_read > MAX_READ_BYTES {
        opened.workspace.index().save()?;
        opened.project.save_tools()?;
        opened.store.flush()?;
    }
    Ok(())
}

/// Whether of every task is remembered what settled it in this run.
pub(super) fn is_in_step(opened: &Opened, report: &Report) -> bool {
    let memory = read(&opened.store, &opened.key());
    let subject = &opened.project.subject;
    subject.workflow.indices().all(|task| {
        let receipt = report.receipt(task).map(|receipt| receipt.to_string());
        let known = memory.get(&*subject.workflow.node(task).name);
        known.is_some_and(|known| known.receipt == receipt && known.id == subject.ids.of(task).to_string())
    })
}

fn keep_tasks(opened: &Opened, report: &Report, scope: Scope) -> Result<(), Diagnosis> {
    let (store, key) = (&opened.store, opened.key());
    let workflow = &opened.project.subject.workflow;
    let before = Layout::read(store, &key);
    let layout = match (scope, before) {
        (Scope::Some, Some(before)) => before,
        _ => Layout::for_tasks(workflow.len()),
    };
    let names_of_tasks = || workflow.nodes().iter().map(|node| &*node.name);
    let mut parts = if before == Some(layout) && scope == Scope::Some {
        read_some(store, &key, layout, names_of_tasks())
    } else {
        let mut parts: BTreeMap<usize, Memory> = (0..layout.parts).map(|part| (part, Memory::new())).collect();
        for (name, known) in read(store, &key) {
            parts.entry(layout.part_of(&name)).or_default().insert(name, known);
        }
        parts
    };
    for task in workflow.indices() {
        let name = &workflow.node(task).name;
        // What only stands beside what a run is about was settled by another run.
        let is_settled = matches!(report.run.state(task), State::Ended(End::Ran | End::Cached | End::CutOff));
        if !is_settled || (scope == Scope::Some && opened.project.is_awaited_only(task)) {
            continue;
        }
        let memory = parts.entry(layout.part_of(name)).or_default();
        let old = memory.get(&**name);
        let ms = report.wall_ms.get(&task).copied().or_else(|| old.and_then(|k| k.ms));
        let receipt = report.receipt(task).map(|r| r.to_string());
        let known = Known { id: opened.project.subject.ids.of(task).to_string(), ms, receipt };
        memory.insert(name.to_string(), known);
    }
    let at = now();
    for (part, mut memory) in parts {
        if scope == Scope::All {
            // Tasks that the workfile does not name any more are forgotten, others keep what is known of them.
            memory.retain(|name, _| workflow.find(name).is_some());
        }
        let (note, root) = names(&key, part);
        store.set_note(&note, Some(serde_json::to_vec(&memory).unwrap_or_default()))?;
        let mut receipts: Vec<ReceiptId> = memory.values().filter_map(|k| k.receipt.as_ref()?.parse().ok()).collect();
        receipts.sort_unstable();
        receipts.dedup();
        store.set_root(&root, &Root { path: key.clone(), receipts, links: vec![], at })?;
    }
    for part in layout.parts..before.map_or(0, |before| before.parts) {
        let (note, root) = names(&key, part);
        store.set_note(&note, None)?;
        store.remove_root(&root)?;
    }
    let bytes = serde_json::to_vec(&layout).unwrap_or_default();
    Ok(store.set_note(&format!("memory:{key}"), Some(bytes))?)
}
