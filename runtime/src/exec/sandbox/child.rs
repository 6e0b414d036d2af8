//! What happens between the fork and the task: a view of the file system is put together, privileges are given up, the
//! steps are run one after the other.
//!
//! Runs in a copy of a process that had many threads. Invariant: nothing here allocates, locks or panics; all texts
//! were made before. Unaware of what the mounts are for.
#![expect(unsafe_code, reason = "starts the task in memory shared with its init")]

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid, Signal};

use crate::exec::sys::{self, Pointers, Stack, Usage};

/// The descriptor reports go to, in the child.
const REPORT: RawFd = 3;

/// One thing to be seen at another place.
pub(super) struct Bind {
    pub(super) from: CString,
    /// Relative to the new root.
    pub(super) to: CString,
    /// With what is mounted below it.
    pub(super) recursive: bool,
}

/// One command line.
pub(super) struct Step {
    /// Files to try, in order.
    pub(super) programs: Vec<CString>,
    pub(super) argv: Pointers,
}

/// All that is to be done, prepared to the last byte.
pub(super) struct Script {
    pub(super) uid_map: Vec<u8>,
    pub(super) gid_map: Vec<u8>,
    /// The directory that becomes the root.
    pub(super) root: CString,
    /// What is bound read-only, in this order.
    pub(super) binds: Vec<Bind>,
    /// Mounts in the new root that may be written to.
    pub(super) writable: Vec<CString>,
    /// Empty file systems in memory, to be written to.
    pub(super) memory: Vec<CString>,
    pub(super) filter: Vec<libc::sock_filter>,
    pub(super) dir: CString,
    pub(super) steps: Vec<Step>,
    pub(super) env: Pointers,
    /// Standard input, output and error.
    pub(super) stdio: [RawFd; 3],
    pub(super) report: RawFd,
}

/// Where it may fail. The order is that of [`Stage::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Stage {
    Descriptors,
    UserMap,
    HostName,
    Root,
    Bind,
    Proc,
    ReadOnly,
    Memory,
    Pivot,
    Privileges,
    Filter,
    Fork,
    Dir,
    Exec,
}

impl Stage {
    pub(super) const ALL: [Self; 14] = [
        Self::Descriptors,
        Self::UserMap,
        Self::HostName,
        Self::Root,
        Self::Bind,
        Self::Proc,
        Self::ReadOnly,
        Self::Memory,
        Self::Pivot,
        Self::Privileges,
        Self::Filter,
        Self::Fork,
        Self::Dir,
        Self::Exec,
    ];
}

/// What the child has to say: once, when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// It did not get to a program: where, at which item of the script, and what the kernel said.
    Failed { stage: Stage, index: u32, errno: i32 },
    /// The step that was the last to run ended so (in the form `wait` gives).
    Ended { step: u32, status: i32, usage: Usage },
}

/// Bytes of a [`Report`] on its way.
pub(super) const REPORT_BYTES: usize = 40;

impl Report {
    fn encode(self) -> [u8; REPORT_BYTES] {
        let (words, wide): ([u32; 4], [u64; 3]) = match self {
            Self::Failed { stage, index, errno } => ([1, stage as u32, index, errno.cast_unsigned()], [0; 3]),
            Self::Ended { step, status, usage } => {
                let cpu = usage.cpu;
                ([2, step, status.cast_unsigned(), cpu.subsec_nanos()], [cpu.as_secs(), usage.rss_bytes, 0])
            }
        };
        let mut bytes = [0; REPORT_BYTES];
        let words = words.iter().flat_map(|w| w.to_le_bytes());
        let wide = wide.iter().flat_map(|w| w.to_le_bytes());
        bytes.iter_mut().zip(words.chain(wide)).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads what [`Report::encode`] wrote; anything else is `None`.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |i: usize| bytes.get(4 * i..4 * i + 4)?.try_into().ok().map(u32::from_le_bytes);
        let wide = |i: usize| bytes.get(16 + 8 * i..24 + 8 * i)?.try_into().ok().map(u64::from_le_bytes);
        Some(match word(0)? {
            1 => {
                let stage = *Stage::ALL.get(word(1)? as usize)?;
                Self::Failed { stage, index: word(2)?, errno: word(3)?.cast_signed() }
            }
            2 => {
                let cpu = std::time::Duration::new(wide(0)?, word(3)?.min(999_999_999));
                Self::Ended {
                    step: word(1)?,
                    status: word(2)?.cast_signed(),
                    usage: Usage { cpu, rss_bytes: wide(1)? },
                }
            }
            _ => return None,
        })
    }
}

