//! A world for tests: receipts, blobs and work made of values, driven in any order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use quipu_store::cid::{BlobId, InvocationId, OutputId, ReceiptId, TaskId};
use quipu_store::receipt::{Failure, FailureKind, Output, Via};
use quipu_store::tree::Entry;

use super::step::{Candidate, End, Event, Notice, Outcome, Placed, State, Step};
use super::{Counts, Rules, Run, Subject};
use crate::graph::{Graph, TaskIdx};
use crate::identity::Ids;
use crate::task::{DEFAULT_SUBJECT, Invocation, Task};
use crate::value::{Branch, On, Value};
use crate::workflow::Workflow;

/// xorshift: every run of a test repeats.
#[derive(Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }
}

/// What a task of the simulation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Its output is a hash of its arguments.
    Hash,
    /// Its output is one of two values: edits upstream are cut off here.
    Collapse,
    /// Its output is another one each time.
    Vary,
    /// It fails.
    Fail,
}

impl Does {
    fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Collapse => "collapse",
            Self::Vary => "vary",
            Self::Fail => "fail",
        }
    }
}

/// A task of the simulation: what it does, its source, and which outputs of which tasks it reads.
pub(super) fn recipe(does: Does, source: i64, reads: &[(TaskIdx, Branch, &[&str])]) -> Task {
    let reads = reads.iter().map(|(on, branch, at)| Value::promise(*branch, On::Here(*on), at.iter().copied()));
    let args =
        Value::map([("does", does.name().into()), ("source", Value::Int(source)), ("reads", Value::list(reads))]);
    Task { sub: DEFAULT_SUBJECT.into(), cmd: "/test/sim".into(), args: args.expect("distinct keys"), nonce: vec![] }
}

pub(super) fn subject(workflow: Workflow) -> Arc<Subject> {
    let graph = Graph::build(&workflow).expect("no ring");
    let ids = Ids::compute(&workflow, &graph).expect("ids");
    Arc::new(Subject { workflow, graph, ids })
}

#[derive(Clone)]
pub(super) struct Rec {
    pub(super) id: ReceiptId,
    pub(super) ran: InvocationId,
    pub(super) tasks: BTreeMap<TaskId, Via>,
    pub(super) result: Outcome,
    pub(super) own: bool,
    pub(super) session: bool,
    pub(super) issued_at: u64,
}

impl Rec {
    pub(super) fn out(&self) -> OutputId {
        match &self.result {
            Ok(output) => output.id(),
            Err(failure) => failure.id(),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) receipts: Vec<Rec>,
    pub(super) accepted: HashMap<TaskId, (ReceiptId, OutputId)>,
    pub(super) blobs: BTreeSet<BlobId>,
    pub(super) clock: u64,
}

#[derive(Default, Debug)]
pub(super) struct Report {
    /// Names, in the order they started.
    pub(super) ran: Vec<String>,
    pub(super) ends: BTreeMap<String, State>,
    pub(super) counts: Counts,
    pub(super) notices: Vec<Notice>,
    pub(super) outputs: BTreeMap<String, OutputId>,
    pub(super) receipts: BTreeMap<String, Option<ReceiptId>>,
    /// Names of tasks whose bytes were asked for.
    pub(super) staged: BTreeSet<String>,
    pub(super) looked_up: BTreeSet<String>,
    pub(super) hollow: BTreeSet<String>,
}

/// What goes wrong while a run is under way.
#[derive(Clone, Default)]
pub(super) struct Trouble {
    /// One in so many steps, a random blob vanishes.
    pub(super) lose_blob_one_in: Option<usize>,
    pub(super) losses_left: usize,
}

impl World {
    /// Runs to the end, answering open questions in an order that `dice` decides.
    pub(super) fn run(&mut self, subject: &Arc<Subject>, goals: &[TaskIdx], rules: Rules, dice: &mut Dice) -> Report {
        self.run_troubled(subject, goals, rules, dice, Trouble::default())
    }

