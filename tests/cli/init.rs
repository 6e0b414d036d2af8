//! `quipu init`.

use insta::assert_snapshot;

use crate::kit::TestSpace;

#[test]
fn a_workfile_is_written_that_runs() {
    let space = TestSpace::new("");
    space.remove("quipu.toml");
    let output = space.ok(&["init"]);
    assert_snapshot!(output.shown(), @r#"
    --- stderr
    wrote `./quipu.toml`; try `quipu list`, then `quipu run`
    "#);
    assert!(space.read("quipu.toml").starts_with("# "));
    assert_eq!(space.build_twice(&[]).ran(), "greet shout");
    assert_eq!(space.ok(&["log", "shout"]).stdout, "HELLO\n");
}

#[test]
fn what_is_there_is_seen_and_never_overwritten() {
    let space = TestSpace::new("");
    assert_snapshot!(space.run(&["init"]).shown(), @r#"
    exit 2
    --- stderr
    error: `./quipu.toml` is there already
    help: `quipu list` lists its tasks
    "#);
    assert_eq!(space.read("quipu.toml"), "");
    space.remove("quipu.toml");
    space.write("Makefile", "all:\n\techo made\n");
    space.ok(&["init"]);
    assert_eq!(space.ok(&["list"]).stdout, "make  What make makes\n");
}

#[test]
fn a_workspace_above_is_pointed_out() {
    let space = TestSpace::new("[workspace]\n");
    space.write("part/file", "");
    let output = space.ok(&["-C", "part", "init"]);
    assert!(output.stderr.contains("is above it: to make this folder a member"), "{}", output.stderr);
}

#[test]
fn in_a_folder_that_a_workspace_lists_it_makes_a_member() {
    let space = TestSpace::new("[workspace]\nmembers = [\"part\", \"libs/*\", \"!libs/attic\"]\n");
    for (dir, is_member) in [("part", true), ("libs/one", true), ("libs/attic", false)] {
        space.write(&format!("{dir}/file"), "");
        let said = space.ok(&["-C", dir, "init"]).stderr;
        assert_eq!(said.contains("this folder is a member of the workspace"), is_member, "{dir}: {said}");
        assert_eq!(space.read(&format!("{dir}/quipu.toml")).contains("[workspace]"), !is_member, "{dir}");
    }
    let listed = space.ok(&["list"]).stdout;
    assert!(listed.contains("part:greet") && listed.contains("one:shout") && !listed.contains("attic"), "{listed}");
    assert_eq!(space.build_twice(&["part:shout"]).ran(), "part:greet part:shout");
}
