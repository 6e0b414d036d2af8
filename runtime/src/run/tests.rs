//! The edge cases of resuming, by number, as far as the pure middle can show them.
//!
//! `t->u` means that u awaits t. `D{...}`: receipts by task id that are there before the run.

mod bytes;
mod cases;
mod failures;
mod gates;
mod in_place;
mod planning;
mod scheduling;

use std::sync::Arc;

use super::sim::{Dice, Does, Drive, Report, World, recipe, subject};
use super::step::End;
use super::{Rules, Subject};
use crate::graph::TaskIdx;
use crate::task::{Node, Policy, Task, Work};
use crate::value::{Branch, Text};
use crate::workflow::Workflow;

/// Tasks of a test, and the world they run in.
struct Case {
    subject: Arc<Subject>,
    world: World,
}

/// A workflow by name: what each task does and which others it reads, with any part of their outputs.
#[derive(Default)]
struct Flow {
    workflow: Workflow,
}

impl Flow {
    /// A task that reads `o` of others; each name makes another source.
    fn task(self, name: &str, reads: &str) -> Self {
        self.does(name, Does::Hash, reads)
    }

    fn does(self, name: &str, does: Does, reads: &str) -> Self {
        self.with(name, does, source_of(name), reads, |_| {})
    }

    fn with(mut self, name: &str, does: Does, source: i64, reads: &str, change: impl FnOnce(&mut Node)) -> Self {
        let work = Work::Task(self.recipe(does, source, reads));
        let mut node = Node { name: name.into(), work, policy: Arc::default(), after: Box::default() };
        change(&mut node);
        self.workflow.add_node(node).expect("new name");
        self
    }

    fn after(self, name: &str, reads: &str, after: &str) -> Self {
        let after: Vec<TaskIdx> = after.split_whitespace().map(|n| self.find(n)).collect();
        self.with(name, Does::Hash, source_of(name), reads, |node| node.after = after.into())
    }

    /// Reads are names, `name/part/within`, or `name!` for the error and `name*` for either branch.
    fn recipe(&self, does: Does, source: i64, reads: &str) -> Task {
        let reads: Vec<(TaskIdx, Branch, Vec<&str>)> = reads
            .split_whitespace()
            .map(|read| {
                if let Some(name) = read.strip_suffix('!') {
                    return (self.find(name), Branch::Error, vec![]);
                }
                if let Some(name) = read.strip_suffix('*') {
                    return (self.find(name), Branch::Any, vec![]);
                }
                let mut parts = read.split('/');
                let name = parts.next().expect("a first part");
                let mut at = vec!["outputs"];
                at.extend(parts);
                if at.len() == 1 {
                    at.push("o");
                }
                (self.find(name), Branch::Ok, at)
            })
            .collect();
        let reads: Vec<_> = reads.iter().map(|(on, branch, at)| (*on, *branch, &at[..])).collect();
        recipe(does, source, &reads)
    }

    fn find(&self, name: &str) -> TaskIdx {
        self.workflow.find(name).unwrap_or_else(|| panic!("no task `{name}`"))
    }

    fn case(self) -> Case {
        Case { subject: subject(self.workflow), world: World::default() }
    }
}

fn source_of(name: &str) -> i64 {
    name.bytes().fold(7, |n, b| n * 31 % 1_000_003 + i64::from(b))
}

fn keep_going() -> Rules {
    Rules { jobs: 2, keep_going: true, ..Rules::default() }
}

impl Case {
    fn goals(&self, names: &str) -> Vec<TaskIdx> {
        names.split_whitespace().map(|n| self.idx(n)).collect()
    }

    fn idx(&self, name: &str) -> TaskIdx {
        self.subject.workflow.find(name).unwrap_or_else(|| panic!("no task `{name}`"))
    }

    fn run_with(&mut self, goals: &str, rules: Rules) -> Report {
        let goals = self.goals(goals);
        self.world.run(&self.subject, &goals, rules, &mut Dice(77))
    }

    /// Runs, and runs again: the second time nothing does.
    fn run(&mut self, goals: &str) -> Report {
        let report = self.run_with(goals, keep_going());
        let again = self.run_with(goals, keep_going());
        assert_eq!(again.ran, Vec::<String>::new(), "the second run");
        report
    }

    /// Makes everything, then leaves receipts only for the named tasks.
    fn given(mut self, goals: &str, kept: &str) -> Self {
        self.run(goals);
        let kept: Vec<&str> = kept.split_whitespace().collect();
        self.world.keep(&self.subject, &kept);
        self
    }

    /// The same world with other tasks.
    fn edited(self, flow: Flow) -> Self {
        Self { world: self.world, ..flow.case() }
    }

    /// Looks everything up, as the driver does, then starts what may start.
    fn drive(&mut self, goals: &str, rules: Rules) -> Drive<'_> {
        let goals = self.goals(goals);
        let expected_ms = rules.expected_ms.clone();
        let mut drive = Drive::new(&mut self.world, &self.subject, &goals, Rules { dry: true, ..rules });
        drive.answer_questions();
        drive.run.start_work(expected_ms);
        drive.answer_questions();
        drive
    }
}

impl Report {
    fn ends(&self, names: &str, end: End) {
        for name in names.split_whitespace() {
            assert_eq!(self.end(name), Some(end), "{name}");
        }
    }

    fn unneeded(&self, names: &str) {
        for name in names.split_whitespace() {
            assert_eq!(self.end(name), None, "{name}");
        }
    }
}

/// The policy of a node that nobody shares yet.
fn policy_of(node: &mut Node) -> &mut Policy {
    Arc::make_mut(&mut node.policy)
}
