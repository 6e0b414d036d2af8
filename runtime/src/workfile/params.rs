//! Params: values of a run that people give, with types, and where each came from.
//!
//! Knows one param at a time; unaware of where its value is used (see [`super::vars`]).

use std::collections::BTreeMap;

use regex_automata::meta::Regex;

use super::braces;
use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::model::{ParamKind, ParamTable, Str};
use super::vars::is_name;
use crate::process::Tier;
use crate::value::Text;

/// Most words of one list.
const MAX_WORDS: usize = 10_000;
/// Largest automaton of one pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// What of outside the workfiles decides what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Values by name, in the order they were said (`--set name=value`).
    pub set: Vec<(String, String)>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// Operating system and processor; empty is this machine's.
    pub platform: Option<(Text, Text)>,
    /// How tasks are isolated when neither they nor the workspace say.
    pub tier: Option<Tier>,
}

impl Given {
    /// Operating system and processor.
    pub fn platform(&self) -> (Text, Text) {
        let here = || (std::env::consts::OS.into(), std::env::consts::ARCH.into());
        self.platform.clone().unwrap_or_else(here)
    }
}

/// A param, and what it is in this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: Text,
    /// What it takes.
    pub kind: ParamKind,
    /// For people.
    pub description: Option<Text>,
    /// What it is when nobody says.
    pub default: Option<Text>,
    /// What each value must be of.
    pub pattern: Option<Text>,
    /// What values there are; none is any.
    pub choices: Vec<Text>,
    /// The variable that may say it.
    pub from_env: Option<Text>,
    /// What to do instead, when it should not be used any more.
    pub deprecated: Option<Text>,
    /// What it is; `None` when somebody must say and nobody did.
    pub value: Option<Text>,
}

