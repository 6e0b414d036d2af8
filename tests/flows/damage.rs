//! Damage to the store: a message, or work done again; never a wrong output, never a panic.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::kit::{TestSpace, copy, needs_ns};

/// One task with an output small enough for the index, one with a large one, one that reads both.
const TASKS: &str = r#"
[workspace]
[task.small]
run = "cat in > small.out"
inputs = ["in"]
outputs = ["small.out"]
[task.large]
run = "yes $(cat in) | head -n 9000 > large.out"
inputs = ["in"]
outputs = ["large.out"]
[task.reader]
run = "cat large.out small.out | tail -c 10 > reader.out"
inputs = ["large.out", "small.out"]
outputs = ["reader.out"]
"#;

fn built() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("in", "abc\n");
    space.build_twice(&[]);
    space
}

const OUTPUTS: [&str; 3] = ["small.out", "large.out", "reader.out"];

fn outputs_are_right(space: &TestSpace) {
    assert_eq!(space.read("small.out"), "abc\n");
    assert_eq!(space.read("large.out"), "abc\n".repeat(9000));
    assert_eq!(space.read("reader.out"), "c\nabc\nabc\n");
}

fn lose_outputs(space: &TestSpace) {
    for path in OUTPUTS.into_iter().filter(|path| space.exists(path)) {
        space.remove(path);
    }
}

fn flip(path: &Path, at: usize, bytes: usize) {
    let mut content = fs::read(path).expect("is read");
    content.iter_mut().skip(at).take(bytes).for_each(|b| *b ^= 0x55);
    fs::write(path, content).expect("is written");
}

#[test]
fn what_a_task_printed_is_made_again_when_others_need_it() {
    let space = TestSpace::new(
        "[task.loud]\nrun = 'yes abc | head -n 9000'\ninputs = []\n[task.use]\n\
         run = 'cat source; printf %s \"$SAID\" | wc -c'\ninputs = ['source']\nenv = { SAID = '{{needs.loud.stdout}}' }\n",
    );
    space.write("source", "one\n");
    space.build_twice(&[]);
    let blobs = space.store_files("blobs");
    assert_eq!(blobs.len(), 1, "what was printed");
    fs::remove_file(&blobs[0]).expect("is removed");
    space.write("source", "two\n");
    let ran = space.build(&[]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "loud use"), "{}", ran.output.stderr);
    space.nothing_to_do(&[]);
}

#[test]
fn t11_a_blob_that_is_flipped_cut_or_gone_is_made_again() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 4] = [
        ("flipped", |p| flip(p, 17_000, 1)),
        ("cut", |p| fs::OpenOptions::new().write(true).open(p).and_then(|f| f.set_len(20_000)).expect("is cut")),
        ("emptied", |p| fs::write(p, "").expect("is emptied")),
        ("gone", |p| fs::remove_file(p).expect("is removed")),
    ];
    for (what, damage) in damages {
        let space = built();
        let blobs = space.store_files("blobs");
        assert_eq!(blobs.len(), 1, "the large output");
        damage(&blobs[0]);
        // As long as nobody needs its bytes, nothing is the matter.
        assert_eq!(space.build(&[]).ran(), "", "{what}");
        lose_outputs(&space);
        let ran = space.build(&[]);
        assert_eq!((ran.output.status, ran.ran().as_str()), (0, "large"), "{what}: {}", ran.output.stderr);
        outputs_are_right(&space);
        assert!(ran.events.iter().any(|e| e["event"] == "task-hollow" && e["task"] == "large"), "{what}");
        if what != "gone" {
            assert!(ran.warnings().iter().any(|w| w.contains("set aside")), "{what}: {:?}", ran.warnings());
            assert_eq!(space.store_files("quarantine").len(), 1, "{what}");
        }
        space.nothing_to_do(&[]);
        assert_eq!(space.run(&["verify"]).status, 0, "{what}");
    }
}

#[test]
fn verify_finds_damage_and_repairs_it() {
    let space = built();
    flip(&space.store_files("blobs")[0], 5, 1);
    assert_eq!(space.run(&["verify", "--quick"]).status, 0, "which does not read files");
    let found = space.run(&["verify"]);
    assert_eq!(found.status, 5);
    assert!(found.stdout.contains("bytes do not match the id"), "{}", found.stdout);
    assert_eq!(space.run(&["verify"]).status, 5, "looking changes nothing");
    assert_eq!(space.run(&["verify", "--repair"]).status, 0);
    assert_eq!(space.run(&["verify"]).status, 0);
    lose_outputs(&space);
    assert_eq!(space.build(&[]).ran(), "large");
    outputs_are_right(&space);
}

#[test]
fn t26_an_index_that_cannot_be_read_stops_the_run_and_repair_loses_nothing() {
    let space = built();
    let size = fs::metadata(space.store().join("index.redb")).expect("is there").len();
    let garbage: Vec<u8> = (0..size).map(|n| (n * 131 % 251) as u8).collect();
    fs::write(space.store().join("index.redb"), garbage).expect("is written");
    for args in [&["run"][..], &["plan"], &["explain", "small"], &["show", "b"], &["gc"]] {
        let output = space.run(args);
        assert_eq!((output.status, output.stdout.as_str()), (3, ""), "{args:?}");
        assert!(output.stderr.contains("quipu verify --repair"), "the way on: {}", output.stderr);
    }
    let found = space.run(&["verify"]);
    assert_eq!(found.status, 5, "{}", found.stderr);
    assert!(found.stdout.contains("the index cannot be read (it is damaged: "), "{}", found.stdout);
    let repaired = space.run(&["verify", "--repair"]);
    assert_eq!(repaired.status, 0, "{}{}", repaired.stdout, repaired.stderr);
    assert!(repaired.stdout.contains("the index was rebuilt: 3 receipts"), "{}", repaired.stdout);
    let ran = space.build(&[]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, ""), "nothing is lost");
    space.nothing_to_do(&[]);
    lose_outputs(&space);
    assert_eq!(space.build(&[]).ran(), "");
    outputs_are_right(&space);
}

