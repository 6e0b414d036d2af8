//! The `ns` tier: a task in namespaces of its own, where what it did not declare is not there.
//!
//! Knows what to bind where; unaware of outputs' meaning and of receipts. Design and measurements:
//! `docs/design/sandbox.md`.

mod cell;
mod child;
mod company;
mod mounts;
mod over;
mod refusal;
mod room;
mod skeleton;
mod stage;
mod view;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quipu_store::checkout::{CheckoutError, checkout};
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;
use quipu_store::{Blob, Store};
use rustc_hash::FxHashMap;

use self::cell::{Cell, CellError, Network, Template};
use self::child::{Common, Op, Own, Stacks, Stdin, Step, Where};
use self::company::Company;
use self::mounts::{Hidden, c_path, c_string};
pub(crate) use self::room::Left;
use self::room::{Room, Rooms};
use self::skeleton::Skeleton;
use self::stage::{Failed, Stage};
use self::view::{Counts, Seen, View, ViewError, Wanted};
use super::capture::ScratchDir;
use super::filter::{self, Sockets};
use super::spawn::{Minder, Process, Reads, pidfd_or_end, while_busy};
use super::sys::Pointers;
use super::trace::{Listener, Trace};
use crate::process::{OutputSpec, SANDBOX_ROOT};

pub use self::refusal::{landlock, namespaces, ns, remedy};

/// What all sandboxed tasks of one run share. Gone with everything in it when dropped.
pub(crate) struct Sandbox {
    store: Store,
    /// With the network, and without.
    templates: [Template; 2],
    /// Cells that wait for a task, by template.
    idle: [Mutex<Vec<Cell>>; 2],
    companies: Mutex<FxHashMap<u32, Arc<Company>>>,
    filter: Vec<libc::sock_filter>,
    hidden: Hidden,
    /// Inputs that are not files of the store as they stand, made once each.
    inputs: PathBuf,
    made: Mutex<FxHashMap<String, Arc<Mutex<bool>>>>,
    counts: Counts,
    /// A file that has many names.
    empty: PathBuf,
    rooms: Arc<Rooms>,
    // Dropped last: the cells' mounts are of it.
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
    /// Not this task alone, but every one in this tier.
    #[error("sandbox `ns` does not work here: {0}")]
    Unavailable(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NotStarted(String),
}

impl From<EnterError> for FailureKind {
    fn from(error: EnterError) -> Self {
        match &error {
            EnterError::View(ViewError::Overlap { output, input }) => {
                let why = if output == input {
                    "it is an input, too: what a task reads cannot be what it writes".to_owned()
                } else {
                    format!("input `{input}` and it are in each other's place")
                };
                Self::BadOutput { path: output.clone(), why }
            }
            // The task's own mistakes, which it makes on every machine.
            EnterError::View(_) | EnterError::Nul(_) | EnterError::NotStarted(_) => {
                Self::Spawn { why: error.to_string() }
            }
            _ => Self::Executor { why: error.to_string() },
        }
    }
}

fn io_at(what: &'static str) -> impl FnOnce(io::Error) -> EnterError {
    move |source| EnterError::Io { what, source }
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
    /// All of the environment.
    pub(crate) env: &'a [(String, String)],
    /// Where it runs, from the workspace's root.
    pub(crate) dir: &'a str,
    /// Whether it may use the network.
    pub(crate) network: bool,
    /// Whom it shares a network with when it may not use the machine's.
    pub(crate) company: Option<u32>,
}

/// Where a task's cell comes from, and goes back to.
enum Pool {
    /// It has no network, or that of the machine.
    Alone(usize),
    Company(Arc<Company>),
}

/// A task in its sandbox, between its steps.
pub(crate) struct Entered<'a> {
    sandbox: &'a Sandbox,
    view: View,
    /// Where outputs are written, when there are any.
    room: Option<Room>,
    cell: Option<Cell>,
    pool: Pool,
    ops: Vec<Op>,
    own: Option<Own>,
    common: Common<'a>,
    path: String,
    stacks: Stacks,
    /// Whether anything may run that has not been ended.
    started: bool,
    trace: Option<Trace>,
    /// Hears of the step that runs.
    listener: Option<Listener>,
}

