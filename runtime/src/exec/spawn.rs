//! One command line as a process: a group of its own, its streams captured, ended in time, nothing of the group left.
//!
//! Knows processes, pipes and deadlines; unaware of inputs, outputs and receipts. Everything here blocks: a task has a
//! thread of its own while it runs (`docs/design/sandbox.md`, "Waiting").

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::capture::Streams;
use super::keeper::{Keepers, Kept};
use super::landlock::Ruleset;
use super::stop::StopFlag;
use super::sys::{self, Status, Usage};
use super::{Stop, Stream};

/// How long what was asked to end may take before it is ended.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// How long a stream may stay open, silent, after everything that was ours has ended.
const DRAIN_IDLE: Duration = Duration::from_millis(100);
/// How long it may stay open at all.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How often a program that is just being written is tried again.
const BUSY_TRIES: u32 = 60;

thread_local! {
    /// What streams are read with: cleared once for each thread.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a process reads from its standard input.
pub(crate) enum Reads {
    /// Nothing.
    Nothing,
    /// A copy of its own.
    Copy(File),
    /// What is open already, from where it stands.
    Open(File),
    /// A file that belongs to others.
    File(PathBuf),
}

impl Reads {
    /// Opened, at its beginning.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self {
            Self::Nothing => File::open("/dev/null"),
            Self::Copy(file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(file)
            }
            Self::Open(file) => file.try_clone(),
            Self::File(path) => File::open(path),
        }
    }
}

/// What to run.
pub(crate) struct Launch<'a> {
    /// The program's file.
    pub(crate) program: &'a Path,
    /// Its arguments, its own name first.
    pub(crate) argv: &'a [String],
    /// All of its environment.
    pub(crate) env: &'a [(String, String)],
    /// Where it runs.
    pub(crate) dir: &'a Path,
    /// What it reads.
    pub(crate) stdin: &'a Reads,
    /// Where its standard output goes when it is not captured.
    pub(crate) stdout: Option<&'a File>,
    /// Rules it is put under.
    pub(crate) rules: Option<&'a Ruleset>,
}

#[cfg(test)]
impl<'a> Launch<'a> {
    /// Of a program that reads nothing.
    pub(super) fn simple(program: &'a Path, argv: &'a [String], env: &'a [(String, String)]) -> Self {
        Self { program, argv, env, dir: Path::new("/"), stdin: &Reads::Nothing, stdout: None, rules: None }
    }
}

/// A process that runs.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) minder: Minder,
}

/// Who knows when it has ended.
pub(crate) enum Minder {
    /// This process, of its own child.
    Pidfd(OwnedFd),
    /// Another, of the whole task.
    Keeper(Kept),
}

/// Why a process was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forced {
    /// Its time was up.
    Timeout,
    /// It was wished to stop.
    Cancelled,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) status: Status,
    pub(crate) usage: Usage,
    pub(crate) forced: Option<Forced>,
}

/// Starts a process in a process group of its own.
pub(crate) fn launch(launch: &Launch<'_>, keepers: &Arc<Keepers>) -> io::Result<Process> {
    let (stdout, own_stdout) = match launch.stdout {
        Some(_) => (None, None),
        None => io::pipe().map(|(reader, writer)| (Some(OwnedFd::from(reader)), Some(OwnedFd::from(writer))))?,
    };
    let child_stdout = launch.stdout.map(AsFd::as_fd).or(own_stdout.as_ref().map(AsFd::as_fd));
    let (stderr, child_stderr) = io::pipe()?;
    let stdin = launch.stdin.open()?;
    let stdio = [stdin.as_fd(), child_stdout.expect("one of both is there"), child_stderr.as_fd()];
    let (pid, kept) = while_busy(|| keepers.start(launch, stdio))?;
    Ok(Process { pid, stdout, stderr: Some(stderr.into()), minder: Minder::Keeper(kept) })
}

/// A descriptor of a child that leads a group; the group is ended where there can be none.
pub(crate) fn pidfd_or_end(pid: Pid) -> io::Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = sys::reap(pid);
        error.into()
    })
}

/// Tries again while the program is open for writing: another thread forked while it wrote it, and its child closes it any
/// moment.
pub(crate) fn while_busy<T>(mut start: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match start() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(u64::from(tries)));
            }
            other => return other,
        }
    }
}

