//! Work that is done elsewhere: a run ends without it, waits for it, survives it, and goes on when it is delivered.

use crate::kit::{Ran, TestSpace};

const RELEASE: &str = r#"
[workspace]
sandbox = "none"

[task.build]
run = "cat source > app"
inputs = ["source"]
outputs = ["app"]

[task.approval]
external = true
needs = ["build"]
outputs = ["approval.txt"]

[task.ticket]
external = true

[task.test]
run = "cat app"
inputs = ["app"]

[task.publish]
run = "echo $(cat approval.txt) {{needs.ticket.stdout}} > published"
inputs = ["approval.txt"]
outputs = ["published"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(RELEASE);
    space.write("source", "one\n");
    space
}

fn ends(ran: &Ran) -> (i32, String, u64) {
    let mut names: Vec<&str> = vec![];
    let text = ran.ended("blocked");
    names.extend(text.split(' '));
    names.sort_unstable();
    (ran.output.status, names.join(" "), ran.count("failed"))
}

#[test]
fn a_run_ends_without_it_and_goes_on_when_it_is_there() {
    let space = space();
    let ran = space.build(&[]);
    assert_eq!(ends(&ran), (6, "approval publish ticket".to_owned(), 0), "{}", ran.output.stderr);
    assert_eq!(ran.ran(), "build test", "everything else was done");
    let output = space.run(&["run"]);
    assert_eq!(output.status, 6);
    let told = "suspended, waiting for 2: approval, ticket\nhelp: `quipu deliver approval --ok FILE`, or `--error TEXT`, says \
                what came out\n";
    assert!(output.stderr.ends_with(told), "{}", output.stderr);
    let text = space.ok(&["plan"]).stdout;
    assert!(text.contains("it is done elsewhere, and nobody has delivered it"), "{text}");

    space.write("yes.txt", "yes, by Ada\n");
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    assert_eq!(ends(&space.build(&[])), (6, "publish ticket".to_owned(), 0));
    space.write("no.txt", "T-17\n");
    space.ok(&["deliver", "ticket", "--ok", "no.txt"]);
    let ran = space.build_twice(&[]);
    assert_eq!(ran.ran(), "publish");
    assert_eq!(space.read("published"), "yes, by Ada T-17\n");
    assert_eq!(space.read("approval.txt"), "yes, by Ada\n");
}

#[test]
fn what_was_delivered_holds_for_what_it_was_delivered_for() {
    let space = space();
    space.write("yes.txt", "yes\n");
    space.build(&[]);
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    space.ok(&["deliver", "ticket", "--ok", "yes.txt"]);
    space.build_twice(&[]);
    // Another build is approved anew; the ticket does not hang on it.
    space.write("source", "two\n");
    assert_eq!(ends(&space.build(&[])), (6, "approval publish".to_owned(), 0));
    space.write("yes.txt", "yes again\n");
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    space.build_twice(&[]);
    assert_eq!(space.read("published"), "yes again yes\n");
    space.write("source", "one\n");
    assert_eq!(space.build_twice(&[]).ran(), "", "what was approved once stays so");
    assert_eq!(space.read("published"), "yes yes\n");
}

#[test]
fn an_error_fails_it_until_somebody_delivers_better_news() {
    let space = space();
    space.build(&[]);
    space.write("yes.txt", "yes\n");
    space.ok(&["deliver", "ticket", "--ok", "yes.txt"]);
    space.ok(&["deliver", "approval", "--error", "not before Monday"]);
    for _ in 0..2 {
        let ran = space.build(&["-k"]);
        assert_eq!(
            (ran.output.status, ran.ended("failed").as_str(), ran.ended("skipped").as_str()),
            (1, "approval", "publish")
        );
        let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
        assert_eq!((&failed["reason"], &failed["failure"]), (&"not before Monday".into(), &"delivered".into()));
    }
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    space.build_twice(&[]);
}

