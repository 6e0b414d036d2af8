//! Tables to recipes: matrices and variables expanded, texts made paths and patterns, defaults put in.
//!
//! Knows one file at a time; what involves several tasks is for [`super::edges`] and [`super::order`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, Place, WorkfileError};
use super::globs::{Comp, Pattern};
use super::matrix::{self, MAX_TASKS};
use super::model::{File, Run, Str, TaskTable};
use super::outputs::components;
use super::paths::{self, PathError, Spot};
use super::recipe::{Recipe, Sources, Stdin};
use super::select::Names;
use super::vars::{self, Scope};
use crate::process::{OutputKind, OutputSpec, Tier};
use crate::task::Policy;
use crate::value::Text;

/// How tasks are isolated when neither they nor the workspace say.
pub const DEFAULT_TIER: Tier = Tier::None;
/// What runs a `run` that is a string.
const SHELL: [&str; 2] = ["sh", "-euc"];
/// Keys a task may have that runs nothing.
const GROUP_KEYS: [&str; 4] = ["description", "tags", "needs", "matrix"];

/// One member and its file.
pub(crate) struct Unit<'a> {
    /// Empty for the root.
    pub(crate) name: Text,
    /// Its folder, relative to the workspace root; empty for the root.
    pub(crate) dir: String,
    pub(crate) file: File<'a>,
}

/// What of a recipe still waits for the others.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Number of the table it was made from.
    pub(crate) table: u32,
    pub(crate) needs: Vec<(Text, Place)>,
    pub(crate) after: Vec<(Text, Place)>,
    pub(crate) inputs: Vec<Input>,
    /// Standard input, if a path; also the source it is until a task is found to make it.
    pub(crate) stdin: Option<Input>,
    /// For each output, where it is written and its components.
    pub(crate) outputs: Vec<(Place, Vec<Comp>)>,
}

/// A positive input.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) place: Place,
    pub(crate) what: What,
}

/// What an input means.
#[derive(Debug)]
pub(crate) enum What {
    /// A file or folder.
    Path(Text),
    /// Files of a form.
    Form(Pattern),
}

/// Errors found while lowering, with those that several variants of a task share told once.
#[derive(Default)]
pub(crate) struct Findings {
    errors: Vec<WorkfileError>,
    /// By kind and place: which recipe had it first, which error it is, and in how many others it is the same.
    seen: FxHashMap<(ErrorKind, Place), (usize, usize, usize)>,
}

impl Findings {
    /// Adds an error of one recipe.
    pub(crate) fn add(&mut self, recipe: usize, variants: bool, error: WorkfileError) {
        if variants {
            let known = self.seen.entry((error.kind, error.place)).or_insert((recipe, self.errors.len(), 0));
            if known.0 != recipe {
                known.2 += 1;
                return;
            }
        }
        self.errors.push(error);
    }

    /// Adds an error that is of no recipe.
    pub(crate) fn plain(&mut self, error: WorkfileError) {
        self.errors.push(error);
    }

    pub(crate) fn len(&self) -> usize {
        self.errors.len()
    }

    pub(crate) fn finish(mut self) -> Vec<WorkfileError> {
        for (_, error, more) in self.seen.into_values().filter(|s| s.2 > 0) {
            let variants = if more == 1 { "variant" } else { "variants" };
            self.errors[error].hints.push(format!("the same for {more} more {variants} of the task"));
        }
        self.errors
    }
}

