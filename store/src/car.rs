//! CAR files, version 1: a header that names roots, then blocks with their ids. The format, both ways, streamed.
//!
//! Knows sections and their bounds; unaware of what blocks mean and of stores. Normative text: `docs/formats/car.md`.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::car_read::{ImportOptions, Imported, import};
pub use crate::car_write::{Below, Elsewhere, ExportOptions, Exported, export, pack};
use crate::cid::{Codec, Link, ReceiptId};
use crate::dag::{self, DagError};
use crate::error::{CommitError, StoreError};
use crate::receipt::{MAX_RECEIPT_BYTES, ReceiptError};
use crate::tree::TreeError;

/// Largest header, in bytes: room for the names of 800,000 receipts.
pub const MAX_HEADER_BYTES: usize = 32 << 20;
/// Largest block with structure, in bytes: as large as the largest receipt or task.
pub const MAX_DAG_BYTES: u64 = MAX_RECEIPT_BYTES as u64;
/// Most blocks in a file.
pub const MAX_BLOCKS: usize = 2 << 20;
/// How every workflow begins, and no other block of quipu: a map of four, of which this is the first key.
pub const WORKFLOW_HEAD: &[u8] = b"\xa4\x65goals";
/// Longest form of a length: 63 bits.
const MAX_VARINT_BYTES: usize = 9;
/// An id in binary form.
const LINK_BYTES: u64 = 36;
const CHUNK_BYTES: usize = 128 << 10;

