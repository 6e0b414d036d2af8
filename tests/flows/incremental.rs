//! What runs again after which change, and what does not.

use crate::kit::TestSpace;

/// a -> b -> c, and x alone; each writes down beside the workspace that it ran.
const CHAIN: &str = r#"
[workspace]
sandbox = "none"

[task.a]
run = "echo a >> ../ran; cat a.in > a.out"
inputs = ["a.in"]
outputs = ["a.out"]

[task.b]
run = "echo b >> ../ran; cat a.out b.in > b.out"
inputs = ["a.out", "b.in"]
outputs = ["b.out"]

[task.c]
run = "echo c >> ../ran; cat b.out > c.out"
inputs = ["b.out"]
outputs = ["c.out"]

[task.x]
run = "echo x >> ../ran; cat x.in > x.out"
inputs = ["x.in"]
outputs = ["x.out"]
"#;

fn chain() -> TestSpace {
    let space = TestSpace::new(CHAIN);
    for name in ["a", "b", "x"] {
        space.write(&format!("{name}.in"), &format!("{name}1\n"));
    }
    space
}

#[test]
fn t1_what_has_a_receipt_is_cached_and_the_rest_runs() {
    let space = chain();
    assert_eq!(space.build_twice(&["x"]).ran(), "x");
    let all = space.build_twice(&[]);
    assert_eq!((all.ran().as_str(), all.ended("cached").as_str()), ("a b c", "x"));
    assert_eq!(space.read("c.out"), "a1\nb1\n");
    assert_eq!(space.lines("ran"), ["x", "a", "b", "c"], "what the events say is what happened");
}

#[test]
fn t6_behind_a_cached_goal_nothing_is_looked_at_and_a_goal_before_it_runs() {
    let space = chain();
    space.build_twice(&["c"]);
    let other = TestSpace::new(CHAIN);
    assert!(!other.exists("a.in"));
    // All that is left is the receipt of c and what it names.
    let again = space.build(&["c"]);
    assert_eq!((again.count("cached"), again.count("unneeded")), (1, 2));
    space.write("a.in", "a2\n");
    assert_eq!(space.build_twice(&["b"]).ran(), "a b");
    space.write("a.in", "a1\n");
    let back = space.build_twice(&["c"]);
    assert_eq!((back.ran().as_str(), space.read("c.out").as_str()), ("", "a1\nb1\n"));
}

#[test]
fn an_edit_runs_what_reads_it_and_what_follows_and_its_revert_runs_nothing() {
    let space = chain();
    space.build_twice(&[]);
    space.write("b.in", "b2\n");
    assert_eq!(space.build_twice(&[]).ran(), "b c");
    assert_eq!(space.read("c.out"), "a1\nb2\n");
    space.write("b.in", "b1\n");
    let back = space.build(&[]);
    assert_eq!((back.ran().as_str(), back.output.status), ("", 0));
    assert_eq!(space.read("c.out"), "a1\nb1\n", "the old outputs are put back");
    space.nothing_to_do(&[]);
}

#[test]
fn touching_a_file_or_writing_the_same_runs_nothing() {
    let space = chain();
    space.build_twice(&[]);
    space.write("a.in", "a1\n");
    space.nothing_to_do(&[]);
}

#[test]
fn lost_and_overwritten_outputs_come_back_without_a_run_and_what_a_person_wrote_is_kept() {
    let space = chain();
    space.build_twice(&[]);
    space.remove("c.out");
    space.write("x.out", "mine\n");
    let restored = space.build(&[]);
    assert_eq!((restored.ran().as_str(), restored.output.status), ("", 0));
    assert_eq!((space.read("c.out").as_str(), space.read("x.out").as_str()), ("a1\nb1\n", "x1\n"));
    let kept = restored.events.iter().find(|e| e["event"] == "kept").expect("is told");
    assert_eq!(kept["path"], "x.out");
    assert_eq!(space.ok(&["show", kept["cid"].as_str().expect("text")]).stdout, "mine\n");
    space.nothing_to_do(&[]);
    // An output that is in the way of work is kept as well.
    space.write("x.out", "mine again\n");
    space.write("x.in", "x2\n");
    let ran = space.build(&["x"]);
    let kept = ran.events.iter().find(|e| e["event"] == "kept").expect("is told");
    assert_eq!(space.ok(&["show", kept["cid"].as_str().expect("text")]).stdout, "mine again\n");
}

