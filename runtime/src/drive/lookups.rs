//! Answers to the questions of a run that need no work: receipts, names in directories, presence of bytes,
//! places in the workspace.

use std::collections::HashSet;
use std::sync::Arc;

use quipu_store::cid::{ReceiptId, TreeId};
use quipu_store::sign::{PublicKey, SignedReceipt};
use quipu_store::tree::Entry;
use quipu_store::trust::{self, Doubt, Verdict};
use quipu_store::{Found, StoreError};

use super::elsewhere::{AboutInvocation, AboutTask, Question};
use super::{Drive, DriveError, Goal};
use crate::graph::TaskIdx;
use crate::observe::RunEvent;
use crate::run::step::{Candidate, Event, Need, Part, Placed, Step};

/// How many look-ups share one read of the index at most: an answer takes kilobytes until it is judged and weighed.
const LOOKUPS_AT_ONCE: usize = 1024;

/// How many share one question to others at most.
const ASKED_AT_ONCE: usize = 4096;

impl Drive {
    /// Answers what can be answered in place, until only work is left.
    pub(super) fn settle(&mut self) -> Result<(), DriveError> {
        loop {
            let (mut tasks, mut invocations, mut goals) = (vec![], vec![], Goals::default());
            let mut quiet = true;
            let at_once = if self.can_ask() { ASKED_AT_ONCE } else { LOOKUPS_AT_ONCE };
            while tasks.len() + invocations.len() + goals.placed.len() < at_once
                && let Some(step) = self.run.poll()
            {
                quiet = false;
                match step {
                    Step::Find { task, id } => tasks.push((task, id)),
                    Step::FindInvocation { task, epoch, id } => invocations.push((task, epoch, id)),
                    Step::Place { task, epoch, output, fresh } => {
                        goals.epochs.push(epoch);
                        goals.placed.push(Goal { task, output, fresh });
                    }
                    // What starts now may stand on what was to be placed before.
                    Step::Execute { .. } => {
                        self.place_goals(std::mem::take(&mut goals))?;
                        self.start(step);
                    }
                    other => self.answer(other)?,
                }
            }
            self.place_goals(goals)?;
            if quiet {
                return Ok(());
            }
            // Look-ups that came up together share reads of the index, and one question to others.
            let mut open = vec![];
            for tasks in tasks.chunks(LOOKUPS_AT_ONCE) {
                let ids: Vec<_> = tasks.iter().map(|(_, id)| *id).collect();
                for (&(task, id), found) in tasks.iter().zip(self.engine.store.find_tasks(&ids)?) {
                    let judged = self.judge(&found.receipts)?;
                    if self.ask_others(task, &judged.candidates) {
                        open.push(AboutTask { task, id, found: found.receipts, accepted: found.accepted });
                        continue;
                    }
                    let candidates = self.told(judged);
                    // What was accepted goes with the trust in who issued it.
                    let accepted = found.accepted.filter(|(id, _)| candidates.iter().any(|c| c.receipt == *id));
                    self.run.on(Event::Found { task, candidates, accepted });
                }
            }
            if !open.is_empty() {
                self.ask(Question::Tasks(open))?;
            }
            let mut open = vec![];
            for invocations in invocations.chunks(LOOKUPS_AT_ONCE) {
                let ids: Vec<_> = invocations.iter().map(|(_, _, id)| *id).collect();
                for (&(task, epoch, id), found) in invocations.iter().zip(self.engine.store.find_invocations(&ids)?) {
                    let judged = self.judge(&found)?;
                    if self.ask_others(task, &judged.candidates) {
                        open.push(AboutInvocation { task, epoch, id, found });
                        continue;
                    }
                    let candidates = self.told(judged);
                    self.run.on(Event::FoundInvocation { task, epoch, candidates });
                }
            }
            if !open.is_empty() {
                self.ask(Question::Invocations(open))?;
            }
        }
    }

