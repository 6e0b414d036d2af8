//! Tests of workfiles as a whole: text in, recipes or rendered errors out.

mod braces;
mod errors;
mod properties;
mod recipes;
mod reference;
mod sources;
mod templates;
mod workflow;

use std::fmt::Write as _;
use std::path::Path;

use super::{Loaded, Stdin, load, load_text};
use crate::process::OutputKind;

/// A folder with these files, whose content does not matter unless they are workfiles.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a fresh folder");
        std::fs::write(path, text).expect("a fresh file");
    }
    dir
}

/// The sources that the workfiles of these tests may name.
fn sources() -> tempfile::TempDir {
    folder(&[("main.c", ""), ("util.c", ""), ("src/a.c", ""), ("src/b.c", ""), ("include/x.h", "")])
}

/// Recipes or errors of a text, in the folder of [`sources`].
fn outcome(text: &str) -> Result<Loaded, String> {
    let dir = sources();
    let loaded = load_text(dir.path(), text).map_err(|e| e.to_string())?;
    loaded.match_sources().map_err(|e| e.to_string())?;
    Ok(loaded)
}

fn loaded(root: &Path) -> Loaded {
    load(root).unwrap_or_else(|e| panic!("{e}"))
}

/// What a recipe is, a line for each thing it has.
fn show(loaded: &Loaded) -> String {
    let mut out = String::new();
    let names = |row: &[usize]| row.iter().map(|i| &*loaded.recipes[*i].name).collect::<Vec<_>>().join(" ");
    for r in &loaded.recipes {
        let steps: Vec<String> = r.steps.iter().map(|argv| argv.join(" ")).collect();
        writeln!(out, "{}", format!("{}: {}", r.name, steps.join("; ")).trim_end()).expect("writes");
        let mut line = |key: &str, text: String| {
            if !text.is_empty() {
                writeln!(out, "  {key} {text}").expect("writes");
            }
        };
        let mut sources: Vec<String> = vec![];
        if r.sources.default {
            sources.push("default".into());
        }
        sources.extend(r.sources.literals.iter().map(|l| format!("{}{}", l.path, if l.made_below { "?" } else { "" })));
        sources.extend(r.sources.globs.iter().map(|p| p.text().to_string()));
        sources.extend(r.sources.excludes.iter().map(|p| format!("!{}", p.text())));
        line("sources", sources.join(" "));
        for from in &r.from {
            line("from", format!("{} = {} {}", from.path, loaded.recipes[from.producer].name, from.at.join(" > ")));
        }
        line("needs", names(&r.needs));
        line("after", names(&r.after));
        let outputs = r.outputs.iter().map(|o| {
            let slash = if o.kind == OutputKind::Dir { "/" } else { "" };
            let kind = if o.kind == OutputKind::Glob { "~" } else { "" };
            format!("{kind}{}{slash}{}", o.path, if o.optional { "?" } else { "" })
        });
        line("outputs", outputs.collect::<Vec<_>>().join(" "));
        match &r.stdin {
            Some(Stdin::Source(path)) => line("stdin", path.to_string()),
            Some(Stdin::Task { producer, at }) => {
                line("stdin", format!("{} {}", loaded.recipes[*producer].name, at.join(" > ")));
            }
            Some(Stdin::Printed(task)) => line("stdin", format!("what {task} prints")),
            None => {}
        }
        line("stdout", r.stdout.as_deref().unwrap_or_default().to_owned());
        line("dir", r.dir.to_string());
        line("env", r.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "));
    }
    out
}
