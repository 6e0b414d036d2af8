//! `quipu run ID`: a workflow by its id, in a directory that has the sources it names, or anywhere when the store has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quipu_runtime::drive::{self, Goal, Report, Request};
use quipu_runtime::event_log::EventLog;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::observe::Observers;
use quipu_runtime::run::step::{End, State};
use quipu_runtime::run::{Rules, Subject};
use quipu_runtime::task::{PROCESS, SERVICE, WORKER, Work};
use quipu_runtime::workflow_block::{self, Beside};
use quipu_store::cid::Link;
use quipu_store::{Root, Store, checkout};

use super::run::{exit_of, put, rules_for, run_id, tell_suspended, tell_withheld, wish_to_stop};
use super::{Context, show, workflow};
use crate::cli::RunArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::provided::{InRoom, Room};
use crate::quantity::now;
use crate::render::harmless;
use crate::settings::Settings;
use crate::trust_file::Trust;
use crate::{project, remotes, render};

/// What is to be run.
struct Asked {
    link: Link,
    subject: Arc<Subject>,
    goals: Vec<TaskIdx>,
    beside: Beside,
}

/// Runs the workflow that is asked for by its id; `None` when something else is asked for.
pub(super) fn run(context: &Context, args: &RunArgs) -> Result<Option<Exit>, Diagnosis> {
    let Some((id, names)) = args.goals.goals.split_first().filter(|(id, _)| workflow::is_id(id)) else {
        return Ok(None);
    };
    let settings = context.settings()?;
    let store = settings.open_store()?;
    let (link, kind) = show::resolve(&store, id)?;
    let bytes = store.get(link, quipu_store::car::MAX_DAG_BYTES)?.filter(|bytes| workflow_block::looks_like_one(bytes));
    let Some(bytes) = bytes else {
        let message = format!("{link} is no workflow, but a {}", kind.name());
        return Err(Diagnosis::usage(message).hint("`quipu export --workflow` makes one of tasks"));
    };
    let read = workflow_block::decode(&bytes).map_err(|e| Diagnosis::usage(format!("workflow {link}: {e}")))?;
    for (is_given, what) in [
        (args.dry_run, "--dry-run"),
        (args.replay, "--replay"),
        (args.remote.is_some(), "--remote"),
        (args.goals.change.since.is_some() || !args.goals.change.changed.is_empty(), "a change"),
    ] {
        if is_given {
            return Err(Diagnosis::usage(format!("a workflow that is run by its id does not go with {what}")));
        }
    }
    let subject = Arc::new(read.subject);
    let mut goals = if names.is_empty() { read.goals } else { find(&subject, names)? };
    // Who asks for what is published asks for the checks on it.
    goals.extend(read.beside.gates(&subject, &goals).into_values().flatten());
    let asked = Asked { link, subject, goals, beside: read.beside };
    go(context, args, &settings, &store, asked).map(Some)
}

/// Tasks of the workflow by their whole names.
fn find(subject: &Subject, names: &[String]) -> Result<Vec<TaskIdx>, Diagnosis> {
    let find = |name: &String| {
        let missing = || Diagnosis::usage(format!("`{}` is no task of this workflow", harmless(name)));
        subject.workflow.find(name).ok_or_else(missing)
    };
    names.iter().map(find).collect()
}

