//! Receipts there and not there: what runs, what does not, and what is never looked at.

use std::collections::BTreeSet;

use super::*;
use crate::process::{ProcessSpec, Tier};
use crate::run::step::{Event, Notice};
use crate::task::{DEFAULT_SUBJECT, PROCESS};
use crate::value::{On, Value};

/// a->b->c, and x alone.
fn chain() -> Flow {
    Flow::default().task("a", "").task("b", "a").task("c", "b").task("x", "")
}

#[test]
fn t1_a_receipt_of_a_later_task_does_not_hide_that_others_never_ran() {
    let report = chain().case().given("c x", "x").run("c x");
    assert_eq!(report.ran, ["a", "b", "c"]);
    report.ends("x", End::Cached);
}

#[test]
fn t2_only_the_missing_branch_of_a_join_runs() {
    let flow = Flow::default().task("a", "").task("s", "").task("b", "a").task("c", "b s").task("d", "a");
    let report = flow.case().given("c d", "a b d").run("c d");
    assert_eq!(report.ran, ["s", "c"]);
    report.ends("b d", End::Cached);
}

#[test]
fn t3_t4_two_receipts_of_one_task_are_not_receipts_of_two() {
    let flow = || Flow::default().task("x", "").task("y", "");
    let mut case = flow().case().given("x y", "x");
    let force = Rules { force: vec![case.idx("x")], ..keep_going() };
    assert_eq!(case.run_with("x", force).ran, ["x"]);
    assert_eq!(case.world.receipts.len(), 2, "two receipts of x");
    assert_eq!(case.run("x y").ran, ["y"]);
    assert_eq!(case.world.receipts.len(), 3);
    assert_eq!(case.run("x y").ran, Vec::<String>::new());
}

fn fetch(flow: Flow, name: &str, does: Does) -> Flow {
    flow.with(name, does, source_of(name), "", |node| {
        let Work::Task(task) = &mut node.work else { unreachable!("a task") };
        task.cmd = "/quipu/fetch".into();
    })
}

#[test]
fn t5_only_what_remaining_tasks_need_is_fetched() {
    let flow = fetch(fetch(Flow::default(), "p", Does::Same), "q", Does::Same).task("x", "p").task("y", "q");
    let report = flow.case().given("x y", "x").run("x y");
    assert_eq!(report.ran, ["q", "y"]);
    report.ends("x", End::Cached);
    report.unneeded("p");
}

#[test]
fn t6_inputs_of_a_settled_goal_are_not_run_and_goals_are_asked_for_themselves() {
    let mut case = chain().case().given("c", "c");
    let report = case.run("c");
    assert_eq!(report.ran, Vec::<String>::new());
    report.ends("c", End::Cached);
    report.unneeded("a b");
    assert!(!report.looked_up.contains("a"), "not even looked up");
    assert_eq!(case.run("b").ran, ["a", "b"]);
}

#[test]
fn t9_a_change_that_changes_nothing_stops_there() {
    let flow = |source| {
        let flow = Flow::default().with("a", Does::Same, source, "", |_| {});
        flow.task("b", "a").task("c", "b").task("d", "a")
    };
    let case = flow(1).case().given("c d", "a b c d");
    let mut case = case.edited(flow(2));
    let report = case.run("c d");
    assert_eq!(report.ran, ["a"]);
    report.ends("b c d", End::CutOff);
    assert_eq!(report.diverged(), 0, "another task, not another outcome of the same");
    case.run("c d").ends("c d", End::Cached);
}

#[test]
fn t10_only_consumers_of_the_changed_part_run() {
    let flow = |source| {
        let flow = Flow::default().with("a", Does::Dir, source, "", |_| {});
        flow.task("o", "a/o").task("p", "a/p").task("x", "a/d/x").task("y", "a/d/y").task("d", "a/d")
    };
    let goals = "o p x y d";
    let report = flow(1).case().given(goals, "a o p x y d").edited(flow(2)).run(goals);
    assert_eq!(report.ran_sorted(), ["a", "d", "o", "x"]);
    report.ends("p y", End::CutOff);
}

