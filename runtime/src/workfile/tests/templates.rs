//! Templates, params, conditions and includes: what recipes come of them, and what can be wrong with them.

use super::{folder, outcome, show};
use crate::workfile::{Given, LoadError, Loaded, load, load_given};

fn given(set: &[(&str, &str)], env: &[(&str, &str)]) -> Given {
    let pairs = |row: &[(&str, &str)]| row.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    Given {
        set: pairs(set),
        env: pairs(env).into_iter().collect(),
        platform: Some(("linux".into(), "x86_64".into())),
        tier: None,
    }
}

fn loaded(files: &[(&str, &str)], given: &Given) -> Result<Loaded, LoadError> {
    let dir = folder(files);
    load_given(dir.path(), given, &|url, _| Ok(format!("[task.x]\nrun = 'echo {url}'\ninputs = []\n").into_bytes()))
}

fn shown(files: &[(&str, &str)]) -> String {
    show(&loaded(files, &given(&[], &[])).unwrap_or_else(|e| panic!("{e}")))
}

#[track_caller]
fn fails(files: &[(&str, &str)], expected: &[&str]) {
    let found = loaded(files, &given(&[], &[])).err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{files:?}");
}

const BASES: &str = "
[template.c]
inputs = []
env = { CC = 'cc', OPT = '-O2' }
tools = ['sh']
timeout = 10
[template.debug]
extends = 'c'
env = { OPT = '-O0', DEBUG = 1 }
vars = { kind = 'debug' }
[template.pinned]
env = { CC = 'gcc' }
steps = ['one', 'two']
";

#[test]
fn later_bases_win_and_false_removes() {
    let task = |rest: &str| shown(&[("quipu.toml", &format!("{BASES}[task.a]\n{rest}"))]);
    assert_eq!(task("extends = 'c'\nrun = 'x'"), "a: sh -euc x\n  env CC=cc OPT=-O2\n");
    assert_eq!(
        task("extends = ['debug', 'pinned']\nrun = 'x {{kind}}'"),
        "a: sh -euc x debug\n  env CC=gcc DEBUG=1 OPT=-O0\n"
    );
    assert_eq!(
        task("extends = ['pinned', 'debug']\nenv = { OPT = false, DEBUG = 2 }"),
        "a: sh -euc one; sh -euc two\n  env CC=cc DEBUG=2\n"
    );
    assert_eq!(task("extends = 'debug'\nrun = 'x'\nenv = false\ninputs = false"), "a: sh -euc x\n  sources default\n");
}

#[test]
fn a_platform_is_a_template_that_each_variant_picks() {
    let text = "
[template.linux]
vars = { cc = 'gcc' }
env = { TARGET = 'elf' }
[template.windows]
vars = { cc = 'cl' }
env = { TARGET = 'pe', SDK = 10 }
[task.build]
extends = '{{os}}'
matrix = { os = 'linux windows' }
run = '{{cc}} {{os}}'
inputs = []
";
    assert_eq!(
        shown(&[("quipu.toml", text)]),
        "build[linux]: sh -euc gcc linux\n  env TARGET=elf\nbuild[windows]: sh -euc cl windows\n  env SDK=10 TARGET=pe\n"
    );
}

#[test]
fn templates_that_cannot_be() {
    fails(
        &[(
            "quipu.toml",
            "[template.a]\nextends = ['b']\n[template.b]\nextends = 'a'\n[task.t]\nextends = 'a'\nrun = 'x'\ninputs = []",
        )],
        &[
            "quipu.toml:4:11: templates extend one another: `a` -> `b` -> `a`",
            "  quipu.toml:6:11: `a` is extended here",
            "  quipu.toml:2:12: `b` is extended here",
        ],
    );
    fails(
        &[(
            "quipu.toml",
            "[template.base]\nmatrix = { a = '1' }\n[task.t]\nextends = 'bsae'\nrun = 'x'\n[task.u]\nextends = '{{k}}'\nmatrix = { k = ['base'] }\nrun = 'x'\ninputs = []",
        )],
        &[
            "quipu.toml:4:11: `t` extends template `bsae`, which is not defined",
            "  help: did you mean `base`?",
            "quipu.toml:7:11: template `base`, which each variant picks, has `matrix`",
            "  quipu.toml:2:1: it is here",
            "  help: what a matrix is, and what tasks are called, is the same for all variants",
        ],
    );
}

