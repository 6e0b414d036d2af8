//! Observers that people and programs read: lines, a live terminal, JSON.
//!
//! All made of the one stream of events; unaware of how work is done.

mod json;
mod live;
mod plain;
mod replay;
mod style;

pub(crate) use self::style::Fold;

use std::sync::Arc;

use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::observe::{Observer, Observers, RunEvent};
use quipu_store::tree::Entry;
use unicode_width::UnicodeWidthStr as _;

use self::style::Style;
use crate::cli::{OutputMode, RunArgs};
use crate::commands::unwritten;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::settings;

/// What a person or a program is told with.
pub(crate) struct Teller {
    observer: Arc<dyn Observer>,
    live: Option<Arc<live::Live>>,
    json: Option<Arc<json::Json>>,
}

impl Teller {
    /// The one that fits where the output goes.
    pub(crate) fn of(args: &RunArgs) -> Self {
        let style = Style::of(if args.quiet { OutputMode::Quiet } else { args.output });
        if args.json {
            let json = Arc::new(json::Json::default());
            Self { observer: json.clone(), live: None, json: Some(json) }
        } else if !style.is_quiet() && settings::stderr_is_live() {
            let live = Arc::new(live::Live::new(style));
            Self { observer: live.clone(), live: Some(live), json: None }
        } else {
            Self { observer: Arc::new(plain::Plain::new(style)), live: None, json: None }
        }
    }

    /// The same, told what cached tasks printed as well.
    pub(crate) fn with_replay(mut self, opened: &Opened) -> Self {
        let nodes = opened.project.subject.workflow.nodes().iter();
        let muted = nodes.filter(|node| node.policy.mute).map(|node| node.name.clone()).collect();
        self.observer = Arc::new(replay::Replay::new(opened.store.clone(), muted, self.observer));
        self
    }

    /// The observer.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.observer)
    }

    /// Leaves the screen to others, however the run ended.
    pub(crate) fn end(&self) {
        if let Some(live) = &self.live {
            live.end();
        }
    }

    /// The exit code, if all that was told got out.
    pub(crate) fn told(&self, exit: Exit) -> Result<Exit, Diagnosis> {
        match self.json.as_ref().and_then(|json| json.failed()) {
            None => Ok(exit),
            Some(error) => Err(unwritten(&error)),
        }
    }
}

/// The observer of commands that run tasks for a result of their own: failures, and nothing else. The end of tasks that
/// `is_told` in the result is left out, and so is the summary.
pub(crate) struct Failures<F> {
    is_told: F,
    inner: plain::Plain,
}

impl<F: Fn(&str) -> bool> Failures<F> {
    /// Leaves out what `is_told` names.
    pub(crate) fn new(is_told: F) -> Self {
        Self { is_told, inner: plain::Plain::new(Style::of(OutputMode::Quiet)) }
    }
}

impl<F: Fn(&str) -> bool + Send + Sync> Observer for Failures<F> {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        match event {
            RunEvent::Summary(_) => {}
            RunEvent::TaskEnded { task, .. } | RunEvent::TaskRetry { task, .. } if (self.is_told)(task) => {}
            _ => self.inner.on(at_ms, event),
        }
    }
}

/// Tells of files that quipu had not written and that were in the way, before it passes on what happened next.
pub(crate) struct TellKept {
    workspace: Arc<Workspace>,
    inner: Observers,
}

impl TellKept {
    /// Before `inner`, of the files of `workspace`.
    pub(crate) fn new(workspace: Arc<Workspace>, inner: Observers) -> Self {
        Self { workspace, inner }
    }
}

impl TellKept {
    /// Tells of files that are kept now.
    pub(crate) fn tell(&self, at_ms: u64, kept: Vec<(String, Entry)>) {
        for (path, entry) in kept {
            let (cid, link) = match entry {
                Entry::File { blob, .. } => (Some(blob.to_string()), None),
                Entry::Dir { tree } => (Some(tree.to_string()), None),
                Entry::Symlink { target } => (None, Some(target.to_string())),
            };
            self.inner.on(at_ms, &RunEvent::Kept { path, cid, link });
        }
    }
}

impl Observer for TellKept {
    fn on(&self, at_ms: u64, event: &RunEvent) {
        if matches!(event, RunEvent::TaskEnded { .. } | RunEvent::Summary(_)) {
            self.tell(at_ms, self.workspace.take_kept());
        }
        self.inner.on(at_ms, event);
    }

    fn rest(&self) {
        self.inner.rest();
    }
}

/// A duration as people say it.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=59_999 => format!("{}.{:01} s", ms / 1000, ms % 1000 / 100),
        60_000..=3_599_999 => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {:02} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// How many tasks ended how, by the names that the summary has for that: `3 ran, 8 cached`.
pub(crate) fn parts(number: impl Fn(&str) -> usize) -> String {
    let parts = [
        (number("ran"), "ran"),
        (number("failed"), "failed"),
        (number("skipped"), "skipped"),
        (number("unmet"), "with nothing to do"),
        (number("blocked"), "blocked"),
        (number("cancelled"), "cancelled"),
        (number("cached") + number("unneeded"), "cached"),
        (number("cut_off"), "cut off"),
        (number("left_out"), "left out"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    parts.join(", ")
}

/// How many columns of a terminal a text takes on one line.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// A text with blanks behind it, so that it takes that many columns.
pub(crate) fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// A name on one line.
pub(crate) fn one_line(name: &str) -> String {
    harmless(name).replace('\n', " ")
}

/// Text for a terminal or log: control characters that could move the cursor or recolour what follows are
/// shown, not sent.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c {
            '\n' | '\t' => vec![c],
            '\r' => vec![],
            c if c.is_control() => c.escape_default().collect(),
            c => vec![c],
        })
        .collect()
}
