//! Tests of the process executor with real processes, in each tier that this machine has.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use quipu_store::cid::BlobId;
use quipu_store::receipt::FailureKind;
use quipu_store::tree::{Entry, Name, Tree};

use super::test_place::{Place, Task, in_each_tier, text};
use super::tests::runtime;
use super::{Executor, Stop, Unusable};
use crate::process::{OutputKind, Tier};
use crate::run::values::artifact;
use crate::value::Value;

#[test]
fn outputs_of_each_kind_are_taken_with_what_was_printed() {
    in_each_tier(|tier| {
        let place = Place::new();
        place.write("in.txt", "hello\n");
        let task = Task::new(
            tier,
            "tr a-z A-Z < in.txt > out/up; cp out/up out/tool; chmod +x out/tool; mkdir dist; echo 1 > dist/a; \
             ln -s a dist/link; mkdir -p gen/x; echo x > gen/x/1.h; echo y > gen/2.h; echo done; echo careful >&2",
        );
        let task = task.sources(&["in.txt"]).file("out/up").file("out/tool");
        let task = task.output(OutputKind::Dir, "dist").output(OutputKind::Glob, "gen/**/*.h");
        for _ in 0..2 {
            let output = place.ok(&task);
            assert_eq!(
                output.artifacts.keys().map(|k| &**k).collect::<Vec<_>>(),
                ["dist", "gen/2.h", "gen/x/1.h", "out/tool", "out/up"]
            );
            assert_eq!(place.read(&output.artifacts["out/up"]), "HELLO\n");
            assert!(matches!(output.artifacts["out/tool"], Entry::File { exec: true, .. }));
            let Entry::Dir { tree } = output.artifacts["dist"] else { panic!("a directory") };
            let tree = place.store.tree(tree).expect("readable").expect("kept");
            assert_eq!(tree.get("link"), Some(&Entry::Symlink { target: "a".into() }));
            assert_eq!(place.text(output.stdout), "done\n");
            assert_eq!(place.text(output.stderr), "careful\n");
            // The next round finds what this one left.
            fs::remove_dir_all(place.path("gen")).ok();
        }
        assert_eq!(place.workspace.take_kept(), []);
    });
}

#[test]
fn inputs_from_other_tasks_stand_at_their_paths() {
    in_each_tier(|tier| {
        let place = Place::new();
        let big = "x".repeat(40_000);
        let tree = Tree::new(vec![(Name::new("f").expect("valid"), place.file("in tree\n", false))]).expect("valid");
        let tree = Entry::Dir { tree: place.store.put_tree(&tree).expect("kept") };
        let task =
            Task::new(tier, "./gen/tool; ./gen/big-tool | wc -c; wc -c < big; cat lib/f; cat link; cat; echo $V")
                .input("gen/tool", &place.file("#!/bin/sh\necho tool $0\n", true))
                .input("gen/big-tool", &place.file(&format!("#!/bin/sh\necho {big}\n"), true))
                .input("big", &place.file(&big, false))
                .input("lib", &tree)
                .input("link", &Entry::Symlink { target: "lib/f".into() });
        let mut task = task;
        task.spec.stdin = Some(BlobId::of(b"read\n").link().into());
        place.file("read\n", false);
        task.spec.env.insert(text("V"), artifact(&place.file("value\n", false)));
        task.spec
            .inputs
            .insert(text("@other"), Value::map([("more", artifact(&place.file("m", false)))]).expect("distinct"));
        for _ in 0..2 {
            let output = place.ok(&task);
            assert_eq!(place.text(output.stdout), "tool ./gen/tool\n40001\n40000\nin tree\nin tree\nread\nvalue\n");
        }
    });
}

#[test]
fn steps_run_in_order_until_one_fails_in_the_directory_given() {
    in_each_tier(|tier| {
        let place = Place::new();
        place.write("sub/here", "");
        let mut task = Task::new(tier, "echo 1; test -e here").sources(&["sub/here"]);
        task = task.step(&["sh", "-c", "echo 2; exit 3"]).step(&["echo", "never"]);
        task.spec.dir = "sub".into();
        let done = place.run(&task);
        let failure = done.result.expect_err("the second step fails");
        assert_eq!(failure.kind, FailureKind::Exit { code: 3 });
        assert_eq!(place.text(failure.stdout), "1\n2\n");
    });
}

#[test]
fn standard_output_can_go_to_an_output() {
    in_each_tier(|tier| {
        let place = Place::new();
        let mut task = Task::new(tier, "echo one").step(&["echo", "two"]).file("log/out");
        task.spec.stdout = Some("log/out".into());
        let output = place.ok(&task);
        assert_eq!(place.read(&output.artifacts["log/out"]), "one\ntwo\n");
        assert_eq!(output.stdout, None);
    });
}

