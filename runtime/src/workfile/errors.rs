//! What is wrong with a workfile: each error with its place, a way on, and the other places it involves.
//!
//! Knows texts and places in them; unaware of what the language means.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Errors beyond this many are counted and not shown.
pub const MAX_SHOWN: usize = 100;

/// A stretch of one file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Place {
    /// Which file, an index into [`Faults::files`].
    pub file: u32,
    /// Where it starts.
    pub start: u32,
    /// Where it ends; not before `start`.
    pub end: u32,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path relative to the workspace root.
    pub path: String,
    /// Its text.
    pub text: Arc<str>,
}

/// Which rule was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Not TOML.
    Syntax,
    /// The same key or table twice.
    Duplicate,
    /// A value of another type than the key takes, or keys that exclude each other.
    Type,
    /// A key that means nothing there.
    UnknownKey,
    /// A name that cannot be one.
    BadName,
    /// A value outside what the key allows.
    BadValue,
    /// A `{{name}}` that is not defined, or not closed.
    Variable,
    /// A selector that matches no task.
    UnknownTask,
    /// Tasks that wait for one another.
    Cycle,
    /// Outputs that overlap.
    Overlap,
    /// A path that leaves the workspace, or is none.
    BadPath,
    /// A glob that cannot be read.
    BadGlob,
    /// An input that is the task's own output.
    OwnOutput,
    /// An input that nobody makes and that does not exist.
    MissingInput,
    /// A task with nothing to do.
    Empty,
    /// A matrix without values, or with too many.
    Matrix,
    /// A member that cannot be one.
    Member,
    /// More than the bounds allow.
    TooLarge,
    /// A file that cannot be read.
    Io,
}

/// One error of a workfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkfileError {
    /// Which rule was broken.
    pub kind: ErrorKind,
    /// Where.
    pub place: Place,
    /// What is wrong, as a lower-case fragment.
    pub message: String,
    /// Ways on.
    pub hints: Vec<String>,
    /// Other places it involves, each with what is there.
    pub related: Vec<(Place, String)>,
}

impl WorkfileError {
    /// An error at `place`.
    pub fn new(kind: ErrorKind, place: Place, message: impl Into<String>) -> Self {
        Self { kind, place, message: message.into(), hints: vec![], related: vec![] }
    }

    /// Adds a way on.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a way on, if there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }

    /// Adds another place it involves.
    pub fn see(mut self, place: Place, what: impl Into<String>) -> Self {
        self.related.push((place, what.into()));
        self
    }
}

/// All errors of a workspace's workfiles, and the files they are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The files as they were read.
    pub files: Vec<SourceFile>,
    /// The errors, by place.
    pub errors: Vec<WorkfileError>,
}

/// Why a workspace cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No workfile from there upwards.
    #[error("find a `quipu.toml` in `{}` or in a folder above it", .0.display())]
    NotFound(PathBuf),
    /// The workfile cannot be read.
    #[error("read `{}`: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A param that was given and is none.
    #[error("{message}")]
    Given {
        /// What is wrong.
        message: String,
        /// A way on.
        hint: Option<String>,
    },
    /// The workfiles have errors.
    #[error("{0}")]
    Faults(Box<Faults>),
}

impl std::error::Error for Faults {}

impl Faults {
    /// Errors by place, each once.
    pub(crate) fn new(files: Vec<SourceFile>, mut errors: Vec<WorkfileError>) -> Self {
        errors.sort_by(|a, b| (a.place, a.kind, &a.message).cmp(&(b.place, b.kind, &b.message)));
        errors.dedup_by(|b, a| a.place == b.place && a.kind == b.kind && a.message == b.message);
        Self { files, errors }
    }

    /// Path, line and column (in characters, from 1) where `place` starts.
    pub fn locate(&self, place: Place) -> (&str, usize, usize) {
        locate(&self.files, place)
    }

    /// The errors with the source lines they are about, for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(if colour { DecorStyle::Unicode } else { DecorStyle::Ascii });
        let mut out = String::new();
        for error in self.errors.iter().take(MAX_SHOWN) {
            let groups = [self.group(error)];
            out.push_str(&renderer.render(&groups));
            out.push_str("\n\n");
        }
        self.write_rest(&mut out).expect("writing to a string does not fail");
        out
    }

    fn group<'a>(&'a self, error: &'a WorkfileError) -> Group<'a> {
        let mut group = Level::ERROR.primary_title(clean(&error.message)).elements(self.snippet(error.place, None));
        for (place, what) in &error.related {
            group = group.elements(self.snippet(*place, Some(what)));
        }
        for hint in &error.hints {
            group = group.element(Level::HELP.message(clean(hint)));
        }
        group
    }

    /// The lines around a place only: files may be large, and errors many.
    fn snippet<'a>(
        &'a self,
        place: Place,
        what: Option<&'a str>,
    ) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let file = self.files.get(place.file as usize)?;
        let (line, _, start_of_line) = position(&file.text, place.start as usize);
        let start = (place.start as usize).min(file.text.len()) - start_of_line;
        let lines = &file.text[start_of_line..];
        let end_of_line = lines.find('\n').unwrap_or(lines.len());
        let end = (place.end as usize - start_of_line).clamp(start, end_of_line.max(start));
        let kind = if what.is_none() { AnnotationKind::Primary } else { AnnotationKind::Context };
        let mut annotation = kind.span(start..end);
        if let Some(what) = what {
            annotation = annotation.label(clean(what));
        }
        Some(Snippet::source(&lines[..end_of_line]).line_start(line).path(&file.path).annotation(annotation))
    }

    fn write_rest(&self, out: &mut impl fmt::Write) -> fmt::Result {
        match self.errors.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => writeln!(out, "and {more} more errors"),
        }
    }
}

