//! What commands on a workspace share: the store, the workspace, its tasks.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_fetch::{FetchExecutor, FetchOptions};
use quipu_runtime::drive::{self, Engine, Request};
use quipu_runtime::exec::process::ProcessExecutor;
use quipu_runtime::exec::wait::wait;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::project::Project;
use quipu_runtime::project::excerpt::Excerpt;
use quipu_runtime::run::{Rules, Run};
use quipu_runtime::task::{FETCH, PROCESS, SERVICE, WAIT, WORKER};
use quipu_runtime::workfile::{self, Given, Loaded};
use quipu_store::Store;

use crate::cli::GoalArgs;
use crate::commands::glance::Changed;
use crate::commands::{Context, note};
use crate::diagnose::Diagnosis;
use crate::render::{count, harmless};
use crate::settings::{self, Settings};
use crate::trust_file::Trust;
use crate::{change, include, remotes};

/// A workspace, opened.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) project: Arc<Project>,
    pub(crate) trust: Trust,
    pub(crate) processes: ProcessExecutor,
    pub(crate) settings: Settings,
    offline: bool,
}

/// An engine by whose receipts count for its user, for tasks that wait and that fetch; processes are the caller's to add.
pub(crate) fn engine(store: &Store, trust: &Trust, root: &Path, offline: bool) -> Engine {
    let mut engine = Engine::new(store.clone());
    engine.trusted = trust.keys();
    engine.policies = trust.policies.clone();
    engine.executors.register(WAIT, wait(root.to_owned()));
    let options = FetchOptions { offline, ..FetchOptions::new(root.to_owned()) };
    engine.executors.register(FETCH, FetchExecutor::new(options));
    engine
}

impl Opened {
    /// Opens the workspace that the command was started in.
    pub(crate) fn open(context: &Context) -> Result<Self, Diagnosis> {
        Self::open_after(context, None)
    }

    /// The same after somebody looked at files there: what was read is not read again, unless it looks different by now.
    pub(crate) fn open_after(context: &Context, before: Option<Arc<Workspace>>) -> Result<Self, Diagnosis> {
        // All that can be wrong with the workfile is said before a store is made for it.
        let loaded = load(context)?;
        let settings = context.settings()?;
        let trust = Trust::read(&settings.trust)?;
        let is_here = |before: &Arc<Workspace>| loaded.root.canonicalize().is_ok_and(|root| before.root() == root);
        let workspace = match before.filter(is_here) {
            Some(before) => before,
            None => Arc::new(Workspace::open(&settings.open_store()?, &loaded.root)),
        };
        let store = workspace.store().clone();
        let project = {
            let mut index = workspace.index();
            Project::open(&store, &mut index, loaded, settings::environment())?
        };
        let processes = ProcessExecutor::with_surroundings(Arc::clone(&workspace), settings::environment());
        let (project, offline) = (Arc::new(project), context.offline);
        Ok(Self { store, workspace, project, trust, processes, settings, offline })
    }

    /// Opens what of a workspace follows from changes, without reading its workfiles; `None` where that cannot be said.
    pub(crate) fn excerpt(
        context: &Context,
        workspace: Arc<Workspace>,
        changed: &Changed,
    ) -> Result<Option<(Self, Excerpt)>, Diagnosis> {
        let settings = context.settings()?;
        let trust = Trust::read(&settings.trust)?;
        let store = workspace.store().clone();
        let Changed { parts, changed, tasks, .. } = changed;
        let excerpt = Excerpt::open(parts, changed, *tasks, workspace.root(), &mut workspace.index());
        let Some(excerpt) = excerpt else { return Ok(None) };
        let processes = ProcessExecutor::with_surroundings(Arc::clone(&workspace), settings::environment());
        let (project, offline) = (Arc::clone(&excerpt.project), context.offline);
        Ok(Some((Self { store, workspace, project, trust, processes, settings, offline }, excerpt)))
    }

    /// An engine that runs processes in this workspace, and fetches for it.
    pub(crate) fn engine(&self) -> Engine {
        let mut engine = engine(&self.store, &self.trust, self.workspace.root(), self.offline);
        engine.executors.register(PROCESS, self.processes.clone());
        engine.executors.register(SERVICE, self.processes.clone());
        engine.executors.register(WORKER, self.processes.workers());
        engine
    }

    /// Why tasks could not be isolated as they ask to be, when that is so for all tasks on this machine.
    pub(crate) fn isolation_refused(&self) -> Option<Diagnosis> {
        self.processes.unavailable().map(Diagnosis::not_isolated)
    }

    /// Gives an engine the remotes of its user, unless they are to be left alone.
    pub(crate) fn attach_remotes(&self, engine: &mut Engine) -> Result<(), Diagnosis> {
        if self.offline { Ok(()) } else { remotes::attach(engine, &self.settings) }
    }

    /// Looks up what receipts settle on the way to `goals`. Runs nothing and writes nothing.
    pub(crate) fn look(&self, goals: Vec<TaskIdx>, rules: Rules) -> Result<Run, Diagnosis> {
        self.look_at(goals, rules, false)
    }

