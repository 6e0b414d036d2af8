//! A store in memory: the same behaviour, nothing on disk but scratch directories.
//!
//! Strict: what is not there is not there. Unaware of time, so it never collects by age of use.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashSet;

use crate::backend::{Backend, Pair};
use crate::cid::{BlobId, InvocationId, Link, ReceiptId, TaskId};
use crate::counters::Counting;
use crate::error::{CommitError, GcError, StoreError};
use crate::gc::{self, Candidate, GcOptions, GcStats, Inventory};
use crate::rows::{Kept, Op, Rows, Stored, Table, TaskRow, link_of};
use crate::sign::Signer;
use crate::terms::{Found, FoundTask, Held, Hold, Kind, Lease, Options, Record, Root, SignerSource, Take};
use crate::verify::{VerifyOptions, VerifyReport};

/// Files larger than this are not taken into memory.
const MAX_FILE_BYTES: u64 = 4 << 30;

pub(crate) struct Memory {
    source: SignerSource,
    signer: Mutex<Option<Signer>>,
    rows: Mutex<Rows>,
    /// Blocks beyond the inline size: files in other backends, plain bytes here.
    leases: Arc<Mutex<FxHashSet<InvocationId>>>,
    scratch: Mutex<Option<Scratch>>,
    counting: Arc<Counting>,
}

impl Memory {
    pub(crate) fn new(options: Options, counting: Arc<Counting>) -> Self {
        Self {
            source: options.signer,
            signer: Mutex::default(),
            rows: Mutex::default(),
            leases: Arc::default(),
            scratch: Mutex::default(),
            counting,
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, record: &Record) -> Result<Kept, CommitError> {
        let mut signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if signer.is_none() {
            *signer = Some(self.source.signer()?);
        }
        let signer = signer.as_ref().expect("set above");
        let signed = signer.sign(&record.receipt)?;
        self.counting.signatures.fetch_add(1, Relaxed);
        Ok(Kept { signed: Arc::new(signed), own: true })
    }
}

/// Days of use are not kept here: a receipt counts as used on the day it was issued.
fn inventory(rows: &Rows) -> Result<Inventory, StoreError> {
    let mut inventory = Inventory::default();
    for (id, kept) in &rows.receipts {
        let receipt = &kept.signed.receipt;
        let candidate = Candidate {
            last_used_day: u32::try_from(receipt.issued_at / 86_400).unwrap_or(u32::MAX),
            size_bytes: kept.signed.bytes.len() as u64,
            links: gc::links_of(receipt),
        };
        inventory.receipts.insert(*id, candidate);
    }
    for (task, id) in rows.by_task.keys() {
        if let Some(candidate) = inventory.receipts.get_mut(id) {
            candidate.links.push(task.link());
        }
    }
    for (key, stored) in &rows.blocks {
        if let (Some(link), Some(Stored::Inline(bytes))) = (link_of(key), stored) {
            inventory.blocks.insert(link, bytes.len() as u64);
        }
    }
    for (_, value) in rows.values.iter().filter(|((table, _), _)| *table == Table::Root) {
        if let Some(value) = value {
            let root: Root = crate::dag::decode_own(value, usize::MAX)?;
            inventory.roots.extend(root.links);
            inventory.roots.extend(root.receipts.iter().map(|id| id.link()));
        }
    }
    Ok(inventory)
}

/// What a signed record adds, in the order it must be applied.
pub(crate) fn ops_of(kept: Kept) -> Vec<Op> {
    let signed = kept.signed.clone();
    let output = signed.receipt.out.as_ref().ok().map(crate::receipt::Output::id);
    let mut ops = vec![Op::Receipt(kept)];
    for (task, via) in &signed.receipt.meta.settles {
        ops.push(Op::Task(*task, signed.id, TaskRow { own: true, via: via.clone() }));
        ops.extend(output.map(|output| Op::Accept(*task, signed.id, output)));
    }
    ops
}

impl Backend for Memory {
    fn written(&self) -> &dyn Backend {
        self
    }

    fn block(&self, link: Link) -> Result<Option<Stored>, StoreError> {
        Ok(self.rows().block(link).flatten())
    }

    fn file(&self, link: Link) -> PathBuf {
        PathBuf::from(link.to_string())
    }

    fn read_file(&self, _: Link, _: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn file_size(&self, _: Link) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn receipts(&self, ids: &[ReceiptId]) -> Result<Vec<Option<Kept>>, StoreError> {
        let rows = self.rows();
        Ok(ids.iter().map(|id| rows.receipts.get(id).cloned()).collect())
    }

    fn tasks(&self, ids: &[TaskId]) -> Result<Vec<FoundTask>, StoreError> {
        let rows = self.rows();
        let found = ids.iter().map(|id| {
            let receipts = rows.of_task(*id).filter_map(|(receipt, row)| {
                let kept = rows.receipts.get(&receipt)?;
                Some(Found { signed: kept.signed.clone(), via: row.via.clone(), own: row.own, made_here: kept.own })
            });
            FoundTask { receipts: receipts.collect(), accepted: rows.accepted.get(id).copied() }
        });
        Ok(found.collect())
    }

    fn invocations(&self, ids: &[InvocationId]) -> Result<Vec<Vec<Kept>>, StoreError> {
        let rows = self.rows();
        let of = |id: &InvocationId| rows.of_invocation(*id).filter_map(|r| rows.receipts.get(&r).cloned()).collect();
        Ok(ids.iter().map(of).collect())
    }

    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows().value(table, key).flatten())
    }

