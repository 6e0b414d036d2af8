//! Failures: who fails, who is skipped, who goes on, and what is tried again.

use super::*;
use crate::run::step::{Notice, Step};
use crate::task::When;
use crate::value::Value;
use quipu_store::receipt::FailureKind;

fn fail_fast(jobs: u32) -> Rules {
    Rules { jobs, ..Rules::default() }
}

#[test]
fn t14_a_failed_task_runs_again() {
    let mut case = Flow::default().does("t", Does::Fail, "").case();
    for _ in 0..2 {
        let report = case.run_with("t", keep_going());
        assert_eq!(report.ran, ["t"]);
        report.ends("t", End::Failed);
    }
}

#[test]
fn t15_a_cached_failure_fails_those_who_await_success_at_once() {
    let flow = Flow::default().does("t", Does::Fail, "").task("u", "t").task("v", "u").task("x", "");
    let mut case = flow.case();
    case.run_with("t", keep_going());
    let before = case.world.receipts.len();
    let rules = Rules { use_failures: true, ..keep_going() };
    let report = case.run_with("v x", rules.clone());
    assert_eq!(report.ran, ["x"]);
    report.ends("t u", End::Failed);
    assert_eq!(report.failures["u"], FailureKind::BranchMismatch { on: case.subject.ids.of(case.idx("t")) });
    report.ends("v", End::Skipped { cause: case.idx("u") });
    assert_eq!(case.world.receipts.len(), before + 1, "only x left a receipt");
    // A success that came later counts more than the failure before it.
    let mut flaky = Flow::default().does("t", Does::Flaky, "").case();
    for _ in 0..3 {
        flaky.run_with("t", keep_going());
    }
    flaky.world.accepted.clear();
    flaky.run_with("t", rules).ends("t", End::Cached);
}

#[test]
fn t16_branches_take_what_they_ask_for() {
    let flow = Flow::default().task("t", "").task("e", "t!").task("any", "t*").task("d", "e");
    let mut case = flow.case();
    let report = case.run_with("d any", keep_going());
    assert_eq!(report.ran_sorted(), ["any", "t"]);
    report.ends("e", End::Failed);
    assert_eq!(report.failures["e"], FailureKind::BranchMismatch { on: case.subject.ids.of(case.idx("t")) });
    report.ends("d", End::Skipped { cause: case.idx("e") });
    let Some(Value::List(reads)) = report.invocations["any"].args.get("reads") else { panic!("a list") };
    assert!(reads[0].get("ok").is_some_and(|ok| ok.get("outputs").is_some()));
}

#[test]
fn who_awaits_a_failure_takes_care_of_it() {
    let flow = Flow::default().does("t", Does::Fail, "").task("e", "t!").task("any", "t*").task("x", "");
    let mut case = flow.case();
    let report = case.run_with("e any x", fail_fast(1));
    assert_eq!(report.ran_sorted(), ["any", "e", "t", "x"], "fail-fast does not stop for a failure that is awaited");
    let Some(Value::List(reads)) = report.invocations["e"].args.get("reads") else { panic!("a list") };
    assert_eq!(reads[0].get("kind"), Some(&"exit".into()));
    // Both are settled; the failed task is not looked at again.
    assert_eq!(case.run("e any").ran, Vec::<String>::new());
}

#[test]
fn t17_keep_going_finishes_what_does_not_depend_on_the_failure() {
    let flow = Flow::default().does("t", Does::Fail, "").task("s", "").task("u", "t s").task("v", "u").task("w", "s");
    let mut case = flow.case();
    let report = case.run_with("v w", keep_going());
    assert_eq!(report.ran_sorted(), ["s", "t", "w"]);
    report.ends("u v", End::Skipped { cause: case.idx("t") });
    report.ends("s w", End::Ran);
    assert_eq!((report.counts.failed, report.counts.skipped, report.counts.ran), (1, 2, 2));
}

