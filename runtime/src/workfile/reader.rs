//! Typed values out of a table of TOML, with an error for each value that is of another type.
//!
//! Knows types; unaware of which keys there are (see [`super::parse`]).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::model::Str;
use crate::process::Tier;

/// What other tools call our keys.
pub(super) const ALIASES: [(&str, &str); 20] = [
    ("cmd", "run"),
    ("cmds", "steps"),
    ("command", "run"),
    ("commands", "steps"),
    ("script", "run"),
    ("exec", "run"),
    ("deps", "needs"),
    ("depends", "needs"),
    ("depends_on", "needs"),
    ("dependsOn", "needs"),
    ("dependencies", "needs"),
    ("environment", "env"),
    ("cwd", "dir"),
    ("workdir", "dir"),
    ("directory", "dir"),
    ("sources", "inputs"),
    ("srcs", "inputs"),
    ("generates", "outputs"),
    ("artifacts", "outputs"),
    ("desc", "description"),
];

/// Most keys that are listed to somebody who typed another.
const MAX_LISTED: usize = 12;

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// Whose keys are read, for messages.
#[derive(Clone, Copy)]
pub(super) enum Owner<'o> {
    File,
    Workspace,
    Member,
    Vars,
    Task(&'o str),
    Template(&'o str),
    Param(&'o str),
    Include,
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("a workfile"),
            Self::Workspace => f.write_str("`[workspace]`"),
            Self::Member => f.write_str("`[member]`"),
            Self::Vars => f.write_str("`[vars]`"),
            Self::Task(name) => write!(f, "task `{name}`"),
            Self::Template(name) => write!(f, "template `{name}`"),
            Self::Param(name) => write!(f, "param `{name}`"),
            Self::Include => f.write_str("an entry of `include`"),
        }
    }
}

/// Reads values of one file, and keeps what is wrong with them.
pub(super) struct Reader {
    pub(super) file: u32,
    pub(super) errors: Vec<WorkfileError>,
}

