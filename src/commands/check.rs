//! `quipu check`: runs tasks twice and says in what the two outcomes differ, before anybody relies on either.
//!
//! What the tasks need is settled as in any run. A task whose outcomes are equal is recorded as if it had run; one whose
//! outcomes differ is not recorded at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quipu_runtime::drive;
use quipu_runtime::exec::{Done, Executor, Job};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::Rules;
use quipu_runtime::run::step::{End, State};
use quipu_runtime::task::{PROCESS, WORKER};
use quipu_runtime::value::Text;
use quipu_runtime::workfile::Act;
use quipu_store::Store;
use quipu_store::receipt::FailureKind;
use serde::Serialize;

use super::compare::{self, Differing};
use super::{Context, memory, print, print_json, run};
use crate::cli::CheckArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::{self, count, harmless};
use crate::settings;

/// What came of one task.
#[derive(Debug, Serialize)]
struct Checked {
    task: String,
    /// `equal`, `differs`, `same` (it is the work of another that is checked), or how its run ended otherwise.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// In what the outcomes differ; the first comes first.
    differences: Vec<Differing>,
}

/// Checks.
pub(super) fn check(context: &Context, args: &CheckArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let goals = goals(&opened, args)?;
    let name = |task: TaskIdx| opened.project.subject.workflow.node(task).name.clone();
    let found = Found::default();
    let mut engine = opened.engine();
    opened.attach_remotes(&mut engine)?;
    for command in [PROCESS, WORKER] {
        let inner = engine.executors.find(command).expect("every engine has both").clone();
        let targets = goals.iter().map(|goal| name(*goal)).collect();
        let twice = Twice { inner, store: opened.store.clone(), targets, found: found.clone() };
        engine.executors.register(command, twice);
    }
    let told = found.clone();
    engine.observers.add(Arc::new(render::Failures::new(move |task| told.is_bad(task))));
    let rules = Rules {
        jobs: args.jobs.unwrap_or_else(settings::default_jobs),
        keep_going: true,
        force: goals.clone(),
        ..Rules::default()
    };
    let request = run::request(&opened, goals.clone(), rules);
    let report = drive::run_blocking(&engine, request, run::wish_to_stop)?;
    memory::keep(&opened, &report, false, memory::Scope::All)?;
    if let Some(refused) = opened.isolation_refused() {
        return Err(refused);
    }
    let mut found = found.take();
    let undelivered = report.run.undelivered();
    let mut checked = vec![];
    for goal in goals {
        let task = name(goal);
        let differences = found.remove(&task);
        let failed = report.run.failure(goal).map(|failure| failure.kind.to_string());
        let (result, reason) = match (&differences, report.run.state(goal)) {
            (Some(Err(why)), _) => ("failed", Some(why.clone())),
            (Some(Ok(found)), _) if !found.is_empty() => ("differs", None),
            (Some(Ok(_)), State::Ended(End::Ran)) => ("equal", None),
            // Another of the tasks does its work.
            (None, State::Ended(End::CutOff)) => ("same", Some("its work is that of another task".to_owned())),
            (_, State::Ended(End::Failed)) => ("failed", failed),
            (_, State::Ended(End::Skipped { cause })) => {
                ("skipped", Some(format!("`{}` did not succeed", name(cause))))
            }
            (_, State::Ended(End::Unmet)) => ("unmet", Some("its condition is not met".to_owned())),
            (_, State::Ended(End::Blocked { cause })) if undelivered.contains(&cause) => {
                ("blocked", Some(format!("`{}` is done elsewhere, and was not delivered", name(cause))))
            }
            (_, State::Ended(End::Blocked { cause })) => {
                ("blocked", Some(format!("there is no receipt for `{}`", name(cause))))
            }
            _ => ("cancelled", None),
        };
        let differences = differences.and_then(Result::ok).unwrap_or_default();
        checked.push(Checked { task: task.to_string(), result, reason, differences });
    }
    let count_of = |result: &str| checked.iter().filter(|c| c.result == result).count();
    let exit = if report.run.was_stopped() {
        Exit::Interrupted
    } else if count_of("differs") > 0 {
        Exit::Findings
    } else if count_of("failed") + count_of("skipped") > 0 {
        Exit::Failed
    } else if count_of("blocked") > 0 {
        if undelivered.is_empty() { Exit::Blocked } else { Exit::Suspended }
    } else {
        Exit::Ok
    };
    if args.json {
        print_json(&serde_json::json!({ "tasks": checked }))?
    } else {
        print(&text(&checked)).map(|()| Exit::Ok)?
    };
    Ok(exit)
}

