//! What a task looked for in vain although it is in the workspace: told when the task fails, with what to add to its inputs.
//!
//! A failed task is run once more in its sandbox, traced, with nothing of it kept. Unaware of how that is done.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use quipu_runtime::exec::process::ProcessExecutor;
use quipu_runtime::exec::trace;
use quipu_runtime::exec::{Done, Executor, Job, Stop};
use quipu_runtime::learn::escape;
use quipu_runtime::observe::{Observer, Observers, RunEvent};
use quipu_runtime::path::is_within;
use quipu_runtime::process::{OutputKind, Tier};
use quipu_runtime::project::Project;
use quipu_runtime::workfile::globs::Pattern;
use quipu_runtime::workfile::{Loaded, Recipe};
use quipu_store::receipt::FailureKind;

use crate::commands::Context;
use crate::project::{self, Opened};
use crate::render::harmless;

/// A task that takes longer to fail is not run again for this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most paths that are named.
const MAX_NAMED: usize = 5;

/// Runs processes, and tells of what those that fail did not declare.
pub(crate) struct Hinting {
    inner: ProcessExecutor,
    texts: Texts,
    root: PathBuf,
    observers: Observers,
    /// Tasks that were looked at: each once in a run, however often it is tried.
    looked: Mutex<HashSet<String>>,
}

/// What the workfiles say.
enum Texts {
    /// They were read.
    Here(Arc<Project>),
    /// They are read when somebody asks.
    Unread(Context, OnceLock<Option<Box<Loaded>>>),
}

impl Texts {
    fn read(&self) -> Option<&Loaded> {
        match self {
            Self::Here(project) => Some(&project.loaded),
            Self::Unread(context, loaded) => {
                loaded.get_or_init(|| project::load(context).ok().map(Box::new)).as_deref()
            }
        }
    }
}

impl Hinting {
    /// Over the processes of this workspace; `observers` are told. `unread` says how to get at workfiles that were not read.
    pub(crate) fn new(opened: &Opened, observers: Observers, unread: Option<&Context>) -> Self {
        let texts = match unread {
            Some(context) => Texts::Unread(context.clone(), OnceLock::new()),
            None => Texts::Here(Arc::clone(&opened.project)),
        };
        Self {
            inner: opened.processes.clone(),
            texts,
            root: opened.workspace.root().to_owned(),
            observers,
            looked: Mutex::default(),
        }
    }

    /// The recipe of a job that failed and may be run again without doing anything to anybody.
    fn recipe(&self, job: &Job, done: &Done) -> Option<(&Loaded, &Recipe)> {
        let failed =
            matches!(&done.result, Err(f) if matches!(f.kind, FailureKind::Exit { .. } | FailureKind::Signal { .. }));
        if !failed || done.unusable.is_some() || *job.stop.borrow() != Stop::No || trace::available().is_err() {
            return None;
        }
        let loaded = self.texts.read()?;
        let recipe = &loaded.recipes[loaded.find(&job.name)?];
        let alone = job.company.is_none();
        let harmless = recipe.tier == Tier::Ns && !recipe.network && recipe.secret_env.is_empty() && alone;
        let is_new = || self.looked.lock().unwrap_or_else(PoisonError::into_inner).insert(job.name.to_string());
        (harmless && is_new()).then_some((loaded, recipe))
    }

    async fn look(&self, loaded: &Loaded, recipe: &Recipe, job: Job) {
        let limit = job.timeout.unwrap_or(Duration::MAX).min(10 * PATIENCE);
        let job = Job { timeout: Some(limit), sink: Arc::new(|_, _| {}), ..job };
        let (_, Ok(traced)) = self.inner.trace(job).await else { return };
        let missed = needed(&traced.undeclared(&self.root), recipe);
        if !missed.is_empty() {
            self.observers.on(0, &RunEvent::Warning { message: self.message(loaded, recipe, &missed) });
        }
    }

    fn message(&self, loaded: &Loaded, recipe: &Recipe, missed: &[&str]) -> String {
        let of = |paths: &[&str], show: &dyn Fn(&str) -> String| {
            let mut text = paths.iter().take(MAX_NAMED).map(|path| show(path)).collect::<Vec<_>>().join(", ");
            if paths.len() > MAX_NAMED {
                let _ = write!(text, " and {} more", paths.len() - MAX_NAMED);
            }
            text
        };
        let paths = of(missed, &|path| format!("`{}`", harmless(path)));
        let are = if missed.len() == 1 {
            "is in the workspace and which it does"
        } else {
            "are in the workspace and which it does"
        };
        let (file, line, _) = loaded.locate(recipe.key_place("inputs"));
        let dir = &loaded.members[recipe.member].dir;
        let from_here = |path: &str| match path.strip_prefix(&**dir).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => rest.to_owned(),
            None => "../".repeat(dir.split('/').filter(|part| !part.is_empty()).count()) + path,
        };
        let lines = of(missed, &|path| {
            let slash = if self.root.join(path).is_dir() { "/" } else { "" };
            toml_edit::Value::from(format!("{}{slash}", escape(&from_here(path)))).to_string()
        });
        let is_pattern = |path: &&str| recipe.sources.globs.iter().any(|glob| **glob.text() == **path);
        let also = match missed.iter().find(|path| is_pattern(path)) {
            Some(path) => format!(" (as `{}` it is a pattern, which means other files)", harmless(&from_here(path))),
            None => String::new(),
        };
        format!(
            "{} looked for {paths}, which {are} not declare; if it needs it, add to `inputs` ({file}:{line}): {lines}{also}",
            recipe.name
        )
    }
}

impl Executor for Hinting {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(async move {
            let begun = Instant::now();
            let mut done = self.inner.execute(job.clone()).await;
            if begun.elapsed() <= PATIENCE
                && let Some((loaded, recipe)) = self.recipe(&job, &done)
            {
                let begun = Instant::now();
                self.look(loaded, recipe, job).await;
                done.aside += begun.elapsed();
            }
            done
        })
    }

    fn begins_itself(&self, command: &str) -> bool {
        self.inner.begins_itself(command)
    }
}

/// Those that a task may need: not what it makes itself, not what belongs to git, and no directory of which a file is among
/// them.
fn needed<'p>(missed: &[&'p str], recipe: &Recipe) -> Vec<&'p str> {
    let is_made = |path: &str| {
        recipe.outputs.iter().any(|output| match output.kind {
            OutputKind::Glob => Pattern::read(&output.path).is_ok_and(|pattern| pattern.matches(path)),
            OutputKind::File | OutputKind::Dir => is_within(path, &output.path) || is_within(&output.path, path),
        })
    };
    let kept: Vec<&str> =
        missed.iter().copied().filter(|path| !is_made(path) && !path.split('/').any(|part| part == ".git")).collect();
    let holds_another = |dir: &str| kept.iter().any(|path| *path != dir && is_within(path, dir));
    kept.iter().copied().filter(|path| !path.is_empty() && !holds_another(path)).collect()
}
