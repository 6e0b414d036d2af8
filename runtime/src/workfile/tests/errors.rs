//! One case for each way a workfile can be wrong: the plain form of the errors, whole.

use super::{outcome, sources};
use crate::workfile::{LoadError, load_text};

/// The errors of a text are exactly these, without `quipu.toml:` at the start of each line.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = match outcome(text) {
        Ok(_) => String::new(),
        Err(errors) => errors.replace("quipu.toml:", ""),
    };
    let expected: String = expected.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(found, expected, "of\n{text}");
}

#[test]
fn syntax() {
    check("[task.a]\nrun = \"x\n", &["2:9: invalid TOML: invalid basic string, expected `\"`"]);
    check(
        "[task.a]\nrum = 'x'\nrun = 'x'\n[task.b]\nrun = = 'x'\n[task.c\n",
        &[
            "2:1: task `a` has no key `rum`",
            "  help: did you mean `run`?",
            "5:7: invalid TOML: extra `=`, expected nothing",
            "6:8: invalid TOML: unclosed table, expected `]`",
        ],
    );
}

#[test]
fn twice() {
    check(
        "[task.a]\nrun = 'x'\n[task.b]\nrun = 'y'\n[ task.a ]\nrun = 'z'\n",
        &["5:8: table `task.a` is defined twice", "  1:1: first defined here"],
    );
    check(
        "[task.a]\nrun = 'x'\nrun = 'y'\nmute = 1\n",
        &[
            "3:1: key `run` is defined twice",
            "  2:1: first defined here",
            "4:8: `mute` of task `a` takes `true` or `false`, found an integer",
        ],
    );
}

#[test]
fn types() {
    check(
        "task = 3\nvars = []\nworkspace = ''",
        &[
            "1:8: `task` of a workfile takes a table, found an integer",
            "2:8: `vars` of a workfile takes a table, found a list",
            "3:13: `workspace` of a workfile takes a table, found a string",
        ],
    );
    check(
        "[task]\na = 'make'\n[task.b]\nrun = 1\ninputs = 'x'\noutputs = [1]\nenv = { A = true }\nmatrix = []\nslots = 'x'\ncache = 'no'\ntimeout = 1.5\nshell = 'bash'\nmute = []",
        &[
            "2:1: task `a` is a string, not a table",
            "  help: write `[task.a]` and its keys below",
            "4:7: `run` of task `b` takes a string for the shell, or a list of strings, found an integer",
            "5:10: `inputs` of task `b` takes a list of strings, found a string",
            "  help: put it in brackets: `[\"...\"]`",
            "6:12: `outputs` of task `b` takes a list of paths or `{ path = \"...\", optional = true }`, found an integer",
            "7:13: `env.A` of task `b` takes a string or an integer, found a boolean",
            "  help: put it in quotes",
            "8:10: `matrix` of task `b` takes a table, found a list",
            "9:9: `slots` of task `b` takes an integer or a table of integers, found a string",
            "10:9: `cache` of task `b` takes `true` or `false`, found a string",
            "11:11: `timeout` of task `b` takes a duration, found a float",
            "12:9: `shell` of task `b` takes a list of strings, found a string",
            "  help: put it in brackets: `[\"...\"]`",
            "13:8: `mute` of task `b` takes `true` or `false`, found a list",
        ],
    );
    check(
        "[task.a]\nrun = ['x', 1, 2]\noutputs = [{ optional = true }]\n",
        &[
            "2:13: `run` of task `a` takes a string for the shell, or a list of strings, found an integer",
            "2:16: `run` of task `a` takes a string for the shell, or a list of strings, found an integer",
            "3:12: an output of task `a` has no `path`",
        ],
    );
    check(
        "[task.a]\nrun = 'x'\nsteps = ['y']\n",
        &[
            "2:1: task `a` has both `run` and `steps`",
            "  3:1: `steps` are here",
            "  help: make `run` the first of the `steps`",
        ],
    );
}

