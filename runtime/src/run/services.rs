//! Services: tasks that run while those that come after them do.
//!
//! A service is started when the first of these is about to run, is waited for until it is ready, and is ended when none of
//! them is left. Unaware of how a service is looked at, and of how it is ended.

use std::sync::Arc;

use quipu_store::receipt::FailureKind;

use super::Run;
#[cfg(test)]
use super::Sabotage;
use super::step::{End, Notice, Outcome, State, Step};
use crate::graph::TaskIdx;

impl Run {
    /// The services that a task comes after.
    pub(super) fn services(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.subject.after(task).iter().copied().filter(|d| self.subject.is_service(*d)).collect()
    }

    /// What a task comes after, apart from services.
    pub(super) fn work_before(&self, task: TaskIdx) -> Vec<TaskIdx> {
        self.subject.after(task).iter().copied().filter(|d| !self.subject.is_service(*d)).collect()
    }

    /// Nothing is left that a task waits for but its services: they are started, unless they run.
    pub(super) fn call(&mut self, task: TaskIdx) {
        let services = self.services(task);
        if services.is_empty() {
            return self.stage(task);
        }
        if self.is_stopped(task) {
            return;
        }
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoReadiness) {
            self.demand_all(&services);
            return self.stage(task);
        }
        self.slot_mut(task).state = State::Calling;
        for service in &services {
            if self.slot(*service).state == State::Ended(End::Ran) {
                self.take_back(*service);
            }
        }
        let is_open = |d: &&TaskIdx| !(self.is_up(**d) || self.is_ended(**d));
        let missing = services.iter().filter(is_open).count() as u32;
        self.slot_mut(task).missing = missing;
        self.demand_all(&services);
        if missing == 0 {
            self.called(task);
        }
    }

    /// Its services run, or one of them never will.
    pub(super) fn called(&mut self, task: TaskIdx) {
        for service in self.services(task) {
            if let Some(end) = self.obstacle(service) {
                return self.end(task, end);
            }
        }
        self.stage(task);
    }

    /// Whether a service can be used: it is ready, and nobody has asked it to end.
    fn is_up(&self, service: TaskIdx) -> bool {
        self.serving.get(&service).is_some_and(|asked_to_end| !asked_to_end)
    }

    /// A service that was ended, since nobody needed it, is nobody's again.
    fn take_back(&mut self, service: TaskIdx) {
        let slot = self.slot_mut(service);
        slot.state = State::Idle;
        slot.attempts = 0;
        self.tell(Notice::Reopened { task: service });
    }

    /// A service answers.
    pub(super) fn ready(&mut self, task: TaskIdx, epoch: u32) {
        if !self.at(task, State::Running, epoch) {
            return;
        }
        self.slot_mut(task).state = State::Serving;
        self.serving.insert(task, false);
        self.is_quiet = false;
        self.tell(Notice::Ready { task });
        for user in self.shared().before(task).iter() {
            self.count_down(*user, State::Calling);
        }
    }

    /// Whether somebody runs that needs the service, or is on the way to.
    fn is_used(&self, service: TaskIdx) -> bool {
        self.subject.before(service).iter().any(|user| match self.slot(*user).state {
            State::Idle | State::Ended(_) => false,
            State::Running | State::Pausing | State::Serving => true,
            _ => self.slot(*user).in_scope && !self.is_stopped(*user),
        })
    }

    /// Asks services to end that nobody needs any more.
    pub(super) fn end_unused(&mut self) {
        self.is_quiet = true;
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoEndOfServices) {
            return;
        }
        let unused: Vec<TaskIdx> =
            self.serving.iter().filter(|(s, asked)| !**asked && !self.is_used(**s)).map(|(s, _)| *s).collect();
        for service in unused {
            self.ask_to_end(service);
        }
    }

    /// Asks a service to end. Who comes after it meanwhile waits until it was started anew.
    pub(super) fn ask_to_end(&mut self, service: TaskIdx) {
        if self.serving.insert(service, true) == Some(false) {
            self.steps.push_back(Step::Cancel { task: service });
        }
    }

    /// A service has ended: because it was asked to, or by itself, which those that need it do not survive.
    pub(super) fn served(&mut self, task: TaskIdx, result: Outcome, cancelled: bool) {
        self.serving.remove(&task);
        self.release(task);
        self.unlead(task);
        let lost = self.lost.remove(&task);
        let cancelled = cancelled && lost.is_none();
        let result = lost.map_or(result, |kind| Err(Arc::new(kind.into())));
        match result {
            Err(failure) if !cancelled => {
                let why = failure.kind.to_string();
                for user in self.shared().before(task).iter() {
                    self.lose(*user, task, &why);
                }
                self.fail(task, Arc::unwrap_or_clone(failure));
            }
            _ => {
                self.end(task, if cancelled { End::Cancelled } else { End::Ran });
                for user in self.shared().before(task).iter() {
                    if self.slot(*user).state == State::Calling {
                        self.call(*user);
                    }
                }
            }
        }
    }

    /// A service that a task needs is gone.
    fn lose(&mut self, user: TaskIdx, service: TaskIdx, why: &str) {
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoLoss) {
            return;
        }
        if self.lost.contains_key(&user) {
            return;
        }
        let name = &self.subject.workflow.node(service).name;
        let kind = FailureKind::Service { why: format!("service `{name}` ended while it ran: {why}") };
        match self.slot(user).state {
            State::Running => {
                self.lost.insert(user, kind);
                self.steps.push_back(Step::Cancel { task: user });
            }
            State::Serving => {
                let why = kind.to_string();
                self.lost.insert(user, kind);
                self.ask_to_end(user);
                for further in self.shared().before(user).iter() {
                    self.lose(*further, user, &why);
                }
            }
            State::Calling | State::Staging | State::Queued | State::Following | State::Pausing => {
                if self.slot(user).state == State::Pausing {
                    self.steps.push_back(Step::Cancel { task: user });
                }
                let followers = self.unlead(user);
                self.end(user, End::Skipped { cause: service });
                followers.into_iter().for_each(|f| self.wait_for_inputs(f));
            }
            // Not there yet: it will find the service failed.
            _ => {}
        }
    }

    /// What is to be said of a task that ended without a service it needs: nothing, if it had succeeded before.
    pub(super) fn without_service(&mut self, task: TaskIdx, result: Outcome, cancelled: bool) -> (Outcome, bool, bool) {
        match self.lost.remove(&task) {
            None => (result, cancelled, false),
            Some(kind) if cancelled => (Err(Arc::new(kind.into())), false, true),
            // It may well have failed for want of the service, which is not tried again.
            Some(_) => {
                let failed = result.is_err();
                (result, false, failed)
            }
        }
    }
}
