//! Edges between recipes: `needs` and `after` by name, inputs that other tasks make by path, and outputs
//! that overlap.
//!
//! Knows all recipes; unaware of files on disk and of cycles (see [`super::order`]).

use std::ops::ControlFlow::{Break, Continue};
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, Place, WorkfileError};
use super::findings::Findings;
use super::globs::{Comp, Pattern, Step, steps};
use super::lower::Made;
use super::making::{Input, What};
use super::outputs::{End, Meets, Outputs};
use super::recipe::{Act, FromTask, Literal, Recipe, Stdin};
use super::select::is_broad;
use super::vars;
use crate::process::OutputKind;
use crate::value::{Branch, Text};

/// Most edges a workspace may have.
pub const MAX_EDGES: usize = 4_000_000;

/// Similar names are looked for in this many errors: each costs a look at all names.
const MAX_EXPLAINED: usize = 30;

/// One recipe waits for another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    pub(crate) to: u32,
    pub(crate) why: Why,
    pub(crate) place: Place,
}

/// What made an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Needs,
    After,
    Prints,
    Input,
}

/// What linking found.
pub(crate) struct Linked {
    /// By recipe, groups included.
    pub(crate) edges: Vec<Vec<Edge>>,
    /// All outputs by path.
    pub(crate) outputs: Outputs,
    /// Whether there are too many edges, so that not all are here.
    pub(crate) full: bool,
}

/// Finds the edges of all recipes; those by path are put into the recipes, and what is left of the inputs
/// becomes their sources.
pub(crate) fn link(made: &mut Made, findings: &mut Findings) -> Linked {
    let edges = vec![vec![]; made.recipes.len()];
    let mut linker = Linker {
        full: false,
        made,
        findings,
        outputs: Outputs::new(),
        edges,
        total: 0,
        broad: FxHashMap::default(),
        met: FxHashMap::default(),
        field: "outputs".into(),
    };
    linker.by_name();
    linker.index_outputs();
    if !linker.full {
        linker.by_path();
    }
    Linked { edges: linker.edges, outputs: linker.outputs, full: linker.full }
}

struct Linker<'m> {
    made: &'m mut Made,
    findings: &'m mut Findings,
    outputs: Outputs,
    edges: Vec<Vec<Edge>>,
    total: usize,
    /// Whether there are too many of them, which is an error that has been reported.
    full: bool,
    /// What selectors that look at all tasks were found to mean.
    broad: FxHashMap<(usize, Text), Vec<Range<u32>>>,
    /// Outputs met by a pattern, by its text.
    met: FxHashMap<Text, Arc<[(End, Meets)]>>,
    /// The field of an outcome that holds outputs by path.
    field: Text,
}

