//! Rules 2 and 3: which receipt settles a task, and whether it fits what else this run goes by.
//!
//! Unaware of trust: whose receipts count was decided before they got here.

use quipu_store::cid::{OutputId, ReceiptId, TreeId};
use quipu_store::receipt::{Failure, FailureKind, Via};
use quipu_store::tree::Entry;

use crate::graph::TaskIdx;
use crate::narrow::Depfile;
#[cfg(test)]
use crate::run::Sabotage;
use crate::run::step::{AwaitOn, Candidate, End, Notice, State, Step};
use crate::run::values::{self, Kept, Resolved};
use crate::run::{Known, Lookup, Run, Todo};
use crate::task::{Invocation, When, Work};
use crate::value::{Branch, On, Value};

/// Whether a receipt found by task id fits the table of the run.
enum Fit {
    /// It does; these outputs enter the table with it.
    Yes(Vec<(TaskIdx, OutputId)>),
    No,
    /// That depends on receipts of these tasks.
    Ask(Vec<TaskIdx>),
}

/// How many receipts deep the backing of a foreign receipt is followed; deeper ones go by invocation id.
const MAX_BACKING: usize = 256;

impl Run {
    /// Rule 1: somebody wants this task's value.
    pub(super) fn demand(&mut self, task: TaskIdx) {
        let slot = self.slot(task);
        if slot.state != State::Idle {
            return;
        }
        if self.swept && self.is_stopped(task) {
            // Whoever cleans up after it need not wait.
            return self.end(task, End::Cancelled);
        }
        if self.policy(task).when != When::Success {
            // Its condition first: without that, nobody needs its inputs.
            return self.order(task);
        }
        let external = matches!(self.work(task), Work::External { .. });
        // No receipt is as good as a service that runs.
        let by_inputs = slot.inputs_first || self.rules.ignore_shortcuts || self.subject.is_service(task);
        if by_inputs && !external {
            return self.wait_for_inputs(task);
        }
        self.slot_mut(task).state = State::Finding;
        match self.slot(task).lookup {
            Lookup::None => self.look_up(task),
            Lookup::Asked => {}
            Lookup::Known(_) | Lookup::Past => self.todo.push_back(Todo::Weigh(task)),
        }
    }

    pub(super) fn demand_all(&mut self, tasks: &[TaskIdx]) {
        let idle = tasks.iter().filter(|d| self.slots[d.index()].state == State::Idle);
        self.demanded.extend(idle);
    }

    fn look_up(&mut self, task: TaskIdx) {
        self.slot_mut(task).lookup = Lookup::Asked;
        let id = self.subject.ids.of(task);
        self.ask(Step::Find { task, id });
    }

    pub(super) fn found(&mut self, task: TaskIdx, candidates: Vec<Candidate>, accepted: Option<(ReceiptId, OutputId)>) {
        self.in_flight -= 1;
        let Lookup::Asked = self.know(task, candidates, accepted) else { return };
        for asker in self.askers.remove(&task).unwrap_or_default() {
            // Weighed once all it asked for is known, not at each answer.
            self.slot_mut(asker).asked -= 1;
            self.todo.push_back(Todo::Weigh(asker));
        }
        self.todo.push_back(Todo::Weigh(task));
    }

    /// Remembers what was found of a task, best first; gives back what was known before.
    fn know(
        &mut self,
        task: TaskIdx,
        mut candidates: Vec<Candidate>,
        accepted: Option<(ReceiptId, OutputId)>,
    ) -> Lookup {
        // What this store already goes by, then success, our own, trust, age and id: the same choice every time.
        let (receipt, out) = accepted.unzip();
        let known = |c: &Candidate| (Some(c.receipt) != receipt, Some(c.out) != out);
        candidates.sort_by_key(|c| (known(c), c.result.is_err(), !c.own, c.rank, c.issued_at, c.receipt));
        let known = Lookup::Known(Box::new(Known { candidates, accepted }));
        std::mem::replace(&mut self.slot_mut(task).lookup, known)
    }

