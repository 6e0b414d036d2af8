//! Descriptors handed to another process over a socket.
//!
//! Unaware of what they are of.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::check;

/// Room for the message that three descriptors travel with.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

/// Sends a word, and three descriptors with it.
pub(crate) fn send_descriptors(to: BorrowedFd<'_>, word: u8, fds: [BorrowedFd<'_>; 3]) -> Result<(), i32> {
    let (mut room, mut word) = (Ancillary([0; 64]), word);
    let mut part = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 1 };
    let fds = fds.map(|fd| fd.as_raw_fd());
    // SAFETY: all zeroes is a valid message; all it points to are live locals; the room is large enough and aligned for what
    // is put there.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = (&raw mut room).cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of_val(&fds) as u32) as _;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        ((*head).cmsg_level, (*head).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        (*head).cmsg_len = libc::CMSG_LEN(size_of_val(&fds) as u32) as _;
        libc::CMSG_DATA(head).cast::<[RawFd; 3]>().write_unaligned(fds);
        libc::sendmsg(to.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    check(sent as libc::c_long)
}

/// Waits for a word, and for the three descriptors that may come with it, which are not closed on `execve`. Makes system
/// calls only.
pub(crate) fn receive_descriptors(from: BorrowedFd<'_>) -> Result<(u8, Option<[RawFd; 3]>), i32> {
    let (mut room, mut word) = (Ancillary([0; 64]), 0_u8);
    let mut part = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 1 };
    // SAFETY: all zeroes is a valid message; all it points to are live locals; the kernel fills in no more than the room holds.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        (message.msg_control, message.msg_controllen) = ((&raw mut room).cast(), size_of::<Ancillary>() as _);
        let received = libc::recvmsg(from.as_raw_fd(), &raw mut message, 0);
        check(received as libc::c_long)?;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        let size = libc::CMSG_LEN(size_of::<[RawFd; 3]>() as u32) as usize;
        if received != 1 {
            return Err(libc::EPIPE);
        }
        let is_whole = !head.is_null() && (*head).cmsg_len as usize == size;
        Ok((word, is_whole.then(|| libc::CMSG_DATA(head).cast::<[RawFd; 3]>().read_unaligned())))
    }
}
