//! What tests of the process executor share: a workspace, a store, tasks written as shell scripts.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quipu_store::cid::{BlobId, Codec, InvocationId};
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::stamp::Stamp;
use quipu_store::tree::Entry;
use quipu_store::{Options, SignerSource, Store};
use tokio::sync::watch;

use super::process::ProcessExecutor;
use super::tests::runtime;
use super::workspace::Workspace;
use super::{Begin, Done, Executor, Invocation, Job, Stop};
use crate::process::{OutputKind, OutputSpec, ProcessSpec, Tier};
use crate::run::values::artifact;
use crate::value::{Text, Value};

/// A workspace with a store beside it, and something to run tasks in it.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) workspace: Arc<Workspace>,
    pub(super) executor: ProcessExecutor,
}

fn signer() -> SignerSource {
    SignerSource::Fixed(quipu_store::sign::Signer::from_secret(&[7; 32]))
}

impl Place {
    pub(super) fn new() -> Self {
        Self::at(tempfile::tempdir().expect("space left"))
    }

    /// In this directory.
    pub(super) fn at(dir: tempfile::TempDir) -> Self {
        let root = dir.path().join("work");
        fs::create_dir(&root).expect("made");
        let store = Store::open(&dir.path().join("store"), Options::new(signer())).expect("opened");
        let workspace = Arc::new(Workspace::open(&store, &root));
        Self { executor: ProcessExecutor::new(workspace.clone()), dir, store, workspace }
    }

    pub(super) fn path(&self, rel: &str) -> PathBuf {
        self.workspace.root().join(rel)
    }

    pub(super) fn write(&self, rel: &str, text: &str) {
        fs::create_dir_all(self.path(rel).parent().expect("below the root")).expect("made");
        fs::write(self.path(rel), text).expect("written");
    }

    pub(super) fn read(&self, entry: &Entry) -> String {
        let Entry::File { blob, .. } = entry else { panic!("{entry:?} is no file") };
        self.text(Some(*blob))
    }

    pub(super) fn text(&self, blob: Option<BlobId>) -> String {
        let blob = blob.expect("there");
        let bytes = self.store.get(blob.link(), u64::MAX).expect("readable").expect("kept");
        String::from_utf8(bytes).expect("text")
    }

    pub(super) fn file(&self, text: &str, exec: bool) -> Entry {
        self.store.put(Codec::Raw, text.into()).expect("kept");
        Entry::File { blob: BlobId::of(text.as_bytes()), size: text.len() as u64, exec }
    }

    pub(super) fn stamps(&self, sources: &[&str]) -> Arc<[(crate::value::Text, Stamp)]> {
        let mut index = self.workspace.index();
        let scanned = index.scan(sources).into_iter().map(|s| {
            let (_, stamp) = s.result.expect("readable").expect("there");
            (s.path.into(), stamp)
        });
        scanned.collect()
    }

    pub(super) fn job(&self, task: &Task) -> (Job, watch::Sender<Stop>) {
        let args = task.spec.to_args().expect("canonical");
        let invocation =
            Invocation { sub: "did:web:test".into(), cmd: "/quipu/process".into(), args, nonce: Box::default() };
        let (sender, stop) = watch::channel(Stop::No);
        let job = Job {
            name: "task".into(),
            id: InvocationId::of(b"task"),
            invocation: Arc::new(invocation),
            sources: self.stamps(&task.sources),
            urls: Arc::new([]),
            timeout: task.timeout,
            forced: false,
            store: self.store.clone(),
            sink: Arc::new(|_, _| {}),
            stop,
            company: None,
            ready: Arc::new(|| {}),
            begin: Begin::at_once(),
        };
        (job, sender)
    }

    pub(super) fn run(&self, task: &Task) -> Done {
        let (job, _stop) = self.job(task);
        runtime().block_on(self.executor.execute(job))
    }

    pub(super) fn ok(&self, task: &Task) -> Output {
        let done = self.run(task);
        assert_eq!(done.unusable, None);
        done.result.unwrap_or_else(|f| panic!("{}: {}", f.kind, f.stderr.map_or(String::new(), |e| self.text(Some(e)))))
    }

    pub(super) fn failed(&self, task: &Task) -> FailureKind {
        match self.run(task).result {
            Err(Failure { kind, .. }) => kind,
            Ok(output) => panic!("it succeeded: {output:?}"),
        }
    }
}

#[derive(Clone)]
pub(super) struct Task {
    pub(super) spec: ProcessSpec,
    pub(super) sources: Vec<&'static str>,
    pub(super) timeout: Option<Duration>,
}

pub(super) fn text(text: &str) -> Text {
    text.into()
}

impl Task {
    pub(super) fn new(tier: Tier, script: &str) -> Self {
        let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/home")];
        let platform = (std::env::consts::OS.into(), std::env::consts::ARCH.into());
        let steps = vec![["sh", "-euc", script].map(Value::from).to_vec()];
        let mut spec = ProcessSpec::new(steps, tier, platform);
        spec.env = env.into_iter().map(|(k, v)| (text(k), v.into())).collect();
        Self { spec, sources: Vec::new(), timeout: None }
    }

    pub(super) fn step(mut self, argv: &[&str]) -> Self {
        self.spec.steps.push(argv.iter().map(|a| (*a).into()).collect());
        self
    }

    pub(super) fn output(mut self, kind: OutputKind, path: &str) -> Self {
        self.spec.outputs.push(OutputSpec { path: path.into(), kind, optional: false });
        self
    }

    pub(super) fn file(self, path: &str) -> Self {
        self.output(OutputKind::File, path)
    }

    pub(super) fn input(mut self, path: &str, entry: &Entry) -> Self {
        self.spec.inputs.insert(text(path), artifact(entry));
        self
    }

    pub(super) fn sources(mut self, sources: &[&'static str]) -> Self {
        self.sources.extend(sources);
        self
    }
}

/// Runs the check in every tier there is here.
pub(super) fn in_each_tier(check: impl Fn(Tier)) {
    check(Tier::None);
    if has_landlock() {
        check(Tier::Landlock);
    }
    if has_ns() {
        check(Tier::Ns);
    }
}

/// Whether Landlock works here.
pub(super) fn has_landlock() -> bool {
    super::sys::landlock_abi().is_ok()
}

/// Whether sandboxes work here. Where they do not the test says so and checks nothing.
pub(super) fn has_ns() -> bool {
    static HAS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HAS.get_or_init(probe_ns)
}

fn probe_ns() -> bool {
    let ns = super::sandbox::ns();
    if let Err(why) = &ns {
        assert!(std::env::var_os("QUIPU_TEST_NEEDS_NS").is_none(), "{why}");
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("skipped: no `ns` tier here: {why}\n").as_bytes(),
        );
    }
    ns.is_ok()
}