#[test]
fn t13_of_two_outcomes_one_is_chosen_always_the_same_way_and_people_are_told() {
    let flow = || Flow::default().does("x", Does::Vary, "").task("y", "x");
    for own in [None, Some(0), Some(1), Some(2)] {
        let mut case = flow().case();
        for _ in 0..3 {
            let rules = Rules { force: vec![case.idx("x")], ..keep_going() };
            case.run_with("x", rules);
        }
        for (rec, rank) in case.world.receipts.iter_mut().zip([2, 1, 1]) {
            (rec.own, rec.rank) = (false, rank);
        }
        if let Some(own) = own {
            case.world.receipts[own].own = true;
        }
        case.world.accepted.clear();
        let chosen = case.world.receipts[own.unwrap_or(1)].id;
        let mut stopped = Case { subject: Arc::clone(&case.subject), world: case.world.clone() };

        let report = case.run("x");
        report.ends("x", End::Cached);
        assert_eq!(report.receipts["x"], Some(chosen), "own first, then trust, then age");
        assert_eq!(report.diverged(), 1);

        let mut drive = stopped.drive("y", Rules { fail_on_divergence: true, ..keep_going() });
        drive.answer_questions();
        assert!(drive.run.stopped_by_divergence());
        assert_eq!(drive.running(), Vec::<String>::new());
        drive.end().ends("y", End::Cancelled);
    }
}

#[test]
fn t19_a_task_of_another_workflow_is_settled_by_its_receipt() {
    // There, e awaits d; here, only e is known, and only by its id.
    let there = Flow::default().task("d", "").task("e", "d").case().given("e", "d e");
    let id = there.subject.ids.of(there.idx("e"));
    for is_ours in [true, false] {
        let mut flow = Flow::default();
        flow.workflow.add_external("e", id).expect("new name");
        let flow = flow.task("u", "e").task("x", "");
        let mut case = Case { world: there.world.clone(), ..flow.case() };
        if !is_ours {
            case.world.receipts.iter_mut().for_each(|r| r.own = false);
            case.world.accepted.clear();
        }
        let report = case.run("u x");
        assert_eq!(report.ran_sorted(), ["u", "x"]);
        report.ends("e", End::Cached);
    }
}

#[test]
fn t19_a_task_of_another_workflow_without_receipt_blocks_its_dependents_only() {
    let there = Flow::default().task("e", "").case();
    let mut flow = Flow::default();
    flow.workflow.add_external("e", there.subject.ids.of(there.idx("e"))).expect("new name");
    let flow = flow.task("u", "e").task("v", "u").task("x", "").after("w", "", "v");
    let mut case = flow.case();
    let report = case.run("v x w");
    assert_eq!(report.ran, ["x"]);
    report.ends("e u v w", End::Blocked { cause: case.idx("e") });
    assert_eq!(report.counts.blocked, 4);
    // One more receipt, and the rest runs.
    let mut more = there;
    more.run("e");
    more.world.receipts.append(&mut case.world.receipts);
    case.world.accepted.extend(more.world.accepted.drain());
    case.world.receipts = more.world.receipts;
    case.world.blobs.extend(more.world.blobs);
    assert_eq!(case.run("v x w").ran, ["u", "v", "w"]);
}

#[test]
fn t20_promises_anywhere_in_the_arguments_are_edges_and_are_replaced_in_place() {
    let flow = Flow::default().task("a", "").task("b", "").task("c", "").task("d", "").task("e", "");
    let at = |name: &str| Value::promise(Branch::Ok, On::Here(flow.find(name)), ["outputs", "o"]);
    let spec = ProcessSpec {
        steps: vec![vec!["cat".into(), at("a")], vec![Value::list([Value::list([at("b")])])]],
        env: [("VERSION".into(), at("c"))].into(),
        dir: "".into(),
        stdin: Some(at("d")),
        stdout: None,
        depfile: None,
        sources: None,
        inputs: [("gen/e.h".into(), at("e"))].into(),
        outputs: vec![],
        platform: ("linux".into(), "x86_64".into()),
        tools: [].into(),
        tier: Tier::None,
        network: false,
        secrets: Vec::new(),
        services: vec![],
    };
    let task = Task {
        sub: DEFAULT_SUBJECT.into(),
        cmd: PROCESS.into(),
        args: spec.to_args().expect("distinct keys"),
        nonce: Box::default(),
    };
    let mut flow = flow;
    flow.workflow.add("u", task).expect("new name");
    let mut case = flow.case();
    assert_eq!(case.subject.inputs(case.idx("u")).len(), 5);
    let report = case.run("u");
    assert_eq!(report.ran_sorted(), ["a", "b", "c", "d", "e", "u"]);
    assert_eq!(report.staged, BTreeSet::from(["a", "b", "c", "d", "e"].map(String::from)));
    let args = ProcessSpec::from_args(&report.invocations["u"].args).expect("arguments of a process");
    let mut promises = 0;
    report.invocations["u"].args.promises(&mut |_| promises += 1);
    assert_eq!(promises, 0);
    let is_file = |v: &Value| v.get("kind") == Some(&Value::from("file"));
    assert!(is_file(&args.steps[0][1]) && is_file(&args.env["VERSION"]) && is_file(&args.inputs["gen/e.h"]));
    assert!(args.stdin.as_ref().is_some_and(is_file));
    let Value::List(outer) = &args.steps[1][0] else { panic!("a list") };
    assert!(matches!(&outer[0], Value::List(inner) if is_file(&inner[0])));
}

