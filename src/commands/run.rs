//! `quipu run`: look, run what must run, place what was asked for, sum up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use quipu_runtime::drive::{self, Report, Request};
use quipu_runtime::event_log::EventLog;
use quipu_runtime::exec::Stop;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::observe::Observers;
use quipu_runtime::run::Rules;
use quipu_runtime::run::step::{End, Placed, State};
use quipu_store::Root;
use quipu_store::checkout::CheckoutError;
use quipu_store::cid::ReceiptId;
use quipu_store::receipt::Output;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cli::{OnDivergence, RunArgs};
use crate::commands::Context;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::{render, settings};

/// Files that a run without news may read anew each time rather than write down what it read.
const MAX_READ_FILES: u64 = 64;
/// Bytes of such files.
const MAX_READ_BYTES: u64 = 8 << 20;

/// Runs.
pub(crate) fn run(context: &Context, args: &RunArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(&context.settings, &context.start)?;
    let goals = opened.goals(&args.goals.goals)?;
    let rules = rules(&opened, args, &goals)?;
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    let id = run_id()?;
    let mut engine = opened.engine();
    engine.observers.add(render::of(args));
    if let Some(dir) = opened.store.runs_dir() {
        engine.observers.add(Arc::new(EventLog::new(dir.join(format!("{id}.jsonl")))));
    }
    let mut request = Request::new(Arc::clone(&opened.project.subject), goals, rules);
    request.id = id.as_str().into();
    request.session = Some(opened.key());
    let placed = Arc::new(AtomicBool::new(false));
    request.place = Some(placer(&opened, engine.observers.clone(), Arc::clone(&placed)));
    request.durations = Some(durations(&opened));
    request.equip = Some(equip(&opened));
    let report = drive::run_blocking(&engine, request, wish_to_stop)?;
    remember(&opened, &report, placed.load(Relaxed))?;
    Ok(exit_of(&report))
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
    Ok(Rules {
        jobs: args.jobs.unwrap_or_else(settings::default_jobs),
        keep_going: args.keep_going,
        fail_on_divergence: args.on_divergence == OnDivergence::Fail,
        force,
        ..Rules::default()
    })
}

/// The moment, so that runs sort by age, and some randomness.
fn run_id() -> Result<String, Diagnosis> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| Diagnosis::usage(format!("the system gives no random numbers: {e}")))?;
    let random: String = random.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{now:013}-{random}"))
}

/// Puts outputs where the workfile says, unless they are there.
fn placer(opened: &Opened, observers: Observers, any: Arc<AtomicBool>) -> drive::Placer {
    let (workspace, project) = (Arc::clone(&opened.workspace), Arc::clone(&opened.project));
    Box::new(move |task: TaskIdx, output: &Output, fresh: bool| {
        // Without a sandbox the work itself put them there.
        if fresh && project.recipe(task).tier == quipu_runtime::process::Tier::None {
            return Ok(Placed::Done);
        }
        for (path, entry) in &output.artifacts {
            if !fresh && project.held(path, entry) {
                continue;
            }
            match workspace.place(path, entry) {
                Ok(placed) => {
                    any.fetch_or(!placed.files.is_empty(), Relaxed);
                    render::kept(&observers, &workspace.take_kept());
                }
                Err(CheckoutError::Missing { .. } | CheckoutError::Corrupt(_) | CheckoutError::Size { .. }) => {
                    return Ok(Placed::Hollow);
                }
                Err(error) => return Err(format!("`{path}` cannot be put in place: {error}")),
            }
        }
        Ok(Placed::Done)
    })
}

fn equip(opened: &Opened) -> Box<dyn Fn(TaskIdx, &mut quipu_runtime::exec::Job) + Send> {
    let (project, store) = (Arc::clone(&opened.project), opened.store.clone());
    Box::new(move |task, job| {
        job.sources = project.seen(task);
        // Without the nodes `explain` could not go down to files; the run does not need them.
        let _ = project.keep_tree(&store, task);
    })
}

