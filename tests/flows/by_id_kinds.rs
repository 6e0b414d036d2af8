//! Workflows that are run by their ids hold whatever a workfile can say: each kind of task, and how it is handled.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::kit::web::{Page, Web};
use crate::kit::{Ran, TestSpace, needs_ns};

/// A workspace, and a directory `empty` that has nothing of it.
fn space(workfile: &str) -> TestSpace {
    let space = TestSpace::new(workfile);
    fs::create_dir(space.beside("empty")).expect("is made");
    space
}

/// Brings the workflow of these tasks to another store, and gives its id.
fn handed(space: &TestSpace, goals: &[&str]) -> String {
    space.ok(&[&["export", "--workflow", "-o", "../handed.car"], goals].concat());
    let imported = space.ok(&["--store", "../other", "import", "../handed.car"]);
    let id = imported.stdout.split_whitespace().find(|word| word.starts_with("bafyr4i") && word.len() == 59);
    id.unwrap_or_else(|| panic!("no id: {}", imported.stdout)).to_owned()
}

fn run(space: &TestSpace, args: &[&str]) -> Ran {
    space.build(&[&["--store", "../other", "-C", "../empty"], args].concat())
}

/// A run that succeeds, and does nothing when it is done again.
fn run_twice(space: &TestSpace, args: &[&str]) -> String {
    let first = run(space, args);
    assert_eq!(first.output.status, 0, "{}{}", first.output.stdout, first.output.stderr);
    assert_eq!(run(space, args).ran(), "");
    first.ran()
}

const SITE: &str = r#"
[task.site]
run = "mkdir -p site; cp -r src/. site"
inputs = ["src"]
outputs = ["site/"]
publish = true
[task.links]
run = "! grep -r broken site"
inputs = ["site/"]
[task.policy]
run = "! grep -r secret site"
inputs = ["site/"]
[task.report]
run = "ls site > report.txt"
inputs = ["site/"]
outputs = ["report.txt"]
"#;

#[test]
fn what_is_published_waits_for_its_checks() {
    if !needs_ns() {
        return;
    }
    let space = space(SITE);
    space.write("src/index", "one\n");
    space.write("src/old", "old\n");
    let good = handed(&space, &["site"]);
    assert_eq!(run_twice(&space, &[&good]), "links policy site");
    assert_eq!(space.read("../empty/site/index"), "one\n");

    space.write("src/index", "broken\n");
    space.remove("src/old");
    // Whether it is a goal of the workflow or is named as one, and whichever check does not pass.
    for (word, check) in [("broken", "links"), ("secret", "policy")] {
        space.write("src/index", &format!("{word}\n"));
        let bad = handed(&space, &["report"]);
        // The other check is to end by itself, whichever is first.
        let said = space.run(&["--store", "../other", "-C", "../empty", "run", "-k", &bad, "site"]);
        assert_eq!(said.status, 1);
        assert!(said.stderr.contains(&format!("`site` is not published: `{check}` has not passed")), "{}", said.stderr);
        let bad = handed(&space, &["site"]);
        assert_eq!(run(&space, &["-k", &bad]).output.status, 1);
        assert_eq!((space.read("../empty/site/index").as_str(), space.exists("../empty/site/old")), ("one\n", true));
        // What is made of it is no check on it.
        let report = handed(&space, &["report"]);
        assert_eq!(run_twice(&space, &[&report]).replace("site", "").trim(), "report");
        assert_eq!(space.read("../empty/report.txt"), "index\n");
        assert_eq!(space.read("../empty/site/index"), "one\n");
    }
    space.write("src/index", "two\n");
    let good = handed(&space, &["report", "site"]);
    assert_eq!(run_twice(&space, &[&good]), "links policy report site");
    assert_eq!((space.read("../empty/site/index").as_str(), space.exists("../empty/site/old")), ("two\n", false));
}

#[test]
fn what_is_fetched_is_found_where_the_workflow_says() {
    let web = Web::start([("/words", Page::new("one\ntwo\n"))]);
    let sum = quipu_store::cid::BlobId::of(b"one\ntwo\n");
    let space = space(&format!(
        "[task.words]\nfetch = {{ url = ['{}', '{}'], blake3 = '{sum}' }}\noutputs = ['words']\n\
         [task.count]\nrun = 'wc -l < words > count'\ninputs = ['words']\noutputs = ['count']\n",
        web.url("/none"),
        web.url("/words"),
    ));
    let id = handed(&space, &["count"]);
    assert_eq!(run_twice(&space, &[&id]), "count words");
    assert_eq!(space.read("../empty/count").trim(), "2");
    assert_eq!(web.asked(), ["/none", "/words"]);
    let offline = run(&space, &["--offline", "--force=words", &id]);
    assert_eq!(offline.output.status, 0, "{}", offline.output.stderr);
}

