//! `quipu init`: a workfile to begin with, for what is there. Never overwrites one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use quipu_runtime::workfile::{self, FILE_NAME};

use super::{note, shown};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;

/// A kind of project, known by a file at its top, and the task that suits it. It runs without a sandbox.
struct Starter {
    file: &'static str,
    task: &'static str,
    description: &'static str,
    run: &'static str,
    /// What it takes of the environment, and what that tells.
    pass_env: Option<(&'static str, &'static str)>,
    /// Lines of a comment: what a sandbox would do to it.
    why: &'static [&'static str],
}

impl Starter {
    fn text(&self) -> String {
        let Self { task, description, run, .. } = self;
        let pass_env =
            self.pass_env.map_or_else(String::new, |(names, what)| format!("# {what}\npass-env = {names}\n"));
        let why: String = self.why.iter().map(|line| format!("# {line}\n")).collect();
        format!(
            "\n# No inputs are named, so all files of this folder are that git does not ignore.\n[task.{task}]\n\
             description = \"{description}\"\nrun = {run}\n{pass_env}{why}sandbox = \"none\"\n"
        )
    }
}

const HEAD: &str = "\
# What there is to do here, and what it is made from. `quipu run` does it, and only what is not done yet.
# `quipu plan` says what would run, `quipu explain TASK` why, `quipu list` what there is.
";

/// What makes a folder a workspace that no other lists.
const WORKSPACE: &str = "\n[workspace]\n";

const STARTERS: [Starter; 5] = [
    Starter {
        file: "Cargo.toml",
        run: r#"["cargo", "test", "--quiet"]"#,
        pass_env: Some((
            r#"["PATH", "HOME"]"#,
            "Where cargo is and keeps its things. These become part of the task's id.",
        )),
        why: &["It needs what lies in the home directory, and writes `target`: a sandbox shows neither."],
        ..TESTS
    },
    Starter {
        file: "package.json",
        run: r#"["npm", "test"]"#,
        pass_env: Some((r#"["PATH"]"#, "Where node is. Becomes part of the task's id.")),
        why: &["It needs `node_modules`, which is no input while git ignores it: a sandbox would not show it."],
        ..TESTS
    },
    Starter {
        file: "go.mod",
        run: r#"["go", "test", "./..."]"#,
        pass_env: Some((
            r#"["PATH", "HOME"]"#,
            "Where go is and keeps its things. These become part of the task's id.",
        )),
        why: &["It needs what lies in the home directory: a sandbox does not show it."],
        ..TESTS
    },
    Starter {
        file: "pyproject.toml",
        run: r#"["python3", "-m", "pytest"]"#,
        pass_env: Some((r#"["PATH"]"#, "Where python is. Becomes part of the task's id.")),
        why: &[
            "It may need packages from outside of this folder, and writes caches into it: a sandbox allows neither.",
        ],
        ..TESTS
    },
    Starter {
        file: "Makefile",
        task: "make",
        description: "What make makes",
        run: r#"["make"]"#,
        pass_env: None,
        why: &[
            "Name what it makes, and it is kept and put back: outputs = [\"bin/\", \"lib/thing.a\"]. Then take the next line out: in a",
            "sandbox, what is written and not named is an error.",
        ],
    },
];

/// What is alike in those that run tests.
const TESTS: Starter =
    Starter { file: "", task: "test", description: "Run the tests", run: "", pass_env: None, why: &[] };

/// For a folder in which nothing is known.
const PLAIN: &str = r#"
# A string runs in `sh -euc`, a list without a shell. Inputs and outputs are relative to this file.
[task.greet]
description = "Write a greeting"
run = "echo hello > greeting.txt"
inputs = []
outputs = ["greeting.txt"]

# An input that another task makes is an edge by itself: `shout` runs after `greet`, and again when the greeting differs.
[task.shout]
description = "The same, louder"
run = "tr a-z A-Z < greeting.txt"
inputs = ["greeting.txt"]
"#;

/// Writes it.
pub(super) fn init(start: &Path) -> Result<Exit, Diagnosis> {
    let path = start.join(FILE_NAME);
    let made = File::options().write(true).create_new(true).open(&path);
    let mut file = made.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            Diagnosis::usage(format!("`{}` is there already", shown(&path))).hint("`quipu list` lists its tasks")
        }
        _ => Diagnosis::system(&format!("cannot write `{}`", shown(&path)), &e),
    })?;
    let root = workfile::listed_by(start);
    let written = file.write_all(text(start, root.is_some()).as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|e| Diagnosis::system(&format!("cannot write `{}`", shown(&path)), &e))?;
    note(&format!("wrote `{}`; try `quipu list`, then `quipu run`", shown(&path)));
    let above = fs::canonicalize(start).ok();
    let above = above.as_deref().and_then(Path::parent).into_iter().flat_map(Path::ancestors);
    if let Some(root) = root {
        note(&format!("this folder is a member of the workspace `{}`", root.display()));
    } else if let Some(dir) = above.into_iter().find(|dir| dir.join(FILE_NAME).exists()) {
        let outer = dir.join(FILE_NAME);
        note(&format!(
            "`{}` is above it: to make this folder a member of that workspace, list it there under `members`, and \
             take the line `[workspace]` out here",
            outer.display()
        ));
    }
    Ok(Exit::Ok)
}

fn text(start: &Path, is_member: bool) -> String {
    // Several would name their tasks alike; the first is as good as any.
    let found = STARTERS.iter().find(|starter| start.join(starter.file).is_file());
    let workspace = if is_member { "" } else { WORKSPACE };
    format!("{HEAD}{workspace}{}", found.map_or_else(|| PLAIN.to_owned(), Starter::text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_starter_is_a_workfile() {
        let dir = std::env::temp_dir();
        for tasks in STARTERS.iter().map(Starter::text).chain([PLAIN.to_owned()]) {
            let text = format!("{HEAD}{WORKSPACE}{tasks}");
            let loaded = quipu_runtime::workfile::load_text(&dir, &text);
            assert!(loaded.is_ok_and(|l| !l.recipes.is_empty()), "{text}");
        }
    }
}
