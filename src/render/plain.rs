//! Events as plain lines on standard error: for pipes, logs, and terminals that cannot be drawn over.
//!
//! Also the words that the live terminal uses for what stays on the screen.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use quipu_runtime::exec::Stream;
use quipu_runtime::observe::{Ended, Observer, RunEvent, Summary};

use super::style::{Style, indent};
use super::{count, duration, harmless, parts};

/// Most of a task's output that is held back until it ends, in bytes; of more, the end is shown.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// Lines of a failed task's output that are shown again at the end.
const TAIL_LINES: usize = 20;

/// Keeps what tasks print until they end, and the failures until the run does.
#[derive(Debug)]
pub(super) struct Transcript {
    style: Style,
    output: HashMap<String, String>,
    /// Tasks of whose output only the end is held.
    cut: HashSet<String>,
    /// The line that a task has begun and not ended, by task and stream.
    begun: HashMap<(String, bool), String>,
    failures: Vec<String>,
    blocks: usize,
}

impl Transcript {
    pub(super) fn new(style: Style) -> Self {
        let (output, cut, begun) = Default::default();
        Self { style, output, cut, begun, failures: vec![], blocks: 0 }
    }

    /// What an event adds to what stays on the screen: whole lines, or nothing.
    pub(super) fn add(&mut self, event: &RunEvent) -> String {
        let mut out = String::new();
        match event {
            RunEvent::TaskOutput { task, stream, text } => {
                self.hold_back(task, text);
                if self.style.is_immediate() {
                    out = self.whole_lines(task, *stream == Stream::Stderr, text);
                }
            }
            RunEvent::TaskEnded { task, end, wall_ms, reason, .. } => {
                let printed = self.output.remove(&**task).unwrap_or_default();
                let cut = self.cut.remove(&**task);
                let took = wall_ms.map(|ms| format!(" ({})", duration(ms))).unwrap_or_default();
                for is_stderr in [false, true] {
                    if let Some(rest) = self.begun.remove(&(task.to_string(), is_stderr)) {
                        out.push_str(&self.style.lines(task, &rest));
                    }
                }
                // What was shown as it came is not shown again.
                let (shown, shown_cut) = if self.style.is_immediate() { ("", false) } else { (&*printed, cut) };
                self.blocks += 1;
                match end {
                    Ended::Ran if !self.style.is_quiet() => {
                        self.style.block(&mut out, &format!("ran {task}{took}"), self.blocks, shown, shown_cut);
                    }
                    // Only a replay has anything to show of these.
                    Ended::Cached | Ended::CutOff if !printed.is_empty() && !self.style.is_quiet() => {
                        self.style.block(&mut out, &format!("cached {task}"), self.blocks, shown, shown_cut);
                    }
                    Ended::Failed => {
                        let reason = reason.as_deref().unwrap_or("failed");
                        let _ = writeln!(out, "failed {task}{took}: {}", harmless(reason));
                        indent(&mut out, shown, shown_cut);
                        out.push_str(&self.style.annotation(task, reason));
                        let mut again = format!("{task}: {}\n", harmless(reason));
                        let lines: Vec<&str> = printed.lines().collect();
                        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
                        indent(&mut again, &tail, lines.len() > TAIL_LINES);
                        self.failures.push(again);
                    }
                    // What never began is not worth a line each.
                    Ended::Cancelled if !(self.style.is_quiet() || printed.is_empty() && wall_ms.is_none()) => {
                        self.style.block(&mut out, &format!("cancelled {task}{took}"), self.blocks, shown, shown_cut);
                    }
                    Ended::Skipped | Ended::Unmet | Ended::Blocked if !self.style.is_quiet() => {
                        let word = if *end == Ended::Blocked { "blocked" } else { "skipped" };
                        let _ = writeln!(out, "{word} {task}: {}", reason.as_deref().unwrap_or_default());
                    }
                    _ => {}
                }
            }
            RunEvent::TaskLeftOut { task, reason } if !self.style.is_quiet() => {
                let _ = writeln!(out, "left out {task}: {}", harmless(reason));
            }
            RunEvent::TaskRetry { task, attempt } => {
                let _ = writeln!(out, "retrying {task}: attempt {attempt}");
            }
            RunEvent::TaskHollow { task } => {
                let _ = writeln!(out, "output of {task} is gone from the store: running it again");
            }
            RunEvent::Divergence { task } => {
                let _ = writeln!(out, "warning: {task} came out in two ways: it is not deterministic");
            }
            RunEvent::Kept { path, cid, link } => {
                let was = match (cid, link) {
                    (_, Some(target)) => format!("; it was a link to `{}`", harmless(target)),
                    (Some(cid), None) => format!("; its old content: quipu show {cid}"),
                    (None, None) => String::new(),
                };
                let _ = writeln!(out, "replaced {}, which quipu had not written{was}", harmless(path));
            }
            RunEvent::Warning { message } => {
                let _ = writeln!(out, "warning: {}", harmless(message));
            }
            RunEvent::Summary(summary) => out = self.summary(summary),
            _ => {}
        }
        out
    }

