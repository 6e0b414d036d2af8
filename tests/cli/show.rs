//! `quipu show`.

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[workspace]
[task.make]
run = "mkdir -p out/sub; cat in > out/copy; ln -s copy out/link; echo x > out/sub/x; echo made; yes | head -n 30000 > large"
inputs = ["in"]
outputs = ["out/", "large"]
[task.use]
run = "cat out/copy; exit 3"
inputs = ["out/copy"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("in", "text\n");
    space.build(&[]);
    space
}

fn planned(space: &TestSpace) -> Json {
    space.json(&["plan", "--json"])["tasks"].clone()
}

#[test]
fn receipts_are_shown_for_people_and_for_programs() {
    let space = space();
    let id = planned(&space)[0]["receipt"].as_str().expect("has one").to_owned();
    let text = space.ok(&["show", &id]).shown();
    let text: String = text
        .lines()
        .filter(|l| !l.starts_with("took") && !l.starts_with("isolation"))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_snapshot!(text, @r#"
    receipt     [id]
    task        [id]
    invocation  [id]
    issuer      [key]
    issued      [moment]
    outcome     ok
      file     58.5 KB  [id]  large
      dir               [id]  out/
    stdout      [id]
    "#);
    let json = space.json(&["show", "--json", &id]);
    assert_eq!((&json["kind"], &json["id"]), (&"receipt".into(), &Json::from(id.as_str())));
    assert_eq!(json["outcome"]["ok"]["outputs"]["large"]["size"], 60_000);
    // Any beginning that is long enough, with or without what all ids share.
    assert_eq!(space.json(&["show", "--json", &id[7..22]]), json);
    assert_eq!(space.json(&["show", "--json", &id[..22]]), json);
}

#[test]
fn failures_are_shown_with_what_they_were() {
    let space = space();
    let task = planned(&space)[1]["task"].as_str().expect("text").to_owned();
    let task = space.json(&["show", "--json", &task]);
    let receipt = task["receipts"][0].as_str().expect("has one");
    let text = space.ok(&["show", receipt]).stdout;
    assert!(text.contains("outcome     exit: exit code 3\n"), "{text}");
    assert_eq!(space.json(&["show", "--json", receipt])["outcome"]["error"]["kind"], "exit");
}

#[test]
fn tasks_are_shown_as_ingredients_and_directories_as_listings() {
    let space = space();
    let task = planned(&space)[0]["task"].as_str().expect("text").to_owned();
    let text = space.ok(&["show", &task]).stdout;
    for part in ["task bafyr4i", "args.inputs.\"\" = bafyr4i", "args.outputs[0].path = out", "receipt bafyr4i"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let receipt = space.json(&["show", "--json", planned(&space)[0]["receipt"].as_str().expect("has one")]);
    let tree = receipt["outcome"]["ok"]["outputs"]["out"]["id"].as_str().expect("is a directory");
    assert_snapshot!(space.ok(&["show", tree]).shown(), @r#"
    file         5 B  [id]  copy
    link              link -> copy
    dir               [id]  sub/
    "#);
    let json = space.json(&["show", "--json", tree]);
    assert_eq!((&json["entries"]["link"]["target"], &json["entries"]["sub"]["kind"]), (&"copy".into(), &"dir".into()));
}

#[test]
fn files_are_printed_as_they_are_small_and_large() {
    let space = space();
    let receipt = space.json(&["show", "--json", planned(&space)[0]["receipt"].as_str().expect("has one")]);
    let large = receipt["outcome"]["ok"]["outputs"]["large"]["id"].as_str().expect("is a file");
    assert_eq!(space.ok(&["show", large]).stdout, "y\n".repeat(30_000));
    let stdout = receipt["outcome"]["ok"]["stdout"].as_str().expect("is there");
    assert_eq!(space.ok(&["show", stdout]).stdout, "made\n");
    assert_eq!(space.json(&["show", "--json", large])["size"], 60_000);
    assert!(space.store_files("scratch").is_empty(), "nothing is left lying about");
}

#[test]
fn what_is_not_there_or_ambiguous_is_said() {
    let space = space();
    assert_snapshot!(space.run(&["show", "NOPE"]).shown(), @r#"
    exit 2
    --- stderr
    error: `NOPE` begins no id
    help: ids are made of the letters a to z and the digits 2 to 7, like `bafyr4i...`
    "#);
    assert_snapshot!(space.run(&["show", "bafyr4iaaaaaaaaaaaaaaaa"]).shown(), @r#"
    exit 2
    --- stderr
    error: nothing in the store has an id that begins with `bafyr4iaaaaaaaaaaaaaaaa`
    "#);
    let several = space.run(&["show", "bafyr4i"]);
    assert_eq!(several.status, 2);
    assert!(
        several.stderr.contains("begins several ids") && several.stderr.contains("  receipt\n"),
        "{}",
        several.stderr
    );
    assert!(TestSpace::new(TASKS).run(&["show", "bafyr4i"]).stderr.contains("nothing in the store"));
}
