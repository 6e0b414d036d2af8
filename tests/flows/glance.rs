//! The short way of a run with nothing to do, beside the long one: whatever was changed, both say and do the same.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use quipu_store::cid::{InvocationId, ReceiptId};
use quipu_store::sign::Signer;
use quipu_store::{Options, SignerSource, Store};

use crate::kit::{TestSpace, redact, wait_until};

/// One task of each kind of input and output.
const ROOT: &str = r#"
[workspace]
sandbox = "none"
members = ["libs/*"]

[task.glob]
run = "echo glob >> ../ran; cat src/*.txt > glob.out"
inputs = ["src/**/*.txt", "!src/not.txt"]
outputs = ["glob.out"]

[task.tree]
run = "echo tree >> ../ran; mkdir -p tree; cp glob.out tree/copy; cp one.txt tree/one"
inputs = ["glob.out", "one.txt"]
outputs = ["tree/"]

[task.many]
run = "echo many >> ../ran; mkdir -p made; cp one.txt made/a.gen; cp one.txt made/b.gen"
inputs = ["one.txt", "lead"]
outputs = ["made/*.gen"]

[task.outside]
run = "echo outside $WORD >> ../ran; echo $WORD > word.out"
inputs = []
pass-env = ["WORD"]
tools = ["bin/tool"]
outputs = ["word.out"]
"#;

/// A member that takes what git does not ignore.
const MEMBER: &str = r#"
[task.all]
run = "echo all >> ../../../ran; ls > all.out"
outputs = ["all.out"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(ROOT);
    for (path, text) in [
        ("src/a.txt", "a"),
        ("src/deep/b.txt", "b"),
        ("src/not.txt", "n"),
        ("one.txt", "1"),
        ("bin/tool", "tool 1"),
        ("libs/one/quipu.toml", MEMBER),
        ("libs/one/in.c", "c"),
        ("libs/one/.gitignore", "*.o\n"),
    ] {
        space.write(path, text);
    }
    symlink("one.txt", space.path("lead")).expect("is made");
    space
}

/// What a person sees, and what was done.
fn run(space: &TestSpace, short: bool, word: &str, args: &[&str]) -> (i32, String, Vec<String>) {
    let mut command = space.command(&[&["run", "-qkj1"], args].concat());
    command.env("WORD", word).env("QUIPU_GLANCE", if short { "1" } else { "0" });
    let output = command.output().expect("starts");
    let said = redact(&String::from_utf8_lossy(&output.stderr));
    // What runs at once ends in any order.
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    let said = said.join("\n");
    let _ = fs::remove_file(space.beside("ran.before"));
    let mut ran = space.lines("ran");
    ran.sort_unstable();
    let _ = fs::rename(space.beside("ran"), space.beside("ran.before"));
    (output.status.code().unwrap_or(-1), said, ran)
}

/// Each glance of the store: what is written anew is another file.
fn glances(space: &TestSpace) -> Vec<(std::path::PathBuf, u64, i64)> {
    let files = space.store_files("glances").into_iter();
    files
        .map(|path| (path.metadata().expect("is there"), path))
        .map(|(m, path)| (path, m.ino(), m.mtime_nsec()))
        .collect()
}

/// Runs until runs are short: then none looks at anything that it would write down.
fn until_short(space: &TestSpace, word: &str, args: &[&str]) {
    wait_until("runs become short", || {
        let before = glances(space);
        let (status, said, ran) = run(space, true, word, args);
        assert_eq!((status, ran.len()), (0, 0), "{said}");
        assert!(said.starts_with("nothing to do"), "{said}");
        std::thread::sleep(Duration::from_millis(20));
        !before.is_empty() && before == glances(space)
    });
}

