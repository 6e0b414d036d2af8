//! A run as a state machine without I/O: [`Run::poll`] gives steps, [`Run::on`] takes events.
//!
//! Works from the goals backwards, task by task, by the rules of `docs/design/resume.md`. Unaware of
//! clocks, disks, processes and threads: the same machine plans, runs, and is tested with random graphs.

mod lookup;
mod queue;
mod settle;
pub mod step;
pub mod values;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use quipu_store::cid::{InvocationId, OutputId, ReceiptId};
use quipu_store::tree::Entry;

pub use queue::critical_path;
use queue::{Queue, Slots, Taken};
use step::{Candidate, End, Event, Need, Notice, Outcome, Part, State, Step};

use crate::graph::{Cycle, Graph, TaskIdx};
use crate::identity::{IdentityError, Ids};
use crate::task::{Invocation, Policy, Work};
use crate::value::Text;
use crate::workflow::Workflow;

/// How often the bytes of one task may vanish in one run before its users fail.
const MAX_REPRODUCTIONS: u8 = 3;

/// How a run decides.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Tasks that run at once; at least one.
    pub jobs: u32,
    /// Further slots by name.
    pub slots: BTreeMap<Text, u32>,
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
    /// Whether receipts found by task id are ignored (rule 2 left out). Never changes a result of
    /// deterministic tasks, only the work.
    pub ignore_shortcuts: bool,
    /// Expected duration of each task, by index; may be shorter than the workflow.
    pub expected_ms: Vec<u64>,
    /// Whether everything but the work is done: what would run stays queued.
    pub dry: bool,
}

/// A workflow with its edges and ids: what a run is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The tasks.
    pub workflow: Workflow,
    /// Their edges.
    pub graph: Graph,
    /// Their ids.
    pub ids: Ids,
}

/// Why a workflow cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// Its tasks wait for one another.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// Some task has no id.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Subject {
    /// Finds edges, order and ids.
    pub fn new(workflow: Workflow) -> Result<Self, SubjectError> {
        let graph = Graph::build(&workflow)?;
        let ids = Ids::compute(&workflow, &graph)?;
        Ok(Self { workflow, graph, ids })
    }
}

/// Counts of tasks by how they ended, over all that the goals lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Ran and succeeded.
    pub ran: usize,
    /// Settled by a receipt under the task id.
    pub cached: usize,
    /// Settled by a receipt under the invocation id.
    pub cut_off: usize,
    /// Never asked for.
    pub unneeded: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped since a task they depend on did not succeed.
    pub skipped: usize,
    /// Blocked by a task of another workflow.
    pub blocked: usize,
    /// Cancelled.
    pub cancelled: usize,
}

#[derive(Debug, Clone, Default)]
enum Lookup {
    #[default]
    None,
    Asked,
    Known {
        candidates: Vec<Candidate>,
        accepted: Option<(ReceiptId, OutputId)>,
    },
}

#[derive(Debug, Clone)]
struct Settlement {
    result: Outcome,
    out: OutputId,
    receipt: Option<ReceiptId>,
}

