//! Sources of a workflow that is run by its id: from the store, or from the directory that the command works in, when that has
//! them as the workflow names them.
//!
//! They are put into a directory of their own, so that nothing of the caller's is read by a task or changed by one. Unaware of
//! what tasks do with them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quipu_runtime::exec::process::ProcessExecutor;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::exec::{Done, Executor, Job};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::project::other_tool;
use quipu_runtime::run::Subject;
use quipu_runtime::task::WORKER;
use quipu_runtime::workflow_block::{Beside, process_of, tree_of};
use quipu_store::checkout::Limits;
use quipu_store::cid::TreeId;
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;
use quipu_store::tree_build::{TreeOfError, tree_of as tree_of_files};
use quipu_store::{Store, Take};

use crate::diagnose::Diagnosis;
use crate::render::{count, harmless};
use crate::settings;

/// What to do where sources are missing.
const HINT: &str =
    "run it where they are, or import the workflow as a CAR file, which `quipu export --workflow` writes";
/// What to do where tools are others.
const TOOL_HINT: &str = "what it makes would not be what its id says: describe it here, with `quipu export --workflow`";
/// Most paths that are named.
const MAX_NAMED: usize = 5;

/// Files by path, in order.
type Files = Arc<[(String, Entry)]>;

/// What a run by id works with: a directory of its own, made when the first task runs and deleted in the end.
pub(crate) struct Room {
    made: OnceLock<Result<Made, String>>,
    /// Where sources may be, and outputs are put.
    here: Arc<Workspace>,
    store: Store,
    /// What the workflow says of files and addresses.
    beside: Beside,
    known: Mutex<HashMap<TreeId, Files>>,
}

/// The directory, and processes in it.
struct Made {
    dir: PathBuf,
    workspace: Arc<Workspace>,
    processes: ProcessExecutor,
    /// Processes that do many tasks.
    workers: Arc<dyn Executor>,
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs processes in a room.
pub(crate) struct InRoom(pub(crate) Arc<Room>);

impl Executor for InRoom {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        match self.0.made() {
            Ok(made) if &*job.invocation.cmd == WORKER => made.workers.execute(job),
            Ok(made) => made.processes.execute(job),
            Err(why) => {
                let why = format!("there is no room for its sources: {why}");
                Box::pin(std::future::ready(Done::failed(FailureKind::Executor { why }, "none")))
            }
        }
    }

    fn begins_itself(&self, command: &str) -> bool {
        command != WORKER
    }
}

impl Room {
    /// A room for work in the directory `here`. Nothing is made until the first task runs.
    pub(crate) fn new(store: &Store, here: Arc<Workspace>, beside: Beside) -> Self {
        Self { made: OnceLock::new(), here, store: store.clone(), beside, known: Mutex::default() }
    }

    fn made(&self) -> Result<&Made, &String> {
        let make = || {
            let dir = self.store.scratch_dir().map_err(|e| e.to_string())?;
            let workspace = Arc::new(Workspace::open(&self.store, &dir));
            let processes = ProcessExecutor::with_surroundings(Arc::clone(&workspace), settings::environment());
            let workers: Arc<dyn Executor> = Arc::new(processes.workers());
            Ok(Made { dir, workspace, processes, workers })
        };
        self.made.get_or_init(make).as_ref()
    }

    /// Why tasks could not be isolated as they ask to be, when that is so for all tasks on this machine.
    pub(crate) fn isolation_refused(&self) -> Option<Diagnosis> {
        self.made.get()?.as_ref().ok()?.processes.unavailable().map(Diagnosis::not_isolated)
    }

    /// Sees to it that the store has the sources of these tasks, or says which are nowhere; and that tools are those it was
    /// described with.
    pub(crate) fn provide(&self, subject: &Subject, tasks: &[TaskIdx]) -> Result<(), Diagnosis> {
        let (mut all, mut lacking, mut tools) = (BTreeMap::<String, Entry>::new(), vec![], HashMap::new());
        for task in tasks {
            let name = || harmless(&subject.workflow.node(*task).name);
            let process = process_of(&subject.workflow.node(*task).work);
            let other = process.map_or(Ok(None), |process| other_tool(process, &mut tools));
            if let Some(tool) = other.map_err(|e| Diagnosis::system("cannot read a tool", &e))? {
                let message =
                    format!("`{}` was described with another `{}` than there is here", name(), harmless(tool));
                return Err(Diagnosis::usage(message).hint(TOOL_HINT));
            }
            let Some(tree) = tree_of(&subject.workflow.node(*task).work) else { continue };
            let Some(files) = self.files(tree)? else {
                let name = name();
                let message = format!(
                    "what `{name}` reads is neither in the store nor in this directory as the workflow names it"
                );
                return Err(Diagnosis::usage(message).hint(HINT));
            };
            lacking.extend(self.lacking(&files)?);
            for (path, entry) in files.iter() {
                if all.insert(path.clone(), entry.clone()).is_some_and(|other| other != *entry) {
                    let message = format!(
                        "`{}` is two different files in this workflow, one of them read by `{}`",
                        harmless(path),
                        name()
                    );
                    return Err(Diagnosis::usage(message));
                }
            }
        }
        lacking.sort_unstable();
        lacking.dedup();
        if lacking.is_empty() {
            return Ok(());
        }
        let some: Vec<String> = lacking.iter().take(MAX_NAMED).map(|path| format!("`{}`", harmless(path))).collect();
        let more = if lacking.len() > MAX_NAMED { ", ..." } else { "" };
        let what = count(lacking.len(), "source");
        let message = format!(
            "{what} neither in the store nor in this directory as the workflow names them: {}{more}",
            some.join(", ")
        );
        Err(Diagnosis::usage(message).hint(HINT))
    }