/// Something a person may do between two runs. `n` makes it differ from time to time.
fn edit(space: &TestSpace, which: usize, n: usize) {
    let at = |path: &str| space.path(path);
    let toggle = |path: &str, text: &str| {
        if space.exists(path) { space.remove(path) } else { space.write(path, text) }
    };
    let keep_times = |path: &str, text: &str| {
        let times = at(path).metadata().expect("is there").modified().expect("is known");
        space.write(path, text);
        File::options().write(true).open(at(path)).and_then(|f| f.set_modified(times)).expect("is set");
    };
    match which {
        0 => space.write("src/a.txt", &n.to_string()),
        1 => keep_times("src/a.txt", &(n % 10).to_string()),
        2 => File::options()
            .write(true)
            .open(at("one.txt"))
            .and_then(|f| f.set_modified(SystemTime::now()))
            .expect("is set"),
        3 => toggle("src/deep/new.txt", "new"),
        4 => toggle("src/not.txt", "n"),
        5 => {
            let mode = at("one.txt").metadata().expect("is there").mode();
            fs::set_permissions(at("one.txt"), Permissions::from_mode(mode ^ 0o100)).expect("is set");
        }
        6 => space.write("quipu.toml", &format!("{ROOT}# {n}\n")),
        7 => space.write("quipu.toml", &ROOT.replace("echo tree", &format!("echo tree {}", n % 3))),
        8 => space.write("bin/tool", &format!("tool {}", n % 3)),
        9 => space.write("glob.out", "a person's"),
        10 if space.exists("word.out") => space.remove("word.out"),
        11 if space.exists("tree") => space.write("tree/more", "more"),
        12 if space.exists("tree/copy") => space.remove("tree/copy"),
        13 if space.exists("made/a.gen") => keep_times("made/a.gen", "2"),
        14 => toggle("libs/one/new.c", "c"),
        15 => toggle("libs/one/new.o", "ignored"),
        16 => space.write("libs/one/.gitignore", if n.is_multiple_of(2) { "*.o\n" } else { "*.o\nnew.c\n" }),
        17 => toggle("libs/two/quipu.toml", MEMBER),
        18 => toggle(".gitignore", "new.c\n"),
        19 => {
            fs::remove_file(at("lead")).expect("is removed");
            symlink(if n.is_multiple_of(2) { "one.txt" } else { "src/a.txt" }, at("lead")).expect("is made");
        }
        20 if space.exists("made") && !at("made").is_symlink() => {
            let _ = fs::remove_dir_all(space.beside("made"));
            fs::rename(at("made"), space.beside("made")).expect("is moved");
            symlink("../made", at("made")).expect("is made");
        }
        20 if at("made").is_symlink() => space.remove("made"),
        21 => drop(space.run(&["gc", "--max-age", "0s"])),
        22 => drop(fs::remove_dir_all(space.store())),
        23 => toggle("src/deep/b.txt", "b"),
        24 => space.use_key(u8::try_from(n % 9).expect("fits") + 1),
        25 => space.write("../.gitignore", if n.is_multiple_of(2) { "" } else { "in.c\n" }),
        26 => space.write("libs/one/quipu.toml", &format!("{MEMBER}env = {{ N = \"{}\" }}\n", n % 3)),
        _ => {}
    }
}

const EDITS: usize = 28;

#[test]
fn a_run_is_short_when_nothing_changed_and_says_the_same() {
    let space = space();
    assert_eq!(run(&space, true, "w", &[]).0, 0);
    until_short(&space, "w", &[]);
    assert_eq!(run(&space, true, "w", &[]), run(&space, false, "w", &[]));
    // Each way to ask has a glance of its own.
    until_short(&space, "w", &["glob"]);
    until_short(&space, "w", &["-C", "libs/one"]);
    let (_, said, ran) = run(&space, true, "other", &[]);
    assert_eq!(ran, ["outside other"], "{said}");
    assert_eq!(run(&space, true, "w", &[]).2, Vec::<String>::new());
    assert_eq!(space.read("word.out"), "w\n", "what a run with another word left is replaced");
    until_short(&space, "w", &[]);
    let before = glances(&space);
    let told = space.command(&["run", "--json"]).env("WORD", "w").output().expect("starts");
    assert_eq!(String::from_utf8_lossy(&told.stdout).matches("\"end\":\"cached\"").count(), 5);
    assert_eq!(glances(&space), before, "a run that tells each task looks for itself");
    assert!(space.ok(&["gc"]).stderr.is_empty());
    until_short(&space, "w", &[]);
}

#[test]
fn what_others_add_to_the_store_leaves_runs_short_and_what_they_say_again_does_not() {
    let space = space();
    assert_eq!(run(&space, true, "w", &[]).0, 0);
    until_short(&space, "w", &[]);
    let ours = glances(&space);
    let is_kept = || ours.iter().all(|glance| glances(&space).contains(glance));
    let text = "[workspace]\nsandbox = \"none\"\n[task.new]\nrun = \"echo new > new.out\"\ninputs = []\noutputs = [\"new.out\"]\n";
    space.write("../other/quipu.toml", text);
    space.ok(&["-C", "../other", "run"]);
    assert_eq!(run(&space, true, "w", &[]), run(&space, false, "w", &[]));
    assert!(is_kept(), "a run that looks everything up would have written another");
    // The same task once more, by somebody else: what the store goes by may be another receipt now.
    space.write("../other/quipu.toml", &text.replace("echo new", "date +%N"));
    space.ok(&["-C", "../other", "run"]);
    assert_eq!(run(&space, true, "w", &[]).0, 0);
    assert!(is_kept(), "that was a task nobody knew");
    space.ok(&["-C", "../other", "run", "--force"]);
    // That was one that had a receipt.
    wait_until("everything is looked up once more", || {
        assert_eq!(run(&space, true, "w", &[]).2, Vec::<String>::new());
        std::thread::sleep(Duration::from_millis(20));
        !is_kept()
    });
}

