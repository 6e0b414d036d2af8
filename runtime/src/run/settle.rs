//! Rule 4 and the ends of tasks: order, bytes, work, results, and what a changed result means for others.
//!
//! Unaware of how work is done.

use std::sync::Arc;

use quipu_store::cid::{OutputId, ReceiptId};
use quipu_store::receipt::{Failure, FailureKind};

use crate::graph::TaskIdx;
#[cfg(test)]
use crate::run::Sabotage;
use crate::run::step::{AwaitOn, Candidate, End, Notice, Outcome, Placed, State, Step};
use crate::run::values::Kept;
use crate::run::{Lookup, MAX_REPRODUCTIONS, Run, Todo};
use crate::task::{When, Work};
use crate::value::{Branch, On};

impl Run {
    /// The task will run: what it must come after is asked for, and waited for.
    pub(super) fn order(&mut self, task: TaskIdx) {
        let after = self.work_before(task);
        let missing = after.iter().filter(|d| !self.is_ended(**d)).count() as u32;
        self.demand_all(&after);
        let slot = self.slot_mut(task);
        slot.state = State::Ordering;
        slot.missing = missing;
        if missing == 0 {
            self.ordered(task);
        }
    }

    fn ordered(&mut self, task: TaskIdx) {
        let when = self.policy(task).when;
        let has_invocation = self.slot(task).errand.as_ref().is_some_and(|e| e.invocation.is_some());
        if !when.cleans_up() {
            for before in self.work_before(task) {
                if let Some(end) = self.obstacle(before) {
                    return self.end(task, end);
                }
            }
        }
        match when {
            When::Success => self.call(task),
            _ if has_invocation => self.call(task),
            _ if self.is_met(task, when) => self.wait_for_inputs(task),
            _ => self.end(task, End::Unmet),
        }
    }

    /// How a task ends that starts only once this one succeeded, or serves, if that can't be.
    pub(super) fn obstacle(&self, before: TaskIdx) -> Option<End> {
        match self.slot(before).state {
            State::Serving | State::Ended(End::Ran | End::Cached | End::CutOff) => None,
            State::Ended(End::Skipped { cause }) => Some(End::Skipped { cause }),
            State::Ended(End::Blocked { cause }) => Some(End::Blocked { cause }),
            State::Ended(End::Cancelled) => Some(End::Cancelled),
            _ => Some(End::Skipped { cause: before }),
        }
    }

    pub(super) fn stage(&mut self, task: TaskIdx) {
        if self.is_stopped(task) {
            // Bytes may be far away, and nobody will use them now.
            return;
        }
        let epoch = self.slot(task).epoch;
        if self.is_external(task) {
            let (id, _) = self.errand(task).invocation.clone().expect("staged tasks have an invocation");
            return self.await_elsewhere(task, AwaitOn::Invocation(id));
        }
        self.slot_mut(task).state = State::Staging;
        let needs = self.errand(task).needs.clone();
        if needs.is_empty() {
            return self.enqueue(task);
        }
        self.ask(Step::Stage { task, epoch, needs });
    }

    /// Bytes were seen to: work, or their makers first.
    pub(super) fn staged(&mut self, task: TaskIdx, hollow: &[TaskIdx]) {
        #[cfg(test)]
        let hollow = if self.rules.sabotage == Some(Sabotage::NoBytes) { &[] } else { hollow };
        match hollow {
            [] => self.enqueue(task),
            // Nothing is made again now; what was settled stays so.
            _ if self.is_stopped(task) => {}
            _ => self.make_again(task, hollow),
        }
    }

    /// Lets the makers of missing bytes run again, and the task wait for them.
    pub(super) fn make_again(&mut self, task: TaskIdx, makers: &[TaskIdx]) {
        for maker in makers {
            let producer = self.first(*maker);
            if !self.reproduce(producer) {
                let name = &self.subject.workflow.node(producer).name;
                let why = match self.work(producer) {
                    Work::Task(_) => format!("the output of `{name}` keeps vanishing"),
                    Work::External { .. } => {
                        self.lost_elsewhere = true;
                        format!("the output of `{name}` is gone, and only its own workspace makes it again")
                    }
                };
                let kind = FailureKind::Executor { why };
                return self.fail(task, kind.into());
            }
        }
        self.wait_for_inputs(task);
    }