/// A param as a workfile has it, settled. Says in `warnings` what a person should know.
pub(super) fn settle(
    table: &ParamTable<'_>,
    given: &Given,
    warnings: &mut Vec<String>,
    errors: &mut Vec<WorkfileError>,
) -> Param {
    let name = &*table.name.text;
    let mut bad = |kind, place, message: String, hint: &str| {
        let error = WorkfileError::new(kind, place, message);
        errors.push(if hint.is_empty() { error } else { error.hint(hint) });
    };
    if !is_name(name) {
        let message = format!("`{name}` cannot name a param");
        bad(ErrorKind::BadName, table.name.place, message, "a letter or `_`, then letters, digits, `_` and `-`");
    }
    if table.required == Some(true) && table.default.is_some() {
        let message = format!("param `{name}` is `required` and has a `default`");
        bad(ErrorKind::BadValue, table.name.place, message, "one of them is never used");
    }
    let regex = table.pattern.as_ref().and_then(|pattern| match regex(&pattern.text) {
        Ok(regex) => Some(regex),
        Err(why) => {
            bad(ErrorKind::BadValue, pattern.place, format!("`pattern` of param `{name}` {why}"), "");
            None
        }
    });
    let check = |values: &[String]| check(table, regex.as_ref(), values);
    let default = match &table.default {
        Some(texts) => {
            let values: Vec<String> = texts.iter().map(|t| t.text.to_string()).collect();
            if let Err((why, hint)) = check(&values) {
                let place = texts.first().map_or(table.name.place, |t| t.place);
                bad(ErrorKind::BadValue, place, format!("`default` of param `{name}` is {why}"), &hint);
            }
            Some(join(table.kind, &values))
        }
        None => (table.required == Some(false)).then(|| join(table.kind, &[])),
    };
    let said: Vec<&str> = given.set.iter().filter(|(n, _)| n == name).map(|(_, value)| &**value).collect();
    let env = table.from_env.as_ref().and_then(|var| Some((&var.text, given.env.get(&*var.text)?)));
    let (origin, texts) = match (said.last(), env) {
        (Some(_), _) if table.kind == ParamKind::List => (Some("--set".to_owned()), said),
        (Some(last), _) => (Some("--set".to_owned()), vec![*last]),
        (None, Some((var, value))) => (Some(format!("`{var}` of the environment")), vec![value.as_str()]),
        (None, None) => (None, vec![]),
    };
    let mut value = default.clone();
    if let Some(origin) = origin {
        if let Some(instead) = &table.deprecated {
            warnings.push(format!("param `{name}`, given by {origin}, is deprecated: {}", instead.text));
        }
        match read(table.kind, &texts) {
            Err(why) => {
                bad(ErrorKind::BadValue, table.name.place, format!("param `{name}`, given by {origin}, {why}"), "");
            }
            Ok(values) => {
                if let Err((why, hint)) = check(&values) {
                    let message = format!("param `{name}`, given by {origin}, is {why}");
                    bad(ErrorKind::BadValue, table.name.place, message, &hint);
                }
                value = Some(join(table.kind, &values));
            }
        }
    }
    let text = |text: &Option<Str<'_>>| text.as_ref().map(|t| Text::from(&*t.text));
    Param {
        name: name.into(),
        kind: table.kind,
        description: text(&table.description),
        default,
        pattern: text(&table.pattern),
        choices: table.choices.iter().map(|t| Text::from(&*t.text)).collect(),
        from_env: text(&table.from_env),
        deprecated: text(&table.deprecated),
        value,
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let config = Regex::config().nfa_size_limit(Some(MAX_PATTERN_BYTES)).onepass_size_limit(Some(MAX_PATTERN_BYTES));
    // All of a value must be of it.
    Regex::builder().configure(config).build(&format!("^(?:{pattern})$")).map_err(|error| match error.size_limit() {
        Some(_) => "is too large".to_owned(),
        None => "is no regular expression".to_owned(),
    })
}

/// The values that texts from outside are.
fn read(kind: ParamKind, texts: &[&str]) -> Result<Vec<String>, String> {
    if let Some(text) = texts.iter().find(|text| text.contains('\0') || text.len() > 1 << 16) {
        return Err(format!("has {} bytes or a NUL character", text.len()));
    }
    if kind != ParamKind::List {
        return Ok(texts.iter().map(|text| (*text).to_owned()).collect());
    }
    let mut values = vec![];
    for text in texts {
        values.extend(braces::words(text, MAX_WORDS).map_err(|why| why.to_string())?);
    }
    Ok(values)
}

/// Whether values are of the type, of the choices and of the pattern; else what they are, and a way on.
fn check(table: &ParamTable<'_>, regex: Option<&Regex>, values: &[String]) -> Result<(), (String, String)> {
    for value in values {
        let shown: String = value.chars().take(60).collect();
        match table.kind {
            ParamKind::Int if value.parse::<i64>().is_err() => {
                return Err((format!("`{shown}`, which is no integer"), String::new()));
            }
            ParamKind::Bool if value != "true" && value != "false" => {
                return Err((format!("`{shown}`, which is neither `true` nor `false`"), String::new()));
            }
            _ => {}
        }
        if !table.choices.is_empty() && !table.choices.iter().any(|choice| choice.text == *value) {
            let all: Vec<&str> = table.choices.iter().map(|c| &*c.text).collect();
            let hint = near(value, all.iter().copied()).unwrap_or_else(|| format!("one of `{}`", all.join("`, `")));
            return Err((format!("`{shown}`, which is none of its choices"), hint));
        }
        if let (Some(regex), Some(pattern)) = (regex, &table.pattern)
            && !regex.is_match(value)
        {
            return Err((
                format!("`{shown}`, which is not of its pattern"),
                format!("values are of `{}`", pattern.text),
            ));
        }
    }
    Ok(())
}

/// The text that stands for values: words of a list as a shell reads them.
fn join(kind: ParamKind, values: &[String]) -> Text {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=+@%,".contains(c);
    let word = |value: &String| match kind {
        ParamKind::List if value.is_empty() || !value.chars().all(plain) => {
            format!("'{}'", value.replace('\'', "'\\''"))
        }
        _ => value.clone(),
    };
    match (kind, values) {
        (ParamKind::Bool, []) => "false".into(),
        _ => values.iter().map(word).collect::<Vec<_>>().join(" ").into(),
    }
}

/// Names that were given and are none.
pub(super) fn unknown(given: &Given, known: &std::collections::BTreeSet<Text>) -> Option<(String, Option<String>)> {
    let (name, _) = given.set.iter().find(|(name, _)| !known.contains(name.as_str()))?;
    let hint = near(name, known.iter().map(|n| &**n));
    let hint = hint.or_else(|| {
        let all: Vec<&str> = known.iter().take(10).map(|n| &**n).collect();
        Some(if all.is_empty() {
            "no workfile here has params".into()
        } else {
            format!("there are `{}`", all.join("`, `"))
        })
    });
    Some((format!("`--set {name}=...`, but there is no param `{name}`"), hint))
}

/// A place of a param that a task cannot do without.
pub(crate) type Lack = (Text, Place);