#[test]
fn unknown_keys() {
    check(
        "run = 'x'\n[tasks.a]\n[workspace]\nmembrs = []\n[task.a]\nrun = 'x'\ndepends_on = ['b']\nzzz = 1\noutputs = [{ path = 'o', optinal = true }]",
        &[
            "1:1: a workfile has no key `run`",
            "  help: keys of a task stand below its `[task.NAME]`",
            "2:2: a workfile has no key `tasks`",
            "  help: did you mean `task`?",
            "4:1: `[workspace]` has no key `membrs`",
            "  help: did you mean `members`?",
            "7:1: task `a` has no key `depends_on`",
            "  help: did you mean `needs`?",
            "8:1: task `a` has no key `zzz`",
            "  help: `quipu schema` has all its keys",
            "9:26: task `a` has no key `optinal`",
            "  help: did you mean `optional`?",
        ],
    );
}

#[test]
fn names() {
    check(
        "[vars]\n'a b' = 1\n[task.\"a:b\"]\nrun = 'x'\n[task.c]\nrun = 'x'\ntags = ['x y']\nenv = { 'A=' = 'x' }\npass-env = ['']\nmatrix = { '1' = ['a'] }\nslots = { 'x y' = 1 }\ntools = ['']",
        &[
            "2:1: `a b` cannot name a variable",
            "  help: a letter or `_`, then letters, digits, `_` and `-`",
            "3:7: `a:b` cannot name a task",
            "  help: letters, digits, `_`, `.` and `-`",
            "7:9: `x y` cannot be a tag",
            "  help: letters, digits, `_`, `.` and `-`",
            "8:9: `A=` cannot name an environment variable",
            "9:13: `` cannot name an environment variable",
            "10:12: `1` cannot name a list of a matrix",
            "  help: a letter or `_`, then letters, digits, `_` and `-`",
            "11:1: `x y` cannot name slots",
            "  help: letters, digits, `_`, `.` and `-`",
        ],
    );
}

#[test]
fn values() {
    check(
        "[workspace]\nsandbox = 'docker'\nsubject = 'me'\n[task.a]\nrun = 'x'\ntimeout = 'soon'\nretries = -1\nslots = { x = 0 }\nsandbox = 'NS'\n[task.b]\nrun = 'x'\ntimeout = 0\nretries = 99999999999999999999999\n[task.c]\nrun = \"a\\u0000b\"",
        &[
            "2:11: `sandbox` of `[workspace]` is `docker`, which is no kind of isolation",
            "  help: one of `ns`, `landlock`, `none`",
            "3:11: `subject` of `[workspace]` is `me`, which is no DID",
            "  help: for example `did:web:example.org`",
            "6:11: `timeout` of task `a` is no duration: a number is missing",
            "  help: write `\"10s\"`, `\"1h30m\"`, or a number of seconds",
            "7:11: `retries` of task `a` is -1; it goes from 0 to 100",
            "8:15: `slots.x` of task `a` is 0; it goes from 1 to 65535",
            "9:11: `sandbox` of task `a` is `NS`, which is no kind of isolation",
            "  help: one of `ns`, `landlock`, `none`",
            "12:11: `timeout` of task `b` is no duration: it is zero",
            "  help: write `\"10s\"`, `\"1h30m\"`, or a number of seconds",
            "13:11: `retries` of task `b` is 99999999999999999999999; it goes from 0 to 100",
            "15:7: `run` of task `c` has a NUL character in it",
        ],
    );
}

