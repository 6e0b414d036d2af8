//! A run as a state machine without I/O: [`Run::poll`] gives steps, [`Run::on`] takes events.
//!
//! Works from the goals backwards, task by task, by the rules of `docs/design/resume.md`. Unaware of
//! clocks, disks, processes and threads: the same machine plans, runs, and is tested with random graphs.

mod gates;
mod in_place;
mod lookup;
mod queue;
mod services;
mod settle;
pub mod step;
mod stopping;
mod subject;
pub mod values;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use quipu_store::cid::{InvocationId, OutputId, ReceiptId};
use quipu_store::receipt::{Failure, FailureKind, Via};
use quipu_store::tree::Entry;

pub use gates::Gates;
use in_place::{Hindrance, InPlace};
use queue::{Queue, Slots, Taken};
pub use queue::{critical_path, jobs_of};
use step::{Candidate, End, Event, Need, Notice, Part, State, Step};
pub use subject::{Subject, SubjectError};
use values::Kept;
pub use view::Counts;

use crate::graph::TaskIdx;
use crate::task::{EXTERNAL, Invocation, Policy, Work};
use crate::value::Text;

/// How often the bytes of one task may vanish in one run before its users fail. Three were too few where others delete files
/// beside a run that gets little of the machine.
pub(crate) const MAX_REPRODUCTIONS: u8 = 10;

/// How a run decides.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Tasks that run at once; at least one.
    pub jobs: u32,
    /// Further slots by name.
    pub slots: BTreeMap<Text, u32>,
    /// Commands whose tasks are got ready before there is a job for them: one more than jobs is handed out, and whoever carries
    /// it out sees to it that no more work at once, and that they begin in the order in which they were handed out.
    pub got_ready: BTreeSet<Text>,
    /// Whether other tasks go on after a failure.
    pub keep_going: bool,
    /// Whether receipts of failures settle tasks, too.
    pub use_failures: bool,
    /// Tasks that run whatever receipts there are.
    pub force: Vec<TaskIdx>,
    /// Whether two outcomes of one invocation stop the run.
    pub fail_on_divergence: bool,
    /// Whether goals' outputs are to be placed.
    pub place: bool,
    /// Goals whose outputs are placed only once these have ended well.
    pub gates: Gates,
    /// Whether receipts found by task id are ignored (rule 2 left out). Never changes a result of
    /// deterministic tasks, only the work.
    pub ignore_shortcuts: bool,
    /// Expected duration of each task, by index; may be shorter than the workflow.
    pub expected_ms: Vec<u64>,
    /// Whether everything but the work is done: what would run stays queued.
    pub dry: bool,
    /// A rule that is broken on purpose: the model test must notice.
    #[cfg(test)]
    pub(crate) sabotage: Option<Sabotage>,
}

#[derive(Debug, Clone, Default)]
enum Lookup {
    #[default]
    None,
    Asked,
    Known(Box<Known>),
    /// The task has an output since: that says all.
    Past,
}

#[derive(Debug, Clone)]
struct Known {
    candidates: Vec<Candidate>,
    accepted: Option<(ReceiptId, OutputId)>,
}

/// What a task gathers on its way to work; gone once it is settled.
#[derive(Debug, Clone, Default)]
struct Errand {
    selected: Vec<(Part, Option<Entry>)>,
    invocation: Option<(InvocationId, Arc<Invocation>)>,
    needs: Vec<Need>,
    /// Awaited outputs the invocation is made from: those that stood when it was made, whatever comes later.
    via: Via,
    /// Receipts of the inputs, likewise.
    ins: Vec<ReceiptId>,
    /// Slots it holds while it runs.
    taken: Option<Taken>,
    /// What came out of the last attempt, while it pauses.
    failed: Option<Failure>,
}

/// What a run knows of one task. There are as many as tasks: what few have at a time is boxed, or stands in a map of the run.
#[derive(Debug, Clone, Default)]
struct Slot {
    state: State,
    /// Counts turns of mind: answers to older questions are not heard.
    epoch: u32,
    /// Dependencies without an end, while `Waiting` or `Ordering`.
    missing: u32,
    /// The output this run goes by; may be known from a hint before the task is looked at.
    /// Invariant: of a task that is settled by an output, it is the id of that.
    table: Option<OutputId>,
    /// What came out of it, when it is settled.
    settled: Option<Kept>,
    /// The receipt that it is settled by.
    receipt: Option<ReceiptId>,
    lookup: Lookup,
    /// Lookups it asked for and has no answer to, while `Finding`.
    asked: u32,
    errand: Option<Box<Errand>>,
    attempts: u32,
    reproductions: u8,
    goal: bool,
    in_scope: bool,
    forced: bool,
    /// Has a forced task upstream, or was reopened: inputs first, shortcuts never.
    inputs_first: bool,
    /// Its bytes are gone: only work brings them back.
    must_run: bool,
    /// What it runs on was replaced meanwhile.
    stale: bool,
    placing: bool,
}

