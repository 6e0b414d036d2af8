//! TOML to the typed form of a workfile, with places, reporting every error and not only the first.
//!
//! Knows keys and the types of their values; unaware of what names, paths and variables mean
//! (see [`super::lower`]). The table is walked by hand: deriving would stop at the first error.

use toml::de::{DeTable, DeValue};

use super::errors::{ErrorKind, Place, WorkfileError};
use super::model::{File, MemberEntry, Str, TaskTable, When, WorkspaceTable};
use super::read_task::TASK_KEYS;
use super::reader::{Owner, Reader, Value, describe};
use super::syntax;
use crate::task;

/// Largest workfile, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// Keys of a workfile.
pub(super) const FILE_KEYS: [&str; 7] = ["workspace", "member", "include", "vars", "params", "template", "task"];
/// Keys of `[workspace]`.
pub(super) const WORKSPACE_KEYS: [&str; 4] = ["members", "default", "sandbox", "subject"];
/// Keys of an entry of `members`.
pub(super) const MEMBER_KEYS: [&str; 4] = ["path", "extends", "tags", "vars"];

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
    pub(super) fn entries<'a>(
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

    pub(super) fn when<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Option<When<'a>> {
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
}