impl Sandbox {
    /// Makes what tasks over `workspace` share, on the store's file system.
    pub(crate) fn new(store: &Store, workspace: &Path) -> Result<Self, EnterError> {
        let base = ScratchDir::new(store).map_err(io_at("scratch directory"))?;
        let in_base = |name: &str| base.path().join(name);
        let (inputs, empty, root) = (in_base("in"), in_base("empty"), in_base("root"));
        let made = std::fs::create_dir(&inputs).and_then(|()| std::fs::write(&empty, ""));
        let skeleton = made.and_then(|()| Skeleton::create(&root)).map_err(io_at("root directory"))?;
        let scratch = base.path().parent().unwrap_or(base.path()).to_owned();
        let mut bases = vec![(scratch, "scratch"), (workspace.to_owned(), "ws")];
        bases.extend(store.runs_dir().and_then(|runs| Some((runs.parent()?.to_owned(), "store"))));
        for (_, name) in &bases {
            std::fs::create_dir_all(root.join("q").join(name)).map_err(io_at("root directory"))?;
        }
        std::fs::create_dir_all(root.join("q/in")).map_err(io_at("root directory"))?;
        let templates =
            [mounts::template(&root, &skeleton, &bases, false)?, mounts::template(&root, &skeleton, &bases, true)?];
        Ok(Self {
            store: store.clone(),
            templates,
            idle: Default::default(),
            companies: Mutex::default(),
            filter: filter::program(Sockets::All),
            hidden: Hidden(bases),
            inputs,
            made: Mutex::default(),
            counts: Counts::default(),
            empty,
            rooms: Rooms::new(store),
            _base: base,
        })
    }

    /// Sees to it that an artifact can be bound.
    fn input(&self, path: &str, entry: &Entry) -> Result<Seen, EnterError> {
        let name = match entry {
            Entry::Symlink { target } => return Ok(Seen::Link(PathBuf::from(&**target))),
            Entry::File { blob, exec, .. } => {
                // Bound where it is, and not copied: so it is read through before.
                if !exec
                    && let Ok(Some(Blob::File { path, .. })) = self.store.whole(*blob)
                    && self.hidden.path(&path).is_some()
                {
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

    fn pool(&self, task: &Enter<'_>) -> Result<Pool, EnterError> {
        let Some(number) = task.company.filter(|_| !task.network) else {
            return Ok(Pool::Alone(usize::from(task.network)));
        };
        let mut companies = self.companies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(company) = companies.get(&number) {
            return Ok(Pool::Company(Arc::clone(company)));
        }
        let company = Company::found(&self.templates[0]).map_err(|error| self.explain(0, error))?;
        let company = companies.entry(number).or_insert(Arc::new(company));
        Ok(Pool::Company(Arc::clone(company)))
    }

    fn cell(&self, pool: &Pool) -> Result<Cell, EnterError> {
        let network = match pool {
            Pool::Company(company) => return company.cell(&self.templates[0]).map_err(|e| self.explain(0, e)),
            Pool::Alone(network) => *network,
        };
        if let Some(cell) = self.idle[network].lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(cell);
        }
        let of = if network == 1 { Network::Machine } else { Network::None };
        Cell::new(&self.templates[network], of).map_err(|error| self.explain(network, error))
    }

    fn explain(&self, network: usize, error: CellError) -> EnterError {
        let template = &self.templates[network];
        match error {
            CellError::Fork(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM)) => {
                EnterError::Io { what: "its first process", source: error }
            }
            CellError::Fork(error) => EnterError::Unavailable(refusal::of_fork(&error)),
            CellError::Failed(failed) => {
                let bound = template
                    .binds
                    .get(failed.index)
                    .map_or_else(String::new, |b| b.from.to_string_lossy().into_owned());
                EnterError::Unavailable(refusal::of_stage(failed, &bound))
            }
            CellError::Io(source) => EnterError::Io { what: "its first process did not answer", source },
        }
    }

    /// Makes a task's place ready.
    pub(crate) fn enter<'a>(&'a self, mut task: Enter<'a>) -> Result<Entered<'a>, EnterError> {
        let artifacts = task.artifacts.iter().map(|(path, entry)| Ok((*path, self.input(path, entry)?)));
        let view = View::new(Wanted {
            root: task.workspace,
            sources: std::mem::take(&mut task.sources),
            artifacts: artifacts.collect::<Result<_, EnterError>>()?,
            outputs: task.outputs,
            dir: task.dir,
            counts: &self.counts,
        })?;
        let mut room = None;
        if !view.disk.is_empty() {
            let taken = self.rooms.take(&view.dirs_on_disk()).map_err(io_at("scratch directory"))?;
            room.insert(taken).furnish(&view, &self.empty).map_err(io_at("places for inputs"))?;
        }
        let ops = mounts::ops(&self.hidden, &view, room.as_ref().map(Room::ws).as_deref())?;
        self.entered(&task, view, room, ops)
    }

    fn entered<'a>(
        &'a self,
        task: &Enter<'a>,
        view: View,
        room: Option<Room>,
        ops: Vec<Op>,
    ) -> Result<Entered<'a>, EnterError> {
        let env = task.env.iter().map(|(name, value)| c_string(format!("{name}={value}")));
        let common = Common {
            filter: &self.filter,
            dir: c_path(&Path::new(SANDBOX_ROOT).join(task.dir))?,
            env: Pointers::new(env.collect::<Result<_, _>>()?),
        };
        let path =
            task.env.iter().find(|(name, _)| name == "PATH").map_or_else(String::new, |(_, value)| value.clone());
        let pool = self.pool(task)?;
        let cell = Some(self.cell(&pool)?);
        Ok(Entered {
            sandbox: self,
            view,
            room,
            cell,
            pool,
            ops,
            own: None,
            common,
            path,
            stacks: Stacks::default(),
            started: false,
            trace: None,
            listener: None,
        })
    }
}