/// The tasks that are run twice. What a selector means beside them and does not run is passed over, unless it means nothing
/// else.
fn goals(opened: &Opened, args: &CheckArgs) -> Result<Vec<TaskIdx>, Diagnosis> {
    let ids = &opened.project.subject.ids;
    let mut goals = vec![];
    for selector in &args.tasks {
        let meant = opened.goals(std::slice::from_ref(selector))?;
        let act = |task: &TaskIdx| &opened.project.recipe(*task).act;
        let runs = |task: &&TaskIdx| matches!(act(task), Act::Process | Act::Worker(_));
        let before = goals.len();
        goals.extend(meant.iter().filter(runs).map(|task| ids.first(*task)));
        if let Some(other) = meant.first().filter(|_| goals.len() == before) {
            let name = harmless(&opened.project.recipe(*other).name);
            let message = format!("`{name}` {}: there is nothing to run twice", act(other).told());
            return Err(Diagnosis::usage(message).hint("`quipu check` takes tasks that run something"));
        }
    }
    opened.tell_left_out(&args.tasks);
    goals.sort_unstable();
    goals.dedup();
    Ok(goals)
}

fn text(checked: &[Checked]) -> String {
    let mut out = String::new();
    for Checked { task, result, reason, differences } in checked {
        let task = harmless(task);
        match (*result, differences.split_first()) {
            ("equal", _) => {
                let _ = writeln!(out, "{task}: came out equal twice");
            }
            (_, Some((first, rest))) => {
                let _ = writeln!(out, "{task}: {}", first.text(compare::TWICE));
                for differing in rest {
                    let _ = writeln!(out, "  also {}", differing.text(compare::TWICE));
                }
            }
            _ => {
                let reason = reason.as_deref().map(|r| format!(": {}", harmless(r))).unwrap_or_default();
                let _ = writeln!(out, "{task}: {result}{reason}");
            }
        }
    }
    let differ = checked.iter().filter(|c| c.result == "differs").count();
    if differ > 0 {
        let _ = writeln!(
            out,
            "{} not deterministic; `quipu show ID` prints both outcomes, and `cache = false` in the workfile says that \
             each run counts",
            if differ == 1 { "1 task is".to_owned() } else { format!("{} are", count(differ, "task")) }
        );
    }
    out
}

/// In what two outcomes differ, nothing where they are equal, or why that could not be found out.
type Compared = Result<Vec<Differing>, String>;

/// What was found, by task.
#[derive(Clone, Default)]
struct Found(Arc<Mutex<BTreeMap<Text, Compared>>>);

impl Found {
    fn add(&self, task: Text, found: Compared) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task, found);
    }

    /// Whether two outcomes were not equal.
    fn is_bad(&self, task: &str) -> bool {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(task).is_some_and(|found| !matches!(found.as_deref(), Ok([])))
    }

    fn take(&self) -> BTreeMap<Text, Compared> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Carries out some tasks twice, others as ever.
struct Twice {
    inner: Arc<dyn Executor>,
    store: Store,
    targets: Vec<Text>,
    found: Found,
}

impl Executor for Twice {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(async move {
            if !self.targets.contains(&job.name) {
                return self.inner.execute(job).await;
            }
            let differs = |done: Done| {
                let why = "two runs of it came out differently".to_owned();
                Done { result: Err(FailureKind::Executor { why }.into()), ..done }
            };
            let name = job.name.clone();
            let first = self.inner.execute(job.clone()).await;
            let Ok(output) = &first.result else { return first };
            // Tried again, it may be equal by chance.
            if first.unusable.is_some() || self.found.is_bad(&name) {
                return if first.unusable.is_some() { first } else { differs(first) };
            }
            // What writes down the time does not do so twice within the same second.
            next_second().await;
            let second = self.inner.execute(job).await;
            let Ok(again) = &second.result else { return second };
            if second.unusable.is_some() {
                return second;
            }
            match compare::outputs(&self.store, output, again) {
                Ok(differences) if differences.is_empty() => {
                    self.found.add(name, Ok(differences));
                    second
                }
                Ok(differences) => {
                    self.found.add(name, Ok(differences));
                    differs(second)
                }
                Err(error) => {
                    self.found.add(name, Err(error.to_string()));
                    differs(second)
                }
            }
        })
    }
}

async fn next_second() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    tokio::time::sleep(Duration::from_nanos(u64::from(1_000_000_000 - now.min(999_999_999)))).await;
}