/// What a task gathers on its way to work; gone once it is settled.
#[derive(Debug, Clone, Default)]
struct Errand {
    selected: Vec<(Part, Option<Entry>)>,
    invocation: Option<(InvocationId, Arc<Invocation>)>,
    needs: Vec<Need>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    state: State,
    /// Counts turns of mind: answers to older questions are not heard.
    epoch: u32,
    /// Dependencies without an end, while `Waiting` or `Ordering`.
    missing: u32,
    /// The output this run goes by; may be known from a hint before the task is looked at.
    table: Option<OutputId>,
    settled: Option<Settlement>,
    lookup: Lookup,
    /// Tasks whose receipts are weighed once this one's lookup is answered.
    askers: Vec<TaskIdx>,
    /// Lookups it asked for and has no answer to, while `Finding`.
    asked: u32,
    errand: Option<Box<Errand>>,
    taken: Option<Taken>,
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

#[derive(Debug, Clone, Copy)]
enum Todo {
    Demand(TaskIdx),
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
    /// Queued or running task of each invocation, and those that wait for its result.
    leaders: HashMap<InvocationId, (TaskIdx, Vec<TaskIdx>)>,
    in_flight: usize,
    stopping: bool,
    asked_to_stop: bool,
    place_failures: usize,
    diverged: bool,
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
            leaders: HashMap::new(),
            in_flight: 0,
            stopping: false,
            asked_to_stop: false,
            place_failures: 0,
            diverged: false,
        };
        let mut goals: Vec<TaskIdx> = goals.iter().map(|g| run.first(*g)).collect();
        goals.sort_unstable();
        goals.dedup();
        run.mark(&goals);
        run.todo.extend(goals.iter().map(|g| Todo::Demand(*g)));
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
                stack.extend(self.inputs(task));
                stack.extend(self.after(task));
            }
        }
        let subject = Arc::clone(&self.subject);
        for &task in subject.graph.order() {
            let task = self.first(task);
            let upstream = self.inputs(task).into_iter().any(|d| {
                let d = &self.slots[d.index()];
                d.forced || d.inputs_first
            });
            self.slots[task.index()].inputs_first |= upstream;
        }
    }

    /// The next step, if there is one before something happens outside.
    pub fn poll(&mut self) -> Option<Step> {
        self.pump();
        if self.steps.is_empty() && !self.stopping && !self.rules.dry {
            self.dispatch();
        }
        self.steps.pop_front()
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
            Event::Selected { task, epoch, entries, hollow } => {
                self.in_flight -= 1;
                if self.at(task, State::Selecting, epoch) {
                    self.selected(task, entries, &hollow);
                }
            }
            Event::Staged { task, epoch, hollow } => {
                self.in_flight -= 1;
                if self.at(task, State::Running, epoch) {
                    self.release(task);
                    self.unlead(task);
                    self.staged(task, &hollow);
                } else if self.at(task, State::Staging, epoch) {
                    self.staged(task, &hollow);
                }
            }
            Event::Finished { task, epoch, result, receipt, cancelled } => {
                self.in_flight -= 1;
                if self.at(task, State::Running, epoch) {
                    self.finished(task, result, receipt, cancelled);
                }
            }
            Event::Arrived { task, candidate } => self.arrived(task, &candidate),
            Event::Placed { task, epoch, placed } => {
                self.in_flight -= 1;
                self.placed(task, epoch, placed);
            }
            Event::Stop => {
                self.asked_to_stop = true;
                self.stop();
            }
        }
    }

    /// Whether nothing is left to do. Call after [`Run::poll`] gave nothing.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.todo.is_empty() && self.in_flight == 0
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
        for i in 0..self.slots.len() {
            if self.slots[i].state == State::Queued {
                self.queue.push(TaskIdx::new(i), self.priority[i], self.slots[i].epoch);
            }
        }
    }

    /// Where a task stands.
    pub fn state(&self, task: TaskIdx) -> State {
        self.slot(self.first(task)).state
    }

    /// Whether the goals lead to it.
    pub fn in_scope(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).in_scope
    }

    /// What came out of a settled task.
    pub fn outcome(&self, task: TaskIdx) -> Option<&Outcome> {
        self.slot(self.first(task)).settled.as_ref().map(|s| &s.result)
    }

    /// The receipt a settled task goes by.
    pub fn receipt(&self, task: TaskIdx) -> Option<ReceiptId> {
        self.slot(self.first(task)).settled.as_ref().and_then(|s| s.receipt)
    }

    /// The invocation a task got to, as long as it is not settled.
    pub fn invocation(&self, task: TaskIdx) -> Option<InvocationId> {
        let errand = self.slot(self.first(task)).errand.as_ref()?;
        errand.invocation.as_ref().map(|(id, _)| *id)
    }

    /// Whether a task has a receipt and runs all the same, since its bytes are gone.
    pub fn is_hollow(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).must_run
    }

    /// Whether it was asked to run whatever receipts there are.
    pub fn is_forced(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).forced
    }

    /// Tasks by how they ended; the same task under two names counts once.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for slot in self.slots.iter().filter(|s| s.in_scope) {
            match slot.state {
                State::Ended(End::Ran) => counts.ran += 1,
                State::Ended(End::Cached) => counts.cached += 1,
                State::Ended(End::CutOff) => counts.cut_off += 1,
                State::Ended(End::Failed) => counts.failed += 1,
                State::Ended(End::Skipped { .. }) => counts.skipped += 1,
                State::Ended(End::Blocked { .. }) => counts.blocked += 1,
                State::Ended(End::Cancelled) => counts.cancelled += 1,
                _ => counts.unneeded += 1,
            }
        }
        counts
    }

    /// How many goals could not be placed.
    pub fn place_failures(&self) -> usize {
        self.place_failures
    }

    /// Whether two outcomes of one task stopped the run.
    pub fn stopped_by_divergence(&self) -> bool {
        self.diverged && self.rules.fail_on_divergence
    }

    /// Whether people asked for the end.
    pub fn was_stopped(&self) -> bool {
        self.asked_to_stop
    }

    /// The tasks this run is about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    // Small things the parts share.

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

    fn policy(&self, task: TaskIdx) -> &Policy {
        &self.subject.workflow.node(task).policy
    }

    /// What a task awaits, each once, the same task under two names as one.
    fn inputs(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.firsts(self.subject.graph.awaits(task))
    }

    fn after(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.firsts(self.subject.graph.after(task))
    }

    fn firsts(&self, tasks: &[TaskIdx]) -> Vec<TaskIdx> {
        let mut firsts: Vec<TaskIdx> = tasks.iter().map(|d| self.first(*d)).collect();
        firsts.sort_unstable();
        firsts.dedup();
        firsts
    }

    /// Who awaits a task, under any of its names.
    fn awaiters(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.names_of(task, |graph, name| graph.awaited_by(name))
    }

    fn followers_in_order(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.names_of(task, |graph, name| graph.before(name))
    }

    fn names_of<'a>(&'a self, task: TaskIdx, row: impl Fn(&'a Graph, TaskIdx) -> &'a [TaskIdx]) -> Vec<TaskIdx> {
        let graph = &self.subject.graph;
        match self.subject.ids.others(task) {
            None => self.firsts(row(graph, task)),
            Some(names) => {
                let all: Vec<TaskIdx> = names.iter().flat_map(|n| row(graph, *n)).copied().collect();
                self.firsts(&all)
            }
        }
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

    fn pump(&mut self) {
        while let Some(todo) = self.todo.pop_front() {
            match todo {
                Todo::Demand(task) => self.demand(task),
                Todo::Weigh(task) => self.weigh(task),
                Todo::Ready(task) => self.inputs_ready(task),
                Todo::Changed(task) => self.value_changed(task),
            }
        }
    }

    fn dispatch(&mut self) {
        let Self { queue, slots, free, .. } = self;
        let subject = &self.subject;
        let found = queue.pop(|task, epoch| {
            let slot = &mut slots[task.index()];
            if slot.state != State::Queued || slot.epoch != epoch {
                return None;
            }
            slot.taken = free.take(&subject.workflow.node(task).policy.slots);
            Some(slot.taken.is_some())
        });
        let Some(task) = found else { return };
        let (via, ins) = self.made_from(task);
        let slot = self.slot_mut(task);
        slot.state = State::Running;
        slot.attempts += 1;
        let (epoch, attempt, must_run) = (slot.epoch, slot.attempts, slot.must_run || slot.forced);
        let (id, invocation) = self.errand(task).invocation.clone().expect("queued tasks have an invocation");
        self.ask(Step::Execute { task, epoch, attempt, id, invocation, must_run, via, ins });
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
