//! All declared outputs of a workspace by path: which of them a path or a pattern meets.
//!
//! A trie over path components in which `*` forms and `**` have nodes of their own, so that a lookup costs
//! about the length of the path, however many outputs there are. Unaware of tasks beyond their number.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow::{self, Break, Continue};

use rustc_hash::{FxHashMap, FxHashSet};

use super::globs::Step;
use super::wild::Wild;
use crate::process::OutputKind;
use crate::value::Text;

/// Forms beyond this many in one folder are found by what they start or end with.
const FEW: usize = 8;

/// Whose output ends at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    /// Number of the recipe.
    pub(crate) recipe: u32,
    /// Which of its outputs.
    pub(crate) output: u32,
    pub(crate) kind: OutputKind,
}

/// How what was asked for and an output meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meets {
    /// Both can be the same path.
    Same,
    /// It lies in an output folder; so many of its components are those of the folder.
    Inside(usize),
    /// It would lie below an output that is a file.
    Through,
    /// The output lies below it.
    Below,
}

/// Outputs by path.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    nodes: Vec<Node>,
    /// Whether any output has a wildcard, so that one node can be reached in two ways.
    wild: bool,
}

#[derive(Debug, Default)]
struct Node {
    names: BTreeMap<Text, u32>,
    forms: Option<Box<Forms>>,
    deep: Option<u32>,
    ends: Vec<End>,
}

#[derive(Debug, Default)]
struct Forms {
    all: Vec<(Wild, u32)>,
    by_text: FxHashMap<Text, u32>,
    by_prefix: BTreeMap<String, Vec<u32>>,
    /// The suffixes are spelt backwards.
    by_suffix: BTreeMap<String, Vec<u32>>,
    others: Vec<u32>,
}

impl Forms {
    fn add(&mut self, wild: &Wild, node: u32) {
        let i = self.all.len() as u32;
        self.all.push((wild.clone(), node));
        self.by_text.insert(wild.text().clone(), node);
        let row = match (wild.prefix(), wild.suffix()) {
            ("", "") => &mut self.others,
            ("", suffix) => self.by_suffix.entry(suffix.chars().rev().collect()).or_default(),
            (prefix, _) => self.by_prefix.entry(prefix.into()).or_default(),
        };
        row.push(i);
    }

    /// Calls `each` with the node of every form that `name` is of.
    fn of_name(&self, name: &str, each: &mut impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
        self.candidates(name, name, false, &mut |wild, node| {
            if wild.matches(name) { each(node) } else { Continue(()) }
        })
    }

    /// Calls `each` with the node of every form that shares a name with `form`.
    fn of_form(&self, form: &Wild, each: &mut impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
        self.candidates(form.prefix(), form.suffix(), true, &mut |wild, node| {
            if wild.meets(form) { each(node) } else { Continue(()) }
        })
    }

    /// Calls `each` with all forms that could be of a text with that start and end; when that is all that is
    /// known of the text, it is `open`, and may go on between the two.
    fn candidates(
        &self,
        start: &str,
        end: &str,
        open: bool,
        each: &mut impl FnMut(&Wild, u32) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if self.all.len() <= FEW {
            return self.all.iter().try_for_each(|(wild, node)| each(wild, *node));
        }
        let end: String = end.chars().rev().collect();
        for (map, text) in [(&self.by_prefix, start), (&self.by_suffix, &end)] {
            let cuts = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
            let longer = map.range::<str, _>((Bound::Excluded(text), Bound::Unbounded));
            let longer = longer.take_while(|(known, _)| open && known.starts_with(text)).map(|(_, row)| row);
            for i in cuts.filter_map(|at| map.get(&text[..at])).chain(longer).flatten() {
                let (wild, node) = &self.all[*i as usize];
                each(wild, *node)?;
            }
        }
        self.others.iter().map(|i| &self.all[*i as usize]).try_for_each(|(wild, node)| each(wild, *node))
    }
}

