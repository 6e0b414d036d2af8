//! What must hold for any bytes whatever: the oracles of the fuzz targets, which `cargo test` tries on some bytes, too.
//!
//! Each takes bytes, and panics when something does not hold. Shared with `fuzz/`.

#![allow(clippy::missing_panics_doc, reason = "it is how they answer")]

// By its path, since the fuzz targets include this file by its own.
#[path = "oracles/handed.rs"]
mod handed;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

pub(super) use handed::{archive, workflow};
use quipu_runtime::drive::{self, Engine, Request};
use quipu_runtime::exec::Job;
use quipu_runtime::exec::native::native;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::step::Placed;
use quipu_runtime::run::{Rules, Subject};
use quipu_runtime::task::Task;
use quipu_runtime::value::{Branch, On, Value};
use quipu_runtime::workfile;
use quipu_runtime::workflow::Workflow;
use quipu_store::car;
use quipu_store::checkout::{CheckoutOptions, InTheWay, Limits, checkout_with};
use quipu_store::cid::{BlobId, Codec, InvocationId, TaskId, TreeId};
use quipu_store::dag;
use quipu_store::ingest::Links;
use quipu_store::receipt::{Failure, FailureKind, MAX_RECEIPT_BYTES, Meta, Output, Receipt, Via};
use quipu_store::sign::{SignedReceipt, Signer};
use quipu_store::tree::{Entry, MAX_NODE_BYTES, Name, Node, Tree};
use quipu_store::{Options, Record, SignerSource, Store, VerifyOptions};

/// Numbers from bytes, and zeros when these are used up.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn signer() -> Signer {
    Signer::from_secret(&[7; 32])
}

fn options() -> Options {
    Options { inline_max_bytes: 256, batch_ms: 60_000, ..Options::new(SignerSource::Fixed(signer())) }
}

/// A receipt with something in every field.
fn receipt(n: u64) -> Receipt {
    let blob = BlobId::of(&n.to_le_bytes());
    let file = Entry::File { blob, size: 8, exec: n.is_multiple_of(2) };
    let link = Entry::Symlink { target: "a/b".into() };
    let dir = Entry::Dir { tree: TreeId::of(&n.to_le_bytes()) };
    let artifacts = [("f".into(), file), ("d/l".into(), link), ("e".into(), dir)].into();
    let out = match n % 3 {
        0 => Err(Failure::from(FailureKind::Exit { code: 3 })),
        _ => Ok(Output { artifacts, stdout: Some(blob), stderr: None }),
    };
    let via: Via = [(TaskId::of(b"x"), receipt_output())].into();
    let settles = [(TaskId::of(&n.to_le_bytes()), via)].into();
    let meta = Meta { settles, tier: "none".to_owned(), ..Meta::default() };
    Receipt { ran: InvocationId::of(&n.to_le_bytes()), out, issued_at: 1_700_000_000 + n, expires_at: None, meta }
}

fn receipt_output() -> quipu_store::cid::OutputId {
    quipu_store::cid::OutputId::of(b"y")
}

/// Changes bytes as the source says.
fn mutate(source: &mut Source<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..1 + source.below(4) {
        let at = source.word() as usize % (bytes.len() + 1);
        match source.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, source.byte()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] ^= source.byte(),
            _ => {}
        }
    }
}

/// Receipts: what is accepted has one encoding, what it says survives signing, and no change of a signed one is accepted.
pub(super) fn receipt_canon(bytes: &[u8]) {
    if let Ok(signed) = SignedReceipt::verify(bytes) {
        assert!(bytes.len() <= MAX_RECEIPT_BYTES && signed.bytes == bytes && dag::is_canonical(bytes));
        if signed.issuer == signer().public() {
            assert_eq!(signer().sign(&signed.receipt).expect("was signed before").bytes, bytes);
        }
    }
    if let Ok(own) = SignedReceipt::read_own(bytes)
        && let Ok(signed) = signer().sign(&own.receipt)
    {
        let verified = SignedReceipt::verify(&signed.bytes).expect("just signed");
        assert_eq!(verified.receipt, own.receipt);
    }
    let mut source = Source(bytes);
    let genuine = signer().sign(&receipt(u64::from(source.byte()))).expect("is signed").bytes;
    let mut changed = genuine.clone();
    mutate(&mut source, &mut changed);
    assert!(changed == genuine || SignedReceipt::verify(&changed).is_err(), "a changed receipt verifies");
}

