//! Keepers: processes between quipu and tasks that run without namespaces, which see to it that nothing outlives either.
//!
//! Whatever a task starts and abandons, in whatever session, becomes its keeper's child (it is a subreaper). When the task
//! has ended the keeper ends all of that, and is there for the next one; when quipu has ended, however that came, the task too.
//! Unaware of what tasks are for. How it works: `docs/design/sandbox.md`, "Keepers".
#![expect(
    unsafe_code,
    reason = "processes share memory with this one: a keeper, and a task until it is another program"
)]

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper, wait};

use super::landlock::Ruleset;
use super::spawn::Launch;
use super::sys::{self, OwnStack, Pointers, SignalsBlocked, Stack, Status, Usage};

/// Where the keeper has what it is spoken to over.
const CONTROL: RawFd = 3;
/// To the keeper: start what is described, with these descriptors.
const START: u8 = b's';
/// Ask the task's group to end.
const ASK: u8 = b't';
/// End it.
const KILL: u8 = b'k';
/// From the keeper: the task runs.
const STARTED: u8 = b'r';
/// It could not be started.
const FAILED: u8 = b'f';
/// It has ended, and nothing of it is left.
const ENDED: u8 = b'e';
/// It has ended, and something is left that could not be ended.
const LEFT: u8 = b'l';
/// How often what is left is ended at most: it might fork faster.
const ROUNDS: u32 = 100_000;

/// The keepers of one run that have nothing to do.
#[derive(Default)]
pub(crate) struct Keepers(Mutex<Vec<Keeper>>);

/// A keeper, idle or with a task.
struct Keeper {
    control: UnixStream,
    context: Arc<Context>,
    /// Waits for the keeper's end. Until then it lends the keeper its thread-local storage, which it does not use meanwhile.
    waits: Option<JoinHandle<()>>,
}

/// A task with its keeper, which goes back to the others when nothing is left of the task.
pub(crate) struct Kept {
    /// `None` once the task has ended.
    keeper: Option<Keeper>,
    keepers: Arc<Keepers>,
}

/// What a keeper needs, and what it has to say.
struct Context {
    /// What every task of it is put under.
    rules: Option<*const Ruleset>,
    control: RawFd,
    /// What to start next: the keeper's from `START` on until it has answered.
    task: UnsafeCell<Option<Task>>,
    /// The task's number, once it is started.
    pid: AtomicI32,
    /// Why it was not started, or why there is no keeper.
    errno: AtomicI32,
    /// The form `wait` gives, with what was used: set when the task has ended.
    status: AtomicI32,
    usage: UnsafeCell<libc::rusage>,
    /// The keeper's own.
    keeps: UnsafeCell<Stack>,
    /// For a task, until it is another program.
    becomes: UnsafeCell<Stack>,
}

/// What to start.
struct Task {
    program: CString,
    dir: CString,
    argv: Pointers,
    env: Pointers,
}

impl Task {
    fn new(launch: &Launch<'_>) -> io::Result<Self> {
        let texts = |texts: &mut dyn Iterator<Item = String>| texts.map(CString::new).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            program: CString::new(launch.program.as_os_str().as_bytes())?,
            dir: CString::new(launch.dir.as_os_str().as_bytes())?,
            argv: Pointers::new(texts(&mut launch.argv.iter().cloned())?),
            env: Pointers::new(texts(&mut launch.env.iter().map(|(name, value)| format!("{name}={value}")))?),
        })
    }
}

impl OwnStack for Context {
    fn own_stack(&self) -> &UnsafeCell<Stack> {
        &self.keeps
    }
}

