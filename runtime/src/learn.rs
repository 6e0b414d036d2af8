//! Proposals: from what a task touched to what its workfile should say that it reads and makes.
//!
//! Knows paths and patterns; unaware of how the trace was got and of whether the proposal is enough: that is found
//! out by running the task with nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::exec::trace::Traced;
use crate::path::{is_within, parent};
use crate::process::{OutputKind, OutputSpec};
use crate::value::Text;
use crate::workfile::globs::Pattern;

/// From so many files of a form on, the form is named and not the files.
const MIN_FILES: usize = 3;
/// From so many files in a directory that the task made on, the directory is named and not the files.
const MIN_MADE: usize = 4;
/// What programs keep for themselves and can do without.
const CACHES: [&str; 5] = ["__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".cache"];
/// Directories that are never inputs.
const NEVER: [&str; 2] = [".git", ".quipu"];

/// What is known beside the trace.
#[derive(Debug, Default)]
pub struct Facts {
    /// Every file and link of the workspace that no task makes.
    pub files: BTreeSet<String>,
    /// What other tasks make, of what the task touched: path, and the task's name.
    pub made_by: BTreeMap<String, String>,
    /// Inputs that other tasks make and that are declared; paths of files and directories.
    pub from: BTreeSet<String>,
    /// Artifacts that are inputs because the task `needs` whoever makes them; paths of files and directories.
    pub needed: BTreeSet<String>,
    /// What the task declares to make.
    pub outputs: Vec<OutputSpec>,
    /// Where its standard output goes.
    pub stdout: Option<Text>,
    /// Files and links it made or wrote to and that were there afterwards.
    pub made: BTreeSet<String>,
    /// Where programs are looked for.
    pub path: String,
}

/// What the workfile should say. Paths are relative to the workspace's root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// Files, folders and globs, in order.
    pub inputs: Vec<String>,
    /// Every file that these mean and that no task makes.
    pub sources: BTreeSet<String>,
    /// Inputs that other tasks make.
    pub from: BTreeSet<String>,
    /// What it makes.
    pub outputs: Vec<OutputSpec>,
    /// Programs by name.
    pub tools: Vec<String>,
    /// Programs it ran that are in no directory of the `PATH`.
    pub helpers: Vec<String>,
    /// What people should know, each in a line.
    pub notes: Vec<String>,
}

fn has_part(path: &str, parts: &[&str]) -> bool {
    path.split('/').any(|part| parts.contains(&part))
}

/// Makes a proposal.
pub fn propose(traced: &Traced, facts: &Facts) -> Proposal {
    let mut proposal = Proposal::default();
    let mut literals = BTreeSet::new();
    let mut sources = BTreeSet::new();
    for path in traced.reads.iter().chain(&traced.looks) {
        if facts.needed.iter().any(|needed| is_within(path, needed)) {
            continue;
        }
        if has_part(path, &NEVER) {
            proposal.notes.push(format!("it reads `{path}`, which cannot be an input"));
        } else if let Some(task) = facts.made_by.get(path) {
            if !facts.from.iter().any(|from| is_within(path, from)) {
                proposal.notes.push(format!("`{path}` is made by task `{task}`, which it depends on from now on"));
            }
            proposal.from.insert(path.clone());
            literals.insert(path.clone());
        } else if facts.files.contains(path) {
            sources.insert(path.clone());
        } else if is_added(traced, path) {
            // It is there because the task asked for it to be there.
        } else {
            literals.insert(path.clone());
        }
    }
    // What is changed in place is no input that could be bound, and no output that could be made anew.
    for path in traced.changes.iter().filter(|path| !has_part(path, &CACHES)) {
        if !facts.made.contains(path) {
            proposal.notes.push(format!("it removes `{path}`, which it did not make"));
        } else if traced.reads.contains(path) {
            proposal.notes.push(format!("it reads and changes `{path}`, which cannot be both input and output"));
        }
    }
    proposal.inputs = fold(&sources, &facts.files, &traced.lists);
    proposal.inputs.extend(literals.into_iter().map(|path| escape(&path)));
    proposal.inputs.sort_unstable();
    proposal.sources = sources;
    outputs(traced, facts, &mut proposal);
    let dirs: Vec<&str> = facts.path.split(':').map(|dir| dir.trim_end_matches('/')).collect();
    for program in &traced.execs {
        match program.rsplit_once('/') {
            Some((dir, name)) if dirs.contains(&dir) => proposal.tools.push(name.to_owned()),
            _ => proposal.helpers.push(program.clone()),
        }
    }
    proposal.tools.sort_unstable();
    proposal.tools.dedup();
    proposal
}