/// What all recipes of one table share.
struct Shared {
    tags: Arc<[Text]>,
    key_places: Arc<[(&'static str, Place)]>,
    policy: Policy,
    tier: Tier,
    run: bool,
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

/// Makes the recipes of all units, in the order they are written; the first unit is the root.
pub(crate) fn make(units: &[Unit<'_>], findings: &mut Findings) -> Made {
    let members = units.iter().map(|unit| unit.name.clone()).collect();
    let workspace = units.first().and_then(|root| root.file.workspace.as_ref());
    let tier = workspace.and_then(|w| w.sandbox).unwrap_or(DEFAULT_TIER);
    let made = Made { names: Names::new(members), ..Made::default() };
    let mut maker = Maker { made, findings, tier, tables: 0, scratch: vec![] };
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
    /// Kept to be used again.
    scratch: Vec<WorkfileError>,
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
        let prefix = if unit.name.is_empty() { String::new() } else { format!("{}:", unit.name) };
        let task: Text = format!("{prefix}{}", table.name).into();
        let mut errors = std::mem::take(&mut self.scratch);
        let variants = matrix::expand(table, scope, *left, &mut errors);
        errors.drain(..).for_each(|e| self.findings.plain(e));
        self.made.torn |= variants.is_none();
        let variants = variants.unwrap_or_default();
        *left -= variants.len();
        let mut names = Vec::with_capacity(variants.len());
        for variant in variants {
            let scope = Scope { variant: &variant, ..*scope };
            let name = if variant.is_empty() { task.clone() } else { variant_name(&task, &variant) };
            names.push(name.clone());
            let mut making = Making { table, dir: &unit.dir, scope, errors, torn: false };
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
        self.scratch = errors;
        self.tables += 1;
        self.made.names.add(task, member, &shared.tags, names.into_iter());
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
        for name in table.env.iter().map(|(name, _)| name).chain(&table.pass_env) {
            if name.text.is_empty() || name.text.contains(['=', '\0']) {
                let message = format!("`{}` cannot name an environment variable", name.text);
                bad(ErrorKind::BadName, name.place, message, "");
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
        Shared {
            tags: table.tags.iter().map(|t| Text::from(&*t.text)).collect(),
            key_places: table.keys.as_slice().into(),
            policy: Policy {
                timeout: table.timeout,
                retries: table.retries.unwrap_or(0),
                cache: table.cache.unwrap_or(true),
                slots: table.slots.clone(),
                mute: table.mute.unwrap_or(false),
            },
            tier: table.sandbox.unwrap_or(self.tier),
            run,
        }
    }
}

/// Makes one recipe.
struct Making<'m, 'a> {
    table: &'m TaskTable<'a>,
    dir: &'m str,
    scope: Scope<'m>,
    errors: Vec<WorkfileError>,
    torn: bool,
}

impl Making<'_, '_> {
    fn recipe(&mut self, name: Text, task: &Text, member: usize, shared: &Shared) -> (Recipe, Pending) {
        let table = self.table;
        let mut pending = Pending::default();
        let (mut sources, mut outputs) = (Sources::default(), vec![]);
        if shared.run {
            self.inputs(&mut sources, &mut pending);
            self.outputs(&mut outputs, &mut pending);
        }
        let stdout = table.stdout.as_ref().and_then(|text| self.one_path("stdout", text)).map(|(path, place)| {
            if !outputs.iter().any(|o: &OutputSpec| o.path == path && o.kind == OutputKind::File) {
                pending.outputs.push((place, components(&path)));
                outputs.push(OutputSpec { path: path.clone(), kind: OutputKind::File, optional: false });
            }
            path
        });
        let stdin = table.stdin.as_ref().and_then(|text| self.one_path("stdin", text)).map(|(path, place)| {
            pending.stdin = Some(Input { place, what: What::Path(path.clone()) });
            Stdin::Source(path)
        });
        pending.needs = self.selectors(&table.needs);
        pending.after = self.selectors(&table.after);
        let dir = table.dir.as_ref().map_or_else(
            || Some(self.dir.into()),
            |text| {
                let written = self.scope.expand(text, &mut self.errors)?;
                let made = paths::normalise(self.dir, &written);
                made.map_err(|why| self.bad_path("dir", &written, text.place, &why)).ok().map(Text::from)
            },
        );
        let env: BTreeMap<Text, Text> =
            table.env.iter().filter_map(|(name, value)| Some(((&*name.text).into(), self.text(value)?))).collect();
        let recipe = Recipe {
            name,
            task: task.clone(),
            member,
            variant: vec![],
            description: table.description.as_ref().and_then(|text| self.text(text)),
            tags: shared.tags.clone(),
            place: table.place,
            key_places: shared.key_places.clone(),
            steps: self.steps(),
            env,
            pass_env: table.pass_env.iter().map(|name| (&*name.text).into()).collect(),
            dir: dir.unwrap_or_default(),
            stdin,
            stdout,
            tools: self.tools(),
            sources,
            from: vec![],
            needs: vec![],
            after: vec![],
            outputs,
            policy: shared.policy.clone(),
            tier: shared.tier,
            network: table.network.unwrap_or(false),
        };
        (recipe, pending)
    }

    fn text(&mut self, text: &Str<'_>) -> Option<Text> {
        self.scope.expand(text, &mut self.errors).map(|text| (&*text).into())
    }

    fn steps(&mut self) -> Vec<Vec<Text>> {
        let table = self.table;
        let mut steps = Vec::with_capacity(table.steps.len());
        for run in &table.steps {
            steps.push(match run {
                Run::Argv(argv) => argv.iter().filter_map(|text| self.text(text)).collect(),
                Run::Shell(text) => {
                    let mut argv: Vec<Text> = match &table.shell {
                        Some(shell) => shell.iter().filter_map(|text| self.text(text)).collect(),
                        None => SHELL.iter().map(|text| Text::from(*text)).collect(),
                    };
                    argv.extend(self.text(text));
                    argv
                }
            });
            let first = match run {
                Run::Argv(argv) => argv.first().map(|a| a.place),
                Run::Shell(text) => Some(text.place),
            };
            if let (Some(Some(program)), Some(place)) = (steps.last().map(|argv| argv.first()), first)
                && program.is_empty()
            {
                let message = format!("the program of task `{}` is an empty text", table.name);
                self.errors.push(WorkfileError::new(ErrorKind::Empty, place, message));
            }
        }
        steps
    }

    fn tools(&mut self) -> Vec<Text> {
        let mut tools: Vec<Text> = vec![];
        for text in &self.table.tools {
            let Some(tool) = self.text(text) else { continue };
            if tool.is_empty() || tool.chars().any(char::is_control) {
                let message = format!("`{tool}` cannot name a tool");
                self.errors.push(WorkfileError::new(ErrorKind::BadName, text.place, message));
            } else if !tools.contains(&tool) {
                tools.push(tool);
            }
        }
        tools
    }

    fn selectors(&mut self, texts: &[Str<'_>]) -> Vec<(Text, Place)> {
        texts.iter().filter_map(|text| Some((self.text(text)?, text.place))).collect()
    }

    fn inputs(&mut self, sources: &mut Sources, pending: &mut Pending) {
        let Some(inputs) = &self.table.inputs else {
            sources.default = true;
            return;
        };
        // Nothing but exclusions is the default without those.
        sources.default = !inputs.is_empty() && inputs.iter().all(|text| text.text.starts_with('!'));
        let mut spots = vec![];
        for text in inputs {
            let Some(written) = self.scope.expand(text, &mut self.errors) else { continue };
            let excluded = written.strip_prefix('!');
            if let Err(why) = paths::read(self.dir, excluded.unwrap_or(&written), &mut spots) {
                self.bad_path("input", &written, text.place, &why);
            }
            for spot in spots.drain(..) {
                match (spot, excluded.is_some()) {
                    (Spot::Literal { path, .. }, false) => {
                        pending.inputs.push(Input { place: text.place, what: What::Path(path) });
                    }
                    (Spot::Pattern { pattern, folder }, false) => {
                        let deep = pattern.comps().iter().cloned().chain(folder.then_some(Comp::Deep)).collect();
                        match Pattern::new(deep) {
                            Ok(pattern) => {
                                sources.globs.push(pattern.clone());
                                pending.inputs.push(Input { place: text.place, what: What::Form(pattern) });
                            }
                            Err(why) => self.bad_path("input", &written, text.place, &why.into()),
                        }
                    }
                    (Spot::Literal { path, .. }, true) => match Pattern::new(components(&path)) {
                        Ok(pattern) => sources.excludes.push(pattern),
                        Err(why) => self.bad_path("input", &written, text.place, &why.into()),
                    },
                    (Spot::Pattern { pattern, .. }, true) => sources.excludes.push(pattern),
                }
            }
        }
    }

    fn outputs(&mut self, outputs: &mut Vec<OutputSpec>, pending: &mut Pending) {
        let table = self.table;
        outputs.reserve_exact(table.outputs.len());
        let mut spots = vec![];
        for output in &table.outputs {
            let place = output.path.place;
            let Some(written) = self.scope.expand(&output.path, &mut self.errors) else {
                self.torn = true;
                continue;
            };
            let before = self.errors.len();
            if written.starts_with('!') {
                let message = format!("output `{written}` of task `{}` is an exclusion", table.name);
                let error = WorkfileError::new(ErrorKind::BadPath, place, message);
                self.errors.push(error.hint("outputs are what a task makes; leave out what it does not"));
            } else if let Err(why) = paths::read(self.dir, &written, &mut spots) {
                self.bad_path("output", &written, place, &why);
            }
            for spot in spots.drain(..) {
                let (path, kind, comps) = match spot {
                    Spot::Literal { path, folder } => {
                        let comps = components(&path);
                        (path, if folder { OutputKind::Dir } else { OutputKind::File }, comps)
                    }
                    Spot::Pattern { folder: true, .. } => {
                        let message = format!("output `{written}` of task `{}` is a glob of folders", table.name);
                        let error = WorkfileError::new(ErrorKind::BadGlob, place, message);
                        self.errors.push(error.hint("a glob takes files: name the folder, or end in `/**`"));
                        continue;
                    }
                    Spot::Pattern { pattern, .. } => {
                        (pattern.text().clone(), OutputKind::Glob, pattern.comps().to_vec())
                    }
                };
                let own = comps.iter().find_map(|c| match c {
                    Comp::Literal(name) if is_ours(name) => Some(name.clone()),
                    _ => None,
                });
                let why = match own {
                    _ if path.is_empty() => "is the whole workspace".to_owned(),
                    Some(name) => format!("lies in `{name}`"),
                    None => {
                        outputs.push(OutputSpec { path, kind, optional: output.optional });
                        pending.outputs.push((place, comps));
                        continue;
                    }
                };
                let message = format!("output `{written}` of task `{}` {why}", table.name);
                self.errors.push(WorkfileError::new(ErrorKind::BadPath, place, message));
            }
            self.torn |= self.errors.len() > before;
        }
    }

    /// A text that must be one path.
    fn one_path(&mut self, key: &str, text: &Str<'_>) -> Option<(Text, Place)> {
        let written = self.scope.expand(text, &mut self.errors)?;
        let mut spots = vec![];
        if let Err(why) = paths::read(self.dir, &written, &mut spots) {
            self.bad_path(key, &written, text.place, &why);
            return None;
        }
        match (spots.pop(), spots.is_empty()) {
            (Some(Spot::Literal { path, folder: false }), true) if !path.is_empty() => Some((path, text.place)),
            _ => {
                let message = format!("{key} `{written}` of task `{}` is not one file", self.table.name);
                self.errors.push(WorkfileError::new(ErrorKind::BadPath, text.place, message));
                None
            }
        }
    }

    fn bad_path(&mut self, key: &str, written: &str, place: Place, why: &PathError) {
        let kind = if matches!(why, PathError::Glob(_)) { ErrorKind::BadGlob } else { ErrorKind::BadPath };
        let message = format!("{key} `{written}` of task `{}` {why}", self.table.name);
        let error = WorkfileError::new(kind, place, message);
        self.errors.push(match why {
            PathError::Absolute | PathError::Outside => {
                error.hint("paths are relative to the folder of the workfile and stay in the workspace")
            }
            PathError::Glob(_) => error.hint("a backslash takes away a character's meaning: `\\\\[`"),
            _ => error,
        });
    }
}

/// Whether a text can name a task, a member or a tag.
pub(crate) fn is_task_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// Folders that are never inputs or outputs.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(name, ".git" | ".quipu")
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
