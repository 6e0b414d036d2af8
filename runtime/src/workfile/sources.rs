//! From the patterns of recipes to the files that are there: the sources each task reads.
//!
//! The one place here that looks at a workspace's folders; reads names and kinds, never content.
//! Unaware of what a task does with its sources.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use ignore::WalkBuilder;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Loaded;
use super::errors::{ErrorKind, Faults, LoadError, Place, WorkfileError, near};
use super::globs::{Comp, MAX_COMPONENTS, Pattern, States, steps};
use super::looked::Looked;
use super::making::is_ours;
use super::recipe::Recipe;
use crate::path::is_within;
use crate::process::{OutputKind, OutputSpec};
use crate::value::Text;

/// Most files that one walk may find.
const MAX_FILES: usize = 5_000_000;

/// Paths of source files, ascending. Recipes with the same patterns share one list.
pub type SourceList = Arc<[Text]>;

impl Loaded {
    /// For each recipe its sources: the files and links that are there, relative to the workspace root.
    ///
    /// A source by name that neither exists nor is made by a task is an error, each with its place.
    pub fn match_sources(&self) -> Result<Vec<SourceList>, LoadError> {
        self.look_up_sources().map(|(lists, _)| lists)
    }

    /// The same, and what was looked at to find them.
    pub fn look_up_sources(&self) -> Result<(Vec<SourceList>, Looked), LoadError> {
        let mut matcher = Matcher::new(self);
        // What does not run reads nothing.
        let lists = self.recipes.iter().enumerate();
        let lists = lists.map(|(i, r)| if r.left_out.is_some() { [].into() } else { matcher.recipe(i) }).collect();
        if matcher.errors.is_empty() {
            let mut looked = matcher.looked;
            looked.folders.extend(matcher.listings.into_keys());
            Ok((lists, looked))
        } else {
            Err(LoadError::Faults(Box::new(Faults::new(self.files.clone(), matcher.errors))))
        }
    }

