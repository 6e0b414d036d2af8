//! Tasks that are done elsewhere: looking for what somebody delivered, or did in another workspace.
//!
//! Unaware of who delivers, and how.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use quipu_store::Found;
use quipu_store::cid::{InvocationId, ReceiptId, TaskId};

use super::elsewhere::{AboutAwaited, Question};
use super::{Drive, DriveError};
use crate::graph::TaskIdx;
use crate::run::step::{AwaitOn, Event, State};

/// How often to look.
pub(super) const EVERY: Duration = Duration::from_millis(200);
/// How often others are asked, who may be far away.
const ASK_EVERY_MS: u64 = 5_000;

/// What is awaited.
#[derive(Default)]
pub(super) struct Awaits {
    open: BTreeMap<TaskIdx, (u32, AwaitOn)>,
    /// Receipts that the run was told of: it did not take them, and would not the next time.
    told: HashSet<(TaskIdx, ReceiptId)>,
    /// When others were last asked.
    asked_ms: Option<u64>,
    /// Whether their answer is still to come.
    is_asking: bool,
}

impl Awaits {
    pub(super) fn add(&mut self, task: TaskIdx, epoch: u32, on: AwaitOn) {
        self.open.insert(task, (epoch, on));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Drive {
    /// Whether nothing is left to do but to wait for others.
    pub(super) fn has_only_awaits(&self) -> bool {
        let open = &self.awaits.open;
        let stands_by = |t: &TaskIdx| self.run.state(*t) == State::Serving;
        let nobody_works = self.working.keys().all(stands_by);
        !open.is_empty() && nobody_works && self.run.only_awaits(open.len())
    }

    /// Settles what was delivered. With a last look, the run ends without the rest.
    pub(super) fn look_for_deliveries(&mut self, is_last: bool) -> Result<(), DriveError> {
        let (mut tasks, mut invocations) = (vec![], vec![]);
        for (task, (_, on)) in &self.awaits.open {
            match on {
                AwaitOn::Task(id) => tasks.push((*task, *id)),
                AwaitOn::Invocation(id) => invocations.push((*task, *id)),
            }
        }
        let ids: Vec<InvocationId> = invocations.iter().map(|(_, id)| *id).collect();
        let by_invocation = self.engine.store.find_invocations(&ids)?;
        let ids: Vec<TaskId> = tasks.iter().map(|(_, id)| *id).collect();
        let by_task = self.engine.store.find_tasks(&ids)?.into_iter().map(|found| found.receipts);
        let found = invocations.iter().map(|(task, _)| *task).zip(by_invocation);
        let found: Vec<(TaskIdx, Vec<Found>)> = found.chain(tasks.iter().map(|(task, _)| *task).zip(by_task)).collect();
        for (task, found) in found {
            if !self.settle_awaited(task, &found)? && is_last {
                self.await_no_longer(task);
            }
        }
        if !is_last && !tasks.is_empty() {
            self.ask_of_awaited(&tasks)?;
        }
        Ok(())
    }

    /// Tells the run of what came; false when there is nothing that it was not told of.
    pub(super) fn settle_awaited(&mut self, task: TaskIdx, found: &[Found]) -> Result<bool, DriveError> {
        let candidates = self.candidates(found)?;
        let Some((epoch, _)) = self.awaits.open.get(&task).copied() else { return Ok(false) };
        let is_news = candidates.iter().filter(|c| self.awaits.told.insert((task, c.receipt))).count() > 0;
        if is_news {
            self.awaits.open.remove(&task);
            self.run.on(Event::Awaited { task, epoch, candidates });
        }
        Ok(is_news)
    }

    /// Ends without it.
    pub(super) fn await_no_longer(&mut self, task: TaskIdx) {
        if let Some((epoch, _)) = self.awaits.open.remove(&task) {
            self.run.on(Event::Awaited { task, epoch, candidates: vec![] });
        }
    }

    /// Asks others for what nobody here has, now and then.
    fn ask_of_awaited(&mut self, tasks: &[(TaskIdx, TaskId)]) -> Result<(), DriveError> {
        let now_ms = self.engine.clock.elapsed_ms();
        let is_time = self.awaits.asked_ms.is_none_or(|at| now_ms.saturating_sub(at) >= ASK_EVERY_MS);
        if !is_time || self.awaits.is_asking || !self.can_ask() {
            return Ok(());
        }
        // They were asked when the run began.
        if self.awaits.asked_ms.replace(now_ms).is_none() {
            return Ok(());
        }
        self.awaits.is_asking = true;
        let about = tasks.iter().map(|(task, id)| AboutAwaited { task: *task, id: *id });
        self.ask(Question::Awaited(about.collect()))
    }

    /// Others have answered.
    pub(super) fn heard_of_awaited(&mut self) {
        self.awaits.is_asking = false;
    }
}
