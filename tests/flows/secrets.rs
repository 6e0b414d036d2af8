//! Secrets: what is handed to a task is nowhere afterwards.

use std::fs;
use std::path::Path;

use crate::kit::{Output, TestSpace, has_ns};

const CANARY: &str = "c4n4ry-7be1-not-to-be-seen";

/// Tasks that are handed it, by name: what they do, and what they make.
const TASKS: [(&str, &str, &str); 5] = [
    (
        "says",
        "printf %.9s $TOKEN; sleep 0.05; printf '%s|%s\\n' ${TOKEN#?????????} $TOKEN; echo $TOKEN >&2; echo $TOKEN | wc -c > out/length",
        "out/length",
    ),
    ("fails", "echo $TOKEN; echo $TOKEN > o1/left; exit 3", "o1/left"),
    ("keeps", "echo x$TOKEN > o2/kept", "o2/kept"),
    ("names", "mkdir -p o3/$TOKEN; touch o3/$TOKEN/x", "o3/"),
    ("strays", "touch o4/a; touch o4/$TOKEN", "o4/a"),
];

fn workfile(sandbox: &str) -> String {
    let task = |(name, run, output): (&str, &str, &str)| {
        format!("[task.{name}]\nextends = [\"handed\"]\nrun = \"{run}\"\noutputs = [\"{output}\"]\n")
    };
    let handed = "[template.handed]\ninputs = []\nsecret-env = [\"TOKEN\"]\n";
    format!("[workspace]\nsandbox = \"{sandbox}\"\n{handed}{}", TASKS.map(task).concat())
}

fn run(space: &TestSpace, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = space.command(args);
    if let Some(token) = token {
        command.env("TOKEN", token);
    }
    space.finish(&mut command)
}

/// Paths below `dir` that hold the canary, in their bytes or their names.
fn holders(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("is known");
        let bytes = if kind.is_file() { fs::read(&path).expect("is read") } else { vec![] };
        if String::from_utf8_lossy(&bytes).contains(CANARY) || path.to_string_lossy().contains(CANARY) {
            found.push(path.display().to_string());
        }
        if kind.is_dir() {
            holders(&path, found);
        }
    }
}

#[test]
fn the_value_reaches_the_task_and_nothing_else() {
    let tiers = ["none", "landlock", "ns"].into_iter().filter(|tier| match *tier {
        "ns" => has_ns(),
        "landlock" => quipu_runtime::exec::sandbox::landlock().is_ok(),
        _ => true,
    });
    for tier in tiers {
        let space = TestSpace::new(&workfile(tier));
        let mut said = vec![];
        for (task, status) in [("says", 0), ("fails", 1), ("keeps", 1), ("names", 1)] {
            for command in
                [&["run", task][..], &["run", "--json", "--force=", task], &["log", task], &["explain", "--json", task]]
            {
                // What failed once fails again.
                let output = run(&space, Some(CANARY), command);
                let expected = if command[0] == "run" { status } else { output.status };
                assert_eq!(output.status, expected, "{tier} {command:?}: {}", output.stderr);
                said.push(output.stdout + &output.stderr);
            }
        }
        if tier == "ns" {
            let output = run(&space, Some(CANARY), &["run", "strays"]);
            assert!(output.stderr.contains("wrote `o4/***`, which it does not declare"), "{}", output.stderr);
            said.push(output.stderr);
        }
        // It was there: this is its length, and masks are where it was printed.
        assert_eq!(space.read("out/length").trim(), (CANARY.len() + 1).to_string());
        let all = said.concat();
        assert!(all.contains("***|***"), "{all}");
        assert!(all.contains("output `o2/kept` cannot be kept: it holds the value of a secret"), "{all}");
        assert!(!all.contains(CANARY), "{tier}: {all}");
        let mut found = vec![];
        holders(space.beside("").as_path(), &mut found);
        assert_eq!(found, Vec::<String>::new(), "{tier}");
    }
}

#[test]
fn the_name_is_part_of_the_id_and_the_value_is_not() {
    let space = TestSpace::new(&workfile("none"));
    let id = || space.json(&["plan", "--json", "says"])["tasks"][0]["task"].clone();
    let unset = run(&space, None, &["run", "says"]);
    assert_eq!(unset.status, 1);
    assert!(unset.stderr.contains("secret `TOKEN` is not set in the environment"), "{}", unset.stderr);
    let before = id();
    assert_eq!(run(&space, Some(CANARY), &["run", "says"]).status, 0);
    for token in [Some("another value"), None] {
        assert_eq!(run(&space, token, &["run", "says"]).stderr, "nothing to do: 1 task is up to date\n");
    }
    assert_eq!(id(), before);
    space.edit("quipu.toml", "secret-env = [\"TOKEN\"]", "secret-env = [\"OTHER\", \"TOKEN\"]");
    assert_ne!(id(), before);
    space.edit(
        "quipu.toml",
        "secret-env = [\"OTHER\", \"TOKEN\"]",
        "secret-env = [\"TOKEN\"]\nenv = { TOKEN = \"x\" }",
    );
    let twice = space.run(&["plan"]);
    assert_eq!(twice.status, 2);
    assert!(twice.stderr.contains("`TOKEN` is in `secret-env` and in `env` of task `says`"), "{}", twice.stderr);
}
