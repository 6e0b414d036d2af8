//! System calls that take paths: which are told of, and what each does with which of its arguments.
//!
//! Knows numbers and arguments of calls; unaware of whose they are and of where paths lead.

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter};

use super::Act;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Calls of the x32 interface have this bit: another architecture under the same name.
const X32: u32 = 0x4000_0000;
/// Newer calls than these may take paths, too: they are as if the kernel had never heard of them.
const FIRST_UNKNOWN: u32 = 463;
const FCHMODAT2: c_long = 452;

/// Would hide what is opened, or have their flags behind a pointer; everybody falls back.
const REFUSED: [c_long; 3] = [libc::SYS_io_uring_setup, libc::SYS_openat2, libc::SYS_open_tree];

/// Calls told of on every architecture.
const CALLS: [c_long; 33] = [
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_chdir,
    libc::SYS_statfs,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_inotify_add_watch,
    libc::SYS_name_to_handle_at,
    libc::SYS_getdents64,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_truncate,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
];

/// Calls that the older architecture has besides.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_symlink,
    libc::SYS_link,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// A path in a call, or a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The path at address `text`, from the directory `from`.
    Path { from: i32, text: u64, act: Act, follow: bool },
    /// The directory behind a descriptor is listed.
    Listing(i32),
}

