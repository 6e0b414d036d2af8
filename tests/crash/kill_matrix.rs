//! The kill matrix: every operation, stopped at every change it makes to the disk, in every way; and then once more
//! while it recovers.
//!
//! `QUIPU_CAMPAIGN=full` takes every point, `QUIPU_CAMPAIGN=pairs` as many random pairs as `QUIPU_CAMPAIGN_POINTS` says; else a
//! sample is taken. `QUIPU_CAMPAIGN_POINT='Checkout 36 Full'` takes that one (or pair) and shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use quipu_store::cid::BlobId;

use super::inject::{self, Fault, KINDS, Kind, Outcome};
use super::space::{Files, Said, Space, TASKS, panic_in, temp};

/// What a person wrote where an output goes, in the scenario that has it.
const FOREIGN: &[u8] = b"not an output: somebody's afternoon\n";

/// What the scenario with a file imports, seen from the workspace.
const CAR: &str = "../all.car";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    FirstRun,
    IncrementalRun,
    /// Outputs are gone, or somebody else's file is in their place.
    Checkout,
    Collect,
    Repair,
    Rebuild,
    Import,
    Promote,
}

use Scenario::{Checkout, Collect, FirstRun, Import, IncrementalRun, Promote, Rebuild, Repair};

const SCENARIOS: [Scenario; 8] = [FirstRun, IncrementalRun, Checkout, Collect, Repair, Rebuild, Import, Promote];

/// Where the scenario that promotes has done its work.
const NAME_SPACE: &[&str] = &["--namespace", "one"];

impl Scenario {
    /// From a workspace that was never run to the state in which the operation begins.
    fn prepare(self, space: &Space) {
        let run = || drop(space.run().expect("runs undisturbed"));
        match self {
            FirstRun => {}
            IncrementalRun => {
                run();
                space.edit();
            }
            Checkout => {
                run();
                fs::remove_dir_all(space.work().join("dist")).expect("was made");
                fs::remove_file(space.work().join("sum.txt")).expect("was made");
                space.write("big.bin", FOREIGN);
            }
            Collect => {
                run();
                space.edit();
                run();
            }
            Repair => {
                run();
                let large = files_below(&space.store_dir().join("blobs"));
                let at = large.first().expect("there are large blobs");
                let mut bytes = fs::read(at).expect("is read");
                bytes[1000] ^= 1;
                fs::remove_file(at).and_then(|()| fs::write(at, bytes)).expect("is damaged");
                fs::remove_file(large.last().expect("there are large blobs")).expect("is lost");
                for segment in files_below(&space.store_dir().join("receipts")) {
                    fs::remove_file(segment).expect("is lost");
                }
                // So that the bytes are asked for.
                remove_outputs(space);
            }
            Rebuild => {
                run();
                fs::write(space.store_dir().join("index.redb"), b"no index at all").expect("is damaged");
            }
            Import => {
                run();
                let said = |args: &[&str]| {
                    let output = space.quipu(args).output().expect("runs");
                    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
                    String::from_utf8_lossy(&output.stdout).trim().to_owned()
                };
                said(&["export", "--all", "--logs", "-o", CAR]);
                said(&["trust", "add", "other", &said(&["key", "show"])]);
                // As on another machine, which trusts this one.
                fs::remove_file(space.dir.join("config/key")).expect("was made");
                fs::remove_dir_all(space.store_dir()).expect("is removed");
                remove_outputs(space);
            }
            Promote => {
                let output = space.quipu(&[&["run"], NAME_SPACE].concat()).output().expect("runs");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                remove_outputs(space);
            }
        }
    }

    fn command(self, space: &Space) -> Command {
        match self {
            FirstRun | IncrementalRun | Checkout => space.run_command(),
            Collect => space.quipu(&["gc", "--max-age", "0s"]),
            Repair | Rebuild => space.quipu(&["verify", "--repair"]),
            Import => space.quipu(&["import", CAR]),
            Promote => space.quipu(&["promote", "one"]),
        }
    }

    fn is_run(self) -> bool {
        matches!(self, FirstRun | IncrementalRun | Checkout)
    }

    /// How many tasks may run when all is over, at most, whatever was hit.
    fn may_run(self) -> usize {
        match self {
            FirstRun | IncrementalRun | Repair => TASKS,
            // Everything was acknowledged long ago.
            Checkout | Collect | Rebuild | Import | Promote => 0,
        }
    }
}

