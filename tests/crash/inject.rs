//! Stops a program at its Nth change to a directory: kills it there, or lets the change fail.
//!
//! A seccomp filter in the child hands every system call that may change a file to this process, which counts those that
//! the program itself makes below one directory, and decides. Its children (the tasks) are let through. Unaware of
//! what the program does.

#![expect(unsafe_code, reason = "seccomp's notifications have no safe wrapper")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use libc::{c_long, sock_filter};

/// What happens at a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The process is killed before the change is made.
    Kill,
    /// There is no space, this once.
    NoSpace,
    /// The medium fails, this once.
    Broken,
    /// There is no space from here on.
    Full,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Kill, Kind::NoSpace, Kind::Broken, Kind::Full];

/// At which change what happens; changes are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Name of each change's system call, in order.
    pub(crate) calls: Vec<&'static str>,
    /// The change that was hit, if any was.
    pub(crate) hit: Option<&'static str>,
    /// Processes that it or its children started.
    pub(crate) children: u64,
}

impl Outcome {
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(libc::SIGKILL)
    }
}

/// Where a call's file is among its arguments.
#[derive(Clone, Copy)]
enum Names {
    /// A descriptor.
    Fd(usize),
    /// A path from the working directory.
    Path(usize),
    /// A path from the directory of the descriptor before it.
    At(usize),
}

use Names::{At, Fd, Path as FromCwd};

/// Every call that may change a file, what names the file, and which argument has flags of `open`.
const CALLS: &[(c_long, &str, Names, Option<u32>)] = &[
    (libc::SYS_openat, "openat", At(1), Some(2)),
    (libc::SYS_write, "write", Fd(0), None),
    (libc::SYS_pwrite64, "pwrite64", Fd(0), None),
    (libc::SYS_writev, "writev", Fd(0), None),
    (libc::SYS_pwritev, "pwritev", Fd(0), None),
    (libc::SYS_ftruncate, "ftruncate", Fd(0), None),
    (libc::SYS_fallocate, "fallocate", Fd(0), None),
    (libc::SYS_copy_file_range, "copy_file_range", Fd(2), None),
    (libc::SYS_sendfile, "sendfile", Fd(0), None),
    (libc::SYS_fsync, "fsync", Fd(0), None),
    (libc::SYS_fdatasync, "fdatasync", Fd(0), None),
    (libc::SYS_syncfs, "syncfs", Fd(0), None),
    (libc::SYS_fchmod, "fchmod", Fd(0), None),
    (libc::SYS_fchmodat, "fchmodat", At(1), None),
    (libc::SYS_utimensat, "utimensat", At(1), None),
    (libc::SYS_mkdirat, "mkdirat", At(1), None),
    (libc::SYS_unlinkat, "unlinkat", At(1), None),
    (libc::SYS_renameat, "renameat", At(1), None),
    (libc::SYS_renameat2, "renameat2", At(1), None),
    (libc::SYS_linkat, "linkat", At(1), None),
    (libc::SYS_symlinkat, "symlinkat", At(2), None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", FromCwd(0), Some(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", FromCwd(0), None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", FromCwd(0), None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", FromCwd(0), None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", FromCwd(0), None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", FromCwd(0), None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", FromCwd(1), None),
];

/// Calls that start a process, or a thread.
#[cfg(target_arch = "x86_64")]
const STARTS: [c_long; 4] = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const STARTS: [c_long; 2] = [libc::SYS_clone, libc::SYS_clone3];

/// Flags of `open` that may change something.
const WRITING: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;
/// Where the child keeps the descriptor that this process takes from it.
const LISTENER: i32 = 200;

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const CONTINUE: u32 = 1;
const NEW_LISTENER: u32 = 1 << 3;
const WAIT_KILLABLE: u32 = 1 << 5;

#[repr(C)]
struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

fn op(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn program() -> Vec<sock_filter> {
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equal = |k, jt, jf| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k);
    let any = |k, jt, jf| op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, jt, jf, k);
    let give = |k| op(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let mut program = vec![load(0)];
    for (number, _, _, flags) in CALLS {
        let number = *number as u32;
        if let Some(argument) = flags {
            program.extend([equal(number, 0, 4), load(16 + 8 * argument), any(WRITING, 0, 1)]);
            program.extend([give(libc::SECCOMP_RET_USER_NOTIF), give(libc::SECCOMP_RET_ALLOW)]);
        } else {
            program.extend([equal(number, 0, 1), give(libc::SECCOMP_RET_USER_NOTIF)]);
        }
    }
    for number in STARTS {
        program.extend([equal(number as u32, 0, 1), give(libc::SECCOMP_RET_USER_NOTIF)]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

/// Runs `command` and lets `faults` happen among its changes below `dir`. What it prints goes to files in `beside`.
pub(crate) fn run(mut command: Command, dir: &Path, beside: &Path, faults: &[Fault]) -> io::Result<Outcome> {
    let (out, err) = (beside.join("stdout"), beside.join("stderr"));
    command.stdin(std::process::Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let program = program();
    // SAFETY: between fork and exec only system calls are made, on memory that was there before.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            // Who is watched and has lost its watcher would wait for an answer for ever.
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0
            {
                return Err(io::Error::last_os_error());
            }
            let install = |flags: u32| libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &filter);
            let mut fd = install(NEW_LISTENER | WAIT_KILLABLE);
            if fd < 0 {
                fd = install(NEW_LISTENER);
            }
            if fd < 0 || libc::dup2(fd as i32, LISTENER) < 0 || libc::close(fd as i32) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let pid = child.id();
    let listener = take_listener(pid).inspect_err(|_| drop(child.kill()))?;
    let dir = dir.canonicalize()?;
    let (calls, hit, children) = watch(&listener, pid, &dir, faults);
    let status = child.wait()?;
    let text = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Outcome { status, stdout: text(out)?, stderr: text(err)?, calls, hit, children })
}

fn take_listener(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain system calls; what they return is owned here and nowhere else.
    unsafe {
        let own =
            |fd: c_long| if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) };
        let process = own(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        own(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), LISTENER, 0))
    }
}

