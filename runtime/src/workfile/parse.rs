//! TOML to the typed form of a workfile, with places, reporting every error and not only the first.
//!
//! Knows keys and the types of their values; unaware of what names, paths and variables mean
//! (see [`super::lower`]). The table is walked by hand: deriving would stop at the first error.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::model::{Axis, File, Filter, Output, Run, Str, TaskTable, Values, WorkspaceTable};
use super::reader::{ALIASES, Owner, Reader, Value, describe};
use super::syntax;
use crate::task::When;
use crate::value::Text;

/// Largest workfile, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Most times a task is tried again.
const MAX_RETRIES: i64 = 100;
/// Most slots a task takes.
const MAX_SLOTS: i64 = 65_535;

/// Keys of a workfile.
pub(super) const FILE_KEYS: [&str; 4] = ["workspace", "member", "vars", "task"];
/// Keys of `[workspace]`.
pub(super) const WORKSPACE_KEYS: [&str; 4] = ["members", "default", "sandbox", "subject"];
/// Keys of `[task.X]`.
pub(super) const TASK_KEYS: [&str; 30] = [
    "description",
    "tags",
    "run",
    "steps",
    "inputs",
    "outputs",
    "needs",
    "after",
    "env",
    "pass-env",
    "secret-env",
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
    "when",
    "cache",
    "slots",
    "shell",
    "sandbox",
    "network",
    "mute",
];
/// Keys whose loss makes other tasks seem wrong.
const TEARING: [&str; 8] = ["matrix", "versions", "only", "exclude", "outputs", "stdout", "depfile", "tags"];

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
                "task" => match self.table(Owner::File, "task", value) {
                    Some(table) => {
                        file.tasks.reserve(table.len());
                        for (key, value) in table {
                            let key = self.key(key);
                            match value.into_inner() {
                                DeValue::Table(table) => file.tasks.push(self.task(key, table)),
                                other => {
                                    file.torn = true;
                                    let message = format!("task `{}` is {}, not a table", key.text, describe(&other));
                                    let hint = format!("write `[task.{}]` and its keys below", key.text);
                                    self.error(ErrorKind::Type, key.place, message).hints.push(hint);
                                }
                            }
                        }
                    }
                    None => file.torn = true,
                },
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

    fn workspace<'a>(&mut self, place: Place, table: DeTable<'a>) -> WorkspaceTable<'a> {
        let mut out = WorkspaceTable { place, ..WorkspaceTable::default() };
        let owner = Owner::Workspace;
        for (key, value) in table {
            let key = self.key(key);
            match &*key.text {
                "members" => out.members = self.texts(owner, "members", value).unwrap_or_default(),
                "default" => out.default = self.text_or_texts(owner, "default", value),
                "sandbox" => out.sandbox = self.tier(owner, value),
                "subject" => out.subject = self.text(owner, "subject", value),
                _ => self.unknown(owner, &key, &WORKSPACE_KEYS),
            }
        }
        out
    }

    fn task<'a>(&mut self, name: Str<'a>, table: DeTable<'a>) -> TaskTable<'a> {
        let place = name.place;
        let mut out = TaskTable { name: name.text.clone(), place, ..TaskTable::default() };
        let owner = Owner::Task(&name.text);
        let mut run = None;
        out.keys.reserve_exact(table.len());
        for (key, value) in table {
            let key = self.key(key);
            let Some(known) = TASK_KEYS.iter().find(|k| **k == key.text) else {
                self.unknown(owner, &key, &TASK_KEYS);
                out.torn |= near_any(&key.text, &TEARING);
                continue;
            };
            let errors = self.errors.len();
            out.keys.push((known, key.place));
            match *known {
                "description" => out.description = self.text(owner, known, value),
                "tags" => out.tags = self.texts(owner, known, value).unwrap_or_default(),
                "run" => run = self.run(owner, known, value),
                "steps" => out.steps = self.steps(owner, value),
                "inputs" => out.inputs = Some(self.texts(owner, known, value).unwrap_or_default()),
                "outputs" => out.outputs = self.outputs(owner, value),
                "needs" => out.needs = self.text_or_texts(owner, known, value).unwrap_or_default(),
                "after" => out.after = self.text_or_texts(owner, known, value).unwrap_or_default(),
                "env" => {
                    for (key, value) in self.table(owner, known, value).into_iter().flatten() {
                        let key = self.key(key);
                        let what = format!("env.{}", key.text);
                        out.env.extend(self.scalar(owner, &what, value).map(|value| (key, value)));
                    }
                }
                "pass-env" => out.pass_env = self.texts(owner, known, value).unwrap_or_default(),
                "secret-env" => out.secret_env = self.texts(owner, known, value).unwrap_or_default(),
                "dir" => out.dir = self.text(owner, known, value),
                "stdin" => out.stdin = self.text(owner, known, value),
                "stdout" => out.stdout = self.text(owner, known, value),
                "depfile" => out.depfile = self.text(owner, known, value),
                "tools" => out.tools = self.texts(owner, known, value).unwrap_or_default(),
                "matrix" => out.matrix = self.matrix(owner, value),
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
                "when" => out.when = self.when(owner, value),
                "cache" => out.cache = self.bool(owner, known, value),
                "slots" => out.slots = self.slots(owner, value),
                "shell" => out.shell = self.shell(owner, value),
                "sandbox" => out.sandbox = self.tier(owner, value),
                "network" => out.network = self.bool(owner, known, value),
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

    fn run<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Option<Run<'a>> {
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

    fn matrix<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Vec<Axis<'a>> {
        let place = self.place(value.span());
        let Some(table) = self.table(owner, "matrix", value) else { return vec![] };
        if table.is_empty() {
            self.error(ErrorKind::Matrix, place, format!("`matrix` of {owner} is empty"));
        }
        let mut out = Vec::with_capacity(table.len());
        for (key, value) in table {
            let name = self.key(key);
            let what = format!("matrix.{}", name.text);
            out.extend(self.values(owner, &what, value).map(|values| Axis { name, values }));
        }
        out
    }

    fn values<'a>(&mut self, owner: Owner<'_>, what: &str, value: Value<'a>) -> Option<Values<'a>> {
        let takes = "a string of words, or a list of strings or integers";
        if matches!(value.get_ref(), DeValue::String(_)) {
            return self.text_as(owner, what, takes, value).map(Values::Words);
        }
        let place = self.place(value.span());
        let items = self.list(owner, what, takes, value)?;
        if items.is_empty() {
            let error = self.error(ErrorKind::Matrix, place, format!("`{what}` of {owner} is an empty list"));
            error.hints.push("without a value there is no task at all".into());
        }
        Some(Values::List(items.into_iter().filter_map(|item| self.scalar(owner, what, item)).collect()))
    }

    fn filters<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Vec<Filter<'a>> {
        let takes = "a table of values by list, or a list of such tables";
        let items = match value.get_ref() {
            DeValue::Table(_) => vec![value],
            _ => self.list(owner, key, takes, value).unwrap_or_default(),
        };
        let mut out = vec![];
        for item in items {
            let place = self.place(item.span());
            let Some(table) = self.table(owner, key, item) else { continue };
            if table.is_empty() {
                self.error(ErrorKind::Matrix, place, format!("a table in `{key}` of {owner} is empty"));
            }
            let mut lists = vec![];
            for (list, value) in table {
                let name = self.key(list);
                let what = format!("{key}.{}", name.text);
                let values = match value.get_ref() {
                    DeValue::Integer(_) => self.scalar(owner, &what, value).map(|one| Values::List(vec![one])),
                    _ => self.values(owner, &what, value),
                };
                lists.extend(values.map(|values| Axis { name, values }));
            }
            out.push(Filter { place, lists });
        }
        out
    }

    fn shell<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Option<Vec<Str<'a>>> {
        let place = self.place(value.span());
        let shell = self.texts(owner, "shell", value)?;
        if shell.first().is_none_or(|program| program.text.is_empty()) {
            let error = self.error(ErrorKind::Empty, place, format!("`shell` of {owner} is empty"));
            error.hints.push("for example `shell = [\"bash\", \"-euo\", \"pipefail\", \"-c\"]`".into());
            return None;
        }
        Some(shell)
    }

    fn when(&mut self, owner: Owner<'_>, value: Value<'_>) -> Option<When> {
        let text = self.text(owner, "when", value)?;
        let known = [When::Failure, When::Always];
        let when = known.into_iter().find(|when| when.name() == text.text);
        if when.is_none() {
            let message = format!("`when` of {owner} is `{}`, which is no condition", text.text);
            let hint = "one of `failure`, `always`".to_owned();
            self.error(ErrorKind::BadValue, text.place, message).hints.push(hint);
        }
        when
    }

    fn slots(&mut self, owner: Owner<'_>, value: Value<'_>) -> BTreeMap<Text, u32> {
        let mut out = BTreeMap::new();
        match value.get_ref() {
            DeValue::Integer(_) => {
                out.extend(self.int(owner, "slots", &value, 1..=MAX_SLOTS).map(|n| (Text::from(""), n as u32)));
            }
            DeValue::Table(_) => {
                for (key, value) in self.table(owner, "slots", value).into_iter().flatten() {
                    let key = self.key(key);
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
