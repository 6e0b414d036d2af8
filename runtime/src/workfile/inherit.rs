//! What tasks take from templates: bases in order, later ones winning, the task's own keys last.
//!
//! Knows tables; unaware of what their keys mean.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::lower::Unit;
use super::model::{Str, TaskTable};
use super::vars::Scope;
use crate::value::Text;

/// Deepest a template may stand on others.
const MAX_DEPTH: usize = 32;
/// Keys that decide how many tasks there are, or what they are called: no template picked by variant has them.
const WHOLE_KEYS: [&str; 5] = ["matrix", "versions", "only", "exclude", "tags"];

/// The templates of all units.
pub(crate) struct Templates<'u, 'a> {
    by_name: FxHashMap<(usize, &'u str), &'u TaskTable<'a>>,
    /// Which unit each belongs to; the root to itself.
    parents: Vec<usize>,
    names: Vec<Text>,
}

/// A base, and the unit that it is named in.
#[derive(Clone, Copy)]
struct Base<'s, 'a> {
    unit: usize,
    name: &'s Str<'a>,
}

impl<'u, 'a> Templates<'u, 'a> {
    pub(crate) fn new(units: &'u [Unit<'a>]) -> Self {
        let mut by_name = FxHashMap::default();
        for (i, unit) in units.iter().enumerate() {
            for template in &unit.file.templates {
                by_name.insert((i, &*template.name), template);
            }
        }
        let parents = units.iter().map(|unit| unit.parent).collect();
        Self { by_name, parents, names: units.iter().map(|unit| unit.name.clone()).collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The template that `name` means in a unit: one of its own, of what includes it, or of the root;
    /// `unit:name` is one of that unit.
    fn find(&self, unit: usize, name: &str) -> Option<(usize, &'u TaskTable<'a>)> {
        if let Some((of, bare)) = name.split_once(':') {
            let unit = self.names.iter().position(|n| **n == *of)?;
            return self.by_name.get(&(unit, bare)).map(|t| (unit, *t));
        }
        let mut at = unit;
        loop {
            if let Some(found) = self.by_name.get(&(at, name)) {
                return Some((at, found));
            }
            if at == self.parents[at] {
                return None;
            }
            at = self.parents[at];
        }
    }

    fn known(&self, unit: usize) -> impl Iterator<Item = &str> {
        self.by_name.keys().filter(move |(of, _)| *of == unit || *of == 0).map(|(_, name)| *name)
    }

    /// Whether each variant of a task may stand on other templates.
    pub(crate) fn picks(table: &TaskTable<'_>, given: &[&Str<'_>]) -> bool {
        given.iter().copied().chain(&table.extends).any(|name| name.text.contains("{{"))
    }

    /// A table with all it takes from templates: those that `given` names in the root, then its own.
    ///
    /// Names with a variable are of a template for each variant: they are left out without a `variant`.
    pub(crate) fn of<'t>(
        &self,
        unit: usize,
        table: &'t TaskTable<'a>,
        given: &[&Str<'a>],
        variant: Option<&Scope<'_>>,
        errors: &mut Vec<WorkfileError>,
    ) -> Cow<'t, TaskTable<'a>> {
        if given.is_empty() && table.extends.is_empty() {
            return Cow::Borrowed(table);
        }
        let mut out = TaskTable { name: table.name.clone(), place: table.place, ..TaskTable::default() };
        let bases = given.iter().map(|name| Base { unit: 0, name });
        let bases = bases.chain(table.extends.iter().map(|name| Base { unit, name }));
        for base in bases {
            self.add(base, variant, &mut vec![], &mut out, errors);
        }
        overlay(&mut out, table);
        Cow::Owned(out)
    }

    fn add(
        &self,
        base: Base<'_, 'a>,
        variant: Option<&Scope<'_>>,
        path: &mut Vec<(usize, Text, Place)>,
        out: &mut TaskTable<'a>,
        errors: &mut Vec<WorkfileError>,
    ) {
        let place = base.name.place;
        let by_variant = base.name.text.contains("{{");
        let name = match variant {
            _ if !by_variant => Cow::Borrowed(&*base.name.text),
            None => return,
            Some(scope) => match scope.expand(base.name, errors) {
                Some(name) => name,
                None => return,
            },
        };
        let Some((unit, template)) = self.find(base.unit, &name) else {
            let message = format!("`{}` extends template `{name}`, which is not defined", out.name);
            let hint = near(&name, self.known(base.unit)).or_else(|| {
                Some(if self.is_empty() {
                    "write it: `[template.NAME]`".into()
                } else {
                    "it is written `[template.NAME]`".into()
                })
            });
            errors.push(WorkfileError::new(ErrorKind::BadValue, place, message).maybe_hint(hint));
            return;
        };
        let at = path.iter().position(|(u, n, _)| *u == unit && **n == *template.name);
        path.push((unit, (&*template.name).into(), place));
        if at.is_some() || path.len() > MAX_DEPTH {
            let names: Vec<String> = path[at.unwrap_or(0)..].iter().map(|(_, n, _)| format!("`{n}`")).collect();
            let what = if at.is_some() { "templates extend one another" } else { "templates stand too deep" };
            let mut error = WorkfileError::new(ErrorKind::Cycle, place, format!("{what}: {}", names.join(" -> ")));
            for (_, name, place) in &path[at.unwrap_or(0)..path.len() - 1] {
                error = error.see(*place, format!("`{name}` is extended here"));
            }
            errors.push(error);
        } else {
            if let Some(name) = template.extends.iter().find(|name| name.text.contains("{{")) {
                let message = format!("template `{}` extends `{}`", template.name, name.text);
                let error = WorkfileError::new(ErrorKind::BadValue, name.place, message);
                errors.push(error.hint("only a task can pick templates by its variables"));
            }
            let whole = template.keys.iter().find(|(key, _)| WHOLE_KEYS.contains(key));
            if let (true, Some((key, there))) = (by_variant, whole) {
                let message = format!("template `{name}`, which each variant picks, has `{key}`");
                let error = WorkfileError::new(ErrorKind::BadValue, place, message).see(*there, "it is here");
                errors.push(error.hint("what a matrix is, and what tasks are called, is the same for all variants"));
            }
            for name in template.extends.iter().filter(|name| !name.text.contains("{{")) {
                self.add(Base { unit, name }, variant, path, out, errors);
            }
            overlay(out, template);
            out.templates_in.push(unit);
        }
        path.pop();
    }
}

/// Puts the keys of a table over those of another; tables within them entry by entry.
fn overlay<'a>(base: &mut TaskTable<'a>, over: &TaskTable<'a>) {
    for key in &over.removed {
        base.keys.retain(|(k, _)| k != key);
        put(base, &TaskTable::default(), key);
    }
    for (key, name) in &over.removed_entries {
        match *key {
            "env" => base.env.retain(|(n, _)| n.text != name.text),
            "vars" => base.vars.retain(|(n, _)| n.text != name.text),
            "matrix" => base.matrix.retain(|axis| axis.name.text != name.text),
            "slots" => drop(base.slots.remove(&*name.text)),
            _ => {}
        }
    }
    for (key, place) in &over.keys {
        // Of two ways to say one thing, the later one counts.
        let rival = match *key {
            "run" => "steps",
            "steps" => "run",
            _ => key,
        };
        base.keys.retain(|(k, _)| k != key && *k != rival);
        base.keys.push((key, *place));
        put(base, over, key);
    }
    base.torn |= over.torn;
}

