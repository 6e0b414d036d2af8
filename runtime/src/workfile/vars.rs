//! `{{name}}` in texts: values of `[vars]`, params and a matrix, put in as they are.
//!
//! Unaware of what the texts are for.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use rustc_hash::{FxHashMap, FxHashSet};

use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::model::Str;
use super::params::{Lack, Param};
use crate::value::{Branch, Text};

/// Longest text after substitution, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Bytes that all substitutions of a workspace may make.
const MAX_TOTAL_BYTES: usize = 256 << 20;

/// How deep variables may build on one another.
const MAX_ROUNDS: usize = 64;

/// Values by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    values: FxHashMap<Text, Text>,
    /// Those that only stand there because nobody gave a param, and that param.
    missing: FxHashMap<Text, Text>,
}

impl Names {
    /// Gives a name a value.
    pub(crate) fn set(&mut self, name: &str, value: Text) {
        self.missing.remove(name);
        self.values.insert(name.into(), value);
    }

    /// Adds a param; one without value gets a text that shows what is missing.
    pub(crate) fn param(&mut self, param: &Param) {
        match &param.value {
            Some(value) => self.set(&param.name, value.clone()),
            None => {
                self.values.insert(param.name.clone(), format!("<{}>", param.name).into());
                self.missing.insert(param.name.clone(), param.name.clone());
            }
        }
    }

    fn remove(&mut self, name: &str) {
        self.values.remove(name);
        self.missing.remove(name);
    }
}

/// What names stand for at one place.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    /// The file's variables and params, and those of what it belongs to.
    pub(crate) names: &'s Names,
    /// The variant's values, which hide the others.
    pub(crate) variant: &'s [(Text, Text)],
    /// Bytes made so far.
    pub(crate) made_bytes: &'s Cell<usize>,
    /// Params that were used and that nobody gave.
    pub(crate) lacks: &'s RefCell<Vec<Lack>>,
}

impl Scope<'_> {
    /// The text with every `{{name}}` replaced; `None` when something in it is wrong, which is then in `errors`.
    pub(crate) fn expand<'t>(&self, text: &'t Str<'_>, errors: &mut Vec<WorkfileError>) -> Option<Cow<'t, str>> {
        self.replace(text, false, errors)
    }

    /// The same for a text in which braces mean more: only what can be a name is one.
    pub(crate) fn expand_names<'t>(&self, text: &'t Str<'_>, errors: &mut Vec<WorkfileError>) -> Option<Cow<'t, str>> {
        self.replace(text, true, errors)
    }

    fn replace<'t>(
        &self,
        text: &'t Str<'_>,
        only_names: bool,
        errors: &mut Vec<WorkfileError>,
    ) -> Option<Cow<'t, str>> {
        if !text.text.contains("{{") {
            return Some(Cow::Borrowed(&text.text));
        }
        let mut good = true;
        let mut out = String::with_capacity(text.text.len() + 32);
        let mut rest = &*text.text;
        while let Some(open) = rest.find("{{") {
            out.push_str(&rest[..open]);
            if only_names {
                let name = rest[open + 2..].split_once("}}").map(|(name, _)| name.trim());
                if !name.is_some_and(is_name) {
                    out.push('{');
                    rest = &rest[open + 1..];
                    continue;
                }
            } else if let Some(tail) = rest[open..].strip_prefix("{{{{") {
                out.push_str("{{");
                rest = tail;
                continue;
            }
            let inner = &rest[open + 2..];
            let at = text.text.len() - inner.len();
            let Some(close) = inner.find("}}") else {
                let place = part(text, at - 2, at);
                let error = WorkfileError::new(ErrorKind::Variable, place, "`{{` is never closed");
                errors.push(error.hint("write `{{{{` for two braces as they are"));
                return None;
            };
            let name = inner[..close].trim();
            match self.find(name) {
                _ if let Some((task, of)) = printed_by(name) => {
                    out.extend([PRINTED, task, of, PRINTED]);
                }
                Some(value) => {
                    out.push_str(value);
                    self.note(name, text.place);
                }
                None => {
                    good = false;
                    errors.push(self.unknown(name, part(text, at - 2, at + close + 2)));
                }
            }
            rest = &inner[close + 2..];
            if out.len() > MAX_TEXT_BYTES {
                let message = format!("this text has more than {MAX_TEXT_BYTES} bytes with its variables");
                errors.push(WorkfileError::new(ErrorKind::TooLarge, text.place, message));
                return None;
            }
        }
        out.push_str(rest);
        let before = self.made_bytes.get();
        self.made_bytes.set(before.saturating_add(out.len()));
        if self.made_bytes.get() > MAX_TOTAL_BYTES {
            if before <= MAX_TOTAL_BYTES {
                let message = format!("with this text, variables make more than {MAX_TOTAL_BYTES} bytes in all");
                errors.push(WorkfileError::new(ErrorKind::TooLarge, text.place, message));
            }
            return None;
        }
        good.then_some(Cow::Owned(out))
    }

    /// What a name stands for.
    pub(crate) fn find(&self, name: &str) -> Option<&Text> {
        self.variant.iter().find(|(n, _)| **n == *name).map(|(_, v)| v).or_else(|| self.names.values.get(name))
    }

    /// Remembers that a name was used, if nobody gave its param.
    pub(crate) fn note(&self, name: &str, place: Place) {
        if let Some(param) = self.names.missing.get(name)
            && !self.variant.iter().any(|(n, _)| **n == *name)
        {
            self.lacks.borrow_mut().push((param.clone(), place));
        }
    }

    /// All names there are.
    pub(crate) fn known(&self) -> impl Iterator<Item = &str> {
        self.variant.iter().map(|(n, _)| &**n).chain(self.names.values.keys().map(|n| &**n))
    }

    fn unknown(&self, name: &str, place: Place) -> WorkfileError {
        let error = WorkfileError::new(ErrorKind::Variable, place, format!("variable `{name}` is not defined"));
        if !is_name(name) {
            return error.hint("write `{{{{` for two braces as they are");
        }
        let hint = near(name, self.known());
        error.hint(hint.unwrap_or_else(|| format!("define it: `{name} = \"...\"` below `[vars]`, or as a matrix list")))
    }
}

