//! Events as JSON, one a line on standard output. Stable: `docs/formats/events.md`.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use quipu_runtime::event_log::line;
use quipu_runtime::observe::{Observer, RunEvent};

/// Writes each event as it comes, until one cannot be written.
#[derive(Default)]
pub(super) struct Json {
    failed: Mutex<Option<io::Error>>,
}

impl Json {
    /// Why events were lost; nothing when all got out.
    pub(super) fn failed(&self) -> Option<io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Observer for Json {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        // The run goes on without a reader: its receipts are worth as much.
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            *failed = io::stdout().lock().write_all(&line(at_ms, event)).err();
        }
    }
}