    /// The same by what is in the store alone.
    pub(crate) fn look_here(&self, goals: Vec<TaskIdx>, rules: Rules) -> Result<Run, Diagnosis> {
        self.look_at(goals, rules, true)
    }

    fn look_at(&self, goals: Vec<TaskIdx>, rules: Rules, here: bool) -> Result<Run, Diagnosis> {
        let mut request = Request::new(Arc::clone(&self.project.subject), goals, rules);
        request.session = Some(self.key());
        request.workspace = Some(self.key().into());
        request.listing = Some(self.listing());
        let mut engine = self.engine();
        self.attach_remotes(&mut engine)?;
        if here {
            engine.remotes.clear();
        }
        Ok(drive::look(&engine, request)?)
    }

    /// The source files of tasks.
    pub(crate) fn listing(&self) -> drive::Listing {
        let project = Arc::clone(&self.project);
        Box::new(move |task| project.sources(task))
    }

    /// The tasks that selectors mean.
    pub(crate) fn goals(&self, selectors: &[String]) -> Result<Vec<TaskIdx>, Diagnosis> {
        Ok(self.project.goals(selectors)?)
    }

    /// The one task that a selector means.
    pub(crate) fn only(&self, selector: &str) -> Result<TaskIdx, Diagnosis> {
        let selectors = [selector.to_owned()];
        let tasks = self.goals(&selectors)?;
        match tasks[..] {
            [task] => Ok(task),
            [] => {
                let left_out = self.project.loaded.left_out(&selectors).into_iter();
                let left_out = left_out.map(|(name, reason)| format!("{name}: {reason}"));
                Err(Diagnosis::ambiguous(format!("`{selector}` is left out"), left_out))
            }
            _ => {
                let names = tasks.iter().map(|task| self.project.subject.workflow.node(*task).name.to_string());
                Err(several(selector, names.collect()))
            }
        }
    }

    /// Says which tasks on the way to what selectors mean are no part of anything, for commands whose result does not.
    pub(crate) fn tell_left_out(&self, selectors: &[String]) {
        for (name, reason) in self.project.loaded.left_out(selectors) {
            note(&format!("left out {}: {}", harmless(&name), harmless(&reason)));
        }
    }

    /// The tasks that were asked for: of those that selectors mean, the ones that a change affects, if one was named.
    pub(crate) fn asked(&self, context: &Context, args: &GoalArgs) -> Result<Vec<TaskIdx>, Diagnosis> {
        let goals = self.project.with_checks(self.goals(&args.goals)?);
        let loaded = &self.project.loaded;
        let Some(affected) = change::affected(context, loaded, &args.change)? else { return Ok(goals) };
        let affected: HashSet<TaskIdx> = affected.keys().filter_map(|recipe| loaded.node(*recipe)).collect();
        Ok(goals.into_iter().filter(|goal| affected.contains(goal)).collect())
    }

    /// Lets go of the store, and of nothing else: the process ends, and a million values need not be freed one by one.
    pub(crate) fn leave(self) {
        self.project.forget_tools();
        std::mem::forget(self.project);
    }

    /// What the store knows this workspace by.
    pub(crate) fn key(&self) -> String {
        self.workspace.root().to_string_lossy().into_owned()
    }
}

/// What the workfiles say of the workspace that the command was started in.
pub(crate) fn load(context: &Context) -> Result<Loaded, Diagnosis> {
    let given = Given {
        set: context.set.clone(),
        env: settings::environment(),
        platform: None,
        tier: Some(settings::isolation()?),
    };
    let loaded = workfile::load_given(&context.start, &given, &|url, id| include::get(context, url, id))?;
    loaded.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    Ok(loaded)
}

/// A selector that should mean one task means these.
pub(crate) fn several(selector: &str, names: Vec<String>) -> Diagnosis {
    Diagnosis::ambiguous(format!("`{selector}` means {}", count(names.len(), "task")), names).hint("name one")
}

/// Where the workspace that `start` is in begins, whether its workfiles are right or wrong.
pub(crate) fn root(start: &Path) -> Option<PathBuf> {
    workfile::root(start)
}

/// The recipes that selectors mean, each once; all of them when there are none.
pub(crate) fn select(loaded: &Loaded, selectors: &[String]) -> Result<Vec<usize>, Diagnosis> {
    if selectors.is_empty() {
        return Ok((0..loaded.recipes.len()).collect());
    }
    let mut all = vec![];
    for selector in selectors {
        all.extend(loaded.select(loaded.here, selector)?);
    }
    let mut seen = HashSet::new();
    all.retain(|recipe| seen.insert(*recipe));
    Ok(all)
}

/// The directory to start in.
pub(crate) fn start(directory: Option<&Path>) -> Result<PathBuf, Diagnosis> {
    let start = directory.unwrap_or(Path::new("."));
    if start.is_dir() {
        return Ok(start.to_owned());
    }
    Err(Diagnosis::usage(format!("`{}` is not a directory", start.display())))
}
