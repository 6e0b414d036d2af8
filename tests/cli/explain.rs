//! `quipu explain`.

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::kit::TestSpace;

const TASKS: &str = r#"[workspace]
# Isolated as by default.

[task.gen]
run = "cat src/a > gen.out"
inputs = ["src/"]
outputs = ["gen.out"]

[task.use]
run = ["cat", "gen.out"]
inputs = ["gen.out"]
env = { MODE = "fast" }
pass-env = ["TERM"]
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(TASKS);
    space.write("src/a", "a\n");
    space.write("src/b", "b\n");
    space
}

/// Without what the id is made of.
pub(super) fn explain(space: &TestSpace, args: &[&str]) -> String {
    let text = space.ok(&[&["explain"], args].concat()).shown();
    text.split("\ntask [id]").next().unwrap_or_default().to_owned()
}

#[test]
fn it_says_why_and_what_changed_down_to_the_file_and_the_line() {
    let space = space();
    assert_snapshot!(explain(&space, &["gen"]), @r"
    gen: certain: there is no receipt for it (quipu.toml:4:7)
    `quipu run gen` runs it
    nothing is known of an earlier task of this name
    ");
    assert!(space.listing().is_empty());
    space.build(&[]);
    assert_snapshot!(explain(&space, &["use"]), @r"
    use: cached: there is a receipt for it (quipu.toml:9:7)
      receipt [id]
      made here, [moment]
    it would run again if:
      `gen` made something else
      `TERM` of the environment changed (`pass-env`, quipu.toml:13:13)
      the workfile said something else of it (quipu.toml:9:7)
      it were asked to: `quipu run --force=use use`
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    nothing differs from what it was when it was last settled
    ");
    let before = space.listing();
    space.write("src/a", "A\n");
    space.write("src/sub/c", "c\n");
    space.remove("src/b");
    assert_snapshot!(explain(&space, &["gen"]), @r"
    gen: certain: there is no receipt for it (quipu.toml:4:7)
    `quipu run gen` runs it
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    what differs from what it was when it was last settled:
      source files changed (`inputs`, quipu.toml:6:11)
        changed src/a
        removed src/b
        added src/sub/c
    ");
    assert_snapshot!(explain(&space, &["use"]), @r"
    use: conditional: it depends on what comes out of `gen` (quipu.toml:9:7)
    `quipu run use` settles that first, and then runs it if:
      `gen` made something it has no receipt for
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    what differs from what it was when it was last settled:
      what task `gen` makes (`inputs`, quipu.toml:11:11), in which
        source files changed (`inputs`, quipu.toml:6:11)
          changed src/a
          removed src/b
          added src/sub/c
    ");
    assert_eq!(space.listing(), before, "nothing is written");
    // What had changed when it ran is told afterwards, too.
    space.build(&["use"]);
    assert_snapshot!(explain(&space, &["use"]), @r"
    use: cached: there is a receipt for it (quipu.toml:9:7)
      receipt [id]
      made here, [moment]
    it would run again if:
      `gen` made something else
      `TERM` of the environment changed (`pass-env`, quipu.toml:13:13)
      the workfile said something else of it (quipu.toml:9:7)
      it were asked to: `quipu run --force=use use`
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
      what differed from run [run]:
        what task `gen` makes, in which
          source files changed
            changed src/a
            removed src/b
            added src/sub/c
    nothing differs from what it was when it was last settled
    ");
    space.write("src/a", "a\n");
    space.write("src/b", "b\n");
    space.remove("src/sub");
    space.edit("quipu.toml", "[\"cat\", \"gen.out\"]", "[\"cat\", \"-n\", \"gen.out\"]");
    space.edit("quipu.toml", "fast", "slow");
    assert_snapshot!(explain(&space, &["use"]), @r"
    use: certain: there is no receipt for it (quipu.toml:9:7)
    `quipu run use` runs it
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
      what differed from run [run]:
        what task `gen` makes, in which
          source files changed
            changed src/a
            removed src/b
            added src/sub/c
    what differs from what it was when it was last settled:
      environment `MODE` was `fast`, is `slow` (`env`, quipu.toml:12:16)
      argument `steps[0][1]` `-n` added (`run`, quipu.toml:10:15)
      what task `gen` makes (`inputs`, quipu.toml:11:11), in which
        source files changed (`inputs`, quipu.toml:6:11)
          changed src/a
          added src/b
          removed src/sub/c
    ");
}

#[test]
fn what_is_listed_is_what_is_hashed() {
    let space = space();
    space.build(&[]);
    let explained = space.json(&["explain", "--json", "use"]);
    assert_eq!((&explained["status"], &explained["differences"]), (&"cached".into(), &serde_json::json!([])));
    let shown = space.json(&["show", "--json", explained["task"].as_str().expect("text")]);
    let pairs = |json: &Json| -> Vec<(Json, Json)> {
        let all = json["ingredients"].as_array().expect("is a list").iter();
        all.map(|i| (i["path"].clone(), i["value"].clone())).collect()
    };
    assert_eq!(pairs(&explained), pairs(&shown));
    assert_eq!(explained["against"]["task"], explained["task"]);
}

/// Where the ingredient at a path comes from, as text shows it.
fn origin(explained: &Json, path: &str) -> String {
    let all = explained["ingredients"].as_array().expect("is a list");
    let found = all.iter().find(|i| i["path"] == path).unwrap_or_else(|| panic!("no {path} in {all:?}"));
    let used = found["used"].as_array().into_iter().flatten().map(|used| {
        let given = used["given"].as_str().map_or_else(String::new, |given| format!(" by {given}"));
        format!("; {} {} {}{given}", used["what"], used["name"], used["place"]).replace('"', "")
    });
    format!("{} {}{}", found["key"], found["place"], used.collect::<String>()).replace('"', "")
}

#[test]
fn each_ingredient_is_traced_through_templates_includes_variables_and_params() {
    let space = TestSpace::new(
        r#"include = ["tools/base.toml"]

[params.mode]
default = "fast"
from-env = "MODE"

[vars]
level = "-O{{opt}}"
opt = "2"

[template.own]
extends = ["base:plain"]
outputs = ["{{unit}}.o"]

[task.cc]
extends = ["own"]
matrix = { unit = ["one", "two"] }
vars = { flag = "-g" }
run = ["cc", "{{level}}", "{{flag}}", "{{unit}}.c"]
inputs = ["{{unit}}.c", "lib/"]
env-file = ["vars.env"]

[task.lib]
run = "mkdir lib; echo > lib/x.h"
inputs = []
outputs = ["lib/x.h"]

[task.all]
run = "true"
inputs = []
needs = ["lib", "cc[two]"]
sandbox = "none"
"#,
    );
    space.write("tools/base.toml", "[template.plain]\nenv.MODE = \"{{mode}}\"\npass-env = [\"TERM\"]\n");
    space.write("vars.env", "# c\n\nexport SET=1\n");
    space.write("one.c", "");
    space.write("two.c", "");
    let cc = space.json(&["explain", "--json", "cc[two]"]);
    for (path, expected) in [
        ("args.env.MODE", "env tools/base.toml:2:12; param mode quipu.toml:4:11"),
        ("args.env.TERM", "pass-env tools/base.toml:3:13"),
        ("args.env.SET", "env-file vars.env:3:1"),
        ("args.env.TZ", "null null"),
        ("args.steps[0][0]", "run quipu.toml:19:8"),
        ("args.steps[0][1]", "run quipu.toml:19:14; variable level quipu.toml:8:9; variable opt quipu.toml:9:7"),
        ("args.steps[0][2]", "run quipu.toml:19:27; variable flag quipu.toml:18:17"),
        ("args.steps[0][3]", "run quipu.toml:19:39; matrix unit quipu.toml:17:27"),
        ("args.outputs[0].path", "outputs quipu.toml:13:12; matrix unit quipu.toml:17:27"),
        ("args.inputs.\"\"", "inputs quipu.toml:20:1"),
        ("args.inputs.\"lib/x.h\".quipu/at[0].await/ok", "inputs quipu.toml:20:25"),
        ("args.sandbox", "null null"),
    ] {
        assert_eq!(origin(&cc, path), expected, "{path}");
    }
    let all = space.json(&["explain", "--json", "all"]);
    for (path, expected) in [
        ("args.inputs.\"@lib/x.h\".quipu/at[0].await/ok", "needs quipu.toml:31:10"),
        ("args.inputs.\"@two.o\".quipu/at[0].await/ok", "needs quipu.toml:31:17"),
        ("args.steps[0][2]", "run quipu.toml:29:7"),
        ("args.sandbox", "sandbox quipu.toml:32:1"),
    ] {
        assert_eq!(origin(&all, path), expected, "{path}");
    }
    for (args, given) in [(&["--set", "mode=slow"][..], "--set"), (&[], "`MODE` of the environment")] {
        let mut command = space.command(&[&["explain", "--json", "cc[one]"], args].concat());
        let output = command.env("MODE", "slow").output().expect("starts");
        let explained: Json = serde_json::from_slice(&output.stdout).expect("is JSON");
        let expected = format!("env tools/base.toml:2:12; param mode quipu.toml:3:9 by {given}");
        assert_eq!(origin(&explained, "args.env.MODE"), expected);
    }
}

#[test]
fn any_earlier_run_or_receipt_can_be_compared_with() {
    let space = space();
    let receipt = |task: &str| {
        let explained = space.json(&["explain", "--json", task]);
        explained["last"]["receipt"].as_str().expect("has one").to_owned()
    };
    space.build(&["use"]);
    let first = receipt("gen");
    space.write("src/a", "A\n");
    space.build(&["use"]);
    space.write("src/b", "B\n");
    let last = explain(&space, &["gen", "--against", "last"]);
    assert!(last.ends_with("quipu.toml:6:11)\n    changed src/b\n"), "{last}");
    assert_snapshot!(explain(&space, &["gen", "--against", "last~1"]), @r"
    gen: certain: there is no receipt for it (quipu.toml:4:7)
    `quipu run gen` runs it
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
      what differed from run [run]:
        source files changed
          changed src/a
    what differs from what it was in run [run] (ran):
      source files changed (`inputs`, quipu.toml:6:11)
        changed src/a
        changed src/b
    ");
    let by_receipt = explain(&space, &["gen", "--against", &first]);
    assert!(by_receipt.contains("changed src/a\n    changed src/b"), "{by_receipt}");
    let json = space.json(&["explain", "--json", "gen", "--against", &first[..20]]);
    assert_eq!((&json["against"]["kind"], &json["against"]["receipt"]), (&"receipt".into(), &first.as_str().into()));
    let task = json["against"]["task"].as_str().expect("text");
    let by_task = space.json(&["explain", "--json", "gen", "--against", task]);
    assert_eq!(by_task["differences"], json["differences"]);
    // What a task awaits is compared with what it awaited then.
    assert_snapshot!(explain(&space, &["use", "--against", "last~1"]), @r"
    use: conditional: it depends on what comes out of `gen` (quipu.toml:9:7)
    `quipu run use` settles that first, and then runs it if:
      `gen` made something it has no receipt for
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
      what differed from run [run]:
        what task `gen` makes, in which
          source files changed
            changed src/a
    what differs from what it was in run [run] (ran):
      what task `gen` makes (`inputs`, quipu.toml:11:11), in which
        source files changed (`inputs`, quipu.toml:6:11)
          changed src/a
          changed src/b
    ");
    assert_snapshot!(space.run(&["explain", "use", "--against", "last~7"]).shown(), @r"
    exit 2
    --- stderr
    error: there is no run `last~7`
    help: `quipu log` lists those there are
    ");
    assert_snapshot!(space.run(&["explain", "use", "--against", "0"]).shown(), @r"
    exit 2
    --- stderr
    error: no run has an id that begins with `0`
    ");
    space.edit("quipu.toml", "[task.use]", "[task.other]\nrun = \"true\"\ninputs = []\n\n[task.use]");
    assert_snapshot!(space.run(&["explain", "other", "--against", "last"]).shown(), @r"
    exit 2
    --- stderr
    error: run [run] had nothing to do with task `other`
    help: `quipu log --run [run]` says what it did
    ");
}

#[test]
fn lines_fit_a_terminal_of_eighty_columns() {
    let space = space();
    space.build(&[]);
    space.edit("quipu.toml", "fast", &"very slow ".repeat(15));
    let text = space.ok(&["explain", "use"]).stdout;
    let long: Vec<&str> = text.lines().filter(|l| l.chars().count() > 80 && l.trim().contains(' ')).collect();
    assert!(long.is_empty() && text.contains("very slow"), "{long:#?}");
}

#[test]
fn a_change_of_the_surroundings_points_to_where_they_are_let_in() {
    let space = space();
    space.build(&[]);
    let output = space.command(&["explain", "--json", "use"]).env("TERM", "other").output().expect("starts");
    let explained: Json = serde_json::from_slice(&output.stdout).expect("is JSON");
    let told = &explained["differences"][0];
    assert_eq!(
        (&told["message"], &told["key"]),
        (&"environment `TERM` was `dumb`, is `other`".into(), &"pass-env".into())
    );
    assert_eq!(told["place"], "quipu.toml:13:13");
}

#[test]
fn one_task_at_a_time() {
    let space = space();
    assert_snapshot!(space.run(&["explain", "*"]).shown(), @r#"
    exit 2
    --- stderr
    error: `*` means 2 tasks
      gen
      use
    help: name one
    "#);
}

#[test]
fn a_source_file_points_to_the_entry_that_it_is_of() {
    let space = TestSpace::new(
        r#"include = ["tools/base.toml"]

[vars]
kind = "c"

[template.own]
extends = ["base:plain"]
sandbox = "none"

[task.from-template]
extends = ["own"]
run = "true"

[task.own]
run = "true"
inputs = ["*", "!notes", "src/*.{{kind}}", "src/sub/", "src/**/*.h"]
stdin = "words"
sandbox = "none"

[task.all]
run = "true"
sandbox = "none"
"#,
    );
    space.write("tools/base.toml", "[template.plain]\ninputs = [\n  \"src/*.c\",\n  \"src/**/*.h\",\n]\n");
    let files = ["src/a.c", "src/a.h", "src/sub/b.c", "src/sub/b.h", "words", "plain"];
    files.iter().for_each(|file| space.write(file, "1\n"));
    space.build(&["from-template", "own", "all"]);
    files.iter().for_each(|file| space.write(file, "changed\n"));
    space.remove("src/a.c");
    space.write("src/new.c", "");
    assert_snapshot!(explain(&space, &["from-template"]), @r"
    from-template: certain: there is no receipt for it (quipu.toml:10:7)
    `quipu run from-template` runs it
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    what differs from what it was when it was last settled:
      source files changed (`inputs`, tools/base.toml:2:1)
        removed src/a.c (`inputs`, tools/base.toml:3:3)
        changed src/a.h (`inputs`, tools/base.toml:4:3)
        added src/new.c (`inputs`, tools/base.toml:3:3)
        changed src/sub/b.h (`inputs`, tools/base.toml:4:3)
    ");
    assert_snapshot!(explain(&space, &["own"]), @r"
    own: certain: there is no receipt for it (quipu.toml:14:7)
    `quipu run own` runs it
    the last time it ran, since there was no receipt for it
      run [run], [moment], took [time]
    what differs from what it was when it was last settled:
      source files changed (`inputs`, quipu.toml:16:1)
        changed plain (`inputs`, quipu.toml:16:11)
        removed src/a.c (`inputs`, quipu.toml:16:26; variable `kind`,
            quipu.toml:4:8)
        changed src/a.h (`inputs`, quipu.toml:16:56)
        added src/new.c (`inputs`, quipu.toml:16:26; variable `kind`,
            quipu.toml:4:8)
        changed src/sub/b.c (`inputs`, quipu.toml:16:44)
        changed src/sub/b.h (`inputs`, quipu.toml:16:44)
        changed words (`stdin`, quipu.toml:17:9)
    ");
    // Nothing in the workfile says what it reads.
    let all = space.json(&["explain", "--json", "all"]);
    let of_all = &all["differences"][0]["files"];
    assert!(of_all.as_array().is_some_and(|all| all.len() == 7) && of_all[0]["place"].is_null(), "{of_all}");
    let own = space.json(&["explain", "--json", "own"]);
    let files = own["differences"][0]["files"].as_array().expect("is a list");
    let words = files.iter().find(|file| file["path"] == "words").expect("is told");
    assert_eq!((&words["key"], &words["place"]), (&"stdin".into(), &"quipu.toml:17:9".into()));
}