impl Process {
    /// Readable once it has ended.
    pub(crate) fn over(&self) -> BorrowedFd<'_> {
        match &self.minder {
            Minder::Pidfd(pidfd) => pidfd.as_fd(),
            Minder::Keeper(kept) => kept.over(),
        }
    }

    /// Invariant: the process is not reaped yet, so that its number is still its own.
    fn ask(&self) {
        match &self.minder {
            Minder::Pidfd(_) => drop(kill_process_group(self.pid, Signal::TERM)),
            Minder::Keeper(kept) => kept.ask(),
        }
    }

    /// Invariant: as above.
    fn kill(&self) {
        match &self.minder {
            Minder::Pidfd(_) => drop(kill_process_group(self.pid, Signal::KILL)),
            Minder::Keeper(kept) => kept.kill(),
        }
    }

    /// Waits for its end, taking its streams and heeding `deadline` and `stop`. When this returns nothing of its group runs,
    /// nothing its keeper knows of, and nothing of what `end_rest` ends.
    pub(crate) fn supervise(
        mut self,
        streams: &mut Streams,
        deadline: Option<Instant>,
        stop: &StopFlag,
        end_rest: &mut dyn FnMut(),
    ) -> io::Result<Ended> {
        let mut buffer = BUFFER.take();
        buffer.resize(64 << 10, 0);
        let attended = self.attend(streams, &mut buffer, deadline, stop);
        if attended.is_err() || matches!(self.minder, Minder::Pidfd(_)) {
            // A zombie now, or attending it failed: either way nothing of it may go on. A keeper sees to that by itself.
            self.kill();
        }
        let Self { pid, mut stdout, mut stderr, minder } = self;
        let (status, usage) = match minder {
            Minder::Keeper(kept) => kept.finish()?,
            Minder::Pidfd(_) => sys::reap(pid)?,
        };
        end_rest();
        let forced = attended?;
        drain(&mut stdout, &mut stderr, &mut buffer, streams)?;
        BUFFER.set(buffer);
        Ok(Ended { status, usage, forced })
    }

    fn attend(
        &mut self,
        streams: &mut Streams,
        buffer: &mut [u8],
        deadline: Option<Instant>,
        stop: &StopFlag,
    ) -> io::Result<Option<Forced>> {
        for pipe in [&self.stdout, &self.stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let mut forced = None;
        let mut until = deadline;
        let mut killed = false;
        loop {
            match stop.level() {
                Stop::No => {}
                Stop::Cancel if forced.is_none() => {
                    self.ask();
                    (forced, until) = (Some(Forced::Cancelled), Some(Instant::now() + GRACE));
                }
                Stop::Kill if !killed => {
                    self.kill();
                    (forced, until, killed) = (forced.or(Some(Forced::Cancelled)), None, true);
                }
                _ => {}
            }
            if until.is_some_and(|t| t <= Instant::now()) {
                if forced.is_none() {
                    self.ask();
                    (forced, until) = (Some(Forced::Timeout), Some(Instant::now() + GRACE));
                } else {
                    self.kill();
                    (until, killed) = (None, true);
                }
            }
            let ready = wait(Some(self.over()), self.stdout.as_ref(), self.stderr.as_ref(), Some(stop), until)?;
            if ready.stop {
                stop.heard();
            }
            if ready.stdout {
                pump(&mut self.stdout, Stream::Stdout, buffer, streams, 1)?;
            }
            if ready.stderr {
                pump(&mut self.stderr, Stream::Stderr, buffer, streams, 1)?;
            }
            if ready.ended {
                return Ok(forced);
            }
        }
    }
}

/// Takes what is left in the pipes. A process that escaped may hold them open: it is not waited for.
fn drain(
    stdout: &mut Option<OwnedFd>,
    stderr: &mut Option<OwnedFd>,
    buffer: &mut [u8],
    streams: &mut Streams,
) -> io::Result<()> {
    let limit = Instant::now() + DRAIN_LIMIT;
    loop {
        // A pipe holds at most 1 MiB: what was written before the end is read in so many rounds.
        pump(stdout, Stream::Stdout, buffer, streams, 16)?;
        pump(stderr, Stream::Stderr, buffer, streams, 16)?;
        let now = Instant::now();
        if (stdout.is_none() && stderr.is_none()) || now >= limit {
            return Ok(());
        }
        let ready = wait(None, stdout.as_ref(), stderr.as_ref(), None, Some(limit.min(now + DRAIN_IDLE)))?;
        if !ready.stdout && !ready.stderr {
            return Ok(());
        }
    }
}