// SAFETY: the stacks are the keeper's alone. The other cells are the keeper's from `START` on until it has said what became
// of it, and its owner's otherwise. The rules are looked at until the first task is started, which who has them waits for.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Keepers {
    /// Starts a process in a group of its own, with a keeper; `stdio` are its first three descriptors.
    pub(crate) fn start(self: &Arc<Self>, launch: &Launch<'_>, stdio: [BorrowedFd<'_>; 3]) -> io::Result<(Pid, Kept)> {
        let task = Task::new(launch)?;
        // Rules cannot be taken off any more: such a keeper has one task.
        let idle = if launch.rules.is_none() { self.idle().pop() } else { None };
        let mut keeper = idle.map_or_else(|| Keeper::new(launch.rules), Ok)?;
        match keeper.start(task, stdio) {
            Ok(pid) => Ok((pid, Kept { keeper: Some(keeper), keepers: Arc::clone(self) })),
            Err((error, is_there)) => {
                if is_there {
                    self.give_back(keeper);
                }
                Err(error)
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Keeper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, keeper: Keeper) {
        if keeper.context.rules.is_none() {
            self.idle().push(keeper);
        }
    }
}

impl Keeper {
    fn new(rules: Option<&Ruleset>) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let context = Arc::new(Context {
            rules: rules.map(std::ptr::from_ref),
            control: theirs.as_raw_fd(),
            task: UnsafeCell::new(None),
            pid: AtomicI32::new(0),
            errno: AtomicI32::new(0),
            status: AtomicI32::new(-1),
            // SAFETY: all zeroes is a valid rusage.
            usage: UnsafeCell::new(unsafe { std::mem::zeroed() }),
            keeps: UnsafeCell::default(),
            becomes: UnsafeCell::default(),
        });
        let its = Arc::clone(&context);
        let waits = move || {
            let _blocked = SignalsBlocked::new();
            // SAFETY: this thread has the context until it has waited for the keeper, which has this thread's local storage
            // for itself meanwhile: a thread that waits in the kernel does not touch it.
            match unsafe { sys::beside(&*its, keep) } {
                Ok(pid) => {
                    drop(theirs);
                    let _ = sys::reap(pid);
                }
                Err(errno) => {
                    its.errno.store(errno, SeqCst);
                    drop(theirs);
                }
            }
        };
        let waits = std::thread::Builder::new().name("quipu-keeper".into()).stack_size(64 << 10).spawn(waits)?;
        Ok(Self { control, context, waits: Some(waits) })
    }

    /// Starts a task. When that fails, whether the keeper is there for another.
    fn start(&mut self, task: Task, stdio: [BorrowedFd<'_>; 3]) -> Result<Pid, (io::Error, bool)> {
        let gone = |error| (error, false);
        // SAFETY: the keeper is idle.
        unsafe { *self.context.task.get() = Some(task) };
        self.context.errno.store(0, SeqCst);
        self.context.status.store(-1, SeqCst);
        let sent = sys::send_descriptors(self.control.as_fd(), START, stdio);
        sent.map_err(|errno| gone(io::Error::from_raw_os_error(errno)))?;
        let mut said = [0];
        let heard = self.control.read_exact(&mut said);
        let errno = self.context.errno.load(SeqCst);
        if errno != 0 {
            return Err((io::Error::from_raw_os_error(errno), said == [FAILED]));
        }
        heard.map_err(gone)?;
        match Pid::from_raw(self.context.pid.load(SeqCst)) {
            Some(task) if said == [STARTED] => Ok(task),
            _ => Err(gone(io::ErrorKind::InvalidData.into())),
        }
    }

    /// What a task came to that has ended; whether something of it is left.
    fn finish(&mut self) -> io::Result<(Status, Usage, bool)> {
        let mut said = [0];
        let heard = self.control.read_exact(&mut said);
        let status = self.context.status.load(SeqCst);
        if heard.is_err() || status < 0 || !matches!(said, [ENDED | LEFT]) {
            return Err(io::Error::other("what looked after it was ended from outside"));
        }
        // SAFETY: the keeper has said that the task has ended.
        let usage = unsafe { &*self.context.usage.get() };
        Ok((Status::from_wait(status), Usage::from_rusage(usage), said == [LEFT]))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It hears of that as of quipu's end.
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        if let Some(waits) = self.waits.take() {
            let _ = waits.join();
        }
    }
}

impl Kept {
    /// Readable once the task has ended and nothing of it runs.
    pub(crate) fn over(&self) -> BorrowedFd<'_> {
        self.keeper.as_ref().expect("the task has not ended before `finish`").control.as_fd()
    }

    /// Asks the task's group to end.
    pub(crate) fn ask(&self) {
        self.say(ASK);
    }

    /// Ends the task's group.
    pub(crate) fn kill(&self) {
        self.say(KILL);
    }

    fn say(&self, word: u8) {
        // A keeper that cannot be told has gone.
        let _ = self.keeper.as_ref().map(|keeper| (&keeper.control).write_all(&[word]));
    }

    /// Waits until the task has ended and whatever was left of it. When this returns nothing of it runs.
    pub(crate) fn finish(mut self) -> io::Result<(Status, Usage)> {
        let mut keeper = self.keeper.take().expect("taken here and by `drop` only");
        let (status, usage, is_left) = keeper.finish()?;
        if !is_left {
            self.keepers.give_back(keeper);
        }
        Ok((status, usage))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut keeper) = self.keeper.take()
            && keeper.finish().is_ok_and(|(_, _, is_left)| !is_left)
        {
            self.keepers.give_back(keeper);
        }
    }
}

