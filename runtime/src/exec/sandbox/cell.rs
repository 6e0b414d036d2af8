//! Cells: namespaces with an init of their own, made once and used by one task after the other.
//!
//! A cell's init is a copy of this process (made by a fork, which is why it is not made for each task) that holds a pid
//! namespace open and ends, on request or with us, whatever runs in it. Knows how to make one and how to clean it;
//! unaware of tasks.
#![expect(unsafe_code, reason = "forks, and uses descriptors by number in the child")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid, Signal, pidfd_send_signal};

use super::stage::{Failed, Stage, at, at_raw};
use crate::exec::sys;

/// The descriptor the init is spoken to over.
const CONTROL: RawFd = 3;

/// The set-up is complete: descriptors of the namespaces can be taken.
const READY: u8 = b'r';
/// They were taken: make yourself unreadable, and tell.
const TAKEN: u8 = b't';
/// End everything in the namespace, and tell.
const CLEAN: u8 = b'c';
/// Done as told.
const DONE: u8 = b'd';
/// It did not work; what follows says why.
const FAILED: u8 = b'f';

/// One thing to be seen at another place.
pub(super) struct Bind {
    pub(super) from: CString,
    /// Relative to the new root.
    pub(super) to: CString,
    /// With what is mounted below it.
    pub(super) recursive: bool,
}

/// What the mounts of all tasks have in common, prepared to the last byte.
pub(super) struct Template {
    pub(super) uid_map: Vec<u8>,
    pub(super) gid_map: Vec<u8>,
    /// The directory that becomes the root.
    pub(super) root: CString,
    /// What is bound read-only.
    pub(super) binds: Vec<Bind>,
    /// What among it may be written to by whoever puts a task's own mounts together.
    pub(super) writable: Vec<CString>,
}

/// What network a cell has.
#[derive(Clone, Copy)]
pub(super) enum Network<'a> {
    /// That of the machine.
    Machine,
    /// None.
    None,
    /// One of its own, in which it can talk to itself.
    Own,
    /// That of another cell, with its user namespace, to which it belongs.
    Of { user: &'a OwnedFd, network: &'a OwnedFd },
}

/// Namespaces that wait for a task, or have one.
pub(super) struct Cell {
    pid: Pid,
    pidfd: OwnedFd,
    control: UnixStream,
    pub(super) namespaces: Namespaces,
}

/// What a cell's processes are in.
pub(super) struct Namespaces {
    pub(super) user: OwnedFd,
    pid: OwnedFd,
    uts: OwnedFd,
    mounts: OwnedFd,
    /// `None` where it is that of the machine: nobody may enter that who has rights in a cell alone, and who starts there
    /// is in it.
    pub(super) network: Option<OwnedFd>,
}

impl Namespaces {
    fn open(pid: Pid, network: Network<'_>) -> io::Result<Self> {
        let open = |name| File::open(format!("/proc/{}/ns/{name}", pid.as_raw_pid())).map(OwnedFd::from);
        let network = if let Network::Machine = network { None } else { Some(open("net")?) };
        Ok(Self { user: open("user")?, pid: open("pid")?, uts: open("uts")?, mounts: open("mnt")?, network })
    }

    /// In the order in which they are entered: the first gives the right to enter the others.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &OwnedFd> {
        [&self.user, &self.pid, &self.uts, &self.mounts].into_iter().chain(&self.network)
    }
}

/// Why there is no cell.
pub(super) enum CellError {
    /// No process was made in namespaces of its own.
    Fork(io::Error),
    /// It got so far.
    Failed(Failed),
    /// Something else went wrong.
    Io(io::Error),
}

impl From<io::Error> for CellError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Cell {
    /// Makes one.
    pub(super) fn new(template: &Template, network: Network<'_>) -> Result<Self, CellError> {
        let (mut control, theirs) = UnixStream::pair()?;
        let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS;
        let theirs_raw = theirs.as_raw_fd();
        let more = match network {
            Network::Machine => libc::CLONE_NEWUSER,
            Network::None | Network::Own => libc::CLONE_NEWUSER | libc::CLONE_NEWNET,
            Network::Of { .. } => 0,
        };
        let forked = match network {
            Network::Of { user, network: of } => {
                // SAFETY: as below.
                unsafe { sys::fork_within([user, of], namespaces, || init(template, theirs_raw, network)) }
            }
            // SAFETY: `init` neither allocates nor locks; all it needs is in the template.
            _ => unsafe { sys::fork_into(namespaces | more, || init(template, theirs_raw, network)) },
        };
        let (pid, pidfd) = forked.map_err(CellError::Fork)?;
        drop(theirs);
        let opened = receive(&mut control).and_then(|()| {
            let namespaces = Namespaces::open(pid, network)?;
            control.write_all(&[TAKEN])?;
            receive(&mut control)?;
            Ok(namespaces)
        });
        match opened {
            Ok(namespaces) => Ok(Self { pid, pidfd, control, namespaces }),
            Err(error) => {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = sys::reap(pid);
                Err(error)
            }
        }
    }

