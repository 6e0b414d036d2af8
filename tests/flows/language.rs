//! Templates, params, conditions and includes through the command.

use std::fs;

use quipu_store::cid::BlobId;

use crate::kit::TestSpace;

const PARAMS: &str = "
[params]
mode = { default = 'debug', choices = ['debug', 'release'], from-env = 'BUILD_MODE', description = 'how to build' }
[task.build]
description = 'Builds'
run = 'echo {{mode}} > out'
inputs = []
outputs = ['out']
sandbox = 'none'
[task.deploy]
params = { target = { pattern = '[a-z]+' } }
run = 'echo {{target}} > sent'
inputs = ['out']
outputs = ['sent']
sandbox = 'none'
[task.only-release]
when = \"mode == 'release'\"
run = 'echo yes > is-release'
inputs = []
outputs = ['is-release']
sandbox = 'none'
";

#[test]
fn params_are_said_and_each_value_has_its_own_receipt() {
    let space = TestSpace::new(PARAMS);
    assert_eq!(space.build_twice(&["build"]).ran(), "build");
    assert_eq!(space.read("out"), "debug\n");
    assert_eq!(space.build_twice(&["build", "--set", "mode=release"]).ran(), "build");
    assert_eq!(space.read("out"), "release\n");
    // The other value is settled already, by the environment as well as by the default.
    let from_env = space.command(&["run", "build"]).env("BUILD_MODE", "release").output().expect("starts");
    assert!(String::from_utf8_lossy(&from_env.stderr).contains("nothing to do"), "{from_env:?}");
    assert_eq!(space.build(&["build"]).ran(), "");
    assert_eq!(space.read("out"), "debug\n");
}

#[test]
fn who_asks_for_a_task_without_its_param_is_told_and_nobody_else() {
    let space = TestSpace::new(PARAMS);
    for args in [&["run", "deploy"][..], &["run"], &["plan", "deploy"], &["explain", "deploy"]] {
        let said = space.run(args);
        assert_eq!(said.status, 2, "{args:?}");
        assert!(said.stderr.contains("`deploy`, which needs a value for param `target`"), "{}", said.stderr);
        assert!(said.stderr.contains("say it: `--set target=...`"), "{}", said.stderr);
    }
    let said = space.run(&["run", "deploy", "--set", "target=UP"]);
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("`UP`, which is not of its pattern"), "{}", said.stderr);
    let said = space.run(&["run", "--set", "traget=x"]);
    assert!(said.stderr.contains("there is no param `traget`\nhelp: did you mean `target`?"), "{}", said.stderr);
    assert_eq!(space.build_twice(&["deploy", "--set", "target=up"]).ran(), "build deploy");
    assert_eq!(space.read("sent"), "up\n");
}

#[test]
fn what_is_left_out_is_seen_everywhere() {
    let space = TestSpace::new(PARAMS);
    let why = "`mode == 'release'` does not hold: mode is `debug`";
    let goals = ["build", "only-release"];
    let planned = space.json(&[&["plan", "--json"][..], &goals].concat());
    assert_eq!(planned["left_out"][0]["name"], "only-release");
    assert_eq!(planned["left_out"][0]["reason"], why);
    let text = space.ok(&[&["plan"][..], &goals].concat()).stdout;
    assert!(text.contains(&format!("left out\n  only-release  {why}\n")), "{text}");
    let listed = space.ok(&["list"]).stdout;
    assert!(listed.contains(&format!("only-release\n    left out: {why}\n")), "{listed}");
    assert!(listed.contains("deploy\n    --set target=STRING  (required, of [a-z]+)\n"), "{listed}");
    assert!(
        listed.ends_with(
            "params of all tasks\n    --set mode=debug|release  how to build  (default debug, or $BUILD_MODE)\n"
        ),
        "{listed}"
    );
    let ran = space.build(&goals);
    assert_eq!((ran.ran().as_str(), ran.count("left_out")), ("build", 1));
    let event = ran.events.iter().find(|e| e["event"] == "task-left-out").expect("is told");
    assert_eq!((&event["task"], &event["reason"]), (&"only-release".into(), &why.into()));
    let told = space.ok(&[&["run"][..], &goals].concat()).stderr;
    assert!(told.contains(&format!("left out only-release: {why}\n")), "{told}");
    assert!(told.contains("1 task is up to date, 1 left out\n"), "{told}");
    assert!(!space.exists("is-release"));
    assert_eq!(space.build_twice(&["only-release", "--set", "mode=release"]).ran(), "only-release");
}

#[test]
fn a_template_changes_what_extends_it_and_nothing_else() {
    let space = TestSpace::new(
        "
[template.base]
inputs = []
sandbox = 'none'
env = { GREETING = 'hello' }
[task.one]
extends = 'base'
run = 'echo $GREETING > one'
outputs = ['one']
[task.two]
extends = 'base'
env = { GREETING = 'moin' }
run = 'echo $GREETING > two'
outputs = ['two']
",
    );
    assert_eq!(space.build_twice(&[]).ran(), "one two");
    space.edit("quipu.toml", "'hello'", "'servus'");
    assert_eq!(space.build_twice(&[]).ran(), "one");
    assert_eq!((space.read("one"), space.read("two")), ("servus\n".into(), "moin\n".into()));
}

