//! Import: a CAR file into a store, all of it or nothing.
//!
//! Everything is read and checked into a scratch directory first; then content is moved into the store, and only when
//! that is durable do receipts follow, all in one commit. A file that is bad, or an import that is killed, leaves
//! nothing that anybody finds. Unaware of whose receipts count: they come in as made elsewhere.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::car::{CarError, MAX_BLOCKS, MAX_DAG_BYTES, Reader, WORKFLOW_HEAD};
use crate::checkout::Limits;
use crate::cid::{BlobId, Codec, Link, ReceiptId, TreeId};
use crate::links::links;
use crate::sign::{PublicKey, SignedReceipt};
use crate::tree::{self, Entry, MAX_DEPTH, Node, Tree};
use crate::{Blob, Store, Take, strict};

/// Blocks up to this size are staged in one common file.
const SPOOL_BYTES: u64 = 64 << 10;
/// All receipts of a file together: they are committed in one go, and held in memory for it.
const MAX_RECEIPTS_BYTES: u64 = 256 << 20;
/// How every receipt begins: a list of two, the first 64 bytes long.
const ENVELOPE: [u8; 3] = [0x82, 0x58, 0x40];

/// How a file is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// No more of the file is read than this.
    pub max_bytes: u64,
    /// What directories may expand to.
    pub limits: Limits,
    /// What receipts are said to come from.
    pub source: String,
}

impl ImportOptions {
    /// No limit but those of the format, from a source of this name.
    pub fn new(source: impl Into<String>) -> Self {
        Self { max_bytes: u64::MAX, limits: Limits::default(), source: source.into() }
    }
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Receipts that are new here, with who issued them.
    pub receipts: Vec<(ReceiptId, PublicKey)>,
    /// Workflows of the file, new here or not.
    pub workflows: Vec<Link>,
    /// Receipts that were here already.
    pub known_receipts: u64,
    /// Blocks that are new here.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blocks that were here already.
    pub known_blocks: u64,
    /// Blocks that no receipt of the file reaches, and that were left out.
    pub strays: u64,
    /// New receipts some of whose outputs are neither in the file nor here.
    pub incomplete: Vec<ReceiptId>,
}

/// Imports a file. On an error nothing of it is in the store.
pub fn import(store: &Store, from: impl Read, options: &ImportOptions) -> Result<Imported, CarError> {
    // What is found to be here already must not be collected before the receipts are.
    let _held = store.hold()?;
    let mut stage = Stage::new(store)?;
    let roots = stage.fill(from, options.max_bytes)?;
    let mut check = Check::new(&stage, options);
    let mut imported = Imported::default();
    let mut receipts = vec![];
    let mut receipts_bytes = 0;
    for id in roots {
        match stage.blocks.get(&id.link()) {
            Some(Place::Here) | None if check.workflow(id.link())? => imported.workflows.push(id.link()),
            Some(Place::Here) | None => {
                let known = store.receipt(id)?.ok_or(CarError::MissingRoot(id.link()))?;
                imported.known_receipts += 1;
                // What it reaches may have been lost since, or never have come.
                check.receipt(&known.signed)?;
            }
            Some(_) if check.workflow(id.link())? => imported.workflows.push(id.link()),
            Some(_) => {
                let bytes = stage.bytes(id.link())?.ok_or(CarError::MissingRoot(id.link()))?;
                let signed = SignedReceipt::verify(&bytes).map_err(|source| CarError::Receipt { id, source })?;
                receipts_bytes += bytes.len() as u64;
                if receipts_bytes > MAX_RECEIPTS_BYTES {
                    return Err(CarError::TooMany);
                }
                if !check.receipt(&signed)? {
                    imported.incomplete.push(id);
                }
                imported.receipts.push((id, signed.issuer));
                receipts.push(signed);
            }
        }
    }
    let Check { reached, .. } = check;
    stage.commit(&reached, &mut imported)?;
    // Durable before anybody can find a receipt that names it.
    store.flush()?;
    store.import_all(receipts, &options.source)?;
    store.flush()?;
    Ok(imported)
}

/// Where a block of the file is now.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the store, from before.
    Here,
    /// In the common file.
    Spool { at: u64, size: u64 },
    /// In a file of its own.
    File { size: u64 },
}

