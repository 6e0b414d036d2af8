//! `quipu run`: look, run what must run, place what was asked for, sum up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quipu_runtime::drive::{self, Beside, Goal, Report, Request};
use quipu_runtime::event_log::EventLog;
use quipu_runtime::exec::Stop;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::fetch;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::observe::{Observer, Observers, RunEvent};
use quipu_runtime::project::excerpt::Excerpt;
use quipu_runtime::run::step::Placed;
use quipu_runtime::run::{Gates, Rules};
use quipu_runtime::task::PROCESS;
use quipu_store::checkout::{self, CheckoutError};
use quipu_store::tree::Entry;
use tokio::sync::watch;

use crate::cli::{OnDivergence, RunArgs};
use crate::commands::glance::{Glance, Seen};
use crate::commands::{Context, excerpt, memory, note, plan, run_workflow};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::harmless;
use crate::undeclared::Hinting;
use crate::{remotes, render, settings};

/// Runs.
pub(crate) fn run(context: &Context, args: &RunArgs) -> Result<Exit, Diagnosis> {
    if let Some(exit) = run_workflow::run(context, args)? {
        return Ok(exit);
    }
    let glance = Glance::of(context, args);
    // What the way of an excerpt looked at, where it led nowhere.
    let mut before = None;
    match glance.as_ref().and_then(Glance::look) {
        Some(Seen::Same(summary)) => {
            let teller = render::Teller::of(args);
            teller.observer().on(0, &RunEvent::Summary(summary));
            teller.end();
            return teller.told(Exit::Ok);
        }
        Some(Seen::Changed(changed)) => {
            let store = context.settings()?.open_store()?;
            let workspace = Arc::new(Workspace::open(&store, &changed.workspace));
            match excerpt::open(context, args, &workspace, &changed)? {
                Some((opened, excerpt)) => {
                    if let Some(exit) = go(context, args, None, opened, Some(&excerpt))? {
                        return Ok(exit);
                    }
                }
                None => before = Some(workspace),
            }
        }
        None => {}
    }
    let exit = go(context, args, glance, Opened::open_after(context, before)?, None)?;
    Ok(exit.expect("only an excerpt may turn out to be too little"))
}

