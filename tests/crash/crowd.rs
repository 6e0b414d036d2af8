//! A crowd on one store: many runs of random graphs at once, killed every few milliseconds, beside collections,
//! verifications and somebody who deletes files.
//!
//! `QUIPU_CAMPAIGN=crowd` goes on for `QUIPU_CAMPAIGN_SECONDS` (600); otherwise it takes seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quipu_store::cid::ReceiptId;

use super::kill_matrix::Dice;
use super::space::{Said, Space, panic_in, sandbox_is_there, temp};

const SOURCES: usize = 3;
/// Different graphs; workspaces with the same one share all work.
const GRAPHS: u64 = 4;

/// A task joins files, and some make them large first.
struct Task {
    from: Vec<usize>,
    sources: Vec<usize>,
    large: bool,
}

/// A random graph, the same for the same seed.
fn graph(seed: u64) -> Vec<Task> {
    let mut dice = Dice(seed + 77);
    let count = 6 + dice.below(6) as usize;
    let task = |n: usize| {
        let from: BTreeSet<usize> =
            (0..dice.below(3)).map(|_| dice.below(n as u64) as usize).filter(|m| *m < n).collect();
        let sources: BTreeSet<usize> = (0..1 + dice.below(2)).map(|_| dice.below(SOURCES as u64) as usize).collect();
        Task { from: from.into_iter().collect(), sources: sources.into_iter().collect(), large: dice.below(3) == 0 }
    };
    (0..count).map(task).collect()
}

fn source(graph: u64, n: usize, version: u64) -> Vec<u8> {
    format!("source {n} of graph {graph}, version {version}\n").into_bytes()
}

/// A workspace with a graph, and what stands in its sources.
struct Place {
    space: Space,
    graph: u64,
    versions: [u64; SOURCES],
}

impl Place {
    fn new(dir: &Path, n: u64) -> Self {
        let space = Space { dir: dir.to_owned() };
        let place = Self { space, graph: n % GRAPHS, versions: [0; SOURCES] };
        let work = place.work(n);
        fs::create_dir_all(&work).expect("is made");
        // As people have it, where that works; and as others must have it. Those with the same graph have the same.
        let tier = if sandbox_is_there() && place.graph.is_multiple_of(2) { "ns" } else { "none" };
        let mut text = format!("[workspace]\nsandbox = \"{tier}\"\n");
        for (i, task) in graph(place.graph).iter().enumerate() {
            let sources = task.sources.iter().map(|s| format!("s{s}.txt"));
            let inputs: Vec<String> = task.from.iter().map(|t| format!("out/t{t}")).chain(sources).collect();
            let quoted: Vec<String> = inputs.iter().map(|i| format!("{i:?}")).collect();
            let zeros = if task.large { "head -c 20000 /dev/zero | " } else { "" };
            let dash = if task.large { "- " } else { "" };
            text += &format!("[task.t{i}]\nrun = \"{zeros}cat {dash}{} > out/t{i}\"\n", inputs.join(" "));
            text += &format!("inputs = [{}]\noutputs = [\"out/t{i}\"]\n", quoted.join(", "));
        }
        fs::write(work.join("quipu.toml"), text).expect("is written");
        (0..SOURCES)
            .for_each(|s| fs::write(work.join(format!("s{s}.txt")), source(place.graph, s, 0)).expect("is written"));
        place
    }

    fn work(&self, n: u64) -> PathBuf {
        self.space.dir.join(format!("work{n}"))
    }

    fn edit(&mut self, n: u64, dice: &mut Dice, versions: u64) {
        let s = dice.below(SOURCES as u64) as usize;
        self.versions[s] = dice.below(versions);
        let path = self.work(n).join(format!("s{s}.txt"));
        fs::write(path, source(self.graph, s, self.versions[s])).expect("is written");
    }

