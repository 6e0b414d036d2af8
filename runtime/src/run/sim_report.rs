//! What a run in the simulation came to.
//!
//! Unaware of how it was driven.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quipu_store::cid::{OutputId, ReceiptId};
use quipu_store::receipt::FailureKind;

use super::Counts;
use super::step::{End, Notice, State};
use crate::task::Invocation;

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
    /// Names of tasks that were placed, in that order.
    pub(super) placed: Vec<String>,
    /// What each task was asked to do.
    pub(super) invocations: BTreeMap<String, Arc<Invocation>>,
    pub(super) failures: BTreeMap<String, FailureKind>,
    /// Tasks that were to run although a receipt from before the run fits.
    pub(super) late: Vec<String>,
    /// Tasks that were to run although nothing that they read changed.
    pub(super) overlooked: Vec<String>,
    /// Tasks that were to run without bytes they need.
    pub(super) starved: Vec<String>,
    /// Work, or placing, while others looked at what it changes.
    pub(super) trampled: Vec<String>,
    /// Given up in the middle.
    pub(super) crashed: bool,
    /// Tasks that ran without a service that they need.
    pub(super) unserved: Vec<String>,
    /// Services that nobody ended.
    pub(super) left: Vec<String>,
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

    pub(super) fn diverged(&self) -> usize {
        self.notices.iter().filter(|n| matches!(n, Notice::Divergence { .. })).count()
    }
}
