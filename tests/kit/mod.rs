//! A workspace, a store and a key of their own, and the command run in them: nothing of the machine's user is seen
//! or touched.

mod redact;
#[cfg(feature = "remote")]
pub(crate) mod server;
pub(crate) mod web;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) use redact::redact;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// How long anything may take before a test gives up. Never part of what is asserted.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place for one test.
pub(crate) struct TestSpace {
    dir: tempfile::TempDir,
}

/// What a command left behind.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    root: PathBuf,
}

/// A run as its events tell it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) output: Output,
    pub(crate) events: Vec<Json>,
}

/// Every file and directory with its size and when it was last changed.
pub(crate) type Listing = BTreeMap<PathBuf, (u64, i64, i64)>;

impl TestSpace {
    /// A workspace with this workfile.
    pub(crate) fn new(workfile: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["ws", "home", "config"] {
            fs::create_dir(dir.path().join(name)).expect("is made");
        }
        let space = Self { dir };
        space.use_key(1);
        space.write("quipu.toml", workfile);
        space
    }

    /// A workspace with a copy of one of the examples, without what a run in the example itself left there.
    pub(crate) fn example(name: &str) -> Self {
        let space = Self::new("");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        let tracked =
            ignore::WalkBuilder::new(&from).hidden(false).parents(false).git_global(false).require_git(false).build();
        for entry in tracked.map(|entry| entry.expect("can be read")) {
            let target = space.path("").join(entry.path().strip_prefix(&from).expect("is below"));
            if entry.path().is_dir() {
                fs::create_dir_all(target).expect("is made");
            } else {
                fs::copy(entry.path(), target).expect("is copied");
            }
        }
        space
    }

    /// Signs with the key of that number from now on.
    pub(crate) fn use_key(&self, number: u8) {
        let key = self.dir.path().join("config/key");
        fs::write(&key, format!("{number:02x}").repeat(32)).expect("is written");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("is set");
    }

    /// A path in the workspace.
    pub(crate) fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join("ws").join(rel)
    }

    /// A path beside the workspace, where no task's inputs and outputs are.
    pub(crate) fn beside(&self, rel: &str) -> PathBuf {
        self.dir.path().join(rel)
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A shell script that can be run.
    pub(crate) fn script(&self, path: &str, text: &str) {
        self.write(path, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).expect("is set");
    }

    pub(crate) fn write(&self, rel: &str, text: &str) {
        let path = self.path(rel);
        fs::create_dir_all(path.parent().expect("has one")).expect("is made");
        fs::write(path, text).expect("is written");
    }

    /// Replaces `from`, which must be there, by `to`.
    pub(crate) fn edit(&self, rel: &str, from: &str, to: &str) {
        let text = self.read(rel);
        assert!(text.contains(from), "`{from}` in {rel}");
        self.write(rel, &text.replacen(from, to, 1));
    }

    pub(crate) fn read(&self, rel: &str) -> String {
        fs::read_to_string(self.path(rel)).unwrap_or_else(|e| panic!("{rel}: {e}"))
    }

    pub(crate) fn exists(&self, rel: &str) -> bool {
        self.path(rel).symlink_metadata().is_ok()
    }

    /// Removes a file or a directory with all in it.
    pub(crate) fn remove(&self, rel: &str) {
        let path = self.path(rel);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("is removed");
    }

    /// Lines of a file beside the workspace: what tasks wrote down about having run.
    pub(crate) fn lines(&self, beside: &str) -> Vec<String> {
        let text = fs::read_to_string(self.beside(beside)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The command, to be started by the caller.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.path("")).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path().join("home")).env("TERM", "dumb").env("QUIPU_STORE", self.store());
        command.env("QUIPU_CONFIG", self.dir.path().join("config")).stdin(Stdio::null());
        if !has_ns() {
            command.env("QUIPU_SANDBOX", "none");
        }
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.finish(&mut self.command(args))
    }

    /// Runs the command, or one that starts it, to its end.
    pub(crate) fn finish(&self, command: &mut Command) -> Output {
        let output = command.output().expect("starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let output = Output {
            status: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            root: self.dir.path().canonicalize().expect("is there"),
        };
        assert!(!output.stderr.contains("panicked") && !output.stderr.contains("bug in quipu"), "{}", output.stderr);
        output
    }

    /// Runs the command, which must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert_eq!(output.status, 0, "{args:?}: {}{}", output.stdout, output.stderr);
        output
    }

    /// Runs the command, which prints one JSON document.
    pub(crate) fn json(&self, args: &[&str]) -> Json {
        serde_json::from_str(&self.ok(args).stdout).expect("is JSON")
    }

    /// `quipu run --json` with further arguments.
    pub(crate) fn build(&self, args: &[&str]) -> Ran {
        let output = self.run(&[&["run", "--json"], args].concat());
        let events = output.stdout.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
        Ran { output, events }
    }

    /// A run that succeeds, and then once more: nothing runs, and no file of the store changes.
    pub(crate) fn build_twice(&self, args: &[&str]) -> Ran {
        let first = self.build(args);
        assert_eq!(first.output.status, 0, "{}{}", first.output.stdout, first.output.stderr);
        self.nothing_to_do(args);
        first
    }

    /// A run finds nothing to do, and no file of the store changes.
    pub(crate) fn nothing_to_do(&self, args: &[&str]) {
        let before = self.listing();
        let again = self.build(args);
        assert_eq!(again.output.status, 0, "{}", again.output.stderr);
        assert_eq!(again.ran(), "", "a second run runs nothing");
        for count in ["ran", "cut_off", "failed", "skipped", "blocked", "cancelled", "fetched"] {
            assert_eq!(again.count(count), 0, "{count} of a second run");
        }
        assert_eq!(self.listing(), before, "a second run writes nothing");
    }

    /// The store's files.
    pub(crate) fn listing(&self) -> Listing {
        let mut listing = Listing::new();
        let mut open = vec![self.store()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                let entry = entry.expect("is listed");
                let meta = entry.metadata().expect("is there");
                if meta.is_dir() {
                    open.push(entry.path());
                }
                listing.insert(entry.path(), (meta.size(), meta.mtime(), meta.mtime_nsec()));
            }
        }
        listing
    }

    /// Regular files of the store below `part`, sorted.
    pub(crate) fn store_files(&self, part: &str) -> Vec<PathBuf> {
        let below = self.store().join(part);
        self.listing().into_keys().filter(|path| path.starts_with(&below) && path.is_file()).collect()
    }

    /// Starts `quipu run --json` and hands back what can be read of it while it runs.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(&[&["run", "--json"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped"));
        Running { child, lines, events: vec![] }
    }

    /// Keeps the directory for a person to look at, and stops the test.
    #[allow(dead_code, reason = "for whoever debugs a test")]
    pub(crate) fn eject(self) -> ! {
        panic!("kept in {}", self.dir.keep().display())
    }
}