/// A service that is ready a while after it was started, and a task that asks it.
const SERVICE: &str = r#"
[task.db]
run = "sleep 0.1; cat conf > up; exec sleep 300"
inputs = ["conf"]
service = { file = "up", interval = "10ms" }
timeout = "30s"
[task.ask]
run = "echo asked > answer"
inputs = []
needs = ["db"]
outputs = ["answer"]
"#;

#[test]
fn services_run_for_those_that_need_them() {
    for tier in ["none", "ns"] {
        if tier == "ns" && !needs_ns() {
            continue;
        }
        let space = space(&format!("[workspace]\nsandbox = '{tier}'\n{SERVICE}"));
        space.write("conf", "1\n");
        let id = handed(&space, &["ask"]);
        assert_eq!(run_twice(&space, &[&id]), "ask db", "{tier}");
        assert_eq!(space.read("../empty/answer"), "asked\n");
        assert!(!space.exists("../empty/up"), "it ran in a directory of its own");
    }
}

#[test]
fn a_service_that_another_speaks_to_is_reached() {
    if !needs_ns() || !crate::kit::needs_programs(&["python3"]) {
        return;
    }
    let space = space(
        "[task.server]\nrun = ['python3', '-m', 'http.server', '--bind', '127.0.0.1', '8000', '--directory', 'site']\n\
         inputs = ['site']\nservice = { http = 'http://127.0.0.1:8000/index.html', interval = '20ms' }\ntimeout = '30s'\n\
         [task.get]\nrun = ['python3', '-c', 'import urllib.request as r; open(\"got\", \"wb\").write(r.urlopen(\"http://127.0.0.1:8000/index.html\").read())']\n\
         inputs = []\nneeds = ['server']\noutputs = ['got']\n",
    );
    space.write("site/index.html", "hello\n");
    let id = handed(&space, &["get"]);
    assert_eq!(run_twice(&space, &[&id]), "get server");
    assert_eq!(space.read("../empty/got"), "hello\n");
}

#[test]
fn workers_serve_its_tasks() {
    if !needs_ns() {
        return;
    }
    let space = space(
        "[task.up]\nmatrix = { word = 'a b c' }\nworker = ['sh', 'worker.sh']\nrun = ['{{word}}', '{{word}}.out']\n\
         inputs = ['worker.sh', '{{word}}']\noutputs = ['{{word}}.out']\n",
    );
    space.write(
        "worker.sh",
        "n=0\nwhile IFS= read -r line; do n=$((n + 1)); args=${line#*'\"arguments\":[\"'}; in=${args%%'\"'*}\n\
         tr a-z A-Z < $in > $in.out; echo $n >> $in.out\n\
         id=${line##*'\"requestId\":'}; id=${id%%[,\\}]*}\n\
         printf '{\"exitCode\":0,\"output\":\"\",\"requestId\":%s}\\n' $id; done\n",
    );
    ["a", "b", "c"].iter().for_each(|word| space.write(word, &format!("{word}\n")));
    let id = handed(&space, &["up"]);
    assert_eq!(run_twice(&space, &["-j1", &id]), "up[a] up[b] up[c]");
    let made = ["a", "b", "c"].map(|word| space.read(&format!("../empty/{word}.out"))).concat();
    assert!(made.contains("A\n") && made.contains("C\n") && made.contains('3'), "one process did all three: {made}");
}

#[test]
fn what_is_told_only_of_changes_failures_or_always_is() {
    let space = space(
        "[workspace]\nsandbox = 'none'\n\
         [task.make]\nrun = 'cat word > made; ! grep -q bad word'\ninputs = ['word']\noutputs = ['made']\n\
         [task.new]\nrun = 'true'\ninputs = []\nafter = ['make']\nwhen = 'changed'\n\
         [task.tell]\nrun = 'true'\ninputs = []\nafter = ['make']\nwhen = 'failure'\n\
         [task.clean]\nrun = 'true'\ninputs = []\nafter = ['make']\nwhen = 'always'\n",
    );
    space.write("word", "good\n");
    let id = handed(&space, &["make", "new", "tell", "clean"]);
    assert_eq!(run(&space, &[&id]).ran(), "clean make new");
    assert_eq!(run(&space, &[&id]).ran(), "clean");
    space.write("word", "bad\n");
    let id = handed(&space, &["make", "new", "tell", "clean"]);
    let failed = run(&space, &[&id]);
    assert_eq!((failed.output.status, failed.ran().as_str()), (1, "clean tell"));
}

