//! Bad workfiles: every error at once, each with its place, and nothing has run.

use insta::assert_snapshot;

use crate::kit::TestSpace;

/// What `quipu run` says of a workfile.
fn check(workfile: &str) -> String {
    let space = TestSpace::new(workfile);
    space.write("there.txt", "there");
    let output = space.run(&["run"]);
    assert_eq!((output.status, output.stdout.as_str()), (2, ""));
    assert!(!space.beside("ran").exists() && space.listing().is_empty(), "nothing has run, nothing was made");
    let plan = space.run(&["plan"]);
    assert_eq!((plan.status, plan.stderr), (2, output.stderr.clone()), "a plan says the same");
    output.shown()
}

#[test]
fn a_cycle_is_shown_with_all_its_tasks() {
    let text = check(
        r#"[task.a]
run = "echo a >> ../ran"
inputs = ["c.out"]
outputs = ["a.out"]
[task.b]
run = "echo b >> ../ran"
inputs = ["a.out"]
outputs = ["b.out"]
[task.c]
run = "echo c >> ../ran"
inputs = ["b.out"]
outputs = ["c.out"]
"#,
    );
    assert_snapshot!(text, @r#"
    exit 2
    --- stderr
    error: tasks wait for one another: `a` -> `c` -> `b` -> `a`
      --> quipu.toml:3:11
       |
     3 | inputs = ["c.out"]
       |           ^^^^^^^
       |
      ::: quipu.toml:3:11
       |
     3 | inputs = ["c.out"]
       |           ------- `a` reads what is made by `c`
       |
      ::: quipu.toml:11:11
       |
    11 | inputs = ["b.out"]
       |           ------- `c` reads what is made by `b`
       |
      ::: quipu.toml:7:11
       |
     7 | inputs = ["a.out"]
       |           ------- `b` reads what is made by `a`
       |
       = help: inputs that another task makes can be left out of a glob or folder: `"!path"`
    "#);
}

#[test]
fn many_mistakes_are_told_at_once() {
    let text = check(
        r#"[task.one]
run = "echo one >> ../ran"
inputs = ["missing.txt"]
outputs = ["../outside"]

[task.two]
run = "echo two >> ../ran"
needs = ["thee"]
outputs = ["same.out"]

[task.three]
run = "echo three >> ../ran"
inputs = ["there.txt"]
outputs = ["same.out"]
retries = "many"

[task.four]
inputs = []
colour = "red"
"#,
    );
    assert_snapshot!(text, @r#"
    exit 2
    --- stderr
    error: output `../outside` of task `one` leads out of the workspace
     --> quipu.toml:4:12
      |
    4 | outputs = ["../outside"]
      |            ^^^^^^^^^^^^
      |
      = help: paths are relative to the folder of the workfile and stay in the workspace

    error: output `same.out` of task `three` is an output of task `two` too
      --> quipu.toml:14:12
       |
    14 | outputs = ["same.out"]
       |            ^^^^^^^^^^
       |
      ::: quipu.toml:9:12
       |
     9 | outputs = ["same.out"]
       |            ---------- `same.out` of task `two` is here

    error: `retries` of task `three` takes an integer, found a string
      --> quipu.toml:15:11
       |
    15 | retries = "many"
       |           ^^^^^^

    error: task `four` has `inputs` but no `run`
      --> quipu.toml:18:1
       |
    18 | inputs = []
       | ^^^^^^
       |
       = help: without `run` or `steps` a task only groups what it `needs`

    error: task `four` has no key `colour`
      --> quipu.toml:19:1
       |
    19 | colour = "red"
       | ^^^^^^
       |
       = help: `quipu schema` has all its keys
    "#);
}

#[test]
fn outputs_that_overlap_are_shown_with_both_places() {
    let text = check(
        r#"[task.dir]
run = "echo dir >> ../ran"
inputs = []
outputs = ["gen/"]
[task.file]
run = "echo file >> ../ran"
inputs = []
outputs = ["gen/x.h"]
"#,
    );
    assert_snapshot!(text, @r#"
    exit 2
    --- stderr
    error: output `gen/x.h` of task `file` overlaps output `gen/` of task `dir`
     --> quipu.toml:8:12
      |
    8 | outputs = ["gen/x.h"]
      |            ^^^^^^^^^
      |
     ::: quipu.toml:4:12
      |
    4 | outputs = ["gen/"]
      |            ------ `gen/` of task `dir` is here
    "#);
}

#[test]
fn a_name_that_stands_twice_and_one_that_is_nearly_right() {
    let text = check(
        r#"[task.compile]
run = "echo >> ../ran"
inputs = []
[task.link]
run = "echo >> ../ran"
inputs = []
needs = ["compil"]
[task.link]
run = "echo >> ../ran"
"#,
    );
    assert_snapshot!(text, @r#"
    exit 2
    --- stderr
    error: table `task.link` is defined twice
     --> quipu.toml:8:7
      |
    8 | [task.link]
      |       ^^^^
      |
     ::: quipu.toml:4:1
      |
    4 | [task.link]
      | ----------- first defined here
    "#);
}

#[test]
fn an_input_that_nobody_makes_and_is_not_there() {
    let text = check("[task.a]\nrun = \"echo >> ../ran\"\ninputs = [\"src/mian.c\", \"there.txt\"]\n");
    assert_snapshot!(text, @r#"
    exit 2
    --- stderr
    error: input `src/mian.c` of task `a` does not exist, and no task makes it
     --> quipu.toml:3:11
      |
    3 | inputs = ["src/mian.c", "there.txt"]
      |           ^^^^^^^^^^^^
    "#);
}

#[test]
fn text_that_is_no_toml() {
    let text = check("[task.a\nrun = 3\n");
    assert_snapshot!(text, @r#"
    exit 2
    --- stderr
    error: invalid TOML: unclosed table, expected `]`
     --> quipu.toml:1:8
      |
    1 | [task.a
      |        ^
    "#);
}
