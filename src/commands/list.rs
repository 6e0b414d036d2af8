//! `quipu list`: the tasks of the workspace, as the workfiles name and describe them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quipu_runtime::workfile::{Loaded, Param, ParamKind, Recipe};
use serde::Serialize;

use super::{Context, print, print_json};
use crate::cli::ListArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project;
use crate::render::{columns, harmless, padded};

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    task: &'a str,
    variant: BTreeMap<&'a str, &'a str>,
    description: Option<&'a str>,
    tags: Vec<&'a str>,
    /// Whether it only stands for what it needs.
    group: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    params: Vec<ListedParam<'a>>,
    /// Params it needs and nobody gave.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<&'a str>,
    /// Why it is no part of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ListedParam<'a> {
    name: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    choices: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_env: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deprecated: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
}

impl<'a> ListedParam<'a> {
    fn of(param: &'a Param) -> Self {
        Self {
            name: &param.name,
            r#type: match param.kind {
                ParamKind::String => "string",
                ParamKind::Int => "int",
                ParamKind::Bool => "bool",
                ParamKind::List => "list",
            },
            description: param.description.as_deref(),
            default: param.default.as_deref(),
            choices: param.choices.iter().map(|c| &**c).collect(),
            pattern: param.pattern.as_deref(),
            from_env: param.from_env.as_deref(),
            deprecated: param.deprecated.as_deref(),
            value: param.value.as_deref(),
        }
    }

    /// `--set level=INT  how fast (default 2)`.
    fn line(&self) -> String {
        let takes = if self.choices.is_empty() { self.r#type.to_uppercase() } else { self.choices.join("|") };
        let mut notes = vec![];
        notes.extend(match self.default {
            Some(default) => (!default.is_empty()).then(|| format!("default {default}")),
            None => Some("required".to_owned()),
        });
        notes.extend(self.pattern.map(|pattern| format!("of {pattern}")));
        notes.extend(self.from_env.map(|var| format!("or ${var}")));
        notes.extend(self.deprecated.map(|instead| format!("deprecated: {instead}")));
        let notes = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) };
        let description = self.description.map(|d| format!("  {d}")).unwrap_or_default();
        harmless(&format!("--set {}={takes}{description}{notes}", self.name))
    }
}

fn place(loaded: &Loaded, recipe: &Recipe) -> String {
    let (file, line, column) = loaded.locate(recipe.place);
    format!("{file}:{line}:{column}")
}

/// Lists.
pub(super) fn list(context: &Context, args: &ListArgs) -> Result<Exit, Diagnosis> {
    let loaded = project::load(context)?;
    let mut listed = vec![];
    for index in project::select(&loaded, &args.tasks.tasks)? {
        let recipe = &loaded.recipes[index];
        listed.push(Listed {
            name: &recipe.name,
            task: &recipe.task,
            variant: recipe.variant.iter().map(|(k, v)| (&**k, &**v)).collect(),
            description: recipe.description.as_deref(),
            tags: recipe.tags.iter().map(|t| &**t).collect(),
            group: recipe.is_group(),
            place: args.json.then(|| place(&loaded, recipe)),
            params: recipe.params.iter().map(ListedParam::of).collect(),
            lacks: recipe.lacks.iter().map(|(name, _)| &**name).collect(),
            left_out: recipe.left_out.as_deref(),
        });
    }
    if args.json {
        return print_json(&listed);
    }
    let width = listed.iter().map(|l| columns(&harmless(l.name))).max().unwrap_or(0);
    let mut text = String::new();
    for (i, l) in listed.iter().enumerate() {
        let first = l.description.and_then(|d| d.lines().next()).map(harmless).unwrap_or_default();
        let tags = if l.tags.is_empty() { String::new() } else { format!("  [{}]", l.tags.join(", ")) };
        let line = format!("{}  {first}{tags}", padded(&harmless(l.name), width));
        text.push_str(line.trim_end());
        text.push('\n');
        if let Some(why) = l.left_out {
            let _ = writeln!(text, "    left out: {}", harmless(why));
        }
        // Variants of one task have the same params.
        let is_first = i == 0 || listed[i - 1].task != l.task;
        for param in l.params.iter().filter(|_| is_first) {
            let _ = writeln!(text, "    {}", param.line());
        }
    }
    if args.tasks.tasks.is_empty() && !loaded.params.is_empty() {
        text.push_str("params of all tasks\n");
        for param in &loaded.params {
            let _ = writeln!(text, "    {}", ListedParam::of(param).line());
        }
    }
    print(&text).map(|()| Exit::Ok)
}