#[test]
fn what_is_never_cached_runs_again_after_a_run_that_went_on_where_a_killed_one_was() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = \"none\"\n[task.x]\nrun = \"echo x >> ../ran\"\ninputs = []\ncache = false\n",
    );
    assert_eq!(run(&space, true, "w", &[]).2, ["x"]);
    let log = space.ok(&["log", "--run", "last", "--json"]).stdout;
    let recorded = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("is JSON"));
    let recorded = recorded
        .filter(|event| event["event"] == "recorded")
        .find_map(|event| event["receipt"].as_str().map(str::to_owned));
    let receipt: ReceiptId = recorded.expect("it ran").parse().expect("is an id");
    // As a run leaves it that is killed when all is done and before it ends.
    let root = space.path("").canonicalize().expect("is there");
    let options = Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32])));
    let store = Store::open(&space.store(), options).expect("opens");
    let session = InvocationId::of(format!("session\0{}\0x", root.display()).as_bytes());
    store.set_note(&format!("session:{session}"), Some(receipt.digest().to_vec())).expect("is noted");
    store.flush().expect("is written");
    drop(store);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(run(&space, true, "w", &[]).2, Vec::<String>::new(), "it goes on");
    assert_eq!(run(&space, true, "w", &[]).2, ["x"], "that was over");
}

#[test]
fn after_each_edit_a_short_way_is_as_good_as_the_long_one() {
    let (a, b) = (space(), space());
    for which in 0..EDITS {
        for n in [which, which + 1] {
            run(&a, true, "w", &[]);
            run(&b, false, "w", &[]);
            // Not each time: what follows at once must be seen as well.
            if n == which && a.exists("src/deep/b.txt") {
                wait_until("runs become short", || {
                    let before = glances(&a);
                    let (status, said, ran) = run(&a, true, "w", &[]);
                    assert_eq!((status, said, ran), run(&b, false, "w", &[]), "before edit {which}");
                    std::thread::sleep(Duration::from_millis(20));
                    !before.is_empty() && before == glances(&a)
                });
            }
            edit(&a, which, n);
            edit(&b, which, n);
            for round in 0..2 {
                let (short, long) = (run(&a, true, "w", &[]), run(&b, false, "w", &[]));
                assert_eq!(short, long, "edit {which} of {n}, round {round}");
                for out in ["glob.out", "tree/copy", "made/a.gen", "word.out", "libs/one/all.out"] {
                    let read = |space: &TestSpace| fs::read(space.path(out)).ok();
                    assert_eq!(read(&a), read(&b), "{out} after edit {which} of {n}, round {round}");
                }
            }
        }
    }
}

#[test]
fn edits_in_any_order_are_all_seen() {
    let (a, b) = (space(), space());
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let words = ["w", "x"];
    let goals: [&[&str]; 3] = [&[], &["tree"], &["many", "outside"]];
    for step in 0..40 {
        let (which, n, word, goals) = (next(EDITS), next(7), words[next(2)], goals[next(3)]);
        edit(&a, which, n);
        edit(&b, which, n);
        if next(3) == 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        for round in 0..1 + next(4) {
            let (short, long) = (run(&a, true, word, goals), run(&b, false, word, goals));
            assert_eq!(short, long, "step {step}: edit {which} of {n}, {word}, {goals:?}, round {round}");
        }
    }
}

#[test]
fn what_a_param_takes_from_a_variable_that_is_never_the_same_is_looked_at() {
    let space = TestSpace::new(
        "[workspace]\nsandbox = 'none'\n[params]\np = { default = 'd', from-env = 'OLDPWD' }\n\
         [task.a]\nrun = 'echo {{p}} > a.out'\ninputs = []\noutputs = ['a.out']\n",
    );
    let in_one = |dir: &str| {
        let output = space.finish(space.command(&["run", "-q"]).env("OLDPWD", dir).env("QUIPU_GLANCE", "1"));
        assert_eq!(output.status, 0, "{}", output.stderr);
    };
    for _ in 0..4 {
        in_one("/one");
        std::thread::sleep(Duration::from_millis(50));
    }
    in_one("/other");
    assert_eq!(space.read("a.out"), "/other\n");
}
