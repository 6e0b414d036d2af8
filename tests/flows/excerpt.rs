//! A run after a few edits works out what follows from these and nothing else, and comes to what a run that looks at
//! everything comes to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value as Json;

use crate::kit::{TestSpace, needs_ns, redact, wait_until};

/// Tasks of many kinds. Each writes down that it ran.
const ROOT: &str = r#"
[workspace]
sandbox = "none"

[task.gen]
run = "echo gen >> ../ran; mkdir -p gen; cp a.txt gen/x; wc -c < a.txt > gen/n"
inputs = ["a.txt"]
outputs = ["gen/"]

[task.left]
run = "echo left >> ../ran; grep -q fail b.txt && exit 1; cat gen/x b.txt > left.out"
inputs = ["gen/x", "b.txt"]
outputs = ["left.out"]

[task.right]
run = "echo right >> ../ran; head -c 1 c.txt > right.out"
inputs = ["c.txt"]
outputs = ["right.out"]

[task.join]
run = "echo join >> ../ran; cat left.out right.out > join.out"
inputs = ["left.out", "right.out"]
outputs = ["join.out"]

[task.late]
run = "echo late >> ../ran; cat d.txt > late.out"
inputs = ["d.txt"]
after = ["join"]
outputs = ["late.out"]

[task.read]
run = "echo read >> ../ran; cat h1.txt > read.out; echo 'read.out: h1.txt' > read.d"
inputs = ["h1.txt", "h2.txt"]
depfile = "read.d"
outputs = ["read.out"]

[task.first]
run = "echo first >> ../ran; cat d.txt $WORD > first.out"
inputs = ["d.txt", "w.txt"]
pass-env = ["WORD"]
outputs = ["first.out"]

[task.all]
run = "echo all >> ../ran; cat many/*.txt > all.out"
inputs = ["many/*.txt"]
outputs = ["all.out"]

[task.print]
run = "echo print >> ../ran; cat first.out"
inputs = ["first.out"]
"#;

const OUTPUTS: [&str; 9] =
    ["gen/x", "gen/n", "left.out", "right.out", "join.out", "late.out", "read.out", "first.out", "all.out"];

fn space() -> TestSpace {
    let space = TestSpace::new(ROOT);
    for path in ["a.txt", "b.txt", "c.txt", "d.txt", "h1.txt", "h2.txt", "w.txt", "many/1.txt", "many/2.txt"] {
        space.write(path, &format!("{path} at first\n"));
    }
    space
}

/// What a person sees, and what ran.
fn run(space: &TestSpace, short: bool) -> (i32, String, Vec<String>) {
    let mut command = space.command(&["run", "-qkj1"]);
    command.env("WORD", "w.txt").env("QUIPU_GLANCE", if short { "1" } else { "0" });
    let output = space.finish(&mut command);
    let mut said: Vec<String> = redact(&output.stderr).lines().map(str::to_owned).collect();
    said.sort_unstable();
    let _ = fs::remove_file(space.beside("ran.before"));
    let mut ran = space.lines("ran");
    ran.sort_unstable();
    let _ = fs::rename(space.beside("ran"), space.beside("ran.before"));
    (output.status, said.join("\n"), ran)
}

/// Runs until the next run has a glance to go by.
fn until_short(space: &TestSpace) {
    wait_until("runs become short", || {
        let stamps = || -> Vec<_> {
            let files = space.store_files("glances").into_iter();
            files.map(|path| (path.metadata().and_then(|m| m.modified()).expect("is there"), path)).collect()
        };
        let before = stamps();
        let (status, said, ran) = run(space, true);
        assert_eq!((status, ran.len()), (0, 0), "{said}");
        std::thread::sleep(Duration::from_millis(20));
        !before.is_empty() && before == stamps()
    });
}

/// What the log says of the last run that did something.
struct Log {
    /// What was asked for.
    goals: Vec<String>,
    /// How each task of the workspace ended, with its id.
    tasks: BTreeMap<String, (String, String)>,
    /// How many tasks were worked out: all, unless it was known of all that they were settled before.
    worked_out: usize,
}

