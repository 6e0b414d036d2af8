//! Workfiles: from `quipu.toml` and those of its members to recipes, and from those to a workflow.
//!
//! Text goes one way: [`parse`](self) -> tables -> recipes -> edges -> [`Workflow`](crate::workflow::Workflow).
//! All errors are found before anything runs, and all at once. Unaware of stores, plans and running.

mod acts;
mod braces;
mod condition;
mod duration;
mod edges;
mod env_file;
mod errors;
mod fetching;
mod findings;
mod folder;
pub mod globs;
mod include;
mod inherit;
mod looked;
mod lower;
mod making;
mod matrix;
mod members;
mod model;
mod order;
mod outputs;
mod params;
mod parse;
mod paths;
mod publish;
mod reach;
mod read_matrix;
mod read_params;
mod read_task;
mod read_wait;
mod reader;
mod recipe;
pub mod schema;
mod select;
mod services;
mod shared;
mod sources;
mod syntax;
#[cfg(test)]
mod tests;
mod vars;
mod wild;
mod workflow;
mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::edges::MAX_EDGES;
pub use self::errors::{ErrorKind, Faults, LoadError, MAX_SHOWN, Place, SourceFile, WorkfileError};
pub use self::include::Fetch;
pub use self::looked::{GitRules, Looked};
pub use self::lower::DEFAULT_TIER;
pub use self::matrix::MAX_TASKS;
pub use self::model::ParamKind;
pub use self::params::{Given, Param};
pub use self::parse::MAX_FILE_BYTES;
pub use self::reach::Affected;
pub use self::recipe::{Act, FromTask, Literal, Recipe, Sources, Stdin};
pub use self::select::SelectError;
pub use self::sources::SourceList;
pub use self::workflow::{DEFAULT_PATH, Surroundings, ToolAt, WorkflowError};
pub use self::written::{Origin, Texts, Used, Written};
use crate::graph::TaskIdx;
use crate::value::Text;

/// The name of every workfile.
pub const FILE_NAME: &str = "quipu.toml";

/// A workspace as its workfiles describe it.
#[derive(Debug)]
pub struct Loaded {
    /// The workspace root.
    pub root: PathBuf,
    /// The workfiles as they were read, the root's first, then those of members, then what these include, and
    /// environment files last.
    pub files: Vec<SourceFile>,
    /// The root, its members and what they include, in the order of `files`.
    pub members: Vec<Member>,
    /// The member whose folder loading started in.
    pub here: usize,
    /// What was looked at to find the members and what they include.
    pub looked: Looked,
    /// All recipes, in the order they are written.
    pub recipes: Vec<Recipe>,
    /// What the workspace says is made when nothing is asked for; groups stand as their members.
    pub default_goals: Option<Vec<usize>>,
    /// The name space of all tasks, a DID.
    pub subject: Text,
    /// Params of whole files, as they are in this run; those of a task stand in its recipe.
    pub params: Vec<Param>,
    /// What a person should know although nothing is wrong.
    pub warnings: Vec<String>,
    /// Which entries of the workspace's `members` mean each of `members`.
    entries: Vec<Vec<usize>>,
    given: Given,
    names: select::Names,
    outputs: Arc<outputs::Outputs>,
    /// The place of each recipe in the workflow; none for groups.
    nodes: Vec<Option<TaskIdx>>,
}

/// A workfile's name and the folder its paths are relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What its tasks' names start with; empty for the root.
    pub name: Text,
    /// What its paths are relative to, itself relative to the workspace root; empty for the root.
    pub dir: String,
    /// The one it belongs to: the root, or the file that includes it.
    pub parent: usize,
    /// Whether it is included, and no member: its folder is not its own.
    pub included: bool,
}

/// Finds the workspace of `start`, reads its workfiles and makes recipes of them; nobody gives params, and nothing
/// remote is included.
pub fn load(start: &Path) -> Result<Loaded, LoadError> {
    load_given(start, &Given::default(), &include::no_fetch)
}