#[test]
fn t21_a_link_to_a_task_is_data() {
    let flow = Flow::default().task("a", "");
    let id = subject(flow.workflow.clone()).ids.of(flow.find("a"));
    let flow = flow.with("u", Does::Hash, 1, "", |node| {
        let Work::Task(task) = &mut node.work else { unreachable!("a task") };
        task.args = Value::list([id.link().into()]);
    });
    let report = flow.case().run("u");
    assert_eq!(report.ran, ["u"]);
    assert!(!report.looked_up.contains("a"));
    assert_eq!(report.invocations["u"].args, Value::list([id.link().into()]));
}

#[test]
fn t22_one_task_under_two_names_runs_once_and_both_names_settle() {
    let same = |flow: Flow, name: &str| flow.with(name, Does::Hash, 5, "", |_| {});
    let flow = same(same(Flow::default(), "x"), "y").task("u", "x").task("v", "y").task("w", "x y");
    let mut case = flow.case();
    let report = case.run("y x u v w");
    assert_eq!(report.ran_sorted(), ["u", "v", "w", "x"]);
    report.ends("x y", End::Ran);
    assert_eq!(report.outputs["x"], report.outputs["y"]);
    assert_eq!(report.counts.ran, 4);
}

#[test]
fn t22_order_only_edges_of_either_name_count() {
    let flow = Flow::default().task("w", "").with("x", Does::Hash, 5, "", |_| {});
    let w = flow.find("w");
    let flow = flow.with("y", Does::Hash, 5, "", |node| node.after = [w].into());
    assert_eq!(flow.case().run("x").ran, ["w", "x"]);
}

#[test]
fn t23_equal_invocations_run_once_and_both_tasks_are_remembered() {
    let flow = Flow::default().does("a", Does::Same, "").with("b", Does::Same, 99, "", |_| {});
    let flow = flow.with("u", Does::Hash, 1, "a", |_| {}).with("v", Does::Hash, 1, "b", |_| {});
    for seed in 1..40 {
        let mut case = Flow { workflow: flow.workflow.clone() }.case();
        let goals = case.goals("u v");
        let report = case.world.run(&case.subject, &goals, keep_going(), &mut Dice(seed));
        assert_eq!(report.ran.len(), 3, "a, b and one of u and v");
        assert_eq!(report.receipts["u"], report.receipts["v"]);
        let rec = case.world.receipts.iter().find(|r| Some(r.id) == report.receipts["u"]).expect("recorded");
        assert_eq!(rec.tasks.len(), 2, "it settles both");
        assert!(rec.tasks.values().all(|via| via.len() == 1), "each with what it was made from");
        case.run("u v").ends("u v", End::Cached);
    }
}

#[test]
fn t24_what_another_process_did_meanwhile_is_taken() {
    let mut case = Flow::default().task("a", "").task("b", "a").case();
    let mut elsewhere = World { clock: 1000, ..World::default() };
    let goals = case.goals("a");
    elsewhere.run(&case.subject, &goals, keep_going(), &mut Dice(3));
    let mut drive = case.drive("b", keep_going());
    assert_eq!(drive.running(), ["a"]);
    drive.world.receipts.append(&mut elsewhere.receipts);
    drive.world.blobs.append(&mut elsewhere.blobs);
    drive.complete("a");
    drive.complete("b");
    let report = drive.end();
    assert_eq!(report.ran, ["b"]);
    report.ends("a", End::CutOff);
    case.run("b").ends("b", End::Cached);
}

#[test]
fn t27_a_task_that_is_never_cached_runs_in_each_session_once() {
    let flow = Flow::default().with("a", Does::Same, 1, "", |node| policy_of(node).cache = false).task("b", "a");
    let mut case = flow.case();
    case.world.session = Some(1);
    let mut drive = case.drive("a b", Rules { jobs: 1, ..Rules::default() });
    drive.complete("a");
    assert_eq!(drive.running(), ["b"]);
    drop(drive);
    // Killed before b ended; the same session goes on.
    let report = case.run_with("a b", keep_going());
    assert_eq!(report.ran, ["b"]);
    report.ends("a", End::Cached);
    // Another session, then no session at all.
    for session in [Some(2), None] {
        case.world.session = session;
        let report = case.run_with("a b", keep_going());
        assert_eq!(report.ran, ["a"]);
        report.ends("b", End::Cached);
    }
    case.run_with("b", keep_going()).unneeded("a");
}

