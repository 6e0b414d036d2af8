//! The entries of one folder of the workspace with which a pattern goes on.
//!
//! Looks at the disk and notes what it looked at; unaware of what is looked for.

use std::path::Path;

use super::globs::{Comp, MAX_COMPONENTS, Pattern, States};
use super::looked::Looked;
use super::making::is_ours;

/// An entry that matches so far.
pub(super) struct Found {
    /// From the workspace's root.
    pub(super) path: String,
    pub(super) is_dir: bool,
    /// What of the pattern is left.
    pub(super) states: States,
}

/// Entries of `dir`, `depth` folders below the root, that match so far. Hidden ones only when the pattern names them.
pub(super) fn entries(
    root: &Path,
    dir: &str,
    pattern: &Pattern,
    states: States,
    depth: usize,
    looked: &mut Looked,
) -> Vec<Found> {
    looked.folders.insert(dir.into());
    let mut out = vec![];
    if depth > MAX_COMPONENTS {
        return out;
    }
    let Ok(entries) = std::fs::read_dir(root.join(dir)) else { return out };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let (Some(name), Ok(kind)) = (name.to_str(), entry.file_type()) else { continue };
        let states = pattern.step(states, name);
        let named = matches!(pattern.comps().get(depth), Some(Comp::Literal(literal)) if **literal == *name);
        if states.dead() || (name.starts_with('.') && !named) || is_ours(name) {
            continue;
        }
        let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        out.push(Found { path, is_dir: kind.is_dir(), states });
    }
    out
}