#[test]
fn a_run_that_waits_goes_on_by_itself_and_holds_no_slot() {
    let space = space();
    space.write("yes.txt", "yes\n");
    let mut running = space.start(&["--wait", "-j1"]);
    // The only slot is free for others, though two tasks wait. What is recorded last was done last.
    running.wait_for("recorded", "test");
    space.ok(&["deliver", "ticket", "--ok", "yes.txt"]);
    running.wait_for("task-ended", "ticket");
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    let ran = running.end();
    assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    assert_eq!(space.read("published"), "yes yes\n");
    space.nothing_to_do(&[]);
}

#[test]
fn what_is_delivered_is_seen_while_others_keep_the_run_busy() {
    // Some task ends again and again, until the delivery was seen.
    let busy = |i: u32| {
        let after = if i > 0 { format!("after = ['busy{}']\n", i - 1) } else { String::new() };
        format!("[task.busy{i}]\nrun = 'test -e ../seen || sleep 0.1; : {i}'\ninputs = []\n{after}")
    };
    let tasks = RELEASE.replace("echo $(cat approval.txt)", "echo > ../seen; echo $(cat approval.txt)");
    let tasks = tasks + &(0..150).map(busy).collect::<String>();
    let space = TestSpace::new(&tasks);
    space.write("source", "one\n");
    space.write("yes.txt", "yes\n");
    let mut running = space.start(&["--wait", "-j2"]);
    running.wait_for("recorded", "build");
    space.ok(&["deliver", "ticket", "--ok", "yes.txt"]);
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    let ran = running.end();
    assert_eq!(ran.output.status, 0, "{}", ran.output.stderr);
    let ended = |name: &str| ran.events.iter().position(|e| e["event"] == "task-ended" && e["task"] == name);
    assert!(ended("publish") < ended("busy149"), "{:?} {:?}", ended("publish"), ended("busy149"));
}

#[test]
fn what_was_delivered_is_signed_and_counts_as_its_signer_does() {
    let (space, other) = (space(), space());
    other.use_key(2);
    other.write("yes.txt", "yes, by Grace\n");
    other.build(&["build"]);
    other.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    other.ok(&["export", "--all", "--logs", "-o", "../approved.car", "approval"]);
    let car = other.beside("approved.car");
    space.build(&["build"]);
    space.ok(&["import", car.to_str().expect("is text")]);
    assert_eq!(ends(&space.build(&["approval"])), (6, "approval".to_owned(), 0), "nobody here trusts who signed it");
    space.ok(&["trust", "add", "grace", other.ok(&["key", "show"]).stdout.trim()]);
    assert_eq!(space.build(&["approval"]).output.status, 0);
    assert_eq!(space.read("approval.txt"), "yes, by Grace\n");
    space.nothing_to_do(&["approval"]);
}

#[test]
fn waiting_ends_on_request_and_a_killed_run_loses_nothing() {
    use rustix::process::Signal;
    let space = space();
    for signal in [Signal::INT, Signal::KILL] {
        let mut running = space.start(&["--wait"]);
        running.wait_for("recorded", "test");
        running.signal(signal);
        let ran = running.end();
        if signal == Signal::INT {
            assert_eq!((ran.output.status, ran.count("cancelled")), (130, 3));
            space.edit("quipu.toml", "cat app\"", "cat app app\"");
        }
    }
    space.write("yes.txt", "yes\n");
    space.ok(&["deliver", "ticket", "--ok", "yes.txt"]);
    space.ok(&["deliver", "approval", "--ok", "yes.txt"]);
    assert_eq!(space.build_twice(&[]).ran(), "publish");
}

