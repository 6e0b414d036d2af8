//! What the store knows of fetched content: which blob it is, and what it was unpacked to.
//!
//! Content known by BLAKE3 is the blob of that id; for any other hash, and for what was unpacked, the store keeps a note.
//! Unaware of addresses.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use quipu_runtime::fetch::{FetchSpec, Sum};
use quipu_store::cid::{BlobHasher, BlobId, InvocationId, TreeId};
use quipu_store::tree::Entry;
use quipu_store::{Blob, Store, StoreError, Take};

use crate::error::FetchError;
use crate::unpack::{Bounds, UnpackError, unpack};

/// Content that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
}

/// Whose lease is held by who brings the content of a hash here.
pub(crate) fn lease_id(sum: &Sum) -> InvocationId {
    InvocationId::of(format!("quipu/fetch/{sum}").as_bytes())
}

/// The content of a hash, when it is here.
pub(crate) fn find(store: &Store, sum: &Sum) -> Result<Option<Content>, StoreError> {
    let blob = match sum {
        Sum::Blake3(digest) => BlobId::from_digest(*digest),
        Sum::Sha256(_) => {
            let Some(digest) = noted(store, &format!("fetch:{sum}"))? else { return Ok(None) };
            BlobId::from_digest(digest)
        }
    };
    let size = store.blob(blob)?.map(|found| match found {
        Blob::Inline(bytes) => bytes.len() as u64,
        Blob::File { size, .. } => size,
    });
    Ok(size.map(|size| Content { blob, size }))
}

/// Keeps a file whose hash was checked. Others find it when this returns.
pub(crate) fn keep(store: &Store, sum: &Sum, file: &Path) -> Result<Content, FetchError> {
    let (blob, size) = store.put_file(file, Take::Move)?;
    if let Sum::Sha256(_) = sum {
        store.set_note(&format!("fetch:{sum}"), Some(blob.digest().to_vec()))?;
    }
    store.flush()?;
    Ok(Content { blob, size })
}

/// The entry that a task makes of the content it asked for.
pub(crate) fn entry(store: &Store, spec: &FetchSpec, content: Content, bounds: &Bounds) -> Result<Entry, FetchError> {
    let Some(how) = spec.unpack else {
        return Ok(Entry::File { blob: content.blob, size: content.size, exec: spec.executable });
    };
    let key = format!("unpacked:{}:{}:{}", content.blob, how.name(), spec.strip);
    if let Some(digest) = noted(store, &key)? {
        let known = Entry::Dir { tree: TreeId::from_digest(digest) };
        if store.complete(&known)? {
            return Ok(known);
        }
    }
    let scratch = Scratch(store.scratch_dir()?);
    let archive: Box<dyn Archive> = match store.blob(content.blob)? {
        Some(Blob::Inline(bytes)) => Box::new(Cursor::new(bytes)),
        Some(Blob::File { path, .. }) => Box::new(File::open(path)?),
        None => return Err(io::Error::other("it vanished from the store").into()),
    };
    let mut archive = Checked { from: archive, hasher: BlobHasher::default(), hashed: 0, at: 0 };
    let entry = unpack(store, &mut archive, how, spec.strip, bounds, &scratch.0);
    // What is wrong with it may be the disk's fault.
    if archive.id()? != content.blob {
        store.corrupt(content.blob.link());
        return Err(UnpackError::Read(io::Error::other("its bytes in the store are damaged: fetch it again")).into());
    }
    let entry = entry?;
    if let Entry::Dir { tree } = &entry {
        store.set_note(&key, Some(tree.digest().to_vec()))?;
    }
    Ok(entry)
}

fn noted(store: &Store, key: &str) -> Result<Option<[u8; 32]>, StoreError> {
    Ok(store.note(key)?.and_then(|note| note.try_into().ok()))
}

/// What an archive is read from.
trait Archive: Read + Seek {}

impl<T: Read + Seek> Archive for T {}

/// A reader that hashes what it gives, as long as that is read from its beginning on.
struct Checked<R> {
    from: R,
    hasher: BlobHasher,
    hashed: u64,
    at: u64,
}

impl<R: Read + Seek> Checked<R> {
    /// The id of all there is.
    fn id(mut self) -> io::Result<BlobId> {
        self.seek(SeekFrom::Start(self.hashed))?;
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.id())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        if self.at == self.hashed {
            self.hasher.update(&into[..read]);
            self.hashed += read as u64;
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for Checked<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.from.seek(to)?;
        Ok(self.at)
    }
}

/// A folder for what is on its way, gone afterwards. After a kill the store removes it.
pub(crate) struct Scratch(pub(crate) std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it goes with the process's other files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
