//! A store in a directory: an index, files for large blocks, a journal, one writer.
//!
//! What is promised, and against what, is in `docs/design/store.md`.

mod ahead;
mod backend;
mod broken;
mod change;
mod check;
mod core;
mod fault;
#[cfg(test)]
mod fault_tests;
mod files;
mod index;
mod journal;
mod layout;
mod leases;
pub(crate) mod locks;
mod marks;
mod rebuild;
mod sweep;
mod tables;
pub(crate) mod version;
mod view;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use crate::backend::{Backend, Pair};
use crate::cid::{BlobId, InvocationId, Link, ReceiptId, TaskId};
use crate::counters::Counting;
use crate::error::{CommitError, GcError, OpenError, StoreError};
use crate::gc::{GcOptions, GcStats};
use crate::rows::{Kept, Op, Stored, Table};
use crate::terms::{Found, FoundTask, Hold, Kind, Lease, Options, Record, Take};
use crate::verify::{VerifyOptions, VerifyReport};

use self::core::Core;
use fault::Faults;
use files::Files;
use index::Index;
pub use index::is_guarded;
use journal::Journal;
pub(crate) use layout::Layout;
use leases::Leases;
use locks::Scratch;
pub(crate) use marks::is_marked;
pub(crate) use rebuild::rebuild;
pub(crate) use tables::{pack_task, unpack_task};
use view::{Scanned, View};
use writer::Writer;

pub(crate) struct Local {
    // Dropped first: it commits what is queued.
    writer: Writer,
    core: Arc<Core>,
    files: Files,
    leases: Arc<Leases>,
    scratch: Mutex<Option<Scratch>>,
}

impl Local {
    pub(crate) fn open(dir: &Path, options: Options, counting: Arc<Counting>) -> Result<Self, OpenError> {
        Self::open_with(dir, options, counting, Faults::default())
    }

    fn open_with(dir: &Path, options: Options, counting: Arc<Counting>, faults: Faults) -> Result<Self, OpenError> {
        // A relative path would change its meaning with the process's directory.
        let dir = std::path::absolute(dir).map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
        let layout = Layout::new(&dir);
        let index = layout.index();
        Self::open_at(layout, index, options, counting, faults)
    }

    /// The store with its index in that file.
    fn open_at(
        layout: Layout,
        index: PathBuf,
        options: Options,
        counting: Arc<Counting>,
        faults: Faults,
    ) -> Result<Self, OpenError> {
        let core = Core {
            index: Index::new(layout.clone(), index, options.cache_bytes, faults.clone(), counting.clone()),
            journal: Mutex::new(Journal::new(layout.clone(), faults.clone())),
            root: OnceLock::new(),
            mark: Mutex::default(),
            writing: RwLock::default(),
            options,
            faults: faults.clone(),
            counting,
            layout: layout.clone(),
        };
        let is_store = version::check(&layout)?;
        if is_store {
            core.index.open()?;
        }
        let core = Arc::new(core);
        let leases = Arc::new(Leases::new(layout.leases()));
        let files = Files::new(layout, faults);
        let local = Self { writer: Writer::new(core.clone()), core, files, leases, scratch: Mutex::default() };
        if is_store {
            ahead::take_over(&local);
        }
        Ok(local)
    }

    /// What is committed by now.
    fn view(&self) -> Result<Option<Arc<View>>, StoreError> {
        let (view, is_kept) = self.core.index.current()?;
        if is_kept {
            self.writer.keeps_view();
        }
        Ok(view)
    }

    fn add_file(&self, link: Link, size: u64) -> Result<(), StoreError> {
        self.core.counting.files_written.fetch_add(1, Relaxed);
        self.writer.push(vec![Op::Large(link, size)])
    }

    /// Whether a block is here, a large one with its file.
    fn has(&self, link: Link) -> Result<bool, StoreError> {
        Ok(match self.block(link)? {
            Some(Stored::Inline(_)) => true,
            Some(Stored::Large(size)) => self.file_size(link)? == Some(size),
            None => false,
        })
    }

    fn io<T>(&self, path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|e| StoreError::io(path, e))
    }
}

/// One task's rows, from the layers over the index and then from the index.
#[derive(Default)]
struct Merged {
    found: BTreeMap<ReceiptId, Found>,
    accepted: Option<(ReceiptId, crate::cid::OutputId)>,
}

impl Merged {
    fn add(&mut self, found: Found) {
        match self.found.entry(found.signed.id) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(found);
            }
            // Ours stays ours: see `Op::Task`.
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                if found.own && !slot.get().own {
                    slot.insert(found);
                }
            }
        }
    }
}

