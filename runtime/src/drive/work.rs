//! Work on its own: one invocation at a time among all processes that share the store.
//!
//! Also what a crashed run leaves for the next: the receipts of tasks that are never cached.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use quipu_store::cid::{InvocationId, ReceiptId};
use quipu_store::receipt::FailureKind;
use quipu_store::{CommitError, Lease, Store, StoreError};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::elsewhere::Answer;
use super::lookups::candidate;
use super::{Drive, DriveError, Working};
use crate::exec::{Begin, Done, Executor, Job, Ready, Stop, Unusable};
use crate::graph::TaskIdx;
use crate::observe::RunEvent;
use crate::plan;
use crate::run::jobs_of;
use crate::run::step::{Candidate, Event, Step};
use crate::value::Text;

/// What work tells the driver.
pub(super) enum Message {
    /// It came to its end, or to nothing.
    Worked(Worked),
    /// It is a service, and ready.
    Ready { task: TaskIdx, epoch: u32 },
    /// A pause before the next attempt is over.
    Paused { task: TaskIdx, epoch: u32 },
    /// A receipt is on disk, or will not be.
    Recorded { task: TaskIdx, shared: Vec<TaskIdx>, result: Result<ReceiptId, CommitError> },
    /// Somebody elsewhere answered.
    Answered { number: u64, answer: Box<Answer> },
    /// Something people should know.
    Warning(String),
}

/// The end of work, for whoever handed it out.
pub(super) struct Worked {
    pub(super) task: TaskIdx,
    pub(super) epoch: u32,
    pub(super) begin: Begin,
    pub(super) came: Came,
}

/// What came of work.
pub(super) enum Came {
    /// It ran, or was stopped before: then it took no time.
    Done { done: Box<Done>, wall_ms: Option<u64>, lease: Option<Lease> },
    /// Somebody else's receipt was there by the time it could begin.
    Found(Box<Candidate>),
    /// Bytes of its inputs were gone by then.
    Gone,
    /// The store could not be asked.
    Broken(StoreError),
}

/// How long to wait before asking again whether another process is done, at first and at most.
const POLL_MS: (u64, u64) = (2, 50);

impl Drive {
    pub(super) fn start(&mut self, step: Step) {
        let Step::Execute { task, epoch, attempt, id, invocation, must_run, via, ins } = step else {
            unreachable!("only work is started");
        };
        if attempt == 1 {
            // What an earlier making took is not this one's.
            self.spent.remove(&task);
        }
        let node = self.subject.workflow.node(task);
        // What is never cached is done again whatever receipts there are; those of this session counted already.
        let forced = self.run.is_forced(task) || !node.policy.cache;
        let is_service = self.subject.is_service(task);
        let (stop, stopped) = watch::channel(Stop::No);
        let told = self.started(task, attempt, id);
        let turn = Arc::new(Mutex::new(None));
        let (taken, store, clock) = (Arc::clone(&turn), self.engine.store.clone(), Arc::clone(&self.engine.clock));
        let wish = stopped.clone();
        let first = async move {
            told();
            // Nobody waits for the end of another's service.
            let turn =
                if is_service { Ok(Turn::Mine(None)) } else { take_turn(&store, id, wish, must_run, forced).await };
            let is_mine = matches!(turn, Ok(Turn::Mine(_)));
            *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some((turn, clock.elapsed_ms()));
            is_mine
        };
        let jobs = if is_service { 0 } else { jobs_of(&node.policy.slots) };
        let begin = Begin::new(self.seating.promise(jobs), stopped.clone(), Box::pin(first));
        let mut job = Job {
            name: node.name.clone(),
            id,
            invocation: Arc::clone(&invocation),
            sources: Arc::default(),
            urls: Arc::default(),
            timeout: node.policy.timeout.map(|t| t.saturating_sub(self.spent(task))),
            forced: forced || attempt > 1,
            store: self.engine.store.clone(),
            sink: self.sink(task),
            stop: stopped,
            company: self.companies.of_task(task),
            ready: self.readiness(task, epoch),
            begin: begin.clone(),
        };
        if let Some(equip) = &self.equip {
            equip(task, &mut job);
        }
        let executor = self.engine.executors.find(&invocation.cmd).cloned();
        let clock = Arc::clone(&self.engine.clock);
        let sender = self.sender.clone();
        self.working.insert(task, Working { stop, via, ins, invocation });
        self.in_background(async move {
            let done = execute(executor, job).await;
            let turn = turn.lock().unwrap_or_else(PoisonError::into_inner).take();
            let came = came(done, turn, clock.elapsed_ms());
            let is_well = match &came {
                Came::Done { done, .. } => done.result.is_ok() && done.unusable.is_none(),
                Came::Found(_) | Came::Gone => true,
                Came::Broken(_) => false,
            };
            if is_well {
                begin.leave();
            }
            // A driver that is gone has no use for it.
            let _ = sender.send(Message::Worked(Worked { task, epoch, begin, came }));
        });
    }

