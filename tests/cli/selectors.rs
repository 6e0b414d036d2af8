//! Tasks are named in the same way wherever one is named.

use crate::kit::TestSpace;

fn space() -> TestSpace {
    let space = TestSpace::new(
        "[workspace]\nmembers = ['core', 'ui']\nsandbox = 'none'\n\
         [task.app]\nrun = 'cat core/out > app.out'\ninputs = ['core/out']\noutputs = ['app.out']\ntags = ['final']\n\
         [task.lint-a]\nrun = 'echo a'\ninputs = []\n[task.lint-b]\nrun = 'echo b'\ninputs = []\n\
         [task.sign]\nexternal = true\n\
         [task.cross]\nmatrix = { os = 'linux mac' }\nrun = 'echo {{os}}'\ninputs = []\n",
    );
    let member = |name: &str| {
        format!(
            "[task.build]\nrun = 'cat in > out'\ninputs = ['in']\noutputs = ['out']\n[task.test]\nrun = 'cat out {name}'\nneeds = 'build'\ninputs = ['{name}']\n"
        )
    };
    for name in ["core", "ui"] {
        space.write(&format!("{name}/quipu.toml"), &member(name));
        space.write(&format!("{name}/in"), "in\n");
        space.write(&format!("{name}/{name}"), "in\n");
    }
    space
}

/// A selector, the directory it is said in, and the tasks that it means.
const MANY: [(&str, &str, &str); 11] = [
    ("app", ".", "app"),
    ("core:build", ".", "core:build"),
    ("build", "ui", "ui:build"),
    (":app", "ui", "app"),
    ("cross", ".", "cross[linux] cross[mac]"),
    ("cross[mac]", ".", "cross[mac]"),
    ("lint-*", ".", "lint-a lint-b"),
    ("*:test", ".", "core:test ui:test"),
    ("tag:final", ".", "app"),
    ("+app", ".", "app core:build"),
    ("core:build+", ".", "app core:build core:test"),
];

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.join(" ")
}

#[test]
fn commands_on_tasks_take_every_selector() {
    let space = space();
    for (selector, dir, expected) in MANY {
        let args = |command: &'static [&'static str]| [command, &["-C", dir, selector]].concat();
        let text = |command| space.ok(&args(command)).stdout;
        let listed = text(&["list"]);
        let listed = listed.lines().filter(|line| !line.starts_with(' '));
        assert_eq!(sorted(listed.filter_map(|line| line.split_whitespace().next())), expected, "list {selector}");
        let changed = space.path("core/in");
        let changed = ["--changed", changed.to_str().expect("is text")];
        let affected = space.json(&[&args(&["affected", "--json"])[..], &changed].concat());
        let of_all = space.json(&["affected", "--json", "--changed", "core/in"]);
        let names = |json: &serde_json::Value| json.to_string();
        for name in expected.split(' ').filter(|name| names(&of_all).contains(&format!("\"{name}\""))) {
            assert!(names(&affected).contains(&format!("\"{name}\"")), "affected {selector}: {affected}");
        }
        let graph = space.json(&args(&["graph", "--format", "json"]));
        expected
            .split(' ')
            .for_each(|name| assert!(graph.to_string().contains(&format!("\"{name}\"")), "graph {selector}"));
        let plan = space.json(&args(&["plan", "--json"]));
        let planned = plan["tasks"].as_array().expect("a list").iter().filter_map(|task| task["name"].as_str());
        let planned: Vec<&str> = planned.collect();
        expected.split(' ').for_each(|name| assert!(planned.contains(&name), "plan {selector}: {planned:?}"));
        let ready = text(&["ready"]);
        assert!(!ready.is_empty() && ready.lines().all(|name| planned.contains(&name)), "ready {selector}: {ready}");
        let exported = space.ok(&[&args(&["export", "--workflow=dag-json", "-o", "-"])[..]].concat()).stdout;
        let workflow: serde_json::Value = serde_json::from_str(&exported).expect("is JSON");
        let goals = workflow["goals"].as_array().expect("a list").iter().filter_map(|goal| goal.as_str());
        assert_eq!(sorted(goals), expected, "export {selector}");
    }
    for (selector, dir, expected) in MANY {
        let ran = space.build(&["-C", dir, selector]);
        assert_eq!(ran.output.status, 0, "{selector}: {}", ran.output.stderr);
        let goals = ran.events[0]["goals"].as_array().expect("a list").iter().filter_map(|goal| goal.as_str());
        assert_eq!(sorted(goals), expected, "run {selector}");
        let forced = space.build(&["-C", dir, &format!("--force={selector}"), selector]);
        assert_eq!(forced.ran(), expected, "run --force {selector}");
        assert!(space.ok(&["check", "-C", dir, selector]).status == 0, "check {selector}");
    }
    // In workfiles, too, but for `+`.
    for (selector, _, expected) in MANY.iter().filter(|(selector, dir, _)| *dir == "." && !selector.contains('+')) {
        for key in ["needs", "after"] {
            let text = space.read("quipu.toml");
            let more = format!("{text}\n[task.last]\nrun = 'echo last'\ninputs = []\n{key} = ['{selector}']\n");
            space.write("quipu.toml", &more.replace("[workspace]", &format!("[workspace]\ndefault = ['{selector}']")));
            let graph = space.json(&["plan", "--json", "last"]);
            let names = graph["tasks"].as_array().expect("a list").iter().filter_map(|task| task["name"].as_str());
            let names: Vec<&str> = names.collect();
            expected.split(' ').for_each(|name| assert!(names.contains(&name), "{key} {selector}: {names:?}"));
            let ran = space.build(&[]);
            let goals = ran.events[0]["goals"].as_array().expect("a list").iter().filter_map(|goal| goal.as_str());
            assert_eq!(sorted(goals), *expected, "default {selector}");
            space.write("quipu.toml", &text);
        }
    }
}

