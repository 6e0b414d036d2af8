//! The kernel's side of tracing: a filter that tells of calls, and how to hear of them, look at who made them, and
//! let them go on.
//!
//! Knows the kernel's structures; unaware of which calls are of interest and of what they mean.
#![expect(unsafe_code, reason = "these calls have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The kernel's default is to wake whoever listens on another processor.
const FD_SYNC_WAKE_UP: u64 = 1;
/// Largest size of a page; reads that cross none smaller are never cut short by one that is not there.
const PAGE: u64 = 4096;

/// Whether this kernel tells of calls.
pub fn available() -> Result<(), String> {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: reads one number that lives as long as the call.
    let found = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if found == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(format!(
        "this kernel does not tell of system calls ({error}): it takes seccomp user notification, of Linux 5.5 or later"
    ))
}

/// A call that waits for an answer.
pub(super) struct Call {
    /// What the kernel knows it by.
    pub(super) id: u64,
    /// The thread that makes it.
    pub(super) thread: u32,
    /// Its number.
    pub(super) number: libc::c_long,
    /// Its arguments.
    pub(super) args: [u64; 6],
}

/// Puts `program` in force for this thread and all it starts, and gives the descriptor (closed by `execve`) on which is
/// heard what it tells of. Allocates nothing.
pub(crate) fn install(program: &[libc::sock_filter]) -> Result<RawFd, i32> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| libc::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let mut failed = 0;
    // Before Linux 5.19 a signal may make a call be told of twice, which does no harm.
    for flags in [listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, listen] {
        // SAFETY: the program outlives the call, which copies it.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => return Ok(fd),
            _ => failed = io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
        if failed != libc::EINVAL {
            break;
        }
    }
    Err(failed)
}

/// Writes the number of a descriptor to the pipe `to`. Allocates nothing.
pub(crate) fn tell(to: RawFd, fd: RawFd) -> Result<(), i32> {
    let bytes = fd.to_le_bytes();
    // SAFETY: the buffer is a live local of the given length.
    let wrote = unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
    if wrote == 4 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}

/// Where calls are heard of.
pub(super) struct Notifications(OwnedFd);

impl Notifications {
    /// Takes the descriptor that [`install`] gave.
    pub(super) fn new(fd: RawFd) -> Self {
        // SAFETY: the kernel made it for us a moment ago, and nobody else knows its number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Unknown before Linux 6.6: slower, and otherwise the same.
        // SAFETY: integers in, integer out.
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, FD_SYNC_WAKE_UP) };
        Self(fd)
    }

    /// Readable when there is a call, hung up when nobody is left to make one.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// The next call; none when it ended before it was heard.
    pub(super) fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: all zeroes is a valid value, and what the kernel asks for.
        let mut heard: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is a live local of the type that the call fills in.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut heard) } == 0 {
            let libc::seccomp_notif { id, pid: thread, data, .. } = heard;
            return Ok(Some(Call { id, thread, number: data.nr.into(), args: data.args }));
        }
        match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
            e => Err(e),
        }
    }

    /// Whether who made the call still waits, so that what was read of it was its own.
    pub(super) fn is_waiting(&self, call: &Call) -> bool {
        // SAFETY: reads one number that lives as long as the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const call.id) == 0 }
    }

    /// Lets the call be made.
    pub(super) fn go_on(&self, call: &Call) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags };
        // One that was ended meanwhile needs no answer.
        // SAFETY: the structure is a live local of the type that the call reads.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }
}

/// The text that ends with a NUL at `address` in the memory of `thread`; none when it is not there or too long.
pub(super) fn read_text(thread: u32, address: u64) -> Option<Vec<u8>> {
    let limit = libc::PATH_MAX as usize;
    let mut text = Vec::new();
    let mut page = [0; PAGE as usize];
    while text.len() < limit {
        let from = address.checked_add(text.len() as u64)?;
        let len = (PAGE - from % PAGE) as usize;
        let here = libc::iovec { iov_base: page.as_mut_ptr().cast(), iov_len: len };
        let there = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: len };
        // SAFETY: the kernel writes at most `len` bytes, which the buffer has; the other address is not ours and is
        // checked by the kernel.
        let read = unsafe { libc::process_vm_readv(thread.cast_signed(), &raw const here, 1, &raw const there, 1, 0) };
        let read = page.get(..usize::try_from(read).ok().filter(|n| *n > 0)?)?;
        match read.iter().position(|b| *b == 0) {
            Some(end) => {
                text.extend_from_slice(&read[..end]);
                return Some(text);
            }
            None => text.extend_from_slice(read),
        }
    }
    None
}
