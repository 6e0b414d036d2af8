//! Verification of a directory: every row, file and journal frame against what `docs/design/store.md` says.
//!
//! Reads one snapshot; what it finds are values, and repair is a list of small changes made at the end.

use std::collections::hash_map::Entry;
use std::fs;
use std::path::PathBuf;

use rustc_hash::{FxHashMap, FxHashSet};

use super::change::RowKey;
use super::journal;
use super::locks;
use super::sweep;
use super::tables::*;
use super::view::View;
use super::{Local, locks::Holding};
use crate::backend::Backend;
use crate::cid::{BlobId, Codec, InvocationId, Link, OutputId, ReceiptId, TaskId};
use crate::error::{CommitError, StoreError};
use crate::finding::Finding;
use crate::gc::outputs_of;
use crate::links::links;
use crate::receipt::{Output, Receipt, Via};
use crate::rows::{Op, Stored, Table, TaskRow};
use crate::sign::SignedReceipt;
use crate::verify::{VerifyOptions, VerifyReport};

/// What is known of a receipt whose row is good.
struct Facts {
    ran: InvocationId,
    own: bool,
    settles: Vec<(TaskId, Via)>,
    /// Of one that is ok.
    output: Option<OutputId>,
    outputs: Vec<Link>,
    /// Those of them that may have been left out when it was shared: what was printed, of a receipt made elsewhere.
    logs: Vec<Link>,
}

/// A check in progress, and what would mend what it found.
struct Check<'a> {
    local: &'a Local,
    view: View,
    rehash: bool,
    report: VerifyReport,
    receipts: FxHashMap<ReceiptId, Facts>,
    blocks: FxHashMap<Link, Stored>,
    rows: Vec<RowKey>,
    ops: Vec<Op>,
    files: Vec<PathBuf>,
    journal_is_bad: bool,
}

pub(super) fn check(local: &Local, options: &VerifyOptions) -> Result<VerifyReport, StoreError> {
    let core = &local.core;
    local.writer.flush()?;
    // No collection meanwhile; where the store cannot be written there is none anyway.
    let hold = Holding::take(&core.layout).ok();
    let mut integrity = None;
    if options.repair && core.index.exists() {
        integrity = match core.index.check_integrity() {
            Ok(true) => None,
            Ok(false) => Some("its structure had to be repaired".to_owned()),
            Err(StoreError::Index { why, .. }) => return Err(StoreError::Index { path: core.layout.index(), why }),
            Err(e) => return Err(e),
        };
    }
    let Some(view) = core.index.view()? else {
        let mut report = VerifyReport::default();
        report.findings.extend(strays(local, None)?);
        return Ok(report);
    };
    let mut check = Check {
        local,
        view,
        rehash: options.rehash,
        report: VerifyReport::default(),
        receipts: FxHashMap::default(),
        blocks: FxHashMap::default(),
        rows: Vec::new(),
        ops: Vec::new(),
        files: Vec::new(),
        journal_is_bad: false,
    };
    check.report.findings.extend(integrity.map(|why| Finding::Index { why }));
    check.receipts()?;
    check.blocks()?;
    check.tasks()?;
    check.accepted()?;
    check.values()?;
    check.hollow()?;
    check.journal()?;
    let strays = strays(local, Some(&check))?;
    check.report.findings.extend(strays);
    if options.repair { check.repair(hold) } else { Ok(check.report) }
}

fn logs_of(receipt: &Receipt) -> Vec<Link> {
    let streams = receipt.out.as_ref().map(|output| [output.stdout, output.stderr]).unwrap_or_default();
    streams.into_iter().flatten().map(BlobId::link).collect()
}

