//! The system calls a task may not make, as a seccomp program.
//!
//! Knows numbers and arguments of calls; unaware of mounts and of processes. What is refused and why:
//! `docs/design/sandbox.md`, "System calls".

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the system call filter knows x86_64 and aarch64");

/// Calls of the x32 interface have this bit: another architecture under the same name.
const X32: u32 = 0x4000_0000;
const SET_ID_BITS: u32 = 0o6000;
const FCHMODAT2: libc::c_long = 452;

/// Offsets in what the kernel shows of a call: number, architecture, low half of the arguments (both are little-endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | code | BPF_K) as u16, jt, jf, k }
}

const fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

const fn give(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

const fn refuse(errno: i32) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Which sockets a task may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// All: where they lead is decided elsewhere.
    All,
    /// Those that do not leave the machine.
    Local,
}

/// The program.
pub(crate) fn program(sockets: Sockets) -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump(BPF_JEQ, ARCH, 1, 0),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
        jump(BPF_JGE, X32, 0, 1),
        give(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    // Calls that would hide what a task reads, or reach beyond it: as if the kernel had never heard of them.
    let absent = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_openat2,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
    ];
    for call in absent {
        program.extend([jump(BPF_JEQ, call as u32, 0, 1), refuse(libc::ENOSYS)]);
    }
    if sockets == Sockets::Local {
        program.extend([
            jump(BPF_JEQ, libc::SYS_socket as u32, 0, 5),
            load(argument(0)),
            jump(BPF_JEQ, libc::AF_UNIX as u32, 2, 0),
            jump(BPF_JEQ, libc::AF_NETLINK as u32, 1, 0),
            refuse(libc::EACCES),
            give(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    // Calls with a mode in this argument.
    #[cfg(target_arch = "x86_64")]
    let old = [(libc::SYS_chmod, 1), (libc::SYS_creat, 1), (libc::SYS_mknod, 1)];
    #[cfg(not(target_arch = "x86_64"))]
    let old: [(libc::c_long, u32); 0] = [];
    let modes = [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2), (libc::SYS_mknodat, 2)];
    for (call, index) in old.into_iter().chain(modes) {
        program.extend([
            jump(BPF_JEQ, call as u32, 0, 4),
            load(argument(index)),
            jump(BPF_JSET, SET_ID_BITS, 0, 1),
            refuse(libc::EPERM),
            give(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    // Calls with a mode that means something only when the flags before it say that a file is made.
    #[cfg(target_arch = "x86_64")]
    let old = [(libc::SYS_open, 1)];
    #[cfg(not(target_arch = "x86_64"))]
    let old: [(libc::c_long, u32); 0] = [];
    for (call, index) in old.into_iter().chain([(libc::SYS_openat, 2)]) {
        let making = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
        program.extend([
            jump(BPF_JEQ, call as u32, 0, 7),
            load(argument(index)),
            statement(BPF_ALU | BPF_AND | BPF_K, making),
            jump(BPF_JEQ, 0, 3, 0),
            load(argument(index + 1)),
            jump(BPF_JSET, SET_ID_BITS, 0, 1),
            refuse(libc::EPERM),
            give(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}