/// Directory nodes: what is accepted is what encoding gives.
pub(super) fn tree_canon(bytes: &[u8]) {
    match Node::decode(bytes) {
        Ok(Node::Whole(tree)) => {
            assert!(bytes.len() <= MAX_NODE_BYTES && dag::is_canonical(bytes));
            let encoded = tree.encode().expect("was encoded before");
            assert_eq!((encoded.nodes.len(), encoded.id), (1, TreeId::of(bytes)));
            assert_eq!(encoded.nodes[0].1, bytes);
            assert!(tree.entries().windows(2).all(|w| w[0].0.as_str() < w[1].0.as_str()));
            assert!(tree.entries().iter().all(|(name, _)| Name::new(name.as_str()).is_ok()));
        }
        Ok(Node::Parts(parts)) => assert!(parts.len() >= 2 && dag::is_canonical(bytes)),
        Err(_) => {}
    }
}

/// A file as one store exports it: a receipt with a small blob, a directory and a link.
fn exported() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let store = Store::memory(options());
        let put = |text: &[u8]| BlobId::from_digest(store.put(Codec::Raw, text.to_vec()).expect("is put").digest);
        let file = |text: &'static [u8]| Entry::File { blob: put(text), size: text.len() as u64, exec: false };
        let name = |text: &str| Name::new(text).expect("a name");
        let tree = Tree::new(vec![
            (name("a"), file(b"one")),
            (name("b"), file(&[7; 700])),
            (name("l"), Entry::Symlink { target: "a".into() }),
        ]);
        let tree = store.put_tree(&tree.expect("names are unique")).expect("is put");
        let artifacts = [("d".into(), Entry::Dir { tree }), ("f".into(), file(b"two"))].into();
        let mut receipt = receipt(1);
        receipt.out = Ok(Output { artifacts, stdout: Some(put(b"said")), stderr: None });
        let id = signer().sign(&receipt).expect("is signed").id;
        store.record(Record { receipt, blocks: vec![], done: Box::new(drop) }).expect("is recorded");
        store.flush().expect("is flushed");
        let mut bytes = Vec::new();
        car::export(&store, &[id], car::ExportOptions::default(), &mut bytes).expect("is exported");
        bytes
    })
}

/// CAR files: taken whole, every block what its id says, or refused with nothing kept.
pub(super) fn car_read(bytes: &[u8]) {
    let mut changed = exported().to_vec();
    let mut source = Source(bytes);
    mutate(&mut source, &mut changed);
    for (file, genuine) in [(bytes, false), (&changed, changed == exported())] {
        let store = Store::memory(options());
        let imported = car::import(&store, file, &car::ImportOptions::new("fuzz"));
        let report = store.verify(&VerifyOptions { repair: false, rehash: true }).expect("a store in memory is read");
        let damage: Vec<_> = report.findings.iter().filter(|f| f.is_damage()).collect();
        assert!(damage.is_empty(), "{damage:?}");
        match imported {
            Ok(imported) => {
                assert!(imported.bytes <= file.len() as u64, "no more is kept than was read");
                for (id, issuer) in &imported.receipts {
                    let found = store.receipt(*id).expect("is read").expect("was imported");
                    assert_eq!(found.signed.issuer, *issuer);
                    assert!(SignedReceipt::verify(&found.signed.bytes).is_ok() && !found.own);
                    if let (Ok(output), false) = (&found.signed.receipt.out, imported.incomplete.contains(id)) {
                        for entry in output.artifacts.values() {
                            assert!(store.complete(entry).expect("is read"), "{id}: complete, it was said");
                        }
                    }
                }
            }
            Err(e) => {
                assert!(!genuine, "{e}");
                assert_eq!((report.receipts, report.blocks), (0, 0), "{e}, and something was kept");
            }
        }
    }
}

/// Workfiles: read or refused with places in them, the same each time.
pub(super) fn workfile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let load = || workfile::load_text(Path::new("/nowhere/at/all"), text);
    match (load(), load()) {
        (Ok(one), Ok(two)) => {
            let names = |loaded: &workfile::Loaded| loaded.recipes.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
            let found = names(&one);
            assert_eq!(found, names(&two));
            let mut unique = found.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), found.len(), "names are unique");
            for recipe in &one.recipes {
                for from in &recipe.from {
                    assert!(from.producer < one.recipes.len());
                }
                for output in &recipe.outputs {
                    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
                    assert!(output.path.split('/').all(plain), "an output leads out: {}", output.path);
                }
            }
        }
        (Err(one), Err(two)) => assert_eq!(one.to_string(), two.to_string()),
        _ => panic!("read once, refused once"),
    }
}