/// A scratch directory with what was read, deleted in the end.
struct Stage<'a> {
    store: &'a Store,
    dir: PathBuf,
    spool: File,
    blocks: FxHashMap<Link, Place>,
    /// In the order of the file.
    order: Vec<Link>,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl<'a> Stage<'a> {
    fn new(store: &'a Store) -> Result<Self, CarError> {
        let staging = CarError::io("cannot write to the store's scratch directory");
        let dir = store.scratch_dir().map_err(&staging)?;
        let spool = File::options().read(true).write(true).create_new(true).open(dir.join("spool"));
        Ok(Self { store, spool: spool.map_err(&staging)?, dir, blocks: FxHashMap::default(), order: vec![] })
    }

    fn file(&self, link: Link) -> PathBuf {
        self.dir.join(link.to_string())
    }

    /// Reads the whole file; every block of it has the bytes its id says.
    fn fill(&mut self, from: impl Read, max_bytes: u64) -> Result<Vec<ReceiptId>, CarError> {
        let staging = CarError::io("cannot write to the store's scratch directory");
        let (mut reader, roots) = Reader::open(io::BufReader::with_capacity(256 << 10, from), max_bytes)?;
        let mut spool = BufWriter::new(self.spool.try_clone().map_err(&staging)?);
        let mut spooled = 0;
        while let Some(section) = reader.next()? {
            let (link, size) = (section.link, section.size);
            if self.blocks.contains_key(&link) || self.store.has(link)? {
                reader.body(section, |_| Ok(()))?;
                if let std::collections::hash_map::Entry::Vacant(slot) = self.blocks.entry(link) {
                    slot.insert(Place::Here);
                }
            } else if size <= SPOOL_BYTES || link.codec == Codec::DagCbor {
                reader.body(section, |part| spool.write_all(part).map_err(&staging))?;
                self.blocks.insert(link, Place::Spool { at: spooled, size });
                self.order.push(link);
                spooled += size;
            } else {
                let mut file = File::create_new(self.file(link)).map_err(&staging)?;
                reader.body(section, |part| file.write_all(part).map_err(&staging))?;
                self.blocks.insert(link, Place::File { size });
                self.order.push(link);
            }
            if self.blocks.len() > MAX_BLOCKS {
                return Err(CarError::TooMany);
            }
        }
        spool.flush().map_err(&staging)?;
        Ok(roots)
    }

    /// Bytes of a block with structure, from the file or the store.
    fn bytes(&self, link: Link) -> Result<Option<Vec<u8>>, CarError> {
        match self.blocks.get(&link) {
            Some(Place::Spool { at, size }) => self.spooled(*at, *size).map(Some),
            _ => Ok(self.store.get(link, MAX_DAG_BYTES)?),
        }
    }

    fn spooled(&self, at: u64, size: u64) -> Result<Vec<u8>, CarError> {
        let mut bytes = vec![0; usize::try_from(size).expect("spooled blocks are small")];
        self.spool.read_exact_at(&mut bytes, at).map_err(CarError::io("cannot read what was staged"))?;
        Ok(bytes)
    }

    fn size(&self, id: BlobId) -> Result<Option<u64>, CarError> {
        match self.blocks.get(&id.link()) {
            Some(Place::Spool { size, .. } | Place::File { size }) => Ok(Some(*size)),
            _ => Ok(self.store.blob(id)?.map(|blob| match blob {
                Blob::Inline(bytes) => bytes.len() as u64,
                Blob::File { size, .. } => size,
            })),
        }
    }

    /// Puts into the store what receipts reach.
    fn commit(&self, reached: &FxHashSet<Link>, imported: &mut Imported) -> Result<(), CarError> {
        imported.known_blocks = self.blocks.values().filter(|p| matches!(p, Place::Here)).count() as u64;
        imported.known_blocks -= imported.known_receipts.min(imported.known_blocks);
        let new: FxHashSet<Link> = imported.receipts.iter().map(|(id, _)| id.link()).collect();
        for link in self.order.iter().filter(|link| !new.contains(link)) {
            if !reached.contains(link) {
                imported.strays += 1;
                continue;
            }
            let size = match self.blocks[link] {
                Place::Spool { at, size } => {
                    self.store.put(link.codec, self.spooled(at, size)?)?;
                    size
                }
                Place::File { .. } => {
                    let (id, size) = self.store.put_file(&self.file(*link), Take::Move)?;
                    // A disk that gives back other bytes than it was given.
                    if id.link() != *link {
                        return Err(CarError::Damaged(*link));
                    }
                    size
                }
                Place::Here => continue,
            };
            imported.blocks += 1;
            imported.bytes += size;
        }
        Ok(())
    }
}

/// What a directory comes to when all is made that it names.
#[derive(Clone, Copy)]
struct Extent {
    entries: u64,
    bytes: u64,
    height: usize,
    complete: bool,
}

/// The receipts of a file with all they reach, looked at before anything of it is kept.
struct Check<'a> {
    stage: &'a Stage<'a>,
    options: &'a ImportOptions,
    reached: FxHashSet<Link>,
    trees: FxHashMap<TreeId, Extent>,
}

impl<'a> Check<'a> {
    fn new(stage: &'a Stage<'a>, options: &'a ImportOptions) -> Self {
        Self { stage, options, reached: FxHashSet::default(), trees: FxHashMap::default() }
    }

    /// Whether all outputs can be had.
    fn receipt(&mut self, signed: &SignedReceipt) -> Result<bool, CarError> {
        let receipt = &signed.receipt;
        let mut complete = true;
        for entry in receipt.out.iter().flat_map(|output| output.artifacts.values()) {
            let extent = self.entry(entry, 0)?;
            complete &= extent.complete;
            self.within(extent, signed.id.link())?;
        }
        self.reach(receipt.meta.settles.keys().map(|task| task.link()).chain(links(&signed.bytes)).collect())?;
        Ok(complete)
    }

