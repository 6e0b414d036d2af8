//! What work, the store and others tell the driver: what it means for the run, and what is recorded of it.
//!
//! Unaware of how work is started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quipu_store::Record;
use quipu_store::receipt::FailureKind;

use super::elsewhere::Question;
use super::work::{Came, Message, Worked};
use super::{Drive, DriveError, Unrecorded, Working, push};
use crate::attest::{self, Circumstances};
use crate::exec::{Done, Unusable};
use crate::graph::TaskIdx;
use crate::observe::RunEvent;
use crate::run::step::Event;
use crate::run::{MAX_REPRODUCTIONS, Run};
use crate::task::Work;

impl Drive {
    pub(super) fn hear(&mut self, message: Message) -> Result<(), DriveError> {
        match message {
            Message::Worked(worked) => {
                if let Some(worked) = self.seating.hear(worked) {
                    self.worked(worked)?;
                }
            }
            Message::Ready { task, epoch } => {
                // What it takes from now on is others' time.
                self.spent.remove(&task);
                self.run.on(Event::Ready { task, epoch });
            }
            Message::Paused { task, epoch } => {
                self.pauses.remove(&task);
                self.run.on(Event::Paused { task, epoch, go_on: true });
            }
            Message::Recorded { task, shared, result } => {
                self.awaiting_record -= 1;
                match result {
                    Ok(receipt) => {
                        self.recorded.extend(shared.into_iter().chain([task]).map(|t| (t, receipt)));
                        self.extend_session(task, receipt)?;
                        self.keep_reads(task, receipt)?;
                        if push::may_leave(self.subject.workflow.node(task)) {
                            self.pusher.push(&self.engine.store, receipt, &self.sender);
                        }
                        self.emit(|| RunEvent::Recorded { task: self.name(task), receipt });
                    }
                    Err(error) => self.commit_error = Some(error),
                }
            }
            Message::Answered { number, answer } => self.answered(number, *answer)?,
            Message::Warning(message) => self.warn_once(message),
        }
        Ok(())
    }

    /// Work came to its end, or to nothing.
    pub(super) fn worked(&mut self, worked: Worked) -> Result<(), DriveError> {
        let Worked { task, epoch, begin, came } = worked;
        self.seating.keep(begin);
        let working = self.working.remove(&task).expect("what is done was started");
        let fails = |run: &mut Run, why: String| {
            let result = Err(Arc::new(FailureKind::Executor { why }.into()));
            run.on(Event::Finished { task, epoch, result, cancelled: false });
        };
        match came {
            Came::Done { done, wall_ms, lease } => self.done(task, epoch, working, *done, wall_ms, lease)?,
            Came::Found(candidate) => self.run.on(Event::Arrived { task, candidate: *candidate }),
            Came::Gone => {
                let needs = self.needs.get(&task).cloned().unwrap_or_default();
                let hollow = self.hollow(&needs)?;
                let times = self.vanished.entry(task).or_default();
                *times += 1;
                if *times > MAX_REPRODUCTIONS {
                    fails(&mut self.run, "bytes of its inputs keep vanishing".to_owned());
                } else if !hollow.is_empty() && self.can_ask() {
                    self.ask(Question::Stage { task, epoch, needs })?;
                } else {
                    // Perhaps they are back: another user of them had them made again.
                    self.run.on(Event::Staged { task, epoch, hollow });
                }
            }
            Came::Broken(error) => fails(&mut self.run, error.to_string()),
        }
        Ok(())
    }

    /// Waits, not for ever, until what is to be sent on is sent.
    pub(super) fn end_pushes(&mut self) -> Result<(), DriveError> {
        let left = self.pusher.finish();
        self.hear_all()?;
        if left > 0 {
            self.warn_once(format!("{left} results were not sent on in time; nothing else depends on it"));
        }
        Ok(())
    }

    fn done(
        &mut self,
        task: TaskIdx,
        epoch: u32,
        working: Working,
        mut done: Done,
        wall_ms: Option<u64>,
        lease: Option<quipu_store::Lease>,
    ) -> Result<(), DriveError> {
        let cpu_ms = u64::try_from(done.cpu.as_millis()).unwrap_or(0);
        if let Some(wall_ms) = wall_ms {
            self.wall_ms.insert(task, (wall_ms, cpu_ms, done.rss_bytes));
        }
        let wall_ms = wall_ms.unwrap_or(0);
        *self.spent.entry(task).or_default() += Duration::from_millis(wall_ms);
        let cancelled = matches!(done.unusable, Some(Unusable::Cancelled));
        if let (Err(failure), Some(timeout)) = (&mut done.result, self.subject.workflow.node(task).policy.timeout)
            && let FailureKind::Timeout { limit_ms } = &mut failure.kind
        {
            // Of all attempts together, of which this was the last.
            *limit_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        }
        if let Some(Unusable::InputsChanged(paths)) = &done.unusable {
            let path = paths.first().cloned().unwrap_or_default();
            done.result = Err(FailureKind::InputChanged { path }.into());
        }
        let result = done.result.clone().map(Arc::new).map_err(Arc::new);
        self.note_reads(task, &working.invocation, done.result.as_ref().ok())?;
        if !cancelled {
            let id = self.subject.ids.of(task);
            let (ran, invocation) = working.invocation.encode();
            let mut blocks = vec![(ran.link(), invocation)];
            if let Work::Task(recipe) = &self.subject.workflow.node(task).work {
                blocks.push((id.link(), self.subject.ids.block(recipe)));
            }
            let about = Circumstances {
                ran,
                settles: BTreeMap::from([(id, working.via)]),
                ins: working.ins,
                wall_ms,
                now: self.engine.clock.unix_s(),
            };
            self.unrecorded.insert(task, Unrecorded { done, about, blocks, shared: vec![], lease });
        }
        self.run.on(Event::Finished { task, epoch, result, cancelled });
        Ok(())
    }

    /// Hands finished work to the store, once it is known which tasks it settles.
    pub(super) fn record_finished(&mut self) -> Result<(), DriveError> {
        for (task, unrecorded) in std::mem::take(&mut self.unrecorded) {
            let Unrecorded { done, about, blocks, shared, lease } = unrecorded;
            let Some(receipt) = attest::receipt(&done, about) else { continue };
            self.awaiting_record += 1;
            let sender = self.sender.clone();
            // Others may look for the receipt once it is there: until then the work counts as being done.
            let acknowledge = move |result| {
                drop(lease);
                let _ = sender.send(Message::Recorded { task, shared, result });
            };
            self.engine.store.record(Record { receipt, blocks, done: Box::new(acknowledge) })?;
        }
        Ok(())
    }
}