/// Whether a path that is no file of the workspace was made while the task ran.
fn is_added(traced: &Traced, path: &str) -> bool {
    traced.writes.iter().any(|made| is_within(path, made))
}

fn outputs(traced: &Traced, facts: &Facts, proposal: &mut Proposal) {
    let is_stdout = |path: &str| facts.stdout.as_deref() == Some(path);
    let mut left: BTreeSet<&str> = facts.made.iter().map(String::as_str).collect();
    left.retain(|path| !has_part(path, &CACHES) && !has_part(path, &NEVER));
    // What it reads before it writes to it is told of already.
    left.retain(|path| !traced.reads.contains(*path));
    for output in &facts.outputs {
        let covers: Box<dyn Fn(&str) -> bool> = match output.kind {
            OutputKind::File => Box::new(|path| *path == *output.path),
            OutputKind::Dir => Box::new(|path| is_within(path, &output.path)),
            OutputKind::Glob => match Pattern::read(&output.path) {
                Ok(pattern) => Box::new(move |path| pattern.matches(path)),
                Err(_) => Box::new(|_| false),
            },
        };
        let is_made = left.iter().any(|path| covers(path))
            || (output.kind == OutputKind::Dir && traced.writes.contains(&*output.path));
        if is_made || output.optional || is_stdout(&output.path) {
            left.retain(|path| !covers(path));
            proposal.outputs.push(output.clone());
        } else {
            proposal.notes.push(format!("it did not make its declared output `{}`", output.path));
        }
    }
    let declared: Vec<Text> = proposal.outputs.iter().map(|o| o.path.clone()).collect();
    while let Some(path) = left.pop_first() {
        // The outermost directory that the task made, unless there is another output or input in it.
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        let apart = |dir: &str| {
            !declared.iter().any(|o| is_within(o, dir))
                && !proposal.sources.range(format!("{dir}/")..).next().is_some_and(|p| is_within(p, dir))
        };
        let mut new = parents.filter(|dir| traced.writes.contains(*dir) && !traced.dirs.contains(*dir) && apart(dir));
        let dir = new.next().filter(|dir| left.iter().filter(|p| is_within(p, dir)).count() + 1 >= MIN_MADE);
        let (path, kind) = match dir {
            Some(dir) => {
                left.retain(|p| !is_within(p, dir));
                (dir, OutputKind::Dir)
            }
            None => (path, OutputKind::File),
        };
        proposal.outputs.push(OutputSpec { path: path.into(), kind, optional: false });
    }
}

/// A text that means this path and nothing else in a workfile's `inputs` or `outputs`.
pub fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    if path.starts_with('!') {
        out.push_str("./");
    }
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | '{' | '}' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Names for exactly the files `read`, of all `files`: a folder where all below it was read and every directory listed, a
/// form where all files of that form were read, and files by name.
fn fold(read: &BTreeSet<String>, files: &BTreeSet<String>, lists: &BTreeSet<String>) -> Vec<String> {
    let mut out = vec![];
    fold_dir("", &read.iter().map(String::as_str).collect(), files, lists, &mut out);
    out
}

/// Files of `set` below `dir`.
fn below<'a>(set: &'a BTreeSet<String>, dir: &str) -> Vec<&'a str> {
    if dir.is_empty() {
        return set.iter().map(String::as_str).collect();
    }
    let prefix = format!("{dir}/");
    set.range(prefix.clone()..).map(String::as_str).take_while(|path| path.starts_with(&prefix)).collect()
}

fn form(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, form)| form)
}

