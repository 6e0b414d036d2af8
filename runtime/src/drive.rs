//! The driver: turns the steps of a run into look-ups, work and records, and what comes of them into events.
//!
//! Look-ups are answered in place, many at a time; only work is asynchronous, so that a run with nothing to
//! do starts no thread. Unaware of workfiles and of how anything is shown.

mod awaits;
mod companies;
mod elsewhere;
mod hearing;
mod lookups;
mod push;
mod reads;
mod remotes;
mod request;
mod seating;
mod telling;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use quipu_store::CommitError;
use quipu_store::cid::{ReceiptId, TaskId};
use quipu_store::receipt::Via;
use quipu_store::trust::Doubt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::attest::Circumstances;
use crate::exec::{Done, Stop};
use crate::graph::TaskIdx;
use crate::observe::{Observer, RunEvent, Summary};
use crate::run::step::{Event, Need, State};
use crate::run::{Run, Subject};
use crate::task::Work;
use crate::value::Text;
use awaits::Awaits;
use companies::Companies;
use elsewhere::{Question, Reach};
use push::Pusher;
pub use push::{may_leave, send};
use reads::Reads;
use remotes::Remotes;
pub use request::{Beside, DriveError, Durations, Engine, Equip, Goal, Listing, Placer, Report, Request, place_each};
use seating::Seating;
use work::Message;

/// Nobody wishes the run to end.
pub fn never_stop() -> watch::Receiver<Stop> {
    // The wish can come as long as the sender lives: this one lives for ever, and nobody sends.
    static NOBODY: LazyLock<watch::Sender<Stop>> = LazyLock::new(|| watch::channel(Stop::No).0);
    NOBODY.subscribe()
}

/// Looks everything up, does no work and writes nothing: what [`crate::plan`] reads.
pub fn look(engine: &Engine, mut request: Request) -> Result<Run, DriveError> {
    request.place = None;
    request.rules.place = false;
    let mut drive = Drive::new(engine.clone(), request);
    drive.looks_only = true;
    drive.open_session()?;
    drive.reach = Reach::Look;
    drive.remotes.keep = false;
    drive.settle()?;
    Ok(drive.run)
}

/// Runs to the end on the calling thread; starts a runtime, and listens for people's wish to end it, only
/// when there is work.
///
/// The runtime has one thread for all futures, since what runs processes has threads of its own and only hands on: a second
/// one is woken for nothing with each task. That thread is the calling one where nothing but such executors works. Who has
/// executors that compute without waiting calls [`run`] in a runtime with more of them.
pub fn run_blocking(
    engine: &Engine,
    request: Request,
    listen: impl FnOnce() -> watch::Receiver<Stop>,
) -> Result<Report, DriveError> {
    let mut drive = Drive::new(engine.clone(), request);
    drive.begin()?;
    if !drive.run.is_done() || drive.has_work() {
        let mut builder = if drive.has_work_of_threads_alone() {
            tokio::runtime::Builder::new_current_thread()
        } else {
            tokio::runtime::Builder::new_multi_thread()
        };
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let worked = runtime.block_on(drive.work(listen()));
        // What a stuck executor left behind does not keep us here.
        runtime.shutdown_background();
        worked?;
    }
    drive.end()
}

/// Runs to the end within a runtime that is there already.
pub async fn run(engine: &Engine, request: Request, stop: watch::Receiver<Stop>) -> Result<Report, DriveError> {
    let mut drive = Drive::new(engine.clone(), request);
    drive.begin()?;
    drive.work(stop).await?;
    drive.end()
}

struct Working {
    stop: watch::Sender<Stop>,
    via: Via,
    ins: Vec<ReceiptId>,
    invocation: Arc<crate::task::Invocation>,
}

/// Finished work on its way to a receipt.
struct Unrecorded {
    done: Done,
    about: Circumstances,
    blocks: Vec<(quipu_store::cid::Link, Vec<u8>)>,
    /// Tasks of the same invocation that it settles, too.
    shared: Vec<TaskIdx>,
    lease: Option<quipu_store::Lease>,
}