    /// What every task's output must be.
    fn expected(&self) -> Vec<Vec<u8>> {
        let mut outputs: Vec<Vec<u8>> = Vec::new();
        for task in graph(self.graph) {
            let mut bytes = if task.large { vec![0; 20_000] } else { vec![] };
            task.from.iter().for_each(|t| bytes.extend_from_slice(&outputs[*t]));
            task.sources.iter().for_each(|s| bytes.extend(source(self.graph, *s, self.versions[*s])));
            outputs.push(bytes);
        }
        outputs
    }

    fn wrong(&self, n: u64) -> Option<String> {
        let found = |t: usize| fs::read(self.work(n).join(format!("out/t{t}"))).unwrap_or_default();
        let wrong = self.expected().into_iter().enumerate().find(|(t, bytes)| found(*t) != *bytes);
        wrong.map(|(t, _)| format!("work{n}: out/t{t} is wrong"))
    }

    fn command(&self, n: u64) -> Command {
        let mut command = self.space.quipu(&["run", "--json", "-j2"]);
        // The last one given counts.
        command.arg("-C").arg(self.work(n));
        command
    }
}

/// What all processes did.
#[derive(Default)]
struct Ledger {
    runs: u64,
    kills: u64,
    tools: u64,
    deleted: u64,
    /// For each invocation: processes that did its work and were not killed, or were after they said it is on disk; and
    /// those that began and were killed before. (Who says that a task started may yet find that another does it.)
    starts: HashMap<String, (u64, u64)>,
    receipts: BTreeSet<String>,
    problems: Vec<String>,
}

impl Ledger {
    fn run(&mut self, said: &Said, killed: bool) {
        self.runs += 1;
        self.kills += u64::from(killed);
        for (task, invocation) in said.started.iter().zip(&said.invocations) {
            let (finished, cut) = self.starts.entry(invocation.clone()).or_default();
            if said.recorded.contains_key(task) || (!killed && said.ran.contains(task)) {
                *finished += 1;
            } else if killed {
                *cut += 1;
            }
        }
        self.receipts.extend(said.recorded.values().cloned());
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < 30 {
            eprintln!("BAD {what}");
        }
        self.problems.push(what);
    }
}

