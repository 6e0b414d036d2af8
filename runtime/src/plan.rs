//! Plans: every task as settled, certain, conditional, unneeded or blocked, before anything runs.
//!
//! Knows a dry run that came to rest; unaware of stores, clocks and of how a plan is shown. Batches are for
//! the eye and for fetching ahead, never a barrier.

use quipu_store::cid::{BlobId, InvocationId, ReceiptId, TaskId};
use serde::{Serialize, Serializer};

use crate::graph::TaskIdx;
use crate::run::Run;
use crate::run::step::{End, State};
use crate::task::Work;
use crate::value::Text;

/// What a run would do. As JSON: `docs/formats/plan.md`.
#[derive(Debug, Clone, Serialize)]
pub struct Plan<'r> {
    /// Every task the goals lead to, in the order of the workflow; the same task under two names once.
    pub tasks: Lines<'r>,
    /// The resume point: tasks that certainly run and whose inputs are all settled.
    pub resume: Vec<Text>,
    /// What is left, by level: each task after those of earlier levels it waits for.
    pub batches: Vec<Vec<Text>>,
    /// The longest way through what is left.
    pub critical_path: Vec<Text>,
    /// How long that takes, as far as durations are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_path_ms: Option<u64>,
    /// How long all that is left takes one after the other, as far as durations are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// What would be fetched from afar.
    pub fetch: Vec<Fetch>,
    /// Tasks that are not part of the run, since a condition says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// How many tasks there are of each status.
    pub counts: PlanCounts,
}

/// A task that is not part of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: Text,
    /// Which condition says so, and what it looked at.
    pub reason: Text,
}

/// The tasks of a plan. Each is worked out when it is asked for: there may be a million.
#[derive(Debug, Clone)]
pub struct Lines<'r> {
    run: &'r Run,
    held: Held,
    left: Left,
}

/// One task of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Its place in the workflow.
    #[serde(skip)]
    pub idx: TaskIdx,
    /// Its name.
    pub name: Text,
    /// Its other names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Text>,
    /// Its id.
    #[serde(serialize_with = "text")]
    pub task: TaskId,
    /// What becomes of it.
    pub status: Status,
    /// Whether it belongs to the resume point.
    pub resume: bool,
    /// Whether it was asked for by name.
    pub goal: bool,
    /// Why it is not settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Tasks that are not settled and that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Text>,
    /// The invocation, where its inputs are settled and it is not.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub invocation: Option<InvocationId>,
    /// The receipt that settles it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub receipt: Option<ReceiptId>,
    /// Its batch, when it is left to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// How long it took earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_ms: Option<u64>,
}

/// What becomes of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// A receipt under its task id settles it.
    Cached,
    /// A receipt under its invocation id settles it.
    CutOff,
    /// It will run.
    Certain,
    /// It waits for tasks that run, and may be cut off then.
    Conditional,
    /// Nobody needs it.
    Unneeded,
    /// It needs a task of another workflow that nobody has a receipt for.
    Blocked,
    /// A recorded failure counts for it, or its promises cannot be kept.
    Failed,
    /// A task it depends on fails.
    Skipped,
}

/// Why a task is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// No usable receipt names it.
    NoReceipt,
    /// Receipts name it; they were made from other outputs than this run goes by.
    OtherInputs,
    /// People asked for it to run.
    Forced,
    /// There is a receipt; its bytes are needed and gone.
    BytesMissing,
    /// A task it depends on is forced, and may come out differently.
    InputsMayChange,
    /// Another task does the same work for it.
    SameAs {
        /// That task.
        task: Text,
    },
    /// Another task blocks or fails it.
    CausedBy {
        /// That task.
        task: Text,
    },
    /// It has a condition, and what it comes after has not ended.
    Condition,
    /// It is done elsewhere, and nobody has delivered it.
    Undelivered,
    /// It has a condition, and that is not met.
    Unmet,
    /// What is wrong with it.
    Failure {
        /// In words.
        message: String,
    },
}

/// Bytes that would come from afar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fetch {
    /// The task that needs them.
    pub task: Text,
    /// Which.
    #[serde(serialize_with = "text")]
    pub blob: BlobId,
    /// How many.
    pub bytes: u64,
}

