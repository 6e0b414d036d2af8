//! What a zip archive holds. Its directory says what there is, one entry at a time: never all of it is in memory.
//!
//! Unaware of where the archive is from.

use std::io::{self, Read, Seek};

use flate2::read::DeflateDecoder;
use quipu_store::tree::Entry;
use rawzip::{CompressionMethod, ZipArchive};

use super::{Keeping, UnpackError, text};

/// An entry of the directory with its name, extra fields and comment, each of which has at most 64 KiB.
const BUFFER_BYTES: usize = 256 << 10;
/// Longest target of a link.
const MAX_TARGET_BYTES: u64 = 4096;
/// The bits of a mode that say what kind of thing it is.
const KIND: u32 = 0o170_000;

fn unread(error: rawzip::Error) -> UnpackError {
    UnpackError::Read(io::Error::other(error))
}

/// Keeps all that there is.
pub(super) fn read(keeping: &mut Keeping<'_>, from: impl Read + Seek) -> Result<(), UnpackError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let archive = ZipArchive::from_seekable(from, &mut buffer).map_err(unread)?;
    let mut entries = archive.entries(&mut buffer);
    let mut seen = 0_u64;
    while let Some(entry) = entries.next_entry().map_err(unread)? {
        seen += 1;
        let written = text(entry.file_path().as_bytes())?;
        let path = keeping.path(&written)?;
        let other = |kind| Err(UnpackError::Kind { path: written.clone(), kind });
        let mode = entry.mode().value();
        let kind = if entry.is_dir() { 0o040_000 } else { mode & KIND };
        match kind {
            0o040_000 => {
                if let Some(path) = path {
                    keeping.keep(path, None)?;
                }
                continue;
            }
            0 | 0o100_000 | 0o120_000 => {}
            0o020_000 | 0o060_000 => return other("a device"),
            0o010_000 => return other("a pipe"),
            _ => return other("of an unknown kind"),
        }
        let size = entry.uncompressed_size_hint();
        keeping.count(size)?;
        // Nothing of what is stripped away is kept.
        let Some(path) = path else { continue };
        let form = |how: String| Err(UnpackError::Form { path: written.clone(), how });
        if entry.flags().is_encrypted() {
            return form("encrypted".to_owned());
        }
        let found = archive.get_entry(entry.wayfinder()).map_err(unread)?;
        let packed = found.reader();
        let content: Box<dyn Read + '_> = match entry.compression_method() {
            CompressionMethod::STORE => Box::new(packed),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(packed)),
            method => {
                return form(format!(
                    "compressed by {}, which cannot be read here",
                    method.name().unwrap_or("what nobody knows")
                ));
            }
        };
        let mut content = found.verifying_reader(content);
        let kept = if kind == 0o120_000 {
            let mut target = vec![];
            if size > MAX_TARGET_BYTES {
                return Err(UnpackError::TooMuch { limit: MAX_TARGET_BYTES, what: "bytes in the target of a link" });
            }
            content.take(MAX_TARGET_BYTES + 1).read_to_end(&mut target).map_err(UnpackError::Read)?;
            Keeping::symlink(&path, &written, text(&target)?)?
        } else {
            let (blob, size) = keeping.file(&mut content, size)?;
            Entry::File { blob, size, exec: mode & 0o100 != 0 }
        };
        keeping.keep(path, Some(kept))?;
    }
    // Older archives count no further than 65535.
    if seen & 0xffff != archive.entries_hint() & 0xffff {
        return Err(UnpackError::Read(io::Error::other("its directory has not as many entries as it says")));
    }
    Ok(())
}
