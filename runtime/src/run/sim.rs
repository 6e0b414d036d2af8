//! A world for tests: receipts, blobs and work made of values, driven in any order.
//!
//! Stricter than the real thing: an answer nobody asked for, work without its bytes, and a receipt that
//! was overlooked are all noticed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use quipu_store::cid::{BlobId, InvocationId, OutputId, ReceiptId, TaskId, TreeId};
use quipu_store::receipt::{Failure, FailureKind, Output, Via};
use quipu_store::tree::Entry;

pub(super) use super::sim_report::Report;
pub(super) use super::sim_work::{Does, in_place, recipe};
use super::step::{AwaitOn, Candidate, Event, Need, Notice, Outcome, Part, Placed, Step};
use super::{Rules, Run, Subject};
use crate::graph::TaskIdx;
use crate::narrow::Fingerprint;
use crate::process;
use crate::task::{Invocation, Work};
use crate::value::{Text, Value};
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

pub(super) fn subject(workflow: Workflow) -> Arc<Subject> {
    Arc::new(Subject::new(workflow).expect("no ring, and ids"))
}

#[derive(Clone)]
pub(super) struct Rec {
    pub(super) id: ReceiptId,
    pub(super) ran: InvocationId,
    pub(super) tasks: BTreeMap<TaskId, Via>,
    pub(super) result: Outcome,
    pub(super) own: bool,
    pub(super) session: Option<u64>,
    pub(super) rank: u32,
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
    pub(super) trees: BTreeMap<TreeId, BTreeMap<&'static str, Entry>>,
    /// The session that is running or being resumed.
    pub(super) session: Option<u64>,
    pub(super) attempts: HashMap<InvocationId, u32>,
    pub(super) clock: u64,
    /// What tasks said they read, by weak id: strong id, receipt, paths.
    pub(super) reads: HashMap<Fingerprint, Vec<(Fingerprint, ReceiptId, Vec<Text>)>>,
    /// Whether what was read is taken for anything.
    pub(super) any_reads: bool,
    /// Names of tasks done elsewhere that somebody delivers.
    pub(super) deliver: BTreeSet<String>,
    /// Further attempts do not fit into the time of a task.
    pub(super) most_attempts: Option<u32>,
}

/// What goes wrong while a run is under way.
#[derive(Clone, Default)]
pub(super) struct Trouble {
    /// One in so many steps, a random blob vanishes.
    pub(super) lose_blob_one_in: Option<usize>,
    pub(super) losses_left: usize,
    /// The program is killed after so many answers.
    pub(super) crash_after: Option<usize>,
    /// People ask for the end after so many answers.
    pub(super) stop_after: Option<usize>,
    /// Services end by themselves, one in so many answers.
    pub(super) fall_one_in: Option<usize>,
}

/// A run in its world, step by step.
pub(super) struct Drive<'w> {
    pub(super) world: &'w mut World,
    pub(super) run: Run,
    pub(super) report: Report,
    /// Steps without an answer.
    pub(super) open: Vec<Step>,
    /// Goals whose outputs were to be placed, so far.
    pub(super) placed: Vec<String>,
    pub(super) subject: Arc<Subject>,
    pub(super) cancelled: BTreeSet<TaskIdx>,
    /// Services that are ready.
    pub(super) serving: BTreeSet<TaskIdx>,
    needs: BTreeMap<(TaskIdx, u32), Vec<Need>>,
    /// Receipts of what ran, and of what was settled with it.
    recorded: BTreeMap<TaskIdx, ReceiptId>,
    since: u64,
}

impl<'w> Drive<'w> {
    pub(super) fn new(world: &'w mut World, subject: &Arc<Subject>, goals: &[TaskIdx], rules: Rules) -> Self {
        let run = Run::new(Arc::clone(subject), goals, rules);
        let since = world.clock;
        let subject = Arc::clone(subject);
        let (report, open, placed, cancelled, serving, needs, recorded) = Default::default();
        Self { world, run, report, open, placed, subject, cancelled, serving, needs, recorded, since }
    }