    /// Whether it is a workflow, with what it names as far as that is there; what its tasks are is for others to say.
    fn workflow(&mut self, link: Link) -> Result<bool, CarError> {
        let Some(bytes) = self.stage.bytes(link)?.filter(|bytes| bytes.starts_with(WORKFLOW_HEAD)) else {
            return Ok(false);
        };
        strict::check(&bytes).map_err(|source| CarError::Block { link, source })?;
        self.reach([link].into_iter().chain(links(&bytes)).collect())?;
        Ok(true)
    }

    fn within(&self, extent: Extent, link: Link) -> Result<(), CarError> {
        let limits = &self.options.limits;
        if extent.entries > limits.max_files || extent.bytes > limits.max_bytes {
            let (files, bytes) = (limits.max_files, limits.max_bytes);
            let why = format!("it would come to more than {files} files or {bytes} bytes");
            return Err(CarError::Tree { link, why });
        }
        if extent.height > MAX_DEPTH {
            return Err(CarError::Tree { link, why: format!("it is nested more than {MAX_DEPTH} directories deep") });
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, depth: usize) -> Result<Extent, CarError> {
        let leaf = Extent { entries: 1, bytes: 0, height: 0, complete: true };
        match entry {
            Entry::Symlink { .. } => Ok(leaf),
            Entry::File { blob, size, .. } => {
                let found = self.stage.size(*blob)?;
                if let Some(found_bytes) = found.filter(|found| found != size) {
                    return Err(CarError::Size { link: blob.link(), expected_bytes: *size, found_bytes });
                }
                Ok(Extent { bytes: *size, complete: found.is_some(), ..leaf })
            }
            Entry::Dir { tree } => self.directory(*tree, depth),
        }
    }

    /// Each directory is looked at once, however often it is named.
    fn directory(&mut self, id: TreeId, depth: usize) -> Result<Extent, CarError> {
        if let Some(known) = self.trees.get(&id) {
            return Ok(*known);
        }
        let mut extent = Extent { entries: 1, bytes: 0, height: 1, complete: true };
        if depth >= MAX_DEPTH {
            self.within(Extent { height: MAX_DEPTH + 1, ..extent }, id.link())?;
        }
        let Some(tree) = self.tree(id)? else { return Ok(Extent { complete: false, ..extent }) };
        for (_, entry) in tree.entries() {
            let below = self.entry(entry, depth + 1)?;
            extent.entries = extent.entries.saturating_add(below.entries);
            extent.bytes = extent.bytes.saturating_add(below.bytes);
            extent.height = extent.height.max(below.height + 1);
            extent.complete &= below.complete;
        }
        self.within(extent, id.link())?;
        self.trees.insert(id, extent);
        Ok(extent)
    }

    fn tree(&self, id: TreeId) -> Result<Option<Tree>, CarError> {
        let Some(node) = self.node(id)? else { return Ok(None) };
        let parts = match node {
            Node::Whole(tree) => return Ok(Some(tree)),
            Node::Parts(parts) => parts,
        };
        let mut trees = Vec::new();
        for part in parts {
            match self.node(part)? {
                Some(Node::Whole(tree)) => trees.push(tree),
                Some(Node::Parts(_)) => return Err(CarError::tree(id)(tree::TreeError::Parts)),
                None => return Ok(None),
            }
        }
        Tree::join(trees).map(Some).map_err(CarError::tree(id))
    }

    fn node(&self, id: TreeId) -> Result<Option<Node>, CarError> {
        let bytes = self.stage.bytes(id.link())?;
        bytes.map(|bytes| Node::decode(&bytes).map_err(CarError::tree(id))).transpose()
    }

    /// Follows links through the blocks of the file, each of which must be in canonical form; also through those that are
    /// here already: an import that was cut short may have brought a block and not what it names.
    fn reach(&mut self, mut todo: Vec<Link>) -> Result<(), CarError> {
        while let Some(link) = todo.pop() {
            if self.reached.contains(&link) {
                continue;
            }
            if link.codec == Codec::DagCbor
                && self.stage.blocks.contains_key(&link)
                && let Some(bytes) = self.stage.bytes(link)?
            {
                if bytes.starts_with(&ENVELOPE) {
                    // A receipt comes in as a root, and as nothing else.
                    continue;
                }
                strict::check(&bytes).map_err(|source| CarError::Block { link, source })?;
                if looks_like_node(&bytes) {
                    Node::decode(&bytes).map_err(CarError::tree(link))?;
                }
                todo.extend(links(&bytes));
            }
            self.reached.insert(link);
        }
        Ok(())
    }
}

/// A map of one field, `e` or `p`: as which it would be used.
fn looks_like_node(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xa1\x61e") || bytes.starts_with(b"\xa1\x61p")
}
