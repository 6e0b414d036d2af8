//! What is at and below a path of the disk, listed; what of it cannot be kept is refused by name.
//!
//! Reads no file's content.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{IngestError, IngestOptions, Links};
use crate::beneath::{self, LIST, SEARCH};
use crate::stamp::{FileKind, Stamp};
use crate::tree::{Entry, MAX_DEPTH};

/// A file that is to be kept.
pub(crate) struct Listed {
    pub(crate) path: String,
    pub(crate) stamp: Stamp,
    /// It has other names, by which it would be changed if it were moved.
    pub(super) linked: bool,
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

/// A single regular file, as it most often is. Links on the way were followed: who opens it follows none, and compares.
pub(super) fn single(root: BorrowedFd<'_>, rel: &str, options: &IngestOptions) -> Option<Listing> {
    let is_plain = !rel.is_empty() && beneath::is_plain(rel) && options.max_entries > 0;
    let stat = rustix::fs::statat(root, rel, AtFlags::SYMLINK_NOFOLLOW).ok().filter(|_| is_plain)?;
    let stamp = Stamp::of(&stat);
    let may_be = stamp.kind == FileKind::File && (options.set_id || stat.st_mode & 0o6000 == 0);
    let file = || Listed { path: rel.to_owned(), stamp, linked: stat.st_nlink != 1 };
    may_be.then(|| Listing { files: vec![file()], entries: 1, ..Listing::default() })
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
