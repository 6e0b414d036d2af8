//! Runs through the driver, with executors in Rust and stores in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quipu_store::cid::Codec;
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::sign::Signer;
use quipu_store::tree::Entry;
use quipu_store::{Options, SignerSource, Store};
use tokio::sync::watch;

use super::{Engine, Report, Request, never_stop, run_blocking};
use crate::exec::native::native;
use crate::exec::{Job, Stop};
use crate::graph::TaskIdx;
use crate::observe::{Observer, RunEvent};
use crate::run::{Rules, Subject};
use crate::task::Task;
use crate::value::{Branch, On, Value};
use crate::workflow::Workflow;

#[path = "remote_tests.rs"]
mod remote_tests;

#[derive(Default)]
struct Heard(Mutex<Vec<RunEvent>>);

impl Observer for Heard {
    fn on(&self, _: u64, event: &RunEvent) {
        self.0.lock().expect("no test panics here").push(event.clone());
    }
}

struct World {
    engine: Engine,
    heard: Arc<Heard>,
    ran: Arc<AtomicUsize>,
}

fn file(store: &Store, text: &str) -> Output {
    let blob = store.put(Codec::Raw, text.as_bytes().to_vec()).expect("stored").try_into().expect("raw");
    let entry = Entry::File { blob, size: text.len() as u64, exec: false };
    Output { artifacts: [("o".into(), entry)].into(), ..Output::default() }
}

fn world(store: Store) -> World {
    let (heard, ran) = (Arc::new(Heard::default()), Arc::new(AtomicUsize::new(0)));
    let mut engine = Engine::new(store);
    engine.observers.add(Arc::clone(&heard) as Arc<dyn Observer>);
    let count = Arc::clone(&ran);
    engine.executors.register(
        "/test/do",
        native(move |job: Job| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                match job.invocation.args.get("do").and_then(Value::as_text) {
                    Some("fail") => Err(Failure::from(FailureKind::Exit { code: 1 })),
                    Some("hang") => std::future::pending().await,
                    Some("panic") => panic!("on purpose"),
                    Some("no directory") => {
                        let link = job.store.put(Codec::DagCbor, vec![0xa0]).expect("stored");
                        let entry = Entry::Dir { tree: link.try_into().expect("of that kind") };
                        Ok(Output { artifacts: [("o".into(), entry)].into(), ..Output::default() })
                    }
                    Some(text) => Ok(file(&job.store, text)),
                    None => Ok(Output::default()),
                }
            }
        }),
    );
    World { engine, heard, ran }
}

fn memory() -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))
}

fn chain(what: &[&str]) -> Arc<Subject> {
    let mut workflow = Workflow::new();
    let mut last = None;
    for (i, what) in what.iter().enumerate() {
        let on = last.map(|t| Value::promise(Branch::Ok, On::Here(t), ["outputs", "o"]));
        let args = Value::map([("do", (*what).into()), ("in", on.unwrap_or(Value::Null))]).expect("map");
        last = Some(workflow.add(format!("t{i}"), Task::new("/test/do", args)).expect("new"));
    }
    Arc::new(Subject::new(workflow).expect("no ring"))
}

fn go(world: &World, subject: &Arc<Subject>, rules: Rules) -> Report {
    let goals = vec![TaskIdx::new(subject.workflow.len() - 1)];
    run_blocking(&world.engine, Request::new(Arc::clone(subject), goals, rules), never_stop).expect("the store works")
}

#[test]
fn a_second_run_does_nothing_and_writes_nothing() {
    let world = world(memory());
    let subject = chain(&["a", "b", "c"]);
    let first = go(&world, &subject, Rules::default());
    assert_eq!((first.summary.counts.ran, first.recorded.len()), (3, 3));
    let before = world.engine.store.counters();
    let second = go(&world, &subject, Rules::default());
    assert_eq!((second.summary.counts.cached, second.summary.counts.unneeded), (1, 2));
    let after = world.engine.store.counters();
    assert_eq!((after.puts, after.commits, after.signatures), (before.puts, before.commits, before.signatures));
    assert_eq!(world.ran.load(Ordering::SeqCst), 3);
}

