//! System calls that no safe wrapper covers, each behind a function that is safe to call.
//!
//! Knows the kernel's calling conventions; unaware of what they are used for.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use rustix::process::Pid;

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
