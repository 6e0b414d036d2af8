//! The model test of conditions: random graphs with tasks that fail, tasks that clean up, and runs that are stopped.
//!
//! What each task with a condition is to do follows from how the tasks it watches ended, whatever the order.

use std::sync::Arc;

use super::mutants::Sabotage;
use super::sim::{Dice, Does, Report, Trouble, World, recipe};
use super::step::{End, State};
use super::{Rules, Subject};
use crate::graph::TaskIdx;
use crate::task::{Node, Policy, When, Work};
use crate::value::Branch;
use crate::workflow::Workflow;

const SEEDS: u64 = 3_000;

struct Garden {
    subject: Arc<Subject>,
    when: Vec<When>,
}

impl Garden {
    fn random(dice: &mut Dice) -> Self {
        let n = 2 + dice.roll(7);
        let (mut workflow, mut whens) = (Workflow::new(), vec![]);
        for i in 0..n {
            let does = if dice.one_in(4) { Does::Fail } else { Does::Hash };
            let when = match dice.roll(5) {
                _ if i == 0 => When::Success,
                0 => When::Failure,
                1 => When::Always,
                2 => When::Changed,
                _ => When::Success,
            };
            let (mut reads, mut after) = (vec![], vec![]);
            for other in (0..i).map(TaskIdx::new) {
                if dice.one_in(4) {
                    reads.push((other, Branch::Ok, &["outputs", "o"][..]));
                } else if dice.one_in(3) {
                    after.push(other);
                }
            }
            // Equal work is one task: here each is one of its own.
            let work = Work::Task(recipe(does, i as i64, &reads));
            let policy = Policy { when, cache: when == When::Success, ..Policy::default() };
            workflow
                .add_node(Node { name: format!("t{i}").into(), work, policy: policy.into(), after: after.into() })
                .expect("new name");
            whens.push(when);
        }
        Self { subject: Arc::new(Subject::new(workflow).expect("edges go backwards only")), when: whens }
    }
}

/// One case. An error says what does not hold; otherwise how many tasks each law was about.
fn check(seed: u64, sabotage: Option<Sabotage>) -> Result<[usize; 3], String> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let garden = Garden::random(&mut dice);
    let subject = &garden.subject;
    let mut world = World::default();
    let mut seen = [0; 3];
    for round in 0..2 {
        let goals: Vec<TaskIdx> = (0..1 + dice.roll(3)).map(|_| TaskIdx::new(dice.roll(garden.when.len()))).collect();
        let jobs = 1 + dice.roll(3) as u32;
        let rules = Rules { jobs, keep_going: dice.one_in(2), sabotage, ..Rules::default() };
        let stop_after = dice.one_in(3).then(|| dice.roll(20));
        let trouble = Trouble { stop_after, ..Trouble::default() };
        let report = world.run_troubled(subject, &goals, rules.clone(), &mut dice, trouble);
        let say =
            |what: String| format!("round {round}: {what}\n{:?}\ngoals {goals:?}\n{rules:?}\n{report:?}", garden.when);
        for (i, when) in garden.when.iter().enumerate() {
            law(subject, &report, TaskIdx::new(i), *when, &mut seen).map_err(say)?;
        }
    }
    Ok(seen)
}

fn end(report: &Report, task: TaskIdx) -> Option<End> {
    report.end(&format!("t{}", task.index()))
}

fn law(subject: &Subject, report: &Report, task: TaskIdx, when: When, seen: &mut [usize; 3]) -> Result<(), String> {
    let ends: Vec<Option<End>> = subject.after(task).iter().map(|d| end(report, *d)).collect();
    let inputs: Vec<Option<End>> = subject.inputs(task).iter().map(|d| end(report, *d)).collect();
    let succeeded = |e: &Option<End>| matches!(e, Some(End::Ran | End::Cached | End::CutOff));
    let failed = |e: &Option<End>| matches!(e, Some(End::Failed | End::Skipped { .. } | End::Blocked { .. }));
    let own = end(report, task);
    let name = format!("t{}", task.index());
    let ran = matches!(own, Some(End::Ran | End::Failed));
    if when == When::Success {
        if ran && report.ran.contains(&name) && !ends.iter().chain(&inputs).all(succeeded) {
            return Err(format!("{name} ran, and not all before it succeeded"));
        }
        return Ok(());
    }
    if when == When::Changed {
        let met = ends.contains(&Some(End::Ran));
        return match own {
            Some(End::Unmet) if met => Err(format!("{name} did not run although its condition is met")),
            _ if ran && !(met && ends.iter().all(succeeded)) => {
                Err(format!("{name} ran although its condition is not met"))
            }
            _ => Ok(()),
        };
    }
    if !matches!(report.ends.get(&name), Some(State::Ended(_))) {
        return if report.ends.contains_key(&name) && report.ends[&name] != State::Idle {
            Err(format!("{name} has no end"))
        } else {
            Ok(())
        };
    }
    let met = when == When::Always || ends.iter().any(failed);
    match own {
        Some(End::Unmet) if met => Err(format!("{name} did not run although its condition is met")),
        Some(End::Unmet) => {
            seen[0] += 1;
            Ok(())
        }
        _ if !met && ran => Err(format!("{name} ran although its condition is not met")),
        // Nothing but what it needs itself keeps it from running, also when the run was stopped.
        Some(End::Cancelled | End::Skipped { .. }) if met && inputs.iter().all(succeeded) => {
            Err(format!("{name} was not run: {own:?}"))
        }
        _ => {
            seen[1] += usize::from(ran);
            seen[2] += usize::from(ran && report.ends.values().any(|s| *s == State::Ended(End::Cancelled)));
            Ok(())
        }
    }
}

#[test]
fn tasks_with_a_condition_run_exactly_when_it_is_met() {
    let mut seen = [0; 3];
    for seed in 1..=SEEDS {
        let of = check(seed, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        seen.iter_mut().zip(of).for_each(|(all, n)| *all += n);
    }
    assert!(seen.iter().all(|n| *n > 200), "unmet, ran, ran in a stopped run: {seen:?}");
}

#[test]
fn a_broken_condition_is_noticed() {
    for (sabotage, by) in
        [(Sabotage::AnyCondition, "ran although its condition is not met"), (Sabotage::NoCleanUp, "was not run")]
    {
        let why = (1..=SEEDS).find_map(|seed| check(seed, Some(sabotage)).err());
        let why = why.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
        let first = why.lines().next().unwrap_or_default();
        assert!(first.contains(by), "{sabotage:?} is caught by another check: {first}");
    }
}
