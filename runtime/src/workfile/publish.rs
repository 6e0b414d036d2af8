//! What is published: placed only once the checks on it have passed.
//!
//! Knows who checks what, and that nobody sees it before; unaware of how anything is placed.

use std::collections::BTreeMap;

use super::Loaded;
use super::errors::{ErrorKind, WorkfileError};
use super::findings::Findings;
use super::recipe::Recipe;
use crate::task::When;

/// Errors for what would be seen before it is published.
pub(super) fn check(recipes: &[Recipe], findings: &mut Findings) {
    let hint = "it needs `sandbox = \"ns\"`: elsewhere it stands in the workspace before any check on it has passed";
    for recipe in recipes {
        if recipe.publish && recipe.works_in_the_workspace() {
            let message = format!("task `{}` is published, and runs in the workspace itself", recipe.name);
            findings.plain(WorkfileError::new(ErrorKind::BadValue, recipe.key_place("publish"), message).hint(hint));
        }
        let published = recipe.reads().map(|i| &recipes[i]).find(|read| read.publish);
        if let Some(read) = published.filter(|_| recipe.works_in_the_workspace()) {
            let message = format!(
                "task `{}` runs in the workspace itself, and reads what `{}` publishes",
                recipe.name, read.name
            );
            let error = WorkfileError::new(ErrorKind::BadValue, recipe.key_place("sandbox"), message).hint(hint);
            findings.plain(error.see(read.key_place("publish"), "it is published here"));
        }
    }
}

impl Loaded {
    /// Recipes that are published, each with the checks on it: the tasks that read something of it and make nothing.
    pub fn published(&self) -> BTreeMap<usize, Vec<usize>> {
        let is_published = |i: &usize| self.recipes[*i].publish && self.recipes[*i].runs();
        let mut all: BTreeMap<usize, Vec<usize>> =
            (0..self.recipes.len()).filter(is_published).map(|i| (i, vec![])).collect();
        if all.is_empty() {
            return all;
        }
        for (i, recipe) in self.recipes.iter().enumerate() {
            let is_check = recipe.runs() && recipe.outputs.is_empty() && recipe.policy.when == When::Success;
            for read in recipe.reads().filter(|_| is_check) {
                all.entry(read).and_modify(|checks| checks.push(i));
            }
        }
        all.values_mut().for_each(|checks| checks.dedup());
        all
    }
}
