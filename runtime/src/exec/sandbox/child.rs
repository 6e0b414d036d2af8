//! What happens between the fork and the task: a cell is entered, the task's own mounts are put together, privileges are
//! given up, the program is started.
//!
//! Runs in this program's memory while the thread that asked for it waits. Invariant: nothing here allocates, locks or
//! panics; all texts were made before. Unaware of what the mounts are for.
#![expect(unsafe_code, reason = "two processes share memory with their parents until they are what they are to be")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::process::Pid;

use super::cell::{Bind, Cell, bind_one};
use super::stage::{Failed, Stage, at, at_raw};
use crate::exec::sys::{self, Kin, Pointers, Stack};
use crate::exec::trace;

/// One change to a task's own mounts. Paths are relative to the template's root.
pub(super) enum Op {
    /// An empty file system in memory.
    Memory(CString),
    /// A directory.
    Dir(CString),
    /// An empty file.
    File(CString),
    /// A file system of layers at `path`, in the first of some ways that works.
    Layers { ways: Vec<CString>, path: CString },
    /// A symbolic link.
    Link { target: CString, path: CString },
    /// Something to be seen at another place.
    Bind(Bind),
    /// Nothing at or below may be written to.
    ReadOnly(CString),
    /// This mount, and none below it, may be written to.
    Writable(CString),
}

/// One command line.
pub(super) struct Step<'a> {
    /// Files to try, in order.
    pub(super) programs: Vec<CString>,
    pub(super) argv: Pointers,
    /// A filter that tells of system calls, and where the descriptor for that goes.
    pub(super) trace: Option<(&'a [libc::sock_filter], RawFd)>,
}

/// What all command lines of a task have in common.
pub(super) struct Common<'a> {
    pub(super) filter: &'a [libc::sock_filter],
    pub(super) dir: CString,
    pub(super) env: Pointers,
}

/// Namespaces that belong to one task: they stay while there are steps to come.
pub(super) struct Own {
    mounts: OwnedFd,
    ipc: OwnedFd,
    /// The workspace as the task sees it, apart from what is mounted in it.
    pub(super) ws: OwnedFd,
}

/// What a step reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stdin<'a> {
    /// What this descriptor is open for. Of nothing that must not be changed: a task can open its descriptors anew, and
    /// differently, through `/proc`.
    Descriptor(RawFd),
    /// What is at this path of the template, where nothing can be written to.
    Path(&'a CStr),
}