impl Check<'_> {
    fn found(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    fn bad_row(&mut self, table: &'static str, key: &[u8]) {
        let hex = key.iter().take(8).map(|b| format!("{b:02x}")).collect();
        self.found(Finding::BadRow { table, key: hex });
        self.rows.push((table, key.to_vec()));
    }

    fn receipts(&mut self) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        self.view.each(RECEIPTS, |id, value| {
            rows.push((ReceiptId::from_digest(*id), value.to_vec()));
            true
        })?;
        self.report.receipts = rows.len() as u64;
        for (id, value) in rows {
            let verified = read_receipt(id, &value).and_then(|kept| {
                SignedReceipt::verify(&kept.signed.bytes).map_err(|e| e.to_string())?;
                Ok(kept)
            });
            match verified {
                Ok(kept) => {
                    let receipt = &kept.signed.receipt;
                    let facts = Facts {
                        ran: receipt.ran,
                        own: kept.own,
                        settles: receipt.meta.settles.iter().map(|(task, via)| (*task, via.clone())).collect(),
                        output: receipt.out.as_ref().ok().map(Output::id),
                        outputs: outputs_of(receipt),
                        logs: if kept.own { vec![] } else { logs_of(receipt) },
                    };
                    self.receipts.insert(id, facts);
                }
                Err(why) => {
                    self.found(Finding::CorruptReceipt { id, why });
                    self.rows.push(("receipts-0", id.digest().to_vec()));
                }
            }
        }
        Ok(())
    }

    fn blocks(&mut self) -> Result<(), StoreError> {
        let mut bad = Vec::new();
        let mut corrupt = Vec::new();
        let mut large = Vec::new();
        let blocks = &mut self.blocks;
        self.view.each(BLOCKS, |key, value| {
            match (link_of_key(key), read_block(key, value)) {
                (Some(link), Some(Stored::Inline(bytes))) => {
                    if Link::of(link.codec, &bytes) != link {
                        corrupt.push(link);
                    } else if link.codec == Codec::DagCbor {
                        blocks.insert(link, Stored::Inline(bytes));
                    } else {
                        // Its bytes are of no further interest.
                        blocks.insert(link, Stored::Large(bytes.len() as u64));
                    }
                }
                (Some(link), Some(Stored::Large(size))) => large.push((link, size)),
                _ => bad.push(key.to_vec()),
            }
            true
        })?;
        self.report.blocks = (self.blocks.len() + large.len() + bad.len() + corrupt.len()) as u64;
        bad.iter().for_each(|key| self.bad_row("blocks-0", key));
        for link in corrupt {
            self.found(Finding::CorruptBlock { link, moved_to: None });
            self.ops.push(Op::Forget(link));
        }
        for (link, size) in large {
            self.report.files += 1;
            let finding = match self.local.file_size(link)? {
                None => Finding::MissingFile { link },
                Some(found_bytes) if found_bytes != size => {
                    Finding::WrongSize { link, expected_bytes: size, found_bytes }
                }
                Some(_) if self.rehash && !self.matches(link)? => Finding::CorruptBlock { link, moved_to: None },
                Some(_) => {
                    self.blocks.insert(link, Stored::Large(size));
                    continue;
                }
            };
            if !matches!(finding, Finding::MissingFile { .. }) {
                self.files.push(self.local.file(link));
            }
            self.found(finding);
            self.ops.push(Op::Forget(link));
        }
        Ok(())
    }

    fn matches(&self, link: Link) -> Result<bool, StoreError> {
        self.local.files.matches(link).map_err(|e| StoreError::io(&self.local.file(link), e))
    }

    fn tasks(&mut self) -> Result<(), StoreError> {
        let (mut bad, mut dangling) = (Vec::new(), Vec::new());
        let mut by_task = FxHashSet::default();
        let receipts = &self.receipts;
        self.view.each(BY_TASK, |key, value| {
            let (task, receipt) = halves(key);
            let receipt = ReceiptId::from_digest(receipt);
            if read_task(key, value).is_none() {
                bad.push(("by-task-0", key.to_vec()));
            } else if receipts.contains_key(&receipt) {
                by_task.insert((TaskId::from_digest(task), receipt));
            } else {
                dangling.push(("by-task-0", key.to_vec(), receipt));
            }
            true
        })?;
        let mut by_invocation = FxHashSet::default();
        self.view.each(BY_INVOCATION, |key, ()| {
            let (ran, receipt) = halves(key);
            let receipt = ReceiptId::from_digest(receipt);
            if receipts.get(&receipt).is_some_and(|facts| facts.ran.digest() == &ran) {
                by_invocation.insert(receipt);
            } else {
                dangling.push(("by-invocation-0", key.to_vec(), receipt));
            }
            true
        })?;
        for (table, key) in bad {
            self.bad_row(table, &key);
        }
        for (table, key, receipt) in dangling {
            self.found(Finding::DanglingRow { table, receipt });
            self.rows.push((table, key));
        }
        let (mut missing, mut ops) = (Vec::new(), Vec::new());
        for (id, facts) in &self.receipts {
            if !by_invocation.contains(id) {
                missing.push(Finding::MissingRow { table: "by-invocation-0", receipt: *id });
                // Applying the receipt once more adds the row.
                ops.extend(self.view.receipt(*id)?.map(Op::Receipt));
            }
            for (task, via) in facts.settles.iter().filter(|(task, _)| !by_task.contains(&(*task, *id))) {
                missing.push(Finding::MissingRow { table: "by-task-0", receipt: *id });
                ops.push(Op::Task(*task, *id, TaskRow { own: facts.own, via: via.clone() }));
            }
        }
        missing.into_iter().for_each(|finding| self.found(finding));
        self.ops.extend(ops);
        Ok(())
    }

    fn accepted(&mut self) -> Result<(), StoreError> {
        let (mut bad, mut wrong) = (Vec::new(), Vec::new());
        let receipts = &self.receipts;
        self.view.each(ACCEPTED, |task, value| {
            match read_accepted(task, value) {
                None => bad.push(task.to_vec()),
                Some((receipt, output)) => {
                    if receipts.get(&receipt).is_none_or(|facts| facts.output != Some(output)) {
                        wrong.push((TaskId::from_digest(*task), receipt));
                    }
                }
            }
            true
        })?;
        bad.iter().for_each(|key| self.bad_row("accepted-0", key));
        for (task, receipt) in wrong {
            self.found(Finding::BadAccepted { task, receipt });
            self.rows.push(("accepted-0", task.digest().to_vec()));
        }
        Ok(())
    }

    fn values(&mut self) -> Result<(), StoreError> {
        for (definition, table) in [(STAT, Table::Stat), (NOTES, Table::Note), (ROOTS, Table::Root)] {
            let mut bad = Vec::new();
            self.view.each(definition, |key, value| {
                if read_value(table, key, value).is_none() {
                    bad.push(key.to_vec());
                }
                true
            })?;
            bad.iter().for_each(|key| self.bad_row(name_of(table), key));
        }
        Ok(())
    }

    /// Receipts that are ok and some of whose outputs are not here, through directories.
    fn hollow(&mut self) -> Result<(), StoreError> {
        let mut below = FxHashMap::default();
        let (mut hollow, mut without_logs) = (Vec::new(), Vec::new());
        for (id, facts) in self.receipts.iter().filter(|(_, facts)| facts.output.is_some()) {
            let mut missing = FxHashSet::default();
            for link in &facts.outputs {
                self.missing_below(*link, &mut below, &mut missing)?;
            }
            if !missing.is_empty() && missing.iter().all(|link| facts.logs.contains(link)) {
                without_logs.push(*id);
            } else if let Some(first) = missing.iter().min() {
                hollow.push(Finding::Hollow { receipt: *id, missing: missing.len(), first: *first });
            }
        }
        hollow.into_iter().for_each(|finding| self.found(finding));
        if let Some(first) = without_logs.iter().min() {
            self.found(Finding::WithoutLogs { receipts: without_logs.len(), first: *first });
        }
        Ok(())
    }

    /// Adds what is missing at or below a link. `children` remembers the links of blocks seen before.
    fn missing_below(
        &self,
        link: Link,
        children: &mut FxHashMap<Link, Vec<Link>>,
        missing: &mut FxHashSet<Link>,
    ) -> Result<(), StoreError> {
        // Nothing is lost with what has no bytes.
        let empty = Link::of(Codec::Raw, b"");
        let mut seen = FxHashSet::from_iter([empty]);
        let mut todo = vec![link];
        while let Some(link) = todo.pop() {
            if !seen.insert(link) {
                continue;
            }
            let Some(stored) = self.blocks.get(&link) else {
                missing.insert(link);
                continue;
            };
            if link.codec == Codec::DagCbor {
                let below = match children.entry(link) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(slot) => slot.insert(links(&match stored {
                        Stored::Inline(bytes) => bytes.to_vec(),
                        Stored::Large(size) => self.local.read_file(link, *size)?.unwrap_or_default(),
                    })),
                };
                todo.extend(below.iter());
            }
        }
        Ok(())
    }

    /// Whether the index could be rebuilt from the journal.
    fn journal(&mut self) -> Result<(), StoreError> {
        let layout = &self.local.core.layout;
        let failed = |e| StoreError::io(&layout.segments(), e);
        let (frames, damaged) = journal::all(layout).map_err(failed)?;
        self.journal_is_bad = !damaged.is_empty();
        for (path, offset_bytes) in damaged {
            self.found(Finding::BadSegment { path, offset_bytes });
        }
        let mut said = FxHashSet::default();
        for frame in &frames {
            for op in journal::read(frame).map_err(failed)? {
                said.extend(Said::by(&op));
            }
        }
        let mut missing = Vec::new();
        let mut expect = |what: Said| {
            if !said.contains(&what) {
                missing.push(Finding::NotInJournal { what: what.to_string() });
            }
            true
        };
        for link in self.receipts.keys().map(|id| id.link()).chain(self.blocks.keys().copied()) {
            expect(Said::Block(link));
        }
        self.view.each(BY_TASK, |key, value| {
            let (task, receipt) = halves(key);
            let (task, receipt) = (TaskId::from_digest(task), ReceiptId::from_digest(receipt));
            read_task(key, value).is_none() || expect(Said::Task(task, receipt))
        })?;
        self.view.each(ACCEPTED, |task, value| {
            let accepted = read_accepted(task, value);
            accepted.is_none_or(|(receipt, _)| expect(Said::Accepted(TaskId::from_digest(*task), receipt)))
        })?;
        for (name, root) in self.view.values(Table::Root)? {
            expect(Said::Root(name, root));
        }
        self.journal_is_bad |= !missing.is_empty();
        missing.into_iter().for_each(|finding| self.found(finding));
        Ok(())
    }

    fn repair(mut self, hold: Option<Holding>) -> Result<VerifyReport, StoreError> {
        let core = &self.local.core;
        if !self.rows.is_empty() || !self.ops.is_empty() || !self.files.is_empty() || self.journal_is_bad {
            drop(core.ensure_writable()?);
        }
        // Forgotten first, set aside afterwards.
        if !self.rows.is_empty() || !self.ops.is_empty() {
            core.index.change(|change| {
                self.rows.iter().try_for_each(|row| change.drop_row(row))?;
                change.apply(&self.ops)
            })?;
        }
        for path in &self.files {
            let moved = self.local.files.quarantine(path).map_err(|e| StoreError::io(path, e))?;
            for finding in &mut self.report.findings {
                if let Finding::CorruptBlock { link, moved_to } = finding
                    && self.local.file(*link) == *path
                {
                    moved_to.clone_from(&moved);
                }
            }
        }
        let damage = self.report.findings.iter().filter(|f| f.is_damage()).count() as u64;
        let in_journal = |f: &&Finding| matches!(f, Finding::BadSegment { .. } | Finding::NotInJournal { .. });
        let of_journal = self.report.findings.iter().filter(in_journal).count() as u64;
        self.report.repaired = damage - of_journal;
        drop(hold);
        if self.journal_is_bad && rewrite_alone(self.local)? {
            self.report.repaired = damage;
        }
        Ok(self.report)
    }
}

