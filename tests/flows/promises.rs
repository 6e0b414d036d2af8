//! The story of `examples/promises`: one workspace goes on when another has done what it awaits by id, and runs by id itself.

use crate::kit::TestSpace;

#[test]
fn a_workspace_goes_on_when_the_other_has_done_its_part_and_runs_by_id() {
    let space = TestSpace::example("promises");
    let plan = space.json(&["-C", "lib", "plan", "--json"]);
    let id = |name: &str| {
        let tasks = plan["tasks"].as_array().expect("a list");
        let found = tasks.iter().find(|t| t["name"] == name).and_then(|t| t["task"].as_str());
        format!("{name}={}", found.expect("has an id"))
    };
    let (index, stats, strict) = (id("index"), id("stats"), id("strict"));
    let app = ["-C", "app", "--set", &index, "--set", &stats, "--set", &strict];
    let first = space.build(&app);
    assert_eq!((first.output.status, first.ran().as_str()), (6, ""), "{}", first.output.stderr);
    let lib = space.build(&["-C", "lib", "-k"]);
    assert_eq!((lib.count("ran"), lib.ended("failed").as_str()), (10, "strict"), "{}", lib.output.stderr);
    let ran = space.build_twice(&app);
    assert_eq!(ran.count("ran"), 8);
    assert!(space.read("app/report.txt").contains("of 29 words"), "{}", space.read("app/report.txt"));
    assert!(
        space.read("app/notes.json").starts_with("{\"error\":{\"kind\":\"exit\""),
        "{}",
        space.read("app/notes.json")
    );
    // The whole of it by its id, somewhere else.
    let made = space.ok(&[&["export", "--workflow", "-o", "../app.car"], &app[..]].concat()).stdout.trim().to_owned();
    std::fs::create_dir(space.beside("empty")).expect("is made");
    let by_id = ["-C", "../empty", &made];
    assert_eq!(space.build(&by_id).ran(), "");
    assert_eq!(space.read("../empty/report.txt"), space.read("app/report.txt"));
    space.nothing_to_do(&by_id);
}