impl Linker<'_> {
    fn by_name(&mut self) {
        for i in 0..self.made.recipes.len() {
            let pending = &mut self.made.pending[i];
            let (needs, after) = (std::mem::take(&mut pending.needs), std::mem::take(&mut pending.after));
            let printed = std::mem::take(&mut pending.printed);
            for (why, selectors) in [(Why::Needs, needs), (Why::After, after)] {
                for (selector, place) in selectors {
                    if !self.select(i, why, &selector, place) {
                        return;
                    }
                }
            }
            for (selector, place) in printed {
                self.print(i, &selector, place);
            }
        }
    }

    /// Adds the edges of one selector; `false` when there are too many altogether.
    fn select(&mut self, i: usize, why: Why, selector: &Text, place: Place) -> bool {
        let recipe = &self.made.recipes[i];
        let broad = is_broad(selector);
        let explain = self.findings.len() < MAX_EXPLAINED;
        let known = if broad { self.broad.get(&(recipe.member, selector.clone())).cloned() } else { None };
        let found = match known {
            Some(known) => Ok(known),
            None => self.made.names.select(recipe.member, selector, explain),
        };
        let found = match found {
            Ok(found) => found,
            Err(miss) => {
                let verb = if why == Why::Needs { "needs" } else { "comes after" };
                let message = format!("task `{}` {verb} {}", recipe.name, miss.message);
                let error = WorkfileError::new(ErrorKind::UnknownTask, place, message).maybe_hint(miss.hint);
                self.findings.add(i, !recipe.variant.is_empty(), error);
                return true;
            }
        };
        if broad {
            self.broad.insert((recipe.member, selector.clone()), found.clone());
        }
        let table = self.made.pending[i].table;
        for to in found.into_iter().flatten() {
            if broad && self.made.pending[to as usize].table == table {
                continue;
            }
            if why == Why::Needs && !self.gives_outputs(i, to as usize, place) {
                continue;
            }
            self.edges[i].push(Edge { to, why, place });
            let recipe = &mut self.made.recipes[i];
            let row = if why == Why::Needs { &mut recipe.needs } else { &mut recipe.after };
            row.push(to as usize);
            self.total += 1;
        }
        self.in_bounds(i, place)
    }

    /// Whether there may be outputs of a task; one whose failure is awaited has none.
    fn gives_outputs(&mut self, i: usize, to: usize, place: Place) -> bool {
        let (own, of) = (&self.made.recipes[i], &self.made.recipes[to]);
        let Act::Await { branch, .. } = of.act else { return true };
        let part = match branch {
            Branch::Ok => return true,
            Branch::Error => "error",
            Branch::Any => "result",
        };
        let message = format!("task `{}` needs what `{}` makes, and it may have failed", own.name, of.name);
        let error = WorkfileError::new(ErrorKind::BadValue, place, message);
        let hint = format!("take `{{{{needs.{}.{part}}}}}`, or come `after` it", of.name);
        self.findings.add(i, !own.variant.is_empty(), error.hint(hint));
        false
    }

    /// Adds the edge on a task whose printed text, or other outcome, stands in a text of this one.
    fn print(&mut self, i: usize, part: &Text, place: Place) {
        if self.made.recipes[i].printed.iter().any(|(known, _)| known == part) {
            return;
        }
        let (selector, taken) = vars::of(part);
        let explain = self.findings.len() < MAX_EXPLAINED;
        let found = self.made.names.select(self.made.recipes[i].member, selector, explain);
        let found = found.map(|found| found.into_iter().flatten().map(|to| to as usize).collect::<Vec<usize>>());
        let recipe = &self.made.recipes[i];
        let error = match found.as_deref() {
            Ok([to]) if self.made.recipes[*to].is_service() => {
                let message = format!("task `{}` takes what `{selector}` prints, which is a service", recipe.name);
                let error = WorkfileError::new(ErrorKind::UnknownTask, place, message);
                error.hint("a service prints as long as the task runs")
            }
            Ok([to]) if !self.made.recipes[*to].is_group() => {
                let to = *to;
                let awaited = match self.made.recipes[to].act {
                    Act::Await { branch, .. } => branch,
                    _ => Branch::Ok,
                };
                if awaited == taken {
                    self.edges[i].push(Edge { to: to as u32, why: Why::Prints, place });
                    self.made.recipes[i].printed.push((part.clone(), to));
                    self.total += 1;
                    return;
                }
                let what = |branch| match branch {
                    Branch::Ok => ("what it prints", "stdout"),
                    Branch::Error => ("its error", "error"),
                    Branch::Any => ("its result", "result"),
                };
                let ((takes, _), (has, end)) = (what(taken), what(awaited));
                let message =
                    format!("task `{}` takes of `{selector}` {takes}, of which {has} is awaited", recipe.name);
                let error = WorkfileError::new(ErrorKind::BadValue, place, message);
                error.hint(format!("write `{{{{needs.{selector}.{end}}}}}`, or `await` something else of it"))
            }
            // What it means has an error of its own.
            Ok([]) => return,
            Ok(several) => {
                let what = if several.len() == 1 { "a group".to_owned() } else { format!("{} tasks", several.len()) };
                let message = format!("task `{}` takes what `{selector}` prints, which is {what}", recipe.name);
                WorkfileError::new(ErrorKind::UnknownTask, place, message).hint("name one task, with its variant")
            }
            Err(miss) => {
                let message = format!("task `{}` takes what is printed by {}", recipe.name, miss.message);
                WorkfileError::new(ErrorKind::UnknownTask, place, message).maybe_hint(miss.hint.clone())
            }
        };
        self.findings.add(i, !recipe.variant.is_empty(), error);
    }

    fn in_bounds(&mut self, i: usize, place: Place) -> bool {
        let good = self.total <= MAX_EDGES;
        if !good {
            self.full = true;
            let name = &self.made.recipes[i].name;
            let message = format!("with task `{name}` there are more than {MAX_EDGES} edges between tasks");
            let error = WorkfileError::new(ErrorKind::TooLarge, place, message);
            self.findings.plain(error.hint("put a group between many tasks and those that need them all"));
        }
        good
    }

    fn index_outputs(&mut self) {
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

    fn by_path(&mut self) {
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
        let at = vec![self.field.clone(), path.clone()];
        self.made.recipes[i].from.push(FromTask { path, producer: end.recipe as usize, at });
        self.edge(i, end, place);
    }

    fn excluded(&self, i: usize, path: &str) -> bool {
        self.made.recipes[i].sources.excludes.iter().any(|pattern| pattern.covers(path))
    }

    /// The output that is or holds a path, where in it, and those below the path.
    fn look_up(&self, path: &Text) -> (Option<(End, Vec<Text>)>, Vec<End>) {
        let steps = steps(path);
        let (mut holds, mut below) = (None, vec![]);
        let _ = self.outputs.meet(&steps, true, &mut |end, how| {
            match how {
                Meets::Same => holds = Some((end, vec![self.field.clone(), path.clone()])),
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
