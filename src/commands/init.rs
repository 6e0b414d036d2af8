//! `quipu init`: a workfile to begin with, for what is there. Never overwrites one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use quipu_runtime::workfile::FILE_NAME;

use super::{note, shown};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;

/// A kind of project, known by a file at its top, and tasks that suit it.
struct Starter {
    file: &'static str,
    tasks: &'static str,
}

const HEAD: &str = "\
# What there is to do here, and what it is made from. `quipu run` does it, and only what is not done yet.
# `quipu plan` says what would run, `quipu explain TASK` why, `quipu list` what there is.

[workspace]
";

const STARTERS: [Starter; 5] = [
    Starter {
        file: "Cargo.toml",
        tasks: r#"
# No inputs are named, so all files of this folder are that git does not ignore.
[task.test]
description = "Run the tests"
run = ["cargo", "test", "--quiet"]
# Where cargo is and keeps its things. These become part of the task's id.
pass-env = ["PATH", "HOME"]
# It needs what lies in the home directory, and writes `target`: a sandbox shows neither.
sandbox = "none"
"#,
    },
    Starter {
        file: "package.json",
        tasks: r#"
# No inputs are named, so all files of this folder are that git does not ignore.
[task.test]
description = "Run the tests"
run = ["npm", "test"]
# Where node is. Becomes part of the task's id.
pass-env = ["PATH"]
# It needs `node_modules`, which is no input while git ignores it: a sandbox would not show it.
sandbox = "none"
"#,
    },
    Starter {
        file: "go.mod",
        tasks: r#"
# No inputs are named, so all files of this folder are that git does not ignore.
[task.test]
description = "Run the tests"
run = ["go", "test", "./..."]
# Where go is and keeps its things. These become part of the task's id.
pass-env = ["PATH", "HOME"]
# It needs what lies in the home directory: a sandbox does not show it.
sandbox = "none"
"#,
    },
    Starter {
        file: "pyproject.toml",
        tasks: r#"
# No inputs are named, so all files of this folder are that git does not ignore.
[task.test]
description = "Run the tests"
run = ["python3", "-m", "pytest"]
# Where python is. Becomes part of the task's id.
pass-env = ["PATH"]
# It may need packages from outside of this folder, and writes caches into it: a sandbox allows neither.
sandbox = "none"
"#,
    },
    Starter {
        file: "Makefile",
        tasks: r#"
# No inputs are named, so all files of this folder are that git does not ignore.
[task.make]
description = "What make makes"
run = ["make"]
# Name what it makes, and it is kept and put back: outputs = ["bin/", "lib/thing.a"]. Then take the next line out: in a
# sandbox, what is written and not named is an error.
sandbox = "none"
"#,
    },
];

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
    let written = file.write_all(text(start).as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|e| Diagnosis::system(&format!("cannot write `{}`", shown(&path)), &e))?;
    note(&format!("wrote `{}`; try `quipu list`, then `quipu run`", shown(&path)));
    let above = fs::canonicalize(start).ok();
    let above = above.as_deref().and_then(Path::parent).into_iter().flat_map(Path::ancestors);
    if let Some(dir) = above.into_iter().find(|dir| dir.join(FILE_NAME).exists()) {
        let outer = dir.join(FILE_NAME);
        note(&format!(
            "`{}` is above it: to make this folder a member of that workspace, list it there under `members`, and \
             take the line `[workspace]` out here",
            outer.display()
        ));
    }
    Ok(Exit::Ok)
}

fn text(start: &Path) -> String {
    let found: Vec<&str> = STARTERS.iter().filter(|s| start.join(s.file).is_file()).map(|s| s.tasks).collect();
    match found[..] {
        [] => format!("{HEAD}{PLAIN}"),
        // Several would name their tasks alike; the first is as good as any.
        [first, ..] => format!("{HEAD}{first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_starter_is_a_workfile() {
        let dir = std::env::temp_dir();
        for tasks in STARTERS.iter().map(|s| s.tasks).chain([PLAIN]) {
            let text = format!("{HEAD}{tasks}");
            let loaded = quipu_runtime::workfile::load_text(&dir, &text);
            assert!(loaded.is_ok_and(|l| !l.recipes.is_empty()), "{text}");
        }
    }
}