#[test]
fn what_quipu_put_back_is_its_own_to_replace() {
    let space = chain();
    space.build_twice(&[]);
    space.remove("x.out");
    space.build(&[]);
    space.write("x.in", "x2\n");
    let ran = space.build(&[]);
    assert_eq!(ran.ran(), "x");
    assert!(ran.events.iter().all(|e| e["event"] != "kept"), "nothing of a person's was there");
}

#[test]
fn a_new_file_that_a_glob_matches_is_an_input() {
    let space = TestSpace::new(
        "[workspace]\n[task.all]\nrun = \"cat src/*.txt > all\"\ninputs = [\"src/*.txt\"]\noutputs = [\"all\"]\n",
    );
    space.write("src/b.txt", "b\n");
    space.build_twice(&[]);
    space.write("src/a.txt", "a\n");
    assert_eq!(space.build_twice(&[]).ran(), "all");
    assert_eq!(space.read("all"), "a\nb\n");
    space.remove("src/b.txt");
    assert_eq!(space.build_twice(&[]).ran(), "all");
    assert_eq!(space.read("all"), "a\n");
}

#[test]
fn t22_the_same_task_under_two_names_runs_once() {
    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.one]
        run = "echo ran >> ../ran; cat in"
        inputs = ["in"]
        [task.two]
        run = "echo ran >> ../ran; cat in"
        inputs = ["in"]
        "#,
    );
    space.write("in", "text\n");
    space.build_twice(&[]);
    space.nothing_to_do(&["two"]);
    assert_eq!(space.lines("ran").len(), 1);
}

#[test]
fn t28_force_runs_the_task_and_its_dependents_only_if_it_comes_out_differently() {
    let space = chain();
    space.build_twice(&[]);
    let forced = space.build(&["--force=a"]);
    assert_eq!((forced.ran().as_str(), forced.output.status), ("a", 0));
    space.nothing_to_do(&[]);

    let space = TestSpace::new(
        r#"
        [workspace]
        sandbox = "none"
        [task.random]
        run = "cat ../number > number; echo random >> ../ran"
        inputs = []
        outputs = ["number"]
        [task.reader]
        run = "cat number > copy; echo reader >> ../ran"
        inputs = ["number"]
        outputs = ["copy"]
        "#,
    );
    std::fs::write(space.beside("number"), "1").expect("is written");
    space.build_twice(&[]);
    std::fs::write(space.beside("number"), "2").expect("is written");
    space.nothing_to_do(&[]);
    let forced = space.build(&["--force=random"]);
    assert_eq!((forced.ran().as_str(), space.read("copy").as_str()), ("random reader", "2"));
    assert!(forced.events.iter().any(|e| e["event"] == "divergence" && e["task"] == "random"), "{:?}", forced.events);
    space.nothing_to_do(&[]);
    std::fs::write(space.beside("number"), "3").expect("is written");
    let stopped = space.build(&["--force=random", "--on-divergence=fail"]);
    assert_eq!((stopped.output.status, stopped.ran().as_str()), (5, "random"), "its reader does not start");
}

#[test]
fn t31_how_a_task_is_handled_is_no_part_of_what_it_is() {
    let space = chain();
    space.build_twice(&[]);
    let before = "run = \"echo b >>";
    let handled =
        "timeout = \"1h\"\nretries = 3\ndescription = \"B\"\ntags = [\"t\"]\nmute = true\nslots = { big = 1 }\n";
    space.edit("quipu.toml", before, &format!("{handled}{before}"));
    space.nothing_to_do(&[]);
    space.nothing_to_do(&["--jobs=7", "--keep-going"]);
}

#[test]
fn ids_in_the_plan_are_those_of_the_receipts_and_of_a_task_run_alone() {
    let space = chain();
    let plan = space.json(&["plan", "--json"]);
    assert!(space.listing().is_empty(), "a plan makes no store");
    let ids = |plan: &serde_json::Value| -> Vec<String> {
        let tasks = plan["tasks"].as_array().expect("list").iter();
        tasks.map(|t| format!("{} {}", t["name"], t["task"])).collect()
    };
    space.build(&["a"]);
    space.build(&[]);
    let after = space.json(&["plan", "--json"]);
    assert_eq!(ids(&plan), ids(&after));
    for task in after["tasks"].as_array().expect("list") {
        let receipt = space.json(&["show", "--json", task["receipt"].as_str().expect("has one")]);
        let settles = receipt["settles"].as_object().expect("map");
        assert!(settles.contains_key(task["task"].as_str().expect("text")), "{receipt}");
    }
}

