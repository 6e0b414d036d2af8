//! Parts: byte strings in one file, each read by itself, under one digest.
//!
//! Unaware of what they are. The digest is that of the head, which has one of each part: what is missing, cut off,
//! damaged or another's has no part to give.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::flat::{Reader, Writer};

const MAGIC: &[u8; 8] = b"qparts-1";
/// Of a part in the head: where it begins, how long it is, its digest.
const ROW_BYTES: usize = 8 + 4 + DIGEST_BYTES;
const DIGEST_BYTES: usize = 16;
/// Most parts that are read back.
const MAX_PARTS: u64 = 4 << 20;
/// Longest part that is read back.
const MAX_PART_BYTES: usize = 256 << 20;

/// A file of parts, opened.
#[derive(Debug)]
pub struct Parts {
    file: File,
    head: Vec<u8>,
}

/// Writes parts to a new file and gives the digest they can be opened by.
pub(super) fn write(path: &Path, parts: &[Vec<u8>]) -> io::Result<[u8; 32]> {
    let mut head = Writer(MAGIC.to_vec());
    head.number(parts.len() as u64, 4);
    let mut at = (head.0.len() + parts.len() * ROW_BYTES) as u64;
    for part in parts {
        head.number(at, 8);
        head.number(part.len() as u64, 4);
        head.0.extend_from_slice(&blake3::hash(part).as_bytes()[..DIGEST_BYTES]);
        at += part.len() as u64;
    }
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&head.0)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.flush()?;
    Ok(*blake3::hash(&head.0).as_bytes())
}

impl Parts {
    /// Those in a file, if they have this digest.
    pub(super) fn open(path: &Path, digest: &[u8; 32]) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let mut head = vec![0; MAGIC.len() + 4];
        file.read_exact(&mut head).ok()?;
        let count = Reader(head.strip_prefix(MAGIC)?).number(4).filter(|count| *count <= MAX_PARTS)?;
        let rows = count * ROW_BYTES as u64;
        let size = file.metadata().ok()?.len();
        if size < rows || (&mut file).take(rows).read_to_end(&mut head).ok()? as u64 != rows {
            return None;
        }
        (blake3::hash(&head).as_bytes() == digest).then_some(Self { file, head })
    }

    /// Part `n`.
    pub fn part(&self, n: usize) -> Option<Vec<u8>> {
        let rows = &self.head[MAGIC.len() + 4..];
        let mut row = Reader(rows.get(n.checked_mul(ROW_BYTES)?..)?);
        let (at, len) = (row.number(8)?, usize::try_from(row.number(4)?).ok()?);
        if len > MAX_PART_BYTES {
            return None;
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        (blake3::hash(&bytes).as_bytes()[..DIGEST_BYTES] == *row.take(DIGEST_BYTES)?).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn parts_come_back_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("parts");
        let parts: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n; usize::from(n) * 7]).collect();
        let digest = write(&path, &parts).expect("is written");
        let read = |path: &Path| {
            let open = Parts::open(path, &digest)?;
            assert_eq!(open.part(parts.len()), None);
            assert_eq!(open.part(usize::MAX), None);
            (0..parts.len()).map(|n| open.part(n)).collect::<Option<Vec<_>>>()
        };
        assert_eq!(read(&path).as_ref(), Some(&parts));
        let bytes = fs::read(&path).expect("is read");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x80;
            fs::write(&path, &damaged).expect("is written");
            assert_eq!(read(&path), None, "byte {at}");
            fs::write(&path, &bytes[..at]).expect("is written");
            assert_eq!(read(&path), None, "cut off at {at}");
        }
        assert!(Parts::open(&path, &[0; 32]).is_none(), "another's");
        assert!(Parts::open(&dir.path().join("none"), &digest).is_none());
    }

    #[test]
    fn what_says_that_there_is_more_than_there_can_be_is_not_believed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("parts");
        for count in [1_u64, u64::from(u32::MAX)] {
            let mut head = Writer(MAGIC.to_vec());
            head.number(count, 4);
            head.number(0_u64, 8);
            head.number(u64::from(u32::MAX), 4);
            head.0.extend([0; DIGEST_BYTES]);
            fs::write(&path, &head.0).expect("is written");
            let open = Parts::open(&path, blake3::hash(&head.0).as_bytes());
            assert_eq!(open.is_some(), count == 1);
            assert!(open.is_none_or(|open| open.part(0).is_none()));
        }
    }
}
