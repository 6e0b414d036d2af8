//! The recorded log of a run: one JSON event a line, in a file of its own.
//!
//! Knows lines and files; unaware of what the events mean. A run that does no work leaves no file.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

use crate::observe::{Observer, RunEvent};

/// Longest line that is read back, in bytes.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Writes events to a file, from the first one that is worth it.
pub struct EventLog {
    path: PathBuf,
    state: Mutex<State>,
}

enum State {
    /// Lines so far, as long as nothing has happened.
    Waiting(Vec<u8>),
    Open(File),
    /// The log could not be written; the run goes on without.
    Broken,
}

impl EventLog {
    /// A log that will be written to `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::new(State::Waiting(vec![])) }
    }
}

impl Observer for EventLog {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        // Settled tasks are not worth a line each: the receipts tell.
        let quiet = matches!(event, RunEvent::TaskEnded { end: crate::observe::Ended::Cached, .. });
        if quiet {
            return;
        }
        let line = line(at_ms, event);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Waiting(lines) = &mut *state {
            lines.extend_from_slice(&line);
            let began = matches!(event, RunEvent::TaskStarted { .. } | RunEvent::TaskEnded { .. });
            if began {
                let lines = std::mem::take(lines);
                let opened = File::options().append(true).create_new(true).open(&self.path);
                *state = match opened.and_then(|mut file| file.write_all(&lines).map(|()| file)) {
                    Ok(file) => State::Open(file),
                    Err(_) => State::Broken,
                };
            }
            return;
        }
        if let State::Open(file) = &mut *state
            && file.write_all(&line).is_err()
        {
            *state = State::Broken;
        }
    }
}

/// One event as a line: its fields, and `at`, the milliseconds since the run began; the summary has `ms` for that.
pub fn line(at_ms: u64, event: &RunEvent) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        event: &'a RunEvent,
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
    }
    let at = (!matches!(event, RunEvent::Summary(_))).then_some(at_ms);
    let mut bytes = serde_json::to_vec(&Line { event, at }).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Reads a log back; a line cut off by a crash, or damaged, is left out.
pub fn read(path: &Path) -> std::io::Result<Vec<Json>> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut events = vec![];
    let mut line = vec![];
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE_BYTES);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(events);
        }
        events.extend(serde_json::from_slice::<Json>(&line).ok());
    }
}
