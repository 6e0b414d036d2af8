//! `quipu log`: runs that did something, newest first; what happened in one; what a task printed when it ran.
//!
//! Runs are read from their event logs, what a task printed from its receipt: the bytes it wrote, not what a
//! terminal made of them.

use std::io::{self, Write};
use std::path::PathBuf;

use quipu_runtime::event_log;
use quipu_store::Store;
use quipu_store::cid::{BlobId, ReceiptId};
use serde_json::{Value as Json, json};

use super::{Context, memory, note, print, runs, unwritten};
use crate::cli::LogArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project;
use crate::quantity::moment;
use crate::render::{duration, harmless, parts};

/// Characters of a task's goals that fit on a line.
const MAX_GOALS: usize = 3;

/// A run as its log tells it.
struct Logged {
    id: String,
    path: PathBuf,
    events: Vec<Json>,
}

/// Logs.
pub(super) fn log(context: &Context, args: &LogArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let store = settings.open_store()?;
    // A workfile with errors in it is no reason not to say what happened.
    let key = project::root(&context.start).map(|root| root.to_string_lossy().into_owned()).filter(|_| !args.all);
    let dir = settings.own_dir().join("runs");
    let mut files = match &args.run {
        Some(name) => vec![runs::find(&dir, key.as_deref(), name)?],
        None => runs::files(&dir)?,
    };
    if let (Some(_), None, Some(behind)) = (&args.task, &args.run, settings.behind()) {
        // What counts here may have run there.
        files.extend(runs::files(&behind.join("runs"))?);
        files.sort_unstable_by(|a, b| b.cmp(a));
    }
    let named = args.run.is_some();
    let mut runs = files.into_iter().filter_map(|(id, path)| {
        let events = event_log::read(&path).ok()?;
        Some(Logged { id, path, events }).filter(|run| named || run.is_of(key.as_deref()))
    });
    match (&args.task, named) {
        (Some(task), _) => {
            let (name, unknown) = full_name(context, task)?;
            printed(&store, &mut runs, &name, key.as_deref().filter(|_| !named), args.json)?
                .ok_or_else(|| unknown.unwrap_or_else(|| never_ran(&name)))
        }
        (None, true) => {
            let run = runs.next().ok_or_else(|| Diagnosis::usage("the log of that run cannot be read"))?;
            let mut text = String::new();
            for event in &run.events {
                if event["event"] == "summary" {
                    text.push_str(&run.settled(args.json));
                }
                let line = if args.json { format!("{event}\n") } else { told(event) };
                text.push_str(&line);
            }
            print(&text).map(|()| Exit::Ok)
        }
        (None, false) => {
            let mut out = io::stdout().lock();
            for run in runs {
                let line = if args.json { format!("{}\n", run.as_json()) } else { run.as_text() };
                out.write_all(line.as_bytes()).map_err(|e| unwritten(&e))?;
            }
            out.flush().map_err(|e| unwritten(&e)).map(|()| Exit::Ok)
        }
    }
}

/// The name of the one task that somebody means; if there is none now, but may have been, with what is wrong with it.
fn full_name(context: &Context, selector: &str) -> Result<(String, Option<Diagnosis>), Diagnosis> {
    let Ok(loaded) = project::load(context) else { return Ok((selector.to_owned(), None)) };
    match loaded.select(loaded.here, selector) {
        Ok(one) if one.len() == 1 => Ok((loaded.recipes[one[0]].name.to_string(), None)),
        Ok(none) if none.is_empty() => Ok((selector.to_owned(), None)),
        Err(error) => Ok((selector.to_owned(), Some(error.into()))),
        Ok(several) => {
            let names = several.iter().map(|i| loaded.recipes[*i].name.to_string());
            Err(project::several(selector, names.collect()))
        }
    }
}

fn never_ran(name: &str) -> Diagnosis {
    Diagnosis::usage(format!("task `{}` has not run here, as far as is known", harmless(name)))
        .hint("`quipu list` lists tasks, `quipu log` runs")
}

