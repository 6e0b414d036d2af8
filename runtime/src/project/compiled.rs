//! A workspace in parts, for the next run that finds little changed: who reads and makes which file, who comes after whom,
//! and each task by itself.
//!
//! Unaware of where parts are kept and who reads them; what they look like is between this and [`super::excerpt`].

use std::collections::HashMap;

use quipu_store::cid::BlobId;
use quipu_store::flat::Writer;
use quipu_store::tree::Entry;

use super::{Project, Row};
use crate::event_log;
use crate::graph::TaskIdx;
use crate::run::Run;
use crate::run::step::{End, State};
use crate::task::{PROCESS, Task, When, Work};
use crate::value::{Branch, Text};
use crate::workflow_block;

/// Of an owner of a path: it is a list of sources, not a task.
pub(super) const LIST: u32 = 1 << 31;
/// A task without sources.
pub(super) const NO_LIST: u32 = u32::MAX;
/// What a source is.
pub(super) const FILE: u8 = 0;
pub(super) const EXEC: u8 = 1;
pub(super) const SYMLINK: u8 = 2;
/// Bytes of a source that is a file, beside its path.
const ROW_BYTES: usize = 4 + 1 + 32 + 5 * 8;
/// Bytes of the hash that stands for a path.
pub(super) const KEY_BYTES: usize = 16;
/// Of a task: it can be worked out without the rest of the workspace.
pub(super) const ALONE: u8 = 1;
/// Of a task: others can be worked out without it, going by its receipt.
pub(super) const STANDS: u8 = 2;

/// What stands for a path.
pub(super) fn key(path: &str) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&BlobId::of(path.as_bytes()).digest()[..KEY_BYTES]);
    key
}

impl Project {
    /// What is known of a workspace all tasks of which `run` found settled; `None` when there is more to it than tasks and
    /// their files.
    pub fn compiled(&self, run: &Run) -> Option<Vec<Vec<u8>>> {
        let all_settled = || {
            let settled = |t: TaskIdx| run.in_scope(t) && run.state(t) == State::Ended(End::Cached) && run.is_goal(t);
            self.subject.workflow.indices().all(|t| settled(self.subject.ids.first(t)))
        };
        let loaded = &self.loaded;
        let plain = loaded.warnings.is_empty()
            && loaded.published().is_empty()
            && loaded.recipes.iter().all(|recipe| recipe.left_out.is_none());
        if !plain || !all_settled() {
            return None;
        }
        let mut lists: Vec<&[Text]> = vec![];
        let mut numbers: HashMap<*const Text, u32> = HashMap::new();
        let mut list_of: Vec<u32> = Vec::with_capacity(self.recipes.len());
        for list in self.recipes.iter().map(|recipe| &self.lists[*recipe]) {
            // Tasks with the same patterns share one list.
            list_of.push(match list.is_empty() {
                true => NO_LIST,
                false => *numbers.entry(list.as_ptr()).or_insert_with(|| {
                    lists.push(list);
                    lists.len() as u32 - 1
                }),
            });
        }
        let (workflow, ids) = (&self.subject.workflow, &self.subject.ids);
        let once = workflow.indices().filter(|task| ids.first(*task) == *task);
        let settled: Vec<_> = once.map(|task| (workflow.node(task).name.clone(), ids.of(task))).collect();
        let mut parts = vec![self.graph_part(run, &lists, &list_of)?, event_log::settled_lines(&settled)];
        for list in lists {
            parts.push(self.list_part(list)?);
        }
        for (task, list) in self.subject.workflow.indices().zip(list_of) {
            parts.push(self.task_part(run, task, list)?);
        }
        Some(parts)
    }

