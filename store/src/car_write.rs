//! Export: receipts of a store with all they reach, as a CAR file. The same receipts make the same bytes.
//!
//! Knows what belongs to a receipt; unaware of tasks' meaning and of who will read the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::car::{CarError, MAX_BLOCKS, MAX_DAG_BYTES, Writer};
use crate::cid::{BlobId, Codec, Link, OutputId, ReceiptId, TaskId};
use crate::links::links;
use crate::receipt::{Failure, Output, Receipt};
use crate::sign::SignedReceipt;
use crate::{Blob, FoundTask, Store};

/// Finds a file outside of the store that holds this content, as far as is known.
pub type Elsewhere<'a> = &'a dyn Fn(BlobId) -> Option<PathBuf>;

/// What goes into the file beside receipts, tasks and outputs.
#[derive(Clone, Copy, Default)]
pub struct ExportOptions<'a> {
    /// What the tasks printed.
    pub logs: bool,
    /// What they read, as far as it can be had: from the store, and else from here.
    pub sources: Option<Elsewhere<'a>>,
}

impl std::fmt::Debug for ExportOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources = self.sources.is_some();
        f.debug_struct("ExportOptions").field("logs", &self.logs).field("sources", &sources).finish()
    }
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Receipts, those of inputs included.
    pub receipts: Vec<ReceiptId>,
    /// Blocks beside them.
    pub blocks: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Parts of outputs that are not here: who imports the file has to make them again.
    pub missing: Vec<Link>,
}

/// Writes these receipts, and the receipts of their inputs as far as they are here, with all they reach.
pub fn export(
    store: &Store,
    receipts: &[ReceiptId],
    options: ExportOptions<'_>,
    to: &mut dyn Write,
) -> Result<Exported, CarError> {
    // Nothing is collected from under the export.
    let _held = store.hold()?;
    let mut walk = Walk { store, options, seen: FxHashSet::default(), items: vec![], missing: vec![] };
    let roots = with_inputs(store, receipts)?;
    for id in &roots {
        walk.receipt(*id)?;
    }
    // Last, so that a file that was cut anywhere lacks one, which its header names.
    walk.items.extend(roots.iter().map(|id| Item::Here(id.link())));
    if walk.items.len() > MAX_BLOCKS {
        return Err(CarError::TooMany);
    }
    let mut writer = Writer::new(to, &roots)?;
    for item in &walk.items {
        walk.write(&mut writer, item)?;
    }
    let blocks = (walk.items.len() - roots.len()) as u64;
    Ok(Exported { blocks, bytes: writer.finish()?, missing: walk.missing, receipts: roots })
}

/// A block and what is below it as far as it is here, each block once and after one that names it.
#[derive(Debug)]
pub struct Below {
    root: Link,
    links: Vec<Link>,
    is_whole: bool,
}

impl Below {
    /// Looks what there is below `root`, or, unless `deep`, at `root` alone. `None` when that is not here.
    pub fn find(store: &Store, root: Link, deep: bool) -> Result<Option<Self>, CarError> {
        let options = ExportOptions::default();
        let mut walk = Walk { store, options, seen: FxHashSet::default(), items: vec![], missing: vec![] };
        let found = if deep { walk.below(root, Wanted::Output) } else { walk.block(root, Wanted::Output).map(drop) };
        match found {
            Ok(()) if walk.items.is_empty() => return Ok(None),
            // Damaged is as if it were not here.
            Err(CarError::Damaged(link)) if link == root => return Ok(None),
            other => other?,
        }
        let here = |item| match item {
            Item::Here(link) | Item::Elsewhere(link, _) => link,
        };
        let links = walk.items.into_iter().map(here).collect();
        Ok(Some(Self { root, links, is_whole: walk.missing.is_empty() }))
    }

