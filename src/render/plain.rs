//! Events as plain lines on standard error: for pipes, logs, and terminals that cannot be drawn over.
//!
//! Also the words that the live terminal uses for what stays on the screen.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use quipu_runtime::observe::{Ended, Observer, RunEvent, Summary};

use super::{count, duration, harmless, parts};

/// Most of a task's output that is held back until it ends, in bytes; of more, the end is shown.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// Lines of a failed task's output that are shown again at the end.
const TAIL_LINES: usize = 20;

/// Keeps what tasks print until they end, and the failures until the run does.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    quiet: bool,
    output: HashMap<String, String>,
    cut: HashMap<String, usize>,
    failures: Vec<String>,
}

impl Transcript {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, ..Self::default() }
    }

    /// What an event adds to what stays on the screen: whole lines, or nothing.
    pub(super) fn add(&mut self, event: &RunEvent) -> String {
        let mut out = String::new();
        match event {
            RunEvent::TaskOutput { task, text, .. } => self.hold_back(task, text),
            RunEvent::TaskEnded { task, end, wall_ms, reason, .. } => {
                let printed = self.output.remove(&**task).unwrap_or_default();
                let cut = self.cut.remove(&**task);
                let took = wall_ms.map(|ms| format!(" ({})", duration(ms))).unwrap_or_default();
                match end {
                    Ended::Ran if !self.quiet => {
                        let _ = writeln!(out, "ran {task}{took}");
                        indent(&mut out, &printed, cut);
                    }
                    Ended::Failed => {
                        let reason = reason.as_deref().unwrap_or("failed");
                        let _ = writeln!(out, "failed {task}{took}: {}", harmless(reason));
                        indent(&mut out, &printed, cut);
                        let mut again = format!("{task}: {}\n", harmless(reason));
                        let lines: Vec<&str> = printed.lines().collect();
                        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
                        indent(&mut again, &tail, (lines.len() > TAIL_LINES).then_some(0));
                        self.failures.push(again);
                    }
                    Ended::Skipped | Ended::Unmet | Ended::Blocked if !self.quiet => {
                        let word = if *end == Ended::Blocked { "blocked" } else { "skipped" };
                        let _ = writeln!(out, "{word} {task}: {}", reason.as_deref().unwrap_or_default());
                    }
                    _ => {}
                }
            }
            RunEvent::TaskLeftOut { task, reason } if !self.quiet => {
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
            RunEvent::Kept { path, cid } => {
                let _ =
                    writeln!(out, "replaced {path}, which quipu had not written; its old content: quipu show {cid}");
            }
            RunEvent::Warning { message } => {
                let _ = writeln!(out, "warning: {}", harmless(message));
            }
            RunEvent::Summary(summary) => out = self.summary(summary),
            _ => {}
        }
        out
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
            *self.cut.entry(task.to_owned()).or_default() += at;
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

fn indent(out: &mut String, text: &str, cut: Option<usize>) {
    if cut.is_some() {
        out.push_str("    ...\n");
    }
    for line in text.lines() {
        let _ = writeln!(out, "    {line}");
    }
}

/// Writes whole lines to standard error.
pub(super) struct Plain {
    transcript: Mutex<Transcript>,
}

impl Plain {
    pub(super) fn new(quiet: bool) -> Self {
        Self { transcript: Mutex::new(Transcript::new(quiet)) }
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