fn log(space: &TestSpace) -> Log {
    let text = space.ok(&["log", "--run", "last", "--json"]).stdout;
    let (mut tasks, mut goals, mut again) = (BTreeMap::new(), vec![], 0);
    for event in text.lines().map(|line| serde_json::from_str::<Json>(line).expect("is JSON")) {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("run-started") => {
                let names = event["goals"].as_array().expect("is told").iter();
                goals = names.map(|name| name.as_str().expect("is a name").to_owned()).collect();
            }
            Some("settled") => {
                for (task, id) in event["tasks"].as_object().expect("is a map") {
                    again += usize::from(tasks.get(task).is_some_and(|(end, _)| end != "cached"));
                    tasks.entry(task.clone()).or_insert(("cached".into(), id.as_str().expect("is an id").into()));
                }
            }
            Some("task-ended") => drop(tasks.insert(text("task"), (text("end"), text("id")))),
            _ => {}
        }
    }
    let worked_out = if again == 0 { tasks.len() } else { again };
    Log { goals, tasks, worked_out }
}

/// Ids of the receipts that `explain` goes by may differ, since they say when; nothing else does.
fn explained(space: &TestSpace, task: &str) -> String {
    let mut command = space.command(&["explain", task]);
    redact(&space.finish(command.env("WORD", "w.txt")).stdout)
}

const EDITS: usize = 19;

/// Something a person may do between two runs. `n` makes it differ from time to time.
fn edit(space: &TestSpace, which: usize, n: usize) {
    match which {
        0 | 1 => space.write("a.txt", &format!("a {}\n", n % 5)),
        2 => space.write("b.txt", if n.is_multiple_of(3) { "fail\n" } else { "b\n" }),
        3 => space.write("c.txt", &format!("c {n}\n")),
        4 => space.write("c.txt", &format!("{n} c\n")),
        5 => space.write("d.txt", &format!("d {}\n", n % 4)),
        6 => space.write("h1.txt", &format!("h1 {n}\n")),
        7 => space.write("h2.txt", &format!("h2 {n}\n")),
        8 => space.write("many/1.txt", &format!("1 {n}\n")),
        9 if space.exists("many/3.txt") => space.remove("many/3.txt"),
        9 => space.write("many/3.txt", "3\n"),
        10 => space.write("left.out", "a person's\n"),
        11 if space.exists("join.out") => space.remove("join.out"),
        12 if space.exists("gen") => space.remove("gen"),
        13 if space.exists("gen") => space.write("gen/more", "more\n"),
        14 => space.write("quipu.toml", &format!("{ROOT}# {n}\n")),
        15 => space.write("quipu.toml", &ROOT.replace("head -c 1", &format!("head -c {}", 1 + n % 3))),
        16 => drop(space.ok(&["gc", "--max-age", "0s"])),
        17 => {
            space.write("../other/quipu.toml", &ROOT.replace("../ran", "../other.ran"));
            for path in ["a.txt", "b.txt", "c.txt", "d.txt", "h1.txt", "h2.txt", "w.txt", "many/1.txt", "many/2.txt"] {
                space.write(&format!("../other/{path}"), &space.read(path));
            }
            drop(space.finish(space.command(&["-C", "../other", "run", "-qk"]).env("WORD", "w.txt")));
        }
        18 => {
            fs::remove_file(space.path("w.txt")).expect("is removed");
            space.write("w.txt", &format!("w {n}\n"));
        }
        _ => {}
    }
}