/// What the journal has to say for the index to be rebuilt.
#[derive(PartialEq, Eq, Hash)]
enum Said {
    Block(Link),
    Task(TaskId, ReceiptId),
    Accepted(TaskId, ReceiptId),
    Root(Vec<u8>, Vec<u8>),
}

impl Said {
    fn by(op: &Op) -> Option<Self> {
        Some(match op {
            Op::Block(link, _) | Op::Large(link, _) => Self::Block(*link),
            Op::Receipt(kept) => Self::Block(kept.signed.id.link()),
            Op::Task(task, receipt, _) => Self::Task(*task, *receipt),
            Op::Accept(task, receipt, _) => Self::Accepted(*task, *receipt),
            Op::Value(Table::Root, name, Some(root)) => Self::Root(name.clone(), root.clone()),
            Op::Forget(_) | Op::Value(..) => return None,
        })
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Block(link) => write!(f, "{link}"),
            Self::Task(task, receipt) => write!(f, "that receipt {receipt} is of task {task}"),
            Self::Accepted(task, receipt) => write!(f, "that receipt {receipt} settles task {task}"),
            Self::Root(name, _) => write!(f, "root `{}`", String::from_utf8_lossy(name)),
        }
    }
}

/// Writes the journal anew unless another process is at work.
fn rewrite_alone(local: &Local) -> Result<bool, StoreError> {
    let core = &local.core;
    let mut writing = core.writing.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    *writing = None;
    let path = core.layout.gc_lock();
    let alone = locks::exclude_within(&path, std::time::Duration::ZERO).map_err(|e| StoreError::io(&path, e))?;
    if alone.is_some() {
        sweep::rewrite(core, &core.index).map_err(|e| CommitError::io(&core.layout.segments(), e))?;
    }
    let was_alone = alone.is_some();
    drop(alone);
    *writing = Some(core.hold()?);
    Ok(was_alone)
}

/// Files that the index does not know, and what processes left behind. While others work theirs look the same,
/// so nothing is said then.
fn strays(local: &Local, check: Option<&Check<'_>>) -> Result<Vec<Finding>, StoreError> {
    let layout = &local.core.layout;
    if locks::holders(layout).iter().any(|pid| *pid != std::process::id()) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (path, link, _) in local.files.list().map_err(|e| StoreError::io(&layout.blobs(), e))? {
        let known = match (link, check) {
            (Some(link), Some(check)) => check.view.has_block_row(link)?,
            _ => false,
        };
        if !known {
            found.push(Finding::Orphan { path });
        }
    }
    let leftovers = fs::read_dir(layout.tmp()).into_iter().flatten().flatten();
    found.extend(leftovers.map(|entry| Finding::Leftover { path: entry.path() }));
    Ok(found)
}
