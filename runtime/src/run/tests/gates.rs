//! Goals that are placed only once the checks on them have passed.

use super::*;

/// `p` is published, once `c` and `d` have passed.
fn gated(case: &Case) -> Rules {
    let gates = [(case.idx("p"), case.goals("c d"))].into();
    Rules { place: true, gates, ..keep_going() }
}

#[test]
fn a_goal_is_placed_after_its_checks_and_others_at_once() {
    let mut case = Flow::default().task("p", "").task("c", "p").task("d", "p").task("x", "p").case();
    let rules = Rules { jobs: 1, ..gated(&case) };
    let mut drive = case.drive("p c d x", rules.clone());
    drive.complete("p");
    drive.complete("c");
    assert_eq!(drive.report.placed, ["c"], "`d` has not passed");
    drive.complete("d");
    assert_eq!(drive.report.placed, ["c", "d", "p"]);
    drive.complete("x");
    assert_eq!(drive.end().placed, ["c", "d", "p", "x"]);
    // Checks that passed in an earlier run have passed.
    let report = case.run_with("p c d", rules);
    assert_eq!((report.ran.len(), report.placed.iter().any(|name| name == "p")), (0, true));
}

#[test]
fn a_check_that_fails_or_is_not_made_keeps_a_goal_back() {
    for (does, reads) in [(Does::Fail, "p"), (Does::Hash, "p fails")] {
        let flow = Flow::default().task("p", "").does("fails", Does::Fail, "").task("c", "p");
        let mut case = flow.does("d", does, reads).case();
        let rules = gated(&case);
        let mut drive = case.drive("p c d", rules);
        while let Some(name) = drive.running().first().cloned() {
            drive.complete(&name);
        }
        let (p, d) = (drive.run.subject().workflow.find("p"), drive.run.subject().workflow.find("d"));
        assert_eq!(drive.run.withheld(), [(p.expect("is there"), d.expect("is there"))]);
        let report = drive.end();
        report.ends("p c", End::Ran);
        assert_eq!(report.placed, ["c"]);
    }
}

#[test]
fn what_comes_out_otherwise_when_it_is_made_again_is_checked_again_before_it_is_placed() {
    let mut case = Flow::default().does("p", Does::Vary, "").task("c", "p").task("d", "p").case();
    let rules = gated(&case);
    assert_eq!(case.run_with("p c d", rules.clone()).placed.last().map(String::as_str), Some("p"));
    let subject = Arc::clone(&case.subject);
    case.world.lose(&subject, "p");
    let mut drive = case.drive("p c d", rules);
    assert_eq!(drive.running(), ["p"], "its bytes are gone");
    let before = drive.report.placed.len();
    drive.complete("p");
    assert_eq!(drive.running(), ["c", "d"]);
    drive.complete("c");
    assert!(!drive.report.placed[before..].contains(&"p".to_owned()));
    drive.complete("d");
    assert_eq!(drive.report.placed.last().map(String::as_str), Some("p"));
    drive.end();
}