/// Counts of tasks by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each is the status of that name")]
pub struct PlanCounts {
    pub cached: usize,
    pub cut_off: usize,
    pub certain: usize,
    pub conditional: usize,
    pub unneeded: usize,
    pub blocked: usize,
    pub failed: usize,
    pub skipped: usize,
}

fn text<S: Serializer>(id: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn some_text<S: Serializer>(id: &Option<impl std::fmt::Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

impl<'r> Plan<'r> {
    /// The plan of a dry run that came to rest.
    pub fn of(run: &'r Run) -> Self {
        let name = |task: TaskIdx| run.subject().workflow.node(task).name.clone();
        let held = Held::of(run);
        let left = Left::of(run, &held);
        let mut plan = Self {
            resume: vec![],
            batches: vec![vec![]; left.levels()],
            critical_path: left.critical_path.iter().map(|t| name(*t)).collect(),
            critical_path_ms: (left.critical_path_ms > 0).then_some(left.critical_path_ms),
            total_ms: (left.total_ms > 0).then_some(left.total_ms),
            fetch: vec![],
            left_out: vec![],
            counts: PlanCounts::default(),
            tasks: Lines { run, held, left },
        };
        for task in plan.tasks.indices() {
            let status = status(run, task, &plan.tasks.held);
            plan.counts.add(status);
            if is_resumed(run, task, status) {
                plan.resume.push(name(task));
            }
            if let Some(batch) = plan.tasks.left.level(task) {
                plan.batches[batch as usize].push(name(task));
            }
        }
        plan
    }
}

impl Lines<'_> {
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Planned> {
        self.indices().map(|task| self.line(task))
    }

    fn indices(&self) -> impl Iterator<Item = TaskIdx> {
        let subject = self.run.subject();
        subject.workflow.indices().filter(|t| subject.ids.first(*t) == *t && self.run.in_scope(*t))
    }

    fn line(&self, task: TaskIdx) -> Planned {
        let Self { run, held, left } = self;
        let (workflow, ids) = (&run.subject().workflow, &run.subject().ids);
        let name = |task: TaskIdx| workflow.node(task).name.clone();
        let status = status(run, task, held);
        let others = ids.others(task).unwrap_or_default();
        Planned {
            idx: task,
            name: name(task),
            also: others.iter().filter(|t| **t != task).map(|t| name(*t)).collect(),
            task: ids.of(task),
            status,
            resume: is_resumed(run, task, status),
            goal: run.is_goal(task),
            reason: reason(run, task, status, held),
            waits_for: left.waits_for(run, task).map(name).collect(),
            invocation: run.invocation(task),
            receipt: run.receipt(task),
            batch: left.level(task),
            expected_ms: run.expected_ms(task),
        }
    }
}

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl PlanCounts {
    fn add(&mut self, status: Status) {
        *match status {
            Status::Cached => &mut self.cached,
            Status::CutOff => &mut self.cut_off,
            Status::Certain => &mut self.certain,
            Status::Conditional => &mut self.conditional,
            Status::Unneeded => &mut self.unneeded,
            Status::Blocked => &mut self.blocked,
            Status::Failed => &mut self.failed,
            Status::Skipped => &mut self.skipped,
        } += 1;
    }
}

fn status(run: &Run, task: TaskIdx, held: &Held) -> Status {
    match run.state(task) {
        State::Idle => Status::Unneeded,
        State::Ended(End::Cached | End::Ran) => Status::Cached,
        State::Ended(End::CutOff) => Status::CutOff,
        State::Ended(End::Failed) => Status::Failed,
        State::Ended(End::Skipped { .. } | End::Cancelled | End::Unmet) => Status::Skipped,
        State::Ended(End::Blocked { .. }) => Status::Blocked,
        _ if held.by(task).is_some() => Status::Blocked,
        State::Ordering if run.awaits_condition(task) => Status::Conditional,
        State::Ordering | State::Calling | State::Staging | State::Queued => Status::Certain,
        State::Running | State::Serving | State::Pausing => Status::Certain,
        _ if run.is_forced(task) || run.is_hollow(task) => Status::Certain,
        // Looked up for the sake of another task's receipt, or not at rest: nothing says that it will run.
        _ => Status::Conditional,
    }
}

/// Whether it belongs to the resume point.
fn is_resumed(run: &Run, task: TaskIdx, status: Status) -> bool {
    let inputs_settled = matches!(run.state(task), State::Queued | State::Staging | State::Ordering | State::Calling);
    status == Status::Certain && inputs_settled
}

impl Reason {
    /// Its kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoReceipt => "no-receipt",
            Self::OtherInputs => "other-inputs",
            Self::Forced => "forced",
            Self::BytesMissing => "bytes-missing",
            Self::InputsMayChange => "inputs-may-change",
            Self::SameAs { .. } => "same-as",
            Self::CausedBy { .. } => "caused-by",
            Self::Condition => "condition",
            Self::Undelivered => "undelivered",
            Self::Unmet => "unmet",
            Self::Failure { .. } => "failure",
        }
    }
}

