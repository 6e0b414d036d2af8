//! Edges between recipes: `needs`, `after` and what is printed by name; what other tasks make by path (`by_path`).
//!
//! Knows all recipes; unaware of files on disk and of cycles (see [`super::order`]).

mod by_path;

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, Place, WorkfileError};
use super::findings::Findings;
use super::lower::Made;
use super::outputs::{End, Meets, Outputs};
use super::recipe::Act;
use super::select::is_broad;
use super::vars;
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
}
