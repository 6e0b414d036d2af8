//! Tables to recipes: matrices and variables expanded, texts made paths and patterns, defaults put in.
//!
//! Knows one file at a time; what involves several tasks is for [`super::edges`] and [`super::order`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::condition;
use super::env_file;
use super::errors::{ErrorKind, SourceFile, WorkfileError, near};
use super::findings::Findings;
use super::inherit::Templates;
use super::making::{Cache, Making, Pending};
use super::matrix::{self, MAX_TASKS};
use super::model::{File, MemberEntry, ParamTable, Str, TaskTable, When};
use super::params::{self, Given, Param};
use super::recipe::Recipe;
use super::select;
use super::vars::{self, Names, Scope};
use crate::process::Tier;
use crate::value::Text;

/// How tasks are isolated when neither they, nor the workspace, nor whoever loads it says.
pub const DEFAULT_TIER: Tier = Tier::Ns;
/// One workfile: the root's, a member's, or one that is included.
pub(crate) struct Unit<'a> {
    /// Empty for the root.
    pub(crate) name: Text,
    /// What its paths are relative to, itself relative to the workspace root; empty for the root.
    pub(crate) dir: String,
    pub(crate) file: File<'a>,
    /// The unit it belongs to, which comes before it; the root is its own.
    pub(crate) parent: usize,
    /// Which entries of the root's `members` mean it.
    pub(crate) entries: &'a [usize],
    /// Whether it is included, and no member.
    pub(crate) included: bool,
}

/// The variables of an environment file, or what is wrong with it.
type EnvFile = Result<Arc<[(Text, Text)]>, String>;

/// Where environment files are read from, each once.
pub(crate) struct Disk<'d> {
    pub(crate) root: &'d Path,
    /// All files that were read.
    pub(crate) files: &'d mut Vec<SourceFile>,
    pub(crate) known: FxHashMap<Text, EnvFile>,
}

impl Disk<'_> {
    /// The variables of an environment file, or what is wrong with it.
    pub(crate) fn env_file(&mut self, path: &Text) -> EnvFile {
        if let Some(known) = self.known.get(path) {
            return known.clone();
        }
        let found = self.read(path).and_then(|text| {
            let vars = env_file::parse(&text).map_err(|(line, why)| format!("is none: line {line} {why}"))?;
            self.files.push(SourceFile { path: path.to_string(), text: text.into() });
            Ok(vars.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
        });
        self.known.insert(path.clone(), found.clone());
        found
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let path = self.root.join(path);
        let size = path.metadata().map_err(|why| format!("cannot be read: {why}"))?.len();
        if size > env_file::MAX_BYTES as u64 {
            return Err(format!("has more than {} bytes", env_file::MAX_BYTES));
        }
        std::fs::read_to_string(path).map_err(|why| format!("cannot be read: {why}"))
    }
}

/// All recipes of a workspace, not yet linked.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) recipes: Vec<Recipe>,
    /// For each recipe, what still waits for the others.
    pub(crate) pending: Vec<Pending>,
    pub(crate) names: select::Names,
    /// Params of files.
    pub(crate) params: Vec<Param>,
    /// Names of all params there are.
    pub(crate) param_names: BTreeSet<Text>,
    /// What a person should know although nothing is wrong.
    pub(crate) warnings: Vec<String>,
    /// Whether something could not be read on which other tasks' correctness hangs.
    pub(crate) torn: bool,
}

/// Makes the recipes of all units, in the order they are written; the first unit is the root. Tasks are in
/// the tier that is given unless they or the workspace say otherwise.
pub(crate) fn make(units: &[Unit<'_>], given: &Given, disk: &mut Disk<'_>, findings: &mut Findings) -> Made {
    let made_bytes = Cell::new(0);
    let mut maker = Maker::new(units, given, disk, findings, &made_bytes);
    let mut names: Vec<Names> = vec![];
    for (at, unit) in units.iter().enumerate() {
        maker.made.torn |= unit.file.torn;
        let own = maker.file_names(unit, names.get(unit.parent).cloned().unwrap_or_default());
        maker.made.recipes.reserve(unit.file.tasks.len());
        maker.made.pending.reserve(unit.file.tasks.len());
        let mut left = MAX_TASKS;
        maker.cache.enter(&unit.dir);
        for table in &unit.file.tasks {
            maker.made.torn |= table.torn;
            maker.table(at, unit, table, &own, &mut left);
        }
        names.push(own);
    }
    maker.made.warnings.dedup();
    maker.made
}

pub(super) struct Maker<'m, 'u, 'a, 'd> {
    pub(super) made: Made,
    pub(super) findings: &'m mut Findings,
    pub(super) given: &'m Given,
    pub(super) disk: &'m mut Disk<'d>,
    pub(super) platform: (Text, Text),
    pub(super) templates: Templates<'u, 'a>,
    /// What the workspace says of its members.
    pub(super) entries: &'u [MemberEntry<'a>],
    pub(super) made_bytes: &'m Cell<usize>,
    pub(super) tier: Tier,
    pub(super) tables: u32,
    pub(super) cache: Cache,
}