/// A directory of this process's own, in memory where there is such a place.
fn scratch(name: &str) -> PathBuf {
    let shared = Path::new("/dev/shm");
    let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
    let dir = base.join(format!("quipu-oracle-{name}-{}-{thread}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("is made");
    dir
}

/// The files of a small store, by path.
fn genuine() -> &'static [(String, Vec<u8>)] {
    static GENUINE: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let dir = scratch("genuine");
        let store = Store::open(&dir, options()).expect("opens");
        for n in 0..6_u64 {
            store.put(Codec::Raw, content(n)).expect("is put");
            let record = Record { receipt: receipt(n), blocks: vec![], done: Box::new(|_| ()) };
            store.record(record).expect("is queued");
            store.flush().expect("commits");
        }
        drop(store);
        let mut files = Vec::new();
        for name in ["version", "index.redb"] {
            files.push((name.to_owned(), fs::read(dir.join(name)).expect("is read")));
        }
        for below in ["receipts", "blobs"] {
            for path in walk(&dir.join(below)) {
                let name = path.strip_prefix(&dir).expect("is below").to_string_lossy().into_owned();
                files.push((name, fs::read(path).expect("is read")));
            }
        }
        fs::remove_dir_all(dir).expect("is removed");
        files
    })
}

fn content(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(if n.is_multiple_of(2) { 4 } else { 400 })
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("is listed").flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The index's own panics are caught and become errors: nobody is to end, or to be told, because of them.
fn let_the_store_catch() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !quipu_store::is_guarded() {
                show(panic);
            }
        }));
    });
}

/// Stores with any damage: refused or read, and what is read is what its id says.
pub(super) fn store_open(bytes: &[u8]) {
    let_the_store_catch();
    let mut source = Source(bytes);
    let dir = scratch("open");
    for (name, content) in genuine() {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("is below")).expect("is made");
        fs::write(path, content).expect("is written");
    }
    for below in ["tmp", "locks", "quarantine", "scratch", "runs"] {
        fs::create_dir(dir.join(below)).expect("is made");
    }
    while !source.is_empty() {
        let (name, content) = &genuine()[source.below(genuine().len())];
        let mut content = content.clone();
        if source.below(8) == 0 {
            content.clear();
            content.extend_from_slice(source.0);
        } else if source.below(2) == 0 && content.len() > 8192 {
            // The pages that everything hangs on.
            let at = source.word() as usize % 4096;
            content[at] ^= source.byte().max(1);
        } else {
            mutate(&mut source, &mut content);
        }
        fs::write(dir.join(name), content).expect("is written");
        if source.below(3) != 0 {
            break;
        }
    }
    let look = |store: &Store| {
        for n in 0..6_u64 {
            let link = quipu_store::cid::Link::of(Codec::Raw, &content(n));
            if let Ok(Some(found)) = store.get(link, 1 << 20) {
                assert_eq!(found, content(n), "another content than its id says");
            }
            let Ok(found) = store.find_tasks(&[TaskId::of(&n.to_le_bytes())]) else { continue };
            for found in &found[0].receipts {
                assert_eq!(found.signed.receipt, receipt(n), "another receipt than was recorded");
            }
        }
    };
    if let Ok(store) = Store::open(&dir, options()) {
        look(&store);
        let _ = store.verify(&VerifyOptions { repair: bytes.len().is_multiple_of(2), rehash: true });
        look(&store);
        let _ = store.put(Codec::Raw, b"more".to_vec()).and_then(|_| Ok(store.flush()?));
    }
    if bytes.len().is_multiple_of(3)
        && let Ok((store, _)) = Store::rebuild(&dir, options(), std::time::Duration::ZERO)
    {
        look(&store);
    }
    fs::remove_dir_all(dir).expect("is removed");
}