    /// Whether nothing below is missing.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// A name for exactly these blocks.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for link in &self.links {
            hasher.update(&link.to_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Writes them as a file with one root.
    pub fn write(&self, store: &Store, to: &mut dyn Write) -> Result<u64, CarError> {
        let options = ExportOptions::default();
        let walk = Walk { store, options, seen: FxHashSet::default(), items: vec![], missing: vec![] };
        let mut writer = Writer::of(to, &[self.root])?;
        for link in &self.links {
            walk.write(&mut writer, &Item::Here(*link))?;
        }
        writer.finish()
    }
}

/// Receipts alone, as a file whose roots they are. There must be some, each once.
pub fn pack(receipts: &[Arc<SignedReceipt>], to: &mut dyn Write) -> Result<u64, CarError> {
    let roots: Vec<ReceiptId> = receipts.iter().map(|r| r.id).collect();
    let mut writer = Writer::new(to, &roots)?;
    for receipt in receipts {
        writer.block(receipt.id.link(), &receipt.bytes)?;
    }
    writer.finish()
}

/// With those by which the tasks they await are settled as they say; in the order of their ids.
fn with_inputs(store: &Store, receipts: &[ReceiptId]) -> Result<Vec<ReceiptId>, CarError> {
    let mut all = BTreeSet::new();
    let mut todo: Vec<(ReceiptId, bool)> = receipts.iter().map(|id| (*id, true)).collect();
    while let Some((id, asked)) = todo.pop() {
        let Some(found) = store.receipt(id)? else {
            if asked {
                return Err(CarError::UnknownReceipt(id));
            }
            // Collected since: what was made from it does not need it.
            continue;
        };
        if all.insert(id) {
            let meta = &found.signed.receipt.meta;
            todo.extend(meta.ins.iter().map(|id| (*id, false)));
            // What ran in the same run had no receipt yet that could have been named.
            let awaited: BTreeMap<TaskId, OutputId> = meta.settles.values().flatten().map(|(t, o)| (*t, *o)).collect();
            let ids: Vec<TaskId> = awaited.keys().copied().collect();
            for (found, out) in store.find_tasks(&ids)?.into_iter().zip(awaited.values()) {
                todo.extend(settled_by(&found, *out).map(|id| (id, false)));
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// The receipt a task is settled by with this output: the accepted one, else the oldest.
fn settled_by(found: &FoundTask, out: OutputId) -> Option<ReceiptId> {
    let accepted = found.accepted.filter(|(_, o)| *o == out).map(|(id, _)| id);
    let said = |receipt: &Receipt| receipt.out.as_ref().map_or_else(Failure::id, Output::id);
    accepted.or_else(|| found.receipts.iter().find(|f| said(&f.signed.receipt) == out).map(|f| f.signed.id))
}

enum Item {
    Here(Link),
    Elsewhere(Link, PathBuf),
}

/// Whether what is not here is told of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Output,
    IfThere,
    Source,
}

struct Walk<'a> {
    store: &'a Store,
    options: ExportOptions<'a>,
    seen: FxHashSet<Link>,
    items: Vec<Item>,
    missing: Vec<Link>,
}

impl Walk<'_> {
    fn receipt(&mut self, id: ReceiptId) -> Result<(), CarError> {
        let Some(found) = self.store.receipt(id)? else { return Err(CarError::UnknownReceipt(id)) };
        let receipt = &found.signed.receipt;
        self.block(receipt.ran.link(), Wanted::IfThere)?;
        for task in receipt.meta.settles.keys() {
            self.block(task.link(), Wanted::IfThere)?;
        }
        if let Ok(output) = &receipt.out {
            let logs = [output.stdout, output.stderr].into_iter().flatten().map(BlobId::link);
            let logs: Vec<Link> = logs.collect();
            for link in output.links().filter(|link| !logs.contains(link)) {
                self.below(link, Wanted::Output)?;
            }
        }
        if self.options.logs {
            let (stdout, stderr) = match &receipt.out {
                Ok(output) => (output.stdout, output.stderr),
                Err(failure) => (failure.stdout, failure.stderr),
            };
            for id in [stdout, stderr].into_iter().flatten() {
                self.below(id.link(), Wanted::IfThere)?;
            }
        }
        if self.options.sources.is_some()
            && let Some(bytes) = self.store.get(receipt.ran.link(), MAX_DAG_BYTES)?
        {
            for link in links(&bytes) {
                self.below(link, Wanted::Source)?;
            }
        }
        Ok(())
    }

    /// One block, without what it names.
    fn block(&mut self, link: Link, wanted: Wanted) -> Result<bool, CarError> {
        if self.seen.contains(&link) {
            return Ok(false);
        }
        let item = if self.store.has(link)? {
            Some(Item::Here(link))
        } else {
            let elsewhere = self.options.sources.filter(|_| wanted == Wanted::Source);
            let id = BlobId::try_from(link).ok();
            elsewhere.and_then(|f| f(id?)).map(|path| Item::Elsewhere(link, path))
        };
        match item {
            Some(item) => {
                self.seen.insert(link);
                self.items.push(item);
                return Ok(true);
            }
            None if wanted == Wanted::Output && !self.missing.contains(&link) => self.missing.push(link),
            None => {}
        }
        Ok(false)
    }

    /// A block and all below it, in the order in which blocks name one another.
    fn below(&mut self, link: Link, wanted: Wanted) -> Result<(), CarError> {
        let mut todo = vec![link];
        while let Some(link) = todo.pop() {
            if self.block(link, wanted)? && link.codec == Codec::DagCbor {
                let bytes = self.store.get(link, MAX_DAG_BYTES)?.ok_or(CarError::Damaged(link))?;
                let mut named = links(&bytes);
                named.reverse();
                todo.append(&mut named);
            }
            if self.items.len() > MAX_BLOCKS {
                return Err(CarError::TooMany);
            }
        }
        Ok(())
    }

    fn write<W: Write>(&self, writer: &mut Writer<W>, item: &Item) -> Result<(), CarError> {
        let open = |path: &PathBuf| File::open(path).map_err(CarError::io("cannot read a file"));
        match item {
            Item::Here(link) if link.codec == Codec::DagCbor => {
                let bytes = self.store.get(*link, MAX_DAG_BYTES)?.ok_or(CarError::Damaged(*link))?;
                writer.block(*link, &bytes)
            }
            Item::Here(link) => match self.store.blob(BlobId::from_digest(link.digest))? {
                Some(Blob::Inline(bytes)) => writer.block(*link, &bytes),
                Some(Blob::File { path, size }) => {
                    let written = writer.stream(*link, size, &mut open(&path)?);
                    if matches!(written, Err(CarError::Damaged(_))) {
                        self.store.corrupt(*link);
                    }
                    written
                }
                None => Err(CarError::Damaged(*link)),
            },
            Item::Elsewhere(link, path) => {
                let file = open(path)?;
                let size = file.metadata().map_err(CarError::io("cannot read a file"))?.len();
                let changed = |e| match e {
                    CarError::Damaged(_) => CarError::Changed(path.clone()),
                    other => other,
                };
                writer.stream(*link, size, &mut file.take(size)).map_err(changed)
            }
        }
    }
}