    fn answer(&mut self, step: Step) -> Result<(), DriveError> {
        match step {
            Step::Tell(notice) => self.tell(notice),
            Step::Accept { .. } if self.looks_only => {}
            Step::Accept { task, receipt, via } => {
                let id = self.task_id(task);
                if let crate::task::Work::Task(recipe) = &self.subject.workflow.node(task).work {
                    // What the id is made of: no work will bring it here any more.
                    self.engine.store.put(quipu_store::cid::Codec::DagCbor, self.subject.ids.block(recipe))?;
                }
                self.engine.store.accept(id, receipt, via)?;
                self.unflushed = true;
            }
            Step::Share { leader, task, via } => {
                let id = self.task_id(task);
                if let Some(unrecorded) = self.unrecorded.get_mut(&leader) {
                    unrecorded.about.settles.insert(id, via);
                    unrecorded.shared.push(task);
                    if let crate::task::Work::Task(recipe) = &self.subject.workflow.node(task).work {
                        unrecorded.blocks.push((id.link(), self.subject.ids.block(recipe)));
                    }
                }
            }
            Step::Select { task, epoch, parts } => {
                let (entries, hollow) = self.select(&parts)?;
                if !hollow.is_empty() && self.can_ask() {
                    return self.ask(Question::Select { task, epoch, parts });
                }
                self.run.on(Event::Selected { task, epoch, entries, hollow });
            }
            Step::Stage { task, epoch, needs } => {
                let hollow = self.hollow(&needs)?;
                self.needs.insert(task, needs.clone());
                if !hollow.is_empty() && self.can_ask() {
                    return self.ask(Question::Stage { task, epoch, needs });
                }
                self.run.on(Event::Staged { task, epoch, hollow });
            }
            Step::Cancel { task } => {
                if let Some(working) = self.working.get(&task) {
                    working.stop.send_if_modified(|s| {
                        std::mem::replace(s, (*s).max(crate::exec::Stop::Cancel)) < crate::exec::Stop::Cancel
                    });
                }
                self.await_no_longer(task);
                if let Some(pausing) = self.pauses.remove(&task) {
                    self.run.on(pausing.end());
                }
            }
            Step::FindReads { task, epoch, invocation } => {
                let candidates = self.by_reads(task, &invocation)?;
                self.run.on(Event::FoundReads { task, epoch, candidates });
            }
            // Whoever only looks leaves it open.
            Step::Await { task, epoch, on } => self.awaits.add(task, epoch, on),
            Step::Pause { task, epoch, attempt } => self.pause(task, epoch, attempt),
            Step::Find { .. } | Step::FindInvocation { .. } | Step::Place { .. } | Step::Execute { .. } => {
                unreachable!("answered in batches, or in turn with them")
            }
        }
        Ok(())
    }

    /// Puts goals' outputs in place, all that came up together.
    fn place_goals(&mut self, goals: Goals) -> Result<(), DriveError> {
        let placed = self.put_in_place(&goals.placed);
        for ((Goal { task, output, fresh }, epoch), placed) in goals.placed.into_iter().zip(goals.epochs).zip(placed) {
            if placed == Placed::Hollow && self.can_ask() {
                self.ask(Question::Place { task, epoch, output, fresh })?;
            } else {
                self.run.on(Event::Placed { task, epoch, placed });
            }
        }
        Ok(())
    }

    /// Puts goals' outputs where people look for them.
    pub(super) fn put_in_place(&mut self, goals: &[Goal]) -> Vec<Placed> {
        let Some(place) = self.place.as_mut().filter(|_| !goals.is_empty()) else {
            return vec![Placed::Done; goals.len()];
        };
        let placed = place(goals).into_iter().map(|placed| {
            placed.unwrap_or_else(|message| {
                self.emit(|| RunEvent::Warning { message });
                Placed::Failed
            })
        });
        placed.collect()
    }

    /// Receipts that count, with a word about those that do not.
    pub(super) fn candidates(&mut self, found: &[Found]) -> Result<Vec<Candidate>, DriveError> {
        let judged = self.judge(found)?;
        Ok(self.told(judged))
    }

    /// Warns of what does not count, once of each kind.
    fn told(&mut self, judged: Judged) -> Vec<Candidate> {
        self.has_expiring |= judged.has_expiring;
        for (doubt, issuer) in judged.doubts {
            self.warn_of(doubt, || match doubt {
                Some(Doubt::Untrusted) => format!("receipts by {issuer} do not count: that key is not trusted"),
                Some(Doubt::Expired) => format!("receipts by {issuer} do not count: they have expired"),
                Some(Doubt::TooFew) => {
                    format!("receipts by {issuer} do not count: too few trusted keys claim the same")
                }
                None => format!("receipts by {issuer} count although that key is not trusted (`any`)"),
            });
        }
        judged.candidates
    }

