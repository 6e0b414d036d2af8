//! `quipu namespace`: which name spaces the store has, and how one goes.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use quipu_store::spaces::{self, Space};
use serde_json::json;

use super::{Context, print, print_json};
use crate::cli::NamespaceCommand;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::render::count;
use crate::settings::{Settings, space_name};

/// How long processes that use a name space get to end.
const WAIT: Duration = Duration::from_secs(10);
const DAY_S: u64 = 86_400;

/// Lists or removes.
pub(super) fn namespace(context: &Context, command: &NamespaceCommand) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    match command {
        NamespaceCommand::List { json } => list(&settings, *json),
        NamespaceCommand::Remove { names } => remove(&settings, names),
    }
}

/// Those there are.
pub(super) fn all(settings: &Settings) -> Result<Vec<Space>, Diagnosis> {
    spaces::list(&settings.store).map_err(|e| Diagnosis::system("cannot list name spaces", &e))
}

fn list(settings: &Settings, as_json: bool) -> Result<Exit, Diagnosis> {
    let spaces = all(settings)?;
    if as_json {
        let used = |space: &Space| space.used.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let list = spaces.iter().map(|space| json!({ "name": space.name.as_str(), "used": used(space) }));
        return print_json(&list.collect::<Vec<_>>());
    }
    let width = spaces.iter().map(|space| space.name.as_str().len()).max().unwrap_or(0);
    let mut text = String::new();
    for space in &spaces {
        let days = space.used.elapsed().map_or(0, |unused| unused.as_secs() / DAY_S);
        let used = if days == 0 { "within a day".to_owned() } else { format!("{} ago", count(days as usize, "day")) };
        let _ = writeln!(text, "{:width$}  used {used}", space.name.as_str());
    }
    print(&text).map(|()| Exit::Ok)
}

fn remove(settings: &Settings, names: &[String]) -> Result<Exit, Diagnosis> {
    // All that is wrong with what was asked for is said before anything goes.
    let there = all(settings)?;
    let mut asked = vec![];
    for name in names {
        let name = space_name(name)?;
        if !there.iter().any(|space| space.name == name) {
            return Err(missing(name.as_str()));
        }
        asked.push(name);
    }
    for name in asked {
        spaces::remove(&settings.store, &name, WAIT)
            .map_err(|error| Diagnosis::system(&format!("cannot remove name space `{name}`"), &error))?;
    }
    Ok(Exit::Ok)
}

/// There is none of that name.
pub(super) fn missing(name: &str) -> Diagnosis {
    Diagnosis::usage(format!("there is no name space `{name}`")).hint("`quipu namespace list` says which there are")
}