impl fmt::Display for Faults {
    /// The plain form: one line an error, and a line for each hint and each related place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in self.errors.iter().take(MAX_SHOWN) {
            let (path, line, column) = self.locate(error.place);
            writeln!(f, "{path}:{line}:{column}: {}", clean(&error.message))?;
            for (place, what) in &error.related {
                let (path, line, column) = self.locate(*place);
                writeln!(f, "  {path}:{line}:{column}: {}", clean(what))?;
            }
            for hint in &error.hints {
                writeln!(f, "  help: {}", clean(hint))?;
            }
        }
        self.write_rest(f)
    }
}

/// Path, line and column (in characters, from 1) where `place` starts.
pub(super) fn locate(files: &[SourceFile], place: Place) -> (&str, usize, usize) {
    files.get(place.file as usize).map_or(("?", 1, 1), |file| {
        let (line, column, _) = position(&file.text, place.start as usize);
        (&file.path, line, column)
    })
}

/// Line and column from 1, and where the line starts.
fn position(text: &str, at: usize) -> (usize, usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.bytes().filter(|b| *b == b'\n').count() + 1, before[start..].chars().count() + 1, start)
}

/// Text from a file, without what a terminal would act on.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            write!(out, "{}", c.escape_default()).expect("writing to a string does not fail");
        } else {
            out.push(c);
        }
    }
    out
}

/// Those of `names` that `typed` may have been meant to be, nearest first, at most three, as a hint.
pub(crate) fn near<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let typed: Vec<char> = typed.chars().take(64).collect();
    if typed.len() < 2 {
        return None;
    }
    let limit = (typed.len() / 3).clamp(1, 4);
    let mut found: Vec<(usize, &str)> = vec![];
    for name in names {
        let distance = distance(&typed, name, limit);
        if distance <= limit && !found.contains(&(distance, name)) {
            found.push((distance, name));
            found.sort_unstable();
            found.truncate(3);
        }
    }
    let best = found.first()?.0;
    let names: Vec<String> = found.iter().filter(|f| f.0 <= best + 1).map(|f| format!("`{}`", f.1)).collect();
    Some(format!("did you mean {}?", names.join(" or ")))
}

/// How many letters to insert, delete, replace or swap with their neighbour; more than `limit` is `limit + 1`.
fn distance(a: &[char], b: &str, limit: usize) -> usize {
    let b: Vec<char> = b.chars().take(a.len() + limit + 1).collect();
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut two: Vec<usize> = vec![];
    let mut one: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut d = (one[j] + 1).min(row[j - 1] + 1).min(one[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d = d.min(two[j - 2] + 1);
            }
            row.push(d);
        }
        two = std::mem::replace(&mut one, row);
    }
    one[b.len()].min(limit + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["compile", "link", "test", "compile-all"];
        assert_eq!(near("compil", names).as_deref(), Some("did you mean `compile`?"));
        assert_eq!(near("tset", names).as_deref(), Some("did you mean `test`?"));
        assert_eq!(near("deploy", names), None);
        assert_eq!(near("", names), None);
    }

    fn faults(text: &str, start: u32, end: u32) -> Faults {
        let files = vec![SourceFile { path: "quipu.toml".into(), text: text.into() }];
        let place = Place { file: 0, start, end };
        let error =
            WorkfileError::new(ErrorKind::UnknownTask, place, "task `link` needs `compil`, which is not defined");
        Faults::new(files, vec![error.hint("did you mean `compile`?").see(Place { file: 0, start: 0, end: 3 }, "here")])
    }

    #[test]
    fn the_plain_form_counts_characters_from_one() {
        assert_eq!(
            faults("\u{e9} = 1\n\u{fc} = \"compil\"\n", 12, 18).to_string(),
            "quipu.toml:2:5: task `link` needs `compil`, which is not defined\n  quipu.toml:1:1: here\n  help: did you mean `compile`?\n"
        );
    }

    #[test]
    fn the_long_form_shows_source_lines_hint_and_related_places() {
        let shown = faults("[a]\nneeds = [\"compil\"]\n", 13, 21).render(false);
        for part in
            ["error: task `link` needs", "quipu.toml:2:10", "needs = [\"compil\"]", "^^^^^^^^", "did you mean", "here"]
        {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
    }

    #[test]
    fn places_beyond_the_text_and_control_characters_do_no_harm() {
        let shown = faults("a\u{1b}[31m", 900, 901);
        assert!(!shown.to_string().is_empty() && !shown.render(false).contains('\u{1b}'));
        assert_eq!(clean("a\u{1b}\n\u{202e}b"), "a\\u{1b}\\n\\u{202e}b");
    }
}
