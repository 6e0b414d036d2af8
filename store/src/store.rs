//! The store's handle: blocks, receipts, roots and small values, whatever keeps them.
//!
//! Checks every byte against its id; unaware of what tasks mean, of networks and of the terminal. What
//! keeps the bytes is a private backend: a directory, one over another, or memory.

mod here;
mod values;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::backend::Backend;
use crate::cid::{BlobId, Codec, IdPrefix, InvocationId, Link, OutputId, ReceiptId, TaskId, TreeId};
use crate::counters::{Counters, Counting};
use crate::dag;
use crate::error::{CommitError, GcError, OpenError, StoreError};
use crate::finding::Finding;
use crate::gc::{GcOptions, GcStats};
use crate::local::Local;
use crate::memory::Memory;
use crate::promote;
use crate::receipt::Via;
use crate::rows::{Kept, Op, Stored, Table, TaskRow};
use crate::sign::SignedReceipt;
use crate::terms::{Blob, Found, FoundTask, Hold, Kind, Lease, Options, Record, Take};
use crate::tree::{self, Node, Tree};
use crate::verify::{RebuildReport, VerifyOptions, VerifyReport};

/// Most results [`Store::resolve`] gives.
pub const MAX_RESOLVED: usize = 20;

/// Findings beyond these are not remembered: `verify` lists all.
const MAX_FINDINGS: usize = 100;

