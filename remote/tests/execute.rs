//! A server that executes: what it does right, and what servers do differently.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu_remote::{Config, RemoteExecutor, TIER, Warn};
use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::exec::{Begin, Done, Executor, Invocation, Job, Stop, Unusable};
use quipu_runtime::process::{OutputKind, OutputSpec, ProcessSpec, Tier};
use quipu_runtime::value::Value;
use quipu_store::Store;
use quipu_store::cid::Codec;
use quipu_store::ingest::{IngestOptions, ingest_at};
use quipu_store::receipt::{FailureKind, Output};
use quipu_store::tree::{Entry, Name, Tree};
use tokio::sync::watch;

use crate::double::{Double, Setup};
use crate::kit::{bytes, config, say, store};
use crate::server::Server;

/// Counts what is left to it, and says that it ran here.
#[derive(Default)]
pub(crate) struct Here {
    count: AtomicUsize,
    /// What comes out of it.
    pub(crate) makes: Mutex<Output>,
}

struct Shared(Arc<Here>);

impl Executor for Shared {
    fn execute(&self, _: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        let made = self.0.makes.lock().expect("nobody panics here").clone();
        Box::pin(async {
            Done {
                result: Ok(made),
                cpu: Duration::ZERO,
                rss_bytes: 0,
                aside: Duration::ZERO,
                tier: "here",
                host: None,
                unusable: None,
            }
        })
    }
}

/// A workspace with an executor over a server.
pub(crate) struct Farm {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) here: Arc<Here>,
    pub(crate) warnings: Arc<Mutex<Vec<String>>>,
    executor: RemoteExecutor,
    runtime: tokio::runtime::Runtime,
    printed: Arc<Mutex<Vec<u8>>>,
}

/// Whether actions run at all: that takes bubblewrap and the right to make name spaces.
pub(crate) fn works(farm: &Farm) -> bool {
    let done = farm.run(&spec(&["/bin/sh", "-c", "echo hello"]), |_| ());
    let ran = done.tier == TIER && done.result.is_ok();
    if !ran {
        say(&format!("skipped: the server executes nothing here ({:?})", done.result));
        assert!(std::env::var_os("QUIPU_REQUIRE_SERVERS").is_none(), "a server that executes was asked for");
    }
    ran
}

pub(crate) fn spec(argv: &[&str]) -> ProcessSpec {
    let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LC_ALL", "C"), ("HOME", "/home"), ("TMPDIR", "/tmp")];
    let steps = vec![argv.iter().map(|a| Value::from(*a)).collect()];
    let env = env.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    let platform = (std::env::consts::OS.into(), std::env::consts::ARCH.into());
    ProcessSpec { env, ..ProcessSpec::new(steps, Tier::Ns, platform) }
}

pub(crate) fn output(path: &str, kind: OutputKind) -> OutputSpec {
    OutputSpec { path: path.into(), kind, optional: false }
}

impl Farm {
    pub(crate) fn new(config: &Config) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(1);
        let here = Arc::new(Here::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let workspace = Arc::new(Workspace::open(&store, dir.path()));
        let local = Arc::new(Shared(Arc::clone(&here)));
        let warnings = Arc::new(Mutex::new(vec![]));
        let heard = Arc::clone(&warnings);
        let warn: Warn = Arc::new(move |message| heard.lock().expect("nobody panics here").push(message));
        let executor = RemoteExecutor::new("farm", config, &|_| None, workspace, local, 2, warn);
        let executor = executor.expect("a good description");
        Self { dir, store, here, warnings, executor, runtime, printed: Arc::default() }
    }

