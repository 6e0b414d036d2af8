//! Where in the workfiles the ingredients of one task stand, and which variables and params went into each: what
//! `explain` points to.
//!
//! Reads the texts once more with the code that made the recipe of them, so that templates and includes count as they did
//! then. Unaware of ids.

use std::cell::{Cell, RefCell};

use rustc_hash::FxHashMap;

use super::env_file;
use super::errors::Place;
use super::findings::Findings;
use super::globs::Pattern;
use super::lower::{Disk, Maker, Unit, own_names};
use super::making::{Input, Making, Pending, SHELL, What as Asked};
use super::model::{Axis, ParamTable, Run, Str, TaskTable, Values, When};
use super::order;
use super::params::Given;
use super::parse;
use super::recipe::Recipe;
use super::vars::{self, Names, Scope};
use super::{Loaded, Member};
use crate::explain::What;
use crate::path::is_within;
use crate::value::Text;

/// Where an ingredient stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The key it is the value of, or a part of the value.
    pub key: &'static str,
    /// Where it is written.
    pub place: Place,
    /// What went into it, each once.
    pub used: Vec<Used>,
}

/// A name that stands in the text of an ingredient, or in that of another such name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The name.
    pub name: Text,
    /// What it is: `variable`, `param` or `matrix`.
    pub what: &'static str,
    /// Where it gets its value, or where it is declared when the value comes from outside.
    pub place: Place,
    /// Who gave the value, when that was not a workfile.
    pub given: Option<String>,
}

/// The workfiles of a workspace, read once more.
pub struct Texts<'l> {
    loaded: &'l Loaded,
    units: Vec<Unit<'l>>,
}

/// One task as it is written.
pub struct Written<'t> {
    loaded: &'t Loaded,
    recipe: &'t Recipe,
    units: &'t [Unit<'t>],
    /// Its table with all it extends.
    table: TaskTable<'t>,
    pending: Pending,
}

impl Loaded {
    /// Its workfiles as they are written.
    pub fn texts(&self) -> Texts<'_> {
        let unit = |(i, member): (usize, &Member)| Unit {
            name: member.name.clone(),
            dir: member.dir.clone(),
            file: parse::parse(i as u32, &self.files[i].text, &mut vec![]),
            parent: member.parent,
            entries: &self.entries[i],
            included: false,
        };
        Texts { loaded: self, units: self.members.iter().enumerate().map(unit).collect() }
    }
}

impl Texts<'_> {
    /// How a recipe is written; none when its table is not found.
    pub fn of(&self, recipe: usize) -> Option<Written<'_>> {
        let recipe = &self.loaded.recipes[recipe];
        let (table, pending) = made_of(self.loaded, &self.units, recipe)?;
        Some(Written { loaded: self.loaded, recipe, units: &self.units, table, pending })
    }
}

/// The table of a recipe, and what its texts mean.
fn made_of<'a>(loaded: &Loaded, units: &[Unit<'a>], recipe: &Recipe) -> Option<(TaskTable<'a>, Pending)> {
    let (mut findings, mut files, made_bytes) = (Findings::default(), vec![], Cell::new(0));
    let mut disk = Disk { root: &loaded.root, files: &mut files, known: FxHashMap::default() };
    let mut maker = Maker::new(units, &loaded.given, &mut disk, &mut findings, &made_bytes);
    let mut all: Vec<Names> = vec![];
    for unit in &units[..=recipe.member] {
        let names = maker.file_names(unit, all.get(unit.parent).cloned().unwrap_or_default());
        all.push(names);
    }
    let (unit, names) = (&units[recipe.member], &all[recipe.member]);
    let bare = recipe.task.strip_prefix(&*unit.name).map_or(&*recipe.task, |rest| rest.trim_start_matches(':'));
    let table = unit.file.tasks.iter().find(|table| table.name == bare)?;
    let bases: Vec<&Str<'_>> =
        unit.entries.iter().filter_map(|i| maker.entries.get(*i)).flat_map(|entry| &entry.extends).collect();
    let mut errors = vec![];
    let lacks = RefCell::default();
    let scope = Scope { names, variant: &recipe.variant, made_bytes: &made_bytes, lacks: &lacks };
    let table = maker.templates.of(recipe.member, table, &bases, Some(&scope), &mut errors).into_owned();
    let shared = maker.shared(&table, &[], &mut errors);
    let own = own_names(&table, &shared.params, scope, &mut errors);
    let scope = Scope { names: own.as_ref().unwrap_or(names), ..scope };
    maker.cache.enter(&unit.dir);
    let mut making =
        Making { table: &table, scope, cache: &mut maker.cache, disk: &mut *maker.disk, errors, torn: false };
    let (_, pending) = making.recipe(recipe.name.clone(), &recipe.task, recipe.member, &shared);
    Some((table, pending))
}

