//! Tables to recipes: matrices and variables expanded, texts made paths and patterns, defaults put in.
//!
//! Knows one file at a time; what involves several tasks is for [`super::edges`] and [`super::order`].

use std::cell::Cell;

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, WorkfileError};
use super::findings::Findings;
use super::making::{Cache, Making, Pending, Shared};
use super::matrix::{self, MAX_TASKS};
use super::model::{File, TaskTable};
use super::recipe::Recipe;
use super::select::Names;
use super::vars::{self, Scope};
use crate::process::Tier;
use crate::task::Policy;
use crate::value::Text;

/// How tasks are isolated when neither they, nor the workspace, nor whoever loads it says.
pub const DEFAULT_TIER: Tier = Tier::Ns;
/// Keys a task may have that runs nothing.
const GROUP_KEYS: [&str; 7] = ["description", "tags", "needs", "matrix", "versions", "only", "exclude"];

/// One member and its file.
pub(crate) struct Unit<'a> {
    /// Empty for the root.
    pub(crate) name: Text,
    /// Its folder, relative to the workspace root; empty for the root.
    pub(crate) dir: String,
    pub(crate) file: File<'a>,
}

/// All recipes of a workspace, not yet linked.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) recipes: Vec<Recipe>,
    /// For each recipe, what still waits for the others.
    pub(crate) pending: Vec<Pending>,
    pub(crate) names: Names,
    /// Whether something could not be read on which other tasks' correctness hangs.
    pub(crate) torn: bool,
}

/// Makes the recipes of all units, in the order they are written; the first unit is the root. Tasks are in `tier` unless
/// they or the workspace say otherwise.
pub(crate) fn make(units: &[Unit<'_>], tier: Tier, findings: &mut Findings) -> Made {
    let members = units.iter().map(|unit| unit.name.clone()).collect();
    let workspace = units.first().and_then(|root| root.file.workspace.as_ref());
    let tier = workspace.and_then(|w| w.sandbox).unwrap_or(tier);
    let made = Made { names: Names::new(members), ..Made::default() };
    let mut maker = Maker { made, findings, tier, tables: 0, cache: Cache::default() };
    let made_bytes = Cell::new(0);
    let mut errors = vec![];
    let mut root_vars = FxHashMap::default();
    for (member, unit) in units.iter().enumerate() {
        maker.made.torn |= unit.file.torn;
        let vars = vars::resolve(&unit.file.vars, &root_vars, &made_bytes, &mut errors);
        errors.drain(..).for_each(|e| maker.findings.plain(e));
        maker.made.recipes.reserve(unit.file.tasks.len());
        maker.made.pending.reserve(unit.file.tasks.len());
        let scope = Scope { vars: &vars, variant: &[], made_bytes: &made_bytes };
        let mut left = MAX_TASKS;
        maker.cache.enter(&unit.dir);
        for table in &unit.file.tasks {
            maker.made.torn |= table.torn;
            maker.table(member, unit, table, &scope, &mut left);
        }
        if member == 0 {
            root_vars = vars;
        }
    }
    maker.made
}

struct Maker<'m> {
    made: Made,
    findings: &'m mut Findings,
    tier: Tier,
    tables: u32,
    cache: Cache,
}

