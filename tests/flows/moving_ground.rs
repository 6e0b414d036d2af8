//! Sources that change while they are read, and times of files that tell nothing: no result is ever that of other sources.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::Path;
#[cfg(target_env = "gnu")]
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use crate::kit::{Ran, TestSpace};

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

/// A file in memory: what is written there leaves no trace in the file's times, once it was written to.
struct Mapped {
    at: *mut libc::c_void,
    len: usize,
}

#[allow(unsafe_code, reason = "a mapping that is written to has no safe form")]
impl Mapped {
    fn new(path: &Path, len: usize) -> Self {
        let file = File::options().read(true).write(true).open(path).expect("opens");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of a file that stays as long as it is.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self { at, len }
    }

    fn write(&self, text: &str) {
        assert!(text.len() <= self.len);
        // SAFETY: it is that long, and nobody in this process reads it.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.at.cast(), text.len()) };
    }
}

#[allow(unsafe_code, reason = "as above")]
impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

#[test]
fn attack_14_what_is_written_through_a_mapping_is_seen_when_the_file_is_touched_and_is_never_mixed_up() {
    let space = TestSpace::new("[task.t]\nrun = \"cat in > out\"\ninputs = [\"in\"]\noutputs = [\"out\"]\n");
    space.write("in", "0000");
    space.build(&[]);
    let mapped = Mapped::new(&space.path("in"), 4);
    for n in 1..=8 {
        let text = format!("{n:04}");
        mapped.write(&text);
        // Nobody can tell by the file's times; what stands there is that of the last time anybody could, or right.
        space.ok(&["run"]);
        let out = space.read("out");
        assert!(out == text || out == format!("{:04}", n - 1), "{out} in round {n}");
        set_modified(&space.path("in"), SystemTime::now());
        space.ok(&["run"]);
        assert_eq!(space.read("out"), text);
    }
    drop(mapped);
    for n in 1..=8 {
        let text = format!("{n:04}");
        space.write("in", &text);
        assert_eq!(space.build(&[]).ran(), "", "it was done");
        assert_eq!(space.read("out"), text, "and nothing was kept under another's name");
    }
    space.ok(&["verify"]);
}

/// Stands between a program and the machine's clock: at each look it is ten years back, or ahead, or right.
#[cfg(target_env = "gnu")]
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
static int looks;
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
        looks = atoi(getenv("FIRST_LOOK"));
    }
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += (__sync_fetch_and_add(&looks, 1) % 3 - 1) * 315360000L;
    return result;
}
"#;

#[test]
#[cfg(target_env = "gnu")]
fn attack_15_a_clock_that_jumps_during_a_run_changes_nothing() {
    let space = TestSpace::new(
        r#"
        [workspace]
        [task.t]
        run = "cat in > out; head -c 20000 /dev/zero >> out"
        inputs = ["in"]
        outputs = ["out"]
        [task.u]
        run = "head -c 4 out > short"
        inputs = ["out"]
        outputs = ["short"]
        "#,
    );
    let (source, library) = (space.beside("clock.c"), space.beside("clock.so"));
    fs::write(&source, CLOCK).expect("is written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.expect("`cc`, which links these tests, is there").success());
    let mut began = vec![];
    let mut jumping = || {
        let output = space.finish(
            space.command(&["run", "--json"]).env("LD_PRELOAD", &library).env("FIRST_LOOK", began.len().to_string()),
        );
        assert_eq!(output.status, 0, "{}", output.stderr);
        let events: Vec<serde_json::Value> =
            output.stdout.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
        let id = events[0]["run"].as_str().expect("runs have ids").to_owned();
        began.push(id.split('-').next().and_then(|ms| ms.parse::<i64>().ok()).expect("begins with the time"));
        Ran { output, events }
    };
    for n in 1..=6 {
        space.write("in", &format!("{n:04}"));
        assert_eq!(jumping().ran(), "t u");
        assert_eq!((space.read("short"), space.read("out").len()), (format!("{n:04}"), 20_004));
        assert_eq!(jumping().ran(), "", "it was done");
    }
    for n in 1..=6 {
        space.write("in", &format!("{n:04}"));
        assert_eq!(jumping().ran(), "");
        assert_eq!(space.read("short"), format!("{n:04}"));
    }
    let (first, last) = (began.iter().min().expect("some"), began.iter().max().expect("some"));
    assert!(last - first > 300_000_000_000, "it jumped: {began:?}");
    space.ok(&["verify"]);
    space.nothing_to_do(&[]);
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
