//! The table of one task or template, out of TOML.
//!
//! Knows shapes; what values mean is for [`super::lower`].

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{ErrorKind, near};
use super::model::{Awaited, Axis, Output, Run, Str, TaskTable};
use super::reader::{ALIASES, Owner, Reader, Value};
use crate::value::{Branch, Text};

/// Most times a task is tried again.
const MAX_RETRIES: i64 = 100;
/// Most slots a task takes.
const MAX_SLOTS: i64 = 65_535;

/// Keys of `[task.X]` and of `[template.X]`.
pub(super) const TASK_KEYS: [&str; 41] = [
    "extends",
    "when",
    "vars",
    "params",
    "description",
    "tags",
    "run",
    "steps",
    "worker",
    "fetch",
    "wait",
    "service",
    "external",
    "await",
    "inputs",
    "outputs",
    "publish",
    "needs",
    "after",
    "env",
    "pass-env",
    "secret-env",
    "env-file",
    "dir",
    "stdin",
    "stdout",
    "depfile",
    "tools",
    "matrix",
    "versions",
    "only",
    "exclude",
    "timeout",
    "retries",
    "backoff",
    "cache",
    "slots",
    "shell",
    "sandbox",
    "network",
    "mute",
];
/// Keys of `await`.
const AWAIT_KEYS: [&str; 3] = ["ok", "error", "any"];
/// Keys for which `false` is a value, and does not take away what is extended.
const TAKES_FALSE: [&str; 6] = ["publish", "when", "external", "cache", "network", "mute"];
/// Keys whose loss makes other tasks seem wrong.
const TEARING: [&str; 10] =
    ["extends", "when", "matrix", "versions", "only", "exclude", "outputs", "stdout", "depfile", "tags"];

