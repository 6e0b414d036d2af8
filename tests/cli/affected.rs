//! `quipu affected`, `--since`, `--changed`, and selectors with a `+`.

use std::process::Command;

use serde_json::json;

use crate::kit::TestSpace;

const ROOT: &str = "
[workspace]
members = ['libs/*']
[task.app]
run = 'cat libs/core/core.out libs/ui/ui.out main.txt > app'
inputs = ['main.txt']
needs = ['core:build', 'ui:build']
outputs = ['app']
sandbox = 'none'
[task.docs]
run = 'cat docs/*.md > manual'
inputs = ['docs/*.md']
outputs = ['manual']
sandbox = 'none'
[task.test]
run = 'true'
inputs = ['app']
sandbox = 'none'
[task.last]
run = 'true'
inputs = []
after = ['app']
sandbox = 'none'
";

fn lib(name: &str, rest: &str) -> String {
    format!(
        "[task.build]\nrun = 'cat src/* > {name}.out'\ninputs = ['src']\noutputs = ['{name}.out']\nsandbox = 'none'\n{rest}"
    )
}

fn space() -> TestSpace {
    let space = TestSpace::new(ROOT);
    space.write("main.txt", "m");
    space.write("docs/a.md", "a");
    for name in ["core", "ui"] {
        space.write(
            &format!("libs/{name}/quipu.toml"),
            &lib(name, if name == "ui" { "needs = ':core:build'" } else { "" }),
        );
        space.write(&format!("libs/{name}/src/x"), name);
    }
    space.edit("libs/ui/quipu.toml", ":core:build", "core:build");
    space
}

