//! The driver: turns the steps of a run into look-ups, work and records, and what comes of them into events.
//!
//! Look-ups are answered in place, many at a time; only work is asynchronous, so that a run with nothing to
//! do starts no thread. Unaware of workfiles and of how anything is shown.

mod awaits;
mod companies;
mod elsewhere;
mod lookups;
mod push;
mod reads;
mod remotes;
mod request;
mod telling;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use quipu_store::cid::{ReceiptId, TaskId};
use quipu_store::receipt::{FailureKind, Via};
use quipu_store::trust::Doubt;
use quipu_store::{CommitError, Record};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::attest::{self, Circumstances};
use crate::exec::{Done, Stop, Unusable};
use crate::graph::TaskIdx;
use crate::observe::{Observer, RunEvent, Summary};
use crate::run::step::{Event, Need, State};
use crate::run::{MAX_REPRODUCTIONS, Run, Subject};
use crate::task::Work;
use crate::value::Text;
use awaits::Awaits;
use companies::Companies;
use elsewhere::{Question, Reach};
use push::Pusher;
pub use push::{may_leave, send};
use reads::Reads;
use remotes::Remotes;
pub use request::{DriveError, Durations, Engine, Equip, Listing, Placer, Report, Request};
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
/// one is woken for nothing with each task. Who has executors that compute without waiting calls [`run`] in a runtime with
/// more of them.
pub fn run_blocking(
    engine: &Engine,
    request: Request,
    listen: impl FnOnce() -> watch::Receiver<Stop>,
) -> Result<Report, DriveError> {
    let mut drive = Drive::new(engine.clone(), request);
    drive.begin()?;
    if !drive.run.is_done() || drive.has_work() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
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
    beside: Option<usize>,
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
        let names = |tasks: &[TaskIdx]| tasks.iter().map(|g| self.subject.workflow.node(*g).name.clone()).collect();
        // The same task under two names counts once.
        let ids = &self.subject.ids;
        let in_scope = |t: &TaskIdx| ids.first(*t) == *t && self.run.in_scope(*t);
        let tasks = self.subject.workflow.indices().filter(in_scope).filter(|t| !self.is_beside(*t)).count();
        let tasks = tasks + self.beside.unwrap_or(0);
        let workspace = || self.workspace.clone();
        self.emit(|| RunEvent::RunStarted {
            run: self.id.clone(),
            workspace: workspace(),
            goals: names(&self.goals),
            tasks,
        });
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
        let settled = count(|s| matches!(s, State::Ended(_))) + self.beside.unwrap_or(0);
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

    /// Turns steps into work until the run is done.
    async fn work(&mut self, mut stop: watch::Receiver<Stop>) -> Result<(), DriveError> {
        let mut heard = Stop::No;
        let mut next_look = tokio::time::interval(awaits::EVERY);
        next_look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.reach_out();
        loop {
            self.settle()?;
            self.record_finished()?;
            if self.run.is_done() && self.working.is_empty() {
                break;
            }
            if !self.wait && self.has_only_awaits() {
                self.look_for_deliveries(true)?;
                continue;
            }
            tokio::select! {
                _ = next_look.tick(), if !self.awaits.is_empty() => self.look_for_deliveries(false)?,
                message = self.receiver.recv() => {
                    let message = message.expect("this end holds a sender");
                    self.hear(message)?;
                    // Whatever else has come in meanwhile is heard before anything new starts.
                    while let Ok(message) = self.receiver.try_recv() {
                        self.hear(message)?;
                    }
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
            let store = self.engine.store.clone();
            let flush = std::thread::spawn(move || store.flush());
            // What is on disk is told as it gets there, not when all is.
            while !flush.is_finished() {
                match self.receiver.try_recv() {
                    Ok(message) => self.hear(message)?,
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
            while let Ok(message) = self.receiver.try_recv() {
                self.hear(message)?;
            }
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

    fn hear(&mut self, message: Message) -> Result<(), DriveError> {
        match message {
            Message::Done { task, epoch, done, wall_ms, lease } => self.done(task, epoch, *done, wall_ms, lease)?,
            Message::Arrived { task, candidate } => {
                self.working.remove(&task);
                self.run.on(Event::Arrived { task, candidate: *candidate });
            }
            Message::Gone { task, epoch } => {
                self.working.remove(&task);
                let needs = self.needs.get(&task).cloned().unwrap_or_default();
                let hollow = self.hollow(&needs)?;
                let times = self.vanished.entry(task).or_default();
                *times += 1;
                if *times > MAX_REPRODUCTIONS {
                    let why = "bytes of its inputs keep vanishing".to_owned();
                    let result = Err(Arc::new(FailureKind::Executor { why }.into()));
                    self.run.on(Event::Finished { task, epoch, result, cancelled: false });
                } else if !hollow.is_empty() && self.can_ask() {
                    self.ask(Question::Stage { task, epoch, needs })?;
                } else {
                    // Perhaps they are back: another user of them had them made again.
                    self.run.on(Event::Staged { task, epoch, hollow });
                }
            }
            Message::Ready { task, epoch } => {
                // What it takes from now on is others' time.
                self.spent.remove(&task);
                self.run.on(Event::Ready { task, epoch });
            }
            Message::Paused { task, epoch } => {
                self.pauses.remove(&task);
                self.run.on(Event::Paused { task, epoch, go_on: true });
            }
            Message::Broken { task, epoch, error } => {
                self.working.remove(&task);
                let result = Err(Arc::new(FailureKind::Executor { why: error.to_string() }.into()));
                self.run.on(Event::Finished { task, epoch, result, cancelled: false });
            }
            Message::Recorded { task, shared, result } => {
                self.awaiting_record -= 1;
                match result {
                    Ok(receipt) => {
                        self.recorded.extend(shared.into_iter().chain([task]).map(|t| (t, receipt)));
                        self.extend_session(task, receipt)?;
                        self.keep_reads(task, receipt)?;
                        if push::may_leave(self.subject.workflow.node(task)) {
                            self.pusher.push(&self.engine.store, receipt, &self.sender);
                        }
                        self.emit(|| RunEvent::Recorded { task: self.name(task), receipt });
                    }
                    Err(error) => self.commit_error = Some(error),
                }
            }
            Message::Answered { number, answer } => self.answered(number, *answer)?,
            Message::Warning(message) => self.warn_once(message),
        }
        Ok(())
    }

    /// Waits, not for ever, until what is to be sent on is sent.
    fn end_pushes(&mut self) -> Result<(), DriveError> {
        let left = self.pusher.finish();
        while let Ok(message) = self.receiver.try_recv() {
            self.hear(message)?;
        }
        if left > 0 {
            self.warn_once(format!("{left} results were not sent on in time; nothing else depends on it"));
        }
        Ok(())
    }

    fn done(
        &mut self,
        task: TaskIdx,
        epoch: u32,
        mut done: Done,
        wall_ms: u64,
        lease: Option<quipu_store::Lease>,
    ) -> Result<(), DriveError> {
        let working = self.working.remove(&task).expect("what is done was started");
        let cpu_ms = u64::try_from(done.cpu.as_millis()).unwrap_or(0);
        self.wall_ms.insert(task, (wall_ms, cpu_ms, done.rss_bytes));
        *self.spent.entry(task).or_default() += Duration::from_millis(wall_ms);
        let cancelled = matches!(done.unusable, Some(Unusable::Cancelled));
        if let (Err(failure), Some(timeout)) = (&mut done.result, self.subject.workflow.node(task).policy.timeout)
            && let FailureKind::Timeout { limit_ms } = &mut failure.kind
        {
            // Of all attempts together, of which this was the last.
            *limit_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        }
        if let Some(Unusable::InputsChanged(paths)) = &done.unusable {
            let path = paths.first().cloned().unwrap_or_default();
            done.result = Err(FailureKind::InputChanged { path }.into());
        }
        let result = done.result.clone().map(Arc::new).map_err(Arc::new);
        self.note_reads(task, &working.invocation, done.result.as_ref().ok())?;
        if !cancelled {
            let id = self.subject.ids.of(task);
            let (ran, invocation) = working.invocation.encode();
            let mut blocks = vec![(ran.link(), invocation)];
            if let Work::Task(recipe) = &self.subject.workflow.node(task).work {
                blocks.push((id.link(), self.subject.ids.block(recipe)));
            }
            let about = Circumstances {
                ran,
                settles: BTreeMap::from([(id, working.via)]),
                ins: working.ins,
                wall_ms,
                now: self.engine.clock.unix_s(),
            };
            self.unrecorded.insert(task, Unrecorded { done, about, blocks, shared: vec![], lease });
        }
        self.run.on(Event::Finished { task, epoch, result, cancelled });
        Ok(())
    }

    /// Hands finished work to the store, once it is known which tasks it settles.
    fn record_finished(&mut self) -> Result<(), DriveError> {
        for (task, unrecorded) in std::mem::take(&mut self.unrecorded) {
            let Unrecorded { done, about, blocks, shared, lease } = unrecorded;
            let Some(receipt) = attest::receipt(&done, about) else { continue };
            self.awaiting_record += 1;
            let sender = self.sender.clone();
            // Others may look for the receipt once it is there: until then the work counts as being done.
            let acknowledge = move |result| {
                drop(lease);
                let _ = sender.send(Message::Recorded { task, shared, result });
            };
            self.engine.store.record(Record { receipt, blocks, done: Box::new(acknowledge) })?;
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
