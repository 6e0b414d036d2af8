//! Links in a block, found without knowing what the block means.
//!
//! Walks canonical DAG-CBOR head by head in one pass: no recursion, no value built, nothing believed of
//! a length before it is compared with what is left.

use crate::cid::Link;

/// Tag of a link.
const LINK_TAG: u64 = 42;

/// Every link in the bytes of a DAG-CBOR block, in order. Bytes that are no CBOR give what came before.
pub(crate) fn links(bytes: &[u8]) -> Vec<Link> {
    let mut found = Vec::new();
    let mut rest = bytes;
    let mut tagged = false;
    while let Some((major, value, after)) = head(rest) {
        rest = after;
        let was_tagged = std::mem::replace(&mut tagged, major == 6 && value == LINK_TAG);
        if major == 2 || major == 3 {
            let Some((text, after)) = usize::try_from(value).ok().and_then(|n| rest.split_at_checked(n)) else { break };
            rest = after;
            // A link is written with a leading zero: "identity" multibase.
            if was_tagged && major == 2 {
                found.extend(text.strip_prefix(&[0]).and_then(Link::from_bytes));
            }
        }
    }
    found
}

/// Major type, argument, and what follows.
fn head(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let width = match first & 0x1f {
        small @ 0..=23 => return Some((first >> 5, u64::from(small), rest)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let (argument, rest) = rest.split_at_checked(width)?;
    Some((first >> 5, argument.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::{BlobId, TreeId};
    use crate::dag;
    use crate::tree::{Entry, Name, Tree};
    use serde::Serialize;

    #[test]
    fn links_are_found_at_any_depth_and_nothing_else_is() {
        #[derive(Serialize)]
        struct Block {
            a: Vec<Vec<Link>>,
            b: (u64, f64, bool, Option<u8>, i64),
            #[serde(with = "serde_bytes")]
            looks_like_one: Vec<u8>,
            text: String,
            z: Link,
        }
        let link = |n: u8| BlobId::of(&[n]).link();
        let mut looks_like_one = vec![0];
        looks_like_one.extend(link(9).to_bytes());
        let a = vec![vec![link(1), link(2)], vec![], vec![link(3)]];
        let b = (1 << 40, 0.5, true, None, -70_000);
        let block = Block { a, b, looks_like_one, text: "x".repeat(300), z: TreeId::of(b"t").link() };
        let bytes = dag::encode(&block).expect("has a canonical form");
        let mut found = links(&bytes);
        found.sort();
        let mut expected = vec![link(1), link(2), link(3), TreeId::of(b"t").link()];
        expected.sort();
        assert_eq!(found, expected);
        for cut in 0..bytes.len() {
            assert!(links(&bytes[..cut]).len() <= expected.len());
        }
    }

    #[test]
    fn links_of_a_directory_are_its_files_and_directories() {
        let name = |n: &str| Name::new(n).expect("valid");
        let (blob, tree) = (BlobId::of(b"b"), TreeId::of(b"t"));
        let entries = vec![
            (name("f"), Entry::File { blob, size: 1, exec: true }),
            (name("d"), Entry::Dir { tree }),
            (name("l"), Entry::Symlink { target: "x".into() }),
        ];
        let encoded = Tree::new(entries).expect("valid").encode().expect("fits");
        assert_eq!(links(&encoded.nodes[0].1), [tree.link(), blob.link()]);
    }

    #[test]
    fn hostile_bytes_end_the_walk() {
        for bytes in
            [&b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"\xd8\x2a", b"\xff", b"\x9f", b"\xd8\x2a\x58\x25\x00"]
        {
            assert!(links(bytes).is_empty());
        }
        let deep = vec![0x81; 1 << 20];
        assert!(links(&deep).is_empty());
    }
}