struct Drive {
    engine: Engine,
    subject: Arc<Subject>,
    run: Run,
    id: Text,
    workspace: Option<Text>,
    jobs: u32,
    goals: Vec<TaskIdx>,
    started_ms: u64,
    place: Option<Placer>,
    durations: Option<Durations>,
    equip: Option<Equip>,
    reads: Reads,
    beside: Option<Beside>,
    left_out: Vec<(Text, Text)>,
    expected_ms: Vec<u64>,
    /// What tasks that are never cached are remembered with, until the run ends.
    session_of: Option<String>,
    session: Option<work::Session>,
    session_receipts: HashSet<ReceiptId>,
    /// Kinds of doubt that were told of: once each.
    doubted: HashSet<Option<Doubt>>,
    /// What was said already.
    warned: HashSet<String>,
    working: HashMap<TaskIdx, Working>,
    seating: Seating,
    companies: Companies,
    /// Bytes each task was staged with, to look again when they vanish.
    needs: HashMap<TaskIdx, Vec<Need>>,
    /// How often they did.
    vanished: HashMap<TaskIdx, u8>,
    /// Tasks that are done elsewhere.
    awaits: Awaits,
    /// Whether the run waits for these when nothing else is left.
    wait: bool,
    /// Failed tasks that wait before they are tried again.
    pauses: HashMap<TaskIdx, work::Pausing>,
    /// Time that tasks took so far, with the pauses between attempts.
    spent: HashMap<TaskIdx, Duration>,
    unrecorded: BTreeMap<TaskIdx, Unrecorded>,
    awaiting_record: usize,
    remotes: Remotes,
    pusher: Pusher,
    reach: Reach,
    /// Questions to others that are not answered yet.
    asked: BTreeMap<u64, Question>,
    asked_last: u64,
    /// Something was handed to the store that nobody waits for.
    unflushed: bool,
    /// Nothing is written, not even what was learnt.
    looks_only: bool,
    commit_error: Option<CommitError>,
    wall_ms: HashMap<TaskIdx, (u64, u64, u64)>,
    recorded: HashMap<TaskIdx, ReceiptId>,
    has_expiring: bool,
    sender: mpsc::UnboundedSender<Message>,
    receiver: mpsc::UnboundedReceiver<Message>,
    /// What goes on beside the run, and ends with it.
    background: JoinSet<()>,
}

impl Drive {
    fn new(engine: Engine, mut request: Request) -> Self {
        request.rules.dry = true;
        request.rules.place = request.place.is_some();
        request.rules.got_ready = engine.executors.got_ready();
        let jobs = request.rules.jobs.max(1);
        let run = Run::new(Arc::clone(&request.subject), &request.goals, request.rules);
        let (sender, receiver) = mpsc::unbounded_channel();
        let remotes = Remotes::new(&engine);
        Self {
            pusher: Pusher::new(remotes.clone()),
            remotes,
            reach: Reach::Begin,
            asked: BTreeMap::new(),
            asked_last: 0,
            started_ms: engine.clock.elapsed_ms(),
            engine,
            companies: Companies::of(&request.subject),
            subject: request.subject,
            run,
            id: request.id,
            workspace: request.workspace,
            jobs,
            goals: request.goals,
            place: request.place,
            durations: request.durations,
            equip: request.equip,
            reads: Reads::new(request.listing),
            beside: request.beside,
            left_out: request.left_out,
            expected_ms: vec![],
            session_of: request.session,
            session: None,
            session_receipts: HashSet::new(),
            doubted: HashSet::new(),
            warned: HashSet::new(),
            working: HashMap::new(),
            seating: Seating::new(jobs),
            needs: HashMap::new(),
            vanished: HashMap::new(),
            awaits: Awaits::default(),
            wait: request.wait,
            pauses: HashMap::new(),
            spent: HashMap::new(),
            unrecorded: BTreeMap::new(),
            awaiting_record: 0,
            unflushed: false,
            looks_only: false,
            commit_error: None,
            wall_ms: HashMap::new(),
            recorded: HashMap::new(),
            has_expiring: false,
            sender,
            receiver,
            background: JoinSet::new(),
        }
    }