/// Finds the workspace of `start`, reads its workfiles and makes recipes of them, with what is given from outside.
///
/// The nearest `quipu.toml` from `start` upwards is a root, or a member of the nearest workspace above that lists it.
pub fn load_given(start: &Path, given: &Given, fetch: Fetch<'_>) -> Result<Loaded, LoadError> {
    let start = start.canonicalize().map_err(|source| LoadError::Read { path: start.into(), source })?;
    let (root, here) = members::find_root(&start).ok_or_else(|| LoadError::NotFound(start.clone()))?;
    let path = root.join(FILE_NAME);
    let text = members::read(&path).map_err(|source| LoadError::Read { path, source })?;
    let root_file = SourceFile { path: FILE_NAME.into(), text: text.into() };
    let here = here.strip_prefix(&root).ok().and_then(Path::to_str).unwrap_or_default().to_owned();
    let folder = root.clone();
    let mut loaded = compile(root, root_file, given, fetch, |file, looked, errors| {
        let listed = file.workspace.as_ref().map_or(&[][..], |workspace| &workspace.members);
        let mut out = vec![];
        for members::Found { dir, place, entries } in members::find(&folder, listed, looked, errors) {
            let path = format!("{dir}/{FILE_NAME}");
            match members::read(&folder.join(&path)) {
                Ok(text) => {
                    let file = SourceFile { path, text: text.into() };
                    out.push(Listed { dir, place, file, name: None, parent: 0, entries });
                }
                Err(why) => errors.push(WorkfileError::new(ErrorKind::Io, place, format!("read `{path}`: {why}"))),
            }
        }
        out
    })?;
    loaded.here = loaded.members.iter().position(|member| member.dir == here).unwrap_or(0);
    Ok(loaded)
}

/// The root of the workspace that `start` is in, whether its workfiles are right or wrong.
pub fn root(start: &Path) -> Option<PathBuf> {
    members::find_root(&start.canonicalize().ok()?).map(|(root, _)| root)
}

/// The root of the workspace that lists the folder `dir` as a member, whether it has a workfile yet or not.
pub fn listed_by(dir: &Path) -> Option<PathBuf> {
    members::lister(&dir.canonicalize().ok()?)
}

/// Makes recipes of a single workfile's text, for the workspace at `root`.
pub fn load_text(root: &Path, text: &str) -> Result<Loaded, LoadError> {
    let file = SourceFile { path: FILE_NAME.into(), text: text.into() };
    compile(root.into(), file, &Given::default(), &include::no_fetch, |_, _, _| vec![])
}

/// A workfile beside the root's.
struct Listed {
    /// What its paths are relative to.
    dir: String,
    /// Where it is listed or included.
    place: Place,
    file: SourceFile,
    /// What it is called, when the file itself does not say.
    name: Option<String>,
    /// Number of the file it belongs to: the root's, or the one that includes it.
    parent: usize,
    /// Which entries of the workspace's `members` mean it.
    entries: Vec<usize>,
}

