//! Projects: a workspace as it is on disk now, made into tasks with ids.
//!
//! Reads workfiles, names and stamps of files, and the content of those that changed; runs nothing and
//! writes nothing. Unaware of receipts.

mod compiled;
pub mod excerpt;
mod files;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quipu_store::cid::{BlobHasher, BlobId, TreeId};
use quipu_store::stamp::Stamp;
use quipu_store::stat_index::{ScanError, StatIndex};
use quipu_store::tree::Entry;
use quipu_store::tree_build::{TreeOfError, tree_of};
use quipu_store::{Store, StoreError};

use self::files::{Files, Row};
use crate::graph::TaskIdx;
use crate::process::OutputKind;
use crate::run::{Gates, Subject, SubjectError};
use crate::task::Policy;
use crate::value::{Text, Value};
use crate::workfile::{
    Act, DEFAULT_PATH, LoadError, Loaded, Looked, Recipe, SelectError, SourceList, Surroundings, ToolAt, WorkflowError,
};

/// The source files of a task, with how each looked when it was read.
pub type Seen = Arc<[(Text, Stamp)]>;

/// A workspace made into tasks.
#[derive(Debug)]
pub struct Project {
    /// What its workfiles say.
    pub loaded: Loaded,
    /// Its tasks with edges and ids.
    pub subject: Arc<Subject>,
    /// The recipe of each task, by index.
    recipes: Vec<usize>,
    /// Source files of each recipe.
    lists: Vec<SourceList>,
    /// What was looked at to find those.
    looked: Looked,
    /// What was there when it was scanned: sources and declared outputs.
    files: Files,
    /// What is known of the machine's files, when tools were looked up.
    tool_candidates: BTreeSet<PathBuf>,
    machine: Mutex<Option<StatIndex>>,
}

