//! Collection in a directory: forgets in the index first, deletes files afterwards, and only while nobody writes.
//!
//! What may go is decided in [`crate::gc`]; unaware of why.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::index::Index;
use super::journal::{self, Rewrite};
use super::tables::{
    ACCEPTED, BLOCKS, BY_TASK, RECEIPTS, USED, halves, link_of_key, read_accepted, read_block, read_receipt, read_task,
};
use super::view::View;
use super::{Core, Layout, Local, locks};
use crate::backend::Backend;
use crate::cid::{Link, ReceiptId, TaskId};
use crate::error::{CommitError, GcError, StoreError};
use crate::gc::{Candidate, GcOptions, GcStats, Inventory, Plan, links_of, plan};
use crate::rows::{Op, Stored, Table};
use crate::spaces;
use crate::terms::Root;

/// The journal is written anew when it is this much larger than what it is to say.
const JOURNAL_FACTOR: u64 = 2;
/// The index keeps free pages for its next changes; this much larger than its rows is too much.
const INDEX_FACTOR: u64 = 6;
const JOURNAL_SLACK_BYTES: u64 = 4 << 20;
/// What was set aside is kept so long, and what nobody wrote anew.
const QUARANTINE: Duration = Duration::from_secs(30 * 86_400);
/// How much of a name space's index is kept in memory while it is read once.
const SPACE_CACHE_BYTES: usize = 4 << 20;
/// A rewritten journal has frames of this size.
const FRAME_BYTES: usize = 4 << 20;

pub(super) fn collect(local: &Local, options: &GcOptions) -> Result<GcStats, GcError> {
    let core = &local.core;
    local.writer.flush()?;
    let Some(view) = core.index.view()? else { return Ok(GcStats::default()) };
    // The long part, while others work. What they commit meanwhile makes it void.
    let seen = view.commits()?;
    let decided = decide(local, &view, options)?;
    if options.dry_run {
        return Ok(decided.stats);
    }
    drop(view);

    // From here on nothing is written through this handle either: `ensure_writable` waits for this guard.
    let mut writing = core.writing.write().unwrap_or_else(PoisonError::into_inner);
    let was_writing = writing.take().is_some();
    let alone = locks::exclude_within(&core.layout.gc_lock(), options.wait);
    let alone = alone.map_err(|e| StoreError::io(&core.layout.gc_lock(), e))?;
    let swept = match alone {
        Some(_alone) => sweep(local, options, seen, decided),
        None => Err(GcError::Busy { pids: locks::holders(&core.layout) }),
    };
    if was_writing {
        *writing = Some(core.hold()?);
    }
    swept
}

fn sweep(local: &Local, options: &GcOptions, seen: u64, decided: Plan) -> Result<GcStats, GcError> {
    let core = &local.core;
    local.writer.flush()?;
    let Some(view) = core.index.view()? else { return Ok(GcStats::default()) };
    let decided = if view.commits()? == seen { decided } else { decide(local, &view, options)? };
    let mut stats = decided.stats;

    let files = forget(core, &view, &decided)?;
    drop(view);
    for link in files {
        local.files.delete(&core.layout.blob(link)).map_err(|e| CommitError::io(&core.layout.blobs(), e))?;
    }
    stats.deleted_leftovers = leftovers(local, options)?;
    compact(core, &core.index).map_err(|e| CommitError::io(&core.layout.segments(), e))?;
    Ok(stats)
}

fn decide(local: &Local, view: &View, options: &GcOptions) -> Result<Plan, StoreError> {
    let inventory = inventory(local, view)?;
    plan(&inventory, options, |link| match view.block(link)? {
        Some(Stored::Inline(bytes)) => Ok(Some(bytes.to_vec())),
        Some(Stored::Large(size)) => local.read_file(link, size),
        None => Ok(None),
    })
}