/// What there is news of.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) ended: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) stop: bool,
}

/// Waits for news of a process (of the descriptor that says when it is over), its streams or the wish to stop.
pub(crate) fn wait(
    over: Option<BorrowedFd<'_>>,
    stdout: Option<&OwnedFd>,
    stderr: Option<&OwnedFd>,
    stop: Option<&StopFlag>,
    until: Option<Instant>,
) -> io::Result<Ready> {
    let mut ready = Ready::default();
    let timeout = until.map(|t| t.saturating_duration_since(Instant::now()));
    let timeout = timeout.map(|t| t.try_into().expect("no deadline is hundreds of years away"));
    let marks = [&mut ready.ended, &mut ready.stdout, &mut ready.stderr, &mut ready.stop];
    let fds = [over, stdout.map(AsFd::as_fd), stderr.map(AsFd::as_fd), stop.map(StopFlag::event)];
    let (mut marks, mut fds): (Vec<_>, Vec<_>) = marks
        .into_iter()
        .zip(fds)
        .filter_map(|(mark, fd)| Some((mark, PollFd::from_borrowed_fd(fd?, PollFlags::IN))))
        .unzip();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    for (mark, fd) in marks.iter_mut().zip(&fds) {
        **mark = !fd.revents().is_empty();
    }
    Ok(ready)
}