/// What stands around the selector of a task in place of what it will print: no text of a workfile has one.
const PRINTED: &str = "\0";

/// What stands behind the selector of a task that is awaited for more than what it prints.
const ERROR: &str = "\u{1}error";
/// The same for either outcome.
const RESULT: &str = "\u{1}result";

/// The task in `needs.TASK.stdout`, `needs.TASK.error` or `needs.TASK.result`, with what is taken of it.
fn printed_by(name: &str) -> Option<(&str, &'static str)> {
    let name = name.strip_prefix("needs.")?;
    let of = [(".stdout", ""), (".error", ERROR), (".result", RESULT)];
    let (task, of) = of.into_iter().find_map(|(end, of)| Some((name.strip_suffix(end)?, of)))?;
    (!task.is_empty()).then_some((task, of))
}

/// The selector of what stands between the parts of a text, and which outcome of the task it takes.
pub(crate) fn of(part: &str) -> (&str, Branch) {
    let of = [(ERROR, Branch::Error), (RESULT, Branch::Any)];
    of.into_iter().find_map(|(end, of)| Some((part.strip_suffix(end)?, of))).unwrap_or((part, Branch::Ok))
}

/// Whether a text holds what a task will print, so that it is not known yet.
pub(crate) fn is_promised(text: &str) -> bool {
    text.contains(PRINTED)
}

/// A text in parts: as they are written at even places, selectors of the tasks that will print them at odd ones.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(PRINTED)
}

/// Whether a text can name a variable or a matrix list.
pub(crate) fn is_name(name: &str) -> bool {
    let mut chars = name.bytes();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
}

/// Variables on top of the names of a scope. They may use one another in any order.
pub(crate) fn resolve(vars: &[(Str<'_>, Str<'_>)], above: Scope<'_>, errors: &mut Vec<WorkfileError>) -> Names {
    let mut out = above.names.clone();
    // A name that is set here never means what is above, even while its own value is not known yet.
    vars.iter().for_each(|(name, _)| out.remove(&name.text));
    let mut left: Vec<&(Str<'_>, Str<'_>)> = vec![];
    for var in vars {
        if is_name(&var.0.text) {
            left.push(var);
        } else {
            let message = format!("`{}` cannot name a variable", var.0.text);
            let error = WorkfileError::new(ErrorKind::BadName, var.0.place, message);
            errors.push(error.hint("a letter or `_`, then letters, digits, `_` and `-`"));
        }
    }
    // Each round settles those that use no unsettled one.
    for _ in 0..MAX_ROUNDS {
        let names: FxHashSet<&str> = left.iter().map(|(name, _)| &*name.text).collect();
        let (ready, rest): (Vec<_>, Vec<_>) =
            left.iter().copied().partition(|(_, value)| !used(&value.text).any(|name| names.contains(name)));
        for (name, value) in &ready {
            let lacks = RefCell::default();
            let scope = Scope { names: &out, lacks: &lacks, ..above };
            // A value with an error counts as empty, so that its uses are no errors of their own.
            let value: Text = scope.expand(value, errors).unwrap_or_default().as_ref().into();
            out.set(&name.text, value);
            // What is made of something missing is missing too.
            if let Some((param, _)) = lacks.into_inner().pop() {
                out.missing.insert((*name.text).into(), param);
            }
        }
        left = rest;
        if ready.is_empty() || left.is_empty() {
            break;
        }
    }
    for (name, _) in left {
        let message = format!("variable `{}` stands for itself, at once or by way of others", name.text);
        errors.push(WorkfileError::new(ErrorKind::Variable, name.place, message));
        out.set(&name.text, "".into());
    }
    out
}

/// The names a text uses; more where it has escaped braces.
pub(crate) fn used(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.trim())
}

/// The place of bytes `from..to` of a text, when its source has no escapes; the whole text's otherwise.
pub(crate) fn part(text: &Str<'_>, from: usize, to: usize) -> Place {
    let Place { file, start, end } = text.place;
    if (end - start) as usize != text.text.len() + 2 {
        return text.place;
    }
    Place { file, start: start + 1 + from as u32, end: start + 1 + to as u32 }
}
