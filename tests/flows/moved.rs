//! What a task makes in a sandbox comes to its place as it is: the same file, moved there and not written once more.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use rustix::process::Signal;

use crate::kit::{TestSpace, needs_ns};

fn ino(space: &TestSpace, path: &str) -> String {
    space.path(path).symlink_metadata().expect("is there").ino().to_string()
}

/// The same with when the file was made: a number whose file is gone is given to another.
fn ino_and_birth(space: &TestSpace, path: &str) -> String {
    let born = space.path(path).symlink_metadata().and_then(|meta| meta.created());
    let born = born.map_or_else(|_| Duration::ZERO, |at| at.duration_since(UNIX_EPOCH).expect("is not that old"));
    format!("{}-{}.{:09}", ino(space, path), born.as_secs(), born.subsec_nanos())
}

/// What a task said of the numbers its files had, by name.
fn said(space: &TestSpace, path: &str) -> Vec<(String, String)> {
    let lines = space.read(path);
    let pairs = lines.lines().map(|line| line.split_once(' ').expect("two words"));
    pairs.map(|(name, ino)| (name.to_owned(), ino.to_owned())).collect()
}

#[test]
fn the_file_in_its_place_is_the_one_that_the_task_made() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[workspace]\n[task.t]\n\
         run = \"cat in > out/f; mkdir -p dir/deep; for n in 1 2 3; do cat in > dir/deep/$n; done; cp in dir/tool; chmod 700 dir/tool; ln -s f out/link; \
         stat -c '%n %i' out/f dir/deep/* dir/tool > out/numbers\"\n\
         inputs = [\"in\"]\noutputs = [\"out/f\", \"dir/\", \"out/link\", \"out/numbers\"]\n",
    );
    for text in ["one", "other"] {
        space.write("in", text);
        space.build_twice(&[]);
        let numbers = said(&space, "out/numbers");
        assert_eq!(numbers.len(), 5);
        for (name, number) in numbers {
            assert_eq!(ino(&space, &name), number, "{name}: {text}");
            assert_eq!(space.read(&name), text);
            let mode = space.path(&name).metadata().expect("is there").mode();
            assert_eq!(mode & 0o7777, if name == "dir/tool" { 0o755 } else { 0o644 }, "{name}");
        }
        assert_eq!(fs::read_link(space.path("out/link")).expect("is one"), PathBuf::from("f"));
    }
    // What is put back later is written: nothing waits for it.
    fs::remove_file(space.path("out/f")).expect("is removed");
    assert_eq!(space.build(&[]).count("ran"), 0);
    assert_eq!(space.read("out/f"), "other");
}

#[test]
fn equal_outputs_of_two_tasks_are_two_files() {
    if !needs_ns() {
        return;
    }
    let task = |n: u8| {
        format!(
            "[task.t{n}]\nrun = \"cat in > {n}; stat -c '%n %i' {n} > numbers{n}\"\ninputs = [\"in\"]\noutputs = [\"{n}\", \"numbers{n}\"]\n"
        )
    };
    let space = TestSpace::new(&format!("[workspace]\n{}{}", task(1), task(2)));
    space.write("in", "text");
    space.build_twice(&[]);
    for n in ["1", "2"] {
        assert_eq!(said(&space, &format!("numbers{n}")), [(n.to_owned(), ino(&space, n))]);
        assert_eq!(space.path(n).metadata().expect("is there").nlink(), 1);
    }
}

#[test]
fn what_others_could_still_write_to_is_written_anew() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[workspace]\n\
         [task.names]\nrun = \"echo x > one; ln one two; stat -c '%n %i-%.9W' one two > names\"\ninputs = []\noutputs = [\"one\", \"two\", \"names\"]\n\
         [task.net]\nrun = \"echo x > sent; stat -c '%n %i-%.9W' sent > net\"\ninputs = []\nnetwork = true\noutputs = [\"sent\", \"net\"]\n\
         [task.own]\nrun = \"echo x > kept; stat -c '%n %i-%.9W' kept > own\"\ninputs = []\noutputs = [\"kept\", \"own\"]\n",
    );
    space.build_twice(&[]);
    assert_eq!(said(&space, "own"), [("kept".to_owned(), ino_and_birth(&space, "kept"))]);
    for (name, number) in said(&space, "names").into_iter().chain(said(&space, "net")) {
        assert_ne!(ino_and_birth(&space, &name), number, "{name}");
        assert_eq!(space.path(&name).metadata().expect("is there").nlink(), 1, "{name}");
        assert_eq!(space.read(&name), "x\n");
    }
}

#[test]
fn a_persons_file_in_the_way_is_kept() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[workspace]\n[task.t]\nrun = \"cat in > out; stat -c '%n %i' out > number\"\ninputs = [\"in\"]\noutputs = [\"out\", \"number\"]\n",
    );
    space.write("in", "made");
    space.write("out", "a person's\n");
    let ran = space.build(&[]);
    let kept = ran.events.iter().find(|e| e["event"] == "kept").expect("is told");
    assert_eq!(space.ok(&["show", kept["cid"].as_str().expect("text")]).stdout, "a person's\n");
    assert_eq!(said(&space, "number"), [("out".to_owned(), ino(&space, "out"))]);
    space.nothing_to_do(&[]);
}

#[test]
fn what_waits_to_be_placed_goes_when_the_run_is_killed_and_when_it_ends() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[workspace]\n[task.made]\nrun = \"cat in > made\"\ninputs = [\"in\"]\noutputs = [\"made\"]\n\
         [task.last]\nrun = \"if test -s long; then sleep 1000; fi; cat made > last\"\ninputs = [\"long\", \"made\"]\noutputs = [\"last\"]\n",
    );
    space.write("in", "text");
    space.write("long", "yes");
    let waiting = || {
        let all = space.listing().into_keys().filter(|path| path.starts_with(space.store().join("scratch")));
        // The other one has an empty file there, for its input to be bound over.
        let is_made = |path: &std::path::PathBuf| fs::metadata(path).is_ok_and(|file| file.len() > 0);
        all.filter(|path| path.ends_with("ws/made") && is_made(path)).count()
    };
    // Who asks for the last alone has the first made and not placed.
    let mut running = space.start(&["last"]);
    running.wait_for("task-started", "last");
    assert_eq!(waiting(), 1, "what nobody has placed yet is where the task left it");
    running.signal(Signal::KILL);
    running.end();
    assert_eq!(waiting(), 1, "who is killed cleans nothing up");
    space.write("long", "");
    // The kill may have come before the first one's receipt.
    let again = space.build(&["last"]);
    assert!(again.ended("ran").ends_with("last"));
    assert_eq!(space.read("last"), "text");
    assert!(!space.exists("made"));
    let scratch = fs::read_dir(space.store().join("scratch")).expect("is listed").flatten();
    assert_eq!(scratch.filter(|entry| entry.path().is_dir()).count(), 0, "whoever comes next does");
    space.nothing_to_do(&["last"]);
    assert_eq!(space.build(&["made"]).count("ran"), 0);
    assert_eq!(space.read("made"), "text");
}