/// Reads from `pipe` at most `rounds` times; closes it at its end.
pub(crate) fn pump(
    pipe: &mut Option<OwnedFd>,
    stream: Stream,
    buffer: &mut [u8],
    streams: &mut Streams,
    rounds: usize,
) -> io::Result<()> {
    for _ in 0..rounds {
        let Some(open) = pipe else { break };
        match rustix::io::read(open, &mut *buffer) {
            Ok(0) => *pipe = None,
            Ok(n) => streams.take(stream, &buffer[..n])?,
            Err(rustix::io::Errno::AGAIN) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use quipu_store::Store;
    use quipu_store::cid::BlobId;

    use super::super::secrets::Secrets;
    use super::super::tests::memory;
    use super::*;

    type Seen = Arc<Mutex<Vec<(Stream, Vec<u8>)>>>;

    struct Ran {
        ended: Ended,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        seen: Vec<(Stream, Vec<u8>)>,
    }

    fn text(store: &Store, id: Option<BlobId>) -> Vec<u8> {
        id.map_or_else(Vec::new, |id| store.get(id.link(), u64::MAX).expect("readable").expect("kept"))
    }

    /// Runs it, and wishes for `wish` once it has said that it is ready.
    fn run(script: &str, limit: Option<Duration>, wish: Stop) -> Ran {
        let store = memory();
        let seen = Seen::default();
        let sink = seen.clone();
        let stop = Arc::new(StopFlag::new().expect("descriptors left"));
        let wisher = stop.clone();
        let sink = move |stream, bytes: &[u8]| {
            sink.lock().expect("whole").push((stream, bytes.to_vec()));
            if bytes.starts_with(b"ready") {
                wisher.raise(wish);
            }
        };
        let mut streams = Streams::new(&store, Arc::new(sink), &Secrets::default());
        let argv = ["sh", "-c", script].map(str::to_owned);
        let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let process =
            launch(&Launch::simple(Path::new("/bin/sh"), &argv, &env), &Arc::default()).expect("there is a shell");
        let ended =
            process.supervise(&mut streams, limit.map(|l| Instant::now() + l), &stop, &mut || {}).expect("attended");
        let (stdout, stderr) = streams.finish(true).expect("kept");
        let seen = std::mem::take(&mut *seen.lock().expect("whole"));
        Ran { ended, stdout: text(&store, stdout), stderr: text(&store, stderr), seen }
    }

    fn simply(script: &str) -> Ran {
        run(script, None, Stop::No)
    }

    #[test]
    fn exit_codes_signals_and_what_was_used_are_told() {
        assert_eq!(simply("exit 0").ended.status, Status::Exit(0));
        let ran = simply("exit 7");
        assert_eq!(ran.ended.status, Status::Exit(7));
        assert_eq!(ran.ended.forced, None);
        assert!(ran.ended.usage.rss_bytes > 100_000, "{:?}", ran.ended.usage);
        assert_eq!(simply("kill -9 $$").ended.status, Status::Signal(9));
        assert_eq!(simply("kill -TERM $$").ended.status, Status::Signal(15));
    }

    #[test]
    fn it_sees_its_environment_and_nothing_to_read() {
        let ran = simply("env; cat; pwd");
        let stdout = String::from_utf8(ran.stdout).expect("text");
        let mut lines: Vec<&str> =
            stdout.lines().filter(|l| !l.starts_with("_=") && !l.starts_with("OLDPWD")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "PATH=/usr/bin:/bin", "PWD=/"]);
    }

    #[test]
    fn both_streams_are_handed_on_in_whole_lines_and_kept_whole() {
        let ran = simply("printf a; sleep 0.05; printf 'b\nc'; echo oops >&2; printf d");
        assert_eq!((&ran.stdout[..], &ran.stderr[..]), (&b"ab\ncd"[..], &b"oops\n"[..]));
        let of = |stream| ran.seen.iter().filter(|s| s.0 == stream).map(|s| &s.1[..]).collect::<Vec<_>>();
        assert_eq!(of(Stream::Stdout), [&b"ab\n"[..], b"cd"]);
        assert_eq!(of(Stream::Stderr), [b"oops\n"]);
    }

    #[test]
    fn large_output_is_kept_whole() {
        let ran = simply("head -c 5000000 /dev/zero; head -c 100000 /dev/zero >&2");
        assert_eq!((ran.stdout.len(), ran.stderr.len()), (5_000_000, 100_000));
        assert_eq!(ran.seen.iter().map(|s| s.1.len()).sum::<usize>(), 5_100_000);
    }

    fn alive(pid: &[u8]) -> bool {
        let pid = std::str::from_utf8(pid).expect("digits").trim();
        // A zombie nobody has reaped yet counts as gone.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
    }

    fn gone_soon(pid: &[u8]) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            !alive(pid)
        })
    }

    #[test]
    fn what_it_leaves_running_in_its_group_is_ended() {
        let ran = simply("sleep 300 & echo $!");
        assert_eq!(ran.ended.status, Status::Exit(0));
        assert!(gone_soon(&ran.stdout));
    }

    #[test]
    fn an_escaped_process_that_holds_the_pipes_open_is_ended() {
        let ran = simply("setsid sleep 300 & echo $!; sleep 0.05");
        assert_eq!(ran.ended.status, Status::Exit(0));
        assert!(!alive(&ran.stdout), "not soon: now");
    }

    #[test]
    fn time_being_up_ends_the_group_and_all_in_it() {
        let ran = run("sleep 300 & echo $!; wait", Some(Duration::from_millis(60)), Stop::No);
        assert_eq!((ran.ended.forced, ran.ended.status), (Some(Forced::Timeout), Status::Signal(15)));
        assert!(gone_soon(&ran.stdout));
    }

    #[test]
    fn a_wish_to_cancel_is_polite_and_one_to_kill_is_not() {
        let trapped = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        for (wish, words, status) in
            [(Stop::Cancel, "ready\nbye\n", Status::Exit(0)), (Stop::Kill, "ready\n", Status::Signal(9))]
        {
            let ran = run(trapped, None, wish);
            assert_eq!((ran.ended.forced, ran.ended.status), (Some(Forced::Cancelled), status));
            assert_eq!(String::from_utf8_lossy(&ran.stdout), words);
        }
    }

    #[test]
    fn a_program_being_written_is_waited_for() {
        let dir = tempfile::tempdir().expect("space left");
        let path: PathBuf = dir.path().join("tool");
        std::fs::copy("/bin/true", &path).expect("copied");
        let writer = File::options().write(true).open(&path).expect("writable");
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(writer);
        });
        let argv = ["tool".to_owned()];
        let what = Launch {
            program: &path,
            argv: &argv,
            env: &[],
            dir: dir.path(),
            stdin: &Reads::Nothing,
            stdout: None,
            rules: None,
        };
        let process = launch(&what, &Arc::default()).expect("the writer ends");
        thread.join().expect("no panic");
        let mut streams = Streams::new(&memory(), Arc::new(|_, _| {}), &Secrets::default());
        let ended = process
            .supervise(&mut streams, None, &StopFlag::new().expect("descriptors left"), &mut || {})
            .expect("attended");
        assert_eq!(ended.status, Status::Exit(0));
    }
}