impl Written<'_> {
    /// Where an ingredient comes from, by what it is and by its path in the task; none when no workfile says it.
    pub fn origin(&self, what: &What, path: &str) -> Option<Origin> {
        let table = &self.table;
        match what {
            What::Argument(place) => self.argument(place),
            What::Environment(name) => self.environment(name),
            What::Sources => match table.inputs.as_deref()? {
                [only] => Some(self.text("inputs", only)),
                _ => Some(self.key("inputs")),
            },
            What::Input(path) if path.starts_with('@') => Some(self.needs(path)),
            // What stands at the path may be a folder, of which the pattern means what is in it.
            What::Input(path) => Some(self.entry(path, Pattern::covers)),
            What::Tool(name) => {
                let alone = |text: &&Str<'_>| *text.text == **name;
                let tool = table.tools.iter().find(alone).or(table.tools.iter().find(|t| t.text.contains("{{")))?;
                Some(self.text("tools", tool))
            }
            What::Output(place) => {
                let at = number(place)?;
                let (place, _) = *self.pending.outputs.get(at)?;
                let files = [("stdout", &table.stdout), ("depfile", &table.depfile)];
                let file = files.into_iter().find_map(|(key, text)| Some((key, text.as_ref()?)));
                let text = table.outputs.iter().map(|o| ("outputs", &o.path)).chain(file);
                let found = text.into_iter().find(|(_, text)| text.place == place);
                Some(found.map_or_else(|| self.key("outputs"), |(key, text)| self.text(key, text)))
            }
            What::Stdin => Some(self.text("stdin", table.stdin.as_ref()?)),
            What::Other(_) => self.other(path),
        }
    }

    /// Where a file of the workspace that it reads is named, or the pattern that the file is of; none when no workfile
    /// says it.
    pub fn source(&self, path: &str) -> Option<Origin> {
        let is_stdin = matches!(&self.pending.stdin, Some(Input { what: Asked::Path { path: named, .. }, .. }) if **named == *path);
        match &self.table.stdin {
            Some(text) if is_stdin => Some(self.text("stdin", text)),
            _ => self.table.inputs.as_ref().map(|_| self.entry(path, Pattern::matches)),
        }
    }

    /// Where its name stands.
    pub fn place(&self) -> Place {
        self.table.place
    }

    /// Where its condition stands, and what that looks at.
    pub fn condition(&self) -> Option<Origin> {
        let mut origin = self.said("when")?;
        if let Some(When::Condition(text)) = &self.table.when {
            origin.place = text.place;
            let words = text.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
            let mut used: Vec<Used> = words.filter_map(|word| Some(self.define(word)?.0)).collect();
            used.dedup_by(|a, b| a.name == b.name);
            origin.used = used;
        }
        Some(origin)
    }

    fn other(&self, path: &str) -> Option<Origin> {
        let table = &self.table;
        let workspace = self.units[0].file.workspace.as_ref();
        match path {
            "sub" => Some(self.text("subject", workspace?.subject.as_ref()?)),
            "nonce" => self.said("when"),
            "args.dir" => Some(self.text("dir", table.dir.as_ref()?)),
            "args.stdout" => Some(self.text("stdout", table.stdout.as_ref()?)),
            "args.network" => self.said("network"),
            "args.sandbox" => self.said("sandbox").or_else(|| {
                let place = workspace.filter(|w| w.sandbox.is_some())?.place;
                Some(Origin { key: "sandbox", place, used: vec![] })
            }),
            path if path.starts_with("args.secrets") => self.said("secret-env"),
            path if path.starts_with("args.depfile") => Some(self.text("depfile", table.depfile.as_ref()?)),
            // All that a task has to say that waits, or fetches.
            _ => self.said("wait").or_else(|| self.said("fetch")),
        }
    }

    fn argument(&self, place: &str) -> Option<Origin> {
        let table = &self.table;
        let key = if table.has("run") { "run" } else { "steps" };
        let step = number(place)?;
        let at = place.split_once(']').and_then(|(_, rest)| number(rest)).unwrap_or(0);
        match table.steps.get(step)? {
            Run::Argv(argv) => Some(argv.get(at).map_or_else(|| self.key(key), |text| self.text(key, text))),
            Run::Shell(script) => match &table.shell {
                Some(shell) if at < shell.len() => Some(self.text("shell", &shell[at])),
                None if at < SHELL.len() => Some(self.key(key)),
                _ => Some(self.text(key, script)),
            },
        }
    }

    fn environment(&self, name: &str) -> Option<Origin> {
        let table = &self.table;
        if let Some((_, value)) = table.env.iter().find(|(n, _)| n.text == name) {
            return Some(self.text("env", value));
        }
        for file in self.recipe.env_files.iter().rev() {
            let at = self.loaded.files.iter().rposition(|f| f.path == **file)?;
            if let Some((start, end)) = env_file::find(&self.loaded.files[at].text, name) {
                let place = Place { file: at as u32, start: start as u32, end: end as u32 };
                return Some(Origin { key: "env-file", place, used: vec![] });
            }
        }
        table.pass_env.iter().find(|n| n.text == name).map(|text| self.text("pass-env", text))
    }

    /// The entry of its inputs that a path is of; all of them where that cannot be told.
    fn entry(&self, path: &str, is_of: impl Fn(&Pattern, &str) -> bool) -> Origin {
        let asked = self.pending.inputs.iter().find(|input| match &input.what {
            Asked::Path { path: named, .. } => is_within(path, named),
            Asked::Form(pattern) => is_of(pattern, path),
        });
        let texts = self.table.inputs.as_deref().unwrap_or_default();
        match asked.and_then(|input| texts.iter().find(|text| text.place == input.place)) {
            Some(text) => self.text("inputs", text),
            None => self.key("inputs"),
        }
    }

    /// By what stands for all that another task makes.
    fn needs(&self, path: &str) -> Origin {
        let loaded = self.loaded;
        for (selector, place) in &self.pending.needs {
            let Ok(ranges) = loaded.names.select(self.recipe.member, selector, false) else { continue };
            let meant = order::stand_for(&loaded.recipes, ranges.into_iter().flatten().map(|i| i as usize).collect());
            if meant.into_iter().any(|recipe| *loaded.needs_key(recipe) == *path)
                && let Some(text) = self.table.needs.iter().find(|text| text.place == *place)
            {
                return self.text("needs", text);
            }
        }
        self.key("needs")
    }

    fn said(&self, key: &'static str) -> Option<Origin> {
        self.table.has(key).then(|| self.key(key))
    }

    fn key(&self, key: &'static str) -> Origin {
        Origin { key, place: self.table.key_place(key), used: vec![] }
    }

    fn text(&self, key: &'static str, text: &Str<'_>) -> Origin {
        let mut used = vec![];
        self.add_used(&text.text, &mut used);
        Origin { key, place: text.place, used }
    }

    /// What the names in a text are, then those in what these stand for.
    fn add_used(&self, text: &str, used: &mut Vec<Used>) {
        for name in vars::used(text) {
            if used.iter().any(|known| *known.name == *name) {
                continue;
            }
            if let Some((found, texts)) = self.define(name) {
                used.push(found);
                texts.iter().for_each(|text| self.add_used(text, used));
            }
        }
    }

    /// What a name is to this task, and the texts its value is made of.
    fn define(&self, name: &str) -> Option<(Used, Vec<&str>)> {
        let table = &self.table;
        let used = |what, place| Used { name: name.into(), what, place, given: None };
        if let Some((_, value)) = self.recipe.variant.iter().find(|(n, _)| **n == *name) {
            let axis = table.matrix.iter().chain(&table.versions).find(|axis| axis.name.text == name);
            return Some((used("matrix", axis.map_or(table.place, |axis| value_place(axis, value))), vec![]));
        }
        let of_vars = |vars: &'_ [(Str<'_>, Str<'_>)]| vars.iter().rposition(|(n, _)| n.text == name);
        if let Some(at) = of_vars(&table.vars) {
            let value = &table.vars[at].1;
            return Some((used("variable", value.place), vec![&value.text]));
        }
        if let Some(param) = table.params.iter().find(|p| p.name.text == name) {
            return Some((self.param(param), vec![]));
        }
        let entries = self.units[0].file.workspace.as_ref().map_or(&[][..], |w| &w.members);
        let mut at = self.recipe.member;
        loop {
            let unit = &self.units[at];
            if let Some(at) = of_vars(&unit.file.vars) {
                let value = &unit.file.vars[at].1;
                return Some((used("variable", value.place), vec![&value.text]));
            }
            if let Some(param) = unit.file.params.iter().find(|p| p.name.text == name) {
                return Some((self.param(param), vec![]));
            }
            for entry in unit.entries.iter().rev().filter_map(|i| entries.get(*i)) {
                if let Some(at) = of_vars(&entry.vars) {
                    let value = &entry.vars[at].1;
                    return Some((used("variable", value.place), vec![&value.text]));
                }
            }
            if at == unit.parent {
                return None;
            }
            at = unit.parent;
        }
    }

    fn param(&self, param: &ParamTable<'_>) -> Used {
        let given = giver(&self.loaded.given, param);
        let default = param.default.as_ref().and_then(|texts| texts.first()).filter(|_| given.is_none());
        let place = default.map_or(param.name.place, |text| text.place);
        Used { name: (*param.name.text).into(), what: "param", place, given }
    }
}

/// Who gives a param its value, when it is not its default.
fn giver(given: &Given, param: &ParamTable<'_>) -> Option<String> {
    if given.set.iter().any(|(name, _)| *name == *param.name.text) {
        return Some("--set".to_owned());
    }
    let name = param.from_env.as_ref().map(|name| &*name.text)?;
    given.env.contains_key(name).then(|| format!("`{name}` of the environment"))
}

/// Where a value of a list stands; the list's name where that is not plain.
fn value_place(axis: &Axis<'_>, value: &str) -> Place {
    match &axis.values {
        Values::List(texts) => texts.iter().find(|t| t.text == value).map_or(axis.name.place, |t| t.place),
        Values::Words(text) => text.place,
    }
}

/// The number between the first brackets.
fn number(path: &str) -> Option<usize> {
    path.split_once('[')?.1.split_once(']')?.0.parse().ok()
}
