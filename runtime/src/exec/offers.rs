//! What tasks made in sandboxes and is still there, waiting to be moved to its place in the workspace.
//!
//! Bounded: what nobody asks for goes when others come. Unaware of what is placed, and of how.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use quipu_store::checkout::Donor;
use rustc_hash::FxHashMap;

/// How many tasks' outputs wait at most.
const MAX_OFFERS: usize = 16;
/// How many files all of them have at most.
const MAX_FILES: usize = 1 << 17;

/// One task's outputs.
pub(crate) struct Offer {
    donor: Arc<Donor>,
    paths: Vec<Box<str>>,
    /// Where they are, held until this is gone.
    _held: Box<dyn Any + Send + Sync>,
}

impl Offer {
    /// The outputs at `paths`, whose files `donor` has, as long as `held` lives.
    pub(crate) fn new(donor: Donor, paths: Vec<Box<str>>, held: Box<dyn Any + Send + Sync>) -> Self {
        Self { donor: Arc::new(donor), paths, _held: held }
    }

    /// Who has the files.
    pub(crate) fn donor(&self) -> Arc<Donor> {
        Arc::clone(&self.donor)
    }
}

/// Those that wait.
#[derive(Default)]
pub(crate) struct Offers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    by_path: FxHashMap<Box<str>, Arc<Offer>>,
    /// Oldest first.
    all: VecDeque<Weak<Offer>>,
}

impl Offers {
    /// Takes one in, in place of what waits for the same paths.
    pub(crate) fn add(&self, offer: Offer) {
        if offer.donor.is_empty() || offer.donor.len() > MAX_FILES {
            return;
        }
        let offer = Arc::new(offer);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced: Vec<_> =
            offer.paths.iter().map(|path| waiting.by_path.insert(path.clone(), Arc::clone(&offer))).collect();
        waiting.all.push_back(Arc::downgrade(&offer));
        let gone = waiting.shrink();
        drop(waiting);
        drop((replaced, gone));
    }

    /// Whether something waits for `path`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_path.contains_key(path)
    }

    /// What is to stand at `path`, once.
    pub(crate) fn take(&self, path: &str) -> Option<Arc<Offer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_path.remove(path)
    }
}

impl Waiting {
    /// Lets go of the oldest until there are no more than may be; gives them back to be dropped where nothing is locked.
    fn shrink(&mut self) -> Vec<Arc<Offer>> {
        self.all.retain(|offer| offer.strong_count() > 0);
        let files = self.all.iter().filter_map(Weak::upgrade).map(|offer| offer.donor.len()).sum::<usize>();
        let (mut files, mut gone) = (files, Vec::new());
        while self.all.len() > MAX_OFFERS || files > MAX_FILES {
            let Some(oldest) = self.all.pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            files = files.saturating_sub(oldest.donor.len());
            for path in &oldest.paths {
                if self.by_path.get(path).is_some_and(|offer| Arc::ptr_eq(offer, &oldest)) {
                    self.by_path.remove(path);
                }
            }
            gone.push(oldest);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use quipu_store::cid::BlobId;
    use quipu_store::ingest::Ingested;
    use quipu_store::stamp::{FileKind, Stamp};
    use quipu_store::tree::Entry;

    use super::*;

    /// An offer of one file at each path, and what tells whether it is still held.
    fn offer(paths: &[&str]) -> (Offer, Weak<()>) {
        let entry = Entry::File { blob: BlobId::of(b""), size: 0, exec: false };
        let stamp = Stamp { dev: 1, ino: 2, size: 0, mtime_ns: 0, ctime_ns: 0, mode_exec: false, kind: FileKind::File };
        let files = paths.iter().map(|path| (path.to_string(), entry.clone(), stamp)).collect();
        let donor = Donor::new(Path::new("/"), [Ingested { entry: entry.clone(), files, looked_ns: 0 }]);
        let held = Arc::new(());
        let watch = Arc::downgrade(&held);
        (Offer::new(donor, paths.iter().map(|path| Box::from(*path)).collect(), Box::new(held)), watch)
    }

    #[test]
    fn what_was_taken_or_replaced_or_is_too_old_is_held_no_longer() {
        let (offers, held) = (Offers::default(), |watch: &Weak<()>| watch.strong_count() == 1);
        let (first, watch) = offer(&["a", "b"]);
        offers.add(first);
        let taken = offers.take("a").expect("it waits");
        assert!(offers.take("a").is_none(), "once");
        drop(taken);
        assert!(held(&watch), "the other output still waits");
        let (second, newer) = offer(&["b"]);
        offers.add(second);
        assert!(!held(&watch) && held(&newer), "another takes the place of what waited for the same path");
        for n in 0..MAX_OFFERS {
            assert!(held(&newer), "{n}");
            offers.add(offer(&[&format!("other{n}")]).0);
        }
        assert!(!held(&newer) && offers.take("b").is_none() && offers.take("other0").is_some());
    }
}