    /// Tells that a task begins, when it does.
    fn started(&self, task: TaskIdx, attempt: u32, invocation: InvocationId) -> Box<dyn FnOnce() + Send> {
        if self.engine.observers.is_empty() {
            return Box::new(|| {});
        }
        let why = match attempt {
            1 => plan::why(&self.run, task),
            _ => "retry",
        };
        let expected_ms = self.expected_ms.get(task.index()).copied().filter(|ms| *ms > 0);
        let event = RunEvent::TaskStarted {
            task: self.name(task),
            id: self.task_id(task),
            invocation,
            attempt,
            why,
            expected_ms,
        };
        let tell = self.teller();
        Box::new(move || tell(&event))
    }

    /// Does something beside the run, as long as that lasts.
    pub(super) fn in_background(&mut self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        // Those that have ended are of no interest: what they have to say is a message.
        while self.background.try_join_next().is_some() {}
        self.background.spawn(work)
    }

    /// What a service says that it is ready with.
    fn readiness(&self, task: TaskIdx, epoch: u32) -> Ready {
        let sender = self.sender.clone();
        Arc::new(move || {
            // A driver that is gone has no use for it.
            let _ = sender.send(Message::Ready { task, epoch });
        })
    }

    /// Time that a task took so far.
    fn spent(&self, task: TaskIdx) -> Duration {
        self.spent.get(&task).copied().unwrap_or_default()
    }

    /// Waits before a task is tried again, unless its time is over by then.
    pub(super) fn pause(&mut self, task: TaskIdx, epoch: u32, attempt: u32) {
        let policy = &self.subject.workflow.node(task).policy;
        let pause = policy.pause_before(attempt);
        let spent = self.spent(task) + pause;
        if let Some(timeout) = policy.timeout
            && spent >= timeout
        {
            let name = self.name(task);
            let message = format!("`{name}` is not tried again: its {} ms are over by then", timeout.as_millis());
            self.emit(|| RunEvent::Warning { message });
            return self.run.on(Event::Paused { task, epoch, go_on: false });
        }
        if pause.is_zero() {
            return self.run.on(Event::Paused { task, epoch, go_on: true });
        }
        self.spent.insert(task, spent);
        let sender = self.sender.clone();
        let sleep = self.in_background(async move {
            tokio::time::sleep(pause).await;
            let _ = sender.send(Message::Paused { task, epoch });
        });
        self.pauses.insert(task, Pausing { task, epoch, sleep });
    }

    /// What stands for a session, as if it were an invocation: a workspace, and the goals in it by name.
    fn session_id(&self) -> Option<InvocationId> {
        let workspace = self.session_of.as_ref()?;
        let is_concerned = |task| self.run.in_scope(task) && self.is_of_session(task);
        self.subject.workflow.indices().any(is_concerned).then(|| {
            let goals: BTreeSet<Text> = self.goals.iter().map(|goal| self.name(*goal)).collect();
            let goals = goals.iter().map(|goal| format!("\0{goal}"));
            InvocationId::of(
                std::iter::once(format!("session\0{workspace}")).chain(goals).collect::<String>().as_bytes(),
            )
        })
    }

    /// Whether what it did counts for this run alone. What a service did counts for none.
    fn is_of_session(&self, task: TaskIdx) -> bool {
        !self.subject.workflow.node(task).policy.cache && !self.subject.is_service(task)
    }

    /// Takes up what a crashed run of the same goals did for tasks that are never cached. While one of them is at work, no
    /// other has part in what it does. A plan, which writes nothing, asks nobody.
    pub(super) fn open_session(&mut self) -> Result<(), DriveError> {
        let Some(id) = self.session_id() else { return Ok(()) };
        let (store, mut session) = (&self.engine.store, Session { id, key: format!("session:{id}"), lease: None });
        if store.note(&session.key)?.is_some() {
            let only_reads = self.looks_only || !store.can_be_written();
            if !only_reads && !session.is_ours(store)? {
                return Ok(());
            }
            // Whose it was may have come to its end meanwhile, and taken it away.
            let note = store.note(&session.key)?.unwrap_or_default();
            let ids = note.chunks_exact(32).map(|c| ReceiptId::from_digest(c.try_into().expect("chunks of 32")));
            self.session_receipts = ids.collect();
        }
        self.session = Some(session);
        Ok(())
    }

    pub(super) fn extend_session(&mut self, task: TaskIdx, receipt: ReceiptId) -> Result<(), DriveError> {
        if self.is_of_session(task)
            && let Some(session) = &mut self.session
        {
            if !session.is_ours(&self.engine.store)? {
                self.session = None;
                return Ok(());
            }
            self.session_receipts.insert(receipt);
            let note = self.session_receipts.iter().flat_map(|r| *r.digest()).collect();
            self.engine.store.set_note(&session.key, Some(note))?;
            // Whoever hears of the receipt may rely on it that a resumed run goes by it.
            self.engine.store.flush()?;
        }
        Ok(())
    }

    /// A run that came to its end, however, leaves nothing to go on with.
    pub(super) fn close_session(&mut self) -> Result<(), DriveError> {
        if let Some(session) = self.session.take().filter(|session| session.lease.is_some()) {
            self.engine.store.set_note(&session.key, None)?;
            self.engine.store.flush()?;
        }
        Ok(())
    }
}

