//! Layering of remotes behind the local store, with a remote made of another store.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu_store::Store;
use quipu_store::cid::{BlobId, TaskId};
use quipu_store::remote::{Envelopes, Fetched, Pushed, Remote, RemoteError, RemotePolicy, Subject as About, Want};
use quipu_store::sign::{SignedReceipt, Signer};
use quipu_store::{Options, SignerSource};
use tokio::sync::watch;

use super::super::{Request, look, never_stop, place_each, run_blocking};
use super::{World, chain, go, memory, world};
use crate::exec::Stop;
use crate::graph::TaskIdx;
use crate::observe::RunEvent;
use crate::run::step::{Placed, State};
use crate::run::{Rules, Subject};
use crate::task::Task;
use crate::value::{Branch, On, Value};
use crate::workflow::Workflow;

/// Another store, seen as over a network; counts what it is asked, and can be broken.
struct Shelf {
    policy: RemotePolicy,
    store: Store,
    asked: Mutex<Vec<usize>>,
    fetches: AtomicUsize,
    broken: AtomicBool,
    hangs: AtomicBool,
    panics: AtomicBool,
}

impl Shelf {
    fn new(store: Store) -> Arc<Self> {
        let policy = RemotePolicy { write: true, tiers: vec!["native".into()], ..RemotePolicy::default() };
        let (asked, fetches, broken, hangs, panics) = Default::default();
        Arc::new(Self { policy, store, asked, fetches, broken, hangs, panics })
    }

    fn answer(&self, n: usize) -> Result<(), RemoteError> {
        self.asked.lock().expect("nobody panics here").push(n);
        if self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(5));
        }
        if self.broken.load(Ordering::SeqCst) { Err(RemoteError::Unreachable("gone".into())) } else { Ok(()) }
    }

    fn asked(&self) -> Vec<usize> {
        std::mem::take(&mut *self.asked.lock().expect("nobody panics here"))
    }
}

impl Remote for Shelf {
    fn name(&self) -> &str {
        "shelf"
    }

    fn policy(&self) -> &RemotePolicy {
        &self.policy
    }

    fn find(&self, _: &Store, _: bool, subjects: &[About]) -> Result<Vec<Envelopes>, RemoteError> {
        self.answer(subjects.len())?;
        let found = |subject: &About| {
            let found = match subject {
                About::Task(id) => self.store.find_tasks(&[*id])?.remove(0).receipts,
                About::Invocation(id) => self.store.find_invocations(&[*id])?.remove(0),
            };
            Ok(found.iter().map(|r| r.signed.bytes.clone()).collect())
        };
        subjects.iter().map(found).collect()
    }

    fn fetch(&self, store: &Store, wants: &[Want]) -> Result<Fetched, RemoteError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        if self.panics.load(Ordering::SeqCst) {
            // Time enough for somebody else to want the same.
            std::thread::sleep(Duration::from_millis(100));
            panic!("on purpose");
        }
        self.answer(wants.len())?;
        let mut fetched = Fetched::default();
        for want in wants {
            if let Some(bytes) = self.store.get(want.link, 1 << 20)? {
                store.put(want.link.codec, bytes)?;
                fetched.blobs += 1;
            }
        }
        Ok(fetched)
    }

    fn push(&self, store: &Store, receipt: &SignedReceipt) -> Result<Pushed, RemoteError> {
        self.answer(1)?;
        for link in receipt.receipt.out.iter().flat_map(|o| o.links()) {
            if let Some(bytes) = store.get(link, 1 << 20)? {
                self.store.put(link.codec, bytes)?;
            }
        }
        self.store.import(receipt.clone())?;
        Ok(Pushed::default())
    }
}

fn store(key: u8) -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[key; 32]))))
}

