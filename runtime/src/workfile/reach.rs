//! What recipes lead to: what they need, what needs them, and what a changed file means for them.
//!
//! Knows recipes and their edges; unaware of receipts, and of how it is found out what changed.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use super::globs::{Pattern, steps};
use super::making::is_ours;
use super::order;
use super::select::SelectError;
use super::{FILE_NAME, Loaded, Recipe, paths};
use crate::value::Text;

/// Why a recipe is affected by a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    /// This file is one of its inputs, or says what it is.
    Changed(String),
    /// It needs that recipe, which is affected.
    Needs(usize),
}

impl Loaded {
    /// The recipes that a selector means, as somebody in the folder of `member` writes it; groups stand as what
    /// they need. A `+` before it adds all that is needed, one after it all that needs them.
    pub fn select(&self, member: usize, selector: &str) -> Result<Vec<usize>, SelectError> {
        let (bare, needed, needing) = plus(selector);
        let mut found = order::stand_for(&self.recipes, self.named(member, bare)?);
        let base = found.clone();
        if needed {
            found.extend(self.needed(&base));
        }
        if needing {
            found.extend(self.needing(&base));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The same, with groups as themselves and without what `+` adds.
    fn named(&self, member: usize, selector: &str) -> Result<Vec<usize>, SelectError> {
        let ranges = self.names.select(member, selector, true)?;
        Ok(ranges.into_iter().flatten().map(|i| i as usize).collect())
    }

    /// What recipes need, directly or not, with themselves.
    pub fn needed(&self, recipes: &[usize]) -> Vec<usize> {
        self.closure(recipes, |recipe, open| open.extend(recipe.reads()))
    }

    /// What needs recipes, directly or not, with themselves.
    pub fn needing(&self, recipes: &[usize]) -> Vec<usize> {
        let mut users: Vec<Vec<usize>> = vec![vec![]; self.recipes.len()];
        for (i, recipe) in self.recipes.iter().enumerate().filter(|(_, r)| r.runs()) {
            recipe.reads().for_each(|to| users[to].push(i));
        }
        let mut seen: FxHashSet<usize> = recipes.iter().copied().collect();
        let mut open = recipes.to_vec();
        while let Some(i) = open.pop() {
            open.extend(users[i].iter().copied().filter(|user| seen.insert(*user)));
        }
        let mut out: Vec<usize> = seen.into_iter().collect();
        out.sort_unstable();
        out
    }

    fn closure(&self, recipes: &[usize], next: impl Fn(&Recipe, &mut Vec<usize>)) -> Vec<usize> {
        let mut seen = vec![false; self.recipes.len()];
        let mut open = recipes.to_vec();
        while let Some(i) = open.pop() {
            if !std::mem::replace(&mut seen[i], true) {
                next(&self.recipes[i], &mut open);
            }
        }
        (0..seen.len()).filter(|i| seen[*i]).collect()
    }

    /// What is made when nothing is asked for.
    fn unasked(&self) -> Vec<usize> {
        self.default_goals.clone().unwrap_or_else(|| (0..self.recipes.len()).collect())
    }

    /// The recipes that selectors mean, each once; without any, what the workspace says is made, or all. None of
    /// them, and nothing they lead to, lacks a param.
    pub fn goals(&self, selectors: &[String]) -> Result<Vec<usize>, SelectError> {
        let mut all = vec![];
        for selector in selectors {
            all.extend(self.select(self.here, selector)?);
        }
        if selectors.is_empty() {
            all = self.unasked();
        }
        let mut seen = FxHashSet::default();
        all.retain(|recipe| seen.insert(*recipe));
        // Services are there for others: they are asked for only where nothing else is.
        if all.iter().any(|i| !self.recipes[*i].is_service()) {
            all.retain(|i| !self.recipes[*i].is_service());
        }
        let all_of = self.closure(&all, |recipe, open| open.extend(recipe.reads().chain(recipe.after.iter().copied())));
        let lacking = all_of.iter().map(|i| &self.recipes[*i]).find(|r| r.runs() && !r.lacks.is_empty());
        if let Some((recipe, (param, _))) = lacking.and_then(|r| Some((r, r.lacks.first()?))) {
            let found = recipe.params.iter().chain(&self.params).find(|p| p.name == *param);
            let choices = found.map_or(&[][..], |p| &p.choices);
            let some = if choices.is_empty() { "...".to_owned() } else { choices.join("|") };
            return Err(SelectError {
                message: format!("`{}`, which needs a value for param `{param}`", recipe.name),
                hint: Some(format!("say it: `--set {param}={some}`")),
            });
        }
        Ok(all)
    }

    /// The recipes that are left out on the way to what selectors mean, each with the reason.
    pub fn left_out(&self, selectors: &[String]) -> Vec<(Text, Text)> {
        let mut roots = if selectors.is_empty() { self.unasked() } else { vec![] };
        for selector in selectors {
            roots.extend(self.named(self.here, plus(selector).0).unwrap_or_default());
        }
        let reached = self.closure(&roots, |recipe, open| {
            open.extend(recipe.reads().chain(recipe.after.iter().copied()).chain(recipe.without.iter().copied()));
        });
        let reached = reached.iter().map(|i| &self.recipes[*i]);
        reached.filter_map(|r| Some((r.name.clone(), r.left_out.clone()?))).collect()
    }

    /// The recipes that are affected when the files at `paths`, relative to the workspace root, are not what they
    /// were: those that read one, or are made by one, and all that need those.
    pub fn affected(&self, paths: &[String]) -> BTreeMap<usize, Affected> {
        let mut out: BTreeMap<usize, Affected> = BTreeMap::new();
        for path in paths {
            let made = self.outputs.makes(&steps(path));
            for (i, recipe) in self.recipes.iter().enumerate().filter(|(_, r)| r.runs()) {
                if self.says(recipe, path) || (!made && self.reads(recipe, path)) {
                    out.entry(i).or_insert_with(|| Affected::Changed(path.clone()));
                }
            }
        }
        let mut users: Vec<Vec<usize>> = vec![vec![]; self.recipes.len()];
        for (i, recipe) in self.recipes.iter().enumerate().filter(|(_, r)| r.runs()) {
            recipe.reads().for_each(|to| users[to].push(i));
        }
        let mut open: Vec<usize> = out.keys().copied().collect();
        while let Some(i) = open.pop() {
            for user in &users[i] {
                out.entry(*user).or_insert_with(|| {
                    open.push(*user);
                    Affected::Needs(i)
                });
            }
        }
        out
    }

    /// Whether a file says what a recipe is: its own workfile, one that this belongs to or that has its templates, or an
    /// environment file.
    fn says(&self, recipe: &Recipe, path: &str) -> bool {
        let mut unit = recipe.member;
        loop {
            if self.files[unit].path == path {
                return true;
            }
            if unit == 0 {
                break;
            }
            unit = self.members[unit].parent;
        }
        recipe.templates_in.iter().any(|unit| self.files[*unit].path == path)
            || recipe.env_files.iter().any(|file| **file == *path)
    }

    /// Whether a file is, or was, one of a recipe's sources.
    fn reads(&self, recipe: &Recipe, path: &str) -> bool {
        let below = |dir: &str| dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
        let sources = &recipe.sources;
        if matches!(&recipe.stdin, Some(super::Stdin::Source(file)) if **file == *path) {
            return true;
        }
        if sources.excludes.iter().any(|pattern| pattern.covers(path)) {
            return false;
        }
        let member = &self.members[recipe.member].dir;
        let is_tool = |tool: &Text| tool.contains('/') && paths::normalise(member, tool).is_ok_and(|tool| tool == path);
        if recipe.tools.iter().any(is_tool) {
            return true;
        }
        let literal = sources.literals.iter().any(|l| *l.path == *path || below(&l.path));
        let is_other = |dir: &String| dir.len() > member.len() && below(dir);
        literal
            || sources.globs.iter().any(|pattern: &Pattern| pattern.matches(path))
            || (sources.default
                && below(member)
                && !path.ends_with(&format!("/{FILE_NAME}"))
                && path != FILE_NAME
                && !path.split('/').any(is_ours)
                && !self.files.iter().any(|file| file.path == path)
                && !self.members.iter().any(|m| !m.included && is_other(&m.dir)))
    }
}

/// A selector without the signs around it, and which there are.
fn plus(selector: &str) -> (&str, bool, bool) {
    let bare = selector.strip_prefix('+');
    let (needed, rest) = (bare.is_some(), bare.unwrap_or(selector));
    let bare = rest.strip_suffix('+');
    (bare.unwrap_or(rest), needed, bare.is_some())
}
