//! Rebuilding the index from the journal and the files, when it cannot be read or is not believed any more.
//!
//! The new index is made beside the old one and takes its place when it is whole: a rebuild that is cut short
//! leaves what there was, and another begins where this one did. The old index is kept. Nothing is taken over unchecked:
//! receipts are verified, blocks and files hashed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::fault::Faults;
use super::journal;
use super::layout::Layout;
use super::sweep;
use super::tables::{ACCEPTED, BY_TASK, halves, read_accepted};
use super::writer::today;
use super::{Local, locks, version};
use crate::cid::ReceiptId;
use crate::counters::Counting;
use crate::error::{CommitError, GcError, StoreError};
use crate::rows::Op;
use crate::terms::Options;
use crate::verify::RebuildReport;

pub(crate) fn rebuild(
    dir: &Path,
    options: Options,
    counting: Arc<Counting>,
    wait: Duration,
) -> Result<(Local, RebuildReport), GcError> {
    let dir = std::path::absolute(dir).map_err(|e| StoreError::io(dir, e))?;
    let layout = Layout::new(&dir);
    let opened = |e| GcError::Commit(CommitError::Open(Arc::new(e)));
    if !version::check(&layout).map_err(opened)? {
        let local = Local::open(&dir, options, counting).map_err(opened)?;
        return Ok((local, RebuildReport::default()));
    }
    let lock = layout.gc_lock();
    let alone = locks::exclude_within(&lock, wait).map_err(|e| StoreError::io(&lock, e))?;
    let Some(_alone) = alone else { return Err(GcError::Busy { pids: locks::holders(&layout) }) };
    let mut report = RebuildReport::default();

    let (frames, damaged) = journal::all(&layout).map_err(|e| StoreError::io(&layout.segments(), e))?;
    let new = layout.rebuilt_index();
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(StoreError::io(&new, e).into()),
        _ => {}
    }
    let faults = Faults::default();
    let local =
        Local::open_at(layout.clone(), new.clone(), options.clone(), counting.clone(), faults).map_err(opened)?;
    for frame in &frames {
        let ops = journal::read(frame).map_err(|e| StoreError::io(&layout.segments(), e))?;
        let new = ops.iter().filter_map(|op| if let Op::Receipt(kept) = op { Some(kept.signed.id) } else { None });
        // What files there are is seen below.
        let ops = ops.iter().filter(|op| !matches!(op, Op::Large(..)));
        local.core.index.change(|change| {
            change.apply(ops)?;
            // As if used today: nothing goes at once because it had to be rebuilt.
            change.touch(new, today())
        })?;
    }
    files(&local, &mut report)?;
    dangling(&local, &mut report)?;
    drop(local);
    report.old_index = replace(&layout, &new)?;

    let local = Local::open(&dir, options, counting).map_err(opened)?;
    for path in damaged.into_keys() {
        local.files.quarantine(&path).map_err(|e| StoreError::io(&path, e))?;
        report.damaged_segments += 1;
    }
    sweep::rewrite(&local.core, &local.core.index).map_err(|e| CommitError::io(&layout.segments(), e))?;
    Ok((local, report))
}

/// Puts the new index in the old one's place, at once and durably; where the old one is kept, if there was one.
fn replace(layout: &Layout, new: &Path) -> Result<Option<PathBuf>, StoreError> {
    let (index, dir) = (layout.index(), layout.quarantine());
    let aside = (0_u32..).map(|n| dir.join(format!("index.redb.{n}"))).find(|p| !p.exists());
    let aside = aside.expect("there are more numbers than files");
    // A second name, so that there is an index at every instant; a copy where a file can have but one.
    let kept = match fs::hard_link(&index, &aside) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(_) => fs::copy(&index, &aside).map(|_| Some(aside.clone())),
        Ok(()) => Ok(Some(aside.clone())),
    };
    let kept = kept.map_err(|e| StoreError::io(&aside, e))?;
    let moved = fs::rename(new, &index).and_then(|()| fs::File::open(layout.dir())?.sync_all());
    moved.map_err(|e| StoreError::io(&index, e))?;
    Ok(kept)
}

/// Enters every file that is what its name says, and sets aside the others.
fn files(local: &Local, report: &mut RebuildReport) -> Result<(), StoreError> {
    let layout = &local.core.layout;
    let mut ops = Vec::new();
    for (path, link, meta) in local.files.list().map_err(|e| StoreError::io(&layout.blobs(), e))? {
        let failed = |e| StoreError::io(&path, e);
        match link {
            Some(link) if local.files.matches(link).map_err(failed)? => ops.push(Op::Large(link, meta.len())),
            _ => {
                local.files.quarantine(&path).map_err(failed)?;
                report.quarantined_files += 1;
            }
        }
    }
    report.files = ops.len() as u64;
    local.core.index.change(|change| change.apply(&ops))
}

/// Drops rows of receipts that are in no segment any more.
fn dangling(local: &Local, report: &mut RebuildReport) -> Result<(), StoreError> {
    let Some(view) = local.core.index.view()? else { return Ok(()) };
    let mut known = FxHashSet::default();
    view.each(super::tables::RECEIPTS, |id, _| known.insert(ReceiptId::from_digest(*id)))?;
    let mut rows = Vec::new();
    view.each(BY_TASK, |key, _| {
        if !known.contains(&ReceiptId::from_digest(halves(key).1)) {
            rows.push(("by-task-0", key.to_vec()));
        }
        true
    })?;
    view.each(ACCEPTED, |task, value| {
        if read_accepted(task, value).is_none_or(|(receipt, _)| !known.contains(&receipt)) {
            rows.push(("accepted-0", task.to_vec()));
        }
        true
    })?;
    report.receipts = known.len() as u64;
    drop(view);
    local.core.index.change(|change| rows.iter().try_for_each(|row| change.drop_row(row)))
}
