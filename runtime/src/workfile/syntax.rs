//! The TOML parser's own errors, located and in our words.
//!
//! Knows TOML; unaware of what a workfile is.

use toml::de::{DeTable, Error};

use super::errors::{ErrorKind, MAX_SHOWN, Place, WorkfileError};

/// Above this size only the first syntax error is reported: each of them is held in memory.
const RECOVER_BYTES: usize = 1 << 20;

/// The table of `text`, as far as it can be read, and what is wrong with its syntax.
pub(super) fn table(file: u32, text: &str) -> (DeTable<'_>, Vec<WorkfileError>) {
    match DeTable::parse(text) {
        Ok(table) => (table.into_inner(), vec![]),
        Err(first) if text.len() > RECOVER_BYTES => (DeTable::new(), located(file, text, &[first])),
        Err(_) => {
            let (table, errors) = DeTable::parse_recoverable(text);
            (table.into_inner(), located(file, text, &errors))
        }
    }
}

fn located(file: u32, text: &str, errors: &[Error]) -> Vec<WorkfileError> {
    let mut out: Vec<WorkfileError> = vec![];
    let mut repeated_header = None;
    // Finding the first of two costs a look over the text, so it is not done without end.
    for error in errors.iter().take(2 * MAX_SHOWN) {
        let span = error.span().unwrap_or(0..0);
        let (start, end) = (span.start.min(text.len()), span.end.min(text.len()));
        let place = Place { file, start: start as u32, end: end.max(start) as u32 };
        if error.message() != "duplicate key" {
            // One slip often trips the parser several times on its line.
            let same_line = out.last().is_some_and(|o: &WorkfileError| {
                o.kind == ErrorKind::Syntax
                    && text.get(o.place.start as usize..start).is_some_and(|between| !between.contains('\n'))
            });
            if !same_line {
                out.push(WorkfileError::new(ErrorKind::Syntax, place, format!("invalid TOML: {}", error.message())));
            }
            continue;
        }
        let line_start = text[..floor(text, start)].rfind('\n').map_or(0, |i| i + 1);
        let line = line_of(text, line_start);
        let header = line.trim_start().starts_with('[');
        if !header && repeated_header.is_some() && repeated_header == header_above(text, line_start) {
            continue;
        }
        if header {
            repeated_header = Some(line_start);
        }
        let name = text.get(start..end).unwrap_or_default();
        let what = if header { format!("table `{}`", bare(line)) } else { format!("key `{name}`") };
        let mut found = WorkfileError::new(ErrorKind::Duplicate, place, format!("{what} is defined twice"));
        let from = if header { 0 } else { header_above(text, line_start).unwrap_or(0) };
        let mut at = from;
        for earlier in text[from..line_start].split_inclusive('\n') {
            let trimmed = earlier.trim_start();
            let same = if header {
                trimmed.starts_with('[') && bare(trimmed) == bare(line)
            } else {
                trimmed.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
            };
            if same {
                let start = at + earlier.len() - trimmed.len();
                let len = if header { trimmed.trim_end().len() } else { name.len() };
                let first = Place { file, start: start as u32, end: (start + len) as u32 };
                found = found.see(first, "first defined here");
                break;
            }
            at += earlier.len();
        }
        out.push(found);
    }
    out
}

/// Where the last line before `at` that opens a table starts.
fn header_above(text: &str, at: usize) -> Option<usize> {
    let mut end = at;
    while end > 0 {
        let start = text[..end - 1].rfind('\n').map_or(0, |i| i + 1);
        if text[start..end].trim_start().starts_with('[') {
            return Some(start);
        }
        end = start;
    }
    None
}

fn line_of(text: &str, start: usize) -> &str {
    text[start..].lines().next().unwrap_or_default()
}

/// A header without its brackets, blanks and comment.
fn bare(header: &str) -> &str {
    header.split(']').next().unwrap_or_default().trim_matches(['[', ' ', '\t', '\r', '\n'])
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