/// Runs what was opened; nothing comes of it when that is an excerpt, and more than it was needed.
fn go(
    context: &Context,
    args: &RunArgs,
    glance: Option<Glance>,
    opened: Opened,
    excerpt: Option<&Excerpt>,
) -> Result<Option<Exit>, Diagnosis> {
    let goals = match excerpt {
        Some(excerpt) => excerpt.tasks(),
        None => opened.asked(context, &args.goals)?,
    };
    let mut rules = rules(&opened, args, &goals)?;
    let left_out = opened.project.loaded.left_out(&args.goals.goals);
    if args.dry_run {
        return plan::show(&opened, goals, left_out, rules, args.json).map(Some);
    }
    let id = run_id()?;
    let mut engine = opened.engine();
    let mut told = Observers::new();
    let mut teller = render::Teller::of(args);
    if args.replay {
        teller = teller.with_replay(&opened);
    }
    told.add(teller.observer());
    if let Some(dir) = opened.store.runs_dir() {
        let before = excerpt.map(|excerpt| excerpt.log.clone()).unwrap_or_default();
        told.add(Arc::new(EventLog::after(dir.join(format!("{id}.jsonl")), before)));
    }
    if let Some(glance) = &glance {
        told.add(glance.observer());
    }
    let told = render::TellKept::new(Arc::clone(&opened.workspace), told);
    told.tell(0, checkout::tidy(&opened.store));
    engine.observers.add(Arc::new(told));
    engine.executors.register(PROCESS, Hinting::new(&opened, engine.observers.clone(), excerpt.map(|_| context)));
    opened.attach_remotes(&mut engine)?;
    if let Some(name) = &args.remote {
        let there = remotes::execute_on(&mut engine, &opened.settings, name, &opened.workspace, rules.jobs)?;
        rules.jobs = rules.jobs.saturating_add(there);
    }
    let placed = Arc::new(AtomicBool::new(false));
    let mut request = request(&opened, goals, rules);
    request.id = id.as_str().into();
    request.left_out = left_out;
    request.beside = excerpt.map(|excerpt| Beside { tasks: excerpt.others, goals: excerpt.goals.clone() });
    request.place = Some(placer(&opened, Arc::clone(&placed), glance.as_ref().map(Glance::placed)));
    request.wait = args.wait;
    let report = drive::run_blocking(&engine, request, wish_to_stop);
    teller.end();
    let report = report?;
    let scope = if excerpt.is_some() { memory::Scope::Some } else { memory::Scope::All };
    match memory::keep(&opened, &report, placed.load(Ordering::Relaxed), scope) {
        Err(_) if !opened.store.can_be_written() => {
            let message = "the store cannot be written: nothing is remembered for the next run".to_owned();
            engine.observers.on(0, &RunEvent::Warning { message });
        }
        remembered => remembered?,
    }
    if excerpt.is_some_and(|excerpt| !excerpt.stands(&report.run)) && !report.run.was_stopped() {
        return Ok(None);
    }
    let exit = exit_of(&report);
    if !args.json {
        tell_suspended(&report);
        let mut undelivered = report.run.undelivered().into_iter();
        if let Some(task) = undelivered.find(|task| opened.project.is_external(*task)) {
            let name = harmless(&opened.project.recipe(task).name);
            note(&format!("help: `quipu deliver {name} --ok FILE`, or `--error TEXT`, says what came out"));
        }
    }
    tell_withheld(&report);
    match opened.isolation_refused() {
        Some(diagnosis) if !report.run.was_stopped() => return Err(diagnosis),
        // What was just put in place is too young to be relied on.
        None if exit == Exit::Ok && !placed.load(Ordering::Relaxed) => {
            glance.iter().for_each(|glance| glance.keep(&opened, &report));
        }
        _ => {}
    }
    std::mem::forget(report);
    // What is left of it holds the store.
    drop(engine);
    opened.leave();
    teller.told(exit).map(Some)
}

/// Says what a run ended without, since it is done elsewhere.
pub(super) fn tell_suspended(report: &Report) {
    let name = |task: &TaskIdx| harmless(&report.run.subject().workflow.node(*task).name);
    let names: Vec<String> = report.run.undelivered().iter().map(name).collect();
    if !names.is_empty() {
        note(&format!("suspended, waiting for {}: {}", names.len(), names.join(", ")));
    }
}

/// Says which goals were made and not placed, and because of which check.
pub(super) fn tell_withheld(report: &Report) {
    let name = |task: TaskIdx| harmless(&report.run.subject().workflow.node(task).name);
    for (task, check) in report.run.withheld() {
        note(&format!("`{}` is not published: `{}` has not passed", name(task), name(check)));
    }
}

/// A request for work on these tasks that puts nothing in place.
pub(super) fn request(opened: &Opened, goals: Vec<TaskIdx>, rules: Rules) -> Request {
    let mut request = Request::new(Arc::clone(&opened.project.subject), goals, rules);
    request.session = Some(opened.key());
    request.workspace = Some(opened.key().into());
    request.durations = Some(durations(opened));
    request.equip = Some(equip(opened));
    request.listing = Some(opened.listing());
    request
}

fn rules(opened: &Opened, args: &RunArgs, goals: &[TaskIdx]) -> Result<Rules, Diagnosis> {
    let mut force = vec![];
    for name in &args.force {
        if name.is_empty() {
            force.extend(goals);
        } else {
            force.extend(opened.goals(std::slice::from_ref(name))?);
        }
    }
    Ok(rules_for(args, force, opened.project.gates(goals)))
}

/// What the command line says of how a run decides.
pub(super) fn rules_for(args: &RunArgs, force: Vec<TaskIdx>, gates: Gates) -> Rules {
    Rules {
        jobs: args.jobs.unwrap_or_else(settings::default_jobs),
        keep_going: args.keep_going,
        fail_on_divergence: args.on_divergence == OnDivergence::Fail,
        force,
        gates,
        slots: [(fetch::SLOT.into(), fetch::SLOTS)].into(),
        ..Rules::default()
    }
}

