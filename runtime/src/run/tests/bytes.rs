//! Rule 4: bytes that are gone, and what comes of making them again.

use super::*;
use crate::run::step::{Event, Step};

fn chain() -> Flow {
    Flow::default().task("a", "").task("b", "a").task("c", "b")
}

#[test]
fn t7_an_input_whose_bytes_are_gone_runs_again_and_so_does_what_it_needs() {
    let mut case = chain().case().given("c", "b");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "b");
    let report = case.run("c");
    assert_eq!(report.ran, ["a", "b", "c"]);
    assert!(report.hollow.contains("b"));
}

#[test]
fn t8_bytes_nobody_uses_are_not_asked_for() {
    let mut case = chain().case().given("c", "a b");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "a");
    let report = case.run("c");
    assert_eq!(report.ran, ["c"]);
    assert!(!report.staged.contains("a"));
}

#[test]
fn t11_a_goal_whose_bytes_are_gone_is_made_again_once() {
    let mut case = chain().case().given("c", "a b c");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "c");
    let rules = Rules { place: true, ..keep_going() };
    assert_eq!(case.run_with("c", keep_going()).ran, Vec::<String>::new(), "nobody wants the bytes");
    let report = case.run_with("c", rules.clone());
    assert_eq!(report.ran, ["c"]);
    assert!(report.hollow.contains("c"));
    assert_eq!(case.run_with("c", rules).ran, Vec::<String>::new());
}

#[test]
fn what_comes_out_differently_reopens_what_was_settled_by_the_old() {
    let flow = Flow::default().does("a", Does::Vary, "").task("b", "a").task("c", "a").task("d", "b");
    let mut case = flow.case().given("b c d", "a b d");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "a");
    // d and b are settled at once; c has to run, needs the bytes of a, and a comes out differently.
    let report = case.run("d c");
    assert_eq!(report.ran_sorted(), ["a", "b", "c", "d"]);
    report.ends("b c d", End::Ran);
    assert!(report.diverged() > 0);
}

#[test]
fn what_comes_out_the_same_reopens_nobody() {
    let flow = Flow::default().task("a", "").task("b", "a").task("c", "a").task("d", "b");
    let mut case = flow.case().given("b c d", "a b d");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "a");
    let report = case.run("d c");
    assert_eq!(report.ran, ["a", "c"]);
    report.ends("d", End::Cached);
    assert_eq!(report.diverged(), 0);
}

#[test]
fn a_task_that_fails_when_made_again_for_its_bytes_leaves_settled_what_was_made_from_it() {
    let mut case = Flow::default().does("a", Does::Flaky, "").task("b", "a").task("c", "a").case();
    let a = case.idx("a");
    // Two failures, then it succeeds once; after that it is made to fail again.
    for _ in 0..2 {
        case.run_with("a", keep_going());
    }
    case.run_with("b", keep_going());
    case.world.attempts.clear();
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "a");
    for goals in ["b c", "c b"] {
        let report = case.run_with(goals, keep_going());
        report.ends("b", End::Cached);
        report.ends("a", End::Failed);
        report.ends("c", End::Skipped { cause: a });
        case.world.attempts.clear();
    }
}

#[test]
fn bytes_that_vanish_before_the_start_free_those_who_follow() {
    let flow = Flow::default().task("a", "").with("u", Does::Hash, 1, "a", |_| {});
    let flow = flow.does("b", Does::Same, "").task("z", "");
    // v is another task than u, with the same invocation once its promise is replaced.
    let flow = flow.with("v", Does::Hash, 1, "a", |node| {
        let Work::Task(task) = &mut node.work else { unreachable!("a task") };
        let promise =
            crate::value::Value::promise(Branch::Ok, crate::value::On::Here(TaskIdx::new(0)), ["outputs", "p"]);
        let reads = crate::value::Value::list([promise]);
        let pairs = [("does", "hash".into()), ("source", crate::value::Value::Int(1)), ("reads", reads)];
        task.args = crate::value::Value::map(pairs).expect("distinct keys");
    });
    let mut case = flow.case();
    let mut drive = case.drive("u v", Rules { jobs: 4, ..keep_going() });
    drive.complete("a");
    let mut leaders = drive.running();
    leaders.sort_unstable();
    assert_eq!(leaders, ["u", "v"], "other parts, other invocations");
    drop(drive);

    let flow = Flow::default().does("a", Does::Same, "").with("b", Does::Same, 42, "", |_| {});
    let flow = flow.with("u", Does::Hash, 1, "a", |_| {}).with("v", Does::Hash, 1, "b", |_| {});
    let mut case = flow.case();
    let mut drive = case.drive("u v", Rules { jobs: 4, ..keep_going() });
    drive.complete("a");
    drive.complete("b");
    assert_eq!(drive.running(), ["u"], "v follows");
    drive.world.blobs.clear();
    drive.complete("u");
    let mut running = drive.running();
    while let Some(name) = running.first() {
        drive.complete(name);
        running = drive.running();
    }
    let report = drive.end();
    report.ends("u", End::Ran);
    report.ends("v", End::CutOff);
    case.run("u v");
}

