//! The journal: what was committed, once more, in segment files from which the index can be rebuilt.
//!
//! Knows frames and their checksums; unaware of the index. A frame is what was appended at once. A torn end is no
//! damage: each process appends to a segment of its own, and begins another after a failed write. While it does, a mark
//! says how much of the segment the index has: see `ahead`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ahead::Mark;
use super::fault::Faults;
use super::layout::Layout;
use super::tables::{pack_task, unpack_task};
use crate::cid::{Link, OutputId, ReceiptId, TaskId};
use crate::rows::{Kept, Op, Table};
use crate::sign::SignedReceipt;

const MAGIC: &[u8] = b"quipu receipts 1\n";
const FRAME_HEAD_BYTES: usize = 4 + 32;
/// A segment longer than this is followed by another.
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// No batch is larger: the queue is bounded below this.
const MAX_FRAME_BYTES: u32 = 1 << 30;

/// A frame without its head: its time, which is not known yet, and changes.
const EMPTY_BYTES: usize = FRAME_HEAD_BYTES + 8;

/// Changes as they will stand in a frame.
pub(crate) struct Payload(Vec<u8>);

impl Payload {
    /// Of these, in order. Those that the journal says nothing of are left out.
    pub(crate) fn of<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let mut bytes = vec![0; EMPTY_BYTES];
        ops.into_iter().for_each(|op| encode(op, &mut bytes));
        Self(bytes)
    }
}

/// The segment this process appends to.
#[derive(Debug)]
pub(crate) struct Journal {
    layout: Layout,
    faults: Faults,
    segment: Option<Segment>,
    /// Segments that are not appended to any more, of which the index may lack something.
    behind: Vec<Segment>,
}

/// A segment of this process.
#[derive(Debug)]
struct Segment {
    file: File,
    length: u64,
    /// How much of it the index has. A segment that replaces others has no mark: it says nothing new.
    mark: Option<Mark>,
}

impl Journal {
    pub(crate) fn new(layout: Layout, faults: Faults) -> Self {
        Self { layout, faults, segment: None, behind: vec![] }
    }

    /// Appends one frame; how many bytes that took. Not synced: see `docs/design/store.md`, Assumptions.
    pub(crate) fn append(&mut self, Payload(mut frame): Payload) -> io::Result<u64> {
        if frame.len() == EMPTY_BYTES {
            return Ok(0);
        }
        let (head, payload) = frame.split_at_mut(FRAME_HEAD_BYTES);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        payload[..8].copy_from_slice(&u64::try_from(nanos).unwrap_or(u64::MAX).to_le_bytes());
        let length = u32::try_from(payload.len()).ok().filter(|n| *n <= MAX_FRAME_BYTES);
        let length = length.ok_or_else(|| io::Error::other("batch is larger than a journal frame may be"))?;
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(blake3::hash(payload).as_bytes());
        let appended = self.write(&frame);
        if appended.is_err() {
            // Its end may be torn; what follows goes where it can be read.
            self.behind.extend(self.segment.take());
        }
        appended.map(|()| frame.len() as u64)
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.segment.as_ref().is_some_and(|segment| segment.length > MAX_SEGMENT_BYTES) {
            self.behind.extend(self.segment.take());
        }
        if self.segment.is_none() {
            self.faults.check("open")?;
            let (path, mut file) = create(&self.layout.segments(), "seg")?;
            file.write_all(MAGIC)?;
            let length = MAGIC.len() as u64;
            self.segment = Some(Segment { file, length, mark: Some(Mark::make(&self.layout, &path, length)?) });
        }
        let segment = self.segment.as_mut().expect("made above");
        for part in self.faults.parts(frame) {
            self.faults.check("write")?;
            segment.file.write_all(part)?;
        }
        segment.length += frame.len() as u64;
        Ok(())
    }

    /// The index has all that was appended.
    pub(crate) fn settle(&mut self) {
        self.behind.clear();
        if let Some(Segment { length, mark: Some(mark), .. }) = &mut self.segment {
            mark.settle(*length);
        }
    }

    /// What is appended next goes to a new segment.
    pub(crate) fn close(&mut self) {
        self.behind.clear();
        self.segment = None;
    }
}

fn create(dir: &Path, extension: &str) -> io::Result<(PathBuf, File)> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for n in 0_u32.. {
        let path = dir.join(format!("{seconds:010}-{}-{n}.{extension}", std::process::id()));
        match OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
    unreachable!("there are more numbers than files")
}

/// Every segment, in order of names.
pub(crate) fn segments(layout: &Layout) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(layout.segments()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "seg"));
    paths.sort();
    Ok(paths)
}