#[test]
fn after_any_edits_what_follows_is_worked_out_as_if_all_was_looked_at() {
    let (a, b) = (space(), space());
    let mut random = 11_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut excerpts = 0;
    for step in 0..14 {
        if run(&a, true).0 == 0 {
            assert_eq!(run(&b, false).0, 0);
            until_short(&a);
        } else {
            run(&b, false);
        }
        for turn in 0..2 + next(3) {
            let edits: Vec<(usize, usize)> = (0..1 + next(2)).map(|_| (next(EDITS), next(7))).collect();
            for (which, n) in &edits {
                edit(&a, *which, *n);
                edit(&b, *which, *n);
            }
            let at = format!("step {step}, turn {turn}: {edits:?}");
            let (short, long) = (run(&a, true), run(&b, false));
            assert_eq!(short, long, "{at}");
            for out in OUTPUTS {
                let read = |space: &TestSpace| fs::read(space.path(out)).ok();
                assert_eq!(read(&a), read(&b), "{at}: {out}");
            }
            if !short.2.is_empty() {
                let (of_a, of_b) = (log(&a), log(&b));
                assert_eq!((&of_a.tasks, of_a.goals), (&of_b.tasks, of_b.goals), "{at}");
                assert_eq!(of_b.worked_out, of_b.tasks.len(), "{at}");
                excerpts += usize::from(of_a.worked_out < of_b.worked_out);
            }
            for task in ["gen", "join", "print"].into_iter().filter(|_| turn == 1) {
                assert_eq!(explained(&a, task), explained(&b, task), "{at}: {task}");
            }
            if next(5) == 0 && short.0 == 0 {
                assert_eq!(
                    run(&a, false).2,
                    Vec::<String>::new(),
                    "{at}: looking at everything finds nothing left to do"
                );
            }
        }
    }
    assert!(excerpts >= 5, "{excerpts} runs worked out less than everything");
}

#[test]
fn one_edit_runs_what_follows_and_keeps_what_is_known_of_the_rest() {
    let space = space();
    run(&space, true);
    until_short(&space);
    for n in 0..3 {
        space.write("c.txt", &format!("{n}\n"));
        let (status, said, ran) = run(&space, true);
        assert_eq!((status, ran), (0, vec!["join".to_owned(), "right".to_owned()]), "{said}");
        assert_eq!(log(&space).worked_out, 2, "nothing but what follows was worked out");
        assert_eq!(run(&space, true).2, Vec::<String>::new());
    }
    // What nobody looked at is still known, and kept.
    assert!(explained(&space, "gen").contains("cached"), "{}", explained(&space, "gen"));
    space.ok(&["gc", "--max-age", "0s"]);
    assert_eq!(run(&space, false).2, Vec::<String>::new());
    // One back: known.
    space.write("c.txt", "1\n");
    assert_eq!(run(&space, true).2, ["join", "right"], "collected, since another took its place");
    space.write("c.txt", "2\n");
    assert_eq!(run(&space, true).2, Vec::<String>::new());
    assert_eq!(space.read("right.out"), "2");
}

#[test]
fn what_is_known_of_the_tasks_counts_whole_or_not_at_all() {
    let space = space();
    run(&space, true);
    until_short(&space);
    let parts = space.store_files("glances").into_iter().find(|path| path.extension().is_some_and(|e| e == "parts"));
    let parts = parts.expect("is written");
    let bytes = fs::read(&parts).expect("is read");
    let mut n = 0_u8;
    let mut damaged = |bytes: &[u8], what: &str| {
        n += 1;
        fs::write(&parts, bytes).expect("is written");
        space.write("c.txt", &format!("{} {what}\n", char::from(b'A' + n)));
        let (status, said, ran) = run(&space, true);
        assert_eq!((status, ran), (0, vec!["join".to_owned(), "right".to_owned()]), "{what}: {said}");
        log(&space).worked_out
    };
    assert_eq!(damaged(&bytes, "whole"), 2);
    for at in [0, 8, 12, 40, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        // Of the tasks' own parts, only those that are read count.
        assert!(at > 40 || damaged(&flipped, "flipped") > 2, "byte {at}");
        damaged(&flipped, "flipped");
    }
    assert!(damaged(&bytes[..bytes.len() / 2], "cut off") > 2);
    assert!(damaged(&[], "empty") > 2);
    let mut many = bytes.clone();
    many[8..12].fill(0xff);
    assert!(damaged(&many, "more parts than there can be") > 2);
    assert_eq!(damaged(&bytes, "whole"), 2);
}

#[test]
fn what_is_needed_and_gone_is_made_again_by_looking_at_everything() {
    let space = space();
    // Large enough to be a file of the store.
    space.write("b.txt", &"b".repeat(40_000));
    run(&space, true);
    until_short(&space);
    for blob in space.store_files("blobs") {
        fs::remove_file(blob).expect("is removed");
    }
    space.write("c.txt", "other\n");
    let (status, said, ran) = run(&space, true);
    assert_eq!((status, ran), (0, vec!["join".to_owned(), "left".to_owned(), "right".to_owned()]), "{said}");
    assert_eq!(space.read("join.out").len(), space.read("left.out").len() + 1);
}