#[test]
fn an_index_damaged_anywhere_gives_a_message_or_the_right_outputs() {
    let space = built();
    let sound = space.beside("sound");
    copy(&space.store(), &sound);
    let size = fs::metadata(space.store().join("index.redb")).expect("is there").len() as usize;
    // Pages have 4096 bytes: the header, then some bytes of each.
    let offsets = [0, 9, 64, 128, 192, 320].into_iter().chain((0..32).map(|n| n * (size / 32) + n * 37));
    for offset in offsets {
        fs::remove_dir_all(space.store()).expect("is removed");
        copy(&sound, &space.store());
        flip(&space.store().join("index.redb"), offset, 24);
        lose_outputs(&space);
        let output = space.run(&["run"]);
        match output.status {
            0 => outputs_are_right(&space),
            3 => assert!(output.stderr.contains("quipu verify"), "{offset}: {}", output.stderr),
            other => panic!("{offset}: exit {other}: {}", output.stderr),
        }
        let verified = space.run(&["verify"]);
        assert!([0, 5].contains(&verified.status), "{offset}: {}{}", verified.stdout, verified.stderr);
        let repaired = space.run(&["verify", "--repair"]);
        assert_eq!(repaired.status, 0, "{offset}: {}{}", repaired.stdout, repaired.stderr);
        lose_outputs(&space);
        let output = space.run(&["run"]);
        assert_eq!(output.status, 0, "{offset}: {}", output.stderr);
        outputs_are_right(&space);
    }
}

#[test]
fn receipt_segments_damaged_anywhere_do_no_harm_even_when_the_index_is_rebuilt_from_them() {
    let space = built();
    let sound = space.beside("sound");
    copy(&space.store(), &sound);
    let segments = space.store_files("receipts");
    assert!(!segments.is_empty());
    for segment in &segments {
        let size = fs::metadata(segment).expect("is there").len() as usize;
        for n in 0..12 {
            fs::remove_dir_all(space.store()).expect("is removed");
            copy(&sound, &space.store());
            flip(segment, n * (size / 12) + n, 3);
            lose_outputs(&space);
            assert_eq!(space.build(&[]).ran(), "", "the index has it all");
            outputs_are_right(&space);
            fs::write(space.store().join("index.redb"), "garbage").expect("is written");
            let repaired = space.run(&["verify", "--repair"]);
            assert_eq!(repaired.status, 0, "{n}: {}{}", repaired.stdout, repaired.stderr);
            lose_outputs(&space);
            let ran = space.build(&[]);
            assert_eq!(ran.output.status, 0, "{n}: {}", ran.output.stderr);
            outputs_are_right(&space);
            space.nothing_to_do(&[]);
        }
    }
}

#[test]
fn what_is_no_store_is_left_alone() {
    let space = TestSpace::new(TASKS);
    space.write("in", "abc\n");
    fs::create_dir(space.store()).expect("is made");
    fs::write(space.store().join("thesis.txt"), "years of work").expect("is written");
    for args in [&["run"][..], &["plan"], &["verify", "--repair"], &["gc"]] {
        let output = space.run(args);
        assert_eq!(output.status, 3, "{args:?}");
        assert!(output.stderr.contains("is no quipu store"), "{}", output.stderr);
    }
    assert_eq!(space.listing().len(), 1);
}

#[test]
fn what_is_damaged_is_never_read_by_a_task() {
    let file = "run = 'cat big n | cksum > sum'\ninputs = ['big', 'n']\n";
    let stdin = "run = 'cat - n | cksum > sum'\ninputs = ['n']\nstdin = 'big'\n";
    for (sandbox, reads) in [("none", file), ("none", stdin), ("ns", file), ("ns", stdin)] {
        if sandbox == "ns" && !needs_ns() {
            continue;
        }
        let text = format!(
            "[workspace]\nsandbox = '{sandbox}'\n[task.made]\nrun = 'seq 30000'\ninputs = []\nstdout = 'big'\n\
             [task.reader]\n{reads}outputs = ['sum']\n",
        );
        let built = |space: &TestSpace, n: &str| {
            space.write("n", n);
            space.build(&[]);
            space.read("sum")
        };
        let (space, clean) = (TestSpace::new(&text), TestSpace::new(&text));
        built(&space, "0");
        for blob in space.store_files("blobs") {
            let mut permissions = fs::metadata(&blob).expect("is there").permissions();
            permissions.set_mode(0o600);
            fs::set_permissions(&blob, permissions).expect("is ours");
            flip(&blob, 100, 1);
        }
        assert_eq!(built(&space, "1"), built(&clean, "1"), "{sandbox}: {reads}");
    }
}
