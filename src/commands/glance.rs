//! The short way of a run that has nothing to do: when all that the last such run looked at looks the same, so does its
//! answer.
//!
//! Decides what belongs to "all". Unaware of how it is written down and compared: that is the store's `glance`.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quipu_runtime::drive::Report;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::observe::{Ended, Observer, RunEvent, Summary};
use quipu_runtime::run::Counts;
use quipu_runtime::run::step::State;
use quipu_runtime::workfile::FILE_NAME;
use quipu_store::glance::{self, Again, How, Key, Parts, Question, Sight, VoidBy};
use quipu_store::spaces;

use crate::cli::RunArgs;
use crate::commands::{Context, memory};
use crate::project::Opened;
use crate::settings::{self, Settings};

/// Shells set these anew for each command; a task that is given one of them is not looked at in this way.
const RESTLESS: [&str; 3] = ["_", "OLDPWD", "SHLVL"];

/// One run's way to be short, or to make the next one so.
pub(super) struct Glance {
    key: Key,
    began_ns: i64,
    start: PathBuf,
    settings: Settings,
    env: BTreeMap<String, String>,
    /// Artifacts that were in their places: path, and whether it was seen without asking how one gets there.
    placed: Arc<Mutex<Vec<(String, bool)>>>,
    events: Arc<Uneventful>,
    /// It is about all of its goals, and about no store but one.
    is_whole: bool,
}

/// What a look showed.
pub(super) enum Seen {
    /// All is as it was.
    Same(Summary),
    /// It is known which tasks are concerned.
    Changed(Changed),
}

/// What changed since all of a workspace's tasks were settled.
pub(crate) struct Changed {
    /// What they were.
    pub(crate) parts: Parts,
    /// Files that look different.
    pub(crate) changed: Vec<PathBuf>,
    /// How many tasks there were.
    pub(crate) tasks: usize,
    /// Where.
    pub(crate) workspace: PathBuf,
}

/// Whether nothing was told but that tasks are as they were.
#[derive(Default)]
struct Uneventful {
    news: AtomicBool,
}

impl Observer for Uneventful {
    fn on(&self, _: u64, event: &RunEvent) {
        let old = matches!(
            event,
            RunEvent::RunStarted { .. } | RunEvent::TaskEnded { end: Ended::Cached, .. } | RunEvent::Summary(_)
        );
        if !old {
            self.news.store(true, Ordering::Relaxed);
        }
    }
}

impl Glance {
    /// For a run as it was asked for; `None` where the long way is the only one.
    pub(super) fn of(context: &Context, args: &RunArgs) -> Option<Self> {
        let began_ns = glance::now_ns();
        // What git says of changes, and what is told again, is looked at anew each time.
        let looks_elsewhere = args.goals.change.since.is_some() || args.replay;
        if args.json || args.dry_run || looks_elsewhere || !args.force.is_empty() || !settings::may_glance() {
            return None;
        }
        let settings = context.settings().ok()?;
        let start = context.start.canonicalize().ok()?;
        let env = settings::environment();
        let mut question = Question::new();
        for path in [&*start, &*settings.own_dir(), settings.config_dir()] {
            question.add(path.as_os_str().as_bytes());
        }
        let program = std::fs::metadata("/proc/self/exe").ok()?;
        for number in [program.dev(), program.ino(), program.size()] {
            question.add(&number.to_le_bytes());
        }
        for time in [program.mtime(), program.mtime_nsec(), program.ctime(), program.ctime_nsec()] {
            question.add(&time.to_le_bytes());
        }
        question.add(&rustix::process::geteuid().as_raw().to_le_bytes());
        // Whatever options there are and will be.
        settings::arguments().for_each(|argument| question.add(argument.as_bytes()));
        question.add(b"");
        for (name, value) in env.iter().filter(|(name, _)| !RESTLESS.contains(&name.as_str())) {
            question.add(name.as_bytes());
            question.add(value.as_bytes());
        }
        let key = question.key();
        let (placed, events) = Default::default();
        let is_whole = args.goals.change.changed.is_empty() && settings.space.is_none();
        Some(Self { key, began_ns, start, settings, env, placed, events, is_whole })
    }

    /// The summary, if all looks as it did when that was the summary; otherwise what changed, if it is known what follows
    /// from that.
    pub(super) fn look(&self) -> Option<Seen> {
        let Again { answer, changed, workspace } = glance::look_again(&self.settings.own_dir(), &self.key)?;
        if let Some(space) = &self.settings.space {
            spaces::touch(&self.settings.store, space);
        }
        let (cached, rest) = answer.split_at_checked(8)?;
        let (unneeded, digest) = rest.split_at_checked(8)?;
        let number = |bytes: &[u8]| usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok();
        let counts = Counts { cached: number(cached)?, unneeded: number(unneeded)?, ..Counts::default() };
        if !changed.is_empty() {
            let parts = glance::parts(&self.settings.own_dir(), &self.key, digest.try_into().ok()?)?;
            return Some(Seen::Changed(Changed { parts, changed, tasks: counts.cached, workspace }));
        }
        Some(Seen::Same(Summary { run: "".into(), counts, left_out: 0, fetched: 0, ms: 0 }))
    }

