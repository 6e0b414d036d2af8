//! The recorded log of a run: one JSON event a line, in a file of its own.
//!
//! Knows lines and files; unaware of what the events mean. A run that does no work leaves no file. Tasks that were settled
//! already have no line each: their ids stand together in front of the summary.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use quipu_store::cid::TaskId;
use serde_json::Value as Json;

use crate::observe::{Ended, Observer, RunEvent};
use crate::value::Text;

/// Longest line that is read back, in bytes.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Lines that are put off are no more than this, in bytes.
const PUT_OFF_BYTES: usize = 64 << 10;

/// Tasks that are named on one line.
const SETTLED_TASKS: usize = 5000;
/// How such a line begins.
const SETTLED: &[u8] = br#"{"event":"settled""#;

/// Writes events to a file, from the first one that is worth it.
pub struct EventLog {
    path: PathBuf,
    state: Mutex<State>,
    /// Tasks that a receipt under their ids settled.
    settled: Mutex<Vec<(Text, TaskId)>>,
    /// What was known to be settled before the run began, as lines; what it says itself counts more.
    before: Vec<u8>,
}

enum State {
    /// Lines so far, as long as nothing has happened.
    Waiting(Vec<u8>),
    Open {
        file: File,
        /// Lines that are not in it yet, until the driver rests: most often several come at once.
        put_off: Vec<u8>,
    },
    /// The log could not be written; the run goes on without.
    Broken,
}

impl EventLog {
    /// A log that will be written to `path`.
    pub fn new(path: PathBuf) -> Self {
        Self::after(path, vec![])
    }

    /// A log that says of settled tasks what `before` does, and then what the run says.
    pub fn after(path: PathBuf, before: Vec<u8>) -> Self {
        Self { path, state: Mutex::new(State::Waiting(vec![])), settled: Mutex::default(), before }
    }
}

impl Observer for EventLog {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        if let RunEvent::TaskEnded { task, id, end: Ended::Cached, .. } = event {
            self.settled.lock().unwrap_or_else(PoisonError::into_inner).push((task.clone(), *id));
            return;
        }
        let mut line = line(at_ms, event);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Waiting(lines) = &mut *state {
            lines.extend_from_slice(&line);
            let began = matches!(event, RunEvent::TaskStarted { .. } | RunEvent::TaskEnded { .. });
            if began {
                let lines = std::mem::take(lines);
                let opened = File::options().append(true).create_new(true).open(&self.path);
                *state = match opened.and_then(|mut file| file.write_all(&lines).map(|()| file)) {
                    Ok(file) => State::Open { file, put_off: vec![] },
                    Err(_) => State::Broken,
                };
            }
            return;
        }
        if matches!(event, RunEvent::Summary(_)) {
            let mut lines = self.before.clone();
            lines.extend(settled_lines(&self.settled.lock().unwrap_or_else(PoisonError::into_inner)));
            lines.append(&mut line);
            line = lines;
        }
        let State::Open { put_off, .. } = &mut *state else { return };
        put_off.append(&mut line);
        // These are the driver's, which rests before it waits. Others may come while it does, the start of a task among them.
        let may_wait = matches!(event, RunEvent::TaskEnded { .. } | RunEvent::Recorded { .. });
        if !may_wait || put_off.len() > PUT_OFF_BYTES {
            state.write();
        }
    }

    fn rest(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).write();
    }
}

impl State {
    /// Writes what was put off.
    fn write(&mut self) {
        if let Self::Open { file, put_off } = self
            && !put_off.is_empty()
        {
            let written = file.write_all(put_off);
            put_off.clear();
            if written.is_err() {
                *self = Self::Broken;
            }
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // A run that came to no end has no summary, and leaves what it said.
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).write();
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

pub(crate) fn settled_lines(settled: &[(Text, TaskId)]) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        event: &'static str,
        tasks: BTreeMap<&'a str, String>,
    }
    let mut bytes = vec![];
    for some in settled.chunks(SETTLED_TASKS) {
        let tasks = some.iter().map(|(name, id)| (&**name, id.to_string())).collect();
        bytes.extend(serde_json::to_vec(&Line { event: "settled", tasks }).unwrap_or_default());
        bytes.push(b'\n');
    }
    bytes
}

/// Reads a log back without its lines of settled tasks; a line cut off by a crash, or damaged, is left out.
pub fn read(path: &Path) -> std::io::Result<Vec<Json>> {
    read_of(path, &[])
}

/// The same, only of the lines that name one of these tasks; without any, of all lines.
pub fn read_of(path: &Path, tasks: &[String]) -> std::io::Result<Vec<Json>> {
    let quoted: Vec<String> = tasks.iter().filter_map(|name| serde_json::to_string(name).ok()).collect();
    // A line that is no text is damaged.
    let text = std::str::from_utf8;
    let is_meant = |line: &[u8]| text(line).is_ok_and(|line| quoted.iter().any(|name| line.contains(name)));
    let mut events = vec![];
    each_line(path, |line| {
        if !line.starts_with(SETTLED) && (quoted.is_empty() || is_meant(line)) {
            events.extend(serde_json::from_slice::<Json>(line).ok());
        }
        true
    })?;
    Ok(events)
}

/// The first event of a log: that the run began.
pub fn first(path: &Path) -> Option<Json> {
    let mut first = None;
    each_line(path, |line| {
        first = serde_json::from_slice(line).ok();
        false
    })
    .ok()?;
    first
}

/// The tasks that were settled already, with their ids. A run that was killed does not tell.
pub fn settled(path: &Path) -> std::io::Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Line {
        tasks: BTreeMap<String, String>,
    }
    let mut tasks = BTreeMap::new();
    each_line(path, |line| {
        if line.starts_with(SETTLED)
            && let Ok(line) = serde_json::from_slice::<Line>(line)
        {
            tasks.extend(line.tasks);
        }
        true
    })?;
    Ok(tasks)
}

/// Calls `visit` with each line until it has seen enough.
fn each_line(path: &Path, mut visit: impl FnMut(&[u8]) -> bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = vec![];
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE_BYTES);
        if limited.read_until(b'\n', &mut line)? == 0 || !visit(&line) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::ReceiptId;

    #[test]
    fn what_is_put_off_is_there_when_the_driver_rests_and_when_something_else_is_said() {
        let dir = tempfile::tempdir().expect("space left");
        let path = dir.path().join("run");
        let log = EventLog::new(path.clone());
        let started = |task: &str| RunEvent::TaskStarted {
            task: task.into(),
            id: TaskId::of(b"task"),
            invocation: quipu_store::cid::InvocationId::of(b"invocation"),
            attempt: 1,
            why: "new",
            expected_ms: None,
        };
        let recorded = |task: &str| RunEvent::Recorded { task: task.into(), receipt: ReceiptId::of(b"receipt") };
        let lines = || read(&path).map_or(0, |events| events.len());
        log.on(0, &started("a"));
        assert_eq!(lines(), 1, "the first makes the file");
        log.on(1, &recorded("a"));
        log.on(1, &recorded("b"));
        assert_eq!(lines(), 1);
        log.rest();
        assert_eq!(lines(), 3);
        log.on(2, &recorded("b"));
        log.on(2, &RunEvent::Warning { message: "now".into() });
        assert_eq!(lines(), 5);
        log.on(3, &recorded("c"));
        log.on(3, &started("d"));
        assert_eq!(lines(), 7, "it is told by the task");
        log.on(3, &recorded("d"));
        drop(log);
        assert_eq!(lines(), 8);
    }
}