    /// Rule 2: a usable receipt under the task id that fits the table settles the task.
    pub(super) fn weigh(&mut self, task: TaskIdx) {
        if self.slot(task).state != State::Finding || self.slot(task).asked > 0 {
            return;
        }
        let Lookup::Known(known) = &self.slot(task).lookup else { return };
        let Known { candidates, accepted } = &**known;
        if self.slot(task).forced {
            // It runs whatever they say; what they say tells whether it came out as before.
            self.slot_mut(task).table = self.slot(task).table.or(accepted.map(|(_, out)| out));
            return self.wait_for_inputs(task);
        }
        let accepted = accepted.map(|(receipt, _)| receipt);
        let candidates: Vec<Candidate> = candidates.iter().filter(|c| self.is_usable(task, c)).cloned().collect();
        #[cfg(test)]
        match self.rules.sabotage {
            Some(Sabotage::NoShortcut) => return self.wait_for_inputs(task),
            Some(Sabotage::LookAtInputs) => self.demand_all(&self.shared().inputs(task)),
            _ => {}
        }
        for candidate in &candidates {
            match self.fit(task, candidate) {
                Fit::No => {}
                Fit::Ask(tasks) => {
                    self.slot_mut(task).asked = tasks.len() as u32;
                    for other in tasks {
                        if matches!(self.slot(other).lookup, Lookup::None) {
                            self.look_up(other);
                        }
                        self.askers.entry(other).or_default().push(task);
                    }
                    return;
                }
                Fit::Yes(hints) => {
                    for (other, out) in hints {
                        self.slot_mut(other).table.get_or_insert(out);
                    }
                    self.report_divergence(task, candidate, &candidates);
                    let is_news = !candidate.own || accepted != Some(candidate.receipt);
                    // A failure never becomes what the store goes by.
                    if is_news && candidate.result.is_ok() {
                        // From now on this store goes by it, whatever is looked at first next time.
                        let (receipt, via) = (candidate.receipt, candidate.via.clone());
                        self.steps.push_back(Step::Accept { task, receipt, via });
                    }
                    return self.settle(
                        task,
                        End::Cached,
                        candidate.result.clone(),
                        candidate.out,
                        Some(candidate.receipt),
                    );
                }
            }
        }
        match self.work(task) {
            Work::External { id, .. } => self.await_elsewhere(task, AwaitOn::Task(*id)),
            Work::Task(_) => self.wait_for_inputs(task),
        }
    }

    pub(super) fn is_usable(&self, task: TaskIdx, candidate: &Candidate) -> bool {
        // What somebody says about work that is not ours to try again stands.
        let settles = self.rules.use_failures || self.is_external(task) || self.takes_failures(task);
        let counts = candidate.result.is_ok() || settles;
        counts && (self.policy(task).cache || candidate.session)
    }

    /// Whether it is a task of another workflow that is awaited as a failure, under any of its names.
    pub(super) fn takes_failures(&self, task: TaskIdx) -> bool {
        let takes = |t: &TaskIdx| matches!(self.work(*t), Work::External { branch, .. } if *branch != Branch::Ok);
        matches!(self.work(task), Work::External { .. })
            && self.subject.ids.others(task).unwrap_or(&[task]).iter().any(takes)
    }

    /// Somebody elsewhere does it, and others go on meanwhile.
    pub(super) fn await_elsewhere(&mut self, task: TaskIdx, on: AwaitOn) {
        let slot = self.slot_mut(task);
        slot.state = State::Awaiting;
        let epoch = slot.epoch;
        self.outside += 1;
        self.ask(Step::Await { task, epoch, on });
    }

    /// What somebody elsewhere did came in, or nobody did and the run is not to wait any longer.
    pub(super) fn awaited_came(&mut self, task: TaskIdx, candidates: Vec<Candidate>) {
        if candidates.is_empty() {
            let end = if self.stopping { End::Cancelled } else { End::Blocked { cause: task } };
            return self.end(task, end);
        }
        match self.work(task) {
            Work::Task(_) => {
                if !self.choose(task, candidates) {
                    self.end(task, End::Blocked { cause: task });
                }
            }
            Work::External { .. } => {
                // By its id alone: what it was made from is weighed as if it had been there from the first.
                self.slot_mut(task).epoch += 1;
                self.slot_mut(task).state = State::Finding;
                self.know(task, candidates, None);
                self.todo.push_back(Todo::Weigh(task));
            }
        }
    }