#[test]
fn nothing_to_do() {
    check(
        "[task.a]\nrun = ' '\n[task.b]\nrun = []\n[task.c]\nsteps = []\n[task.d]\n[task.e]\ndescription = 'x'\noutputs = ['x']\nenv = {}\nneeds = []\n[task.f]\nrun = ['']",
        &[
            "2:7: `run` of task `a` is empty",
            "  help: leave it out for a task that only groups what it `needs`",
            "4:7: `run` of task `b` is empty",
            "  help: leave it out for a task that only groups what it `needs`",
            "6:9: `steps` of task `c` is empty",
            "7:7: task `d` has neither `run` nor `needs`",
            "  help: say what to `run`, or which tasks it groups",
            "10:1: task `e` has `outputs`, `env` but no `run`",
            "  help: without `run` or `steps` a task only groups what it `needs`",
            "14:7: `run` of task `f` is empty",
            "  help: leave it out for a task that only groups what it `needs`",
        ],
    );
}

#[test]
fn variables() {
    check(
        "[vars]\nflags = '-O2'\na = '{{b}}'\nb = '{{a}}'\nc = '{{flag}}'\n[task.t]\nrun = 'cc {{flgas}} {{x}} {{.State}} {{flags'\nenv = { A = \"\\t{{zz}}\" }\ninputs = ['{{c}}main.c']",
        &[
            "3:1: variable `a` stands for itself, at once or by way of others",
            "4:1: variable `b` stands for itself, at once or by way of others",
            "5:6: variable `flag` is not defined",
            "  help: did you mean `flags`?",
            "7:11: variable `flgas` is not defined",
            "  help: did you mean `flags`?",
            "7:21: variable `x` is not defined",
            "  help: define it: `x = \"...\"` below `[vars]`, or as a matrix list",
            "7:27: variable `.State` is not defined",
            "  help: write `{{{{` for two braces as they are",
            "7:38: `{{` is never closed",
            "  help: write `{{{{` for two braces as they are",
            "8:13: variable `zz` is not defined",
            "  help: define it: `zz = \"...\"` below `[vars]`, or as a matrix list",
        ],
    );
}

#[test]
fn unknown_tasks() {
    check(
        "[workspace]\ndefault = ['al']\n[task.all]\nneeds = ['compil', 'x*', 'tag:ci', 'compile[c]', 'q:y']\n[task.compile]\nrun = 'cc'\nafter = 'lnik'\nmatrix = { u = ['a', 'b'] }\n[task.link]\nrun = 'ld'\nneeds = ['all[x]']",
        &[
            "2:12: `default` of `[workspace]` has `al`, which is not defined",
            "  help: did you mean `all`?",
            "4:10: task `all` needs `compil`, which is not defined",
            "  help: did you mean `compile`?",
            "4:20: task `all` needs `x*`, which matches no task",
            "4:26: task `all` needs `tag:ci`, but no task has that tag",
            "4:36: task `all` needs `compile[c]`, but `compile` has no such variant",
            "  help: its variants are `a`, `b`",
            "4:50: task `all` needs `q:y`, but there is no member `q`",
            "7:9: task `compile[a]` comes after `lnik`, which is not defined",
            "  help: did you mean `link`?",
            "  help: the same for 1 more variant of the task",
            "11:10: task `link` needs `all[x]`, but `all` has no variants",
        ],
    );
}

#[test]
fn rings() {
    check("[task.a]\nrun = 'x'\nneeds = ['a']", &["3:10: task `a` waits for itself", "  3:10: `a` needs `a`"]);
    check(
        "[task.a]\nrun = 'x'\ninputs = ['c.out']\noutputs = ['a.out']\n[task.b]\nrun = 'x'\nneeds = ['a']\n[task.c]\nrun = 'x'\nafter = ['b']\noutputs = ['c.out']\n[task.d]\nneeds = ['e', 'a']\n[task.e]\nneeds = ['d']\n[task.f]\nrun = 'x'\nneeds = 'c'",
        &[
            "3:11: tasks wait for one another: `a` -> `c` -> `b` -> `a`",
            "  3:11: `a` reads what is made by `c`",
            "  10:10: `c` comes after `b`",
            "  7:10: `b` needs `a`",
            "  help: inputs that another task makes can be left out of a glob or folder: `\"!path\"`",
            "13:10: tasks wait for one another: `d` -> `e` -> `d`",
            "  13:10: `d` needs `e`",
            "  15:10: `e` needs `d`",
        ],
    );
}

