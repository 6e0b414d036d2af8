//! What kind of work a task is: a process, or waiting, fetching, what others do.
//!
//! Knows one table; unaware of other tasks.

use std::time::Duration;

use super::errors::{ErrorKind, WorkfileError};
use super::making::{Making, Pending, Shared};
use super::model::{Awaited, Run, Str, Wait, WaitOn};
use super::paths;
use super::recipe::Act;
use crate::process::{OutputKind, OutputSpec};
use crate::value::{Branch, Text};
use crate::wait::{WaitFor, WaitSpec, http_parts};

/// How long it is from one look to the next, for what is waited for.
const WAIT_EVERY: Duration = Duration::from_millis(200);

impl Making<'_, '_, '_> {
    /// What kind of work it is; a mistake in it makes it a group, which nobody sees then.
    pub(super) fn act(&mut self, shared: &Shared, outputs: &[OutputSpec]) -> (Act, Vec<Text>) {
        let table = self.table;
        let act = match (&table.fetch, &table.wait, &table.service) {
            (Some(fetch), ..) => {
                let made = self.fetch(fetch, outputs);
                return made.map(|(spec, urls)| (Act::Fetch(spec), urls)).unwrap_or_default();
            }
            (None, Some(wait), _) => self.wait("wait", wait).map(Act::Wait).unwrap_or_default(),
            (None, None, Some(ready)) => self.wait("service", ready).map(Act::Service).unwrap_or_default(),
            _ if shared.external => Act::External,
            _ if let Some(argv) = &table.worker => {
                Act::Worker(argv.iter().filter_map(|text| self.text(text)).collect())
            }
            _ if let Some(awaited) = &table.awaits => self.awaited(awaited).unwrap_or_default(),
            _ => Act::Process,
        };
        (act, vec![])
    }

    /// A task of another workflow has outputs that are named one by one, unless it failed.
    pub(super) fn check_awaited(&mut self, awaited: &Awaited<'_>, outputs: &[OutputSpec], pending: &Pending) {
        let bad = outputs
            .iter()
            .zip(&pending.outputs)
            .find(|(o, _)| awaited.branch != Branch::Ok || o.kind == OutputKind::Glob || o.optional);
        let Some((output, (place, _))) = bad else { return };
        let (message, hint) = if awaited.branch == Branch::Ok {
            ("is optional or a pattern", "outputs of a task that is awaited are named one by one")
        } else {
            ("may not be there: it is not awaited as a success", "leave `outputs` out")
        };
        let message = format!("output `{}` of task `{}` {message}", output.path, self.table.name);
        self.errors.push(WorkfileError::new(ErrorKind::BadValue, *place, message).hint(hint));
    }

    fn awaited(&mut self, awaited: &Awaited<'_>) -> Option<Act> {
        let written = self.text(&awaited.id)?;
        match written.parse() {
            Ok(id) => Some(Act::Await { id, branch: awaited.branch }),
            Err(why) => {
                let message = format!("`{written}`, which task `{}` awaits, is no task's id: {why}", self.table.name);
                let error = WorkfileError::new(ErrorKind::BadValue, awaited.id.place, message);
                self.errors
                    .push(error.hint("`quipu plan --json` in its workspace shows ids: `bafyr4i...`, 59 characters"));
                None
            }
        }
    }

    fn wait(&mut self, key: &str, wait: &Wait<'_>) -> Option<WaitSpec> {
        let mut checked = |text: &Str<'_>, is_good: fn(&str) -> bool, what: &str| {
            let written = self.text(text)?;
            if !is_good(&written) {
                let message = format!("`{written}` is not {what}, which task `{}` is to wait for", self.table.name);
                self.errors.push(WorkfileError::new(ErrorKind::BadValue, text.place, message));
                return None;
            }
            Some(written)
        };
        let what = match &wait.on {
            WaitOn::Tcp(text) => {
                let is_address =
                    |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                WaitFor::Tcp(checked(text, is_address, "an address such as `localhost:5432`")?)
            }
            WaitOn::Http(text, code) => {
                let is_url = |text: &str| http_parts(text).is_some();
                let url = checked(text, is_url, "an address such as `http://localhost:8080/ready`")?;
                WaitFor::Http { url, code: *code }
            }
            WaitOn::File(text) => {
                let written = self.text(text)?;
                let path = paths::normalise(&self.cache.dir, &written);
                WaitFor::File(
                    path.map_err(|why| self.bad_path(&format!("{key}.file"), &written, text.place, &why)).ok()?.into(),
                )
            }
            WaitOn::Command(Run::Argv(argv)) => {
                WaitFor::Command(argv.iter().map(|t| self.text(t)).collect::<Option<_>>()?)
            }
            WaitOn::Command(Run::Shell(text)) => {
                let script = self.text(text)?;
                WaitFor::Command(self.cache.shell.iter().cloned().chain([script]).collect())
            }
        };
        Some(WaitSpec { what, every: wait.every.unwrap_or(WAIT_EVERY) })
    }
}
