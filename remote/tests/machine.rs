//! Machines for tests: a store, a key, people they trust, and remotes; and a workflow whose tasks really use
//! the bytes of their inputs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quipu_runtime::drive::{Engine, Report, Request, never_stop, place_each, run_blocking};
use quipu_runtime::exec::Job;
use quipu_runtime::exec::native::native;
use quipu_runtime::observe::{Observer, RunEvent};
use quipu_runtime::run::step::Placed;
use quipu_runtime::run::values::entry_of;
use quipu_runtime::run::{Rules, Subject};
use quipu_runtime::task::Task;
use quipu_runtime::value::{Branch, On, Value};
use quipu_runtime::workflow::Workflow;
use quipu_store::cid::{BlobId, Codec, InvocationId, TaskId};
use quipu_store::receipt::{Meta, Output, Receipt};
use quipu_store::remote::Remote;
use quipu_store::sign::{PublicKey, SignedReceipt, Signer};
use quipu_store::tree::{Entry, Name, Tree};
use quipu_store::{Blob, Finding, Options, SignerSource, Store};

/// Says what a person running the tests should know.
#[expect(clippy::print_stderr, reason = "for people who run the tests")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Larger than any batch.
const LARGE_BYTES: usize = 5 << 20;

pub(crate) fn signer(key: u8) -> Signer {
    Signer::from_secret(&[key; 32])
}

pub(crate) fn public(key: u8) -> PublicKey {
    signer(key).public()
}

pub(crate) fn store(key: u8) -> Store {
    Store::memory(Options::new(SignerSource::Fixed(signer(key))))
}

/// What a remote is made of.
pub(crate) trait Description {
    /// The remote, as its user calls it.
    fn remote(&self, name: &str) -> Arc<dyn Remote>;
}

#[derive(Default)]
struct Heard(Mutex<Vec<RunEvent>>);

impl Observer for Heard {
    fn on(&self, _: u64, event: &RunEvent) {
        self.0.lock().expect("nobody panics here").push(event.clone());
    }
}

/// A machine of its own.
pub(crate) struct Machine {
    _dir: tempfile::TempDir,
    pub(crate) engine: Engine,
    heard: Arc<Heard>,
    ran: Arc<Mutex<Vec<String>>>,
}

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// Names of the tasks that ran.
    pub(crate) ran: Vec<String>,
    /// Content of the goals' files, by path.
    pub(crate) placed: BTreeMap<String, Vec<u8>>,
    pub(crate) warnings: Vec<String>,
    pub(crate) took: Duration,
}

/// The bytes of a file in the store.
pub(crate) fn bytes(store: &Store, blob: BlobId) -> Option<Vec<u8>> {
    match store.blob(blob).expect("the store works")? {
        Blob::Inline(bytes) => Some(bytes),
        Blob::File { path, .. } => std::fs::read(path).ok(),
    }
}

/// All content below an entry, by path.
fn content(store: &Store, path: &str, entry: &Entry, into: &mut BTreeMap<String, Vec<u8>>) {
    match entry {
        Entry::File { blob, exec, .. } => {
            let name = format!("{path}{}", if *exec { "*" } else { "" });
            into.insert(name, bytes(store, *blob).expect("what was staged is here"));
        }
        Entry::Symlink { target } => drop(into.insert(format!("{path}@"), target.as_bytes().to_vec())),
        Entry::Dir { tree } => {
            let tree = store.tree(*tree).expect("the store works").expect("what was staged is here");
            tree.entries().iter().for_each(|(name, entry)| content(store, &format!("{path}/{name}"), entry, into));
        }
    }
}

fn file(store: &Store, bytes: Vec<u8>, exec: bool) -> Entry {
    let size = bytes.len() as u64;
    let blob = store.put(Codec::Raw, bytes).expect("stored").try_into().expect("raw");
    Entry::File { blob, size, exec }
}

