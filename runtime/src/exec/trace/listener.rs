//! The thread that hears of a task's calls and lets each go on once it is noted.
//!
//! Knows how a call becomes events; unaware of sandboxes and of what the events are for. A task waits while one of its
//! calls is noted, so nothing here waits for the task.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use super::calls::{self, Asked};
use super::notify::{Call, Notifications, read_text};
use super::tracee::{Root, is_of_interest};
use super::{Act, Event, Found, Place, Trace};

/// Scripts run by scripts, as many as the kernel allows.
const MAX_INTERPRETERS: usize = 5;

/// Hears of one step of a task.
pub(crate) struct Listener {
    program: Vec<libc::sock_filter>,
    /// Goes to the step; its end says that the step has ended.
    step: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts to listen. What is heard goes to `trace`.
    pub(crate) fn new(trace: &Trace) -> io::Result<Self> {
        let (ours, step) = io::pipe()?;
        let (ours, trace) = (File::from(OwnedFd::from(ours)), trace.clone());
        let thread = std::thread::Builder::new().name("trace".into()).spawn(move || {
            if let Err(error) = listen(ours, &trace) {
                trace.fail(format!("the trace broke off: {error}"));
            }
        })?;
        Ok(Self { program: calls::program(), step: Some(step.into()), thread: Some(thread) })
    }

    /// What the step puts in force, and where it tells of the descriptor it gets for that.
    pub(crate) fn hook(&self) -> (&[libc::sock_filter], RawFd) {
        (&self.program, self.step.as_ref().expect("it is there until the listener ends").as_raw_fd())
    }
}

impl Drop for Listener {
    /// Returns when everything is noted. By now nothing of the step runs.
    fn drop(&mut self) {
        self.step = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(mut step: File, trace: &Trace) -> io::Result<()> {
    let mut number = [0; 4];
    match step.read_exact(&mut number) {
        // The step was never started.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        other => other?,
    }
    let calls = Notifications::new(i32::from_le_bytes(number));
    let mut root = None;
    loop {
        let mut fds = [PollFd::new(calls.fd(), PollFlags::IN), PollFd::new(&step, PollFlags::empty())];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let [heard, ended] = fds.map(|fd| fd.revents());
        if heard.contains(PollFlags::IN) {
            if let Some(call) = calls.receive()? {
                let events = match &mut root {
                    Some(root) => Ok(events(&call, root)),
                    none => Root::of(call.thread).map(|made| events(&call, none.insert(made))),
                };
                let is_waiting = calls.is_waiting(&call);
                calls.go_on(&call);
                if is_waiting {
                    events?.into_iter().for_each(|event| trace.add(event));
                }
            }
        } else if !heard.is_empty() || !ended.is_empty() {
            return Ok(());
        }
    }
}

/// What a call does.
fn events(call: &Call, root: &mut Root) -> Vec<Event> {
    let mut events = Vec::new();
    for asked in calls::asked(call.number, &call.args) {
        match asked {
            Asked::Listing(fd) => {
                if let Some(path) = root.path_of(call.thread, fd) {
                    let followed = root.follow("/", &path, false);
                    events.push(Event { act: Act::List, place: followed.place, found: followed.found });
                }
            }
            Asked::Path { from, text, act, follow } => {
                let Some(path) = read_text(call.thread, text).and_then(|t| String::from_utf8(t).ok()) else { continue };
                // It is about the descriptor, which was opened before.
                if path.is_empty() {
                    continue;
                }
                let from = if path.starts_with('/') { None } else { root.path_of(call.thread, from) };
                if from.is_none() && !path.starts_with('/') {
                    continue;
                }
                let from = from.unwrap_or_default();
                let whole = if path.starts_with('/') { &path } else { &from };
                if act == Act::Run || is_of_interest(whole) || path.contains("..") {
                    path_events(root, &from, &path, act, follow, &mut events);
                }
            }
        }
    }
    events
}

fn path_events(root: &mut Root, from: &str, path: &str, act: Act, follow: bool, events: &mut Vec<Event>) {
    let (mut from, mut path) = (from.to_owned(), path.to_owned());
    for _ in 0..MAX_INTERPRETERS {
        let followed = root.follow(&from, &path, follow);
        let links = followed.links.into_iter();
        events.extend(links.map(|link| Event { act: Act::Read, place: Place::Inside(link), found: Found::File }));
        let is_run = act == Act::Run && followed.found == Found::File;
        let interpreter = match &followed.place {
            _ if !is_run => None,
            Place::Inside(path) => root.interpreter(&format!("/ws/{path}")),
            Place::Outside(path) => root.interpreter(path),
        };
        // Programs elsewhere go by the name they were run by.
        let place = match followed.place {
            Place::Outside(_) if path.starts_with('/') => Place::Outside(path.clone()),
            place => place,
        };
        events.push(Event { act, place, found: followed.found });
        match interpreter {
            Some(interpreter) => (from, path) = ("/".to_owned(), interpreter),
            None => return,
        }
    }
}