/// Where a step runs.
pub(super) enum Where<'a> {
    /// In mounts that are to be made.
    New(&'a [Op]),
    /// Where the step before ran.
    Same(&'a Own),
}

/// Memory for two children to run on.
#[derive(Default)]
pub(super) struct Stacks {
    enters: Stack,
    becomes: Stack,
}

/// Starts a step in a cell. When this returns its program runs.
pub(super) fn start(
    cell: &Cell,
    place: &Where<'_>,
    common: &Common<'_>,
    step: &Step<'_>,
    stdin: Stdin<'_>,
    output: [RawFd; 2],
    stacks: &mut Stacks,
) -> Result<(Pid, Option<Own>), Failed> {
    let outcome = std::cell::Cell::new(Err(Failed { stage: Stage::Fork, index: 0, errno: 0 }));
    let own = std::cell::Cell::new(None);
    let becomes = std::cell::RefCell::new(&mut stacks.becomes);
    let entering = || {
        let started = enter(cell, place, common, step, stdin, &own).and_then(|opened| {
            let stdin = match (&opened, stdin) {
                (Some(file), _) => file.as_raw_fd(),
                (None, Stdin::Descriptor(fd)) => fd,
                (None, Stdin::Path(_)) => {
                    return Err(Failed { stage: Stage::Descriptors, index: 0, errno: libc::EBADF });
                }
            };
            let stdio = [stdin, output[0], output[1]];
            let failed = std::cell::Cell::new(None);
            let becoming = || {
                let (stage, errno) = become_step(common, step, stdio);
                failed.set(Some(Failed { stage, index: 0, errno }));
                1
            };
            let Ok(mut stack) = becomes.try_borrow_mut() else {
                return Err(Failed { stage: Stage::Fork, index: 1, errno: 0 });
            };
            // SAFETY: the closure makes system calls and sets a cell that nobody looks at meanwhile.
            let pid = unsafe { sys::vfork(&mut stack, Kin::Sibling, &becoming) }.map_err(at_raw(Stage::Fork, 2))?;
            Ok((pid, failed.get()))
        });
        outcome.set(started);
        0
    };
    let blocked = sys::SignalsBlocked::new();
    // SAFETY: as above; what it sets is looked at only when it has ended.
    let entered = unsafe { sys::vfork(&mut stacks.enters, Kin::Sharing, &entering) };
    drop(blocked);
    let _ = sys::reap(entered.map_err(at_raw(Stage::Fork, 3))?);
    let (pid, failed) = outcome.into_inner()?;
    if let Some(failed) = failed {
        let _ = sys::reap(pid);
        return Err(failed);
    }
    Ok((pid, own.into_inner()))
}

/// Makes a socket in a cell's network, of IPv4 or of IPv6, with which nobody waits. Says why not.
pub(super) fn socket(cell: &Cell, is_v4: bool) -> Result<OwnedFd, i32> {
    let made = std::cell::Cell::new(Err(libc::ENOTCONN));
    let making = || {
        let Some(network) = &cell.namespaces.network else { return 1 };
        // The network is the user namespace's.
        let entered = sys::enter_namespace(&cell.namespaces.user).and_then(|()| sys::enter_namespace(network));
        made.set(entered.and_then(|()| sys::stream_socket(is_v4)));
        0
    };
    let mut stack = Stack::default();
    let blocked = sys::SignalsBlocked::new();
    // SAFETY: the closure makes system calls and sets a cell that nobody looks at meanwhile. It shares descriptors with us,
    // so that what it opens is ours.
    let pid = unsafe { sys::vfork(&mut stack, Kin::Sharing, &making) };
    drop(blocked);
    let _ = sys::reap(pid?);
    made.into_inner()
}

fn enter(
    cell: &Cell,
    place: &Where<'_>,
    common: &Common<'_>,
    step: &Step<'_>,
    stdin: Stdin<'_>,
    own: &std::cell::Cell<Option<Own>>,
) -> Result<Option<OwnedFd>, Failed> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // This program's own view of processes, to name namespaces by: it shares descriptors with us, so do not lose it.
    let me =
        rustix::fs::open(c"/proc/thread-self/ns", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let me = me.map_err(at(Stage::Enter, 20))?;
    for (index, namespace) in cell.namespaces.in_order().enumerate() {
        sys::enter_namespace(namespace).map_err(at_raw(Stage::Enter, index))?;
    }
    match place {
        Where::New(ops) => {
            sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC).map_err(at_raw(Stage::Enter, 10))?;
            for (index, op) in ops.iter().enumerate() {
                carry_out(op, index)?;
            }
            let open = |name: &CStr, index| {
                rustix::fs::openat(&me, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(at(Stage::Enter, index))
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let ws = rustix::fs::open(c"root/ws", flags, Mode::empty()).map_err(at(Stage::Enter, 15))?;
            own.set(Some(Own { mounts: open(c"mnt", 11)?, ipc: open(c"ipc", 12)?, ws }));
        }
        Where::Same(own) => {
            sys::enter_namespace(&own.ipc).map_err(at_raw(Stage::Enter, 13))?;
            sys::enter_namespace(&own.mounts).map_err(at_raw(Stage::Enter, 14))?;
        }
    }
    let stdin = match stdin {
        Stdin::Descriptor(_) => None,
        Stdin::Path(path) => {
            let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            Some(opened.map_err(at(Stage::Descriptors, 0))?)
        }
    };
    rustix::process::chroot(c"/root").map_err(at(Stage::Pivot, 3))?;
    rustix::process::chdir(c"/").map_err(at(Stage::Pivot, 4))?;
    rustix::thread::set_no_new_privs(true).map_err(at(Stage::Privileges, 0))?;
    sys::drop_capabilities().map_err(at_raw(Stage::Privileges, 1))?;
    sys::install_filter(common.filter).map_err(at_raw(Stage::Filter, 0))?;
    if let Some((program, to)) = step.trace {
        trace::install(program).and_then(|fd| trace::tell(to, fd)).map_err(at_raw(Stage::Trace, 0))?;
    }
    Ok(stdin)
}

fn carry_out(op: &Op, index: usize) -> Result<(), Failed> {
    let (dir_mode, file_mode) = (Mode::from_raw_mode(0o755), Mode::from_raw_mode(0o644));
    let made = at(Stage::Make, index);
    match op {
        Op::Memory(path) => {
            let quiet = MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount(c"tmpfs", &**path, c"tmpfs", quiet, c"mode=1777").map_err(at(Stage::Memory, index))
        }
        Op::Dir(path) => rustix::fs::mkdirat(rustix::fs::CWD, &**path, dir_mode).map_err(made),
        Op::File(path) => {
            rustix::fs::mknodat(rustix::fs::CWD, &**path, FileType::RegularFile, file_mode, 0).map_err(made)
        }
        Op::Layers { ways, path } => {
            let mut result = Err(Failed { stage: Stage::Layers, index, errno: libc::EINVAL });
            for way in ways {
                let mounted = rustix::mount::mount(c"overlay", &**path, c"overlay", MountFlags::empty(), &**way);
                result = mounted.map_err(at(Stage::Layers, index));
                if result.is_ok() {
                    break;
                }
            }
            result
        }
        Op::Link { target, path } => rustix::fs::symlinkat(&**target, rustix::fs::CWD, &**path).map_err(made),
        Op::Bind(bind) => bind_one(bind).map_err(at(Stage::Bind, index)),
        Op::ReadOnly(path) => {
            let attributes = sys::MOUNT_RDONLY | sys::MOUNT_NOSUID;
            sys::mount_setattr(path, true, attributes, 0).map_err(at_raw(Stage::ReadOnly, index))
        }
        Op::Writable(path) => {
            sys::mount_setattr(path, false, 0, sys::MOUNT_RDONLY).map_err(at_raw(Stage::ReadOnly, index))
        }
    }
}

/// Becomes the step's program; says why not.
fn become_step(common: &Common<'_>, step: &Step<'_>, stdio: [RawFd; 3]) -> (Stage, i32) {
    let _ = rustix::process::setsid();
    for (to, from) in (0..).zip(stdio) {
        if let Err(errno) = sys::dup_to(from, to) {
            return (Stage::Descriptors, errno);
        }
    }
    if let Err(errno) = sys::close_from_on_exec(3) {
        return (Stage::Descriptors, errno);
    }
    if let Err(errno) = rustix::process::chdir(&*common.dir) {
        return (Stage::Dir, errno.raw_os_error());
    }
    sys::reset_signals();
    let mut worst = libc::ENOENT;
    for program in &step.programs {
        match sys::execve(program, &step.argv, &common.env) {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            errno => return (Stage::Exec, errno),
        }
    }
    (Stage::Exec, worst)
}