/// A run that has not ended.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    events: Vec<Json>,
}

impl Running {
    /// Reads on until an event of this kind about this task.
    pub(crate) fn wait_for(&mut self, event: &str, task: &str) {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("is read") > 0, "no {event} of {task}: {:?}", self.events);
            let found: Json = serde_json::from_str(&line).expect("is JSON");
            let is_it = found["event"] == event && found["task"] == task;
            self.events.push(found);
            if is_it {
                return;
            }
        }
    }

    /// Reads on until an event of this kind.
    pub(crate) fn wait_for_any(&mut self, event: &str) {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("is read") > 0, "no {event}: {:?}", self.events.last());
            let found: Json = serde_json::from_str(&line).expect("is JSON");
            let is_it = found["event"] == event;
            self.events.push(found);
            if is_it {
                return;
            }
        }
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("fits")).expect("is one");
        kill_process(pid, signal).expect("is there to be signalled");
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ran {
        let (mut rest, mut stderr) = (String::new(), String::new());
        self.lines.read_to_string(&mut rest).expect("is read");
        self.child.stderr.take().expect("is piped").read_to_string(&mut stderr).expect("is read");
        let status = self.child.wait().expect("ends").code().unwrap_or(-1);
        self.events.extend(rest.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()));
        Ran {
            output: Output { status, stdout: rest, stderr, root: PathBuf::new() },
            events: std::mem::take(&mut self.events),
        }
    }
}

impl Drop for Running {
    /// A test that fails leaves nobody who waits for ever.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    /// Names of tasks with this end, in the order they ended.
    pub(crate) fn ended(&self, end: &str) -> String {
        let ended = self.events.iter().filter(|e| e["event"] == "task-ended" && e["end"] == end);
        ended.filter_map(|e| e["task"].as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Names of tasks that began, in the order they did.
    pub(crate) fn started(&self) -> String {
        let started = self.events.iter().filter(|e| e["event"] == "task-started");
        started.filter_map(|e| e["task"].as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Names of tasks that ran, sorted.
    pub(crate) fn ran(&self) -> String {
        let ran = self.ended("ran");
        let mut ran: Vec<&str> = ran.split_whitespace().collect();
        ran.sort_unstable();
        ran.join(" ")
    }

    /// A number of the summary.
    pub(crate) fn count(&self, what: &str) -> u64 {
        let summary = self.events.last().filter(|e| e["event"] == "summary");
        let summary = summary.unwrap_or_else(|| panic!("no summary: {}", self.output.stderr));
        summary[what].as_u64().unwrap_or_else(|| panic!("no {what} in {summary}"))
    }

    /// Messages of warnings.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.events.iter().filter(|e| e["event"] == "warning").filter_map(|e| e["message"].as_str()).collect()
    }
}

impl Output {
    /// Everything a person sees, with what differs from run to run taken out.
    pub(crate) fn shown(&self) -> String {
        let mut out = String::new();
        if self.status != 0 {
            let _ = writeln!(out, "exit {}", self.status);
        }
        out.push_str(&self.stdout);
        if !self.stderr.is_empty() {
            out.push_str("--- stderr\n");
            out.push_str(&self.stderr);
        }
        redact(&out.replace(&*self.root.to_string_lossy(), "[dir]"))
    }
}

/// The command that is tested.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("QUIPU_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_quipu").into(), PathBuf::from)
}

/// Whether tasks can have namespaces of their own here. Where they cannot, workfiles that do not say are run in the tier
/// `none`, as the command would tell a person to: what is tested is the same. Tests of what namespaces do ask
/// [`needs_ns`].
pub(crate) fn has_ns() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| match quipu_runtime::exec::sandbox::ns() {
        Ok(()) => true,
        Err(why) => {
            assert!(std::env::var_os("QUIPU_TEST_NEEDS_NS").is_none(), "{why}");
            say(&format!("no sandbox `ns` here ({why}): tests use `none`"));
            false
        }
    })
}

/// Whether the test can be made here; says so where it cannot.
pub(crate) fn needs_ns() -> bool {
    if !has_ns() {
        say("skipped: no sandbox `ns` here");
    }
    has_ns()
}

/// Whether these programs are there; says so where one is not.
pub(crate) fn needs_programs(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|p| !["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(p).exists()));
    if let Some(program) = missing {
        say(&format!("skipped: no `{program}` here"));
    }
    missing.is_none()
}

/// Says something to whoever reads the output of tests.
pub(crate) fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Copies a directory with all in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("is made");
    for entry in fs::read_dir(from).expect("is there") {
        let entry = entry.expect("is listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("is known").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("is copied");
        }
    }
}
