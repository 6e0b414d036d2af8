//! What can be asked of a run, while it goes on and afterwards.
//!
//! Looks and changes nothing; unaware of how things came to be so.

use std::sync::Arc;

use quipu_store::cid::{InvocationId, ReceiptId};
use quipu_store::receipt::{Failure, Via};

use super::step::{End, Outcome, State};
use super::values::Kept;
use super::{Lookup, Run, Subject};
use crate::graph::TaskIdx;
use crate::task::{Invocation, When, Work};

/// What somebody has to deliver.
#[derive(Debug, Clone)]
pub struct Awaited {
    /// Id of the invocation.
    pub id: InvocationId,
    /// What is asked for.
    pub invocation: Arc<Invocation>,
    /// Awaited outputs it is made from.
    pub via: Via,
    /// Receipts of the inputs.
    pub ins: Vec<ReceiptId>,
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
    /// With a condition that is not met.
    pub unmet: usize,
    /// Blocked by a task of another workflow.
    pub blocked: usize,
    /// Cancelled.
    pub cancelled: usize,
}

impl Run {
    /// Where a task stands.
    pub fn state(&self, task: TaskIdx) -> State {
        self.slot(self.first(task)).state
    }

    /// Whether the goals lead to it.
    pub fn in_scope(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).in_scope
    }

    /// What came out of a settled task.
    pub fn outcome(&self, task: TaskIdx) -> Option<Outcome> {
        self.slot(self.first(task)).settled.as_ref().map(Kept::outcome)
    }

    /// What went wrong with a task that failed.
    pub fn failure(&self, task: TaskIdx) -> Option<&Failure> {
        match self.slot(self.first(task)).settled.as_ref()? {
            Kept::Failure(failure) => Some(failure),
            Kept::Output(_) => None,
        }
    }

    /// The receipt a settled task goes by.
    pub fn receipt(&self, task: TaskIdx) -> Option<ReceiptId> {
        self.slot(self.first(task)).receipt
    }

    /// The invocation a task got to, as long as it is not settled.
    pub fn invocation(&self, task: TaskIdx) -> Option<InvocationId> {
        let errand = self.slot(self.first(task)).errand.as_ref()?;
        errand.invocation.as_ref().map(|(id, _)| *id)
    }

    /// What exactly is to be done for a task whose inputs are settled, as long as it is not.
    pub fn invoked(&self, task: TaskIdx) -> Option<&Arc<Invocation>> {
        let errand = self.slot(self.first(task)).errand.as_ref()?;
        errand.invocation.as_ref().map(|(_, invocation)| invocation)
    }

    /// Whether a task has a receipt and runs all the same, since its bytes are gone.
    pub fn is_hollow(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).must_run
    }

    /// Whether it was asked to run whatever receipts there are.
    pub fn is_forced(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).forced
    }

    /// A task that is done elsewhere and was not delivered, with what it is asked to be and what that is made from.
    pub fn awaited(&self, task: TaskIdx) -> Option<Awaited> {
        let task = self.first(task);
        let errand = self.slot(task).errand.as_ref().filter(|_| self.slot(task).state == State::Awaiting)?;
        let (id, invocation) = errand.invocation.clone()?;
        Some(Awaited { id, invocation, via: errand.via.clone(), ins: errand.ins.clone() })
    }

    /// Tasks that are done elsewhere, and that the run ended without.
    pub fn undelivered(&self) -> Vec<TaskIdx> {
        let is_elsewhere = |t| self.is_external(t) || matches!(self.work(t), Work::External { .. });
        let own = |t: &TaskIdx| self.slot(*t).state == State::Ended(End::Blocked { cause: *t }) && is_elsewhere(*t);
        self.subject.workflow.indices().filter(own).collect()
    }

    /// Whether nothing is open but what others do, and services that stand by.
    pub(crate) fn only_awaits(&self, awaits: usize) -> bool {
        let open = awaits + self.serving.len();
        self.steps.is_empty() && self.todo.is_empty() && self.demanded.is_empty() && self.in_flight == open
    }

    /// Whether it has a condition that what it comes after has not decided yet.
    pub fn awaits_condition(&self, task: TaskIdx) -> bool {
        let task = self.first(task);
        self.policy(task).when != When::Success && self.invocation(task).is_none() && !self.is_ended(task)
    }

    /// Whether it is asked for by name.
    pub fn is_goal(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).goal
    }

    /// How long it is expected to take, when it was ever timed.
    pub fn expected_ms(&self, task: TaskIdx) -> Option<u64> {
        self.rules.expected_ms.get(self.first(task).index()).copied().filter(|ms| *ms > 0)
    }

    /// Whether a task it depends on is forced, so that its own receipt under the task id does not count.
    pub(crate) fn goes_by_inputs(&self, task: TaskIdx) -> bool {
        self.slot(self.first(task)).inputs_first || self.rules.ignore_shortcuts
    }

    /// Whether receipts under its task id were found that would do, were they made from what this run goes by.
    pub(crate) fn has_candidates(&self, task: TaskIdx) -> bool {
        let task = self.first(task);
        let Lookup::Known(known) = &self.slot(task).lookup else { return false };
        known.candidates.iter().any(|c| self.is_usable(task, c))
    }

    /// The task with the same invocation that works for this one, too.
    pub(crate) fn leader(&self, task: TaskIdx) -> Option<TaskIdx> {
        let task = self.first(task);
        let (leader, _) = self.leaders.get(&self.invocation(task)?)?;
        (*leader != task).then_some(*leader)
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
                State::Ended(End::Unmet) => counts.unmet += 1,
                State::Ended(End::Blocked { .. }) => counts.blocked += 1,
                State::Ended(End::Cancelled) => counts.cancelled += 1,
                _ => counts.unneeded += 1,
            }
        }
        counts
    }

    /// Whether bytes were missed that only another workflow makes again.
    pub fn misses_others(&self) -> bool {
        self.lost_elsewhere
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
}