    /// Hears whether something happens.
    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        self.events.clone()
    }

    /// Hears which outputs were in their places, with whether the scan of the workspace said so.
    pub(super) fn placed(&self) -> impl FnMut(&str, bool) + Send + use<> {
        let placed = self.placed.clone();
        move |path, held| placed.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), held))
    }

    /// Writes down what the run looked at, if there was nothing to do and nothing to say.
    pub(super) fn keep(&self, opened: &Opened, report: &Report) {
        let Counts { cached, unneeded, .. } = report.summary.counts;
        let settled = Counts { cached, unneeded, ..Counts::default() };
        let loaded = &opened.project.loaded;
        let passed = loaded.recipes.iter().flat_map(|recipe| &recipe.pass_env);
        let params = loaded.params.iter().chain(loaded.recipes.iter().flat_map(|recipe| &*recipe.params));
        let mut named = passed.chain(params.filter_map(|param| param.from_env.as_ref()));
        // What a run that was killed had done of these counts once, in the run that goes on.
        let went_on = |t: TaskIdx| matches!(report.run.state(t), State::Ended(_)) && !opened.project.policy(t).cache;
        if report.summary.counts != settled
            || opened.project.subject.workflow.indices().any(went_on)
            || report.run.place_failures() > 0
            || report.has_expiring
            || self.events.news.load(Ordering::Relaxed)
            || named.any(|name| RESTLESS.contains(&&**name))
        {
            return;
        }
        let answer = [(cached as u64).to_le_bytes(), (unneeded as u64).to_le_bytes()].concat();
        // A task that was not looked at may have no receipt, and one that comes could speak against those that were.
        let void_by = if unneeded == 0 { VoidBy::Rewriting } else { VoidBy::AnyCommit };
        let parts = || match void_by {
            // Who works out part of a workspace writes nothing of the rest.
            VoidBy::Rewriting if self.is_whole && memory::is_in_step(opened, report) => {
                opened.project.compiled(&report.run).unwrap_or_default()
            }
            _ => vec![],
        };
        // Without it the next run takes the long way again.
        let _ = self.sight(opened).and_then(|sight| {
            let Some(sight) = sight else { return Ok(false) };
            sight.keep_with(&self.settings.own_dir(), &self.key, self.began_ns, void_by, || (answer, parts()))
        });
    }

    /// All that was looked at; `None` where some of it is too young to be relied on.
    fn sight(&self, opened: &Opened) -> std::io::Result<Option<Sight>> {
        let project = &opened.project;
        let root = &project.loaded.root;
        let mut sight = Sight::new(root);
        for (path, stamp) in project.all_sources() {
            if !stamp.is_settled(self.began_ns) {
                return Ok(None);
            }
            sight.saw_of_task(&**path, stamp);
        }
        for dir in self.start.ancestors() {
            sight.looked_for(How::Target, dir.join(FILE_NAME));
        }
        for file in &project.loaded.files {
            sight.saw(How::Target, &file.path);
        }
        for looked in [&project.loaded.looked, project.looked()] {
            for folder in &looked.folders {
                sight.looked_for(How::Itself, &**folder);
            }
            for path in &looked.paths {
                sight.looked_for(How::Itself, &**path);
                sight.looked_for(How::Target, &**path);
            }
            let rules = looked.git_rules(root, |name| self.env.get(name).filter(|v| !v.is_empty()).map(PathBuf::from));
            rules.files.into_iter().for_each(|path| sight.looked_for(How::Target, path));
            rules.repositories.into_iter().for_each(|path| sight.looked_for(How::Kind, path));
        }
        for path in project.tool_candidates() {
            sight.looked_for(How::Target, path);
        }
        for (path, held) in &*self.placed.lock().unwrap_or_else(PoisonError::into_inner) {
            match project.stamp(path).filter(|_| *held) {
                Some(stamp) => sight.saw_of_task(path, stamp),
                None => sight.made_all_below(Path::new(path))?,
            }
        }
        if let Some(behind) = self.settings.behind() {
            sight.read_store(behind);
        }
        // Keys, and whatever else of the user's says what counts.
        let config = self.settings.config_dir();
        sight.looked_for(How::Target, config);
        for entry in std::fs::read_dir(config).into_iter().flatten() {
            sight.saw(How::Target, entry?.path());
        }
        Ok(Some(sight))
    }
}