    fn graph_part(&self, run: &Run, lists: &[&[Text]], list_of: &[u32]) -> Option<Vec<u8>> {
        let graph = &self.subject.graph;
        let mut users = vec![vec![]; lists.len()];
        for (task, list) in list_of.iter().enumerate().filter(|(_, list)| **list != NO_LIST) {
            users[*list as usize].push(task as u32);
        }
        let mut owners: Vec<([u8; KEY_BYTES], u32)> = vec![];
        for (list, paths) in lists.iter().enumerate() {
            owners.extend(paths.iter().map(|path| (key(path), list as u32 | LIST)));
        }
        for task in self.subject.workflow.indices() {
            let output = run.outcome(task)?.ok()?;
            owners.extend(output.artifacts.keys().map(|path| (key(path), task.index() as u32)));
        }
        owners.sort_unstable();
        let downstream = self.subject.workflow.indices().map(|task| graph.awaited_by(task));
        let mut out = Writer::default();
        rows(&mut out, downstream.map(|row| row.iter().map(|task| task.index() as u32).collect()));
        rows(&mut out, users.into_iter());
        let mut packed = Vec::with_capacity(owners.len() * (KEY_BYTES + 4));
        for (key, owner) in owners {
            packed.extend_from_slice(&key);
            packed.extend_from_slice(&owner.to_le_bytes());
        }
        out.bytes(&packed);
        let names: Vec<&str> = self.subject.workflow.nodes().iter().map(|node| &*node.name).collect();
        out.bytes(names.join("\0").as_bytes());
        Some(out.0)
    }

    /// Source files, each with what it holds and how it looked then. Whoever finds that it looks the same knows it.
    fn list_part(&self, list: &[Text]) -> Option<Vec<u8>> {
        let mut out = Writer(Vec::with_capacity(list.iter().map(|path| path.len() + ROW_BYTES).sum()));
        for path in list {
            let Row { entry, stamp, .. } = self.files.get(path)?;
            out.bytes(path.as_bytes());
            match entry {
                Entry::File { blob, exec, .. } => {
                    out.number(if *exec { EXEC } else { FILE }, 1);
                    out.0.extend_from_slice(blob.digest());
                }
                Entry::Symlink { target } => {
                    out.number(SYMLINK, 1);
                    out.bytes(target.as_bytes());
                }
                Entry::Dir { .. } => return None,
            }
            let times = [stamp.mtime_ns, stamp.ctime_ns].map(i64::cast_unsigned);
            [stamp.dev, stamp.ino, stamp.size].into_iter().chain(times).for_each(|number| out.number(number, 8));
        }
        Some(out.0)
    }

    fn task_part(&self, run: &Run, task: TaskIdx, list: u32) -> Option<Vec<u8>> {
        let subject = &self.subject;
        let node = subject.workflow.node(task);
        let Work::Task(work) = &node.work else { return Some(vec![]) };
        let alone = node.policy.when == When::Success && node.policy.cache && is_alone(work);
        let mut out = Writer::default();
        out.number(STANDS | if alone { ALONE } else { 0 }, 1);
        out.bytes(node.name.as_bytes());
        out.0.extend_from_slice(subject.ids.of(task).digest());
        out.0.extend_from_slice(run.receipt(task)?.digest());
        if alone {
            out.number(list, 4);
            for row in [subject.graph.awaits(task), subject.graph.after(task)] {
                let numbers: Vec<u8> = row.iter().flat_map(|task| (task.index() as u32).to_le_bytes()).collect();
                out.bytes(&numbers);
            }
            out.bytes(&workflow_block::node_bytes(node, &subject.ids));
        }
        Some(out.0)
    }
}

/// Whether all that a task is can be had from its arguments, its sources and the receipts of what it awaits.
fn is_alone(task: &Task) -> bool {
    let mut succeed = true;
    task.args.promises(&mut |promise| succeed &= promise.branch == Branch::Ok);
    succeed && &*task.cmd == PROCESS && task.args.get(crate::process::SERVICES).is_none()
}

/// Rows of numbers: where each begins, and then all of them.
fn rows(out: &mut Writer, rows: impl Iterator<Item = Vec<u32>>) {
    let (mut starts, mut items) = (vec![0_u32], vec![]);
    for row in rows {
        items.extend(row);
        starts.push(items.len() as u32);
    }
    for numbers in [starts, items] {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        out.bytes(&bytes);
    }
}
