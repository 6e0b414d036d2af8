//! Orders: all that somebody needs who carries tasks out, one by one, without reading the workfile.
//!
//! Knows a run that came to rest; unaware of files and of who carries orders out. What the fields mean is said in
//! `docs/formats/plan.md`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use crate::dag_json::{Writer, of_task};
use crate::graph::TaskIdx;
use crate::run::Run;
use crate::task::{Policy, Task, When, Work};
use crate::value::{On, Text};

/// One task to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The task's block as DAG-JSON, with the ids of what it awaits; absent for a task of another workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<Json>,
    /// The same with values in place of promises, where they are known and it is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoked: Option<Json>,
    /// What it takes something from.
    pub needs: Vec<Text>,
    /// What ends before it starts, and gives it nothing.
    pub after: Vec<Text>,
    /// What must have become of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<&'static str>,
    /// The time it may take, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How often it is tried again after a failure.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// The pause before it is tried again the first time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// Slots it takes, by name; the empty name is that of the slots that `-j` counts.
    pub slots: BTreeMap<Text, u32>,
    /// Whether it is done once for all.
    pub cache: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference to the field")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Order {
    /// The order of one task of a run.
    pub fn of(run: &Run, task: TaskIdx) -> Self {
        let subject = run.subject();
        let node = subject.workflow.node(task);
        let names = |tasks: &[TaskIdx]| tasks.iter().map(|t| subject.workflow.node(*t).name.clone()).collect();
        let work = match &node.work {
            Work::Task(task) => {
                let mut writer = Writer::default();
                crate::identity::feed_task(task, &mut writer, &|on| match on {
                    On::Here(idx) => subject.ids.of(idx),
                    On::Id(id) => id,
                });
                Some(writer.finish())
            }
            Work::External { .. } => None,
        };
        let invoked = run.invoked(task).map(|invocation| {
            let (sub, cmd) = (invocation.sub.clone(), invocation.cmd.clone());
            of_task(&Task { sub, cmd, args: invocation.args.clone(), nonce: invocation.nonce.clone() })
        });
        let Policy { timeout, retries, backoff, when, cache, slots, mute: _ } = &*node.policy;
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let mut slots = slots.clone();
        slots.entry("".into()).or_insert(1);
        Self {
            work,
            invoked,
            needs: names(&subject.inputs(task)),
            after: names(&subject.after(task)),
            when: (*when != When::Success).then(|| when.name()),
            timeout_ms: timeout.map(ms),
            retries: *retries,
            backoff_ms: backoff.map(ms),
            slots,
            cache: *cache,
        }
    }
}