/// Answers until everything that has the filter is gone.
fn watch(listener: &OwnedFd, pid: u32, dir: &Path, faults: &[Fault]) -> (Vec<&'static str>, Option<&'static str>, u64) {
    let mut calls = Vec::new();
    let (mut hit, mut children) = (None, 0);
    let fd = listener.as_raw_fd();
    loop {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, owned by the caller.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
        if poll.revents & libc::POLLIN == 0 {
            if poll.revents & libc::POLLHUP != 0 {
                return (calls, hit, children);
            }
            continue;
        }
        // SAFETY: all zero is a valid notice, and the kernel wants it so.
        let mut notice: Notice = unsafe { zeroed() };
        const { assert!(size_of::<Notice>() == 80 && size_of::<Answer>() == 24) };
        // SAFETY: the notice is as large as the kernel writes.
        if unsafe { libc::ioctl(fd, NOTIF_RECV, &raw mut notice) } != 0 {
            continue;
        }
        let mut answer = Answer { id: notice.id, value: 0, error: 0, flags: CONTINUE };
        children += u64::from(starts_process(&notice));
        if let Some(name) = change(&notice, pid, dir) {
            let n = calls.len() as u64;
            calls.push(name);
            let fault = faults.iter().find(|f| f.at == n || (f.kind == Kind::Full && f.at < n));
            if let Some(fault) = fault {
                hit.get_or_insert(name);
                let error = match fault.kind {
                    Kind::Kill => {
                        // SAFETY: our own child, which nobody has waited for.
                        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                        libc::EINTR
                    }
                    Kind::Full if !takes_space(name) => 0,
                    Kind::NoSpace | Kind::Full => libc::ENOSPC,
                    Kind::Broken => libc::EIO,
                };
                if error != 0 {
                    answer = Answer { id: notice.id, value: 0, error: -error, flags: 0 };
                }
            }
        }
        // SAFETY: the answer is as large as the kernel reads. Who was killed meanwhile hears nothing.
        unsafe { libc::ioctl(fd, NOTIF_SEND, &raw mut answer) };
    }
}

/// Whether the call makes a process, and not a thread.
fn starts_process(notice: &Notice) -> bool {
    let number = c_long::from(notice.number);
    let flags = if number == libc::SYS_clone {
        notice.args[0]
    } else if number == libc::SYS_clone3 {
        let mut flags = [0; 8];
        let memory = File::open(format!("/proc/{}/mem", notice.pid));
        if memory.and_then(|memory| memory.read_exact_at(&mut flags, notice.args[0])).is_err() {
            return false;
        }
        u64::from_le_bytes(flags)
    } else {
        return STARTS.contains(&number);
    };
    flags & libc::CLONE_THREAD as u64 == 0
}