/// Waits for a process, and kills it after a while if it is to be killed; a process that hangs is a problem.
fn wait(child: &mut Child, kill_after: Option<Duration>) -> (Option<ExitStatus>, bool) {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("is ours") {
            return (Some(status), false);
        }
        let killed = kill_after.is_some_and(|after| begun.elapsed() >= after);
        if killed || begun.elapsed() > Duration::from_secs(120) {
            child.kill().expect("is ours");
            let status = child.wait().expect("is ours");
            // It may have been quicker.
            return (killed.then_some(status), killed && status.code().is_none());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn start(mut command: Command, out: &Path) -> Child {
    let file = |name: &str| File::create(out.with_extension(name)).expect("is made");
    command.stdin(std::process::Stdio::null()).stdout(file("out")).stderr(file("err")).spawn().expect("starts")
}

fn output(out: &Path) -> (String, String) {
    let text = |name: &str| fs::read(out.with_extension(name)).map(|b| String::from_utf8_lossy(&b).into_owned());
    (text("out").expect("is there"), text("err").expect("is there"))
}

/// Runs one workspace again and again.
fn runner(n: u64, place: &mut Place, until: Instant, versions: u64, ledger: &Mutex<Ledger>) {
    let mut dice = Dice(n * 1000 + 5);
    let out = place.space.dir.join(format!("said{n}"));
    while Instant::now() < until {
        place.edit(n, &mut dice, versions);
        let kill_after = (dice.below(2) == 0).then(|| Duration::from_millis(dice.below(250)));
        let (status, killed) = wait(&mut start(place.command(n), &out), kill_after);
        let (stdout, stderr) = output(&out);
        let wrong = if killed { None } else { place.wrong(n) };
        let mut ledger = ledger.lock().expect("no panic holds it");
        ledger.run(&Said::read(&stdout), killed);
        match status {
            None => ledger.problem(format!("work{n}: a run hangs: {stdout}{stderr}")),
            Some(status) if !killed && !status.success() => {
                let last: Vec<&str> = stdout.lines().filter(|l| !l.contains("cached")).collect();
                ledger.problem(format!("work{n}: ended with {status}: {stderr}{}", last.join("\n")));
            }
            Some(_) => wrong.into_iter().for_each(|w| ledger.problem(w)),
        }
        if panic_in(&stderr).is_some() {
            ledger.problem(format!("work{n}: {stderr}"));
        }
    }
}

/// Uses a tool again and again; what `verify` finds is a problem while nobody deletes.
fn tool(role: &str, space: &Space, until: Instant, sound: bool, ledger: &Mutex<Ledger>) {
    let mut dice = Dice(role.len() as u64);
    let out = space.dir.join(format!("said-{role}"));
    while Instant::now() < until {
        if !space.store_dir().join("version").exists() {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let kill_after = (dice.below(3) == 0).then(|| Duration::from_millis(dice.below(100)));
        let (status, killed) = wait(&mut start(space.tool(role), &out), kill_after);
        let (stdout, stderr) = output(&out);
        let mut ledger = ledger.lock().expect("no panic holds it");
        ledger.tools += 1;
        ledger.kills += u64::from(killed);
        if !killed && !status.is_some_and(|s| s.success()) || panic_in(&stderr).is_some() {
            ledger.problem(format!("{role} ended with {status:?}: {stderr}"));
        }
        if sound && stdout.contains("\nfound ") {
            ledger.problem(format!("{role} says: {stdout}"));
        }
        drop(ledger);
        std::thread::sleep(Duration::from_millis(dice.below(20)));
    }
}

/// Deletes files, as many for each run that ends on a machine with much else to do as on one with little: on the former a file would
/// otherwise live for a fraction of what it takes to start a task.
fn deleter(space: &Space, until: Instant, ledger: &Mutex<Ledger>) {
    let mut dice = Dice(3);
    while Instant::now() < until {
        let ahead = |ledger: &Ledger| ledger.deleted >= 20 + 3 * ledger.runs;
        if ahead(&ledger.lock().expect("no panic holds it")) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
        let mut files: Vec<PathBuf> = list(&space.store_dir().join("blobs")).iter().flat_map(|d| list(d)).collect();
        files.sort();
        if let Some(file) = files.get(dice.below(files.len() as u64) as usize)
            && fs::remove_file(file).is_ok()
        {
            ledger.lock().expect("no panic holds it").deleted += 1;
        }
        std::thread::sleep(Duration::from_millis(20 + dice.below(80)));
    }
}

fn crowd(runners: u64, seconds: f64, deleting: bool, versions: u64) {
    let temp = temp();
    let mut places: Vec<Place> = (0..runners).map(|n| Place::new(temp.path(), n)).collect();
    let space = Space { dir: temp.path().to_owned() };
    let (ledger, until) = (Mutex::new(Ledger::default()), Instant::now() + Duration::from_secs_f64(seconds));
    std::thread::scope(|scope| {
        let (ledger, space) = (&ledger, &space);
        for (n, place) in (0..).zip(&mut places) {
            scope.spawn(move || runner(n, place, until, versions, ledger));
        }
        scope.spawn(move || tool("gc-unused", space, until, true, ledger));
        scope.spawn(move || tool("verify", space, until, !deleting, ledger));
        if deleting {
            scope.spawn(move || deleter(space, until, ledger));
        }
    });
    let mut ledger = ledger.into_inner().expect("no panic held it");
    // Undisturbed, one after the other: all is as it should be, and then there is nothing left to do.
    for (n, place) in (0..).zip(&places) {
        for again in [false, true] {
            let out = place.command(n).output().expect("runs");
            let said = Said::read(&String::from_utf8_lossy(&out.stdout));
            ledger.run(&said, false);
            if !out.status.success() || (again && !said.started.is_empty()) {
                let why = String::from_utf8_lossy(&out.stderr).into_owned();
                ledger.problem(format!("work{n}, at last: {}, started {:?}: {why}", out.status, said.started));
            }
        }
        place.wrong(n).into_iter().for_each(|w| ledger.problem(w));
        for (name, _) in names(&place.work(n)) {
            if name.contains(".quipu-tmp-") {
                ledger.problem(format!("{name} was left"));
            }
        }
    }
    let total = |f: fn(&(u64, u64)) -> u64| ledger.starts.values().map(f).sum::<u64>();
    let (finished, cut) = (total(|s| s.0), total(|s| s.1));
    eprintln!(
        "crowd of {runners} for {seconds} s: {} runs, {} tools, {} kills, {} files deleted; {} invocations, {finished} times \
         finished, {cut} times cut; {} receipts acknowledged; {} problems",
        ledger.runs,
        ledger.tools,
        ledger.kills,
        ledger.deleted,
        ledger.starts.len(),
        ledger.receipts.len(),
        ledger.problems.len()
    );
    if !deleting {
        for (invocation, (finished, _)) in ledger.starts.iter().filter(|(_, (finished, _))| *finished > 1) {
            ledger.problems.push(format!("{invocation} was run {finished} times to the end"));
        }
    } else if finished > ledger.starts.len() as u64 + 20 * ledger.deleted {
        ledger.problems.push(format!("{finished} runs of {} invocations", ledger.starts.len()));
    }
    let store = space.store();
    for receipt in &ledger.receipts {
        let id: ReceiptId = receipt.parse().expect("an id");
        if !store.receipt(id).is_ok_and(|r| r.is_some()) {
            ledger.problems.push(format!("{receipt} was acknowledged and is gone"));
        }
    }
    drop(store);
    if deleting {
        assert!(space.tool("repair").output().expect("runs").status.success());
    }
    let unsound = space.unsound();
    ledger.problems.extend(unsound.into_iter().filter(|u| !deleting || !u.contains("hollow")));
    assert!(ledger.kills > 5 && ledger.starts.len() > 10, "nothing happened");
    assert!(
        ledger.problems.is_empty(),
        "{} problems: {:#?}",
        ledger.problems.len(),
        &ledger.problems[..ledger.problems.len().min(20)]
    );
}

fn names(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("is listed").flatten() {
        found.push((entry.path().to_string_lossy().into_owned(), entry.path()));
        if entry.path().is_dir() {
            found.extend(names(&entry.path()));
        }
    }
    found
}

/// How long each half goes on, and how many versions a source may have.
fn extent() -> Option<(f64, u64)> {
    match std::env::var("QUIPU_CAMPAIGN").as_deref() {
        Ok("crowd") => {
            let seconds = std::env::var("QUIPU_CAMPAIGN_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(600.0);
            Some((seconds / 2.0, 1_000_000))
        }
        Ok(_) => None,
        Err(_) => Some((15.0, 1000)),
    }
}

#[test]
fn sixteen_processes_that_are_killed_run_each_task_once() {
    let Some((seconds, versions)) = extent() else { return };
    crowd(14, seconds, false, versions);
}

#[test]
fn whose_blobs_are_deleted_runs_again_what_made_them() {
    let Some((seconds, versions)) = extent() else { return };
    // The two halves of a campaign one after the other: this one waits for the first to be over.
    std::thread::sleep(Duration::from_secs_f64(if versions > 1000 { seconds + 30.0 } else { 0.0 }));
    crowd(13, seconds, true, versions);
}

/// A workspace of its own with this workfile, and a file beside it that tasks write to.
fn small(workfile: &str) -> (tempfile::TempDir, Space) {
    let temp = temp();
    let space = Space { dir: temp.path().to_owned() };
    fs::create_dir_all(space.work()).expect("is made");
    let log = temp.path().join("log").to_string_lossy().into_owned();
    let quipu = format!(
        "QUIPU_STORE={} QUIPU_CONFIG={} {}",
        space.store_dir().display(),
        temp.path().join("config").display(),
        space.quipu(&[]).get_program().to_string_lossy()
    );
    space.write("quipu.toml", workfile.replace("@log@", &log).replace("@quipu@", &quipu).as_bytes());
    (temp, space)
}

#[test]
fn two_runs_of_one_workspace_run_each_task_once() {
    let mut workfile = "[workspace]\nsandbox = \"none\"\n".to_owned();
    for n in 0..4 {
        workfile +=
            &format!("[task.t{n}]\nrun = \"sleep 0.2; echo t{n} >> @log@; echo {n} > t{n}\"\noutputs = [\"t{n}\"]\n");
    }
    let (temp, space) = small(&workfile);
    let runs: Vec<(Child, PathBuf)> = (0..3)
        .map(|n| {
            let out = temp.path().join(format!("said{n}"));
            (start(space.run_command(), &out), out)
        })
        .collect();
    for (mut child, out) in runs {
        let (status, _) = wait(&mut child, None);
        assert!(status.is_some_and(|s| s.success()), "{status:?}: {:?}", output(&out));
    }
    let mut lines: Vec<String> =
        fs::read_to_string(temp.path().join("log")).expect("written").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["t0", "t1", "t2", "t3"]);
}

#[test]
fn a_run_within_a_task_does_not_hang() {
    let other = "[task.inner]\nrun = \"echo inner > inner\"\noutputs = [\"inner\"]\n";
    let outer = "[task.outer]\nrun = \"@quipu@ run inner && cat inner > outer\"\noutputs = [\"outer\"]\n";
    let (temp, space) = small(&format!("[workspace]\nsandbox = \"none\"\n{other}{outer}"));
    let out = temp.path().join("said");
    let (status, _) = wait(&mut start(space.quipu(&["run", "outer"]), &out), None);
    assert!(status.is_some_and(|s| s.success()), "{status:?}: {:?}", output(&out));
    assert_eq!(fs::read_to_string(space.work().join("outer")).expect("made"), "inner\n");
}

#[test]
fn a_task_that_runs_itself_is_told_so() {
    let (temp, space) =
        small("[workspace]\nsandbox = \"none\"\n[task.x]\nrun = \"@quipu@ run x\"\noutputs = [\"x\"]\n");
    let out = temp.path().join("said");
    let (status, _) = wait(&mut start(space.quipu(&["run"]), &out), None);
    let (_, stderr) = output(&out);
    assert_eq!(status.and_then(|s| s.code()), Some(1), "{stderr}");
    assert!(stderr.contains("a task cannot run itself"), "{stderr}");
}

/// The ledger sees a task that runs twice, and an acknowledgement that was worth nothing.
#[test]
fn a_crowd_whose_store_speaks_too_soon_is_caught() {
    if std::env::var_os("QUIPU_CAMPAIGN").is_some() {
        return;
    }
    let temp = temp();
    let mut place = Place::new(temp.path(), 0);
    let (mut dice, caught, tried) = (Dice(1), AtomicBool::new(false), AtomicU64::new(0));
    let out = temp.path().join("said");
    let mut acknowledged: BTreeMap<String, ()> = BTreeMap::new();
    // Killed as soon as it has acknowledged anything.
    while !caught.load(Ordering::Relaxed) && tried.fetch_add(1, Ordering::Relaxed) < 60 {
        place.edit(0, &mut dice, 1_000_000);
        let mut command = place.command(0);
        command.env("QUIPU_TEST_BREAK", "ack-first");
        let mut child = start(command, &out);
        while child.try_wait().expect("is ours").is_none() {
            if output(&out).0.contains("\"recorded\"") {
                child.kill().expect("is ours");
            }
        }
        acknowledged.extend(Said::read(&output(&out).0).recorded.into_values().map(|r| (r, ())));
        let store = place.space.store();
        let gone = |r: &String| !store.receipt(r.parse().expect("an id")).is_ok_and(|r| r.is_some());
        caught.store(acknowledged.keys().any(gone), Ordering::Relaxed);
    }
    assert!(caught.into_inner(), "{} acknowledgements, and all were kept", acknowledged.len());
}
