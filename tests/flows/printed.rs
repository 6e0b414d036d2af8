//! What a task prints, as a value in the texts of others.

use crate::kit::TestSpace;

const PRINTED: &str = r#"
[workspace]
sandbox = "none"

[vars]
version = "{{needs.version.stdout}}"

[task.version]
run = "tail -n 1 VERSION; echo '  '"
inputs = ["VERSION"]

[task.commit]
run = "cat COMMIT"
inputs = ["COMMIT"]
stdout = "commit.txt"

[task.pack]
run = ["sh", "-c", 'echo "$0 $TAG $1" > pack.out', "app-{{version}}.tar", "{{needs.commit.stdout}}"]
inputs = []
env = { TAG = "v{{ needs.version.stdout }}-{{needs.commit.stdout}}" }
outputs = ["pack.out"]

[task.raw]
run = "od -c > raw.out"
inputs = []
stdin = "{{needs.version.stdout}}"
outputs = ["raw.out"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(PRINTED);
    space.write("VERSION", "# first\n1.2\n");
    space.write("COMMIT", "abc\n");
    space
}

#[test]
fn what_is_printed_stands_in_commands_and_environment_without_its_margins() {
    let space = space();
    space.build_twice(&[]);
    assert_eq!(space.read("pack.out"), "app-1.2.tar v1.2-abc abc\n");
    assert!(space.read("raw.out").contains("1   .   2  \\n          \\n"), "{}", space.read("raw.out"));
}

#[test]
fn the_same_text_runs_nothing_and_another_text_those_who_take_it() {
    let space = space();
    space.build(&[]);
    space.write("VERSION", "# second\n1.2\n");
    let ran = space.build_twice(&[]);
    assert_eq!((ran.ran().as_str(), ran.count("cut_off")), ("version", 2));
    space.write("COMMIT", "def\n");
    assert_eq!(space.build_twice(&[]).ran(), "commit pack");
    assert_eq!(space.read("pack.out"), "app-1.2.tar v1.2-def def\n");
    let text = space.ok(&["explain", "pack"]).stdout;
    assert!(text.contains("receipt"), "{text}");
}

#[test]
fn a_task_that_prints_nothing_gives_the_empty_text() {
    let space = space();
    space.edit("quipu.toml", "tail -n 1 VERSION; echo '  '", "true");
    space.build_twice(&[]);
    assert_eq!(space.read("pack.out"), "app-.tar v-abc abc\n");
}

#[test]
fn texts_that_cannot_be_had_are_errors_before_anything_runs() {
    let space = TestSpace::new(
        r#"
        [task.a]
        run = "echo {{needs.nobody.stdout}}"
        [task.c]
        matrix = { n = [1, 2] }
        run = "echo {{n}}"
        inputs = []
        [task.d]
        run = "echo {{needs.c.stdout}}"
        [task.g]
        needs = ["c"]
        [task.h]
        run = "echo {{needs.g.stdout}}"
        [task.x]
        run = "echo {{needs.y.stdout}}"
        inputs = []
        [task.y]
        run = "echo {{needs.x.stdout}}"
        inputs = []
        "#,
    );
    let output = space.run(&["plan"]);
    assert_eq!(output.status, 2);
    for message in [
        "task `a` takes what is printed by `nobody`, which is not defined",
        "task `d` takes what `c` prints, which is 2 tasks",
        "task `h` takes what `g` prints, which is a group",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
    space.write(
        "quipu.toml",
        "[task.x]\nrun = \"echo {{needs.y.stdout}}\"\n[task.y]\nrun = \"echo {{needs.x.stdout}}\"\n",
    );
    let output = space.run(&["plan"]);
    assert!(output.stderr.contains("tasks wait for one another: `x` -> `y` -> `x`"), "{}", output.stderr);
}
