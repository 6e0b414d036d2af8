//! What starts when: slots, the critical path, order-only edges, and stopping.

use super::*;
use crate::run::step::Event;

#[test]
fn one_job_starts_in_the_same_order_whichever_answer_comes_first() {
    let mut flow = Flow::default();
    for i in 0..12 {
        let reads = if i < 4 { String::new() } else { format!("t{} t{}", i - 4, (i * 5) % 4) };
        flow = flow.does(&format!("t{i}"), if i % 3 == 0 { Does::Same } else { Does::Hash }, &reads);
    }
    // Equal invocations from different tasks: which of them leads must not depend on luck, either.
    let flow = flow.with("l", Does::Hash, 7, "t0", |_| {}).with("m", Does::Hash, 7, "t6", |_| {});
    let case = flow.case();
    let goals = case.goals("t8 t9 t10 t11 m l");
    let rules = Rules { jobs: 1, ..Rules::default() };
    let order = |seed| World::default().run(&case.subject, &goals, rules.clone(), &mut Dice(seed)).ran;
    let first = order(1);
    assert_eq!(first.len(), 13);
    for seed in 2..200 {
        assert_eq!(order(seed), first, "seed {seed}");
    }
}

#[test]
fn the_longest_way_goes_first() {
    let flow = Flow::default().task("short", "").task("long1", "").task("long2", "long1").task("slow", "");
    let mut case = flow.case();
    let jobs1 = |expected_ms| Rules { jobs: 1, expected_ms, ..Rules::default() };
    let by_depth = case.world.clone().run(&case.subject, &case.goals("short long2 slow"), jobs1(vec![]), &mut Dice(1));
    assert_eq!(by_depth.ran, ["long1", "short", "long2", "slow"], "untimed tasks by depth, then as they were written");
    let report = case.run_with("short long2 slow", jobs1(vec![1, 10, 10, 500]));
    assert_eq!(report.ran, ["slow", "long1", "long2", "short"]);
}

#[test]
fn a_dry_run_becomes_a_real_one_when_work_may_start() {
    let mut case = Flow::default().task("a", "").task("b", "a").case();
    let goals = case.goals("b");
    let mut drive = Drive::new(&mut case.world, &case.subject, &goals, Rules { dry: true, ..keep_going() });
    drive.answer_questions();
    assert_eq!(drive.running(), Vec::<String>::new());
    assert!(drive.run.is_done());
    drive.run.start_work(vec![5, 5]);
    drive.answer_questions();
    drive.complete("a");
    drive.complete("b");
    assert_eq!(drive.end().ran, ["a", "b"]);
}

#[test]
fn no_more_run_at_once_than_slots_allow() {
    let gpu = |node: &mut Node| policy_of(node).slots = [("gpu".into(), 1)].into();
    let wide = |node: &mut Node| policy_of(node).slots = [("".into(), 3)].into();
    let flow = Flow::default().with("g1", Does::Hash, 1, "", gpu).with("g2", Does::Hash, 2, "", gpu);
    let flow = flow.task("x", "").task("y", "").with("wide", Does::Hash, 3, "", wide);
    let mut case = flow.case();
    let rules = Rules { jobs: 3, slots: [("gpu".into(), 1)].into(), ..Rules::default() };
    let mut drive = case.drive("g1 g2 x y wide", rules);
    assert_eq!(drive.running(), ["g1", "x", "y"], "three jobs, one gpu");
    drive.complete("x");
    assert_eq!(drive.running(), ["g1", "y"], "g2 waits for the gpu, wide for three jobs");
    drive.complete("g1");
    assert_eq!(drive.running(), ["y", "g2"]);
    drive.complete("y");
    drive.complete("g2");
    assert_eq!(drive.running(), ["wide"]);
    drive.complete("wide");
    assert_eq!(drive.end().counts.ran, 5);
}

#[test]
fn what_takes_no_job_runs_beside_a_single_one() {
    let fetches = |node: &mut Node| policy_of(node).slots = [("".into(), 0), ("network".into(), 1)].into();
    let flow = Flow::default().task("a", "").task("b", "").with("f", Does::Hash, 1, "", fetches);
    let mut case = flow.with("g", Does::Hash, 2, "", fetches).with("h", Does::Hash, 3, "", fetches).case();
    let rules = Rules { jobs: 1, slots: [("network".into(), 2)].into(), ..Rules::default() };
    let mut drive = case.drive("a b f g h", rules);
    assert_eq!(drive.running(), ["a", "f", "g"]);
    drive.complete("g");
    assert_eq!(drive.running(), ["a", "f", "h"], "b waits for a, whatever else ends");
    for name in ["a", "b", "f", "h"] {
        drive.complete(name);
    }
    assert_eq!(drive.end().counts.ran, 5);
}

