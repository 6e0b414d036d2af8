//! What a run of many tasks costs beside their work: one in which all run, and the next, in which all are looked up.
//!
//! `cargo run --release -p quipu-runtime --example run_scale DIR [tasks...]`; without numbers 1k, 10k, 100k and 1M, each in a process
//! and a store of its own. The tasks are functions that give the output at once, in layers of a thousand, each with three inputs
//! from the layer before: what is measured is ids, run, leases, receipts, the store's commits and look-ups.

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use quipu_runtime::drive::{Engine, Request, never_stop, run_blocking};
use quipu_runtime::exec::{Job, native::native};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::{Rules, Subject};
use quipu_runtime::task::Task;
use quipu_runtime::value::{Branch, On, Value};
use quipu_runtime::workflow::Workflow;
use quipu_store::cid::Codec;
use quipu_store::receipt::{FailureKind, Output};
use quipu_store::sign::Signer;
use quipu_store::tree::Entry;
use quipu_store::{Options, SignerSource, Store};

const WIDTH: usize = 1000;
const AWAITS: usize = 3;
const COMMAND: &str = "/bench/number";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("no directory was named")?;
    let sizes: Vec<usize> = args.map(|n| n.parse()).collect::<Result<_, _>>()?;
    match &sizes[..] {
        [] => each_alone(&dir, &[1_000, 10_000, 100_000, 1_000_000]),
        [tasks] => measure(&Path::new(&dir).join(tasks.to_string()), *tasks),
        many => each_alone(&dir, many),
    }
}

fn each_alone(dir: &str, sizes: &[usize]) -> Result<(), Box<dyn Error>> {
    println!(
        "| tasks | all run, ms (us a task) | all looked up, ms (us a task) | most memory, MB |\n|---|---|---|---|"
    );
    for tasks in sizes {
        std::process::Command::new(std::env::current_exe()?).args([dir, &tasks.to_string()]).status()?;
    }
    Ok(())
}

fn measure(dir: &Path, tasks: usize) -> Result<(), Box<dyn Error>> {
    let first = run(dir, tasks, tasks)?;
    let again = run(dir, tasks, 0)?;
    let each = |ms: u128| ms as f64 * 1e3 / tasks as f64;
    let memory = most_memory_bytes() as f64 / 1e6;
    println!("| {tasks} | {first} ({:.1}) | {again} ({:.1}) | {memory:.0} |", each(first), each(again));
    Ok(())
}

/// Runs all tasks, of which so many are expected to be done, and says how many milliseconds that took.
fn run(dir: &Path, tasks: usize, done: usize) -> Result<u128, Box<dyn Error>> {
    let began = Instant::now();
    let store = Store::open(dir, Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))?;
    let mut engine = Engine::new(store);
    engine.executors.register(COMMAND, native(number));
    let subject = Arc::new(Subject::new(layers(tasks)?)?);
    let goals = subject.workflow.indices().collect();
    let jobs = u32::try_from(std::thread::available_parallelism()?.get())?;
    let request = Request::new(subject, goals, Rules { jobs, ..Rules::default() });
    let report = run_blocking(&engine, request, never_stop)?;
    let counts = &report.summary.counts;
    if (counts.ran, counts.ran + counts.cached) != (done, tasks) {
        return Err(format!("{done} of {tasks} were to run: {counts:?}").into());
    }
    Ok(began.elapsed().as_millis())
}

/// The work: its number as a file.
async fn number(job: Job) -> Result<Output, quipu_store::receipt::Failure> {
    let Some(Value::Int(n)) = job.invocation.args.get("n") else {
        return Err(FailureKind::Executor { why: "it has no number".into() }.into());
    };
    let bytes = n.to_string().into_bytes();
    let size = bytes.len() as u64;
    let failed = |why: String| FailureKind::Executor { why };
    let link = job.store.put(Codec::Raw, bytes).map_err(|e| failed(e.to_string()))?;
    let blob = link.try_into().map_err(|_| failed("it is no blob".into()))?;
    Ok(Output { artifacts: [("o".into(), Entry::File { blob, size, exec: false })].into(), ..Output::default() })
}

fn layers(tasks: usize) -> Result<Workflow, Box<dyn Error>> {
    let mut workflow = Workflow::new();
    for i in 0..tasks {
        let layer = i / WIDTH;
        let awaited = (0..AWAITS).filter(|_| layer > 0).map(|k| (layer - 1) * WIDTH + (i * 7 + k * 331) % WIDTH);
        let inputs = awaited.map(|d| Value::promise(Branch::Ok, On::Here(TaskIdx::new(d)), ["outputs", "o"]));
        let args = Value::map([("n", Value::Int(i64::try_from(i)?)), ("inputs", Value::list(inputs))])?;
        workflow.add(format!("t{i}"), Task::new(COMMAND, args))?;
    }
    Ok(workflow)
}

/// As the kernel counts it; 0 where it does not.
fn most_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}