impl Reader {
    /// The table called `name`.
    pub(super) fn task<'a>(&mut self, template: bool, name: Str<'a>, table: DeTable<'a>) -> TaskTable<'a> {
        let place = name.place;
        let mut out = TaskTable { name: name.text.clone(), place, ..TaskTable::default() };
        let owner = if template { Owner::Template(&name.text) } else { Owner::Task(&name.text) };
        let mut run = None;
        out.keys.reserve_exact(table.len());
        for (key, value) in table {
            let key = self.key(key);
            let Some(known) = TASK_KEYS.iter().find(|k| **k == key.text) else {
                self.unknown(owner, &key, &TASK_KEYS);
                out.torn |= near_any(&key.text, &TEARING);
                continue;
            };
            if matches!(value.get_ref(), DeValue::Boolean(false)) && !TAKES_FALSE.contains(known) {
                out.removed.push(known);
                continue;
            }
            let errors = self.errors.len();
            out.keys.push((known, key.place));
            match *known {
                "extends" => out.extends = self.text_or_texts(owner, known, value).unwrap_or_default(),
                "when" => out.when = self.when(owner, value),
                "vars" => out.vars = self.entries(owner, known, value, &mut out.removed_entries),
                "params" => out.params = self.params(owner, value),
                "description" => out.description = self.text(owner, known, value),
                "tags" => out.tags = self.texts(owner, known, value).unwrap_or_default(),
                "run" => run = self.run(owner, known, value),
                "steps" => out.steps = self.steps(owner, value),
                "worker" => out.worker = self.argv(owner, known, value),
                "fetch" => out.fetch = self.fetch(owner, value),
                "wait" => out.wait = self.wait(owner, known, value),
                "service" => out.service = self.wait(owner, known, value),
                "external" => out.external = self.bool(owner, known, value),
                "await" => out.awaits = self.awaited(owner, value),
                "inputs" => out.inputs = Some(self.texts(owner, known, value).unwrap_or_default()),
                "outputs" => out.outputs = self.outputs(owner, value),
                "needs" => out.needs = self.text_or_texts(owner, known, value).unwrap_or_default(),
                "after" => out.after = self.text_or_texts(owner, known, value).unwrap_or_default(),
                "env" => out.env = self.entries(owner, known, value, &mut out.removed_entries),
                "env-file" => out.env_file = self.text_or_texts(owner, known, value).unwrap_or_default(),
                "pass-env" => out.pass_env = self.texts(owner, known, value).unwrap_or_default(),
                "secret-env" => out.secret_env = self.texts(owner, known, value).unwrap_or_default(),
                "dir" => out.dir = self.text(owner, known, value),
                "stdin" => out.stdin = self.text(owner, known, value),
                "stdout" => out.stdout = self.text(owner, known, value),
                "depfile" => out.depfile = self.text(owner, known, value),
                "tools" => out.tools = self.texts(owner, known, value).unwrap_or_default(),
                "matrix" => out.matrix = self.matrix(owner, value, &mut out.removed_entries),
                "versions" => {
                    let values = self.values(owner, known, value);
                    let name = Str { text: "version".into(), place: key.place };
                    out.versions = values.map(|values| Axis { name, values });
                }
                "only" => out.only = self.filters(owner, known, value),
                "exclude" => out.exclude = self.filters(owner, known, value),
                "timeout" => out.timeout = self.duration(owner, known, value),
                "retries" => out.retries = self.int(owner, known, &value, 0..=MAX_RETRIES).map(|n| n as u32),
                "backoff" => out.backoff = self.duration(owner, known, value),
                "cache" => out.cache = self.bool(owner, known, value),
                "slots" => out.slots = self.slots(owner, value, &mut out.removed_entries),
                "shell" => out.shell = self.argv(owner, known, value),
                "sandbox" => out.sandbox = self.tier(owner, value),
                "network" => out.network = self.bool(owner, known, value),
                "publish" => out.publish = self.bool(owner, known, value),
                "mute" => out.mute = self.bool(owner, known, value),
                _ => unreachable!("every key of a task is read"),
            }
            out.torn |= self.errors.len() > errors && TEARING.contains(known);
        }
        if let Some(run) = run {
            if out.has("steps") {
                let (run, steps) = (out.key_place("run"), out.key_place("steps"));
                let message = format!("{owner} has both `run` and `steps`");
                let error = self.error(ErrorKind::Type, run, message);
                error.related.push((steps, "`steps` are here".into()));
                error.hints.push("make `run` the first of the `steps`".into());
            }
            out.steps.insert(0, run);
        }
        out
    }