fn fold_dir(
    dir: &str,
    read: &BTreeSet<&str>,
    files: &BTreeSet<String>,
    lists: &BTreeSet<String>,
    out: &mut Vec<String>,
) {
    let all = below(files, dir);
    let at = if dir.is_empty() { String::new() } else { format!("{}/", escape(dir)) };
    let is_listed = || all.iter().all(|path| lists.contains(parent(path)));
    if !dir.is_empty() && read.len() == all.len() && is_listed() {
        out.push(format!("{at}**"));
        return;
    }
    let mut left = read.clone();
    let forms: BTreeSet<&str> = read.iter().filter_map(|path| form(path)).collect();
    for form_here in forms {
        let of_form = |path: &&str| form(path) == Some(form_here);
        let direct = |path: &&str| parent(path) == dir;
        let glob_form = escape(form_here);
        // All of that form below here, in several directories; not in all of the workspace, which is too much to say.
        let everywhere: Vec<&str> = all.iter().copied().filter(of_form).collect();
        let dirs: BTreeSet<&str> = everywhere.iter().map(|path| parent(path)).collect();
        let is_all = |some: &[&str]| some.len() >= MIN_FILES && some.iter().all(|path| read.contains(path));
        if !dir.is_empty() && is_all(&everywhere) && branches(&dirs, dir) {
            left.retain(|path| !of_form(path));
            out.push(format!("{at}**/*.{glob_form}"));
            continue;
        }
        let here: Vec<&str> = everywhere.into_iter().filter(direct).collect();
        if is_all(&here) {
            left.retain(|path| !(of_form(path) && direct(path)));
            out.push(format!("{at}*.{glob_form}"));
        }
    }
    let mut deeper: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for path in left {
        let rest = if dir.is_empty() { path } else { &path[dir.len() + 1..] };
        match rest.split_once('/') {
            None => out.push(escape(path)),
            Some((name, _)) => {
                let dir = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
                deeper.entry(dir).or_default().insert(path);
            }
        }
    }
    for (dir, read) in deeper {
        // Files that a form above named count as read here, too.
        fold_dir(&dir, &read, files, lists, out);
    }
}