fn inventory(local: &Local, view: &View) -> Result<Inventory, StoreError> {
    let mut inventory = Inventory::default();
    view.each(RECEIPTS, |id, value| {
        let id = ReceiptId::from_digest(*id);
        if let Ok(kept) = read_receipt(id, value) {
            let receipt = &kept.signed.receipt;
            let issued_day = u32::try_from(receipt.issued_at / 86_400).unwrap_or(u32::MAX);
            let candidate = Candidate {
                last_used_day: issued_day,
                size_bytes: kept.signed.bytes.len() as u64,
                links: links_of(receipt),
            };
            inventory.receipts.insert(id, candidate);
        }
        true
    })?;
    // Tasks a receipt was accepted for beyond those it names.
    view.each(BY_TASK, |key, _| {
        let (task, receipt) = halves(key);
        if let Some(candidate) = inventory.receipts.get_mut(&ReceiptId::from_digest(receipt)) {
            let task = TaskId::from_digest(task).link();
            if !candidate.links.contains(&task) {
                candidate.links.push(task);
            }
        }
        true
    })?;
    view.each(USED, |id, day| {
        if let Some(candidate) = inventory.receipts.get_mut(&ReceiptId::from_digest(*id)) {
            candidate.last_used_day = day;
        }
        true
    })?;
    view.each(BLOCKS, |key, value| {
        let size = match read_block(key, value) {
            Some(Stored::Inline(bytes)) => bytes.len() as u64,
            Some(Stored::Large(size)) => size,
            None => return true,
        };
        inventory.blocks.extend(link_of_key(key).map(|link| (link, size)));
        true
    })?;
    for (_, value) in local.values(Table::Root)? {
        let root: Root = crate::dag::decode_own(&value, usize::MAX)?;
        inventory.roots.extend(root.links);
        inventory.roots.extend(root.receipts.iter().map(|id| id.link()));
    }
    for dir in spaces::dirs(&local.core.layout) {
        // One that cannot be read keeps nothing here: what it misses runs again.
        let _ = used_by_space(&local.core, &dir, &mut inventory);
    }
    Ok(inventory)
}

/// What a name space used of this store counts as used, and what it keeps is kept.
fn used_by_space(core: &Core, dir: &Path, inventory: &mut Inventory) -> Result<(), StoreError> {
    let layout = Layout::new(dir);
    let file = layout.index();
    let index = Index::new(layout, file, SPACE_CACHE_BYTES, core.faults.clone(), core.counting.clone());
    let Some(view) = index.view()? else { return Ok(()) };
    view.each(USED, |id, day| {
        if let Some(candidate) = inventory.receipts.get_mut(&ReceiptId::from_digest(*id)) {
            candidate.last_used_day = candidate.last_used_day.max(day);
        }
        true
    })?;
    for (_, value) in view.values(Table::Root)? {
        let root: Root = crate::dag::decode_own(&value, usize::MAX)?;
        inventory.roots.extend(root.links);
        inventory.roots.extend(root.receipts.iter().map(|id| id.link()));
    }
    Ok(())
}

/// Drops the rows of what goes, in one transaction; the files that may then be deleted.
fn forget(core: &Core, view: &View, decided: &Plan) -> Result<Vec<Link>, GcError> {
    let (mut blocks, mut files) = (Vec::new(), Vec::new());
    view.each(BLOCKS, |key, value| {
        if let Some(link) = link_of_key(key).filter(|link| !decided.blocks.contains(link)) {
            blocks.push(Op::Forget(link));
            if !matches!(read_block(key, value), Some(Stored::Inline(_))) {
                files.push(link);
            }
        }
        true
    })?;
    let mut receipts = Vec::new();
    view.each(RECEIPTS, |id, value| {
        let id = ReceiptId::from_digest(*id);
        if !decided.receipts.contains(&id) {
            receipts.push((id, read_receipt(id, value).ok().map(|kept| kept.signed.receipt.ran)));
        }
        true
    })?;
    let mut tasks: Vec<(ReceiptId, TaskId)> = Vec::new();
    view.each(BY_TASK, |key, _| {
        let (task, receipt) = halves(key);
        tasks.push((ReceiptId::from_digest(receipt), TaskId::from_digest(task)));
        true
    })?;
    tasks.sort_unstable();
    if blocks.is_empty() && receipts.is_empty() {
        return Ok(files);
    }
    if blocks.is_empty() && receipts.is_empty() {
        return Ok(files);
    }
    core.index.change(|change| {
        change.apply(&blocks)?;
        for (id, ran) in &receipts {
            let from = tasks.partition_point(|(receipt, _)| receipt < id);
            let of = tasks[from..].iter().take_while(|(receipt, _)| receipt == id);
            change.drop_receipt(*id, &of.map(|(_, task)| *task).collect::<Vec<_>>(), *ran)?;
        }
        Ok(())
    })?;
    Ok(files)
}

