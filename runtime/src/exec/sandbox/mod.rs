//! The `ns` tier: a task in namespaces of its own, where what it did not declare is not there.
//!
//! Knows what to bind where, and how to say why the kernel refused; unaware of outputs' meaning and of receipts. Design and
//! measurements: `docs/design/sandbox.md`.

mod child;
mod filter;
mod refusal;
mod skeleton;
mod view;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quipu_store::checkout::{CheckoutError, checkout};
use quipu_store::receipt::FailureKind;
use quipu_store::sign::Signer;
use quipu_store::tree::Entry;
use quipu_store::{Blob, Options, SignerSource, Store};
use rustc_hash::FxHashMap;

use self::child::{Bind, REPORT_BYTES, Report, Script, Stage, Step};
use self::skeleton::Skeleton;
use self::view::{Seen, View, ViewError, Wanted};
use super::capture::{ScratchDir, Streams};
use super::spawn::{Leash, Process};
use super::stop::StopFlag;
use super::sys::{self, Pointers, Stack, Status, Usage};
use crate::process::OutputSpec;

pub use self::refusal::{Capability, probe};

/// Where tasks find the workspace.
pub(crate) const WS: &str = "/ws";

/// What all sandboxed tasks of one run share. Gone with everything in it when dropped.
pub(crate) struct Sandbox {
    store: Store,
    skeleton: Skeleton,
    filter: Vec<libc::sock_filter>,
    /// Inputs that are not files of the store as they stand, made once each.
    inputs: PathBuf,
    made: Mutex<FxHashMap<String, Arc<Mutex<bool>>>>,
    _base: ScratchDir,
}

/// Why a task did not get into its sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    #[error("sandbox: {0}")]
    View(#[from] ViewError),
    #[error("input `{path}`: {source}")]
    Input { path: String, source: CheckoutError },
    #[error("sandbox: {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("sandbox: `{0}` has a NUL byte in it")]
    Nul(String),
    #[error("{0}")]
    Refused(String),
}

impl From<EnterError> for FailureKind {
    fn from(error: EnterError) -> Self {
        match error {
            EnterError::View(ViewError::Overlap { output, input }) => {
                let why = if output == input {
                    "it is an input, too: what a task reads cannot be what it writes".to_owned()
                } else {
                    format!("input `{input}` and it are in each other's place")
                };
                Self::BadOutput { path: output, why }
            }
            other => Self::Spawn { why: other.to_string() },
        }
    }
}

/// One task to be run in a sandbox.
pub(crate) struct Enter<'a> {
    /// The workspace.
    pub(crate) workspace: &'a Path,
    /// Every declared source file, and whether it is a symbolic link.
    pub(crate) sources: Vec<(&'a str, bool)>,
    /// What other tasks made, by path.
    pub(crate) artifacts: Vec<(&'a str, &'a Entry)>,
    /// What will be written.
    pub(crate) outputs: &'a [OutputSpec],
    /// Command lines.
    pub(crate) steps: &'a [Vec<String>],
    /// All of the environment.
    pub(crate) env: &'a [(String, String)],
    /// Where it runs, from the workspace's root.
    pub(crate) dir: &'a str,
    /// Whether it may use the network.
    pub(crate) network: bool,
    /// What it reads; nothing when absent.
    pub(crate) stdin: Option<&'a File>,
    /// Where its standard output goes when it is not captured: a path in the workspace.
    pub(crate) stdout: Option<&'a str>,
}

/// A task in its sandbox.
pub(crate) struct Entered {
    /// The sandbox's first process.
    pub(crate) process: Process,
    /// What the child says, once it has ended.
    pub(crate) outcome: Outcome,
}

/// Reads what became of the task.
pub(crate) struct Outcome {
    pipe: OwnedFd,
    binds: Vec<String>,
    programs: Vec<String>,
    path: String,
}

/// The task's own place: what it wrote is left here when it has ended.
pub(crate) struct Room {
    scratch: ScratchDir,
    view: View,
}

impl Room {
    /// The directory that was the task's workspace.
    pub(crate) fn ws(&self) -> PathBuf {
        self.scratch.path().join("ws")
    }

    /// Whether what stands at `path` was put there for the task to read.
    pub(crate) fn is_input(&self, path: &str) -> bool {
        match self.view.seen.get(path) {
            Some(Seen::Link(target)) => std::fs::read_link(self.ws().join(path)).is_ok_and(|t| t == *target),
            Some(_) => true,
            None => false,
        }
    }
}

fn c_string(bytes: impl AsRef<[u8]>) -> Result<CString, EnterError> {
    CString::new(bytes.as_ref()).map_err(|e| EnterError::Nul(String::from_utf8_lossy(&e.into_vec()).into_owned()))
}

fn c_path(path: &Path) -> Result<CString, EnterError> {
    c_string(path.as_os_str().as_bytes())
}

