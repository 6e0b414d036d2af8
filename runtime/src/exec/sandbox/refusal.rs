//! Why the kernel refused a sandbox, in words a person can act on; and what works on this machine.
//!
//! Knows error numbers and where systems keep their restrictions; unaware of tasks.
#![expect(unsafe_code, reason = "tries out which namespaces there are")]

use std::io;
use std::sync::Arc;

use quipu_store::sign::Signer;
use quipu_store::{Options, SignerSource, Store};

use super::stage::{Failed, Stage};
use super::{Enter, Sandbox};
use crate::exec::capture::Streams;
use crate::exec::lookup;
use crate::exec::secrets::Secrets;
use crate::exec::spawn::Reads;
use crate::exec::stop::StopFlag;
use crate::exec::sys::{self, Status};

/// What keeps namespaces from programs on this machine, and what its owner can do about it.
struct Restriction {
    why: &'static str,
    remedy: &'static str,
}

const APPARMOR: Restriction = Restriction {
    why: "AppArmor keeps user namespaces from programs without a profile \
          (sysctl `kernel.apparmor_restrict_unprivileged_userns` is 1)",
    remedy: "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, \
             or an AppArmor profile for quipu that says `userns,`",
};
const CLONE_OFF: Restriction = Restriction {
    why: "sysctl `kernel.unprivileged_userns_clone` is 0",
    remedy: "`sudo sysctl kernel.unprivileged_userns_clone=1`",
};
const NONE_ALLOWED: Restriction = Restriction {
    why: "sysctl `user.max_user_namespaces` is 0",
    remedy: "`sudo sysctl user.max_user_namespaces=10000`",
};
const CONTAINER: Restriction = Restriction {
    why: "a seccomp filter is in force here, as in a container, and may be what forbids it",
    remedy: "start the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined \
             --security-opt systempaths=unconfined`",
};

/// What it is, where that can be found out.
fn restriction() -> Option<Restriction> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return Some(NONE_ALLOWED);
    }
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some(APPARMOR);
    }
    if !is_root && number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Some(CLONE_OFF);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|l| l.strip_prefix("Seccomp:").is_some_and(|v| v.trim() == "2")) {
        return Some(CONTAINER);
    }
    None
}

/// What the owner of this machine can do so that the tier `ns` works, as far as it can be told.
pub fn remedy() -> Option<&'static str> {
    restriction().map(|restriction| restriction.remedy)
}

fn with_reason(what: &str, errno: i32) -> String {
    let error = io::Error::from_raw_os_error(errno);
    let why = match errno {
        libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS => restriction(),
        _ => None,
    };
    let why = why.map_or_else(String::new, |restriction| format!("; {}", restriction.why));
    format!("{what}: {error}{why}")
}

/// No child was made.
pub(super) fn of_fork(error: &io::Error) -> String {
    let what = match error.raw_os_error() {
        Some(libc::ENOSPC) => "namespaces are refused (no more of them are allowed)",
        Some(libc::EINVAL | libc::ENOSYS) => "namespaces are refused (this kernel has not all that are needed)",
        _ => "namespaces are refused",
    };
    with_reason(what, error.raw_os_error().unwrap_or(0))
}