#[test]
fn t18_fail_fast_starts_nothing_new_and_cancels_what_runs() {
    let flow = Flow::default().does("t", Does::Fail, "").task("s", "").task("q", "").task("u", "t").task("z", "q");
    let mut case = flow.case();
    let t = case.idx("t");
    let mut drive = case.drive("u s z", fail_fast(2));
    assert_eq!(drive.running().len(), 2);
    let other = drive.running().into_iter().find(|n| n != "t").expect("two run");
    drive.complete("t");
    assert_eq!(drive.running(), std::slice::from_ref(&other), "nothing new starts");
    drive.complete(&other);
    let report = drive.end();
    report.ends(&other, End::Cancelled);
    report.ends("t", End::Failed);
    report.ends("u", End::Skipped { cause: t });
    assert_eq!(report.ran, ["t"]);
    assert!(case.world.receipts.iter().all(|r| r.result.is_err()), "no receipt of what was killed");
    assert_eq!(case.run_with("s z", keep_going()).ran_sorted(), ["q", "s", "z"]);
}

#[test]
fn t29_a_resource_that_cannot_be_fetched_fails_its_consumers_only() {
    let fetch = |node: &mut Node| {
        let Work::Task(task) = &mut node.work else { unreachable!("a task") };
        task.cmd = "/quipu/fetch".into();
        policy_of(node).retries = 2;
    };
    let flow = Flow::default().with("p", Does::Fail, 1, "", fetch).with("q", Does::Same, 2, "", fetch);
    let mut case = flow.task("x", "p").task("y", "q").task("z", "").case();
    let report = case.run_with("x y z", keep_going());
    assert_eq!(report.ran.iter().filter(|n| *n == "p").count(), 3, "tried again, then given up");
    report.ends("p", End::Failed);
    report.ends("x", End::Skipped { cause: case.idx("p") });
    report.ends("q y z", End::Ran);
}

#[test]
fn a_task_is_tried_as_often_as_it_may_be() {
    for (retries, end, ran) in [(0, End::Failed, 1), (1, End::Failed, 2), (2, End::Ran, 3), (5, End::Ran, 3)] {
        let flow = Flow::default().with("t", Does::Flaky, 1, "", |node| policy_of(node).retries = retries);
        let mut case = flow.task("u", "t").case();
        let report = case.run_with("u", keep_going());
        report.ends("t", end);
        assert_eq!(report.ran.iter().filter(|n| *n == "t").count(), ran);
        let told = report.notices.iter().filter(|n| matches!(n, Notice::Retry { .. })).count();
        assert_eq!(told, ran - 1);
    }
}

#[test]
fn those_who_follow_a_task_that_fails_try_for_themselves() {
    let flow = Flow::default().does("a", Does::Same, "").with("b", Does::Same, 42, "", |_| {});
    let flow = flow.with("u", Does::Flaky, 1, "a", |_| {}).with("v", Does::Flaky, 1, "b", |_| {});
    let mut case = flow.case();
    let mut drive = case.drive("u v", Rules { jobs: 4, ..keep_going() });
    drive.complete("a");
    drive.complete("b");
    assert_eq!(drive.running(), ["u"]);
    drive.complete("u");
    assert_eq!(drive.running(), ["v"]);
    drive.complete("v");
    let report = drive.end();
    report.ends("u v", End::Failed);
}

#[test]
fn a_part_that_an_output_does_not_have_fails_its_consumer() {
    let flow = Flow::default().does("a", Does::Dir, "").task("u", "a/nothing").task("v", "a/d/nothing").task("w", "v");
    let mut case = flow.case();
    let report = case.run_with("u w", keep_going());
    report.ends("u v", End::Failed);
    report.ends("w", End::Skipped { cause: case.idx("v") });
    assert_eq!(report.failures["v"], FailureKind::MissingOutput { path: "outputs/d/nothing".to_owned() });
}

#[test]
fn a_cached_failure_stops_a_fail_fast_run_like_a_fresh_one() {
    let flow = Flow::default().does("t", Does::Fail, "").task("x", "");
    let mut case = flow.case();
    case.run_with("t", keep_going());
    let rules = Rules { use_failures: true, ..fail_fast(1) };
    let report = case.run_with("t x", rules);
    report.ends("t", End::Failed);
    report.ends("x", End::Cancelled);
}

