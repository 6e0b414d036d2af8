//! A workspace with its store, to be run, hurt and looked at; and copies of it.
//!
//! Runs the real binary. What is wrong is returned as text, so that a campaign can count and a test can expect it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use quipu_store::{Finding, Store, VerifyOptions};

use super::child;

/// Tasks of every kind that a crash may meet: small and large files, a directory with a link, a cut-off, both tiers.
const WORKFILE: &str = r#"
[workspace]
sandbox = "none"

[task.words]
run = "tr a-z A-Z < words.txt > gen/words.txt"
inputs = ["words.txt"]
outputs = ["gen/words.txt"]

[task.big]
run = "cat gen/words.txt pad.txt > big.bin; chmod +x big.bin"
inputs = ["gen/words.txt", "pad.txt"]
outputs = ["big.bin"]

[task.dist]
run = "mkdir -p dist/sub; cat big.bin big.bin > dist/sub/two; cat gen/words.txt > dist/one; ln -s sub/two dist/link"
inputs = ["gen/words.txt", "big.bin"]
outputs = ["dist/"]
sandbox = "@tier@"

[task.flat]
run = "grep -v '^#' words.txt > flat.txt"
inputs = ["words.txt"]
outputs = ["flat.txt"]

[task.after]
run = "cat flat.txt flat.txt > after.txt"
inputs = ["flat.txt"]
outputs = ["after.txt"]

[task.sum]
run = "cat big.bin after.txt dist/one > sum.txt"
inputs = ["big.bin", "after.txt"]
needs = ["dist"]
outputs = ["sum.txt"]
"#;

pub(crate) const TASKS: usize = 6;

/// A file as it is compared: bytes with the executable bit, or a link's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    File(Vec<u8>, bool),
    Link(PathBuf),
}

pub(crate) type Files = BTreeMap<String, Seen>;

/// A directory with a workspace, a store and a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) dir: PathBuf,
}

/// What a run said.
#[derive(Debug, Default, Clone)]
pub(crate) struct Said {
    /// Tasks that started, by name, each time.
    pub(crate) started: Vec<String>,
    /// Invocations that started, each time.
    pub(crate) invocations: Vec<String>,
    /// Tasks whose work was done by this run, by name.
    pub(crate) ran: Vec<String>,
    /// Tasks whose receipts are on disk, with these.
    pub(crate) recorded: BTreeMap<String, String>,
    pub(crate) warnings: Vec<String>,
}

impl Said {
    /// Reads events, as far as they go.
    pub(crate) fn read(stdout: &str) -> Self {
        let mut said = Self::default();
        let mut failed = Vec::new();
        for line in stdout.lines() {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("task-started") => {
                    said.started.push(text("task"));
                    said.invocations.push(text("invocation"));
                }
                Some("task-ended") if event["end"] == "ran" => said.ran.push(text("task")),
                // What failed is on record too, and is tried again.
                Some("task-ended") if event["end"] == "failed" => failed.push(text("task")),
                Some("recorded") if !failed.contains(&text("task")) => {
                    drop(said.recorded.insert(text("task"), text("receipt")));
                }
                Some("warning") => said.warnings.push(text("message")),
                _ => {}
            }
        }
        said
    }
}

/// What was said of a panic, if anything was: the runtime's own words, or the command's.
pub(crate) fn panic_in(text: &str) -> Option<String> {
    let at = text.find("panicked").or_else(|| text.find("this is a bug in quipu"))?;
    Some(text[at..].chars().take(300).collect())
}

/// A directory in memory where there is such a place: what is tested here is not about syncing.
pub(crate) fn temp() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

impl Space {
    /// A workspace as a person has it before the first run.
    pub(crate) fn new(dir: &Path) -> Self {
        let space = Self { dir: dir.to_owned() };
        fs::create_dir_all(space.work()).expect("is made");
        let tier = if sandbox_is_there() { "ns" } else { "none" };
        space.write("quipu.toml", WORKFILE.replace("@tier@", tier).as_bytes());
        space.write("words.txt", b"# first\nalpha\nbeta\n");
        space.write("pad.txt", "forty thousand bytes of something\n".repeat(1200).as_bytes());
        space
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub(crate) fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        fs::write(self.work().join(path), bytes).expect("is written");
    }

    /// The second version: words and all that follows differ, what `flat` makes does not.
    pub(crate) fn edit(&self) {
        self.write("words.txt", b"# second, longer\nalpha\nbeta\n");
    }

