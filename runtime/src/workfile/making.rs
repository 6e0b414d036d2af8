//! One recipe from one table and one variant of it: texts substituted, and read as what they mean.
//!
//! Knows a table; unaware of other tasks.

mod files;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, Place, WorkfileError};
use super::globs::{self, Pattern};
use super::lower::Disk;
use super::model::{Run, Str, TaskTable};
use super::params::Param;
use super::paths::{self, PathError, Spot};
use super::recipe::{Recipe, Sources, Stdin};
use super::vars::{self, Scope};
use crate::narrow::Depfile;
use crate::process::{OutputKind, OutputSpec, Tier};
use crate::task::Policy;
use crate::value::Text;

/// What runs a `run` that is a string.
pub(crate) const SHELL: [&str; 2] = ["sh", "-euc"];

/// What of a recipe still waits for the others.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Number of the table it was made from.
    pub(crate) table: u32,
    pub(crate) needs: Vec<(Text, Place)>,
    pub(crate) after: Vec<(Text, Place)>,
    /// Tasks whose printed text it takes.
    pub(crate) printed: Vec<(Text, Place)>,
    pub(crate) inputs: Vec<Input>,
    /// Standard input, if a path; also the source it is until a task is found to make it.
    pub(crate) stdin: Option<Input>,
    /// For each output, where it is written, and its pattern if it has one.
    pub(crate) outputs: Vec<(Place, Option<Pattern>)>,
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
    /// A file or folder; surely a folder when it is written with a slash at the end.
    Path { path: Text, folder: bool },
    /// Files of a form.
    Form(Pattern),
}

/// What all recipes of one table share.
pub(crate) struct Shared {
    pub(crate) tags: Arc<[Text]>,
    pub(crate) key_places: Arc<[(&'static str, Place)]>,
    pub(crate) templates_in: Arc<[usize]>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) tier: Tier,
    /// Whether it runs anything, or only groups.
    pub(crate) run: bool,
    pub(crate) params: Arc<[Param]>,
    /// Whether it is done elsewhere.
    pub(crate) external: bool,
}

/// What the recipes of a file have in common, made once.
pub(crate) struct Cache {
    /// The folder of the file.
    pub(super) dir: Text,
    pub(super) shell: Vec<Text>,
    none: Arc<[Text]>,
    /// The last one: most tasks of a file are handled alike.
    policy: Arc<Policy>,
    /// What texts with wildcards mean in that folder.
    spots: FxHashMap<String, Vec<Spot>>,
}

impl Default for Cache {
    fn default() -> Self {
        let shell = SHELL.iter().map(|text| Text::from(*text)).collect();
        Self { dir: "".into(), shell, none: Arc::from([]), policy: Arc::default(), spots: FxHashMap::default() }
    }
}

impl Cache {
    /// Goes on with the file in another folder.
    pub(crate) fn enter(&mut self, dir: &str) {
        self.dir = dir.into();
        self.spots.clear();
    }

