//! What cached tasks printed when they ran, told again as if they had just done so.
//!
//! Reads the store; unaware of how it is shown.

use std::collections::HashSet;
use std::sync::Arc;

use quipu_runtime::exec::Stream;
use quipu_runtime::observe::{Ended, Observer, RunEvent};
use quipu_runtime::value::Text;
use quipu_store::Store;
use quipu_store::cid::{BlobId, TaskId};

/// Most bytes of one task that are told again.
const MAX_BYTES: u64 = 16 << 20;

/// Tells what stored receipts printed, before it passes on that they settled a task.
pub(super) struct Replay {
    store: Store,
    /// Tasks whose output is for nobody.
    muted: HashSet<Text>,
    inner: Arc<dyn Observer>,
}

impl Replay {
    pub(super) fn new(store: Store, muted: HashSet<Text>, inner: Arc<dyn Observer>) -> Self {
        Self { store, muted, inner }
    }

    /// What the task printed, on both streams; nothing when that is not there any more.
    fn printed(&self, id: TaskId) -> Vec<(Stream, String)> {
        let found = self.store.find_tasks(&[id]).unwrap_or_default();
        let mut outputs =
            found.iter().flat_map(|task| &task.receipts).filter_map(|f| f.signed.receipt.out.as_ref().ok());
        let Some(output) = outputs.next_back() else { return vec![] };
        let read = |blob: Option<BlobId>| {
            let bytes = self.store.get(blob?.link(), MAX_BYTES).ok()??;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let both = [(Stream::Stdout, read(output.stdout)), (Stream::Stderr, read(output.stderr))];
        both.into_iter().filter_map(|(stream, text)| Some((stream, text?))).collect()
    }
}

impl Observer for Replay {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        if let RunEvent::TaskEnded { task, id, end: Ended::Cached | Ended::CutOff, .. } = event
            && !self.muted.contains(task)
        {
            for (stream, text) in self.printed(*id) {
                self.inner.on(at_ms, &RunEvent::TaskOutput { task: task.clone(), stream, text });
            }
        }
        self.inner.on(at_ms, event);
    }
}