#[test]
fn work_that_ends_well_although_it_was_cancelled_counts() {
    let mut case = Flow::default().does("t", Does::Fail, "").task("s", "").case();
    let mut drive = case.drive("t s", fail_fast(2));
    let s = drive.open.iter().position(|step| matches!(step, Step::Execute { task, .. } if task.index() == 1));
    let s = drive.open.remove(s.expect("it runs"));
    drive.complete("t");
    // It was done before the signal came.
    let Step::Execute { task, epoch, .. } = s else { unreachable!("just found") };
    let result = Ok(Arc::new(quipu_store::receipt::Output::default()));
    drive.run.on(crate::run::step::Event::Finished { task, epoch, result, cancelled: false });
    drive.answer_questions();
    drive.end().ends("s", End::Ran);
}

#[test]
fn a_task_whose_time_is_over_is_not_tried_again() {
    let flow = Flow::default().with("t", Does::Flaky, 1, "", |node| policy_of(node).retries = 5);
    let mut case = flow.task("u", "t").case();
    case.world.most_attempts = Some(2);
    let report = case.run_with("u", keep_going());
    report.ends("t", End::Failed);
    report.ends("u", End::Skipped { cause: case.idx("t") });
    assert_eq!(report.ran, ["t", "t"]);
    assert_eq!(report.failures["t"], FailureKind::Exit { code: 2 });
}

#[test]
fn attempts_are_counted_anew_when_a_task_is_made_again() {
    let mut case =
        Flow::default().with("t", Does::Hash, 1, "", |node| policy_of(node).retries = 1).task("x", "t").case();
    let mut drive = case.drive("x", fail_fast(1));
    let attempt = |step: &Step| match step {
        Step::Execute { task, epoch, attempt, .. } => (*task, *epoch, *attempt),
        other => panic!("it runs: {other:?}"),
    };
    let step = drive.open.pop().expect("one runs");
    let (task, epoch, _) = attempt(&step);
    // It succeeds, and its bytes are nowhere.
    let blob = quipu_store::cid::BlobId::of(b"lost");
    let entry = quipu_store::tree::Entry::File { blob, size: 4, exec: false };
    let artifacts = ["o", "p"].map(|name| (name.into(), entry.clone())).into();
    let result = Ok(Arc::new(quipu_store::receipt::Output { artifacts, ..Default::default() }));
    drive.run.on(crate::run::step::Event::Finished { task, epoch, result, cancelled: false });
    drive.answer_questions();
    assert_eq!(drive.running(), ["t"]);
    assert_eq!(attempt(&drive.open[0]).2, 1);
    drive.complete("t");
    // Nor is it an attempt of another that it could not begin.
    assert_eq!(drive.running(), ["x"]);
    drive.world.blobs.clear();
    drive.complete("x");
    assert_eq!(drive.running(), ["t"]);
    drive.complete("t");
    assert_eq!((drive.running(), attempt(&drive.open[0]).2), (vec!["x".to_owned()], 1));
}

#[test]
fn others_run_while_a_task_pauses_even_one_at_a_time() {
    let flow = Flow::default().with("t", Does::Flaky, 1, "", |node| policy_of(node).retries = 5);
    let mut case = flow.task("s", "").case();
    let mut drive = case.drive("t s", fail_fast(1));
    let step = drive.open.pop().expect("one runs");
    let Step::Execute { task, epoch, .. } = step else { panic!("it runs") };
    let result = Err(Arc::new(FailureKind::Exit { code: 1 }.into()));
    drive.run.on(crate::run::step::Event::Finished { task, epoch, result, cancelled: false });
    while drive.poll() {}
    let pauses = |s: &Step| matches!(s, Step::Pause { task: t, attempt: 2, .. } if *t == task);
    assert!(drive.open.iter().any(pauses), "{:?}", drive.open);
    assert_eq!(drive.running().len(), 1, "the other runs meanwhile");
}

#[test]
fn a_pause_ends_with_the_run() {
    let flow = Flow::default().with("t", Does::Flaky, 1, "", |node| policy_of(node).retries = 5);
    let mut case = flow.case();
    let mut drive = case.drive("t", fail_fast(1));
    let i = drive.open.iter().position(|s| matches!(s, Step::Execute { .. })).expect("it runs");
    drive.answer(i);
    while drive.poll() {}
    drive.run.on(crate::run::step::Event::Stop);
    drive.answer_questions();
    let report = drive.end();
    report.ends("t", End::Failed);
    assert_eq!(report.ran, ["t"]);
}

