//! Files, directories and links of the disk into blobs and trees of a store.
//!
//! What cannot be kept is refused by name, never skipped: other kinds of files, names that are no text, links that lead
//! out. Unaware of who made the files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::beneath::{self, LIST, SEARCH};
use crate::cid::{BlobId, Codec};
use crate::parallel;
use crate::stamp::{FileKind, Stamp, now_ns};
use crate::tree::{Entry, MAX_DEPTH, Tree};
use crate::tree_build::{TreeOfError, tree_of};
use crate::{Store, StoreError, Take};

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
    /// Each file and link by its path below the root given, as it looked when it was read. Empty for [`Take::Move`].
    pub files: Vec<(String, Entry, Stamp)>,
    /// When the first of them was looked at.
    pub looked_ns: i64,
}

/// Why something on the disk cannot be kept. Paths are below the root given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// Not a relative path of plain components.
    #[error("`{path}` is not a relative path without `.` and `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// Of a kind that has no content.
    #[error("`{path}` is {kind}; only files, directories and symbolic links can be kept")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: FileKind,
    },
    /// A file that runs as its owner.
    #[error("`{path}` has a setuid or setgid bit, which is not kept")]
    SetId {
        /// The path.
        path: String,
    },
    /// A link that leads, or may lead, out of the directory it is kept in.
    #[error("`{path}` is a symbolic link to `{target}`, which may lead outside")]
    Link {
        /// The path.
        path: String,
        /// Its target.
        target: Box<str>,
    },
    /// A name, or a link's target, that is not UTF-8.
    #[error("`{}` has a name or a target that is not UTF-8", .path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// Nested deeper than a tree may be.
    #[error("`{path}` is nested more than {MAX_DEPTH} directories deep")]
    Depth {
        /// The path.
        path: String,
    },
    /// More entries than were allowed.
    #[error("`{path}` has more than {limit} entries")]
    TooMany {
        /// The path that was to be kept.
        path: String,
        /// How many were allowed.
        limit: usize,
    },
    /// It was written to each time it was read, or removed meanwhile.
    #[error("`{path}` changes while it is read")]
    Changing {
        /// The path.
        path: String,
    },
    /// The file system said no.
    #[error("`{path}`: {source}")]
    Io {
        /// The path.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The paths make no tree.
    #[error(transparent)]
    Tree(#[from] TreeOfError),
}

impl IngestError {
    fn io(path: &str, error: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }
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
    let looked_ns = now_ns();
    let fd = match beneath::open_root(root) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|error| IngestError::io(&root.to_string_lossy(), error))?,
    };
    let Some(listing) = list(fd.as_fd(), rel, options)? else { return Ok(None) };
    let mut files = keep(store, root, fd.as_fd(), &listing.files, options.take)?;
    let moved = options.take == Take::Move;
    files.extend(listing.links);
    if !listing.dir {
        let Some((path, entry, stamp)) = files.pop() else { return Ok(None) };
        let files = if moved { Vec::new() } else { vec![(path, entry.clone(), stamp)] };
        return Ok(Some(Ingested { entry, files, looked_ns }));
    }
    let empty = Entry::Dir { tree: store.put_tree(&Tree::default())? };
    let below = |path: &'_ str| if rel.is_empty() { 0 } else { path.len().min(rel.len() + 1) };
    let flat = files.iter().map(|(path, entry, _)| (path.as_str(), entry));
    let flat = flat.chain(listing.empty.iter().map(|path| (path.as_str(), &empty)));
    let (tree, _) = tree_of(Some(store), flat.map(|(path, entry)| (&path[below(path)..], entry)))?;
    if moved {
        files.clear();
    }
    Ok(Some(Ingested { entry: Entry::Dir { tree }, files, looked_ns }))
}

/// A file that is to be kept.
pub(crate) struct Listed {
    pub(crate) path: String,
    pub(crate) stamp: Stamp,
    /// It has other names, by which it would be changed if it were moved.
    linked: bool,
}

/// What is at or below a path.
#[derive(Default)]
pub(crate) struct Listing {
    /// Whether it is a directory.
    pub(crate) dir: bool,
    pub(crate) files: Vec<Listed>,
    pub(crate) links: Vec<(String, Entry, Stamp)>,
    /// Directories below with nothing in them.
    pub(crate) empty: Vec<String>,
    entries: usize,
}