#[test]
fn a_task_by_promise_and_a_file_with_the_bytes_of_an_id_are_two_things() {
    // T21: text that spells a task's id is text.
    let space = chain();
    let plan = space.json(&["plan", "--json"]);
    let id = plan["tasks"][0]["task"].as_str().expect("text").to_owned();
    let spelled = format!("\n[task.spelled]\nrun = [\"echo\", \"{id}\"]\ninputs = []\n");
    space.write("quipu.toml", &format!("{CHAIN}{spelled}"));
    assert_eq!(space.build_twice(&["spelled"]).ran(), "spelled");
    assert_eq!(space.ok(&["log", "spelled"]).stdout, format!("{id}\n"));
}

#[test]
fn a_tool_is_the_one_that_the_task_finds() {
    let task = |name: &str, path: &str| {
        format!(
            "[task.{name}]\nrun = 'gen > {name}'\ninputs = []\noutputs = ['{name}']\ntools = ['gen']\nenv = {{ PATH = '{path}' }}\n"
        )
    };
    let space = TestSpace::new("");
    let paths = ["a", "b"].map(|dir| format!("{}:/usr/bin:/bin", space.path(dir).display()));
    let member = "[task.own]\nrun = 'bin/gen > own'\ninputs = []\noutputs = ['own']\ntools = ['bin/gen']\n";
    space.write(
        "quipu.toml",
        &format!(
            "[workspace]\nsandbox = 'none'\nmembers = ['lib']\n{}{}",
            task("one", &paths[0]),
            task("two", &paths[1])
        ),
    );
    space.write("lib/quipu.toml", member);
    for dir in ["a", "b", "lib/bin", "bin"] {
        space.script(&format!("{dir}/gen"), &format!("echo {dir}"));
    }
    let made = || ["one", "two", "lib/own"].map(|path| space.read(path).trim_end().to_owned());
    let build = || space.build_twice(&[]).ran();
    assert_eq!(build().split(' ').count(), 3);
    assert_eq!(made(), ["a", "b", "lib/bin"]);
    // Each goes by its own.
    space.script("b/gen", "echo other");
    assert_eq!(build(), "two");
    space.script("bin/gen", "echo other");
    assert_eq!(build(), "");
    space.script("lib/bin/gen", "echo other");
    assert_eq!(build(), "lib:own");
    assert_eq!(made(), ["a", "other", "other"]);
    // A `PATH` that is passed on is looked in, too.
    space.write(
        "quipu.toml",
        "[task.t]\nrun = 'gen'\ninputs = []\ntools = ['gen']\npass-env = ['PATH']\nsandbox = 'none'\n",
    );
    let ran = space.finish(space.command(&["run", "t"]).env("PATH", &paths[0]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn the_folder_of_what_is_included_is_not_left_out_and_workfiles_are_no_inputs() {
    let space = TestSpace::new(
        "include = [{ path = 'ci/web.toml', name = 'web', dir = 'apps/web' }]\n[workspace]\nsandbox = 'none'\n\
         [task.n]\nrun = 'cat apps/web/page.txt > ../seen'\n",
    );
    space.write("ci/web.toml", "[task.lint]\nrun = 'true'\ninputs = []\n");
    space.write("apps/web/page.txt", "one\n");
    space.build_twice(&[]);
    space.write("apps/web/page.txt", "two\n");
    assert_eq!(space.ok(&["affected", "--changed", "apps/web/page.txt"]).stdout, "n  apps/web/page.txt changed\n");
    assert_eq!(space.build_twice(&[]).ran(), "n");
    assert_eq!(space.lines("seen"), ["two"]);
    space.write("ci/web.toml", "# the same\n[task.lint]\nrun = 'true'\ninputs = []\n");
    assert_eq!(space.build_twice(&[]).ran(), "");
}

#[test]
fn a_link_that_was_in_the_way_is_told_with_what_it_led_to() {
    let space = TestSpace::new("[task.d]\nrun = 'echo d > d.txt'\ninputs = []\noutputs = ['d.txt']\n");
    space.build_twice(&[]);
    for as_json in [true, false] {
        space.remove("d.txt");
        std::os::unix::fs::symlink("/nowhere", space.path("d.txt")).expect("is linked");
        if as_json {
            let ran = space.build(&[]);
            let kept = ran.events.iter().find(|e| e["event"] == "kept").expect("is told");
            assert!(kept["link"] == "/nowhere" && kept["cid"].is_null(), "{kept}");
        } else {
            let said = space.ok(&["run"]).stderr;
            let expected = "replaced d.txt, which quipu had not written; it was a link to `/nowhere`\n";
            assert!(said.contains(expected), "{said}");
        }
        assert_eq!(space.read("d.txt"), "d\n");
    }
}
