//! What the files of a workspace hold, with how each looked when that was known: by path, in order.
//!
//! Made for who asks in order, as tasks with many sources do. Unaware of disks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use quipu_store::stamp::Stamp;
use quipu_store::tree::Entry;
use rustc_hash::FxHashMap;

use crate::value::Text;

/// Files and links.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Ascending.
    rows: Vec<Row>,
    /// Where the next one that is asked for may be: only a guess, whoever else asks meanwhile.
    near: AtomicUsize,
    /// Where each is. Made for the first who does not ask in order: of a task with very many sources nobody does, and it takes
    /// as long as all the rest that is done with them here.
    places: OnceLock<FxHashMap<Text, u32>>,
}

/// A path with what is there.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) path: Text,
    pub(super) entry: Entry,
    pub(super) stamp: Stamp,
}

impl Files {
    /// Those of `rows`, in any order. Of several of one path the first counts.
    pub(super) fn of(mut rows: Vec<Row>) -> Self {
        // Notices runs that are in order already.
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        rows.dedup_by(|again, first| again.path == first.path);
        Self { rows, ..Self::default() }
    }

    /// What is known of a path.
    pub(super) fn get(&self, path: &str) -> Option<&Row> {
        let near = self.near.load(Ordering::Relaxed);
        let at = match self.rows.get(near) {
            Some(row) if *row.path == *path => near,
            _ => *self.places().get(path)? as usize,
        };
        self.near.store(at + 1, Ordering::Relaxed);
        self.rows.get(at)
    }

    fn places(&self) -> &FxHashMap<Text, u32> {
        let place = |(at, row): (usize, &Row)| Some((row.path.clone(), u32::try_from(at).ok()?));
        self.places.get_or_init(|| self.rows.iter().enumerate().filter_map(place).collect())
    }
}

#[cfg(test)]
mod tests {
    use quipu_store::cid::BlobId;
    use quipu_store::stamp::FileKind;

    use super::*;

    fn row(path: &str, size: u64) -> Row {
        let entry = Entry::File { blob: BlobId::of(path.as_bytes()), size, exec: false };
        let kind = FileKind::File;
        Row {
            path: path.into(),
            entry,
            stamp: Stamp { dev: 1, ino: 2, size, mtime_ns: 3, ctime_ns: 4, mode_exec: false, kind },
        }
    }

    #[test]
    fn each_is_found_in_any_order_and_of_two_the_first_counts() {
        let files = Files::of(vec![row("b", 1), row("a/x", 2), row("c", 3), row("b", 4), row("a", 5)]);
        let sizes =
            |paths: &[&str]| -> Vec<_> { paths.iter().map(|p| files.get(p).map(|row| row.stamp.size)).collect() };
        assert_eq!(sizes(&["a", "a/x", "b", "c"]), [Some(5), Some(2), Some(1), Some(3)]);
        assert!(sizes(&["c", "b", "a/x", "a"]) == [Some(3), Some(1), Some(2), Some(5)], "backwards");
        assert_eq!(
            sizes(&["a", "b", "b", "none", "", "c", "zz"]),
            [Some(5), Some(1), Some(1), None, None, Some(3), None]
        );
        assert!(Files::default().get("a").is_none());
    }
}