#[test]
fn a_changed_recipe_with_the_same_output_is_cut_off_and_stays_so() {
    let world = world(memory());
    go(&world, &chain(&["a", "b", "c"]), Rules::default());
    // Another recipe for the first task: the same output, another id.
    let mut workflow = Workflow::new();
    let args = Value::map([("do", "a".into()), ("in", Value::Null), ("more", Value::Int(1))]).expect("map");
    let mut last = workflow.add("t0", Task::new("/test/do", args)).expect("new");
    for (i, what) in [(1, "b"), (2, "c")] {
        let on = Value::promise(Branch::Ok, On::Here(last), ["outputs", "o"]);
        let args = Value::map([("do", what.into()), ("in", on)]).expect("map");
        last = workflow.add(format!("t{i}"), Task::new("/test/do", args)).expect("new");
    }
    let subject = Arc::new(Subject::new(workflow).expect("no ring"));
    let second = go(&world, &subject, Rules::default());
    assert_eq!((second.summary.counts.ran, second.summary.counts.cut_off), (1, 2));
    let third = go(&world, &subject, Rules::default());
    assert_eq!((third.summary.counts.ran, third.summary.counts.cached), (0, 1));
}

#[test]
fn failures_and_panics_are_reported_and_never_settle_a_task() {
    for what in ["fail", "panic"] {
        let world = world(memory());
        let subject = chain(&["a", what, "c"]);
        let report = go(&world, &subject, Rules::default());
        assert_eq!(
            (report.summary.counts.ran, report.summary.counts.failed, report.summary.counts.skipped),
            (1, 1, 1),
            "{what}"
        );
        let again = go(&world, &subject, Rules::default());
        assert_eq!((again.summary.counts.cached, again.summary.counts.failed), (1, 1), "{what}");
        let heard = world.heard.0.lock().expect("no test panics here");
        let reasons = heard.iter().filter_map(|e| match e {
            RunEvent::TaskEnded { reason: Some(reason), .. } => Some(reason.as_str()),
            _ => None,
        });
        assert!(reasons.clone().any(|r| r == "`t1` did not succeed"), "{:?}", reasons.collect::<Vec<_>>());
    }
}

#[test]
fn an_output_that_is_no_directory_is_the_matter_of_those_who_look_into_it() {
    let world = world(memory());
    let mut workflow = Workflow::new();
    let args = Value::map([("do", "no directory".into())]).expect("map");
    let made = workflow.add("made", Task::new("/test/do", args)).expect("new");
    let part = Value::promise(Branch::Ok, On::Here(made), ["outputs", "o", "x"]);
    let args = Value::map([("do", "b".into()), ("in", part)]).expect("map");
    let looks = workflow.add("looks", Task::new("/test/do", args)).expect("new");
    let args = Value::map([("do", "c".into())]).expect("map");
    let other = workflow.add("other", Task::new("/test/do", args)).expect("new");
    let subject = Arc::new(Subject::new(workflow).expect("no ring"));
    let rules = Rules { keep_going: true, ..Rules::default() };
    let report = run_blocking(&world.engine, Request::new(Arc::clone(&subject), vec![looks, other], rules), never_stop);
    let counts = report.expect("the run goes on").summary.counts;
    assert_eq!((counts.ran, counts.failed), (2, 1));
}