    pub(super) fn run_troubled(
        &mut self,
        subject: &Arc<Subject>,
        goals: &[TaskIdx],
        rules: Rules,
        dice: &mut Dice,
        mut trouble: Trouble,
    ) -> Report {
        let mut run = Run::new(Arc::clone(subject), goals, rules);
        let mut report = Report::default();
        let mut open: Vec<Step> = vec![];
        let mut running: BTreeMap<TaskIdx, bool> = BTreeMap::new();
        let mut turns = 0;
        loop {
            while let Some(step) = run.poll() {
                match step {
                    Step::Tell(notice) => {
                        if let Notice::Hollow { task } = &notice {
                            report.hollow.insert(subject.workflow.node(*task).name.to_string());
                        }
                        report.notices.push(notice);
                    }
                    Step::Accept { task, receipt, via } => {
                        let rec = self.receipts.iter_mut().find(|r| r.id == receipt).expect("accepted receipts exist");
                        let id = subject.ids.of(task);
                        rec.tasks.insert(id, via);
                        rec.own = true;
                        self.accepted.insert(id, (receipt, rec.out()));
                    }
                    Step::Share { .. } => unreachable!("the simulation has its receipts at once"),
                    Step::Cancel { task } => drop(running.insert(task, true)),
                    Step::Execute { task, .. } => {
                        running.insert(task, false);
                        open.push(step);
                    }
                    _ => open.push(step),
                }
            }
            if open.is_empty() {
                assert!(run.is_done(), "nothing is open, yet the run is not done");
                break;
            }
            turns += 1;
            assert!(turns < 100_000, "the run does not come to an end");
            if trouble.losses_left > 0 && trouble.lose_blob_one_in.is_some_and(|n| dice.one_in(n)) {
                trouble.losses_left -= 1;
                self.lose_blob(dice);
            }
            let step = open.swap_remove(dice.roll(open.len()));
            let event = self.answer(step, subject, &mut report, &running);
            run.on(event);
        }
        report.notices.extend(run.finish());
        for task in subject.workflow.indices() {
            let name = subject.workflow.node(task).name.to_string();
            if run.in_scope(task) {
                report.ends.insert(name.clone(), run.state(task));
            }
            if let Some(Ok(output)) = run.outcome(task) {
                report.outputs.insert(name.clone(), output.id());
            }
            report.receipts.insert(name, run.receipt(task));
        }
        report.counts = run.counts();
        report
    }

    pub(super) fn lose_blob(&mut self, dice: &mut Dice) {
        let lost = self.blobs.iter().nth(dice.roll(self.blobs.len())).copied();
        self.blobs.retain(|b| Some(*b) != lost);
    }

    fn candidates(&self, task: Option<TaskId>, keep: impl Fn(&Rec) -> bool) -> Vec<Candidate> {
        let of = |r: &Rec| Candidate {
            receipt: r.id,
            result: r.result.clone(),
            out: r.out(),
            via: task.and_then(|t| r.tasks.get(&t)).cloned().unwrap_or_default(),
            own: r.own,
            session: r.session,
            rank: 0,
            issued_at: r.issued_at,
        };
        self.receipts.iter().filter(|r| keep(r)).map(of).collect()
    }

    fn is_here(&self, entry: &Entry) -> bool {
        match entry {
            Entry::File { blob, .. } => self.blobs.contains(blob),
            _ => true,
        }
    }