/// A store of blocks and receipts. Cheap to clone; all clones are one store.
///
/// What is put is readable at once through this handle and its clones, and durable after the next commit:
/// within [`Options::batch_ms`], after [`Options::batch_receipts`] receipts, at [`Store::flush`], or when the
/// last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Box<dyn Backend>,
    inline_max_bytes: u64,
    counting: Arc<Counting>,
    findings: Mutex<Vec<Finding>>,
    /// Large blobs that this handle read through and found to be what their ids say.
    whole: Mutex<FxHashSet<BlobId>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir`. A store that is not there yet is made by the first write; until then, and in
    /// a command that only reads, nothing is written and no thread is started.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let counting = Arc::new(Counting::default());
        let inline_max_bytes = options.inline_max_bytes;
        let backend = Local::open(dir, options, counting.clone())?;
        let store = Self::over(Box::new(backend), inline_max_bytes, counting);
        store.note_medium(dir);
        Ok(store)
    }

    /// Opens the store in `dir` with a new index, built from its journal and files; the old one is moved aside.
    /// For a store that [`Store::open`] refuses with [`OpenError::Index`]. No other process may be using it:
    /// waits up to `wait` for that.
    pub fn rebuild(dir: &Path, options: Options, wait: Duration) -> Result<(Self, RebuildReport), GcError> {
        let counting = Arc::new(Counting::default());
        let inline_max_bytes = options.inline_max_bytes;
        let (backend, report) = crate::local::rebuild(dir, options, counting.clone(), wait)?;
        Ok((Self::over(Box::new(backend), inline_max_bytes, counting), report))
    }

    /// A store that keeps everything in memory and behaves the same otherwise.
    pub fn memory(options: Options) -> Self {
        let counting = Arc::new(Counting::default());
        let inline_max_bytes = options.inline_max_bytes;
        Self::over(Box::new(Memory::new(options, counting.clone())), inline_max_bytes, counting)
    }

    pub(crate) fn over(backend: Box<dyn Backend>, inline_max_bytes: u64, counting: Arc<Counting>) -> Self {
        let (findings, whole) = Default::default();
        Self { inner: Arc::new(Inner { backend, inline_max_bytes, counting, findings, whole }) }
    }

    /// Notes that the store is on a network, if it is.
    pub(crate) fn note_medium(&self, dir: &Path) {
        if let Some(kind) = self.inner.backend.medium() {
            self.note_finding(Finding::Network { kind, dir: dir.to_owned() });
        }
    }

    /// A fresh directory on the store's file system, the caller's to delete.
    pub fn scratch_dir(&self) -> io::Result<PathBuf> {
        self.inner.backend.scratch_dir()
    }

    /// Where event logs are kept, one file a run; made when it is not there. `None` in memory.
    pub fn runs_dir(&self) -> Option<PathBuf> {
        self.inner.backend.runs_dir()
    }

    // Blocks.

    /// Keeps a block.
    pub fn put(&self, codec: Codec, bytes: Vec<u8>) -> Result<Link, StoreError> {
        let link = Link::of(codec, &bytes);
        if self.stored_in(self.inner.backend.written(), link)?.is_none() {
            self.put_new(link, bytes)?;
        }
        Ok(link)
    }

    fn put_new(&self, link: Link, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.inner.counting.put(bytes.len() as u64);
        if bytes.len() as u64 > self.inner.inline_max_bytes {
            self.inner.backend.put_large(link, &bytes)
        } else {
            self.inner.backend.push(vec![Op::Block(link, bytes.into())])
        }
    }

    /// Keeps a file's content. A file that changes meanwhile is kept as one of the states it had, or refused
    /// with an error; the id is that of what was kept.
    pub fn put_file(&self, path: &Path, take: Take) -> Result<(BlobId, u64), StoreError> {
        self.put_opened(path, File::open(path).map_err(|error| StoreError::io(path, error))?, take)
    }

    /// The same for one that was opened at `path` already: whatever stands there by now, its own content is copied.
    pub(crate) fn put_opened(&self, path: &Path, file: File, take: Take) -> Result<(BlobId, u64), StoreError> {
        self.inner.backend.put_file(path, file, take)
    }

    /// Keeps the nodes of a directory (not what its entries name).
    pub fn put_tree(&self, tree: &Tree) -> Result<TreeId, StoreError> {
        let encoded = tree.encode()?;
        self.put_nodes(encoded.nodes)?;
        Ok(encoded.id)
    }

    /// Keeps nodes of directories; which of them are here already is asked in one read of the index.
    pub(crate) fn put_nodes(&self, nodes: Vec<(TreeId, Vec<u8>)>) -> Result<(), StoreError> {
        let written = self.inner.backend.written();
        let links: Vec<Link> = nodes.iter().map(|(id, _)| id.link()).collect();
        let mut new = FxHashSet::default();
        for ((link, (_, bytes)), stored) in links.iter().zip(nodes).zip(written.blocks(&links)?) {
            if self.sound(written, *link, stored)?.is_none() && new.insert(*link) {
                self.put_new(*link, bytes)?;
            }
        }
        Ok(())
    }

    /// Where a block is, if it is here: a large one by the presence and size of its file.
    fn stored(&self, link: Link) -> Result<Option<Stored>, StoreError> {
        self.stored_in(&*self.inner.backend, link)
    }

    fn stored_in(&self, backend: &dyn Backend, link: Link) -> Result<Option<Stored>, StoreError> {
        self.sound(backend, link, backend.block(link)?)
    }

    /// What the index says of a block, if its file bears it out.
    fn sound(&self, backend: &dyn Backend, link: Link, stored: Option<Stored>) -> Result<Option<Stored>, StoreError> {
        self.inner.counting.has();
        if let Some(Stored::Large(size)) = stored {
            let found = backend.file_size(link)?;
            if found.is_none() {
                // Not written down: a command that only reads writes nothing. What makes it again replaces the row.
                self.note_finding(Finding::MissingFile { link });
                return Ok(None);
            }
            if found != Some(size) {
                self.corrupt(link);
                return Ok(None);
            }
        }
        Ok(stored)
    }

    /// Whether a block, or a receipt, is here.
    pub fn has(&self, link: Link) -> Result<bool, StoreError> {
        if self.stored(link)?.is_some() {
            return Ok(true);
        }
        Ok(link.codec == Codec::DagCbor && self.kept(ReceiptId::from_digest(link.digest))?.is_some())
    }

    /// A block's bytes, or a receipt's envelope; checked. One that is not what its id says counts as absent,
    /// is set aside and noted in [`Store::take_findings`].
    pub fn get(&self, link: Link, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let fits = |found_bytes: u64| {
            if found_bytes > limit_bytes {
                Err(StoreError::TooLarge { link, found_bytes, limit_bytes })
            } else {
                Ok(())
            }
        };
        let bytes = match self.stored(link)? {
            Some(Stored::Inline(bytes)) => {
                fits(bytes.len() as u64)?;
                bytes.to_vec()
            }
            Some(Stored::Large(size)) => {
                fits(size)?;
                let Some(bytes) = self.inner.backend.read_file(link, size)? else { return Ok(None) };
                bytes
            }
            None if link.codec == Codec::DagCbor => {
                let Some(kept) = self.kept(ReceiptId::from_digest(link.digest))? else { return Ok(None) };
                fits(kept.signed.bytes.len() as u64)?;
                return Ok(Some(kept.signed.bytes.clone()));
            }
            None => return Ok(None),
        };
        Ok(self.checked(link, bytes))
    }

    /// A block's bytes, if they are what its id says.
    fn checked(&self, link: Link, bytes: Vec<u8>) -> Option<Vec<u8>> {
        self.inner.counting.get(bytes.len() as u64);
        if Link::of(link.codec, &bytes) == link {
            return Some(bytes);
        }
        self.corrupt(link);
        None
    }

    /// Takes a block out of use whose content turned out, while it was copied, not to be what its id says.
    /// It counts as absent from then on; where the store cannot be written, for who asks next it is found again.
    pub fn corrupt(&self, link: Link) {
        let moved_to = self.inner.backend.set_aside(link).unwrap_or_default();
        self.note_finding(Finding::CorruptBlock { link, moved_to });
    }

    /// A file's content, in the form the store has it.
    pub fn blob(&self, id: BlobId) -> Result<Option<Blob>, StoreError> {
        Ok(self.blobs(&[id])?.pop().flatten())
    }

    /// The same for many, in the order of `ids`, in one read of the index. Small ones are all in memory then.
    pub fn blobs(&self, ids: &[BlobId]) -> Result<Vec<Option<Blob>>, StoreError> {
        let backend = &*self.inner.backend;
        let links: Vec<Link> = ids.iter().map(|id| id.link()).collect();
        let found = links.iter().zip(backend.blocks(&links)?).map(|(link, stored)| {
            Ok(match self.sound(backend, *link, stored)? {
                Some(Stored::Large(size)) => Some(Blob::File { path: backend.file(*link), size }),
                Some(Stored::Inline(bytes)) => self.checked(*link, bytes.to_vec()).map(Blob::Inline),
                None => None,
            })
        });
        found.collect()
    }

    /// A directory, its parts joined; `None` when a node of it is not here.
    pub fn tree(&self, id: TreeId) -> Result<Option<Tree>, StoreError> {
        let Some(node) = self.node(id)? else { return Ok(None) };
        let parts = match node {
            Node::Whole(tree) => return Ok(Some(tree)),
            Node::Parts(parts) => parts,
        };
        let mut trees = Vec::with_capacity(parts.len());
        for part in parts {
            match self.node(part)? {
                Some(Node::Whole(tree)) => trees.push(tree),
                Some(Node::Parts(_)) => return Err(tree::TreeError::Parts.into()),
                None => return Ok(None),
            }
        }
        Ok(Some(Tree::join(trees)?))
    }

    /// The same for ids that others name: a block that is no directory cannot be had as one, and counts as not here.
    pub fn directory(&self, id: TreeId) -> Result<Option<Tree>, StoreError> {
        match self.tree(id) {
            Err(StoreError::Tree(_) | StoreError::TooLarge { .. }) => Ok(None),
            found => found,
        }
    }

    fn node(&self, id: TreeId) -> Result<Option<Node>, StoreError> {
        let bytes = self.get(id.link(), tree::MAX_NODE_BYTES as u64)?;
        Ok(bytes.map(|bytes| Node::decode(&bytes)).transpose()?)
    }

    fn note_finding(&self, finding: Finding) {
        let mut findings = self.inner.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < MAX_FINDINGS && !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// What was found damaged since this was last asked.
    pub fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.inner.findings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    // Receipts.

    /// What is known of each task, in the order asked; one consistent view for all.
    pub fn find_tasks(&self, ids: &[TaskId]) -> Result<Vec<FoundTask>, StoreError> {
        self.inner.counting.lookups(ids.len() as u64);
        let mut found = self.inner.backend.tasks(ids)?;
        for task in &mut found {
            task.receipts.sort_unstable_by_key(|f| (f.signed.receipt.issued_at, f.signed.id));
        }
        self.inner.backend.used(&mut found.iter().flat_map(|t| t.receipts.iter().map(|f| f.signed.id)));
        Ok(found)
    }

    /// Receipts of each invocation, in the order asked, oldest first.
    pub fn find_invocations(&self, ids: &[InvocationId]) -> Result<Vec<Vec<Found>>, StoreError> {
        self.inner.counting.lookups(ids.len() as u64);
        let found = self.inner.backend.invocations(ids)?;
        let found: Vec<Vec<Found>> = found
            .into_iter()
            .map(|kept| {
                let mut list: Vec<_> = kept.into_iter().map(found_by_id).collect();
                list.sort_unstable_by_key(|f| (f.signed.receipt.issued_at, f.signed.id));
                list
            })
            .collect();
        self.inner.backend.used(&mut found.iter().flatten().map(|f| f.signed.id));
        Ok(found)
    }

    /// One receipt.
    pub fn receipt(&self, id: ReceiptId) -> Result<Option<Found>, StoreError> {
        self.inner.counting.lookups(1);
        Ok(self.kept(id)?.map(found_by_id))
    }

    fn kept(&self, id: ReceiptId) -> Result<Option<Kept>, StoreError> {
        Ok(self.inner.backend.receipts(&[id])?.pop().flatten())
    }

    /// Signs and keeps a receipt. Where its outcome is ok it becomes the accepted one of every task in
    /// `receipt.meta.settles`. Found at once by lookups through this handle.
    pub fn record(&self, record: Record) -> Result<(), StoreError> {
        for (link, bytes) in &record.blocks {
            if Link::of(link.codec, bytes) != *link {
                return Err(dag::DagError::Shape(format!("bytes given for {link} are not its own")).into());
            }
        }
        self.inner.backend.record(record)
    }

    /// Keeps a receipt made elsewhere, whose signature the caller has verified. It is found for the tasks it
    /// says it settles, as not ours, until [`Store::accept`] says more.
    pub fn import(&self, signed: SignedReceipt) -> Result<(), StoreError> {
        self.import_all(vec![signed], "")
    }

    /// The same for several, in one commit. `source` says where they come from; see [`Store::source_of`].
    pub fn import_all(&self, receipts: Vec<SignedReceipt>, source: &str) -> Result<(), StoreError> {
        let mut ops = vec![];
        for signed in receipts {
            let id = signed.id;
            if self.inner.backend.written().receipts(&[id])?.iter().any(Option::is_some) {
                continue;
            }
            let settles = signed.receipt.meta.settles.clone();
            ops.push(Op::Receipt(Kept { signed: Arc::new(signed), own: false }));
            ops.extend(settles.into_iter().map(|(task, via)| Op::Task(task, id, TaskRow { own: false, via })));
            if !source.is_empty() {
                ops.push(Op::Value(Table::Note, source_key(id), Some(source.as_bytes().to_vec())));
            }
        }
        if ops.is_empty() { Ok(()) } else { self.inner.backend.push(ops) }
    }

    /// Where a receipt that was made elsewhere came from, as whoever imported it said.
    pub fn source_of(&self, id: ReceiptId) -> Result<Option<String>, StoreError> {
        let value = self.inner.backend.value(Table::Note, &source_key(id))?;
        Ok(value.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Makes a receipt of this store the accepted one of a task.
    pub fn accept(&self, task: TaskId, receipt: ReceiptId, via: Via) -> Result<(), StoreError> {
        let kept = self.kept(receipt)?.ok_or(StoreError::UnknownReceipt(receipt))?;
        let Ok(output) = &kept.signed.receipt.out else { return Err(StoreError::NotOk(receipt)) };
        let row = TaskRow { own: true, via };
        self.inner.backend.push(vec![Op::Task(task, receipt, row), Op::Accept(task, receipt, output.id())])
    }

    /// Keeps a receipt of another store of the same user with the right it has there, and goes by it for a task.
    pub(crate) fn take_over(
        &self,
        task: TaskId,
        found: &Found,
        output: OutputId,
        source: Option<&str>,
    ) -> Result<(), StoreError> {
        let (signed, own) = (promote::verified(&found.signed)?, found.made_here);
        let id = signed.id;
        let settles = signed.receipt.meta.settles.clone();
        let mut ops = vec![Op::Receipt(Kept { signed, own })];
        ops.extend(settles.into_iter().map(|(task, via)| Op::Task(task, id, TaskRow { own, via })));
        ops.push(Op::Task(task, id, TaskRow { own: true, via: found.via.clone() }));
        ops.push(Op::Accept(task, id, output));
        if let Some(source) = source {
            ops.push(Op::Value(Table::Note, source_key(id), Some(source.as_bytes().to_vec())));
        }
        self.inner.backend.push(ops)
    }

    /// Returns when all that is queued is durable and every [`Record::done`] of it was called, or says why not.
    pub fn flush(&self) -> Result<(), CommitError> {
        self.inner.backend.flush()
    }

    // The rest.

    /// Takes the right to run an invocation; `None` while somebody else, in this process or another, has it.
    pub fn lease(&self, id: InvocationId) -> Result<Option<Lease>, StoreError> {
        self.inner.backend.lease(id)
    }

    /// Keeps collections away until dropped. The first write does so by itself, for as long as the store is open.
    pub fn hold(&self) -> Result<Hold, StoreError> {
        self.inner.backend.hold()
    }

    /// Whether this process may write the store at all. One that it may not serves what it has.
    pub fn can_be_written(&self) -> bool {
        self.inner.backend.can_be_written()
    }

    /// Remembers, as far as the store can be written, that something is put in `dir` under a name of the moment.
    pub(crate) fn placing(&self, dir: &Path) {
        // Without it a kill leaves a file that nobody sweeps, which is no reason not to go on.
        let _ = self.inner.backend.placing(dir);
    }

    /// It is still there: see [`crate::checkout::tidy`].
    pub(crate) fn unplaced(&self) {
        self.inner.backend.unplaced();
    }

    /// See [`crate::checkout::tidy`].
    pub(crate) fn abandoned(&self, deal: &mut dyn FnMut(u32, &Path) -> bool) {
        self.inner.backend.abandoned(deal);
    }

    /// Everything whose id begins so: at most [`MAX_RESOLVED`], in order of their digests.
    pub fn resolve(&self, prefix: &IdPrefix) -> Result<Vec<(Link, Kind)>, StoreError> {
        let (low, high) = prefix.digest_range();
        let mut found =
            self.inner.backend.scan(low, high, if low == [0; 32] && high == [0xff; 32] { 4096 } else { usize::MAX })?;
        found.retain(|(link, _)| prefix.matches(*link));
        found.truncate(MAX_RESOLVED);
        for (link, kind) in &mut found {
            if *kind == Kind::Block {
                *kind = match link.codec {
                    Codec::Raw => Kind::Blob,
                    Codec::DagCbor => self.kind_of_block(*link)?,
                };
            }
        }
        Ok(found)
    }

    fn kind_of_block(&self, link: Link) -> Result<Kind, StoreError> {
        match self.get(link, tree::MAX_NODE_BYTES as u64) {
            Ok(Some(bytes)) if Node::decode(&bytes).is_ok() => Ok(Kind::Tree),
            Ok(_) | Err(StoreError::TooLarge { .. }) => Ok(Kind::Block),
            Err(e) => Err(e),
        }
    }

    /// Deletes what is old or too much, least recently used first, and never what a root reaches.
    pub fn gc(&self, options: &GcOptions) -> Result<GcStats, GcError> {
        self.inner.backend.gc(options)
    }

    /// Checks everything the store says of itself, and repairs it when asked to.
    pub fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, StoreError> {
        self.inner.backend.verify(options)
    }

    /// What was done so far through this handle and its clones.
    pub fn counters(&self) -> Counters {
        self.inner.counting.read()
    }
}

fn source_key(id: ReceiptId) -> Vec<u8> {
    [&b"source:"[..], id.digest()].concat()
}

fn found_by_id(kept: Kept) -> Found {
    Found { signed: kept.signed, via: Via::new(), own: kept.own, made_here: kept.own }
}
