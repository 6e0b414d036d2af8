//! How tasks are isolated by default, and what happens where that is refused.

use std::process::{Command, Stdio};

use crate::kit::{Output, TestSpace, has_ns, needs_ns, needs_programs};

const TASKS: &str = r#"
[workspace]

[task.copy]
run = "cat in > out"
inputs = ["in"]
outputs = ["out"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("in", "text\n");
    space
}

/// Runs the command where no further namespaces are allowed, as on a machine that refuses them.
fn without_namespaces(space: &TestSpace, sandbox: &str, args: &[&str]) -> Output {
    let mut quipu = space.command(args);
    quipu.env("QUIPU_SANDBOX", sandbox);
    let mut command = Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    command.args(["-Ur", "sh", "-c", script, "sh"]).arg(quipu.get_program()).args(quipu.get_args());
    command.current_dir(space.path("")).env_clear().stdin(Stdio::null());
    command.envs(quipu.get_envs().filter_map(|(name, value)| Some((name, value?))));
    space.finish(&mut command)
}

#[test]
fn by_default_what_is_not_declared_is_not_there() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[workspace]\n[task.a]\nrun = \"ls -A; ls -A /tmp /home | grep -c .; echo $HOME $PWD; id -u; hostname\"\ninputs = [\"in\"]\n\
         [task.b]\nrun = \"cat secret\"\ninputs = []\n",
    );
    space.write("in", "");
    space.write("secret", "");
    space.build_twice(&["a"]);
    assert_eq!(space.ok(&["log", "a"]).stdout, "in\n2\n/home /ws\n1000\nquipu\n");
    let receipt = space.json(&["plan", "--json", "a"])["tasks"][0]["receipt"].clone();
    let receipt = space.json(&["show", "--json", receipt.as_str().expect("has one")]);
    assert_eq!(receipt["isolation"], "ns");
    let failed = space.run(&["run", "b"]);
    assert_eq!(failed.status, 1);
    assert!(failed.stderr.contains("cat: secret: No such file or directory"), "{}", failed.stderr);
}

#[test]
fn who_declares_the_network_has_that_of_the_machine_and_nobody_else_has_any() {
    if !needs_ns() {
        return;
    }
    let run = "readlink /proc/self/ns/net; cat /proc/net/dev | grep -c :";
    let task = |name: &str, rest: &str| format!("[task.{name}]\nrun = \"{run}\"\ninputs = []\n{rest}\n");
    let space = TestSpace::new(&format!("[workspace]\n{}{}", task("with", "network = true"), task("without", "")));
    space.build_twice(&[]);
    let here = std::fs::read_link("/proc/self/ns/net").expect("is there").display().to_string();
    let with = space.ok(&["log", "with"]).stdout;
    assert_eq!(with.lines().next(), Some(here.as_str()));
    let without = space.ok(&["log", "without"]).stdout;
    let (other, devices) = without.trim().split_once('\n').expect("two lines");
    assert!(other != here && devices == "1", "its own loopback alone: {without}");
}

#[test]
fn where_namespaces_are_refused_nothing_less_is_chosen_and_the_ways_on_are_told() {
    if !needs_ns() || !needs_programs(&["unshare"]) {
        return;
    }
    let space = space();
    let refused = without_namespaces(&space, "", &["run"]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    let ways = [
        "error: sandbox `ns` does not work here: namespaces are refused",
        "help: so that it works: `sudo sysctl user.max_user_namespaces=",
        "help: or `QUIPU_SANDBOX=none`",
    ];
    for way in ways {
        assert!(refused.stderr.contains(way), "{way}: {}", refused.stderr);
    }
    assert!(!space.exists("out"));
    // It is no property of the task: no receipt says so, and nothing is in the way of the next run.
    let task = &space.json(&["plan", "--json"])["tasks"][0];
    assert_eq!((&task["status"], &task["receipt"]), (&"certain".into(), &serde_json::Value::Null), "{task}");
    let chosen = without_namespaces(&space, "none", &["run"]);
    assert_eq!((chosen.status, space.read("out").as_str()), (0, "text\n"), "{}", chosen.stderr);
    assert!(without_namespaces(&space, "none", &["run"]).stderr.starts_with("nothing to do"));
    // What was made with less isolation is not taken for what was made with more.
    let isolated = space.build_twice(&[]);
    assert_eq!(isolated.ran(), "copy");
}

#[test]
fn who_asks_for_the_best_gets_what_works_and_is_told_when_it_is_less() {
    if !needs_ns() || !needs_programs(&["unshare"]) {
        return;
    }
    let space = space();
    let less = without_namespaces(&space, "best", &["run"]);
    assert_eq!((less.status, space.read("out").as_str()), (0, "text\n"), "{}", less.stderr);
    assert!(less.stderr.starts_with("note: the best isolation here is `"), "{}", less.stderr);
    assert!(less.stderr.contains("namespaces are refused"), "{}", less.stderr);
    // Where namespaces work it is what goes without saying.
    space.build_twice(&[]);
    let mut command = space.command(&["run"]);
    let best = space.finish(command.env("QUIPU_SANDBOX", "best"));
    assert!(best.stderr.starts_with("nothing to do"), "{}", best.stderr);
}

#[test]
fn an_isolation_that_does_not_exist_is_refused() {
    let space = space();
    let mut command = space.command(&["run"]);
    let output = space.finish(command.env("QUIPU_SANDBOX", "chroot"));
    assert_eq!(output.status, 2);
    assert_eq!(
        output.stderr,
        "error: QUIPU_SANDBOX is `chroot`, which is no kind of isolation\nhelp: one of `ns`, `landlock`, `none`, or \
         `best`: the first of them that works here\n"
    );
    assert!(has_ns() || space.ok(&["run"]).status == 0);
}

#[test]
fn surroundings_are_the_same_everywhere_and_nothing_but_what_is_private_can_be_written_to() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        r#"
[workspace]

[task.env]
run = "env -u PWD -u SHLVL -u _ | sort; date -d @0 +%H; touch /tmp/t /home/h beside && rm beside && echo private"
inputs = []

[task.writes]
run = "for f in /new /usr/new /etc/new /ws/src/new /proc/sys/kernel/hostname src/in; do (echo > $f) 2>/dev/null && echo $f; done; cat src/in"
inputs = ["src/in"]
"#,
    );
    space.write("src/in", "as it was\n");
    let mut command = space.command(&["run"]);
    command.envs([("TZ", "Asia/Tokyo"), ("LC_ALL", "de_DE.UTF-8"), ("SOURCE_DATE_EPOCH", "1"), ("HOME", "/elsewhere")]);
    assert_eq!(space.finish(&mut command).status, 0);
    assert_eq!(
        space.ok(&["log", "env"]).stdout,
        "HOME=/home\nLANG=C.UTF-8\nLC_ALL=C.UTF-8\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         SOURCE_DATE_EPOCH=315532800\nTMPDIR=/tmp\nTZ=UTC\n00\nprivate\n"
    );
    assert_eq!(space.ok(&["log", "writes"]).stdout, "as it was\n");
    assert!(!space.exists("src/new") && !space.exists("beside"));
    // Whose surroundings are others has nothing to do.
    space.nothing_to_do(&[]);
}