impl Maker<'_> {
    fn table(&mut self, member: usize, unit: &Unit<'_>, table: &TaskTable<'_>, scope: &Scope<'_>, left: &mut usize) {
        if !is_task_name(&table.name) {
            let message = format!("`{}` cannot name a task", table.name);
            let error = WorkfileError::new(ErrorKind::BadName, table.place, message);
            self.findings.plain(error.hint("letters, digits, `_`, `.` and `-`"));
            self.made.torn = true;
            return;
        }
        let shared = self.shared(table);
        let task: Text = match &*unit.name {
            "" => (&*table.name).into(),
            member => format!("{member}:{}", table.name).into(),
        };
        let mut errors = vec![];
        let variants = matrix::expand(table, scope, *left, &mut errors);
        errors.drain(..).for_each(|e| self.findings.plain(e));
        self.made.torn |= variants.is_none();
        let variants = variants.unwrap_or_default();
        *left -= variants.len();
        let first = self.made.recipes.len();
        for variant in variants {
            let scope = Scope { variant: &variant, ..*scope };
            let name = if variant.is_empty() { task.clone() } else { variant_name(&task, &variant) };
            let mut making = Making { table, scope, cache: &mut self.cache, errors, torn: false };
            let (mut recipe, mut pending) = making.recipe(name, &task, member, &shared);
            self.made.torn |= making.torn;
            errors = making.errors;
            let number = self.made.recipes.len();
            errors.drain(..).for_each(|e| self.findings.add(number, !variant.is_empty(), e));
            recipe.variant = variant;
            pending.table = self.tables;
            self.made.recipes.push(recipe);
            self.made.pending.push(pending);
        }
        self.tables += 1;
        let names = self.made.recipes[first..].iter().map(|recipe| recipe.name.clone());
        self.made.names.add(task, member, &shared.tags, names);
    }

    /// Checks what is the same in all variants.
    fn shared(&mut self, table: &TaskTable<'_>) -> Shared {
        let task = &table.name;
        let mut bad = |kind, place, message: String, hint: &str| {
            let error = WorkfileError::new(kind, place, message);
            self.findings.plain(if hint.is_empty() { error } else { error.hint(hint) });
        };
        for tag in &table.tags {
            if !is_task_name(&tag.text) {
                let message = format!("`{}` cannot be a tag", tag.text);
                bad(ErrorKind::BadName, tag.place, message, "letters, digits, `_`, `.` and `-`");
            }
        }
        for name in table.env.iter().map(|(name, _)| name).chain(&table.pass_env).chain(&table.secret_env) {
            if name.text.is_empty() || name.text.contains(['=', '\0']) {
                let message = format!("`{}` cannot name an environment variable", name.text);
                bad(ErrorKind::BadName, name.place, message, "");
            }
        }
        for name in &table.secret_env {
            let twice = [
                ("env", table.env.iter().any(|(n, _)| n.text == name.text)),
                ("pass-env", table.pass_env.iter().any(|n| n.text == name.text)),
            ];
            for (key, _) in twice.into_iter().filter(|(_, is_there)| *is_there) {
                let message = format!("`{}` is in `secret-env` and in `{key}` of task `{task}`", name.text);
                bad(ErrorKind::BadValue, name.place, message, "a value is secret, or part of the id");
            }
        }
        for name in table.slots.keys().filter(|name| !name.is_empty() && !is_task_name(name)) {
            let message = format!("`{name}` cannot name slots");
            bad(ErrorKind::BadName, table.key_place("slots"), message, "letters, digits, `_`, `.` and `-`");
        }
        let run = table.has("run") || table.has("steps");
        if !run {
            let extra: Vec<_> = table.keys.iter().filter(|(k, _)| !GROUP_KEYS.contains(k)).collect();
            if let Some((_, place)) = extra.first() {
                let keys = extra.iter().map(|(k, _)| format!("`{k}`")).collect::<Vec<_>>().join(", ");
                let message = format!("task `{task}` has {keys} but no `run`");
                bad(ErrorKind::Empty, *place, message, "without `run` or `steps` a task only groups what it `needs`");
            } else if !table.torn && !table.has("needs") {
                let message = format!("task `{task}` has neither `run` nor `needs`");
                bad(ErrorKind::Empty, table.place, message, "say what to `run`, or which tasks it groups");
            }
        }
        if let Some(when) = table.when {
            if !table.has("after") {
                let message = format!("task `{task}` has `when`, but comes after no task");
                let hint = "list the tasks it watches in `after`";
                bad(ErrorKind::Empty, table.key_place("when"), message, hint);
            }
            if table.cache == Some(true) {
                let message = format!("task `{task}` runs on `{}`, and is to be cached", when.name());
                let hint = "whether it runs is up to the run it is in: leave out `cache`";
                bad(ErrorKind::BadValue, table.key_place("cache"), message, hint);
            }
        }
        if table.backoff.is_some() && table.retries.unwrap_or(0) == 0 {
            let message = format!("task `{task}` has `backoff`, but is never tried again");
            bad(ErrorKind::BadValue, table.key_place("backoff"), message, "say how often: `retries = 3`");
        }
        Shared {
            tags: self.cache.texts(&table.tags),
            key_places: table.keys.as_slice().into(),
            policy: Policy {
                timeout: table.timeout,
                retries: table.retries.unwrap_or(0),
                backoff: table.backoff,
                when: table.when.unwrap_or_default(),
                cache: table.cache.unwrap_or(table.when.is_none()),
                slots: table.slots.clone(),
                mute: table.mute.unwrap_or(false),
            },
            tier: table.sandbox.unwrap_or(self.tier),
            run,
        }
    }
}

/// Whether a text can name a task, a member or a tag.
pub(crate) fn is_task_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

fn variant_name(task: &str, variant: &[(Text, Text)]) -> Text {
    let mut name = String::with_capacity(task.len() + 2 + variant.iter().map(|v| v.1.len() + 1).sum::<usize>());
    name.push_str(task);
    for (i, (_, value)) in variant.iter().enumerate() {
        name.push(if i == 0 { '[' } else { ',' });
        name.push_str(value);
    }
    name.push(']');
    name.into()
}
