//! One worker: its sandbox, its process, and a thread that holds both until the worker is not wanted any more.
//!
//! Knows how it is started and ended; unaware of what it is asked.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use quipu_store::receipt::FailureKind;
use rustix::event::{PollFd, PollFlags, poll};

use super::super::super::Stop;
use super::super::super::capture::Streams;
use super::super::super::sandbox::{Enter, Sandbox};
use super::super::super::secrets::Secrets;
use super::super::super::spawn::Reads;
use super::super::super::stop::StopFlag;
use super::super::super::workspace::Workspace;
use super::super::{Shared, executor_failed};
use super::talk::Talk;
use super::{Key, Staged};
use crate::process::{OutputKind, OutputSpec};

/// A worker in its sandbox.
pub(super) struct Worker {
    /// What stands in its workspace.
    pub(super) staged: Staged,
    /// Its process, once it runs.
    talk: Option<Talk>,
    orders: Sender<Order>,
    /// Ends when the process and all it started have ended.
    holder: Option<JoinHandle<()>>,
}

/// What the holder is told. When nobody can tell it anything any more, it ends the worker.
enum Order {
    /// The process is to be started.
    Start(Sender<Result<Talk, FailureKind>>),
}

impl Worker {
    /// Makes a sandbox for a worker; nothing runs in it yet.
    pub(super) fn enter(shared: &Shared, key: &Key) -> Result<Self, FailureKind> {
        let sandbox = shared.sandbox().map_err(|halt| match halt {
            super::Halt::Failed(kind) => kind,
            super::Halt::Gone(_) => FailureKind::Executor { why: "its sandbox is gone".to_owned() },
        })?;
        let (orders, received) = channel();
        let (entered, root) = channel();
        let (workspace, key) = (Arc::clone(&shared.workspace), key.clone());
        let hold = move || hold(&sandbox, &workspace, &key, &entered, &received);
        let holder = std::thread::Builder::new().name("worker".to_owned()).spawn(hold);
        let holder = Some(holder.map_err(executor_failed("a thread for its worker"))?);
        let gone = || FailureKind::Executor { why: "its worker could not be started".to_owned() };
        let root = root.recv().map_err(|_| gone()).and_then(|root| root)?;
        let staged = Staged::new(root).map_err(executor_failed("the place of its worker"))?;
        Ok(Self { staged, talk: None, orders, holder })
    }

    /// Starts its process, unless it runs.
    pub(super) fn start(&mut self) -> Result<(), FailureKind> {
        if self.talk.is_none() {
            let (answer, started) = channel();
            let gone = || FailureKind::Executor { why: "its worker could not be started".to_owned() };
            self.orders.send(Order::Start(answer)).map_err(|_| gone())?;
            self.talk = Some(started.recv().map_err(|_| gone()).and_then(|talk| talk)?);
        }
        Ok(())
    }

    /// Whether its process runs.
    pub(super) fn is_alive(&self) -> bool {
        let Some(talk) = &self.talk else { return false };
        let mut fds = [PollFd::new(&talk.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(0))
    }

    /// Puts a request to it.
    pub(super) fn ask(
        &mut self,
        arguments: &[String],
        inputs: &[(String, String)],
        ends: super::Ends<'_>,
        streams: &mut Streams,
    ) -> Result<super::talk::Answer, FailureKind> {
        self.talk.as_mut().expect("it was started").ask(arguments, inputs, ends, streams)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Who waits for orders hears that there will be none.
        let (nobody, _) = channel();
        drop(std::mem::replace(&mut self.orders, nobody));
        self.talk = None;
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}

/// Holds a sandbox and what runs in it.
fn hold(
    sandbox: &Sandbox,
    workspace: &Workspace,
    key: &Key,
    entered: &Sender<Result<std::path::PathBuf, FailureKind>>,
    orders: &Receiver<Order>,
) {
    // All of its workspace is on the disk, and its own, if something at the top of it is an output.
    let all = [OutputSpec { path: ".quipu-worker".into(), kind: OutputKind::File, optional: true }];
    let task = Enter {
        workspace: workspace.root(),
        sources: vec![],
        artifacts: vec![],
        outputs: &all,
        env: &key.env,
        dir: &key.dir,
        network: key.network,
        company: None,
    };
    let mut inside = match sandbox.enter(task) {
        Ok(inside) => inside,
        Err(error) => return drop(entered.send(Err(error.into()))),
    };
    let Some(root) = inside.outputs() else {
        let why = "its worker has no place to write to".to_owned();
        return drop(entered.send(Err(FailureKind::Executor { why })));
    };
    if entered.send(Ok(root)).is_err() {
        return;
    }
    let Ok(Order::Start(answer)) = orders.recv() else { return };
    let pipes = || -> io::Result<_> { Ok((io::pipe()?, io::pipe()?)) };
    let ((its_requests, requests), (answers, its_answers)) = match pipes() {
        Ok(pipes) => pipes,
        Err(error) => return drop(answer.send(Err(executor_failed("pipes for its worker")(error)))),
    };
    let (its_requests, its_answers) = (File::from(OwnedFd::from(its_requests)), File::from(OwnedFd::from(its_answers)));
    let mut process = match inside.start(&key.argv, &Reads::Open(its_requests), Some(&its_answers)) {
        Ok(process) => process,
        Err(kind) => return drop(answer.send(Err(kind))),
    };
    drop(its_answers);
    let talk = process
        .over()
        .try_clone_to_owned()
        .and_then(|pidfd| Talk::new(pidfd, requests.into(), answers.into(), process.stderr.take()));
    let talked = answer.send(talk.map_err(executor_failed("pipes of its worker")));
    if talked.is_ok() {
        // Until nobody wants it any more.
        let _ = orders.recv();
    }
    let mut streams = Streams::new(workspace.store(), Arc::new(|_, _| {}), &Secrets::default());
    if let Ok(stop) = StopFlag::new() {
        stop.raise(Stop::Kill);
        let _ = process.supervise(&mut streams, None, &stop, &mut || inside.end_rest());
    }
}
