//! TOML to the typed form of a workfile, with places, reporting every error and not only the first.
//!
//! Knows keys and the types of their values; unaware of what names, paths and variables mean
//! (see [`super::lower`]). The table is walked by hand: deriving would stop at the first error.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::model::{Awaited, Axis, File, MemberEntry, Output, Run, Str, TaskTable, When, WorkspaceTable};
use super::reader::{ALIASES, Owner, Reader, Value, describe};
use super::syntax;
use crate::task;
use crate::value::{Branch, Text};

/// Largest workfile, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Most times a task is tried again.
const MAX_RETRIES: i64 = 100;
/// Most slots a task takes.
const MAX_SLOTS: i64 = 65_535;

/// Keys of a workfile.
pub(super) const FILE_KEYS: [&str; 7] = ["workspace", "member", "include", "vars", "params", "template", "task"];
/// Keys of `[workspace]`.
pub(super) const WORKSPACE_KEYS: [&str; 4] = ["members", "default", "sandbox", "subject"];
/// Keys of an entry of `members`.
pub(super) const MEMBER_KEYS: [&str; 4] = ["path", "extends", "tags", "vars"];
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

/// Reads a workfile; what cannot be read is left out, and said in `errors`.
pub(crate) fn parse<'a>(file: u32, text: &'a str, errors: &mut Vec<WorkfileError>) -> File<'a> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("this file has {} bytes; a workfile has at most {MAX_FILE_BYTES}", text.len());
        errors.push(WorkfileError::new(ErrorKind::TooLarge, Place { file, ..Place::default() }, message));
        return File { torn: true, ..File::default() };
    }
    let (table, found) = syntax::table(file, text);
    // What the reader finds on or after a line that is no TOML may be an echo of that.
    let sure = found.iter().filter(|e| e.kind == ErrorKind::Syntax).map(|e| e.place.start).min().unwrap_or(u32::MAX);
    let sure = text.get(..sure as usize).map_or(u32::MAX, |t| t.rfind('\n').map_or(0, |i| i as u32 + 1));
    let torn = !found.is_empty();
    errors.extend(found);
    let mut reader = Reader { file, errors: vec![] };
    let mut out = reader.file(table);
    out.torn |= torn;
    if sure < u32::MAX {
        // The table in which the text stops being TOML, and all after it, may have lost keys.
        let last = out.tasks.iter().map(|t| t.place.start).filter(|at| *at < sure).max().unwrap_or(0);
        out.tasks.retain(|t| t.place.start < last);
        // A value that is not there has no place.
        reader.errors.retain(|e| e.place.start < sure && e.place.end > 0);
    }
    errors.extend(reader.errors);
    out
}