impl Outputs {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()], wild: false }
    }

    /// Adds an output. Several at one place are one task under several names: that with `first` stands for all.
    pub(crate) fn insert(&mut self, steps: &[Step<'_>], end: End, first: bool) {
        let mut at = 0;
        for step in steps {
            let new = self.nodes.len() as u32;
            let node = &mut self.nodes[at as usize];
            at = match step {
                Step::Name(name) => node.names.get(*name).copied().unwrap_or_else(|| {
                    node.names.insert((*name).into(), new);
                    new
                }),
                Step::Deep => *node.deep.get_or_insert(new),
                Step::Form(wild) => {
                    let forms = node.forms.get_or_insert_default();
                    let known = forms.by_text.get(wild.text()).copied();
                    known.unwrap_or_else(|| {
                        forms.add(wild, new);
                        new
                    })
                }
            };
            if at == new {
                self.nodes.push(Node::default());
                self.wild |= !matches!(step, Step::Name(_));
            }
        }
        let ends = &mut self.nodes[at as usize].ends;
        ends.insert(if first { 0 } else { ends.len() }, end);
    }

    /// Calls `each` with every output that `steps` meet; with those below it only when `below` is set.
    pub(crate) fn meet(
        &self,
        steps: &[Step<'_>],
        below: bool,
        each: &mut impl FnMut(End, Meets) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let tangled = self.wild || steps.iter().any(|s| matches!(s, Step::Deep));
        let mut walk = Walk { outputs: self, steps, below, seen: tangled.then(FxHashSet::default), each };
        walk.at(0, 0)
    }

    /// Whether a task makes this path, as a file or within a folder.
    pub(crate) fn makes(&self, steps: &[Step<'_>]) -> bool {
        let mut made = |_: End, how: Meets| if how == Meets::Through { Continue(()) } else { Break(()) };
        self.meet(steps, false, &mut made).is_break()
    }
}

struct Walk<'w, F> {
    outputs: &'w Outputs,
    steps: &'w [Step<'w>],
    below: bool,
    /// Where the walk has been, when it could come there twice.
    seen: Option<FxHashSet<(u32, u32)>>,
    each: &'w mut F,
}

