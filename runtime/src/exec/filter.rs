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

/// A call that is not simply let through, and what is said of it: every way through it ends.
type Judged = (u32, Vec<sock_filter>);

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
    let mut judged = judged(sockets);
    judged.sort_unstable_by_key(|(call, _)| *call);
    program.extend(find(&judged));
    program
}

/// Finds the call among those that are judged, by halves. The kernel tries a program out on every number there is when it is put in
/// force, a microsecond for each comparison on the way: one after the other they were 25 for each task.
fn find(judged: &[Judged]) -> Vec<sock_filter> {
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let offset = |program: &[sock_filter]| u8::try_from(program.len()).expect("half of some twenty calls is short");
    match judged {
        [] => vec![allow],
        [(call, judgement)] => {
            let mut found = vec![jump(BPF_JEQ, *call, 0, offset(judgement))];
            found.extend(judgement);
            found.push(allow);
            found
        }
        more => {
            let (below, above) = more.split_at(more.len() / 2);
            let below = find(below);
            let mut found = vec![jump(BPF_JGE, above[0].0, offset(&below), 0)];
            found.extend(below);
            found.extend(find(above));
            found
        }
    }
}

fn judged(sockets: Sockets) -> Vec<Judged> {
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
    let mut judged: Vec<Judged> = absent.map(|call| (call as u32, vec![refuse(libc::ENOSYS)])).into();
    if sockets == Sockets::Local {
        judged.push((
            libc::SYS_socket as u32,
            vec![
                load(argument(0)),
                jump(BPF_JEQ, libc::AF_UNIX as u32, 2, 0),
                jump(BPF_JEQ, libc::AF_NETLINK as u32, 1, 0),
                refuse(libc::EACCES),
                give(libc::SECCOMP_RET_ALLOW),
            ],
        ));
    }
    // Calls with a mode in this argument.
    #[cfg(target_arch = "x86_64")]
    let old = [(libc::SYS_chmod, 1), (libc::SYS_creat, 1), (libc::SYS_mknod, 1)];
    #[cfg(not(target_arch = "x86_64"))]
    let old: [(libc::c_long, u32); 0] = [];
    let modes = [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2), (libc::SYS_mknodat, 2)];
    for (call, index) in old.into_iter().chain(modes) {
        judged.push((
            call as u32,
            vec![
                load(argument(index)),
                jump(BPF_JSET, SET_ID_BITS, 0, 1),
                refuse(libc::EPERM),
                give(libc::SECCOMP_RET_ALLOW),
            ],
        ));
    }
    // Calls with a mode that means something only when the flags before it say that a file is made.
    #[cfg(target_arch = "x86_64")]
    let old = [(libc::SYS_open, 1)];
    #[cfg(not(target_arch = "x86_64"))]
    let old: [(libc::c_long, u32); 0] = [];
    for (call, index) in old.into_iter().chain([(libc::SYS_openat, 2)]) {
        let making = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
        judged.push((
            call as u32,
            vec![
                load(argument(index)),
                statement(BPF_ALU | BPF_AND | BPF_K, making),
                jump(BPF_JEQ, 0, 3, 0),
                load(argument(index + 1)),
                jump(BPF_JSET, SET_ID_BITS, 0, 1),
                refuse(libc::EPERM),
                give(libc::SECCOMP_RET_ALLOW),
            ],
        ));
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program says of a call, and how many steps that takes.
    fn said(program: &[sock_filter], number: u32, arguments: [u32; 4]) -> (u32, usize) {
        let (mut at, mut held) = (0, 0);
        for steps in 1.. {
            let step = program[at];
            at += 1;
            let condition = match u32::from(step.code) & !BPF_JMP {
                _ if u32::from(step.code) == BPF_RET | BPF_K => return (step.k, steps),
                _ if u32::from(step.code) == BPF_LD | BPF_W | BPF_ABS => {
                    held = match step.k {
                        NUMBER => number,
                        ARCHITECTURE => ARCH,
                        k => arguments[(k as usize - 16) / 8],
                    };
                    continue;
                }
                _ if u32::from(step.code) == BPF_ALU | BPF_AND | BPF_K => {
                    held &= step.k;
                    continue;
                }
                BPF_JEQ => held == step.k,
                BPF_JGE => held >= step.k,
                BPF_JSET => held & step.k != 0,
                other => panic!("{other}"),
            };
            at += usize::from(if condition { step.jt } else { step.jf });
        }
        unreachable!("it ends");
    }

    #[test]
    fn every_call_is_judged_as_it_is_said_and_no_other() {
        let (allow, denied) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
        let making = libc::O_CREAT as u32;
        for sockets in [Sockets::All, Sockets::Local] {
            let (program, judged) = (program(sockets), judged(sockets));
            for number in 0..1000 {
                // Setuid bits wherever a mode may be, and flags that make a file.
                let (spoken, steps) = said(&program, number, [making, 0o4000 | making, 0o4000 | making, 0o4000]);
                let is_judged = judged.iter().any(|(call, _)| *call == number);
                assert_eq!(spoken != allow, is_judged, "{number}");
                assert!(is_judged || steps <= 11, "{number}: {steps}");
                let (spoken, _) = said(&program, number, [libc::AF_UNIX as u32, 0, 0, 0]);
                assert!(spoken == allow || spoken == libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, "{number}");
            }
            let openat = |flags, mode| said(&program, libc::SYS_openat as u32, [0, 0, flags, mode]).0;
            assert_eq!((openat(making, 0o644), openat(0, 0o4000), openat(making, 0o2755)), (allow, allow, denied));
            assert_eq!(said(&program, X32, [0; 4]).0, libc::SECCOMP_RET_KILL_PROCESS);
        }
    }
}