    /// Receipts that count: those made here, and of the others those that pass what is asked of their source.
    fn judge(&self, found: &[Found]) -> Result<Judged, DriveError> {
        let now = self.engine.clock.unix_s();
        let mut judged = Judged { candidates: Vec::with_capacity(found.len()), doubts: vec![], has_expiring: false };
        // Most often there is nothing to judge.
        let foreign = found.iter().any(|f| !f.made_here);
        let together: Vec<&SignedReceipt> = found.iter().filter(|_| foreign).map(|f| &*f.signed).collect();
        for one in found {
            if one.made_here {
                judged.candidates.push(candidate(one, None, &self.session_receipts));
                continue;
            }
            judged.has_expiring |= one.signed.receipt.expires_at.is_some();
            let (engine, issuer) = (&self.engine, one.signed.issuer);
            // What came in this run may be nowhere but in memory: a plan writes nothing.
            let source = |id| match self.remotes.source_of(id) {
                Some(name) => Ok(name),
                None => engine.store.source_of(id).map(Option::unwrap_or_default),
            };
            match trust::judge(&engine.trusted, &engine.policies, now, &one.signed, &together, source)? {
                Verdict::Not(doubt) => judged.doubts.push((Some(doubt), issuer)),
                Verdict::Counts(rank) => {
                    if rank.is_none() {
                        judged.doubts.push((None, issuer));
                    }
                    judged.candidates.push(candidate(one, rank, &self.session_receipts));
                }
            }
        }
        Ok(judged)
    }

    pub(super) fn select(&self, parts: &[Part]) -> Result<(Vec<Option<Entry>>, Vec<TreeId>), StoreError> {
        let mut hollow = vec![];
        let mut entries = vec![];
        for part in parts {
            let mut at = Some(Entry::Dir { tree: part.tree });
            for name in &part.path {
                at = match at {
                    Some(Entry::Dir { tree }) => match self.engine.store.directory(tree)? {
                        Some(tree) => tree.get(name).cloned(),
                        None => {
                            hollow.push(part.tree);
                            None
                        }
                    },
                    _ => None,
                };
            }
            entries.push(at);
        }
        Ok((entries, hollow))
    }

    /// Whose bytes are missing.
    pub(super) fn hollow(&self, needs: &[Need]) -> Result<Vec<TaskIdx>, StoreError> {
        let no_streams = needs.iter().all(|need| need.streams.is_empty());
        // Most often all is here, and one read of the index says so.
        if no_streams && self.engine.store.complete_all(needs.iter().flat_map(|need| &need.entries))? {
            return Ok(vec![]);
        }
        let mut hollow = vec![];
        for need in needs {
            let mut here = true;
            for entry in &need.entries {
                here = here && self.engine.store.complete(entry)?;
            }
            for stream in &need.streams {
                here = here && self.engine.store.has(stream.link())?;
            }
            if !here {
                hollow.push(need.from);
            }
        }
        Ok(hollow)
    }

    /// Says what the store noticed while it was read.
    pub(super) fn note_findings(&mut self) {
        for finding in self.engine.store.take_findings() {
            self.emit(|| RunEvent::Warning { message: finding.to_string() });
        }
    }
}

/// Goals to be placed, each with what is to be told back.
#[derive(Default)]
struct Goals {
    placed: Vec<Goal>,
    epochs: Vec<u32>,
}

/// What became of receipts that were found.
struct Judged {
    candidates: Vec<Candidate>,
    /// Of those that do not count, why; `None` is of those that count unseen.
    doubts: Vec<(Option<Doubt>, PublicKey)>,
    /// Whether time decides about any of them.
    has_expiring: bool,
}

pub(super) fn candidate(found: &Found, rank: Option<u32>, session: &HashSet<ReceiptId>) -> Candidate {
    let receipt = &found.signed.receipt;
    let (result, out) = match &receipt.out {
        Ok(output) => (Ok(Arc::new(output.clone())), output.id()),
        Err(failure) => (Err(Arc::new(failure.clone())), failure.id()),
    };
    Candidate {
        receipt: found.signed.id,
        result,
        out,
        via: found.via.clone(),
        own: found.own,
        session: session.contains(&found.signed.id),
        rank: rank.unwrap_or(u32::MAX),
        issued_at: receipt.issued_at,
    }
}
