//! What the parts of a run cost: ids, plan, store, ingest, checkout, glance, and the command with nothing to do and with
//! processes to start.
//!
//! `cargo bench` runs all, `cargo bench -- ids` some. What they cost beside other programs is measured by
//! `benches/ratios.py`, and what a bare or isolated process does by the example `spawn_cost` of the runtime.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quipu_runtime::drive::{self, Engine, Request};
use quipu_runtime::run::{Rules, Subject};
use quipu_runtime::workfile::{self, Surroundings};
use quipu_runtime::workflow::Workflow;
use quipu_store::cid::{InvocationId, TaskId};
use quipu_store::glance::{How, Sight, VoidBy, look_again, now_ns};
use quipu_store::receipt::{Meta, Output, Receipt, Via};
use quipu_store::sign::Signer;
use quipu_store::stat_index::StatIndex;
use quipu_store::{Options, Record, SignerSource, Store, Take, checkout, ingest};

const TASKS: usize = 10_000;
const FILES: usize = 1000;
const SPAWNS: u64 = 100;

fn options() -> Options {
    Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32])))
}

/// Layers of a hundred, each task with an input from the layer before.
fn text(tasks: usize) -> String {
    let mut text = String::from("[workspace]\nsandbox = \"none\"\n");
    for i in 0..tasks {
        let from = i.checked_sub(100).map(|d| format!("\"out/{d}\"")).unwrap_or_default();
        let _ = write!(
            text,
            "[task.t{i}]\nrun = [\"cp\", \"a\", \"out/{i}\"]\ninputs = [{from}]\noutputs = [\"out/{i}\"]\n"
        );
    }
    text
}

fn workflow(tasks: usize) -> Workflow {
    let loaded = workfile::load_text(Path::new("/nowhere"), &text(tasks)).expect("it is right");
    let platform = ("linux".into(), "x86_64".into());
    let surroundings = Surroundings { platform, ..Surroundings::default() };
    loaded.workflow(&vec![None; tasks], &surroundings).expect("it is right")
}

fn files(dir: &Path, files: usize) -> Vec<String> {
    let names: Vec<String> = (0..files).map(|i| format!("{}/{i}", i / 100)).collect();
    for name in &names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("is made");
        fs::write(path, name.repeat(20)).expect("is written");
    }
    // Young files are not relied on.
    std::thread::sleep(Duration::from_millis(50));
    names
}

fn tasks(c: &mut Criterion) {
    let mut group = c.benchmark_group("tasks");
    group.sample_size(10).throughput(Throughput::Elements(TASKS as u64));
    let text = text(TASKS);
    group.bench_function("workfile", |b| b.iter(|| workfile::load_text(Path::new("/nowhere"), &text)));
    let workflow = workflow(TASKS);
    group.bench_function("ids", |b| {
        b.iter_batched(|| workflow.clone(), Subject::new, BatchSize::PerIteration);
    });
    let subject = Arc::new(Subject::new(workflow).expect("it is right"));
    let goals: Vec<_> = subject.workflow.indices().collect();
    let engine = Engine::new(Store::memory(options()));
    group.bench_function("plan", |b| {
        b.iter(|| drive::look(&engine, Request::new(Arc::clone(&subject), goals.clone(), Rules::default())));
    });
    group.finish();
}

fn receipt(n: u64) -> Receipt {
    let settles = [(TaskId::of(&n.to_le_bytes()), Via::new())].into();
    let meta = Meta { settles, tier: "none".to_owned(), ..Meta::default() };
    let ran = InvocationId::of(&n.to_le_bytes());
    Receipt { ran, out: Ok(Output::default()), issued_at: n, expires_at: None, meta }
}

fn store(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.sample_size(10).throughput(Throughput::Elements(FILES as u64));
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open(dir.path(), options()).expect("is opened");
    let mut next = 0;
    group.bench_function("record", |b| {
        b.iter(|| {
            for _ in 0..FILES {
                next += 1;
                let done = Box::new(|kept: Result<_, _>| {
                    kept.expect("is kept");
                });
                store.record(Record { receipt: receipt(next), blocks: vec![], done }).expect("is queued");
            }
            store.flush().expect("is written");
        });
    });
    let ids: Vec<TaskId> = (1..=FILES as u64).map(|n| TaskId::of(&n.to_le_bytes())).collect();
    group.bench_function("find", |b| b.iter(|| black_box(store.find_tasks(&ids))));
    group.finish();
}