impl<'m, 'u, 'a, 'd> Maker<'m, 'u, 'a, 'd> {
    pub(super) fn new(
        units: &'u [Unit<'a>],
        given: &'m Given,
        disk: &'m mut Disk<'d>,
        findings: &'m mut Findings,
        made_bytes: &'m Cell<usize>,
    ) -> Self {
        let members = units.iter().map(|unit| unit.name.clone()).collect();
        let workspace = units.first().and_then(|root| root.file.workspace.as_ref());
        Self {
            made: Made { names: select::Names::new(members), ..Made::default() },
            findings,
            given,
            disk,
            platform: given.platform(),
            templates: Templates::new(units),
            entries: workspace.map_or(&[], |w| &w.members),
            made_bytes,
            tier: workspace.and_then(|w| w.sandbox).or(given.tier).unwrap_or(DEFAULT_TIER),
            tables: 0,
            cache: Cache::default(),
        }
    }

    /// The names that all tasks of a file know.
    pub(super) fn file_names(&mut self, unit: &Unit<'a>, mut names: Names) -> Names {
        let mut errors = vec![];
        let lacks = RefCell::default();
        for entry in unit.entries.iter().filter_map(|i| self.entries.get(*i)) {
            let above = Scope { names: &names, variant: &[], made_bytes: self.made_bytes, lacks: &lacks };
            names = vars::resolve(&entry.vars, above, &mut errors);
        }
        let params = self.params(&unit.file.params, &mut errors);
        for param in &params {
            names.param(param);
        }
        for table in &unit.file.params {
            if let Some((there, _)) = unit.file.vars.iter().find(|(name, _)| name.text == table.name.text) {
                let message = format!("`{}` is a param and a variable", table.name.text);
                let error = WorkfileError::new(ErrorKind::Duplicate, table.name.place, message);
                errors.push(error.see(there.place, "the variable is here"));
            }
        }
        self.made.params.extend(params);
        let above = Scope { names: &names, variant: &[], made_bytes: self.made_bytes, lacks: &lacks };
        let names = vars::resolve(&unit.file.vars, above, &mut errors);
        errors.drain(..).for_each(|e| self.findings.plain(e));
        names
    }

    pub(super) fn params(&mut self, tables: &[ParamTable<'_>], errors: &mut Vec<WorkfileError>) -> Vec<Param> {
        let settle = |table| params::settle(table, self.given, &mut self.made.warnings, errors);
        let params: Vec<Param> = tables.iter().map(settle).collect();
        self.made.param_names.extend(params.iter().map(|p| p.name.clone()));
        params
    }

    fn table(&mut self, at: usize, unit: &Unit<'a>, table: &TaskTable<'a>, names: &Names, left: &mut usize) {
        if !is_task_name(&table.name) {
            let message = format!("`{}` cannot name a task", table.name);
            let error = WorkfileError::new(ErrorKind::BadName, table.place, message);
            self.findings.plain(error.hint("letters, digits, `_`, `.` and `-`"));
            self.made.torn = true;
            return;
        }
        let entries = self.entries;
        let entries = || unit.entries.iter().filter_map(|i| entries.get(*i));
        let bases: Vec<&Str<'a>> = entries().flat_map(|entry| &entry.extends).collect();
        let tags: Vec<&Str<'a>> = entries().flat_map(|entry| &entry.tags).collect();
        let mut errors = vec![];
        let whole = self.templates.of(at, table, &bases, None, &mut errors);
        let picks = Templates::picks(table, &bases);
        self.made.torn |= !errors.is_empty();
        let shared = if picks { None } else { Some(self.shared(&whole, &tags, &mut errors)) };
        let task: Text = match &*unit.name {
            "" => (&*table.name).into(),
            member => format!("{member}:{}", table.name).into(),
        };
        let lacks = RefCell::default();
        let base = Scope { names, variant: &[], made_bytes: self.made_bytes, lacks: &lacks };
        // What depends on the variant is not known here; what is wrong with it is found below.
        let params = shared.as_ref().map(|s| s.params.clone());
        let own = own_names(&whole, params.as_deref().unwrap_or_default(), base, &mut vec![]);
        let variants =
            matrix::expand(&whole, &Scope { names: own.as_ref().unwrap_or(names), ..base }, *left, &mut errors);
        errors.drain(..).for_each(|e| self.findings.plain(e));
        let matrix_lacks = lacks.take();
        self.made.torn |= variants.is_none();
        let variants = variants.unwrap_or_default();
        *left -= variants.len();
        let first = self.made.recipes.len();
        let mut all_tags = shared.as_ref().map(|s| s.tags.clone());
        for variant in variants {
            let scope = Scope { variant: &variant, ..base };
            let (picked, of_picked);
            let (table, shared) = match &shared {
                Some(shared) => (&*whole, shared),
                None => {
                    picked = self.templates.of(at, table, &bases, Some(&scope), &mut errors);
                    of_picked = self.shared(&picked, &tags, &mut errors);
                    (&*picked, &of_picked)
                }
            };
            all_tags.get_or_insert_with(|| shared.tags.clone());
            let own = own_names(table, &shared.params, scope, &mut errors);
            let scope = Scope { names: own.as_ref().unwrap_or(names), ..scope };
            let name = if variant.is_empty() { task.clone() } else { variant_name(&task, &variant) };
            let left_out = condition(table, &scope, &self.platform, &mut errors);
            let mut making =
                Making { table, scope, cache: &mut self.cache, disk: &mut *self.disk, errors, torn: false };
            let (mut recipe, mut pending) = making.recipe(name, &task, at, shared);
            self.made.torn |= making.torn;
            errors = making.errors;
            let number = self.made.recipes.len();
            errors.drain(..).for_each(|e| self.findings.add(number, !variant.is_empty(), e));
            recipe.left_out = left_out;
            recipe.lacks = lacks.take();
            recipe.lacks.extend(matrix_lacks.iter().cloned());
            recipe.variant = variant;
            pending.table = self.tables;
            self.made.recipes.push(recipe);
            self.made.pending.push(pending);
        }
        self.tables += 1;
        let names = self.made.recipes[first..].iter().map(|recipe| recipe.name.clone());
        self.made.names.add(task, at, &all_tags.unwrap_or_default(), names);
    }
}