/// The field of one key.
fn put<'a>(base: &mut TaskTable<'a>, over: &TaskTable<'a>, key: &str) {
    let is_nothing = !over.has(key);
    match key {
        // What it extends is put in by whoever calls; a template's own is no part of its heirs.
        "extends" => {}
        "when" => base.when.clone_from(&over.when),
        "vars" => merge(&mut base.vars, &over.vars, is_nothing, |(name, _)| &name.text),
        "params" => merge(&mut base.params, &over.params, is_nothing, |param| &param.name.text),
        "description" => base.description.clone_from(&over.description),
        "tags" => base.tags.clone_from(&over.tags),
        "run" | "steps" => base.steps.clone_from(&over.steps),
        "inputs" => base.inputs.clone_from(&over.inputs),
        "outputs" => base.outputs.clone_from(&over.outputs),
        "needs" => base.needs.clone_from(&over.needs),
        "after" => base.after.clone_from(&over.after),
        "env" => merge(&mut base.env, &over.env, is_nothing, |(name, _)| &name.text),
        "pass-env" => base.pass_env.clone_from(&over.pass_env),
        "secret-env" => base.secret_env.clone_from(&over.secret_env),
        "env-file" => base.env_file.clone_from(&over.env_file),
        "dir" => base.dir.clone_from(&over.dir),
        "stdin" => base.stdin.clone_from(&over.stdin),
        "stdout" => base.stdout.clone_from(&over.stdout),
        "publish" => base.publish = over.publish,
        "worker" => base.worker.clone_from(&over.worker),
        "fetch" => base.fetch.clone_from(&over.fetch),
        "wait" => base.wait.clone_from(&over.wait),
        "service" => base.service.clone_from(&over.service),
        "external" => base.external = over.external,
        "await" => base.awaits.clone_from(&over.awaits),
        "depfile" => base.depfile.clone_from(&over.depfile),
        "tools" => base.tools.clone_from(&over.tools),
        "matrix" => merge(&mut base.matrix, &over.matrix, is_nothing, |axis| &axis.name.text),
        "versions" => base.versions.clone_from(&over.versions),
        "only" => base.only.clone_from(&over.only),
        "exclude" => base.exclude.clone_from(&over.exclude),
        "timeout" => base.timeout = over.timeout,
        "retries" => base.retries = over.retries,
        "backoff" => base.backoff = over.backoff,
        "cache" => base.cache = over.cache,
        "slots" if is_nothing => base.slots.clear(),
        "slots" => base.slots.extend(over.slots.iter().map(|(name, n)| (name.clone(), *n))),
        "shell" => base.shell.clone_from(&over.shell),
        "sandbox" => base.sandbox = over.sandbox,
        "network" => base.network = over.network,
        "mute" => base.mute = over.mute,
        _ => unreachable!("every key of a task can be extended"),
    }
}

fn merge<T: Clone>(base: &mut Vec<T>, over: &[T], is_nothing: bool, name: impl Fn(&T) -> &str) {
    if is_nothing {
        base.clear();
    }
    for entry in over {
        match base.iter_mut().find(|b| name(b) == name(entry)) {
            Some(there) => *there = entry.clone(),
            None => base.push(entry.clone()),
        }
    }
}