    /// Looks everything up, says what is to come, and lets work start.
    fn begin(&mut self) -> Result<(), DriveError> {
        let names = || match &self.beside {
            Some(beside) => beside.goals.clone(),
            None => self.goals.iter().map(|goal| self.name(*goal)).collect(),
        };
        // The same task under two names counts once.
        let ids = &self.subject.ids;
        let in_scope = |t: &TaskIdx| ids.first(*t) == *t && self.run.in_scope(*t);
        let tasks = self.subject.workflow.indices().filter(in_scope).filter(|t| !self.is_beside(*t)).count();
        let tasks = tasks + self.others();
        let workspace = || self.workspace.clone();
        self.emit(|| RunEvent::RunStarted { run: self.id.clone(), workspace: workspace(), goals: names(), tasks });
        for (task, reason) in &self.left_out {
            self.emit(|| RunEvent::TaskLeftOut { task: task.clone(), reason: reason.clone() });
        }
        self.open_session()?;
        self.settle()?;
        let ids = &self.subject.ids;
        let once = |t: &TaskIdx| ids.first(*t) == *t && self.run.in_scope(*t) && !self.is_beside(*t);
        let once = self.subject.workflow.indices().filter(once);
        let states: Vec<(TaskIdx, State)> = once.map(|t| (t, self.run.state(t))).collect();
        let count = |is: fn(&State) -> bool| states.iter().filter(|(_, s)| is(s)).count();
        let certain = count(|s| matches!(s, State::Staging | State::Queued | State::Following));
        let conditional = count(|s| matches!(s, State::Waiting | State::Ordering | State::Calling));
        let settled = count(|s| matches!(s, State::Ended(_))) + self.others();
        if certain + conditional > 0 {
            self.expected_ms = self.durations.take().map(|d| d()).unwrap_or_default();
            let left = states.iter().filter(|(_, s)| !matches!(s, State::Ended(_) | State::Idle)).map(|(t, _)| *t);
            let expected_ms = self.expected(left);
            self.emit(|| RunEvent::Planned { settled, certain, conditional, expected_ms });
        }
        self.run.start_work(self.expected_ms.clone());
        Ok(())
    }

    /// How long tasks will take, by the longest way through them and by how many run at once; `None` where no
    /// earlier run tells.
    fn expected(&self, left: impl Iterator<Item = TaskIdx>) -> Option<u64> {
        let mut left_ms = vec![0; self.subject.workflow.len()];
        for task in left {
            left_ms[task.index()] = self.expected_ms.get(task.index()).copied().unwrap_or(0);
        }
        let total: u64 = left_ms.iter().sum();
        let longest = crate::run::critical_path(&self.subject.graph, &left_ms).into_iter().max().unwrap_or(0);
        (total > 0).then(|| longest.max(total / u64::from(self.jobs)))
    }

    fn has_work(&self) -> bool {
        self.subject.workflow.indices().any(|t| matches!(self.run.state(t), State::Queued))
    }

    /// Whether all that may work has threads of its own, so that nothing suffers when this one is busy. Services have, too, but
    /// whether they are ready is looked at here.
    fn has_work_of_threads_alone(&self) -> bool {
        let executors = &self.engine.executors;
        let is_such = |task: TaskIdx| match &self.subject.workflow.node(task).work {
            Work::Task(recipe) => executors.find(&recipe.cmd).is_none_or(|e| e.begins_itself(&recipe.cmd)),
            Work::External { .. } => true,
        };
        let in_scope = self.subject.workflow.indices().filter(|t| self.run.in_scope(*t));
        in_scope.into_iter().all(|t| is_such(t) && !self.subject.is_service(t))
    }

