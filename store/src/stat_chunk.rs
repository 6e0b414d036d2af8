//! One directory's part of the stat index, packed: names in order, each with its stamp and what was found there.
//!
//! Knows the layout and its bounds; unaware of disks. A chunk that does not decode is one that is not there.
//!
//! Layout, integers little-endian: version `1`, count (4 bytes), records, and the first 16 bytes of the BLAKE3
//! of key and all before, so that a chunk under a wrong key, or with a bit flipped, names no wrong content. A record:
//! flags (1 byte), length of name (2), name, device (8), inode (8), size (8), mtime (8), ctime (8), then the digest (32) of a
//! file, or length (2) and text of a link's target.

use crate::cid::BlobId;
use crate::stamp::{FileKind, Stamp};
use crate::tree::{Entry, MAX_NAME_BYTES, MAX_TARGET_BYTES};

/// Largest chunk that is kept or read.
pub(crate) const MAX_CHUNK_BYTES: usize = 64 << 20;

const VERSION: u8 = 1;
const SUM_BYTES: usize = 16;
/// A record with a name of one byte and a target of one byte.
const MIN_RECORD_BYTES: usize = 1 + 2 + 1 + 5 * 8 + 2 + 1;

const IS_LINK: u8 = 1;
const EXEC: u8 = 2;
const PLACED: u8 = 4;
const TRUSTED: u8 = 8;

/// What the index knows of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// How the file looked when its content was read, or written.
    pub stamp: Stamp,
    /// What it holds: a file or a symbolic link.
    pub entry: Entry,
    /// Whether quipu put it there.
    pub placed: bool,
    /// Whether an equal stamp means equal content. Otherwise the content is to be read again.
    pub trusted: bool,
}

/// Names in byte order with what is known of each; all names are in one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    names: String,
    records: Vec<(u32, Known)>,
}

impl Chunk {
    /// Appends a record; names must come in rising order.
    pub(crate) fn push(&mut self, name: &str, known: Known) {
        debug_assert!(self.records.is_empty() || self.name(self.records.len() - 1) < name, "names rise");
        self.names.push_str(name);
        let end = u32::try_from(self.names.len()).expect("names of a chunk are below 64 MiB");
        self.records.push((end, known));
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    fn name(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.records[at - 1].0 as usize };
        &self.names[start..self.records[at].0 as usize]
    }

    /// What is known of `name`. Looks first at `*near` and moves it on, so that asking in order does not search.
    pub(crate) fn get_near(&self, near: &mut usize, name: &str) -> Option<&Known> {
        if *near < self.len() && self.name(*near) == name {
            *near += 1;
            return Some(&self.records[*near - 1].1);
        }
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    *near = middle + 1;
                    return Some(&self.records[middle].1);
                }
            }
        }
        *near = low;
        None
    }

    /// The place of what is known of `name`, found as [`Chunk::get_near`] finds it.
    pub(crate) fn place_near(&mut self, near: &mut usize, name: &str) -> Option<&mut Known> {
        self.get_near(near, name)?;
        // It stands just before where the next is expected.
        self.records.get_mut(*near - 1).map(|(_, known)| known)
    }

    /// Whether `name` comes after all that are there, so that it may be appended.
    pub(crate) fn ends_before(&self, name: &str) -> bool {
        self.records.len().checked_sub(1).is_none_or(|last| self.name(last) < name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.records.iter().enumerate().map(|(i, (_, known))| (self.name(i), known))
    }

    /// The packed form under `key`; `None` when it would be larger than any chunk may be.
    pub(crate) fn encode(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(5 + self.names.len() + self.len() * (MIN_RECORD_BYTES + 32) + SUM_BYTES);
        out.push(VERSION);
        out.extend(u32::try_from(self.len()).ok()?.to_le_bytes());
        for (name, known) in self.iter() {
            let (link, exec) = match &known.entry {
                Entry::File { exec, .. } => (false, *exec),
                Entry::Symlink { .. } => (true, false),
                Entry::Dir { .. } => unreachable!("directories are not recorded"),
            };
            let flag = |on: bool, bit: u8| if on { bit } else { 0 };
            out.push(
                flag(link, IS_LINK) | flag(exec, EXEC) | flag(known.placed, PLACED) | flag(known.trusted, TRUSTED),
            );
            out.extend(u16::try_from(name.len()).ok()?.to_le_bytes());
            out.extend(name.as_bytes());
            let stamp = &known.stamp;
            for number in [stamp.dev, stamp.ino, stamp.size] {
                out.extend(number.to_le_bytes());
            }
            for time in [stamp.mtime_ns, stamp.ctime_ns] {
                out.extend(time.to_le_bytes());
            }
            match &known.entry {
                Entry::Symlink { target } => {
                    out.extend(u16::try_from(target.len()).ok()?.to_le_bytes());
                    out.extend(target.as_bytes());
                }
                Entry::File { blob, .. } => out.extend(blob.digest()),
                Entry::Dir { .. } => {}
            }
        }
        out.extend(sum(key, &out));
        (out.len() <= MAX_CHUNK_BYTES).then_some(out)
    }

    /// Reads [`Chunk::encode`]; anything else is `None`.
    pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_CHUNK_BYTES {
            return None;
        }
        let (body, found) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
        if sum(key, body) != found {
            return None;
        }
        Self::decode_body(body)
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        let mut rest = Reader(body);
        if rest.array::<1>()? != [VERSION] {
            return None;
        }
        let count = u32::from_le_bytes(rest.array()?) as usize;
        // What is allocated ahead is in proportion to what is there, whatever the count claims.
        if count > rest.0.len() / MIN_RECORD_BYTES {
            return None;
        }
        let mut chunk = Self { names: String::new(), records: Vec::with_capacity(count) };
        for at in 0..count {
            let (name, known) = rest.record()?;
            if at > 0 && chunk.name(at - 1) >= name {
                return None;
            }
            chunk.push(name, known);
        }
        rest.0.is_empty().then_some(chunk)
    }
}

