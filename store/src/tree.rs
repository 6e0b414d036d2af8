//! Directories as blocks: names in order, files with their exec bit, directories, symbolic links.
//!
//! Knows the format and its bounds; unaware of disks. Normative text: `docs/formats/tree.md`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cid::{BlobId, TreeId};
use crate::dag::{self, DagError};
use crate::tree_node;

/// Largest encoded node, in bytes.
pub const MAX_NODE_BYTES: usize = 1 << 20;
/// Entries beyond this many are kept in parts of this many.
pub const PART_ENTRIES: usize = 2048;
/// Deepest nesting of directories.
pub const MAX_DEPTH: usize = 64;
/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const MAX_TARGET_BYTES: usize = 4095;

/// A name that no directory may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid file name: {why}")]
pub struct NameError {
    name: String,
    why: &'static str,
}

/// One path component: not empty, not `.` or `..`, no `/` and no NUL, at most 255 bytes of UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Box<str>);

impl Name {
    /// Checks that `name` is a single path component.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let why = match name {
            "" => "it is empty",
            "." | ".." => "it names a directory relative to itself",
            _ if name.contains('/') => "it has a `/` in it",
            _ if name.contains('\0') => "it has a NUL in it",
            _ if name.len() > MAX_NAME_BYTES => "it is longer than 255 bytes",
            _ => return Ok(Self(name.into())),
        };
        Err(NameError { name: name.chars().take(64).collect(), why })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A regular file.
    File {
        /// Its content.
        blob: BlobId,
        /// Its length in bytes.
        size: u64,
        /// Whether it may be executed.
        exec: bool,
    },
    /// A directory.
    Dir {
        /// Its node.
        tree: TreeId,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
        target: Box<str>,
    },
}

/// A directory: entries by name, in byte order, each name once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: Vec<(Name, Entry)>,
}

/// A tree's blocks in the order they must be stored (parts first), and the id of its root node.
#[derive(Debug, Clone)]
pub struct EncodedTree {
    /// The directory's id.
    pub id: TreeId,
    /// Its own nodes: one, or the parts and then the node that lists them.
    pub nodes: Vec<(TreeId, Vec<u8>)>,
}

/// One decoded node: all entries, or the parts that hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The directory itself.
    Whole(Tree),
    /// Nodes whose entries follow one another.
    Parts(Vec<TreeId>),
}

/// Why bytes are no directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Not a canonical node.
    #[error("directory node: {0}")]
    Dag(#[from] DagError),
    /// Names out of order, or one twice.
    #[error("directory node: `{0}` is out of order or there twice")]
    Order(String),
    /// A link whose target is empty, too long, or has a NUL in it.
    #[error("directory node: symbolic link `{0}` has no valid target")]
    Target(String),
    /// Parts of a size that the format does not make, or nested.
    #[error("directory node: parts are not in canonical form")]
    Parts,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireNode {
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<WireEntry>>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<TreeId>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEntry {
    #[serde(rename = "n")]
    name: Name,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    file: Option<BlobId>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    exec: Option<bool>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    dir: Option<TreeId>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    target: Option<Box<str>>,
}

impl Serialize for Entry {
    /// For listings; the block format is that of [`Tree::encode`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::File { blob, size, exec } => {
                map.serialize_entry("kind", "file")?;
                map.serialize_entry("cid", &blob.to_string())?;
                map.serialize_entry("size", size)?;
                map.serialize_entry("exec", exec)?;
            }
            Self::Dir { tree } => {
                map.serialize_entry("kind", "dir")?;
                map.serialize_entry("cid", &tree.to_string())?;
            }
            Self::Symlink { target } => {
                map.serialize_entry("kind", "symlink")?;
                map.serialize_entry("target", target)?;
            }
        }
        map.end()
    }
}

impl Tree {
    /// A directory with these entries, in any order; a name given twice is an error.
    pub fn new(mut entries: Vec<(Name, Entry)>) -> Result<Self, TreeError> {
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self::sorted(entries)
    }

    fn sorted(entries: Vec<(Name, Entry)>) -> Result<Self, TreeError> {
        if let Some(w) = entries.windows(2).find(|w| w[0].0 >= w[1].0) {
            return Err(TreeError::Order(w[1].0.to_string()));
        }
        for (name, entry) in &entries {
            if let Entry::Symlink { target } = entry
                && !is_target(target)
            {
                return Err(TreeError::Target(name.to_string()));
            }
        }
        Ok(Self { entries })
    }

