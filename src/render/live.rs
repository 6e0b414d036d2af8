//! Events on a terminal: what runs and for how long, done of total, and what earlier runs let one expect.
//!
//! Keeps a few lines at the bottom of the screen, drawn anew a few times a second; all else scrolls by above them.
//! Unaware of what the events mean beyond that: the words that stay are those of [`super::plain`].

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quipu_runtime::observe::{Ended, Observer, RunEvent};
use unicode_width::UnicodeWidthChar as _;

use super::plain::Transcript;
use super::style::Style;
use super::{columns, duration, one_line, padded};

/// Most running tasks that get a line each.
const MAX_LINES: usize = 8;
/// Time between two drawings.
const TICK: Duration = Duration::from_millis(125);
/// Characters of the bar.
const BAR: usize = 24;

/// Draws below what stays on the screen.
pub(super) struct Live {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

struct State {
    transcript: Transcript,
    board: Board,
    /// Columns of the lines that are on the screen now.
    drawn: Vec<usize>,
    ended: bool,
}

/// What the lines say.
struct Board {
    began: Instant,
    running: Vec<Running>,
    total: usize,
    done: usize,
    /// How long all of it was expected to take.
    expected_ms: Option<u64>,
    /// Whether anything runs at all.
    is_at_work: bool,
}

struct Running {
    task: String,
    began: Instant,
    expected_ms: Option<u64>,
}

impl Live {
    pub(super) fn new(style: Style) -> Self {
        let board =
            Board { began: Instant::now(), running: vec![], total: 0, done: 0, expected_ms: None, is_at_work: false };
        let state = State { transcript: Transcript::new(style), board, drawn: vec![], ended: false };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() }) }
    }

    /// Takes the lines off the screen, for good.
    pub(super) fn end(&self) {
        let mut state = self.shared.lock();
        if !state.ended {
            state.ended = true;
            let erased = state.erase();
            write(&erased);
            self.shared.news.notify_all();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws until the end.
    fn tick(&self) {
        let mut state = self.lock();
        while !state.ended {
            let drawn = state.redraw("");
            write(&drawn);
            state = self.news.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// What takes the lines off the screen. Lines that a narrower window has wrapped since take several rows.
    fn erase(&mut self) -> String {
        let width = size().0;
        let rows: usize = self.drawn.drain(..).map(|columns| columns.max(1).div_ceil(width)).sum();
        if rows == 0 { String::new() } else { format!("\x1b[{rows}A\r\x1b[J") }
    }

    /// What puts `text` above the lines and draws them anew.
    fn redraw(&mut self, text: &str) -> String {
        let mut out = self.erase();
        out.push_str(text);
        let (width, height) = size();
        for line in self.board.lines(Instant::now(), width, height) {
            self.drawn.push(columns(&line));
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

impl Board {
    fn lines(&self, now: Instant, width: usize, height: usize) -> Vec<String> {
        if !self.is_at_work || width < 20 || height < 4 {
            return vec![];
        }
        let shown = self.running.len().min(MAX_LINES).min(height - 3);
        let mut lines: Vec<String> = self.running[..shown].iter().map(|r| r.line(now, width)).collect();
        lines.push(cut(&self.total_line(now, self.running.len() - shown), width - 1));
        lines
    }

    fn total_line(&self, now: Instant, more: usize) -> String {
        let elapsed = now.saturating_duration_since(self.began);
        let filled = (self.done * BAR).checked_div(self.total).unwrap_or(0).min(BAR);
        let head = if filled < BAR { ">" } else { "" };
        let bar = format!("{:<BAR$}", format!("{}{head}", "=".repeat(filled)));
        let mut line = format!("[{}/{}] [{bar}] {}", self.done, self.total, seconds(elapsed));
        let left = self.expected_ms.map(|ms| Duration::from_millis(ms).saturating_sub(elapsed));
        if let Some(left) = left.filter(|left| *left >= Duration::from_secs(1)) {
            let _ = write!(line, ", about {} left", seconds(left));
        }
        if more > 0 {
            let _ = write!(line, ", {more} more running");
        }
        line
    }
}

impl Running {
    /// The name on the left, cut where it must be, and on the right how long it has been at it.
    fn line(&self, now: Instant, width: usize) -> String {
        let mut right = seconds(now.saturating_duration_since(self.began));
        if let Some(ms) = self.expected_ms.filter(|_| width >= 50) {
            let _ = write!(right, " of about {}", duration(ms));
        }
        // The last column stays free: some terminals go on to the next line there.
        let room = (width - 1).saturating_sub(columns(&right) + 4);
        let name = padded(&cut(&self.task, room), room);
        cut(&format!("  {name}  {right}"), width - 1)
    }
}

/// Whole seconds are enough for what changes while one looks.
fn seconds(time: Duration) -> String {
    let s = time.as_secs();
    if s < 60 { format!("{s} s") } else { duration(s * 1000) }
}

/// What fits of a text; three points say that it is not all.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(3);
    let fits = |c: &char| {
        let left = room.checked_sub(c.width().unwrap_or(0));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let kept: String = text.chars().take_while(fits).collect();
    kept + &"..."[..width.min(3)]
}

/// Columns and rows.
fn size() -> (usize, usize) {
    let found = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let found = found.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

fn write(text: &str) {
    if !text.is_empty() {
        // At once, so that nobody sees it half done. Nobody to tell that nobody looks.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

impl Observer for Live {
    fn on(&self, _: u64, event: &RunEvent) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        match event {
            RunEvent::Planned { settled, certain, conditional, expected_ms } => {
                state.board.total = settled + certain + conditional;
                state.board.done = *settled;
                state.board.expected_ms = *expected_ms;
            }
            RunEvent::TaskStarted { task, expected_ms, .. } => {
                if !state.board.is_at_work {
                    state.board.is_at_work = true;
                    let shared = Arc::clone(&self.shared);
                    std::thread::spawn(move || shared.tick());
                }
                state.board.running.push(Running {
                    task: one_line(task),
                    began: Instant::now(),
                    expected_ms: *expected_ms,
                });
            }
            RunEvent::TaskEnded { task, end, .. } => {
                let name = one_line(task);
                state.board.running.retain(|r| r.task != name);
                // What is cached was counted when it was planned, or was never going to run.
                if !matches!(end, Ended::Cached) {
                    state.board.done = (state.board.done + 1).min(state.board.total);
                }
            }
            RunEvent::Summary(_) => state.ended = true,
            _ => {}
        }
        let text = state.transcript.add(event);
        if state.ended {
            let erased = state.erase();
            write(&format!("{erased}{text}"));
            self.shared.news.notify_all();
        } else if !text.is_empty() {
            let drawn = state.redraw(&text);
            write(&drawn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(now: Instant, names: &[(&str, Option<u64>)]) -> Board {
        let began = now - Duration::from_secs(65);
        let running = names.iter().map(|(task, expected_ms)| Running {
            task: (*task).to_owned(),
            began: now - Duration::from_secs(2),
            expected_ms: *expected_ms,
        });
        Board { began, running: running.collect(), total: 40, done: 10, expected_ms: Some(90_000), is_at_work: true }
    }

    #[test]
    fn lines_fit_the_window_whatever_the_names() {
        let now = Instant::now();
        let long = "x".repeat(300);
        let names: Vec<(&str, Option<u64>)> =
            (0..12).map(|n| if n == 1 { (&*long, Some(3100)) } else { ("short", None) }).collect();
        let board = board(now, &names);
        let lines = board.lines(now, 60, 24);
        assert_eq!(lines.len(), MAX_LINES + 1);
        assert_eq!(lines[0], format!("  short{}2 s", " ".repeat(49)));
        assert_eq!(lines[1], format!("  {}...  2 s of about 3.1 s", "x".repeat(34)));
        assert_eq!(lines[8], "[10/40] [======>                 ] 1 min 05 s, about 25 ...");
        for (width, height) in [(20, 4), (21, 5), (79, 6), (200, 100)] {
            let lines = board.lines(now, width, height);
            assert!(lines.len() < height && lines.iter().all(|l| columns(l) < width), "{width}: {lines:?}");
        }
        let wide = "\u{691c}\u{8a3c}".repeat(40);
        let wide = self::board(now, &[(&wide, None), ("e\u{301}t\u{e9}", None)]);
        for width in [20, 41, 200] {
            let lines = wide.lines(now, width, 24);
            assert!(
                lines[0].ends_with("  2 s") && lines.iter().all(|line| columns(line) < width),
                "{width}: {lines:?}"
            );
            assert_eq!(columns(&lines[1]), width - 1, "{lines:?}");
        }
        assert!(board.lines(now, 19, 24).is_empty() && board.lines(now, 80, 3).is_empty());
    }

    #[test]
    fn what_was_drawn_is_erased_to_the_last_row() {
        let now = Instant::now();
        let mut state = State {
            transcript: Transcript::new(Style::PLAIN),
            board: board(now, &[("a", None)]),
            drawn: vec![],
            ended: false,
        };
        assert!(state.erase().is_empty());
        let text = state.redraw("said\n");
        assert!(text.starts_with("said\n") && text.ends_with('\n'), "{text:?}");
        assert!(state.redraw("").starts_with("\x1b[2A\r\x1b[J"));
    }
}