/// What is known of a task from the last run that did something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Its id then.
    pub(crate) id: String,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<u64>,
    /// The receipt it was settled by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) receipt: Option<String>,
}

/// What is known of all tasks of a workspace, by name.
pub(crate) type Memory = BTreeMap<String, Known>;

/// Reads what earlier runs of this workspace left; what cannot be read is as if it were not there.
pub(crate) fn memory(opened: &Opened) -> Memory {
    let note = opened.store.note(&format!("memory:{}", opened.key())).ok().flatten();
    note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn durations(opened: &Opened) -> Box<dyn FnOnce() -> Vec<u64> + Send> {
    let memory_of = (opened.store.clone(), opened.key());
    let project = Arc::clone(&opened.project);
    Box::new(move || {
        let (store, key) = memory_of;
        let note = store.note(&format!("memory:{key}")).ok().flatten();
        let memory: Memory = note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let known: HashMap<&str, u64> = memory.iter().filter_map(|(name, k)| Some((name.as_str(), k.ms?))).collect();
        project.subject.workflow.nodes().iter().map(|n| known.get(&*n.name).copied().unwrap_or(0)).collect()
    })
}

/// Keeps what the next run and `explain` want to know, and what `gc` must not delete. Writes nothing when
/// nothing is new.
fn remember(opened: &Opened, report: &Report, placed: bool) -> Result<(), Diagnosis> {
    let counts = &report.summary.counts;
    let news = counts.ran + counts.cut_off + counts.failed > 0;
    if !news && opened.store.root(&opened.key())?.is_some() {
        // A run without news writes nothing, unless reading the same files again each time would cost more.
        let read = opened.workspace.index().counts();
        if placed || read.files_read > MAX_READ_FILES || read.bytes_read > MAX_READ_BYTES {
            opened.workspace.index().save()?;
            opened.store.flush().map_err(|e| Diagnosis::system("what is known of files could not be written", &e))?;
        }
        return Ok(());
    }
    let mut memory = memory(opened);
    let workflow = &opened.project.subject.workflow;
    for task in workflow.indices() {
        let settled = matches!(report.run.state(task), State::Ended(End::Ran | End::Cached | End::CutOff));
        if !settled {
            continue;
        }
        let name = workflow.node(task).name.to_string();
        let old = memory.get(&name);
        let ms = report.wall_ms.get(&task).copied().or_else(|| old.and_then(|k| k.ms));
        let receipt = report.recorded.get(&task).copied().or_else(|| report.run.receipt(task));
        let receipt = receipt.map(|r| r.to_string());
        memory.insert(name, Known { id: opened.project.subject.ids.of(task).to_string(), ms, receipt });
    }
    // Tasks that the workfile does not name any more are forgotten, others keep what is known of them.
    memory.retain(|name, _| workflow.find(name).is_some());
    let bytes = serde_json::to_vec(&memory).unwrap_or_default();
    opened.store.set_note(&format!("memory:{}", opened.key()), Some(bytes))?;
    let mut receipts: Vec<ReceiptId> = memory.values().filter_map(|k| k.receipt.as_ref()?.parse().ok()).collect();
    receipts.sort_unstable();
    receipts.dedup();
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let path = opened.workspace.root().to_string_lossy().into_owned();
    opened.store.set_root(&opened.key(), &Root { path, receipts, links: vec![], at })?;
    opened.workspace.index().save()?;
    opened.store.flush().map_err(|e| Diagnosis::system("what the next run wants to know could not be written", &e))
}

fn exit_of(report: &Report) -> Exit {
    let counts = &report.summary.counts;
    if report.run.was_stopped() {
        Exit::Interrupted
    } else if report.run.stopped_by_divergence() {
        Exit::Findings
    } else if counts.failed + counts.skipped > 0 || report.run.place_failures() > 0 {
        Exit::Failed
    } else if counts.blocked > 0 {
        Exit::Blocked
    } else {
        Exit::Ok
    }
}

/// Ctrl-C and SIGTERM: once to end in order, twice to end at once.
fn wish_to_stop() -> watch::Receiver<Stop> {
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
