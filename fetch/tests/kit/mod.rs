//! What tests of archives share.

use std::io::Cursor;

use quipu_fetch::{Bounds, UnpackError, unpack};
use quipu_runtime::fetch::Unpack;
use quipu_store::sign::Signer;
use quipu_store::tree::{Entry, Tree};
use quipu_store::{Options, SignerSource, Store};

/// A store in memory.
pub(crate) fn store() -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))
}

/// The tree that an archive is unpacked to.
pub(crate) fn kept(
    store: &Store,
    archive: &[u8],
    how: Unpack,
    strip: u32,
    bounds: &Bounds,
) -> Result<Tree, UnpackError> {
    let scratch = tempfile::tempdir().expect("a folder");
    let entry = unpack(store, Cursor::new(archive), how, strip, bounds, scratch.path())?;
    let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("is there").collect();
    assert!(left.is_empty(), "nothing is left of what was on its way");
    let Entry::Dir { tree } = entry else { panic!("an archive is a folder") };
    Ok(store.tree(tree).expect("can be read").expect("is there"))
}

/// What an archive is unpacked to, or why it is not.
pub(crate) fn list(archive: &[u8], how: Unpack, strip: u32, bounds: &Bounds) -> Result<Vec<String>, String> {
    let store = store();
    let tree = kept(&store, archive, how, strip, bounds).map_err(|e| e.to_string())?;
    let mut out = vec![];
    listed(&store, &tree, "", &mut out);
    Ok(out)
}

/// Paths with what stands there: content, `dir`, `-> target`, and `*` for what may be executed.
pub(crate) fn listed(store: &Store, tree: &Tree, below: &str, out: &mut Vec<String>) {
    for (name, entry) in tree.entries() {
        let path = format!("{below}{name}");
        match entry {
            Entry::File { blob, exec, .. } => {
                let bytes = store.get(blob.link(), 1 << 20).expect("can be read").expect("is there");
                let star = if *exec { "*" } else { "" };
                out.push(format!("{path}{star} {}", String::from_utf8_lossy(&bytes[..bytes.len().min(8)])));
            }
            Entry::Symlink { target } => out.push(format!("{path} -> {target}")),
            Entry::Dir { tree } => {
                out.push(format!("{path}/"));
                let tree = store.tree(*tree).expect("can be read").expect("is there");
                listed(store, &tree, &format!("{path}/"), out);
            }
        }
    }
}