    /// Lets a settled task run again for its bytes. False when that happened too often, or cannot help.
    fn reproduce(&mut self, task: TaskIdx) -> bool {
        let external = matches!(self.work(task), Work::External { .. });
        let slot = self.slot_mut(task);
        if slot.settled.is_none() {
            // It is being made again already.
            return true;
        }
        if slot.reproductions >= MAX_REPRODUCTIONS || external {
            return false;
        }
        slot.reproductions += 1;
        slot.must_run = true;
        self.tell(Notice::Hollow { task });
        self.unsettle(task);
        self.wait_for_inputs(task);
        true
    }

    fn enqueue(&mut self, task: TaskIdx) {
        let (id, _) = self.errand(task).invocation.clone().expect("staged tasks have an invocation");
        if let Some((leader, followers)) = self.leaders.get_mut(&id)
            && *leader != task
        {
            // The better of two that wait leads, so that it does not matter which of them came first.
            let better = |t: TaskIdx| (self.priority[t.index()], std::cmp::Reverse(t));
            if self.slots[leader.index()].state != State::Queued || better(*leader) > better(task) {
                followers.push(task);
                self.slot_mut(task).state = State::Following;
                return;
            }
            let behind = std::mem::replace(leader, task);
            followers.push(behind);
            self.slot_mut(behind).state = State::Following;
        }
        self.leaders.entry(id).or_insert((task, vec![]));
        self.slot_mut(task).state = State::Queued;
        self.enqueue_again(task);
    }

    /// Puts a queued task back into the line it was taken from.
    pub(super) fn enqueue_again(&mut self, task: TaskIdx) {
        let (priority, epoch) = (self.priority[task.index()], self.slot(task).epoch);
        let subject = self.shared();
        let gets_ready = self.gets_ready(task);
        self.queue.push(task, priority, epoch, &subject.workflow.node(task).policy.slots, gets_ready);
    }

    /// Takes a task out of the lead of its invocation; those who followed it look for themselves.
    pub(super) fn unlead(&mut self, task: TaskIdx) -> Vec<TaskIdx> {
        let Some((id, _)) = self.slot(task).errand.as_ref().and_then(|e| e.invocation.clone()) else { return vec![] };
        match self.leaders.get(&id) {
            Some((leader, _)) if *leader == task => self.leaders.remove(&id).map(|(_, f)| f).unwrap_or_default(),
            _ => vec![],
        }
        .into_iter()
        .filter(|f| self.slot(*f).state == State::Following)
        .collect()
    }

    pub(super) fn release(&mut self, task: TaskIdx) {
        if let Some(taken) = self.slot_mut(task).errand.as_mut().and_then(|e| e.taken.take()) {
            self.outside -= 1;
            self.free.give(taken);
            self.leave(task);
        }
    }

    pub(super) fn finished(&mut self, task: TaskIdx, result: Outcome, cancelled: bool) {
        self.release(task);
        let followers = self.unlead(task);
        let (result, cancelled, is_final) = self.without_service(task, result, cancelled);
        if cancelled {
            self.end(task, End::Cancelled);
            return followers.into_iter().for_each(|f| self.wait_for_inputs(f));
        }
        if std::mem::take(&mut self.slot_mut(task).stale) {
            // Right for what it was made from, and recorded as such; not what this run goes by any more.
            followers.into_iter().for_each(|f| self.wait_for_inputs(f));
            return self.begin_anew(task);
        }
        match result {
            Ok(output) => {
                let out = output.id();
                let result: Outcome = Ok(output);
                for follower in followers {
                    let (via, _) = self.made_from(follower);
                    // There is no receipt yet: it will speak of both.
                    self.steps.push_back(Step::Share { leader: task, task: follower, via });
                    self.settle(follower, End::CutOff, result.clone(), out, None);
                }
                self.settle(task, End::Ran, result, out, None);
            }
            Err(failure) => {
                followers.into_iter().for_each(|f| self.wait_for_inputs(f));
                let final_kind = is_final || matches!(failure.kind, FailureKind::InputChanged { .. });
                let attempts = self.slot(task).attempts;
                if attempts <= self.policy(task).retries && !final_kind && !self.is_stopped(task) {
                    self.errand(task).failed = Some(Arc::unwrap_or_clone(failure));
                    let slot = self.slot_mut(task);
                    slot.state = State::Pausing;
                    let epoch = slot.epoch;
                    self.outside += 1;
                    return self.ask(Step::Pause { task, epoch, attempt: attempts + 1 });
                }
                self.fail(task, Arc::unwrap_or_clone(failure));
            }
        }
    }