/// The filter: calls with paths are told of, the rest goes through.
pub(super) fn program() -> Vec<sock_filter> {
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k: u32, jt: usize, jf: usize| sock_filter {
        code: (BPF_JMP | code | BPF_K) as u16,
        jt: u8::try_from(jt).expect("the program is short"),
        jf: u8::try_from(jf).expect("the program is short"),
        k,
    };
    let load = |offset: u32| statement(BPF_LD | BPF_W | BPF_ABS, offset);
    let give = |action: u32| statement(BPF_RET | BPF_K, action);
    let calls: Vec<c_long> = CALLS.iter().chain(OLD).copied().collect();
    let rest = REFUSED.len() + calls.len();
    let mut program = vec![load(4), jump(BPF_JEQ, ARCH, 1, 0), give(libc::SECCOMP_RET_KILL_PROCESS), load(0)];
    program.push(jump(BPF_JGE, X32, 0, 1));
    program.push(give(libc::SECCOMP_RET_KILL_PROCESS));
    // Behind the comparisons stand: let through, refuse, tell.
    program.push(jump(BPF_JGE, FIRST_UNKNOWN, rest + 1, 0));
    for (i, call) in REFUSED.iter().enumerate() {
        program.push(jump(BPF_JEQ, *call as u32, rest - i, 0));
    }
    for (i, call) in calls.iter().enumerate() {
        program.push(jump(BPF_JEQ, *call as u32, calls.len() - i + 1, 0));
    }
    program.extend([
        give(libc::SECCOMP_RET_ALLOW),
        give(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        give(libc::SECCOMP_RET_USER_NOTIF),
    ]);
    program
}

/// What a call asks for.
pub(super) fn asked(call: c_long, args: &[u64; 6]) -> Vec<Asked> {
    let fd = |i: usize| args[i] as i32;
    let path = |from: i32, text: usize, act: Act, follow: bool| Asked::Path { from, text: args[text], act, follow };
    let here = |text: usize, act: Act, follow: bool| path(libc::AT_FDCWD, text, act, follow);
    let follows = |flags: usize| fd(flags) & libc::AT_SYMLINK_NOFOLLOW == 0;
    let one = match call {
        libc::SYS_openat => {
            let (act, follow) = opening(fd(2));
            path(fd(0), 1, act, follow)
        }
        libc::SYS_newfstatat => path(fd(0), 1, Act::Look, follows(3)),
        libc::SYS_statx => path(fd(0), 1, Act::Look, follows(2)),
        libc::SYS_faccessat => path(fd(0), 1, Act::Look, true),
        libc::SYS_faccessat2 => path(fd(0), 1, Act::Look, follows(3)),
        libc::SYS_readlinkat => path(fd(0), 1, Act::Look, false),
        libc::SYS_name_to_handle_at => path(fd(0), 1, Act::Look, fd(4) & libc::AT_SYMLINK_FOLLOW != 0),
        libc::SYS_execve => here(0, Act::Run, true),
        libc::SYS_execveat => path(fd(0), 1, Act::Run, follows(4)),
        libc::SYS_chdir | libc::SYS_statfs | libc::SYS_getxattr | libc::SYS_listxattr => here(0, Act::Look, true),
        libc::SYS_lgetxattr | libc::SYS_llistxattr => here(0, Act::Look, false),
        libc::SYS_inotify_add_watch => here(1, Act::Look, true),
        libc::SYS_setxattr | libc::SYS_removexattr => here(0, Act::Change, true),
        libc::SYS_lsetxattr | libc::SYS_lremovexattr => here(0, Act::Change, false),
        libc::SYS_getdents64 => Asked::Listing(fd(0)),
        libc::SYS_unlinkat => path(fd(0), 1, Act::Remove, false),
        libc::SYS_mkdirat => path(fd(0), 1, Act::MakeDir, true),
        libc::SYS_mknodat => path(fd(0), 1, Act::Write, false),
        libc::SYS_symlinkat => path(fd(1), 2, Act::Write, false),
        libc::SYS_truncate => here(0, Act::Change, true),
        libc::SYS_fchmodat => path(fd(0), 1, Act::Change, true),
        FCHMODAT2 => path(fd(0), 1, Act::Change, follows(3)),
        libc::SYS_fchownat => path(fd(0), 1, Act::Change, follows(4)),
        // Without a path it is about the descriptor.
        libc::SYS_utimensat if args[1] == 0 => return vec![],
        libc::SYS_utimensat => path(fd(0), 1, Act::Change, follows(3)),
        libc::SYS_linkat => {
            let old = path(fd(0), 1, Act::Read, fd(4) & libc::AT_SYMLINK_FOLLOW != 0);
            return vec![old, path(fd(2), 3, Act::Write, false)];
        }
        libc::SYS_renameat | libc::SYS_renameat2 => {
            return vec![path(fd(0), 1, Act::MoveAway, false), path(fd(2), 3, Act::Write, false)];
        }
        _ => return asked_of_old(call, args),
    };
    vec![one]
}

#[cfg(target_arch = "x86_64")]
fn asked_of_old(call: c_long, args: &[u64; 6]) -> Vec<Asked> {
    let here =
        |text: usize, act: Act, follow: bool| Asked::Path { from: libc::AT_FDCWD, text: args[text], act, follow };
    let one = match call {
        libc::SYS_open => {
            let (act, follow) = opening(args[1] as i32);
            here(0, act, follow)
        }
        libc::SYS_creat => here(0, Act::Write, true),
        libc::SYS_stat | libc::SYS_access => here(0, Act::Look, true),
        libc::SYS_lstat | libc::SYS_readlink => here(0, Act::Look, false),
        libc::SYS_getdents => Asked::Listing(args[0] as i32),
        libc::SYS_unlink | libc::SYS_rmdir => here(0, Act::Remove, false),
        libc::SYS_mkdir => here(0, Act::MakeDir, true),
        libc::SYS_mknod => here(0, Act::Write, false),
        libc::SYS_symlink => here(1, Act::Write, false),
        libc::SYS_link => return vec![here(0, Act::Read, false), here(1, Act::Write, false)],
        libc::SYS_rename => return vec![here(0, Act::MoveAway, false), here(1, Act::Write, false)],
        libc::SYS_chmod | libc::SYS_chown | libc::SYS_utime | libc::SYS_utimes => here(0, Act::Change, true),
        libc::SYS_lchown => here(0, Act::Change, false),
        libc::SYS_futimesat if args[1] == 0 => return vec![],
        libc::SYS_futimesat => Asked::Path { from: args[0] as i32, text: args[1], act: Act::Change, follow: true },
        _ => return vec![],
    };
    vec![one]
}

#[cfg(not(target_arch = "x86_64"))]
fn asked_of_old(_: c_long, _: &[u64; 6]) -> Vec<Asked> {
    vec![]
}

/// What opening with these flags does, and whether it follows a link at the end.
fn opening(flags: i32) -> (Act, bool) {
    let has = |flag: i32| flags & flag != 0;
    let is_new = has(libc::O_CREAT) && has(libc::O_EXCL);
    let follow = !has(libc::O_NOFOLLOW) && !is_new;
    let act = match flags & libc::O_ACCMODE {
        _ if has(libc::O_PATH) || has(libc::O_TMPFILE & !libc::O_DIRECTORY) => Act::Look,
        _ if has(libc::O_TRUNC) || is_new => Act::Write,
        libc::O_RDONLY if !has(libc::O_CREAT) => Act::Read,
        // What was in it is part of what comes out.
        _ => Act::Change,
    };
    (act, follow)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do by the program.
    fn verdict(call: u32) -> u32 {
        let (program, mut at, mut register) = (program(), 0, 0);
        loop {
            let step = program[at];
            let code = u32::from(step.code);
            at += 1;
            if code == BPF_LD | BPF_W | BPF_ABS {
                register = if step.k == 0 { call } else { ARCH };
            } else if code == BPF_RET | BPF_K {
                return step.k;
            } else {
                let holds = if code == (BPF_JMP | BPF_JEQ | BPF_K) { register == step.k } else { register >= step.k };
                at += usize::from(if holds { step.jt } else { step.jf });
            }
        }
    }

    #[test]
    fn calls_with_paths_are_told_of_and_others_go_through() {
        for call in CALLS.iter().chain(OLD) {
            assert_eq!(verdict(*call as u32), libc::SECCOMP_RET_USER_NOTIF, "{call}");
        }
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for call in REFUSED {
            assert_eq!(verdict(call as u32), refused, "{call}");
        }
        assert_eq!(verdict(FIRST_UNKNOWN), refused);
        assert_eq!(verdict(X32 + 2), libc::SECCOMP_RET_KILL_PROCESS);
        for call in [libc::SYS_read, libc::SYS_write, libc::SYS_clone, libc::SYS_exit_group, libc::SYS_fstat] {
            assert_eq!(verdict(call as u32), libc::SECCOMP_RET_ALLOW, "{call}");
        }
    }

    #[test]
    fn every_call_told_of_is_understood_and_every_one_understood_is_told_of() {
        for call in 0..600 {
            let told = CALLS.iter().chain(OLD).any(|c| *c == call);
            assert_eq!(!asked(call, &[1; 6]).is_empty(), told, "{call}");
        }
    }

    #[test]
    fn opening_is_told_by_its_flags() {
        let open = |flags| opening(flags);
        assert_eq!(open(libc::O_RDONLY | libc::O_CLOEXEC), (Act::Read, true));
        assert_eq!(open(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC), (Act::Write, true));
        assert_eq!(open(libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT), (Act::Change, true));
        assert_eq!(open(libc::O_RDWR), (Act::Change, true));
        assert_eq!(open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL), (Act::Write, false));
        assert_eq!(open(libc::O_PATH | libc::O_NOFOLLOW), (Act::Look, false));
        assert_eq!(open(libc::O_TMPFILE | libc::O_RDWR), (Act::Look, true));
        assert_eq!(open(libc::O_DIRECTORY), (Act::Read, true));
    }
}
