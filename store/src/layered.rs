//! A name space over `default`: reads see both, the name space first; writes go to the name space alone.
//!
//! What is written is whole by itself: whether a block is there before it is kept is asked of the name space. What is
//! found behind and gone by all the same (a receipt accepted for one more task, a block that turned out damaged) is noted
//! here, and never there. Unaware of what keeps either.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustc_hash::FxHashSet;

use crate::backend::{Backend, Pair};
use crate::cid::{BlobId, InvocationId, Link, OutputId, ReceiptId, TaskId};
use crate::error::{CommitError, GcError, StoreError};
use crate::gc::{GcOptions, GcStats};
use crate::local::{pack_task, unpack_task};
use crate::rows::{Kept, Op, Stored, Table, TaskRow};
use crate::terms::{Found, FoundTask, Held, Hold, Kind, Lease, Record, Take};
use crate::verify::{VerifyOptions, VerifyReport};

/// Of notes with this before their key only one's own count: what a run of the name space left to go on with.
const OWN_NOTES: &[u8] = b"session:";

pub(crate) struct Layered {
    front: Box<dyn Backend>,
    behind: Box<dyn Backend>,
    /// Blocks behind that are not what their ids say. Whoever uses that store finds and mends them.
    spoilt: Mutex<FxHashSet<Link>>,
    /// Values behind that are to be dropped.
    dropped: Mutex<FxHashSet<(Table, Vec<u8>)>>,
    /// Keeps collections away from what is read behind, from the first write on.
    holding: OnceLock<Option<Hold>>,
}

/// Who has a block, and how.
type Holder<'l> = (&'l dyn Backend, Stored);

impl Layered {
    pub(crate) fn new(front: Box<dyn Backend>, behind: Box<dyn Backend>) -> Self {
        let (spoilt, dropped, holding) = Default::default();
        Self { front, behind, spoilt, dropped, holding }
    }

    /// Where blocks are read. A file in front that is not whole is no match for one behind.
    fn holders(&self, links: &[Link]) -> Result<Vec<Option<Holder<'_>>>, StoreError> {
        let (front, behind) = (&*self.front, &*self.behind);
        let in_front = front.blocks(links)?;
        let mut open = Vec::new();
        for (n, (link, stored)) in links.iter().zip(&in_front).enumerate() {
            let is_whole = match stored {
                Some(Stored::Large(size)) => front.file_size(*link)? == Some(*size),
                Some(Stored::Inline(_)) => true,
                None => false,
            };
            if !is_whole && !self.spoilt.lock().unwrap_or_else(PoisonError::into_inner).contains(link) {
                open.push(n);
            }
        }
        let mut found: Vec<_> = in_front.into_iter().map(|stored| Some((front, stored?))).collect();
        if !open.is_empty() {
            let asked: Vec<Link> = open.iter().map(|n| links[*n]).collect();
            for (n, stored) in open.into_iter().zip(behind.blocks(&asked)?) {
                found[n] = stored.map(|stored| (behind, stored)).or(found[n].take());
            }
        }
        Ok(found)
    }

    fn reader(&self, link: Link) -> Result<&dyn Backend, StoreError> {
        Ok(self.holders(&[link])?.pop().flatten().map_or(&*self.front, |(backend, _)| backend))
    }

    /// Work begins that may go by what is behind.
    fn begin(&self) {
        // Where it cannot be kept from a collection, what is collected runs again when it is needed.
        self.holding.get_or_init(|| self.behind.hold_if_there());
    }

    /// What the name space goes by for a task whose receipt is behind.
    fn gone_by(&self, task: TaskId) -> Result<Option<GoneBy>, StoreError> {
        Ok(self.front.value(Table::Note, &GoneBy::key(task))?.and_then(|note| GoneBy::read(&note)))
    }

    /// Remembers whether a value behind is to be seen.
    fn shadow(&self, table: Table, key: &[u8], is_dropped: bool) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if is_dropped {
            dropped.insert((table, key.to_vec()))
        } else {
            dropped.remove(&(table, key.to_vec()))
        };
    }

    /// Changes as the name space keeps them: a row that names a receipt behind would lead nowhere there.
    fn own(&self, ops: Vec<Op>) -> Result<Vec<Op>, StoreError> {
        let mut here: FxHashSet<ReceiptId> = FxHashSet::default();
        let mut own = Vec::with_capacity(ops.len());
        let mut rows: BTreeMap<(TaskId, ReceiptId), TaskRow> = BTreeMap::new();
        for op in ops {
            let (task, receipt) = match &op {
                Op::Task(task, receipt, _) | Op::Accept(task, receipt, _) => (*task, *receipt),
                other => {
                    match other {
                        Op::Receipt(kept) => drop(here.insert(kept.signed.id)),
                        Op::Value(table, key, value) => self.shadow(*table, key, value.is_none()),
                        _ => {}
                    }
                    own.push(op);
                    continue;
                }
            };
            if here.contains(&receipt) || self.front.receipts(&[receipt])?.iter().any(Option::is_some) {
                if matches!(op, Op::Accept(..)) && self.gone_by(task)?.is_some() {
                    own.push(Op::Value(Table::Note, GoneBy::key(task), None));
                }
                own.push(op);
                continue;
            }
            match op {
                Op::Task(_, _, row) => drop(rows.insert((task, receipt), row)),
                Op::Accept(_, _, output) => {
                    let row = rows.remove(&(task, receipt)).unwrap_or_default();
                    let note = GoneBy { receipt, output, row }.to_note();
                    own.push(Op::Value(Table::Note, GoneBy::key(task), Some(note)));
                }
                _ => unreachable!("looked at above"),
            }
        }
        Ok(own)
    }
}