/// The names of a table, when it has any of its own.
pub(super) fn own_names(
    table: &TaskTable<'_>,
    params: &[Param],
    scope: Scope<'_>,
    errors: &mut Vec<WorkfileError>,
) -> Option<Names> {
    if table.vars.is_empty() && params.is_empty() {
        return None;
    }
    let mut names = scope.names.clone();
    params.iter().for_each(|param| names.param(param));
    Some(vars::resolve(&table.vars, Scope { names: &names, ..scope }, errors))
}

/// Why a task is left out, if its `when` says so.
fn condition(
    table: &TaskTable<'_>,
    scope: &Scope<'_>,
    platform: &(Text, Text),
    errors: &mut Vec<WorkfileError>,
) -> Option<Text> {
    let text = match table.when.as_ref()? {
        When::Fixed(true) => return None,
        When::Fixed(false) => return Some("its `when` is false".into()),
        When::Ending(_) => return None,
        When::Condition(text) => text,
    };
    let look = |name: &str| match name {
        "platform.os" => Some(platform.0.to_string()),
        "platform.arch" => Some(platform.1.to_string()),
        name => {
            scope.note(name, text.place);
            scope.find(name).map(Text::to_string)
        }
    };
    match condition::evaluate(&text.text, &look) {
        Ok(outcome) if outcome.holds => None,
        Ok(outcome) => {
            let saw: Vec<String> = outcome.saw.iter().map(|(name, value)| format!("{name} is `{value}`")).collect();
            let saw = if saw.is_empty() { String::new() } else { format!(": {}", saw.join(", ")) };
            Some(format!("`{}` does not hold{saw}", text.text).into())
        }
        Err(why) => {
            let message = format!("`when` of task `{}` {}", table.name, why.why);
            let error = WorkfileError::new(ErrorKind::BadValue, vars::part(text, why.at, why.at + 1), message);
            let known = scope.known().chain(["platform.os", "platform.arch"]);
            let hint = why.unknown.as_deref().map(|name| near(name, known));
            let hint = hint.map(|h| h.unwrap_or_else(|| "texts stand in quotes".to_owned()));
            errors.push(error.maybe_hint(hint));
            None
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
