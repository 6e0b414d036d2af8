//! Goals that are placed only once the checks on them have passed.
//!
//! Unaware of what a check looks at, and of where goals are placed.

use std::collections::BTreeMap;

use super::Run;
use super::step::{End, State};
use crate::graph::TaskIdx;

/// Goals by the tasks that must have ended well before.
pub type Gates = BTreeMap<TaskIdx, Vec<TaskIdx>>;

impl Run {
    /// The same gates, by the first of equal tasks.
    pub(super) fn gates_of_first(&self, gates: Gates) -> Gates {
        let mut firsts = Gates::new();
        for (task, checks) in gates {
            firsts.entry(self.first(task)).or_default().extend(checks.into_iter().map(|check| self.first(check)));
        }
        firsts
    }

    /// Places a goal, or keeps it back until its checks have passed.
    pub(super) fn place(&mut self, task: TaskIdx, fresh: bool) {
        if self.rules.gates.contains_key(&task) {
            self.withheld.insert(task, fresh);
        } else {
            self.place_now(task, fresh);
        }
    }

    fn place_now(&mut self, task: TaskIdx, fresh: bool) {
        self.slot_mut(task).placing = true;
        self.place_unused(task, fresh);
    }

    fn has_passed(&self, check: TaskIdx) -> bool {
        matches!(self.slot(check).state, State::Ended(End::Ran | End::Cached | End::CutOff))
    }

    /// The first check on a task that has not passed.
    fn closed_by(&self, task: TaskIdx) -> Option<TaskIdx> {
        self.rules.gates.get(&task)?.iter().copied().find(|check| !self.has_passed(*check))
    }

    /// Places one goal that was kept back and whose checks have passed by now; false when there is none.
    ///
    /// Invariant: called only when nothing is left to be thought about, so that a check of what has changed since is no
    /// check that has passed.
    pub(super) fn open_gate(&mut self) -> bool {
        let Some(task) = self.withheld.keys().copied().find(|task| self.closed_by(*task).is_none()) else {
            return false;
        };
        let fresh = self.withheld.remove(&task).expect("it was found there");
        self.place_now(task, fresh);
        true
    }

    /// Goals that were made and not placed, each with the first check on it that has not passed.
    pub fn withheld(&self) -> Vec<(TaskIdx, TaskIdx)> {
        self.withheld.keys().filter_map(|task| Some((*task, self.closed_by(*task)?))).collect()
    }
}