impl<F: FnMut(End, Meets) -> ControlFlow<()>> Walk<'_, F> {
    fn at(&mut self, at: u32, i: usize) -> ControlFlow<()> {
        if self.seen.as_mut().is_some_and(|seen| !seen.insert((at, i as u32))) {
            return Continue(());
        }
        let outputs = self.outputs;
        let node = &outputs.nodes[at as usize];
        if let Some(end) = node.ends.first() {
            match end.kind {
                _ if i == self.steps.len() => (self.each)(*end, Meets::Same)?,
                OutputKind::Dir => (self.each)(*end, Meets::Inside(i))?,
                // Below a form there is only what is no such file.
                OutputKind::File
                    if self.steps[..i].iter().all(|c| matches!(c, Step::Name(_)))
                        && !matches!(self.steps[i], Step::Deep) =>
                {
                    (self.each)(*end, Meets::Through)?;
                }
                OutputKind::File => {}
                OutputKind::Glob => {}
            }
        }
        if let Some(deep) = node.deep {
            // It takes none, one, or all that is left.
            (i..=self.steps.len()).try_for_each(|i| self.at(deep, i))?;
        }
        let Some(step) = self.steps.get(i) else {
            return if self.below { self.children(node, &mut |walk, child| walk.all(child)) } else { Continue(()) };
        };
        match step {
            Step::Name(name) => {
                if let Some(child) = node.names.get(*name) {
                    self.at(*child, i + 1)?;
                }
                node.forms.as_ref().map_or(Continue(()), |f| f.of_name(name, &mut |child| self.at(child, i + 1)))
            }
            Step::Form(wild) => {
                let prefix = wild.prefix();
                let from = (Bound::Included(prefix), Bound::Unbounded);
                for (name, child) in node.names.range::<str, _>(from).take_while(|(n, _)| n.starts_with(prefix)) {
                    if wild.matches(name) {
                        self.at(*child, i + 1)?;
                    }
                }
                node.forms.as_ref().map_or(Continue(()), |f| f.of_form(wild, &mut |child| self.at(child, i + 1)))
            }
            Step::Deep => {
                self.at(at, i + 1)?;
                self.children(node, &mut |walk, child| walk.at(child, i))
            }
        }
    }

    /// Reports every output at and below a node.
    fn all(&mut self, at: u32) -> ControlFlow<()> {
        let outputs = self.outputs;
        if self.seen.as_mut().is_some_and(|seen| !seen.insert((at, u32::MAX))) {
            return Continue(());
        }
        let node = &outputs.nodes[at as usize];
        if let Some(end) = node.ends.first() {
            (self.each)(*end, Meets::Below)?;
        }
        if let Some(deep) = node.deep {
            self.all(deep)?;
        }
        self.children(node, &mut |walk, child| walk.all(child))
    }

    /// Calls `each` with the children that are one component further.
    fn children(&mut self, node: &Node, each: &mut impl FnMut(&mut Self, u32) -> ControlFlow<()>) -> ControlFlow<()> {
        for child in node.names.values() {
            each(self, *child)?;
        }
        node.forms.iter().flat_map(|f| &f.all).try_for_each(|(_, child)| each(self, *child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workfile::globs::{Pattern, steps};

    fn pattern(text: &str) -> Pattern {
        Pattern::read(text.trim_end_matches('/')).expect(text)
    }

    fn index(outputs: &[&str]) -> Outputs {
        let mut index = Outputs::new();
        for (i, text) in outputs.iter().enumerate() {
            let pattern = pattern(text);
            let wild = pattern.steps().iter().any(|s| !matches!(s, Step::Name(_)));
            let kind = if wild {
                OutputKind::Glob
            } else if text.ends_with('/') {
                OutputKind::Dir
            } else {
                OutputKind::File
            };
            index.insert(&pattern.steps(), End { recipe: i as u32, output: 0, kind }, false);
        }
        index
    }

    fn met(outputs: &[&str], asked: &str, below: bool) -> String {
        let mut found = vec![];
        let _ = index(outputs).meet(&pattern(asked).steps(), below, &mut |end, how| {
            found.push(format!("{}:{how:?}", outputs[end.recipe as usize]));
            Continue(())
        });
        found.sort();
        found.dedup();
        found.join(" ")
    }

    #[test]
    fn what_meets_what() {
        for (outputs, asked, expected) in [
            (&["a/b"][..], "a/b", "a/b:Same"),
            (&["a/b"], "a/c", ""),
            (&["a/b"], "a", "a/b:Below"),
            (&["a/b"], "a/b/c", "a/b:Through"),
            (&["a/"], "a/b/c", "a/:Inside(1)"),
            (&["a/"], "a", "a/:Same"),
            (&["a/*.o"], "a/x.o", "a/*.o:Same"),
            (&["a/*.o"], "a", "a/*.o:Below"),
            (&["a/*.o"], "a/x.c", ""),
            (&["**/*.o"], "x/y/z.o", "**/*.o:Below **/*.o:Same"),
            (&["**/*.o"], "z.o", "**/*.o:Below **/*.o:Same"),
            (&["**/*.o"], "x", "**/*.o:Below"),
            (&["a/b.h", "a/c.h", "a/c.c", "d/e.h"], "a/*.h", "a/b.h:Same a/c.h:Same"),
            (&["a/b.h", "d/e.h"], "**/*.h", "a/b.h:Same d/e.h:Same"),
            (&["gen/"], "**/*.h", "gen/:Inside(0) gen/:Inside(1)"),
            (&["gen/"], "gen/**/*.h", "gen/:Inside(1) gen/:Inside(2)"),
            (&["gen/"], "*/x.h", "gen/:Inside(1)"),
            (&["gen/"], "ge?", "gen/:Same"),
            (&["a/*.o"], "a/x*", "a/*.o:Same"),
            (&["a/*.o"], "a/*.h", ""),
            (&["a/**"], "a/b/c/*.x", "a/**:Same"),
            (&["*/b"], "a/*", "*/b:Same"),
            (&["**/x/**"], "**/y/**", "**/x/**:Below **/x/**:Same"),
        ] {
            assert_eq!(met(outputs, asked, true), expected, "{asked} of {outputs:?}");
        }
        assert_eq!(met(&["a/b"], "a", false), "");
    }

    #[test]
    fn many_forms_in_one_folder_are_found_by_their_ends() {
        let outputs: Vec<String> =
            (0..40).flat_map(|i| [format!("o/p{i}*"), format!("o/*s{i}"), format!("o/?q{i}?")]).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        assert_eq!(met(&outputs, "o/p7x", false), "o/p7*:Same");
        assert_eq!(met(&outputs, "o/p12", false), "o/p1*:Same o/p12*:Same");
        assert_eq!(met(&outputs, "o/xs31", false), "o/*s31:Same");
        assert_eq!(met(&outputs, "o/xq9x", false), "o/?q9?:Same");
        let count = |asked| met(&outputs, asked, false).split(' ').count();
        // Forms by prefix, by suffix, and those with neither end.
        assert_eq!(
            (count("o/p1*z"), count("o/p*x"), count("o/*1s3"), count("o/??"), count("o/*")),
            (11, 80, 41, 20, 120)
        );
    }

    proptest::proptest! {
        /// The trie agrees with matching one by one.
        #[test]
        fn the_index_finds_what_matching_finds(
            outputs in proptest::collection::vec("[ab*]{1,2}(/[ab*]{1,2}){0,2}|[*][*]/[ab]|[ab]/[*][*]", 1..8),
            path in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        ) {
            let outputs: Vec<&str> = outputs.iter().map(String::as_str).filter(|o| Pattern::read(o).is_ok()).collect();
            let expected = outputs.iter().any(|o| Pattern::read(o).is_ok_and(|p| p.matches(&path)));
            proptest::prop_assert_eq!(index(&outputs).makes(&steps(&path)), expected);
        }
    }
}