    /// The entries, in byte order of their names.
    pub fn entries(&self) -> &[(Name, Entry)] {
        &self.entries
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|i| &self.entries[i].1)
    }

    /// The blocks of this directory (not of those below it).
    pub fn encode(&self) -> Result<EncodedTree, TreeError> {
        let node = |entries: &[(Name, Entry)]| {
            let bytes = tree_node::encode(entries);
            if bytes.len() > MAX_NODE_BYTES {
                let (found_bytes, limit_bytes) = (bytes.len() as u64, MAX_NODE_BYTES as u64);
                return Err(TreeError::Dag(DagError::TooLarge { found_bytes, limit_bytes }));
            }
            Ok((TreeId::of(&bytes), bytes))
        };
        if self.entries.len() <= PART_ENTRIES {
            let whole = node(&self.entries)?;
            return Ok(EncodedTree { id: whole.0, nodes: vec![whole] });
        }
        let mut nodes = self.entries.chunks(PART_ENTRIES).map(node).collect::<Result<Vec<_>, _>>()?;
        let wire = WireNode { entries: None, parts: Some(nodes.iter().map(|(id, _)| *id).collect()) };
        let top = dag::encode(&wire)?;
        let id = TreeId::of(&top);
        nodes.push((id, top));
        Ok(EncodedTree { id, nodes })
    }

    /// The directory whose parts, in order, are `parts`.
    pub fn join(parts: Vec<Self>) -> Result<Self, TreeError> {
        let last = parts.len().saturating_sub(1);
        let good = parts.iter().enumerate().all(|(i, p)| {
            if i == last { (1..=PART_ENTRIES).contains(&p.entries.len()) } else { p.entries.len() == PART_ENTRIES }
        });
        if parts.len() < 2 || !good {
            return Err(TreeError::Parts);
        }
        Self::sorted(parts.into_iter().flat_map(|p| p.entries).collect())
    }
}

/// Whether a symbolic link may hold `target`: not empty, no NUL, at most 4095 bytes.
pub(crate) fn is_target(target: &str) -> bool {
    (1..=MAX_TARGET_BYTES).contains(&target.len()) && !target.contains('\0')
}

impl Node {
    /// Decodes a node's bytes, which may come from anywhere.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        // What is no node because of its form is refused for that.
        Self::decode_own(bytes).or_else(|why| {
            dag::decode::<WireNode>(bytes, MAX_NODE_BYTES)?;
            Err(why)
        })
    }

    /// The same, whatever is said first of what is refused.
    fn decode_own(bytes: &[u8]) -> Result<Self, TreeError> {
        let wire: WireNode = dag::decode_own(bytes, MAX_NODE_BYTES)?;
        let (node, again) = match (wire.entries, wire.parts) {
            (Some(entries), None) if entries.len() <= PART_ENTRIES => {
                let entries = entries.into_iter().map(WireEntry::into_entry);
                let tree = Tree::sorted(entries.collect::<Result<_, TreeError>>()?)?;
                let again = tree_node::encode(&tree.entries);
                (Self::Whole(tree), again)
            }
            // A part named twice could never be in order: what is small here must not be large when joined.
            (None, Some(parts)) if parts.len() >= 2 && all_differ(&parts) => {
                let wire = WireNode { entries: None, parts: Some(parts) };
                let again = dag::encode(&wire)?;
                (Self::Parts(wire.parts.unwrap_or_default()), again)
            }
            _ => return Err(TreeError::Parts),
        };
        if again == bytes { Ok(node) } else { Err(DagError::NotCanonical.into()) }
    }
}

fn all_differ(parts: &[TreeId]) -> bool {
    let mut sorted = parts.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|w| w[0] != w[1])
}

