//! Sources that change while they are read, and times of files that tell nothing: no result is ever that of other sources.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use crate::kit::TestSpace;

/// Reads its source in the middle of its time.
const SLOW: &str = r#"
[task.slow]
run = "sleep 0.4; cat in > out; sleep 0.4"
inputs = ["in"]
outputs = ["out"]
"#;

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|m| m.modified()).expect("has a time")
}

fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).and_then(|f| f.set_modified(time)).expect("is set");
}

fn overwrite(path: &Path, text: &str) {
    // In place: the same inode, the same size.
    File::options().write(true).open(path).and_then(|mut f| f.write_all(text.as_bytes())).expect("is written");
}

/// The task runs while `edit` is at work; whatever that run made of it, no later run has a result of other sources.
fn edited_meanwhile(what: &str, edit: impl Fn(&Path)) {
    let space = TestSpace::new(SLOW);
    space.write("in", "one");
    let mut running = space.start(&[]);
    running.wait_for("task-started", "slow");
    edit(&space.path("in"));
    let first = running.end();
    let kept = first.events.iter().any(|e| e["event"] == "recorded");
    assert!(!kept, "{what}: the result is not kept: {}", first.output.shown());
    let again = space.build(&[]);
    assert_eq!((again.output.status, again.ran().as_str()), (0, "slow"), "{what}: {}", again.output.shown());
    assert_eq!(space.read("out"), space.read("in"), "{what}");
    space.nothing_to_do(&[]);
}

#[test]
fn attack_12_a_source_edited_in_place_while_its_task_runs() {
    edited_meanwhile("in place", |path| overwrite(path, "two"));
}

#[test]
fn attack_12_a_source_replaced_while_its_task_runs() {
    edited_meanwhile("by a rename", |path| {
        let beside = path.with_file_name("in.new");
        fs::write(&beside, "two").and_then(|()| fs::rename(&beside, path)).expect("is replaced");
    });
}

#[test]
fn attack_12_a_source_edited_while_its_task_runs_with_its_time_put_back() {
    edited_meanwhile("with its time", |path| {
        let time = modified(path);
        overwrite(path, "two");
        set_modified(path, time);
    });
}

#[test]
fn attack_12_a_source_edited_and_edited_back_while_its_task_runs() {
    edited_meanwhile("and back", |path| {
        let time = modified(path);
        overwrite(path, "two");
        // The task reads now.
        sleep(Duration::from_millis(600));
        overwrite(path, "one");
        set_modified(path, time);
    });
}

#[test]
fn attack_13_an_edit_of_the_same_size_with_its_time_put_back_is_seen() {
    let space = TestSpace::new("[task.t]\nrun = \"cat in > out\"\ninputs = [\"in\"]\noutputs = [\"out\"]\n");
    space.write("in", "0000");
    space.build(&[]);
    for n in 1..=20 {
        let time = modified(&space.path("in"));
        let text = format!("{n:04}");
        overwrite(&space.path("in"), &text);
        set_modified(&space.path("in"), time);
        space.ok(&["run"]);
        assert_eq!(space.read("out"), text);
    }
}

#[test]
fn attack_15_files_of_other_decades_are_as_good_as_others() {
    let space = TestSpace::new("[task.t]\nrun = \"cat in > out\"\ninputs = [\"in\"]\noutputs = [\"out\"]\n");
    space.write("in", "one");
    space.build(&[]);
    let decade = Duration::from_secs(10 * 365 * 86_400);
    for time in [SystemTime::now() + decade, SystemTime::now() - decade, SystemTime::UNIX_EPOCH] {
        set_modified(&space.path("in"), time);
        set_modified(&space.path("out"), time);
        assert_eq!(space.build(&[]).ran(), "", "the content is what it was");
        let text = format!("{time:?}");
        overwrite(&space.path("in"), &text);
        set_modified(&space.path("in"), time);
        assert_eq!(space.build(&[]).ran(), "t");
        assert_eq!(&space.read("out")[..text.len()], text);
        space.nothing_to_do(&[]);
        space.ok(&["verify"]);
    }
}