fn io_at(what: &'static str) -> impl FnOnce(io::Error) -> EnterError {
    move |source| EnterError::Io { what, source }
}

impl Sandbox {
    /// Makes what tasks share, on the store's file system.
    pub(crate) fn new(store: &Store) -> io::Result<Self> {
        let base = ScratchDir::new(store)?;
        let inputs = base.path().join("in");
        std::fs::create_dir(&inputs)?;
        let skeleton = Skeleton::create(base.path().join("root"))?;
        Ok(Self {
            store: store.clone(),
            skeleton,
            filter: filter::program(),
            inputs,
            made: Mutex::default(),
            _base: base,
        })
    }

    /// Sees to it that an artifact can be bound.
    fn input(&self, path: &str, entry: &Entry) -> Result<Seen, EnterError> {
        let name = match entry {
            Entry::Symlink { target } => return Ok(Seen::Link(PathBuf::from(&**target))),
            Entry::File { blob, exec, .. } => {
                if !exec && let Ok(Some(Blob::File { path, .. })) = self.store.blob(*blob) {
                    return Ok(Seen::File(path));
                }
                format!("{blob}{}", if *exec { "-x" } else { "" })
            }
            Entry::Dir { tree } => tree.to_string(),
        };
        let host = self.inputs.join(&name);
        let slot = self.made.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone();
        let mut made = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if !*made {
            let done = checkout(&self.store, entry, &self.inputs, &name);
            done.map_err(|source| EnterError::Input { path: path.to_owned(), source })?;
            *made = true;
        }
        Ok(if matches!(entry, Entry::Dir { .. }) { Seen::Dir(host) } else { Seen::File(host) })
    }

    /// Starts a task in a sandbox of its own.
    pub(crate) fn enter(&self, task: &Enter<'_>) -> Result<(Entered, Room), EnterError> {
        let artifacts = task.artifacts.iter().map(|(path, entry)| Ok((*path, self.input(path, entry)?)));
        let view = View::new(Wanted {
            root: task.workspace,
            sources: task.sources.clone(),
            artifacts: artifacts.collect::<Result<_, EnterError>>()?,
            outputs: task.outputs,
            dir: task.dir,
        })?;
        let scratch = ScratchDir::new(&self.store).map_err(io_at("scratch directory"))?;
        let ws = scratch.path().join("ws");
        private_dir(scratch.path()).and_then(|()| std::fs::create_dir(&ws)).map_err(io_at("scratch directory"))?;
        view.make(&ws).map_err(io_at("places for inputs"))?;
        let stdin = match task.stdin {
            Some(file) => file.try_clone(),
            None => File::open("/dev/null"),
        };
        let stdin = stdin.map_err(io_at("standard input"))?;
        let (stdout, child_stdout) = match task.stdout {
            Some(path) => (None, OwnedFd::from(File::create(ws.join(path)).map_err(io_at("standard output"))?)),
            None => {
                let (reader, writer) = io::pipe().map_err(io_at("pipe"))?;
                (Some(OwnedFd::from(reader)), OwnedFd::from(writer))
            }
        };
        let (stderr, child_stderr) = io::pipe().map_err(io_at("pipe"))?;
        let (pipe, child_report) = io::pipe().map_err(io_at("pipe"))?;
        let script = self.script(
            task,
            &view,
            &ws,
            [stdin.as_raw_fd(), child_stdout.as_raw_fd(), child_stderr.as_raw_fd(), child_report.as_raw_fd()],
        )?;
        let mut stack = Stack::new();
        let network = if task.network { 0 } else { libc::CLONE_NEWNET };
        let namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | network;
        let (pid, pidfd) =
            fork(namespaces, &script, &mut stack).map_err(|e| EnterError::Refused(refusal::of_fork(&e)))?;
        let binds = script.binds.iter().map(|b| b.from.to_string_lossy().into_owned()).collect();
        let path =
            task.env.iter().find(|(name, _)| name == "PATH").map_or_else(String::new, |(_, value)| value.clone());
        let outcome = Outcome {
            pipe: pipe.into(),
            binds,
            programs: task.steps.iter().map(|argv| argv[0].clone()).collect(),
            path,
        };
        let process = Process { pid, pidfd, leash: Leash::Namespace, stdout, stderr: Some(stderr.into()) };
        Ok((Entered { process, outcome }, Room { scratch, view }))
    }