impl WireEntry {
    fn into_entry(self) -> Result<(Name, Entry), TreeError> {
        let max = dag::MAX_INT as u64;
        let entry = match (self.file, self.size, self.exec, self.dir, self.target) {
            (Some(blob), Some(size), exec @ (None | Some(true)), None, None) if size <= max => {
                Entry::File { blob, size, exec: exec.is_some() }
            }
            (None, None, None, Some(tree), None) => Entry::Dir { tree },
            (None, None, None, None, Some(target)) => Entry::Symlink { target },
            _ => {
                let what = format!("`{}` is not one of file, directory, link", self.name);
                return Err(TreeError::Dag(DagError::Shape(what)));
            }
        };
        Ok((self.name, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> (Name, Entry) {
        (Name::new(name).expect("valid"), Entry::File { blob: BlobId::of(name.as_bytes()), size: 1, exec: false })
    }

    #[test]
    fn order_of_entries_does_not_matter_and_names_are_checked() {
        let a = Tree::new(vec![file("b"), file("a"), file("ab")]).expect("valid");
        let b = Tree::new(vec![file("ab"), file("b"), file("a")]).expect("valid");
        assert_eq!(a.encode().expect("fits").id, b.encode().expect("fits").id);
        assert!(matches!(Tree::new(vec![file("a"), file("a")]), Err(TreeError::Order(_))));
        for bad in ["", ".", "..", "a/b", "/", "a\0", &"x".repeat(256)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let entries = vec![
            file("a"),
            (Name::new("d").expect("valid"), Entry::Dir { tree: TreeId::of(b"t") }),
            (Name::new("l").expect("valid"), Entry::Symlink { target: "../a".into() }),
            (Name::new("x").expect("valid"), Entry::File { blob: BlobId::of(b"x"), size: 1 << 40, exec: true }),
        ];
        let tree = Tree::new(entries).expect("valid");
        let encoded = tree.encode().expect("fits");
        assert_eq!(Node::decode(&encoded.nodes[0].1), Ok(Node::Whole(tree)));
    }

    #[test]
    fn what_is_written_straight_is_what_the_encoder_of_all_blocks_writes() {
        let slow = |entries: &[(Name, Entry)]| {
            let wire = entries.iter().map(|(name, entry)| {
                let mut w =
                    WireEntry { name: name.clone(), file: None, size: None, exec: None, dir: None, target: None };
                match entry {
                    Entry::File { blob, size, exec } => {
                        (w.file, w.size, w.exec) = (Some(*blob), Some(*size), exec.then_some(true));
                    }
                    Entry::Dir { tree } => w.dir = Some(*tree),
                    Entry::Symlink { target } => w.target = Some(target.clone()),
                }
                w
            });
            dag::encode(&WireNode { entries: Some(wire.collect()), parts: None }).expect("has a canonical form")
        };
        let sizes = [0, 23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, dag::MAX_INT as u64];
        let mut entries: Vec<(Name, Entry)> = Vec::new();
        for (n, size) in sizes.into_iter().enumerate() {
            for exec in [false, true] {
                let entry = Entry::File { blob: BlobId::of(&[n as u8]), size, exec };
                entries.push((Name::new(&format!("f{n}{exec}")).expect("valid"), entry));
            }
        }
        for len in [1, 23, 24, 255] {
            entries.push((Name::new(&"d".repeat(len)).expect("valid"), Entry::Dir { tree: TreeId::of(&[len as u8]) }));
        }
        for len in [1, 23, 24, 255, 256, MAX_TARGET_BYTES] {
            entries.push((
                Name::new(&format!("l{len}\u{e9}")).expect("valid"),
                Entry::Symlink { target: "t".repeat(len).into() },
            ));
        }
        let tree = Tree::new(entries).expect("valid");
        for count in [0, 1, 23, 24, tree.entries.len()] {
            assert_eq!(tree_node::encode(&tree.entries[..count]), slow(&tree.entries[..count]), "{count}");
        }
        let many: Vec<_> = (0..300).map(|i| file(&format!("f{i:05}"))).collect();
        for count in [255, 256, 300] {
            assert_eq!(tree_node::encode(&many[..count]), slow(&many[..count]), "{count}");
        }
    }

    #[test]
    fn a_large_directory_is_kept_in_parts() {
        let tree = Tree::new((0..5000).map(|i| file(&format!("f{i:05}"))).collect()).expect("valid");
        let encoded = tree.encode().expect("fits");
        let (top, parts) = encoded.nodes.split_last().expect("not empty");
        let Ok(Node::Parts(ids)) = Node::decode(&top.1) else { panic!("top lists parts") };
        assert_eq!(ids, parts.iter().map(|p| p.0).collect::<Vec<_>>());
        let parts = parts.iter().map(|(_, bytes)| match Node::decode(bytes) {
            Ok(Node::Whole(part)) => part,
            other => panic!("{other:?}"),
        });
        let mut parts: Vec<_> = parts.collect();
        assert_eq!(Tree::join(parts.clone()), Ok(tree));
        parts.swap(0, 1);
        assert!(Tree::join(parts).is_err());
    }

    #[test]
    fn hostile_nodes_are_refused() {
        for (why, bytes) in [
            ("empty", &b""[..]),
            ("both", b"\xa2\x61e\x80\x61p\x80"),
            ("neither", b"\xa0"),
            ("unknown field", b"\xa2\x61e\x80\x61z\x80"),
            ("one part", b"\xa1\x61p\x81\x00"),
            ("entry without kind", b"\xa1\x61e\x81\xa1\x61n\x61a"),
            ("bad name", b"\xa1\x61e\x81\xa2\x61l\x61b\x61n\x62.."),
            ("empty target", b"\xa1\x61e\x81\xa2\x61l\x60\x61n\x61a"),
            ("trailing bytes", b"\xa1\x61e\x80\x00"),
            ("indefinite text as key", b"\xa1\x7f\x61e\xff\x80"),
            ("long form length", b"\xa1\x78\x01e\x80"),
            ("huge claimed length", b"\xa1\x61e\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            assert!(Node::decode(bytes).is_err(), "{why}");
        }
        assert!(Node::decode(b"\xa1\x61e\x80").is_ok(), "the empty directory");
    }
}
