//! What all variants of a table have in common, and what is wrong with it: keys that belong together, names, tags.
//!
//! Knows one table with all it extends; unaware of its variants.

use std::time::Duration;

use super::errors::{ErrorKind, WorkfileError};
use super::lower::{Maker, is_task_name};
use super::making::Shared;
use super::model::{Run, Str, TaskTable, When};
use crate::fetch::SLOT;
use crate::process::Tier;
use crate::task::Policy;

/// Keys a task may have that runs nothing.
const GROUP_KEYS: [&str; 11] =
    ["extends", "when", "vars", "params", "description", "tags", "needs", "matrix", "versions", "only", "exclude"];

/// Keys a task may have that starts no process.
const OTHERS_KEYS: [&str; 9] =
    ["extends", "vars", "params", "description", "tags", "matrix", "versions", "only", "exclude"];
/// Those it may have besides, by the key that says what it does.
const OTHERS: [(&str, &[&str]); 4] = [
    ("fetch", &["after", "when", "outputs", "timeout", "retries", "backoff", "publish"]),
    ("wait", &["after", "timeout", "when", "mute"]),
    ("external", &["after", "needs", "inputs", "outputs", "publish"]),
    ("await", &["outputs"]),
];
/// Keys a service cannot have.
const NOT_OF_SERVICES: [&str; 7] = ["outputs", "publish", "stdout", "stdin", "depfile", "cache", "slots"];
/// Keys a task may not have beside `worker`.
const NO_WORKER_KEYS: [&str; 6] = ["steps", "shell", "stdin", "stdout", "depfile", "secret-env"];
/// How long something is waited for when the task does not say.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

