//! System calls that no safe wrapper covers, each behind a function that is safe to call.
//!
//! Knows the kernel's calling conventions; unaware of what they are used for.
#![allow(unsafe_code)]

mod descriptors;
mod landlock;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::process::Pid;

pub(crate) use self::descriptors::{receive_descriptors, send_descriptors};
pub(crate) use self::landlock::{landlock_abi, landlock_allow, landlock_create, landlock_restrict};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It ended itself.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Status {
    /// Reads the form `wait` gives; only for processes that have ended.
    pub(crate) const fn from_wait(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Exit(libc::WEXITSTATUS(status))
        }
    }
}

/// What a process used, with all it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Peak resident memory of the largest of them, in bytes.
    pub(crate) rss_bytes: u64,
}

impl Usage {
    /// What both used: times add up, peaks do not.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, rss_bytes: self.rss_bytes.max(other.rss_bytes) }
    }

    pub(crate) fn from_rusage(usage: &libc::rusage) -> Self {
        let time = |t: libc::timeval| {
            Duration::from_secs(t.tv_sec.unsigned_abs()) + Duration::from_micros(t.tv_usec.unsigned_abs())
        };
        Self { cpu: time(usage.ru_utime) + time(usage.ru_stime), rss_bytes: usage.ru_maxrss.unsigned_abs() * 1024 }
    }
}

