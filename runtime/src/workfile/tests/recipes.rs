//! What recipes a workfile makes: expansion, edges, members, goals.

use std::sync::Arc;

use super::{folder, loaded, outcome, show};
use crate::workfile::{Loaded, load};

#[track_caller]
fn check(text: &str, expected: &str) -> Loaded {
    let loaded = outcome(text).unwrap_or_else(|e| panic!("{e}"));
    let expected: String =
        expected.lines().map(str::trim_end).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
    assert_eq!(show(&loaded), expected, "of\n{text}");
    loaded
}

fn names(loaded: &Loaded) -> String {
    loaded.recipes.iter().map(|r| &*r.name).collect::<Vec<_>>().join(" ")
}

#[test]
fn lists_are_words_as_bash_reads_them() {
    let names = |text: &str| names(&outcome(text).unwrap_or_else(|e| panic!("{e}")));
    let three = "a[3.9.0] a[3.9.1] a[3.9.2]";
    assert_eq!(names("[task.a]\nrun = 'x'\ninputs = []\nversions = '3.9.{0..2}'"), three);
    assert_eq!(names("[task.a]\nrun = 'x'\ninputs = []\nversions = ['3.9.{0,1}', '3.9.2']"), three);
    assert_eq!(
        names("[vars]\nminor = 9\nall = '3.{{minor}}.{0..2}'\n[task.a]\nrun = 'x'\ninputs = []\nversions = '{{all}}'"),
        three
    );
    assert_eq!(
        names("[task.a]\nrun = 'x'\ninputs = []\nmatrix = { os = '{linux,mac}' }\nversions = '{{1,2},\"3 4\"}'"),
        "a[1,linux] a[1,mac] a[2,linux] a[2,mac] a[3 4,linux] a[3 4,mac]"
    );
    let many = loaded_text("[task.a]\nrun = 'echo {{version}}'\ninputs = []\nversions = '3.9.{0..21}'");
    assert_eq!(many.recipes.len(), 22);
    assert_eq!(&*many.recipes[21].steps[0][2], "echo 3.9.21");
}