#[test]
fn a_task_that_fails_is_told_what_it_did_not_declare_all_the_same() {
    if !needs_ns() || quipu_runtime::exec::trace::available().is_err() {
        return;
    }
    let space = TestSpace::new(
        "[task.t]\nrun = \"grep -q ok in || cat secret.h\"\ninputs = [\"in\"]\n\n[task.u]\nrun = \"true\"\ninputs = []\n",
    );
    space.write("in", "ok");
    space.write("secret.h", "");
    run(&space, true);
    until_short(&space);
    space.write("in", "no");
    let (status, said, _) = run(&space, true);
    assert_eq!((status, log(&space).worked_out), (1, 1), "{said}");
    assert!(said.contains("add to `inputs` (quipu.toml:3): \"secret.h\""), "{said}");
}

#[test]
fn of_many_tasks_those_that_nothing_happened_to_are_still_known_and_kept() {
    let numbers = |n: usize| (0..n).map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
    let text = |n: usize| {
        format!(
            "[workspace]\nsandbox = \"none\"\n[task.t]\nmatrix = {{ n = [{}] }}\nrun = \"echo {{{{n}}}} >> ../ran; cp in/{{{{n}}}} out-{{{{n}}}}\"\n\
             inputs = [\"in/{{{{n}}}}\"]\noutputs = [\"out-{{{{n}}}}\"]\n",
            numbers(n)
        )
    };
    let space = TestSpace::new(&text(140));
    (0..140).for_each(|n| space.write(&format!("in/{n}"), "in"));
    assert_eq!(run(&space, true).2.len(), 140);
    until_short(&space);
    space.write("in/77", "other");
    assert_eq!(run(&space, true).2, ["77"]);
    assert_eq!(log(&space).worked_out, 1);
    let is_known =
        |n: usize| explained(&space, &format!("t[{n}]")).contains("nothing differs from what it was when it was last");
    assert!([0, 76, 77, 78, 139].into_iter().all(is_known));
    // What no root keeps would go now.
    space.ok(&["gc", "--max-age", "0s"]);
    assert_eq!(run(&space, false).2, Vec::<String>::new());
    // With few tasks it is all in one place again.
    space.write("quipu.toml", &text(3));
    space.write("in/1", "other");
    assert_eq!(run(&space, false).2, ["1"]);
    assert!([0, 1, 2].into_iter().all(is_known));
    space.ok(&["gc", "--max-age", "0s"]);
    assert_eq!(run(&space, false).2, Vec::<String>::new());
    space.write("quipu.toml", &text(5));
    assert_eq!(run(&space, false).2, ["3", "4"], "nothing kept what the workfile did not name any more");
}

#[test]
fn what_a_task_above_printed_is_made_again_when_it_is_lost() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = 'none'\n[task.loud]\nrun = 'echo loud >> ../ran; yes abc | head -n 9000'\ninputs = []\n\
         [task.use]\nrun = 'echo use >> ../ran; cat source; printf %s \"$SAID\" | wc -c'\ninputs = ['source']\n\
         env = { SAID = '{{needs.loud.stdout}}' }\n",
    );
    space.write("source", "one\n");
    run(&space, true);
    until_short(&space);
    space.store_files("blobs").iter().for_each(|blob| fs::remove_file(blob).expect("is removed"));
    space.write("source", "two\n");
    let (status, said, ran) = run(&space, true);
    assert_eq!((status, ran), (0, vec!["loud".to_owned(), "use".to_owned()]), "{said}");
}

#[test]
fn what_was_touched_and_is_as_it_was_is_read_once() {
    const BYTES: u64 = 8 << 20;
    let space = TestSpace::new(
        "[workspace]\nsandbox = 'none'\n[task.count]\nrun = 'wc -c < big > out'\ninputs = ['big']\noutputs = ['out']\n",
    );
    space.write("big", &"x".repeat(BYTES as usize));
    run(&space, true);
    until_short(&space);
    let file = fs::File::options().write(true).open(space.path("big")).expect("opens");
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).expect("is set");
    // Old enough to be relied on once it is read.
    std::thread::sleep(Duration::from_millis(100));
    let mut command = space.command(&["run", "-qkj1"]);
    let mut child = command.env("WORD", "w.txt").env("QUIPU_GLANCE", "1").spawn().expect("starts");
    let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).expect("not waited for yet");
    wait_until("it has ended", || of("stat").rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")));
    let io = of("io");
    assert!(child.wait().expect("has ended").success());
    let read: u64 =
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).and_then(|n| n.parse().ok()).expect("told");
    assert!((BYTES..BYTES + BYTES / 2).contains(&read), "{read} bytes were read");
}