impl Reader {
    fn file<'a>(&mut self, table: DeTable<'a>) -> File<'a> {
        let mut file = File::default();
        for (key, value) in table {
            let key = self.key(key);
            match &*key.text {
                "workspace" => {
                    if let Some(table) = self.table(Owner::File, "workspace", value) {
                        file.workspace = Some(self.workspace(key.place, table));
                    }
                }
                "member" => {
                    for (key, value) in self.table(Owner::File, "member", value).into_iter().flatten() {
                        let key = self.key(key);
                        match &*key.text {
                            "name" => file.member_name = self.text(Owner::Member, "name", value),
                            _ => self.unknown(Owner::Member, &key, &["name"]),
                        }
                    }
                }
                "vars" => {
                    for (key, value) in self.table(Owner::File, "vars", value).into_iter().flatten() {
                        let key = self.key(key);
                        let name = key.text.clone();
                        file.vars.extend(self.scalar(Owner::Vars, &name, value).map(|value| (key, value)));
                    }
                }
                "include" => {
                    let errors = self.errors.len();
                    file.include = self.includes(value);
                    file.torn |= self.errors.len() > errors;
                }
                "params" => file.params = self.params(Owner::File, value),
                "template" => file.templates = self.tasks("template", value, &mut file.torn),
                "task" => file.tasks = self.tasks("task", value, &mut file.torn),
                "tasks" => {
                    file.torn = true;
                    self.unknown(Owner::File, &key, &FILE_KEYS);
                }
                _ => {
                    let task_key = TASK_KEYS.contains(&&*key.text);
                    self.unknown(Owner::File, &key, &FILE_KEYS);
                    if task_key && let Some(error) = self.errors.last_mut() {
                        error.hints = vec!["keys of a task stand below its `[task.NAME]`".into()];
                    }
                }
            }
        }
        file
    }

    fn tasks<'a>(&mut self, what: &str, value: Value<'a>, torn: &mut bool) -> Vec<TaskTable<'a>> {
        let Some(table) = self.table(Owner::File, what, value) else {
            *torn = true;
            return vec![];
        };
        let mut out = Vec::with_capacity(table.len());
        for (key, value) in table {
            let key = self.key(key);
            match value.into_inner() {
                DeValue::Table(table) => out.push(self.task(what == "template", key, table)),
                other => {
                    *torn = true;
                    let message = format!("{what} `{}` is {}, not a table", key.text, describe(&other));
                    let hint = format!("write `[{what}.{}]` and its keys below", key.text);
                    self.error(ErrorKind::Type, key.place, message).hints.push(hint);
                }
            }
        }
        out
    }

    fn members<'a>(&mut self, value: Value<'a>) -> Vec<MemberEntry<'a>> {
        let owner = Owner::Workspace;
        let takes = "a list of folders or tables";
        let mut out = vec![];
        for item in self.list(owner, "members", takes, value).into_iter().flatten() {
            let place = self.place(item.span());
            let mut entry =
                MemberEntry { path: Str { text: "".into(), place }, extends: vec![], tags: vec![], vars: vec![] };
            if !matches!(item.get_ref(), DeValue::Table(_)) {
                if let Some(path) = self.text_as(owner, "members", takes, item) {
                    out.push(MemberEntry { path, ..entry });
                }
                continue;
            }
            let mut path = None;
            for (key, value) in self.table(owner, "members", item).into_iter().flatten() {
                let key = self.key(key);
                match &*key.text {
                    "path" => path = self.text(owner, "members.path", value),
                    "extends" => {
                        entry.extends = self.text_or_texts(owner, "members.extends", value).unwrap_or_default();
                    }
                    "tags" => entry.tags = self.texts(owner, "members.tags", value).unwrap_or_default(),
                    "vars" => entry.vars = self.entries(owner, "vars", value, &mut vec![]),
                    _ => self.unknown(owner, &key, &MEMBER_KEYS),
                }
            }
            match path {
                Some(path) => out.push(MemberEntry { path, ..entry }),
                None => {
                    self.error(ErrorKind::Type, place, "an entry of `members` has no `path`".into());
                }
            }
        }
        out
    }

    /// The entries of a table of texts; those that are `false` are taken away.
    fn entries<'a>(
        &mut self,
        owner: Owner<'_>,
        key: &'static str,
        value: Value<'a>,
        removed: &mut Vec<(&'static str, Str<'a>)>,
    ) -> Vec<(Str<'a>, Str<'a>)> {
        let mut out = vec![];
        for (name, value) in self.table(owner, key, value).into_iter().flatten() {
            let name = self.key(name);
            if matches!(value.get_ref(), DeValue::Boolean(false)) {
                removed.push((key, name));
                continue;
            }
            let what = format!("{key}.{}", name.text);
            out.extend(self.scalar(owner, &what, value).map(|value| (name, value)));
        }
        out
    }

    fn when<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Option<When<'a>> {
        if let DeValue::Boolean(fixed) = value.get_ref() {
            return Some(When::Fixed(*fixed));
        }
        let text = self.text_as(owner, "when", "a condition, `true` or `false`", value)?;
        Some(match &*text.text {
            "always" => When::Ending(task::When::Always),
            "failure" => When::Ending(task::When::Failure),
            "changed" => When::Ending(task::When::Changed),
            _ => When::Condition(text),
        })
    }

    fn workspace<'a>(&mut self, place: Place, table: DeTable<'a>) -> WorkspaceTable<'a> {
        let mut out = WorkspaceTable { place, ..WorkspaceTable::default() };
        let owner = Owner::Workspace;
        for (key, value) in table {
            let key = self.key(key);
            match &*key.text {
                "members" => out.members = self.members(value),
                "default" => out.default = self.text_or_texts(owner, "default", value),
                "sandbox" => out.sandbox = self.tier(owner, value),
                "subject" => out.subject = self.text(owner, "subject", value),
                _ => self.unknown(owner, &key, &WORKSPACE_KEYS),
            }
        }
        out
    }

    fn task<'a>(&mut self, template: bool, name: Str<'a>, table: DeTable<'a>) -> TaskTable<'a> {
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