    /// Turns steps into work until the run is done.
    async fn work(&mut self, mut stop: watch::Receiver<Stop>) -> Result<(), DriveError> {
        let mut heard = Stop::No;
        let mut next_look = tokio::time::interval(awaits::EVERY);
        next_look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.reach_out();
        loop {
            self.settle()?;
            self.seating.go_on();
            self.record_finished()?;
            if self.run.has_no_question()
                && let Some(worked) = self.seating.next()
            {
                self.worked(worked)?;
                continue;
            }
            if self.run.is_done() && self.working.is_empty() {
                break;
            }
            if !self.wait && self.has_only_awaits() {
                self.look_for_deliveries(true)?;
                continue;
            }
            self.engine.observers.rest();
            tokio::select! {
                _ = next_look.tick(), if !self.awaits.is_empty() => self.look_for_deliveries(false)?,
                message = self.receiver.recv() => {
                    let message = message.expect("this end holds a sender");
                    self.hear(message)?;
                    // Whatever else has come in meanwhile is heard before anything new starts.
                    self.hear_all()?;
                }
                changed = stop.changed(), if heard < Stop::Kill => {
                    let wish = *stop.borrow_and_update();
                    if changed.is_err() {
                        heard = Stop::Kill;
                        continue;
                    }
                    if wish > heard {
                        // Asked twice before it was heard once.
                        let times = if heard == Stop::No && wish == Stop::Kill { 2 } else { 1 };
                        heard = wish;
                        (0..times).for_each(|_| self.run.on(Event::Stop));
                        self.stop_asking()?;
                        // Asked once, the run says what ends: not what cleans up, and services after those that need them.
                        for working in self.working.values().filter(|_| wish == Stop::Kill) {
                            working.stop.send_if_modified(|s| std::mem::replace(s, wish) < wish);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Sees to it that all is on disk, and sums up.
    fn end(mut self) -> Result<Report, DriveError> {
        let notices = self.run.finish();
        notices.into_iter().for_each(|n| self.tell(n));
        if self.awaiting_record > 0 || self.unflushed || self.commit_error.is_some() {
            let (store, (tell, told)) = (self.engine.store.clone(), std::sync::mpsc::channel());
            let flush = std::thread::spawn(move || {
                let flushed = store.flush();
                let _ = tell.send(());
                flushed
            });
            // What is on disk is told as it gets there, not when all is.
            while told.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                self.hear_all()?;
            }
            self.hear_all()?;
            flush.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        self.close_session()?;
        self.end_pushes()?;
        self.note_findings();
        if let Some(error) = self.commit_error.take() {
            return Err(error.into());
        }
        let ms = self.engine.clock.elapsed_ms().saturating_sub(self.started_ms);
        let (run, counts, left_out) = (self.id.clone(), self.counts(), self.left_out.len());
        let summary = Summary { run, counts, left_out, fetched: self.remotes.fetched(), ms };
        self.emit(|| RunEvent::Summary(summary.clone()));
        // How long a service stood by says nothing of the next time.
        let timed = self.wall_ms.iter().filter(|(t, _)| !self.subject.is_service(**t));
        let wall_ms = timed.map(|(t, (wall, _, _))| (*t, *wall)).collect();
        let has_expiring = self.has_expiring;
        Ok(Report { summary, run: self.run, wall_ms, recorded: self.recorded, has_expiring })
    }

    /// Hears what has come in.
    fn hear_all(&mut self) -> Result<(), DriveError> {
        while let Ok(message) = self.receiver.try_recv() {
            self.hear(message)?;
        }
        Ok(())
    }

    fn name(&self, task: TaskIdx) -> Text {
        self.subject.workflow.node(task).name.clone()
    }

    fn task_id(&self, task: TaskIdx) -> TaskId {
        self.subject.ids.of(task)
    }

    fn emit(&self, event: impl FnOnce() -> RunEvent) {
        if !self.engine.observers.is_empty() {
            let at_ms = self.engine.clock.elapsed_ms().saturating_sub(self.started_ms);
            self.engine.observers.on(at_ms, &event());
        }
    }

    /// Says something once, however often it happens.
    fn warn_once(&mut self, message: String) {
        if self.warned.insert(message.clone()) {
            self.emit(|| RunEvent::Warning { message });
        }
    }

    /// Warns once of each kind of receipt that does not count; `None` is of those that count unseen.
    fn warn_of(&mut self, doubt: Option<Doubt>, message: impl FnOnce() -> String) {
        if self.doubted.insert(doubt) {
            let message = message();
            self.emit(|| RunEvent::Warning { message });
        }
    }
}

#[cfg(test)]
mod tests;
