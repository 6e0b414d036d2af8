//! Which folders belong to a workspace: the root that lists a folder, and the members a root lists.
//!
//! Looks at folders and reads workfiles; unaware of tasks.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::errors::{ErrorKind, Place, SourceFile, WorkfileError};
use super::globs::{Pattern, States};
use super::looked::Looked;
use super::lower::is_task_name;
use super::model::{self, MemberEntry};
use super::parse::{MAX_FILE_BYTES, parse};
use super::paths::{self, Spot};
use super::{FILE_NAME, folder};

/// Most members a workspace may have.
const MAX_MEMBERS: usize = 10_000;

/// A folder that belongs to a workspace.
pub(crate) struct Found {
    /// Relative to the root.
    pub(crate) dir: String,
    /// Where the workspace lists it first.
    pub(crate) place: Place,
    /// Which entries of the list mean it, in order.
    pub(crate) entries: Vec<usize>,
}

/// Reads a workfile's text.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = vec![];
    // One byte more than allowed tells the parser that it is too much.
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).or_else(|error| {
        if error.as_bytes().len() > MAX_FILE_BYTES {
            return Ok(" ".repeat(MAX_FILE_BYTES + 1));
        }
        let at = error.utf8_error().valid_up_to();
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("byte {at} is not UTF-8")))
    })
}

/// The root of the workspace that the nearest workfile at or above `start` belongs to, and that file's folder.
pub(crate) fn find_root(start: &Path) -> Option<(PathBuf, PathBuf)> {
    let start = if start.is_dir() { start } else { start.parent()? };
    let has_file = |dir: &&Path| dir.join(FILE_NAME).is_file();
    let nearest = start.ancestors().find(has_file)?;
    let is_root = read(&nearest.join(FILE_NAME)).is_ok_and(|text| has_workspace(&text));
    let above = if is_root { None } else { lister(nearest) };
    Some((above.unwrap_or_else(|| nearest.to_owned()), nearest.to_owned()))
}

/// The root of the nearest workspace above a folder that lists it as a member.
pub(crate) fn lister(folder: &Path) -> Option<PathBuf> {
    let lists = |above: &&Path| {
        let Some(relative) = folder.strip_prefix(above).ok().and_then(Path::to_str) else { return false };
        let path = above.join(FILE_NAME);
        let Some(text) = path.is_file().then(|| read(&path).ok()).flatten() else { return false };
        let file = parse(0, &text, &mut vec![]);
        let members = file.workspace.iter().flat_map(|workspace| workspace.members.iter().rev());
        // The last entry that means it decides.
        let mut means = members.filter_map(|member| {
            let text = &*member.path.text;
            let (out, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
            means(text, relative).then_some(!out)
        });
        means.next().unwrap_or(false)
    };
    folder.ancestors().skip(1).find(lists).map(Path::to_owned)
}

/// Whether an entry of a list of members means a folder.
fn means(text: &str, dir: &str) -> bool {
    let mut spots = vec![];
    paths::read("", text, &mut spots).is_ok()
        && spots.iter().any(|spot| match spot {
            Spot::Literal { path, .. } => **path == *dir,
            Spot::Pattern { pattern, .. } => pattern.matches(dir),
        })
}

/// Whether a workfile has a `[workspace]`. It mostly stands above the tasks, which may be many.
fn has_workspace(text: &str) -> bool {
    let head = text.find("\n[task").map_or(text, |end| &text[..end]);
    let has = |text: &str| text.contains("workspace") && parse(0, text, &mut vec![]).workspace.is_some();
    has(head) || (head.len() < text.len() && has(text))
}

/// The folders that `members` of a workspace lists, each once, in the order of the list. What starts with `!` takes
/// away what was listed before.
pub(crate) fn find(
    root: &Path,
    members: &[MemberEntry<'_>],
    looked: &mut Looked,
    errors: &mut Vec<WorkfileError>,
) -> Vec<Found> {
    let mut out: Vec<Found> = vec![];
    for (number, member) in members.iter().enumerate() {
        let member = &member.path;
        let bad = |kind, message: String| WorkfileError::new(kind, member.place, message);
        if let Some(text) = member.text.strip_prefix('!') {
            if let Err(why) = paths::read("", text, &mut vec![]) {
                errors.push(bad(ErrorKind::Member, format!("member `{}` {why}", member.text)));
            }
            let before = out.len();
            out.retain(|found| !means(text, &found.dir));
            if out.len() == before {
                let error = bad(ErrorKind::Member, format!("member `{}` takes none away", member.text));
                errors.push(error.hint("what is taken away stands after what lists it"));
            }
            continue;
        }
        let mut spots = vec![];
        if let Err(why) = paths::read("", &member.text, &mut spots) {
            errors.push(bad(ErrorKind::Member, format!("member `{}` {why}", member.text)));
        }
        for spot in spots {
            let mut add = |dir: String| {
                if let Some(known) = out.iter_mut().find(|found| found.dir == dir) {
                    if known.entries.last() != Some(&number) {
                        known.entries.push(number);
                    }
                } else if out.len() <= MAX_MEMBERS {
                    out.push(Found { dir, place: member.place, entries: vec![number] });
                }
            };
            match spot {
                Spot::Literal { path, .. } if path.is_empty() => {
                    errors.push(bad(ErrorKind::Member, "the workspace's own folder is not a member".into()));
                }
                Spot::Literal { path, .. } if root.join(&*path).join(FILE_NAME).is_file() => {
                    add(path.to_string());
                }
                Spot::Literal { path, .. } => {
                    let message = format!("member `{path}` has no `{FILE_NAME}`");
                    let there = root.join(&*path).is_dir();
                    let hint =
                        if there { "make one, or take the folder off the list" } else { "there is no such folder" };
                    errors.push(bad(ErrorKind::Member, message).hint(hint));
                }
                Spot::Pattern { pattern, .. } => {
                    let mut found = vec![];
                    walk(root, &pattern, pattern.start(), "", 0, looked, &mut found);
                    found.sort_unstable();
                    let any = !found.is_empty();
                    for dir in found {
                        add(dir);
                    }
                    if !any {
                        let message = format!("no folder matches `{}` and has a `{FILE_NAME}`", member.text);
                        errors.push(bad(ErrorKind::Member, message));
                    }
                }
            }
            if out.len() > MAX_MEMBERS {
                errors.push(bad(ErrorKind::TooLarge, format!("a workspace has at most {MAX_MEMBERS} members")));
                return out;
            }
        }
    }
    out
}

/// Folders with a workfile that match. Hidden ones are entered only when the pattern names them.
fn walk(
    root: &Path,
    pattern: &Pattern,
    states: States,
    dir: &str,
    depth: usize,
    looked: &mut Looked,
    out: &mut Vec<String>,
) {
    if out.len() > MAX_MEMBERS {
        return;
    }
    for found in folder::entries(root, dir, pattern, states, depth, looked).into_iter().filter(|found| found.is_dir) {
        if pattern.accepts(found.states) {
            let file = format!("{}/{FILE_NAME}", found.path);
            if root.join(&file).is_file() {
                out.push(found.path.clone());
            }
            looked.paths.insert(file.into());
        }
        walk(root, pattern, found.states, &found.path, depth + 1, looked, out);
    }
}

/// The name of the member in `dir`: what its file says, or else the folder's.
pub(crate) fn name<'n>(dir: &'n str, file: &'n model::File<'_>) -> &'n str {
    file.member_name.as_ref().map_or_else(|| dir.rsplit('/').next().unwrap_or_default(), |name| &name.text)
}

