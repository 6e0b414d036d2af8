//! Keepers: a process between quipu and a task that runs without namespaces, which sees to it that nothing outlives either.
//!
//! Whatever a task starts and abandons, in whatever session, becomes its keeper's child (it is a subreaper). When the task
//! has ended the keeper ends all of that; when quipu has, however that came, the task too. Unaware of what tasks are for.
//! How it works: `docs/design/sandbox.md`, "Keepers".
#![expect(unsafe_code, reason = "two processes share memory with this one, one of them as long as the task runs")]

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::landlock::Ruleset;
use super::spawn::Launch;
use super::sys::{self, Kin, OwnStack, Pointers, SignalsBlocked, Stack, Status, Usage};

/// Where the keeper has what it is spoken to over.
const CONTROL: RawFd = 3;
/// The task runs, or could not be started.
const STARTED: u8 = b's';
/// The task has ended, and all that is left of it is to end.
const END: u8 = b'e';
/// How often what is left is ended at most: it might fork faster.
const ROUNDS: u32 = 100_000;

/// A keeper with its task.
pub(crate) struct Keeper {
    /// `None` once it has been waited for.
    pid: Option<Pid>,
    control: UnixStream,
    /// Invariant: where it is as long as the keeper lives, which runs on it.
    context: Box<Context>,
}

/// What a keeper needs, and what it has to say.
struct Context {
    program: CString,
    dir: CString,
    argv: Pointers,
    env: Pointers,
    /// Looked at until the task is started, which the caller waits for.
    rules: Option<*const Ruleset>,
    stdio: [RawFd; 3],
    control: RawFd,
    /// The task's number, once it is started.
    task: AtomicI32,
    /// Why it was not started.
    errno: AtomicI32,
    /// The form `wait` gives, with what was used: set when the keeper ends.
    status: AtomicI32,
    usage: UnsafeCell<libc::rusage>,
    /// The keeper's own.
    keeps: UnsafeCell<Stack>,
    /// For the task, until it is another program.
    becomes: UnsafeCell<Stack>,
}

impl OwnStack for Context {
    fn own_stack(&self) -> &UnsafeCell<Stack> {
        &self.keeps
    }
}