fn takes_space(name: &str) -> bool {
    !matches!(name, "unlink" | "unlinkat" | "rmdir" | "fchmod" | "chmod" | "fchmodat" | "utimensat")
}

/// The name of the call, if the program itself makes it and it concerns something below `dir`.
fn change(notice: &Notice, pid: u32, dir: &Path) -> Option<&'static str> {
    let (_, name, names, _) = CALLS.iter().find(|(number, ..)| *number == c_long::from(notice.number))?;
    let of = PathBuf::from(format!("/proc/{pid}/task/{}", notice.pid));
    if !of.exists() {
        return None;
    }
    let link = |fd: i32| match fd {
        libc::AT_FDCWD => fs::read_link(of.join("cwd")),
        fd => fs::read_link(of.join("fd").join(fd.to_string())),
    };
    let path = match *names {
        Fd(n) => link(notice.args[n] as i32).ok()?,
        FromCwd(n) => link(libc::AT_FDCWD).ok()?.join(text(notice.pid, notice.args[n])?),
        At(n) => {
            let path = text(notice.pid, notice.args[n])?;
            match path.strip_prefix("/proc/self/fd") {
                Ok(by_fd) => {
                    let mut parts = by_fd.components();
                    let fd = parts.next()?.as_os_str().to_str()?.parse().ok()?;
                    link(fd).ok()?.join(parts.as_path())
                }
                Err(_) => link(notice.args[n - 1] as i32).ok()?.join(path),
            }
        }
    };
    path.starts_with(dir).then_some(*name)
}

/// A path in the memory of a process.
fn text(pid: u32, at: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = Vec::new();
    // Not across a page at a time: the next one may not be there.
    while bytes.len() < 4096 {
        let from = at + bytes.len() as u64;
        let mut part = vec![0; (4096 - from % 4096) as usize];
        let n = memory.read_at(&mut part, from).ok()?;
        let end = part[..n].iter().position(|b| *b == 0);
        bytes.extend_from_slice(&part[..end.unwrap_or(n)]);
        if end.is_some() || n == 0 {
            return Some(PathBuf::from(OsString::from_vec(bytes)));
        }
    }
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)))
}

/// Whether this machine lets a process watch another so.
pub(crate) fn is_possible() -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let watched = dir.path().join("watched");
    fs::create_dir(&watched).expect("is made");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec > watched/x; echo a; echo b"]).current_dir(dir.path());
    match run(command, &watched, dir.path(), &[]) {
        Ok(outcome) => outcome.calls.len() == 3,
        Err(_) => false,
    }
}

#[test]
fn faults_happen_where_they_are_wanted() {
    if !is_possible() {
        eprintln!("skipped: system calls cannot be watched here");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let watched = dir.path().join("watched");
    let check = |faults: &[Fault]| {
        let _ = fs::remove_dir_all(&watched);
        fs::create_dir(&watched).expect("is made");
        let mut command = Command::new("/bin/sh");
        // Its children are not watched, and what is elsewhere is not either.
        command.args(["-c", "exec 2>/dev/null; /bin/echo 0 > elsewhere; echo 1 > watched/1; echo 2 > watched/2; /bin/echo 3 > watched/3; echo ok"]);
        command.current_dir(dir.path());
        let outcome = run(command, &watched, dir.path(), faults).expect("runs");
        let files = ["1", "2", "3"].map(|n| fs::read_to_string(watched.join(n)).ok());
        (outcome, files.map(|f| f.is_some_and(|f| !f.is_empty())))
    };
    let (all, files) = check(&[]);
    assert_eq!((all.calls.len(), files, all.stdout.trim()), (5, [true; 3], "ok"), "{all:?}");
    let at = |at, kind| [Fault { at, kind }];
    let (killed, files) = check(&at(2, Kind::Kill));
    assert!(killed.was_killed() && killed.hit.is_some());
    assert_eq!((files, killed.stdout.as_str()), ([true, false, false], ""));
    for kind in [Kind::NoSpace, Kind::Broken] {
        let (failed, files) = check(&at(3, kind));
        assert_eq!((files, failed.stdout.trim(), failed.hit), ([true, false, true], "ok", Some("write")));
    }
    let (_, files) = check(&at(3, Kind::Full));
    assert_eq!(files, [true, false, false], "once full, full");
}
