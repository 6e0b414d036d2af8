//! How the output of tasks is laid out: by task or as it comes, and what folds it where a CI service shows it.
//!
//! Knows the marks of those services; unaware of events.

use std::fmt::Write as _;

use super::{harmless, one_line};
use crate::cli::OutputMode;
use crate::quantity::now;
use crate::settings;

/// What folds output, by whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fold {
    /// Nothing: it stands indented below its task.
    #[default]
    None,
    /// Groups and annotations of GitHub Actions.
    GitHub,
    /// Sections of GitLab CI.
    GitLab,
}

/// How output is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) mode: OutputMode,
    pub(super) fold: Fold,
}

impl Style {
    /// By task, with nothing to fold it.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { mode: OutputMode::Grouped, fold: Fold::None };

    /// As it was asked for, and as the place wants it.
    pub(super) fn of(mode: OutputMode) -> Self {
        Self { mode, fold: settings::fold() }
    }

    pub(super) fn is_quiet(self) -> bool {
        self.mode == OutputMode::Quiet
    }

    /// Whether lines are shown as they come.
    pub(super) fn is_immediate(self) -> bool {
        matches!(self.mode, OutputMode::Prefixed | OutputMode::Stream)
    }

    /// Whole lines of a task, as they come.
    pub(super) fn lines(self, task: &str, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for line in text.lines() {
            let _ = match self.mode {
                OutputMode::Prefixed => writeln!(out, "{} | {line}", one_line(task)),
                _ => writeln!(out, "{line}"),
            };
        }
        out
    }

    /// A heading and what stands below it, of the task with that number in this run.
    pub(super) fn block(self, out: &mut String, heading: &str, number: usize, text: &str, is_cut: bool) {
        let folded = !text.is_empty() && self.mode == OutputMode::Grouped;
        match self.fold {
            Fold::GitHub if folded => {
                let _ = writeln!(out, "::group::{heading}");
                indent(out, text, is_cut);
                out.push_str("::endgroup::\n");
            }
            Fold::GitLab if folded => {
                let now = now();
                let _ = writeln!(out, "\x1b[0Ksection_start:{now}:quipu_{number}[collapsed=true]\r\x1b[0K{heading}");
                indent(out, text, is_cut);
                let _ = writeln!(out, "\x1b[0Ksection_end:{now}:quipu_{number}\r\x1b[0K");
            }
            _ => {
                let _ = writeln!(out, "{heading}");
                indent(out, text, is_cut);
            }
        }
    }

    /// What makes a failure stand out where the run is shown.
    pub(super) fn annotation(self, task: &str, reason: &str) -> String {
        match self.fold {
            Fold::GitHub => {
                let title = escape(&format!("task {task} failed")).replace(':', "%3A").replace(',', "%2C");
                format!("::error title={title}::{}\n", escape(&harmless(reason)))
            }
            Fold::None | Fold::GitLab => String::new(),
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Lines below their heading; of those that were cut, the end.
pub(super) fn indent(out: &mut String, text: &str, is_cut: bool) {
    if is_cut {
        out.push_str("    ...\n");
    }
    for line in text.lines() {
        let _ = writeln!(out, "    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fold: Fold, text: &str) -> String {
        let mut out = String::new();
        Style { mode: OutputMode::Grouped, fold }.block(&mut out, "ran a (1 s)", 3, text, false);
        out
    }

    #[test]
    fn services_fold_what_is_there_to_fold() {
        assert_eq!(block(Fold::GitHub, "x\ny\n"), "::group::ran a (1 s)\n    x\n    y\n::endgroup::\n");
        let lab = block(Fold::GitLab, "x\n");
        let (start, rest) = lab.split_once('\r').expect("has a mark");
        let id = start.strip_prefix("\x1b[0Ksection_start:").expect("opens").split(':').next().expect("has a time");
        assert_eq!(rest, format!("\x1b[0Kran a (1 s)\n    x\n\x1b[0Ksection_end:{id}:quipu_3\r\x1b[0K\n"));
        for fold in [Fold::None, Fold::GitHub, Fold::GitLab] {
            assert_eq!(block(fold, ""), "ran a (1 s)\n");
        }
    }

    #[test]
    fn an_annotation_is_one_line_whatever_failed() {
        let style = Style { mode: OutputMode::Grouped, fold: Fold::GitHub };
        assert_eq!(
            style.annotation("app:x[1,2]", "100%\nof it"),
            "::error title=task app%3Ax[1%2C2] failed::100%25%0Aof it\n"
        );
        assert_eq!(Style::PLAIN.annotation("a", "b"), "");
    }
}
