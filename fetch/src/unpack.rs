//! An archive into a tree of the store: nothing in it is put on the disk under a name of its own.
//!
//! What a tree cannot hold, or what would lead out of it, is refused by name. Unaware of where the archive is from.

mod streams;
mod tar;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use quipu_runtime::fetch::Unpack;
use quipu_store::cid::{BlobId, Codec};
use quipu_store::ingest::stays_inside;
use quipu_store::tree::{Entry, Tree};
use quipu_store::tree_build::{TreeOfError, tree_of};
use quipu_store::{Store, StoreError, Take};

/// Files up to this size are kept as blocks at once; larger ones go through a file.
const SMALL_BYTES: u64 = 16 << 10;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// All bytes of all files together.
    pub max_bytes: u64,
    /// Files, folders and links.
    pub max_entries: usize,
    /// All names together, in bytes.
    pub max_name_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_bytes: 32 << 30, max_entries: 1 << 20, max_name_bytes: 256 << 20 }
    }
}

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It is none, or is damaged.
    #[error("the archive cannot be read: {0}")]
    Read(io::Error),
    /// A path that leads out of it.
    #[error("the archive holds `{0}`, which leads out of it")]
    Outside(String),
    /// A symbolic link that leads, or may lead, out of it.
    #[error("the archive holds a link `{path}` to `{target}`, which may lead out of it")]
    Link {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A hard link to what is no file before it.
    #[error("the archive holds a hard link `{path}` to `{target}`, which is no file before it")]
    HardLink {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A device, a pipe, or what nobody knows.
    #[error("the archive holds `{path}`, which is {kind}; only files, folders and links can be kept")]
    Kind {
        /// Its path.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A file in a form that is not read here.
    #[error("the archive holds `{path}`, which is {how}")]
    Form {
        /// Its path.
        path: String,
        /// In which form it is.
        how: String,
    },
    /// A name, or a link's target, that is not UTF-8.
    #[error("the archive holds `{0}`, the name or target of which is not UTF-8")]
    NotText(String),
    /// Too much of something.
    #[error("the archive has more than {limit} {what}")]
    TooMuch {
        /// How much there may be.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// Nothing is left of it.
    #[error("nothing is left of the archive when {0} folders are stripped")]
    Nothing(u32),
    /// Its paths make no tree.
    #[error("the archive holds {0}")]
    Tree(#[from] TreeOfError),
    /// The store did not take a file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be written down on its way.
    #[error("a file cannot be written to the store: {0}")]
    Io(io::Error),
}

/// Keeps what an archive holds, below the first `strip` folders; `scratch` is a folder for files on their way.
pub fn unpack(
    store: &Store,
    archive: impl Read + Seek,
    how: Unpack,
    strip: u32,
    bounds: &Bounds,
    scratch: &Path,
) -> Result<Entry, UnpackError> {
    let mut keeping =
        Keeping { store, strip, bounds, scratch, bytes: 0, entries: 0, name_bytes: 0, found: BTreeMap::new() };
    match streams::decoder(how, archive) {
        Ok(stream) => tar::read(&mut keeping, stream)?,
        Err(archive) => zip::read(&mut keeping, archive)?,
    }
    keeping.tree()
}

/// What is kept of an archive.
struct Keeping<'a> {
    store: &'a Store,
    strip: u32,
    bounds: &'a Bounds,
    scratch: &'a Path,
    bytes: u64,
    entries: usize,
    name_bytes: usize,
    /// `None` is a folder.
    found: BTreeMap<String, Option<Entry>>,
}

impl Keeping<'_> {
    /// Counts what a file says it holds.
    fn count(&mut self, size: u64) -> Result<(), UnpackError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.bounds.max_bytes {
            return Err(UnpackError::TooMuch { limit: self.bounds.max_bytes, what: "bytes in its files" });
        }
        Ok(())
    }

    /// Keeps what stands at a path. Of what is there twice the later one counts, as it does for tar.
    fn keep(&mut self, path: String, entry: Option<Entry>) -> Result<(), UnpackError> {
        self.entries += 1;
        self.name_bytes += path.len();
        if self.entries > self.bounds.max_entries {
            let limit = self.bounds.max_entries as u64;
            return Err(UnpackError::TooMuch { limit, what: "files, folders and links" });
        }
        if self.name_bytes > self.bounds.max_name_bytes {
            let limit = self.bounds.max_name_bytes as u64;
            return Err(UnpackError::TooMuch { limit, what: "bytes in its names" });
        }
        self.found.insert(path, entry);
        Ok(())
    }

    /// A symbolic link at a path, which was written otherwise.
    fn symlink(path: &str, written: &str, target: String) -> Result<Entry, UnpackError> {
        if !stays_inside(&target, path.matches('/').count()) {
            return Err(UnpackError::Link { path: written.to_owned(), target });
        }
        Ok(Entry::Symlink { target: target.into() })
    }

    /// A path in the tree; `None` when it is stripped away.
    fn path(&self, written: &str) -> Result<Option<String>, UnpackError> {
        let names: Vec<&str> = written.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        if written.starts_with('/') || names.contains(&"..") {
            return Err(UnpackError::Outside(written.to_owned()));
        }
        let left = names.get(self.strip as usize..).filter(|left| !left.is_empty());
        Ok(left.map(|left| left.join("/")))
    }

    /// Keeps a file that has exactly so many bytes. More are never read, but for one to see that there are more.
    fn file(&self, from: impl Read, size: u64) -> Result<(BlobId, u64), UnpackError> {
        let mut from = from.take(size.saturating_add(1));
        if size <= SMALL_BYTES {
            let mut bytes = Vec::with_capacity(size as usize);
            from.read_to_end(&mut bytes).map_err(UnpackError::Read)?;
            if bytes.len() as u64 != size {
                return Err(UnpackError::Read(other_size()));
            }
            let id = BlobId::of(&bytes);
            self.store.put(Codec::Raw, bytes)?;
            return Ok((id, size));
        }
        let path = self.scratch.join("unpacked");
        let mut file = File::create(&path).map_err(UnpackError::Io)?;
        let mut buffer = vec![0; 128 << 10];
        let mut copied = 0;
        loop {
            let read = from.read(&mut buffer).map_err(UnpackError::Read)?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(UnpackError::Io)?;
            copied += read as u64;
        }
        if copied != size {
            return Err(UnpackError::Read(other_size()));
        }
        drop(file);
        Ok(self.store.put_file(&path, Take::Move)?)
    }

    fn tree(self) -> Result<Entry, UnpackError> {
        let mut filled = BTreeSet::new();
        for path in self.found.keys() {
            let mut above = path.as_str();
            while let Some((folder, _)) = above.rsplit_once('/') {
                if !filled.insert(folder) {
                    break;
                }
                above = folder;
            }
        }
        if self.found.is_empty() {
            return Err(UnpackError::Nothing(self.strip));
        }
        let empty = Entry::Dir { tree: self.store.put_tree(&Tree::default())? };
        let entries = self.found.iter().filter_map(|(path, entry)| match entry {
            Some(entry) => Some((path.as_str(), entry)),
            // Others are there by what is in them.
            None => (!filled.contains(path.as_str())).then_some((path.as_str(), &empty)),
        });
        let (tree, _) = tree_of(Some(self.store), entries)?;
        Ok(Entry::Dir { tree })
    }
}

fn other_size() -> io::Error {
    io::Error::other("a file has not the size that it says")
}

fn text(bytes: &[u8]) -> Result<String, UnpackError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(UnpackError::NotText(String::from_utf8_lossy(bytes).into_owned())),
    }
}