    fn job(&self, spec: &ProcessSpec) -> (Job, watch::Sender<Stop>) {
        let args = spec.to_args().expect("canonical");
        let invocation =
            Invocation { sub: "did:web:test".into(), cmd: "/quipu/process".into(), args, nonce: Box::default() };
        let (id, _) = invocation.encode();
        let (sender, stop) = watch::channel(Stop::No);
        let printed = Arc::clone(&self.printed);
        let job = Job {
            name: "task".into(),
            id,
            invocation: Arc::new(invocation),
            sources: Arc::new([]),
            urls: Arc::new([]),
            timeout: None,
            forced: false,
            store: self.store.clone(),
            sink: Arc::new(move |_, bytes| printed.lock().expect("nobody panics here").extend_from_slice(bytes)),
            stop,
            company: None,
            ready: Arc::new(|| {}),
            begin: Begin::at_once(),
        };
        (job, sender)
    }

    pub(crate) fn run(&self, spec: &ProcessSpec, change: impl Fn(&mut Job)) -> Done {
        let (mut job, _stop) = self.job(spec);
        change(&mut job);
        self.runtime.block_on(self.executor.execute(job))
    }

    fn text(&self, entry: &Entry) -> String {
        let Entry::File { blob, .. } = entry else { panic!("not a file: {entry:?}") };
        String::from_utf8(bytes(&self.store, *blob).expect("it is here")).expect("text")
    }

    pub(crate) fn file(&self, text: &str) -> Value {
        let link = self.store.put(Codec::Raw, text.as_bytes().to_vec()).expect("stored");
        let pairs = [("kind", "file".into()), ("cid", link.into()), ("size", Value::Int(text.len() as i64))];
        Value::map(pairs).expect("a map")
    }

    pub(crate) fn here(&self) -> usize {
        self.here.count.load(Ordering::SeqCst)
    }
}

fn ok(done: &Done) -> &Output {
    assert_eq!((done.tier, &done.unusable), (TIER, &None), "{:?}", done.result);
    done.result.as_ref().expect("it worked")
}

#[test]
fn work_goes_there_and_its_outputs_come_back() {
    let Some(server) = Server::start(true) else { return };
    let farm = Farm::new(&server.config());
    if !works(&farm) {
        return;
    }
    // Sources from the workspace, an input from another task, a directory as input.
    std::fs::create_dir_all(farm.dir.path().join("src")).expect("made");
    std::fs::write(farm.dir.path().join("src/a.txt"), "from the workspace\n").expect("written");
    let options = IngestOptions::default();
    let ingested = ingest_at(&store(2), farm.dir.path(), "src", &options).expect("readable").expect("there");
    let sources = Tree::new(vec![(Name::new("src").expect("valid"), ingested.entry.clone())]).expect("valid");
    let script = "set -e; cd sub; tr a-z A-Z < ../src/a.txt > ../up.txt; cat ../in/b.txt; echo complaint >&2; \
                  mkdir -p ../out/deep; cp ../up.txt ../out/deep/x; chmod +x ../out/deep/x; ln -s deep/x ../out/link; \
                  head -c 3000000 /dev/zero > ../out/large";
    let mut work = spec(&["/bin/sh", "-c", script]);
    let Entry::Dir { tree: src } = &ingested.entry else { panic!("a directory") };
    // The nodes of sources are in the store, their content is not.
    let nodes = store(3);
    let copied = ingest_at(&nodes, farm.dir.path(), "src", &options).expect("readable").expect("there");
    assert_eq!(copied.entry, ingested.entry);
    farm.store.put_tree(&nodes.tree(*src).expect("readable").expect("there")).expect("stored");
    work.sources = Some(farm.store.put_tree(&sources).expect("stored"));
    work.inputs.insert("in/b.txt".into(), farm.file("from another task\n"));
    work.inputs.insert("sub/placeholder".into(), farm.file(""));
    work.outputs = vec![output("up.txt", OutputKind::File), output("out", OutputKind::Dir)];
    let done = farm.run(&work, |_| ());
    let out = ok(&done);
    assert_eq!(farm.text(&out.artifacts["up.txt"]), "FROM THE WORKSPACE\n");
    assert_eq!(bytes(&farm.store, out.stdout.expect("printed")).expect("here"), b"from another task\n");
    assert_eq!(bytes(&farm.store, out.stderr.expect("printed")).expect("here"), b"complaint\n");
    assert!(farm.store.complete(&out.artifacts["out"]).expect("readable"));
    let Entry::Dir { tree } = &out.artifacts["out"] else { panic!("a directory") };
    let tree = farm.store.tree(*tree).expect("readable").expect("here");
    assert_eq!(tree.get("link"), Some(&Entry::Symlink { target: "deep/x".into() }));
    assert!(matches!(tree.get("large"), Some(Entry::File { size: 3_000_000, .. })));
    let Some(Entry::Dir { tree: deep }) = tree.get("deep") else { panic!("a directory") };
    let deep = farm.store.tree(*deep).expect("readable").expect("here");
    assert!(matches!(deep.get("x"), Some(Entry::File { exec: true, .. })));
    // The same again: an answer from the server's memory, with the same content.
    assert_eq!(farm.run(&work, |_| ()).result, done.result);
    assert_eq!(farm.here(), 0);
}