#[test]
fn what_comes_after_is_no_ingredient_and_asks_for_nothing_while_it_is_cached() {
    let flow = |after: &str| Flow::default().task("w", "").task("s", "").after("t", "s", after);
    let mut case = flow("").case().given("t", "s t").edited(flow("w"));
    let report = case.run("t");
    assert_eq!(report.ran, Vec::<String>::new());
    report.unneeded("w");
    case.world.keep(&Arc::clone(&case.subject), &["s"]);
    assert_eq!(case.run("t").ran, ["w", "t"]);
}

#[test]
fn a_task_starts_after_all_it_comes_after_even_when_one_of_them_is_made_again() {
    // t comes after x and y; x ends, its bytes turn out to be gone, it runs again: y has not ended for that.
    let flow = Flow::default().task("x", "").task("y", "").task("u", "x").after("t", "", "x y");
    let mut case = flow.case().given("x", "x");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "x");
    for seed in 1..100 {
        let goals = case.goals("t u");
        let mut world = case.world.clone();
        let report = world.run(&subject, &goals, Rules { jobs: 3, ..keep_going() }, &mut Dice(seed));
        report.ends("t u y x", End::Ran);
        let at = |name: &str| report.ran.iter().position(|n| n == name).expect("it ran");
        assert!(at("y") < at("t"));
    }
}

#[test]
fn a_task_is_skipped_when_what_it_comes_after_fails() {
    let flow = Flow::default().does("w", Does::Fail, "").after("t", "", "w").task("u", "t");
    let mut case = flow.case();
    let report = case.run_with("u", keep_going());
    report.ends("t u", End::Skipped { cause: case.idx("w") });
}

#[test]
fn people_may_stop_a_run() {
    let flow = Flow::default().task("a", "").task("b", "").task("c", "a").task("d", "");
    let mut case = flow.case();
    let mut drive = case.drive("c b d", Rules { jobs: 2, ..keep_going() });
    assert_eq!(drive.running(), ["a", "b"]);
    drive.run.on(Event::Stop);
    drive.run.on(Event::Stop);
    drive.answer_questions();
    drive.complete("a");
    drive.complete("b");
    assert!(drive.run.was_stopped());
    let report = drive.end();
    report.ends("a b c d", End::Cancelled);
    assert_eq!(report.ran, Vec::<String>::new());
    assert!(case.world.receipts.is_empty());
    assert_eq!(case.run("c b d").ran.len(), 4);
}

#[test]
fn a_receipt_from_elsewhere_is_backed_by_those_it_was_made_from() {
    let chain = || Flow::default().task("a", "").task("b", "a").task("c", "b");
    let foreign = || {
        let mut case = chain().case().given("c", "a b c");
        case.world.receipts.iter_mut().for_each(|r| r.own = false);
        case.world.accepted.clear();
        case
    };
    let report = foreign().run("c");
    assert_eq!(report.ran, Vec::<String>::new());
    report.ends("c", End::Cached);
    report.unneeded("a b");
    // Without the receipt of a nobody vouches for what c was made from; inputs are looked at.
    let mut case = foreign();
    case.world.keep(&Arc::clone(&case.subject), &["b", "c"]);
    let report = case.run("c");
    assert_eq!(report.ran, ["a"]);
    report.ends("b c", End::CutOff);
}

#[test]
fn a_long_chain_of_receipts_from_elsewhere_is_followed_as_far_as_it_is_bounded() {
    let mut flow = Flow::default().task("t0", "");
    for i in 1..600 {
        flow = flow.task(&format!("t{i}"), &format!("t{}", i - 1));
    }
    let mut case = flow.case();
    case.run("t599");
    case.world.receipts.iter_mut().for_each(|r| r.own = false);
    case.world.accepted.clear();
    let report = case.run("t599");
    assert_eq!(report.ran, Vec::<String>::new());
    report.ends("t599", End::CutOff);
}
