//! `quipu explain`: each way a task can stand, or can have ended, has its reason and its way on.

use insta::assert_snapshot;
use rustix::process::Signal;

use super::explain::explain;
use crate::kit::TestSpace;

const OUTCOMES: &str = r#"[params.mode]
default = "fast"

[workspace]
sandbox = "none"

[task.bad]
run = "cat there; exit 3"
inputs = ["there"]

[task.after-bad]
needs = ["bad"]
run = "true"
inputs = []

[task.clean]
when = "failure"
after = ["bad"]
run = "true"
inputs = []

[task.only]
when = 'mode == "slow"'
run = "true"
inputs = []

[task.person]
external = true
outputs = ["review.txt"]

[task.wants]
run = "cat review.txt > wanted"
inputs = ["review.txt"]
outputs = ["wanted"]

[task.never]
run = "echo again"
inputs = []
cache = false

[task.hangs]
run = "echo on; cat fifo"
inputs = ["there"]
"#;

#[test]
fn every_outcome_has_its_reason_and_its_way_on() {
    let space = TestSpace::new(OUTCOMES);
    space.write("there", "1\n");
    space.run(&["run", "-k", "-j1", "bad", "after-bad", "clean", "only", "never"]);
    space.run(&["run", "wants"]);
    let explain = |task: &str| explain(&space, &[task]);
    assert_snapshot!(explain("bad"), @r"
    bad: certain: it failed the last time: exit code 3 (quipu.toml:7:7)
    `quipu run bad` runs it
    the last time it failed: exit code 3
      run [run], [moment], took [time]
    nothing differs from what it was in run [run] (failed)
    ");
    assert_snapshot!(explain("after-bad"), @r"
    after-bad: conditional: it depends on what comes out of `bad` (quipu.toml:11:7)
    `quipu run after-bad` settles that first, and then runs it if:
      `bad` made something it has no receipt for
    the last time it did not run: `bad` did not succeed
      run [run], [moment]
    nothing differs from what it was in run [run] (skipped)
    ");
    assert_snapshot!(explain("clean"), @r"
    clean: conditional: it depends on what becomes of `bad` (quipu.toml:16:7)
    it runs in a run in which:
      `bad` failed
    the last time it ran, since it is never cached
      run [run], [moment], took [time]
    nothing differs from what it was when it was last settled
    ");
    assert_snapshot!(space.ok(&["explain", "only"]).shown(), @r#"
    only: left out: `mode == "slow"` does not hold: mode is `fast` (quipu.toml:22:7)
    it would be part of a run if:
      its condition held (`when`, quipu.toml:23:8; param `mode`, quipu.toml:2:11)
    the last time it was left out: `mode == "slow"` does not hold: mode is `fast`
      run [run], [moment]
    "#);
    assert_snapshot!(space.ok(&["explain", "--set", "mode=slow", "only"]).shown().split("\ntask").next().expect("is"), @r#"
    only: certain: there is no receipt for it (quipu.toml:22:7)
    `quipu run only` runs it
    the last time it was left out: `mode == "slow"` does not hold: mode is `fast`
      run [run], [moment]
    nothing is known of an earlier task of this name
    "#);
    assert_snapshot!(explain("person"), @r"
    person: blocked: it is done elsewhere, and nobody has delivered it
        (quipu.toml:27:7)
    it is settled once somebody delivers it:
      `quipu deliver person --ok FILE`
    the last time it did not run: `person` is done elsewhere, and was not delivered
      run [run], [moment]
    nothing differs from what it was in run [run] (blocked)
    ");
    assert_snapshot!(explain("wants"), @r"
    wants: blocked: because of `person` (quipu.toml:31:7)
    it goes as `person` goes: `quipu explain person`
    the last time it did not run: `person` is done elsewhere, and was not delivered
      run [run], [moment]
    nothing differs from what it was in run [run] (blocked)
    ");
    assert_snapshot!(explain("never"), @r"
    never: certain: it is never cached (quipu.toml:36:7)
    `quipu run never` runs it
    the last time it ran, since it is never cached
      run [run], [moment], took [time]
    nothing differs from what it was when it was last settled
    ");
    // Delivered, and then an output is lost.
    std::fs::write(space.beside("review"), "fine\n").expect("is written");
    space.ok(&["deliver", "person", "--ok", space.beside("review").to_str().expect("text")]);
    space.build(&["wants"]);
    space.remove("wanted");
    assert_snapshot!(explain("person"), @r"
    person: cached: there is a receipt for it (quipu.toml:27:7)
      receipt [id]
      made here, [moment]
    it would have to be delivered again if:
      the workfile said something else of it (quipu.toml:27:7)
    the last time it was settled by a receipt
      run [run], [moment]
    nothing differs from what it was when it was last settled
    ");
    assert_snapshot!(explain("wants"), @r"
    wants: cached: there is a receipt for it (quipu.toml:31:7)
      receipt [id]
      made here, [moment]
    it would run again if:
      `person` made something else
      the workfile said something else of it (quipu.toml:31:7)
      it were asked to: `quipu run --force=wants wants`
    not in the workspace as made, and put there by `quipu run wants`: `wanted`
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    nothing differs from what it was when it was last settled
    ");
    space.build(&["wants"]);
    assert!(space.exists("wanted") && !explain("wants").contains("not in the workspace"));
    space.build(&["--force", "wants"]);
    assert!(explain("wants").contains("ran, since it was asked to"), "{}", explain("wants"));
}

#[test]
fn a_run_that_was_killed_or_stopped_is_told() {
    let space = TestSpace::new(OUTCOMES);
    space.write("there", "1\n");
    let made = rustix::fs::mkfifoat(rustix::fs::CWD, space.path("fifo"), rustix::fs::Mode::RWXU);
    made.expect("is made");
    for (signal, told) in [(Signal::KILL, "was running when its run was interrupted"), (Signal::INT, "was stopped")] {
        let mut run = space.start(&["hangs"]);
        run.wait_for("task-output", "hangs");
        run.signal(signal);
        run.end();
        let explained = explain(&space, &["hangs"]);
        assert!(explained.contains(told), "{explained}");
        assert!(explained.starts_with("hangs: certain: there is no receipt for it"), "{explained}");
    }
}

#[test]
fn what_was_cut_off_and_what_lost_its_bytes_say_so() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = \"none\"\n[task.gen]\nrun = \"grep -v '^#' in > mid\"\ninputs = [\"in\"]\n\
         outputs = [\"mid\"]\n[task.use]\nrun = \"head -c 50000 /dev/zero > out; cat mid >> out\"\n\
         inputs = [\"mid\"]\noutputs = [\"out\"]\n",
    );
    space.write("in", "# a\nx\n");
    space.build_twice(&[]);
    space.edit("in", "# a", "# b");
    assert_eq!(space.build_twice(&[]).ran(), "gen");
    let told = space.ok(&["explain", "use"]).stdout;
    let cut_off = "the last time it did not run: there was a receipt for the same work on the same";
    assert!(told.starts_with("use: cached: ") && told.contains(cut_off), "{told}");
    space.remove("out");
    space.store_files("blobs").iter().for_each(|blob| std::fs::remove_file(blob).expect("is removed"));
    assert_eq!(space.build(&[]).ran(), "use");
    let told = space.ok(&["explain", "use"]).stdout;
    assert!(told.contains("the last time it ran, since bytes"), "{told}");
}

#[test]
fn what_waits_for_a_receipt_from_elsewhere_says_so() {
    let space = TestSpace::new("");
    let lib =
        "[workspace]\nsandbox = \"none\"\n[task.make]\nrun = \"echo 1 > lib\"\ninputs = []\noutputs = [\"lib\"]\n";
    space.write("../lib/quipu.toml", lib);
    let plan = space.json(&["-C", "../lib", "plan", "--json", "make"]);
    let id = plan["tasks"][0]["task"].as_str().expect("has an id").to_owned();
    space.write(
        "quipu.toml",
        &format!(
            "[workspace]\nsandbox = \"none\"\n[task.lib]\nawait = \"{id}\"\noutputs = [\"lib\"]\n\
             [task.app]\nrun = \"cat lib\"\ninputs = [\"lib\"]\n"
        ),
    );
    assert_eq!(space.run(&["run"]).status, 6);
    assert_snapshot!(explain(&space, &["lib"]), @r"
    lib: blocked: nobody has a receipt for it (quipu.toml:3:7)
    it is settled once there is a receipt for it here
    the last time it did not run: there is no receipt for `lib`
      run [run], [moment]
    nothing differs from what it was in run [run] (blocked)
    ");
    assert_snapshot!(explain(&space, &["app"]), @r"
    app: blocked: because of `lib` (quipu.toml:6:7)
    it goes as `lib` goes: `quipu explain lib`
    the last time it did not run: there is no receipt for `lib`
      run [run], [moment]
    nothing differs from what it was in run [run] (blocked)
    ");
    space.build(&["-C", "../lib"]);
    space.build_twice(&[]);
    assert_snapshot!(explain(&space, &["lib"]), @r"
    lib: cached: there is a receipt for it (quipu.toml:3:7)
      receipt [id]
      made here, [moment]
    it would wait for another receipt if:
      the workfile awaited another task (quipu.toml:3:7)
    the last time it was settled by a receipt
      run [run], [moment]
    nothing differs from what it was when it was last settled
    ");
}

#[test]
fn what_is_cut_off_lost_its_bytes_or_does_not_meet_its_condition_stands_so_before_a_run() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = \"none\"\n[task.gen]\nrun = \"grep -v '^#' in > mid\"\ninputs = [\"in\"]\n\
         outputs = [\"mid\"]\n[task.use]\nrun = \"head -c 50000 /dev/zero > out; cat mid >> out\"\n\
         inputs = [\"mid\"]\noutputs = [\"out\"]\n[task.mend]\nwhen = \"failure\"\nafter = [\"gen\"]\nrun = \"true\"\ninputs = []\n",
    );
    space.write("in", "# a\nx\n");
    space.build_twice(&["use"]);
    assert_snapshot!(explain(&space, &["mend"]), @r"
    mend: skipped: its condition is not met by what it comes after (quipu.toml:11:7)
    it runs in a run in which:
      `gen` failed
    nothing is known of an earlier task of this name
    ");
    space.build(&["mend"]);
    assert_snapshot!(explain(&space, &["mend"]), @r"
    mend: skipped: its condition is not met by what it comes after (quipu.toml:11:7)
    it runs in a run in which:
      `gen` failed
    the last time it did not run: nothing that it comes after failed
      run [run], [moment]
    nothing differs from what it was in run [run] (unmet)
    ");
    space.edit("in", "# a", "# b");
    space.build(&["gen"]);
    assert_snapshot!(explain(&space, &["use"]), @r"
    use: cut off: there is a receipt for the same work on the same inputs
        (quipu.toml:7:7)
      receipt [id]
      made here, [moment]
    it would run again if:
      `gen` made something else
      the workfile said something else of it (quipu.toml:7:7)
      it were asked to: `quipu run --force=use use`
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    what differs from what it was when it was last settled:
      what task `gen` makes (`inputs`, quipu.toml:9:11), in which
        source files changed (`inputs`, quipu.toml:5:11)
          changed in
    ");
    space.remove("out");
    space.store_files("blobs").iter().for_each(|blob| std::fs::remove_file(blob).expect("is removed"));
    assert_snapshot!(explain(&space, &["use"]), @r"
    use: cut off: there is a receipt for the same work on the same inputs
        (quipu.toml:7:7)
      receipt [id]
      made here, [moment]
    it would run again if:
      `gen` made something else
      the workfile said something else of it (quipu.toml:7:7)
      it were asked to: `quipu run --force=use use`
    not in the workspace as made, nor in the store, and made again by `quipu run
        use` unless a remote has it: `out`
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    what differs from what it was when it was last settled:
      what task `gen` makes (`inputs`, quipu.toml:9:11), in which
        source files changed (`inputs`, quipu.toml:5:11)
          changed in
    ");
}