    /// Every file and link of the workspace that no task makes, ascending. What cannot be read is said to be an error of
    /// the recipe that asks.
    pub fn all_sources(&self, recipe: usize) -> Result<Vec<Text>, LoadError> {
        let mut matcher = Matcher::new(self);
        let mut found = vec![];
        matcher.below(&Text::from(""), &self.recipes[recipe], &mut found);
        if !matcher.errors.is_empty() {
            return Err(LoadError::Faults(Box::new(Faults::new(self.files.clone(), matcher.errors))));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The recipe that makes `path`, or a directory that it lies in.
    pub fn maker(&self, path: &str) -> Option<usize> {
        let makes = |output: &OutputSpec| match output.kind {
            OutputKind::File => *output.path == *path,
            OutputKind::Dir => is_within(path, &output.path),
            OutputKind::Glob => Pattern::read(&output.path).is_ok_and(|pattern| pattern.matches(path)),
        };
        self.outputs.makes(&steps(path)).then(|| self.recipes.iter().position(|r| r.outputs.iter().any(makes)))?
    }

    /// What [`Loaded::match_sources`] would complain about.
    pub(crate) fn missing_sources(&self) -> Vec<WorkfileError> {
        let mut matcher = Matcher::new(self);
        for (i, recipe) in self.recipes.iter().enumerate().filter(|(_, r)| r.left_out.is_none()) {
            let mut out = BTreeSet::new();
            recipe
                .sources
                .literals
                .iter()
                .for_each(|literal| matcher.literal(i, &literal.path, literal.place, literal.made_below, &mut out));
        }
        matcher.errors
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A regular file or a symbolic link.
    File,
    Dir,
    /// A socket, a device: never a source.
    Other,
}

impl From<std::fs::FileType> for Kind {
    fn from(kind: std::fs::FileType) -> Self {
        match kind {
            _ if kind.is_dir() => Self::Dir,
            _ if kind.is_file() || kind.is_symlink() => Self::File,
            _ => Self::Other,
        }
    }
}

/// The member whose files are meant by default, globs and exclusions.
type Patterns = (Option<usize>, Vec<Text>, Vec<Text>);

/// A folder's names, ascending.
type Listing = Arc<[(Text, Kind)]>;

struct Matcher<'l> {
    loaded: &'l Loaded,
    errors: Vec<WorkfileError>,
    listings: FxHashMap<Text, Listing>,
    by_pattern: FxHashMap<Text, SourceList>,
    defaults: FxHashMap<usize, SourceList>,
    /// Lists of recipes that have no sources by name, by what they have.
    by_patterns: FxHashMap<Patterns, SourceList>,
    empty: SourceList,
    found: usize,
    looked: Looked,
    /// Names already complained about.
    told: FxHashSet<Text>,
}

impl<'l> Matcher<'l> {
    fn new(loaded: &'l Loaded) -> Self {
        Self {
            loaded,
            errors: vec![],
            listings: FxHashMap::default(),
            by_pattern: FxHashMap::default(),
            defaults: FxHashMap::default(),
            by_patterns: FxHashMap::default(),
            empty: Arc::from([]),
            found: 0,
            looked: Looked::default(),
            told: FxHashSet::default(),
        }
    }

    fn recipe(&mut self, i: usize) -> SourceList {
        let recipe = &self.loaded.recipes[i];
        let sources = &recipe.sources;
        if sources.literals.is_empty() {
            if sources.globs.is_empty() && !sources.default {
                return self.empty.clone();
            }
            let texts = |patterns: &[Pattern]| patterns.iter().map(|p| p.text().clone()).collect::<Vec<_>>();
            let key = (sources.default.then_some(recipe.member), texts(&sources.globs), texts(&sources.excludes));
            if let Some(known) = self.by_patterns.get(&key) {
                return known.clone();
            }
            let list = self.collect(i, recipe);
            self.by_patterns.insert(key, list.clone());
            return list;
        }
        self.collect(i, recipe)
    }

    fn collect(&mut self, i: usize, recipe: &Recipe) -> SourceList {
        let sources = &recipe.sources;
        let mut lists: Vec<SourceList> = vec![];
        if sources.default {
            lists.push(self.default_sources(recipe));
        }
        for pattern in &sources.globs {
            lists.push(self.pattern(pattern, recipe));
        }
        if sources.literals.is_empty() && sources.excludes.is_empty() && lists.len() == 1 {
            return lists.swap_remove(0);
        }
        let mut out: BTreeSet<Text> = BTreeSet::new();
        for literal in &sources.literals {
            self.literal(i, &literal.path, literal.place, literal.made_below, &mut out);
        }
        out.extend(lists.iter().flat_map(|list| list.iter().cloned()));
        out.retain(|path| !sources.excludes.iter().any(|pattern| pattern.covers(path)));
        out.into_iter().collect()
    }

    fn literal(&mut self, i: usize, path: &Text, place: Place, made_below: bool, out: &mut BTreeSet<Text>) {
        let full = self.loaded.root.join(&**path);
        if !self.loaded.recipes[i].sources.excludes.is_empty() {
            // It must be there even if it is left out.
            self.looked.paths.insert(path.clone());
        }
        let kind = std::fs::symlink_metadata(&full).map(|meta| Kind::from(meta.file_type()));
        let recipe = &self.loaded.recipes[i];
        let error = match kind {
            Ok(Kind::File) => {
                out.insert(path.clone());
                return;
            }
            Ok(Kind::Dir) => {
                let mut found = vec![];
                self.below(path, recipe, &mut found);
                out.extend(found);
                return;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && made_below => {
                self.looked.paths.insert(path.clone());
                return;
            }
            Ok(Kind::Other) => {
                let message = format!("input `{path}` of task `{}` is neither file, link nor folder", recipe.name);
                WorkfileError::new(ErrorKind::BadPath, place, message)
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                let message = format!("input `{path}` of task `{}` does not exist, and no task makes it", recipe.name);
                let hint = if self.told.insert(path.clone()) { self.near_path(path) } else { None };
                WorkfileError::new(ErrorKind::MissingInput, place, message).maybe_hint(hint)
            }
            Err(error) => {
                let message = format!("input `{path}` of task `{}`: {error}", recipe.name);
                WorkfileError::new(ErrorKind::Io, place, message)
            }
        };
        self.errors.push(error);
    }

    /// A similar name in the same folder, on disk or made by a task.
    fn near_path(&mut self, path: &Text) -> Option<String> {
        if self.errors.len() > super::errors::MAX_SHOWN {
            return None;
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let listing = self.listing(dir, None);
        let made = self.loaded.recipes.iter().flat_map(|r| &r.outputs).filter_map(|o| {
            let (of, name) = o.path.rsplit_once('/').unwrap_or(("", &o.path));
            (of == dir).then_some(name)
        });
        near(name, listing.iter().map(|(name, _)| &**name).chain(made))
    }

    fn made(&self, path: &str) -> bool {
        self.loaded.outputs.makes(&steps(path))
    }

    /// All files below a folder that no task makes.
    fn below(&mut self, dir: &Text, recipe: &Recipe, out: &mut Vec<Text>) {
        let mut folders = vec![dir.clone()];
        while let Some(dir) = folders.pop() {
            let listing = self.listing(&dir, Some(recipe));
            for (name, kind) in listing.iter().filter(|(name, _)| !is_ours(name)) {
                let path = join(&dir, name);
                if *kind == Kind::Other || self.made(&path) || !self.room(recipe) {
                    continue;
                }
                if *kind == Kind::Dir { folders.push(path) } else { out.push(path) }
            }
        }
    }

    fn pattern(&mut self, pattern: &Pattern, recipe: &Recipe) -> SourceList {
        if let Some(known) = self.by_pattern.get(pattern.text()) {
            return known.clone();
        }
        let (mut states, mut dir, mut skip) = (pattern.start(), Text::from(""), 0);
        // Folders before the first wildcard are entered without being listed.
        for comp in &pattern.comps()[..pattern.comps().len().saturating_sub(1)] {
            let Comp::Literal(name) = comp else { break };
            states = pattern.step(states, name);
            dir = join(&dir, name);
            skip += 1;
        }
        let mut out = vec![];
        // A link on the way would make one file two.
        self.looked.paths.insert(dir.clone());
        if self.is_folder(&dir) {
            self.walk(pattern, states, &dir, skip, recipe, &mut out);
        }
        out.sort_unstable();
        let list: SourceList = out.into();
        self.by_pattern.insert(pattern.text().clone(), list.clone());
        list
    }

    fn is_folder(&self, dir: &str) -> bool {
        std::fs::symlink_metadata(self.loaded.root.join(dir)).is_ok_and(|meta| meta.is_dir())
    }

    fn walk(
        &mut self,
        pattern: &Pattern,
        states: States,
        dir: &Text,
        depth: usize,
        recipe: &Recipe,
        out: &mut Vec<Text>,
    ) {
        if depth > MAX_COMPONENTS {
            return;
        }
        let listing = self.listing(dir, Some(recipe));
        let few = self.candidates(pattern, depth, &listing);
        for (name, kind) in &listing[few] {
            let next = pattern.step(states, name);
            if next.dead() || *kind == Kind::Other || is_ours(name) {
                continue;
            }
            let path = join(dir, name);
            if *kind == Kind::Dir {
                self.walk(pattern, next, &path, depth + 1, recipe, out);
            } else if pattern.accepts(next) && !self.made(&path) && self.room(recipe) {
                out.push(path);
            }
        }
    }

    /// The names that can match at all, by the start of the component they have to match.
    fn candidates(&self, pattern: &Pattern, depth: usize, listing: &Listing) -> std::ops::Range<usize> {
        let deep = pattern.comps().iter().take(depth + 1).any(|c| matches!(c, Comp::Deep));
        let prefix = match pattern.comps().get(depth) {
            _ if deep => return 0..listing.len(),
            Some(Comp::Literal(name)) => &**name,
            Some(Comp::Wild(wild)) => wild.prefix(),
            _ => return 0..listing.len(),
        };
        let from = listing.partition_point(|(name, _)| **name < *prefix);
        let len = listing[from..].partition_point(|(name, _)| name.starts_with(prefix));
        from..from + len
    }

    /// A folder's names; an error of the recipe that asks when it cannot be read, and none when it is not there.
    fn listing(&mut self, dir: &str, recipe: Option<&Recipe>) -> Listing {
        if let Some(known) = self.listings.get(dir) {
            return known.clone();
        }
        let (listing, error) = read_dir(&self.loaded.root.join(dir));
        if let (Some(error), Some(recipe)) = (error, recipe) {
            self.errors.push(self.io(recipe, format!("folder `{dir}`: {error}")));
        }
        self.listings.insert(dir.into(), listing.clone());
        listing
    }

    fn io(&self, recipe: &Recipe, what: String) -> WorkfileError {
        let message = format!("inputs of task `{}`: {what}", recipe.name);
        WorkfileError::new(ErrorKind::Io, recipe.key_place("inputs"), message)
    }

    fn room(&mut self, recipe: &Recipe) -> bool {
        self.found += 1;
        if self.found == MAX_FILES {
            let message = format!("with the inputs of task `{}` there are more than {MAX_FILES} sources", recipe.name);
            let error = WorkfileError::new(ErrorKind::TooLarge, recipe.key_place("inputs"), message);
            self.errors.push(error.hint("name the inputs, or leave folders out: `\"!folder\"`"));
        }
        self.found < MAX_FILES
    }

    /// The member's files that git does not ignore and no task makes: without workfiles, and without the
    /// folders of other members.
    fn default_sources(&mut self, recipe: &Recipe) -> SourceList {
        if let Some(known) = self.defaults.get(&recipe.member) {
            return known.clone();
        }
        let dir = &self.loaded.members[recipe.member].dir;
        let others: FxHashSet<std::path::PathBuf> = self
            .loaded
            .members
            .iter()
            .enumerate()
            .filter(|(i, member)| *i != recipe.member && !member.included)
            .map(|(_, member)| self.loaded.root.join(&member.dir))
            .collect();
        let loaded = self.loaded;
        let workfiles: FxHashSet<&str> = loaded.files.iter().map(|file| &*file.path).collect();
        let outputs = self.loaded.outputs.clone();
        let root = self.loaded.root.clone();
        let relative = move |path: &Path| -> Option<String> {
            let names = path.strip_prefix(&root).ok()?.components().map(|c| c.as_os_str().to_str());
            names.collect::<Option<Vec<_>>>().map(|names| names.join("/"))
        };
        let relative_to = relative.clone();
        let walk = WalkBuilder::new(self.loaded.root.join(dir))
            .hidden(false)
            .ignore(false)
            .require_git(false)
            .follow_links(false)
            .max_depth(Some(MAX_COMPONENTS))
            .filter_entry(move |entry| {
                if entry.depth() == 0 {
                    return true;
                }
                if entry.file_name().to_str().is_some_and(is_ours) {
                    return false;
                }
                let made = || relative_to(entry.path()).is_some_and(|path| outputs.makes(&steps(&path)));
                let folder = entry.file_type().is_some_and(|kind| kind.is_dir());
                !folder || (!others.contains(entry.path()) && !made())
            })
            .build();
        let mut out: Vec<Text> = vec![];
        let mut folders: Vec<Text> = vec![dir.as_str().into()];
        for entry in walk {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.errors.push(self.io(recipe, error.to_string()));
                    continue;
                }
            };
            if entry.depth() > 0 && entry.file_type().is_some_and(|kind| kind.is_dir()) {
                folders.extend(relative(entry.path()).map(Text::from));
            }
            if entry.file_type().map(Kind::from) != Some(Kind::File) || entry.file_name() == super::FILE_NAME {
                continue;
            }
            let Some(path) = relative(entry.path()) else {
                let what = format!("`{}` has a name that is not UTF-8", entry.path().display());
                self.errors.push(self.io(recipe, what));
                continue;
            };
            if !workfiles.contains(&*path) && !self.made(&path) && self.room(recipe) {
                out.push(path.into());
            }
        }
        self.looked.git.extend(folders.iter().cloned());
        self.looked.folders.extend(folders);
        out.sort_unstable();
        let list: SourceList = out.into();
        self.defaults.insert(recipe.member, list.clone());
        list
    }
}

fn join(dir: &str, name: &str) -> Text {
    if dir.is_empty() { name.into() } else { format!("{dir}/{name}").into() }
}

fn read_dir(dir: &Path) -> (Listing, Option<String>) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (Arc::from([]), None),
        Err(error) => return (Arc::from([]), Some(error.to_string())),
    };
    let (mut out, mut problem) = (vec![], None);
    for entry in entries {
        let read = entry.and_then(|entry| entry.file_type().map(|kind| (entry.file_name(), kind)));
        match read.map(|(name, kind)| (name.into_string(), kind)) {
            Ok((Ok(name), kind)) => out.push((Text::from(name), Kind::from(kind))),
            Ok((Err(name), _)) => problem = Some(format!("`{}` is not UTF-8", name.display())),
            Err(error) => problem = Some(error.to_string()),
        }
    }
    out.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    (out.into(), problem)
}
