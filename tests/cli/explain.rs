//! `quipu explain`.

use insta::assert_snapshot;

use crate::kit::TestSpace;

const TASKS: &str = r#"[workspace]
# Isolated as by default.

[task.gen]
run = "cat src/a src/b > gen.out"
inputs = ["src/"]
outputs = ["gen.out"]

[task.use]
run = ["cat", "gen.out"]
inputs = ["gen.out"]
env = { MODE = "fast" }
pass-env = ["TERM"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("src/a", "a\n");
    space.write("src/b", "b\n");
    space
}

/// Without what the id is made of.
fn explain(space: &TestSpace, args: &[&str]) -> String {
    let text = space.ok(&[&["explain"], args].concat()).shown();
    text.split("\ntask [id]").next().unwrap_or_default().to_owned()
}

#[test]
fn it_says_why_and_what_changed_down_to_the_file_and_the_line() {
    let space = space();
    assert_snapshot!(explain(&space, &["gen"]), @r#"
    gen: certain: there is no receipt for it
    nothing is known of an earlier task of this name
    "#);
    assert!(space.listing().is_empty());
    space.build(&[]);
    assert_snapshot!(explain(&space, &["use"]), @r#"
    use: cached: there is a receipt for it
    nothing differs from when it was last settled
    "#);
    let before = space.listing();
    space.write("src/a", "A\n");
    space.write("src/sub/c", "c\n");
    space.remove("src/b");
    assert_snapshot!(explain(&space, &["gen"]), @r#"
    gen: certain: there is no receipt for it
    what differs from when it was last settled:
      source files changed (`inputs`, quipu.toml:6:1)
        changed src/a
        removed src/b
        added src/sub/c
    "#);
    assert_snapshot!(explain(&space, &["use"]), @r#"
    use: conditional: it depends on what comes out of `gen`
    what differs from when it was last settled:
      what task `gen` makes (`inputs`, quipu.toml:11:1), in which
        source files changed (`inputs`, quipu.toml:6:1)
          changed src/a
          removed src/b
          added src/sub/c
    "#);
    assert_eq!(space.listing(), before, "nothing is written");
    space.write("src/a", "a\n");
    space.write("src/b", "b\n");
    space.remove("src/sub");
    space.edit("quipu.toml", "[\"cat\", \"gen.out\"]", "[\"cat\", \"-n\", \"gen.out\"]");
    space.edit("quipu.toml", "fast", "slow");
    assert_snapshot!(explain(&space, &["use"]), @r#"
    use: certain: there is no receipt for it
    what differs from when it was last settled:
      environment `MODE` was `fast`, is `slow` (`env`, quipu.toml:12:1)
      argument `steps[0][1]` `-n` added (`run`, quipu.toml:10:1)
    "#);
}

#[test]
fn what_is_listed_is_what_is_hashed() {
    let space = space();
    space.build(&[]);
    let explained = space.json(&["explain", "--json", "use"]);
    assert_eq!((&explained["status"], &explained["differences"]), (&"cached".into(), &serde_json::json!([])));
    let shown = space.json(&["show", "--json", explained["task"].as_str().expect("text")]);
    assert_eq!(explained["ingredients"], shown["ingredients"]);
    assert_eq!(explained["earlier"], explained["task"]);
}

#[test]
fn a_change_of_the_surroundings_points_to_where_they_are_let_in() {
    let space = space();
    space.build(&[]);
    let output = space.command(&["explain", "--json", "use"]).env("TERM", "other").output().expect("starts");
    let explained: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let told = &explained["differences"][0];
    assert_eq!(
        (&told["message"], &told["key"]),
        (&"environment `TERM` was `dumb`, is `other`".into(), &"pass-env".into())
    );
    assert_eq!(told["place"], "quipu.toml:13:1");
}

#[test]
fn one_task_at_a_time() {
    let space = space();
    assert_snapshot!(space.run(&["explain", "*"]).shown(), @r#"
    exit 2
    --- stderr
    error: `*` means 2 tasks
      gen
      use
    help: name one
    "#);
}