#[test]
fn programs_that_cannot_be_started_are_named() {
    in_each_tier(|tier| {
        let place = Place::new();
        place.write("script", "#!/no/such/interpreter\n");
        place.write("data", "no program\n");
        for (argv, said) in [
            (vec!["no-such-program"], "program `no-such-program` not found in PATH `/usr/local/bin:/usr/bin:/bin`"),
            (vec!["./nothing"], "program `./nothing` is not there"),
            (vec!["./data"], if tier == Tier::Ns { "may not be executed" } else { "is not an executable file" }),
        ] {
            let mut task = Task::new(tier, "").sources(&["data"]);
            task.spec.steps = vec![argv.into_iter().map(Value::from).collect()];
            let kind = place.failed(&task);
            assert!(matches!(&kind, FailureKind::Spawn { why } if why.contains(said)), "{kind:?}");
        }
    });
}

#[test]
fn what_is_missing_bad_or_of_another_kind_is_told_apart() {
    in_each_tier(|tier| {
        let place = Place::new();
        for kind in [OutputKind::File, OutputKind::Dir, OutputKind::Glob] {
            let missing = place.failed(&Task::new(tier, ":").output(kind, "a/out"));
            assert_eq!(missing, FailureKind::MissingOutput { path: "a/out".into() });
        }
        let socket = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"o\")'";
        for (script, kind, said) in [
            ("mkdir o", OutputKind::File, "is a directory"),
            ("echo > o", OutputKind::Dir, "is a file"),
            ("ln -s x o", OutputKind::Dir, "is a symbolic link"),
            ("mkfifo o", OutputKind::File, "named pipe"),
            ("mkdir o; mkfifo o/p", OutputKind::Dir, "named pipe"),
            ("ln -s /etc/passwd o", OutputKind::File, "/etc/passwd"),
            ("mkdir o; ln -s ../../x o/l", OutputKind::Dir, "../../x"),
            (socket, OutputKind::File, "socket"),
        ] {
            match place.failed(&Task::new(tier, script).output(kind, "o")) {
                FailureKind::BadOutput { path, why } => {
                    assert!(path == "o" || path.starts_with("o/"), "{path}");
                    assert!(why.contains(said), "{script}: {why}");
                }
                other => panic!("{script}: {other:?}"),
            }
            // The next round begins with nothing there.
            if tier != Tier::Ns && place.workspace.clear_output("o").is_err() {
                fs::remove_dir_all(place.path("o")).expect("removed");
            }
        }
        let mut optional = Task::new(tier, ":").file("a/out");
        optional.spec.outputs[0].optional = true;
        assert!(place.ok(&optional).artifacts.is_empty());
    });
}

#[test]
fn a_file_that_runs_as_its_owner_and_a_device_are_no_outputs() {
    in_each_tier(|tier| {
        let place = Place::new();
        let set = Task::new(tier, "echo > o; chmod 4755 o").file("o");
        match (tier, place.failed(&set)) {
            (Tier::None, FailureKind::BadOutput { path, why }) => {
                assert!(path == "o" && why.contains("setuid"), "{why}");
            }
            // Refused when the bit was about to be set.
            (Tier::Ns | Tier::Landlock, FailureKind::Exit { code: 1 }) => {}
            other => panic!("{other:?}"),
        }
        let _ = fs::remove_file(place.path("o"));
        let device = Task::new(tier, "mknod o c 1 3").file("o");
        match (tier, rustix::process::geteuid().is_root(), place.failed(&device)) {
            (Tier::None | Tier::Landlock, true, FailureKind::BadOutput { path, why }) => {
                assert!(path == "o" && why.contains("device"), "{why}");
            }
            (Tier::Ns, _, FailureKind::Exit { code: 1 }) | (_, false, FailureKind::Exit { code: 1 }) => {}
            other => panic!("{other:?}"),
        }
        let _ = fs::remove_file(place.path("o"));
    });
}

#[test]
fn what_a_failed_task_left_is_quipus_to_remove() {
    let place = Place::new();
    let failing = Task::new(
        Tier::None,
        "test ! -e out; test ! -e dir; mkdir dir; echo a > dir/a; echo partly > out; mkfifo pipe; exit 1",
    );
    let failing = failing.file("out").output(OutputKind::Dir, "dir").file("pipe");
    for _ in 0..2 {
        assert_eq!(place.failed(&failing), FailureKind::Exit { code: 1 });
        assert!(place.path("out").exists(), "it stays to be looked at");
    }
    assert_eq!(place.workspace.take_kept(), []);
}

