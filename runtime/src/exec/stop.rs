//! The wish that work should stop, where a thread that waits in the kernel can hear it.
//!
//! Knows one wish; unaware of who wishes and of what is to stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::Stop;

/// A wish to stop, with a descriptor that becomes readable when it grows.
pub(crate) struct StopFlag {
    level: AtomicU8,
    event: OwnedFd,
}

impl StopFlag {
    /// No wish yet.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { level: AtomicU8::new(0), event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Wishes for `stop`; a wish never shrinks.
    pub(crate) fn raise(&self, stop: Stop) {
        if self.level.fetch_max(stop as u8, Ordering::SeqCst) < stop as u8 {
            let _ = rustix::io::write(&self.event, &1_u64.to_le_bytes());
        }
    }

    /// What is wished.
    pub(crate) fn level(&self) -> Stop {
        match self.level.load(Ordering::SeqCst) {
            0 => Stop::No,
            1 => Stop::Cancel,
            _ => Stop::Kill,
        }
    }

    /// Readable once the wish has grown, until [`StopFlag::heard`].
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the descriptor unreadable until the wish grows again.
    pub(crate) fn heard(&self) {
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }
}
