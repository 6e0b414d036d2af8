//! A service while it runs: it is looked at until it is ready, and then goes on until it is asked to end.
//!
//! Knows one process and one thing to look at; unaware of who needs it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use quipu_store::Store;
use quipu_store::receipt::FailureKind;
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Ran;
use crate::exec::capture::Streams;
use crate::exec::collect::Artifacts;
use crate::exec::probe::{connect, of_machine, status};
use crate::exec::secrets::Secrets;
use crate::exec::spawn::{Ended, Forced, Process};
use crate::exec::stop::StopFlag;
use crate::exec::sys::Status;
use crate::exec::wait::ONE_LOOK;
use crate::exec::{Job, Ready, Stop};
use crate::wait::{WaitFor, WaitSpec};

/// Where a service runs, for those who look at it.
pub(super) struct Place<'a> {
    /// Whether a file is there, by its path from the workspace's root.
    pub(super) files: &'a (dyn Fn(&str) -> bool + Sync),
    /// Starts a command beside the service.
    pub(super) start: &'a (dyn Fn(&[String]) -> Result<Process, FailureKind> + Sync),
    /// Makes a socket in the service's own network, of IPv4 or not; `None` when that is the machine's.
    pub(super) socket: Option<&'a (dyn Fn(bool) -> io::Result<OwnedFd> + Sync + Send)>,
}

/// What is to be seen when a service is ready, and what was seen.
pub(super) struct Serve<'a> {
    what: &'a WaitSpec,
    store: &'a Store,
    ready: &'a Ready,
    deadline: Option<Instant>,
    runtime: Handle,
    seen: AtomicU8,
}

/// It was not ready yet.
const NOTHING: u8 = 0;
/// It became ready.
const READY: u8 = 1;
/// Its time was up before it was ready.
const LATE: u8 = 2;

impl<'a> Serve<'a> {
    /// To be made on a thread of the runtime.
    pub(super) fn new(what: &'a WaitSpec, job: &'a Job, deadline: Option<Instant>) -> Self {
        let (runtime, seen) = (Handle::current(), AtomicU8::new(NOTHING));
        Self { what, store: &job.store, ready: &job.ready, deadline, runtime, seen }
    }

    /// What answers before the service is started would be taken for it.
    pub(super) fn expect_nothing(&self, place: &Place<'_>) -> Result<(), FailureKind> {
        let (_alive, mut over) = watch::channel(false);
        let what = match &self.what.what {
            WaitFor::Tcp(address) => format!("`{address}` takes connections"),
            WaitFor::Http { url, .. } => format!("`{url}` answers"),
            WaitFor::File(path) => format!("`{path}` is there"),
            WaitFor::Command(_) => return Ok(()),
        };
        if self.server_is_ready(place, &mut over) {
            let why = format!("{what} before the service is started: what is it?");
            return Err(FailureKind::Spawn { why });
        }
        Ok(())
    }

    /// Waits for the end of the service, and tells meanwhile when it is ready.
    pub(super) fn attend(
        &self,
        process: Process,
        streams: &mut Streams,
        stop: &StopFlag,
        end_rest: &mut dyn FnMut(),
        place: &Place<'_>,
    ) -> io::Result<Ended> {
        let end_looks = StopFlag::new()?;
        let (tell, over) = watch::channel(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if self.look(place, over, &end_looks) {
                    stop.raise(Stop::Cancel);
                }
            });
            let ended = process.supervise(streams, None, stop, end_rest);
            end_looks.raise(Stop::Kill);
            tell.send_replace(true);
            ended
        })
    }

    /// Looks again and again until it is ready, or over. Whether its time was up before that.
    fn look(&self, place: &Place<'_>, mut over: watch::Receiver<bool>, end: &StopFlag) -> bool {
        while !*over.borrow() {
            let is_ready = match &self.what.what {
                WaitFor::Command(argv) => self.succeeds(place, argv.iter().map(ToString::to_string).collect(), end),
                _ => self.server_is_ready(place, &mut over),
            };
            if is_ready && !*over.borrow() {
                self.seen.store(READY, Ordering::SeqCst);
                (self.ready)();
                return false;
            }
            let left = self.left();
            if left.is_zero() {
                self.seen.store(LATE, Ordering::SeqCst);
                return true;
            }
            self.runtime.block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(self.what.every.min(left)) => {}
                    _ = over.changed() => {}
                }
            });
        }
        false
    }

    /// The time that is left for becoming ready.
    fn left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn server_is_ready(&self, place: &Place<'_>, over: &mut watch::Receiver<bool>) -> bool {
        let sockets = |address: &SocketAddr| match place.socket {
            None => of_machine(address),
            Some(socket) => Ok(TcpSocket::from_std_stream(socket(address.is_ipv4())?.into())),
        };
        let limit = ONE_LOOK.min(self.left());
        self.runtime.block_on(async {
            let look = async {
                match &self.what.what {
                    WaitFor::Tcp(address) => connect(address, &sockets).await.is_some(),
                    WaitFor::Http { url, code } => status(url, &sockets).await == Some(*code),
                    WaitFor::File(path) => (place.files)(path),
                    WaitFor::Command(_) => false,
                }
            };
            tokio::select! {
                looked = tokio::time::timeout(limit, look) => looked == Ok(true),
                _ = over.changed() => false,
            }
        })
    }

    fn succeeds(&self, place: &Place<'_>, argv: Vec<String>, end: &StopFlag) -> bool {
        let Ok(process) = (place.start)(&argv) else { return false };
        let mut unheard = Streams::new(self.store, Arc::new(|_, _| {}), &Secrets::default());
        let until = Instant::now().checked_add(ONE_LOOK.min(self.left()));
        let ended = process.supervise(&mut unheard, until, end, &mut || {});
        ended.is_ok_and(|ended| ended.status == Status::Exit(0) && ended.forced.is_none())
    }

    /// What its end means: it was to go on until it was asked to end.
    pub(super) fn judge(&self, ran: Ran) -> Ran {
        match (ran.forced, self.seen.load(Ordering::SeqCst)) {
            (Some(_), LATE) => Ran { forced: Some(Forced::Timeout), ..ran },
            (Some(_), READY) => Ran { forced: None, result: Ok(Artifacts::new()), ..ran },
            (None, _) => Ran { result: ran.result.and(Err(FailureKind::Exit { code: 0 })), ..ran },
            _ => ran,
        }
    }
}