/// Why a workspace cannot be made into tasks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// Its workfiles are wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A source cannot be read.
    #[error("input `{path}`: {source}")]
    Scan {
        /// The source.
        path: String,
        /// Why.
        source: ScanError,
    },
    /// A source vanished between being listed and being read.
    #[error("input `{0}` vanished while it was read")]
    Vanished(String),
    /// Its sources make no tree.
    #[error("inputs of task `{task}`: {source}")]
    Tree {
        /// The task.
        task: String,
        /// Why.
        source: TreeOfError,
    },
    /// A tool is not there.
    #[error("task `{task}` names the tool `{tool}`, which is not in {path}")]
    Tool {
        /// The task.
        task: String,
        /// The tool.
        tool: String,
        /// Where it was looked for.
        path: String,
    },
    /// Recipes make no workflow.
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
    /// Tasks that are one task by several names wait for one another.
    #[error("{names} would wait for itself: tasks that do exactly the same are one task")]
    Ring {
        /// Their names.
        names: String,
    },
    /// Tasks make no graph, or have no ids.
    #[error(transparent)]
    Subject(SubjectError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Project {
    /// Scans the workspace of `loaded` and makes tasks of its recipes. `env` is the caller's environment.
    pub fn open(
        store: &Store,
        index: &mut StatIndex,
        loaded: Loaded,
        env: BTreeMap<String, String>,
    ) -> Result<Self, ProjectError> {
        let (lists, looked) = loaded.look_up_sources()?;
        let files = Files::of(scan(index, &loaded, &lists)?);
        let trees = trees(&loaded, &lists, &files)?;
        let Tools { content: tools, candidates: tool_candidates, machine } = Tools::find(store, &loaded, &env)?;
        let platform = (std::env::consts::OS.into(), std::env::consts::ARCH.into());
        let workflow = loaded.workflow(&trees, &Surroundings { env, tools, platform })?;
        let mut recipes = vec![0; workflow.len()];
        for i in 0..loaded.recipes.len() {
            if let Some(task) = loaded.node(i) {
                recipes[task.index()] = i;
            }
        }
        let name = |task: &TaskIdx| format!("`{}`", loaded.recipes[recipes[task.index()]].name);
        let subject = Subject::new(workflow).map_err(|error| match error {
            // Of names alone there is none by now.
            SubjectError::Cycle(cycle) => {
                ProjectError::Ring { names: cycle.ring.iter().map(name).collect::<Vec<_>>().join(", then ") }
            }
            error => ProjectError::Subject(error),
        });
        let subject = Arc::new(subject?);
        Ok(Self { loaded, subject, recipes, lists, looked, files, tool_candidates, machine: Mutex::new(machine) })
    }

    /// The recipe a task was made of.
    pub fn recipe(&self, task: TaskIdx) -> &Recipe {
        &self.loaded.recipes[self.recipes[task.index()]]
    }

    /// The place of that recipe among those of the workfiles.
    pub fn recipe_index(&self, task: TaskIdx) -> usize {
        self.recipes[task.index()]
    }

    /// Whether it is done elsewhere.
    pub fn is_external(&self, task: TaskIdx) -> bool {
        self.recipe(task).act == Act::External
    }

    /// Whether it is a task of another workflow.
    pub fn is_awaited_only(&self, task: TaskIdx) -> bool {
        matches!(self.recipe(task).act, Act::Await { .. })
    }

    /// Whether what a task makes at this path has its place there: of a task of another workflow that is so for what the
    /// workfile lists.
    pub fn is_placed(&self, task: TaskIdx, path: &str) -> bool {
        let names = self.subject.ids.others(task);
        names.unwrap_or(&[task]).iter().map(|name| self.recipe(*name)).any(|recipe| match recipe.act {
            Act::Await { .. } => recipe.outputs.iter().any(|o| *o.path == *path),
            _ => true,
        })
    }

    /// How it is handled.
    pub fn policy(&self, task: TaskIdx) -> &Policy {
        &self.subject.workflow.node(task).policy
    }

    /// The tasks that selectors mean; without any, what the workspace says is made, or all.
    pub fn goals(&self, selectors: &[String]) -> Result<Vec<TaskIdx>, SelectError> {
        Ok(self.loaded.goals(selectors)?.into_iter().filter_map(|r| self.loaded.node(r)).collect())
    }

    /// Goals, with the checks on those that are published.
    pub fn with_checks(&self, mut goals: Vec<TaskIdx>) -> Vec<TaskIdx> {
        let checks: Vec<TaskIdx> = self.gates(&goals).into_values().flatten().collect();
        goals.extend(checks);
        goals
    }

    /// The goals that are published, each with the checks on it.
    pub fn gates(&self, goals: &[TaskIdx]) -> Gates {
        let ids = &self.subject.ids;
        let goals: HashSet<TaskIdx> = goals.iter().map(|goal| ids.first(*goal)).collect();
        let node = |recipe: usize| self.loaded.node(recipe).expect("what runs is a task");
        let published = self.loaded.published().into_iter().map(|(recipe, checks)| (node(recipe), checks));
        let asked = published.filter(|(task, _)| goals.contains(&ids.first(*task)));
        asked.map(|(task, checks)| (task, checks.into_iter().map(node).collect())).collect()
    }

    /// What was looked at to find its sources.
    pub fn looked(&self) -> &Looked {
        &self.looked
    }

    /// All source files as they were when they were read, some more than once.
    pub fn all_sources(&self) -> impl Iterator<Item = (&Text, Stamp)> {
        let mut seen = BTreeSet::new();
        // Tasks with the same patterns share one list.
        let lists = self.lists.iter().filter(move |list| seen.insert(list.as_ptr()));
        lists.flat_map(|list| list.iter()).filter_map(|path| Some((path, self.stamp(path)?)))
    }

    /// How a source file, or an output that is a file, looked when it was read.
    pub fn stamp(&self, path: &str) -> Option<Stamp> {
        self.files.get(path).map(|row| row.stamp)
    }

    /// Where the tools of its tasks were looked for.
    pub fn tool_candidates(&self) -> &BTreeSet<PathBuf> {
        &self.tool_candidates
    }

    /// The source files of a task, as they were when ids were computed.
    pub fn seen(&self, task: TaskIdx) -> Seen {
        let list = &self.lists[self.recipes[task.index()]];
        list.iter().filter_map(|path| Some((path.clone(), self.stamp(path)?))).collect()
    }

    /// The source files of a task, as they were then, by path.
    pub fn sources(&self, task: TaskIdx) -> Vec<(String, Entry)> {
        let list = &self.lists[self.recipes[task.index()]];
        list.iter().filter_map(|path| Some((path.to_string(), self.files.get(path)?.entry.clone()))).collect()
    }

    /// Puts the directory nodes of a task's sources into the store, for `explain` and for whoever runs the
    /// invocation again.
    pub fn keep_tree(&self, store: &Store, task: TaskIdx) -> Result<(), ProjectError> {
        let list = &self.lists[self.recipes[task.index()]];
        let files = list.iter().filter_map(|path| Some((&**path, &self.files.get(path)?.entry)));
        let name = || self.subject.workflow.node(task).name.to_string();
        tree_of(Some(store), files).map(drop).map_err(|source| ProjectError::Tree { task: name(), source })
    }

    /// Writes down what tools there are, so that they need not be read next time; nothing when that is known.
    pub fn save_tools(&self) -> Result<(), StoreError> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map_or(Ok(()), StatIndex::save)
    }

    /// Lets go of what was known of the machine's tools, and so of the store.
    pub fn forget_tools(&self) {
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a declared output file held exactly this when the workspace was scanned.
    pub fn held(&self, path: &str, entry: &Entry) -> bool {
        self.files.get(path).is_some_and(|found| found.entry == *entry)
    }
}

/// One look at all sources and all outputs that are single files.
fn scan(index: &mut StatIndex, loaded: &Loaded, lists: &[SourceList]) -> Result<Vec<Row>, ProjectError> {
    let mut seen_lists = BTreeSet::new();
    let mut sources: Vec<&Text> = vec![];
    for list in lists {
        // Tasks with the same patterns share one list.
        if seen_lists.insert(list.as_ptr()) {
            sources.extend(list.iter());
        }
    }
    let outputs =
        loaded.recipes.iter().flat_map(|r| &r.outputs).filter(|o| o.kind == OutputKind::File).map(|o| &o.path);
    let mut paths: Vec<(&Text, bool)> =
        sources.into_iter().map(|p| (p, true)).chain(outputs.map(|p| (p, false))).collect();
    paths.sort_unstable_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(&a.1)));
    paths.dedup_by(|a, b| a.0 == b.0);
    let asked: Vec<&str> = paths.iter().map(|(p, _)| &***p).collect();
    let mut files = Vec::with_capacity(paths.len());
    for (scanned, (path, is_source)) in index.scan(&asked).into_iter().zip(&paths) {
        match scanned.result {
            Ok(Some((entry, stamp))) => files.push(Row { path: Text::clone(path), entry, stamp }),
            // An output that is not there, or is something else, will be placed.
            _ if !is_source => {}
            Ok(None) => return Err(ProjectError::Vanished(path.to_string())),
            Err(source) => return Err(ProjectError::Scan { path: path.to_string(), source }),
        }
    }
    Ok(files)
}

