//! Runs that are being stopped, and the tasks that go on all the same: those with a condition, which clean up.
//!
//! Unaware of why a run is stopped.

use std::collections::HashSet;

use crate::graph::TaskIdx;
use crate::run::Run;
#[cfg(test)]
use crate::run::Sabotage;
use crate::run::step::{End, State, Step};
use crate::task::When;

impl Run {
    /// Marks the tasks with a condition, and what these need beside the tasks they watch.
    pub(super) fn mark_kept_on(&mut self) {
        let with_condition = |t: &TaskIdx| self.policy(*t).when.cleans_up() && self.slot(*t).in_scope;
        let mut stack: Vec<TaskIdx> = self.subject.workflow.indices().filter(with_condition).collect();
        let mut kept_on = HashSet::new();
        while let Some(task) = stack.pop() {
            if kept_on.insert(task) {
                stack.extend(self.subject.inputs(task).iter());
                if self.policy(task).when.cleans_up() {
                    stack.extend(self.services(task));
                } else {
                    stack.extend(self.subject.after(task).iter());
                }
            }
        }
        self.kept_on = kept_on;
    }

    /// Whether what a task comes after ended as its condition says.
    pub(super) fn is_met(&self, task: TaskIdx, when: When) -> bool {
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::AnyCondition) {
            return true;
        }
        let failed = |d: &TaskIdx| {
            matches!(self.slot(*d).state, State::Ended(End::Failed | End::Skipped { .. } | End::Blocked { .. }))
        };
        let mut before = self.work_before(task).into_iter();
        match when {
            When::Success | When::Always => true,
            When::Failure => before.any(|d| failed(&d)),
            When::Changed => before.any(|d| self.slot(d).state == State::Ended(End::Ran)),
        }
    }

    /// Whether nothing new starts, not even to clean up.
    pub(super) fn is_halted(&self) -> bool {
        self.stopping && self.kept_on.is_empty()
    }

    /// Whether the run is being stopped, and the task does not go on all the same.
    pub(super) fn is_stopped(&self, task: TaskIdx) -> bool {
        self.stopping && !self.kept_on.contains(&task)
    }

    /// Nothing new starts; what runs is ended.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.is_quiet = false;
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoCleanUp) {
            self.kept_on.clear();
        }
        for task in self.being_ended() {
            self.steps.push_back(Step::Cancel { task });
        }
    }

    /// What a stopped run ends, and has not ended yet.
    fn being_ended(&self) -> Vec<TaskIdx> {
        let is_at_it = |t: &TaskIdx| matches!(self.slot(*t).state, State::Running | State::Pausing | State::Awaiting);
        (0..self.slots.len()).map(TaskIdx::new).filter(|t| is_at_it(t) && !self.kept_on.contains(t)).collect()
    }

    /// Whether it is time to [`Run::sweep`]: who cleans up does not begin while what it cleans up after still runs.
    pub(super) fn may_sweep(&self) -> bool {
        self.stopping && !self.swept && self.being_ended().is_empty()
    }

    /// Ends what a stopped run does not do any more, once all that follows from what ended was seen to.
    pub(super) fn sweep(&mut self) {
        self.swept = true;
        if self.kept_on.is_empty() {
            // Nobody waits for them: they may as well be left as they are.
            return;
        }
        let others = (0..self.slots.len()).map(TaskIdx::new).filter(|t| !self.kept_on.contains(t));
        for task in others.collect::<Vec<_>>() {
            match self.slot(task).state {
                State::Running | State::Serving | State::Pausing | State::Awaiting | State::Idle | State::Ended(_) => {}
                _ => {
                    for follower in self.unlead(task) {
                        self.wait_for_inputs(follower);
                    }
                    self.end(task, End::Cancelled);
                }
            }
        }
    }

    /// What would clean up does not start any more, and ends where it runs.
    pub(super) fn give_up(&mut self) {
        self.is_quiet = false;
        for task in std::mem::take(&mut self.kept_on) {
            if matches!(self.slot(task).state, State::Running | State::Pausing) {
                self.steps.push_back(Step::Cancel { task });
            }
        }
    }
}