fn remove_outputs(space: &Space) {
    for output in ["gen", "dist"] {
        fs::remove_dir_all(space.work().join(output)).expect("was made");
    }
    for output in ["big.bin", "flat.txt", "after.txt", "sum.txt"] {
        fs::remove_file(space.work().join(output)).expect("was made");
    }
}

/// What `default` has of a promotion that did not come to its end, and should not have: receipts without their bytes.
fn half_promoted(space: &Space) -> Vec<String> {
    let output = space.quipu(&[&["plan", "--json"], NAME_SPACE].concat()).output().expect("runs");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let tasks = plan["tasks"].as_array().into_iter().flatten().filter_map(|task| task["task"].as_str());
    let ids: Vec<_> = tasks.filter_map(|id| id.parse().ok()).collect();
    if ids.len() != TASKS {
        return vec![format!("the name space is not what it was: {plan}")];
    }
    let store = space.store();
    let found = store.find_tasks(&ids).expect("reads").into_iter().flat_map(|task| task.receipts);
    let outputs = found.flat_map(|found| found.signed.receipt.out.clone().ok());
    let entries = outputs.flat_map(|output| output.artifacts.into_iter());
    let missing = entries.filter(|(_, entry)| !store.complete(entry).expect("reads"));
    missing.map(|(path, _)| format!("`{path}` was promoted without its bytes")).collect()
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("is listed") {
        let path = entry.expect("is listed").path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Who takes points: a space at one path, the templates it is copied from, and what is to come out.
struct Bench {
    _temp: tempfile::TempDir,
    space: Space,
    beside: std::path::PathBuf,
    breaks: Option<&'static str>,
    expected: BTreeMap<usize, Files>,
    changes: BTreeMap<usize, u64>,
}

impl Bench {
    fn new(scenarios: &[Scenario], breaks: Option<&'static str>) -> Self {
        let temp = temp();
        let (space, beside) = (Space { dir: temp.path().join("space") }, temp.path().join("beside"));
        fs::create_dir(&beside).expect("is made");
        let (expected, changes) = Default::default();
        let mut bench = Self { space, beside, breaks, expected, changes, _temp: temp };
        for scenario in scenarios {
            let of = *scenario as usize;
            let space = Space::new(&bench.space.dir);
            scenario.prepare(&space);
            space.save_as(&bench.template(*scenario));
            let outcome = bench.attempt(*scenario, &[]);
            assert!(outcome.status.success(), "{scenario:?} undisturbed: {}", outcome.stderr);
            bench.changes.insert(of, outcome.calls.len() as u64);
            space.run().expect("runs undisturbed");
            bench.expected.insert(of, space.files());
            assert_eq!(space.unsound(), Vec::<String>::new(), "{scenario:?}");
            fs::remove_dir_all(&space.dir).expect("is removed");
        }
        bench
    }

    fn template(&self, scenario: Scenario) -> std::path::PathBuf {
        self.beside.join(format!("{scenario:?}"))
    }

    fn attempt(&self, scenario: Scenario, faults: &[Fault]) -> Outcome {
        let mut command = scenario.command(&self.space);
        if let Some(how) = self.breaks {
            command.env("QUIPU_TEST_BREAK", how);
        }
        inject::run(command, &self.space.dir, &self.beside, faults).expect("is watched")
    }

    /// Takes a point: the operation once for each fault, then undisturbed; what is wrong afterwards.
    fn point(&self, scenario: Scenario, faults: &[Fault]) -> Point {
        self.space.become_copy_of(&self.template(scenario));
        let expected = &self.expected[&(scenario as usize)];
        let mut point = Point { scenario, faults: faults.to_vec(), hits: vec![], problems: vec![] };
        let mut acknowledged = BTreeSet::new();
        for fault in faults {
            let outcome = self.attempt(scenario, &[*fault]);
            point.hits.push(outcome.hit);
            if std::env::var_os("QUIPU_CAMPAIGN_POINT").is_some() {
                eprintln!("{fault:?}: {} at {:?}\n{}{}", outcome.status, outcome.hit, outcome.stdout, outcome.stderr);
            }
            for text in [&outcome.stdout, &outcome.stderr] {
                point.problems.extend(panic_in(text).map(|panic| format!("a panic: {panic}")));
            }
            let sane = match outcome.status.code() {
                Some(0 | 3) => true,
                Some(1) => scenario.is_run(),
                // What was found could not all be mended, yet.
                Some(5) => matches!(scenario, Repair | Rebuild),
                Some(_) => false,
                None => outcome.was_killed() && fault.kind == Kind::Kill,
            };
            if !sane {
                point.problems.push(format!("ended with {}: {}", outcome.status, outcome.stderr));
            }
            if outcome.status.code().is_some_and(|c| c > 0)
                && outcome.stderr.trim().is_empty()
                && !outcome.stdout.contains("warning")
                && !outcome.stdout.contains("reason")
            {
                point.problems.push(format!("ended with {} and did not say why", outcome.status));
            }
            let said = Said::read(&outcome.stdout);
            for task in said.started.iter().filter(|t| acknowledged.contains(*t)) {
                point.problems.push(format!("`{task}` was acknowledged and ran again, disturbed"));
            }
            acknowledged.extend(said.recorded.into_keys());
            if scenario.is_run() && outcome.status.success() {
                let mut files = self.space.files();
                // What could not be deleted stays under a name of the moment, until a run that is not disturbed.
                files.retain(|path, _| !path.starts_with(".quipu-tmp-"));
                if files != *expected {
                    let what = super::space::difference(&files, expected);
                    point.problems.push(format!("ended well, and outputs differ: {what}"));
                }
            }
        }
        if scenario == Promote {
            point.problems.extend(half_promoted(&self.space));
        }
        if !scenario.is_run() {
            let outcome = self.attempt(scenario, &[]);
            if !outcome.status.success() {
                point.problems.push(format!("cannot be done again: {} {}", outcome.status, outcome.stderr));
            }
        }
        let (problems, again) = self.space.problems(&acknowledged, expected);
        point.problems.extend(problems);
        if again > scenario.may_run() {
            point.problems.push(format!("{again} tasks ran again"));
        }
        if scenario == Checkout && !self.space.store().has(BlobId::of(FOREIGN).link()).expect("reads") {
            point.problems.push("a person's file is lost".to_owned());
        }
        point
    }
}

#[derive(Debug)]
struct Point {
    scenario: Scenario,
    faults: Vec<Fault>,
    hits: Vec<Option<&'static str>>,
    problems: Vec<String>,
}

impl Point {
    /// Says what is wrong, if anything is; with the name that `QUIPU_CAMPAIGN_POINT` takes.
    fn show(&self) {
        if !self.problems.is_empty() {
            let faults: String = self.faults.iter().map(|f| format!(" {} {:?}", f.at, f.kind)).collect();
            eprintln!("BAD {:?}{faults}, at {:?}:", self.scenario, self.hits);
            self.problems.iter().for_each(|p| eprintln!("    {}", p.trim_end().replace('\n', "\n      ")));
        }
    }
}

/// Numbers without end, the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// Every point there is; some more changes than were counted, since runs differ a little.
fn all_points(bench: &Bench) -> Vec<(Scenario, Vec<Fault>)> {
    let mut points = Vec::new();
    for scenario in SCENARIOS {
        for at in 0..bench.changes[&(scenario as usize)] + 2 {
            points.extend(KINDS.iter().map(|kind| (scenario, vec![Fault { at, kind: *kind }])));
        }
    }
    points
}

/// One point by name, as a campaign prints it.
fn named(name: &str) -> (Scenario, Vec<Fault>) {
    let mut words = name.split_whitespace();
    let scenario = words.next().and_then(|w| SCENARIOS.into_iter().find(|s| format!("{s:?}") == w));
    let mut faults = Vec::new();
    while let (Some(at), Some(kind)) = (words.next(), words.next()) {
        let kind = KINDS.into_iter().find(|k| format!("{k:?}") == kind).expect("a kind");
        faults.push(Fault { at: at.parse().expect("a number"), kind });
    }
    (scenario.expect("a scenario"), faults)
}

fn some(bench: &Bench, scenarios: &[Scenario], count: usize, faults: usize, seed: u64) -> Vec<(Scenario, Vec<Fault>)> {
    let mut dice = Dice(seed);
    let mut points = Vec::new();
    for n in 0..count {
        let scenario = scenarios[n % scenarios.len()];
        let changes = bench.changes[&(scenario as usize)];
        let fault = |_| Fault { at: dice.below(changes + 2), kind: KINDS[dice.below(4) as usize] };
        points.push((scenario, (0..faults).map(fault).collect()));
    }
    points
}

/// Takes the points with one bench a processor, and says what came of them.
fn take(points: Vec<(Scenario, Vec<Fault>)>, first: Bench) -> Vec<Point> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (first, points, begun) = (Mutex::new(Some(first)), &points, std::time::Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let bench = first.lock().expect("no panic holds it").take();
                let bench = bench.unwrap_or_else(|| Bench::new(&SCENARIOS, None));
                while let Some((scenario, faults)) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let point = bench.point(*scenario, faults);
                    point.show();
                    let mut results = results.lock().expect("no panic holds it");
                    results.push(point);
                    if results.len() % 500 == 0 {
                        let bad = results.iter().filter(|p| !p.problems.is_empty()).count();
                        eprintln!("{} of {} points, {bad} bad, {:?}", results.len(), points.len(), begun.elapsed());
                    }
                }
            });
        }
    });
    let points = results.into_inner().expect("no panic held it");
    eprintln!("kill matrix: {} points in {:.0?}", points.len(), begun.elapsed());
    for scenario in SCENARIOS {
        let of: Vec<_> = points.iter().filter(|p| p.scenario == scenario).collect();
        let hit = of.iter().filter(|p| p.hits.iter().all(Option::is_some)).count();
        let bad = of.iter().filter(|p| !p.problems.is_empty()).count();
        eprintln!("  {scenario:?}: {} points, {hit} hit, {bad} bad", of.len());
    }
    points
}