#[test]
fn overlaps() {
    let task = |name: &str, outputs: &str| format!("[task.{name}]\nrun = '{name}'\noutputs = {outputs}\n");
    let two = |a: &str, b: &str, message: &str, theirs: &str| {
        check(&(task("a", a) + &task("b", b)), &[message, &format!("  3:12: `{theirs}` of task `a` is here")]);
    };
    two("['x']", "['./y/../x']", "6:12: output `x` of task `b` is an output of task `a` too", "x");
    two("['gen/']", "['gen/a/x.h']", "6:12: output `gen/a/x.h` of task `b` overlaps output `gen/` of task `a`", "gen/");
    two(
        "['gen/a/x.h']",
        "['gen/']",
        "6:12: output `gen/` of task `b` overlaps output `gen/a/x.h` of task `a`",
        "gen/a/x.h",
    );
    two("['gen/']", "['gen/']", "6:12: output `gen/` of task `b` is an output of task `a` too", "gen/");
    two("['gen/']", "['gen']", "6:12: output `gen` of task `b` overlaps output `gen/` of task `a`", "gen/");
    two("['o/*.o']", "['o/a.o']", "6:12: output `o/a.o` of task `b` overlaps output `o/*.o` of task `a`", "o/*.o");
    two("['o/a*']", "['o/*.o']", "6:12: output `o/*.o` of task `b` overlaps output `o/a*` of task `a`", "o/a*");
    two("['o/']", "['**/*.o']", "6:12: output `**/*.o` of task `b` overlaps output `o/` of task `a`", "o/");
    two("['a']", "['a/b']", "6:12: output `a/b` of task `b` overlaps output `a` of task `a`", "a");
    check(&(task("a", "['o/*.c', 'p/x']") + &task("b", "['o/*.o', 'p/y/']")), &[]);
    check(
        "[task.a]\nrun = 'x'\noutputs = ['x', 'g/', 'x', 'g/h']\n[task.b]\nrun = 'x'\nmatrix = { u = ['1', '2', '3'] }\noutputs = ['o']\n[task.c]\nrun = 'x'\noutputs = ['c/*', 'c/log', 'c.log']\nstdout = 'c.log'",
        &[
            "3:23: task `a` has output `x` twice",
            "  3:12: `x` of task `a` is here",
            "3:28: outputs `g/` and `g/h` of task `a` overlap",
            "  3:17: `g/` of task `a` is here",
        ],
    );
}

#[test]
fn variants_that_differ_need_outputs_of_their_own() {
    check(
        "[task.b]\nrun = 'x {{u}}'\nmatrix = { u = ['1', '2', '3'] }\noutputs = ['o']",
        &[
            "4:12: output `o` of task `b[2]` is an output of task `b[1]` too",
            "  help: each variant needs outputs of its own: put `{{u}}` into the path",
            "  help: the same for 1 more variant of the task",
        ],
    );
}