fn trees(c: &mut Criterion) {
    let mut group = c.benchmark_group("files");
    group.sample_size(10).throughput(Throughput::Elements(FILES as u64));
    let dir = tempfile::tempdir().expect("temporary directory");
    let names = files(&dir.path().join("ws/src"), FILES);
    let store = Store::open(&dir.path().join("store"), options()).expect("is opened");
    let (ws, src) = (dir.path().join("ws"), dir.path().join("ws/src"));
    group.bench_function("ingest", |b| b.iter(|| ingest::ingest_path(&store, &src, Take::Copy)));
    let tree = ingest::ingest_path(&store, &src, Take::Copy).expect("is read").expect("is there");
    store.flush().expect("is written");
    group.bench_function("checkout", |b| b.iter(|| checkout::checkout(&store, &tree, &ws, "copy")));
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    group.bench_function("scan anew", |b| b.iter(|| StatIndex::open(&store, &src).scan(&paths).len()));
    let mut index = StatIndex::open(&store, &src);
    index.scan(&paths);
    index.save().expect("is kept");
    store.flush().expect("is written");
    group.bench_function("scan", |b| b.iter(|| StatIndex::open(&store, &src).scan(&paths).len()));
    std::thread::sleep(Duration::from_millis(50));
    let mut sight = Sight::new(&src);
    names.iter().for_each(|name| sight.saw(How::Itself, name));
    assert!(sight.keep(&dir.path().join("store"), &[1; 32], now_ns(), b"", VoidBy::AnyCommit).expect("is written"));
    group.bench_function("glance", |b| {
        b.iter(|| assert!(look_again(&dir.path().join("store"), &[1; 32]).is_some()));
    });
    group.finish();
}

/// The command in `dir`, which holds the store, too.
fn quipu(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu"));
    command.args(args).current_dir(dir).stderr(Stdio::null());
    command.env("QUIPU_STORE", dir.join("store")).env("QUIPU_CONFIG", dir.join("config"));
    command
}

fn spawn(c: &mut Criterion) {
    let mut group = c.benchmark_group("spawn");
    group.sample_size(10).throughput(Throughput::Elements(SPAWNS));
    for sandbox in ["none", "ns"] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut text = format!("[workspace]\nsandbox = \"{sandbox}\"\n");
        for i in 0..SPAWNS {
            let _ = write!(text, "[task.t{i}]\nrun = [\"true\"]\ninputs = []\nenv = {{ N = \"{i}\" }}\n");
        }
        fs::write(dir.path().join("quipu.toml"), text).expect("is written");
        let run = || quipu(dir.path(), &["run", "-q", "-j1", "--force"]).status().expect("starts").success();
        if run() {
            group.bench_function(sandbox, |b| b.iter(|| assert!(run())));
        }
    }
    group.finish();
}

fn nothing_to_do(c: &mut Criterion) {
    let mut group = c.benchmark_group("nothing to do");
    group.sample_size(20).throughput(Throughput::Elements(FILES as u64));
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::create_dir_all(dir.path().join("out")).expect("is made");
    fs::write(dir.path().join("a"), "a").expect("is written");
    let text = text(FILES).replace("inputs = [", "inputs = [\"a\", ");
    fs::write(dir.path().join("quipu.toml"), text).expect("is written");
    let run = |glance: &str| {
        let mut command = quipu(dir.path(), &["run", "-q"]);
        assert!(command.env("QUIPU_GLANCE", glance).status().expect("starts").success());
    };
    for _ in 0..4 {
        run("1");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (name, glance) in [("glance", "1"), ("all looked up", "0")] {
        group.bench_function(name, |b| b.iter(|| run(glance)));
    }
    group.finish();
}

criterion_group!(all, tasks, store, trees, spawn, nothing_to_do);
criterion_main!(all);
