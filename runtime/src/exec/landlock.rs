//! The `landlock` tier: a task in the workspace, kept by the kernel from what it did not declare.
//!
//! Knows which access belongs to which kind of path; unaware of namespaces and of what tasks are for. What it does and
//! what it cannot: `docs/design/sandbox.md`, "Tier `landlock`".

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::filter::{self, Sockets};
use super::sys;
use crate::path::parent;
use crate::process::{OutputKind, OutputSpec};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Removing and making of everything, and moving it between directories.
const CHANGE: u64 = 0b11_1111_1111 << 4;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// What can be allowed for a file that is not a directory.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

const BIND_AND_CONNECT_TCP: u64 = 0b11;
/// Abstract sockets, and signals to processes outside.
const SCOPES: u64 = 0b11;

const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
const WRITE: u64 = READ | WRITE_FILE | TRUNCATE | CHANGE;

/// Read as they are.
const SYSTEM: [&str; 11] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc", "/nix/store", "/gnu/store"];
/// Directories below which a gap is left for the workspace: so deep at most.
const GAP_DEPTH: usize = 64;

/// What a task may do.
pub(crate) struct Allowed<'a> {
    /// The workspace.
    pub(crate) root: &'a Path,
    /// The store: none of a task's business, wherever it lies.
    pub(crate) store: Option<&'a Path>,
    /// For files of short life.
    pub(crate) scratch: &'a Path,
    /// Declared inputs, by path: files, links and directories.
    pub(crate) inputs: Vec<&'a str>,
    /// What will be written.
    pub(crate) outputs: &'a [OutputSpec],
    /// Whether it may use the network.
    pub(crate) network: bool,
}

/// Rules that a process can put itself under.
pub(crate) struct Ruleset {
    fd: OwnedFd,
    handled: u64,
    filter: Vec<libc::sock_filter>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesetError {
    #[error("sandbox `landlock` does not work here: {0}")]
    Refused(String),
    #[error("sandbox: rule for `{path}`: {source}")]
    Rule { path: String, source: io::Error },
}

impl Ruleset {
    /// Makes the rules. Outputs' directories are there already.
    pub(crate) fn new(allowed: &Allowed<'_>) -> Result<Self, RulesetError> {
        let abi = sys::landlock_abi().map_err(|errno| RulesetError::Refused(why_not(errno)))?;
        // Each version of the interface knows a few more kinds of access.
        let handled = READ | WRITE | IOCTL_DEV;
        let handled = match abi {
            ..=1 => handled & !(1 << 13 | TRUNCATE | IOCTL_DEV),
            2 => handled & !(TRUNCATE | IOCTL_DEV),
            3..=4 => handled & !IOCTL_DEV,
            _ => handled,
        };
        let network = if abi >= 4 && !allowed.network { BIND_AND_CONNECT_TCP } else { 0 };
        let scopes = if abi >= 6 { SCOPES } else { 0 };
        let fd = sys::landlock_create(handled, network, scopes, abi);
        let fd = fd.map_err(|errno| RulesetError::Refused(io::Error::from_raw_os_error(errno).to_string()))?;
        // The rules for TCP came late, and there are none for anything else that leaves the machine.
        let filter = filter::program(if allowed.network { Sockets::All } else { Sockets::Local });
        let rules = Self { fd, handled, filter };
        let gaps: Vec<&Path> = [Some(allowed.root), allowed.store].into_iter().flatten().collect();
        for path in SYSTEM {
            rules.allow_around(Path::new(path), READ, &gaps)?;
        }
        rules.allow_around(Path::new("/proc"), READ | WRITE_FILE, &gaps)?;
        rules.allow_around(Path::new("/dev"), READ | WRITE_FILE | IOCTL_DEV | TRUNCATE, &gaps)?;
        rules.allow_around(Path::new("/dev/shm"), WRITE, &gaps)?;
        rules.allow_if_there(allowed.scratch, WRITE)?;
        // Names are not hidden: without this nothing could be looked for at all.
        rules.allow_if_there(allowed.root, READ_DIR)?;
        for path in &allowed.inputs {
            rules.allow_if_there(&allowed.root.join(path), READ)?;
        }
        for output in allowed.outputs {
            let end = output.path.find(['*', '?', '[', '\\']).filter(|_| output.kind == OutputKind::Glob);
            let dir = parent(&output.path[..end.unwrap_or(output.path.len())]);
            rules.allow_if_there(&allowed.root.join(dir), WRITE)?;
        }
        Ok(rules)
    }

    /// Puts this thread, and all it starts, under the rules. Async-signal-safe.
    pub(crate) fn enforce(&self) -> Result<(), i32> {
        sys::landlock_restrict(&self.fd)?;
        sys::install_filter(&self.filter)
    }

    /// Allows `access` to `path` and all below it but what is at or below one of the `gaps`.
    fn allow_around(&self, path: &Path, access: u64, gaps: &[&Path]) -> Result<(), RulesetError> {
        // A rule is for a directory, whatever it is called.
        let Ok(path) = path.canonicalize() else { return Ok(()) };
        if !gaps.iter().any(|gap| gap.starts_with(&path)) {
            return self.allow_if_there(&path, access);
        }
        if gaps.contains(&&*path) || path.components().count() > GAP_DEPTH {
            return Ok(());
        }
        // What is linked to is below a rule of its own, or not to be had.
        let listing = std::fs::read_dir(&path).into_iter().flatten().flatten();
        for entry in listing.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_symlink())) {
            self.allow_around(&entry.path(), access, gaps)?;
        }
        Ok(())
    }

    fn allow_if_there(&self, path: &Path, access: u64) -> Result<(), RulesetError> {
        let failed = |source: io::Error| RulesetError::Rule { path: path.display().to_string(), source };
        let fd = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(failed(error.into())),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed(e.into()))?;
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        let access = access & self.handled & if is_dir { !0 } else { OF_FILES };
        sys::landlock_allow(&self.fd, &fd, access).map_err(|errno| failed(io::Error::from_raw_os_error(errno)))
    }
}

/// Why there is no Landlock, by what the kernel said.
pub(crate) fn why_not(errno: i32) -> String {
    match errno {
        libc::ENOSYS => "this kernel has no Landlock".into(),
        libc::EOPNOTSUPP => "Landlock is switched off on this machine".into(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}