    fn script(&self, task: &Enter<'_>, view: &View, ws: &Path, fds: [i32; 4]) -> Result<Script, EnterError> {
        let mut binds = Vec::with_capacity(self.skeleton.binds.len() + view.seen.len() + 3);
        let bind = |from: &Path, to: &Path, recursive| {
            Ok::<_, EnterError>(Bind { from: c_path(from)?, to: c_path(to)?, recursive })
        };
        for (from, to) in &self.skeleton.binds {
            binds.push(bind(from, to, !to.starts_with("dev"))?);
        }
        if task.network {
            for name in ["/etc/resolv.conf", "/etc/hosts"] {
                // Often a link to where the sandbox shows nothing.
                if let Ok(real) = std::fs::canonicalize(name) {
                    binds.push(bind(&real, Path::new(&name[1..]), false)?);
                }
            }
        }
        binds.push(bind(ws, Path::new("ws"), false)?);
        for (path, seen) in &view.seen {
            let to = format!("ws/{path}");
            match seen {
                Seen::File(host) => binds.push(bind(host, Path::new(&to), false)?),
                Seen::Dir(host) => binds.push(bind(host, Path::new(&to), true)?),
                Seen::Link(_) => {}
            }
        }
        let path = task.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| &**value);
        let steps = task.steps.iter().map(|argv| {
            let programs = super::lookup::candidates(&argv[0], path.unwrap_or_default());
            let programs = programs.into_iter().map(|p| c_path(&p)).collect::<Result<_, _>>()?;
            let argv = argv.iter().map(c_string).collect::<Result<_, _>>()?;
            Ok(Step { programs, argv: Pointers::new(argv) })
        });
        let env = task.env.iter().map(|(name, value)| c_string(format!("{name}={value}")));
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let [stdin, stdout, stderr, report] = fds;
        Ok(Script {
            uid_map: format!("{} {uid} 1", skeleton::UID).into_bytes(),
            gid_map: format!("{} {gid} 1", skeleton::UID).into_bytes(),
            root: c_path(&self.skeleton.root)?,
            binds,
            writable: vec![c"ws".to_owned()],
            memory: vec![c"tmp".to_owned(), c"home".to_owned()],
            filter: self.filter.clone(),
            dir: c_path(&Path::new(WS).join(task.dir))?,
            steps: steps.collect::<Result<_, EnterError>>()?,
            env: Pointers::new(env.collect::<Result<_, _>>()?),
            stdio: [stdin, stdout, stderr],
            report,
        })
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

#[expect(unsafe_code, reason = "the child runs prepared code only")]
fn fork(namespaces: i32, script: &Script, stack: &mut Stack) -> io::Result<(rustix::process::Pid, OwnedFd)> {
    // SAFETY: `child::run` neither allocates nor locks; all it needs is in the script.
    unsafe { sys::fork_into(namespaces, || child::run(script, stack)) }
}

impl Outcome {
    /// How the last step that ran ended, or why none did. `ended` is what is known of the sandbox's first process.
    pub(crate) fn read(&self, ended: Status) -> Result<(Status, Option<Usage>), FailureKind> {
        let _ = rustix::io::ioctl_fionbio(&self.pipe, true);
        let mut bytes = [0; REPORT_BYTES];
        let read = rustix::io::read(&self.pipe, &mut bytes).unwrap_or(0);
        match Report::decode(&bytes[..read]) {
            Some(Report::Ended { status, usage, .. }) => Ok((Status::from_wait(status), Some(usage))),
            Some(Report::Failed { stage: Stage::Exec, index, errno }) => {
                let program = self.programs.get(index as usize).map_or("", |p| p);
                Err(FailureKind::Spawn { why: refusal::of_exec(program, &self.path, errno) })
            }
            Some(Report::Failed { stage, index, errno }) => {
                Err(FailureKind::Spawn { why: refusal::of_stage(stage, index as usize, errno, &self.binds) })
            }
            // It was ended before it could say anything.
            None => Ok((ended, None)),
        }
    }
}

/// Runs a program in a sandbox of its own and says how that went.
fn try_out() -> Result<String, String> {
    let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32]))));
    let sandbox = Sandbox::new(&store).map_err(|e| e.to_string())?;
    let steps = [vec!["true".to_owned()]];
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let task = Enter {
        workspace: Path::new("/"),
        sources: Vec::new(),
        artifacts: Vec::new(),
        outputs: &[],
        steps: &steps,
        env: &env,
        dir: "",
        network: false,
        stdin: None,
        stdout: None,
    };
    let (entered, _room) = sandbox.enter(&task).map_err(|e| e.to_string())?;
    let mut streams = Streams::new(&store, Arc::new(|_, _| {}));
    let stop = StopFlag::new().map_err(|e| e.to_string())?;
    let ended = entered.process.supervise(&mut streams, None, &stop).map_err(|e| e.to_string())?;
    match entered.outcome.read(ended.status) {
        Ok((Status::Exit(0), _)) => Ok("a task in namespaces of its own sees what it declares and nothing else".into()),
        Ok((status, _)) => Err(format!("`true` ended with {status:?} in it")),
        Err(kind) => Err(kind.to_string()),
    }
}