/// Any trees put anywhere: nothing beside the place they are put below is ever touched.
pub(super) fn tree_checkout(bytes: &[u8]) {
    let mut source = Source(bytes);
    let dir = scratch("checkout");
    let (root, outside) = (dir.join("root"), dir.join("outside"));
    fs::create_dir(&root).and_then(|()| fs::create_dir(&outside)).expect("is made");
    fs::write(outside.join("secret"), b"untouched").expect("is written");
    symlink("../outside", root.join("way")).expect("is made");
    let store = Store::memory(options());
    let blob = BlobId::of(b"written");
    store.put(Codec::Raw, b"written".to_vec()).expect("is put");
    const NAMES: [&str; 7] = ["a", "b", "way", "secret", ".git", "x y", "n"];
    const TARGETS: [&str; 8] = ["../outside", "/etc", "..", "../../outside/secret", "a", "b/..", "./a", "a/../../.."];
    let mut trees = vec![store.put_tree(&Tree::default()).expect("is put")];
    let mut rounds = 0;
    while !source.is_empty() && rounds < 24 {
        rounds += 1;
        let mut entries = BTreeMap::new();
        for _ in 0..source.below(4) {
            let entry = match source.below(3) {
                0 => Entry::File { blob, size: if source.below(9) == 0 { 3 } else { 7 }, exec: source.below(2) == 0 },
                1 => Entry::Symlink { target: TARGETS[source.below(TARGETS.len())].into() },
                _ => Entry::Dir { tree: trees[source.below(trees.len())] },
            };
            entries.insert(NAMES[source.below(NAMES.len())], entry);
        }
        let named = entries.into_iter().map(|(name, entry)| (Name::new(name).expect("is plain"), entry));
        let tree = store.put_tree(&Tree::new(named.collect()).expect("is sorted")).expect("is put");
        trees.push(tree);
        let parts: Vec<&str> = (0..1 + source.below(3)).map(|_| NAMES[source.below(NAMES.len())]).collect();
        let rel = match source.below(12) {
            0 => format!("../{}", parts.join("/")),
            1 => format!("/{}", parts.join("/")),
            2 => format!("{}/..", parts.join("/")),
            _ => parts.join("/"),
        };
        let entry = if source.below(4) == 0 { Entry::File { blob, size: 7, exec: false } } else { Entry::Dir { tree } };
        let links = if source.below(2) == 0 { Links::Any } else { Links::Inside };
        let options = CheckoutOptions {
            limits: Limits { max_files: 300, max_bytes: 1 << 16, links },
            in_the_way: InTheWay::Keep(Default::default()),
            ..CheckoutOptions::default()
        };
        let _ = checkout_with(&store, &entry, &root, &rel, &options);
    }
    let top: Vec<PathBuf> = walk_links(&dir, 1);
    assert_eq!(top, [outside.clone(), root]);
    assert_eq!(walk_links(&outside, 1), [outside.join("secret")]);
    assert_eq!(fs::read(outside.join("secret")).expect("is read"), b"untouched");
    fs::remove_dir_all(dir).expect("is removed");
}

