//! What a run's notices and a task's output are to those who are told.
//!
//! Finds the words; unaware of how they are shown.

use std::sync::Arc;

use super::Drive;
use crate::exec::Sink;
use crate::graph::TaskIdx;
use crate::observe::{Ended, Observer, RunEvent};
use crate::run::Counts;
use crate::run::step::{End, Notice, State};
use crate::task::Work;

impl Drive {
    /// Whether a task is told of with those that are no part of the workflow.
    pub(super) fn is_beside(&self, task: TaskIdx) -> bool {
        self.beside.is_some() && matches!(self.subject.workflow.node(task).work, Work::External { .. })
    }

    /// How many tasks there are beside the workflow.
    pub(super) fn others(&self) -> usize {
        self.beside.as_ref().map_or(0, |beside| beside.tasks)
    }

    /// What became of the tasks, those beside the workflow included.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = self.run.counts();
        if self.beside.is_none() {
            return counts;
        }
        // The same task under two names counts once.
        let once = |t: &TaskIdx| self.subject.ids.first(*t) == *t;
        let beside_it = |t: &TaskIdx| once(t) && self.run.in_scope(*t) && self.is_beside(*t);
        for task in self.subject.workflow.indices().filter(beside_it) {
            match self.run.state(task) {
                State::Idle => counts.unneeded -= 1,
                State::Ended(End::Cached) => counts.cached -= 1,
                _ => {}
            }
        }
        counts.cached += self.others();
        counts
    }

    pub(super) fn tell(&mut self, notice: Notice) {
        let name = |task| self.name(task);
        match notice {
            Notice::Ended { task, end } => self.emit(|| self.ended(task, end)),
            Notice::Ready { task } => self.emit(|| RunEvent::TaskReady { task: name(task) }),
            Notice::Reopened { task } => self.emit(|| RunEvent::TaskReopened { task: name(task) }),
            Notice::Retry { task, attempt } => self.emit(|| RunEvent::TaskRetry { task: name(task), attempt }),
            Notice::Hollow { task } => self.emit(|| RunEvent::TaskHollow { task: name(task) }),
            Notice::Divergence { task, .. } if self.run.is_external(task) => self.emit(|| {
                let message = format!("`{}` was delivered in two ways, one of which counts", name(task));
                RunEvent::Warning { message }
            }),
            Notice::Divergence { task, .. } => self.emit(|| RunEvent::Divergence { task: name(task) }),
        }
    }

    fn ended(&self, task: TaskIdx, end: End) -> RunEvent {
        let failure = self.run.failure(task);
        let (ended, reason) = match end {
            End::Cached => (Ended::Cached, None),
            End::CutOff => (Ended::CutOff, None),
            End::Ran => (Ended::Ran, None),
            End::Failed if self.subject.is_service(task) => {
                (Ended::Failed, failure.map(|f| format!("the service did not stay up: {}", f.kind)))
            }
            End::Failed => (Ended::Failed, failure.map(|f| f.kind.to_string())),
            End::Skipped { cause } => (Ended::Skipped, Some(format!("`{}` did not succeed", self.name(cause)))),
            End::Blocked { cause } if self.run.is_external(cause) => {
                (Ended::Blocked, Some(format!("`{}` is done elsewhere, and was not delivered", self.name(cause))))
            }
            End::Blocked { cause } => (Ended::Blocked, Some(format!("there is no receipt for `{}`", self.name(cause)))),
            End::Unmet => {
                let when = self.subject.workflow.node(task).policy.when;
                (Ended::Unmet, Some(when.unmet().to_owned()))
            }
            End::Cancelled => (Ended::Cancelled, None),
        };
        let ran = matches!(end, End::Ran | End::Failed | End::Cancelled);
        let measured = self.wall_ms.get(&task).filter(|_| ran);
        RunEvent::TaskEnded {
            task: self.name(task),
            id: self.task_id(task),
            end: ended,
            wall_ms: measured.map(|m| m.0),
            cpu_ms: measured.map(|m| m.1),
            rss_bytes: measured.map(|m| m.2),
            failure: failure.map(|f| f.kind.name()),
            reason,
        }
    }

    /// Tells an event, from wherever.
    pub(super) fn teller(&self) -> impl Fn(&RunEvent) + Send + Sync + 'static {
        let (observers, clock, started_ms) =
            (self.engine.observers.clone(), Arc::clone(&self.engine.clock), self.started_ms);
        move |event| observers.on(clock.elapsed_ms().saturating_sub(started_ms), event)
    }

    pub(super) fn sink(&self, task: TaskIdx) -> Sink {
        let node = self.subject.workflow.node(task);
        if self.engine.observers.is_empty() || node.policy.mute {
            return Arc::new(|_, _| {});
        }
        let (tell, name) = (self.teller(), node.name.clone());
        Arc::new(move |stream, bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            tell(&RunEvent::TaskOutput { task: name.clone(), stream, text });
        })
    }
}