/// Where a batch is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame {
    /// When it was appended, in nanoseconds since 1970, by the clock of the time.
    at: u64,
    path: PathBuf,
    pub(crate) offset_bytes: u64,
    length: u32,
}

/// The frames of one segment that are whole, and where it is damaged, if it is: a torn end is not damage.
pub(crate) fn frames(path: &Path) -> io::Result<(Vec<Frame>, Option<u64>)> {
    let mut file = io::BufReader::new(File::open(path)?);
    let size = file.get_ref().metadata()?.len();
    let mut frames = Vec::new();
    let mut magic = vec![0; MAGIC.len()];
    if size < MAGIC.len() as u64 {
        return Ok((frames, None));
    }
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Ok((frames, Some(0)));
    }
    let mut offset = MAGIC.len() as u64;
    let mut payload = Vec::new();
    while offset + FRAME_HEAD_BYTES as u64 <= size {
        let mut head = [0; FRAME_HEAD_BYTES];
        file.read_exact(&mut head)?;
        let (length, sum) = head.split_first_chunk::<4>().expect("a head begins with 4 bytes");
        let length = u32::from_le_bytes(*length);
        let end = offset + FRAME_HEAD_BYTES as u64 + u64::from(length);
        // Cut off, or space that was given to the file and never written.
        if end > size || length == 0 {
            return Ok((frames, None));
        }
        if !(8..=MAX_FRAME_BYTES).contains(&length) {
            return Ok((frames, Some(offset)));
        }
        payload.resize(length as usize, 0);
        file.read_exact(&mut payload)?;
        if blake3::hash(&payload).as_bytes() != sum {
            // The very last frame may have reached the medium in part, whatever its length says.
            return Ok((frames, (end < size).then_some(offset)));
        }
        let at = u64::from_le_bytes(*payload.first_chunk().expect("at least 8 bytes"));
        frames.push(Frame { at, path: path.to_owned(), offset_bytes: offset, length });
        offset = end;
    }
    Ok((frames, None))
}

/// The changes of a batch, checked once more. Receipts are verified: they may have lain here for long.
pub(crate) fn read(frame: &Frame) -> io::Result<Vec<Op>> {
    let mut file = File::open(&frame.path)?;
    file.seek(SeekFrom::Start(frame.offset_bytes))?;
    let mut head = [0; FRAME_HEAD_BYTES];
    file.read_exact(&mut head)?;
    let mut payload = vec![0; frame.length as usize];
    file.read_exact(&mut payload)?;
    if blake3::hash(&payload).as_bytes() != &head[4..] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "journal frame changed while it was read"));
    }
    let mut rest = &payload[8..];
    let mut ops = Vec::new();
    while !rest.is_empty() {
        match decode(&mut rest) {
            Some(op) => ops.extend(op),
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "journal frame has an unknown entry")),
        }
    }
    Ok(ops)
}

/// A new segment that is to replace older ones: invisible until it is finished.
pub(crate) struct Rewrite {
    journal: Journal,
    temp: PathBuf,
}

impl Rewrite {
    pub(crate) fn begin(layout: &Layout, faults: &Faults) -> io::Result<Self> {
        faults.check("open")?;
        let (temp, mut file) = create(&layout.tmp(), "new")?;
        file.write_all(MAGIC)?;
        // The limit of a segment does not hold here: there is one name to appear at once.
        let segment = Some(Segment { file, length: 0, mark: None });
        Ok(Self { journal: Journal { segment, ..Journal::new(layout.clone(), faults.clone()) }, temp })
    }

    pub(crate) fn append<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) -> io::Result<u64> {
        let appended = self.journal.append(Payload::of(ops))?;
        if let Some(segment) = &mut self.journal.segment {
            segment.length = 0;
        }
        Ok(appended)
    }

    /// Makes it durable and visible, and only then deletes those it replaces.
    pub(crate) fn finish(mut self, replaced: &[PathBuf]) -> io::Result<()> {
        let layout = self.journal.layout.clone();
        let segment = self.journal.segment.take().expect("taken here only");
        self.journal.faults.check("sync")?;
        segment.file.sync_all()?;
        let mut n = 0_u32;
        let path = loop {
            let path = layout.segments().join(format!("0000000000-{}-{n}.seg", std::process::id()));
            if !path.exists() {
                break path;
            }
            n += 1;
        };
        self.journal.faults.check("rename")?;
        fs::rename(&self.temp, &path)?;
        File::open(layout.segments())?.sync_all()?;
        for old in replaced {
            self.journal.faults.check("delete")?;
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

impl Drop for Rewrite {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temp);
    }
}