fn names(space: &TestSpace, args: &[&str]) -> String {
    let out = space.ok(&[&["affected"][..], args].concat()).stdout;
    out.lines().filter_map(|l| l.split_whitespace().next()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_change_affects_what_reads_it_and_all_that_needs_that() {
    let space = space();
    assert_eq!(names(&space, &["--changed", "libs/core/src/x"]), "app test core:build ui:build");
    assert_eq!(names(&space, &["--changed", "libs/ui/src/gone"]), "app test ui:build");
    assert_eq!(names(&space, &["--changed", "docs/new.md"]), "docs");
    assert_eq!(names(&space, &["--changed", "docs/deep/new.md", "--changed", "libs/ui/y"]), "");
    assert_eq!(names(&space, &["--changed", "main.txt", "--changed", "docs/a.md", "d*", "app"]), "app docs");
    // What a task makes is no source; a workfile says what its tasks are.
    assert_eq!(names(&space, &["--changed", "libs/core/core.out"]), "");
    assert_eq!(names(&space, &["--changed", "libs/ui/quipu.toml"]), "app test ui:build");
    assert_eq!(names(&space, &["--changed", "quipu.toml"]), "app docs test last core:build ui:build");
    let why = space.json(&["-C", "libs/ui", "affected", "--changed", "../core/src/x", "--json", "build"]);
    assert_eq!(why, json!([{ "name": "ui:build", "needs": "core:build" }]));
    let text = space.ok(&["affected", "--changed", "libs/core/src/x", "core:build", "test"]).stdout;
    assert_eq!(text, "test        needs app\ncore:build  libs/core/src/x changed\n");
    let said = space.run(&["affected"]);
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("say `--since COMMIT`"), "{}", said.stderr);
    let said = space.run(&["affected", "--changed", "../elsewhere"]);
    assert!(said.stderr.contains("`../elsewhere` is not in the workspace"), "{}", said.stderr);
}

#[test]
fn a_template_and_a_tool_of_the_workspace_affect_who_uses_them() {
    let space = TestSpace::new(
        "include = [{ path = 'ci/t.toml', name = 't' }]\n[workspace]\nsandbox = 'none'\n\
         [task.b]\nextends = 't:base'\ninputs = []\n[task.c]\nrun = 'tools/gen'\ninputs = []\ntools = ['tools/gen']\n\
         [task.d]\nrun = 'true'\ninputs = []\n",
    );
    space.write("ci/t.toml", "[template.base]\nrun = 'echo one'\n");
    space.script("tools/gen", "echo one");
    space.build_twice(&[]);
    assert_eq!(names(&space, &["--changed", "ci/t.toml"]), "b");
    assert_eq!(names(&space, &["--changed", "tools/gen"]), "c");
    // What it says is what a run does.
    space.edit("ci/t.toml", "one", "two");
    assert_eq!(space.build_twice(&[]).ran(), "b");
    space.script("tools/gen", "echo two");
    assert_eq!(space.build_twice(&[]).ran(), "c");
}

#[test]
fn a_file_may_be_named_by_way_of_a_link() {
    let space = space();
    std::os::unix::fs::symlink(space.path(""), space.beside("link")).expect("is made");
    for file in ["docs/a.md", "docs/gone.md"] {
        let path = space.beside("link").join(file);
        assert_eq!(names(&space, &["--changed", path.to_str().expect("text")]), "docs", "{file}");
    }
}

#[test]
fn git_tells_what_changed() {
    let space = space();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(space.path("")).args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(args);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let out = git.output().expect("git is there");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    git(&["init", "-q", "-b", "main"]);
    space.write(".gitignore", "*.out\n");
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    assert_eq!(names(&space, &["--since", "main"]), "");
    git(&["checkout", "-q", "-b", "topic"]);
    git(&["rm", "-q", "docs/a.md"]);
    git(&["commit", "-q", "-m", "two"]);
    assert_eq!(names(&space, &["--since", "main"]), "docs");
    // What is on the other side alone is no change of this one; what is not committed is.
    git(&["checkout", "-q", "main"]);
    space.write("libs/core/src/x", "other");
    git(&["commit", "-q", "-a", "-m", "three"]);
    git(&["checkout", "-q", "topic"]);
    space.write("libs/ui/src/new", "");
    space.write("libs/ui/ui.out", "");
    assert_eq!(names(&space, &["--since", "main"]), "app docs test ui:build");
    let ran = space.build(&["--since", "main", "*:build"]);
    assert_eq!(ran.ran(), "core:build ui:build", "one is affected, and needs the other");
    assert_eq!(ran.events[0]["goals"], json!(["ui:build"]));
    assert_eq!(space.build(&["--since", "main", "+app"]).ran(), "app");
    let said = space.run(&["affected", "--since", "nowhere"]);
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("git does not know what changed since `nowhere`"), "{}", said.stderr);
    let said = space.run(&["affected", "--since=--output=x"]);
    assert!(said.status == 2 && !space.exists("x"), "{}", said.stderr);
}

#[test]
fn a_plus_takes_what_is_needed_or_what_needs_it() {
    let space = space();
    let list = |selector: &str| {
        let out = space.ok(&["list", selector]).stdout;
        out.lines().filter(|l| !l.starts_with(' ')).map(str::trim).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list("app"), "app");
    assert_eq!(list("+app"), "app core:build ui:build");
    assert_eq!(list("core:build+"), "app test core:build ui:build");
    assert_eq!(list("+app+"), "app test core:build ui:build");
    assert_eq!(list("+*:build"), "core:build ui:build");
    assert_eq!(space.build_twice(&["ui:build+"]).ran(), "app core:build test ui:build");
    let said = space.run(&["run", "+ap"]);
    assert!(said.stderr.contains("asked for `ap`, which is not defined\nhelp: did you mean `app`?"), "{}", said.stderr);
    space.edit("quipu.toml", "inputs = ['app']", "inputs = []\nneeds = 'app+'");
    let said = space.run(&["run"]);
    assert!(said.stderr.contains("task `test` needs `app+`, but `+` is for the command line"), "{}", said.stderr);
}