#[test]
fn t28_forcing_a_task_whose_output_is_equal_disturbs_nobody() {
    let mut case = chain().case().given("c x", "a b c x");
    let rules = Rules { force: vec![case.idx("a")], ..keep_going() };
    let report = case.run_with("c x", rules);
    assert_eq!(report.ran, ["a"]);
    assert_eq!(report.diverged(), 0);
    report.ends("b c", End::CutOff);
    report.ends("x", End::Cached);
}

#[test]
fn t28_forcing_a_task_whose_output_differs_is_a_divergence_and_dependents_follow() {
    let flow = Flow::default().does("a", Does::Vary, "").task("b", "a").task("c", "b");
    let mut case = flow.case().given("c", "a b c");
    let rules = Rules { force: vec![case.idx("a")], ..keep_going() };
    let report = case.run_with("c", rules.clone());
    assert_eq!(report.ran, ["a", "b", "c"]);
    assert!(report.diverged() > 0);
    assert_eq!(case.run("c").ran, Vec::<String>::new(), "the new outcome is what this store goes by");
    let mut drive = case.drive("c", Rules { fail_on_divergence: true, ..rules });
    drive.complete("a");
    assert!(drive.run.stopped_by_divergence());
    assert_eq!(drive.running(), Vec::<String>::new());
}

#[test]
fn t30_a_receipt_that_arrives_while_its_task_is_queued_spares_the_work() {
    let flow = || Flow::default().task("a", "").task("b", "");
    let mut elsewhere = flow().case();
    elsewhere.run("b");
    for forced in [false, true] {
        let mut case = flow().case();
        case.world.receipts = elsewhere.world.receipts.clone();
        let candidate = case.world.candidates(None, |_| true).remove(0);
        case.world.receipts.clear();
        let force = if forced { vec![case.idx("b")] } else { vec![] };
        let b = case.idx("b");
        let mut drive = case.drive("a b", Rules { jobs: 1, force, ..Rules::default() });
        assert_eq!(drive.running(), ["a"]);
        drive.world.receipts = elsewhere.world.receipts.clone();
        drive.run.on(Event::Arrived { task: b, candidate });
        drive.answer_questions();
        drive.complete("a");
        assert_eq!(drive.running(), if forced { vec!["b"] } else { vec![] }, "forced tasks run all the same");
        if !forced {
            let report = drive.end();
            report.ends("b", End::CutOff);
            assert!(report.notices.iter().any(|n| matches!(n, Notice::Ended { end: End::CutOff, .. })));
        }
    }
}

#[test]
fn t31_what_is_no_ingredient_changes_nothing() {
    let case = chain().case().given("c", "a b c");
    let flow = Flow::default().with("renamed", Does::Hash, source_of("a"), "", |node| {
        *policy_of(node) = Policy {
            timeout: Some(std::time::Duration::from_secs(1)),
            retries: 3,
            slots: [("".into(), 2), ("gpu".into(), 1)].into(),
            mute: true,
            ..Policy::default()
        };
    });
    let mut case = case.edited(flow.task("b", "renamed").task("c", "b"));
    let report = case.run("c renamed");
    assert_eq!(report.ran, Vec::<String>::new());
    report.ends("c renamed", End::Cached);
}

#[test]
fn t32_nothing_to_do() {
    let mut empty = Flow::default().case();
    assert_eq!(empty.run("").counts, super::super::Counts::default());
    let report = chain().case().given("c x", "a b c x").run("c x a b");
    assert_eq!((report.ran.len(), report.counts.cached), (0, 4));
}

#[test]
fn t33_the_order_of_tasks_and_goals_does_not_matter() {
    let flow = |names: [&str; 3], source: i64| {
        let mut flow = Flow::default();
        for name in names {
            flow = flow.with(name, Does::Collapse, source, "", |_| {});
        }
        flow.task("j", "a b c").task("k", "j a")
    };
    let orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]];
    let reference = flow(orders[0], 1).case().given("k", "a b c j k");
    let mut seen = BTreeSet::new();
    for names in orders {
        for goals in ["k j", "j k", "k j k"] {
            let mut case = Case { world: reference.world.clone(), ..flow(names, 2).case() };
            let report = case.run(goals);
            let outputs: Vec<_> = ["j", "k"].iter().map(|n| report.outputs[*n]).collect();
            let ids: Vec<_> = ["a", "b", "c", "j", "k"].iter().map(|n| case.subject.ids.of(case.idx(n))).collect();
            seen.insert((format!("{outputs:?} {ids:?} {:?}", report.counts), report.ran.len()));
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
}
