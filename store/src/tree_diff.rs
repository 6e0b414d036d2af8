//! What differs between two trees: paths added, removed and changed.
//!
//! Takes a way to look trees up; unaware of where they are kept.

use std::cmp::Ordering;

use crate::cid::TreeId;
use crate::tree::{Entry, MAX_DEPTH, Name, Tree};

/// One path that differs. A directory appears only where it is empty or stands against something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path below the compared directories.
    pub path: String,
    /// What is there before.
    pub old: Option<Entry>,
    /// What is there after.
    pub new: Option<Entry>,
}

/// The changes, in order of path components.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// At most as many as were asked for.
    pub changes: Vec<Change>,
    /// Whether there are more.
    pub more: bool,
}

/// Why two trees could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError<E> {
    /// A directory below is not there.
    #[error("directory `{path}` ({tree}) is missing")]
    Missing {
        /// Where it stands.
        path: String,
        /// Its id.
        tree: TreeId,
    },
    /// Directories nested deeper than any tree may be.
    #[error("`{path}` is nested too deeply")]
    Depth {
        /// The first directory too deep.
        path: String,
    },
    /// The lookup failed.
    #[error("directory `{path}` cannot be read")]
    Lookup {
        /// Where it stands.
        path: String,
        /// Why.
        source: E,
    },
}

/// Compares two directories and all below them; stops after `limit` changes.
///
/// Directories with equal ids are not looked at, so the work is in proportion to what is reported.
pub fn diff<E>(
    mut lookup: impl FnMut(TreeId) -> Result<Option<Tree>, E>,
    old: &Tree,
    new: &Tree,
    limit: usize,
) -> Result<Diff, DiffError<E>> {
    let mut walk = Walk { lookup: &mut lookup, limit, path: String::new(), out: Diff::default() };
    walk.both(old, new, 0)?;
    Ok(walk.out)
}

struct Walk<'a, F> {
    lookup: &'a mut F,
    limit: usize,
    path: String,
    out: Diff,
}

#[derive(Clone, Copy)]
enum Side {
    Old,
    New,
}