fn trees(loaded: &Loaded, lists: &[SourceList], files: &Files) -> Result<Vec<Option<TreeId>>, ProjectError> {
    let mut known: HashMap<*const Text, TreeId> = HashMap::new();
    let mut trees = Vec::with_capacity(lists.len());
    for (recipe, list) in loaded.recipes.iter().zip(lists) {
        if list.is_empty() {
            trees.push(None);
            continue;
        }
        if let Some(tree) = known.get(&list.as_ptr()) {
            trees.push(Some(*tree));
            continue;
        }
        let entries = list.iter().map(|path| (&**path, &files.get(path).expect("all sources were scanned").entry));
        let (tree, _) =
            tree_of(None, entries).map_err(|source| ProjectError::Tree { task: recipe.name.to_string(), source })?;
        known.insert(list.as_ptr(), tree);
        trees.push(Some(tree));
    }
    Ok(trees)
}

/// The tools that recipes name: their content, found as the tasks would find them, and where they were looked for.
#[derive(Default)]
struct Tools {
    content: BTreeMap<ToolAt, BlobId>,
    candidates: BTreeSet<PathBuf>,
    machine: Option<StatIndex>,
}

impl Tools {
    fn find(store: &Store, loaded: &Loaded, env: &BTreeMap<String, String>) -> Result<Self, ProjectError> {
        let mut tools = Self::default();
        for recipe in loaded.recipes.iter().filter(|recipe| recipe.runs()) {
            for tool in loaded.tools_of(recipe, env) {
                if tools.content.contains_key(&tool) {
                    continue;
                }
                let missing = || ProjectError::Tool {
                    task: recipe.name.to_string(),
                    tool: tool.name.to_string(),
                    path: if tool.within.is_empty() { ".".to_owned() } else { tool.within.to_string() },
                };
                let candidates = candidates(&loaded.root, &tool);
                let found = first_file(&candidates);
                tools.candidates.extend(candidates);
                let found = found.ok_or_else(missing)?;
                let index = tools.machine.get_or_insert_with(|| StatIndex::open(store, Path::new("/")));
                let relative = found.to_str().and_then(|f| f.strip_prefix('/')).ok_or_else(missing)?;
                let scanned = index.scan(&[relative]).pop().ok_or_else(missing)?;
                match scanned.result {
                    Ok(Some((Entry::File { blob, .. }, _))) => drop(tools.content.insert(tool, blob)),
                    Ok(_) => return Err(missing()),
                    Err(source) => return Err(ProjectError::Scan { path: found.display().to_string(), source }),
                }
            }
        }
        Ok(tools)
    }
}

