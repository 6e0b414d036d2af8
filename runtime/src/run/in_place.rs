//! Tasks that work in the workspace itself, where each sees what others do to their outputs.
//!
//! While such a task runs, nothing that it uses is made again or put there anew, and none starts whose inputs are being made
//! again. Unaware of paths: it goes by who comes after whom. Two runs in one workspace do not know of each other here.

use std::collections::{HashMap, HashSet};

use crate::graph::TaskIdx;
use crate::process;
use crate::run::Run;
#[cfg(test)]
use crate::run::Sabotage;
use crate::run::step::{State, Step};
use crate::run::values::Kept;
use crate::task::Work;

/// Who is at work in the workspace, and who waits for that to end. Empty as long as no task works there.
#[derive(Debug, Clone, Default)]
pub(super) struct InPlace {
    /// How many running tasks use what a task made.
    users: HashMap<TaskIdx, u32>,
    /// Running tasks that use what a task came out as before it came out differently.
    behind: HashMap<TaskIdx, HashSet<TaskIdx>>,
    /// Tasks that could start, were it not for users.
    held_up: Vec<TaskIdx>,
    /// Outputs to be placed when nobody uses them any more, and whether they were made just now.
    unplaced: Vec<(TaskIdx, bool)>,
}

/// Why a task that could start may not.
pub(super) enum Hindrance {
    /// Something it uses is being made again.
    Unready,
    /// A running task uses what this one would write to.
    Used,
}

impl Run {
    fn is_in_place(&self, task: TaskIdx) -> bool {
        // A service runs for as long as others need it, and must not hold up what these wait for.
        !self.subject.is_service(task)
            && matches!(self.work(task), Work::Task(recipe) if process::is_in_place(&recipe.args))
    }

    /// What a task may look at while it runs.
    fn uses(&self, task: TaskIdx) -> Vec<TaskIdx> {
        // A service goes on meanwhile, and makes nothing.
        self.subject.inputs(task).iter().copied().chain(self.work_before(task)).collect()
    }

    /// What keeps a task that could start from starting.
    pub(super) fn hindrance(&self, task: TaskIdx) -> Option<Hindrance> {
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::Trample) {
            return None;
        }
        if !self.is_in_place(task) {
            return None;
        }
        let uses = self.uses(task);
        if uses.iter().any(|d| !self.is_ended(*d)) {
            return Some(Hindrance::Unready);
        }
        let InPlace { users, behind, .. } = &self.in_place;
        let used = users.contains_key(&task) || uses.iter().any(|d| behind.contains_key(d));
        used.then_some(Hindrance::Used)
    }

    /// A task is held up until one of those that run has ended.
    pub(super) fn hold_up(&mut self, task: TaskIdx) {
        self.in_place.held_up.push(task);
    }

    /// A task starts: what it uses stays as it is.
    pub(super) fn enter(&mut self, task: TaskIdx) {
        if self.is_in_place(task) {
            for used in self.uses(task) {
                *self.in_place.users.entry(used).or_default() += 1;
            }
        }
    }

    /// A task runs no more.
    pub(super) fn leave(&mut self, task: TaskIdx) {
        if !self.is_in_place(task) {
            return;
        }
        for used in self.uses(task) {
            let users = self.in_place.users.get_mut(&used).expect("it was counted when the task started");
            *users -= 1;
            if *users == 0 {
                self.in_place.users.remove(&used);
            }
        }
        self.in_place.behind.retain(|_, users| {
            users.remove(&task);
            !users.is_empty()
        });
        for (placed, fresh) in std::mem::take(&mut self.in_place.unplaced) {
            self.place_unused(placed, fresh);
        }
        for held_up in std::mem::take(&mut self.in_place.held_up) {
            // It may have changed its mind meanwhile.
            if self.slot(held_up).state == State::Queued {
                self.enqueue_again(held_up);
            }
        }
    }

    /// A running task goes by what another was before.
    pub(super) fn fall_behind(&mut self, user: TaskIdx, changed: TaskIdx) {
        if self.is_in_place(user) {
            self.in_place.behind.entry(changed).or_default().insert(user);
        }
    }

    /// Has a goal's output put in place, as soon as no running task uses what is there.
    pub(super) fn place_unused(&mut self, task: TaskIdx, fresh: bool) {
        let slot = self.slot(task);
        let Some(Ok(output)) = slot.settled.as_ref().filter(|_| slot.placing).map(Kept::outcome) else { return };
        #[cfg(test)]
        let tramples = self.rules.sabotage == Some(Sabotage::Trample);
        #[cfg(not(test))]
        let tramples = false;
        if self.in_place.users.contains_key(&task) && !tramples {
            self.in_place.unplaced.retain(|(other, _)| *other != task);
            self.in_place.unplaced.push((task, fresh));
            return;
        }
        let epoch = slot.epoch;
        self.ask(Step::Place { task, epoch, output, fresh });
    }
}