/// The moment, so that runs sort by age, and some randomness.
pub(super) fn run_id() -> Result<String, Diagnosis> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| Diagnosis::usage(format!("the system gives no random numbers: {e}")))?;
    let random: String = random.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{now:013}-{random}"))
}

/// Puts outputs where the workfile says, unless they are there, and says which are there.
fn placer(
    opened: &Opened,
    placed: Arc<AtomicBool>,
    mut seen: Option<impl FnMut(&str, bool) + Send + 'static>,
) -> drive::Placer {
    let (workspace, project) = (Arc::clone(&opened.workspace), Arc::clone(&opened.project));
    Box::new(move |goals: &[Goal]| {
        let wanted = |goal: &Goal, path: &str, entry: &Entry| {
            // The work itself put them there.
            let is_there = goal.fresh && project.recipe(goal.task).works_in_the_workspace();
            if is_there || !project.is_placed(goal.task, path) {
                return false;
            }
            let held = !goal.fresh && project.held(path, entry);
            if let Some(seen) = &mut seen {
                seen(path, held);
            }
            !held
        };
        put(&workspace, goals, wanted, &placed)
    })
}

/// Puts those outputs in place that are wanted, and says what came of each goal. Notes whether files were written.
pub(super) fn put(
    workspace: &Workspace,
    goals: &[Goal],
    mut wanted: impl FnMut(&Goal, &str, &Entry) -> bool,
    wrote: &AtomicBool,
) -> Vec<Result<Placed, String>> {
    let (mut of, mut outputs) = (vec![], vec![]);
    for (n, goal) in goals.iter().enumerate() {
        for (path, entry) in &goal.output.artifacts {
            if wanted(goal, path, entry) {
                of.push(n);
                outputs.push((&**path, entry));
            }
        }
    }
    let mut said = vec![Ok(Placed::Done); goals.len()];
    for ((n, (path, _)), put) in of.into_iter().zip(&outputs).zip(workspace.place_all(&outputs)) {
        match put {
            Ok(is_new) => drop(wrote.fetch_or(is_new, Ordering::Relaxed)),
            // What was said first stands.
            Err(_) if said[n] != Ok(Placed::Done) => {}
            // Its bytes are gone.
            Err(CheckoutError::Missing { .. } | CheckoutError::Corrupt(_) | CheckoutError::Size { .. }) => {
                said[n] = Ok(Placed::Hollow);
            }
            Err(error) => said[n] = Err(format!("`{path}` cannot be put in place: {error}")),
        }
    }
    said
}

fn equip(opened: &Opened) -> drive::Equip {
    let (project, store) = (Arc::clone(&opened.project), opened.store.clone());
    Box::new(move |task, job| {
        job.sources = project.seen(task);
        job.urls = Arc::clone(&project.recipe(task).urls);
        // Without the nodes `explain` could not go down to files; the run does not need them.
        let _ = project.keep_tree(&store, task);
    })
}

fn durations(opened: &Opened) -> Box<dyn FnOnce() -> Vec<u64> + Send> {
    let (store, key, project) = (opened.store.clone(), opened.key(), Arc::clone(&opened.project));
    Box::new(move || memory::durations(&store, &key, &project))
}

pub(super) fn exit_of(report: &Report) -> Exit {
    let counts = &report.summary.counts;
    if report.run.was_stopped() {
        Exit::Interrupted
    } else if report.run.stopped_by_divergence() {
        Exit::Findings
    } else if counts.failed + counts.skipped > 0 || report.run.place_failures() > 0 {
        Exit::Failed
    } else if counts.blocked > 0 {
        if report.run.undelivered().is_empty() { Exit::Blocked } else { Exit::Suspended }
    } else {
        Exit::Ok
    }
}

/// Ctrl-C and SIGTERM: once to end in order, twice to end at once.
pub(super) fn wish_to_stop() -> watch::Receiver<Stop> {
    let (sender, receiver) = watch::channel(Stop::No);
    let listen = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_modify(|s| *s = if *s == Stop::No { Stop::Cancel } else { Stop::Kill });
            }
        })
    };
    std::thread::spawn(move || -> std::io::Result<()> { listen() });
    receiver
}
