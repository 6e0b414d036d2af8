//! Events as JSON, one a line on standard output. Stable: `docs/formats/events.md`.

use std::io::Write;

use quipu_runtime::event_log::line;
use quipu_runtime::observe::{Observer, RunEvent};

/// Writes each event as it comes.
pub(super) struct Json;

impl Observer for Json {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        // Whoever reads has gone: the run goes on, its receipts are worth as much.
        let _ = std::io::stdout().lock().write_all(&line(at_ms, event));
    }
}
