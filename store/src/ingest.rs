//! Files, directories and links of the disk into blobs and trees of a store.
//!
//! What cannot be kept is refused by name, never skipped: other kinds of files, names that are no text, links that lead
//! out. Unaware of who made the files.

mod error;
#[cfg(test)]
mod tests;
mod walk;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

pub use self::error::IngestError;
use self::walk::single;
pub(crate) use self::walk::{Listed, list};
pub use crate::beneath::stays_inside;
use crate::beneath::{self, SEARCH};
use crate::cid::{BlobId, Codec};
use crate::parallel;
use crate::stamp::{FileKind, Stamp, now_ns};
use crate::tree::{Entry, Tree};
use crate::tree_build::tree_of;
use crate::{Store, Take};

/// Most entries taken at once unless said otherwise.
pub const MAX_ENTRIES: usize = 1 << 20;

/// Files up to this size are read and put as blocks; the store copies or moves larger ones itself.
const SMALL_BYTES: u64 = 16 << 10;
/// From here on several threads take less time than one.
const MANY_FILES: usize = 64;
const MANY_BYTES: u64 = 256 << 10;
/// How often a file that changes while it is read is read again.
const ATTEMPTS: usize = 3;

/// Which symbolic links are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// Those that cannot lead out of the directory: relative, `..` only at the beginning and not above its top.
    #[default]
    Inside,
    /// All; nothing is ever followed either way.
    Any,
}

/// What is taken, and how.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Whether large files may be moved into the store.
    pub take: Take,
    /// Which links are taken.
    pub links: Links,
    /// Whether files are taken that run as their owner (setuid, setgid). What is kept does not.
    pub set_id: bool,
    /// More files, links and directories than this are refused.
    pub max_entries: usize,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self { take: Take::Copy, links: Links::Inside, set_id: true, max_entries: MAX_ENTRIES }
    }
}

/// What was taken.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// The whole.
    pub entry: Entry,
    /// Each file and link by its path below the root given, as it looked when it was read, but for what was moved.
    pub files: Vec<(String, Entry, Stamp)>,
    /// When the first of them was looked at.
    pub looked_ns: i64,
}

/// Keeps what is at `path`; `None` when nothing is there. A link there may lead into its own directory only; use
/// [`ingest_at`] where it may lead elsewhere below an output root.
pub fn ingest_path(store: &Store, path: &Path, take: Take) -> Result<Option<Entry>, IngestError> {
    let options = IngestOptions { take, ..IngestOptions::default() };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(ingest_at(store, path, "", &options)?.map(|found| found.entry));
    };
    let Some(name) = name.to_str() else { return Err(IngestError::NotText { path: path.to_owned() }) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(ingest_at(store, parent, name, &options)?.map(|found| found.entry))
}

/// Keeps everything in the directory `path`, which must be there.
pub fn ingest_dir(store: &Store, path: &Path, take: Take) -> Result<Entry, IngestError> {
    let options = IngestOptions { take, ..IngestOptions::default() };
    let found = ingest_at(store, path, "", &options)?;
    found.map(|found| found.entry).ok_or_else(|| IngestError::io(&path.to_string_lossy(), Errno::NOENT))
}

/// Keeps what is at `rel` below `root` (all of `root` when empty); `None` when nothing is there.
///
/// No link is followed on the way. A directory's links may lead anywhere in that directory; a link that is itself at
/// `rel` may lead anywhere in `root`.
pub fn ingest_at(
    store: &Store,
    root: &Path,
    rel: &str,
    options: &IngestOptions,
) -> Result<Option<Ingested>, IngestError> {
    match beneath::open_root(root) {
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(IngestError::io(&root.to_string_lossy(), error)),
        Ok(fd) => ingest_below(store, root, fd.as_fd(), rel, options),
    }
}

/// The same where `root` is open as `fd`.
pub fn ingest_below(
    store: &Store,
    root: &Path,
    fd: BorrowedFd<'_>,
    rel: &str,
    options: &IngestOptions,
) -> Result<Option<Ingested>, IngestError> {
    let looked_ns = now_ns();
    let listing = match single(fd, rel, options) {
        Some(listing) => listing,
        None => match list(fd, rel, options)? {
            Some(listing) => listing,
            None => return Ok(None),
        },
    };
    let mut files = keep(store, root, fd, &listing.files, options.take)?;
    files.extend(listing.links);
    // What the store may have moved is not where it was.
    let stays = |(_, _, stamp): &Kept| options.take == Take::Copy || stamp.size <= SMALL_BYTES;
    if !listing.dir {
        let Some(kept) = files.pop() else { return Ok(None) };
        let entry = kept.1.clone();
        return Ok(Some(Ingested { entry, files: Some(kept).filter(stays).into_iter().collect(), looked_ns }));
    }
    let empty = Entry::Dir { tree: store.put_tree(&Tree::default())? };
    let below = |path: &'_ str| if rel.is_empty() { 0 } else { path.len().min(rel.len() + 1) };
    let flat = files.iter().map(|(path, entry, _)| (path.as_str(), entry));
    let flat = flat.chain(listing.empty.iter().map(|path| (path.as_str(), &empty)));
    let (tree, _) = tree_of(Some(store), flat.map(|(path, entry)| (&path[below(path)..], entry)))?;
    files.retain(stays);
    Ok(Some(Ingested { entry: Entry::Dir { tree }, files, looked_ns }))
}

