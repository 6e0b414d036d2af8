//! Leases: locked ranges of a few files, each at a place that the invocation's id gives.
//!
//! Such a lock is a call to take and a call to give back, and nothing on disk changes. It belongs to the open file: two
//! handles of one process exclude each other, and a killed process leaves nothing locked. A range is as long as the number
//! of its process, so that whoever finds it locked can find out whose it is. The kernel keeps the locks of a file in a list and walks
//! it for each call: with a few files, lists stay short. Unaware of what is done under a lease.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::ops::Bound::Included;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::locks;
use crate::cid::InvocationId;
use crate::terms::Held;

/// Bytes of the file for each place: numbers of processes are below half of that.
const PLACE_BYTES: u64 = 1 << 23;
/// So many bits of an id make its place; all places together are within the offsets that locks may have.
const PLACE_BITS: u32 = 38;

/// So many files share the places.
const FILES: usize = 16;

/// The leases of one handle.
#[derive(Debug)]
pub(crate) struct Leases {
    /// Its files have a number behind this.
    path: PathBuf,
    pid: u32,
    /// Each is opened by the first lease of it.
    files: [OnceLock<FileBackend>; FILES],
    /// What is out, by place. Two that have the same place are locked together: what else could free the other one?
    out: Mutex<HashMap<u64, Vec<InvocationId>>>,
}

/// A range that is locked. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    id: InvocationId,
    leases: Arc<Leases>,
}

impl Held for Lent {}

impl Leases {
    /// None yet; they are ranges of the files at `path` with `-0` and so on behind it.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, pid: std::process::id(), files: Default::default(), out: Mutex::default() }
    }

    /// Takes the lease of an invocation; where somebody else has it, the number of their process, if it is known.
    pub(crate) fn take(self: &Arc<Self>, id: InvocationId) -> io::Result<Result<Lent, Option<u32>>> {
        let place = place_of(id);
        let file = self.file_of(place)?;
        let mut out = self.out();
        let ids = match out.entry(place) {
            Entry::Occupied(ids) => ids.into_mut(),
            Entry::Vacant(free) => {
                let (first, last) = range_of(place, self.pid);
                if !file.try_lock_range(Included(first), Included(last))? {
                    return Ok(Err(owner(file, place)?));
                }
                free.insert(vec![])
            }
        };
        if ids.contains(&id) {
            return Ok(Err(Some(self.pid)));
        }
        ids.push(id);
        Ok(Ok(Lent { id, leases: Arc::clone(self) }))
    }

    fn out(&self) -> MutexGuard<'_, HashMap<u64, Vec<InvocationId>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file_of(&self, place: u64) -> io::Result<&FileBackend> {
        let n = file_number(place);
        if let Some(file) = self.files[n].get() {
            return Ok(file);
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!("-{n:x}"));
        let file = FileBackend::new(locks::open(path.as_ref())?).map_err(io::Error::other)?;
        // Of two that are opened at once one is used.
        Ok(self.files[n].get_or_init(|| file))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (place, mut out) = (place_of(self.id), self.leases.out());
        let Entry::Occupied(mut ids) = out.entry(place) else { return };
        ids.get_mut().retain(|id| *id != self.id);
        if ids.get().is_empty() {
            ids.remove();
            if let Some(file) = self.leases.files[file_number(place)].get() {
                let (first, last) = range_of(place, self.leases.pid);
                // What cannot be unlocked is when this process ends.
                let _ = file.unlock_range(Included(first), Included(last));
            }
        }
    }
}

fn place_of(id: InvocationId) -> u64 {
    let first = id.digest().first_chunk::<8>().expect("digests have 32 bytes");
    u64::from_be_bytes(*first) >> (u64::BITS - PLACE_BITS)
}

fn file_number(place: u64) -> usize {
    usize::try_from(place % FILES as u64).expect("is less than the number of files")
}

/// The first byte of what a process locks of a place, and the last.
fn range_of(place: u64, pid: u32) -> (u64, u64) {
    let first = place * PLACE_BYTES;
    (first, first + u64::from(pid) % PLACE_BYTES)
}

/// Whose range at this place is locked: it is as long as the number says. Where it is given back meanwhile, nobody's.
fn owner(file: &FileBackend, place: u64) -> io::Result<Option<u32>> {
    let first = place * PLACE_BYTES;
    let reaches =
        |at: u64| io::Result::Ok(file.query_lock_range(Included(first + at), Included(first + PLACE_BYTES - 1))?);
    let (mut low, mut above) = (0, PLACE_BYTES);
    while above - low > 1 {
        let middle = low + (above - low) / 2;
        if reaches(middle)? { low = middle } else { above = middle }
    }
    // Asked once more: it may have changed hands between two questions.
    let is_it = low > 0 && reaches(low)? && (above == PLACE_BYTES || !reaches(above)?);
    Ok(is_it.then_some(low).and_then(|pid| u32::try_from(pid).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_one_handles_and_says_whose_it_is() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("leases");
        let (ours, others) = (Arc::new(Leases::new(path.clone())), Arc::new(Leases::new(path.clone())));
        let [a, b] = [b"a", b"b"].map(|name| InvocationId::of(name));
        let me = Some(std::process::id());
        let take = |leases: &Arc<Leases>, id| leases.take(id).expect("locks");
        let first = take(&ours, a).expect("is free");
        assert_eq!(take(&others, a).map(drop), Err(me));
        assert_eq!(take(&ours, a).map(drop), Err(me), "nor twice by one handle");
        let second = take(&others, b).expect("is free");
        drop(first);
        let third = take(&others, a).expect("was given back");
        assert_eq!(take(&ours, a).map(drop), Err(me));
        drop((second, third));
        drop((take(&ours, a).expect("is free"), take(&ours, b).expect("is free")));
        let files: Vec<_> = std::fs::read_dir(temp.path()).expect("is listed").map(|f| f.expect("is listed")).collect();
        assert!(
            !files.is_empty() && files.iter().all(|f| f.metadata().is_ok_and(|m| m.len() == 0)),
            "nothing is written"
        );
    }

    #[test]
    fn two_at_one_place_do_not_wait_for_each_other_in_one_handle_and_are_both_kept_from_others() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("leases");
        let (ours, others) = (Arc::new(Leases::new(path.clone())), Arc::new(Leases::new(path)));
        let mut digest = *InvocationId::of(b"a").digest();
        let a = InvocationId::from_digest(digest);
        digest[31] ^= 1;
        let b = InvocationId::from_digest(digest);
        assert_eq!(place_of(a), place_of(b));
        let take = |leases: &Arc<Leases>, id| leases.take(id).expect("locks");
        let (first, second) = (take(&ours, a).expect("is free"), take(&ours, b).expect("is free"));
        drop(first);
        assert!(take(&others, a).is_err(), "the other one is out");
        drop(second);
        assert!(take(&others, a).is_ok());
    }

    #[test]
    fn all_places_are_where_locks_may_be() {
        let last = InvocationId::from_digest([0xff; 32]);
        let leases = |path| Arc::new(Leases::new(path));
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (ours, others) = (leases(temp.path().join("leases")), leases(temp.path().join("leases")));
        let _held = ours.take(last).expect("locks").expect("is free");
        assert_eq!(others.take(last).expect("locks").map(drop), Err(Some(std::process::id())));
    }
}
