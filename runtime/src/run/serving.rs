//! The model test of services: random graphs with services that start, fail and fall, and runs that are stopped.
//!
//! Whatever the order: nobody works without the services it needs, none is started in vain, and none is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::mutants::Sabotage;
use super::sim::{Dice, Does, Report, Trouble, World, recipe};
use super::step::{End, Notice};
use super::{Rules, Subject};
use crate::graph::TaskIdx;
use crate::task::{Node, Policy, SERVICE, When, Work};
use crate::value::Branch;
use crate::workflow::Workflow;

const SEEDS: u64 = 3_000;

fn garden(dice: &mut Dice) -> Arc<Subject> {
    let n = 2 + dice.roll(7);
    let mut workflow = Workflow::new();
    let mut services = BTreeSet::new();
    for i in 0..n {
        let is_service = i + 1 < n && dice.one_in(3);
        let does = if dice.one_in(8) { Does::Fail } else { Does::Hash };
        let when = if !is_service && i > 0 && dice.one_in(6) { When::Always } else { When::Success };
        let (mut reads, mut after) = (vec![], vec![]);
        for other in (0..i).map(TaskIdx::new) {
            if services.contains(&other) {
                after.extend(dice.one_in(2).then_some(other));
            } else if dice.one_in(4) {
                reads.push((other, Branch::Ok, &["outputs", "o"][..]));
            } else if dice.one_in(4) {
                after.push(other);
            }
        }
        // Equal work is one task: here each is one of its own.
        let mut task = recipe(does, i as i64, &reads);
        if is_service {
            services.insert(TaskIdx::new(i));
            task.cmd = SERVICE.into();
        }
        let cache = when == When::Success && !is_service;
        let policy = Policy { when, cache, retries: dice.roll(2) as u32, ..Policy::default() };
        let name = format!("t{i}").into();
        workflow
            .add_node(Node { name, work: Work::Task(task), policy: policy.into(), after: after.into() })
            .expect("new name");
    }
    Arc::new(Subject::new(workflow).expect("edges go backwards only"))
}

fn goals(subject: &Subject, dice: &mut Dice) -> Vec<TaskIdx> {
    (0..1 + dice.roll(3)).map(|_| TaskIdx::new(dice.roll(subject.workflow.len()))).collect()
}

/// One case. An error says what does not hold; otherwise how often services were started, fell, and were started anew.
fn check(seed: u64, sabotage: Option<Sabotage>) -> Result<[usize; 3], String> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let subject = garden(&mut dice);
    let mut world = World::default();
    let mut seen = [0; 3];
    for round in 0..2 {
        let goals = goals(&subject, &mut dice);
        let jobs = 1 + dice.roll(3) as u32;
        let rules = Rules { jobs, keep_going: dice.one_in(2), sabotage, ..Rules::default() };
        let trouble = Trouble {
            stop_after: dice.one_in(3).then(|| dice.roll(20)),
            fall_one_in: dice.one_in(3).then_some(6),
            lose_blob_one_in: dice.one_in(4).then_some(4),
            losses_left: 2,
            ..Trouble::default()
        };
        let report = world.run_troubled(&subject, &goals, rules.clone(), &mut dice, trouble);
        let say =
            |what: String| format!("round {round}: {what}\ngoals {goals:?}\n{rules:?}\n{report:#?}\n{subject:#?}");
        law(&subject, &goals, &report).map_err(say)?;
        let count = |is: fn(&Notice) -> bool| report.notices.iter().filter(|n| is(n)).count();
        let services = |name: &&String| subject.is_service(subject.workflow.find(name).expect("named"));
        seen[0] += report.ran.iter().filter(services).count();
        let ends = report.ends.iter().filter(|(name, _)| services(name));
        seen[1] += ends.filter(|(name, _)| report.ran.contains(name) && report.end(name) == Some(End::Failed)).count();
        seen[2] += count(|n| matches!(n, Notice::Reopened { .. }));
    }
    Ok(seen)
}

fn law(subject: &Subject, goals: &[TaskIdx], report: &Report) -> Result<(), String> {
    if let Some(name) = report.left.first() {
        return Err(format!("service {name} is left when all is over"));
    }
    if let Some(name) = report.unserved.first() {
        return Err(format!("{name} works without a service it needs"));
    }
    for task in subject.workflow.indices() {
        let name = format!("t{}", task.index());
        let started = report.ran.contains(&name);
        if subject.is_service(task) {
            let is_wanted = |user: &TaskIdx| {
                report.ends.get(&format!("t{}", user.index())).is_some_and(|s| {
                    // It ran, was to run, or it came to nothing on the way to that.
                    !matches!(s, super::step::State::Idle | super::step::State::Ended(End::Cached | End::CutOff))
                })
            };
            if started && !goals.contains(&task) && !subject.before(task).iter().any(is_wanted) {
                return Err(format!("service {name} was started in vain"));
            }
            if matches!(report.end(&name), Some(End::Cached | End::CutOff)) {
                return Err(format!("a receipt stands for service {name}"));
            }
        }
    }
    Ok(())
}

#[test]
fn nobody_works_without_its_services_and_none_is_left() {
    let mut seen = [0; 3];
    for seed in 1..=SEEDS {
        let of = check(seed, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        seen.iter_mut().zip(of).for_each(|(all, n)| *all += n);
    }
    assert!(seen.iter().all(|n| *n > 20), "started, fell, started anew: {seen:?}");
}

#[test]
fn what_breaks_services_is_noticed() {
    for (sabotage, by) in [
        (Sabotage::NoEndOfServices, "is left when all is over"),
        (Sabotage::NoReadiness, "works without a service"),
        (Sabotage::NoLoss, "works without a service"),
    ] {
        let why = (1..=SEEDS).find_map(|seed| check(seed, Some(sabotage)).err());
        let why = why.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
        let first = why.lines().next().unwrap_or_default();
        assert!(first.contains(by), "{sabotage:?} is caught by another check: {first}");
    }
}

#[test]
fn a_second_run_starts_no_service() {
    for seed in 1..=300 {
        let mut dice = Dice(seed * 77 + 1);
        let subject = garden(&mut dice);
        let goals: Vec<TaskIdx> = goals(&subject, &mut dice).into_iter().filter(|g| !subject.is_service(*g)).collect();
        let mut world = World::default();
        let rules = Rules { jobs: 2, keep_going: true, ..Rules::default() };
        let first = world.run(&subject, &goals, rules.clone(), &mut dice);
        let all_well = first.ends.values().all(|s| {
            matches!(s, super::step::State::Idle | super::step::State::Ended(End::Ran | End::Cached | End::CutOff))
        });
        let cleans_up = subject.workflow.nodes().iter().any(|n| n.policy.when != When::Success);
        if all_well && !cleans_up {
            assert_eq!(world.run(&subject, &goals, rules, &mut dice).ran, Vec::<String>::new(), "seed {seed}");
        }
    }
}
