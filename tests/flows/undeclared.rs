//! A task that fails for want of a file which is there and not declared is told so, with what to add.

use crate::kit::{Ran, TestSpace, needs_ns, needs_programs};

fn space(run: &str, rest: &str) -> TestSpace {
    let space = TestSpace::new(&format!(
        "[workspace]\n[task.t]\nrun = '''{run}'''\ninputs = [\"in\"]\noutputs = [\"out/o\"]\n{rest}"
    ));
    for path in ["in", "secret.h", "conf/deep/a", "conf/b", ".git/HEAD", "other"] {
        space.write(path, "");
    }
    space
}

fn hints(ran: &Ran) -> Vec<&str> {
    ran.warnings().into_iter().filter(|w| w.contains("looked for")).collect()
}

#[test]
fn what_was_looked_for_and_not_declared_is_named_with_the_line_to_add() {
    if !needs_ns() || quipu_runtime::exec::trace::available().is_err() {
        return;
    }
    let space = space("test -e .git/HEAD || test -e nothing || cat in conf/deep/a secret.h > out/o", "");
    let failed = space.build(&[]);
    assert_eq!(failed.output.status, 1);
    assert_eq!(
        hints(&failed),
        [
            "t looked for `conf/deep/a`, `secret.h`, which are in the workspace and which it does not declare; if it needs it, \
          add to `inputs` (quipu.toml:4): \"conf/deep/a\", \"secret.h\""
        ]
    );
    let shown = space.run(&["run"]);
    assert!(shown.stderr.contains("add to `inputs` (quipu.toml:4): \"conf/deep/a\", \"secret.h\""), "{}", shown.stderr);
    // With the line it succeeds, and nothing is left to say.
    space.edit("quipu.toml", "inputs = [\"in\"]", "inputs = [\"in\", \"conf/deep/a\", \"secret.h\"]");
    let succeeded = space.build_twice(&[]);
    assert_eq!(hints(&succeeded), Vec::<&str>::new());
    // What it made itself the last time is no input of it.
    space.write("in", "x");
    space.edit("quipu.toml", "> out/o", "> /dev/null; cat out/o; false");
    let own = space.build(&[]);
    assert_eq!((own.output.status, hints(&own)), (1, vec![]));
}

#[test]
fn a_folder_that_was_looked_for_is_named_as_one() {
    if !needs_ns() || !needs_programs(&["gcc"]) || quipu_runtime::exec::trace::available().is_err() {
        return;
    }
    let space = space("printf '#include \"b\"\\n' > /tmp/x.c; gcc -Iconf -c /tmp/x.c -o out/o", "");
    let failed = space.build(&[]);
    assert_eq!(failed.output.status, 1);
    assert!(hints(&failed)[0].ends_with("(quipu.toml:4): \"conf/\""), "{:?}", hints(&failed));
}

#[test]
fn a_task_that_may_do_something_elsewhere_is_not_run_again_for_it() {
    if !needs_ns() {
        return;
    }
    for rest in ["network = true", "secret-env = [\"PATH\"]", "sandbox = \"none\""] {
        let failed = space("cat other/x; cat secret", rest).build(&[]);
        assert_eq!((failed.output.status, hints(&failed)), (1, vec![]), "{rest}");
    }
}

#[test]
fn the_line_to_add_means_the_file_whatever_it_is_called() {
    if !needs_ns() || quipu_runtime::exec::trace::available().is_err() {
        return;
    }
    let space = TestSpace::new(
        "[task.t]\nrun = \"cat 'a b/x[1].txt'\"\ninputs = [\"a b/x[1].txt\"]\n[workspace]\nmembers = []\n",
    );
    space.write("a b/x[1].txt", "text\n");
    let failed = space.build(&[]);
    let line = "'a b/x\\[1].txt'";
    let expected = format!("(quipu.toml:3): {line} (as `a b/x[1].txt` it is a pattern, which means other files)");
    assert!(hints(&failed).iter().any(|hint| hint.ends_with(&expected)), "{:?}", hints(&failed));
    space.edit("quipu.toml", "\"a b/x[1].txt\"", line);
    space.build_twice(&[]);
}