#[test]
fn steps_directories_standard_streams_and_texts_of_others_arrive() {
    let Some(server) = Server::start(true) else { return };
    let farm = Farm::new(&server.config());
    if !works(&farm) {
        return;
    }
    let mut work = spec(&["/bin/sh", "-c", "pwd | sed 's,.*/,,'; cat"]);
    work.steps.push(vec![
        "/bin/sh".into(),
        "-c".into(),
        "printf '%s|' \"$@\"; cat".into(),
        "sh".into(),
        "it's".into(),
        farm.file("one two\n"),
    ]);
    work.dir = "a dir".into();
    work.stdin = Some(farm.file("in\n"));
    work.stdout = Some("said".into());
    work.outputs = vec![output("said", OutputKind::File)];
    let done = farm.run(&work, |_| ());
    let out = ok(&done);
    assert_eq!(farm.text(&out.artifacts["said"]), "a dir\nin\nit's|one two|in\n");
    assert_eq!(out.stdout, None);
    // The first step that fails is the last.
    let mut failing = spec(&["/bin/sh", "-c", "exit 3"]);
    failing.steps.push(vec!["/bin/sh".into(), "-c".into(), "exit 4".into()]);
    let done = farm.run(&failing, |_| ());
    assert_eq!(done.result.expect_err("it fails").kind, FailureKind::Exit { code: 3 });
}

#[test]
fn failures_are_told_apart_and_never_come_from_the_past() {
    let Some(server) = Server::start(true) else { return };
    let farm = Farm::new(&server.config());
    if !works(&farm) {
        return;
    }
    let printed =
        || String::from_utf8(std::mem::take(&mut *farm.printed.lock().expect("nobody panics here"))).expect("text");
    printed();
    // This server remembers failures: each time is a new one all the same.
    let failing = spec(&["/bin/sh", "-c", "date +%N; exit 7"]);
    let (first, second) = (farm.run(&failing, |_| ()), farm.run(&failing, |_| ()));
    let kinds = [&first, &second].map(|d| d.result.as_ref().expect_err("it fails").kind.clone());
    assert_eq!(kinds, [FailureKind::Exit { code: 7 }, FailureKind::Exit { code: 7 }]);
    assert_ne!(first.result, second.result, "{}", printed());
    // So with a result that lacks what was declared.
    let mut lacking = spec(&["/bin/true"]);
    lacking.outputs = vec![output("nothing", OutputKind::File)];
    for _ in 0..2 {
        let done = farm.run(&lacking, |_| ());
        assert_eq!(done.result.expect_err("it lacks").kind, FailureKind::MissingOutput { path: "nothing".into() });
    }
    lacking.outputs[0].optional = true;
    assert!(ok(&farm.run(&lacking, |_| ())).artifacts.is_empty());
    // A limit of the task's own.
    let limit = Duration::from_secs(1);
    let done = farm.run(&spec(&["/bin/sleep", "60"]), |job| job.timeout = Some(limit));
    assert_eq!(done.result.expect_err("it takes too long").kind, FailureKind::Timeout { limit_ms: 1000 });
    // What must run runs, whatever the server remembers.
    let mut moment = spec(&["/bin/sh", "-c", "date +%N > now"]);
    moment.outputs = vec![output("now", OutputKind::File)];
    let (one, same) = (farm.run(&moment, |_| ()), farm.run(&moment, |_| ()));
    let other = farm.run(&moment, |job| job.forced = true);
    assert_eq!(one.result, same.result);
    assert_ne!(one.result, other.result);
    assert_eq!(farm.here(), 0);
}