/// That a name space goes by a receipt behind for a task. Where that receipt is collected, it goes by nothing.
#[derive(Debug, PartialEq, Eq)]
struct GoneBy {
    receipt: ReceiptId,
    output: OutputId,
    row: TaskRow,
}

impl GoneBy {
    fn key(task: TaskId) -> Vec<u8> {
        [&b"behind:"[..], task.digest()].concat()
    }

    fn to_note(&self) -> Vec<u8> {
        [&self.receipt.digest()[..], self.output.digest(), &pack_task(&self.row)].concat()
    }

    fn read(note: &[u8]) -> Option<Self> {
        let (receipt, rest) = note.split_first_chunk::<32>()?;
        let (output, row) = rest.split_first_chunk::<32>()?;
        let (receipt, output) = (ReceiptId::from_digest(*receipt), OutputId::from_digest(*output));
        Some(Self { receipt, output, row: unpack_task(row)? })
    }
}

/// Two views of one task.
fn merged(front: FoundTask, behind: FoundTask) -> FoundTask {
    let mut receipts: BTreeMap<ReceiptId, Found> = front.receipts.into_iter().map(|f| (f.signed.id, f)).collect();
    for found in behind.receipts {
        match receipts.entry(found.signed.id) {
            std::collections::btree_map::Entry::Vacant(slot) => drop(slot.insert(found)),
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                let made_here = found.made_here || slot.get().made_here;
                if found.own && !slot.get().own {
                    slot.insert(found);
                }
                slot.get_mut().made_here = made_here;
            }
        }
    }
    FoundTask { receipts: receipts.into_values().collect(), accepted: front.accepted.or(behind.accepted) }
}

impl Backend for Layered {
    fn written(&self) -> &dyn Backend {
        &*self.front
    }

    fn block(&self, link: Link) -> Result<Option<Stored>, StoreError> {
        Ok(self.blocks(&[link])?.pop().flatten())
    }

    fn blocks(&self, links: &[Link]) -> Result<Vec<Option<Stored>>, StoreError> {
        Ok(self.holders(links)?.into_iter().map(|found| Some(found?.1)).collect())
    }

    fn file(&self, link: Link) -> PathBuf {
        self.reader(link).unwrap_or(&*self.front).file(link)
    }

    fn read_file(&self, link: Link, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.reader(link)?.read_file(link, limit_bytes)
    }

    fn file_size(&self, link: Link) -> Result<Option<u64>, StoreError> {
        self.reader(link)?.file_size(link)
    }

    fn receipts(&self, ids: &[ReceiptId]) -> Result<Vec<Option<Kept>>, StoreError> {
        let mut found = self.front.receipts(ids)?;
        if found.iter().any(Option::is_none) {
            for (slot, behind) in found.iter_mut().zip(self.behind.receipts(ids)?) {
                *slot = slot.take().or(behind);
            }
        }
        Ok(found)
    }

    fn tasks(&self, ids: &[TaskId]) -> Result<Vec<FoundTask>, StoreError> {
        let front = self.front.tasks(ids)?;
        let behind = self.behind.tasks(ids)?;
        let mut all = Vec::with_capacity(ids.len());
        for (id, (front, behind)) in ids.iter().zip(front.into_iter().zip(behind)) {
            let mut found = merged(front, behind);
            if let Some(GoneBy { receipt, output, row }) = self.gone_by(*id)?
                && let Some(kept) = self.receipts(&[receipt])?.pop().flatten()
            {
                found.receipts.retain(|f| f.signed.id != receipt);
                found.receipts.push(Found { signed: kept.signed, via: row.via, own: row.own, made_here: kept.own });
                found.accepted = Some((receipt, output));
            }
            all.push(found);
        }
        Ok(all)
    }

