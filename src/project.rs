//! What commands on a workspace share: the store, the workspace, its tasks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quipu_runtime::drive::Engine;
use quipu_runtime::exec::process::ProcessExecutor;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::project::{Project, ProjectError};
use quipu_runtime::task::PROCESS;
use quipu_runtime::workfile;
use quipu_store::Store;

use crate::diagnose::Diagnosis;
use crate::settings::{self, Settings};

/// A workspace, opened.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) project: Arc<Project>,
}

impl Opened {
    /// Opens the workspace that `start` is in.
    pub(crate) fn open(settings: &Settings, start: &Path) -> Result<Self, Diagnosis> {
        // All that can be wrong with the workfile is said before a store is made for it.
        let loaded = workfile::load(start)?;
        let store = settings.open_store()?;
        let workspace = Arc::new(Workspace::open(&store, &loaded.root));
        let project = {
            let mut index = workspace.index();
            Project::open(&store, &mut index, loaded, settings::environment())?
        };
        Ok(Self { store, workspace, project: Arc::new(project) })
    }

    /// An engine that runs processes in this workspace.
    pub(crate) fn engine(&self) -> Engine {
        let mut engine = Engine::new(self.store.clone());
        engine.executors.register(PROCESS, ProcessExecutor::new(Arc::clone(&self.workspace)));
        engine
    }

    /// The tasks that selectors mean.
    pub(crate) fn goals(&self, selectors: &[String]) -> Result<Vec<TaskIdx>, Diagnosis> {
        Ok(self.project.goals(selectors)?)
    }

    /// What the store knows this workspace by.
    pub(crate) fn key(&self) -> String {
        self.workspace.root().to_string_lossy().into_owned()
    }
}

/// The directory to start in.
pub(crate) fn start(directory: Option<&Path>) -> Result<PathBuf, Diagnosis> {
    let start = directory.unwrap_or(Path::new("."));
    if start.is_dir() {
        return Ok(start.to_owned());
    }
    Err(Diagnosis::usage(format!("`{}` is not a directory", start.display())))
}

impl From<ProjectError> for Diagnosis {
    fn from(error: ProjectError) -> Self {
        match error {
            ProjectError::Load(error) => error.into(),
            ProjectError::Store(error) => error.into(),
            ProjectError::Tool { .. } => Self::usage(error.to_string())
                .hint("install it, or set PATH in the task's `env`, or take it out of `tools`"),
            ProjectError::Scan { .. } | ProjectError::Vanished(_) => Self::system("", &error),
            other => Self::usage(other.to_string()),
        }
    }
}