    pub(super) fn name(&self, task: TaskIdx) -> String {
        self.subject.workflow.node(task).name.to_string()
    }

    /// Takes one step. False when there is none for now.
    pub(super) fn poll(&mut self) -> bool {
        let Some(step) = self.run.poll() else { return false };
        match step {
            Step::Tell(notice) => {
                if let Notice::Hollow { task } = &notice {
                    self.report.hollow.insert(self.name(*task));
                }
                self.report.notices.push(notice);
            }
            Step::Accept { task, receipt, via } => {
                let id = self.subject.ids.of(task);
                self.world.accept(id, receipt, via);
            }
            Step::Share { leader, task, via } => {
                let id = self.subject.ids.of(task);
                self.world.accept(id, self.recorded[&leader], via);
                self.recorded.insert(task, self.recorded[&leader]);
            }
            Step::Cancel { task } => drop(self.cancelled.insert(task)),
            Step::Execute { task, .. } => {
                self.cancelled.remove(&task);
                self.look_under_feet(task, &step);
                self.see_services(task);
                self.open.push(step);
            }
            Step::Place { task, .. } => {
                self.placed.push(self.name(task));
                self.look_under_feet(task, &step);
                self.open.push(step);
            }
            _ => self.open.push(step),
        }
        true
    }

    /// Notes whether a step changes in the workspace what a running task looks at there, or the other way round.
    fn look_under_feet(&mut self, task: TaskIdx, step: &Step) {
        let is_in_place = |task: TaskIdx| match &self.subject.workflow.node(task).work {
            Work::Task(recipe) => process::is_in_place(&recipe.args),
            Work::External { .. } => false,
        };
        let looks_at =
            |a: TaskIdx, b: TaskIdx| self.subject.inputs(a).contains(&b) || self.subject.after(a).contains(&b);
        for open in &self.open {
            let Step::Execute { task: other, via: seen, .. } = open else { continue };
            let trampled = is_in_place(*other)
                && match step {
                    Step::Place { output, .. } => {
                        seen.get(&self.subject.ids.of(task)).is_some_and(|out| *out != output.id())
                    }
                    Step::Execute { via, .. } => {
                        let differs = via.iter().any(|(id, out)| seen.get(id).is_some_and(|other| other != out));
                        is_in_place(task) && (looks_at(task, *other) || looks_at(*other, task) || differs)
                    }
                    _ => false,
                };
            if trampled {
                self.report.trampled.push(format!("{} and {}", self.name(task), self.name(*other)));
            }
        }
    }

    /// Answers the open step at `i`.
    pub(super) fn answer(&mut self, i: usize) {
        let step = self.open.swap_remove(i);
        let event = self.event(step);
        let is_fall = self.is_fall(&event);
        self.run.on(event);
        // Who needs it hears of that before anything else happens.
        while is_fall && self.poll() {}
    }

    /// Answers everything but work, until only work is open.
    pub(super) fn answer_questions(&mut self) {
        loop {
            while self.poll() {}
            let Some(i) = self.open.iter().position(|s| !matches!(s, Step::Execute { .. })) else { return };
            self.answer(i);
        }
    }

