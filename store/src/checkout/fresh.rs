//! Files and links put where nothing stands, many at a time.
//!
//! What stands at a path is left alone, whatever it is. Unaware of whose it is.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::{CheckoutError, Limits, Placed, way};
use crate::hash_file::Buffer;
use crate::look::{Grouped, Item};
use crate::materialise::{AT_ONCE, MANY_FILES, Maker, within};
use crate::swap::{renamed, temp_names};
use crate::tree::Entry;
use crate::{Blob, Store, beneath, parallel};

/// What came of one entry; nothing when something stood at its path.
pub type Fresh = Result<Option<Placed>, CheckoutError>;

/// Puts each entry that is a file or link at its path below `root`, where nothing stands yet: each whole or not at all, whatever
/// becomes of the others. A directory, and what finds something at its path, is not put anywhere.
///
/// Directories on the way are made; no symbolic link below `root` is followed.
pub fn checkout_fresh(store: &Store, root: &Path, wanted: &[(&str, &Entry)]) -> Vec<Fresh> {
    let top = match beneath::open_root(root) {
        Ok(top) => top,
        Err(error) => {
            let path = root.to_string_lossy();
            return wanted.iter().map(|_| Err(CheckoutError::io(&path, error))).collect();
        }
    };
    let grouped = Grouped::new(wanted.iter().map(|(rel, _)| *rel));
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    for dir in &grouped.dirs {
        store.placing(&absolute.join(dir));
    }
    let putting = Putting { store, maker: Maker::new(store, None), top: top.as_fd(), dirs: &grouped.dirs, wanted };
    let threads = if grouped.items.len() > MANY_FILES { parallel::cores() } else { 1 };
    let runs: Vec<_> = grouped.items.chunks((grouped.items.len() / (4 * threads)).clamp(1, AT_ONCE)).collect();
    let put = parallel::map(threads, 1, &runs, || None, |buffer, run| putting.run(run, buffer));
    let mut out: Vec<Fresh> = wanted.iter().map(|_| Ok(None)).collect();
    for index in grouped.bad {
        out[index] = Err(CheckoutError::Path { path: wanted[index].0.to_owned() });
    }
    for (item, put) in grouped.items.iter().zip(put.into_iter().flatten()) {
        out[item.index] = put;
    }
    out
}

struct Putting<'a> {
    store: &'a Store,
    maker: Maker<'a>,
    top: BorrowedFd<'a>,
    dirs: &'a [&'a str],
    wanted: &'a [(&'a str, &'a Entry)],
}

impl Putting<'_> {
    /// Puts some in place; those of one directory follow one another.
    fn run(&self, run: &[Item<'_>], buffer: &mut Option<Buffer>) -> Vec<Fresh> {
        // What goes wrong for all is found again, and told, for each.
        let mut contents =
            self.maker.contents(run.iter().map(|item| self.wanted[item.index].1)).ok().map(Vec::into_iter);
        let mut here: Option<(usize, Result<OwnedFd, Errno>)> = None;
        let put = run.iter().map(|item| {
            let entry = self.wanted[item.index].1;
            let content = match &mut contents {
                Some(contents) => contents.next().flatten(),
                None => self.maker.contents([entry])?.pop().flatten(),
            };
            match entry {
                Entry::Dir { .. } => return Ok(None),
                Entry::File { size, .. } => within(&Limits::default(), item.path, 1, *size)?,
                Entry::Symlink { .. } => {}
            }
            if here.as_ref().is_none_or(|(dir, _)| *dir != item.dir) {
                here = Some((item.dir, beneath::make_dirs(self.top, self.dirs[item.dir])));
            }
            let (_, parent) = here.as_ref().expect("it was opened above");
            let parent = parent.as_ref().map_err(|error| way(item.path, *error))?;
            self.one(parent.as_fd(), item, entry, content.as_ref(), buffer)
        });
        put.collect()
    }

    fn one(
        &self,
        parent: BorrowedFd<'_>,
        item: &Item<'_>,
        entry: &Entry,
        content: Option<&Blob>,
        buffer: &mut Option<Buffer>,
    ) -> Fresh {
        for temp in temp_names() {
            let stamp = match self.maker.make(parent, &temp, item.path, entry, content, buffer) {
                Ok(stamp) => stamp,
                // That name is somebody else's.
                Err(CheckoutError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    self.discard(parent, &temp);
                    return Err(error);
                }
            };
            match rustix::fs::renameat_with(parent, &*temp, parent, item.name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(error) => {
                    self.discard(parent, &temp);
                    return match error {
                        // Something is there by now, or the file system cannot tell.
                        Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => Ok(None),
                        error => Err(CheckoutError::io(item.path, error)),
                    };
                }
            }
            let now = beneath::lstat(parent, item.name).map_err(|error| CheckoutError::io(item.path, error))?;
            let files = renamed(stamp, now).map(|stamp| (item.path.to_owned(), entry.clone(), stamp));
            let settled = self.maker.is_settled();
            return Ok(Some(Placed { files: files.into_iter().collect(), settled, ..Placed::default() }));
        }
        Err(CheckoutError::io(item.path, Errno::EXIST))
    }

    fn discard(&self, parent: BorrowedFd<'_>, temp: &str) {
        match rustix::fs::unlinkat(parent, temp, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => self.store.unplaced(),
        }
    }
}
