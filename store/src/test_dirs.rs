//! Directories for tests: random ones, made, described and compared.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use crate::sign::Signer;
use crate::{Options, SignerSource, Store};

pub(crate) fn memory() -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    File(Vec<u8>, bool),
    Link(String),
    Dir(BTreeMap<String, Self>),
}

pub(crate) fn shapes() -> impl Strategy<Value = BTreeMap<String, Shape>> {
    let small = prop::collection::vec(any::<u8>(), 0..40);
    // Above what the store keeps in its index.
    let large = (any::<u8>(), 16_300..17_000_usize).prop_map(|(byte, len)| vec![byte; len]);
    let leaf = prop_oneof![
        6 => (prop_oneof![5 => small, 1 => large], any::<bool>()).prop_map(|(bytes, exec)| Shape::File(bytes, exec)),
        1 => "[a-c](/[a-c])?".prop_map(Shape::Link),
    ];
    let name = "[a-cé .-]{0,2}[a-z]";
    let shape =
        leaf.prop_recursive(4, 32, 5, move |inner| prop::collection::btree_map(name, inner, 0..5).prop_map(Shape::Dir));
    prop::collection::btree_map(name, shape, 0..6)
}

pub(crate) fn make(path: &Path, shape: &Shape) {
    match shape {
        Shape::File(bytes, exec) => {
            std::fs::write(path, bytes).expect("written");
            let mode = if *exec { 0o755 } else { 0o644 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
        }
        Shape::Link(target) => symlink(target, path).expect("made"),
        Shape::Dir(below) => {
            std::fs::create_dir_all(path).expect("made");
            below.iter().for_each(|(name, shape)| make(&path.join(name), shape));
        }
    }
}

pub(crate) fn read(path: &Path) -> Shape {
    let meta = path.symlink_metadata().expect("there");
    if meta.is_symlink() {
        return Shape::Link(path.read_link().expect("a link").to_str().expect("text").to_owned());
    }
    if meta.is_file() {
        assert_eq!(meta.permissions().mode() & 0o7022, 0, "no more rights than 0755: {}", path.display());
        return Shape::File(std::fs::read(path).expect("read"), meta.permissions().mode() & 0o100 != 0);
    }
    let below = std::fs::read_dir(path).expect("listed").map(|entry| {
        let entry = entry.expect("listed");
        (entry.file_name().into_string().expect("text"), read(&entry.path()))
    });
    Shape::Dir(below.collect())
}

/// Lets files grow old enough for their stamps to be relied on.
pub(crate) fn age(path: &Path) {
    let made = path.symlink_metadata().expect("there");
    while made.modified().expect("known").elapsed().unwrap_or_default().as_millis() < 40 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
