//! Proof that the model test would notice: each rule is broken on purpose, and some seed must catch it.
//!
//! Unaware of what right behaviour is; that is what [`super::model`] says.

use super::model::{Kind, check};

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Rule 2: receipts under the task id settle nothing.
    NoShortcut,
    /// Rule 2: inputs are looked at although there is a receipt.
    LookAtInputs,
    /// Rule 3: receipts under the invocation id are not looked up.
    NoCutOff,
    /// Rule 4: missing bytes are not made again.
    NoBytes,
    /// Any receipt under the task id will do.
    NoCoherence,
    /// What was settled stays so, whatever it was made from.
    NoReopening,
    /// A receipt names what its inputs are when it is made, not what its invocation was made from.
    LateVia,
    /// Receipts of what was read are not looked up.
    NoReads,
    /// Any receipt of a task with the same names will do, whatever it read.
    AnyReads,
    /// A stopped run stops those who clean up, too.
    NoCleanUp,
    /// Every condition counts as met.
    AnyCondition,
    /// Tasks that work in the workspace itself start whatever others do there.
    Trample,
    /// Services are never asked to end.
    NoEndOfServices,
    /// Services count as ready when they are started.
    NoReadiness,
    /// Who needs a service that ended goes on.
    NoLoss,
}

/// How many seeds may pass before one catches it: fewer than a plain test run tries.
const WITHIN: u64 = 2000;

fn caught(sabotage: Sabotage, kind: Kind, by: &str) {
    let why = (1..=WITHIN).find_map(|seed| check(seed, kind, Some(sabotage)).err());
    let why = why.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed for {WITHIN} seeds"));
    let first = why.lines().next().unwrap_or_default();
    assert!(first.contains(by), "{sabotage:?} is caught by another check: {first}");
}

#[test]
fn ignoring_receipts_by_task_id_is_caught() {
    caught(Sabotage::NoShortcut, Kind::Steady, "rule 2");
}

#[test]
fn looking_at_inputs_of_settled_tasks_is_caught() {
    caught(Sabotage::LookAtInputs, Kind::Steady, "nobody needed it");
}

#[test]
fn running_without_looking_for_the_invocation_is_caught() {
    caught(Sabotage::NoCutOff, Kind::Steady, "rule 3");
}

#[test]
fn running_without_bytes_is_caught() {
    caught(Sabotage::NoBytes, Kind::Steady, "rule 4");
}

#[test]
fn mixing_outcomes_is_caught() {
    caught(Sabotage::NoCoherence, Kind::Varied, "two outcomes");
}

#[test]
fn leaving_settled_tasks_settled_is_caught() {
    caught(Sabotage::NoReopening, Kind::Varied, "two outcomes");
}

#[test]
fn running_although_nothing_that_was_read_changed_is_caught() {
    caught(Sabotage::NoReads, Kind::Steady, "rule 3, by what was read");
}

#[test]
fn going_by_a_receipt_that_read_something_else_is_caught() {
    caught(Sabotage::AnyReads, Kind::Steady, "I1");
}

#[test]
fn working_under_the_feet_of_others_is_caught() {
    caught(Sabotage::Trample, Kind::Steady, "tier `none`");
    caught(Sabotage::Trample, Kind::Varied, "tier `none`");
}

#[test]
fn naming_other_inputs_than_those_used_is_caught() {
    caught(Sabotage::LateVia, Kind::Varied, "does not say all it was made from");
}