    fn invocations(&self, ids: &[InvocationId]) -> Result<Vec<Vec<Kept>>, StoreError> {
        let mut found = self.front.invocations(ids)?;
        for (front, behind) in found.iter_mut().zip(self.behind.invocations(ids)?) {
            for kept in behind {
                match front.iter_mut().find(|k| k.signed.id == kept.signed.id) {
                    Some(known) => known.own |= kept.own,
                    None => front.push(kept),
                }
            }
        }
        Ok(found)
    }

    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let own = self.front.value(table, key)?;
        let is_own = table == Table::Root || (table == Table::Note && key.starts_with(OWN_NOTES));
        if own.is_some() || is_own {
            return Ok(own);
        }
        let is_dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner).contains(&(table, key.to_vec()));
        if is_dropped { Ok(None) } else { self.behind.value(table, key) }
    }

    /// One's own: what roots of the other keep is its affair.
    fn values(&self, table: Table) -> Result<Vec<Pair>, StoreError> {
        self.front.values(table)
    }

    fn scan(&self, low: [u8; 32], high: [u8; 32], limit: usize) -> Result<Vec<(Link, Kind)>, StoreError> {
        let mut found: BTreeMap<([u8; 32], crate::cid::Codec), Kind> = BTreeMap::new();
        for (link, kind) in self.behind.scan(low, high, limit)?.into_iter().chain(self.front.scan(low, high, limit)?) {
            let known = found.entry((link.digest, link.codec)).or_insert(kind);
            // What is but a block to one may be known to the other for what it is.
            if *known == Kind::Block {
                *known = kind;
            }
        }
        let all = found.into_iter().map(|((digest, codec), kind)| (Link { codec, digest }, kind));
        Ok(all.take(limit).collect())
    }

    fn push(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.begin();
        let own = self.own(ops)?;
        if own.is_empty() { Ok(()) } else { self.front.push(own) }
    }

    fn record(&self, record: Record) -> Result<(), StoreError> {
        self.begin();
        let mut void = vec![];
        if record.receipt.out.is_ok() {
            for task in record.receipt.meta.settles.keys() {
                if self.gone_by(*task)?.is_some() {
                    void.push(Op::Value(Table::Note, GoneBy::key(*task), None));
                }
            }
        }
        if !void.is_empty() {
            self.front.push(void)?;
        }
        self.front.record(record)
    }

    fn flush(&self) -> Result<(), CommitError> {
        self.front.flush()
    }

    fn put_large(&self, link: Link, bytes: &[u8]) -> Result<(), StoreError> {
        self.begin();
        self.front.put_large(link, bytes)
    }

    fn put_file(&self, path: &Path, source: File, take: Take) -> Result<(BlobId, u64), StoreError> {
        self.begin();
        self.front.put_file(path, source, take)
    }

    fn set_aside(&self, link: Link) -> Result<Option<PathBuf>, StoreError> {
        if self.front.block(link)?.is_some() {
            return self.front.set_aside(link);
        }
        self.spoilt.lock().unwrap_or_else(PoisonError::into_inner).insert(link);
        Ok(None)
    }

    /// Written down in front, where collections of what is behind look for it.
    fn used(&self, ids: &mut dyn Iterator<Item = ReceiptId>) {
        self.front.used(ids);
    }

    fn lease(&self, id: InvocationId) -> Result<Option<Lease>, StoreError> {
        self.begin();
        self.front.lease(id)
    }

    fn hold(&self) -> Result<Hold, StoreError> {
        let behind = self.behind.hold_if_there();
        Ok(Hold(Box::new(Both { _front: self.front.hold()?, _behind: behind })))
    }

    fn hold_if_there(&self) -> Option<Hold> {
        let behind = self.behind.hold_if_there();
        Some(Hold(Box::new(Both { _front: self.front.hold_if_there()?, _behind: behind })))
    }

    fn placing(&self, dir: &Path) -> Result<(), StoreError> {
        self.front.placing(dir)
    }

    fn unplaced(&self) {
        self.front.unplaced();
    }

    fn abandoned(&self, deal: &mut dyn FnMut(u32, &Path) -> bool) {
        self.front.abandoned(deal);
    }

    fn can_be_written(&self) -> bool {
        self.front.can_be_written()
    }

    fn medium(&self) -> Option<&'static str> {
        self.front.medium().or(self.behind.medium())
    }

    fn scratch_dir(&self) -> io::Result<PathBuf> {
        self.front.scratch_dir()
    }

    fn runs_dir(&self) -> Option<PathBuf> {
        self.front.runs_dir()
    }

    fn gc(&self, options: &GcOptions) -> Result<GcStats, GcError> {
        self.front.gc(options)
    }

    fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, StoreError> {
        self.front.verify(options)
    }
}

/// Keeps collections away from both.
#[derive(Debug)]
struct Both {
    _front: Hold,
    _behind: Option<Hold>,
}

impl Held for Both {}
