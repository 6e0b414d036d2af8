//! The tier `ns`: a process in namespaces of its own, alone or as a service.
//!
//! Knows what goes into a sandbox and what is taken from it; unaware of how one is made.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use quipu_store::checkout::Donor;
use quipu_store::ingest::Ingested;
use quipu_store::receipt::FailureKind;
use quipu_store::stamp::FileKind;
use quipu_store::tree::Entry;
use quipu_store::{Store, Take};

use super::serve::{Place, Serve};
use super::{Ends, Ran, Shared, executor_failed};
use crate::exec::Job;
use crate::exec::capture::Streams;
use crate::exec::collect::{Artifacts, Declared};
use crate::exec::offers::Offer;
use crate::exec::plain::{Halt, Plain};
use crate::exec::sandbox::{Enter, EnterError, Entered, Sandbox};
use crate::exec::secrets::Secrets;
use crate::exec::spawn::{Ended, Reads};
use crate::exec::stop::StopFlag;
use crate::exec::trace::Trace;

impl Shared {
    /// The tier `ns`: in namespaces of its own. Once more where it may have seen files that nobody declared; each time
    /// fewer directories are bound whole.
    pub(super) fn run_in_sandbox(
        &self,
        job: &Job,
        plain: &Plain,
        secrets: &Secrets,
        ends: Ends<'_>,
        streams: &mut Streams,
        trace: Option<&Trace>,
    ) -> Result<Ran, Halt> {
        let mut begun = None;
        loop {
            if let Some(ran) = self.enter_and_run(job, plain, secrets, (ends, &mut begun), streams, trace)? {
                return Ok(ran);
            }
            *streams = Streams::new(&job.store, job.sink.clone(), secrets);
        }
    }

    /// Runs it once; `None` where what it made is not to be taken, since it may have seen files that nobody declared.
    fn enter_and_run<'e>(
        &self,
        job: &Job,
        plain: &Plain,
        secrets: &Secrets,
        (ends, begun): (Ends<'e>, &mut Option<Ends<'e>>),
        streams: &mut Streams,
        trace: Option<&Trace>,
    ) -> Result<Option<Ran>, Halt> {
        let spec = &plain.spec;
        let declared = Declared::new(&spec.outputs)?;
        let sandbox = self.sandbox()?;
        let stdin = self.stdin(spec)?;
        let sources = job.sources.iter().map(|(path, stamp)| (&**path, stamp.kind == FileKind::Symlink)).collect();
        let task = self.to_enter(job, plain, sources);
        let mut entered = sandbox.enter(task).inspect_err(|error| {
            if let EnterError::Unavailable(_) = error {
                let _ = self.unavailable.set(error.to_string());
            }
        })?;
        if let Some(trace) = trace {
            entered.trace(trace);
        }
        *begun = begun.or_else(|| ends.begin(job));
        let Some(ends) = *begun else { return Ok(Some(Ran::stopped())) };
        let outputs = entered.outputs();
        let stdout = match (&spec.stdout, &outputs) {
            (Some(path), Some(outputs)) => {
                Some(File::create(outputs.join(&**path)).map_err(executor_failed("standard output"))?)
            }
            (Some(path), None) => return Err(FailureKind::UndeclaredOutput { path: path.to_string() }.into()),
            (None, _) => None,
        };
        let mut ran = Ran::default();
        for (i, argv) in plain.steps.iter().enumerate() {
            let last = i + 1 == plain.steps.len();
            let ended = match ends.serve.filter(|_| last) {
                None => {
                    let process = entered.start(argv, &stdin, stdout.as_ref())?;
                    process.supervise(streams, ends.deadline, ends.stop, &mut || entered.end_rest())
                }
                Some(serve) => serve_in(&mut entered, serve, argv, &stdin, ends.stop, streams)?,
            };
            self.note(&mut ran, ended.map_err(executor_failed("waiting for it"))?);
            if ran.forced.is_some() || ran.result.is_err() || ends.serve.is_some_and(|_| last) {
                return Ok(Some(ran));
            }
        }
        if trace.is_none() && entered.is_disturbed() {
            return Ok(None);
        }
        let mut taken = Vec::new();
        ran.result = take_outputs(&entered, &declared, secrets, &job.store, &mut taken);
        // Through a network a task could have handed what it writes with to somebody who is still there.
        let is_sealed = !spec.network && job.company.is_none() && trace.is_none();
        if let (Ok(artifacts), Some(root), true) = (&ran.result, entered.outputs(), is_sealed)
            && let Some(left) = entered.leave_outputs()
        {
            let paths = artifacts.keys().cloned().collect();
            self.workspace.offer(Offer::new(Donor::new(&root, taken), paths, Box::new(left)));
        }
        Ok(Some(ran))
    }

    /// What a sandbox is to hold.
    pub(super) fn to_enter<'a>(&'a self, job: &Job, plain: &'a Plain, sources: Vec<(&'a str, bool)>) -> Enter<'a> {
        Enter {
            workspace: self.workspace.root(),
            sources,
            artifacts: plain.artifacts.iter().map(|(path, entry)| (&**path, entry)).collect(),
            outputs: &plain.spec.outputs,
            env: &plain.env,
            dir: &plain.spec.dir,
            network: plain.spec.network,
            company: job.company,
        }
    }

    pub(super) fn sandbox(&self) -> Result<Arc<Sandbox>, Halt> {
        let mut sandbox = self.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sandbox) = &*sandbox {
            return Ok(sandbox.clone());
        }
        let made = Arc::new(Sandbox::new(self.workspace.store(), self.workspace.root())?);
        *sandbox = Some(made.clone());
        Ok(made)
    }
}