#[test]
fn later_entries_of_members_add_to_earlier_ones() {
    let root = "
[workspace]
members = [
  'libs/*',
  { path = 'libs/{b,c}', tags = ['slow'], vars = { opt = 1 }, extends = 'c' },
  { path = 'libs/c', vars = { opt = 2 } },
  '!libs/d',
]
[vars]
opt = 0
[template.c]
env = { CC = 'cc' }
";
    let lib = "[task.make]\nrun = 'make {{opt}}'\ninputs = []";
    let files = [
        ("libs/a/quipu.toml", lib),
        ("libs/b/quipu.toml", lib),
        ("libs/c/quipu.toml", lib),
        ("libs/d/quipu.toml", "[task.own]\nrun = 'x'\ninputs = []"),
    ];
    let files = [&[("quipu.toml", root)][..], &files].concat();
    assert_eq!(
        shown(&files),
        "a:make: sh -euc make 0\n  dir libs/a\nb:make: sh -euc make 1\n  dir libs/b\n  env CC=cc\nc:make: sh -euc make 2\n  dir libs/c\n  env CC=cc\n"
    );
    let all = loaded(&files, &given(&[], &[])).expect("loads");
    let slow: Vec<&str> = all.select(0, "tag:slow").expect("some").iter().map(|i| &*all.recipes[*i].name).collect();
    assert_eq!(slow, ["b:make", "c:make"]);
    // From below a member the workspace is found; what was taken off the list is a workspace of its own.
    let dir = folder(&[&files[..], &[("libs/b/src/deep/x", "")]].concat());
    let from_below = load(&dir.path().join("libs/b/src/deep")).expect("loads");
    assert_eq!((&*from_below.members[from_below.here].name, from_below.recipes.len()), ("b", 3));
    assert_eq!(load(&dir.path().join("libs/d")).expect("loads").recipes.len(), 1);
}

const PARAMS: &str = "
[params]
level = 2
mode = { default = 'debug', choices = ['debug', 'release'], from-env = 'MODE' }
targets = ['x', 'y z']
old = { default = '', deprecated = 'use `mode`' }
[vars]
flags = '-O{{level}}'
[task.build]
run = 'build {{flags}} {{mode}} {{verbose}} {{targets}}'
params = { verbose = false, tag = { pattern = 'v[0-9]+(\\.[0-9]+)*', description = 'what to build' } }
inputs = []
";

#[test]
fn params_are_what_is_set_then_the_environment_then_the_default() {
    let built = |set: &[(&str, &str)], env: &[(&str, &str)]| {
        let loaded = loaded(&[("quipu.toml", PARAMS)], &given(set, env)).unwrap_or_else(|e| panic!("{e}"));
        (loaded.recipes[0].steps[0][2].to_string(), loaded.warnings.join("; "))
    };
    assert_eq!(built(&[], &[]).0, "build -O2 debug false x 'y z'");
    assert_eq!(built(&[], &[("MODE", "release")]).0, "build -O2 release false x 'y z'");
    let set = [("mode", "debug"), ("level", "3"), ("verbose", "true"), ("targets", "a{1,2}"), ("targets", "b")];
    assert_eq!(built(&set, &[("MODE", "release")]).0, "build -O3 debug true a1 a2 b");
    assert_eq!(built(&[("old", "x")], &[]).1, "param `old`, given by --set, is deprecated: use `mode`");
}

