//! `quipu gc`.

use insta::assert_snapshot;

use crate::kit::TestSpace;

#[test]
fn what_the_workspace_goes_by_stays_and_the_rest_goes() {
    let space =
        TestSpace::new("[workspace]\n[task.a]\nrun = \"cat in > out\"\ninputs = [\"in\"]\noutputs = [\"out\"]\n");
    for text in ["one\n", "two\n", "three\n"] {
        space.write("in", text);
        space.build(&[]);
    }
    let before = space.listing();
    let would = space.ok(&["gc", "--dry-run", "--max-age=0s"]).stdout;
    assert!(would.starts_with("would delete 2 receipts, "), "{would}");
    assert_eq!(space.listing().len(), before.len());
    assert!(space.ok(&["gc", "--max-size=1G"]).stdout.starts_with("deleted 0 receipts, "), "it is not old and fits");
    assert!(space.ok(&["gc", "--max-age=0s"]).stdout.starts_with("deleted 2 receipts, "));
    let left = space.json(&["gc", "--max-age=0s", "--json"]);
    assert_eq!((left["deleted"]["receipts"].as_u64(), left["kept"]["receipts"].as_u64()), (Some(0), Some(1)));
    // What stayed is whole: the output comes back without a run.
    space.remove("out");
    assert_eq!(space.build(&[]).ran(), "");
    assert_eq!(space.read("out"), "three\n");
    space.write("in", "one\n");
    assert_eq!(space.build(&[]).ran(), "a", "what went runs again");
    assert_eq!(space.run(&["verify"]).status, 0);
}

#[test]
fn where_there_is_no_store_there_is_nothing_to_do() {
    let space = TestSpace::new("");
    assert_snapshot!(space.ok(&["gc"]).shown(), @r#"
    deleted 0 receipts, 0 blocks, 0 B
    kept 0 receipts, 0 blocks, 0 B
    "#);
    assert!(space.listing().is_empty());
}