    /// Names of running tasks, in the order they started.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.open.iter().filter_map(|s| match s {
            Step::Execute { task, .. } => Some(self.name(*task)),
            _ => None,
        });
        running.collect()
    }

    /// Lets one running task end, and answers all questions that follow.
    pub(super) fn complete(&mut self, name: &str) {
        let i = self.running().iter().position(|n| n == name).expect("it is running");
        let step = self.open.remove(i);
        let event = self.event(step);
        self.run.on(event);
        self.answer_questions();
    }

    /// Sums up.
    pub(super) fn end(mut self) -> Report {
        self.report.left = self.serving.iter().map(|s| self.name(*s)).collect();
        assert!(self.run.is_done() || !self.report.left.is_empty(), "nothing is open, yet the run is not done");
        self.report.notices.extend(self.run.finish());
        for task in self.subject.workflow.indices() {
            let name = self.name(task);
            if self.run.in_scope(task) {
                self.report.ends.insert(name.clone(), self.run.state(task));
            }
            match self.run.outcome(task) {
                Some(Ok(output)) => drop(self.report.outputs.insert(name.clone(), output.id())),
                Some(Err(failure)) => drop(self.report.failures.insert(name.clone(), failure.kind.clone())),
                None => {}
            }
            let recorded = self.recorded.get(&self.subject.ids.first(task));
            self.report.receipts.insert(name, self.run.receipt(task).or(recorded.copied()));
        }
        self.report.counts = self.run.counts();
        self.report
    }

    fn event(&mut self, step: Step) -> Event {
        match step {
            Step::Find { task, id } => {
                self.report.looked_up.insert(self.name(task));
                let candidates = self.world.candidates(Some(id), |r| r.tasks.contains_key(&id));
                Event::Found { task, candidates, accepted: self.world.accepted.get(&id).copied() }
            }
            Step::FindInvocation { task, epoch, id } => {
                Event::FoundInvocation { task, epoch, candidates: self.world.candidates(None, |r| r.ran == id) }
            }
            Step::Select { task, epoch, parts } => self.world.select(task, epoch, &parts),
            Step::Stage { task, epoch, needs } => {
                let names: Vec<String> = needs.iter().map(|n| self.name(n.from)).collect();
                self.report.staged.extend(names);
                let hollow = self.world.hollow(&needs);
                self.needs.insert((task, epoch), needs);
                Event::Staged { task, epoch, hollow }
            }
            Step::Place { task, epoch, output, .. } => {
                let here = output.artifacts.values().all(|e| self.world.is_here(e));
                self.report.placed.extend(here.then(|| self.name(task)));
                Event::Placed { task, epoch, placed: if here { Placed::Done } else { Placed::Hollow } }
            }
            Step::FindReads { task, epoch, invocation } => {
                Event::FoundReads { task, epoch, candidates: self.world.by_reads(&invocation) }
            }
            Step::Await { task, epoch, on } => {
                let wanted = !self.cancelled.remove(&task) && self.world.deliver.contains(&self.name(task));
                let candidates = match on {
                    AwaitOn::Invocation(id) if wanted => self.world.delivered(self.subject.ids.of(task), id),
                    _ => vec![],
                };
                Event::Awaited { task, epoch, candidates }
            }
            Step::Pause { task, epoch, attempt } => {
                let in_time = self.world.most_attempts.is_none_or(|most| attempt <= most);
                Event::Paused { task, epoch, go_on: in_time && !self.cancelled.remove(&task) }
            }
            Step::Execute { task, .. } if self.subject.is_service(task) => self.serve(step),
            Step::Execute { task, epoch, id, invocation, must_run, via, .. } => {
                if self.cancelled.remove(&task) {
                    let result = Err(Arc::new(FailureKind::Signal { signal: 15 }.into()));
                    return Event::Finished { task, epoch, result, cancelled: true };
                }
                let fits = |r: &Rec| r.ran == id && r.result.is_ok();
                if !must_run && let Some(candidate) = self.world.candidates(None, fits).pop() {
                    // Rule 6, as the driver does it: once more just before the work.
                    if candidate.issued_at <= self.since {
                        self.report.late.push(self.name(task));
                    }
                    return Event::Arrived { task, candidate };
                }
                if !must_run && self.world.by_reads(&invocation).iter().any(|c| c.issued_at <= self.since) {
                    self.report.overlooked.push(self.name(task));
                }
                let hollow = self.world.hollow(self.needs.get(&(task, epoch)).map_or(&[], |n| n));
                if !hollow.is_empty() && self.report.starved.len() < 100 {
                    self.report.starved.push(self.name(task));
                    return Event::Staged { task, epoch, hollow };
                }
                self.see_services(task);
                self.report.ran.push(self.name(task));
                self.report.invocations.insert(self.name(task), Arc::clone(&invocation));
                let result = self.world.execute(&invocation);
                let receipt = self.world.record(self.subject.ids.of(task), id, via, result.clone());
                self.world.keep_reads(&invocation, receipt);
                self.recorded.insert(task, receipt);
                Event::Finished { task, epoch, result, cancelled: false }
            }
            Step::Share { .. } | Step::Accept { .. } | Step::Tell(_) | Step::Cancel { .. } => {
                unreachable!("not answered")
            }
        }
    }
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
        let mut drive = Drive::new(self, subject, goals, rules);
        for turns in 0.. {
            assert!(turns < 100_000, "the run does not come to an end");
            // Answers may come before all steps were taken.
            while (drive.open.is_empty() || !dice.one_in(8)) && drive.poll() {}
            let falls = trouble.fall_one_in.is_some_and(|n| dice.one_in(n));
            let mut answerable = drive.answerable(falls);
            if answerable.is_empty() {
                while drive.poll() {}
                answerable = drive.answerable(false);
            }
            if answerable.is_empty() {
                break;
            }
            if trouble.crash_after == Some(turns) {
                drive.report.crashed = true;
                return drive.report;
            }
            if trouble.stop_after == Some(turns) {
                drive.run.on(Event::Stop);
            }
            if trouble.losses_left > 0 && trouble.lose_blob_one_in.is_some_and(|n| dice.one_in(n)) {
                trouble.losses_left -= 1;
                drive.world.lose_blob(dice);
            }
            drive.answer(answerable[dice.roll(answerable.len())]);
        }
        drive.end()
    }

    pub(super) fn lose_blob(&mut self, dice: &mut Dice) {
        let at = dice.roll(self.blobs.len() + self.trees.len());
        match self.blobs.iter().nth(at).copied() {
            Some(blob) => drop(self.blobs.remove(&blob)),
            None => {
                let tree = self.trees.keys().nth(at - self.blobs.len()).copied();
                self.trees.retain(|t, _| Some(*t) != tree);
            }
        }
    }

    pub(super) fn candidates(&self, task: Option<TaskId>, keep: impl Fn(&Rec) -> bool) -> Vec<Candidate> {
        let of = |r: &Rec| Candidate {
            receipt: r.id,
            result: r.result.clone(),
            out: r.out(),
            via: task.and_then(|t| r.tasks.get(&t)).cloned().unwrap_or_default(),
            own: r.own,
            session: r.session.is_some() && r.session == self.session,
            rank: r.rank,
            issued_at: r.issued_at,
        };
        self.receipts.iter().filter(|r| keep(r)).map(of).collect()
    }

    pub(super) fn is_here(&self, entry: &Entry) -> bool {
        match entry {
            Entry::File { blob, .. } => self.blobs.contains(blob),
            Entry::Dir { tree } => self.trees.get(tree).is_some_and(|t| t.values().all(|e| self.is_here(e))),
            Entry::Symlink { .. } => true,
        }
    }

    fn hollow(&self, needs: &[Need]) -> Vec<TaskIdx> {
        let gone = needs.iter().filter(|n| !n.entries.iter().all(|e| self.is_here(e)));
        gone.map(|n| n.from).collect()
    }

    fn select(&self, task: TaskIdx, epoch: u32, parts: &[Part]) -> Event {
        let hollow = parts.iter().map(|p| p.tree).filter(|t| !self.trees.contains_key(t)).collect();
        let entry = |p: &Part| match &p.path[..] {
            [name] => self.trees.get(&p.tree)?.get(&**name).cloned(),
            _ => None,
        };
        Event::Selected { task, epoch, entries: parts.iter().map(entry).collect(), hollow }
    }

    pub(super) fn file(&mut self, seed: &[u8], name: &str) -> Entry {
        let blob = BlobId::of(&[seed, name.as_bytes()].concat());
        self.blobs.insert(blob);
        Entry::File { blob, size: 1, exec: false }
    }

    fn execute(&mut self, invocation: &Invocation) -> Outcome {
        let (id, _) = invocation.encode();
        self.clock += 1;
        let attempts = self.attempts.entry(id).or_default();
        *attempts += 1;
        let hash = id.digest().to_vec();
        let does = invocation.args.get("does").and_then(Value::as_text);
        let (o, p): (Vec<u8>, Vec<u8>) = match does {
            Some("same") => (vec![9], vec![9]),
            Some("collapse") => (vec![hash[0] % 2], vec![hash[0] % 2]),
            Some("half" | "dir") => (hash.clone(), vec![9]),
            Some("vary") => {
                let varied = [&hash[..], &self.clock.to_be_bytes()].concat();
                (varied.clone(), varied)
            }
            Some("fail") => return Err(Arc::new(a_failure(1))),
            Some("flaky") if *attempts <= 2 => return Err(Arc::new(a_failure(2))),
            Some("picks") => {
                let (_, _, content) = Self::picks(invocation);
                (content.clone(), content)
            }
            _ => (hash.clone(), hash.clone()),
        };
        let mut output = Output::default();
        output.artifacts.insert("o".into(), self.file(&o, "o"));
        output.artifacts.insert("p".into(), self.file(&p, "p"));
        if does == Some("dir") {
            let entries = BTreeMap::from([("x", self.file(&o, "x")), ("y", self.file(&p, "y"))]);
            let tree = TreeId::of(&o);
            self.trees.insert(tree, entries);
            output.artifacts.insert("d".into(), Entry::Dir { tree });
        }
        Ok(Arc::new(output))
    }

    /// A new receipt; returns its id.
    pub(super) fn record(&mut self, task: TaskId, ran: InvocationId, via: Via, result: Outcome) -> ReceiptId {
        self.clock += 1;
        let id = ReceiptId::of(&self.clock.to_be_bytes());
        if let Ok(output) = &result {
            self.accepted.insert(task, (id, output.id()));
        }
        let (tasks, session) = (BTreeMap::from([(task, via)]), self.session);
        self.receipts.push(Rec { id, ran, tasks, result, own: true, session, rank: 0, issued_at: self.clock });
        id
    }

    fn accept(&mut self, task: TaskId, receipt: ReceiptId, via: Via) {
        let rec = self.receipts.iter_mut().find(|r| r.id == receipt).expect("accepted receipts exist");
        rec.tasks.insert(task, via);
        rec.own = true;
        if rec.result.is_ok() {
            self.accepted.insert(task, (receipt, rec.out()));
        }
    }

    /// Leaves receipts only for the named tasks.
    pub(super) fn keep(&mut self, subject: &Subject, names: &[&str]) {
        let ids: Vec<TaskId> = names.iter().map(|n| id_of(subject, n)).collect();
        self.receipts.retain(|r| r.tasks.keys().any(|t| ids.contains(t)));
        self.accepted.retain(|t, _| ids.contains(t));
    }

    /// Loses all output of the named task.
    pub(super) fn lose(&mut self, subject: &Subject, name: &str) {
        let id = id_of(subject, name);
        let lost = self.receipts.iter().filter(|r| r.tasks.contains_key(&id)).filter_map(|r| r.result.as_ref().ok());
        for entry in lost.flat_map(|output| output.artifacts.values()) {
            match entry {
                Entry::File { blob, .. } => drop(self.blobs.remove(blob)),
                Entry::Dir { tree } => drop(self.trees.remove(tree)),
                Entry::Symlink { .. } => {}
            }
        }
    }
}

fn id_of(subject: &Subject, name: &str) -> TaskId {
    subject.ids.of(subject.workflow.find(name).expect("named task"))
}

pub(super) fn a_failure(code: i32) -> Failure {
    FailureKind::Exit { code }.into()
}
