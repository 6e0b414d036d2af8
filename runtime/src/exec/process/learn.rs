//! Running a task over the whole workspace to learn what it touches: declared or not, everything is there to be read, and
//! what it writes goes elsewhere.
//!
//! Knows what a task left and where; unaware of what is proposed from that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use quipu_store::Take;
use quipu_store::ingest::{IngestOptions, Links, ingest_at};
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;

use super::super::capture::Streams;
use super::super::collect::{Artifacts, Declared};
use super::super::plain::{Halt, Plain};
use super::super::secrets::Secrets;
use super::super::spawn::Reads;
use super::super::stop::StopFlag;
use super::super::trace::{Trace, Traced};
use super::super::{Done, Job};
use super::{Ends, ProcessExecutor, Ran, Shared, executor_failed, gone};
use crate::process::OutputKind;

/// Most files that are kept of what a task left.
const MAX_MADE: usize = 200_000;

/// What a task did that could read everything.
#[derive(Debug)]
pub struct Learned {
    /// How it went. Its outputs are in `made`.
    pub done: Done,
    /// What it touched, or why that is not known.
    pub traced: Result<Traced, String>,
    /// Files and links that it made or wrote to and that were there afterwards, by path.
    pub made: BTreeMap<Box<str>, Entry>,
}

impl ProcessExecutor {
    /// Carries out a job in the sandbox `ns`, whatever its own tier is, over all of the workspace as it is, without its
    /// declared outputs. Nothing in the workspace is changed.
    pub async fn learn(&self, job: Job) -> Learned {
        let trace = Trace::default();
        let told = trace.clone();
        let worked = self.in_background(job, move |shared, job, stop| shared.learn(job, stop, &told)).await;
        let (done, made) = worked.unwrap_or_else(|done| (done, BTreeMap::new()));
        Learned { done, traced: trace.finish(), made }
    }
}

impl Shared {
    fn learn(&self, job: &Job, stop: &StopFlag, trace: &Trace) -> (Done, BTreeMap<Box<str>, Entry>) {
        let mut plain = match Plain::read(&job.store, &job.invocation.args) {
            Ok(plain) => plain,
            Err(Halt::Failed(kind)) => return (Done::failed(kind, "ns"), BTreeMap::new()),
            Err(Halt::Gone(paths)) => return (gone(paths, "ns"), BTreeMap::new()),
        };
        plain.spec.tier = crate::process::Tier::Ns;
        let secrets = match Secrets::find(&plain.spec.secrets, &self.surroundings) {
            Ok(secrets) => secrets,
            Err(kind) => return (Done::failed(kind, "ns"), BTreeMap::new()),
        };
        plain.env.extend(secrets.pairs());
        let deadline = job.timeout.and_then(|t| Instant::now().checked_add(t));
        let mut streams = Streams::new(&job.store, job.sink.clone(), &secrets);
        let ran = match self.over_all(job, &plain, &secrets, Ends { deadline, stop, serve: None }, &mut streams, trace)
        {
            Ok(ran) => ran,
            Err(Halt::Failed(kind)) => kind.into(),
            Err(Halt::Gone(paths)) => return (gone(paths, "ns"), BTreeMap::new()),
        };
        let ran = Ran { result: ran.result.map_err(|kind| secrets.tell(kind)), ..ran };
        let made = ran.result.as_ref().ok().cloned().unwrap_or_default();
        (self.finish(job, &plain.spec, ran, streams), made)
    }

    fn over_all(
        &self,
        job: &Job,
        plain: &Plain,
        secrets: &Secrets,
        ends: Ends<'_>,
        streams: &mut Streams,
        trace: &Trace,
    ) -> Result<Ran, Halt> {
        let spec = &plain.spec;
        let declared = Declared::new(&spec.outputs)?;
        let sandbox = self.sandbox()?;
        let stdin = self.stdin(spec)?;
        let mut entered = sandbox.enter_over(&self.to_enter(job, plain, vec![]))?;
        let mut ran = Ran::default();
        // What it made the last time is not there, and what it is written in is.
        let gone = spec.outputs.iter().filter(|o| o.kind != OutputKind::Glob).map(|o| format!("/ws/{}", o.path));
        let parents = declared.parents().chain([spec.dir.to_string()]).map(|dir| format!("/ws/{dir}"));
        let prepare = [("rm", "-rf", gone.collect::<Vec<_>>()), ("mkdir", "-p", parents.collect())];
        for (program, flag, paths) in prepare {
            let argv = [program, flag, "--"].map(str::to_owned).into_iter().chain(paths).collect::<Vec<_>>();
            let process = entered.start(&argv, &Reads::Nothing, None)?;
            let ended = process.supervise(streams, ends.deadline, ends.stop, &mut || entered.end_rest());
            self.note(&mut ran, ended.map_err(executor_failed("waiting for it"))?);
        }
        let top =
            entered.memory().ok_or_else(|| FailureKind::Executor { why: "the sandbox has no workspace".into() })?;
        let stdout = match &spec.stdout {
            Some(path) => Some(File::create(top.join(&**path)).map_err(executor_failed("standard output"))?),
            None => None,
        };
        entered.trace(trace);
        for argv in &plain.steps {
            if ran.forced.is_some() || ran.result.is_err() {
                return Ok(ran);
            }
            let process = entered.start(argv, &stdin, stdout.as_ref())?;
            let ended = process.supervise(streams, ends.deadline, ends.stop, &mut || entered.end_rest());
            self.note(&mut ran, ended.map_err(executor_failed("waiting for it"))?);
        }
        if ran.forced.is_none() && ran.result.is_ok() {
            let writes = trace.writes().into_iter().chain(spec.stdout.iter().map(ToString::to_string));
            ran.result = made(job, &top, writes, secrets);
        }
        Ok(ran)
    }
}

/// Takes what is there of what was written.
fn made(
    job: &Job,
    top: &Path,
    writes: impl Iterator<Item = String>,
    secrets: &Secrets,
) -> Result<Artifacts, FailureKind> {
    let mut made = Artifacts::new();
    let options = IngestOptions { take: Take::Copy, links: Links::Any, ..IngestOptions::default() };
    let mut left: Vec<String> = writes.collect();
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(top.join(&path)) else { continue };
        if found.is_dir() {
            let listing = fs::read_dir(top.join(&path)).map_err(executor_failed("what it made"))?;
            let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            left.extend(names.map(|name| format!("{path}/{name}")));
        } else if (found.is_file() || found.is_symlink()) && !made.contains_key(&*path) {
            if made.len() == MAX_MADE {
                return Err(FailureKind::Executor { why: format!("it made more than {MAX_MADE} files") });
            }
            let bad = |e: &dyn std::fmt::Display| FailureKind::BadOutput { path: path.clone(), why: e.to_string() };
            if !secrets.is_empty() && secrets.are_below(&top.join(&path)).map_err(|e| bad(&e))? {
                return Err(bad(&"the value of a secret is in it"));
            }
            if let Some(found) = ingest_at(&job.store, top, &path, &options).map_err(|e| bad(&e))? {
                made.insert(path.into(), found.entry);
            }
        }
    }
    Ok(made)
}
