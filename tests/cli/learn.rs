//! `quipu learn`. Where tasks cannot be traced the tests say so and check nothing; `QUIPU_TEST_NEEDS_NS` makes that a
//! failure.

use std::collections::BTreeSet;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::kit::{Output, TestSpace};

/// What `learn` does, where it works here.
fn learn(space: &TestSpace, args: &[&str]) -> Option<Output> {
    let output = space.run(&[&["learn"], args].concat());
    if output.status == 3 && output.stderr.contains("cannot be traced here") {
        assert!(std::env::var_os("QUIPU_TEST_NEEDS_NS").is_none(), "{}", output.stderr);
        return None;
    }
    Some(output)
}

fn json(output: &Output) -> Json {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", output.stdout, output.stderr))
}

fn texts(value: &Json) -> BTreeSet<String> {
    value.as_array().expect("is a list").iter().map(|v| v.as_str().expect("is text").to_owned()).collect()
}

fn set(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

#[test]
fn of_a_c_file_with_200_headers_it_learns_what_the_compiler_knows() {
    if Command::new("gcc").arg("--version").output().is_err() {
        return;
    }
    let space = TestSpace::new(
        "# Mine.\n[task.compile] # one unit\nrun = [\"gcc\", \"-Iinclude\", \"-Ivendor\", \"-c\", \"src/main.c\", \"-o\", \"obj/main.o\"]\n\
         inputs = [\"src/main.c\"] # not all\noutputs = [\"obj/main.o\"]\nsandbox = \"ns\"\n",
    );
    let mut main = vec![];
    for i in 0..200 {
        let (dir, i) = (if i < 150 { "include" } else { "vendor" }, i);
        space.write(&format!("{dir}/d{}/h{i}.h", i % 3), &format!("#define H{i} {i}\n"));
        main.push(format!("#include \"d{}/h{i}.h\"\n", i % 3));
    }
    for i in 0..30 {
        space.write(&format!("vendor/d0/not{i}.h"), "#error not to be read\n");
        space.write(&format!("src/other{i}.c"), "#error not to be read\n");
    }
    space.write("src/main.c", &format!("{}int main(void) {{ return H7 + H199; }}\n", main.concat()));
    let Some(output) = learn(&space, &["compile", "--json"]) else { return };
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    let learnt = json(&output);

    let mut make = Command::new("gcc");
    make.args(["-Iinclude", "-Ivendor", "-M", "src/main.c"]).current_dir(space.path(""));
    let rules = make.output().expect("runs");
    let rules = String::from_utf8(rules.stdout).expect("text");
    let words = rules.split_whitespace().filter(|word| !word.ends_with(':') && *word != "\\" && !word.starts_with('/'));
    let known: BTreeSet<String> = words.map(str::to_owned).collect();
    assert_eq!(known.len(), 201);
    assert_eq!(texts(&learnt["sources"]), known);
    assert!(texts(&learnt["inputs"]).is_superset(&set(&[
        "include/**/*.h",
        "src/main.c",
        "vendor/d1/*.h",
        "vendor/d2/*.h"
    ])));
    assert_eq!((&learnt["verified"], texts(&learnt["tools"])), (&true.into(), set(&["as", "gcc"])));
    assert!(!space.exists("obj"), "nothing is put into the workspace");
    assert_eq!(space.read("quipu.toml").matches("include").count(), 1, "and nothing is written unasked");

    // As it stands it does not compile; as written it does, and what is not read does not matter.
    assert_eq!(space.build(&[]).output.status, 1);
    space.ok(&["learn", "compile", "--write"]);
    let written = space.read("quipu.toml");
    assert!(written.starts_with("# Mine.\n[task.compile] # one unit\nrun = "), "{written}");
    assert!(
        written.contains("] # not all\noutputs = [\"obj/main.o\"]\nsandbox = \"ns\"\ntools = [\"as\", \"gcc\"]\n"),
        "{written}"
    );
    assert_eq!(space.build_twice(&[]).ran(), "compile");
    space.write("vendor/d0/not3.h", "changed\n");
    space.nothing_to_do(&[]);
    space.write("vendor/d0/h150.h", "#define H150 1000\n");
    assert_eq!(space.build_twice(&[]).ran(), "compile");
    let again = space.ok(&["learn", "compile"]);
    assert_eq!(again.stdout, "");
    assert!(again.stderr.contains("the workfile says so already"), "{}", again.stderr);
}

const SCRIPTS: &str = r#"[task.gen]
run = "cat words > gen/list"
inputs = ["words"]
outputs = ["gen/list"]
sandbox = "none"

[task.pack]
run = "mkdir -p out/parts; for f in data/*; do cp $f out/parts/; done; cat gen/list alias > out/all; echo done"
inputs = ["data/one"]
outputs = ["old"]
sandbox = "none"
"#;

#[test]
fn what_a_script_reads_of_other_tasks_through_links_and_in_folders_is_learnt() {
    let space = TestSpace::new(SCRIPTS);
    for path in ["data/one", "data/two", "data/three.txt", "notes", "words", "old"] {
        space.write(path, &format!("{path}\n"));
    }
    space.write("out/kept", "mine\n");
    std::os::unix::fs::symlink("notes", space.path("alias")).expect("is linked");
    space.ok(&["run", "gen"]);
    let before = (space.read("old"), space.read("out/kept"));
    let Some(output) = learn(&space, &["pack"]) else { return };
    assert_snapshot!(output.shown(), @r#"
    [task.pack]
    inputs = ["alias", "data/**", "gen/list", "notes"]
    outputs = ["out/all", "out/parts/one", "out/parts/three.txt", "out/parts/two"]
    tools = ["cat", "cp", "mkdir", "sh"]
    --- stderr
    note: `gen/list` is made by task `gen`, which it depends on from now on
    note: it did not make its declared output `old`
    `pack` reads 6 files of the workspace; with nothing else in its sandbox it makes the same
    "#);
    assert_eq!((space.read("old"), space.read("out/kept")), before);
    assert!(!space.exists("out/all") && !space.exists("out/parts"));
    space.ok(&["learn", "pack", "--write"]);
    space.edit("quipu.toml", "echo done\"", "echo done \"");
    assert_eq!(space.build_twice(&["pack"]).ran(), "pack");
    assert_eq!(space.read("out/all"), "words\nnotes\n");
    space.write("words", "others\n");
    assert_eq!(space.build_twice(&["pack"]).ran(), "gen pack");
}

#[test]
fn what_is_not_certain_is_not_written() {
    let workfile = r#"[task.random]
run = "cat in; od -An -N8 -tx1 /dev/urandom > out"

[task.broken]
run = "cat in; cat none"

[task.in-place]
run = "cat in >> log"
inputs = ["in"]

[task.each]
matrix = { unit = ["a", "b"] }
run = "cat {{unit}}.txt"
inputs = []
"#;
    let space = TestSpace::new(workfile);
    for path in ["in", "log", "a.txt", "b.txt"] {
        space.write(path, "text\n");
    }
    let Some(random) = learn(&space, &["random", "--write"]) else { return };
    assert_eq!(random.status, 5);
    assert!(random.stderr.contains("makes something different:\n  `out` differs at byte "), "{}", random.stderr);
    let broken = space.run(&["learn", "broken"]);
    assert_eq!((broken.status, &*broken.stdout), (1, ""));
    assert!(
        broken.stderr.contains("failed broken") && broken.stderr.contains("cat: none: No such file"),
        "{}",
        broken.stderr
    );
    let in_place = space.run(&["learn", "in-place", "--write"]);
    assert_eq!(in_place.status, 5);
    assert!(in_place.stderr.contains("note: it reads and changes `log`"), "{}", in_place.stderr);
    assert_eq!(space.read("log"), "text\n");
    assert_eq!(space.run(&["learn", "each"]).status, 2, "one at a time");
    assert_eq!(space.run(&["learn", "each[a]", "--write"]).status, 2, "variants share what the workfile says");
    let each = json(&space.ok(&["learn", "each[a]", "--json"]));
    assert_eq!((texts(&each["inputs"]), &each["written"]), (set(&["a.txt"]), &false.into()));
    assert_eq!(space.read("quipu.toml"), workfile);
    // Nothing of all this counts as having run.
    assert_eq!(space.ok(&["log"]).stdout, "");
    let each = space.build(&["each"]);
    assert!(each.ended("cached").is_empty() && !each.ended("failed").is_empty(), "{}", each.output.stderr);
}

#[test]
fn a_members_paths_are_written_from_its_folder() {
    let space = TestSpace::new("[workspace]\nmembers = [\"lib\"]\n");
    space
        .write("lib/quipu.toml", "[task.join]\nrun = \"cat a.txt ../shared/b.txt > joined\"\noutputs = [\"joined\"]\n");
    space.write("lib/a.txt", "a\n");
    space.write("shared/b.txt", "b\n");
    let Some(output) = learn(&space, &["lib:join", "--write"]) else { return };
    assert_eq!(output.status, 0, "{}", output.stderr);
    let written = space.read("lib/quipu.toml");
    assert!(written.contains("inputs = [\"a.txt\", \"../shared/b.txt\"]"), "{written}");
    assert_eq!(space.build_twice(&["lib:join"]).ran(), "lib:join");
}

#[test]
fn what_is_included_is_written_where_it_stands() {
    let root = "include = [\"ci/lint.toml\"]\n[workspace]\n[task.build]\nrun = \"cat main.txt > main.out\"\n\
                inputs = [\"main.txt\"]\noutputs = [\"main.out\"]\n";
    let space = TestSpace::new(root);
    space.write(
        "ci/lint.toml",
        "[task.build]\nrun = \"cat data.txt > lint.out\"\ninputs = [\"data.txt\", \"extra.txt\"]\noutputs = [\"lint.out\"]\n",
    );
    ["main.txt", "data.txt", "extra.txt"].iter().for_each(|path| space.write(path, "text\n"));
    let Some(output) = learn(&space, &["lint:build", "--write"]) else { return };
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert_eq!(space.read("quipu.toml"), root, "its namesake is as it was");
    let written = space.read("ci/lint.toml");
    assert!(written.contains("inputs = [\"data.txt\"]\n"), "{written}");
    assert!(output.stderr.contains("ci/lint.toml"), "{}", output.stderr);
    space.remove("extra.txt");
    assert_eq!(space.build_twice(&[]).ran(), "build lint:build");
}

#[test]
fn what_cannot_be_learnt_or_written_is_said_before_anything_runs() {
    let space = TestSpace::new("");
    let text = "[task.build]\nrun = \"echo ran >> ../note; cat main.txt\"\nsandbox = \"none\"\n";
    let id = quipu_store::cid::BlobId::of(text.as_bytes());
    std::fs::write(space.beside("lint.toml"), text).expect("is written");
    let url = format!("file://{}", space.beside("lint.toml").display());
    space.write(
        "quipu.toml",
        &format!(
            "include = [{{ url = \"{url}\", blake3 = \"{id}\" }}]\n[workspace]\n[task.approval]\nexternal = true\n\
             [task.ask]\nworker = [\"sh\"]\nrun = [\"x\"]\ninputs = []\n[task.server]\nrun = \"sleep 9\"\ninputs = []\n\
             service = {{ file = \"up\" }}\n"
        ),
    );
    space.write("main.txt", "text\n");
    let said = |args: &[&str], message: &str| {
        let output = space.run(args);
        assert!(output.status == 2 && output.stderr.contains(message), "{args:?}: {}", output.shown());
    };
    said(
        &["learn", "lint:build", "--write"],
        &format!("`lint:build` is defined in `{url}`, which is included from elsewhere"),
    );
    said(&["learn", "approval"], "`approval` is done elsewhere: only what runs a process can be learnt from");
    said(&["learn", "ask"], "`ask` is done by a worker");
    said(&["learn", "server"], "`server` is a service");
    assert_eq!(space.lines("note").len(), 0, "nothing ran");
}