/// A machine that trusts the key of [`memory`], with this remote.
fn elsewhere(shelf: &Arc<Shelf>) -> World {
    let mut world = world(store(8));
    world.engine.trusted = vec![Signer::from_secret(&[7; 32]).public()];
    world.engine.remotes.push(Arc::clone(shelf) as Arc<dyn Remote>);
    world
}

/// A shelf that somebody else filled with the results of these.
fn filled(subject: &Arc<Subject>) -> Arc<Shelf> {
    let shelf = Shelf::new(store(9));
    let mut maker = world(memory());
    maker.engine.remotes.push(Arc::clone(&shelf) as Arc<dyn Remote>);
    go(&maker, subject, Rules::default());
    shelf.asked();
    shelf
}

fn warnings(world: &World) -> Vec<String> {
    let heard = world.heard.0.lock().expect("nobody panics here");
    heard
        .iter()
        .filter_map(|e| if let RunEvent::Warning { message } = e { Some(message.clone()) } else { None })
        .collect()
}

/// A run that places the goal: the bytes are needed.
fn go_placing(world: &World, subject: &Arc<Subject>) -> super::Report {
    let goals = vec![TaskIdx::new(subject.workflow.len() - 1)];
    let mut request = Request::new(Arc::clone(subject), goals, Rules::default());
    let store = world.engine.store.clone();
    request.place = Some(place_each(move |goal| {
        let here = goal.output.artifacts.values().all(|e| store.complete(e).expect("the store works"));
        Ok(if here { Placed::Done } else { Placed::Hollow })
    }));
    run_blocking(&world.engine, request, never_stop).expect("the store works")
}

#[test]
fn what_others_made_is_asked_for_level_by_level_in_batches_and_settles_everything() {
    let subject = chain(&["a", "b", "c"]);
    let shelf = filled(&subject);
    let world = elsewhere(&shelf);
    let report = go(&world, &subject, Rules::default());
    // A receipt by task id counts when those it was made from do: goal, then its input, then that one's.
    assert_eq!((report.summary.counts.cached, report.summary.fetched), (1, 0));
    assert_eq!(shelf.asked(), [1, 1, 1]);
    // The next run asks nobody, and the one that needs bytes asks for those alone.
    go(&world, &subject, Rules::default());
    assert!(shelf.asked().is_empty());
    assert_eq!(go_placing(&world, &subject).summary.fetched, 1);
    assert_eq!((shelf.asked(), world.ran.load(Ordering::SeqCst)), (vec![1], 0));
}

#[test]
fn bytes_are_fetched_when_work_needs_them_and_made_again_when_nobody_has_them() {
    for lost in [false, true] {
        let shelf = filled(&chain(&["a", "b", "c"]));
        let world = elsewhere(&shelf);
        if lost {
            shelf.store.corrupt(BlobId::of(b"b").link());
        }
        let report = go_placing(&world, &chain(&["a", "b", "another"]));
        // Made again from what was there: that is fetched in its place.
        let expected = if lost { (2, 1) } else { (1, 1) };
        assert_eq!((report.summary.counts.ran, report.summary.fetched), expected, "{lost}");
        assert_eq!(warnings(&world), Vec::<String>::new());
    }
}

#[test]
fn a_plan_asks_for_receipts_and_moves_no_bytes() {
    let shelf = filled(&chain(&["a", "b", "c"]));
    let world = elsewhere(&shelf);
    let subject = chain(&["a", "b", "another"]);
    let request = Request::new(Arc::clone(&subject), vec![TaskIdx::new(2)], Rules::default());
    let run = look(&world.engine, request).expect("the store works");
    assert_eq!(run.state(TaskIdx::new(2)), State::Queued);
    let counters = world.engine.store.counters();
    assert_eq!((counters.puts, counters.commits), (0, 0));
    assert!(
        world.engine.store.find_tasks(&[subject.ids.of(TaskIdx::new(1))]).expect("readable")[0].receipts.is_empty()
    );
    assert_eq!(
        (shelf.fetches.load(Ordering::SeqCst), world.engine.store.has(BlobId::of(b"b").link()).ok()),
        (0, Some(false))
    );
}

