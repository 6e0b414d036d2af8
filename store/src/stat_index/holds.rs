//! Questions about what stands in a workspace: whether it holds what it should, and what of it quipu put there.
//!
//! Unaware of why anybody asks.

use rustix::io::Errno;

use super::{Probe, StatIndex};
use crate::beneath;
use crate::checkout::Ours;
use crate::look::Grouped;
use crate::stamp::{FileKind, Stamp};
use crate::tree::{Entry, MAX_DEPTH};

/// Directories that are held open while what is in them is looked at.
const HELD_OPEN: usize = 16;

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// What is to be there, and how it looks.
    Right(Stamp),
    /// Nothing.
    Nothing,
    /// Something else, or it cannot be told.
    Other,
}

impl StatIndex {
    /// Everything at or below `rel` that quipu put there, as far as it is still listed by the directories.
    pub fn ours(&mut self, rel: &str) -> Ours {
        let mut ours = Ours::default();
        let Ok(parent) = self.root_fd().and_then(|fd| beneath::open_dir(fd, beneath::split(rel).0, beneath::SEARCH))
        else {
            return ours;
        };
        match beneath::lstat(parent, beneath::split(rel).1) {
            Ok(Some(stamp)) if stamp.kind == FileKind::Dir => self.ours_below(rel, 0, &mut ours),
            Ok(Some(_)) => {
                ours.extend(self.known(rel).filter(|known| known.placed).map(|k| (rel.to_owned(), k.clone())));
            }
            _ => {}
        }
        ours
    }

    fn ours_below(&mut self, dir: &str, depth: usize, ours: &mut Ours) {
        // What is nested deeper, or cannot be listed, was not put there by quipu.
        let Ok(fd) = self.root_fd().and_then(|fd| beneath::open_dir(fd, dir, beneath::LIST)) else { return };
        let mut below = Vec::new();
        let listed = beneath::for_each_name::<Errno>(&fd, |name| {
            if let Ok(name) = name.to_str() {
                let known = self.known(&beneath::join(dir, name)).filter(|known| known.placed);
                match known {
                    Some(known) => drop(ours.insert(beneath::join(dir, name), known.clone())),
                    None if matches!(beneath::lstat(&fd, name), Ok(Some(s)) if s.kind == FileKind::Dir) => {
                        below.push(beneath::join(dir, name));
                    }
                    None => {}
                }
            }
            Ok(())
        });
        if listed.is_ok() && depth + 1 < MAX_DEPTH {
            below.iter().for_each(|dir| self.ours_below(dir, depth + 1, ours));
        }
    }

    /// What stands at each path, which is to hold the file or link beside it. Reads only what may be right.
    pub fn standing(&mut self, wanted: &[(&str, &Entry)]) -> Vec<Standing> {
        let grouped = Grouped::new(wanted.iter().map(|(path, _)| *path));
        let few = grouped.dirs.len() <= HELD_OPEN;
        let real: Vec<_> = grouped
            .dirs
            .iter()
            .map(|dir| self.root_fd().and_then(|fd| beneath::open_dir(fd, dir, beneath::SEARCH)))
            .map(|dir| dir.map(|dir| Some(dir).filter(|_| few)))
            .collect();
        let probes = self.probe(&grouped, &real, false);
        let (mut out, mut doubtful) = (vec![Standing::Other; wanted.len()], Vec::new());
        for (item, probe) in grouped.items.iter().zip(&probes) {
            let entry = wanted[item.index].1;
            out[item.index] = match (&real[item.dir], probe) {
                (Err(Errno::NOENT), _) | (Ok(_), Probe::Missing) => Standing::Nothing,
                (Ok(_), Probe::Same(found, stamp)) if found == entry => Standing::Right(*stamp),
                (Ok(_), Probe::New(stamp)) if may_hold(stamp, entry) => {
                    doubtful.push(item.index);
                    Standing::Other
                }
                _ => Standing::Other,
            };
        }
        let paths: Vec<_> = doubtful.iter().map(|index| wanted[*index].0).collect();
        for (index, found) in doubtful.iter().zip(self.scan(&paths)) {
            if let Ok(Some((entry, stamp))) = &found.result
                && entry == wanted[*index].1
            {
                out[*index] = Standing::Right(*stamp);
            }
        }
        out
    }

    /// Whether each path holds exactly the entry beside it. Reads only what may yet turn out to be right.
    pub(crate) fn all_hold(&mut self, wanted: &[(&str, &Entry)]) -> bool {
        let grouped = Grouped::new(wanted.iter().map(|(path, _)| *path));
        let probes = self.probe(&grouped, &[], false);
        let mut doubtful = Vec::new();
        for (item, probe) in grouped.items.iter().zip(&probes) {
            let entry = wanted[item.index].1;
            match probe {
                Probe::Same(found, _) if found == entry => {}
                Probe::New(stamp) if may_hold(stamp, entry) => doubtful.push(item.index),
                _ => return false,
            }
        }
        let paths: Vec<_> = doubtful.iter().map(|index| wanted[*index].0).collect();
        let scanned = self.scan(&paths);
        grouped.bad.is_empty()
            && doubtful.iter().zip(scanned).all(|(index, found)| match found.result {
                Ok(Some((entry, _))) => entry == *wanted[*index].1,
                _ => false,
            })
    }
}

fn may_hold(stamp: &Stamp, entry: &Entry) -> bool {
    match entry {
        Entry::File { size, exec, .. } => {
            stamp.kind == FileKind::File && stamp.size == *size && stamp.mode_exec == *exec
        }
        Entry::Symlink { .. } => stamp.kind == FileKind::Symlink,
        Entry::Dir { .. } => false,
    }
}