impl Backend for Local {
    fn written(&self) -> &dyn Backend {
        self
    }

    fn block(&self, link: Link) -> Result<Option<Stored>, StoreError> {
        Ok(self.blocks(&[link])?.pop().flatten())
    }

    fn blocks(&self, links: &[Link]) -> Result<Vec<Option<Stored>>, StoreError> {
        // What the layers say of a block goes, that it is gone included.
        let mut said: Vec<Option<Option<Stored>>> = {
            let state = self.writer.state();
            links.iter().map(|link| state.layers().find_map(|rows| rows.block(*link))).collect()
        };
        // What was here a moment ago is: who may keep a view keeps collections away. What was not may have come.
        if said.iter().any(Option::is_none)
            && let Some(view) = self.core.index.kept_view()
        {
            for (slot, link) in said.iter_mut().zip(links).filter(|(slot, _)| slot.is_none()) {
                *slot = view.block(*link)?.map(Some);
            }
        }
        if said.iter().any(Option::is_none)
            && let Some(view) = self.view()?
        {
            for (slot, link) in said.iter_mut().zip(links).filter(|(slot, _)| slot.is_none()) {
                *slot = Some(view.block(*link)?);
            }
        }
        Ok(said.into_iter().map(Option::flatten).collect())
    }

    fn file(&self, link: Link) -> PathBuf {
        self.core.layout.blob(link)
    }

    fn read_file(&self, link: Link, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.io(&self.file(link), self.files.read(link, limit_bytes))
    }

    fn file_size(&self, link: Link) -> Result<Option<u64>, StoreError> {
        self.io(&self.file(link), self.files.size(link))
    }

    fn receipts(&self, ids: &[ReceiptId]) -> Result<Vec<Option<Kept>>, StoreError> {
        let mut found: Vec<Option<Kept>> = {
            let state = self.writer.state();
            ids.iter().map(|id| state.layers().find_map(|rows| rows.receipts.get(id).cloned())).collect()
        };
        if found.iter().any(Option::is_none)
            && let Some(view) = self.view()?
        {
            for (slot, id) in found.iter_mut().zip(ids).filter(|(slot, _)| slot.is_none()) {
                *slot = view.receipt(*id)?;
            }
        }
        Ok(found)
    }

    fn tasks(&self, ids: &[TaskId]) -> Result<Vec<FoundTask>, StoreError> {
        // The layers before the index: what is committed in between is then found there.
        let mut merged: Vec<Merged> = Vec::with_capacity(ids.len());
        let mut rows_only: FxHashMap<usize, Vec<_>> = FxHashMap::default();
        {
            let state = self.writer.state();
            for (n, id) in ids.iter().enumerate() {
                let mut of_task = Merged::default();
                for rows in state.layers() {
                    for (receipt, row) in rows.of_task(*id) {
                        match state.layers().find_map(|rows| rows.receipts.get(&receipt)) {
                            Some(kept) => of_task.add(Found {
                                signed: kept.signed.clone(),
                                via: row.via.clone(),
                                own: row.own,
                                made_here: kept.own,
                            }),
                            None => rows_only.entry(n).or_default().push((receipt, row.clone())),
                        }
                    }
                    of_task.accepted = of_task.accepted.or_else(|| rows.accepted.get(id).copied());
                }
                merged.push(of_task);
            }
        }
        if let Some(view) = self.view()? {
            for (n, (id, of_task)) in ids.iter().zip(&mut merged).enumerate() {
                for (receipt, row) in rows_only.remove(&n).into_iter().flatten().chain(view.of_task(*id)?) {
                    if of_task.found.get(&receipt).is_some_and(|found| found.own || !row.own) {
                        continue;
                    }
                    if let Some(kept) = view.receipt(receipt)? {
                        of_task.add(Found { signed: kept.signed, via: row.via, own: row.own, made_here: kept.own });
                    }
                }
                if of_task.accepted.is_none() {
                    of_task.accepted = view.accepted(*id)?;
                }
            }
        }
        let finish = |m: Merged| FoundTask { receipts: m.found.into_values().collect(), accepted: m.accepted };
        Ok(merged.into_iter().map(finish).collect())
    }