#[test]
fn params_are_checked() {
    let error = |set: &[(&str, &str)]| {
        loaded(&[("quipu.toml", PARAMS)], &given(set, &[])).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (set, expected) in [
        (("level", "x"), "quipu.toml:3:1: param `level`, given by --set, is `x`, which is no integer\n"),
        (
            ("mode", "relaese"),
            "quipu.toml:4:1: param `mode`, given by --set, is `relaese`, which is none of its choices\n  help: did you mean `release`?\n",
        ),
        (
            ("verbose", "yes"),
            "quipu.toml:11:12: param `verbose`, given by --set, is `yes`, which is neither `true` nor `false`\n",
        ),
        (
            ("tag", "1.0"),
            "quipu.toml:11:29: param `tag`, given by --set, is `1.0`, which is not of its pattern\n  help: values are of `v[0-9]+(\\.[0-9]+)*`\n",
        ),
        (("targets", "'"), "quipu.toml:5:1: param `targets`, given by --set, has a `'` that is never closed\n"),
        (("modes", "x"), "`--set modes=...`, but there is no param `modes`"),
    ] {
        assert_eq!(error(&[set]), expected, "{set:?}");
    }
    fails(
        &[(
            "quipu.toml",
            "[params]\na = { default = 1, required = true }\nb = { type = 'int', default = 'x' }\nc = { pattern = '(' }\nd = { type = 'text' }\n[vars]\na = 1\n[task.t]\nrun = 'x'\ninputs = []",
        )],
        &[
            "quipu.toml:2:1: `a` is a param and a variable",
            "  quipu.toml:7:1: the variable is here",
            "quipu.toml:2:1: param `a` is `required` and has a `default`",
            "  help: one of them is never used",
            "quipu.toml:3:31: `default` of param `b` is `x`, which is no integer",
            "quipu.toml:4:17: `pattern` of param `c` is no regular expression",
            "quipu.toml:5:14: `type` of param `d` is `text`, which is none",
            "  help: one of `string`, `int`, `bool`, `list`",
        ],
    );
}

#[test]
fn what_nobody_gave_is_lacked_only_by_what_uses_it() {
    let text = "[params]\nkey = { required = true }\nopt = { required = false }\n[vars]\nlogin = 'k={{key}}'\n[task.a]\nrun = 'a {{login}}{{opt}}'\ninputs = []\n[task.b]\nrun = 'b'\ninputs = []\n";
    let lacks = |set: &[(&str, &str)]| {
        let loaded = loaded(&[("quipu.toml", text)], &given(set, &[])).expect("loads");
        let of =
            |i: usize| loaded.recipes[i].lacks.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(" ");
        (of(0), of(1), loaded.recipes[0].steps[0][2].to_string())
    };
    assert_eq!(lacks(&[]), ("key".into(), String::new(), "a k=<key>".into()));
    assert_eq!(lacks(&[("key", "s")]), (String::new(), String::new(), "a k=s".into()));
}

#[test]
fn what_a_condition_leaves_out_is_needed_by_nobody() {
    let text = "
[params]
deploy = false
[task.build]
run = 'x > out'
inputs = []
outputs = ['out']
[task.sign]
when = 'deploy && platform.os == \"linux\"'
run = 'x'
inputs = ['out']
outputs = ['sig']
[task.upload]
run = 'x'
inputs = ['sig']
[task.never]
when = false
run = 'x'
inputs = ['what is not there']
[task.check]
run = 'x'
inputs = []
needs = 'some'
after = 'sign'
[task.some]
needs = ['build', 'sign']
[task.none]
needs = ['sign', 'never']
";
    let state = |set: &[(&str, &str)]| {
        let loaded = loaded(&[("quipu.toml", text)], &given(set, &[])).expect("loads");
        loaded.match_sources().expect("all is there");
        let left_out = loaded.recipes.iter().filter_map(|r| Some(format!("{}: {}", r.name, r.left_out.as_ref()?)));
        let check = &loaded.recipes[loaded.find("check").expect("is there")];
        let needs: Vec<&str> = check.needs.iter().map(|i| &*loaded.recipes[*i].name).collect();
        (left_out.collect::<Vec<_>>().join("\n"), needs.join(" "))
    };
    assert_eq!(
        state(&[]),
        (
            "sign: `deploy && platform.os == \"linux\"` does not hold: deploy is `false`, platform.os is `linux`\n\
             upload: it needs `sign`, which is left out\n\
             never: its `when` is false\n\
             none: it needs `sign`, which is left out"
                .to_owned(),
            "build".to_owned()
        )
    );
    assert_eq!(state(&[("deploy", "true")]), ("never: its `when` is false".to_owned(), "build sign".to_owned()));
    fails(
        &[("quipu.toml", "[task.a]\nrun = 'x'\ninputs = []\nwhen = 'pltform.os == 1'")],
        &[
            "quipu.toml:4:9: `when` of task `a` looks at `pltform.os`, which is not defined",
            "  help: did you mean `platform.os`?",
        ],
    );
}

#[test]
fn environment_files_come_before_nothing_but_the_defaults() {
    let text = "[task.a]\nrun = 'x'\ninputs = []\nenv-file = ['one.env', 'two.env']\nenv = { C = 'own' }";
    assert_eq!(
        shown(&[("quipu.toml", text), ("one.env", "A=1\nB=1\nC=1\n"), ("two.env", "B='2 2'\n")]),
        "a: sh -euc x\n  env A=1 B=2 2 C=own\n"
    );
    fails(
        &[("quipu.toml", text), ("one.env", "A\n")],
        &[
            "quipu.toml:4:13: env-file `one.env` of task `a` is none: line 1 has no `=`",
            "quipu.toml:4:24: env-file `two.env` of task `a` cannot be read: No such file or directory (os error 2)",
        ],
    );
}

#[test]
fn included_files_have_tasks_under_a_name() {
    let files = [
        (
            "quipu.toml",
            "include = ['ci/*.toml', { path = 'ci/lint.toml', name = 'again', dir = 'sub' }]\n[vars]\nv = 1\n[template.t]\nenv = { T = 1 }\n[task.all]\nneeds = ['lint:go', 'again:go']",
        ),
        (
            "ci/lint.toml",
            "include = ['more/deep.toml']\n[task.go]\nrun = 'lint {{v}}'\ninputs = []\nextends = 't'\nneeds = 'lint.deep:down'\noutputs = ['log']",
        ),
        ("ci/more/deep.toml", "[task.down]\nrun = 'down'\ninputs = ['x.c']"),
        ("x.c", ""),
        ("sub/x.c", ""),
    ];
    let text = shown(&files);
    assert!(text.contains("lint:go: sh -euc lint 1\n  needs lint.deep:down\n  outputs log\n  env T=1\n"), "{text}");
    assert!(
        text.contains("again:go: sh -euc lint 1\n  needs lint.deep:down\n  outputs sub/log\n  dir sub\n  env T=1\n"),
        "{text}"
    );
    assert!(text.contains("again.deep:down: sh -euc down\n  sources sub/x.c\n  dir sub\n"), "{text}");
}

#[test]
fn includes_that_cannot_be() {
    fails(
        &[
            ("quipu.toml", "include = ['a.toml', 'none.toml', 'x/*.toml', { path = 'b.toml', name = 'a b' }]\n"),
            ("a.toml", "include = ['b.toml']\n"),
            ("b.toml", "include = ['a.toml']\n"),
        ],
        &[
            "quipu.toml:1:22: read `none.toml`, which is included: No such file or directory (os error 2)",
            "quipu.toml:1:35: no file matches include `x/*.toml`",
            "quipu.toml:1:73: `a b` cannot name what is included",
            "  help: give it another: `name = \"...\"`",
            "b.toml:1:12: workfiles include one another: `a.toml` -> `b.toml` -> `a.toml`",
        ],
    );
    fails(
        &[
            ("quipu.toml", "include = [{ path = 'a.toml', name = 'b' }, 'b.toml', { url = 'http://x' }, { }]\n"),
            ("a.toml", ""),
            ("b.toml", "[member]\nname = 'x'"),
        ],
        &[
            "quipu.toml:1:45: `a.toml` and `b.toml` have the same name `b`",
            "  quipu.toml:1:38: the first is listed here",
            "  help: give it another name: `{ path = \"...\", name = \"...\" }`",
            "quipu.toml:1:55: an entry of `include` has a `url` but no `blake3`",
            "quipu.toml:1:77: an entry of `include` has neither `path` nor `url`",
            "b.toml:2:8: `b.toml` is included and is no member",
        ],
    );
}

#[test]
fn remote_files_are_what_their_hash_says() {
    let body = "[task.x]\nrun = 'echo http://h/ci.toml'\ninputs = []\n";
    let hash = quipu_store::cid::BlobId::of(body.as_bytes());
    let hex: String = hash.digest().iter().map(|b| format!("{b:02x}")).collect();
    for pin in [hash.to_string(), hex] {
        let text = format!("include = [{{ url = 'http://h/ci.toml', blake3 = '{pin}' }}]");
        assert_eq!(shown(&[("quipu.toml", &text)]), "ci:x: sh -euc echo http://h/ci.toml\n");
    }
    let text = format!("include = [{{ url = 'http://h/other.toml', blake3 = '{hash}' }}]");
    let error = loaded(&[("quipu.toml", &text)], &given(&[], &[])).expect_err("is another").to_string();
    assert!(error.contains("1:20: include `http://h/other.toml`: its content is bafkr4i"), "{error}");
    assert!(outcome(&text).expect_err("is not fetched").contains("remote files are not fetched here"));
}
