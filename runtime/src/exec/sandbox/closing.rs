//! Ends of tasks' own namespaces, which nobody waits for: the kernel has every processor pass by before mounts are gone.
//!
//! Unaware of what was mounted.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::child::Own;

/// How many wait to be closed at most, with all their descriptors.
const MAX_WAITING: usize = 16;

/// A thread that closes what it is given, from the first time on.
#[derive(Default)]
pub(super) struct Closing(Mutex<Option<SyncSender<Own>>>);

impl Closing {
    /// Closes this soon; at once where too many wait.
    pub(super) fn close(&self, own: Own) {
        // What is not taken is dropped here.
        let _ = self.sender().map(|sender| sender.try_send(own));
    }

    fn sender(&self) -> Option<SyncSender<Own>> {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.is_none() {
            let (made, waiting) = sync_channel::<Own>(MAX_WAITING);
            let thread = std::thread::Builder::new().name("quipu-closing".into());
            *sender = thread.spawn(move || waiting.into_iter().for_each(drop)).is_ok().then_some(made);
        }
        sender.clone()
    }
}