    fn fit(&self, task: TaskIdx, candidate: &Candidate) -> Fit {
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoCoherence) {
            return Fit::Yes(vec![]);
        }
        if self.slot(task).table.is_some_and(|known| known != candidate.out) {
            return Fit::No;
        }
        let mut hints = vec![];
        let mut ask = vec![];
        // A stack of receipts to be weighed, instead of recursion: the via of a foreign one leads to others.
        let mut stack: Vec<(TaskIdx, &Candidate)> = vec![(task, candidate)];
        while let Some((of, c)) = stack.pop() {
            let is_external = matches!(self.work(of), Work::External { .. });
            for (id, out) in &c.via {
                let awaited = match self.subject.awaited(of, *id) {
                    Some(awaited) => awaited,
                    // What a task of another workflow awaited need not be part of this one.
                    None if is_external => continue,
                    None => return Fit::No,
                };
                let slot = self.slot(awaited);
                // What it came out as stands while it is made again for its bytes; if it comes out differently,
                // those settled by it are looked at again.
                let known = slot.table.or_else(|| hints.iter().find(|(t, _)| *t == awaited).map(|(_, out)| *out));
                let known = match (known, &slot.lookup) {
                    (Some(known), _) if known == *out => continue,
                    (Some(_), _) | (None, Lookup::Past) => return Fit::No,
                    (None, Lookup::None | Lookup::Asked) => {
                        ask.push(awaited);
                        continue;
                    }
                    (None, Lookup::Known(known)) => known,
                };
                match known.accepted {
                    Some((_, accepted)) if accepted == *out => hints.push((awaited, *out)),
                    Some(_) => return Fit::No,
                    None if c.own => hints.push((awaited, *out)),
                    None => {
                        let backing = known.candidates.iter().find(|b| b.out == *out && self.is_usable(awaited, b));
                        let Some(backing) = backing else { return Fit::No };
                        hints.push((awaited, *out));
                        stack.push((awaited, backing));
                        if hints.len() > MAX_BACKING {
                            return Fit::No;
                        }
                    }
                }
            }
        }
        ask.sort_unstable();
        ask.dedup();
        if ask.is_empty() { Fit::Yes(hints) } else { Fit::Ask(ask) }
    }

    fn report_divergence(&mut self, task: TaskIdx, chosen: &Candidate, all: &[Candidate]) {
        let differs = |c: &&Candidate| match (&c.result, &chosen.result) {
            (Ok(a), Ok(b)) => a.artifacts != b.artifacts && c.via == chosen.via,
            _ => false,
        };
        if let Some(other) = all.iter().find(differs) {
            let (known, other) = (chosen.out, other.out);
            self.diverge(task, known, other);
        }
    }

    /// Rule 3, first half: values of all inputs.
    pub(super) fn wait_for_inputs(&mut self, task: TaskIdx) {
        let subject = self.shared();
        let inputs = subject.inputs(task);
        let missing = inputs.iter().filter(|d| !self.is_ended(**d)).count() as u32;
        let slot = self.slot_mut(task);
        slot.state = State::Waiting;
        slot.epoch += 1;
        slot.missing = missing;
        slot.errand = None;
        slot.stale = false;
        if missing == 0 {
            self.todo.push_back(Todo::Ready(task));
        }
        self.demand_all(&inputs);
    }

    /// Rule 3, second half: the invocation, and receipts under its id.
    pub(super) fn inputs_ready(&mut self, task: TaskIdx) {
        if self.slot(task).state != State::Waiting || self.slot(task).missing > 0 {
            return;
        }
        let subject = self.shared();
        let inputs = subject.inputs(task);
        for input in inputs.iter() {
            match self.slot(*input).state {
                State::Ended(End::Blocked { cause }) => return self.end(task, End::Blocked { cause }),
                State::Ended(End::Skipped { cause }) => return self.end(task, End::Skipped { cause }),
                State::Ended(End::Cancelled) => return self.end(task, End::Cancelled),
                State::Ended(End::Unmet) => return self.end(task, End::Skipped { cause: *input }),
                _ => {}
            }
        }
        let Work::Task(recipe) = &subject.workflow.node(task).work else { unreachable!("externals never wait") };
        let mut parts = vec![];
        let mut refused = None;
        let mut needs = std::collections::BTreeMap::<TaskIdx, values::Bytes>::new();
        let resolved = recipe.args.resolved(&mut |promise| {
            let on = match promise.on {
                On::Here(on) => self.first(on),
                On::Id(_) => return refused.insert(Refusal::Unknown).fail(),
            };
            let Some(settled) = &self.slot(on).settled else {
                return refused.insert(Refusal::Failed(on)).fail();
            };
            let mut resolved = values::resolve(settled, promise);
            if let Resolved::Within(part) = resolved {
                let known = self.slot(task).errand.iter().flat_map(|e| &e.selected).find(|(p, _)| *p == part);
                resolved = match known {
                    Some((_, Some(entry))) => values::of_entry(entry.clone()),
                    Some((_, None)) => Resolved::Missing,
                    None => {
                        parts.push(part);
                        return Ok(Value::Null);
                    }
                };
            }
            match resolved {
                Resolved::Ready(value, bytes) => {
                    let need = needs.entry(on).or_default();
                    need.entries.extend(bytes.entries);
                    need.streams.extend(bytes.streams);
                    Ok(value)
                }
                Resolved::Missing => refused.insert(Refusal::Missing(promise.at.join("/"))).fail(),
                Resolved::OtherBranch => refused.insert(Refusal::Branch(on)).fail(),
                Resolved::Within(_) => unreachable!("answered above"),
            }
        });
        let args = match (resolved, refused) {
            (Ok(args), _) => args,
            (Err(()), Some(refusal)) => return self.refuse(task, refusal),
            (Err(()), None) => unreachable!("every refusal says why"),
        };
        let epoch = self.slot(task).epoch;
        if !parts.is_empty() {
            self.slot_mut(task).state = State::Selecting;
            self.errand(task).selected = parts.iter().map(|p| (p.clone(), None)).collect();
            return self.ask(Step::Select { task, epoch, parts });
        }
        let recipe = recipe.clone();
        let invocation = Invocation { sub: recipe.sub, cmd: recipe.cmd, args, nonce: recipe.nonce };
        let (id, _) = invocation.encode();
        let via = inputs.iter().filter_map(|d| Some((subject.ids.of(*d), self.slot(*d).out()?))).collect();
        let ins = inputs.iter().filter_map(|d| self.slot(*d).receipt).collect();
        let errand = self.errand(task);
        (errand.via, errand.ins) = (via, ins);
        errand.invocation = Some((id, invocation.into()));
        errand.needs = needs
            .into_iter()
            .map(|(from, b)| crate::run::step::Need { from, entries: b.entries, streams: b.streams })
            .filter(|n| !(n.entries.is_empty() && n.streams.is_empty()))
            .collect();
        let slot = self.slot(task);
        if slot.forced || slot.must_run || self.policy(task).when != When::Success || subject.is_service(task) {
            return self.order(task);
        }
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoCutOff) {
            return self.order(task);
        }
        self.slot_mut(task).state = State::FindingInvocation;
        self.ask(Step::FindInvocation { task, epoch, id });
    }

    pub(super) fn selected(&mut self, task: TaskIdx, entries: Vec<Option<Entry>>, hollow: &[TreeId]) {
        let errand = self.errand(task);
        let trees: Vec<_> = errand.selected.iter().map(|(part, _)| part.tree).collect();
        for ((_, slot), entry) in errand.selected.iter_mut().zip(entries) {
            *slot = entry;
        }
        if trees.iter().any(|t| hollow.contains(t)) {
            // Directory nodes themselves are gone: their makers run again, unless they do so already.
            let made = |d: &TaskIdx| {
                let kept = self.slot(*d).settled.as_ref();
                kept.is_some_and(|kept| hollow.iter().any(|t| kept.has_link(t.link())))
            };
            let makers: Vec<TaskIdx> = self.subject.inputs(task).iter().copied().filter(made).collect();
            return self.make_again(task, &makers);
        }
        if self.subject.inputs(task).iter().any(|d| !self.is_ended(*d)) {
            // One of them is being made again meanwhile.
            return self.wait_for_inputs(task);
        }
        self.slot_mut(task).state = State::Waiting;
        self.todo.push_back(Todo::Ready(task));
    }

    pub(super) fn found_invocation(&mut self, task: TaskIdx, candidates: Vec<Candidate>) {
        if self.choose(task, candidates) {
            return;
        }
        let errand = self.slot(task).errand.as_ref();
        let (_, invocation) = errand.and_then(|e| e.invocation.clone()).expect("it was looked up by its invocation");
        if Depfile::of(&invocation.args).is_none() {
            return self.order(task);
        }
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::NoReads) {
            return self.order(task);
        }
        let epoch = self.slot(task).epoch;
        self.slot_mut(task).state = State::FindingReads;
        self.ask(Step::FindReads { task, epoch, invocation });
    }

    /// Settles a task by the best of the receipts, if there is a usable one.
    pub(super) fn choose(&mut self, task: TaskIdx, mut candidates: Vec<Candidate>) -> bool {
        let table = self.slot(task).table;
        candidates.retain(|c| self.is_usable(task, c));
        candidates.sort_by_key(|c| (Some(c.out) != table, c.result.is_err(), !c.own, c.rank, c.issued_at, c.receipt));
        let Some(chosen) = candidates.first().cloned() else { return false };
        if let Some(other) = candidates.iter().find(|c| match (&c.result, &chosen.result) {
            (Ok(a), Ok(b)) => a.artifacts != b.artifacts,
            _ => false,
        }) {
            self.diverge(task, chosen.out, other.out);
        }
        self.cut_off(task, &chosen);
        true
    }

    /// Settles a task by a receipt under its invocation id, and remembers that.
    pub(super) fn cut_off(&mut self, task: TaskIdx, candidate: &Candidate) {
        if candidate.result.is_ok() {
            let (via, _) = self.made_from(task);
            self.steps.push_back(Step::Accept { task, receipt: candidate.receipt, via });
        }
        self.settle(task, End::CutOff, candidate.result.clone(), candidate.out, Some(candidate.receipt));
    }

    fn refuse(&mut self, task: TaskIdx, refusal: Refusal) {
        let kind = match refusal {
            Refusal::Unknown => return self.end(task, End::Blocked { cause: task }),
            Refusal::Failed(on) => return self.end(task, End::Skipped { cause: on }),
            Refusal::Branch(on) if self.failed_here(on) => return self.end(task, End::Skipped { cause: on }),
            Refusal::Branch(on) => FailureKind::BranchMismatch { on: self.subject.ids.of(on) },
            Refusal::Missing(path) => FailureKind::MissingOutput { path },
        };
        self.fail(task, Failure::from(kind));
    }

    /// Whether it failed in this run, rather than by a receipt of an earlier failure.
    fn failed_here(&self, task: TaskIdx) -> bool {
        let slot = self.slot(task);
        let is_failure = slot.settled.as_ref().is_some_and(Kept::is_failure);
        is_failure && (slot.receipt.is_none() || self.is_external(task))
    }

    /// The outputs and receipts a task's invocation is made from: its direct awaits.
    pub(super) fn made_from(&self, task: TaskIdx) -> (Via, Vec<ReceiptId>) {
        #[cfg(test)]
        if self.rules.sabotage == Some(Sabotage::LateVia) {
            let now = |d: &TaskIdx| Some((self.subject.ids.of(*d), self.slot(*d).out()?));
            return (self.subject.inputs(task).iter().filter_map(now).collect(), vec![]);
        }
        let errand = self.slot(task).errand.as_ref().expect("a task with an invocation has an errand");
        (errand.via.clone(), errand.ins.clone())
    }

    pub(super) fn diverge(&mut self, task: TaskIdx, known: OutputId, other: OutputId) {
        self.diverged = true;
        self.tell(Notice::Divergence { task, known, other });
        if self.rules.fail_on_divergence {
            self.stop();
        }
    }
}

/// Why promises of a task cannot be kept.
enum Refusal {
    /// No task of that id stands in the workflow.
    Unknown,
    /// It has no result at all.
    Failed(TaskIdx),
    /// It took the other branch.
    Branch(TaskIdx),
    /// Its output has no such part.
    Missing(String),
}

impl Refusal {
    fn fail<T>(&mut self) -> Result<T, ()> {
        Err(())
    }
}