#[test]
fn paths() {
    check(
        "[task.a]\nrun = 'x'\ninputs = ['/etc/passwd', '../x', '', '[a', 'a**', '{a']\noutputs = ['/tmp/x', 'a/../../y', '.', '.git/x', '!z', 'o/*/']\ndir = '..'\nstdin = '*'\nstdout = 'out/'",
        &[
            "3:11: input `/etc/passwd` of task `a` is absolute",
            "  help: paths are relative to the folder of the workfile and stay in the workspace",
            "3:26: input `../x` of task `a` leads out of the workspace",
            "  help: paths are relative to the folder of the workfile and stay in the workspace",
            "3:34: input `` of task `a` is empty",
            "3:38: input `[a` of task `a` cannot be read: `[` is never closed",
            "  help: a backslash takes away a character's meaning: `\\\\[`",
            "3:44: input `a**` of task `a` cannot be read: `**` must stand alone between slashes",
            "  help: a backslash takes away a character's meaning: `\\\\[`",
            "3:51: input `{a` of task `a` cannot be read: `{` and `}` do not match",
            "  help: a backslash takes away a character's meaning: `\\\\[`",
            "4:12: output `/tmp/x` of task `a` is absolute",
            "  help: paths are relative to the folder of the workfile and stay in the workspace",
            "4:22: output `a/../../y` of task `a` leads out of the workspace",
            "  help: paths are relative to the folder of the workfile and stay in the workspace",
            "4:35: output `.` of task `a` is the whole workspace",
            "4:40: output `.git/x` of task `a` lies in `.git`",
            "4:50: output `!z` of task `a` is an exclusion",
            "  help: outputs are what a task makes; leave out what it does not",
            "4:56: output `o/*/` of task `a` is a glob of folders",
            "  help: a glob takes files: name the folder, or end in `/**`",
            "5:7: dir `..` of task `a` leads out of the workspace",
            "  help: paths are relative to the folder of the workfile and stay in the workspace",
            "6:9: stdin `*` of task `a` is not one file",
            "7:10: stdout `out/` of task `a` is not one file",
        ],
    );
}

#[test]
fn own_outputs_and_missing_inputs() {
    check(
        "[task.a]\nrun = 'x'\ninputs = ['x', 'gen/y', 'main.c', 'mian.c', 'lib/x', 'main.c/x', 'src', '*.h', '{utl,util}.c']\noutputs = ['x', 'gen/']\nstdin = 'x'",
        &[
            "3:11: input `x` of task `a` is its own output",
            "  4:1: its outputs are here",
            "3:16: input `gen/y` of task `a` is part of its own output `gen`",
            "  4:1: its outputs are here",
            "3:35: input `mian.c` of task `a` does not exist, and no task makes it",
            "  help: did you mean `main.c`?",
            "3:45: input `lib/x` of task `a` does not exist, and no task makes it",
            "3:54: input `main.c/x` of task `a` does not exist, and no task makes it",
            "3:80: input `utl.c` of task `a` does not exist, and no task makes it",
            "  help: did you mean `util.c`?",
            "5:9: stdin `x` of task `a` is its own output",
            "  4:1: its outputs are here",
        ],
    );
    check(
        "[task.a]\nrun = 'x'\nstdin = 'nope'",
        &["3:9: input `nope` of task `a` does not exist, and no task makes it"],
    );
}

#[test]
fn what_an_error_breaks_is_not_blamed_on_others() {
    check(
        "[task.a]\nrun = 'x'\noutputs = 'gen/x'\n[task.b]\nrun = 'y'\ninputs = ['gen/x']\nneeds = ['c', 'e']\n[task.\"c d\"]\nrun = 'x'\n[task.e]\nrun = 'x'\nmatrix = { u = [] }",
        &[
            "3:11: `outputs` of task `a` takes a list of paths or `{ path = \"...\", optional = true }`, found a string",
            "  help: put it in brackets: `[\"...\"]`",
            "8:7: `c d` cannot name a task",
            "  help: letters, digits, `_`, `.` and `-`",
            "12:16: `matrix.u` of task `e` is an empty list",
            "  help: without a value there is no task at all",
        ],
    );
}

#[test]
fn matrices() {
    let many: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let many = many.join(",");
    check(
        &format!("[task.a]\nrun = 'x'\nmatrix = {{ u = [{many}], v = [{many}] }}"),
        &["3:1: task `a` makes 1000 x 1000 = 1000000 tasks; a workfile makes at most 100000"],
    );
    check(
        "[task.a]\nrun = 'x'\nmatrix = { u = ['a', 'b', 'a'], v = [1, '1'], w = [''], x = true, z = [1.5] }\n[task.b]\nrun = 'x'\nmatrix = {}",
        &[
            "3:27: `u` of task `a` has the value `a` twice",
            "  3:17: first here",
            "3:41: `v` of task `a` has the value `1` twice",
            "  3:38: first here",
            "3:52: a value of `w` of task `a` is empty",
            "  help: values stand in task names",
            "3:61: `matrix.x` of task `a` takes a string of words, or a list of strings or integers, found a boolean",
            "3:72: `matrix.z` of task `a` takes a string or an integer, found a float",
            "6:10: `matrix` of task `b` is empty",
        ],
    );
}

