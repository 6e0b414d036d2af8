//! How long, and in how much memory, a plan is made for many tasks that are all cached.
//!
//! `cargo run --release -p quipu-runtime --example plan_scale [tasks...]`; without numbers 10k, 100k and 1M,
//! each in a process of its own, since peak memory is a property of a process. Receipts are made up when they
//! are asked for, so that what is measured is workflow, graph, ids, run and plan.

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use quipu_runtime::graph::TaskIdx;
use quipu_runtime::plan::Plan;
use quipu_runtime::run::step::{Candidate, Event, Step};
use quipu_runtime::run::{Rules, Run, Subject};
use quipu_runtime::task::{DEFAULT_SUBJECT, PROCESS, Task};
use quipu_runtime::value::{At, Branch, On, Text, Value};
use quipu_runtime::workflow::Workflow;
use quipu_store::cid::{BlobId, ReceiptId};
use quipu_store::receipt::Output;
use quipu_store::tree::Entry;

const WIDTH: usize = 1000;
const AWAITS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|n| n.parse()).collect::<Result<_, _>>()?;
    match &sizes[..] {
        [] => each_alone(&[10_000, 100_000, 1_000_000]),
        [tasks] => measure(*tasks),
        many => each_alone(many),
    }
}

fn each_alone(sizes: &[usize]) -> Result<(), Box<dyn Error>> {
    println!("   tasks  build ms    ids ms    run ms   plan ms  bytes/task: workflow  +ids  +run  +plan   peak");
    for tasks in sizes {
        std::process::Command::new(std::env::current_exe()?).arg(tasks.to_string()).status()?;
    }
    Ok(())
}

fn measure(tasks: usize) -> Result<(), Box<dyn Error>> {
    let (mut marks, mut at) = (vec![], Instant::now());
    let mut mark = |marks: &mut Vec<(u128, u64)>| {
        marks.push((at.elapsed().as_millis(), memory_bytes("VmRSS:")));
        at = Instant::now();
    };
    let empty = memory_bytes("VmRSS:");
    let workflow = layers(tasks)?;
    mark(&mut marks);
    let subject = Arc::new(Subject::new(workflow)?);
    mark(&mut marks);
    let goals: Vec<TaskIdx> = subject.workflow.indices().collect();
    let mut run = Run::new(Arc::clone(&subject), &goals, Rules { dry: true, ..Rules::default() });
    while let Some(step) = run.poll() {
        match step {
            Step::Find { task, .. } => run.on(found(&subject, task)),
            Step::Tell(_) => {}
            other => return Err(format!("nothing should be left to do: {other:?}").into()),
        }
    }
    mark(&mut marks);
    let plan = Plan::of(&run);
    mark(&mut marks);
    assert_eq!((plan.counts.cached, plan.tasks.iter().count()), (tasks, tasks));
    let each = |i: usize| (marks[i].1.saturating_sub(if i == 0 { empty } else { marks[i - 1].1 })) / tasks as u64;
    let [build, ids, run_ms, plan_ms] = [0, 1, 2, 3].map(|i| marks[i].0);
    println!(
        "{tasks:>8} {build:>9} {ids:>9} {run_ms:>9} {plan_ms:>9}  {:>20} {:>5} {:>5} {:>6} {:>6}",
        each(0),
        each(1),
        each(2),
        each(3),
        (memory_bytes("VmHWM:") - empty) / tasks as u64,
    );
    Ok(())
}

/// Layers of tasks, each awaiting a few of the layer before.
fn layers(tasks: usize) -> Result<Workflow, Box<dyn Error>> {
    let mut workflow = Workflow::new();
    // What a task makes and those that await it read under the same name: one text, as workfiles have it.
    let mut names: Vec<Text> = vec![];
    let (sub, cmd, cc): (Text, Text, Text) = (DEFAULT_SUBJECT.into(), PROCESS.into(), "cc".into());
    let at: At = ["outputs".into(), "o".into()].into();
    for i in 0..tasks {
        let layer = i / WIDTH;
        names.push(format!("in/{i}").into());
        let awaited = (0..AWAITS).filter(|_| layer > 0).map(|k| (layer - 1) * WIDTH + (i * 7 + k * 331) % WIDTH);
        let inputs = awaited.map(|d| {
            let promise = Value::promise_at(Branch::Ok, On::Here(TaskIdx::new(d)), at.clone());
            (names[d].clone(), promise)
        });
        let argv = [Value::Text(cc.clone()), Value::text(format!("src/{i}.c"))];
        let args = Value::map([("inputs", Value::map(inputs)?), ("steps", Value::list([Value::list(argv)]))])?;
        workflow.add(format!("t{i}"), Task { sub: sub.clone(), cmd: cmd.clone(), args, nonce: Box::default() })?;
    }
    Ok(workflow)
}

fn output(task: TaskIdx) -> Output {
    let blob = BlobId::of(&task.index().to_be_bytes());
    Output { artifacts: [("o".into(), Entry::File { blob, size: 8, exec: false })].into(), ..Output::default() }
}

fn found(subject: &Subject, task: TaskIdx) -> Event {
    let output = output(task);
    let (receipt, out) = (ReceiptId::of(&task.index().to_be_bytes()), output.id());
    let via = subject.graph.awaits(task).iter().map(|d| (subject.ids.of(*d), self::output(*d).id())).collect();
    let (own, session, rank, issued_at) = (true, false, 0, 0);
    let result = Ok(Arc::new(output));
    let candidate = Candidate { receipt, result, out, via, own, session, rank, issued_at };
    Event::Found { task, candidates: vec![candidate], accepted: Some((receipt, out)) }
}

/// A line of `/proc/self/status`, in bytes; 0 where there is none.
fn memory_bytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}