impl Maker<'_, '_, '_, '_> {
    /// Checks what is the same in all variants.
    pub(super) fn shared(
        &mut self,
        table: &TaskTable<'_>,
        given: &[&Str<'_>],
        errors: &mut Vec<WorkfileError>,
    ) -> Shared {
        let task = &table.name;
        let mut bad = |kind, place, message: String, hint: &str| {
            let error = WorkfileError::new(kind, place, message);
            self.findings.plain(if hint.is_empty() { error } else { error.hint(hint) });
        };
        for tag in table.tags.iter().chain(given.iter().copied()) {
            if !is_task_name(&tag.text) {
                let message = format!("`{}` cannot be a tag", tag.text);
                bad(ErrorKind::BadName, tag.place, message, "letters, digits, `_`, `.` and `-`");
            }
        }
        for name in table.env.iter().map(|(name, _)| name).chain(&table.pass_env).chain(&table.secret_env) {
            if name.text.is_empty() || name.text.contains(['=', '\0']) {
                let message = format!("`{}` cannot name an environment variable", name.text);
                bad(ErrorKind::BadName, name.place, message, "");
            }
        }
        for name in &table.secret_env {
            let twice = [
                ("env", table.env.iter().any(|(n, _)| n.text == name.text)),
                ("pass-env", table.pass_env.iter().any(|n| n.text == name.text)),
            ];
            for (key, _) in twice.into_iter().filter(|(_, is_there)| *is_there) {
                let message = format!("`{}` is in `secret-env` and in `{key}` of task `{task}`", name.text);
                bad(ErrorKind::BadValue, name.place, message, "a value is secret, or part of the id");
            }
        }
        for name in table.slots.keys().filter(|name| !name.is_empty() && !is_task_name(name)) {
            let message = format!("`{name}` cannot name slots");
            bad(ErrorKind::BadName, table.key_place("slots"), message, "letters, digits, `_`, `.` and `-`");
        }
        let run = table.has("run") || table.has("steps");
        let external = table.external == Some(true);
        let kind = OTHERS.into_iter().find(|(k, _)| table.has(k));
        if let Some((kind, known)) = kind {
            let known = |key: &&str| *key == kind || OTHERS_KEYS.contains(key) || known.contains(key);
            for (key, place) in table.keys.iter().filter(|(key, _)| !known(key)) {
                let message = format!("task `{task}` has `{kind}`, and `{key}` beside it");
                bad(ErrorKind::Type, *place, message, "a task runs something, fetches, waits, or is done elsewhere");
            }
            if table.external == Some(false) {
                let message = format!("task `{task}` has `external = false`, which says nothing");
                bad(ErrorKind::BadValue, table.key_place("external"), message, "");
            }
            let many =
                external && (table.outputs.len() > 1 || table.outputs.iter().any(|o| o.path.text.ends_with('/')));
            if many {
                let message = format!("task `{task}` is done elsewhere, and makes more than one file");
                bad(ErrorKind::BadValue, table.key_place("outputs"), message, "one file is delivered at a time");
            }
        } else if !run {
            let extra: Vec<_> = table.keys.iter().filter(|(k, _)| !GROUP_KEYS.contains(k)).collect();
            if let Some((_, place)) = extra.first() {
                let keys = extra.iter().map(|(k, _)| format!("`{k}`")).collect::<Vec<_>>().join(", ");
                let message = format!("task `{task}` has {keys} but no `run`");
                bad(ErrorKind::Empty, *place, message, "without `run` or `steps` a task only groups what it `needs`");
            } else if !table.torn && !table.has("needs") {
                let message = format!("task `{task}` has neither `run` nor `needs`");
                bad(ErrorKind::Empty, table.place, message, "say what to `run`, or which tasks it groups");
            }
        }
        if table.has("service") && kind.is_none() {
            for (key, place) in table.keys.iter().filter(|(k, _)| NOT_OF_SERVICES.contains(k)) {
                let message = format!("task `{task}` is a service, and has `{key}`");
                bad(ErrorKind::Type, *place, message, "a service runs while others do, and makes nothing");
            }
            if let Some(When::Ending(when)) = &table.when {
                let message = format!("task `{task}` is a service, and is to run on `{}`", when.name());
                let hint = "it runs whenever a task needs it: put `when` there";
                bad(ErrorKind::BadValue, table.key_place("when"), message, hint);
            }
        }
        if let Some(argv) = &table.worker {
            let place = argv.first().map_or(table.place, |program| program.place);
            for (key, place) in table.keys.iter().filter(|(k, _)| NO_WORKER_KEYS.contains(k)) {
                let message = format!("task `{task}` has `worker`, and `{key}` beside it");
                bad(
                    ErrorKind::Type,
                    *place,
                    message,
                    "a worker is sent arguments, and knows nothing but them and its inputs",
                );
            }
            if !matches!(table.steps[..], [Run::Argv(_)]) && !table.torn {
                let message = format!("task `{task}` has `worker`, and no list of arguments for it");
                bad(ErrorKind::Type, place, message, "say in `run` what it is sent: a list of texts");
            }
            if table.sandbox.unwrap_or(self.tier) != Tier::Ns {
                let message = format!("task `{task}` has `worker`, and is not in the sandbox `ns`");
                bad(ErrorKind::BadValue, place, message, "a worker sees what each request declares, which takes `ns`");
            }
        }
        let ending = match &table.when {
            Some(When::Ending(ending)) => Some(*ending),
            _ => None,
        };
        if let Some(when) = ending {
            if !table.has("after") {
                let message = format!("task `{task}` has `when`, but comes after no task");
                let hint = "list the tasks it watches in `after`";
                bad(ErrorKind::Empty, table.key_place("when"), message, hint);
            }
            if table.cache == Some(true) {
                let message = format!("task `{task}` runs on `{}`, and is to be cached", when.name());
                let hint = "whether it runs is up to the run it is in: leave out `cache`";
                bad(ErrorKind::BadValue, table.key_place("cache"), message, hint);
            }
        }
        let makes = ["outputs", "stdout", "depfile"].iter().any(|key| table.has(key));
        if table.publish == Some(true) && !makes {
            let message = format!("task `{task}` has `publish`, and no outputs");
            bad(ErrorKind::Empty, table.key_place("publish"), message, "list what is to be published in `outputs`");
        }
        if table.backoff.is_some() && table.retries.unwrap_or(0) == 0 {
            let message = format!("task `{task}` has `backoff`, but is never tried again");
            bad(ErrorKind::BadValue, table.key_place("backoff"), message, "say how often: `retries = 3`");
        }
        let waits = table.wait.is_some() || table.service.is_some();
        let tags: Vec<Str<'_>> = table.tags.iter().chain(given.iter().copied()).cloned().collect();
        Shared {
            params: self.params(&table.params, errors).into(),
            tags: self.cache.texts(&tags),
            key_places: table.keys.as_slice().into(),
            templates_in: table.templates_in.as_slice().into(),
            policy: self.cache.policy(Policy {
                timeout: table.timeout.or(waits.then_some(WAIT_TIMEOUT)),
                retries: table.retries.unwrap_or(0),
                backoff: table.backoff,
                when: ending.unwrap_or_default(),
                cache: table.cache.unwrap_or(ending.is_none() && !waits),
                // Others run while it is fetched, waits, or stands by.
                slots: match &table.fetch {
                    Some(_) => [("".into(), 0), (SLOT.into(), 1)].into(),
                    None if waits => [("".into(), 0)].into(),
                    None => table.slots.clone(),
                },
                mute: table.mute.unwrap_or(false),
            }),
            tier: table.sandbox.unwrap_or(self.tier),
            run,
            external,
        }
    }
}