impl Slot {
    /// The id of what came out of it, when it is settled.
    fn out(&self) -> Option<OutputId> {
        match self.settled.as_ref()? {
            Kept::Output(_) => self.table,
            Kept::Failure(failure) => Some(failure.id()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Todo {
    Weigh(TaskIdx),
    Ready(TaskIdx),
    Changed(TaskIdx),
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Run {
    subject: Arc<Subject>,
    rules: Rules,
    slots: Vec<Slot>,
    priority: Vec<u64>,
    queue: Queue,
    free: Slots,
    steps: VecDeque<Step>,
    todo: VecDeque<Todo>,
    /// Tasks somebody wants the value of; taken up last, so that one answer is used up before the next is asked for.
    demanded: VecDeque<TaskIdx>,
    /// Tasks whose receipts are weighed once another is looked up, by that one.
    askers: HashMap<TaskIdx, Vec<TaskIdx>>,
    /// Why tasks are being ended: a service that they need is gone.
    lost: HashMap<TaskIdx, FailureKind>,
    /// Queued or running task of each invocation, and those that wait for its result.
    leaders: HashMap<InvocationId, (TaskIdx, Vec<TaskIdx>)>,
    in_flight: usize,
    /// Of what is in flight, how much is no question, and may take as long as it likes: work, pauses, what others do.
    outside: usize,
    stopping: bool,
    /// What a stopped run does not do any more was ended, so that who cleans up need not wait for it.
    swept: bool,
    asked_to_stop: bool,
    /// Tasks that clean up after others, and what these need: they go on when the run is being stopped.
    kept_on: HashSet<TaskIdx>,
    /// Goals that are made, and not placed before their checks have passed, and whether they were made just now.
    withheld: BTreeMap<TaskIdx, bool>,
    /// Services that are ready, and whether they were asked to end.
    serving: BTreeMap<TaskIdx, bool>,
    /// Whether services that nobody needs were asked to end since somebody last might have needed one less.
    is_quiet: bool,
    place_failures: usize,
    /// Bytes were missed that a task of another workflow made.
    lost_elsewhere: bool,
    diverged: bool,
    in_place: InPlace,
}

impl Run {
    /// A run towards `goals`, which may be named in any order and more than once.
    pub fn new(subject: Arc<Subject>, goals: &[TaskIdx], rules: Rules) -> Self {
        let nodes = subject.workflow.len();
        let mut run = Self {
            slots: vec![Slot::default(); nodes],
            priority: critical_path(&subject.graph, &rules.expected_ms),
            free: Slots::new(rules.jobs, &rules.slots),
            subject,
            rules,
            queue: Queue::default(),
            steps: VecDeque::new(),
            todo: VecDeque::new(),
            demanded: VecDeque::new(),
            askers: HashMap::new(),
            lost: HashMap::new(),
            leaders: HashMap::new(),
            in_flight: 0,
            outside: 0,
            stopping: false,
            swept: false,
            asked_to_stop: false,
            kept_on: HashSet::new(),
            withheld: BTreeMap::new(),
            serving: BTreeMap::new(),
            is_quiet: true,
            place_failures: 0,
            lost_elsewhere: false,
            diverged: false,
            in_place: InPlace::default(),
        };
        let mut goals: Vec<TaskIdx> = goals.iter().map(|g| run.first(*g)).collect();
        goals.sort_unstable();
        goals.dedup();
        let gates = std::mem::take(&mut run.rules.gates);
        run.rules.gates = run.gates_of_first(gates);
        run.mark(&goals);
        run.demanded.extend(goals);
        run
    }

    /// Marks goals, what they lead to, and what has a forced task upstream.
    fn mark(&mut self, goals: &[TaskIdx]) {
        for task in self.rules.force.clone() {
            let task = self.first(task);
            self.slots[task.index()].forced = true;
        }
        let mut stack = goals.to_vec();
        for goal in goals {
            self.slots[goal.index()].goal = true;
        }
        while let Some(task) = stack.pop() {
            if !std::mem::replace(&mut self.slots[task.index()].in_scope, true) {
                stack.extend(self.subject.inputs(task).iter());
                stack.extend(self.subject.after(task).iter());
            }
        }
        self.mark_kept_on();
        if self.rules.force.is_empty() {
            return;
        }
        for &task in self.shared().graph.order() {
            let task = self.first(task);
            let upstream = self.subject.inputs(task).iter().any(|d| {
                let d = &self.slots[d.index()];
                d.forced || d.inputs_first
            });
            self.slots[task.index()].inputs_first |= upstream;
        }
    }

    /// The next step, if there is one before something happens outside.
    pub fn poll(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            // One at a time: a million demands at once would be a million steps at once.
            match self.todo.pop_front() {
                Some(todo) => self.take_up(todo),
                None if let Some(task) = self.demanded.pop_front() => self.demand(task),
                None if self.open_gate() => {}
                None if self.may_sweep() => self.sweep(),
                None if !self.is_quiet => self.end_unused(),
                None if self.may_dispatch() && self.dispatch() => {}
                None => return None,
            }
        }
    }

    /// Takes an event. Answers to questions that no longer matter are ignored.
    pub fn on(&mut self, event: Event) {
        match event {
            Event::Found { task, candidates, accepted } => self.found(task, candidates, accepted),
            Event::FoundInvocation { task, epoch, candidates } => {
                self.in_flight -= 1;
                if self.at(task, State::FindingInvocation, epoch) {
                    self.found_invocation(task, candidates);
                }
            }
            Event::FoundReads { task, epoch, candidates } => {
                self.in_flight -= 1;
                if self.at(task, State::FindingReads, epoch) && !self.choose(task, candidates) {
                    self.order(task);
                }
            }
            Event::Selected { task, epoch, entries, hollow } => {
                self.in_flight -= 1;
                if self.at(task, State::Selecting, epoch) {
                    self.selected(task, entries, &hollow);
                }
            }
            Event::Staged { task, epoch, hollow } => {
                self.in_flight -= 1;
                if self.at(task, State::Running, epoch) {
                    // What could not begin was no attempt.
                    self.slot_mut(task).attempts -= 1;
                    self.release(task);
                    let followers = self.unlead(task);
                    if self.is_stopped(task) {
                        self.end(task, End::Cancelled);
                    } else {
                        self.staged(task, &hollow);
                    }
                    followers.into_iter().for_each(|f| self.wait_for_inputs(f));
                } else if self.at(task, State::Staging, epoch) {
                    self.staged(task, &hollow);
                }
            }
            Event::Finished { task, epoch, result, cancelled } => {
                self.in_flight -= 1;
                if self.at(task, State::Running, epoch) {
                    self.finished(task, result, cancelled);
                } else if self.at(task, State::Serving, epoch) {
                    self.served(task, result, cancelled);
                }
            }
            Event::Ready { task, epoch } => self.ready(task, epoch),
            Event::Arrived { task, candidate } => self.arrived(task, &candidate),
            Event::Placed { task, epoch, placed } => {
                self.in_flight -= 1;
                self.placed(task, epoch, placed);
            }
            Event::Awaited { task, epoch, candidates } => {
                self.in_flight -= 1;
                self.outside -= 1;
                if self.at(task, State::Awaiting, epoch) {
                    self.awaited_came(task, candidates);
                }
            }
            Event::Paused { task, epoch, go_on } => {
                self.in_flight -= 1;
                self.outside -= 1;
                if self.at(task, State::Pausing, epoch) {
                    self.paused(task, go_on);
                }
            }
            Event::Stop => {
                if self.asked_to_stop {
                    self.give_up();
                }
                self.asked_to_stop = true;
                self.stop();
            }
        }
    }

    /// Whether nothing is left to do. Call after [`Run::poll`] gave nothing.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.todo.is_empty() && self.demanded.is_empty() && self.in_flight == 0
    }

    /// Ends what has no end yet. To be called once, when the run is done; not when it was only planned.
    pub fn finish(&mut self) -> Vec<Notice> {
        let mut notices = vec![];
        for i in 0..self.slots.len() {
            let slot = &mut self.slots[i];
            if !matches!(slot.state, State::Idle | State::Ended(_)) {
                slot.state = State::Ended(End::Cancelled);
                notices.push(Notice::Ended { task: TaskIdx::new(i), end: End::Cancelled });
            }
        }
        notices
    }

    /// Lets work start: until now the run was dry. Durations decide what starts first.
    pub fn start_work(&mut self, expected_ms: Vec<u64>) {
        self.rules.dry = false;
        self.priority = critical_path(&self.subject.graph, &expected_ms);
        self.rules.expected_ms = expected_ms;
        self.queue = Queue::default();
        let queued = self.subject.workflow.indices().filter(|t| self.slot(*t).state == State::Queued);
        for task in queued.collect::<Vec<_>>() {
            self.enqueue_again(task);
        }
    }

    /// Whether it can be got ready before there is a job for it.
    fn gets_ready(&self, task: TaskIdx) -> bool {
        matches!(self.work(task), Work::Task(recipe) if self.rules.got_ready.contains(&recipe.cmd))
            && !self.subject.is_service(task)
    }

    /// Whether no question is open: only work, pauses and others are waited for.
    pub(crate) fn has_no_question(&self) -> bool {
        self.in_flight == self.outside
    }

    fn slot(&self, task: TaskIdx) -> &Slot {
        &self.slots[task.index()]
    }

    fn slot_mut(&mut self, task: TaskIdx) -> &mut Slot {
        &mut self.slots[task.index()]
    }

    fn first(&self, task: TaskIdx) -> TaskIdx {
        self.subject.ids.first(task)
    }

    fn work(&self, task: TaskIdx) -> &Work {
        &self.subject.workflow.node(task).work
    }

    /// Whether it is done elsewhere.
    pub(crate) fn is_external(&self, task: TaskIdx) -> bool {
        matches!(self.work(task), Work::Task(recipe) if &*recipe.cmd == EXTERNAL)
    }

    fn policy(&self, task: TaskIdx) -> &Policy {
        &self.subject.workflow.node(task).policy
    }

    /// The subject, to be held on to while slots change.
    fn shared(&self) -> Arc<Subject> {
        Arc::clone(&self.subject)
    }

    fn is_ended(&self, task: TaskIdx) -> bool {
        matches!(self.slot(task).state, State::Ended(_))
    }

    fn at(&self, task: TaskIdx, state: State, epoch: u32) -> bool {
        self.slot(task).state == state && self.slot(task).epoch == epoch
    }

    fn errand(&mut self, task: TaskIdx) -> &mut Errand {
        self.slot_mut(task).errand.get_or_insert_default()
    }

    fn ask(&mut self, step: Step) {
        self.in_flight += 1;
        self.steps.push_back(step);
    }

    fn tell(&mut self, notice: Notice) {
        self.steps.push_back(Step::Tell(notice));
    }

    fn take_up(&mut self, todo: Todo) {
        match todo {
            Todo::Weigh(task) => self.weigh(task),
            Todo::Ready(task) => self.inputs_ready(task),
            Todo::Changed(task) => self.value_changed(task),
        }
    }

    /// One job at a time starts the best of all that could start, so it waits until no question is open:
    /// the order is then the same whichever answer comes first. More jobs start what is ready at once.
    fn may_dispatch(&self) -> bool {
        !self.is_halted() && !self.rules.dry && (self.rules.jobs > 1 || self.has_no_question())
    }

    fn dispatch(&mut self) -> bool {
        let Self { queue, slots, free, .. } = self;
        let current = |task: TaskIdx, epoch| {
            let slot: &Slot = &slots[task.index()];
            slot.state == State::Queued && slot.epoch == epoch
        };
        let Some((task, taken)) = queue.pop(free, current) else { return false };
        if let Some(hindrance) = self.hindrance(task) {
            self.free.give(taken);
            match hindrance {
                Hindrance::Used => self.hold_up(task),
                Hindrance::Unready => {
                    let followers = self.unlead(task);
                    self.wait_for_inputs(task);
                    followers.into_iter().for_each(|f| self.wait_for_inputs(f));
                }
            }
            return true;
        }
        self.enter(task);
        // What a service held while others use it, they might wait for in vain.
        let taken = if self.subject.is_service(task) { self.give_back(taken) } else { taken };
        self.outside += 1;
        let (via, ins) = self.made_from(task);
        let must_run = self.must_run(task);
        let slot = self.slot_mut(task);
        slot.state = State::Running;
        slot.attempts += 1;
        let (epoch, attempt) = (slot.epoch, slot.attempts);
        self.errand(task).taken = Some(taken);
        let (id, invocation) = self.errand(task).invocation.clone().expect("queued tasks have an invocation");
        self.ask(Step::Execute { task, epoch, attempt, id, invocation, must_run, via, ins });
        true
    }

    fn give_back(&mut self, taken: Taken) -> Taken {
        self.free.give(taken);
        vec![]
    }

    /// Whether no receipt may settle it any more: only work will do.
    fn must_run(&self, task: TaskIdx) -> bool {
        let slot = self.slot(task);
        slot.must_run || slot.forced || !self.policy(task).cache
    }
}

#[cfg(test)]
mod cleaning;
#[cfg(test)]
mod model;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod serving;
#[cfg(test)]
use mutants::Sabotage;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sim_reads;
#[cfg(test)]
mod sim_report;
#[cfg(test)]
mod sim_services;
#[cfg(test)]
mod sim_work;
#[cfg(test)]
mod tests;