#[test]
fn commands_on_one_task_take_every_selector_that_means_one() {
    let space = space();
    space.build(&["-k"]);
    for (selector, dir, expected) in MANY.iter().filter(|(_, _, expected)| !expected.contains(' ')) {
        let explained = space.json(&["-C", dir, "explain", "--json", selector]);
        assert_eq!(explained["name"], *expected, "explain {selector}: {explained}");
        let printed = space.ok(&["-C", dir, "log", selector]).stdout;
        assert_eq!(printed, space.ok(&["log", expected]).stdout, "log {selector}");
        let learned = space.run(&["-C", dir, "learn", "--json", selector]);
        assert!(learned.status == 0 || learned.stderr.contains("ptrace"), "learn {selector}: {}", learned.stderr);
    }
    space.write("yes", "yes\n");
    for selector in ["sign", "si*", ":sign"] {
        space.ok(&["deliver", selector, "--ok", "yes"]);
    }
    for args in
        [&["explain", "lint-*"][..], &["log", "lint-*"], &["learn", "lint-*"], &["deliver", "--ok", "yes", "lint-*"]]
    {
        let several = space.run(args);
        assert_eq!(several.status, 2, "{args:?}");
        assert!(several.stderr.contains("2 tasks"), "{args:?}: {}", several.stderr);
    }
}

#[test]
fn a_name_that_is_nearly_right_is_suggested_wherever_it_is_said() {
    let space = space();
    space.write("yes", "yes\n");
    for args in [
        &["run", "ap"][..],
        &["run", "--force=ap"],
        &["plan", "ap"],
        &["ready", "ap"],
        &["list", "ap"],
        &["graph", "ap"],
        &["affected", "ap", "--changed", "core/in"],
        &["check", "ap"],
        &["explain", "ap"],
        &["learn", "ap"],
        &["log", "ap"],
        &["deliver", "ap", "--ok", "yes"],
        &["export", "-o", "x", "ap"],
        &["audit", "ap"],
        &["attest", "ap"],
    ] {
        let said = space.run(args);
        assert_ne!(said.status, 0, "{args:?}");
        assert!(said.stderr.contains("did you mean `app`?"), "{args:?}: {}", said.stderr);
    }
    let said = space.run(&["run", "cor:build", "tag:fina", "cross[win]"]);
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("core:build") || said.stderr.contains("did you mean `core`"), "{}", said.stderr);
}