#[test]
fn members_are_found_from_below_and_take_what_the_workspace_says() {
    let space = TestSpace::new(
        "[workspace]\nmembers = ['libs/*', { path = 'libs/b', vars = { opt = 'fast' } }]\n[vars]\nopt = 'slow'\n",
    );
    let lib = "[task.make]\nrun = 'echo {{opt}} > made'\ninputs = []\noutputs = ['made']\nsandbox = 'none'\n";
    space.write("libs/a/quipu.toml", lib);
    space.write("libs/b/quipu.toml", lib);
    space.write("libs/b/src/deep/x.c", "");
    assert_eq!(space.build_twice(&["-C", "libs/b/src/deep", "make"]).ran(), "b:make");
    assert_eq!(space.build_twice(&[]).ran(), "a:make");
    assert_eq!((space.read("libs/a/made"), space.read("libs/b/made")), ("slow\n".into(), "fast\n".into()));
}

#[test]
fn environment_files_are_part_of_the_id() {
    let space = TestSpace::new(
        "[task.a]\nrun = 'echo $A $B > out'\ninputs = []\noutputs = ['out']\nenv-file = '.env'\nenv = { B = 2 }\nsandbox = 'none'\n",
    );
    space.write(".env", "A='1 1'\nB=1\n");
    assert_eq!(space.build_twice(&[]).ran(), "a");
    assert_eq!(space.read("out"), "1 1 2\n");
    space.write(".env", "export A=\"3\" # now\nB=9\n");
    assert_eq!(space.build_twice(&[]).ran(), "a");
    assert_eq!(space.read("out"), "3 2\n");
}

#[test]
fn a_remote_workfile_is_got_once_and_is_what_its_hash_says() {
    let body = "[task.hi]\nrun = 'echo hi > hi'\ninputs = []\noutputs = ['hi']\nsandbox = 'none'\n";
    let space = TestSpace::new("");
    let remote = space.beside("ci.toml");
    fs::write(&remote, body).expect("is written");
    let hash = BlobId::of(body.as_bytes());
    let url = format!("file://{}", remote.display());
    space.write("quipu.toml", &format!("include = [{{ url = '{url}', blake3 = '{hash}' }}]\n"));
    assert_eq!(space.build_twice(&["ci:hi"]).ran(), "ci:hi");
    // The store has it now: nobody is asked any more.
    fs::remove_file(&remote).expect("is there");
    space.nothing_to_do(&["ci:hi"]);
    // Something else at that address is not taken for it.
    fs::write(&remote, body.replace("echo hi", "echo ho")).expect("is written");
    let other = BlobId::of(b"other");
    space.write("quipu.toml", &format!("include = [{{ url = '{url}', blake3 = '{other}' }}]\n"));
    let said = space.run(&["run"]);
    assert_eq!(said.status, 2);
    assert!(
        said.stderr.contains("its content is bafkr4i") && said.stderr.contains("not what `blake3` says"),
        "{}",
        said.stderr
    );
}

#[test]
fn what_is_left_out_is_neither_lost_nor_forgotten() {
    let space = TestSpace::new(
        "[workspace]\n[task.m]\nmatrix = { version = '3.{8..10}' }\nwhen = 'version >= 3.9'\n\
         run = 'echo {{version}} > {{version}}.out'\ninputs = []\noutputs = ['{{version}}.out']\n",
    );
    let why = "left out m[3.8]: ";
    for (command, status) in [("check", 0), ("attest", 0), ("audit", 0)] {
        let output = space.run(&[command, "m[3.8]"]);
        assert!(output.status == status && output.stderr.starts_with(why), "{}", output.shown());
    }
    for args in [&["learn", "m[3.8]"][..], &["deliver", "m[3.8]", "--error", "x"]] {
        let output = space.run(args);
        let message = "error: `m[3.8]` is left out\n  m[3.8]: ";
        assert!(output.status == 2 && output.stderr.starts_with(message), "{}", output.shown());
    }
    let output = space.run(&["export", "-o", "x.car", "m[3.8]"]);
    assert!(output.status == 1 && output.stderr.contains("`--set` may change that"), "{}", output.shown());
    assert!(!output.stderr.contains("`quipu run` first"), "{}", output.stderr);

    assert_eq!(space.build_twice(&[]).ran(), "m[3.10] m[3.9]");
    space.edit("quipu.toml", "3.9'", "3.8'");
    assert_eq!(space.build_twice(&[]).ran(), "m[3.8]");
    let told = space.ok(&["diff"]).stdout;
    assert!(told.contains("m[3.8] (left-out, then ran)\n") && !told.contains("any more"), "{told}");
    let several = space.run(&["learn", "m"]);
    assert!(several.stderr.contains("`m` means 3 tasks") && several.stderr.contains("name one"), "{}", several.stderr);
}