/// Does what the workflow below asks for.
fn make(job: &Job) -> Output {
    let args = &job.invocation.args;
    let what = args.get("what").and_then(Value::as_text).expect("tasks say what they are");
    let mut inputs = BTreeMap::new();
    if let Some(Value::Map(pairs)) = args.get("in") {
        for (name, value) in pairs.iter() {
            content(&job.store, name, &entry_of(value).expect("an artifact"), &mut inputs);
        }
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(what.as_bytes());
    hasher.update(args.get("salt").and_then(Value::as_text).unwrap_or_default().as_bytes());
    for (name, bytes) in &inputs {
        hasher.update(name.as_bytes()).update(bytes);
    }
    let entry = if what.starts_with("large") {
        let mut bytes = vec![0; LARGE_BYTES];
        hasher.finalize_xof().fill(&mut bytes);
        file(&job.store, bytes, false)
    } else if what.starts_with("tree") {
        let name = |n: &str| Name::new(n).expect("valid");
        let digest = hasher.finalize();
        let inner = vec![
            (name("run"), file(&job.store, digest.to_hex().as_bytes().to_vec(), true)),
            (name("link"), Entry::Symlink { target: "run".into() }),
            (name("empty"), file(&job.store, vec![], false)),
        ];
        let put = |entries| job.store.put_tree(&Tree::new(entries).expect("valid")).expect("stored");
        let inner = put(inner);
        Entry::Dir { tree: put(vec![(name("inner"), Entry::Dir { tree: inner })]) }
    } else {
        file(&job.store, hasher.finalize().to_hex().as_bytes().to_vec(), false)
    };
    Output { artifacts: [("o".into(), entry)].into(), ..Output::default() }
}

/// header -> tree -> app <- large. `salt` makes it another one.
pub(crate) fn workflow(salt: &str) -> Arc<Subject> {
    edited(salt, "header", "app")
}

/// The same after somebody edited its ends.
pub(crate) fn edited(salt: &str, header: &str, app: &str) -> Arc<Subject> {
    let mut workflow = Workflow::new();
    let mut add = |name: &str, what: &str, on: &[(&str, _)]| {
        let promise = |t| Value::promise(Branch::Ok, On::Here(t), ["outputs", "o"]);
        let inputs = Value::map(on.iter().map(|(name, task)| (*name, promise(*task)))).expect("a map");
        let args = [("what", Value::from(what)), ("salt", salt.into()), ("in", inputs)];
        workflow.add(name, Task::new("/test/make", Value::map(args).expect("a map"))).expect("new")
    };
    let header = add("header", header, &[]);
    let large = add("large", "large", &[]);
    let tree = add("tree", "tree", &[("header", header)]);
    add("app", app, &[("tree", tree), ("large", large)]);
    Arc::new(Subject::new(workflow).expect("no ring"))
}

impl Machine {
    /// Signs with one key, trusts others, and has these remotes.
    pub(crate) fn new(key: u8, trusted: &[u8], remotes: &[&dyn Description]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new(SignerSource::Fixed(signer(key)));
        let mut engine = Engine::new(Store::open(dir.path(), options).expect("opened"));
        engine.trusted = trusted.iter().map(|key| public(*key)).collect();
        for (i, config) in remotes.iter().enumerate() {
            engine.remotes.push(config.remote(&format!("r{i}")));
        }
        let (heard, ran) = (Arc::new(Heard::default()), Arc::new(Mutex::new(vec![])));
        engine.observers.add(Arc::clone(&heard) as Arc<dyn Observer>);
        let list = Arc::clone(&ran);
        engine.executors.register(
            "/test/make",
            native(move |job: Job| {
                list.lock().expect("nobody panics here").push(job.name.to_string());
                async move { Ok(make(&job)) }
            }),
        );
        Self { _dir: dir, engine, heard, ran }
    }

    /// Nothing bad was kept: alone the machine has nothing to do, and its store is sound.
    pub(crate) fn kept_nothing_bad(&mut self, outcome: &Outcome, wanted: &Arc<Subject>, cell: &str) {
        self.engine.remotes.clear();
        let again = self.run(wanted);
        assert_eq!((again.ran.len(), &again.placed), (0, &outcome.placed), "{cell}: {:?}", again.ran);
        let found = self.engine.store.verify(&Default::default()).expect("readable");
        // That bytes of what others made are not here is no damage.
        let bad: Vec<_> = found.findings.iter().filter(|f| !matches!(f, Finding::Hollow { .. })).collect();
        assert!(bad.is_empty(), "{cell}: {bad:?}");
    }

    /// Runs towards the last task, and places it.
    pub(crate) fn run(&self, subject: &Arc<Subject>) -> Outcome {
        self.go(subject, true)
    }

    /// Runs towards the last task.
    pub(crate) fn go(&self, subject: &Arc<Subject>, place: bool) -> Outcome {
        self.ran.lock().expect("nobody panics here").clear();
        self.heard.0.lock().expect("nobody panics here").clear();
        let goal = subject.workflow.find("app").expect("it is there");
        let mut request = Request::new(Arc::clone(subject), vec![goal], Rules { jobs: 2, ..Rules::default() });
        let placed = Arc::new(Mutex::new(BTreeMap::new()));
        if place {
            let (store, placed) = (self.engine.store.clone(), Arc::clone(&placed));
            request.place = Some(place_each(move |goal| {
                for (path, entry) in &goal.output.artifacts {
                    if !store.complete(entry).map_err(|e| e.to_string())? {
                        return Ok(Placed::Hollow);
                    }
                    content(&store, path, entry, &mut placed.lock().expect("nobody panics here"));
                }
                Ok(Placed::Done)
            }));
        }
        let start = Instant::now();
        let report = run_blocking(&self.engine, request, never_stop).expect("the store works");
        let took = start.elapsed();
        let mut ran = self.ran.lock().expect("nobody panics here").clone();
        ran.sort();
        let heard = self.heard.0.lock().expect("nobody panics here");
        let warnings = heard.iter().filter_map(|e| match e {
            RunEvent::Warning { message } => Some(message.clone()),
            _ => None,
        });
        let placed = placed.lock().expect("nobody panics here").clone();
        Outcome { report, ran, placed, warnings: warnings.collect(), took }
    }
}

/// What the workflow comes to where nobody helps.
pub(crate) fn alone(subject: &Arc<Subject>) -> Outcome {
    let outcome = Machine::new(99, &[], &[]).run(subject);
    assert_eq!(outcome.ran, ["app", "header", "large", "tree"]);
    outcome
}

/// Cells at once: most of a cell is waiting.
const AT_ONCE: usize = 8;

/// Checks each of many, some side by side.
pub(crate) fn each<T: Sync>(cells: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
                    check(cell);
                }
            });
        }
    });
}

/// A receipt that reaches these blobs.
pub(crate) fn receipt_of(store: &Store, blobs: &[Vec<u8>]) -> SignedReceipt {
    let entries = blobs.iter().enumerate().map(|(i, bytes)| {
        let blob = store.put(Codec::Raw, bytes.clone()).expect("stored").try_into().expect("raw");
        (format!("o{i}").into(), Entry::File { blob, size: bytes.len() as u64, exec: false })
    });
    let out = Ok(Output { artifacts: entries.collect(), ..Output::default() });
    let meta = Meta { settles: [(TaskId::of(b"t"), Default::default())].into(), tier: "ns".into(), ..Meta::default() };
    let receipt = Receipt { ran: InvocationId::of(b"i"), out, issued_at: 1, expires_at: None, meta };
    signer(1).sign(&receipt).expect("fits")
}