/// Waits until the child `pid` has ended and reaps it.
pub(crate) fn reap(pid: Pid) -> io::Result<(Status, Usage)> {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the right types.
        let found = unsafe { libc::wait4(pid.as_raw_pid(), &raw mut status, 0, &raw mut usage) };
        if found == pid.as_raw_pid() {
            return Ok((Status::from_wait(status), Usage::from_rusage(&usage)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Signals kept from this thread until dropped: nothing of the program's may run in a child that shares its handlers.
pub(crate) struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    /// Blocks them all.
    pub(crate) fn new() -> Self {
        // SAFETY: both sets are live locals; `sigfillset` initialises the one, `pthread_sigmask` the other.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Makes a child in namespaces of its own, a copy of this process with one thread, which runs `child` and ends.
///
/// Signals are blocked in the child. Gives its number and a descriptor for it.
///
/// # Safety
///
/// Other threads may have held any lock at this moment: `child` must neither allocate nor take a lock, and calls
/// nothing but async-signal-safe functions.
pub(crate) unsafe fn fork_into(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    let blocked = SignalsBlocked::new();
    let mut pidfd: i32 = -1;
    let flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack given this is a fork; `pidfd` outlives the call.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_long, 0_usize, &raw mut pidfd, 0_usize, 0_usize) };
    if pid == 0 {
        // Unwinding out of here would go on with the parent's work in the child.
        let _guard = ExitOnUnwind;
        exit_now(child());
    }
    drop(blocked);
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(positive).expect("the kernel gives positive process numbers");
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The same in namespaces that are there, and in new ones beside these.
///
/// # Safety
///
/// As for [`fork_into`].
pub(crate) unsafe fn fork_within(
    there: [&OwnedFd; 2],
    namespaces: i32,
    child: impl Fn() -> i32,
) -> io::Result<(Pid, OwnedFd)> {
    let made = std::cell::Cell::new(None);
    let entering = || {
        let entered = there.into_iter().try_for_each(enter_namespace);
        made.set(Some(match entered {
            // SAFETY: as the caller says. The copy is this process's child, not that of who makes it, and so is its descriptor.
            Ok(()) => unsafe { fork_into(namespaces | libc::CLONE_PARENT, &child) },
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }));
        0
    };
    let mut stack = Stack::default();
    let blocked = SignalsBlocked::new();
    // SAFETY: the closure makes system calls, and sets a cell that nobody looks at meanwhile.
    let pid = unsafe { vfork(&mut stack, Kin::Sharing, &entering) };
    drop(blocked);
    reap(pid.map_err(io::Error::from_raw_os_error)?)?;
    made.into_inner().unwrap_or_else(|| Err(io::ErrorKind::Other.into()))
}

struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit_now(120);
    }
}

/// Time since the machine started, asleep or not.
pub(crate) fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Ends this process at once, without running anything of the program's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Memory for [`vfork`]'s child to run on.
pub(crate) struct Stack(Box<[u128]>);

impl Default for Stack {
    /// 64 KiB.
    fn default() -> Self {
        Self(vec![0; 4096].into())
    }
}

/// What a child of [`vfork`] is to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kin {
    /// A child that shares its descriptors.
    Sharing,
    /// A child of its parent, with copies of its descriptors.
    Sibling,
}

/// Where a child of [`vfork`] begins.
extern "C" fn enter<F: Fn() -> i32>(child: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the pointer is to the closure that the suspended parent keeps alive.
    let child = unsafe { &*child.cast::<F>() };
    child()
}

/// Makes a child that shares this process's memory while this thread waits until it has called `execve` or ended.
///
/// # Safety
///
/// `child` runs in this process's memory, with its signal handlers: signals must be blocked; it must not change what the
/// caller relies on, must not panic, and calls nothing but async-signal-safe functions.
pub(crate) unsafe fn vfork<F: Fn() -> i32>(stack: &mut Stack, kin: Kin, child: &F) -> Result<Pid, i32> {
    let top = stack.0.as_mut_ptr_range().end.cast::<libc::c_void>();
    let kind = match kin {
        Kin::Sharing => libc::CLONE_FILES,
        Kin::Sibling => libc::CLONE_PARENT,
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | kind;
    // SAFETY: the stack is ours and grows downwards from its aligned end; CLONE_VFORK keeps `child` alive meanwhile.
    let pid = unsafe { libc::clone(enter::<F>, top, flags, std::ptr::from_ref(child).cast_mut().cast()) };
    positive(pid).ok_or_else(errno)
}

/// The same for a child with copies of its descriptors; with one that becomes readable when it has ended.
///
/// # Safety
///
/// As for [`vfork`].
pub(crate) unsafe fn vfork_watched<F: Fn() -> i32>(stack: &mut Stack, child: &F) -> Result<(Pid, OwnedFd), i32> {
    let top = stack.0.as_mut_ptr_range().end.cast::<libc::c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let child = std::ptr::from_ref(child).cast_mut().cast();
    let mut pidfd: i32 = -1;
    // SAFETY: as for `vfork`; `pidfd` outlives the call.
    let pid = unsafe { libc::clone(enter::<F>, top, flags, child, &raw mut pidfd) };
    let pid = positive(pid).ok_or_else(errno)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Makes a child that shares this process's memory and runs beside it, on a stack of its own, until `run` returns.
///
/// # Safety
///
/// `with`, which holds the stack, must stay where it is until the child has been waited for. What [`vfork`] asks holds as
/// long as the child lives; besides, it must not write to what other threads use, thread-local storage included.
pub(crate) unsafe fn beside<T: OwnStack>(with: &T, run: extern "C" fn(&T) -> i32) -> Result<Pid, i32> {
    // SAFETY: a reference is passed where the function takes one.
    let run = unsafe {
        std::mem::transmute::<extern "C" fn(&T) -> i32, extern "C" fn(*mut libc::c_void) -> libc::c_int>(run)
    };
    // SAFETY: nobody else uses it.
    let stack = unsafe { &mut *with.own_stack().get() };
    let top = stack.0.as_mut_ptr_range().end.cast::<libc::c_void>();
    // SAFETY: the stack is ours and grows downwards from its aligned end.
    let pid =
        unsafe { libc::clone(run, top, libc::CLONE_VM | libc::SIGCHLD, std::ptr::from_ref(with).cast_mut().cast()) };
    positive(pid).ok_or_else(errno)
}

/// What holds the stack of a child of [`beside`].
pub(crate) trait OwnStack {
    /// The stack, for the child alone.
    fn own_stack(&self) -> &std::cell::UnsafeCell<Stack>;
}

/// Waits for a child and reaps it; gives the form `wait` has. Calls nothing that writes to thread-local storage when it
/// succeeds.
///
/// # Safety
///
/// `usage` can be written to.
pub(crate) unsafe fn reap_child(child: Pid, usage: *mut libc::rusage) -> Option<i32> {
    let mut status = 0;
    // SAFETY: both pointers can be written to.
    let found = unsafe { libc::syscall(libc::SYS_wait4, child.as_raw_pid(), &raw mut status, 0, usage) };
    (found == libc::c_long::from(child.as_raw_pid())).then_some(status)
}

/// Makes a copy of the descriptor that is `least` or above, and is closed on `execve`.
pub(crate) fn dup_above(fd: RawFd, least: RawFd) -> Result<RawFd, i32> {
    // SAFETY: integers in, integer out.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) };
    if copy < 0 { Err(errno()) } else { Ok(copy) }
}

/// A process's number, unless it is the sign of a failed call.
fn positive(pid: i32) -> Option<Pid> {
    if pid > 0 { Pid::from_raw(pid) } else { None }
}

/// What the last failed call of this thread said.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn check(result: libc::c_long) -> Result<(), i32> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// A process's arguments or environment in the form `execve` takes.
pub(crate) struct Pointers {
    pointers: Vec<*const libc::c_char>,
    _texts: Vec<CString>,
}

// SAFETY: the pointers are to the texts beside them, which never change.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

impl Pointers {
    /// Takes the texts in order.
    pub(crate) fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _texts: texts }
    }
}

/// Becomes another program; returns only when that fails.
pub(crate) fn execve(path: &CStr, argv: &Pointers, env: &Pointers) -> i32 {
    // SAFETY: all are NUL-terminated and end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    errno()
}

/// Makes `to` a copy of the descriptor `from` that survives `execve`.
pub(crate) fn dup_to(from: RawFd, to: RawFd) -> Result<(), i32> {
    if from == to {
        return Ok(());
    }
    // SAFETY: integers in, integer out.
    check(unsafe { libc::dup2(from, to) }.into())
}

/// The same, but closed on `execve`.
pub(crate) fn dup_to_closing(from: RawFd, to: RawFd) -> Result<(), i32> {
    // SAFETY: integers in, integer out.
    check(unsafe { libc::dup3(from, to, libc::O_CLOEXEC) }.into())
}

/// Closes the descriptors from `first` to `last`.
pub(crate) fn close_range(first: RawFd, last: RawFd) -> Result<(), i32> {
    // SAFETY: integers in, integer out; the caller is a child that uses none of them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> Result<(), i32> {
    // SAFETY: integers in, integer out; the caller is a child that uses none of them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, !0_u32, 0) })
}

/// Closes every descriptor from `first` on when this process becomes another program.
pub(crate) fn close_from_on_exec(first: RawFd) -> Result<(), i32> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: integers in, integer out.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, !0_u32, CLOSE_RANGE_CLOEXEC) })
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Mounts that cannot be written to.
pub(crate) const MOUNT_RDONLY: u64 = 1;
/// Mounts on which setuid bits mean nothing.
pub(crate) const MOUNT_NOSUID: u64 = 2;