/// Wishes a run to end when a task starts from now on.
fn stop_when_started(world: &World, task: &'static str) -> watch::Receiver<Stop> {
    let (sender, stop) = watch::channel(Stop::No);
    let heard = Arc::clone(&world.heard);
    let before = heard.0.lock().expect("no test panics here").len();
    std::thread::spawn(move || {
        loop {
            let started = |e: &RunEvent| matches!(e, RunEvent::TaskStarted { task: t, .. } if &**t == task);
            if heard.0.lock().expect("no test panics here")[before..].iter().any(started) {
                return sender.send(Stop::Cancel).expect("the run listens");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    stop
}

#[test]
fn a_wish_to_stop_ends_what_runs_and_leaves_no_receipt() {
    let world = world(memory());
    let subject = chain(&["a", "hang", "c"]);
    let goals = vec![TaskIdx::new(2)];
    let request = Request::new(Arc::clone(&subject), goals, Rules::default());
    let stop = || stop_when_started(&world, "t1");
    let report = run_blocking(&world.engine, request, stop).expect("the store works");
    assert_eq!((report.summary.counts.ran, report.summary.counts.cancelled), (1, 2));
    assert_eq!(report.recorded.len(), 1);
    assert!(report.run.was_stopped());
}

#[test]
fn t23_two_tasks_with_one_invocation_run_once_and_both_are_settled_next_time() {
    let world = world(memory());
    let build = |n: i64| {
        let mut workflow = Workflow::new();
        let mut ends = vec![];
        for side in 0..2 {
            // Different recipes with equal outputs, so that the two readers become one invocation.
            let args = Value::map([("do", "same".into()), ("n", Value::Int(n + side))]).expect("map");
            let source = workflow.add(format!("s{side}"), Task::new("/test/do", args)).expect("new");
            let on = Value::promise(Branch::Ok, On::Here(source), ["outputs", "o"]);
            let args = Value::map([("do", "reader".into()), ("in", on)]).expect("map");
            ends.push(workflow.add(format!("r{side}"), Task::new("/test/do", args)).expect("new"));
        }
        (Arc::new(Subject::new(workflow).expect("no ring")), ends)
    };
    let (subject, ends) = build(0);
    let run = || {
        let request = Request::new(Arc::clone(&subject), ends.clone(), Rules { jobs: 4, ..Rules::default() });
        run_blocking(&world.engine, request, never_stop).expect("the store works").summary.counts
    };
    let first = run();
    assert_eq!((first.ran, first.cut_off), (3, 1));
    assert_eq!(run().cached, 2);
}

#[test]
fn t27_a_task_that_is_never_cached_runs_again_unless_a_crashed_run_goes_on() {
    let store = memory();
    let world = world(store);
    let mut workflow = Workflow::new();
    let args = Value::map([("do", "a".into())]).expect("map");
    let node = crate::task::Node {
        name: "t0".into(),
        work: crate::task::Work::Task(Task::new("/test/do", args)),
        policy: crate::task::Policy { cache: false, ..Default::default() }.into(),
        after: Box::default(),
    };
    let t0 = workflow.add_node(node).expect("new");
    let on = Value::promise(Branch::Ok, On::Here(t0), ["outputs", "o"]);
    let args = Value::map([("do", "hang".into()), ("in", on)]).expect("map");
    let t1 = workflow.add("t1", Task::new("/test/do", args)).expect("new");
    let subject = Arc::new(Subject::new(workflow).expect("no ring"));
    let request = |goal| {
        let mut request = Request::new(Arc::clone(&subject), vec![goal], Rules::default());
        request.session = Some("test".to_owned());
        request
    };
    for n in 1..=2 {
        let report = run_blocking(&world.engine, request(t0), never_stop).expect("the store works");
        assert_eq!((report.summary.counts.ran, world.ran.load(Ordering::SeqCst)), (1, n));
    }
    // A run that ends in the middle, as by SIGKILL: the driver is dropped without its last words.
    let engine = world.engine.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let run = super::run(&engine, request(t1), never_stop());
        let recorded = async {
            let is_recorded = |e: &RunEvent| matches!(e, RunEvent::Recorded { .. });
            while world.heard.0.lock().expect("no test panics here").iter().filter(|e| is_recorded(e)).count() < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = run => panic!("t1 hangs"),
            () = recorded => {}
        }
    });
    drop(runtime);
    // Other goals have nothing to do with it, and leave it alone.
    let report = run_blocking(&world.engine, request(t0), never_stop).expect("the store works");
    assert_eq!(report.summary.counts.ran, 1);
    for cached in [1, 0] {
        let report = run_blocking(&world.engine, request(t1), || stop_when_started(&world, "t1"));
        let counts = report.expect("the store works").summary.counts;
        // That run came to its end: the next begins anew.
        assert_eq!((counts.cached, counts.ran, counts.cancelled), (cached, 1 - cached, 1));
    }
}

#[test]
fn a_run_that_nobody_waits_for_takes_its_work_with_it() {
    struct Told(std::sync::mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let mut world = world(memory());
    let (told, ended) = std::sync::mpsc::channel();
    let hang = native(move |_| {
        let told = Told(told.clone());
        async move {
            let _told = told;
            std::future::pending().await
        }
    });
    world.engine.executors.register("/test/do", hang);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let mut stop = stop_when_started(&world, "t0");
    let request = Request::new(chain(&["a"]), vec![TaskIdx::new(0)], Rules::default());
    runtime.block_on(async {
        tokio::select! {
            _ = super::run(&world.engine, request, never_stop()) => panic!("t0 hangs"),
            _ = stop.changed() => {}
        }
    });
    drop(world);
    // The runtime lives on. Both the one that was started and the one to start others are gone.
    while ended.recv().is_ok() {}
}

/// Says of its inputs that they are gone, so many times.
struct Forgetful {
    times: usize,
    asked: Arc<AtomicUsize>,
}

impl crate::exec::Executor for Forgetful {
    fn execute(&self, _: Job) -> std::pin::Pin<Box<dyn Future<Output = crate::exec::Done> + Send + '_>> {
        let is_gone = self.asked.fetch_add(1, Ordering::SeqCst) < self.times;
        let why = "is not looked at".to_owned();
        let failed = crate::exec::Done::failed(FailureKind::Executor { why }, "native");
        Box::pin(std::future::ready(if is_gone {
            crate::exec::Done { unusable: Some(crate::exec::Unusable::InputsGone(vec!["in".to_owned()])), ..failed }
        } else {
            crate::exec::Done { result: Ok(Output::default()), ..failed }
        }))
    }
}

#[test]
fn a_task_whose_inputs_are_back_by_the_time_their_loss_is_heard_is_queued_again() {
    for (times, ran, asked) in [(1, 1, 2), (usize::MAX, 0, 11)] {
        let mut world = world(memory());
        let count = Arc::new(AtomicUsize::new(0));
        world.engine.executors.register("/test/do", Forgetful { times, asked: Arc::clone(&count) });
        let report = go(&world, &chain(&["a"]), Rules::default());
        assert_eq!((report.summary.counts.ran, report.summary.counts.failed), (ran, 1 - ran));
        assert_eq!(count.load(Ordering::SeqCst), asked, "not for ever");
    }
}

/// Gets its jobs ready, and notes who is at work with whom; those that are to fail do so at once.
#[derive(Default)]
struct Careful {
    ready: Mutex<Vec<String>>,
    at_work: Mutex<Vec<String>>,
    most: AtomicUsize,
}

struct Shared(Arc<Careful>);

impl crate::exec::Executor for Shared {
    fn execute(&self, job: Job) -> std::pin::Pin<Box<dyn Future<Output = crate::exec::Done> + Send + '_>> {
        let of = Arc::clone(&self.0);
        Box::pin(async move {
            let failed = crate::exec::Done::failed(FailureKind::Exit { code: 1 }, "native");
            of.ready.lock().expect("no panic").push(job.name.to_string());
            if !job.begin.wait().await {
                return failed;
            }
            {
                let mut at_work = of.at_work.lock().expect("no panic");
                at_work.push(job.name.to_string());
                of.most.fetch_max(at_work.len(), Ordering::SeqCst);
            }
            if job.invocation.args.get("do").and_then(Value::as_text) == Some("fail") {
                return failed;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            of.at_work.lock().expect("no panic").retain(|name| *name != *job.name);
            job.begin.over();
            // Taking care of what came out takes longer for some.
            let of_it = u64::from(job.name.as_bytes()[1]) % 3;
            tokio::time::sleep(Duration::from_millis(10 * of_it)).await;
            crate::exec::Done { result: Ok(Output::default()), ..failed }
        })
    }

    fn begins_itself(&self, _: &str) -> bool {
        true
    }
}

fn started(world: &World) -> Vec<String> {
    let heard = world.heard.0.lock().expect("no test panics here");
    let started = |e: &RunEvent| if let RunEvent::TaskStarted { task, .. } = e { Some(task.to_string()) } else { None };
    heard.iter().filter_map(started).collect()
}

fn alone(what: &[&str]) -> Arc<Subject> {
    let mut workflow = Workflow::new();
    for (i, what) in what.iter().enumerate() {
        let args = Value::map([("do", (*what).into()), ("n", Value::Int(i as i64))]).expect("map");
        workflow.add(format!("t{i}"), Task::new("/test/do", args)).expect("new");
    }
    Arc::new(Subject::new(workflow).expect("no ring"))
}

#[test]
fn one_more_is_got_ready_than_works_and_with_one_job_the_order_is_that_of_the_queue() {
    for jobs in [1, 3] {
        let mut world = world(memory());
        let careful = Arc::new(Careful::default());
        world.engine.executors.register("/test/do", Shared(Arc::clone(&careful)));
        let subject = alone(&["a"; 9]);
        let goals = subject.workflow.indices().collect();
        let request = Request::new(subject, goals, Rules { jobs, ..Rules::default() });
        let report = run_blocking(&world.engine, request, never_stop).expect("the store works");
        assert_eq!(report.summary.counts.ran, 9);
        assert_eq!(careful.most.load(Ordering::SeqCst), jobs as usize);
        if jobs == 1 {
            let order: Vec<String> = (0..9).map(|n| format!("t{n}")).collect();
            assert_eq!((started(&world), &*careful.ready.lock().expect("no panic")), (order.clone(), &order));
        }
    }
}

#[test]
fn who_was_got_ready_does_not_begin_when_another_failed() {
    let mut world = world(memory());
    let careful = Arc::new(Careful::default());
    world.engine.executors.register("/test/do", Shared(Arc::clone(&careful)));
    let subject = alone(&["fail", "a", "a"]);
    let goals: Vec<TaskIdx> = subject.workflow.indices().collect();
    let rules = Rules { jobs: 1, ..Rules::default() };
    let request = Request::new(Arc::clone(&subject), goals.clone(), rules.clone());
    let report = run_blocking(&world.engine, request, never_stop).expect("the store works");
    let counts = report.summary.counts;
    assert_eq!((counts.failed, counts.cancelled, counts.ran), (1, 2, 0));
    assert_eq!(started(&world), ["t0"]);
    assert_eq!(*careful.ready.lock().expect("no panic"), ["t0", "t1"], "it was got ready");
    // And does where nobody minds.
    let request = Request::new(subject, goals, Rules { keep_going: true, ..rules });
    run_blocking(&world.engine, request, never_stop).expect("the store works");
    assert_eq!(started(&world), ["t0", "t0", "t1", "t2"]);
}

/// What a store by key 7 did for a chain of three, as another store imports it.
fn imported_chain(source: &str) -> (Arc<Subject>, World) {
    let subject = chain(&["a", "b", "c"]);
    let here = world(memory());
    go(&here, &subject, Rules::default());
    let found = here.engine.store.find_tasks(&[0, 1, 2].map(|t| subject.ids.of(TaskIdx::new(t)))).expect("reads");
    let ids: Vec<_> = found.iter().map(|t| t.receipts[0].signed.id).collect();
    let mut file = vec![];
    quipu_store::car::export(&here.engine.store, &ids, Default::default(), &mut file).expect("exports");
    let there = world(Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[8; 32])))));
    let options = quipu_store::car::ImportOptions::new(source);
    quipu_store::car::import(&there.engine.store, &file[..], &options).expect("is good");
    (subject, there)
}