/// Prints what the task printed in the latest of `runs` in which it ran; nothing when it never did.
fn printed(
    store: &Store,
    runs: &mut impl Iterator<Item = Logged>,
    name: &str,
    key: Option<&str>,
    as_json: bool,
) -> Result<Option<Exit>, Diagnosis> {
    let of_task = |event: &&Json| event["task"] == name;
    let found = runs.find_map(|run| {
        let of_task = || run.events.iter().rev().filter(of_task);
        let recorded = of_task().find(|e| e["event"] == "recorded");
        let receipt = recorded.and_then(|e| e["receipt"].as_str()?.parse::<ReceiptId>().ok());
        let began = || of_task().any(|e| e["event"] == "task-started");
        let ended = || of_task().find(|e| e["event"] == "task-ended").and_then(|e| e["end"].as_str());
        // Another process may have done it in its place.
        let ran = receipt.is_some() || began() && !matches!(ended(), Some("ran" | "cached" | "cut-off"));
        ran.then_some((receipt, run))
    });
    if as_json && let Some((_, run)) = &found {
        let lines: String = run.events.iter().filter(of_task).map(|event| format!("{event}\n")).collect();
        return print(&lines).map(|()| Some(Exit::Ok));
    }
    if let Some((None, run)) = &found {
        return unrecorded(run, name).map(Some);
    }
    // The same work may have been done under another name, or its log be gone.
    let remembered = || memory::read(store, key?).get(name)?.receipt.as_ref()?.parse().ok();
    let Some(receipt) = found.and_then(|(receipt, _)| receipt).or_else(remembered) else {
        return Ok(None);
    };
    let gone = |what: &str| Diagnosis::usage(format!("{what} of `{}` is not in the store any more", harmless(name)));
    let found = store.receipt(receipt)?.ok_or_else(|| gone("the receipt"))?;
    let (stdout, stderr) = match &found.signed.receipt.out {
        Ok(output) => (output.stdout, output.stderr),
        Err(failure) => (failure.stdout, failure.stderr),
    };
    let get = |id: BlobId| store.get(id.link(), u64::MAX).map_err(Diagnosis::from);
    if let Some(id) = stderr {
        let bytes = get(id)?.ok_or_else(|| gone("standard error"))?;
        let _ = io::stderr().lock().write_all(&bytes);
    }
    if let Some(id) = stdout {
        super::show::raw(store, id)?.ok_or_else(|| gone("standard output"))?;
    }
    Ok(Some(Exit::Ok))
}

/// Prints what a task had printed that left no receipt in this run, as far as the log of the run tells.
fn unrecorded(run: &Logged, name: &str) -> Result<Exit, Diagnosis> {
    let of_task = || run.events.iter().filter(|event| event["task"] == name);
    for event in of_task().filter(|e| e["event"] == "task-output") {
        let text = event["text"].as_str().unwrap_or_default();
        if event["stream"] == "stderr" {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        } else {
            print(text)?;
        }
    }
    let became = match of_task().rfind(|e| e["event"] == "task-ended") {
        Some(ended) if ended["end"] == "cancelled" => "it was stopped".to_owned(),
        Some(ended) => format!("it failed: {}", harmless(ended["reason"].as_str().unwrap_or_default())),
        None => "it did not end, as far as is known".to_owned(),
    };
    note(&format!("`{}` left no receipt in run {}: {became}", harmless(name), run.id));
    Ok(Exit::Ok)
}

fn texts(value: &Json) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Json::as_str).collect()
}

impl Logged {
    fn started(&self) -> &Json {
        self.events.iter().find(|e| e["event"] == "run-started").unwrap_or(&Json::Null)
    }

    /// The tasks that were as they had been, and count as done.
    fn settled(&self, as_json: bool) -> String {
        let tasks = event_log::settled(&self.path).unwrap_or_default();
        if as_json {
            return if tasks.is_empty() {
                String::new()
            } else {
                format!("{}\n", json!({ "event": "settled", "tasks": tasks }))
            };
        }
        tasks.keys().map(|name| format!("{:>10}  cached {}\n", "", harmless(name))).collect()
    }

