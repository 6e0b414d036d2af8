//! What leaves the store with a receipt: which blocks, and their bytes.
//!
//! Unaware of where they go.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use crate::StoreError;
use crate::car::MAX_DAG_BYTES;
use crate::cid::{BlobId, Codec, Link};
use crate::receipt::Output;
use crate::sign::SignedReceipt;
use crate::store::Store;
use crate::terms::Blob;
use crate::tree::{self, Entry, Node};

/// Every block that a receipt reaches; `None` when some are not here, or when it is one of a failure. The blocks of its
/// tasks and of the invocation go along as far as they are here: nobody needs them to use the result.
pub fn reached(store: &Store, signed: &SignedReceipt, logs: bool) -> Result<Option<Vec<Link>>, StoreError> {
    let Ok(output) = &signed.receipt.out else { return Ok(None) };
    let mut links = vec![];
    let blocks = signed.receipt.meta.settles.keys().map(|id| id.link()).chain([signed.receipt.ran.link()]);
    for link in blocks {
        if store.has(link)? {
            links.push(link);
        }
    }
    let mut seen: HashSet<Link> = HashSet::new();
    let mut todo: Vec<Link> = Output { stderr: output.stderr.filter(|_| logs), ..output.clone() }.links().collect();
    while let Some(link) = todo.pop() {
        if !seen.insert(link) {
            continue;
        }
        links.push(link);
        if link.codec == Codec::Raw {
            continue;
        }
        let Some(bytes) = store.get(link, tree::MAX_NODE_BYTES as u64)? else { return Ok(None) };
        match Node::decode(&bytes) {
            Ok(Node::Parts(parts)) => todo.extend(parts.into_iter().map(|p| p.link())),
            Ok(Node::Whole(tree)) => todo.extend(tree.entries().iter().filter_map(|(_, entry)| match entry {
                Entry::File { blob, .. } => Some(blob.link()),
                Entry::Dir { tree } => Some(tree.link()),
                Entry::Symlink { .. } => None,
            })),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(links))
}

/// A block's bytes, as the store has them.
pub enum Bytes {
    /// Checked against the id.
    Here(Vec<u8>),
    /// So many, to be checked by who reads them.
    File(File, u64),
}

impl Bytes {
    /// Opens a block; `None` when it is not here.
    pub fn open(store: &Store, link: Link) -> Result<Option<Self>, StoreError> {
        match link.codec {
            Codec::DagCbor => Ok(store.get(link, MAX_DAG_BYTES)?.map(Self::Here)),
            Codec::Raw => match store.blob(BlobId::from_digest(link.digest))? {
                None => Ok(None),
                Some(Blob::Inline(bytes)) => Ok(Some(Self::Here(bytes))),
                Some(Blob::File { path, size }) => Ok(File::open(path).ok().map(|file| Self::File(file, size))),
            },
        }
    }

    /// How many there are.
    pub fn size(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    /// The bytes from their beginning.
    pub fn reader(self) -> Box<dyn Read + Send> {
        match self {
            Self::Here(bytes) => Box::new(std::io::Cursor::new(bytes)),
            Self::File(file, size) => Box::new(file.take(size)),
        }
    }
}