impl Reader {
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file, start: span.start as u32, end: span.end as u32 }
    }

    pub(super) fn error(&mut self, kind: ErrorKind, place: Place, message: String) -> &mut WorkfileError {
        self.errors.push(WorkfileError::new(kind, place, message));
        self.errors.last_mut().expect("just pushed")
    }

    pub(super) fn wrong(&mut self, owner: Owner<'_>, key: &str, takes: &str, found: &Value<'_>) {
        let place = self.place(found.span());
        let message = format!("`{key}` of {owner} takes {takes}, found {}", describe(found.get_ref()));
        self.error(ErrorKind::Type, place, message);
    }

    pub(super) fn unknown(&mut self, owner: Owner<'_>, key: &Str<'_>, known: &[&'static str]) {
        let alias = ALIASES.iter().find(|(a, to)| *a == key.text && known.contains(to));
        let hint =
            alias.map(|(_, to)| format!("did you mean `{to}`?")).or_else(|| near(&key.text, known.iter().copied()));
        let hint = hint.unwrap_or_else(|| match known.len() {
            0..=MAX_LISTED => format!("known keys are {}", list(known)),
            _ => "`quipu schema` has all its keys".to_owned(),
        });
        let message = format!("{owner} has no key `{}`", key.text);
        self.error(ErrorKind::UnknownKey, key.place, message).hints.push(hint);
    }

    pub(super) fn key<'a>(&self, key: Spanned<Cow<'a, str>>) -> Str<'a> {
        let place = self.place(key.span());
        Str { text: key.into_inner(), place }
    }

    pub(super) fn table<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<DeTable<'a>> {
        if matches!(value.get_ref(), DeValue::Table(_)) {
            let DeValue::Table(table) = value.into_inner() else { return None };
            return Some(table);
        }
        self.wrong(owner, key, "a table", &value);
        None
    }

    pub(super) fn list<'a>(
        &mut self,
        owner: Owner<'_>,
        key: &str,
        takes: &str,
        value: Value<'a>,
    ) -> Option<Vec<Value<'a>>> {
        if matches!(value.get_ref(), DeValue::Array(_)) {
            let DeValue::Array(array) = value.into_inner() else { return None };
            return Some(array.into_iter().collect());
        }
        self.wrong(owner, key, takes, &value);
        if matches!(value.get_ref(), DeValue::String(_)) {
            let hint = "put it in brackets: `[\"...\"]`".to_owned();
            self.errors.last_mut().expect("just pushed").hints.push(hint);
        }
        None
    }

    pub(super) fn text<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Str<'a>> {
        self.text_as(owner, key, "a string", value)
    }

    pub(super) fn text_as<'a>(
        &mut self,
        owner: Owner<'_>,
        key: &str,
        takes: &str,
        value: Value<'a>,
    ) -> Option<Str<'a>> {
        let place = self.place(value.span());
        match value.get_ref() {
            DeValue::String(text) if text.contains('\0') => {
                let message = format!("`{key}` of {owner} has a NUL character in it");
                self.error(ErrorKind::BadValue, place, message);
                None
            }
            DeValue::String(_) => {
                let DeValue::String(text) = value.into_inner() else { return None };
                Some(Str { text, place })
            }
            _ => {
                self.wrong(owner, key, takes, &value);
                None
            }
        }
    }

    /// A string, or an integer as its decimal text.
    pub(super) fn scalar<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Str<'a>> {
        let place = self.place(value.span());
        match value.get_ref() {
            DeValue::Integer(n) => {
                let parsed = i64::from_str_radix(n.as_str(), n.radix());
                if parsed.is_err() {
                    self.error(ErrorKind::BadValue, place, format!("`{key}` of {owner} does not fit 64 bits"));
                }
                parsed.ok().map(|n| Str { text: n.to_string().into(), place })
            }
            DeValue::Boolean(_) => {
                self.wrong(owner, key, "a string or an integer", &value);
                let hint = "put it in quotes".to_owned();
                self.errors.last_mut().expect("just pushed").hints.push(hint);
                None
            }
            _ => self.text_as(owner, key, "a string or an integer", value),
        }
    }

    pub(super) fn texts<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Vec<Str<'a>>> {
        let takes = "a list of strings";
        let items = self.list(owner, key, takes, value)?;
        Some(items.into_iter().filter_map(|item| self.text_as(owner, key, takes, item)).collect())
    }

    pub(super) fn text_or_texts<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Vec<Str<'a>>> {
        match value.get_ref() {
            DeValue::String(_) => self.text(owner, key, value).map(|text| vec![text]),
            _ => self.texts(owner, key, value),
        }
    }

    pub(super) fn bool(&mut self, owner: Owner<'_>, key: &str, value: Value<'_>) -> Option<bool> {
        if let DeValue::Boolean(b) = value.get_ref() {
            return Some(*b);
        }
        self.wrong(owner, key, "`true` or `false`", &value);
        None
    }

    pub(super) fn int(
        &mut self,
        owner: Owner<'_>,
        key: &str,
        value: &Value<'_>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let DeValue::Integer(n) = value.get_ref() else {
            self.wrong(owner, key, "an integer", value);
            return None;
        };
        let parsed = i64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| range.contains(n));
        if parsed.is_none() {
            let place = self.place(value.span());
            let message = format!("`{key}` of {owner} is {n}; it goes from {} to {}", range.start(), range.end());
            self.error(ErrorKind::BadValue, place, message);
        }
        parsed
    }

    pub(super) fn duration(&mut self, owner: Owner<'_>, key: &str, value: Value<'_>) -> Option<Duration> {
        let place = self.place(value.span());
        let parsed = match value.get_ref() {
            DeValue::Integer(n) => duration::parse(&format!("{n}s")),
            DeValue::String(text) => duration::parse(text),
            _ => {
                self.wrong(owner, key, "a duration", &value);
                return None;
            }
        };
        parsed
            .map_err(|why| {
                let message = format!("`{key}` of {owner} is no duration: {why}");
                let error = self.error(ErrorKind::BadValue, place, message);
                error.hints.push("write `\"10s\"`, `\"1h30m\"`, or a number of seconds".into());
            })
            .ok()
    }

    pub(super) fn tier(&mut self, owner: Owner<'_>, value: Value<'_>) -> Option<Tier> {
        let text = self.text(owner, "sandbox", value)?;
        let tier = Tier::from_name(&text.text);
        if tier.is_none() {
            let message = format!("`sandbox` of {owner} is `{}`, which is no kind of isolation", text.text);
            let hint = "one of `ns`, `landlock`, `none`".to_owned();
            self.error(ErrorKind::BadValue, text.place, message).hints.push(hint);
        }
        tier
    }
}

pub(super) fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