    /// What is whole of a task's lines now; the rest waits for its end.
    fn whole_lines(&mut self, task: &str, is_stderr: bool, text: &str) -> String {
        let begun = self.begun.entry((task.to_owned(), is_stderr)).or_default();
        begun.push_str(&harmless(text));
        // A line without end is cut somewhere, so that it is not held for ever.
        let end = begun.rfind('\n').map(|at| at + 1).or((begun.len() > MAX_OUTPUT_BYTES).then_some(begun.len()));
        let whole: String = begun.drain(..end.unwrap_or(0)).collect();
        if begun.is_empty() {
            self.begun.remove(&(task.to_owned(), is_stderr));
        }
        self.style.lines(task, &whole)
    }

    fn hold_back(&mut self, task: &str, text: &str) {
        let held = self.output.entry(task.to_owned()).or_default();
        held.push_str(&harmless(text));
        if held.len() > MAX_OUTPUT_BYTES {
            let mut at = held.len() - MAX_OUTPUT_BYTES / 2;
            while !held.is_char_boundary(at) {
                at += 1;
            }
            // From the next whole line on.
            at += held[at..].find('\n').map_or(0, |n| n + 1);
            self.cut.insert(task.to_owned());
            held.drain(..at);
        }
    }

    fn summary(&self, summary: &Summary) -> String {
        let mut out = String::new();
        if self.failures.len() > 1 {
            let _ = writeln!(out, "\n{} failed:", count(self.failures.len(), "task"));
            for failure in &self.failures {
                out.push_str(failure);
            }
        }
        let counts = &summary.counts;
        let settled = counts.cached + counts.cut_off + counts.unneeded;
        let missed = counts.failed + counts.skipped + counts.unmet + counts.blocked + counts.cancelled;
        let total = settled + counts.ran + missed;
        if settled + counts.unmet == total {
            let work = if counts.cut_off > 0 { "nothing ran" } else { "nothing to do" };
            let without = match summary.left_out {
                0 => String::new(),
                n => format!(", {n} left out"),
            };
            let _ = writeln!(out, "{work}: {} up to date{without}", are(total));
            return out;
        }
        let number = |what: &str| match what {
            "ran" => counts.ran,
            "failed" => counts.failed,
            "skipped" => counts.skipped,
            "unmet" => counts.unmet,
            "blocked" => counts.blocked,
            "cancelled" => counts.cancelled,
            "cached" => counts.cached,
            "unneeded" => counts.unneeded,
            "left_out" => summary.left_out,
            _ => counts.cut_off,
        };
        let _ = writeln!(out, "{}: {} in {}", count(total, "task"), parts(number), duration(summary.ms));
        out
    }
}

fn are(n: usize) -> String {
    if n == 1 { "1 task is".to_owned() } else { format!("{n} tasks are") }
}

/// Writes whole lines to standard error.
pub(super) struct Plain {
    transcript: Mutex<Transcript>,
}

impl Plain {
    pub(super) fn new(style: Style) -> Self {
        Self { transcript: Mutex::new(Transcript::new(style)) }
    }
}

impl Observer for Plain {
    fn on(&self, _: u64, event: &RunEvent) {
        let mut transcript = self.transcript.lock().unwrap_or_else(PoisonError::into_inner);
        let text = transcript.add(event);
        if !text.is_empty() {
            // Nobody to tell that nobody listens.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}