/// Lists what is at `rel`, or says what of it cannot be kept; `None` when nothing is there.
pub(crate) fn list(root: BorrowedFd<'_>, rel: &str, options: &IngestOptions) -> Result<Option<Listing>, IngestError> {
    let mut walk = Walk { options, top: rel, out: Listing::default() };
    let open = |rel: &str, flags| match beneath::open_dir(root, rel, flags) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(IngestError::io(rel, error)),
    };
    if rel.is_empty() {
        let Some(fd) = open("", LIST)? else { return Ok(None) };
        walk.out.dir = true;
        walk.directory(&fd, "", 0)?;
        return Ok(Some(walk.out));
    }
    if !beneath::is_plain(rel) {
        return Err(IngestError::Path { path: rel.to_owned() });
    }
    let (dir, name) = beneath::split(rel);
    let Some(parent) = open(dir, SEARCH)? else { return Ok(None) };
    let depth = if dir.is_empty() { 0 } else { dir.split('/').count() };
    match walk.entry(&parent, rel.to_owned(), name, depth)? {
        Some(FileKind::Dir) => {
            let fd = beneath::open_dir(parent, name, LIST).map_err(|error| IngestError::io(rel, error))?;
            walk.out.dir = true;
            walk.directory(&fd, rel, 0)?;
        }
        Some(_) => {}
        None => return Ok(None),
    }
    Ok(Some(walk.out))
}

struct Walk<'a> {
    options: &'a IngestOptions,
    top: &'a str,
    out: Listing,
}

