//! Events on a terminal: what runs and for how long, done of total, and what earlier runs let one expect.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use quipu_runtime::observe::{Ended, Observer, RunEvent};

use super::duration;
use super::plain::Transcript;

/// Most running tasks that get a line each.
const MAX_LINES: usize = 8;

/// Draws below what stays on the screen.
pub(super) struct Live {
    screen: MultiProgress,
    state: Mutex<State>,
}

struct State {
    transcript: Transcript,
    total: ProgressBar,
    running: BTreeMap<String, Option<ProgressBar>>,
    /// Expected milliseconds of work that is not done.
    ahead_ms: u64,
    expected: BTreeMap<String, u64>,
}

impl Live {
    pub(super) fn new() -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let total = ProgressBar::hidden();
        let state = State {
            transcript: Transcript::new(false),
            total,
            running: BTreeMap::new(),
            ahead_ms: 0,
            expected: BTreeMap::new(),
        };
        Self { screen, state: Mutex::new(state) }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl State {
    fn message(&self) -> String {
        let more = self.running.values().filter(|bar| bar.is_none()).count();
        let more = if more > 0 { format!("{more} more running  ") } else { String::new() };
        let left = if self.ahead_ms > 0 { format!("about {} left", duration(self.ahead_ms)) } else { String::new() };
        format!("{more}{left}")
    }
}

impl Observer for Live {
    fn on(&self, _: u64, event: &RunEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RunEvent::Planned { settled, certain, conditional, expected_ms } => {
                state.ahead_ms = expected_ms.unwrap_or(0);
                state.total = self.screen.add(ProgressBar::new((settled + certain + conditional) as u64));
                state.total.set_style(style("[{pos}/{len}] [{bar:24}] {elapsed} {msg}"));
                state.total.set_position(*settled as u64);
                state.total.enable_steady_tick(Duration::from_millis(200));
            }
            RunEvent::TaskStarted { task, expected_ms, .. } => {
                if let Some(ms) = expected_ms {
                    state.expected.insert(task.to_string(), *ms);
                }
                let lines = state.running.values().filter(|bar| bar.is_some()).count();
                let bar = (lines < MAX_LINES).then(|| {
                    let bar = self.screen.insert_before(&state.total, ProgressBar::new_spinner());
                    let expected = expected_ms.map(|ms| format!(" of about {}", duration(ms))).unwrap_or_default();
                    bar.set_style(style("  {wide_msg} {elapsed}"));
                    bar.set_message(format!("{task}{expected}"));
                    bar.enable_steady_tick(Duration::from_millis(200));
                    bar
                });
                state.running.insert(task.to_string(), bar);
            }
            RunEvent::TaskEnded { task, end, .. } => {
                if let Some(Some(bar)) = state.running.remove(&**task) {
                    bar.finish_and_clear();
                    self.screen.remove(&bar);
                }
                if let Some(ms) = state.expected.remove(&**task) {
                    state.ahead_ms = state.ahead_ms.saturating_sub(ms);
                }
                if !matches!(end, Ended::Cached) {
                    state.total.inc(1);
                }
            }
            RunEvent::Summary(_) => {
                state.total.finish_and_clear();
                let _ = self.screen.clear();
            }
            _ => {}
        }
        let text = state.transcript.add(event);
        if !text.is_empty() {
            self.screen.suspend(|| {
                use std::io::Write;
                let _ = std::io::stderr().lock().write_all(text.as_bytes());
            });
        }
        let message = state.message();
        state.total.set_message(message);
    }
}
