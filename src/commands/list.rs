//! `quipu list`: the tasks of the workspace, as the workfiles name and describe them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Context, print, print_json};
use crate::cli::ListArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project;
use crate::render::harmless;

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    task: &'a str,
    variant: BTreeMap<&'a str, &'a str>,
    description: Option<&'a str>,
    tags: Vec<&'a str>,
    /// Whether it only stands for what it needs.
    group: bool,
    place: String,
}

/// Lists.
pub(super) fn list(context: &Context, args: &ListArgs) -> Result<Exit, Diagnosis> {
    let loaded = project::load(&context.start)?;
    let mut listed = vec![];
    for index in project::select(&loaded, &args.tasks.tasks)? {
        let recipe = &loaded.recipes[index];
        let (file, line, column) = loaded.locate(recipe.place);
        listed.push(Listed {
            name: &recipe.name,
            task: &recipe.task,
            variant: recipe.variant.iter().map(|(k, v)| (&**k, &**v)).collect(),
            description: recipe.description.as_deref(),
            tags: recipe.tags.iter().map(|t| &**t).collect(),
            group: recipe.is_group(),
            place: format!("{file}:{line}:{column}"),
        });
    }
    if args.json {
        return print_json(&listed);
    }
    let width = listed.iter().map(|l| harmless(l.name).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for l in &listed {
        let first = l.description.and_then(|d| d.lines().next()).map(harmless).unwrap_or_default();
        let tags = if l.tags.is_empty() { String::new() } else { format!("  [{}]", l.tags.join(", ")) };
        let line = format!("{:width$}  {first}{tags}", harmless(l.name));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    print(&text).map(|()| Exit::Ok)
}