type Failed = (Stage, u32, i32);

/// Runs the script: the whole life of the first process of the new namespaces.
pub(super) fn run(script: &Script, stack: &mut Stack) -> i32 {
    let report = match set_up(script).and_then(|()| steps(script, stack)) {
        Ok(report) => report,
        Err((stage, index, errno)) => Report::Failed { stage, index, errno },
    };
    tell(report);
    0
}

fn tell(report: Report) {
    // SAFETY: the descriptor is open for as long as this process lives.
    let fd = unsafe { BorrowedFd::borrow_raw(REPORT) };
    let _ = rustix::io::write(fd, &report.encode());
}

/// The kernel's number of an error, as `map_err` wants it.
fn at(stage: Stage, index: usize) -> impl Fn(rustix::io::Errno) -> Failed {
    move |errno| (stage, index as u32, errno.raw_os_error())
}

fn at_raw(stage: Stage, index: usize) -> impl Fn(i32) -> Failed {
    move |errno| (stage, index as u32, errno)
}

fn set_up(script: &Script) -> Result<(), Failed> {
    // Should quipu die, so does this process, and with it everything in its namespace. Should it have died already,
    // nobody reads the reports any more.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    for (to, from) in script.stdio.into_iter().enumerate() {
        sys::dup_to(from, to as RawFd).map_err(at_raw(Stage::Descriptors, to))?;
    }
    sys::dup_to(script.report, REPORT).map_err(at_raw(Stage::Descriptors, 3))?;
    // Above all the pipes of other tasks, which would not end before this one.
    sys::close_from(REPORT + 1).map_err(at_raw(Stage::Descriptors, 4))?;
    if orphaned() {
        sys::exit_now(1);
    }
    for (index, (path, text)) in [
        (c"/proc/self/setgroups", &b"deny"[..]),
        (c"/proc/self/gid_map", &script.gid_map),
        (c"/proc/self/uid_map", &script.uid_map),
    ]
    .into_iter()
    .enumerate()
    {
        write_to(path, text).map_err(at(Stage::UserMap, index))?;
    }
    // The copy of quipu's memory in this process is nothing a task could look into.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    rustix::system::sethostname(b"quipu").map_err(at(Stage::HostName, 0))?;
    mounts(script)?;
    rustix::thread::set_no_new_privs(true).map_err(at(Stage::Privileges, 0))?;
    sys::drop_capabilities().map_err(at_raw(Stage::Privileges, 1))?;
    sys::install_filter(&script.filter).map_err(at_raw(Stage::Filter, 0))
}

fn orphaned() -> bool {
    // SAFETY: the descriptor is open for as long as this process lives.
    let report = unsafe { BorrowedFd::borrow_raw(REPORT) };
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(report, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = rustix::event::poll(&mut fds, Some(&now));
    fds.iter().any(|fd| fd.revents().contains(rustix::event::PollFlags::ERR))
}

fn write_to(path: &CStr, text: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text)?;
    Ok(())
}