/// The whole life of a keeper.
///
/// Runs in this program's memory beside all its threads, with the thread-local storage of the one that waits for it.
/// Invariant: nothing here allocates, locks or panics.
extern "C" fn keep(context: &Context) -> i32 {
    if let Err(errno) = prepare(context) {
        // Its descriptors may still be copies of quipu's own. The caller hears the end of the stream.
        context.errno.store(errno, SeqCst);
        return 1;
    }
    // SAFETY: `prepare` put it there, and nothing here closes it.
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL) };
    // Who does not hear it has gone.
    let say = |word: u8| {
        let _ = rustix::io::write(control, &[word]);
    };
    loop {
        // They take the first free places, which are those that a task has them at.
        match sys::receive_descriptors(control) {
            Ok((START, Some([0, 1, 2]))) => {}
            // Said of a task that had ended by then.
            Ok((ASK | KILL, None)) => continue,
            _ => return 0,
        }
        // SAFETY: nobody else uses the stack.
        let stack = unsafe { &mut *context.becomes.get() };
        // SAFETY: signals are blocked, and the closure makes system calls and writes to an atomic number.
        let started = unsafe { sys::vfork_watched(stack, &|| become_task(context)) };
        let errno = context.errno.load(SeqCst);
        // The ends of the task's pipes are the task's alone.
        let _ = sys::close_range(0, 2);
        let (task, ended) = match started {
            Ok((task, ended)) => (task, ended),
            Err(errno) => {
                context.errno.store(errno, SeqCst);
                say(FAILED);
                continue;
            }
        };
        if errno != 0 {
            drop(ended);
            while wait(WaitOptions::empty()).is_err_and(|error| error == Errno::INTR) {}
            say(FAILED);
            continue;
        }
        context.pid.store(task.as_raw_pid(), SeqCst);
        say(STARTED);
        let is_alone = attend(control, &ended, task);
        let _ = kill_process_group(task, Signal::KILL);
        drop(ended);
        // SAFETY: nobody else looks at the cell until it is said that the task has ended.
        let status = unsafe { sys::reap_child(task, context.usage.get()) };
        let is_left = end_abandoned();
        context.status.store(status.unwrap_or(-1), SeqCst);
        if is_alone {
            return 0;
        }
        say(if is_left { LEFT } else { ENDED });
    }
}

/// Does what it is told until the task has ended; whether quipu is gone.
fn attend(control: BorrowedFd<'_>, ended: &std::os::fd::OwnedFd, task: Pid) -> bool {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(control, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        let _ = poll(&mut fds, None);
        if !fds[1].revents().is_empty() {
            return false;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let mut word = [0];
        match (rustix::io::read(control, &mut word), word) {
            (Err(Errno::INTR), _) => {}
            // Not reaped yet: the group's number is still its own.
            (Ok(1), [ASK]) => drop(kill_process_group(task, Signal::TERM)),
            (Ok(1), [KILL]) => drop(kill_process_group(task, Signal::KILL)),
            _ => return true,
        }
    }
}

/// Gets itself ready: a group of its own, which terminals and people do not signal, and no descriptor but the one it is told
/// over.
fn prepare(context: &Context) -> Result<(), i32> {
    let raw = Errno::raw_os_error;
    rustix::process::setpgid(None, None).map_err(raw)?;
    set_child_subreaper(Some(rustix::process::getpid())).map_err(raw)?;
    // Its tasks have the meanings from it.
    sys::reset_meanings();
    if let Some(rules) = context.rules {
        rustix::thread::set_no_new_privs(true).map_err(raw)?;
        // SAFETY: the caller has them and waits.
        unsafe { &*rules }.enforce()?;
    }
    sys::dup_to_closing(sys::dup_above(context.control, CONTROL + 1)?, CONTROL)?;
    sys::close_range(0, 2)?;
    sys::close_from(CONTROL + 1)
}

fn become_task(context: &Context) -> i32 {
    // SAFETY: the caller waits; nobody changes it meanwhile.
    let Some(task) = (unsafe { &*context.task.get() }) else { return 1 };
    let prepared = rustix::process::setpgid(None, None).and_then(|()| rustix::process::chdir(&*task.dir));
    let errno = match prepared {
        Ok(()) => {
            sys::let_signals_through();
            sys::execve(&task.program, &task.argv, &task.env)
        }
        Err(errno) => errno.raw_os_error(),
    };
    context.errno.store(errno, SeqCst);
    1
}

/// Ends all children, and those that become children by that; whether some are left that may not be ended.
fn end_abandoned() -> bool {
    for _ in 0..ROUNDS {
        loop {
            match wait(WaitOptions::NOHANG) {
                Err(Errno::CHILD) => return false,
                Ok(Some(_)) | Err(Errno::INTR) => {}
                _ => break,
            }
        }
        let mut list = [0; 4096];
        let read = rustix::fs::open(c"/proc/thread-self/children", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut list));
        let mut ended = false;
        let mut number = 0_i32;
        for byte in list.iter().take(read.unwrap_or(0)) {
            match byte {
                b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i32::from(byte.wrapping_sub(b'0'))),
                _ => {
                    let pid = if number > 0 { Pid::from_raw(number) } else { None };
                    ended |= pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
                    number = 0;
                }
            }
        }
        if !ended {
            return true;
        }
        // One at least is about to end; its own children are ours when it has.
        let _ = wait(WaitOptions::empty());
    }
    true
}

#[cfg(test)]
mod tests;
