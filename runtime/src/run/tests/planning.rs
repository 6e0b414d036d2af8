//! Plans of dry runs in the simulated world.

use super::*;
use crate::plan::{Plan, Planned, Reason, Status};

impl Case {
    fn plan(&mut self, goals: &str, rules: Rules) -> Plan<'static> {
        let goals = self.goals(goals);
        let mut drive = Drive::new(&mut self.world, &self.subject, &goals, Rules { dry: true, ..rules });
        drive.answer_questions();
        assert!(drive.run.is_done() && drive.report.ran.is_empty());
        Plan::of(Box::leak(Box::new(drive.run.clone())))
    }
}

/// Name, status and reason of each task, one line each.
fn lines(plan: &Plan<'_>) -> Vec<String> {
    let line = |t: Planned| {
        let status = serde_json::to_value(t.status).expect("a name");
        let reason = t.reason.as_ref().map(|r| serde_json::to_value(r).expect("a map")["kind"].clone());
        let waits =
            if t.waits_for.is_empty() { String::new() } else { format!(" waits for {}", t.waits_for.join(", ")) };
        let reason = reason.map_or(String::new(), |r| format!(": {}", r.as_str().expect("text")));
        format!("{} {}{reason}{waits}", t.name, status.as_str().expect("text"))
    };
    plan.tasks.iter().map(line).collect()
}

/// One task.
fn line(plan: &Plan<'_>, n: usize) -> Planned {
    plan.tasks.iter().nth(n).expect("there are so many")
}

/// a->b->c->d, a->e, x, and y after x.
fn flow() -> Flow {
    let flow = Flow::default().does("a", Does::Half, "").task("b", "a").task("c", "b").task("d", "c");
    flow.task("e", "a/p").task("x", "").after("y", "", "x")
}

#[test]
fn nothing_known_everything_to_do() {
    let plan = flow().case().plan("d e y", keep_going());
    let expect = [
        "a certain: no-receipt",
        "b conditional: no-receipt waits for a",
        "c conditional: no-receipt waits for b",
        "d conditional: no-receipt waits for c",
        "e conditional: no-receipt waits for a",
        "x certain: no-receipt",
        "y certain: no-receipt waits for x",
    ];
    assert_eq!(lines(&plan), expect);
    let texts = |names: &[&str]| names.iter().map(|n| Text::from(*n)).collect::<Vec<_>>();
    assert_eq!(plan.resume, texts(&["a", "x", "y"]));
    assert_eq!(plan.batches, [texts(&["a", "x"]), texts(&["b", "e", "y"]), texts(&["c"]), texts(&["d"])]);
    assert_eq!(plan.critical_path, texts(&["a", "b", "c", "d"]));
    assert_eq!((plan.critical_path_ms, plan.total_ms), (None, None));
}

#[test]
fn everything_known_nothing_to_do() {
    let mut case = flow().case().given("d e y", "a b c d e x y");
    let plan = case.plan("d e y", keep_going());
    let expect = ["a unneeded", "b unneeded", "c unneeded", "d cached", "e cached", "x unneeded", "y cached"];
    assert_eq!(lines(&plan), expect);
    assert!(plan.batches.is_empty() && plan.resume.is_empty() && plan.critical_path.is_empty());
    assert_eq!((plan.counts.cached, plan.counts.unneeded), (3, 4));
    assert!(plan.tasks.iter().all(|t| t.receipt.is_some() == (t.status == Status::Cached)));
}

#[test]
fn a_change_upstream_makes_the_rest_conditional_and_cut_off_where_values_are_known() {
    let with = |source| {
        let flow = Flow::default().with("a", Does::Same, source, "", |_| {}).task("b", "a");
        flow.task("c", "b").with("k", Does::Same, 3, "", |_| {}).task("m", "k")
    };
    let mut case = with(1).case().given("c m", "a b c k m").edited(with(2));
    let expect = [
        "a certain: no-receipt",
        "b conditional: no-receipt waits for a",
        "c conditional: no-receipt waits for b",
        "k unneeded",
        "m cached",
    ];
    assert_eq!(lines(&case.plan("c m", keep_going())), expect);
    // Once a has run, b and c are cut off; here only a is asked for.
    case.run("a");
    let plan = case.plan("c m", keep_going());
    assert_eq!(lines(&plan), ["a cached", "b cut-off", "c cut-off", "k unneeded", "m cached"]);
}

#[test]
fn durations_tell_the_longest_way() {
    let rules = Rules { expected_ms: vec![10, 20, 30, 40, 500, 70, 80], ..keep_going() };
    let plan = flow().case().plan("d e y", rules);
    assert_eq!(plan.critical_path, ["a".into(), "e".into()]);
    assert_eq!((plan.critical_path_ms, plan.total_ms), (Some(510), Some(750)));
    assert_eq!(line(&plan, 1).expected_ms, Some(20));
}

#[test]
fn forced_tasks_and_what_depends_on_them() {
    let mut case = flow().case().given("d e y", "a b c d e x y");
    let force = vec![case.idx("b")];
    let expect = [
        "a cached",
        "b certain: forced",
        "c conditional: inputs-may-change waits for b",
        "d conditional: inputs-may-change waits for c",
        "e cached",
    ];
    let plan = case.plan("d e", Rules { force, ..keep_going() });
    assert_eq!(lines(&plan), expect);
    assert_eq!(plan.resume, ["b".into()]);
    // A forced task that waits for another will run, whatever that comes out as.
    let force = vec![case.idx("b"), case.idx("c")];
    let plan = case.plan("d", Rules { force, ..keep_going() });
    assert_eq!((line(&plan, 2).status, line(&plan, 2).resume), (Status::Certain, false));
}

