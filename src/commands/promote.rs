//! `quipu promote`: what was made in a name space comes to `default`, once all that is asked for is settled there.

use quipu_runtime::drive::{self, Engine};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::plan::{Plan, Planned, Status};
use quipu_runtime::run::{Rules, Run};
use quipu_runtime::task::When;
use quipu_store::Found;
use quipu_store::cid::TaskId;
use quipu_store::promote::{self, PromoteError, Promoted};
use quipu_store::spaces::Reads;

use super::{Context, accepted, namespace, note, plan, print, runs};
use crate::cli::PromoteArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::quantity::size;
use crate::remotes;
use crate::render::{count, harmless};
use crate::settings::space_name;

/// Most earlier runs that are looked through for a task that no receipt settles.
const MAX_RUNS: usize = 100;

/// Promotes.
pub(super) fn promote(context: &Context, args: &PromoteArgs) -> Result<Exit, Diagnosis> {
    if context.namespace.is_some() {
        return Err(Diagnosis::usage("what is promoted comes to `default`, and `--namespace` names another place")
            .hint("`quipu promote NAMESPACE`"));
    }
    let name = space_name(&args.space)?;
    let within = context.within(name.as_str());
    if !namespace::all(&within.settings()?)?.iter().any(|space| space.name == name) {
        return Err(namespace::missing(name.as_str()));
    }
    let opened = Opened::open(&within)?;
    let goals = opened.asked(&within, &args.goals)?;
    let run = opened.look_here(goals.clone(), Rules { jobs: 1, ..Rules::default() })?;
    let missing = unsettled(&opened, &run)?;
    if !missing.is_empty() {
        let what = count(missing.len(), "task");
        return Err(Diagnosis::usage(format!("name space `{name}` is not green: {what} not settled there"))
            .list(missing)
            .hint(format!("`quipu run --namespace {name}` does what is left; nothing was promoted"))
            .exit(Exit::Failed));
    }
    let settled = settled(&opened, &run, &goals)?;
    let to = opened.settings.within(None);
    let default = to.open_own()?;
    let receipts: Vec<(TaskId, Found)> = settled.iter().map(|(_, id, found)| (*id, found.clone())).collect();
    let promoted = promote::promote(&opened.store, &default, &receipts).map_err(|error| match error {
        PromoteError::Store(error) => error.into(),
        PromoteError::Commit(error) => error.into(),
        error => Diagnosis::system("cannot promote", &error),
    })?;
    tell(&opened, &settled, &promoted)?;
    if !context.offline {
        let mut engine = Engine::new(default);
        remotes::attach(&mut engine, &crate::settings::Settings { reads: Reads::OwnAndDefault, ..to })?;
        send(&opened, &engine, &settled, &promoted);
    }
    Ok(Exit::Ok)
}

/// What is not settled, each with the reason. Tasks that no receipt ever settles are as they were when they last ran there.
fn unsettled(opened: &Opened, run: &Run) -> Result<Vec<String>, Diagnosis> {
    let plan = Plan::of(run);
    let mut missing = vec![];
    for task in plan.tasks.iter() {
        let is_settled = matches!(task.status, Status::Cached | Status::CutOff | Status::Unneeded);
        if !is_settled && !opened.project.subject.is_service(task.idx) && !went_well(opened, &task)? {
            missing.push(format!("`{}`: {}", harmless(&task.name), harmless(&plan::because(opened, &task)?)));
        }
    }
    Ok(missing)
}

/// Whether a task that is never cached, or has a condition, ended well when it was last part of a run there, as what it is
/// now.
fn went_well(opened: &Opened, task: &Planned) -> Result<bool, Diagnosis> {
    let policy = opened.project.policy(task.idx);
    if policy.cache && policy.when == When::Success {
        return Ok(false);
    }
    let names: Vec<String> = [&task.name].into_iter().chain(&task.also).map(ToString::to_string).collect();
    let (dir, key) = (opened.settings.own_dir().join("runs"), opened.key());
    for (_, path) in runs::files(&dir)?.into_iter().take(MAX_RUNS).filter(|(_, path)| runs::is_of(path, Some(&key))) {
        if let Some(then) = runs::tasks(&path, &names)?.into_values().find(|then| !then.id.is_empty()) {
            let is_it = then.id == task.task.to_string();
            return Ok(is_it && matches!(&*then.end, "ran" | "cached" | "cut-off" | "unmet"));
        }
    }
    Ok(false)
}

type Settled = Vec<(TaskIdx, TaskId, Found)>;

/// The goals and all they await, as far as they are ever cached, each after what it awaits, with the receipt that settles it there.
fn settled(opened: &Opened, run: &Run, goals: &[TaskIdx]) -> Result<Settled, Diagnosis> {
    let mut all = Settled::new();
    for task in accepted::below(&opened.project.subject, goals) {
        if !opened.project.policy(task).cache {
            continue;
        }
        let id = opened.project.subject.ids.of(task);
        let known = opened.store.find_tasks(&[id])?.remove(0);
        let Some(receipt) = run.receipt(task).or(known.accepted.map(|(id, _)| id)) else { continue };
        let found = match known.receipts.into_iter().find(|found| found.signed.id == receipt) {
            Some(found) => found,
            // Found under the invocation, and not written down yet that it settles this task.
            None => match opened.store.receipt(receipt)? {
                Some(found) => found,
                None => continue,
            },
        };
        if found.signed.receipt.out.is_ok() {
            all.push((task, id, found));
        }
    }
    Ok(all)
}

fn tell(opened: &Opened, settled: &Settled, promoted: &Promoted) -> Result<(), Diagnosis> {
    let name = |task: &TaskIdx| harmless(&accepted::name(opened, *task));
    for (task, id, found) in settled {
        if promoted.replaced.contains(id) {
            note(&format!(
                "note: `{}` came out differently in default; what was promoted counts there now",
                name(task)
            ));
        }
        if promoted.hollow.contains(&found.signed.id) {
            note(&format!(
                "warning: bytes of `{}` are gone: it stays where it is, and runs when they are needed",
                name(task)
            ));
        }
    }
    let known = match promoted.known {
        0 => String::new(),
        n => format!(" ({n} were there already)"),
    };
    let (receipts, blocks) = (count(promoted.receipts.len(), "receipt"), count(promoted.blocks as usize, "block"));
    print(&format!("promoted {receipts}{known}, {blocks}, {}\n", size(promoted.bytes)))
}

/// Sends on what a run in `default` would have sent.
fn send(opened: &Opened, engine: &Engine, settled: &Settled, promoted: &Promoted) {
    let subject = &opened.project.subject;
    let mine = settled.iter().filter(|(task, _, found)| {
        let is_new = found.made_here && promoted.receipts.contains(&found.signed.id);
        is_new && drive::may_leave(subject.workflow.node(*task))
    });
    let receipts: Vec<_> = mine.map(|(_, _, found)| found.signed.id).collect();
    let (left, warnings) = drive::send(engine, &receipts);
    warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    if left > 0 {
        note(&format!("warning: {} not sent to remotes in time", count(left, "receipt")));
    }
}
