//! The story of `examples/services`: a release that a person approves.

use crate::kit::{TestSpace, needs_ns, needs_programs};

/// Whether its site can be served: in a network of its own, by a small server.
fn can_serve() -> bool {
    needs_ns() && needs_programs(&["perl"])
}

/// Up to the approval, and on with it.
fn release(args: &[&str]) -> TestSpace {
    let space = TestSpace::example("services");
    let ran = space.build(args);
    assert_eq!(ran.output.status, 6, "{}{}", ran.output.stdout, ran.output.stderr);
    assert_eq!((ran.count("ran"), ran.count("blocked"), ran.count("unmet")), (35, 2, 1));
    space.write("yes.txt", "Ada, on Monday\n");
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    let ran = space.build(args);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "announce tally"), "{}", ran.output.stdout);
    space
}

#[test]
fn a_release_waits_for_a_person_and_is_the_same_however_many_work_on_it() {
    if !can_serve() {
        return;
    }
    let space = release(&[]);
    let text = space.read("dist/RELEASE");
    assert!(text.starts_with("shop 1.4.0\nservices/catalog/image/main.sh\n"), "{text}");
    assert!(text.ends_with("approved: Ada, on Monday\n"), "{text}");
    let alone = release(&["-j1"]);
    assert_eq!(alone.read("dist/RELEASE"), text);
    assert_eq!(std::fs::read(alone.path("dist/shop.tar")).ok(), std::fs::read(space.path("dist/shop.tar")).ok());
    // Only what says that a run is over is done again.
    assert_eq!(space.build(&[]).ran(), "tally");
    let list = space.ok(&["list"]).stdout;
    assert!(list.lines().filter(|line| !line.trim().is_empty()).count() >= 30, "{list}");
}

#[test]
fn what_changes_in_one_package_is_built_and_approved_anew() {
    if !can_serve() {
        return;
    }
    let space = release(&[]);
    space.edit("services/web/main.in", "<ul>", "<ul class=orders>");
    space.edit("services/web/unit.expected", "<ul>", "<ul class=orders>");
    let ran = space.build(&[]);
    assert_eq!(ran.output.status, 6, "{}", ran.output.stdout);
    let ran: Vec<String> = ran.ran().split(' ').map(str::to_owned).collect();
    for name in ["web:build", "web:unit", "web:image", "pack", "stage", "try[web]"] {
        assert!(ran.iter().any(|r| r == name), "{name} in {ran:?}");
    }
    assert!(!ran.iter().any(|r| r.starts_with("orders:") || r == "schema:generate"), "{ran:?}");
    // Back again: what was approved is approved.
    space.edit("services/web/main.in", "<ul class=orders>", "<ul>");
    space.edit("services/web/unit.expected", "<ul class=orders>", "<ul>");
    let ran = space.build(&[]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "tally"));
}

#[test]
fn a_failed_check_holds_the_release_up_and_says_so() {
    if !can_serve() {
        return;
    }
    let space = release(&[]);
    space.edit("services/mail/main.in", "Dear", "Your password, dear");
    space.edit("services/mail/unit.expected", "Dear", "Your password, dear");
    space.edit("services/mail/unit.expected", "Dear", "Your password, dear");
    let ran = space.build(&["-k"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str()), (1, "policy"), "{}", ran.output.stdout);
    let ran = ran.ran();
    assert!(ran.contains("alarm") && ran.contains("tally") && !ran.contains("announce"), "{ran}");
}
