//! Runs as their logs tell them: which there are, what people call them, and which tasks they were of.
//!
//! Reads the directory of logs; unaware of what anybody wants to know of a run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quipu_runtime::event_log;

use crate::diagnose::Diagnosis;
use crate::render::harmless;

/// Logs that stay however many there are.
const KEPT: usize = 1000;
/// A log that was written to so recently may be that of a run that goes on.
const GRACE: Duration = Duration::from_secs(3600);

/// A task as a run left it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Then {
    /// Its id; empty for one that was left out.
    pub(super) id: String,
    /// How it ended: the words of the events, `left-out`, or `interrupted` when it started and the log says no more.
    pub(super) end: String,
    /// The receipt made of it.
    pub(super) receipt: Option<String>,
    /// Why it ran, in the word of the event.
    pub(super) why: Option<String>,
    /// Why it failed or did not run.
    pub(super) reason: Option<String>,
    /// How long it took, in milliseconds.
    pub(super) wall_ms: Option<u64>,
}

/// Event logs with the ids of their runs, newest first.
pub(super) fn files(dir: &Path) -> Result<Vec<(String, PathBuf)>, Diagnosis> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Diagnosis::system("cannot list runs", &e)),
    };
    let mut files: Vec<(String, PathBuf)> = listing
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let id = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.to_owned();
            Some((id, path))
        })
        .collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    Ok(files)
}

/// The run that people call `name`: the beginning of its id, `last`, or `last~1` for the one before; of the workspace `key`
/// where the name does not say.
pub(super) fn find(dir: &Path, key: Option<&str>, name: &str) -> Result<(String, PathBuf), Diagnosis> {
    let mut files = files(dir)?;
    if let Some(back) = back(name) {
        let found = files.into_iter().filter(|(_, path)| is_of(path, key)).nth(back);
        return found.ok_or_else(|| {
            Diagnosis::usage(format!("there is no run `{name}`")).hint("`quipu log` lists those there are")
        });
    }
    files.retain(|(id, _)| id.starts_with(name));
    match files.len() {
        0 => Err(Diagnosis::usage(format!("no run has an id that begins with `{}`", harmless(name)))),
        1 => Ok(files.swap_remove(0)),
        _ => {
            let ids = files.into_iter().map(|(id, _)| id);
            Err(Diagnosis::ambiguous(format!("`{}` begins several runs", harmless(name)), ids).hint("give more of it"))
        }
    }
}

/// Whether a log is that of a run of the workspace `key`; any will do where that is not known.
pub(super) fn is_of(path: &Path, key: Option<&str>) -> bool {
    let started = || event_log::first(path);
    key.is_none_or(|key| started().is_some_and(|s| s["workspace"].as_str().is_none_or(|found| found == key)))
}

/// When a run began, in milliseconds since 1970: the first part of its id.
pub(super) fn began_ms(id: &str) -> u64 {
    id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0)
}

/// How many runs before the last are meant by `last`, `last~1`, ...
pub(super) fn back(name: &str) -> Option<usize> {
    match name.strip_prefix("last")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

/// The tasks of a run, by name; only those named, if any are.
pub(super) fn tasks(path: &Path, named: &[String]) -> Result<BTreeMap<String, Then>, Diagnosis> {
    let unread = |e: io::Error| Diagnosis::system("the log of that run cannot be read", &e);
    let mut tasks = BTreeMap::<String, Then>::new();
    for (name, id) in event_log::settled(path).map_err(unread)? {
        tasks.insert(name, Then { id, end: "cached".to_owned(), ..Then::default() });
    }
    for event in event_log::read_of(path, named).map_err(unread)? {
        let some = |key: &str| event[key].as_str().map(str::to_owned);
        let Some(task) = some("task") else { continue };
        let text = |key: &str| some(key).unwrap_or_default();
        match event["event"].as_str() {
            Some("task-left-out") => {
                let then = tasks.entry(task).or_default();
                (then.end, then.reason) = ("left-out".to_owned(), some("reason"));
            }
            Some("task-started") => {
                let then = tasks.entry(task).or_default();
                (then.id, then.end) = (text("id"), "interrupted".to_owned());
                // The first time tells; a later one is another attempt.
                then.why = then.why.take().or(some("why"));
            }
            Some("task-ended") => {
                let then = tasks.entry(task).or_default();
                (then.id, then.end) = (text("id"), text("end"));
                (then.reason, then.wall_ms) = (some("reason"), event["wall_ms"].as_u64());
            }
            Some("recorded") => {
                if let Some(then) = tasks.get_mut(&task) {
                    then.receipt = some("receipt");
                }
            }
            _ => {}
        }
    }
    if !named.is_empty() {
        tasks.retain(|name, _| named.contains(name));
    }
    Ok(tasks)
}

/// Deletes logs of runs that are older than `max_age`, and the oldest where there are more than a thousand. Gives how many and
/// how large they were; `dry_run` deletes none.
pub(super) fn prune(dir: &Path, max_age: Option<Duration>, dry_run: bool) -> Result<(usize, u64), Diagnosis> {
    let (mut deleted, mut bytes) = (0, 0);
    for (place, (_, path)) in files(dir)?.into_iter().enumerate() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        let is_old = max_age.is_some_and(|max| age > max) || place >= KEPT;
        // Whoever asks for everything to go means what has ended.
        if !is_old || (age < GRACE && max_age.is_none_or(|max| max > Duration::ZERO)) {
            continue;
        }
        match if dry_run { Ok(()) } else { fs::remove_file(&path) } {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Diagnosis::system("cannot delete a log", &e)),
            _ => (deleted, bytes) = (deleted + 1, bytes + found.len()),
        }
    }
    Ok((deleted, bytes))
}