#[test]
fn what_cannot_be_delivered_is_said() {
    let space = space();
    space.write("yes.txt", "");
    for (args, message) in [
        (&["deliver", "build", "--ok", "yes.txt"][..], "task `build` is not done elsewhere"),
        (
            &["deliver", "approval", "--ok", "yes.txt"],
            "what `approval` needs is not there yet: run `quipu run approval` first",
        ),
        (&["deliver", "approval", "--ok", "nothing.txt"], "`nothing.txt` is not a file"),
        (&["deliver", "nobody", "--ok", "yes.txt"], "`nobody`"),
        (&["deliver", "approval"], "required"),
    ] {
        let output = space.run(args);
        assert_eq!(output.status, 2, "{args:?}");
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
    space
        .write("quipu.toml", "[task.a]\nexternal = true\nrun = 'x'\n[task.b]\nexternal = true\noutputs = ['a', 'b']\n");
    let output = space.run(&["plan"]);
    for message in
        ["task `a` has `external`, and `run` beside it", "task `b` is done elsewhere, and makes more than one file"]
    {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}

#[test]
fn a_success_is_final() {
    let space = space();
    space.build(&[]);
    space.write("yes.txt", "yes\n");
    space.write("no.txt", "no\n");
    space.ok(&["deliver", "ticket", "--ok", "yes.txt"]);
    let delivered = space.ok(&["deliver", "approval", "--ok", "yes.txt"]).stderr;
    let again = space.ok(&["deliver", "approval", "--ok", "yes.txt"]).stderr;
    let receipt = |said: &str| said.trim().rsplit(' ').next().map(str::to_owned);
    assert!(again.starts_with("approval was delivered before, just so: "), "{again}");
    assert_eq!(receipt(&again), receipt(&delivered));
    for later in [["--error", "revoked"], ["--ok", "no.txt"]] {
        let output = space.run(&[&["deliver", "approval"], &later[..]].concat());
        let message =
            "error: a success of `approval` was delivered already, and holds for it with these inputs\nhelp: ";
        assert!(output.status == 2 && output.stderr.starts_with(message), "{}", output.shown());
    }
    let ran = space.build_twice(&[]);
    assert!(ran.events.iter().all(|e| e["event"] != "divergence") && ran.warnings().is_empty(), "{:?}", ran.events);
    assert_eq!(space.read("published"), "yes yes\n");
}

#[test]
fn two_that_were_delivered_in_different_places_are_no_lack_of_determinism() {
    let ticket = "[task.ticket]\nexternal = true\noutputs = [\"ticket\"]\n";
    let (one, two) = (TestSpace::new(ticket), TestSpace::new(ticket));
    two.use_key(2);
    for (space, text) in [(&one, "yes\n"), (&two, "perhaps\n")] {
        space.write("said.txt", text);
        space.ok(&["deliver", "ticket", "--ok", "said.txt"]);
    }
    two.ok(&["run", "ticket"]);
    two.ok(&["export", "--all", "-o", "../x.car", "ticket"]);
    let did = two.ok(&["key", "show"]).stdout;
    one.ok(&["trust", "add", "two", did.trim()]);
    one.ok(&["import", two.beside("x.car").to_str().expect("text")]);
    let ran = one.build(&["ticket"]);
    assert_eq!(ran.warnings(), ["`ticket` was delivered in two ways, one of which counts"]);
    assert!(ran.events.iter().all(|e| e["event"] != "divergence"), "{:?}", ran.events);
}

#[test]
fn what_counts_in_every_workspace_is_said() {
    let space = space();
    space.build(&[]);
    space.write("yes.txt", "yes\n");
    let warns = |task: &str| {
        let said = space.ok(&["deliver", task, "--ok", "yes.txt"]).stderr;
        said.contains(&format!("warning: `{task}` has no inputs: this counts in every workspace with this store"))
    };
    assert!(warns("ticket"), "it has none");
    assert!(!warns("approval"), "it has the build");
    space.edit("quipu.toml", "sandbox", "subject = \"did:web:example.org\"\nsandbox");
    assert!(!warns("ticket"), "it is this workspace's");
}