    /// A pause is over: the task is tried again, or its last failure stands.
    pub(super) fn paused(&mut self, task: TaskIdx, go_on: bool) {
        let attempt = self.slot(task).attempts + 1;
        let failed = self.errand(task).failed.take();
        match failed {
            Some(failure) if !go_on || self.is_stopped(task) => self.fail(task, failure),
            _ => {
                self.tell(Notice::Retry { task, attempt });
                self.enqueue(task);
            }
        }
    }

    /// Rule 6: a receipt came while the task was waiting to run.
    pub(super) fn arrived(&mut self, task: TaskIdx, candidate: &Candidate) {
        let task = self.first(task);
        match self.slot(task).state {
            State::Running => {
                self.in_flight -= 1;
                self.release(task);
            }
            // Nobody asked: a receipt its rules do not take changes nothing.
            State::Queued if self.must_run(task) || candidate.result.is_err() => return,
            State::Queued => {}
            _ => return,
        }
        if std::mem::take(&mut self.slot_mut(task).stale) {
            self.unlead(task).into_iter().for_each(|f| self.wait_for_inputs(f));
            return self.begin_anew(task);
        }
        for follower in self.unlead(task) {
            if self.must_run(follower) { self.wait_for_inputs(follower) } else { self.cut_off(follower, candidate) }
        }
        self.cut_off(task, candidate);
    }

    pub(super) fn fail(&mut self, task: TaskIdx, failure: Failure) {
        let out = failure.id();
        let slot = self.slot_mut(task);
        (slot.settled, slot.receipt) = (Some(Kept::Failure(failure.into())), None);
        // A task that fails while it is made again for its bytes leaves what was made from them as it was.
        slot.table.get_or_insert(out);
        self.end_failed(task);
    }

    fn end_failed(&mut self, task: TaskIdx) {
        self.end(task, End::Failed);
        // Whoever awaits the error, or either branch, takes care of it.
        let handles = |w: &TaskIdx| self.slot(*w).in_scope && !self.awaits_only_ok(*w, task);
        let handled = self.subject.awaiters(task).iter().any(handles);
        if !self.rules.keep_going && !handled {
            self.stop();
        }
    }

    fn awaits_only_ok(&self, awaiter: TaskIdx, on: TaskIdx) -> bool {
        let Work::Task(recipe) = self.work(awaiter) else { return true };
        let mut only_ok = true;
        recipe.args.promises(&mut |promise| {
            let is_on = matches!(promise.on, On::Here(o) if self.first(o) == on);
            only_ok &= !is_on || promise.branch == Branch::Ok;
        });
        only_ok
    }

    /// A task has a value: others may go on.
    pub(super) fn settle(
        &mut self,
        task: TaskIdx,
        end: End,
        result: Outcome,
        out: OutputId,
        receipt: Option<ReceiptId>,
    ) {
        let place = self.rules.place;
        let slot = self.slot_mut(task);
        let known = slot.table.replace(out);
        slot.must_run = false;
        let is_failure = result.is_err();
        (slot.settled, slot.receipt) = (Some(Kept::new(result)), receipt);
        if is_failure && !self.takes_failures(task) {
            // A recorded failure that people asked to believe.
            return self.end_failed(task);
        }
        self.end(task, end);
        if let Some(known) = known.filter(|known| *known != out) {
            self.diverge(task, known, out);
            self.todo.push_back(Todo::Changed(task));
        }
        if self.slot(task).goal && place && !is_failure {
            self.place(task, end == End::Ran);
        }
    }