#[test]
fn a_broken_remote_is_given_up_with_one_warning_and_harms_nothing() {
    let shelf = Shelf::new(store(9));
    shelf.broken.store(true, Ordering::SeqCst);
    let world = elsewhere(&shelf);
    let report = go_placing(&world, &chain(&["a", "b", "c", "d", "e"]));
    assert_eq!((report.summary.counts.ran, warnings(&world).len()), (5, 1), "{:?}", warnings(&world));
    assert_eq!(shelf.asked(), [1, 1, 1]);
}

#[test]
fn a_remote_that_panics_is_given_up_and_nobody_waits_for_what_it_was_to_bring() {
    let shelf = filled(&chain(&["a"]));
    shelf.panics.store(true, Ordering::SeqCst);
    let world = elsewhere(&shelf);
    let mut workflow = Workflow::new();
    let args = |what: &str, on| Value::map([("do", what.into()), ("in", on)]).expect("map");
    let first = workflow.add("t0", Task::new("/test/do", args("a", Value::Null))).expect("new");
    let on = || Value::promise(Branch::Ok, On::Here(first), ["outputs", "o"]);
    let readers =
        ["b", "c"].map(|what| workflow.add(what, Task::new("/test/do", args(what, on()))).expect("new")).to_vec();
    let subject = Arc::new(Subject::new(workflow).expect("no ring"));
    let request = Request::new(subject, readers, Rules { jobs: 2, ..Rules::default() });
    let report = run_blocking(&world.engine, request, never_stop).expect("the store works");
    assert_eq!(report.summary.counts.ran, 3);
    let expected = "remote `shelf`: it panicked: on purpose; the run goes on without it";
    assert_eq!((shelf.fetches.load(Ordering::SeqCst), warnings(&world)), (1, vec![expected.to_owned()]));
}

#[test]
fn untrusted_and_false_receipts_are_as_if_absent() {
    let subject = chain(&["a", "b"]);
    let shelf = filled(&subject);
    let mut world = elsewhere(&shelf);
    world.engine.trusted.clear();
    let report = go(&world, &subject, Rules::default());
    assert_eq!((report.summary.counts.ran, warnings(&world).len()), (2, 1), "{:?}", warnings(&world));
    let ids: Vec<TaskId> = subject.workflow.indices().map(|t| subject.ids.of(t)).collect();
    let kept = world.engine.store.find_tasks(&ids).expect("the store works");
    assert!(kept.iter().flat_map(|t| &t.receipts).all(|f| f.own), "nothing of theirs is kept");
}

#[test]
fn what_is_asked_of_a_remote_goes_by_its_name() {
    let subject = chain(&["a", "b"]);
    let shelf = filled(&subject);
    let asking = |policy: &str, trusted: &[u8]| {
        let mut world = elsewhere(&shelf);
        world.engine.trusted = trusted.iter().map(|key| Signer::from_secret(&[*key; 32]).public()).collect();
        world.engine.policies.by_source.insert("shelf".to_owned(), policy.parse().expect("a policy"));
        // A plan comes to the same as a run, although it keeps nothing.
        let goals = vec![TaskIdx::new(1)];
        let planned = look(&world.engine, Request::new(Arc::clone(&subject), goals, Rules::default()));
        let settled = planned.expect("the store works").outcome(TaskIdx::new(1)).is_some();
        let report = go(&world, &subject, Rules::default());
        assert_eq!(settled, report.summary.counts.ran == 0, "{policy}");
        (report.summary.counts.ran, warnings(&world))
    };
    let (ran, warned) = asking("any", &[]);
    assert!(ran == 0 && warned.iter().all(|w| w.contains("(`any`)")) && !warned.is_empty(), "{ran} {warned:?}");
    let (ran, warned) = asking("2-of-n", &[7, 10]);
    assert!(ran == 2 && warned.iter().any(|w| w.contains("too few")), "{ran} {warned:?}");
    // Somebody else did the same, and says so.
    let mut second = world(store(10));
    second.engine.remotes.push(Arc::clone(&shelf) as Arc<dyn Remote>);
    go(&second, &subject, Rules::default());
    assert_eq!(asking("2-of-n", &[7, 10]).0, 0);
    let (ran, _) = asking("2-of-n", &[7]);
    assert_eq!(ran, 2);
}