fn assert_good(points: &[Point]) {
    let bad: Vec<_> = points.iter().filter(|p| !p.problems.is_empty()).collect();
    assert!(bad.is_empty(), "{} of {} points are bad", bad.len(), points.len());
}

#[test]
fn stopped_anywhere_in_any_way_nothing_is_lost_and_nothing_is_wrong() {
    if !inject::is_possible() {
        eprintln!("skipped: system calls cannot be watched here");
        return;
    }
    let bench = Bench::new(&SCENARIOS, None);
    let count = std::env::var("QUIPU_CAMPAIGN_POINTS").ok().and_then(|n| n.parse().ok());
    let seed = std::env::var("QUIPU_CAMPAIGN_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let one = std::env::var("QUIPU_CAMPAIGN_POINT");
    let points = match std::env::var("QUIPU_CAMPAIGN").as_deref() {
        _ if one.is_ok() => one.iter().map(|name| named(name)).collect(),
        Ok("full") => all_points(&bench),
        Ok("pairs") => some(&bench, &SCENARIOS, count.unwrap_or(5000), 2, seed),
        Ok("sample") | Err(_) => {
            let mut points = some(&bench, &SCENARIOS, count.unwrap_or(36), 1, seed);
            points.extend(some(&bench, &SCENARIOS, count.unwrap_or(36) / 4, 2, seed + 1));
            points
        }
        // Another campaign's turn.
        Ok(_) => return,
    };
    let changes: u64 = bench.changes.values().sum();
    if std::env::var_os("QUIPU_CAMPAIGN_POINT").is_some() {
        bench.space.become_copy_of(&bench.template(points[0].0));
        let calls = bench.attempt(points[0].0, &[]).calls;
        let mut counts = BTreeMap::new();
        calls.iter().for_each(|c| *counts.entry(*c).or_insert(0) += 1);
        eprintln!("{counts:?}");
    }
    eprintln!("{changes} changes in {} scenarios: {:?}", SCENARIOS.len(), bench.changes.values());
    assert!(changes > 100, "the operations change something");
    assert_good(&take(points, bench));
}

#[test]
fn a_store_that_speaks_too_soon_is_caught() {
    if !inject::is_possible() {
        eprintln!("skipped: system calls cannot be watched here");
        return;
    }
    let bench = Bench::new(&[FirstRun], Some("ack-first"));
    bench.space.become_copy_of(&bench.template(FirstRun));
    let calls = bench.attempt(FirstRun, &[]).calls;
    // Killed where something is about to be written: what is written survives the process.
    let mut writes = (0..).zip(&calls).filter(|(_, name)| name.contains("write")).map(|(at, _)| at);
    let caught = writes.any(|at| {
        let point = bench.point(FirstRun, &[Fault { at, kind: Kind::Kill }]);
        point.problems.iter().any(|p| p.contains("acknowledged and ran again"))
    });
    assert!(caught, "acknowledged before it is durable, and nobody saw");
}