fn walk_links(dir: &Path, depth: usize) -> Vec<PathBuf> {
    assert!(depth > 0);
    let mut found: Vec<PathBuf> = fs::read_dir(dir).expect("is listed").flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

/// A task of the model: its own text, whether it only looks at the length of what it reads, and what it reads.
#[derive(Clone)]
struct Plant {
    text: u8,
    blunt: bool,
    reads: Vec<usize>,
}

/// What a task makes of its inputs.
fn made(text: u8, blunt: bool, inputs: &[Vec<u8>]) -> Vec<u8> {
    if blunt {
        let total: usize = inputs.iter().map(Vec::len).sum();
        return vec![b'0' + (total % 2) as u8];
    }
    // Bounded, however deep the graph is.
    let mut hash = vec![text, b':'];
    inputs.iter().for_each(|input| hash.extend(BlobId::of(input).digest()[..4].iter()));
    hash
}

/// Random graphs, edits and lost blobs: each run ends with what running everything would give, a second run does nothing,
/// and no more runs than what the edits reach.
pub(super) fn plan_model(bytes: &[u8]) {
    let mut source = Source(bytes);
    let count = 1 + source.below(7);
    let mut plants: Vec<Plant> = Vec::new();
    for n in 0..count {
        let reads = (0..n).filter(|_| source.below(2) == 0).collect();
        plants.push(Plant { text: source.byte(), blunt: source.below(4) == 0, reads });
    }
    let ran = Arc::new(AtomicUsize::new(0));
    let store = Store::memory(options());
    let mut engine = Engine::new(store.clone());
    let counted = Arc::clone(&ran);
    engine.executors.register(
        "/model/make",
        native(move |job: Job| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { Ok(work(&job)) }
        }),
    );
    let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
    for _ in 0..1 + source.below(6) {
        let outputs = plants.iter().fold(Vec::<Vec<u8>>::new(), |mut outputs, plant| {
            let inputs: Vec<Vec<u8>> = plant.reads.iter().map(|r| outputs[*r].clone()).collect();
            outputs.push(made(plant.text, plant.blunt, &inputs));
            outputs
        });
        let subject = Arc::new(Subject::new(planted(&plants)).expect("no ring"));
        let goals: Vec<TaskIdx> = (0..plants.len()).map(TaskIdx::new).collect();
        let run = |expected_none: bool| {
            let before = ran.load(Ordering::SeqCst);
            let rules = Rules { jobs: 2, ..Rules::default() };
            let mut request = Request::new(Arc::clone(&subject), goals.clone(), rules);
            let placed = Arc::new(Mutex::new(BTreeMap::new()));
            let told = Arc::clone(&placed);
            request.place = Some(drive::place_each(move |goal| {
                told.lock().expect("no panic holds it").insert(goal.task.index(), (*goal.output).clone());
                Ok(Placed::Done)
            }));
            drive::run_blocking(&engine, request, drive::never_stop).expect("the store works");
            let placed = placed.lock().expect("no panic holds it");
            for (task, expected) in outputs.iter().enumerate() {
                // Of tasks with one id, one is placed for all.
                let ids = &subject.ids;
                let twin = |t: &&usize| ids.of(TaskIdx::new(**t)) == ids.of(TaskIdx::new(task));
                let output = placed.keys().find(twin).and_then(|t| placed.get(t)).expect("every goal is placed");
                let Some(Entry::File { blob, .. }) = output.artifacts.get("o") else { panic!("no output") };
                assert_eq!(*blob, BlobId::of(expected), "t{task} is not what running everything gives");
                assert_eq!(store.get(blob.link(), 1 << 20).expect("reads").as_ref(), Some(expected));
            }
            let now = ran.load(Ordering::SeqCst) - before;
            assert!(!expected_none || now == 0, "{now} tasks ran again");
            now
        };
        let many = run(false);
        assert!(many <= plants.len());
        assert!(!seen.contains(&outputs) || many <= plants.len(), "at most each once");
        run(true);
        seen.push(outputs);
        // An edit, perhaps back to what was before.
        let at = source.below(plants.len());
        plants[at].text = source.byte() % 4;
    }
}

fn work(job: &Job) -> Output {
    let args = &job.invocation.args;
    let text = args.get("text").and_then(Value::as_text).and_then(|t| t.parse().ok()).expect("is a number");
    let blunt = args.get("blunt").and_then(Value::as_text) == Some("yes");
    let mut inputs = Vec::new();
    for n in 0.. {
        let Some(input) = args.get(&format!("i{n}")) else { break };
        let Some(Value::Link(link)) = input.get("cid") else { panic!("no artifact: {input:?}") };
        inputs.push(job.store.get(**link, 1 << 20).expect("reads").expect("is there"));
    }
    let bytes = made(text, blunt, &inputs);
    let size = bytes.len() as u64;
    let blob = BlobId::try_from(job.store.put(Codec::Raw, bytes).expect("is put")).expect("raw");
    let entry = Entry::File { blob, size, exec: false };
    Output { artifacts: [("o".into(), entry)].into(), ..Output::default() }
}

fn planted(plants: &[Plant]) -> Workflow {
    let mut workflow = Workflow::new();
    for (n, plant) in plants.iter().enumerate() {
        let mut args: Vec<(String, Value)> = vec![
            ("text".to_owned(), plant.text.to_string().as_str().into()),
            ("blunt".to_owned(), if plant.blunt { "yes" } else { "no" }.into()),
        ];
        for (i, read) in plant.reads.iter().enumerate() {
            let on = Value::promise(Branch::Ok, On::Here(TaskIdx::new(*read)), ["outputs", "o"]);
            args.push((format!("i{i}"), on));
        }
        let args = Value::map(args.iter().map(|(k, v)| (k.as_str(), v.clone()))).expect("map");
        workflow.add(format!("t{n}"), Task::new("/model/make", args)).expect("new");
    }
    workflow
}