fn mounts(script: &Script) -> Result<(), Failed> {
    // What is copied from another user namespace hears of the host's mounts and never the other way round, so that
    // nothing done here needs to be made private first.
    rustix::mount::mount_bind(&*script.root, &*script.root).map_err(at(Stage::Root, 0))?;
    rustix::process::chdir(&*script.root).map_err(at(Stage::Root, 1))?;
    for (index, bind) in script.binds.iter().enumerate() {
        if bind.recursive {
            rustix::mount::mount_bind_recursive(&*bind.from, &*bind.to)
        } else {
            rustix::mount::mount_bind(&*bind.from, &*bind.to)
        }
        .map_err(at(Stage::Bind, index))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(c"proc", c"proc", c"proc", quiet | MountFlags::NOEXEC, None::<&CStr>)
        .map_err(at(Stage::Proc, 0))?;
    sys::mount_setattr(c".", true, sys::MOUNT_RDONLY | sys::MOUNT_NOSUID, 0).map_err(at_raw(Stage::ReadOnly, 0))?;
    for (index, path) in script.writable.iter().enumerate() {
        sys::mount_setattr(path, false, 0, sys::MOUNT_RDONLY).map_err(at_raw(Stage::ReadOnly, 1 + index))?;
    }
    for (index, path) in script.memory.iter().enumerate() {
        rustix::mount::mount(c"tmpfs", &**path, c"tmpfs", quiet, c"mode=1777").map_err(at(Stage::Memory, index))?;
    }
    rustix::process::pivot_root(c".", c".").map_err(at(Stage::Pivot, 0))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(at(Stage::Pivot, 1))?;
    rustix::process::chdir(c"/").map_err(at(Stage::Pivot, 2))
}

/// Runs the steps until one fails, reaping whatever else ends meanwhile.
fn steps(script: &Script, stack: &mut Stack) -> Result<Report, Failed> {
    sys::keep_zombies();
    let mut usage = Usage::default();
    let mut last = (0, 0);
    for (index, step) in script.steps.iter().enumerate() {
        sys::rewind(0);
        let failed = std::cell::Cell::new(None);
        // SAFETY: the closure makes system calls and sets one cell, which this thread looks at only afterwards.
        let pid = unsafe {
            sys::vfork(stack, &|| {
                let (stage, errno) = become_step(script, step);
                failed.set(Some((stage, index as u32, errno)));
                1
            })
        };
        let pid = pid.map_err(at_raw(Stage::Fork, index))?;
        let (status, used) = wait_for(pid);
        if let Some(failed) = failed.get() {
            return Err(failed);
        }
        usage = usage.and(used);
        last = (index as u32, status);
        if status != 0 {
            break;
        }
    }
    Ok(Report::Ended { step: last.0, status: last.1, usage })
}

/// Becomes the step's program; says why not.
fn become_step(script: &Script, step: &Step) -> (Stage, i32) {
    let _ = rustix::process::setsid();
    sys::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if let Err(errno) = rustix::process::chdir(&*script.dir) {
        return (Stage::Dir, errno.raw_os_error());
    }
    if let Err(errno) = sys::close_from_on_exec(REPORT) {
        return (Stage::Descriptors, errno);
    }
    let mut worst = libc::ENOENT;
    for program in &step.programs {
        match sys::execve(program, &step.argv, &script.env) {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            errno => return (Stage::Exec, errno),
        }
    }
    (Stage::Exec, worst)
}

fn wait_for(pid: Pid) -> (i32, Usage) {
    loop {
        if sys::asked_or_child() {
            sys::ask_all();
        }
        let mut found = None;
        while let Some((ended, status, usage)) = sys::reap_any() {
            if ended == pid {
                found = Some((status, usage));
            }
        }
        if let Some(found) = found {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let usage = Usage { cpu: std::time::Duration::new(3, 999_999_999), rss_bytes: 1 << 40 };
        for report in [
            Report::Failed { stage: Stage::Exec, index: 3, errno: -2 },
            Report::Failed { stage: Stage::Descriptors, index: u32::MAX, errno: 1 },
            Report::Ended { step: 1, status: 0x7f00, usage },
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0; REPORT_BYTES]), None);
        assert_eq!(Report::decode(b"\x01"), None);
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }
}