    /// The binary, for this store and nothing else of the surroundings.
    pub(crate) fn quipu(&self, args: &[&str]) -> Command {
        // A long campaign keeps a binary of its own, whatever is built meanwhile.
        let binary = std::env::var_os("QUIPU_CAMPAIGN_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_quipu").into());
        let mut command = Command::new(binary);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", &self.dir);
        command.env("QUIPU_STORE", self.store_dir()).env("QUIPU_CONFIG", self.dir.join("config"));
        command.arg("-C").arg(self.work()).args(args);
        command
    }

    pub(crate) fn run_command(&self) -> Command {
        self.quipu(&["run", "--json", "-j2"])
    }

    pub(crate) fn tool(&self, role: &str) -> Command {
        child::command(role, &self.store_dir())
    }

    /// Runs undisturbed; `Err` when it does not end well.
    pub(crate) fn run(&self) -> Result<Said, String> {
        let output = self.run_command().output().map_err(|e| e.to_string())?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.code() != Some(0) || panic_in(&stderr).is_some() {
            return Err(format!("a run ended with {}: {stderr}{}", output.status, last(&stdout)));
        }
        Ok(Said::read(&stdout))
    }

    /// What is in the workspace now.
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::new();
        read(&self.work(), "", &mut files);
        files
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.store_dir(), child::options()).expect("opens")
    }

    /// What is wrong with the store: damage, and receipts that lack something.
    pub(crate) fn unsound(&self) -> Vec<String> {
        let store = match Store::open(&self.store_dir(), child::options()) {
            Ok(store) => store,
            Err(e) => return vec![format!("the store does not open: {e}")],
        };
        match store.verify(&VerifyOptions { repair: false, rehash: true }) {
            Ok(report) => {
                let bad = report.findings.iter().filter(|f| f.is_damage() || matches!(f, Finding::Hollow { .. }));
                bad.map(|f| format!("verify: {f}")).collect()
            }
            Err(e) => vec![format!("the store cannot be verified: {e}")],
        }
    }

    /// Whether all is as if nothing had ever happened: outputs are right, nothing that was acknowledged runs again, a
    /// second run does nothing, the store is sound.
    pub(crate) fn problems(&self, acknowledged: &BTreeSet<String>, expected: &Files) -> (Vec<String>, usize) {
        let mut problems = Vec::new();
        let mut again = 0;
        match self.run() {
            Err(e) => problems.push(e),
            Ok(said) => {
                again = said.started.len();
                for task in said.started.iter().filter(|t| acknowledged.contains(*t)) {
                    problems.push(format!("`{task}` was acknowledged and ran again"));
                }
                let files = self.files();
                if files != *expected {
                    problems.push(format!("outputs differ: {}", difference(&files, expected)));
                }
                match self.run() {
                    Err(e) => problems.push(e),
                    Ok(said) if !said.started.is_empty() => {
                        problems.push(format!("ran a third time: {:?}", said.started));
                    }
                    Ok(_) => {}
                }
            }
        }
        problems.extend(self.unsound());
        (problems, again)
    }

    /// Makes this a copy of `template`, which has the same path inside.
    pub(crate) fn become_copy_of(&self, template: &Path) {
        remove(&self.dir);
        copy(template, &self.dir);
    }

    /// Puts a copy of this aside.
    pub(crate) fn save_as(&self, template: &Path) {
        remove(template);
        copy(&self.dir, template);
    }
}

fn last(text: &str) -> String {
    text.lines().rev().take(8).collect::<Vec<_>>().join("\n")
}

fn remove(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("is removed");
    }
}

fn read(dir: &Path, prefix: &str, files: &mut Files) {
    for entry in fs::read_dir(dir).expect("is listed") {
        let entry = entry.expect("is listed");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let meta = entry.metadata().expect("is there");
        if meta.is_dir() {
            read(&entry.path(), &format!("{name}/"), files);
        } else if meta.is_symlink() {
            files.insert(name, Seen::Link(fs::read_link(entry.path()).expect("is a link")));
        } else {
            let bytes = fs::read(entry.path()).expect("is read");
            files.insert(name, Seen::File(bytes, meta.permissions().mode() & 0o100 != 0));
        }
    }
}

/// Names of what differs.
pub(crate) fn difference(found: &Files, expected: &Files) -> String {
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let differs = names.into_iter().filter(|n| found.get(*n) != expected.get(*n));
    differs.cloned().collect::<Vec<_>>().join(", ")
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("is made");
    for entry in fs::read_dir(from).expect("is listed") {
        let entry = entry.expect("is listed");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata().expect("is there");
        if meta.is_dir() {
            copy(&source, &target);
        } else if meta.is_symlink() {
            symlink(fs::read_link(&source).expect("is a link"), &target).expect("is made");
        } else {
            fs::copy(&source, &target).expect("is copied");
            let modified = meta.modified().expect("has a time");
            // Files of a store cannot be written, but their owner can date them.
            let _ = fs::File::open(&target).and_then(|f| f.set_modified(modified));
        }
    }
    fs::set_permissions(to, fs::metadata(from).expect("is there").permissions()).expect("is set");
}

/// Whether tasks can be run in namespaces here.
pub(crate) fn sandbox_is_there() -> bool {
    static THERE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *THERE.get_or_init(|| {
        let temp = temp();
        let space = Space { dir: temp.path().to_owned() };
        fs::create_dir_all(space.work()).expect("is made");
        space.write("quipu.toml", b"[workspace]\n[task.x]\nrun = \"true\"\nsandbox = \"ns\"\n");
        space.run().is_ok()
    })
}