fn sum(key: &[u8], body: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(body);
    let mut out = [0; SUM_BYTES];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_BYTES]);
    out
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn text(&mut self, limit: usize) -> Option<&'a str> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        if len == 0 || len > limit {
            return None;
        }
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(head).ok()
    }

    fn record(&mut self) -> Option<(&'a str, Known)> {
        let [flags] = self.array()?;
        if flags & !(IS_LINK | EXEC | PLACED | TRUSTED) != 0 {
            return None;
        }
        let name = self.text(MAX_NAME_BYTES)?;
        let mut numbers = [0; 3];
        for number in &mut numbers {
            *number = u64::from_le_bytes(self.array()?);
        }
        let [dev, ino, size] = numbers;
        let (mtime_ns, ctime_ns) = (i64::from_le_bytes(self.array()?), i64::from_le_bytes(self.array()?));
        let exec = flags & EXEC != 0;
        let (kind, entry) = if flags & IS_LINK == 0 {
            (FileKind::File, Entry::File { blob: BlobId::from_digest(self.array()?), size, exec })
        } else {
            let target = self.text(MAX_TARGET_BYTES)?;
            if exec || target.contains('\0') {
                return None;
            }
            (FileKind::Symlink, Entry::Symlink { target: target.into() })
        };
        let stamp = Stamp { dev, ino, size, mtime_ns, ctime_ns, mode_exec: exec, kind };
        Some((name, Known { stamp, entry, placed: flags & PLACED != 0, trusted: flags & TRUSTED != 0 }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> impl Strategy<Value = Known> {
        let file = any::<[u8; 32]>().prop_map(|d| Entry::File { blob: BlobId::from_digest(d), size: 0, exec: false });
        let link = "[a-z/.]{1,9}".prop_map(|t| Entry::Symlink { target: t.into() });
        let entry = prop_oneof![file, link];
        (entry, any::<[u64; 3]>(), any::<[i64; 2]>(), any::<[bool; 3]>()).prop_map(
            |(mut entry, n, t, [placed, trusted, x])| {
                let (mut kind, mut mode_exec) = (FileKind::Symlink, false);
                if let Entry::File { size, exec, .. } = &mut entry {
                    (kind, mode_exec, *size, *exec) = (FileKind::File, x, n[2], x);
                }
                let stamp = Stamp { dev: n[0], ino: n[1], size: n[2], mtime_ns: t[0], ctime_ns: t[1], mode_exec, kind };
                Known { stamp, entry, placed, trusted }
            },
        )
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        prop::collection::btree_map("[a-zé]{1,4}", known(), 0..12).prop_map(|records| {
            let mut chunk = Chunk::default();
            records.into_iter().for_each(|(name, known)| chunk.push(&name, known));
            chunk
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_back_and_found(chunk in chunk()) {
            let bytes = chunk.encode(b"key").expect("small");
            prop_assert_eq!(Chunk::decode(b"key", &bytes), Some(chunk.clone()));
            prop_assert_eq!(Chunk::decode(b"other", &bytes), None);
            for from in [0, 3, 100] {
                for (name, known) in chunk.iter() {
                    prop_assert_eq!(chunk.get_near(&mut from.clone(), name), Some(known));
                    prop_assert_eq!(chunk.get_near(&mut from.clone(), &format!("{name}0")), None);
                }
            }
        }

        #[test]
        fn a_changed_chunk_is_none(chunk in chunk(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = chunk.encode(b"key").expect("small");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Chunk::decode(b"key", &bytes), None);
            bytes[at] ^= 1 << bit;
            bytes.truncate(at);
            prop_assert_eq!(Chunk::decode(b"key", &bytes), None);
        }

        // Past the checksum, which whoever can write the store can make.
        #[test]
        fn hostile_bodies_never_panic_and_have_one_form(
            chunk in chunk(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), tail in any::<Vec<u8>>()
        ) {
            let mut bytes = chunk.encode(b"key").expect("small");
            bytes.truncate(bytes.len() - SUM_BYTES);
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(&tail);
            for body in [&bytes, &tail] {
                if let Some(chunk) = Chunk::decode_body(body) {
                    let again = chunk.encode(b"key").expect("small");
                    prop_assert_eq!(&again[..again.len() - SUM_BYTES], &body[..]);
                }
            }
        }
    }

    #[test]
    fn a_huge_count_allocates_nothing() {
        assert_eq!(Chunk::decode_body(&[VERSION, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