type Kept = (String, Entry, Stamp);

/// Puts the content of all files into the store.
fn keep(
    store: &Store,
    root: &Path,
    fd: BorrowedFd<'_>,
    files: &[Listed],
    take: Take,
) -> Result<Vec<Kept>, IngestError> {
    let bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.stamp.size));
    let threads = if files.len() > MANY_FILES || bytes > MANY_BYTES { parallel::cores() } else { 1 };
    let grain = (files.len() / (16 * threads)).clamp(1, 64);
    let kept = parallel::map(threads, grain, files, || (), |(), file| keep_file(store, root, fd, file, take));
    kept.into_iter().collect()
}

fn keep_file(store: &Store, root: &Path, fd: BorrowedFd<'_>, file: &Listed, take: Take) -> Result<Kept, IngestError> {
    let path = file.path.as_str();
    let mut stamp = file.stamp;
    for _ in 0..ATTEMPTS {
        let kept = if stamp.size <= SMALL_BYTES {
            keep_small(store, fd, path, &stamp)?
        } else {
            keep_large(store, root, fd, path, &stamp, if file.linked { Take::Copy } else { take })?
        };
        if let Some(blob) = kept {
            let entry = Entry::File { blob, size: stamp.size, exec: stamp.mode_exec };
            return Ok((path.to_owned(), entry, stamp));
        }
        match look(fd, path)? {
            Some(now) if now.kind == FileKind::File => stamp = now,
            _ => break,
        }
    }
    Err(IngestError::Changing { path: path.to_owned() })
}

fn look(fd: BorrowedFd<'_>, path: &str) -> Result<Option<Stamp>, IngestError> {
    let (dir, name) = beneath::split(path);
    beneath::open_dir(fd, dir, SEARCH)
        .and_then(|dir| beneath::lstat(dir, name))
        .map_err(|error| IngestError::io(path, error))
}

/// Reads a file and puts it; `None` when it does not look like `stamp` any more.
fn keep_small(store: &Store, root: BorrowedFd<'_>, path: &str, stamp: &Stamp) -> Result<Option<BlobId>, IngestError> {
    let Some(fd) = open(root, path)? else { return Ok(None) };
    // One byte more than there should be, so that a file that grew shows.
    let mut bytes = vec![0; stamp.size as usize + 1];
    let filled = crate::hash_file::read_whole(&fd, &mut bytes).map_err(|error| IngestError::io(path, error))?;
    if stamp_of(&fd, path)? != *stamp || filled as u64 != stamp.size {
        return Ok(None);
    }
    bytes.truncate(filled);
    Ok(Some(BlobId::from_digest(store.put(Codec::Raw, bytes)?.digest)))
}

/// Has the store take a file; `None` when it does not look like `stamp` any more.
fn keep_large(
    store: &Store,
    root: &Path,
    fd: BorrowedFd<'_>,
    path: &str,
    stamp: &Stamp,
    take: Take,
) -> Result<Option<BlobId>, IngestError> {
    let Some(file) = open(fd, path)? else { return Ok(None) };
    // Another file, or something that would be waited for, can have taken its place since it was listed.
    if stamp_of(&file, path)? != *stamp {
        return Ok(None);
    }
    let opened = file.try_clone().map_err(|source| IngestError::Io { path: path.to_owned(), source })?;
    let (blob, size) = store.put_opened(&root.join(path), opened.into(), take)?;
    // What was moved has changed by that. Whoever still writes to it is found out when the blob is used.
    let same = take == Take::Move || stamp_of(&file, path)? == *stamp;
    Ok((same && size == stamp.size).then_some(blob))
}

/// Opens a file that was listed; `None` when there is none any more.
fn open(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, IngestError> {
    match beneath::open_file(root, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(error) => Err(IngestError::io(path, error)),
    }
}

fn stamp_of(fd: &OwnedFd, path: &str) -> Result<Stamp, IngestError> {
    Ok(Stamp::of(&rustix::fs::fstat(fd).map_err(|error| IngestError::io(path, error))?))
}