#[test]
fn an_answer_about_names_in_a_directory_that_is_being_made_again_is_asked_for_anew() {
    let flow = Flow::default().does("a", Does::Dir, "").task("u", "a/d/x").task("v", "a/d/y");
    for lost in [false, true] {
        let mut case = Flow { workflow: flow.workflow.clone() }.case().given("a", "a");
        if lost {
            case.world.trees.clear();
        }
        let goals = case.goals("u v");
        for seed in 1..50 {
            let mut world = case.world.clone();
            let report = world.run(&case.subject, &goals, keep_going(), &mut Dice(seed));
            assert_eq!(report.ran_sorted(), if lost { vec!["a", "u", "v"] } else { vec!["u", "v"] });
        }
    }
}

#[test]
fn bytes_that_keep_vanishing_end_in_a_failure_that_says_so() {
    let mut case = Flow::default().task("a", "").task("u", "a").case().given("a", "a");
    let goals = case.goals("u");
    let mut drive = Drive::new(&mut case.world, &case.subject, &goals, keep_going());
    for _ in 0..100 {
        while drive.poll() {}
        if drive.open.is_empty() {
            break;
        }
        drive.world.blobs.clear();
        drive.answer(0);
    }
    let report = drive.end();
    report.ends("u", End::Failed);
    assert_eq!(report.failures["u"].to_string(), "the output of `a` keeps vanishing");
    assert!(report.ran.iter().all(|n| n == "a") && report.ran.len() <= 11, "{:?}", report.ran);
}

#[test]
fn the_receipt_names_what_the_work_was_made_from_even_while_an_input_is_made_again() {
    let flow = Flow::default().does("a", Does::Vary, "").task("u", "a/o").task("v", "a/p");
    let mut case = flow.case().given("a", "a");
    let old = case.world.receipts[0].clone();
    // The bytes v wants are gone; those u wants are not.
    let Ok(output) = &old.result else { panic!("it succeeded") };
    let Some(quipu_store::tree::Entry::File { blob, .. }) = output.artifacts.get("p") else { panic!("a file") };
    case.world.blobs.remove(blob);
    let (goals, u) = (case.goals("u v"), case.idx("u"));
    let mut drive = Drive::new(&mut case.world, &case.subject, &goals, keep_going());
    // All is answered until u and a run at once: u with the old output, a for a new one.
    drive.answer_questions();
    assert_eq!(drive.running(), ["u", "a"]);
    let via = drive.open.iter().find_map(|step| match step {
        Step::Execute { task, via, .. } if *task == u => Some(via.clone()),
        _ => None,
    });
    let a = case.subject.ids.of(TaskIdx::new(0));
    assert_eq!(via, Some([(a, old.out())].into()));
    drive.complete("a");
    drive.complete("u");
    // u ran on what is out of date: recorded as such, and done again.
    assert_eq!(drive.running(), ["v", "u"]);
    drive.complete("v");
    drive.complete("u");
    let report = drive.end();
    report.ends("u v", End::Ran);
    assert_eq!(case.run("u v").ran, Vec::<String>::new());
}

#[test]
fn stopping_leaves_settled_what_was() {
    let mut case = chain().case().given("c", "a b");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "b");
    let goals = case.goals("c b");
    let mut drive = Drive::new(&mut case.world, &case.subject, &goals, keep_going());
    loop {
        while drive.poll() {}
        if let Some(Step::Stage { .. }) = drive.open.first() {
            drive.run.on(Event::Stop);
        }
        if drive.open.is_empty() {
            break;
        }
        drive.answer(0);
    }
    let report = drive.end();
    report.ends("b", End::Cached);
    report.ends("c", End::Cancelled);
    assert_eq!(report.ran, Vec::<String>::new());
}
