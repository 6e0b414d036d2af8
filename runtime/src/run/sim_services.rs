//! Services in the simulation: ready at the first answer, ended by the second, which comes when they are asked to end or
//! fall by themselves.

use std::sync::Arc;

use quipu_store::receipt::Output;

use super::sim::{Drive, a_failure};
use super::step::{Event, Step};
use crate::graph::TaskIdx;
use crate::value::Value;

impl Drive<'_> {
    /// Notes that a task works, if a service is not there that it needs.
    pub(super) fn see_services(&mut self, task: TaskIdx) {
        let is_up = |s: &TaskIdx| self.serving.contains(s) && !self.cancelled.contains(s);
        let after = self.subject.after(task);
        if after.iter().any(|s| self.subject.is_service(*s) && !is_up(s)) {
            let name = self.name(task);
            self.report.unserved.push(name);
        }
    }

    /// The open steps that can be answered now; services that nobody asked to end, only when they fall.
    pub(super) fn answerable(&self, fall: bool) -> Vec<usize> {
        let stands = |step: &Step| {
            let Step::Execute { task, .. } = step else { return false };
            self.serving.contains(task) && !self.cancelled.contains(task)
        };
        let any: Vec<usize> = (0..self.open.len()).filter(|i| fall || !stands(&self.open[*i])).collect();
        any
    }

    /// Whether a service ends that was to go on.
    pub(super) fn is_fall(&self, event: &Event) -> bool {
        matches!(event, Event::Finished { task, result: Err(_), cancelled: false, .. } if self.subject.is_service(*task))
    }

    /// Answers the work of a service.
    pub(super) fn serve(&mut self, step: Step) -> Event {
        let Step::Execute { task, epoch, ref invocation, .. } = step else { unreachable!("services are work") };
        let ended = |result, cancelled| Event::Finished { task, epoch, result, cancelled };
        let was_serving = self.serving.remove(&task);
        if self.cancelled.remove(&task) {
            return ended(Ok(Arc::new(Output::default())), !was_serving);
        }
        if was_serving || invocation.args.get("does").and_then(Value::as_text) == Some("fail") {
            return ended(Err(Arc::new(a_failure(7))), false);
        }
        let name = self.name(task);
        self.report.ran.push(name);
        self.serving.insert(task);
        self.open.push(step);
        Event::Ready { task, epoch }
    }
}
