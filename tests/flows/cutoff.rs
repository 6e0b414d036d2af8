//! Early cut-off: what comes out as before does not make others run.

use crate::kit::TestSpace;

const CHAIN: &str = r#"
[workspace]

[task.a]
run = "grep -v '#' a.in > a.out"
inputs = ["a.in"]
outputs = ["a.out"]

[task.b]
run = "cat a.out > b.out"
inputs = ["a.out"]
outputs = ["b.out"]

[task.c]
run = "cat b.out > c.out"
inputs = ["b.out"]
outputs = ["c.out"]
"#;

#[test]
fn t9_a_changed_task_with_the_same_output_runs_alone() {
    let space = TestSpace::new(CHAIN);
    space.write("a.in", "text\n");
    space.build_twice(&[]);
    space.write("a.in", "# a comment\ntext\n");
    let ran = space.build_twice(&[]);
    assert_eq!((ran.ended("ran").as_str(), ran.ended("cut-off").as_str()), ("a", "b c"));
    // The recipe itself, likewise.
    space.edit("quipu.toml", "grep -v '#' a.in", "grep -v '#' < a.in");
    let ran = space.build_twice(&[]);
    assert_eq!((ran.ended("ran").as_str(), ran.ended("cut-off").as_str()), ("a", "b c"));
    assert_eq!(space.ok(&["run"]).stderr, "nothing to do: 3 tasks are up to date\n");
}

#[test]
fn what_was_cut_off_can_be_explained_afterwards() {
    let space = TestSpace::new(CHAIN);
    space.write("a.in", "text\n");
    space.build(&[]);
    space.write("a.in", "# a comment\ntext\n");
    space.build(&[]);
    space.write("a.in", "other\n");
    let text = space.ok(&["explain", "c"]).stdout;
    for part in ["conditional", "what task `b` makes", "what task `a` makes", "changed a.in"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn t10_only_the_consumer_of_the_changed_part_runs() {
    let space = TestSpace::new(
        r#"
        [workspace]
        [task.split]
        run = "mkdir -p parts; grep l in > parts/left; grep r in > parts/right"
        inputs = ["in"]
        outputs = ["parts/"]
        [task.left]
        run = "cat parts/left"
        inputs = ["parts/left"]
        [task.right]
        run = "cat parts/right"
        inputs = ["parts/right"]
        "#,
    );
    space.write("in", "l1\nr1\n");
    space.build_twice(&[]);
    space.write("in", "l1\nr2\n");
    let ran = space.build_twice(&[]);
    assert_eq!((ran.ran().as_str(), ran.ended("cut-off").as_str()), ("right split", "left"));
}