fn watches(when: When, after: &'static str) -> impl FnOnce(&mut Flow, &str) {
    move |flow, name| {
        let after = after.split_whitespace().map(|n| flow.find(n)).collect();
        let node = |node: &mut Node| {
            node.after = after;
            policy_of(node).when = when;
            policy_of(node).cache = false;
        };
        *flow = std::mem::take(flow).with(name, Does::Hash, source_of(name), "", node);
    }
}

#[test]
fn who_cleans_up_runs_after_a_failure_that_stops_everything_else() {
    let mut flow = Flow::default().does("t", Does::Fail, "").task("u", "t").task("x", "u");
    watches(When::Always, "x")(&mut flow, "always");
    watches(When::Failure, "x")(&mut flow, "failure");
    let mut case = flow.task("y", "").case();
    let report = case.run_with("x always failure", fail_fast(1));
    assert_eq!(report.ran, ["t", "always", "failure"]);
    report.ends("u x", End::Skipped { cause: case.idx("t") });
    report.ends("always failure", End::Ran);
    // Where nothing fails, only one of them runs; and it does so each time.
    let mut flow = Flow::default().task("t", "");
    watches(When::Always, "t")(&mut flow, "always");
    watches(When::Failure, "t")(&mut flow, "failure");
    let mut case = flow.task("v", "failure").case();
    let report = case.run_with("always v", fail_fast(1));
    assert_eq!(report.ran, ["t", "always"]);
    report.ends("failure", End::Unmet);
    report.ends("v", End::Skipped { cause: case.idx("failure") });
    assert_eq!(report.counts.unmet, 1);
    assert_eq!(case.run_with("always failure", fail_fast(1)).ran, ["always"]);
}

#[test]
fn asked_twice_to_end_nothing_cleans_up_either() {
    for asked in 1..=2 {
        let mut flow = Flow::default().task("t", "").task("u", "t");
        watches(When::Always, "u")(&mut flow, "always");
        let mut case = flow.case();
        let mut drive = case.drive("u always", fail_fast(2));
        for _ in 0..asked {
            drive.run.on(crate::run::step::Event::Stop);
        }
        drive.answer_questions();
        assert_eq!(drive.running().len(), 1, "nothing cleans up while `t` is being ended");
        drive.complete("t");
        if asked == 1 {
            drive.complete("always");
        }
        let report = drive.end();
        report.ends("t u", End::Cancelled);
        report.ends("always", if asked == 1 { End::Ran } else { End::Cancelled });
    }
}

#[test]
fn a_task_that_could_not_begin_does_not_begin_again_in_a_run_that_is_stopped() {
    for is_back in [true, false] {
        let mut flow = Flow::default().task("a", "").task("t", "a");
        watches(When::Always, "t")(&mut flow, "always");
        let mut case = flow.case();
        let a = case.idx("a");
        let mut drive = case.drive("t always", fail_fast(1));
        drive.complete("a");
        let Some(Step::Execute { task, epoch, .. }) = drive.open.pop() else { panic!("it runs") };
        drive.run.on(crate::run::step::Event::Stop);
        let hollow = if is_back { vec![] } else { vec![a] };
        drive.run.on(crate::run::step::Event::Staged { task, epoch, hollow });
        drive.answer_questions();
        drive.complete("always");
        let report = drive.end();
        report.ends("t", End::Cancelled);
        assert_eq!(report.ran, ["a", "always"]);
    }
}

fn external(node: &mut Node) {
    let Work::Task(task) = &mut node.work else { unreachable!("a task") };
    task.cmd = crate::task::EXTERNAL.into();
}

#[test]
fn work_that_is_done_elsewhere_holds_no_slot_and_blocks_those_who_need_it() {
    let flow = Flow::default().with("ask", Does::Hash, 1, "", external).task("u", "ask").task("x", "").task("y", "x");
    let mut case = flow.case();
    // One slot, and the task that is done elsewhere comes first: it does not take it.
    let report = case.run_with("u y", fail_fast(1));
    let ask = case.idx("ask");
    report.ends("ask u", End::Blocked { cause: ask });
    report.ends("x y", End::Ran);
    case.world.deliver.insert("ask".to_owned());
    let report = case.run_with("u", fail_fast(1));
    report.ends("ask", End::CutOff);
    assert_eq!(report.ran, ["u"]);
    assert_eq!(case.run_with("u", fail_fast(1)).counts.cached, 1);
}