    fn summary(&self) -> Option<&Json> {
        self.events.iter().find(|e| e["event"] == "summary")
    }

    /// Whether it was a run of the workspace `key`; `None` is any.
    fn is_of(&self, key: Option<&str>) -> bool {
        key.is_none_or(|key| self.started()["workspace"].as_str().is_none_or(|found| found == key))
    }

    fn ended(&self, end: &str) -> usize {
        self.events.iter().filter(|e| e["event"] == "task-ended" && e["end"] == end).count()
    }

    fn as_json(&self) -> Json {
        let started = self.started();
        json!({
            "run": self.id,
            "began_ms": runs::began_ms(&self.id),
            "workspace": started["workspace"],
            "goals": started["goals"],
            "tasks": started["tasks"],
            "summary": self.summary(),
        })
    }

    fn as_text(&self) -> String {
        let goals = texts(&self.started()["goals"]);
        let some = goals.iter().take(MAX_GOALS).map(|g| harmless(g)).collect::<Vec<_>>().join(" ");
        let more = goals.len().saturating_sub(MAX_GOALS);
        let goals = if more > 0 { format!("{some} and {more} more") } else { some };
        let (what, took) = match self.summary() {
            Some(summary) => {
                let number = |key: &str| summary[key].as_u64().map_or(0, |n| n as usize);
                let took = duration(summary["ms"].as_u64().unwrap_or(0));
                (parts(number), took)
            }
            None => (parts(|key| self.ended(&key.replace('_', "-"))), "did not end".to_owned()),
        };
        let what = if what.is_empty() { "nothing done".to_owned() } else { what };
        format!("{}  {}  {goals}: {what}, {took}\n", self.id, moment(runs::began_ms(&self.id) / 1000))
    }
}

/// One event as a line for people; nothing for those that say little.
fn told(event: &Json) -> String {
    let text = |key: &str| harmless(event[key].as_str().unwrap_or_default());
    let at = format!("{:>10}  ", event["at"].as_u64().map(duration).unwrap_or_default());
    match event["event"].as_str().unwrap_or_default() {
        "run-started" => {
            let goals = texts(&event["goals"]).into_iter().map(harmless).collect::<Vec<_>>().join(" ");
            format!("{at}run {} of {goals}\n", text("run"))
        }
        "task-started" => format!("{at}started {}\n", text("task")),
        "task-ended" => {
            let took = event["wall_ms"].as_u64().map(|ms| format!(" ({})", duration(ms))).unwrap_or_default();
            let reason = event["reason"].as_str().map(|r| format!(": {}", harmless(r))).unwrap_or_default();
            format!("{at}{} {}{took}{reason}\n", text("end"), text("task"))
        }
        "task-output" => {
            let lines = text("text");
            lines.lines().map(|line| format!("{:>10}  {}| {line}\n", "", text("task"))).collect()
        }
        "task-ready" => format!("{at}ready {}\n", text("task")),
        "task-retry" => format!("{at}retrying {}\n", text("task")),
        "task-hollow" => format!("{at}output of {} is gone from the store\n", text("task")),
        "divergence" => format!("{at}{} came out in two ways\n", text("task")),
        "kept" if event["link"].is_string() => {
            format!("{at}replaced {}, which was a link to `{}`\n", text("path"), text("link"))
        }
        "kept" => format!("{at}replaced {}, whose old content is {}\n", text("path"), text("cid")),
        "warning" => format!("{at}warning: {}\n", text("message")),
        "summary" => {
            let number = |key: &str| event[key].as_u64().map_or(0, |n| n as usize);
            format!("{:>10}  {}\n", duration(event["ms"].as_u64().unwrap_or(0)), parts(number))
        }
        _ => String::new(),
    }
}