/// What a run leaves for the next, should it be killed.
pub(super) struct Session {
    id: InvocationId,
    key: String,
    /// Held from the moment on at which there is something to leave: a run that does nothing writes nothing.
    lease: Option<Lease>,
}

impl Session {
    /// Whether no other run of the same goals is at work that has left something already.
    fn is_ours(&mut self, store: &Store) -> Result<bool, StoreError> {
        if self.lease.is_none() {
            self.lease = match store.lease(self.id) {
                Err(StoreError::Nested { .. }) => None,
                other => other?,
            };
        }
        Ok(self.lease.is_some())
    }
}

/// A pause before the next attempt.
pub(super) struct Pausing {
    task: TaskIdx,
    epoch: u32,
    sleep: AbortHandle,
}

impl Pausing {
    /// Ends it early: the task is not tried again.
    pub(super) fn end(self) -> Event {
        self.sleep.abort();
        Event::Paused { task: self.task, epoch: self.epoch, go_on: false }
    }
}

enum Turn {
    Mine(Option<Lease>),
    Found(Box<Candidate>),
    Stopped,
}

/// Waits until nobody else does the same work, and looks once more whether it is done.
async fn take_turn(
    store: &Store,
    id: InvocationId,
    mut stop: watch::Receiver<Stop>,
    must_run: bool,
    forced: bool,
) -> Result<Turn, StoreError> {
    let mut wait_ms = POLL_MS.0;
    loop {
        if *stop.borrow() > Stop::No {
            return Ok(Turn::Stopped);
        }
        let lease = store.lease(id)?;
        if !forced && let Some(candidate) = settled(store, id, must_run)? {
            return Ok(Turn::Found(Box::new(candidate)));
        }
        if lease.is_some() {
            return Ok(Turn::Mine(lease));
        }
        let pause = tokio::time::sleep(Duration::from_millis(wait_ms));
        tokio::select! {
            () = pause => {}
            changed = stop.changed() => if changed.is_err() { return Ok(Turn::Stopped) },
        }
        wait_ms = (wait_ms * 2).min(POLL_MS.1);
    }
}

/// A receipt of ours for the invocation; with all its bytes when that is what is wanted.
fn settled(store: &Store, id: InvocationId, with_bytes: bool) -> Result<Option<Candidate>, StoreError> {
    for found in store.find_invocations(&[id])?.into_iter().flatten().filter(|f| f.own) {
        let Ok(output) = &found.signed.receipt.out else { continue };
        if !with_bytes || store.holds_output(output)? {
            return Ok(Some(candidate(&found, None, &Default::default())));
        }
    }
    Ok(None)
}

/// Does the work, once it may begin; a panic in an executor is a failure of the executor.
async fn execute(executor: Option<Arc<dyn Executor>>, job: Job) -> Done {
    let begin = job.begin.clone();
    let begins_itself = executor.as_ref().is_some_and(|e| e.begins_itself(&job.invocation.cmd));
    if !begins_itself {
        begin.hold();
        if !begin.wait().await {
            return Done::stopped("none");
        }
    }
    let Some(executor) = executor else {
        let why = format!("nothing here carries out `{}`", job.invocation.cmd);
        return Done::failed(FailureKind::Executor { why }, "none");
    };
    let done = match std::panic::catch_unwind(AssertUnwindSafe(|| executor.execute(job))) {
        Ok(mut work) => {
            // What panicked is not asked again.
            poll_fn(move |context| match std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
                Err(panic) => Poll::Ready(Err(panic)),
            })
            .await
        }
        Err(panic) => Err(panic),
    };
    let done = done.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(ToString::to_string).or(panic.downcast_ref::<String>().cloned());
        let why = format!("the executor panicked: {}", said.unwrap_or_default());
        Done::failed(FailureKind::Executor { why }, "none")
    });
    if done.unusable.is_none() && !begin.was_asked() {
        // What cannot be got ready fails when it would have begun.
        begin.wait().await;
    }
    done
}

/// What came of work that had this turn, if it had one.
fn came(done: Done, turn: Option<(Result<Turn, StoreError>, u64)>, now_ms: u64) -> Came {
    let is_gone = matches!(done.unusable, Some(Unusable::InputsGone(_)));
    match turn {
        Some((Err(error), _)) => Came::Broken(error),
        Some((Ok(Turn::Found(candidate)), _)) => Came::Found(candidate),
        _ if is_gone => Came::Gone,
        Some((Ok(Turn::Mine(lease)), began_ms)) => {
            let aside_ms = u64::try_from(done.aside.as_millis()).unwrap_or(u64::MAX);
            let wall_ms = now_ms.saturating_sub(began_ms).saturating_sub(aside_ms);
            Came::Done { done: Box::new(done), wall_ms: Some(wall_ms), lease }
        }
        Some((Ok(Turn::Stopped), _)) | None => {
            Came::Done { done: Box::new(Done::stopped(done.tier)), wall_ms: None, lease: None }
        }
    }
}