    pub(super) fn run<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Run<'a>> {
        let takes = "a string for the shell, or a list of strings";
        let place = self.place(value.span());
        let empty = match value.get_ref() {
            DeValue::String(text) => text.trim().is_empty(),
            DeValue::Array(items) => match items.first().map(Spanned::get_ref) {
                None => true,
                Some(DeValue::String(program)) => program.is_empty(),
                Some(_) => false,
            },
            _ => false,
        };
        if empty {
            let error = self.error(ErrorKind::Empty, place, format!("`{key}` of {owner} is empty"));
            error.hints.push("leave it out for a task that only groups what it `needs`".into());
            return None;
        }
        match value.get_ref() {
            DeValue::String(_) => self.text_as(owner, key, takes, value).map(Run::Shell),
            _ => {
                let items = self.list(owner, key, takes, value)?;
                let argv = items.into_iter().map(|item| self.text_as(owner, key, takes, item));
                // All are read before any is missed: each that is none has its own error.
                argv.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Run::Argv)
            }
        }
    }

    fn steps<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Vec<Run<'a>> {
        let place = self.place(value.span());
        let Some(items) = self.list(owner, "steps", "a list of what `run` takes", value) else { return vec![] };
        if items.is_empty() {
            self.error(ErrorKind::Empty, place, format!("`steps` of {owner} is empty"));
        }
        items.into_iter().filter_map(|item| self.run(owner, "steps", item)).collect()
    }

    fn outputs<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Vec<Output<'a>> {
        let takes = "a list of paths or `{ path = \"...\", optional = true }`";
        let Some(items) = self.list(owner, "outputs", takes, value) else { return vec![] };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            if !matches!(item.get_ref(), DeValue::Table(_)) {
                out.extend(self.text_as(owner, "outputs", takes, item).map(|path| Output { path, optional: false }));
                continue;
            }
            let place = self.place(item.span());
            let (mut path, mut optional, errors) = (None, false, self.errors.len());
            for (key, value) in self.table(owner, "outputs", item).into_iter().flatten() {
                let key = self.key(key);
                match &*key.text {
                    "path" => path = self.text(owner, "outputs.path", value),
                    "optional" => optional = self.bool(owner, "outputs.optional", value).unwrap_or(false),
                    _ => self.unknown(owner, &key, &["path", "optional"]),
                }
            }
            match path {
                Some(path) => out.push(Output { path, optional }),
                None if self.errors.len() == errors => {
                    self.error(ErrorKind::Type, place, format!("an output of {owner} has no `path`"));
                }
                None => {}
            }
        }
        out
    }

    /// A program and its first arguments.
    fn argv<'a>(&mut self, owner: Owner<'_>, key: &'static str, value: Value<'a>) -> Option<Vec<Str<'a>>> {
        let place = self.place(value.span());
        let argv = self.texts(owner, key, value)?;
        if argv.first().is_none_or(|program| program.text.is_empty()) {
            let error = self.error(ErrorKind::Empty, place, format!("`{key}` of {owner} is empty"));
            error.hints.push(format!("for example `{key} = [\"bash\", \"-euo\", \"pipefail\", \"-c\"]`"));
            return None;
        }
        Some(argv)
    }

    fn awaited<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Option<Awaited<'a>> {
        let takes = "the id of a task, or `{ ok = ID }`, `{ error = ID }` or `{ any = ID }`";
        if !matches!(value.get_ref(), DeValue::Table(_)) {
            let id = self.text_as(owner, "await", takes, value)?;
            return Some(Awaited { branch: Branch::Ok, id });
        }
        let (place, mut found, errors) = (self.place(value.span()), vec![], self.errors.len());
        for (key, value) in self.table(owner, "await", value)? {
            let key = self.key(key);
            let branch = match &*key.text {
                "ok" => Branch::Ok,
                "error" => Branch::Error,
                "any" => Branch::Any,
                _ => {
                    self.unknown(owner, &key, &AWAIT_KEYS);
                    continue;
                }
            };
            found.extend(self.text_as(owner, "await", takes, value).map(|id| Awaited { branch, id }));
        }
        if found.len() != 1 && self.errors.len() == errors {
            let message = format!("`await` of {owner} names {} outcomes", found.len());
            self.error(ErrorKind::BadValue, place, message).hints.push("one of `ok`, `error` and `any`".into());
        }
        found.pop()
    }

    fn slots<'a>(
        &mut self,
        owner: Owner<'_>,
        value: Value<'a>,
        removed: &mut Vec<(&'static str, Str<'a>)>,
    ) -> BTreeMap<Text, u32> {
        let mut out = BTreeMap::new();
        match value.get_ref() {
            DeValue::Integer(_) => {
                out.extend(self.int(owner, "slots", &value, 1..=MAX_SLOTS).map(|n| (Text::from(""), n as u32)));
            }
            DeValue::Table(_) => {
                for (key, value) in self.table(owner, "slots", value).into_iter().flatten() {
                    let key = self.key(key);
                    if matches!(value.get_ref(), DeValue::Boolean(false)) {
                        removed.push(("slots", key));
                        continue;
                    }
                    let what = format!("slots.{}", key.text);
                    let count = self.int(owner, &what, &value, 1..=MAX_SLOTS);
                    out.extend(count.map(|n| (Text::from(&*key.text), n as u32)));
                }
            }
            _ => self.wrong(owner, "slots", "an integer or a table of integers", &value),
        }
        out
    }
}

fn near_any(typed: &str, names: &[&str]) -> bool {
    near(typed, names.iter().copied()).is_some() || ALIASES.iter().any(|(a, to)| *a == typed && names.contains(to))
}
