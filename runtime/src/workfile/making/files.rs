//! The paths and patterns of a table: what its task reads and makes.
//!
//! Knows texts and what they mean in the folder of a workfile; unaware of files on disk and of other tasks.

use super::{Input, Making, Pending, What, is_ours};
use crate::process::{OutputKind, OutputSpec};
use crate::value::Text;
use crate::workfile::errors::{ErrorKind, Place, WorkfileError};
use crate::workfile::globs::{Comp, Pattern};
use crate::workfile::model::Str;
use crate::workfile::paths::{self, PathError, Spot};
use crate::workfile::recipe::Sources;

impl Making<'_, '_, '_> {
    /// What it reads: patterns for the disk, and what may turn out to be made by others.
    pub(super) fn inputs(&mut self, sources: &mut Sources, pending: &mut Pending) {
        let Some(inputs) = &self.table.inputs else {
            sources.default = true;
            return;
        };
        // Nothing but exclusions is the default without those.
        sources.default = !inputs.is_empty() && inputs.iter().all(|text| text.text.starts_with('!'));
        let mut spots = vec![];
        for text in inputs {
            let Some(written) = self.expand(text) else { continue };
            let excluded = written.strip_prefix('!');
            if let Err(why) = self.cache.read(excluded.unwrap_or(&written), &mut spots) {
                self.bad_path("input", &written, text.place, &why);
            }
            for spot in spots.drain(..) {
                match (spot, excluded.is_some()) {
                    (Spot::Literal { path, folder }, false) => {
                        pending.inputs.push(Input { place: text.place, what: What::Path { path, folder } });
                    }
                    (Spot::Pattern { pattern, folder: false }, false) => {
                        sources.globs.push(pattern.clone());
                        pending.inputs.push(Input { place: text.place, what: What::Form(pattern) });
                    }
                    (Spot::Pattern { pattern, .. }, false) => {
                        // A folder is all below it: what ends in a slash is no file itself.
                        let deep = pattern.comps().iter().cloned().chain([Comp::Deep, Comp::any()]).collect();
                        match Pattern::new(deep) {
                            Ok(pattern) => {
                                sources.globs.push(pattern.clone());
                                pending.inputs.push(Input { place: text.place, what: What::Form(pattern) });
                            }
                            Err(why) => self.bad_path("input", &written, text.place, &why.into()),
                        }
                    }
                    (Spot::Literal { path, .. }, true) => sources.excludes.push(Pattern::path(&path)),
                    (Spot::Pattern { pattern, .. }, true) => sources.excludes.push(pattern),
                }
            }
        }
    }

    /// What it makes.
    pub(super) fn outputs(&mut self, outputs: &mut Vec<OutputSpec>, pending: &mut Pending) {
        let table = self.table;
        outputs.reserve_exact(table.outputs.len());
        let mut spots = vec![];
        for output in &table.outputs {
            let place = output.path.place;
            let Some(written) = self.expand(&output.path) else {
                self.torn = true;
                continue;
            };
            let before = self.errors.len();
            if written.starts_with('!') {
                let message = format!("output `{written}` of task `{}` is an exclusion", table.name);
                let error = WorkfileError::new(ErrorKind::BadPath, place, message);
                self.errors.push(error.hint("outputs are what a task makes; leave out what it does not"));
            } else if let Err(why) = self.cache.read(&written, &mut spots) {
                self.bad_path("output", &written, place, &why);
            }
            for spot in spots.drain(..) {
                let (path, kind, pattern) = match spot {
                    Spot::Literal { path, folder } => {
                        (path, if folder { OutputKind::Dir } else { OutputKind::File }, None)
                    }
                    Spot::Pattern { folder: true, .. } => {
                        let message = format!("output `{written}` of task `{}` is a glob of folders", table.name);
                        let error = WorkfileError::new(ErrorKind::BadGlob, place, message);
                        self.errors.push(error.hint("a glob takes files: name the folder, or end in `/**`"));
                        continue;
                    }
                    Spot::Pattern { pattern, .. } => (pattern.text().clone(), OutputKind::Glob, Some(pattern)),
                };
                let why = match path.split('/').find(|name| is_ours(name)) {
                    _ if path.is_empty() => "is the whole workspace".to_owned(),
                    Some(name) => format!("lies in `{name}`"),
                    None => {
                        outputs.push(OutputSpec { path, kind, optional: output.optional });
                        pending.outputs.push((place, pattern));
                        continue;
                    }
                };
                let message = format!("output `{written}` of task `{}` {why}", table.name);
                self.errors.push(WorkfileError::new(ErrorKind::BadPath, place, message));
            }
            self.torn |= self.errors.len() > before;
        }
    }

    /// A folder of the workspace.
    pub(super) fn folder(&mut self, text: &Str<'_>) -> Option<Text> {
        let written = self.expand(text)?;
        let made = paths::normalise(&self.cache.dir, &written);
        made.map_err(|why| self.bad_path("dir", &written, text.place, &why)).ok().map(Text::from)
    }

    /// A text that must be one path.
    pub(super) fn one_path(&mut self, key: &str, text: &Str<'_>) -> Option<(Text, Place)> {
        let written = self.expand(text)?;
        let mut spots = vec![];
        if let Err(why) = self.cache.read(&written, &mut spots) {
            self.bad_path(key, &written, text.place, &why);
            return None;
        }
        match (spots.pop(), spots.is_empty()) {
            (Some(Spot::Literal { path, folder: false }), true)
                if !path.is_empty() && !path.split('/').any(is_ours) =>
            {
                Some((path, text.place))
            }
            _ => {
                let message = format!("{key} `{written}` of task `{}` is not one file", self.table.name);
                self.errors.push(WorkfileError::new(ErrorKind::BadPath, text.place, message));
                None
            }
        }
    }

    /// Says that a text is no path.
    pub(in crate::workfile) fn bad_path(&mut self, key: &str, written: &str, place: Place, why: &PathError) {
        let kind = if matches!(why, PathError::Glob(_)) { ErrorKind::BadGlob } else { ErrorKind::BadPath };
        let message = format!("{key} `{written}` of task `{}` {why}", self.table.name);
        let error = WorkfileError::new(kind, place, message);
        self.errors.push(match why {
            PathError::Absolute | PathError::Outside => {
                error.hint("paths are relative to the folder of the workfile and stay in the workspace")
            }
            PathError::Glob(_) => error.hint("a backslash takes away a character's meaning: `\\\\[`"),
            _ => error,
        });
    }
}