// SAFETY: the cells are the keeper's until it has been waited for, and its owner's from then on.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// Starts a process in a group of its own, with a keeper.
pub(crate) fn start(launch: &Launch<'_>, stdio: [RawFd; 3]) -> io::Result<(Pid, Keeper)> {
    let texts = |texts: &mut dyn Iterator<Item = String>| texts.map(CString::new).collect::<Result<Vec<_>, _>>();
    let (control, theirs) = UnixStream::pair()?;
    let context = Box::new(Context {
        program: CString::new(launch.program.as_os_str().as_bytes())?,
        dir: CString::new(launch.dir.as_os_str().as_bytes())?,
        argv: Pointers::new(texts(&mut launch.argv.iter().cloned())?),
        env: Pointers::new(texts(&mut launch.env.iter().map(|(name, value)| format!("{name}={value}")))?),
        rules: launch.rules.map(std::ptr::from_ref),
        stdio,
        control: theirs.as_raw_fd(),
        task: AtomicI32::new(0),
        errno: AtomicI32::new(0),
        status: AtomicI32::new(-1),
        // SAFETY: all zeroes is a valid rusage.
        usage: UnsafeCell::new(unsafe { std::mem::zeroed() }),
        keeps: UnsafeCell::default(),
        becomes: UnsafeCell::default(),
    });
    let mut keeper = Keeper { pid: None, control, context };
    let blocked = SignalsBlocked::new();
    // SAFETY: the context stays where it is until the keeper has been waited for (`Keeper::drop` at the latest). `keep` makes
    // system calls only, and from the moment on at which this thread goes on, none that writes to what is this thread's.
    let pid = unsafe { sys::beside(&*keeper.context, keep) };
    drop(blocked);
    keeper.pid = Some(pid.map_err(io::Error::from_raw_os_error)?);
    drop(theirs);
    let mut said = [0];
    let heard = keeper.control.read_exact(&mut said);
    let (errno, task) = (keeper.context.errno.load(SeqCst), keeper.context.task.load(SeqCst));
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    heard?;
    match Pid::from_raw(task) {
        Some(task) if said == [STARTED] => Ok((task, keeper)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Keeper {
    /// Ends whatever is left of the task, which has ended or does now. When this returns nothing of it runs.
    pub(crate) fn finish(mut self) -> io::Result<(Status, Usage)> {
        self.end()?;
        let status = self.context.status.load(SeqCst);
        if status < 0 {
            return Err(io::Error::other("what looked after it was ended from outside"));
        }
        // SAFETY: the keeper has been waited for.
        let usage = unsafe { &*self.context.usage.get() };
        Ok((Status::from_wait(status), Usage::from_rusage(usage)))
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(pid) = self.pid.take() {
            // When it cannot be told it is gone already.
            let _ = self.control.write_all(&[END]);
            sys::reap(pid)?;
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The whole life of a keeper.
///
/// Runs in this program's memory beside all its threads, with the thread-local storage of one of them. Invariant: nothing here
/// allocates, locks or panics; once `STARTED` is said, no function of the C library is called that may fail, since that
/// writes to `errno`.
extern "C" fn keep(context: &Context) -> i32 {
    if let Err(errno) = prepare(context) {
        // Its descriptors may still be copies of quipu's own. The caller hears the end of the stream.
        context.errno.store(errno, SeqCst);
        return 1;
    }
    // SAFETY: the caller waits until it hears of this; nobody else looks at the cell.
    let stack = unsafe { &mut *context.becomes.get() };
    // SAFETY: signals are blocked, and the closure makes system calls and writes to an atomic number.
    let started = unsafe { sys::vfork(stack, Kin::Child, &|| become_task(context)) };
    match started {
        Ok(task) => context.task.store(task.as_raw_pid(), SeqCst),
        Err(errno) => context.errno.store(errno, SeqCst),
    }
    // SAFETY: `prepare` put it there, and nothing here closes it.
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL) };
    // The ends of the task's pipes are the task's alone.
    for fd in 0..CONTROL {
        // SAFETY: nothing here uses them.
        unsafe { rustix::io::close(fd) };
    }
    let _ = rustix::io::write(control, &[STARTED]);
    let Ok(task) = started else { return 1 };
    let mut word = [0];
    // Also heard when quipu is gone: then there is nothing to be read.
    while rustix::io::read(control, &mut word) == Err(rustix::io::Errno::INTR) {}
    let _ = kill_process_group(task, Signal::KILL);
    // SAFETY: nobody else looks at the cell until this process is gone.
    let status = unsafe { sys::reap_child(task, context.usage.get()) };
    end_abandoned();
    context.status.store(status.unwrap_or(-1), SeqCst);
    0
}

/// Gets itself ready: a group of its own, which terminals and people do not signal, and the descriptors it needs.
fn prepare(context: &Context) -> Result<(), i32> {
    let raw = rustix::io::Errno::raw_os_error;
    rustix::process::setpgid(None, None).map_err(raw)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(raw)?;
    if let Some(rules) = context.rules {
        rustix::thread::set_no_new_privs(true).map_err(raw)?;
        // SAFETY: the caller has them and waits.
        unsafe { &*rules }.enforce()?;
    }
    // Out of the way of the places that are taken next.
    let [mut stdin, mut stdout, mut stderr, mut control] = [0; 4];
    let fds = context.stdio.iter().chain([&context.control]);
    for (high, fd) in [&mut stdin, &mut stdout, &mut stderr, &mut control].into_iter().zip(fds) {
        *high = sys::dup_above(*fd, CONTROL + 1)?;
    }
    for (to, from) in (0..).zip([stdin, stdout, stderr, control]) {
        sys::dup_to(from, to)?;
    }
    sys::close_from(CONTROL + 1)
}

fn become_task(context: &Context) -> i32 {
    let prepared = (|| {
        rustix::process::setpgid(None, None).map_err(rustix::io::Errno::raw_os_error)?;
        sys::close_from_on_exec(CONTROL)?;
        rustix::process::chdir(&*context.dir).map_err(rustix::io::Errno::raw_os_error)
    })();
    let errno = match prepared {
        Ok(()) => {
            sys::reset_signals();
            sys::execve(&context.program, &context.argv, &context.env)
        }
        Err(errno) => errno,
    };
    context.errno.store(errno, SeqCst);
    1
}

/// Ends all children, and those that become children by that. What may not be ended is left.
fn end_abandoned() {
    for _ in 0..ROUNDS {
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
            return;
        }
        // One at least is about to end; its own children are ours when it has.
        let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;

    fn run(script: &str) -> io::Result<(Pid, Keeper)> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let program = if script.is_empty() { Path::new("/no/such/program") } else { Path::new("/bin/sh") };
        let what = Launch::simple(program, &argv, &env);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        start(&what, [null.as_raw_fd(); 3])
    }

    fn is_alive(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
    }

    /// The numbers that a script wrote down, once there are so many.
    fn numbers(path: &Path, count: usize) -> Vec<String> {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() == count && text.ends_with('\n') {
                return text.lines().map(str::to_owned).collect();
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    #[test]
    fn what_a_task_abandons_is_ended_with_it_in_whatever_session() {
        let dir = tempfile::tempdir().expect("space left");
        let list = dir.path().join("list");
        let note = format!("echo $$ >> {}", list.display());
        // Sessions of their own, twice removed, and one that starts others when it is ended.
        let script = format!(
            "for i in 1 2 3; do (setsid sh -c '{note}; (setsid sh -c \"{}; exec sleep 300\" &) ; exec sleep 300' &); done; \
             while test $(wc -l < {}) -lt 6; do sleep 0.01; done; exit 7",
            note.replace("$$", "\\$\\$"),
            list.display()
        );
        std::fs::write(&list, "").expect("written");
        let (task, keeper) = run(&script).expect("it starts");
        let left = numbers(&list, 6);
        let (status, usage) = {
            // As the executor does: it ends by itself.
            let pidfd = rustix::process::pidfd_open(task, rustix::process::PidfdFlags::empty()).expect("it is there");
            let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).expect("it ends");
            keeper.finish().expect("it was looked after")
        };
        assert_eq!(status, Status::Exit(7));
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
        assert_eq!(left.iter().filter(|pid| is_alive(pid)).count(), 0, "{left:?}");
    }

    #[test]
    fn a_task_whose_keeper_is_dropped_is_ended() {
        let dir = tempfile::tempdir().expect("space left");
        let list = dir.path().join("list");
        let script = format!("echo $$ > {0}; setsid sh -c 'echo $$ >> {0}; sleep 300' & sleep 300", list.display());
        let (_, keeper) = run(&script).expect("it starts");
        let all = numbers(&list, 2);
        drop(keeper);
        assert_eq!(all.iter().filter(|pid| is_alive(pid)).count(), 0, "{all:?}");
    }

    #[test]
    fn a_keeper_that_cannot_get_ready_says_why_and_nothing_else() {
        let (argv, env) = (["true".to_owned()], []);
        let launch = Launch::simple(Path::new("/bin/true"), &argv, &env);
        let error = start(&launch, [-1; 3]).map(drop).expect_err("there are no such descriptors");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn what_cannot_be_started_says_why() {
        let error = run("").map(drop).expect_err("there is no such program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