/// The first of the tools that a process was described with which is another here, or is not here. What was read is kept in
/// `seen`.
pub fn other_tool<'a>(process: &'a Value, seen: &mut HashMap<PathBuf, BlobId>) -> io::Result<Option<&'a str>> {
    let Some(Value::Map(tools)) = process.get("tools") else { return Ok(None) };
    let path: Text = process.get("env").and_then(|env| env.get("PATH")?.as_text()).unwrap_or(DEFAULT_PATH).into();
    // What else has a slash in it is a file of the workspace, and there as that if at all.
    for (tool, known) in tools.iter().filter(|(tool, _)| tool.starts_with('/') || !tool.contains('/')) {
        let at = ToolAt { name: tool.clone(), within: path.clone() };
        let Some(file) = first_file(&candidates(Path::new("/"), &at)) else { return Ok(Some(tool)) };
        let found = match seen.get(&file) {
            Some(found) => *found,
            None => {
                let found = blob_of(&file)?;
                seen.insert(file, found);
                found
            }
        };
        if *known != found.link().into() {
            return Ok(Some(tool));
        }
    }
    Ok(None)
}

/// What a file holds.
fn blob_of(file: &Path) -> io::Result<BlobId> {
    let (mut file, mut hasher, mut buffer) = (File::open(file)?, BlobHasher::default(), vec![0; 128 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.id()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The first that is a file, with all links followed.
fn first_file(candidates: &[PathBuf]) -> Option<PathBuf> {
    candidates.iter().filter_map(|c| c.canonicalize().ok()).find(|c| c.is_file())
}

/// What a tool may be, best first.
fn candidates(root: &Path, tool: &ToolAt) -> Vec<PathBuf> {
    if tool.name.starts_with('/') {
        return vec![PathBuf::from(&*tool.name)];
    }
    if tool.name.contains('/') {
        return vec![root.join(&*tool.within).join(&*tool.name)];
    }
    tool.within.split(':').filter(|d| d.starts_with('/')).map(|dir| Path::new(dir).join(&*tool.name)).collect()
}