#[test]
fn time_limits_and_wishes_to_stop_end_everything() {
    in_each_tier(|tier| {
        let place = Place::new();
        let mut task = Task::new(tier, "sleep 300 & sleep 300");
        task.timeout = Some(Duration::from_millis(80));
        assert_eq!(place.failed(&task), FailureKind::Timeout { limit_ms: 80 });

        for wish in [Stop::Cancel, Stop::Kill] {
            let (mut job, stop) = place.job(&Task::new(tier, "echo ready; sleep 300"));
            job.sink = Arc::new(move |_, _| stop.send_modify(|s| *s = wish));
            assert_eq!(runtime().block_on(place.executor.execute(job)).unusable, Some(Unusable::Cancelled));
        }
        // One that was wished to stop before it started does not start.
        let (job, stop) = place.job(&Task::new(tier, "echo ran"));
        stop.send(Stop::Cancel).expect("listened to");
        let done = runtime().block_on(place.executor.execute(job));
        assert_eq!(
            (done.unusable, done.result.expect_err("stopped").stdout),
            (Some(Unusable::Cancelled), Some(BlobId::of(b"")))
        );
    });
}

#[test]
fn a_source_that_changes_meanwhile_makes_the_result_unusable() {
    in_each_tier(|tier| {
        let place = Place::new();
        place.write("a", "1");
        place.write("b", "1");
        let (mut job, _stop) = place.job(&Task::new(tier, "echo ready; sleep 0.1").sources(&["a", "b"]));
        let path = place.path("b");
        job.sink = Arc::new(move |_, _| fs::write(&path, "22").expect("written"));
        let done = runtime().block_on(place.executor.execute(job));
        assert_eq!(done.unusable, Some(Unusable::InputsChanged(vec!["b".into()])));
    });
}

#[test]
fn bytes_that_are_gone_are_told_before_anything_runs() {
    in_each_tier(|tier| {
        let place = Place::new();
        let nowhere = Entry::File { blob: BlobId::of(b"never kept"), size: 10, exec: false };
        let done = place.run(&Task::new(tier, "touch ran").input("dir/in", &nowhere));
        assert_eq!(done.unusable, Some(Unusable::InputsGone(vec!["dir/in".into()])));
        let mut stream = Task::new(tier, "touch ran");
        stream.spec.inputs.insert(text("log"), BlobId::of(b"never kept").link().into());
        assert_eq!(place.run(&stream).unusable, Some(Unusable::InputsGone(vec!["log".into()])));
        assert!(!place.path("ran").exists());
    });
}

#[test]
fn a_file_of_the_persons_where_an_output_goes_is_kept_in_the_store() {
    let place = Place::new();
    place.write("out", "precious");
    let output = place.ok(&Task::new(Tier::None, "test ! -e out; echo new > out").file("out"));
    assert_eq!(place.read(&output.artifacts["out"]), "new\n");
    let kept = place.workspace.take_kept();
    assert_eq!(kept.iter().map(|k| &*k.0).collect::<Vec<_>>(), ["out"]);
    assert_eq!(place.read(&kept[0].1), "precious");
    // What the task made itself goes without a word, and what leads out of the workspace stays.
    place.ok(&Task::new(Tier::None, "test ! -e out; echo new > out").file("out"));
    assert_eq!(place.workspace.take_kept(), []);
    fs::create_dir(place.dir.path().join("outside")).expect("made");
    fs::write(place.dir.path().join("outside/f"), "").expect("written");
    std::os::unix::fs::symlink("../outside", place.path("way")).expect("linked");
    assert!(place.workspace.clear_output("way/f").is_err());
    assert!(place.workspace.clear_output("../outside/f").is_err());
    assert!(place.dir.path().join("outside/f").exists());
}

#[test]
fn a_process_for_another_machine_is_not_started() {
    let mut task = Task::new(Tier::None, ":");
    task.spec.platform = ("plan9".into(), "mips".into());
    assert!(matches!(Place::new().failed(&task), FailureKind::Spawn { why } if why.contains("plan9/mips")));
}

#[test]
fn what_an_earlier_round_left_matches_no_pattern_of_this_one() {
    for tier in
        [Tier::None, Tier::Landlock].into_iter().filter(|t| *t == Tier::None || super::test_place::has_landlock())
    {
        let place = Place::new();
        place.write("gen/own.h", "source");
        let task = |script: &str| Task::new(tier, script).sources(&["gen/own.h"]).output(OutputKind::Glob, "gen/*.h");
        let names = |script: &str| place.ok(&task(script)).artifacts.into_keys().map(String::from).collect::<Vec<_>>();
        assert_eq!(names("touch gen/a.h gen/b.h"), ["gen/a.h", "gen/b.h"]);
        assert_eq!(names("touch gen/a.h"), ["gen/a.h"]);
        assert!(place.path("gen/own.h").exists());
    }
}