/// Why a CAR file cannot be read, or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarError {
    /// The file, or a pipe, said no.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Does not begin as a CAR file does.
    #[error("not a CAR file: {0}")]
    Header(String),
    /// A CAR file of another version.
    #[error("a CAR file of version {0}; this quipu reads version 1")]
    Version(u64),
    /// Its roots are none, or one of them twice.
    #[error("its header does not name receipts or workflows, each once")]
    Roots,
    /// It ends where there should be more.
    #[error("it ends at byte {at}, in the middle of something")]
    Truncated {
        /// Where.
        at: u64,
    },
    /// A length in no valid form.
    #[error("at byte {at}: a length that is zero, too long, or not in its shortest form")]
    Length {
        /// Where.
        at: u64,
    },
    /// An id of another kind.
    #[error("at byte {at}: a block whose id is no CIDv1 of BLAKE3-256 with codec raw or dag-cbor")]
    Id {
        /// Where.
        at: u64,
    },
    /// A block that is not what its id says.
    #[error("at byte {at}: block {link} has other bytes than its id says")]
    Mismatch {
        /// Where.
        at: u64,
        /// What was claimed.
        link: Link,
    },
    /// A block with structure larger than any may be.
    #[error(
        "at byte {at}: block {link} has {found_bytes} bytes, more than the {MAX_DAG_BYTES} a block with structure may have"
    )]
    TooLarge {
        /// Where.
        at: u64,
        /// Its id.
        link: Link,
        /// Its claimed size.
        found_bytes: u64,
    },
    /// Larger than the person allows.
    #[error("it is larger than the {0} bytes allowed")]
    Budget(u64),
    /// More blocks than any file may have.
    #[error("it has more than {MAX_BLOCKS} blocks; export in parts")]
    TooMany,
    /// A root that is nowhere.
    #[error("receipt {0} is named by its header, and neither in it nor in this store")]
    MissingRoot(Link),
    /// A root that is no valid receipt.
    #[error("{id}: {source}")]
    Receipt {
        /// The root.
        id: ReceiptId,
        /// What is wrong with it.
        source: ReceiptError,
    },
    /// A directory that cannot be one, or must not be made.
    #[error("directory {link}: {why}")]
    Tree {
        /// Its node.
        link: Link,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a directory or receipt that has another size than is said.
    #[error("{link} has {found_bytes} bytes, and is said to have {expected_bytes}")]
    Size {
        /// The file's content.
        link: Link,
        /// What is said.
        expected_bytes: u64,
        /// What it has.
        found_bytes: u64,
    },
    /// A block that is not in canonical form.
    #[error("{link}: {source}")]
    Block {
        /// Its id.
        link: Link,
        /// What is wrong with it.
        source: DagError,
    },
    /// Content of this store turned out to be damaged.
    #[error("{0} is damaged in this store")]
    Damaged(Link),
    /// A source that was changed while it was exported.
    #[error("`{}` changed while it was exported", .0.display())]
    Changed(PathBuf),
    /// A receipt to be exported that is not here.
    #[error("receipt {0} is not in this store")]
    UnknownReceipt(ReceiptId),
    /// Reading or writing the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl CarError {
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn tree(link: impl Into<Link>) -> impl Fn(TreeError) -> Self {
        let link = link.into();
        move |e| Self::Tree { link, why: e.to_string() }
    }

    /// Whether the file is at fault, rather than this machine.
    pub fn is_bad_file(&self) -> bool {
        let here = matches!(self, Self::Damaged(_) | Self::Changed(_) | Self::UnknownReceipt(_));
        !here && !matches!(self, Self::Io { .. } | Self::Store(_) | Self::Commit(_))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireHeader {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roots: Option<Vec<Link>>,
    version: u64,
}

/// Writes sections.
pub(crate) struct Writer<W> {
    to: W,
    pub(crate) bytes: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(to: W, roots: &[ReceiptId]) -> Result<Self, CarError> {
        Self::of(to, &roots.iter().map(|id| id.link()).collect::<Vec<_>>())
    }

    pub(crate) fn of(to: W, roots: &[Link]) -> Result<Self, CarError> {
        let roots = Some(roots.to_vec());
        let header = dag::encode(&WireHeader { roots, version: 1 }).expect("links and a number have a canonical form");
        if header.len() > MAX_HEADER_BYTES {
            return Err(CarError::TooMany);
        }
        let mut writer = Self { to, bytes: 0 };
        writer.length(header.len() as u64)?;
        writer.all(&header)?;
        Ok(writer)
    }

    fn all(&mut self, bytes: &[u8]) -> Result<(), CarError> {
        self.to.write_all(bytes).map_err(CarError::io("cannot write the file"))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn length(&mut self, n: u64) -> Result<(), CarError> {
        let (bytes, len) = varint(n);
        self.all(&bytes[..len])
    }

    /// Writes a block that is at hand.
    pub(crate) fn block(&mut self, link: Link, bytes: &[u8]) -> Result<(), CarError> {
        self.length(LINK_BYTES + bytes.len() as u64)?;
        self.all(&link.to_bytes())?;
        self.all(bytes)
    }

    /// Writes a block of `size` bytes from a reader; what has other content, or another size, is an error.
    pub(crate) fn stream(&mut self, link: Link, size: u64, from: &mut dyn Read) -> Result<(), CarError> {
        self.length(LINK_BYTES + size)?;
        self.all(&link.to_bytes())?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; CHUNK_BYTES]);
        let mut left = size;
        while left > 0 {
            let most = left.min(CHUNK_BYTES as u64) as usize;
            match from.read(&mut buffer[..most]) {
                Ok(0) => return Err(CarError::Damaged(link)),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    self.all(&buffer[..n])?;
                    left -= n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(CarError::io("cannot read from the store")(e)),
            }
        }
        if *hasher.finalize().as_bytes() == link.digest { Ok(()) } else { Err(CarError::Damaged(link)) }
    }

    pub(crate) fn finish(mut self) -> Result<u64, CarError> {
        self.to.flush().map_err(CarError::io("cannot write the file"))?;
        Ok(self.bytes)
    }
}

/// Reads what [`pack`] wrote: envelopes whose bytes are those of their ids, and of which nothing else is believed.
pub fn unpack(from: impl Read, max_bytes: u64) -> Result<Vec<Vec<u8>>, CarError> {
    let (mut reader, _) = Reader::open(from, max_bytes)?;
    let mut envelopes = vec![];
    while let Some(section) = reader.next()? {
        let mut bytes = vec![];
        reader.body(section, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        envelopes.push(bytes);
    }
    Ok(envelopes)
}

/// An unsigned LEB128 in its shortest form.
fn varint(mut n: u64) -> ([u8; MAX_VARINT_BYTES + 1], usize) {
    let (mut out, mut len) = ([0; MAX_VARINT_BYTES + 1], 0);
    loop {
        out[len] = (n & 0x7f) as u8 | if n > 0x7f { 0x80 } else { 0 };
        (n, len) = (n >> 7, len + 1);
        if n == 0 {
            return (out, len);
        }
    }
}

/// Reads sections, one after the other, each only as far as it is asked for.
pub(crate) struct Reader<R> {
    from: R,
    at: u64,
    max_bytes: u64,
}

/// A section whose block has not been read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) link: Link,
    pub(crate) size: u64,
    at: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the header. Nothing beyond `max_bytes` will be read.
    pub(crate) fn open(from: R, max_bytes: u64) -> Result<(Self, Vec<ReceiptId>), CarError> {
        let mut reader = Self { from, at: 0, max_bytes };
        let header = |why: &str| CarError::Header(why.to_owned());
        let len = reader.length()?.ok_or_else(|| header("it is empty"))?;
        if len > MAX_HEADER_BYTES as u64 {
            return Err(header("its header is too large"));
        }
        let mut bytes = vec![];
        reader.take(len, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        let wire: WireHeader =
            dag::decode(&bytes, MAX_HEADER_BYTES).map_err(|e| CarError::Header(format!("its header: {e}")))?;
        if wire.version != 1 {
            return Err(CarError::Version(wire.version));
        }
        let roots = wire.roots.ok_or(CarError::Roots)?;
        let roots = roots.into_iter().map(ReceiptId::try_from).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|_| CarError::Roots)?;
        let mut sorted = roots.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if roots.is_empty() || sorted.len() != roots.len() {
            return Err(CarError::Roots);
        }
        Ok((reader, roots))
    }

    /// The next section; `None` at the end of the file. The one before must have been read.
    pub(crate) fn next(&mut self) -> Result<Option<Section>, CarError> {
        let at = self.at;
        let Some(len) = self.length()? else { return Ok(None) };
        let size = len.checked_sub(LINK_BYTES).ok_or(CarError::Id { at })?;
        let mut bytes = [0; LINK_BYTES as usize];
        let mut filled = 0;
        self.take(LINK_BYTES, |part| {
            bytes[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
            Ok(())
        })?;
        let link = Link::from_bytes(&bytes).ok_or(CarError::Id { at })?;
        if link.codec == Codec::DagCbor && size > MAX_DAG_BYTES {
            return Err(CarError::TooLarge { at, link, found_bytes: size });
        }
        Ok(Some(Section { link, size, at }))
    }

    /// Hands the block's bytes to `sink`, part by part, and checks them against the id. What a sink has got is of
    /// no use before this has returned.
    pub(crate) fn body(
        &mut self,
        section: Section,
        mut sink: impl FnMut(&[u8]) -> Result<(), CarError>,
    ) -> Result<(), CarError> {
        let mut hasher = blake3::Hasher::new();
        self.take(section.size, |part| {
            hasher.update(part);
            sink(part)
        })?;
        let Section { link, at, .. } = section;
        if *hasher.finalize().as_bytes() == link.digest { Ok(()) } else { Err(CarError::Mismatch { at, link }) }
    }

    /// Reads exactly `len` bytes in parts: memory is taken for what comes, not for what is claimed.
    fn take(&mut self, len: u64, mut sink: impl FnMut(&[u8]) -> Result<(), CarError>) -> Result<(), CarError> {
        if self.at.saturating_add(len) > self.max_bytes {
            return Err(CarError::Budget(self.max_bytes));
        }
        let mut left = len;
        let mut buffer = [0; 8 << 10];
        let mut large = vec![];
        let buffer = if len > buffer.len() as u64 {
            large.resize(CHUNK_BYTES, 0);
            &mut large[..]
        } else {
            &mut buffer[..]
        };
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            match self.from.read(&mut buffer[..most]) {
                Ok(0) => return Err(CarError::Truncated { at: self.at }),
                Ok(n) => {
                    self.at += n as u64;
                    left -= n as u64;
                    sink(&buffer[..n])?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(CarError::io("cannot read the file")(e)),
            }
        }
        Ok(())
    }

    /// A length in its shortest form, not zero; `None` at the end of the file.
    fn length(&mut self) -> Result<Option<u64>, CarError> {
        let start = self.at;
        let mut n = 0_u64;
        for i in 0..MAX_VARINT_BYTES {
            let mut byte = [0];
            loop {
                match self.from.read(&mut byte) {
                    Ok(0) if i == 0 => return Ok(None),
                    Ok(0) => return Err(CarError::Truncated { at: self.at }),
                    Ok(_) => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(CarError::io("cannot read the file")(e)),
                }
            }
            self.at += 1;
            if self.at > self.max_bytes {
                return Err(CarError::Budget(self.max_bytes));
            }
            n |= u64::from(byte[0] & 0x7f) << (7 * i);
            if byte[0] & 0x80 == 0 {
                // A last byte of zero would have been left out.
                return if byte[0] == 0 { Err(CarError::Length { at: start }) } else { Ok(Some(n)) };
            }
        }
        Err(CarError::Length { at: start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::BlobId;

    fn read(bytes: &[u8]) -> Result<Vec<(Link, Vec<u8>)>, CarError> {
        let (mut reader, _) = Reader::open(bytes, u64::MAX)?;
        let mut blocks = vec![];
        while let Some(section) = reader.next()? {
            let mut block = vec![];
            reader.body(section, |part| {
                block.extend_from_slice(part);
                Ok(())
            })?;
            blocks.push((section.link, block));
        }
        Ok(blocks)
    }

    fn file(blocks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![];
        let mut writer = Writer::new(&mut bytes, &[ReceiptId::of(b"r")]).expect("a small header");
        for block in blocks {
            writer.block(BlobId::of(block).link(), block).expect("written to memory");
        }
        writer.finish().expect("written to memory");
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let large = vec![7; 300_000];
        let blocks = [&b""[..], b"one", &large];
        let expected: Vec<_> = blocks.iter().map(|b| (BlobId::of(b).link(), b.to_vec())).collect();
        assert_eq!(read(&file(&blocks)).expect("reads"), expected);
    }

    #[test]
    fn lengths_have_one_form() {
        for n in [1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), (1 << 63) - 1] {
            let (bytes, len) = varint(n);
            let mut reader = Reader { from: &bytes[..len], at: 0, max_bytes: 99 };
            assert_eq!(reader.length().expect("valid"), Some(n));
        }
        for bad in [&b"\x00"[..], b"\x80\x00", b"\x81\x80\x00", &[0x80; 9], &[0xff; 20]] {
            let mut reader = Reader { from: bad, at: 0, max_bytes: 99 };
            assert!(matches!(reader.length(), Err(CarError::Length { at: 0 })), "{bad:x?}");
        }
    }

    #[test]
    fn hostile_headers_and_lengths_are_refused_before_memory_is_taken() {
        let claims = |header: &[u8]| [&varint(header.len() as u64).0[..varint(header.len() as u64).1], header].concat();
        // A header of 2^62 bytes, one of 33 MiB, CARv2's pragma, no roots, an empty list of them, another shape.
        let huge = varint(1 << 62).0;
        let over = [&varint((MAX_HEADER_BYTES as u64) + 1).0[..4], &[0; 64]].concat();
        assert!(matches!(read(&huge), Err(CarError::Header(_))));
        assert!(matches!(read(&over), Err(CarError::Header(_))));
        assert!(matches!(read(b"\x0a\xa1\x67version\x02"), Err(CarError::Version(2))));
        assert!(matches!(read(&claims(b"\xa1\x67version\x01")), Err(CarError::Roots)));
        assert!(matches!(read(&claims(b"\xa2\x65roots\x80\x67version\x01")), Err(CarError::Roots)));
        assert!(matches!(read(&claims(b"\xa2\x67version\x01\x65roots\x80")), Err(CarError::Header(_))));
        assert!(matches!(read(b""), Err(CarError::Header(_))));
        assert!(
            read(&b"PK\x03\x04 not a CAR at all, but long enough to hold a header, were it one".repeat(2)).is_err()
        );
        // A block that claims 2^60 bytes: the file ends first, and memory was taken for what came only.
        let mut bytes = file(&[b"one"]);
        bytes.extend_from_slice(&varint(1 << 60).0[..varint(1 << 60).1]);
        bytes.extend_from_slice(&BlobId::of(b"x").link().to_bytes());
        bytes.extend_from_slice(&[0; 100]);
        assert!(matches!(read(&bytes), Err(CarError::Truncated { .. })));
        let (mut reader, _) = Reader::open(&bytes[..], 1 << 20).expect("the header is good");
        let first = reader.next().expect("good").expect("there");
        reader.body(first, |_| Ok(())).expect("good");
        let second = reader.next().expect("its id is good").expect("there");
        assert!(matches!(reader.body(second, |_| Ok(())), Err(CarError::Budget(_))));
    }

    #[test]
    fn blocks_by_other_hashes_and_too_short_ones_are_refused() {
        let good = file(&[b"one"]);
        let start = good.len() - 36 - 3;
        for (at, byte) in [(0, 2), (1, 0x70), (2, 0x12), (3, 31)] {
            let mut bad = good.clone();
            bad[start + at] = byte;
            assert!(matches!(read(&bad), Err(CarError::Id { .. })), "{at}");
        }
        let mut short = file(&[]);
        short.extend_from_slice(&[3, 1, 0x55, 0]);
        assert!(matches!(read(&short), Err(CarError::Id { .. })));
        let mut changed = good;
        *changed.last_mut().expect("not empty") ^= 1;
        assert!(matches!(read(&changed), Err(CarError::Mismatch { .. })));
    }
}
