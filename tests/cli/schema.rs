//! `quipu schema` and `quipu completions`.

use crate::kit::TestSpace;

#[test]
fn the_schema_is_json_and_takes_the_examples() {
    let space = TestSpace::new("");
    let schema = space.json(&["schema"]);
    assert!(jsonschema::validator_for(&schema).is_ok());
    assert!(schema["properties"]["task"].is_object(), "{schema}");
}

#[test]
fn there_are_completions_for_each_shell() {
    let space = TestSpace::new("");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = space.ok(&["completions", shell]).stdout;
        assert!(script.contains("explain") && script.contains("dry-run"), "{shell}");
    }
    assert_eq!(space.run(&["completions", "abacus"]).status, 2);
}