    /// Texts as they are written.
    pub(crate) fn texts(&self, texts: &[Str<'_>]) -> Arc<[Text]> {
        if texts.is_empty() { self.none.clone() } else { texts.iter().map(|t| Text::from(&*t.text)).collect() }
    }

    /// How a task is handled.
    pub(crate) fn policy(&mut self, policy: Policy) -> Arc<Policy> {
        if *self.policy != policy {
            self.policy = Arc::new(policy);
        }
        Arc::clone(&self.policy)
    }

    fn read(&mut self, text: &str, out: &mut Vec<Spot>) -> Result<(), PathError> {
        if !globs::is_special(text) {
            return paths::read(&self.dir, text, out);
        }
        if let Some(known) = self.spots.get(text) {
            out.extend_from_slice(known);
            return Ok(());
        }
        let from = out.len();
        paths::read(&self.dir, text, out)?;
        self.spots.insert(text.to_owned(), out[from..].to_vec());
        Ok(())
    }
}

/// Makes one recipe.
pub(crate) struct Making<'m, 'a, 'd> {
    pub(crate) table: &'m TaskTable<'a>,
    pub(crate) scope: Scope<'m>,
    pub(crate) cache: &'m mut Cache,
    /// Where environment files are.
    pub(crate) disk: &'m mut Disk<'d>,
    /// What is wrong with it.
    pub(crate) errors: Vec<WorkfileError>,
    /// Whether outputs are missing that it should have.
    pub(crate) torn: bool,
}

impl Making<'_, '_, '_> {
    /// The recipe called `name`.
    pub(crate) fn recipe(&mut self, name: Text, task: &Text, member: usize, shared: &Shared) -> (Recipe, Pending) {
        let table = self.table;
        let mut pending = Pending::default();
        let (mut sources, mut outputs) = (Sources::default(), vec![]);
        if shared.run || (shared.external && table.inputs.is_some()) {
            self.inputs(&mut sources, &mut pending);
        }
        if shared.run || shared.external || table.fetch.is_some() || table.awaits.is_some() {
            self.outputs(&mut outputs, &mut pending);
        }
        if let Some(awaited) = &table.awaits {
            self.check_awaited(awaited, &outputs, &pending);
        }
        let mut file = |key: &str, text: Option<&Str<'_>>| {
            let (path, place) = self.one_path(key, text?)?;
            if !outputs.iter().any(|o: &OutputSpec| o.path == path && o.kind == OutputKind::File) {
                pending.outputs.push((place, None));
                outputs.push(OutputSpec { path: path.clone(), kind: OutputKind::File, optional: false });
            }
            Some(path)
        };
        let stdout = file("stdout", table.stdout.as_ref());
        let depfile = file("depfile", table.depfile.as_ref());
        let named = |input: &Input| match &input.what {
            What::Path { path, .. } => Some(path.clone()),
            What::Form(_) => None,
        };
        let depfile = depfile.map(|path| Depfile { path, always: pending.inputs.iter().filter_map(named).collect() });
        let stdin = table.stdin.as_ref().and_then(|text| self.stdin(text, &mut pending));
        pending.needs = self.selectors(&table.needs);
        pending.after = self.selectors(&table.after);
        let dir = match &table.dir {
            None => Some(self.cache.dir.clone()),
            Some(text) => self.folder(text),
        };
        let (mut env, env_files) = self.env_files();
        for (name, value) in &table.env {
            if let Some(value) = self.promising(value, &mut pending) {
                env.insert(Text::from(&*name.text), value);
            }
        }
        let (act, urls) = self.act(shared, &outputs);
        let recipe = Recipe {
            name,
            task: task.clone(),
            member,
            variant: vec![],
            description: table.description.as_ref().and_then(|text| self.text(text)),
            tags: shared.tags.clone(),
            place: table.place,
            key_places: shared.key_places.clone(),
            templates_in: shared.templates_in.clone(),
            act,
            urls: urls.into(),
            steps: self.steps(&mut pending),
            env,
            pass_env: table.pass_env.iter().map(|name| (&*name.text).into()).collect(),
            secret_env: table.secret_env.iter().map(|name| (&*name.text).into()).collect(),
            dir: dir.unwrap_or_default(),
            stdin,
            stdout,
            depfile,
            tools: self.tools(),
            sources,
            from: vec![],
            printed: vec![],
            needs: vec![],
            after: vec![],
            outputs,
            policy: shared.policy.clone(),
            tier: shared.tier,
            network: table.network.unwrap_or(false),
            publish: table.publish.unwrap_or(false),
            params: shared.params.clone(),
            lacks: vec![],
            env_files,
            left_out: None,
            without: vec![],
        };
        (recipe, pending)
    }

    /// The text with its variables, which must be known before anything runs.
    fn expand<'t>(&mut self, text: &'t Str<'_>) -> Option<Cow<'t, str>> {
        let expanded = self.scope.expand(text, &mut self.errors)?;
        if !vars::is_promised(&expanded) {
            return Some(expanded);
        }
        let message = format!("task `{}` cannot have what a task prints here: it is not known yet", self.table.name);
        let error = WorkfileError::new(ErrorKind::Variable, text.place, message);
        self.errors
            .push(error.hint("`{{needs.TASK.stdout}}` may stand in `run`, `steps` and `env`, and alone as `stdin`"));
        None
    }

    pub(super) fn text(&mut self, text: &Str<'_>) -> Option<Text> {
        self.expand(text).map(|text| (&*text).into())
    }

    /// A text that may hold what tasks will print.
    fn promising(&mut self, text: &Str<'_>, pending: &mut Pending) -> Option<Text> {
        let expanded = self.scope.expand(text, &mut self.errors)?;
        pending.printed.extend(vars::parts(&expanded).skip(1).step_by(2).map(|task| (task.into(), text.place)));
        Some((&*expanded).into())
    }

    fn stdin(&mut self, text: &Str<'_>, pending: &mut Pending) -> Option<Stdin> {
        if text.text.starts_with("{{needs.") {
            let written = self.promising(text, pending)?;
            if let ["", task, ""] = vars::parts(&written).collect::<Vec<_>>()[..] {
                return Some(Stdin::Printed(task.into()));
            }
        }
        let (path, place) = self.one_path("stdin", text)?;
        pending.stdin = Some(Input { place, what: What::Path { path: path.clone(), folder: false } });
        Some(Stdin::Source(path))
    }

    /// The variables of its environment files, those of later ones winning.
    fn env_files(&mut self) -> (BTreeMap<Text, Text>, Vec<Text>) {
        let (mut out, mut files) = (BTreeMap::new(), vec![]);
        for text in &self.table.env_file {
            let Some((path, place)) = self.one_path("env-file", text) else { continue };
            match self.disk.env_file(&path) {
                Ok(vars) => out.extend(vars.iter().cloned()),
                Err(why) => {
                    let message = format!("env-file `{path}` of task `{}` {why}", self.table.name);
                    self.errors.push(WorkfileError::new(ErrorKind::Io, place, message));
                }
            }
            files.push(path);
        }
        (out, files)
    }

    fn steps(&mut self, pending: &mut Pending) -> Vec<Vec<Text>> {
        let table = self.table;
        let mut steps = Vec::with_capacity(table.steps.len());
        for run in &table.steps {
            steps.push(match run {
                Run::Argv(argv) => argv.iter().filter_map(|text| self.promising(text, pending)).collect(),
                Run::Shell(text) => {
                    let mut argv: Vec<Text> = match &table.shell {
                        Some(shell) => shell.iter().filter_map(|text| self.text(text)).collect(),
                        None => {
                            let mut argv = Vec::with_capacity(SHELL.len() + 1);
                            argv.extend_from_slice(&self.cache.shell);
                            argv
                        }
                    };
                    argv.extend(self.promising(text, pending));
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
}

/// Folders that are never inputs or outputs.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(name, ".git" | ".quipu")
}