/// Whether directories are not all the same one or below the same one further down than `dir`.
fn branches(dirs: &BTreeSet<&str>, dir: &str) -> bool {
    let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
    let next = |path: &&str| path.get(skip..).and_then(|rest| rest.split('/').next()).unwrap_or("").to_owned();
    dirs.iter().map(next).collect::<BTreeSet<_>>().len() > 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|p| (*p).to_owned()).collect()
    }

    fn folded(read: &[&str], others: &[&str], lists: &[&str]) -> Vec<String> {
        let files = set(read).into_iter().chain(set(others)).collect();
        fold(&set(read), &files, &set(lists))
    }

    #[test]
    fn files_are_named_until_a_form_or_a_folder_says_the_same() {
        assert_eq!(folded(&["src/main.c"], &[], &[]), ["src/main.c"]);
        assert_eq!(folded(&["a/1.h", "a/2.h", "a/3.h"], &["a/x.c"], &[]), ["a/*.h"]);
        assert_eq!(folded(&["a/1.h", "a/2.h", "a/3.h"], &["a/4.h"], &[]), ["a/1.h", "a/2.h", "a/3.h"]);
        assert_eq!(folded(&["i/a/1.h", "i/b/2.h", "i/b/c/3.h"], &["i/b/x.c"], &[]), ["i/**/*.h"]);
        assert_eq!(folded(&["i/a/1.h", "i/a/2.h", "i/a/3.h"], &[], &[]), ["i/a/*.h"]);
        assert_eq!(folded(&["1.h", "2.h", "3.h"], &["x/4.h"], &[]), ["*.h"]);
        assert_eq!(folded(&["a/1.h", "b/2.h", "c/3.h"], &[], &[]), ["a/1.h", "b/2.h", "c/3.h"]);
        assert_eq!(folded(&["d/one", "d/two"], &["e"], &["d"]), ["d/**"]);
        assert_eq!(folded(&["d/one", "d/s/two"], &[], &["d"]), ["d/one", "d/s/two"]);
        assert_eq!(folded(&["d/one", "d/s/two"], &[], &["d", "d/s"]), ["d/**"]);
        assert_eq!(folded(&["odd[1].c", "!no", "a{b"], &[], &[]), ["./!no", "a\\{b", "odd\\[1].c"]);
    }

    fn made(writes: &[&str], made: &[&str], declared: &[(OutputKind, &str)]) -> (Vec<String>, Vec<String>) {
        let traced = Traced { writes: set(writes), ..Traced::default() };
        let outputs =
            declared.iter().map(|(kind, path)| OutputSpec { path: (*path).into(), kind: *kind, optional: false });
        let proposal = propose(&traced, &Facts { outputs: outputs.collect(), made: set(made), ..Facts::default() });
        let said = proposal.outputs.iter().map(|o| format!("{} {}", o.kind.name(), o.path)).collect();
        (said, proposal.notes)
    }

    #[test]
    fn outputs_are_what_is_there_afterwards() {
        let many = ["o/1", "o/2", "o/3", "o/d/4"];
        assert_eq!(made(&["o", "o/1"], &["o/1"], &[]).0, ["file o/1"]);
        assert_eq!(made(&["o", "o/1", "o/2", "o/3", "o/d", "o/d/4"], &many, &[]).0, ["dir o"]);
        assert_eq!(made(&many, &many, &[]).0, ["file o/1", "file o/2", "file o/3", "file o/d/4"]);
        let declared = [(OutputKind::Glob, "o/*"), (OutputKind::File, "gone")];
        let (outputs, notes) = made(&many, &many, &declared);
        assert_eq!(outputs, ["glob o/*", "file o/d/4"]);
        assert_eq!(notes, ["it did not make its declared output `gone`"]);
        assert_eq!(made(&["a/__pycache__/x.pyc"], &["a/__pycache__/x.pyc"], &[]).0, [""; 0]);
        assert_eq!(made(&["empty"], &[], &[(OutputKind::Dir, "empty")]).0, ["dir empty"]);
    }

    #[test]
    fn inputs_are_what_was_read_wherever_it_came_from() {
        let traced = Traced {
            reads: set(&["a.c", "gen/t.h", "lib/x", ".git/HEAD", "db"]),
            looks: set(&["b.c"]),
            writes: set(&["db"]),
            changes: set(&["db", "old"]),
            execs: set(&["/usr/bin/cc", "/usr/lib/gcc/cc1"]),
            ..Traced::default()
        };
        let facts = Facts {
            files: set(&["a.c", "b.c", "c.c", "db", "old"]),
            made_by: [("gen/t.h".to_owned(), "gen".to_owned())].into(),
            needed: set(&["lib"]),
            made: set(&["db"]),
            path: "/bin:/usr/bin/".to_owned(),
            ..Facts::default()
        };
        let found = propose(&traced, &facts);
        assert_eq!(found.inputs, ["a.c", "b.c", "db", "gen/t.h"]);
        assert_eq!((found.sources, found.from), (set(&["a.c", "b.c", "db"]), set(&["gen/t.h"])));
        assert_eq!((found.tools, found.helpers), (vec!["cc".to_owned()], vec!["/usr/lib/gcc/cc1".to_owned()]));
        assert_eq!(found.outputs, []);
        assert_eq!(
            found.notes,
            [
                "it reads `.git/HEAD`, which cannot be an input",
                "`gen/t.h` is made by task `gen`, which it depends on from now on",
                "it reads and changes `db`, which cannot be both input and output",
                "it removes `old`, which it did not make",
            ]
        );
    }

    proptest! {
        /// Whatever was read, the names mean that and nothing more.
        #[test]
        fn names_mean_exactly_what_was_read(
            files in prop::collection::btree_map("([ab]/){0,3}[xyz{*]{1,2}(\\.[ch])?", any::<bool>(), 0..24),
            lists in prop::collection::btree_set("[ab](/[ab]){0,2}", 0..4),
        ) {
            // A file in the place of a directory is no file.
            let all: BTreeSet<String> = files.keys().cloned().collect();
            let all: BTreeSet<String> =
                all.iter().filter(|f| !all.iter().any(|o| o != *f && is_within(o, f))).cloned().collect();
            let read: BTreeSet<String> = all.iter().filter(|f| files[*f]).cloned().collect();
            let names = fold(&read, &all, &lists);
            let patterns: Vec<Pattern> = names.iter().map(|n| Pattern::read(n).expect("it is one")).collect();
            let meant: BTreeSet<String> = all.iter().filter(|f| patterns.iter().any(|p| p.matches(f))).cloned().collect();
            prop_assert_eq!(meant, read, "{:?}", names);
        }
    }
}