/// Makes recipes of the root's workfile, those of the members that `find_members` finds by it, and of what they include.
fn compile(
    root: PathBuf,
    root_file: SourceFile,
    given: &Given,
    fetch: Fetch<'_>,
    find_members: impl FnOnce(&model::File<'_>, &mut Looked, &mut Vec<WorkfileError>) -> Vec<Listed>,
) -> Result<Loaded, LoadError> {
    let mut errors = vec![];
    let text = root_file.text.clone();
    let file = parse::parse(0, &text, &mut errors);
    let errors_before = errors.len();
    let mut looked = Looked::default();
    let mut listed = find_members(&file, &mut looked, &mut errors);
    include::collect(&root, &root_file, &mut listed, fetch, &mut looked, &mut errors);
    let torn_members = errors.len() > errors_before;
    let mut places = vec![Place::default()];
    let mut files = vec![root_file];
    let mut units =
        vec![lower::Unit { name: "".into(), dir: String::new(), file, parent: 0, entries: &[], included: false }];
    for (i, Listed { dir, place, file: source, name, parent, entries }) in listed.iter().enumerate() {
        let file = parse::parse(i as u32 + 1, &source.text, &mut errors);
        let included = name.is_some();
        let name = name.as_deref().unwrap_or_else(|| members::name(dir, &file)).into();
        units.push(lower::Unit { name, dir: dir.clone(), file, parent: *parent, entries, included });
        places.push(*place);
        files.push(source.clone());
    }
    members::check(&files, &units, &places, &mut errors);
    let mut findings = findings::Findings::default();
    let mut disk = lower::Disk { root: &root, files: &mut files, known: Default::default() };
    let mut made = lower::make(&units, given, &mut disk, &mut findings);
    made.torn |= torn_members;
    let linked = edges::link(&mut made, &mut findings);
    let workspace = units.first().and_then(|root| root.file.workspace.as_ref());
    let mut default_goals = workspace.and_then(|w| w.default.as_ref()).map(|texts| {
        let mut goals = vec![];
        for text in texts {
            match made.names.select(0, &text.text, true) {
                Ok(ranges) => goals.extend(ranges.into_iter().flatten().map(|i| i as usize)),
                Err(miss) => {
                    let message = format!("`default` of `[workspace]` has {}", miss.message);
                    findings
                        .plain(WorkfileError::new(ErrorKind::UnknownTask, text.place, message).maybe_hint(miss.hint));
                }
            }
        }
        goals
    });
    let subject = workspace.and_then(|w| w.subject.as_ref()).map_or(crate::task::DEFAULT_SUBJECT.into(), |text| {
        if !is_did(&text.text) {
            let message = format!("`subject` of `[workspace]` is `{}`, which is no DID", text.text);
            let error = WorkfileError::new(ErrorKind::BadValue, text.place, message);
            findings.plain(error.hint("for example `did:web:example.org`"));
        }
        Text::from(&*text.text)
    });
    match order::sort(&made.recipes, &linked.edges) {
        _ if linked.full => {}
        Ok(order) => {
            order::leave_out(&mut made.recipes, &order);
            if let Some(i) = order::flatten(&mut made.recipes, &order) {
                let recipe = &made.recipes[i];
                let message =
                    format!("with task `{}` there are more than {MAX_EDGES} edges between tasks", recipe.name);
                findings.plain(WorkfileError::new(ErrorKind::TooLarge, recipe.place, message));
            }
            services::check(&made.recipes, &mut findings);
        }
        Err(rings) => rings.into_iter().for_each(|ring| findings.plain(ring)),
    }
    publish::check(&made.recipes, &mut findings);
    errors.extend(findings.finish());
    if errors.is_empty()
        && let Some((message, hint)) = params::unknown(given, &made.param_names)
    {
        return Err(LoadError::Given { message, hint });
    }
    // What cannot be read is missed by others, which is no error of theirs.
    if made.torn {
        let after = |kind| matches!(kind, ErrorKind::UnknownTask | ErrorKind::MissingInput);
        let others = errors.iter().any(|e| !after(e.kind));
        errors.retain(|e| !others || !after(e.kind));
    }
    if let Some(goals) = &mut default_goals {
        *goals = order::stand_for(&made.recipes, std::mem::take(goals));
    }
    let mut next = 0;
    let nodes = made.recipes.iter().map(|recipe| {
        recipe.runs().then(|| {
            next += 1;
            TaskIdx::new(next - 1)
        })
    });
    let nodes = nodes.collect();
    let member = |unit: &lower::Unit<'_>| Member {
        name: unit.name.clone(),
        dir: unit.dir.clone(),
        parent: unit.parent,
        included: unit.included,
    };
    let members = units.iter().map(member).collect();
    let entries = units.iter().map(|unit| unit.entries.to_vec()).collect();
    let loaded = Loaded {
        root,
        files,
        members,
        here: 0,
        looked,
        recipes: made.recipes,
        default_goals,
        subject,
        params: made.params,
        warnings: made.warnings,
        entries,
        given: given.clone(),
        names: made.names,
        outputs: Arc::new(linked.outputs),
        nodes,
    };
    if errors.is_empty() {
        return Ok(loaded);
    }
    // All errors at once: those of the disk too, unless they may be echoes.
    if !made.torn {
        errors.extend(loaded.missing_sources());
    }
    Err(LoadError::Faults(Box::new(Faults::new(loaded.files, errors))))
}

fn is_did(text: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    let good = |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_graphic()));
    parts.next() == Some("did") && good(parts.next()) && good(parts.next()) && text.len() <= 2048
}

impl Loaded {
    /// Recipes that stand for tasks made earlier, of a workspace whose workfiles are not read.
    pub(crate) fn of_recipes(root: PathBuf, recipes: Vec<Recipe>) -> Self {
        Self {
            root,
            files: vec![],
            members: vec![],
            here: 0,
            looked: Looked::default(),
            nodes: (0..recipes.len()).map(|i| Some(TaskIdx::new(i))).collect(),
            recipes,
            default_goals: None,
            subject: crate::task::DEFAULT_SUBJECT.into(),
            params: vec![],
            warnings: vec![],
            entries: vec![],
            given: Given::default(),
            names: select::Names::default(),
            outputs: Arc::default(),
        }
    }

    /// The recipe of exactly that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.names.find(name)
    }

    /// The place of a recipe in the workflow; none for a group.
    pub fn node(&self, recipe: usize) -> Option<TaskIdx> {
        self.nodes.get(recipe).copied().flatten()
    }

    /// Path, line and column of a place.
    pub fn locate(&self, place: Place) -> (String, usize, usize) {
        let (path, line, column) = errors::locate(&self.files, place);
        (path.to_owned(), line, column)
    }
}