impl<E, F: FnMut(TreeId) -> Result<Option<Tree>, E>> Walk<'_, F> {
    fn both(&mut self, old: &Tree, new: &Tree, depth: usize) -> Result<(), DiffError<E>> {
        let (mut old, mut new) = (old.entries().iter().peekable(), new.entries().iter().peekable());
        while !self.out.more {
            let order = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) => a.0.cmp(&b.0),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let (Some((name, _)), a, b) = (before.or(after), before.map(|e| &e.1), after.map(|e| &e.1)) else { break };
            let base = self.enter(name);
            self.entry(a, b, depth)?;
            self.path.truncate(base);
        }
        Ok(())
    }

    fn entry(&mut self, old: Option<&Entry>, new: Option<&Entry>, depth: usize) -> Result<(), DiffError<E>> {
        match (old, new) {
            _ if old == new => {}
            (Some(Entry::Dir { tree: a }), Some(Entry::Dir { tree: b })) => {
                let (a, b) = (self.tree(*a, depth)?, self.tree(*b, depth)?);
                self.both(&a, &b, depth + 1)?;
            }
            (Some(entry), None) => self.only(entry, Side::Old, depth)?,
            (None, Some(entry)) => self.only(entry, Side::New, depth)?,
            _ => {
                self.report(old, new);
                if let Some(Entry::Dir { tree }) = old {
                    self.below(*tree, Side::Old, depth)?;
                }
                if let Some(Entry::Dir { tree }) = new {
                    self.below(*tree, Side::New, depth)?;
                }
            }
        }
        Ok(())
    }

    /// Reports all of what stands on one side only: leaves, and directories with nothing in them.
    fn only(&mut self, entry: &Entry, side: Side, depth: usize) -> Result<(), DiffError<E>> {
        let empty = match entry {
            Entry::Dir { tree } => !self.below(*tree, side, depth)?,
            _ => true,
        };
        if empty {
            match side {
                Side::Old => self.report(Some(entry), None),
                Side::New => self.report(None, Some(entry)),
            }
        }
        Ok(())
    }

    /// Reports what is in a directory that stands on one side only, and says whether there is anything.
    fn below(&mut self, tree: TreeId, side: Side, depth: usize) -> Result<bool, DiffError<E>> {
        let tree = self.tree(tree, depth)?;
        for (name, entry) in tree.entries() {
            if self.out.more {
                break;
            }
            let base = self.enter(name);
            self.only(entry, side, depth + 1)?;
            self.path.truncate(base);
        }
        Ok(!tree.entries().is_empty())
    }

    fn enter(&mut self, name: &Name) -> usize {
        let base = self.path.len();
        if base > 0 {
            self.path.push('/');
        }
        self.path.push_str(name.as_str());
        base
    }

    fn report(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        if self.out.changes.len() >= self.limit {
            self.out.more = true;
            return;
        }
        self.out.changes.push(Change { path: self.path.clone(), old: old.cloned(), new: new.cloned() });
    }

    fn tree(&mut self, tree: TreeId, depth: usize) -> Result<Tree, DiffError<E>> {
        if depth + 1 >= MAX_DEPTH {
            return Err(DiffError::Depth { path: self.path.clone() });
        }
        match (self.lookup)(tree) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(DiffError::Missing { path: self.path.clone(), tree }),
            Err(source) => Err(DiffError::Lookup { path: self.path.clone(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::cid::BlobId;

    type Trees = BTreeMap<TreeId, Tree>;
    /// Every path of a tree with what stands there, directories included.
    type Flat = BTreeMap<Vec<String>, Entry>;

    #[derive(Debug, Clone)]
    enum Shape {
        File(u8),
        Dir(BTreeMap<String, Self>),
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let leaf = any::<u8>().prop_map(|n| Shape::File(n % 3));
        leaf.prop_recursive(4, 40, 4, |inner| prop::collection::btree_map("[a-c-]", inner, 0..4).prop_map(Shape::Dir))
    }

    fn top() -> impl Strategy<Value = Shape> {
        prop::collection::btree_map("[a-c-]", shape(), 0..4).prop_map(Shape::Dir)
    }

    fn build(shape: &Shape, at: &[String], trees: &mut Trees, flat: &mut Flat) -> Entry {
        let entry = match shape {
            Shape::File(n) => Entry::File { blob: BlobId::of(&[*n]), size: 1, exec: *n == 2 },
            Shape::Dir(below) => {
                let entries = below.iter().map(|(name, shape)| {
                    let at: Vec<String> = at.iter().chain([name]).cloned().collect();
                    (Name::new(name).expect("valid"), build(shape, &at, trees, flat))
                });
                let tree = Tree::new(entries.collect()).expect("valid");
                let id = tree.encode().expect("small").id;
                trees.insert(id, tree);
                Entry::Dir { tree: id }
            }
        };
        flat.insert(at.to_vec(), entry.clone());
        entry
    }

    fn naive(old: &Flat, new: &Flat) -> Vec<Change> {
        let empty = Entry::Dir { tree: Tree::default().encode().expect("small").id };
        let is_dir = |e: &Entry| matches!(e, Entry::Dir { .. });
        let mut paths: Vec<_> = old.keys().chain(new.keys()).filter(|p| !p.is_empty()).collect();
        paths.sort();
        paths.dedup();
        let changes = paths.into_iter().filter_map(|path| {
            let (a, b) = (old.get(path), new.get(path));
            let told = match (a, b) {
                (Some(a), Some(b)) => a != b && !(is_dir(a) && is_dir(b)),
                (Some(e), None) | (None, Some(e)) => !is_dir(e) || *e == empty,
                (None, None) => false,
            };
            told.then(|| Change { path: path.join("/"), old: a.cloned(), new: b.cloned() })
        });
        changes.collect()
    }

    proptest! {
        #[test]
        fn equals_the_comparison_of_all_paths(old in top(), new in top()) {
            let (mut trees, mut a, mut b) = (Trees::new(), Flat::new(), Flat::new());
            let (Entry::Dir { tree: x }, Entry::Dir { tree: y }) =
                (build(&old, &[], &mut trees, &mut a), build(&new, &[], &mut trees, &mut b)) else { unreachable!() };
            let lookup = |id| Ok::<_, Infallible>(trees.get(&id).cloned());
            let found = diff(lookup, &trees[&x], &trees[&y], usize::MAX).expect("all there");
            prop_assert_eq!(&found.changes, &naive(&a, &b));
            prop_assert_eq!(found.changes.is_empty(), x == y);
            let some = diff(lookup, &trees[&x], &trees[&y], 1).expect("all there");
            prop_assert_eq!(some.more, found.changes.len() > 1);
        }
    }

    fn chain(levels: usize) -> (Trees, Tree) {
        let mut trees = Trees::new();
        let mut top = Tree::default();
        for _ in 0..levels {
            let id = top.encode().expect("small").id;
            trees.insert(id, top);
            let name = |n| Name::new(n).expect("valid");
            top = Tree::new(vec![(name("a"), Entry::Dir { tree: id }), (name("b"), Entry::Dir { tree: id })])
                .expect("valid");
        }
        (trees, top)
    }

    #[test]
    fn a_tree_that_doubles_at_each_level_is_cut_off() {
        let (trees, top) = chain(60);
        let mut looked = 0;
        let lookup = |id| {
            looked += 1;
            Ok::<_, Infallible>(trees.get(&id).cloned())
        };
        let found = diff(lookup, &Tree::default(), &top, 100).expect("all there");
        assert!(found.more && found.changes.len() == 100);
        assert!(looked < 100 * 64, "{looked}");
    }

    #[test]
    fn what_is_missing_or_too_deep_is_an_error() {
        let (trees, top) = chain(65);
        let lookup = |id| Ok::<_, Infallible>(trees.get(&id).cloned());
        assert!(matches!(diff(lookup, &Tree::default(), &top, 9), Err(DiffError::Depth { .. })));
        let none = |_| Ok::<_, Infallible>(None);
        assert!(matches!(diff(none, &Tree::default(), &top, 9), Err(DiffError::Missing { path, .. }) if path == "a"));
    }
}