#[test]
fn what_the_server_cannot_do_is_done_here_or_said() {
    let Some(server) = Server::start(true) else { return };
    let mut config = server.config();
    let farm = Farm::new(&config);
    if !works(&farm) {
        return;
    }
    // A link named as an output: this server fails at that.
    let mut link = spec(&["/bin/ln", "-s", "x", "l"]);
    link.outputs = vec![output("l", OutputKind::File)];
    let done = farm.run(&link, |_| ());
    assert!(done.tier == "here" || ok(&done).artifacts["l"] == Entry::Symlink { target: "x".into() });
    let before = farm.here();
    for change in [
        (|s: &mut ProcessSpec| s.tier = Tier::None) as fn(&mut ProcessSpec),
        |s| s.network = true,
        |s| s.outputs.push(output("*.o", OutputKind::Glob)),
    ] {
        let mut work = spec(&["/bin/true"]);
        change(&mut work);
        assert_eq!(farm.run(&work, |_| ()).tier, "here");
    }
    assert_eq!(farm.here(), before + 3);
    // Inputs that are not here are asked for, not worked around.
    let mut gone = spec(&["/bin/true"]);
    let link = quipu_store::cid::BlobId::of(b"gone").link();
    let pairs = [("kind", "file".into()), ("cid", link.into()), ("size", Value::Int(4))];
    gone.inputs.insert("gone".into(), Value::map(pairs).expect("a map"));
    assert_eq!(farm.run(&gone, |_| ()).unusable, Some(Unusable::InputsGone(vec!["gone".to_owned()])));
    // Nobody there, and nobody here to help.
    drop(server);
    config.fallback = false;
    config.timeout = 0.5;
    let alone = Farm::new(&config);
    let failed = alone.run(&spec(&["/bin/true"]), |_| ());
    assert!(matches!(failed.result.expect_err("nobody").kind, FailureKind::Executor { .. }));
    config.fallback = true;
    assert_eq!(Farm::new(&config).run(&spec(&["/bin/true"]), |_| ()).tier, "here");
}

#[test]
fn a_wish_to_stop_ends_the_wait() {
    let Some(server) = Server::start(true) else { return };
    let farm = Farm::new(&server.config());
    if !works(&farm) {
        return;
    }
    let (job, stop) = farm.job(&spec(&["/bin/sleep", "300"]));
    let done = farm.runtime.block_on(async {
        let work = farm.executor.execute(job);
        let wish = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            stop.send(Stop::Cancel).expect("the job listens");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            done = work => done,
            () = wish => unreachable!("it never ends"),
        }
    });
    assert_eq!(done.unusable, Some(Unusable::Cancelled));
}

#[test]
fn a_server_whose_work_nobody_waits_for_is_told() {
    let double = Double::start(Setup::default());
    let farm = Farm::new(&config(double.port));
    let (job, stop) = farm.job(&spec(&["/bin/sleep", "3"]));
    let until = async |call: &str| {
        while double.calls(call) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = farm.runtime.block_on(async {
        let wish = async {
            until("Execute").await;
            // Its first word has a name to cancel by.
            tokio::time::sleep(Duration::from_millis(300)).await;
            stop.send(Stop::Cancel).expect("the job listens");
        };
        let (done, ()) = tokio::join!(farm.executor.execute(job), wish);
        let told = tokio::time::timeout(Duration::from_secs(30), until("CancelOperation")).await;
        assert!(told.is_ok(), "nobody told it");
        done
    });
    assert_eq!((done.unusable, farm.here()), (Some(Unusable::Cancelled), 0));
}
