//! Edges by path: inputs that other tasks make, and outputs that overlap.
//!
//! Knows all recipes and where in them paths stand; unaware of selectors, and of files on disk.

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use super::{Edge, Linker, MAX_EDGES, Why};
use crate::process::OutputKind;
use crate::value::{At, Text};
use crate::workfile::errors::{ErrorKind, Place, WorkfileError};
use crate::workfile::globs::{Comp, Pattern, Step, steps};
use crate::workfile::lower::Made;
use crate::workfile::making::{Input, What};
use crate::workfile::outputs::{End, Meets};
use crate::workfile::recipe::{FromTask, Literal, Recipe, Stdin};

impl Linker<'_> {
    /// Puts all outputs into one index, and reports those that overlap.
    pub(super) fn index_outputs(&mut self) {
        for i in 0..self.made.recipes.len() {
            for o in 0..self.made.pending[i].outputs.len() {
                let kind = self.made.recipes[i].outputs[o].kind;
                let end = End { recipe: i as u32, output: o as u32, kind };
                let first = self.check_overlap(end);
                let steps = output_steps(self.made, end);
                self.outputs.insert(&steps, end, first);
            }
        }
    }

    /// Reports an output that overlaps one before it. Of two names of one task the one first in the alphabet
    /// stands for both; whether that is this one is the answer.
    fn check_overlap(&mut self, end: End) -> bool {
        let (recipes, pending) = (&self.made.recipes, &self.made.pending);
        let own = &recipes[end.recipe as usize];
        let place = pending[end.recipe as usize].outputs[end.output as usize].0;
        let steps = output_steps(self.made, end);
        let (mut clash, mut first) = (None, false);
        let _ = self.outputs.meet(&steps, end.kind != OutputKind::Glob, &mut |other, how| {
            let of = &recipes[other.recipe as usize];
            if other.recipe == end.recipe {
                // A glob may take files that are listed too; everything else is in the way of reading them back.
                if end.kind == OutputKind::Glob || other.kind == OutputKind::Glob {
                    let dir = end.kind == OutputKind::Dir || other.kind == OutputKind::Dir;
                    if !dir {
                        return Continue(());
                    }
                }
            } else if end.kind == OutputKind::File && other.kind == OutputKind::Glob && how == Meets::Below {
                // It would have to be a folder.
                return Continue(());
            } else if of.same_work(own) {
                first |= how == Meets::Same && own.name < of.name;
                return Continue(());
            }
            clash = Some((other, how));
            Break(())
        });
        if let Some((other, how)) = clash {
            let of = &recipes[other.recipe as usize];
            let show = |recipe: &Recipe, end: End| {
                let spec = &recipe.outputs[end.output as usize];
                format!("{}{}", spec.path, if spec.kind == OutputKind::Dir { "/" } else { "" })
            };
            let (mine, theirs) = (show(own, end), show(of, other));
            let message = match how {
                _ if other.recipe == end.recipe && mine == theirs => {
                    format!("task `{}` has output `{mine}` twice", own.name)
                }
                _ if other.recipe == end.recipe => {
                    format!("outputs `{theirs}` and `{mine}` of task `{}` overlap", own.name)
                }
                Meets::Same if mine == theirs => {
                    format!("output `{mine}` of task `{}` is an output of task `{}` too", own.name, of.name)
                }
                _ => format!("output `{mine}` of task `{}` overlaps output `{theirs}` of task `{}`", own.name, of.name),
            };
            let there = pending[other.recipe as usize].outputs[other.output as usize].0;
            let mut error = WorkfileError::new(ErrorKind::Overlap, place, message);
            if there != place {
                error = error.see(there, format!("`{theirs}` of task `{}` is here", of.name));
            }
            if own.task == of.task
                && other.recipe != end.recipe
                && let Some((list, _)) = own.variant.first()
            {
                error =
                    error.hint(format!("each variant needs outputs of its own: put `{{{{{list}}}}}` into the path"));
            }
            self.findings.add(end.recipe as usize, !own.variant.is_empty(), error);
        }
        first
    }

    /// Finds the edges by path of all recipes.
    pub(super) fn by_path(&mut self) {
        for i in 0..self.made.recipes.len() {
            let pending = &mut self.made.pending[i];
            let (inputs, stdin) = (std::mem::take(&mut pending.inputs), pending.stdin.take());
            let mut last = Place::default();
            for input in inputs {
                last = input.place;
                match input.what {
                    What::Path { path, folder } => self.path_input(i, path, folder, input.place),
                    What::Form(pattern) => self.form_input(i, &pattern, input.place),
                }
            }
            if let Some(Input { place, what: What::Path { path, .. } }) = stdin {
                last = place;
                self.stdin(i, path, place);
            }
            let recipe = &mut self.made.recipes[i];
            recipe.from.sort_by(|a, b| a.path.cmp(&b.path));
            recipe.from.dedup_by(|a, b| a.path == b.path);
            recipe.from.shrink_to_fit();
            recipe.sources.literals.shrink_to_fit();
            if !self.in_bounds(i, last) {
                return;
            }
        }
    }

    /// Whether an output is the task's own, under this or another name.
    fn is_own(&self, i: usize, end: End) -> bool {
        let other = end.recipe as usize;
        other == i || self.made.recipes[other].outputs == self.made.recipes[i].outputs
    }

    fn output_path(&self, end: End) -> Text {
        self.made.recipes[end.recipe as usize].outputs[end.output as usize].path.clone()
    }

    /// A path that is an output, as the text that the output has.
    fn text_of(&self, end: End, path: &Text) -> Text {
        Some(self.output_path(end)).filter(|output| output == path).unwrap_or_else(|| path.clone())
    }

    fn edge(&mut self, i: usize, end: End, place: Place) {
        self.edges[i].push(Edge { to: end.recipe, why: Why::Input, place });
        self.total += 1;
    }

    /// Everything that the task makes.
    fn whole(&mut self, i: usize, end: End, place: Place) {
        let needs = &mut self.made.recipes[i].needs;
        if !needs.contains(&(end.recipe as usize)) {
            needs.push(end.recipe as usize);
        }
        self.edge(i, end, place);
    }

    fn output(&mut self, i: usize, end: End, place: Place) {
        let path = self.output_path(end);
        let at = [self.field.clone(), path.clone()].into();
        self.made.recipes[i].from.push(FromTask { path, producer: end.recipe as usize, at });
        self.edge(i, end, place);
    }

    fn excluded(&self, i: usize, path: &str) -> bool {
        self.made.recipes[i].sources.excludes.iter().any(|pattern| pattern.covers(path))
    }

    /// The output that is or holds a path, where in it, and those below the path.
    fn look_up(&self, path: &Text) -> (Option<(End, At)>, Vec<End>) {
        let steps = steps(path);
        let (mut holds, mut below) = (None, vec![]);
        let _ = self.outputs.meet(&steps, true, &mut |end, how| {
            match how {
                Meets::Same => holds = Some((end, [self.field.clone(), self.text_of(end, path)].into())),
                Meets::Inside(n) => {
                    let names = steps[n..]
                        .iter()
                        .filter_map(|s| if let Step::Name(n) = s { Some(Text::from(*n)) } else { None });
                    let at = [self.field.clone(), self.output_path(end)].into_iter().chain(names);
                    holds = Some((end, at.collect()));
                }
                Meets::Below => below.push(end),
                Meets::Through => {}
            }
            Continue(())
        });
        (holds, below)
    }

    fn own_output(&mut self, i: usize, key: &str, path: &str, end: End, place: Place) {
        let recipe = &self.made.recipes[i];
        let output = self.output_path(end);
        let message = match *output == *path {
            true => format!("{key} `{path}` of task `{}` is its own output", recipe.name),
            false => format!("{key} `{path}` of task `{}` is part of its own output `{output}`", recipe.name),
        };
        let error = WorkfileError::new(ErrorKind::OwnOutput, place, message);
        let error = error.see(recipe.key_place("outputs"), "its outputs are here");
        self.findings.add(i, !recipe.variant.is_empty(), error);
    }

    fn path_input(&mut self, i: usize, path: Text, folder: bool, place: Place) {
        if self.excluded(i, &path) {
            return;
        }
        let (holds, below) = self.look_up(&path);
        if let Some((end, at)) = holds {
            if self.is_own(i, end) {
                return self.own_output(i, "input", &path, end, place);
            }
            // One text for who makes it and who reads it.
            let path = at.last().filter(|last| **last == path).unwrap_or(&path).clone();
            self.made.recipes[i].from.push(FromTask { path, producer: end.recipe as usize, at });
            return self.edge(i, end, place);
        }
        let mut made_below = false;
        for end in below {
            if !self.is_own(i, end) && (folder || self.lies_in(end, &path)) {
                made_below |= self.form_edge(i, end, place);
            }
        }
        self.made.recipes[i].sources.literals.push(Literal { path, place, made_below });
    }

    fn form_input(&mut self, i: usize, pattern: &Pattern, place: Place) {
        let met = match self.met.get(pattern.text()) {
            Some(met) => met.clone(),
            None => {
                let mut met = vec![];
                let _ = self.outputs.meet(&pattern.steps(), false, &mut |end, how| {
                    if how != Meets::Through {
                        met.push((end, how));
                    }
                    Continue(())
                });
                met.sort_unstable_by_key(|(end, _)| *end);
                met.dedup_by_key(|(end, _)| *end);
                let met: Arc<[(End, Meets)]> = met.into();
                self.met.insert(pattern.text().clone(), met.clone());
                met
            }
        };
        for (end, _) in met.iter() {
            if self.total > MAX_EDGES {
                return;
            }
            if !self.is_own(i, *end) {
                self.form_edge(i, *end, place);
            }
        }
    }

    /// An edge on an output that a pattern or a folder takes; `false` when it is excluded.
    fn form_edge(&mut self, i: usize, end: End, place: Place) -> bool {
        let path = self.output_path(end);
        if end.kind == OutputKind::Glob {
            let prefix = Pattern::read(&path).map(|p| p.prefix()).unwrap_or_default();
            if self.excluded(i, &path) || (!prefix.is_empty() && self.excluded(i, &prefix)) {
                return false;
            }
            self.whole(i, end, place);
        } else {
            if self.excluded(i, &path) {
                return false;
            }
            self.output(i, end, place);
        }
        true
    }

    /// Whether an output can only lie below a path; `**/x` can, and can lie elsewhere.
    fn lies_in(&self, end: End, path: &str) -> bool {
        let Some(pattern) = &self.made.pending[end.recipe as usize].outputs[end.output as usize].1 else { return true };
        let mut names = pattern.comps().iter();
        let mut path = path.split('/').filter(|n| !n.is_empty());
        path.all(|name| matches!(names.next(), Some(Comp::Literal(n)) if **n == *name))
    }

    fn stdin(&mut self, i: usize, path: Text, place: Place) {
        if let (Some((end, at)), _) = self.look_up(&path) {
            if self.is_own(i, end) {
                return self.own_output(i, "stdin", &path, end, place);
            }
            self.made.recipes[i].stdin = Some(Stdin::Task { producer: end.recipe as usize, at });
            return self.edge(i, end, place);
        }
        let literals = &mut self.made.recipes[i].sources.literals;
        if !literals.iter().any(|l| l.path == path) {
            literals.push(Literal { path, place, made_below: false });
        }
    }
}

/// The components of an output.
fn output_steps(made: &Made, end: End) -> Vec<Step<'_>> {
    match &made.pending[end.recipe as usize].outputs[end.output as usize].1 {
        Some(pattern) => pattern.steps(),
        None => steps(&made.recipes[end.recipe as usize].outputs[end.output as usize].path),
    }
}