#[test]
fn forced_uncached_and_unshared_work_asks_nobody_and_goes_nowhere() {
    let shelf = filled(&chain(&["a"]));
    let world = elsewhere(&shelf);
    let goals = vec![TaskIdx::new(0)];
    go(&world, &chain(&["a"]), Rules { force: goals, ..Rules::default() });
    // Nothing was looked for; what came of it is sent.
    assert_eq!((shelf.asked(), world.ran.load(Ordering::SeqCst)), (vec![1], 1));
    let mut workflow = crate::workflow::Workflow::new();
    let args = crate::value::Value::map([("do", "x".into())]).expect("map");
    let work = crate::task::Task { nonce: [1].into(), ..crate::task::Task::new("/test/do", args.clone()) };
    workflow.add("nonce", work).expect("new");
    let policy = crate::task::Policy { cache: false, ..Default::default() }.into();
    let work = crate::task::Work::Task(crate::task::Task::new("/test/do", args));
    workflow.add_node(crate::task::Node { name: "uncached".into(), work, policy, after: Box::default() }).expect("new");
    let subject = Arc::new(Subject::new(workflow).expect("no ring"));
    let goals = subject.workflow.indices().collect();
    let request = Request::new(subject, goals, Rules::default());
    run_blocking(&world.engine, request, never_stop).expect("the store works");
    assert!(shelf.asked().is_empty());
}

#[test]
fn who_does_not_send_asks_all_the_same() {
    let shelf = filled(&chain(&["a"]));
    let mut world = elsewhere(&shelf);
    world.engine.sends = false;
    go(&world, &chain(&["a"]), Rules::default());
    assert_eq!((shelf.asked(), world.ran.load(Ordering::SeqCst)), (vec![1], 0));
    go(&world, &chain(&["b"]), Rules::default());
    assert_eq!(world.ran.load(Ordering::SeqCst), 1);
    let id = chain(&["b"]).ids.of(TaskIdx::new(0));
    assert!(shelf.store.find_tasks(&[id]).expect("reads")[0].receipts.is_empty(), "nothing was sent");
}

#[test]
fn a_wish_to_stop_does_not_wait_for_a_remote_that_thinks() {
    let subject = chain(&["a", "b", "c"]);
    let shelf = filled(&subject);
    let world = elsewhere(&shelf);
    go(&world, &subject, Rules::default());
    shelf.hangs.store(true, Ordering::SeqCst);
    let (sender, stop) = watch::channel(Stop::No);
    let asking = Arc::clone(&shelf);
    std::thread::spawn(move || {
        while asking.fetches.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        sender.send(Stop::Cancel).expect("the run listens");
    });
    let mut request = Request::new(chain(&["a", "b", "another"]), vec![TaskIdx::new(2)], Rules::default());
    request.place = Some(place_each(|_| Ok(Placed::Done)));
    shelf.hangs.store(false, Ordering::SeqCst);
    let hanging = Arc::clone(&shelf);
    request.durations = Some(Box::new(move || {
        // From here on: look-ups are over, bytes are not here yet.
        hanging.hangs.store(true, Ordering::SeqCst);
        vec![]
    }));
    let report = run_blocking(&world.engine, request, || stop).expect("the store works");
    assert!(report.run.was_stopped());
    assert_eq!(report.summary.counts.ran, 0);
    assert!(report.summary.ms < 4000, "{}", report.summary.ms);
}
