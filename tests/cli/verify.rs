//! `quipu verify`, on what is sound; `flows/damage.rs` has what is not.

use insta::assert_snapshot;

use crate::kit::TestSpace;

#[test]
fn a_sound_store_is_said_to_be_sound() {
    let space = TestSpace::new("[workspace]\n[task.a]\nrun = \"cat in\"\ninputs = [\"in\"]\n");
    space.write("in", "text\n");
    assert_eq!(space.ok(&["verify"]).stdout, "0 receipts, 0 blocks, 0 files: sound\n", "no store yet");
    assert!(space.listing().is_empty());
    space.build(&[]);
    assert_snapshot!(space.ok(&["verify"]).shown(), @r#"1 receipt, 3 blocks, 0 files: sound"#);
    assert_snapshot!(space.ok(&["verify", "--json"]).shown(), @r#"
    {
      "blocks": 3,
      "files": 0,
      "findings": [],
      "left": 0,
      "namespaces": {},
      "rebuilt": null,
      "receipts": 1,
      "repaired": 0
    }
    "#);
    assert_eq!(space.ok(&["verify", "--repair"]).stdout, space.ok(&["verify", "--quick"]).stdout);
}

#[test]
fn damage_is_listed_for_programs_as_well() {
    let space = TestSpace::new("[workspace]\n[task.a]\nrun = \"yes | head -n 20000\"\ninputs = []\n");
    space.build(&[]);
    std::fs::remove_file(&space.store_files("blobs")[0]).expect("is removed");
    let output = space.run(&["verify", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&output.stdout).expect("is JSON");
    assert_eq!((output.status, found["left"].as_u64(), &found["findings"][0]["damage"]), (5, Some(1), &true.into()));
}
