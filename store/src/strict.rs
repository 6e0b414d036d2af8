//! Whether bytes are one value in strict DAG-CBOR, of whatever shape: checked head by head, no value built.
//!
//! For blocks from elsewhere whose meaning this crate does not know: what a generic decoder makes of two
//! megabytes can be a hundred times that. Memory here is bounded by the depth allowed.

use crate::cid::Link;
use crate::dag::{DagError, Heads, MAX_INT};

/// Deepest nesting of lists and maps: a little more than any task may have.
const MAX_DEPTH: usize = 80;

/// Tag of a link.
const LINK_TAG: u64 = 42;

/// A list or map that is not at its end.
struct Open<'a> {
    /// Items to come; a pair of a map counts as two.
    left: u64,
    is_map: bool,
    last_key: Option<&'a [u8]>,
}

/// Checks that `bytes` are exactly one value in its one encoding.
pub(crate) fn check(bytes: &[u8]) -> Result<(), DagError> {
    let mut reader = Heads::new(bytes);
    let mut open: Vec<Open<'_>> = vec![];
    loop {
        let (major, n) = reader.head()?;
        let in_map = open.last_mut().filter(|o| o.is_map && o.left % 2 == 0);
        if in_map.is_some() && major != 3 {
            return Err(DagError::shape("a key that is no text"));
        }
        let mut inner = None;
        match major {
            0 if n <= MAX_INT as u64 => {}
            1 if n < MAX_INT as u64 => {}
            2 => drop(reader.take(n)?),
            3 => {
                let text = reader.take(n)?;
                std::str::from_utf8(text).map_err(|_| DagError::shape("text that is not UTF-8"))?;
                // Shorter keys first, then by bytes; each once.
                if let Some(map) = in_map
                    && map.last_key.replace(text).is_some_and(|last| (last.len(), last) >= (text.len(), text))
                {
                    return Err(DagError::NotCanonical);
                }
            }
            4 | 5 => {
                if open.len() == MAX_DEPTH {
                    return Err(DagError::shape("nested too deeply"));
                }
                // Every item takes a byte at least.
                let left = n.checked_mul(u64::from(major) - 3).filter(|left| *left <= reader.left() as u64);
                let left = left.ok_or_else(|| DagError::shape("ends in the middle of a value"))?;
                inner = Some(Open { left, is_map: major == 5, last_key: None });
            }
            6 if n == LINK_TAG => {
                let (major, n) = reader.head()?;
                let link = if major == 2 { reader.take(n)?.strip_prefix(&[0]) } else { None };
                link.and_then(Link::from_bytes)
                    .ok_or_else(|| DagError::shape("a link that is no id of this kind of store"))?;
            }
            7 if (20..=22).contains(&n) => {}
            _ => return Err(DagError::shape("a value of a kind, or of a size, that has no place in blocks")),
        }
        if let Some(above) = open.last_mut() {
            above.left -= 1;
        }
        open.extend(inner);
        while open.last().is_some_and(|o| o.left == 0) {
            open.pop();
        }
        if open.is_empty() {
            return if reader.left() == 0 { Ok(()) } else { Err(DagError::shape("bytes after the value")) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::BlobId;
    use crate::dag;
    use proptest::prelude::*;

    #[test]
    fn what_the_encoder_makes_passes_and_nothing_else() {
        #[derive(serde::Serialize)]
        struct Block {
            a: Vec<Vec<Link>>,
            bb: (u64, bool, Option<u8>, i64),
            #[serde(with = "serde_bytes")]
            c: Vec<u8>,
            text: String,
        }
        let link = BlobId::of(b"x").link();
        let (a, bb) = (vec![vec![link], vec![]], (MAX_INT as u64, true, None, -MAX_INT));
        let block = Block { a, bb, c: vec![0; 300], text: "\u{e4}".repeat(200) };
        let bytes = dag::encode(&block).expect("has a canonical form");
        assert_eq!(check(&bytes), Ok(()));
        for cut in 0..bytes.len() {
            assert!(check(&bytes[..cut]).is_err(), "{cut}");
        }
        let trailing = [&bytes[..], &[0]].concat();
        assert!(check(&trailing).is_err());
    }

    #[test]
    fn every_other_form_is_refused() {
        let deep = vec![0x81; 1 << 20];
        let mut deepest = vec![0x81; MAX_DEPTH];
        deepest.push(0);
        assert_eq!(check(&deepest), Ok(()));
        for (why, bytes) in [
            ("nothing", &b""[..]),
            ("long form of 1", b"\x18\x01"),
            ("long form of a length", b"\x78\x01a"),
            ("long form of 256", b"\x1a\x00\x00\x01\x00"),
            ("an integer beyond 2^53-1", b"\x1b\x00\x20\x00\x00\x00\x00\x00\x00"),
            ("one below -(2^53-1)", b"\x3b\x00\x1f\xff\xff\xff\xff\xff\xff"),
            ("a float", b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
            ("a half float", b"\xf9\x3c\x00"),
            ("undefined", b"\xf7"),
            ("a simple value", b"\xf8\xff"),
            ("indefinite list", b"\x9f\xff"),
            ("indefinite text", b"\x7f\x61a\xff"),
            ("keys out of order", b"\xa2\x61b\x00\x61a\x00"),
            ("keys by bytes where length decides", b"\xa2\x62aa\x00\x61b\x00"),
            ("a key twice", b"\xa2\x61a\x00\x61a\x00"),
            ("a key that is a number", b"\xa1\x00\x00"),
            ("text that is not UTF-8", b"\x61\xff"),
            ("another tag", b"\xc1\x00"),
            ("a link that is none", b"\xd8\x2a\x41\x00"),
            ("a huge list", b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"),
            ("a huge map", b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("a huge text", b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("deep nesting", &deep),
        ] {
            assert!(check(bytes).is_err(), "{why}");
        }
    }

    proptest! {
        /// The generic decoder of the library, on small inputs, never accepts and re-encodes what is refused here
        /// for its form; and nothing that passes here is refused there.
        #[test]
        fn agrees_with_decoding_and_encoding_again(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if check(&bytes).is_ok() {
                prop_assert!(dag::is_canonical(&bytes), "{bytes:x?}");
            }
        }
    }
}
