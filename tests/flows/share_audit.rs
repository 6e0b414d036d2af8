//! Work of others done again and compared.

use crate::kit::{TestSpace, has_ns};

/// What `sum` makes depends on a file that it does not declare: two machines differ, as they would with a forger.
const TASKS: &str = r#"
[task.gen]
run = "mkdir -p gen && cp in gen/a"
inputs = ["in"]
outputs = ["gen/"]
sandbox = "none"
[task.sum]
run = "mkdir -p out && cat gen/a ../undeclared > out/sum && echo same > out/other"
inputs = []
needs = ["gen"]
outputs = ["out/"]
sandbox = "none"
"#;

fn machine(number: u8, undeclared: &str) -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.use_key(number);
    space.write("in", "text\n");
    std::fs::write(space.beside("undeclared"), undeclared).expect("is written");
    space
}

/// A machine that goes by what another one did, which had `theirs` where it has `ours`.
fn trusting(theirs: &str, ours: &str) -> TestSpace {
    let one = machine(1, theirs);
    one.build_twice(&[]);
    one.ok(&["export", "--all", "-o", "../x.car"]);
    let two = machine(2, ours);
    let did = one.ok(&["key", "show"]).stdout;
    two.ok(&["trust", "add", "one", did.trim()]);
    two.ok(&["import", one.beside("x.car").to_str().expect("text")]);
    assert_eq!(two.build(&[]).ran(), "");
    two
}

#[test]
fn honest_work_is_the_same_again_and_nothing_changes() {
    let two = trusting("x", "x");
    let before = two.read("out/sum");
    let audit = two.ok(&["audit"]);
    assert_eq!(audit.stdout, "same     gen  (by one)\nsame     sum  (by one)\n");
    assert!(audit.stderr.contains("2 of 2 receipts made elsewhere repeated"), "{}", audit.stderr);
    assert_eq!(two.read("out/sum"), before);
    let explained = two.ok(&["explain", "sum"]).stdout;
    assert!(explained.contains("\n  made by `one`, 20"), "{explained}");
    two.nothing_to_do(&[]);
}

#[test]
fn a_lie_is_found_told_and_replaces_nothing() {
    let two = trusting("forged", "honest");
    let audit = two.run(&["audit"]);
    assert_eq!(audit.status, 5, "{}", audit.shown());
    assert!(audit.stdout.contains("same     gen"), "{}", audit.stdout);
    assert!(audit.stdout.contains("differs  sum  (by one, receipt bafyr4i"), "{}", audit.stdout);
    assert!(
        audit.stdout.contains("         `out/sum` differs at byte 5: bafkr4i") && !audit.stdout.contains("out/other"),
        "{}",
        audit.stdout
    );
    assert!(audit.stderr.contains("`quipu trust remove one`"), "{}", audit.stderr);
    // What counts is for a person to decide.
    assert_eq!(two.read("out/sum"), "text\nforged");
    assert_eq!(two.build(&[]).ran(), "");
    two.ok(&["trust", "remove", "one"]);
    assert_eq!(two.build(&[]).ran(), "gen sum");
    assert_eq!(two.read("out/sum"), "text\nhonest");
    assert_eq!(two.ok(&["audit"]).stdout, "", "nothing made elsewhere is gone by any more");
}

#[test]
fn what_was_accepted_stays_in_place_whatever_the_sandbox() {
    for tier in ["none", "landlock", "ns"] {
        let works = match tier {
            "none" => true,
            "ns" => has_ns(),
            _ => quipu_runtime::exec::sandbox::landlock().is_ok(),
        };
        if !works {
            continue;
        }
        let tasks =
            format!("[task.now]\nrun = 'date +%s%N > now'\ninputs = []\noutputs = ['now']\nsandbox = '{tier}'\n");
        let (one, two) = (TestSpace::new(&tasks), TestSpace::new(&tasks));
        one.build_twice(&[]);
        one.ok(&["export", "--all", "-o", "../x.car"]);
        two.use_key(2);
        two.ok(&["trust", "add", "one", one.ok(&["key", "show"]).stdout.trim()]);
        two.ok(&["import", one.beside("x.car").to_str().expect("text")]);
        assert_eq!(two.build(&[]).ran(), "");
        assert_eq!(two.run(&["audit"]).status, 5, "{tier}");
        assert_eq!(two.read("now"), one.read("now"), "{tier}");
        two.nothing_to_do(&[]);
    }
}

#[test]
fn a_sample_of_nothing_looks_at_nothing() {
    let two = trusting("forged", "honest");
    let audit = two.ok(&["audit", "--sample", "0%"]);
    assert_eq!(audit.stdout, "");
    assert!(audit.stderr.contains("0 of 2 receipts"), "{}", audit.stderr);
    assert_eq!(two.run(&["audit", "--sample", "2"]).status, 2);
}