    fn invocations(&self, ids: &[InvocationId]) -> Result<Vec<Vec<Kept>>, StoreError> {
        let mut merged: Vec<BTreeMap<ReceiptId, Kept>> = {
            let state = self.writer.state();
            let of = |id: &InvocationId| {
                let receipts = state
                    .layers()
                    .flat_map(|rows| rows.of_invocation(*id).filter_map(|r| Some((r, rows.receipts.get(&r)?.clone()))));
                receipts.collect()
            };
            ids.iter().map(of).collect()
        };
        if let Some(view) = self.view()? {
            for (id, found) in ids.iter().zip(&mut merged) {
                for receipt in view.of_invocation(*id)? {
                    if !found.contains_key(&receipt)
                        && let Some(kept) = view.receipt(receipt)?
                    {
                        found.insert(receipt, kept);
                    }
                }
            }
        }
        Ok(merged.into_iter().map(|found| found.into_values().collect()).collect())
    }

    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(known) = self.writer.state().layers().find_map(|rows| rows.value(table, key)) {
            return Ok(known);
        }
        self.view()?.map_or(Ok(None), |view| view.value(table, key))
    }

    fn values(&self, table: Table) -> Result<Vec<Pair>, StoreError> {
        let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        {
            let state = self.writer.state();
            for rows in state.layers() {
                for ((_, key), value) in rows.values.iter().filter(|((t, _), _)| *t == table) {
                    merged.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        if let Some(view) = self.view()? {
            for (key, value) in view.values(table)? {
                merged.entry(key).or_insert(Some(value));
            }
        }
        Ok(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }

    fn scan(&self, low: [u8; 32], high: [u8; 32], limit: usize) -> Result<Vec<(Link, Kind)>, StoreError> {
        let mut found = BTreeMap::new();
        let mut gone = Vec::new();
        {
            let state = self.writer.state();
            let layers: Vec<_> = state.layers().collect();
            // Oldest first: the later layer has the last word.
            for rows in layers.iter().rev() {
                rows.scan(low, high, &mut found);
            }
            let forgotten = layers.iter().flat_map(|rows| rows.blocks.iter().filter(|(_, stored)| stored.is_none()));
            gone.extend(forgotten.filter_map(|(key, _)| crate::rows::link_of(key)));
            gone.retain(|link| layers.iter().find_map(|rows| rows.block(*link)) == Some(None));
        }
        if let Some(view) = self.view()? {
            let mut seen = 0;
            view.scan(low, high, |scanned| {
                match scanned {
                    Scanned::Block(link) if gone.contains(&link) => {}
                    Scanned::Block(link) => {
                        found.entry(link).or_insert(Kind::Block);
                    }
                    Scanned::Receipt(id) => {
                        found.insert(id.link(), Kind::Receipt);
                    }
                    Scanned::Task(id) => {
                        found.insert(id.link(), Kind::Task);
                    }
                    Scanned::Invocation(id) => {
                        let kind = found.entry(id.link()).or_insert(Kind::Invocation);
                        if *kind == Kind::Block {
                            *kind = Kind::Invocation;
                        }
                    }
                }
                seen += 1;
                seen < limit
            })?;
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable_by_key(|(link, _)| (link.digest, link.codec));
        found.truncate(limit);
        Ok(found)
    }

    fn push(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.writer.push(ops)
    }

    fn record(&self, record: Record) -> Result<(), StoreError> {
        let (mut blocks, mut large) = (Vec::new(), Vec::new());
        for block in record.blocks {
            let inline = block.1.len() as u64 <= self.core.options.inline_max_bytes;
            if inline { blocks.push(block) } else { large.push(block) }
        }
        for (link, bytes) in large {
            if !self.has(link)? {
                self.put_large(link, &bytes)?;
            }
        }
        self.writer.record(Record { blocks, ..record })
    }

    fn flush(&self) -> Result<(), CommitError> {
        self.writer.flush()
    }

    fn put_large(&self, link: Link, bytes: &[u8]) -> Result<(), StoreError> {
        drop(self.core.ensure_writable()?);
        self.io(&self.file(link), self.files.write(link, bytes))?;
        self.add_file(link, bytes.len() as u64)
    }

    fn put_file(&self, path: &Path, mut source: File, take: Take) -> Result<(BlobId, u64), StoreError> {
        let meta = self.io(path, source.metadata())?;
        if !meta.is_file() {
            return Err(StoreError::io(path, io::Error::other("it is no regular file")));
        }
        let done = |id, size| {
            if take == Take::Move {
                self.io(path, fs::remove_file(path).or_else(gone_is_fine))?;
            }
            Ok((id, size))
        };
        let inline_max_bytes = self.core.options.inline_max_bytes;
        if meta.len() <= inline_max_bytes {
            let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
            self.io(path, Read::take(&source, inline_max_bytes + 1).read_to_end(&mut bytes))?;
            if bytes.len() as u64 <= inline_max_bytes {
                let (id, size) = (BlobId::of(&bytes), bytes.len() as u64);
                if !self.has(id.link())? {
                    self.core.counting.put(size);
                    self.push(vec![Op::Block(id.link(), bytes.into())])?;
                }
                return done(id, size);
            }
            self.io(path, source.rewind())?;
        }
        if take == Take::Copy {
            let (id, size) = self.io(path, files::hash(&mut source))?;
            if self.has(id.link())? {
                return Ok((id, size));
            }
            self.io(path, source.rewind())?;
        }
        drop(self.core.ensure_writable()?);
        let staged = self.io(path, self.files.stage(path, &source, take))?;
        // What it has become, should it have changed since it was looked at.
        let (id, size) = (staged.id, staged.size);
        if !self.has(id.link())? {
            self.core.counting.put(size);
            self.io(&self.file(id.link()), staged.place(id.link()))?;
            self.add_file(id.link(), size)?;
        }
        done(id, size)
    }

    fn set_aside(&self, link: Link) -> Result<Option<PathBuf>, StoreError> {
        drop(self.core.ensure_writable()?);
        let mut moved_to = None;
        if let Some(Stored::Large(_)) = self.block(link)? {
            moved_to = self.io(&self.file(link), self.files.quarantine(&self.file(link)))?;
        }
        self.push(vec![Op::Forget(link)])?;
        Ok(moved_to)
    }

    fn used(&self, ids: &mut dyn Iterator<Item = ReceiptId>) {
        self.writer.used(ids);
    }

    fn lease(&self, id: InvocationId) -> Result<Option<Lease>, StoreError> {
        drop(self.core.ensure_writable()?);
        match self.io(&self.core.layout.leases(), self.leases.take(id))? {
            Ok(lent) => Ok(Some(Lease(Box::new(lent)))),
            Err(Some(pid)) if locks::is_ancestor(pid) => Err(StoreError::Nested { id, pid }),
            Err(_) => Ok(None),
        }
    }

    fn placing(&self, dir: &Path) -> Result<(), StoreError> {
        drop(self.core.ensure_writable()?);
        let mut mark = self.core.mark.lock().unwrap_or_else(PoisonError::into_inner);
        self.io(&self.core.layout.locks(), mark.note(&self.core.layout, dir))
    }

    fn unplaced(&self) {
        self.core.mark.lock().unwrap_or_else(PoisonError::into_inner).stay();
    }

    fn abandoned(&self, deal: &mut dyn FnMut(u32, &Path) -> bool) {
        for abandoned in marks::abandoned(&self.core.layout) {
            // All are dealt with, also after one that was not.
            let left = abandoned.dirs.iter().filter(|dir| !deal(abandoned.pid, dir)).count();
            if left > 0 {
                abandoned.leave();
            }
        }
    }

    fn can_be_written(&self) -> bool {
        use rustix::fs::{Access, access};
        let (dir, index) = (self.core.layout.locks(), self.core.layout.index());
        let may = |path: &Path, how| !path.exists() || access(path, how).is_ok();
        may(&dir, Access::WRITE_OK | Access::EXEC_OK) && may(&index, Access::WRITE_OK)
    }

    fn medium(&self) -> Option<&'static str> {
        crate::medium::network(self.core.layout.dir())
    }

    fn hold(&self) -> Result<Hold, StoreError> {
        self.core.ensure_made()?;
        Ok(Hold(Box::new(self.core.hold()?)))
    }

    fn hold_if_there(&self) -> Option<Hold> {
        let is_store = version::check(&self.core.layout).unwrap_or(false);
        is_store.then(|| self.core.hold().ok())?.map(|held| Hold(Box::new(held)))
    }

    fn scratch_dir(&self) -> io::Result<PathBuf> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.is_none() {
            self.core.ensure_made().map_err(io::Error::other)?;
            *scratch = Some(Scratch::take(&self.core.layout)?);
        }
        scratch.as_mut().expect("set above").fresh()
    }

    fn runs_dir(&self) -> Option<PathBuf> {
        self.core.ensure_made().ok()?;
        Some(self.core.layout.runs())
    }

    fn gc(&self, options: &GcOptions) -> Result<GcStats, GcError> {
        sweep::collect(self, options)
    }

    fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, StoreError> {
        check::check(self, options)
    }
}

fn gone_is_fine(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}
