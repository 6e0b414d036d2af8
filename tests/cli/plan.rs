//! `quipu plan`.

use insta::assert_snapshot;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[workspace]
[task.gen]
run = "cat in > gen.out"
inputs = ["in"]
outputs = ["gen.out"]
[task.use]
run = "cat gen.out > use.out"
inputs = ["gen.out"]
outputs = ["use.out"]
[task.check]
run = "cat use.out"
inputs = ["use.out"]
[task.alone]
run = "echo alone"
inputs = []
"#;

/// The plan, its short ids taken out.
fn plan(space: &TestSpace, args: &[&str]) -> String {
    let ids = space.json(&[&["plan", "--json"], args].concat());
    let mut text = space.ok(&[&["plan"], args].concat()).shown();
    for task in ids["tasks"].as_array().expect("list") {
        let short = &task["task"].as_str().expect("text")[7..19];
        assert!(text.contains(short), "{short} in {text}");
        text = text.replace(short, "[short]");
    }
    text
}

#[test]
fn a_plan_tells_what_would_run_and_why() {
    let space = TestSpace::new(TASKS);
    space.write("in", "one\n");
    let first = plan(&space, &[]);
    assert_snapshot!(first, @r#"
    batch 1
      certain      gen    [short]  there is no receipt for it
      certain      alone  [short]  there is no receipt for it
    batch 2
      conditional  use    [short]  it depends on what comes out of `gen`
    batch 3
      conditional  check  [short]  it depends on what comes out of `use`
    4 tasks: 2 certain, 2 conditional
    starts with gen, alone
    "#);
    assert!(space.listing().is_empty(), "a plan writes nothing");
    space.build(&["check"]);
    space.write("in", "two\n");
    let text = plan(&space, &[]);
    let text: String = text.lines().filter(|l| !l.starts_with("at least")).map(|l| format!("{l}\n")).collect();
    assert_eq!(text, first, "the same is to do again");
    space.write("in", "one\n");
    assert_snapshot!(plan(&space, &["check"]), @r#"
    settled
      unneeded     gen    [short]  nothing that would run needs it
      unneeded     use    [short]  nothing that would run needs it
      cached       check  [short]  there is a receipt for it
    nothing to do: 3 tasks: 1 cached, 2 unneeded
    "#);
    let before = space.listing();
    plan(&space, &[]);
    assert_eq!(space.listing(), before);
}

#[test]
fn programs_get_states_batches_and_ids() {
    let space = TestSpace::new(TASKS);
    space.write("in", "one\n");
    space.build(&["alone"]);
    let plan = space.json(&["plan", "--json"]);
    assert_eq!(plan["batches"], serde_json::json!([["gen"], ["use"], ["check"]]));
    assert_eq!(plan["resume"], serde_json::json!(["gen"]));
    let states: Vec<&str> =
        plan["tasks"].as_array().expect("list").iter().filter_map(|t| t["status"].as_str()).collect();
    assert_eq!(states, ["certain", "conditional", "conditional", "cached"]);
    assert_eq!((&plan["counts"]["certain"], &plan["fetch"]), (&1.into(), &serde_json::json!([])));
}

#[test]
fn what_is_held_up_is_not_called_settled_and_what_waits_does_not_start() {
    let space = TestSpace::new(
        "[workspace]\n[task.ap]\nexternal = true\noutputs = ['ap.txt']\n[task.pub]\nrun = 'cat ap.txt'\ninputs = ['ap.txt']\n",
    );
    let held = plan(&space, &[]);
    assert_snapshot!(held, @r#"
    not done
      blocked      ap   [short]  it is done elsewhere, and nobody has delivered it
      blocked      pub  [short]  because of `ap`
    2 tasks: 2 blocked
    "#);
    let space = TestSpace::new(
        "[workspace]\n[task.first]\nrun = 'true'\ninputs = []\n[task.second]\nrun = 'echo'\ninputs = []\nafter = ['first']\n",
    );
    assert!(plan(&space, &[]).ends_with("\nstarts with first\n"), "{}", plan(&space, &[]));
    // A condition that is not met holds nothing up.
    space.write("quipu.toml", "[workspace]\n[task.a]\nrun = 'true'\ninputs = []\n[task.b]\nrun = 'x'\ninputs = []\nafter = ['a']\nwhen = 'failure'\n");
    space.build(&[]);
    let unmet = plan(&space, &[]);
    assert!(unmet.starts_with("settled\n") && unmet.contains("\nnothing to do: 2 tasks"), "{unmet}");
}