impl Walk<'_> {
    /// Lists the directory `path`, `depth` directories below the one to be kept.
    fn directory(&mut self, fd: &OwnedFd, path: &str, depth: usize) -> Result<(), IngestError> {
        let (mut names, mut strange) = (Vec::new(), None);
        let room = self.options.max_entries.saturating_sub(self.out.entries);
        let listed = beneath::for_each_name::<Errno>(fd, |name| {
            match name.to_str() {
                // Memory is bounded too.
                _ if names.len() > room => return Err(Errno::TOOBIG),
                Ok(name) => names.push(name.to_owned()),
                Err(_) => strange = Some(name.to_owned()),
            }
            Ok(())
        });
        match listed {
            Err(Errno::TOOBIG) => return Err(self.too_many()),
            other => other.map_err(|error| IngestError::io(path, error))?,
        }
        if let Some(name) = strange {
            let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes());
            return Err(IngestError::NotText { path: Path::new(path).join(name) });
        }
        if names.is_empty() && depth > 0 {
            self.out.empty.push(path.to_owned());
        }
        names.sort_unstable();
        for name in names {
            let below = beneath::join(path, &name);
            if self.entry(fd, below.clone(), &name, depth)? == Some(FileKind::Dir) {
                if depth + 1 >= MAX_DEPTH {
                    return Err(IngestError::Depth { path: below });
                }
                let fd = beneath::open_dir(fd, &name, LIST).map_err(|error| IngestError::io(&below, error))?;
                self.directory(&fd, &below, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Lists one name and says what it is; `None` when it is gone.
    fn entry(
        &mut self,
        dir: &OwnedFd,
        path: String,
        name: &str,
        depth: usize,
    ) -> Result<Option<FileKind>, IngestError> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| IngestError::io(&path, error))?,
        };
        self.out.entries += 1;
        if self.out.entries > self.options.max_entries {
            return Err(self.too_many());
        }
        let stamp = Stamp::of(&stat);
        match stamp.kind {
            FileKind::File if !self.options.set_id && stat.st_mode & 0o6000 != 0 => {
                return Err(IngestError::SetId { path });
            }
            FileKind::File => self.out.files.push(Listed { path, stamp, linked: stat.st_nlink != 1 }),
            FileKind::Dir => {}
            FileKind::Symlink => {
                let target = beneath::read_link(dir, name).map_err(|error| IngestError::io(&path, error))?;
                let Some(target) = target else { return Err(IngestError::NotText { path: path.into() }) };
                if self.options.links == Links::Inside && !beneath::stays_inside(&target, depth) {
                    return Err(IngestError::Link { path, target });
                }
                self.out.links.push((path, Entry::Symlink { target }, stamp));
            }
            kind => return Err(IngestError::Kind { path, kind }),
        }
        Ok(Some(stamp.kind))
    }

    fn too_many(&self) -> IngestError {
        IngestError::TooMany { path: self.top.to_owned(), limit: self.options.max_entries }
    }
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
    let fd = match beneath::open_file(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
        other => other.map_err(|error| IngestError::io(path, error))?,
    };
    // One byte more than there should be, so that a file that grew shows.
    let mut bytes = vec![0; stamp.size as usize + 1];
    let mut filled = 0;
    while filled < bytes.len() {
        match crate::hash_file::read(&fd, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) => return Err(IngestError::io(path, error)),
        }
    }
    let now = Stamp::of(&rustix::fs::fstat(&fd).map_err(|error| IngestError::io(path, error))?);
    if now != *stamp || filled as u64 != stamp.size {
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
    let (blob, size) = store.put_file(&root.join(path), take)?;
    // What was moved cannot be looked at again. Whoever still writes to it is found out when the blob is used.
    let same = take == Take::Move || look(fd, path)?.as_ref() == Some(stamp);
    Ok((same && size == stamp.size).then_some(blob))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;
    use crate::test_dirs::{Shape, make, memory, shapes};

    fn told(result: Result<Option<Entry>, IngestError>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let store = memory();
        for (name, text) in [
            ("fifo", "`out/sub/fifo` is a named pipe; only files, directories and symbolic links can be kept"),
            ("socket", "`out/sub/socket` is a socket; only files, directories and symbolic links can be kept"),
            ("absolute", "`out/sub/absolute` is a symbolic link to `/etc/passwd`, which may lead outside"),
            ("up", "`out/sub/up` is a symbolic link to `../../x`, which may lead outside"),
            ("round", "`out/sub/round` is a symbolic link to `top/../../x`, which may lead outside"),
            ("strange", "`out/sub/strange` has a name or a target that is not UTF-8"),
            ("other", "`out/sub/\u{fffd}` has a name or a target that is not UTF-8"),
        ] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let sub = dir.path().join("out/sub");
            std::fs::create_dir_all(&sub).expect("made");
            std::fs::write(sub.join("good"), "").expect("written");
            symlink("../sub", sub.join("top")).expect("made");
            let strange: &std::ffi::OsStr = OsStrExt::from_bytes(b"\xff");
            let at = sub.join(name);
            match name {
                "fifo" => {
                    let mode = rustix::fs::Mode::RUSR;
                    rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).expect("made");
                }
                "socket" => drop(std::os::unix::net::UnixListener::bind(&at).expect("bound")),
                "absolute" => symlink("/etc/passwd", &at).expect("made"),
                "up" => symlink("../../x", &at).expect("made"),
                "round" => symlink("top/../../x", &at).expect("made"),
                "strange" => symlink(strange, &at).expect("made"),
                _ => std::fs::write(sub.join(strange), "").expect("written"),
            }
            assert_eq!(told(ingest_path(&store, &dir.path().join("out"), Take::Copy)), text);
        }
    }

    #[test]
    fn modes_are_reduced_to_the_owner_s_execute_bit() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        for (mode, expected) in
            [(0o644, false), (0o755, true), (0o4755, true), (0o6644, false), (0o611, false), (0o100, true)]
        {
            let path = dir.path().join("f");
            std::fs::write(&path, "x").expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
            // Root may read what nobody may.
            let Ok(Some(Entry::File { exec, .. })) = ingest_path(&store, &path, Take::Copy) else {
                assert_eq!(mode, 0o100);
                continue;
            };
            assert_eq!(exec, expected, "{mode:o}");
            std::fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn files_that_run_as_their_owner_are_refused_when_asked_to_be() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        std::fs::create_dir(dir.path().join("d")).expect("made");
        let path = dir.path().join("d/f");
        std::fs::write(&path, "x").expect("written");
        let options = IngestOptions { set_id: false, ..IngestOptions::default() };
        for (mode, refused) in [(0o755, false), (0o4755, true), (0o2755, true), (0o1644, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
            let found = ingest_at(&store, dir.path(), "d", &options);
            let is_refused = matches!(&found, Err(IngestError::SetId { path }) if path == "d/f");
            assert_eq!((is_refused, found.is_ok()), (refused, !refused), "{mode:o}: {found:?}");
        }
    }

    #[test]
    fn a_link_by_itself_may_lead_anywhere_below_the_root_given() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        std::fs::create_dir(dir.path().join("lib")).expect("made");
        symlink("../real/x", dir.path().join("lib/x")).expect("made");
        let options = IngestOptions::default();
        let found = ingest_at(&store, dir.path(), "lib/x", &options).expect("kept").expect("there");
        assert_eq!(found.entry, Entry::Symlink { target: "../real/x".into() });
        assert!(ingest_path(&store, &dir.path().join("lib/x"), Take::Copy).is_err());
        assert!(ingest_at(&store, dir.path(), "lib", &options).is_err(), "but a directory's own stay in it");
        symlink(dir.path(), dir.path().join("way")).expect("made");
        assert!(ingest_at(&store, dir.path(), "way/lib/x", &options).is_err(), "none is followed");
        assert!(ingest_at(&store, dir.path(), "lib/none/x", &options).expect("nothing").is_none());
        assert!(ingest_path(&store, &dir.path().join("none"), Take::Copy).expect("nothing").is_none());
        assert!(ingest_dir(&store, &dir.path().join("none"), Take::Copy).is_err());
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        let deep = |n: usize| dir.path().join(vec!["d"; n].join("/"));
        std::fs::create_dir_all(deep(MAX_DEPTH - 1)).expect("made");
        assert!(ingest_dir(&store, dir.path(), Take::Copy).is_ok());
        std::fs::create_dir_all(deep(MAX_DEPTH)).expect("made");
        assert!(matches!(ingest_dir(&store, dir.path(), Take::Copy), Err(IngestError::Depth { .. })));
        let options = IngestOptions { max_entries: 10, ..IngestOptions::default() };
        assert!(matches!(ingest_at(&store, dir.path(), "d", &options), Err(IngestError::TooMany { .. })));
    }

    #[test]
    fn a_file_with_another_name_is_not_moved() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        for name in ["linked", "single"] {
            std::fs::write(dir.path().join(name), vec![1; 100_000]).expect("written");
        }
        std::fs::hard_link(dir.path().join("linked"), dir.path().join("also")).expect("linked");
        ingest_dir(&store, dir.path(), Take::Move).expect("kept");
        assert!(dir.path().join("linked").exists() && dir.path().join("also").exists());
        assert!(!dir.path().join("single").exists());
    }

    #[test]
    fn a_file_that_differs_from_its_stamp_is_read_again() {
        let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
        let fd = beneath::open_root(dir.path()).expect("opens");
        for (old, new) in [(10, 10), (10, 20), (10, 100_000), (100_000, 10), (100_000, 100_000)] {
            std::fs::write(dir.path().join("f"), vec![1; old]).expect("written");
            let listing = list(fd.as_fd(), "f", &IngestOptions::default()).expect("listed").expect("there");
            std::fs::write(dir.path().join("f"), vec![2; new]).expect("written");
            let (_, entry, stamp) =
                keep_file(&store, dir.path(), fd.as_fd(), &listing.files[0], Take::Copy).expect("kept");
            assert_eq!(Some(stamp), look(fd.as_fd(), "f").expect("looks"));
            assert_eq!(entry, Entry::File { blob: BlobId::of(&vec![2; new]), size: new as u64, exec: false });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_tree_of_its_files(shape in shapes()) {
            let (store, dir) = (memory(), tempfile::tempdir().expect("temporary directory"));
            let top = dir.path().join("top");
            make(&top, &Shape::Dir(shape));
            let options = IngestOptions { links: Links::Any, ..IngestOptions::default() };
            let found = ingest_at(&store, dir.path(), "top", &options).expect("kept").expect("there");
            prop_assert!(store.complete(&found.entry).expect("readable"));
            let listing = list(beneath::open_root(&top).expect("opens").as_fd(), "", &options).expect("listed").expect("there");
            let empty = Entry::Dir { tree: Tree::default().encode().expect("small").id };
            let files = found.files.iter().map(|(path, entry, _)| (&path["top/".len()..], entry));
            let files = files.chain(listing.empty.iter().map(|path| (path.as_str(), &empty)));
            let (tree, nodes) = tree_of(None, files).expect("a tree");
            prop_assert_eq!(Entry::Dir { tree }, found.entry);
            prop_assert_eq!(nodes.last().expect("its own").0, tree);
            for (id, bytes) in nodes {
                prop_assert_eq!(store.get(id.link(), 1 << 20).expect("readable"), Some(bytes));
            }
        }
    }
}
