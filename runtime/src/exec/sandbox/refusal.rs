//! Why the kernel refused a sandbox, in words a person can act on; and what works on this machine.
//!
//! Knows error numbers and where systems keep their restrictions; unaware of tasks.

use std::io;
use std::sync::Arc;

use quipu_store::sign::Signer;
use quipu_store::{Options, SignerSource, Store};

use super::stage::{Failed, Stage};
use super::{Enter, Sandbox};
use crate::exec::capture::Streams;
use crate::exec::lookup;
use crate::exec::spawn::Reads;
use crate::exec::stop::StopFlag;
use crate::exec::sys::Status;

const CHOICES: &str = "the choices are `sandbox = \"landlock\"` (what is not declared is refused, not hidden), \
                       or `sandbox = \"none\"` (not isolated; its receipts are not shared)";

/// A sentence on why, where it can be found out.
fn restriction() -> Option<&'static str> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some(
            "AppArmor keeps user namespaces from programs without a profile \
             (sysctl `kernel.apparmor_restrict_unprivileged_userns` is 1)",
        );
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Some("sysctl `kernel.unprivileged_userns_clone` is 0");
    }
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return Some("sysctl `user.max_user_namespaces` is 0");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|l| l.strip_prefix("Seccomp:").is_some_and(|v| v.trim() == "2")) {
        return Some("a seccomp filter is in force here, as in a container, and may be what forbids it");
    }
    None
}

fn with_reason(what: &str, errno: i32) -> String {
    let error = io::Error::from_raw_os_error(errno);
    let why = match errno {
        libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS => restriction(),
        _ => None,
    };
    let why = why.map_or_else(String::new, |why| format!("; {why}"));
    format!("{what}: {error}{why}; {CHOICES}")
}

/// No child was made.
pub(super) fn of_fork(error: &io::Error) -> String {
    let what = match error.raw_os_error() {
        Some(libc::ENOSPC) => "namespaces are refused (no more of them are allowed)",
        Some(libc::EINVAL | libc::ENOSYS) => "namespaces are refused (this kernel has not all that are needed)",
        Some(libc::EAGAIN | libc::ENOMEM) => return format!("no process could be made: {error}"),
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
        Stage::UserMap => with_reason("sandbox: mapping the user into its namespace is refused", errno),
        Stage::HostName => with_reason("sandbox: setting the host name is refused", errno),
        Stage::Root => with_reason("sandbox: mounting is refused", errno),
        Stage::Bind if matches!(errno, libc::ENOENT | libc::ENOTDIR) => {
            format!("sandbox: `{item}` is not there any more")
        }
        Stage::Bind => with_reason(&format!("sandbox: binding `{item}` is refused"), errno),
        Stage::Make => format!("sandbox: a place for `{item}` could not be made: {error}"),
        Stage::Proc => with_reason(
            "sandbox: mounting /proc is refused (in a container it is when parts of the container's /proc are covered)",
            errno,
        ),
        Stage::ReadOnly => {
            with_reason("sandbox: making mounts read-only is refused (Linux 5.12 or later is needed)", errno)
        }
        Stage::Memory => with_reason("sandbox: mounting tmpfs is refused", errno),
        Stage::Pivot => with_reason("sandbox: changing the root directory is refused", errno),
        Stage::Enter => with_reason("sandbox: entering its namespaces is refused", errno),
        Stage::Privileges => with_reason("sandbox: giving up privileges is refused", errno),
        Stage::Filter => with_reason("sandbox: filtering system calls is refused", errno),
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

/// Something an executor needs of this machine, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub name: &'static str,
    /// A detail worth knowing, or why it does not work.
    pub state: Result<String, String>,
}

/// Tries what tasks need of this machine.
pub fn probe() -> Vec<Capability> {
    vec![
        Capability { name: "sandbox `ns`", state: try_out() },
        Capability { name: "sandbox `landlock`", state: landlock() },
        Capability { name: "sandbox `none`", state: Ok("always works; nothing is isolated".into()) },
    ]
}

/// Runs a program in a sandbox of its own.
fn try_out() -> Result<String, String> {
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
    };
    let mut entered = sandbox.enter(task).map_err(|e| said(&e))?;
    let process = entered.start(&["true".to_owned()], &Reads::Nothing, None).map_err(|e| said(&e))?;
    let mut streams = Streams::new(&store, Arc::new(|_, _| {}));
    let stop = StopFlag::new().map_err(|e| said(&e))?;
    let ended = process.supervise(&mut streams, None, &stop, &mut || entered.end_rest()).map_err(|e| said(&e))?;
    match ended.status {
        Status::Exit(0) => Ok("a task sees what it declares and nothing else".into()),
        other => Err(format!("`true` ended with {other:?} in it")),
    }
}

fn landlock() -> Result<String, String> {
    match crate::exec::sys::landlock_abi() {
        Ok(abi) => Ok(format!("version {abi} of its interface: what is not declared is refused, not hidden")),
        Err(errno) => Err(crate::exec::landlock::why_not(errno)),
    }
}