/// Checks the names of members, and that their files are those of members. `units` are all files, the root's first.
pub(crate) fn check(
    files: &[SourceFile],
    units: &[super::lower::Unit<'_>],
    places: &[Place],
    errors: &mut Vec<WorkfileError>,
) {
    let mut names: rustc_hash::FxHashMap<&str, usize> = rustc_hash::FxHashMap::default();
    if let Some(name) = units.first().and_then(|root| root.file.member_name.as_ref()) {
        let message = "the root of a workspace has no member name";
        errors.push(WorkfileError::new(ErrorKind::Member, name.place, message));
    }
    for (i, unit) in units.iter().enumerate().skip(1) {
        let place = places.get(i).copied().unwrap_or_default();
        let own = unit.file.member_name.as_ref().filter(|_| !unit.included);
        let at = own.map_or(place, |name| name.place);
        if let Some(workspace) = &unit.file.workspace {
            let what = if unit.included { "what is included" } else { "a member" };
            let message = format!("`{}` is {what} and has a `[workspace]` of its own", files[i].path);
            errors
                .push(WorkfileError::new(ErrorKind::Member, workspace.place, message).see(place, "it is listed here"));
        }
        let hint = match unit.included {
            true => "give it another name: `{ path = \"...\", name = \"...\" }`".to_owned(),
            false => format!("give it another name: `[member]` and `name = \"...\"` in `{}`", files[i].path),
        };
        if let (true, Some(name)) = (unit.included, &unit.file.member_name) {
            let message = format!("`{}` is included and is no member", files[i].path);
            errors.push(WorkfileError::new(ErrorKind::Member, name.place, message));
        }
        if !is_task_name(&unit.name) || &*unit.name == "tag" {
            let message = format!("`{}` cannot name a member", unit.name);
            errors.push(WorkfileError::new(ErrorKind::Member, at, message).hint(hint));
        } else if let Some(first) = names.insert(&unit.name, i) {
            let message = format!("`{}` and `{}` have the same name `{}`", files[first].path, files[i].path, unit.name);
            let first = places.get(first).copied().unwrap_or_default();
            errors.push(
                WorkfileError::new(ErrorKind::Member, at, message).see(first, "the first is listed here").hint(hint),
            );
        }
    }
}