#[test]
fn the_kind_of_isolation_is_part_of_the_id_and_of_the_receipt() {
    if !needs_ns() {
        return;
    }
    let landlock = quipu_runtime::exec::sandbox::landlock().is_ok();
    let mut ids = vec![];
    let space = space();
    for tier in ["ns", "none", "landlock"].into_iter().filter(|tier| landlock || *tier != "landlock") {
        space.write("quipu.toml", &TASKS.replace("[workspace]", &format!("[workspace]\nsandbox = \"{tier}\"")));
        assert_eq!(space.build_twice(&[]).ran(), "copy", "{tier}");
        let planned = space.json(&["plan", "--json"])["tasks"][0].clone();
        let receipt = space.json(&["show", "--json", planned["receipt"].as_str().expect("has one")]);
        assert_eq!(receipt["isolation"], tier);
        ids.push(planned["task"].as_str().expect("has an id").to_owned());
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn under_landlock_what_is_not_declared_is_refused_by_name() {
    if quipu_runtime::exec::sandbox::landlock().is_err() {
        return;
    }
    let space = TestSpace::new(
        r#"
[workspace]
sandbox = "landlock"

[task.good]
run = "cat in > out/good"
inputs = ["in"]
outputs = ["out/good"]

[task.bad]
run = "cat in secret > out/bad"
inputs = ["in"]
outputs = ["out/bad"]

[task.beside]
run = "echo > out/fine; echo > elsewhere"
inputs = []
outputs = ["out/fine"]
"#,
    );
    space.write("in", "text\n");
    space.write("secret", "hidden\n");
    assert_eq!(space.build_twice(&["good"]).ran(), "good");
    assert_eq!(space.read("out/good"), "text\n");
    let bad = space.run(&["run", "bad"]);
    assert!(bad.status == 1 && bad.stderr.contains("secret: Permission denied"), "{}", bad.stderr);
    let beside = space.run(&["run", "beside"]);
    assert!(beside.status == 1 && beside.stderr.contains("Permission denied"), "{}", beside.stderr);
    assert!(!space.exists("elsewhere"));
}

#[test]
fn what_comes_into_a_directory_of_sources_while_a_task_sees_all_of_it_is_no_part_of_what_it_makes() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[workspace]\n[task.list]\ninputs = [\"src/**/*.txt\"]\noutputs = [\"out\"]\n\
         run = \"for i in $(seq 20); do test -e src/deep/b.md && break; sleep 0.05; done; ls src src/deep > out\"\n",
    );
    space.write("src/a.txt", "");
    space.write("src/deep/b.txt", "");
    let mut running = space.start(&[]);
    running.wait_for("task-started", "list");
    space.write("src/deep/b.md", "");
    let ran = running.end();
    assert_eq!((ran.output.status, &*ran.ran()), (0, "list"), "{:?}", ran.events);
    assert_eq!(space.read("out"), "src:\na.txt\ndeep\n\nsrc/deep:\nb.txt\n");
    space.nothing_to_do(&[]);
    std::fs::remove_file(space.path("src/deep/b.md")).expect("is removed");
    space.nothing_to_do(&[]);
}

#[test]
fn a_directory_that_is_declared_whole_is_one_mount_and_what_else_is_declared_one_each() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        r#"
[workspace]

[task.count]
matrix = { dir = ["whole", "part"] }
run = "cut -d' ' -f5 /proc/self/mountinfo | grep -c ^/ws/{{dir}}; ls {{dir}} | grep -c ."
inputs = ["{{dir}}/*.h"]
"#,
    );
    for n in 0..25 {
        ["whole", "part"].iter().for_each(|dir| space.write(&format!("{dir}/{n}.h"), ""));
    }
    space.write("part/undeclared", "");
    space.build_twice(&[]);
    assert_eq!(space.ok(&["log", "count[whole]"]).stdout, "1\n25\n");
    let part = space.ok(&["log", "count[part]"]).stdout;
    let (mounts, files) = part.trim().split_once('\n').expect("two lines");
    assert!(mounts.parse::<u32>().is_ok_and(|mounts| mounts >= 25) && files == "25", "{part}");
}