#[test]
fn what_is_done_elsewhere_is_delivered_by_the_id_of_its_task() {
    let space = space(
        "[task.approval]\nexternal = true\noutputs = ['yes']\n\
         [task.go]\nrun = 'cp yes went'\ninputs = ['yes']\noutputs = ['went']\n",
    );
    let id = handed(&space, &["go"]);
    let suspended = space.run(&["--store", "../other", "-C", "../empty", "run", &id]);
    assert_eq!(suspended.status, 6);
    assert!(suspended.stderr.ends_with("suspended, waiting for 1: approval\n"), "{}", suspended.stderr);
    space.write("../empty/said", "yes\n");
    // Who has the workfile delivers by name; it is the same task.
    space.ok(&["--store", "../other", "deliver", "approval", "--ok", "../empty/said"]);
    assert_eq!(run_twice(&space, &[&id]), "go");
    assert_eq!(space.read("../empty/went"), "yes\n");
}

#[test]
fn what_a_command_sees_is_what_it_sees_in_its_workspace() {
    let space = space(
        "[task.words]\nrun = 'echo b; echo a'\ninputs = []\n\
         [task.sorted]\nrun = ['sort']\ninputs = []\nstdin = '{{needs.words.stdout}}'\nstdout = 'deep/sorted'\n\
         [task.steps]\nsteps = ['echo $WHO > ../who', ['cp', '../deep/sorted', '../copy'], 'test -n \"$GIVEN\"']\n\
         dir = 'sub'\nenv = { WHO = 'me' }\nenv-file = 'env'\npass-env = ['GIVEN']\n\
         inputs = ['sub/keep', 'deep/sorted']\noutputs = ['who', 'copy']\n\
         [task.token]\nrun = 'echo $TOKEN | wc -c > length'\ninputs = []\nsecret-env = ['TOKEN']\noutputs = ['length']\n",
    );
    space.write("env", "WHO=nobody\nOTHER=x\n");
    space.write("sub/keep", "");
    let mut export = space.command(&["export", "--workflow", "-o", "../handed.car"]);
    assert_eq!(space.finish(export.env("GIVEN", "this")).status, 0);
    let imported = space.ok(&["--store", "../other", "import", "../handed.car"]).stdout;
    let id = imported.split_whitespace().find(|word| word.len() == 59).expect("has an id").to_owned();
    let args = ["--store", "../other", "-C", "../empty", "run", &id];
    let without = space.run(&args);
    assert_eq!(without.status, 1);
    assert!(without.stderr.contains("TOKEN"), "{}", without.stderr);
    let done = space.finish(space.command(&args).env("TOKEN", "secret"));
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert_eq!(space.read("../empty/copy"), "a\nb\n");
    assert_eq!((space.read("../empty/who").as_str(), space.read("../empty/length").trim()), ("me\n", "7"));
    assert_eq!(run(&space, &[&id]).ran(), "");
}

#[test]
fn another_tool_is_another_task_and_not_what_the_id_says() {
    let space = space("");
    space.write("../bin/tool", "#!/bin/sh\necho one\n");
    let bin = space.beside("bin");
    fs::set_permissions(bin.join("tool"), fs::Permissions::from_mode(0o755)).expect("is set");
    let task = format!(
        "[workspace]\nsandbox = 'none'\n[task.use]\nrun = 'tool > said'\ninputs = []\noutputs = ['said']\n\
         tools = ['tool', 'sh']\nenv = {{ PATH = '{}:/usr/bin:/bin' }}\n",
        bin.display()
    );
    space.write("quipu.toml", &task);
    let id = handed(&space, &["use"]);
    space.write("../bin/tool", "#!/bin/sh\necho two\n");
    let refused = run(&space, &[&id]).output;
    assert_eq!(refused.status, 2);
    assert!(
        refused.stderr.contains("`use` was described with another `tool` than there is here"),
        "{}",
        refused.stderr
    );
    space.write("../bin/tool", "#!/bin/sh\necho one\n");
    assert_eq!(run_twice(&space, &[&id]), "use");
    assert_eq!(space.read("../empty/said"), "one\n");
    // What was done needs no tools.
    fs::remove_file(bin.join("tool")).expect("is removed");
    assert_eq!(run(&space, &[&id]).ran(), "");
}

#[test]
fn a_depfile_narrows_here_as_there() {
    if !needs_ns() {
        return;
    }
    let text = "[task.cc]\nrun = 'cat main one.h > out; echo \"out: main one.h\" > out.d'\n\
         inputs = ['main', '*.h']\noutputs = ['out']\ndepfile = 'out.d'\n";
    let space = space(text);
    ["main", "one.h", "two.h"].iter().for_each(|name| space.write(name, &format!("{name}\n")));
    let id = handed(&space, &["cc"]);
    assert_eq!(run_twice(&space, &[&id]), "cc");
    space.write("two.h", "other\n");
    let id = handed(&space, &["cc"]);
    assert_eq!(run(&space, &[&id]).ran(), "", "it was not read");
    space.write("one.h", "other\n");
    let id = handed(&space, &["cc"]);
    assert_eq!(run_twice(&space, &[&id]), "cc");
}
