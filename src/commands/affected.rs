//! `quipu affected`: which tasks a change means, and why.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use quipu_runtime::workfile::Affected;
use serde::Serialize;

use super::{Context, print, print_json};
use crate::cli::AffectedArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::render::{columns, harmless, padded};
use crate::{change, project};

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    /// The file that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<&'a str>,
    /// The affected task that it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<&'a str>,
}

/// Lists.
pub(super) fn affected(context: &Context, args: &AffectedArgs) -> Result<Exit, Diagnosis> {
    let loaded = project::load(context)?;
    let wanted: BTreeSet<usize> = project::select(&loaded, &args.goals.goals)?.into_iter().collect();
    let found = change::affected(context, &loaded, &args.goals.change)?.ok_or_else(|| {
        Diagnosis::usage("affected by what?").hint("say `--since COMMIT`, or `--changed PATH`, or both")
    })?;
    let mut all = vec![];
    for (recipe, why) in &found {
        if !wanted.contains(recipe) {
            continue;
        }
        let name = &*loaded.recipes[*recipe].name;
        all.push(match why {
            Affected::Changed(path) => One { name, changed: Some(path), needs: None },
            Affected::Needs(other) => One { name, changed: None, needs: Some(&loaded.recipes[*other].name) },
        });
    }
    if args.json {
        return print_json(&all);
    }
    let width = all.iter().map(|one| columns(&harmless(one.name))).max().unwrap_or(0);
    let mut text = String::new();
    for one in &all {
        let why = match (one.changed, one.needs) {
            (Some(path), _) => format!("{} changed", harmless(path)),
            (None, other) => format!("needs {}", harmless(other.unwrap_or_default())),
        };
        let _ = writeln!(text, "{}  {why}", padded(&harmless(one.name), width));
    }
    print(&text).map(|()| Exit::Ok)
}