fn warnings(world: &World) -> Vec<String> {
    let heard = world.heard.0.lock().expect("no test panics here");
    let warning = |e: &RunEvent| if let RunEvent::Warning { message } = e { Some(message.clone()) } else { None };
    heard.iter().filter_map(warning).collect()
}

#[test]
fn receipts_made_elsewhere_count_as_long_as_their_issuer_is_trusted() {
    let (subject, mut there) = imported_chain("files");
    let issuer = Signer::from_secret(&[7; 32]).public();
    there.engine.trusted = vec![issuer];
    go(&there, &subject, Rules::default());
    assert_eq!(there.ran.load(Ordering::SeqCst), 0);
    assert_eq!(warnings(&there), [] as [String; 0]);
    // Accepted by now, and of no account the moment the key is not trusted any more.
    there.engine.trusted = vec![];
    go(&there, &subject, Rules::default());
    assert_eq!(there.ran.load(Ordering::SeqCst), 3);
    assert_eq!(warnings(&there), [format!("receipts by {issuer} do not count: that key is not trusted")]);
    // What was done here instead is ours.
    go(&there, &subject, Rules::default());
    assert_eq!(there.ran.load(Ordering::SeqCst), 3);
}

#[test]
fn what_is_asked_of_receipts_goes_by_where_they_come_from() {
    for (source, policy, runs, warning) in [
        ("files", "any", 0, Some("(`any`)")),
        ("main", "any", 3, Some("not trusted")),
        ("files", "2-of-n", 3, Some("too few")),
    ] {
        let (subject, mut there) = imported_chain(source);
        let policy = policy.parse().expect("valid");
        there.engine.policies.by_source.insert("files".to_owned(), policy);
        if policy != quipu_store::trust::Policy::Any {
            there.engine.trusted = vec![Signer::from_secret(&[7; 32]).public()];
        }
        go(&there, &subject, Rules::default());
        assert_eq!(there.ran.load(Ordering::SeqCst), runs, "{source}");
        let heard = warnings(&there);
        assert_eq!(heard.len(), usize::from(warning.is_some()), "{heard:?}");
        assert!(heard.iter().zip(warning).all(|(heard, part)| heard.contains(part)), "{heard:?}");
    }
}
