//! What it costs to start a process: bare, as a task in the workspace, and as a task in a sandbox over so many inputs.
//!
//! `cargo run --release -p quipu-runtime --example spawn_cost [ROUNDS] [BALLAST_MIB]`. The rounds of all ways alternate, so
//! that a busy machine slows all alike: compare the ratios, and the least of each, which others disturb least. With ballast
//! this process is as large as one with a large workflow in memory, which is what a fork pays for.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quipu_runtime::exec::process::ProcessExecutor;
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::exec::{Begin, Executor, Invocation, Job, Stop};
use quipu_runtime::process::{ProcessSpec, Tier};
use quipu_runtime::value::{Text, Value};
use quipu_store::cid::InvocationId;
use quipu_store::sign::Signer;
use quipu_store::stamp::Stamp;
use quipu_store::{Options, SignerSource, Store};
use tokio::sync::watch;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |a| a.parse::<usize>());
    let (rounds, ballast) = (number(60)?, vec![1_u8; number(0)? << 20]);
    let dir = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for (inputs, covered) in [(0, false), (10, false), (100, false), (1000, false), (10_000, true)] {
        let root = dir.path().join(format!("work-{inputs}"));
        let sources = lay_out(&root, inputs, covered)?;
        let store =
            Store::open(&dir.path().join("store"), Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))?;
        let workspace = Arc::new(Workspace::open(&store, &root));
        let paths: Vec<&str> = sources.iter().map(String::as_str).collect();
        let mut stamps: Vec<(Text, Stamp)> = Vec::new();
        for scanned in workspace.index().scan(&paths) {
            let (_, stamp) = scanned.result?.ok_or("it was just written")?;
            stamps.push((scanned.path.into(), stamp));
        }
        let stamps: Arc<[(Text, Stamp)]> = stamps.into();
        let executor = ProcessExecutor::new(workspace);
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            let started = Instant::now();
            std::process::Command::new("/bin/true").stdin(std::process::Stdio::null()).output()?;
            times[0].push(started.elapsed());
            for (tier, times) in [Tier::None, Tier::Ns].into_iter().zip(&mut times[1..]) {
                let (_wish, stop) = watch::channel(Stop::No);
                let job = Job {
                    name: "true".into(),
                    id: InvocationId::of(b"true"),
                    invocation: Arc::new(invocation(tier)?),
                    sources: Arc::clone(&stamps),
                    urls: Arc::new([]),
                    timeout: None,
                    forced: false,
                    store: store.clone(),
                    sink: Arc::new(|_, _| {}),
                    stop,
                    company: None,
                    ready: Arc::new(|| {}),
                    begin: Begin::at_once(),
                };
                let started = Instant::now();
                let done = runtime.block_on(executor.execute(job));
                times.push(started.elapsed());
                done.result.map_err(|failure| failure.kind.to_string())?;
            }
        }
        let [least_bare, least_none, least_ns] =
            times.each_ref().map(|times| times.iter().min().copied().unwrap_or_default());
        let [bare, none, ns] = times.map(median);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let what = if covered { "in one covered directory" } else { "single files" };
        writeln!(
            out,
            "{inputs:6} inputs, {what}: bare {:.2} ms, `none` {:.2} ms ({:.2}x), `ns` {:.2} ms ({:.2}x, {:+.2} ms); \
             least {:.2}, {:.2}, {:.2} ({:+.2})",
            ms(bare),
            ms(none),
            ms(none) / ms(bare),
            ms(ns),
            ms(ns) / ms(bare),
            ms(ns) - ms(bare),
            ms(least_bare),
            ms(least_none),
            ms(least_ns),
            ms(least_ns) - ms(least_bare),
        )?;
    }
    drop(ballast);
    Ok(())
}

/// Writes the files; beside those that are not to be bound as a whole stands one that is not declared.
fn lay_out(root: &Path, inputs: usize, covered: bool) -> Result<Vec<String>, Failed> {
    std::fs::create_dir_all(root)?;
    let mut sources = Vec::new();
    for i in 0..inputs {
        let dir = if covered { "all".to_owned() } else { format!("part-{}", i / 100) };
        if i % 100 == 0 {
            std::fs::create_dir_all(root.join(&dir))?;
            if !covered {
                std::fs::write(root.join(&dir).join("undeclared"), "")?;
            }
        }
        let path = format!("{dir}/file-{i}.h");
        std::fs::write(root.join(&path), "x")?;
        sources.push(path);
    }
    sources.sort_unstable();
    Ok(sources)
}

fn invocation(tier: Tier) -> Result<Invocation, Failed> {
    let platform = (std::env::consts::OS.into(), std::env::consts::ARCH.into());
    let spec = ProcessSpec::new(vec![vec![Value::from("/bin/true")]], tier, platform);
    let (sub, cmd) = ("did:web:test".into(), "/quipu/process".into());
    Ok(Invocation { sub, cmd, args: spec.to_args()?, nonce: Box::default() })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
