//! The calls of Landlock.
//!
//! Knows the forms that kernels of several ages read; unaware of what is allowed.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// The version of Landlock this kernel has.
pub(crate) fn landlock_abi() -> Result<i64, i32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: asks for a number; no structure is read.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    check(abi).map(|()| abi)
}

/// Makes an empty set of rules that forbids this much.
pub(crate) fn landlock_create(files: u64, network: u64, scopes: u64, abi: i64) -> Result<OwnedFd, i32> {
    let attributes = [files, network, scopes];
    // Older kernels know the beginning of the structure only.
    let known = match abi {
        ..=3 => 1,
        4..=5 => 2,
        _ => 3,
    };
    let size = known * size_of::<u64>();
    // SAFETY: the structure is as many words as the size says.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size, 0_u32) };
    check(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| libc::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us, and closes it on `execve` by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Allows `access` to what `path` is, and to all below it.
pub(crate) fn landlock_allow(rules: &OwnedFd, path: &OwnedFd, access: u64) -> Result<(), i32> {
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        parent: RawFd,
    }
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { access, parent: path.as_raw_fd() };
    // SAFETY: the structure has the layout the kernel reads, and outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const rule, 0_u32)
    })
}

/// Puts this thread, and all it starts, under the rules.
pub(crate) fn landlock_restrict(rules: &OwnedFd) -> Result<(), i32> {
    // SAFETY: integers in, integer out.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) })
}
