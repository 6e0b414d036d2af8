//! `quipu doctor`.

use std::process::{Command, Stdio};

use serde_json::Value as Json;

use crate::kit::{Output, TestSpace, has_ns, needs_ns, needs_programs};

fn space() -> TestSpace {
    TestSpace::new("")
}

fn report(output: &Output) -> Json {
    serde_json::from_str(&output.stdout).expect("is JSON")
}

fn state(report: &Json, name: &str) -> String {
    let findings = report["findings"].as_array().expect("is a list");
    let found = findings.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"));
    found["state"].as_str().expect("is text").to_owned()
}

#[test]
fn it_says_what_works_and_changes_nothing() {
    let space = space();
    let output = space.run(&["doctor", "--json"]);
    let json = report(&output);
    // The tests choose a tier that works.
    assert_eq!((output.status, &json["ok"]), (0, &Json::Bool(true)), "{json}");
    assert_eq!(state(&json, "ns"), if has_ns() { "ok" } else { "note" });
    for name in ["none", "system", "programs", "directory"] {
        assert_eq!(state(&json, name), "ok", "{name}");
    }
    for area in ["isolation", "store", "machine"] {
        assert!(json["findings"].as_array().expect("is a list").iter().any(|f| f["area"] == area), "{area}");
    }
    let text = space.ok(&["doctor"]);
    assert_eq!(text.stderr, "");
    assert!(text.stdout.starts_with("isolation\n  "), "{}", text.stdout);
    let path = space.store().display().to_string();
    let wide = |line: &&str| line.chars().count() > 80 && !line.contains(&path);
    assert_eq!(text.stdout.lines().filter(wide).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(space.listing().is_empty(), "no store was made");
    let beside: Vec<_> = std::fs::read_dir(space.beside("")).expect("is listed").flatten().collect();
    assert_eq!(beside.len(), 3, "{beside:?}");
}

#[test]
fn what_does_not_work_is_told_with_what_can_be_done() {
    if !needs_ns() || !needs_programs(&["unshare"]) {
        return;
    }
    let space = space();
    let quipu = space.command(&["doctor", "--json"]);
    let doctor = |before: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Ur", "sh", "-c", &format!("{before}; exec \"$@\""), "sh"]).arg(quipu.get_program());
        command.args(quipu.get_args()).current_dir(space.path("")).env_clear().stdin(Stdio::null());
        command.envs(quipu.get_envs().filter_map(|(name, value)| Some((name, value?))));
        space.finish(&mut command)
    };
    let refused = doctor("echo 0 > /proc/sys/user/max_user_namespaces");
    let json = report(&refused);
    assert_eq!((refused.status, state(&json, "ns").as_str(), &json["ok"]), (5, "bad", &Json::Bool(false)), "{json}");
    assert!(json["findings"][0]["help"][0].as_str().is_some_and(|h| h.contains("user.max_user_namespaces")), "{json}");
    assert_eq!(state(&json, "user"), "note", "{json}");
    // One kind alone: which one is told.
    let no_net = doctor("echo 0 > /proc/sys/user/max_net_namespaces");
    let json = report(&no_net);
    assert_eq!((no_net.status, state(&json, "net"), state(&json, "mount")), (5, "note".into(), "ok".into()), "{json}");
}

#[test]
fn a_store_that_cannot_be_written_is_told() {
    let space = space();
    let output = space.run(&["doctor", "--store=/proc/self/store"]);
    assert_eq!(output.status, 5, "{}", output.stdout);
    let said = output.stdout.lines().find(|line| line.starts_with("  bad   writing"));
    assert!(said.is_some_and(|line| line.contains("does not work")), "{}", output.stdout);
}