/// Deletes what processes left behind, and files the index does not know.
fn leftovers(local: &Local, options: &GcOptions) -> Result<u64, GcError> {
    let core = &local.core;
    let layout = &core.layout;
    let mut deleted = locks::sweep(layout) + locks::sweep_scratch(layout) + spaces::sweep(layout);
    let failed = |path: &Path, e: io::Error| GcError::from(StoreError::io(path, e));
    let view = core.index.view()?;
    for (path, link, meta) in local.files.list().map_err(|e| failed(&layout.blobs(), e))? {
        let known = match (link, &view) {
            (Some(link), Some(view)) => view.has_block_row(link)?,
            _ => false,
        };
        if !known && meta.is_file() && is_old(&meta, options.grace) {
            local.files.delete(&path).map_err(|e| failed(&path, e))?;
            deleted += 1;
        }
    }
    let old = QUARANTINE.max(options.grace);
    for (dir, age) in [(layout.tmp(), options.grace), (layout.quarantine(), old), (layout.glances(), old)] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.metadata().is_ok_and(|meta| meta.is_file() && is_old(&meta, age)) {
                local.files.delete(&entry.path()).map_err(|e| failed(&entry.path(), e))?;
                deleted += 1;
            }
        }
    }
    Ok(deleted)
}

/// By the file's own times: the change time too, since a file that was moved here keeps its old modification time.
fn is_old(meta: &fs::Metadata, age: Duration) -> bool {
    use std::os::unix::fs::MetadataExt;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let latest = u64::try_from(meta.mtime().max(meta.ctime())).unwrap_or(0);
    now.saturating_sub(latest) >= age.as_secs()
}

/// Writes the journal anew, and the index smaller, when most of it speaks of what is gone.
fn compact(core: &Core, index: &Index) -> io::Result<()> {
    let segments = journal::segments(&core.layout)?;
    let has_bytes = segments.iter().map(|p| fs::metadata(p).map_or(0, |m| m.len())).sum::<u64>();
    let mut live_bytes = 0;
    let view = index.view().map_err(io::Error::other)?;
    if let Some(view) = &view {
        let mut add = |bytes: usize| {
            live_bytes += bytes as u64 + 64;
            true
        };
        view.each(BLOCKS, |_, value| add(value.len())).map_err(io::Error::other)?;
        view.each(RECEIPTS, |_, value| add(value.len())).map_err(io::Error::other)?;
        view.each(BY_TASK, |_, value| add(value.len())).map_err(io::Error::other)?;
    }
    drop(view);
    let index_bytes = fs::metadata(core.layout.index()).map_or(0, |m| m.len());
    if index_bytes > INDEX_FACTOR * live_bytes + JOURNAL_SLACK_BYTES {
        index.compact().map_err(io::Error::other)?;
    }
    if has_bytes > JOURNAL_FACTOR * live_bytes + JOURNAL_SLACK_BYTES { rewrite(core, index) } else { Ok(()) }
}