    fn answer(
        &mut self,
        step: Step,
        subject: &Subject,
        report: &mut Report,
        running: &BTreeMap<TaskIdx, bool>,
    ) -> Event {
        let name = |task: TaskIdx| subject.workflow.node(task).name.to_string();
        match step {
            Step::Find { task, id } => {
                report.looked_up.insert(name(task));
                let candidates = self.candidates(Some(id), |r| r.tasks.contains_key(&id));
                Event::Found { task, candidates, accepted: self.accepted.get(&id).copied() }
            }
            Step::FindInvocation { task, epoch, id } => {
                Event::FoundInvocation { task, epoch, candidates: self.candidates(None, |r| r.ran == id) }
            }
            Step::Select { .. } => unreachable!("outputs of the simulation are files"),
            Step::Stage { task, epoch, needs } => {
                report.staged.extend(needs.iter().map(|n| name(n.from)));
                let gone = needs.iter().filter(|n| !n.entries.iter().all(|e| self.is_here(e)));
                Event::Staged { task, epoch, hollow: gone.map(|n| n.from).collect() }
            }
            Step::Place { task, epoch, output, .. } => {
                let here = output.artifacts.values().all(|e| self.is_here(e));
                Event::Placed { task, epoch, placed: if here { Placed::Done } else { Placed::Hollow } }
            }
            Step::Execute { task, epoch, id, invocation, must_run, via, .. } => {
                if running[&task] {
                    let result = Err(Arc::new(FailureKind::Signal { signal: 15 }.into()));
                    return Event::Finished { task, epoch, result, receipt: None, cancelled: true };
                }
                if !must_run && let Some(candidate) = self.candidates(None, |r| r.ran == id && r.result.is_ok()).pop() {
                    // Rule 6, as the driver does it: once more just before the work.
                    return Event::Arrived { task, candidate };
                }
                report.ran.push(name(task));
                let result = self.execute(&invocation);
                let receipt = self.record(subject.ids.of(task), id, via, result.clone());
                Event::Finished { task, epoch, result, receipt: Some(receipt), cancelled: false }
            }
            Step::Share { .. } | Step::Accept { .. } | Step::Tell(_) | Step::Cancel { .. } => {
                unreachable!("not answered")
            }
        }
    }

    fn execute(&mut self, invocation: &Invocation) -> Outcome {
        let (id, _) = invocation.encode();
        self.clock += 1;
        let seed: Vec<u8> = match invocation.args.get("does").and_then(Value::as_text) {
            Some("collapse") => vec![id.digest()[0] % 2],
            Some("vary") => [&id.digest()[..], &self.clock.to_be_bytes()].concat(),
            Some("fail") => return Err(Arc::new(FailureKind::Exit { code: 1 }.into())),
            _ => id.digest().to_vec(),
        };
        let mut output = Output::default();
        for part in ["o", "p"] {
            let blob = BlobId::of(&[&seed, part.as_bytes()].concat());
            self.blobs.insert(blob);
            output.artifacts.insert(part.into(), Entry::File { blob, size: 1, exec: false });
        }
        Ok(Arc::new(output))
    }

    pub(super) fn record(&mut self, task: TaskId, ran: InvocationId, via: Via, result: Outcome) -> ReceiptId {
        self.clock += 1;
        let id = ReceiptId::of(&self.clock.to_be_bytes());
        if let Ok(output) = &result {
            self.accepted.insert(task, (id, output.id()));
        }
        let tasks = BTreeMap::from([(task, via)]);
        self.receipts.push(Rec { id, ran, tasks, result, own: true, session: false, issued_at: self.clock });
        id
    }

    /// Leaves receipts only for the named tasks.
    pub(super) fn keep(&mut self, subject: &Subject, names: &[&str]) {
        let ids: Vec<TaskId> =
            names.iter().map(|n| subject.ids.of(subject.workflow.find(n).expect("named task"))).collect();
        self.receipts.retain(|r| r.tasks.keys().any(|t| ids.contains(t)));
        self.accepted.retain(|t, _| ids.contains(t));
    }

    /// Loses all output of the named task.
    pub(super) fn lose(&mut self, subject: &Subject, name: &str) {
        let id = subject.ids.of(subject.workflow.find(name).expect("named task"));
        for rec in self.receipts.iter().filter(|r| r.tasks.contains_key(&id)) {
            if let Ok(output) = &rec.result {
                for entry in output.artifacts.values() {
                    if let Entry::File { blob, .. } = entry {
                        self.blobs.remove(blob);
                    }
                }
            }
        }
    }
}

impl Report {
    /// Names of tasks that ran, in alphabetical order.
    pub(super) fn ran_sorted(&self) -> Vec<&str> {
        let mut ran: Vec<&str> = self.ran.iter().map(String::as_str).collect();
        ran.sort_unstable();
        ran
    }

    pub(super) fn end(&self, name: &str) -> Option<End> {
        match self.ends.get(name) {
            Some(State::Ended(end)) => Some(*end),
            _ => None,
        }
    }
}

pub(super) fn a_failure(code: i32) -> Failure {
    FailureKind::Exit { code }.into()
}