fn loaded_text(text: &str) -> Loaded {
    outcome(text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_path_of_an_output_is_one_text_for_all_who_read_it() {
    let text = "[task.a]\nrun = 'x'\ninputs = []\noutputs = ['o']\n\
                [task.b]\nrun = 'x'\ninputs = ['o']\n[task.c]\nrun = 'x'\ninputs = ['*']\n";
    let loaded = loaded_text(text);
    let find = |name: &str| loaded.recipes.iter().find(|r| &*r.name == name).expect(name);
    let path = &find("a").outputs[0].path;
    for name in ["b", "c"] {
        let from = &find(name).from[0];
        assert_eq!((&*from.path, &*from.at[0]), ("o", "outputs"), "{name}");
        assert!(Arc::ptr_eq(path, &from.path) && Arc::ptr_eq(path, &from.at[1]), "{name}");
    }
}

#[test]
fn variants_are_filtered() {
    let names = |filter: &str| {
        let text =
            format!("[task.a]\nrun = 'x'\ninputs = []\nmatrix = {{ os = 'linux mac', n = '{{1..3}}' }}\n{filter}");
        names(&loaded_text(&text))
    };
    assert_eq!(names("only = { os = ['linux'] }"), "a[linux,1] a[linux,2] a[linux,3]");
    assert_eq!(names("exclude = [{ os = 'mac', n = '{2..3}' }, { n = 1 }]"), "a[linux,2] a[linux,3]");
    assert_eq!(names("only = [{ os = 'l*' }, { n = 3 }]\nexclude = { n = [2] }"), "a[linux,1] a[linux,3] a[mac,3]");
}

#[test]
fn a_small_build() {
    let loaded = check(
        r#"
[vars]
cflags = "-O2"

[task.codegen]
run = "gen > gen/types.h"
inputs = []
outputs = ["gen/types.h"]

[task.compile]
matrix = { unit = ["main", "util"] }
run = ["cc", "{{cflags}}", "-c", "{{ unit }}.c"]
inputs = ["{{unit}}.c", "include/**/*.h", "gen/types.h"]
outputs = ["obj/{{unit}}.o"]

[task.link]
steps = ["cc obj/*.o -o app", ["strip", "app"]]
needs = ["compile"]
outputs = ["app"]

[task.test]
run = "./app"
inputs = []
needs = "link"
after = ["codegen"]
"#,
        r#"
codegen: sh -euc gen > gen/types.h
  outputs gen/types.h
compile[main]: cc -O2 -c main.c
  sources main.c include/**/*.h
  from gen/types.h = codegen outputs > gen/types.h
  outputs obj/main.o
compile[util]: cc -O2 -c util.c
  sources util.c include/**/*.h
  from gen/types.h = codegen outputs > gen/types.h
  outputs obj/util.o
link: sh -euc cc obj/*.o -o app; strip app
  sources default
  needs compile[main] compile[util]
  outputs app
test: sh -euc ./app
  needs link
  after codegen
"#,
    );
    let link = loaded.find("link").expect("is there");
    assert_eq!(loaded.locate(loaded.recipes[link].key_place("needs")), ("quipu.toml".into(), 18, 1));
    assert_eq!(loaded.locate(loaded.recipes[link].key_place("timeout")), ("quipu.toml".into(), 16, 7));
}

#[test]
fn variants_are_named_by_values_in_the_order_of_keys() {
    check(
        "[task.t]\nrun = ['{{z}}', '{{a}}']\ninputs = []\nmatrix = { z = ['x', 'y'], a = [1, 0x2] }",
        "t[x,1]: x 1\nt[x,2]: x 2\nt[y,1]: y 1\nt[y,2]: y 2",
    );
    check(
        "[vars]\nu = 'v'\ns = '.c'\n[task.t]\nrun = ['{{u}}{{{{u}}']\ninputs = []\nmatrix = { u = ['a{{s}}'] }",
        "t[a.c]: a.c{{u}}",
    );
}

#[test]
fn inputs_meet_outputs() {
    let makers = "
[task.f]
run = 'f'
inputs = []
outputs = ['gen/a.h', 'gen/b.c']
[task.d]
run = 'd'
inputs = []
outputs = ['out/']
[task.g]
run = 'g'
inputs = []
outputs = ['obj/*.o']
[task.x]
run = 'x'
";
    let f = "f: sh -euc f\n  outputs gen/a.h gen/b.c\nd: sh -euc d\n  outputs out/\ng: sh -euc g\n  outputs ~obj/*.o\nx: sh -euc x\n";
    for (inputs, expected) in [
        ("'gen/a.h'", "  from gen/a.h = f outputs > gen/a.h"),
        ("'./gen//a.h'", "  from gen/a.h = f outputs > gen/a.h"),
        ("'gen'", "  sources gen?\n  from gen/a.h = f outputs > gen/a.h\n  from gen/b.c = f outputs > gen/b.c"),
        ("'gen/*.h'", "  sources gen/*.h\n  from gen/a.h = f outputs > gen/a.h"),
        ("'gen/*', '!gen/*.c'", "  sources gen/* !gen/*.c\n  from gen/a.h = f outputs > gen/a.h"),
        ("'gen/*', '!gen'", "  sources gen/* !gen"),
        ("'gen/a.h', '!gen/**'", "  sources !gen/**"),
        ("'gen/{a.h,b.c}'", "  from gen/a.h = f outputs > gen/a.h\n  from gen/b.c = f outputs > gen/b.c"),
        ("'out'", "  from out = d outputs > out"),
        ("'out/'", "  from out = d outputs > out"),
        ("'out/sub/file'", "  from out/sub/file = d outputs > out > sub > file"),
        ("'out/**/*.h'", "  sources out/**/*.h\n  from out = d outputs > out"),
        ("'ou?'", "  sources ou?\n  from out = d outputs > out"),
        ("'obj/a.o'", "  from obj/a.o = g outputs > obj/a.o"),
        ("'obj/a*'", "  sources obj/a*\n  needs g"),
        ("'obj'", "  sources obj?\n  needs g"),
        ("'obj/*.c'", "  sources obj/*.c"),
        ("'src/*/'", "  sources src/*/**/*"),
        ("'!obj'", "  sources default !obj"),
        ("'.', '!obj', '!out', '!gen/b.c'", "  sources ? !obj !out !gen/b.c\n  from gen/a.h = f outputs > gen/a.h"),
    ] {
        check(&format!("{makers}inputs = [{inputs}]"), &format!("{f}{expected}"));
    }
}

#[test]
fn streams_are_inputs_and_outputs() {
    check(
        "[task.a]\nrun = 'a'\nstdin = 'main.c'\nstdout = 'a.txt'\ninputs = []\n[task.b]\nrun = 'b'\nstdin = 'a.txt'\nstdout = 'b.txt'\noutputs = ['b.txt', { path = 'log/*.txt', optional = true }]\ninputs = []",
        "
a: sh -euc a
  sources main.c
  outputs a.txt
  stdin main.c
  stdout a.txt
b: sh -euc b
  outputs b.txt ~log/*.txt?
  stdin a outputs > a.txt
  stdout b.txt
",
    );
}

#[test]
fn groups_stand_for_what_they_need() {
    let loaded = check(
        "[workspace]\ndefault = ['all', 'a']\n[task.all]\nneeds = ['both', 'c']\n[task.both]\nneeds = ['a', 'b']\n[task.a]\nrun = 'a'\ninputs = []\n[task.b]\nrun = 'b'\ninputs = []\n[task.c]\nrun = 'c'\ninputs = []\nneeds = ['both']\n[task.d]\nrun = 'd'\ninputs = []\nafter = ['all']",
        "
all:
  needs a b c
both: 
  needs a b
a: sh -euc a
b: sh -euc b
c: sh -euc c
  needs a b
d: sh -euc d
  after a b c
",
    );
    let names = |row: &[usize]| row.iter().map(|i| loaded.recipes[*i].name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(loaded.default_goals.as_deref().expect("said")), ["a", "b", "c"]);
    assert_eq!(names(&loaded.select(0, "both").expect("is there")), ["a", "b"]);
    assert_eq!((loaded.node(0), loaded.node(2).map(|n| n.index())), (None, Some(0)));
}

#[test]
fn selectors_by_form_never_mean_the_task_they_stand_in() {
    check(
        "[task.a]\nrun = 'a'\ninputs = []\ntags = ['t']\nneeds = ['?', 'b']\n[task.b]\nrun = 'b'\ninputs = []\ntags = ['t']\nmatrix = { u = [1, 2] }\n[task.c]\nrun = 'c'\ninputs = []\nneeds = ['b[2]']\ntags = ['s']\n[task.all]\nneeds = ['tag:t', 'tag:s']",
        "
a: sh -euc a
  needs b[1] b[2] c
b[1]: sh -euc b
b[2]: sh -euc b
c: sh -euc c
  needs b[2]
all:
  needs a b[1] b[2] c
",
    );
}

#[test]
fn one_task_may_have_two_names() {
    check(
        "[task.z]\nrun = 'x'\ninputs = []\noutputs = ['o']\n[task.a]\nrun = 'x'\ninputs = []\noutputs = ['o']\ndescription = 'the same'\ntimeout = 5\n[task.use]\nrun = 'y'\ninputs = ['o']",
        "
z: sh -euc x
  outputs o
a: sh -euc x
  outputs o
use: sh -euc y
  from o = a outputs > o
",
    );
}

#[test]
fn policy_and_surroundings_are_taken_over() {
    let loaded = outcome(
        "[workspace]\nsandbox = 'ns'\nsubject = 'did:web:example.org'\n[task.a]\nrun = 'x'\ninputs = []\nshell = ['bash', '-c']\ntimeout = '1m30s'\nretries = 2\ncache = false\nslots = { gpu = 2 }\nnetwork = true\nmute = true\nenv = { N = 3 }\npass-env = ['HOME']\ndir = 'src/../src'\ntools = ['cc', 'cc']\ndescription = 'd'\n[task.b]\nrun = ['x']\nslots = 4\nsandbox = 'none'\n",
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let (a, b) = (&loaded.recipes[0], &loaded.recipes[1]);
    assert_eq!(&*loaded.subject, "did:web:example.org");
    assert_eq!(a.steps, [["bash".into(), "-c".into(), "x".into()]]);
    assert_eq!(
        (a.policy.timeout.map(|t| t.as_secs()), a.policy.retries, a.policy.cache, a.policy.mute),
        (Some(90), 2, false, true)
    );
    assert_eq!((a.policy.slots.get("gpu"), b.policy.slots.get("")), (Some(&2), Some(&4)));
    assert_eq!((a.tier.name(), b.tier.name(), a.network, b.network), ("ns", "none", true, false));
    assert_eq!((&*a.dir, a.tools.len(), &*a.env["N"], a.description.as_deref()), ("src", 1, "3", Some("d")));
}

fn workspace(extra: &[(&str, &str)]) -> tempfile::TempDir {
    let mut files = vec![
        (
            "quipu.toml",
            "[workspace]\nmembers = ['libs/*', 'app']\n[vars]\nflags = '-g'\n[task.tool]\nrun = 'make tool'\ninputs = []\noutputs = ['bin/tool']\n[task.all]\nneeds = ['*:build']\n",
        ),
        (
            "libs/core/quipu.toml",
            "[task.build]\nrun = 'cc {{flags}}'\ninputs = ['src/*.c', '../../bin/tool']\noutputs = ['out/']\nneeds = [':tool']\n",
        ),
        ("libs/notes/readme", ""),
        (
            "app/quipu.toml",
            "[vars]\nflags = '-O3'\n[task.build]\nrun = 'cc {{flags}}'\ninputs = ['../libs/core/out/core.a']\nneeds = ['lib']\ndir = 'sub'\n[task.lib]\nneeds = ['core:build']\n",
        ),
    ];
    files.extend(extra);
    folder(&files)
}

const MEMBERS: &str = "\
tool: sh -euc make tool
  outputs bin/tool
all:
  needs core:build app:build
core:build: sh -euc cc -g
  sources libs/core/src/*.c
  from bin/tool = tool outputs > bin/tool
  needs tool
  outputs libs/core/out/
  dir libs/core
app:build: sh -euc cc -O3
  from libs/core/out/core.a = core:build outputs > libs/core/out > core.a
  needs core:build
  dir app/sub
app:lib:
  needs core:build
  dir app
";

#[test]
fn members_have_names_folders_and_variables_of_their_own() {
    let dir = workspace(&[]);
    let found = loaded(dir.path());
    assert_eq!(show(&found), MEMBERS);
    assert_eq!((found.here, found.members.len()), (0, 3));
    // From within a member it is the same workspace.
    let within = loaded(&dir.path().join("app"));
    assert_eq!((show(&within), &*within.members[within.here].name), (MEMBERS.to_owned(), "app"));
    let by_file = loaded(&dir.path().join("libs/notes/readme"));
    assert_eq!((show(&by_file), by_file.here), (MEMBERS.to_owned(), 0));
    assert_eq!(within.select(within.here, "build").map(|r| r.len()), Ok(1));
}

#[test]
fn a_workspace_table_may_stand_anywhere() {
    let task = "[task.x]\nrun = 'workspace'\ninputs = []\n";
    let dir = folder(&[
        ("quipu.toml", &format!("{task}[workspace]\nmembers = ['m', 'm/n']\n")),
        ("m/quipu.toml", task),
        ("m/n/quipu.toml", task),
    ]);
    let found = loaded(&dir.path().join("m/n"));
    assert_eq!((found.here, found.root.canonicalize().ok()), (2, dir.path().canonicalize().ok()));
}

#[test]
fn a_workfile_that_no_workspace_lists_stands_alone() {
    let dir = workspace(&[("other/quipu.toml", "[task.x]\nrun = 'x'\ninputs = []\n")]);
    assert_eq!(show(&loaded(&dir.path().join("other"))), "x: sh -euc x\n");
}

#[track_caller]
fn check_errors(files: &[(&str, &str)], expected: &[&str]) {
    let dir = folder(files);
    let found = load(dir.path()).map(|l| show(&l)).map_err(|e| e.to_string());
    assert_eq!(found, Err(expected.iter().map(|l| format!("{l}\n")).collect()));
}

#[test]
fn members_that_cannot_be() {
    check_errors(
        &[
            ("quipu.toml", "[workspace]\nmembers = ['a', 'b', 'none', 'x/*', 'c/a', '..', '.', '!q']\n"),
            ("a/quipu.toml", "[task.t]\nrun = 'x'\nneeds = ['u']\n"),
            ("b/quipu.toml", "[workspace]\n[member]\nname = 'b b'\n"),
            ("c/a/quipu.toml", ""),
            ("none/x", ""),
        ],
        &[
            "quipu.toml:2:22: member `none` has no `quipu.toml`",
            "  help: make one, or take the folder off the list",
            "quipu.toml:2:30: no folder matches `x/*` and has a `quipu.toml`",
            "quipu.toml:2:37: `a/quipu.toml` and `c/a/quipu.toml` have the same name `a`",
            "  quipu.toml:2:12: the first is listed here",
            "  help: give it another name: `[member]` and `name = \"...\"` in `c/a/quipu.toml`",
            "quipu.toml:2:44: member `..` leads out of the workspace",
            "quipu.toml:2:50: the workspace's own folder is not a member",
            "quipu.toml:2:55: member `!q` takes none away",
            "  help: what is taken away stands after what lists it",
            "b/quipu.toml:1:2: `b/quipu.toml` is a member and has a `[workspace]` of its own",
            "  quipu.toml:2:17: it is listed here",
            "b/quipu.toml:3:8: `b b` cannot name a member",
            "  help: give it another name: `[member]` and `name = \"...\"` in `b/quipu.toml`",
        ],
    );
}

#[test]
fn errors_of_all_files_come_at_once() {
    check_errors(
        &[
            ("quipu.toml", "[workspace]\nmembers = ['a']\n[task.r]\nrun = 'x'\nneeds = ['a:tt']\n"),
            ("a/quipu.toml", "[task.t]\nrun = 'x'\nneeds = ['r']\ninputs = ['nope']\n"),
        ],
        &[
            "quipu.toml:5:10: task `r` needs `a:tt`, which is not defined",
            "  help: did you mean `a:t`?",
            "a/quipu.toml:3:10: task `a:t` needs `r`, which is not defined",
            "  help: did you mean `:r`?",
            "a/quipu.toml:4:11: input `a/nope` of task `a:t` does not exist, and no task makes it",
        ],
    );
}

#[test]
fn a_folder_without_a_workfile_says_where_it_looked() {
    let dir = folder(&[("a/b", "")]);
    // A workfile above the temporary folder would be found; there is none on a sane system.
    let error = load(&dir.path().join("a")).map(|l| l.root).map_err(|e| e.to_string());
    assert!(error.is_err_and(|e| e.starts_with("find a `quipu.toml` in")));
}