/// Writes one segment that says what the index says, in place of all there are. Nobody else may be writing.
pub(super) fn rewrite(core: &Core, index: &Index) -> io::Result<()> {
    let mut own = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    own.close();
    let replaced = journal::segments(&core.layout)?;
    let mut new = Rewrite::begin(&core.layout, &core.faults)?;
    if let Some(view) = index.view().map_err(io::Error::other)? {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        let mut add = |op: Option<Op>| {
            let Some(op) = op else { return true };
            bytes += op.weight_bytes();
            batch.push(op);
            if bytes > FRAME_BYTES {
                bytes = 0;
                failed = new.append(&std::mem::take(&mut batch)).err();
            }
            failed.is_none()
        };
        let rows = (|| {
            view.each(BLOCKS, |key, value| {
                add(link_of_key(key).zip(read_block(key, value)).map(|(link, stored)| match stored {
                    Stored::Inline(bytes) => Op::Block(link, bytes),
                    Stored::Large(size) => Op::Large(link, size),
                }))
            })?;
            view.each(RECEIPTS, |id, value| {
                add(read_receipt(ReceiptId::from_digest(*id), value).ok().map(Op::Receipt))
            })?;
            view.each(BY_TASK, |key, value| {
                let (task, receipt) = halves(key);
                let (task, receipt) = (TaskId::from_digest(task), ReceiptId::from_digest(receipt));
                add(read_task(key, value).map(|row| Op::Task(task, receipt, row)))
            })?;
            view.each(ACCEPTED, |task, value| {
                let accepted = read_accepted(task, value);
                add(accepted.map(|(receipt, output)| Op::Accept(TaskId::from_digest(*task), receipt, output)))
            })?;
            for (name, root) in view.values(Table::Root)? {
                add(Some(Op::Value(Table::Root, name, Some(root))));
            }
            Ok::<_, StoreError>(())
        })();
        rows.map_err(io::Error::other)?;
        if let Some(e) = failed {
            return Err(e);
        }
        new.append(&batch)?;
    }
    new.finish(&replaced)
}

#[cfg(test)]
mod tests {
    use super::super::writer::today;
    use super::*;
    use crate::cid::InvocationId;
    use crate::receipt::{Meta, Output, Receipt};
    use crate::sign::Signer;
    use crate::spaces::Reads;
    use crate::{Options, SignerSource};

    #[test]
    fn a_receipt_of_the_default_was_used_when_a_name_space_used_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let signer = Signer::from_secret(&[7; 32]);
        let options = || Options::new(SignerSource::Fixed(signer.clone()));
        let signed = |n: u8| {
            let (ran, out) = (InvocationId::of(&[n]), Ok(Output::default()));
            let receipt = Receipt { ran, out, issued_at: 1, expires_at: None, meta: Meta::default() };
            signer.sign(&receipt).expect("fits")
        };
        let (used, unused) = (signed(1), signed(2));
        let (used_id, unused_id) = (used.id, unused.id);
        let store = crate::Store::open(dir.path(), options()).expect("opens");
        store.import_all(vec![used, unused], "").expect("is imported");
        store.flush().expect("commits");
        let name = "one".parse().expect("a name");
        let space = spaces::open(dir.path(), &name, Reads::OwnAndDefault, options()).expect("opens");
        space.set_note("x", Some(vec![])).expect("is set");
        drop((space, store));
        let later = today() + 100;
        let space = Local::open(&spaces::dir(dir.path(), &name), options(), Default::default()).expect("opens");
        space.core.index.change(|change| change.touch([used_id], later)).expect("commits");
        drop(space);
        let max_age = Some(Duration::from_secs(50 * 86_400));
        let options = GcOptions { max_age, ..GcOptions::new(u64::from(later) * 86_400) };
        let store = Local::open(dir.path(), Options::new(SignerSource::Fixed(signer)), Default::default());
        let store = store.expect("opens");
        assert_eq!(store.gc(&options).expect("collects").kept_receipts, 1);
        let found = store.receipts(&[used_id, unused_id]).expect("reads");
        assert_eq!((found[0].is_some(), found[1].is_some()), (true, false));
    }
}
