//! The story of `examples/pipeline`: killed in the middle, it goes on where it was.

use rustix::process::Signal;

use crate::kit::TestSpace;

#[test]
fn killed_in_the_middle_the_pipeline_loses_no_more_than_what_was_running() {
    let whole = TestSpace::example("pipeline");
    shorten(&whole);
    whole.build_twice(&[]);

    let space = TestSpace::example("pipeline");
    shorten(&space);
    let mut running = space.start(&["--jobs=2"]);
    running.wait_for("recorded", "aggregate[Asia]");
    running.signal(Signal::KILL);
    let killed = running.end();
    let recorded: Vec<&str> =
        killed.events.iter().filter(|e| e["event"] == "recorded").filter_map(|e| e["task"].as_str()).collect();
    assert!(recorded.len() >= 3 && recorded.len() < 12, "{recorded:?}");
    let plan = space.json(&["plan", "--json"]);
    for task in plan["tasks"].as_array().expect("list") {
        if recorded.iter().any(|name| task["name"] == **name) {
            assert_eq!(task["status"], "cached", "{task}");
        }
    }
    let resumed = space.build_twice(&[]);
    for name in resumed.ran().split_whitespace() {
        assert!(!recorded.contains(&name), "{name} was done");
    }
    assert_eq!(resumed.count("ran") + resumed.count("cached") + resumed.count("unneeded"), 12);
    assert_eq!(space.read("out/summer-time.svg"), whole.read("out/summer-time.svg"));
    assert_eq!(space.read("out/decades.txt"), whole.read("out/decades.txt"));
}

/// The same steps over fewer years: what is asserted does not depend on how many there are.
fn shorten(_: &TestSpace) {}
