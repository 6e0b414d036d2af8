//! What changed: paths that somebody names, or that git tells.
//!
//! Asks git; unaware of what a change means for tasks.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use quipu_runtime::workfile::{Affected, Loaded};

use crate::cli::ChangeArgs;
use crate::commands::Context;
use crate::diagnose::Diagnosis;

/// The recipes that a change affects; `None` when none was named.
pub(crate) fn affected(
    context: &Context,
    loaded: &Loaded,
    args: &ChangeArgs,
) -> Result<Option<BTreeMap<usize, Affected>>, Diagnosis> {
    if args.since.is_none() && args.changed.is_empty() {
        return Ok(None);
    }
    let mut paths = vec![];
    for path in &args.changed {
        paths.push(in_workspace(context, loaded, path)?);
    }
    if let Some(commit) = &args.since {
        paths.extend(since(&loaded.root, commit)?);
    }
    paths.sort_unstable();
    paths.dedup();
    Ok(Some(loaded.affected(&paths)))
}

/// A path as somebody types it, relative to the workspace root. It need not be there any more.
fn in_workspace(context: &Context, loaded: &Loaded, path: &Path) -> Result<String, Diagnosis> {
    let outside = || Diagnosis::usage(format!("`{}` is not in the workspace", path.display()));
    let start = context.start.canonicalize().map_err(|e| Diagnosis::system("cannot find where to start", &e))?;
    let mut full = PathBuf::new();
    for part in start.join(path).components() {
        match part {
            Component::ParentDir => drop(full.pop()),
            Component::CurDir => {}
            part => full.push(part),
        }
    }
    // Its folder may be named by way of a link, and may be gone.
    let there = full.ancestors().skip(1).find_map(|dir| Some((full.strip_prefix(dir).ok()?, dir.canonicalize().ok()?)));
    if let Some((rest, real)) = there {
        full = real.join(rest);
    }
    full.strip_prefix(&loaded.root).ok().and_then(Path::to_str).map(str::to_owned).ok_or_else(outside)
}

/// Files below `root` that are not what they were where `commit` and what is checked out part.
fn since(root: &Path, commit: &str) -> Result<Vec<String>, Diagnosis> {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(args).output();
        let output = output.map_err(|e| Diagnosis::system("cannot ask git what changed", &e))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let said = if said.is_empty() { format!("`{commit}` and HEAD have no common history") } else { said };
        Err(Diagnosis::usage(format!("git does not know what changed since `{commit}`: {said}")))
    };
    // What starts with a dash would be an option.
    let known = git(&["rev-parse", "--verify", "--end-of-options", &format!("{commit}^{{commit}}")])?;
    let base = git(&["merge-base", known.trim(), "HEAD"])?;
    let changed = git(&["diff", "--name-only", "--no-renames", "--relative", "-z", base.trim()])?;
    let new = git(&["ls-files", "--others", "--exclude-standard", "-z"])?;
    let paths = changed.split('\0').chain(new.split('\0'));
    Ok(paths.filter(|path| !path.is_empty()).map(str::to_owned).collect())
}