const BLOCK: u8 = 1;
const LARGE: u8 = 2;
const FORGET: u8 = 3;
const RECEIPT: u8 = 4;
const TASK: u8 = 5;
const ACCEPT: u8 = 6;
const ROOT: u8 = 7;
const NO_ROOT: u8 = 8;

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(bytes.len()).expect("a batch is bounded far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Stat chunks and notes are not kept: they can be had again.
fn encode(op: &Op, out: &mut Vec<u8>) {
    match op {
        Op::Block(link, bytes) => {
            out.push(BLOCK);
            out.extend_from_slice(&link.to_bytes());
            put_bytes(bytes, out);
        }
        Op::Large(link, size) => {
            out.push(LARGE);
            out.extend_from_slice(&link.to_bytes());
            out.extend_from_slice(&size.to_le_bytes());
        }
        Op::Forget(link) => {
            out.push(FORGET);
            out.extend_from_slice(&link.to_bytes());
        }
        Op::Receipt(kept) => {
            out.extend_from_slice(&[RECEIPT, u8::from(kept.own)]);
            put_bytes(&kept.signed.bytes, out);
        }
        Op::Task(task, receipt, row) => {
            out.push(TASK);
            out.extend_from_slice(task.digest());
            out.extend_from_slice(receipt.digest());
            put_bytes(&pack_task(row), out);
        }
        Op::Accept(task, receipt, output) => {
            out.push(ACCEPT);
            out.extend_from_slice(task.digest());
            out.extend_from_slice(receipt.digest());
            out.extend_from_slice(output.digest());
        }
        Op::Value(Table::Root, name, Some(root)) => {
            out.push(ROOT);
            put_bytes(name, out);
            put_bytes(root, out);
        }
        Op::Value(Table::Root, name, None) => {
            out.push(NO_ROOT);
            put_bytes(name, out);
        }
        Op::Value(Table::Stat | Table::Note, ..) => {}
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(n)?;
    *rest = left;
    Some(taken)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, length as usize)
}

fn take_digest(rest: &mut &[u8]) -> Option<[u8; 32]> {
    take(rest, 32)?.try_into().ok()
}

/// `Some(None)` is an entry that was readable and is not what it should be.
fn decode(rest: &mut &[u8]) -> Option<Option<Op>> {
    let tag = take(rest, 1)?[0];
    Some(match tag {
        BLOCK => {
            let link = Link::from_bytes(take(rest, 36)?)?;
            let bytes = take_bytes(rest)?;
            (Link::of(link.codec, bytes) == link).then(|| Op::Block(link, Arc::from(bytes)))
        }
        LARGE => {
            let link = Link::from_bytes(take(rest, 36)?)?;
            Some(Op::Large(link, u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)))
        }
        FORGET => Some(Op::Forget(Link::from_bytes(take(rest, 36)?)?)),
        RECEIPT => {
            let own = take(rest, 1)?[0] == 1;
            let signed = SignedReceipt::verify(take_bytes(rest)?).ok();
            signed.map(|signed| Op::Receipt(Kept { signed: Arc::new(signed), own }))
        }
        TASK => {
            let (task, receipt) = (take_digest(rest)?, take_digest(rest)?);
            let row = unpack_task(take_bytes(rest)?)?;
            Some(Op::Task(TaskId::from_digest(task), ReceiptId::from_digest(receipt), row))
        }
        ACCEPT => {
            let (task, receipt, output) = (take_digest(rest)?, take_digest(rest)?, take_digest(rest)?);
            Some(Op::Accept(TaskId::from_digest(task), ReceiptId::from_digest(receipt), OutputId::from_digest(output)))
        }
        ROOT => {
            let (name, root) = (take_bytes(rest)?, take_bytes(rest)?);
            Some(Op::Value(Table::Root, name.to_vec(), Some(root.to_vec())))
        }
        NO_ROOT => Some(Op::Value(Table::Root, take_bytes(rest)?.to_vec(), None)),
        _ => return None,
    })
}

/// Every whole frame of every segment in the order of their making, and the damaged places.
pub(crate) fn all(layout: &Layout) -> io::Result<(Vec<Frame>, BTreeMap<PathBuf, u64>)> {
    let mut found = Vec::new();
    let mut damaged = BTreeMap::new();
    for path in segments(layout)? {
        let (frames, damage) = frames(&path)?;
        found.extend(frames);
        damaged.extend(damage.map(|offset| (path, offset)));
    }
    found.sort();
    Ok((found, damaged))
}