    /// Ends whatever runs in it. When this fails the cell is of no use any more, and nothing runs in it either.
    pub(super) fn clean(&mut self) -> io::Result<()> {
        let cleaned = self.control.write_all(&[CLEAN]).and_then(|()| {
            let mut answer = [0];
            self.control.read_exact(&mut answer)?;
            if answer == [DONE] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        if cleaned.is_err() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            // The namespace is empty before its init is a zombie.
            let _ =
                rustix::event::poll(&mut [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)], None);
        }
        cleaned
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = sys::reap(self.pid);
    }
}

fn receive(control: &mut UnixStream) -> Result<(), CellError> {
    let mut kind = [0];
    control.read_exact(&mut kind)?;
    match kind[0] {
        READY | DONE => Ok(()),
        FAILED => {
            let mut bytes = [0; 9];
            control.read_exact(&mut bytes)?;
            Err(Failed::decode(&bytes)
                .map_or_else(|| CellError::Io(io::ErrorKind::InvalidData.into()), CellError::Failed))
        }
        _ => Err(CellError::Io(io::ErrorKind::InvalidData.into())),
    }
}

/// The whole life of a cell's init.
///
/// Runs in a copy of a process that had many threads. Invariant: nothing here allocates, locks or panics.
fn init(template: &Template, control: RawFd, network: Network<'_>) -> i32 {
    if sys::dup_to(control, CONTROL).and_then(|()| sys::close_from(CONTROL + 1)).is_err() {
        return 1;
    }
    // SAFETY: the descriptor was just made and lives as long as this process.
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL) };
    let last_pid = match set_up(template, network) {
        Ok(last_pid) => last_pid,
        Err(failed) => {
            let _ = rustix::io::write(control, &[FAILED]);
            let _ = rustix::io::write(control, &failed.encode());
            return 1;
        }
    };
    let tell = |what: u8| rustix::io::write(control, &[what]).is_ok();
    if !tell(READY) {
        return 0;
    }
    sys::forget_children();
    let mut word = [0];
    // The end of the stream is the end of quipu: with this process everything in its namespace ends.
    while rustix::io::read(control, &mut word) == Ok(1) {
        match word[0] {
            // The copy of quipu's memory in this process is nothing a task may look into.
            TAKEN => drop(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)),
            CLEAN => {
                sys::end_all_others();
                // Numbers of processes begin anew, so that they do not tell how many tasks there were before.
                if let Some(last_pid) = &last_pid {
                    let _ = rustix::io::pwrite(last_pid, b"1", 0);
                }
            }
            _ => return 1,
        }
        if !tell(DONE) {
            return 0;
        }
    }
    0
}

/// Puts the template's mounts together. Gives what the last process number can be set with, where that is possible.
fn set_up(template: &Template, network: Network<'_>) -> Result<Option<OwnedFd>, Failed> {
    let is_mapped = matches!(network, Network::Of { .. });
    for (index, (path, text)) in [
        (c"/proc/self/setgroups", &b"deny"[..]),
        (c"/proc/self/gid_map", &template.gid_map),
        (c"/proc/self/uid_map", &template.uid_map),
    ]
    .into_iter()
    .enumerate()
    .filter(|_| !is_mapped)
    {
        write_to(path, text).map_err(at(Stage::UserMap, index))?;
    }
    if let Network::Own = network {
        sys::loopback_up().map_err(at_raw(Stage::Loopback, 0))?;
    }
    rustix::system::sethostname(b"quipu").map_err(at(Stage::HostName, 0))?;
    // What is copied from another user namespace hears of the host's mounts and never the other way round, so that
    // nothing done here needs to be made private first.
    rustix::mount::mount_bind(&*template.root, &*template.root).map_err(at(Stage::Root, 0))?;
    rustix::process::chdir(&*template.root).map_err(at(Stage::Root, 1))?;
    for (index, bind) in template.binds.iter().enumerate() {
        bind_one(bind).map_err(at(Stage::Bind, index))?;
    }
    sys::mount_setattr(c".", true, sys::MOUNT_RDONLY | sys::MOUNT_NOSUID, 0).map_err(at_raw(Stage::ReadOnly, 0))?;
    for (index, path) in template.writable.iter().enumerate() {
        sys::mount_setattr(path, false, 0, sys::MOUNT_RDONLY).map_err(at_raw(Stage::ReadOnly, 1 + index))?;
    }
    // Read-only in each task's copy of these mounts, and not here.
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"proc", c"root/proc", c"proc", quiet, None::<&CStr>).map_err(at(Stage::Proc, 0))?;
    let last_pid = c"root/proc/sys/kernel/ns_last_pid";
    let last_pid = rustix::fs::open(last_pid, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    rustix::process::pivot_root(c".", c".").map_err(at(Stage::Pivot, 0))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(at(Stage::Pivot, 1))?;
    rustix::process::chdir(c"/").map_err(at(Stage::Pivot, 2))?;
    Ok(last_pid)
}

/// Makes one thing be seen at another place.
pub(super) fn bind_one(bind: &Bind) -> rustix::io::Result<()> {
    if bind.recursive {
        rustix::mount::mount_bind_recursive(&*bind.from, &*bind.to)
    } else {
        rustix::mount::mount_bind(&*bind.from, &*bind.to)
    }
}

fn write_to(path: &CStr, text: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text)?;
    Ok(())
}