/// Why a task runs that starts now.
pub(crate) fn why(run: &Run, task: TaskIdx) -> &'static str {
    let is_cached = run.subject().workflow.node(task).policy.cache;
    match reason(run, task, Status::Certain, &Held::default()) {
        Some(Reason::NoReceipt | Reason::OtherInputs) | None if !is_cached => "never-cached",
        Some(reason) => reason.kind(),
        None => "no-receipt",
    }
}

fn reason(run: &Run, task: TaskIdx, status: Status, held: &Held) -> Option<Reason> {
    let name = |task: TaskIdx| run.subject().workflow.node(task).name.clone();
    match (status, run.state(task)) {
        (Status::Cached | Status::CutOff | Status::Unneeded, _) => None,
        (_, State::Ended(End::Skipped { cause })) => Some(Reason::CausedBy { task: name(cause) }),
        (_, State::Ended(End::Blocked { cause })) if cause != task => Some(Reason::CausedBy { task: name(cause) }),
        (_, State::Ended(End::Unmet)) => Some(Reason::Unmet),
        (Status::Blocked, _) if held.by(task).is_some_and(|cause| cause != task) => {
            held.by(task).map(|cause| Reason::CausedBy { task: name(cause) })
        }
        (_, State::Awaiting) if matches!(run.subject().workflow.node(task).work, Work::Task(_)) => {
            Some(Reason::Undelivered)
        }
        (Status::Blocked, _) => Some(Reason::NoReceipt),
        (Status::Failed, _) => run.failure(task).map(|f| Reason::Failure { message: f.kind.to_string() }),
        _ => Some(match run.leader(task) {
            Some(leader) => Reason::SameAs { task: name(leader) },
            None if run.awaits_condition(task) => Reason::Condition,
            None if run.is_hollow(task) => Reason::BytesMissing,
            None if run.is_forced(task) => Reason::Forced,
            None if run.goes_by_inputs(task) => Reason::InputsMayChange,
            None if run.has_candidates(task) => Reason::OtherInputs,
            None => Reason::NoReceipt,
        }),
    }
}

/// For each task the one that is done elsewhere and holds it up, if there is one; nothing when there is none at all.
#[derive(Debug, Clone, Default)]
struct Held(Vec<Option<TaskIdx>>);

impl Held {
    fn of(run: &Run) -> Self {
        let subject = run.subject();
        let firsts = || subject.graph.order().iter().map(|t| subject.ids.first(*t));
        let awaited: Vec<TaskIdx> = firsts().filter(|t| run.state(*t) == State::Awaiting).collect();
        if awaited.is_empty() {
            return Self::default();
        }
        let mut held = vec![None; subject.workflow.len()];
        awaited.into_iter().for_each(|task| held[task.index()] = Some(task));
        // One pass would do if no task had two names.
        let mut is_stable = false;
        while !std::mem::replace(&mut is_stable, true) {
            for task in firsts().filter(|t| matches!(run.state(*t), State::Waiting | State::Ordering)) {
                if held[task.index()].is_some() || run.awaits_condition(task) {
                    continue;
                }
                let (inputs, after) = (subject.inputs(task), subject.after(task));
                // Only work has an order; what may be cut off waits for its inputs alone.
                let after = after.iter().filter(|_| run.state(task) == State::Ordering);
                held[task.index()] = inputs.iter().chain(after).find_map(|d| held[d.index()]);
                is_stable &= held[task.index()].is_none();
            }
        }
        Self(held)
    }