    pub(super) fn end(&mut self, task: TaskIdx, end: End) {
        let slot = self.slot_mut(task);
        slot.state = State::Ended(end);
        slot.errand = None;
        match &mut slot.lookup {
            lookup @ Lookup::Known(_) if slot.table.is_some() => *lookup = Lookup::Past,
            // Others may still weigh their receipts by what is accepted.
            Lookup::Known(known) => known.candidates = vec![],
            _ => {}
        }
        self.is_quiet &= self.serving.is_empty();
        self.tell(Notice::Ended { task, end });
        let subject = self.shared();
        for awaiter in subject.awaiters(task).iter() {
            self.count_down(*awaiter, State::Waiting);
        }
        let state = match (subject.is_service(task), end) {
            (false, _) => State::Ordering,
            // Who waits for it starts it anew.
            (true, End::Ran) => return,
            (true, _) => State::Calling,
        };
        for follower in subject.before(task).iter() {
            self.count_down(*follower, state);
        }
    }

    pub(super) fn count_down(&mut self, task: TaskIdx, state: State) {
        let slot = self.slot_mut(task);
        if slot.state != state || slot.missing == 0 {
            return;
        }
        slot.missing -= 1;
        if slot.missing == 0 {
            match state {
                State::Ordering => self.ordered(task),
                State::Calling => self.called(task),
                _ => self.todo.push_back(Todo::Ready(task)),
            }
        }
    }

    /// What it came to is of no use any more: what it is made from is looked at again, and attempts are counted from the first.
    fn begin_anew(&mut self, task: TaskIdx) {
        self.slot_mut(task).attempts = 0;
        self.wait_for_inputs(task);
    }

    /// Takes a task's value back: those who wait count it as missing again.
    fn unsettle(&mut self, task: TaskIdx) {
        let slot = self.slot_mut(task);
        (slot.settled, slot.receipt) = (None, None);
        slot.attempts = 0;
        slot.inputs_first = true;
        slot.placing = false;
        self.withheld.remove(&task);
        let subject = self.shared();
        for (others, state) in [(subject.awaiters(task), State::Waiting), (subject.before(task), State::Ordering)] {
            for other in others.iter() {
                let slot = self.slot_mut(*other);
                if slot.state == state {
                    slot.missing += 1;
                }
            }
        }
    }

    /// A task came out differently than others were settled by: they are looked at again, inputs first.
    pub(super) fn value_changed(&mut self, task: TaskIdx) {
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoReopening) {
            return;
        }
        for &awaiter in self.shared().awaiters(task).iter() {
            match self.slot(awaiter).state {
                State::Idle => {
                    self.slot_mut(awaiter).inputs_first = true;
                    if self.slot_mut(awaiter).table.take().is_some() {
                        self.todo.push_back(Todo::Changed(awaiter));
                    }
                }
                // They will see the new value by themselves.
                State::Waiting | State::Finding => {}
                State::Running => {
                    self.slot_mut(awaiter).stale = true;
                    self.fall_behind(awaiter, task);
                }
                State::Serving => self.ask_to_end(awaiter),
                State::Ended(End::Ran) if self.subject.is_service(awaiter) => {}
                State::Selecting
                | State::FindingInvocation
                | State::FindingReads
                | State::Ordering
                | State::Calling
                | State::Staging
                | State::Queued
                | State::Pausing
                | State::Awaiting => {
                    let followers = self.unlead(awaiter);
                    self.wait_for_inputs(awaiter);
                    followers.into_iter().for_each(|f| self.wait_for_inputs(f));
                }
                State::Following => self.wait_for_inputs(awaiter),
                State::Ended(End::Cached | End::CutOff | End::Ran) => {
                    self.tell(Notice::Reopened { task: awaiter });
                    self.unsettle(awaiter);
                    self.wait_for_inputs(awaiter);
                }
                State::Ended(_) => {}
            }
        }
    }

    pub(super) fn placed(&mut self, task: TaskIdx, epoch: u32, placed: Placed) {
        let slot = self.slot_mut(task);
        if !slot.placing || slot.epoch != epoch {
            return;
        }
        slot.placing = false;
        match placed {
            Placed::Done => {}
            Placed::Failed => self.place_failures += 1,
            Placed::Hollow => {
                if !self.stopping && !self.reproduce(task) {
                    self.place_failures += 1;
                }
            }
        }
    }
}