#[test]
fn a_task_under_several_names_above_counts_once() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = 'none'\n[task.up]\nmatrix = { i = ['1', '2', '3', '4'] }\nrun = 'cat u.txt'\n\
         inputs = ['u.txt']\n[task.down]\nrun = 'cat d.txt'\ninputs = ['d.txt']\nneeds = ['up']\n",
    );
    space.write("u.txt", "1");
    space.write("d.txt", "1");
    run(&space, true);
    until_short(&space);
    space.write("d.txt", "2");
    let (status, said, _) = run(&space, true);
    assert!(status == 0 && said.contains("2 tasks: 1 ran, 1 cached"), "{said}");
    assert_eq!(log(&space).worked_out, 1);
}

#[test]
fn what_a_task_above_made_and_is_damaged_is_made_again_by_looking_at_everything() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[task.made]\nrun = 'mkdir dir; seq 30000 > dir/x'\ninputs = []\noutputs = ['dir/']\n\
         [task.user]\nrun = 'cat dir/x e.txt | cksum > e.out'\ninputs = ['dir/', 'e.txt']\noutputs = ['e.out']\n",
    );
    space.write("e.txt", "1");
    run(&space, true);
    until_short(&space);
    for blob in space.store_files("blobs") {
        let mut bytes = fs::read(&blob).expect("is read");
        bytes[0] = b'Z';
        let mut writable = fs::metadata(&blob).expect("is there").permissions();
        writable.set_mode(0o600);
        fs::set_permissions(&blob, writable).expect("is ours");
        fs::write(&blob, bytes).expect("is written");
    }
    space.write("e.txt", "2");
    let (status, said, _) = run(&space, true);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("bytes do not match"), "{said}");
    let again = run(&space, false);
    assert_eq!(again.0, 0, "{}", again.1);
}

#[test]
fn a_source_that_looked_as_it_did_and_is_edited_while_its_task_runs_is_never_mixed_up() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.slow]
        run = "test ! -e ../wait || { : > ../started; sleep 0.4; }; cat a b > out"
        inputs = ["a", "b"]
        outputs = ["out"]
        [task.other]
        run = "cat c > other"
        inputs = ["c"]
        outputs = ["other"]
        "#,
    );
    ["a", "b", "c"].into_iter().for_each(|path| space.write(path, "one\n"));
    run(&space, true);
    for (n, in_place) in [(1, false), (2, true)] {
        until_short(&space);
        fs::write(space.beside("wait"), "").expect("is written");
        // One source looks different, the other one as it did.
        space.write("a", &format!("a {n}\n"));
        let mut command = space.command(&["run", "-qkj1"]);
        let mut child = command.env("WORD", "w.txt").env("QUIPU_GLANCE", "1").spawn().expect("starts");
        wait_until("its task runs", || space.beside("started").exists());
        if in_place {
            let file = fs::File::options().write(true).open(space.path("b")).expect("opens");
            let time = file.metadata().and_then(|m| m.modified()).expect("has a time");
            std::io::Write::write_all(&mut &file, format!("b {n}").as_bytes()).expect("is written");
            file.set_modified(time).expect("is set");
        } else {
            space.write("b", &format!("b {n}\n"));
        }
        assert!(!child.wait().expect("has ended").success(), "nothing came of it");
        assert_eq!(log(&space).worked_out, 1, "only the task concerned was worked out");
        ["wait", "started"].into_iter().for_each(|name| fs::remove_file(space.beside(name)).expect("is there"));
        let (status, said, _) = run(&space, true);
        assert_eq!((status, space.read("out")), (0, space.read("a") + &space.read("b")), "{said}");
    }
}