/// It got so far; `item` is what was being bound or made.
pub(super) fn of_stage(failed: Failed, item: &str) -> String {
    let Failed { stage, errno, .. } = failed;
    let error = io::Error::from_raw_os_error(errno);
    match stage {
        Stage::Descriptors => format!("sandbox: descriptors: {error}"),
        Stage::UserMap => with_reason("mapping the user into its namespace is refused", errno),
        Stage::Loopback => with_reason("a network for services is refused", errno),
        Stage::HostName => with_reason("setting the host name is refused", errno),
        Stage::Root => with_reason("mounting is refused", errno),
        Stage::Bind if matches!(errno, libc::ENOENT | libc::ENOTDIR) => {
            format!("sandbox: `{item}` is not there any more")
        }
        Stage::Bind => with_reason(&format!("binding `{item}` is refused"), errno),
        Stage::Make => format!("sandbox: a place for `{item}` could not be made: {error}"),
        Stage::Proc => with_reason(
            "mounting /proc is refused (in a container it is when parts of the container's /proc are covered)",
            errno,
        ),
        Stage::ReadOnly => with_reason("making mounts read-only is refused (Linux 5.12 or later is needed)", errno),
        Stage::Memory => with_reason("mounting tmpfs is refused", errno),
        Stage::Layers => with_reason("mounting overlayfs over the workspace is refused", errno),
        Stage::Pivot => with_reason("changing the root directory is refused", errno),
        Stage::Enter => with_reason("entering its namespaces is refused", errno),
        Stage::Privileges => with_reason("giving up privileges is refused", errno),
        Stage::Filter => with_reason("filtering system calls is refused", errno),
        Stage::Trace => format!(
            "tracing is refused: {error} (it takes seccomp user notification, of Linux 5.5 or later, and no other use of it \
             around quipu)"
        ),
        Stage::Fork => format!("sandbox: no process could be made: {error}"),
        Stage::Dir => format!("working directory: {error}"),
        Stage::Exec => format!("program: {error}"),
    }
}

/// The program could not be started.
pub(super) fn of_exec(program: &str, path: &str, errno: i32) -> String {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOENT => {
            let said = format!("{} of the sandbox", lookup::not_found(program, path));
            let hidden = lookup::find(program, path, std::path::Path::new("/")).ok();
            match hidden {
                Some(file) => format!(
                    "{said}; this machine has `{}`, which the sandbox does not show, or what it needs is not shown",
                    file.display()
                ),
                None => said,
            }
        }
        libc::EACCES => format!("program `{program}` is there and may not be executed"),
        _ => lookup::not_started(program, std::path::Path::new(program), &error),
    }
}

/// Runs a program in a sandbox of its own: whether the tier `ns` works on this machine, and if not, why.
pub fn ns() -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32]))));
    let workspace = store.scratch_dir().map_err(|e| said(&e))?;
    let sandbox = Sandbox::new(&store, &workspace).map_err(|e| said(&e))?;
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let task = Enter {
        workspace: &workspace,
        sources: Vec::new(),
        artifacts: Vec::new(),
        outputs: &[],
        env: &env,
        dir: "",
        network: false,
        company: None,
    };
    let mut entered = sandbox.enter(task).map_err(|e| said(&e))?;
    let process = entered.start(&["true".to_owned()], &Reads::Nothing, None).map_err(|e| said(&e))?;
    let mut streams = Streams::new(&store, Arc::new(|_, _| {}), &Secrets::default());
    let stop = StopFlag::new().map_err(|e| said(&e))?;
    let ended = process.supervise(&mut streams, None, &stop, &mut || entered.end_rest()).map_err(|e| said(&e))?;
    match ended.status {
        Status::Exit(0) => Ok(()),
        other => Err(format!("`true` ended with {other:?} in it")),
    }
}

/// Each kind of namespace that the tier `ns` takes, and whether it can be had together with a user namespace.
pub fn namespaces() -> Vec<(&'static str, io::Result<()>)> {
    let kinds = [
        ("user", 0),
        ("mount", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("net", libc::CLONE_NEWNET),
    ];
    let made = |kind| {
        // SAFETY: what runs in the child does nothing.
        let (pid, _) = unsafe { sys::fork_into(libc::CLONE_NEWUSER | kind, || 0) }?;
        sys::reap(pid).map(drop)
    };
    kinds.into_iter().map(|(name, kind)| (name, made(kind))).collect()
}

/// The version of Landlock's interface that the tier `landlock` finds on this machine; or why there is none.
pub fn landlock() -> Result<i64, String> {
    sys::landlock_abi().map_err(crate::exec::landlock::why_not)
}
