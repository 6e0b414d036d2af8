//! Keys and trust through the command.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use quipu_store::sign::Signer;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[task.a]
run = "env > seen"
outputs = ["seen"]
inputs = []
pass-env = ["QUIPU_KEY", "TERM"]
sandbox = "none"
"#;

fn did(byte: u8) -> String {
    Signer::from_secret(&[byte; 32]).public().to_string()
}

#[test]
fn a_key_is_made_once_shown_and_listed() {
    let space = TestSpace::new(TASKS);
    assert_eq!(space.ok(&["key", "show"]).stdout.trim(), did(1));
    let twice = space.run(&["key", "new"]);
    assert!(twice.status == 2 && twice.stderr.contains("there is a key already"), "{}", twice.stderr);
    fs::remove_file(space.beside("config/key")).expect("own file");
    let none = space.run(&["key", "show"]);
    assert!(none.status == 2 && none.stderr.contains("`quipu key new` makes one"), "{}", none.stderr);
    assert!(!space.beside("config/key").exists(), "looking makes none");
    assert_eq!(space.ok(&["key", "list"]).stdout, "");
    let made = space.ok(&["key", "new"]).stdout;
    assert!(made.starts_with("did:key:z6Mk"));
    assert_eq!(space.ok(&["key", "show"]).stdout, made);
    let mode = fs::metadata(space.beside("config/key")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = space.ok(&["key", "list"]).stdout;
    assert!(listed.starts_with(made.trim()) && listed.contains("(in use)"), "{listed}");
}

#[test]
fn quipu_key_signs_in_place_of_the_file_in_three_forms_and_no_task_sees_it() {
    let space = TestSpace::new(TASKS);
    let path = space.beside("other-key");
    fs::write(&path, "05".repeat(32)).expect("is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    let base64 = "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=";
    for given in [&"05".repeat(32), base64, path.to_str().expect("text")] {
        let shown = space.command(&["key", "show"]).env("QUIPU_KEY", given).output().expect("starts");
        assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), did(5), "{given}");
    }
    let ran = space.command(&["run"]).env("QUIPU_KEY", "05".repeat(32)).output().expect("starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let seen = space.read("seen");
    assert!(seen.contains("TERM=dumb") && !seen.contains("0505"), "{seen}");
    let plan = space.json(&["plan", "--json"]);
    let receipt = plan["tasks"][0]["receipt"].as_str().expect("settled").to_owned();
    assert!(space.ok(&["show", &receipt, "--json"]).stdout.contains(&did(5)));
    // What is no key is not printed: it may be one with a letter missing.
    let wrong = space.command(&["key", "show"]).env("QUIPU_KEY", &"05".repeat(32)[1..]).output().expect("starts");
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(2) && said.contains("QUIPU_KEY") && !said.contains("0505"), "{said}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("own file");
    let exposed = space.command(&["key", "show"]).env("QUIPU_KEY", &path).output().expect("starts");
    assert_eq!(exposed.status.code(), Some(3));
}

#[test]
fn trust_is_added_listed_and_removed_by_name() {
    let space = TestSpace::new(TASKS);
    assert_eq!(space.ok(&["trust", "list"]).stdout, "");
    space.ok(&["trust", "add", "ci", &did(2)]);
    space.ok(&["trust", "add", "anna", &did(3)]);
    space.ok(&["trust", "add", "ci", &did(2)]);
    assert_eq!(space.ok(&["trust", "list"]).stdout, format!("ci    {}\nanna  {}\n", did(2), did(3)));
    for (args, said) in [
        (&["trust", "add", "ci", &did(4)][..], "already"),
        (&["trust", "add", "other", &did(2)], "that key is `ci` already"),
        (&["trust", "add", "a b", &did(4)], "cannot be a name"),
        (&["trust", "add", "x", "did:key:z6Mk"], "is not an ed25519 key"),
        (&["trust", "add", "x", &did(4).replace("z6Mk", "Z6Mk")], "is not an ed25519 key"),
        (&["trust", "remove", "nobody"], "nobody called `nobody`"),
    ] {
        let refused = space.run(args);
        assert!(refused.status == 2 && refused.stderr.contains(said), "{args:?}: {}", refused.stderr);
    }
    space.ok(&["trust", "remove", "ci"]);
    assert_eq!(space.ok(&["trust", "list"]).stdout, format!("anna  {}\n", did(3)));
    // A file nobody understands stops runs: guessing whom to trust is not done.
    fs::write(space.beside("config/trust.toml"), "[keys]\nci = 1\n").expect("is written");
    let run = space.run(&["run"]);
    assert!(run.status == 2 && run.stderr.contains("`keys.ci` is no text"), "{}", run.stderr);
}