#[test]
fn missing_bytes_are_made_again() {
    let mut case = flow().case().given("d", "a b c");
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "c");
    let expect = ["a unneeded", "b cached", "c certain: bytes-missing", "d conditional: no-receipt waits for c"];
    let plan = case.plan("d", keep_going());
    assert_eq!(lines(&plan), expect);
    assert!(line(&plan, 2).invocation.is_some(), "its inputs are settled");
}

#[test]
fn a_receipt_made_from_other_outputs_is_told_from_none() {
    let flow = Flow::default().does("a", Does::Vary, "").task("b", "a");
    let mut case = flow.case().given("b", "a b");
    let force = vec![case.idx("a")];
    case.run_with("a", Rules { force, ..keep_going() });
    assert_eq!(lines(&case.plan("b", keep_going())), ["a cached", "b certain: other-inputs"]);
}

#[test]
fn equal_work_is_planned_once() {
    let flow = Flow::default().does("a", Does::Same, "").with("b", Does::Same, 42, "", |_| {});
    let flow = flow.with("u", Does::Hash, 1, "a", |_| {}).with("v", Does::Hash, 1, "b", |_| {});
    let mut case = flow.case();
    case.run("a b");
    let plan = case.plan("u v", keep_going());
    assert_eq!(lines(&plan), ["a cached", "b cached", "u certain: no-receipt", "v conditional: same-as waits for u"]);
    assert_eq!(line(&plan, 3).reason, Some(Reason::SameAs { task: "u".into() }));
}

#[test]
fn two_names_of_one_task_are_one_entry() {
    let flow = Flow::default().with("x", Does::Hash, 5, "", |_| {}).with("y", Does::Hash, 5, "", |_| {});
    let plan = flow.task("u", "y").case().plan("y u", keep_going());
    assert_eq!(lines(&plan), ["x certain: no-receipt", "u conditional: no-receipt waits for x"]);
    assert_eq!(line(&plan, 0).also, ["y".into()]);
    assert!(line(&plan, 0).goal);
}

#[test]
fn tasks_of_other_workflows_block() {
    let there = Flow::default().task("e", "").case();
    let mut flow = Flow::default();
    flow.workflow.add_external("e", there.subject.ids.of(there.idx("e"))).expect("new name");
    let plan = flow.task("u", "e").task("x", "").case().plan("u x", keep_going());
    assert_eq!(lines(&plan), ["e blocked: no-receipt", "u blocked: caused-by", "x certain: no-receipt"]);
}

#[test]
fn recorded_failures_count_where_people_want_that() {
    let mut case = Flow::default().does("t", Does::Fail, "").task("u", "t").task("v", "u").case();
    case.run_with("t", keep_going());
    let rules = Rules { use_failures: true, ..keep_going() };
    let plan = case.plan("v", rules);
    assert_eq!(lines(&plan), ["t failed: failure", "u failed: failure", "v skipped: caused-by"]);
    let plan = case.plan("v", keep_going());
    assert_eq!(plan.counts.certain, 1, "by default they run again");
}

#[test]
fn t33_goals_in_another_order_make_the_same_plan() {
    let mut case = flow().case().given("d", "a c");
    let plan = case.plan("d e y", keep_going());
    let json = |plan| serde_json::to_value(plan).expect("a map");
    assert_eq!(json(plan), json(case.plan("y e d e", keep_going())));
}

#[test]
fn the_json_form_is_as_documented() {
    let mut case = flow().case().given("d e", "a b");
    let rules = Rules { expected_ms: vec![1, 1, 5], ..keep_going() };
    let json = serde_json::to_value(case.plan("d e", rules)).expect("it has a JSON form");
    let task = |i: usize| &json["tasks"][i];
    assert_eq!(task(0)["status"], "cached");
    assert!(task(0)["receipt"].as_str().is_some_and(|id| id.starts_with("bafy")));
    assert_eq!(task(0).get("reason"), None);
    assert_eq!(task(2)["reason"], serde_json::json!({ "kind": "no-receipt" }));
    assert!(task(2)["invocation"].as_str().is_some_and(|id| id.starts_with("bafy")));
    let d = serde_json::json!({
        "name": "d", "task": case.subject.ids.of(case.idx("d")).to_string(), "status": "conditional",
        "resume": false, "goal": true, "reason": { "kind": "no-receipt" }, "waits_for": ["c"], "batch": 1,
    });
    assert_eq!(task(3), &d);
    assert_eq!(json["resume"], serde_json::json!(["c", "e"]));
    assert_eq!(json["batches"], serde_json::json!([["c", "e"], ["d"]]));
    assert_eq!((json["critical_path_ms"].as_u64(), json["total_ms"].as_u64()), (Some(5), Some(5)));
    assert_eq!(json["fetch"], serde_json::json!([]));
    let counts: Vec<&str> = json["counts"].as_object().expect("a map").keys().map(String::as_str).collect();
    let expect = ["blocked", "cached", "certain", "conditional", "cut_off", "failed", "skipped", "unneeded"];
    assert_eq!(counts, expect);
}