    /// All files of a tree; `None` when a part of it is not in the store.
    fn files(&self, tree: TreeId) -> Result<Option<Files>, Diagnosis> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&tree) {
            return Ok(Some(Arc::clone(known)));
        }
        let (mut files, mut todo) = (vec![], vec![(String::new(), tree)]);
        let mut seen = 0_u64;
        while let Some((prefix, id)) = todo.pop() {
            let Some(found) = self.store.tree(id)? else {
                if id == tree && self.build(tree)? {
                    return self.files(tree);
                }
                return Ok(None);
            };
            for (name, entry) in found.entries() {
                seen += 1;
                let path = format!("{prefix}{name}");
                match entry {
                    Entry::Dir { tree } => todo.push((format!("{path}/"), *tree)),
                    other => files.push((path, other.clone())),
                }
            }
            if seen > Limits::default().max_files {
                return Err(Diagnosis::usage(format!("tree {tree} has more files than any workspace")));
            }
        }
        files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let files: Files = files.into();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(tree, Arc::clone(&files));
        Ok(Some(files))
    }

    /// Makes a tree that the store does not have of the files of this directory, if they are what it holds.
    fn build(&self, tree: TreeId) -> Result<bool, Diagnosis> {
        let Some(paths) = self.beside.sources.get(&tree) else { return Ok(false) };
        let paths: Vec<&str> = paths.iter().map(|path| &**path).collect();
        let scanned = self.here.index().scan(&paths);
        let found = scanned.into_iter().map(|s| Some((s.path, s.result.ok()??.0)));
        let Some(found) = found.collect::<Option<Vec<_>>>() else { return Ok(false) };
        let files = || found.iter().map(|(path, entry)| (*path, entry));
        let is_it = |made: Result<(TreeId, _), TreeOfError>| made.is_ok_and(|(id, _)| id == tree);
        // Nodes are kept only once they are known to be those.
        Ok(is_it(tree_of_files(None, files())) && is_it(tree_of_files(Some(&self.store), files())))
    }

    /// Takes what the store does not have from the directory, and says what is not there either.
    fn lacking(&self, files: &Files) -> Result<Vec<String>, Diagnosis> {
        let mut open: Vec<&(String, Entry)> = vec![];
        for file in files.iter() {
            if !self.store.complete(&file.1)? {
                open.push(file);
            }
        }
        let paths: Vec<&str> = open.iter().map(|(path, _)| path.as_str()).collect();
        let found: Vec<bool> = {
            let mut index = self.here.index();
            let scanned = index.scan(&paths).into_iter().zip(&open);
            scanned
                .map(|(scanned, (_, entry))| matches!(scanned.result, Ok(Some((found, _))) if found == *entry))
                .collect()
        };
        let mut lacking = vec![];
        for ((path, entry), found) in open.into_iter().zip(found) {
            let taken = found && self.store.put_file(&self.here.root().join(path), Take::Copy).is_ok();
            // What it was when it was copied is what counts.
            if !taken || !self.store.complete(entry)? {
                lacking.push(path.clone());
            }
        }
        Ok(lacking)
    }

    /// Puts the sources of a task where it finds them. What could not be had is not there, and the task says so.
    pub(crate) fn equip(&self, subject: &Subject, task: TaskIdx, job: &mut Job) {
        let node = subject.workflow.node(task);
        if let Some(urls) = self.beside.urls.get(&node.name) {
            job.urls = urls.as_slice().into();
        }
        let Some(Ok(Some(files))) = tree_of(&node.work).map(|tree| self.files(tree)) else {
            return;
        };
        let Ok(made) = self.made() else { return };
        let placed = |(path, entry): &&(String, Entry)| made.workspace.place(path, entry).is_ok();
        let paths: Vec<&str> = files.iter().filter(placed).map(|(path, _)| path.as_str()).collect();
        let scanned = made.workspace.index().scan(&paths);
        let seen = scanned.into_iter().filter_map(|s| Some((s.path.into(), s.result.ok()??.1)));
        job.sources = seen.collect();
    }

    /// The sources of a task, by path.
    pub(crate) fn listing(&self, subject: &Subject, task: TaskIdx) -> Vec<(String, Entry)> {
        let files = tree_of(&subject.workflow.node(task).work).and_then(|tree| self.files(tree).ok().flatten());
        files.map_or_else(Vec::new, |files| files.to_vec())
    }
}