/// Runs a service: commands that look at it run beside it, and see what it sees.
fn serve_in(
    entered: &mut Entered<'_>,
    serve: &Serve<'_>,
    argv: &[String],
    stdin: &Reads,
    stop: &StopFlag,
    streams: &mut Streams,
) -> Result<io::Result<Ended>, FailureKind> {
    let is_apart = entered.is_apart();
    let entered = Mutex::new(entered);
    let whole = || entered.lock().unwrap_or_else(PoisonError::into_inner);
    let files = |path: &str| whole().memory().is_some_and(|ws| ws.join(path).exists());
    let start = |argv: &[String]| whole().start(argv, &Reads::Nothing, None);
    let socket = |is_v4| whole().socket(is_v4);
    let place = Place { files: &files, start: &start, socket: if is_apart { Some(&socket) } else { None } };
    serve.expect_nothing(&place)?;
    let process = whole().start(argv, stdin, None)?;
    Ok(serve.attend(process, streams, stop, &mut || whole().end_rest(), &place))
}

/// Takes what a task left in its sandbox.
fn take_outputs(
    entered: &Entered<'_>,
    declared: &Declared<'_>,
    secrets: &Secrets,
    store: &Store,
    taken: &mut Vec<Ingested>,
) -> Result<Artifacts, FailureKind> {
    if let Some(memory) = entered.memory() {
        declared.check_nothing_else(&memory, &|path| entered.is_elsewhere(path))?;
    }
    let Some(outputs) = entered.outputs() else { return Ok(Artifacts::new()) };
    let is_input = |path: &str| entered.is_input(path);
    declared.check_nothing_else(&outputs, &is_input)?;
    declared.check_hides(&outputs, secrets, &is_input)?;
    declared.collect(store, &outputs, None, Take::Move, &is_input, &mut |found| taken.push(found))
}

/// A sandbox that cannot be entered because bytes of inputs vanished meanwhile says nothing of the task.
pub(super) fn or_gone(halt: Halt, store: &Store, artifacts: &[(String, Entry)]) -> Halt {
    let is_gone = |entry: &Entry| store.complete(entry).is_ok_and(|complete| !complete);
    let gone: Vec<String> =
        artifacts.iter().filter(|(_, entry)| is_gone(entry)).map(|(path, _)| path.clone()).collect();
    match halt {
        Halt::Failed(_) if !gone.is_empty() => Halt::Gone(gone),
        halt => halt,
    }
}

#[cfg(test)]
mod tests {
    use quipu_store::cid::{BlobId, Codec};
    use quipu_store::sign::Signer;
    use quipu_store::{Options, SignerSource};

    use super::*;

    #[test]
    fn a_sandbox_refused_for_want_of_bytes_asks_for_them_and_any_other_is_a_failure() {
        let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32]))));
        let file = |blob| Entry::File { blob, size: 2, exec: false };
        let there = store.put(Codec::Raw, b"ab".to_vec()).expect("is put").try_into().expect("is raw");
        let refused = || Halt::Failed(FailureKind::Executor { why: "sandbox: something is not there any more".into() });
        let all = [("there".to_owned(), file(there)), ("lost".to_owned(), file(BlobId::of(b"cd")))];
        assert!(matches!(or_gone(refused(), &store, &all), Halt::Gone(paths) if paths == ["lost"]));
        assert!(matches!(or_gone(refused(), &store, &all[..1]), Halt::Failed(_)));
    }
}
