//! What a journal says and the index does not yet, of processes that were killed: taken over by whoever opens the store next.
//!
//! A mark is a lock file beside each segment that is appended to; it says up to where the index has it. Unaware of what
//! is in a frame, except that files it names must be there whole: it was not synced, and a power cut may have torn them.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Local;
use super::journal;
use super::layout::Layout;
use super::locks::{self, Owned, try_own};
use super::writer::today;
use crate::error::StoreError;
use crate::rows::Op;

/// What the names of marks begin with; the segment's name follows.
const MARK: &str = "ahead-";

/// How much of a segment the index has, as its process says.
#[derive(Debug)]
pub(crate) struct Mark(Owned);

impl Mark {
    /// For a segment that has this many bytes, none of which the index lacks.
    pub(crate) fn make(layout: &Layout, segment: &Path, settled_bytes: u64) -> io::Result<Self> {
        let name = segment.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let owned = try_own(&layout.locks().join(format!("{MARK}{name}")))?;
        let mark = Self(owned.ok_or_else(|| io::Error::other("somebody has the mark of a new journal segment"))?);
        mark.0.file().write_all_at(&settled_bytes.to_le_bytes(), 0)?;
        Ok(mark)
    }

    /// The index has so much of it. When that cannot be said, it is taken over once more: that changes nothing.
    pub(crate) fn settle(&self, bytes: u64) {
        let _ = self.0.file().write_all_at(&bytes.to_le_bytes(), 0);
    }
}

/// Enters into the index what killed processes had appended to their segments and not committed. Where that cannot be
/// done now, it stays for the next one.
pub(super) fn take_over(local: &Local) {
    let core = &local.core;
    for entry in fs::read_dir(core.layout.locks()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(segment) = name.to_str().and_then(|name| name.strip_prefix(MARK)) else { continue };
        let segment = core.layout.segments().join(segment);
        let Ok(Some(owned)) = try_own(&entry.path()) else { continue };
        let mut settled = [0; 8];
        // One that says nothing is that of an empty segment, or was deleted by its owner just now.
        if owned.file().read_exact_at(&mut settled, 0).is_ok()
            && !matches!(enter(local, &segment, u64::from_le_bytes(settled)), Ok(true))
        {
            owned.leave();
        }
    }
}

/// Enters the rest of a segment; `false` while the store is being collected.
fn enter(local: &Local, segment: &Path, settled_bytes: u64) -> Result<bool, StoreError> {
    let (core, failed) = (&local.core, |e| StoreError::io(segment, e));
    let frames = match journal::frames(segment) {
        Ok((frames, _)) => frames,
        // A collection wrote it anew.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(failed(e)),
    };
    let mut ops = vec![];
    let mut has_files = false;
    'frames: for frame in frames.iter().filter(|frame| frame.offset_bytes >= settled_bytes) {
        let found = journal::read(frame).map_err(failed)?;
        for op in &found {
            if let Op::Large(link, _) = op {
                has_files = true;
                let whole = match local.files.matches(*link) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                    whole => whole.map_err(failed)?,
                };
                // What follows may need it, too.
                if !whole {
                    break 'frames;
                }
            }
        }
        ops.extend(found);
    }
    if ops.is_empty() {
        return Ok(true);
    }
    let lock = core.layout.gc_lock();
    let Some(_hold) = locks::try_share(&lock).map_err(|e| StoreError::io(&lock, e))? else { return Ok(false) };
    if has_files {
        let dir = core.layout.dir();
        let synced = fs::File::open(dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(|e| StoreError::io(dir, e))?;
    }
    let new = ops.iter().filter_map(|op| if let Op::Receipt(kept) = op { Some(kept.signed.id) } else { None });
    core.index.change(|change| {
        change.apply(&ops)?;
        change.touch(new, today())
    })?;
    Ok(true)
}