fn go(context: &Context, args: &RunArgs, settings: &Settings, store: &Store, asked: Asked) -> Result<Exit, Diagnosis> {
    let Asked { link, ref subject, goals, beside } = asked;
    let key = format!("workflow {link}");
    let start = context.start.canonicalize().map_err(|e| Diagnosis::system("cannot find this directory", &e))?;
    let here = Arc::new(Workspace::open(store, &start));
    let gates = beside.gates(subject, &goals);
    let room = Arc::new(Room::new(store, Arc::clone(&here), beside));
    let trust = Trust::read(&settings.trust)?;
    let mut engine = project::engine(store, &trust, &start, context.offline);
    for cmd in [PROCESS, SERVICE, WORKER] {
        engine.executors.register(cmd, InRoom(Arc::clone(&room)));
    }
    if !context.offline {
        remotes::attach(&mut engine, settings)?;
    }
    let mut force = vec![];
    for name in &args.force {
        force.extend(if name.is_empty() { goals.clone() } else { find(subject, std::slice::from_ref(name))? });
    }
    let rules = rules_for(args, force, gates);
    let request = |rules: Rules| {
        let mut request = Request::new(Arc::clone(subject), goals.clone(), rules);
        request.session = Some(key.clone());
        let (room, of) = (Arc::clone(&room), Arc::clone(subject));
        request.listing = Some(Box::new(move |task| room.listing(&of, task)));
        request
    };
    // What is not done needs its sources, all of which are looked for before anything runs.
    let look = drive::look(&engine, request(rules.clone()))?;
    let is_left = |t: &TaskIdx| look.in_scope(*t) && !matches!(look.state(*t), State::Ended(_) | State::Idle);
    room.provide(subject, &subject.workflow.indices().filter(is_left).collect::<Vec<_>>())?;

    let id = run_id()?;
    let (mut told, teller) = (Observers::new(), render::Teller::of(args));
    told.add(teller.observer());
    if let Some(dir) = store.runs_dir() {
        told.add(Arc::new(EventLog::new(dir.join(format!("{id}.jsonl")))));
    }
    let told = render::TellKept::new(Arc::clone(&here), told);
    told.tell(0, checkout::tidy(store));
    engine.observers.add(Arc::new(told));
    let placed = Arc::new(AtomicBool::new(false));
    let mut request = request(rules);
    request.id = id.as_str().into();
    request.workspace = Some(key.as_str().into());
    request.wait = args.wait;
    request.place = Some(placer(subject, &here, Arc::clone(&placed)));
    let (to_equip, of) = (Arc::clone(&room), Arc::clone(subject));
    request.equip = Some(Box::new(move |task, job| to_equip.equip(&of, task, job)));
    let report = drive::run_blocking(&engine, request, wish_to_stop);
    teller.end();
    let report = report?;
    keep(store, link, &key, &report)?;
    if placed.load(Ordering::Relaxed) {
        here.index().save()?;
        store.flush()?;
    }
    if !args.json {
        tell_suspended(&report);
    }
    tell_withheld(&report);
    match room.isolation_refused() {
        Some(diagnosis) if !report.run.was_stopped() => Err(diagnosis),
        _ => teller.told(exit_of(&report)),
    }
}

/// Puts outputs where the workflow says, below the directory that the command works in. Those of other workflows are not ours to
/// place.
fn placer(subject: &Arc<Subject>, here: &Arc<Workspace>, placed: Arc<AtomicBool>) -> drive::Placer {
    let (subject, here) = (Arc::clone(subject), Arc::clone(here));
    Box::new(move |goals: &[Goal]| {
        let is_ours = |goal: &Goal| !matches!(subject.workflow.node(goal.task).work, Work::External { .. });
        put(&here, goals, |goal, _, _| is_ours(goal), &placed)
    })
}

/// Keeps the workflow and what settled it from being collected. Writes nothing when nothing is new.
fn keep(store: &Store, link: Link, key: &str, report: &Report) -> Result<(), Diagnosis> {
    let counts = &report.summary.counts;
    let old = store.root(key)?;
    if counts.ran + counts.cut_off + counts.failed == 0 && old.as_ref().is_some_and(|root| !root.receipts.is_empty()) {
        return Ok(());
    }
    let is_done = |t: &TaskIdx| matches!(report.run.state(*t), State::Ended(End::Ran | End::Cached | End::CutOff));
    let tasks = report.run.subject().workflow.indices().filter(is_done);
    let mut receipts: Vec<_> = tasks.filter_map(|t| report.receipt(t)).collect();
    receipts.extend(old.into_iter().flat_map(|root| root.receipts));
    receipts.sort_unstable();
    receipts.dedup();
    store.set_root(key, &Root { path: key.to_owned(), receipts, links: vec![link], at: now() })?;
    Ok(store.flush()?)
}
