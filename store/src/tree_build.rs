//! Flat relative paths into nested directories.
//!
//! Pure but for handing the nodes to a store when there is one.

use crate::cid::TreeId;
use crate::tree::{Entry, MAX_DEPTH, Name, NameError, Tree, TreeError};
use crate::{Store, StoreError};

/// Why paths do not make a tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeOfError {
    /// A path with a component that no directory may hold.
    #[error("`{path}`: {source}")]
    Name {
        /// The path.
        path: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A path that is there twice, or is a file and a directory at once.
    #[error("`{path}` is there twice, or is both a file and a directory")]
    Twice {
        /// The path.
        path: String,
    },
    /// More components than a tree is deep.
    #[error("`{path}` is nested too deeply")]
    Depth {
        /// The path.
        path: String,
    },
    /// A directory that has no encoding.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store did not take a node.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A directory's id and the nodes of it and of all directories below, in the order they must be stored.
pub type Built = (TreeId, Vec<(TreeId, Vec<u8>)>);

/// Builds the directory that holds `files` at their relative paths, given in any order.
///
/// With a store, the nodes are put there and none are returned; without, they are returned and nothing is stored.
pub fn tree_of<'a>(
    store: Option<&Store>,
    files: impl Iterator<Item = (&'a str, &'a Entry)>,
) -> Result<Built, TreeOfError> {
    let mut files: Vec<_> = files.collect();
    if !files.is_sorted_by(|a, b| a.0 < b.0) {
        files.sort_unstable_by(|a, b| a.0.cmp(b.0));
    }
    let mut build = Build { store, nodes: Vec::new() };
    let id = build.directory(&files, 0, 0)?;
    if let Some(store) = store {
        store.put_nodes(std::mem::take(&mut build.nodes))?;
    }
    Ok((id, build.nodes))
}

/// How many nodes wait for the store at most, but for those of one directory: what is in memory does not grow with the whole.
const NODES_AT_ONCE: usize = 128;

struct Build<'s> {
    store: Option<&'s Store>,
    nodes: Vec<(TreeId, Vec<u8>)>,
}

impl Build<'_> {
    /// The directory of `files`, all of which share their first `base` bytes.
    ///
    /// In byte order of whole paths, all paths below one directory follow one another: they share a prefix.
    fn directory(&mut self, files: &[(&str, &Entry)], base: usize, depth: usize) -> Result<TreeId, TreeOfError> {
        let mut entries = Vec::with_capacity(files.len());
        let mut at = 0;
        while let Some((path, entry)) = files.get(at) {
            let rest = &path[base..];
            let name = rest.split_once('/').map_or(rest, |(name, _)| name);
            let checked = Name::new(name).map_err(|source| TreeOfError::Name { path: (*path).to_owned(), source })?;
            if name.len() == rest.len() {
                entries.push((checked, (*entry).clone()));
                at += 1;
                continue;
            }
            if depth + 1 >= MAX_DEPTH {
                return Err(TreeOfError::Depth { path: (*path).to_owned() });
            }
            let prefix = &path[..=base + name.len()];
            let below = files[at..].iter().take_while(|(p, _)| p.starts_with(prefix)).count();
            let tree = self.directory(&files[at..at + below], prefix.len(), depth + 1)?;
            entries.push((checked, Entry::Dir { tree }));
            at += below;
        }
        let tree = Tree::new(entries).map_err(|error| match error {
            TreeError::Order(name) => {
                TreeOfError::Twice { path: format!("{}{name}", files.first().map_or("", |(path, _)| &path[..base])) }
            }
            other => TreeOfError::Tree(other),
        })?;
        let encoded = tree.encode()?;
        self.nodes.extend(encoded.nodes);
        if let Some(store) = self.store
            && self.nodes.len() >= NODES_AT_ONCE
        {
            store.put_nodes(std::mem::take(&mut self.nodes))?;
        }
        Ok(encoded.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::BlobId;

    fn build(paths: &[&str]) -> Result<Built, String> {
        let entry = Entry::File { blob: BlobId::of(b""), size: 0, exec: false };
        tree_of(None, paths.iter().map(|path| (*path, &entry))).map_err(|error| error.to_string())
    }

    #[test]
    fn order_does_not_matter_and_prefixes_are_kept_apart() {
        let one = build(&["a", "b-c", "b/x", "b/y/z", "b0"]).expect("a tree");
        let other = build(&["b/y/z", "b0", "b/x", "a", "b-c"]).expect("a tree");
        assert_eq!(one, other);
        assert_eq!(one.1.len(), 3, "`b/y`, `b` and the top");
        assert_eq!(build(&[]).expect("empty").0, Tree::default().encode().expect("small").id);
    }

    #[test]
    fn paths_that_make_no_tree_are_named() {
        let deep = vec!["d"; MAX_DEPTH + 1].join("/");
        for (paths, text) in [
            (vec!["x/a", "x/a"], "`x/a` is there twice, or is both a file and a directory"),
            (vec!["a", "a/b"], "`a` is there twice, or is both a file and a directory"),
            (vec!["x/a", "x/a-", "x/a/b"], "`x/a` is there twice, or is both a file and a directory"),
            (vec!["/a"], "`/a`: `` is not a valid file name: it is empty"),
            (vec!["a/"], "`a/`: `` is not a valid file name: it is empty"),
            (vec!["a/../b"], "`a/../b`: `..` is not a valid file name: it names a directory relative to itself"),
            (vec![""], "``: `` is not a valid file name: it is empty"),
            (vec![&deep], &*format!("`{deep}` is nested too deeply")),
        ] {
            assert_eq!(build(&paths).err().as_deref(), Some(text), "{paths:?}");
        }
        assert!(build(&[&deep[2..]]).is_ok());
    }
}