#[test]
fn bounds() {
    check(
        &" ".repeat(crate::workfile::MAX_FILE_BYTES + 1),
        &["1:1: this file has 16777217 bytes; a workfile has at most 16777216"],
    );
    let deep = format!("[task.a]\nrun = {}", "[".repeat(200));
    assert!(outcome(&deep).err().is_some_and(|e| e.contains("2:")), "nesting is bounded");
    let vars: String = (0..40).map(|i| format!("v{} = '{{{{v{i}}}}}{{{{v{i}}}}}'\n", i + 1)).collect();
    let grown = outcome(&format!("[vars]\nv0 = 'x'\n{vars}")).err().unwrap_or_default();
    assert!(grown.contains("has more than 1048576 bytes with its variables"), "{grown}");
    let wide = "[task.a]\nrun = 'x'\nmatrix = { u = U }\n[task.b]\nrun = 'x'\nmatrix = { u = U }\nneeds = 'a'";
    let list: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
    let wide = outcome(&wide.replace('U', &format!("[{}]", list.join(",")))).err().unwrap_or_default();
    assert!(wide.contains("there are more than 4000000 edges"), "{wide}");
    assert_eq!(wide.lines().count(), 2, "{wide}");
}

#[test]
fn the_long_form_shows_the_source() {
    let dir = sources();
    let error =
        load_text(dir.path(), "[task.link]\nrun = 'ld'\nneeds = [\"compil\"]\n[task.compile]\nrun = 'cc'\n").err();
    let Some(LoadError::Faults(faults)) = error else { panic!("{error:?}") };
    let expected = "\
error: task `link` needs `compil`, which is not defined
 --> quipu.toml:3:10
  |
3 | needs = [\"compil\"]
  |          ^^^^^^^^
  |
  = help: did you mean `compile`?

";
    assert_eq!(faults.render(false), expected);
    assert!(faults.render(true).contains('\u{1b}'));
}

#[test]
fn errors_without_end_are_counted() {
    let text: String = (0..250).map(|i| format!("[task.t{i}]\nrum = 'x'\nrun = 'x'\n")).collect();
    let errors = outcome(&text).err().unwrap_or_default();
    assert!(errors.ends_with("and 150 more errors\n"), "{errors}");
}

#[test]
fn lists_of_a_matrix() {
    let task = |rest: &str| format!("[task.a]\nrun = 'x'\n{rest}");
    check(
        &task("versions = '{0..1000000000}'\nmatrix = { b = \"it's\", c = '', d = '{1..4} {1..4}', e = ['{a'] }"),
        &[
            "3:12: `version` of task `a` makes more than 100000 values",
            "4:16: `b` of task `a` has a `'` that is never closed",
            "  help: write `\\'` for one that means nothing",
            "4:28: `c` of task `a` has no value",
            "  help: without a value there is no task at all",
            "4:36: `d` of task `a` has the value `1` twice",
        ],
    );
    check(
        &task("versions = 'a b'\nexclude = [{ verison = 'a' }, { version = 'c' }]\nonly = { version = 'd*' }"),
        &[
            "4:14: `exclude` of task `a` names `verison`, which is no list of its matrix",
            "  help: did you mean `version`?",
            "4:43: `exclude` of task `a` has `c`, which is no value of `version`",
            "5:20: `only` of task `a` has `d*`, which is no value of `version`",
        ],
    );
    check(&task("versions = 'a b'\nexclude = { version = '{a,b}' }"), &["4:1: no variant of task `a` is left"]);
    check(&task("only = { version = '1' }"), &["3:8: task `a` has `only` but no matrix"]);
}
