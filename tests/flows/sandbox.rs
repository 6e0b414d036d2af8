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