/// Changes attributes of the mount at `path`, and of all below it when `recursive`.
pub(crate) fn mount_setattr(path: &CStr, recursive: bool, set: u64, clear: u64) -> Result<(), i32> {
    const AT_RECURSIVE: u32 = 0x8000;
    let attr = MountAttr { set, clear, propagation: 0, userns_fd: 0 };
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, the size is that of the structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
}

/// Takes every capability from this thread, now and for all it may become.
pub(crate) fn drop_capabilities() -> Result<(), i32> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0_u32; 6];
    // SAFETY: `prctl` takes integers; the structures of `capset` have the layout of version 3.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()))
    }
}

/// Lets the kernel judge every system call of this thread, and of all it starts, by `program`.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> Result<(), i32> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| libc::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call, which copies it.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    })
}

/// Gives every signal its first meaning, so that nothing of this program's runs, and lets them through again.
pub(crate) fn reset_signals() {
    reset_meanings();
    let_signals_through();
}

/// Gives every signal its first meaning.
pub(crate) fn reset_meanings() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs nothing of ours. The C library refuses those it needs itself.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Lets all signals through.
pub(crate) fn let_signals_through() {
    // SAFETY: an empty mask runs nothing of ours where signals have their first meanings.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Lets children that end vanish at once.
pub(crate) fn forget_children() {
    // SAFETY: SIG_IGN runs nothing of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Ends every other process of this pid namespace, and returns when none is left.
pub(crate) fn end_all_others() {
    // SAFETY: integers in, integers out; only called by the first process of a namespace of ours.
    unsafe {
        while libc::kill(-1, libc::SIGKILL) == 0 {
            // Waits until all our children are gone. Others become our children when their parents go.
            if libc::wait4(-1, std::ptr::null_mut(), 0, std::ptr::null_mut()) < 0 {
                libc::sched_yield();
            }
        }
    }
}

/// Makes this thread a member of a namespace.
pub(crate) fn enter_namespace(namespace: &OwnedFd) -> Result<(), i32> {
    // SAFETY: integers in, integer out.
    check(unsafe { libc::setns(namespace.as_raw_fd(), 0) }.into())
}

/// Lets this thread's network talk to itself.
pub(crate) fn loopback_up() -> Result<(), i32> {
    let socket = stream_socket(true)?;
    // SAFETY: all zeroes is a valid request; the name is shorter than its field; the request outlives the calls.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into())
    }
}

/// A socket of IPv4 or of IPv6 in this thread's network, with which nobody waits.
pub(crate) fn stream_socket(is_v4: bool) -> Result<OwnedFd, i32> {
    let domain = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: integers in, integer out.
    let fd = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    check(fd.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives this thread namespaces of its own.
pub(crate) fn unshare(namespaces: i32) -> Result<(), i32> {
    // SAFETY: integers in, integer out; file descriptors are not among what can be named here.
    check(unsafe { libc::unshare(namespaces) }.into())
}