    fn by(&self, task: TaskIdx) -> Option<TaskIdx> {
        self.0.get(task.index()).copied().flatten()
    }
}

/// What is left to do, by level.
#[derive(Debug, Clone, Default)]
struct Left {
    /// By task; nothing when nothing is left.
    levels: Vec<Option<u32>>,
    critical_path: Vec<TaskIdx>,
    critical_path_ms: u64,
    total_ms: u64,
}

impl Left {
    fn of(run: &Run, held: &Held) -> Self {
        let subject = run.subject();
        let is_left = |t: TaskIdx| matches!(status(run, t, held), Status::Certain | Status::Conditional);
        let firsts = subject.graph.order().iter().map(|t| subject.ids.first(*t));
        let mut left: Vec<TaskIdx> = firsts.filter(|t| run.in_scope(*t) && is_left(*t)).collect();
        if left.is_empty() {
            return Self::default();
        }
        let mut all = Self { levels: vec![None; subject.workflow.len()], ..Self::default() };
        for task in &left {
            all.levels[task.index()] = Some(0);
        }
        // One pass would do if no task had two names and none followed another.
        loop {
            let mut is_stable = true;
            for &task in &left {
                let level = all.waits_for(run, task).filter_map(|d| all.level(d)).max().map_or(0, |l| l + 1);
                is_stable &= all.levels[task.index()].replace(level) == Some(level);
            }
            if is_stable {
                break;
            }
        }
        left.sort_unstable_by_key(|t| (all.level(*t), *t));
        left.dedup();
        all.total_ms = left.iter().filter_map(|t| run.expected_ms(*t)).sum();
        // Way to the end of each task, by time and then by number of tasks.
        let mut way = vec![(0_u64, 0_u32); subject.workflow.len()];
        let mut from = vec![None; subject.workflow.len()];
        for &task in &left {
            let before = all.waits_for(run, task).max_by_key(|d| (way[d.index()], std::cmp::Reverse(*d)));
            let (ms, steps) = before.map_or((0, 0), |d| way[d.index()]);
            // The work of another is not done twice.
            let own = if run.leader(task).is_some() { 0 } else { run.expected_ms(task).unwrap_or(0) };
            way[task.index()] = (ms.saturating_add(own), steps + 1);
            from[task.index()] = before;
        }
        let mut at = left.iter().copied().max_by_key(|t| (way[t.index()], std::cmp::Reverse(*t)));
        all.critical_path_ms = at.map_or(0, |t| way[t.index()].0);
        while let Some(task) = at {
            all.critical_path.push(task);
            at = from[task.index()];
        }
        all.critical_path.reverse();
        all
    }

    fn levels(&self) -> usize {
        self.levels.iter().flatten().max().map_or(0, |l| *l as usize + 1)
    }

    fn level(&self, task: TaskIdx) -> Option<u32> {
        self.levels.get(task.index()).copied().flatten()
    }

    /// What a task that is left waits for: inputs, what it comes after, and who does its work.
    fn waits_for(&self, run: &Run, task: TaskIdx) -> impl Iterator<Item = TaskIdx> {
        let subject = run.subject();
        let mut waits = vec![];
        if self.level(task).is_some() {
            waits.extend(subject.inputs(task).iter().copied());
            // Only work has an order; what may be cut off waits for its inputs alone.
            if matches!(subject.workflow.node(task).work, Work::Task(_))
                && matches!(run.state(task), State::Ordering | State::Calling)
            {
                waits.extend(subject.after(task).iter().copied());
            }
            waits.extend(run.leader(task));
            waits.retain(|d| self.level(*d).is_some());
            waits.sort_unstable();
            waits.dedup();
        }
        waits.into_iter()
    }
}