impl Entered<'_> {
    /// What the steps to come do with files is noted in `trace`.
    pub(crate) fn trace(&mut self, trace: &Trace) {
        self.trace = Some(trace.clone());
    }

    /// Starts the next command line.
    pub(crate) fn start(
        &mut self,
        argv: &[String],
        stdin: &Reads,
        stdout: Option<&File>,
    ) -> Result<Process, FailureKind> {
        self.try_start(argv, stdin, stdout).map_err(FailureKind::from)
    }

    fn try_start(&mut self, argv: &[String], stdin: &Reads, stdout: Option<&File>) -> Result<Process, EnterError> {
        let Some(cell) = &self.cell else { return Err(EnterError::Refused("sandbox: it is gone".into())) };
        self.listener =
            self.trace.as_ref().map(Listener::new).transpose().map_err(io_at("listening to system calls"))?;
        let step = Step {
            trace: self.listener.as_ref().map(Listener::hook),
            programs: super::lookup::candidates(&argv[0], &self.path)
                .iter()
                .map(|p| c_path(p))
                .collect::<Result<_, _>>()?,
            argv: Pointers::new(argv.iter().map(c_string).collect::<Result<_, _>>()?),
        };
        let (opened, hidden);
        let stdin = match stdin {
            Reads::Nothing | Reads::Copy(_) | Reads::Open(_) => {
                opened = stdin.open().map_err(io_at("standard input"))?;
                Stdin::Descriptor(opened.as_raw_fd())
            }
            Reads::File(path) => {
                let outside = || EnterError::Refused(format!("sandbox: `{}` cannot be read from", path.display()));
                hidden = c_path(&self.sandbox.hidden.path(path).ok_or_else(outside)?)?;
                Stdin::Path(&hidden)
            }
        };
        let pipe = || io::pipe().map_err(io_at("pipe"));
        let (reader, captured) =
            if stdout.is_some() { (None, None) } else { pipe().map(|(r, w)| (Some(r), Some(w)))? };
        let stdout =
            stdout.map(File::as_raw_fd).or(captured.as_ref().map(AsRawFd::as_raw_fd)).expect("one of the two is there");
        let (stderr, child_stderr) = pipe()?;
        let place = self.own.as_ref().map_or(Where::New(&self.ops), Where::Same);
        let output = [stdout, child_stderr.as_raw_fd()];
        let (common, stacks) = (&self.common, &mut self.stacks);
        let mut failed = None;
        let started = while_busy(|| {
            child::start(cell, &place, common, &step, stdin, output, stacks).map_err(|error| {
                failed = Some(error);
                io::Error::from_raw_os_error(error.errno)
            })
        });
        let (pid, own) = match (started, failed) {
            (Ok(started), _) => started,
            (Err(_), Some(failed)) => return Err(self.explain(failed, &argv[0])),
            (Err(error), None) => return Err(io_at("start")(error)),
        };
        self.own = own.or(self.own.take());
        self.started = true;
        let pidfd = pidfd_or_end(pid).map_err(io_at("descriptor of the process"))?;
        let minder = Minder::Pidfd(pidfd);
        Ok(Process { pid, stdout: reader.map(OwnedFd::from), stderr: Some(stderr.into()), minder })
    }

    fn explain(&self, failed: Failed, program: &str) -> EnterError {
        if failed.stage == Stage::Exec {
            return EnterError::NotStarted(refusal::of_exec(program, &self.path, failed.errno));
        }
        let item = match self.ops.get(failed.index) {
            Some(Op::Bind(bind)) => &bind.from,
            Some(Op::Dir(path) | Op::File(path) | Op::Link { path, .. }) => path,
            _ => c"",
        };
        let item = self.sandbox.hidden.host(Path::new(&*item.to_string_lossy()));
        let why = refusal::of_stage(failed, &item.to_string_lossy());
        if failed.stage == Stage::Dir { EnterError::NotStarted(why) } else { EnterError::Refused(why) }
    }

    /// Whether the task may have seen files that nobody declared: some came or went in a directory that it saw as it is. The next
    /// to enter is given the single files of such a directory.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.view.is_disturbed(&self.sandbox.counts)
    }

    /// Where outputs are written; nowhere when there are none.
    pub(crate) fn outputs(&self) -> Option<PathBuf> {
        self.room.as_ref().map(Room::ws)
    }

    /// Leaves what the task wrote where it is, for as long as what this gives lives. Nothing of the task may run any more, nor again.
    pub(crate) fn leave_outputs(&mut self) -> Option<Left> {
        self.end_rest();
        self.own = None;
        self.room.take().map(|room| Left::new(room, &self.sandbox.rooms))
    }

    /// Whether what stands at `path` where outputs are written was put there for the task to read.
    pub(crate) fn is_input(&self, path: &str) -> bool {
        match self.view.seen.get(path) {
            // A task can replace a link, and nothing else.
            Some(Seen::Link(target)) => {
                let found = [self.outputs(), self.memory()].into_iter().flatten();
                found.filter_map(|root| std::fs::read_link(root.join(path)).ok()).any(|found| found == *target)
            }
            Some(_) => true,
            None => self.view.still.contains(path),
        }
    }

    /// Whether what stands at `path` in memory is to be looked at elsewhere, or not at all.
    pub(crate) fn is_elsewhere(&self, path: &str) -> bool {
        self.is_input(path) || self.view.disk.contains(path)
    }

    /// What the task sees of its workspace in memory, once it has run.
    pub(crate) fn memory(&self) -> Option<PathBuf> {
        let own = self.own.as_ref().filter(|_| !self.view.disk.contains(""))?;
        Some(format!("/proc/self/fd/{}", own.ws.as_raw_fd()).into())
    }

    /// Whether it shares a network with its company, which is not the machine's.
    pub(crate) fn is_apart(&self) -> bool {
        matches!(self.pool, Pool::Company(_))
    }

    /// A socket in its network, of IPv4 or of IPv6, with which nobody waits.
    pub(crate) fn socket(&self, is_v4: bool) -> io::Result<OwnedFd> {
        let cell = self.cell.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        child::socket(cell, is_v4).map_err(io::Error::from_raw_os_error)
    }

    /// Ends whatever still runs of the task.
    pub(crate) fn end_rest(&mut self) {
        if std::mem::take(&mut self.started)
            && let Some(cell) = &mut self.cell
            && cell.clean().is_err()
        {
            self.cell = None;
        }
        self.listener = None;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.end_rest();
        self.own = None;
        if let Some(room) = self.room.take() {
            self.sandbox.rooms.give_back(room);
        }
        if let Some(cell) = self.cell.take() {
            match &self.pool {
                Pool::Alone(network) => {
                    self.sandbox.idle[*network].lock().unwrap_or_else(PoisonError::into_inner).push(cell);
                }
                Pool::Company(company) => company.give_back(cell),
            }
        }
    }
}