    fn values(&self, table: Table) -> Result<Vec<Pair>, StoreError> {
        let rows = self.rows();
        let of_table = rows.values.iter().filter(|((t, _), _)| *t == table);
        Ok(of_table.filter_map(|((_, key), value)| Some((key.clone(), value.clone()?))).collect())
    }

    fn scan(&self, low: [u8; 32], high: [u8; 32], limit: usize) -> Result<Vec<(Link, Kind)>, StoreError> {
        let mut found = BTreeMap::new();
        self.rows().scan(low, high, &mut found);
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable_by_key(|(link, _)| (link.digest, link.codec));
        found.truncate(limit);
        Ok(found)
    }

    fn push(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let mut rows = self.rows();
        ops.iter().for_each(|op| rows.apply(op));
        Ok(())
    }

    fn record(&self, record: Record) -> Result<(), StoreError> {
        let signed = self.sign(&record);
        {
            let mut rows = self.rows();
            record.blocks.into_iter().for_each(|(link, bytes)| rows.apply(&Op::Block(link, bytes.into())));
        }
        let result = signed.map(|kept| {
            let id = kept.signed.id;
            let mut rows = self.rows();
            ops_of(kept).iter().for_each(|op| rows.apply(op));
            id
        });
        (record.done)(result);
        Ok(())
    }

    fn flush(&self) -> Result<(), CommitError> {
        Ok(())
    }

    fn put_large(&self, link: Link, bytes: &[u8]) -> Result<(), StoreError> {
        self.rows().apply(&Op::Block(link, bytes.into()));
        Ok(())
    }

    fn put_file(&self, path: &Path, source: std::fs::File, take: Take) -> Result<(BlobId, u64), StoreError> {
        use std::io::Read;
        let failed = |e| StoreError::io(path, e);
        let mut bytes = Vec::new();
        source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        let (id, size) = (BlobId::of(&bytes), bytes.len() as u64);
        if size > MAX_FILE_BYTES {
            return Err(StoreError::TooLarge { link: id.link(), found_bytes: size, limit_bytes: MAX_FILE_BYTES });
        }
        if self.block(id.link())?.is_none() {
            self.counting.put(size);
            self.put_large(id.link(), &bytes)?;
        }
        if take == Take::Move {
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok((id, size))
    }

    fn set_aside(&self, link: Link) -> Result<Option<PathBuf>, StoreError> {
        self.rows().apply(&Op::Forget(link));
        Ok(None)
    }

    fn used(&self, _: &mut dyn Iterator<Item = ReceiptId>) {}

    fn lease(&self, id: InvocationId) -> Result<Option<Lease>, StoreError> {
        let free = self.leases.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Ok(free.then(|| Lease(Box::new(MemoryLease { id, leases: self.leases.clone() }))))
    }

    fn hold(&self) -> Result<Hold, StoreError> {
        Ok(Hold(Box::new(Nothing)))
    }

    fn hold_if_there(&self) -> Option<Hold> {
        Some(Hold(Box::new(Nothing)))
    }

    fn placing(&self, _dir: &Path) -> Result<(), StoreError> {
        Ok(())
    }

    fn unplaced(&self) {}

    fn abandoned(&self, _deal: &mut dyn FnMut(u32, &Path) -> bool) {}

    fn can_be_written(&self) -> bool {
        true
    }

    fn medium(&self) -> Option<&'static str> {
        None
    }

    fn scratch_dir(&self) -> io::Result<PathBuf> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.is_none() {
            *scratch = Some(Scratch::new()?);
        }
        scratch.as_mut().expect("set above").fresh()
    }

    fn runs_dir(&self) -> Option<PathBuf> {
        None
    }

    fn gc(&self, options: &GcOptions) -> Result<GcStats, GcError> {
        let mut rows = self.rows();
        let plan = gc::plan(&inventory(&rows)?, options, |link| match rows.block(link).flatten() {
            Some(Stored::Inline(bytes)) => Ok(Some(bytes.to_vec())),
            _ => Ok(None),
        })?;
        if !options.dry_run {
            rows.receipts.retain(|id, _| plan.receipts.contains(id));
            rows.by_task.retain(|(_, id), _| plan.receipts.contains(id));
            rows.by_invocation.retain(|(_, id)| plan.receipts.contains(id));
            rows.accepted.retain(|_, (id, _)| plan.receipts.contains(id));
            rows.blocks.retain(|key, _| link_of(key).is_some_and(|link| plan.blocks.contains(&link)));
        }
        Ok(plan.stats)
    }

    fn verify(&self, _: &VerifyOptions) -> Result<VerifyReport, StoreError> {
        Ok(VerifyReport::default())
    }
}

#[derive(Debug)]
struct MemoryLease {
    id: InvocationId,
    leases: Arc<Mutex<FxHashSet<InvocationId>>>,
}

impl Held for MemoryLease {}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[derive(Debug)]
struct Nothing;

impl Held for Nothing {}

/// A directory of its own under the system's temporary directory, deleted with the store.
struct Scratch {
    dir: PathBuf,
    made: u64,
}

impl Scratch {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        static MADE: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("quipu-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
            let dir = std::env::temp_dir().join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Self { dir, made: 0 }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn fresh(&mut self) -> io::Result<PathBuf> {
        self.made += 1;
        let dir = self.dir.join(self.made.to_string());
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
