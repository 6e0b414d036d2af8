//! Errors collected while recipes are made and linked.
//!
//! Unaware of what the errors are about.

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, Place, WorkfileError};

/// Errors found while lowering, with those that several variants of a task share told once.
#[derive(Default)]
pub(crate) struct Findings {
    errors: Vec<WorkfileError>,
    /// By kind and place: which recipe had it first, which error it is, and in how many others it is the same.
    seen: FxHashMap<(ErrorKind, Place), (usize, usize, usize)>,
}

impl Findings {
    /// Adds an error of one recipe.
    pub(crate) fn add(&mut self, recipe: usize, variants: bool, error: WorkfileError) {
        if variants {
            let known = self.seen.entry((error.kind, error.place)).or_insert((recipe, self.errors.len(), 0));
            if known.0 != recipe {
                known.2 += 1;
                return;
            }
        }
        self.errors.push(error);
    }

    /// Adds an error that is of no recipe.
    pub(crate) fn plain(&mut self, error: WorkfileError) {
        self.errors.push(error);
    }

    pub(crate) fn len(&self) -> usize {
        self.errors.len()
    }

    pub(crate) fn finish(mut self) -> Vec<WorkfileError> {
        for (_, error, more) in self.seen.into_values().filter(|s| s.2 > 0) {
            let variants = if more == 1 { "variant" } else { "variants" };
            self.errors[error].hints.push(format!("the same for {more} more {variants} of the task"));
        }
        self.errors
    }
}
