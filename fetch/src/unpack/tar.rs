//! What a tar archive holds, read as a stream.
//!
//! The library that reads it takes names and extended headers of any length into memory: the reader below it gives no more than
//! there may be. Unaware of what the stream was compressed by.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use quipu_store::tree::Entry;
use tar::EntryType;

use super::{Keeping, UnpackError, text};

/// What stands between two files: padding, names, extended headers.
const MAX_BETWEEN_BYTES: u64 = 1 << 20;

/// A reader that gives no more than it is allowed to, until it is allowed more.
struct Allowed<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(into.len());
        if most == 0 && !into.is_empty() {
            return Err(io::Error::other(format!("more than {MAX_BETWEEN_BYTES} bytes stand before a file")));
        }
        let read = self.from.read(&mut into[..most])?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

/// Keeps all that there is.
pub(super) fn read(keeping: &mut Keeping<'_>, from: impl Read) -> Result<(), UnpackError> {
    let left = Rc::new(Cell::new(MAX_BETWEEN_BYTES));
    let mut archive = tar::Archive::new(Allowed { from, left: Rc::clone(&left) });
    for entry in archive.entries().map_err(UnpackError::Read)? {
        let mut entry = entry.map_err(UnpackError::Read)?;
        // What a file holds is bounded by what is left for all; what comes before the next by itself.
        left.set(keeping.bounds.max_bytes.saturating_add(MAX_BETWEEN_BYTES));
        one(keeping, &mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Read)?;
        left.set(MAX_BETWEEN_BYTES);
    }
    Ok(())
}

fn one(keeping: &mut Keeping<'_>, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), UnpackError> {
    let kind = entry.header().entry_type();
    if kind == EntryType::XGlobalHeader {
        return Ok(());
    }
    let written = entry.path_bytes().into_owned();
    let written = text(&written)?;
    let path = keeping.path(&written)?;
    let link = |entry: &tar::Entry<'_, _>| {
        let target = entry.link_name_bytes().map(|target| text(&target)).transpose()?;
        Ok::<_, UnpackError>(target.unwrap_or_default())
    };
    let other = |kind| Err(UnpackError::Kind { path: written.clone(), kind });
    let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
    if is_file {
        keeping.count(entry.size())?;
    }
    // Nothing of what is stripped away is kept; what could not be is refused all the same.
    let Some(path) = path else {
        return match kind {
            EntryType::Char | EntryType::Block => other("a device"),
            EntryType::Fifo => other("a pipe"),
            EntryType::Directory | EntryType::Symlink | EntryType::Link => Ok(()),
            _ if is_file => Ok(()),
            _ => other("of an unknown kind"),
        };
    };
    let kept = match kind {
        EntryType::Directory => None,
        _ if is_file => {
            let exec = entry.header().mode().map_err(UnpackError::Read)? & 0o100 != 0;
            let size = entry.size();
            let (blob, size) = keeping.file(entry, size)?;
            Some(Entry::File { blob, size, exec })
        }
        EntryType::Symlink => Some(Keeping::symlink(&path, &written, link(entry)?)?),
        EntryType::Link => {
            let target = link(entry)?;
            let file = keeping.path(&target)?.and_then(|path| keeping.found.get(&path)).cloned().flatten();
            match file.filter(|entry| matches!(entry, Entry::File { .. })) {
                Some(file) => Some(file),
                None => return Err(UnpackError::HardLink { path: written, target }),
            }
        }
        EntryType::Char | EntryType::Block => return other("a device"),
        EntryType::Fifo => return other("a pipe"),
        _ => return other("of an unknown kind"),
    };
    keeping.keep(path, kept)
}
