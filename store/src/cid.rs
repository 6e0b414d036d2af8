//! Content identifiers: 32 bytes in a newtype for each thing identified, CIDv1 text at the edges.
//!
//! Unaware of what the identified bytes mean, and of where they are kept. The `cid` crate appears here,
//! in [`crate::dag`] and nowhere else: a `Cid` is 96 bytes in memory, an id here is 32.

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use cid::multihash::Multihash;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Multicodec of raw bytes: file content.
pub const RAW: u64 = 0x55;
/// Multicodec of DAG-CBOR: everything with structure.
pub const DAG_CBOR: u64 = 0x71;
/// Multihash code of BLAKE3; the digest is always 32 bytes.
pub const BLAKE3: u64 = 0x1e;

/// A text that is no content identifier this store could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidError {
    /// Not a CID at all.
    #[error("`{0}` is not a content identifier")]
    Malformed(String),
    /// A CID, but not in the canonical lower-case base32 text form.
    #[error("`{text}` is not in canonical form; write `{canonical}`")]
    NotCanonical {
        /// What was given.
        text: String,
        /// The same CID as quipu writes it.
        canonical: String,
    },
    /// A CID of another version, codec or hash than quipu uses.
    #[error("`{0}` is not a CIDv1 of BLAKE3-256 with codec raw or dag-cbor")]
    Unsupported(String),
    /// An id of another kind of thing.
    #[error("`{text}` has codec {found:#x}, expected {expected:#x}")]
    WrongCodec {
        /// What was given.
        text: String,
        /// Codec it carries.
        found: u64,
        /// Codec this place takes.
        expected: u64,
    },
}

/// An identifier with its codec: what a link in a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// Multicodec of the block, [`RAW`] or [`DAG_CBOR`].
    pub codec: Codec,
    /// BLAKE3-256 of the block's bytes.
    pub digest: [u8; 32],
}

/// The two codecs a block may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Codec {
    /// Bytes without structure (0x55).
    Raw,
    /// Strict DAG-CBOR (0x71).
    DagCbor,
}

impl Codec {
    /// The multicodec number.
    pub const fn code(self) -> u64 {
        match self {
            Self::Raw => RAW,
            Self::DagCbor => DAG_CBOR,
        }
    }
}

impl Link {
    /// The id of `bytes` under `codec`.
    pub fn of(codec: Codec, bytes: &[u8]) -> Self {
        Self { codec, digest: *blake3::hash(bytes).as_bytes() }
    }

    /// Binary form: version, codec, multihash code, length, digest (36 bytes).
    pub fn to_bytes(self) -> [u8; 36] {
        let mut out = [0; 36];
        out[..4].copy_from_slice(&[1, self.codec.code() as u8, BLAKE3 as u8, 32]);
        out[4..].copy_from_slice(&self.digest);
        out
    }

    /// Reads [`Link::to_bytes`]; anything else, trailing bytes included, is `None`.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let codec = match bytes.get(..4)? {
            [1, 0x55, 0x1e, 32] => Codec::Raw,
            [1, 0x71, 0x1e, 32] => Codec::DagCbor,
            _ => return None,
        };
        Some(Self { codec, digest: bytes.get(4..)?.try_into().ok()? })
    }

    pub(crate) fn to_cid(self) -> Cid {
        let hash = Multihash::wrap(BLAKE3, &self.digest).expect("32 bytes fit a 64 byte multihash");
        Cid::new_v1(self.codec.code(), hash)
    }

    pub(crate) fn from_cid(cid: &Cid) -> Option<Self> {
        if cid.version() != cid::Version::V1 || cid.hash().code() != BLAKE3 {
            return None;
        }
        let codec = match cid.codec() {
            RAW => Codec::Raw,
            DAG_CBOR => Codec::DagCbor,
            _ => return None,
        };
        Some(Self { codec, digest: cid.hash().digest().try_into().ok()? })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_cid().to_string())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Link {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        // The parser takes `/ipfs/...`, upper case and other bases: one thing has one name here.
        let cid = Cid::try_from(text).map_err(|_| CidError::Malformed(text.chars().take(120).collect()))?;
        let link = Self::from_cid(&cid).ok_or_else(|| CidError::Unsupported(text.to_owned()))?;
        let canonical = link.to_string();
        if canonical != text {
            return Err(CidError::NotCanonical { text: text.to_owned(), canonical });
        }
        Ok(link)
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_cid().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cid = Cid::deserialize(deserializer)?;
        Self::from_cid(&cid)
            .ok_or_else(|| D::Error::custom("link is not a CIDv1 of BLAKE3-256 with codec raw or dag-cbor"))
    }
}

/// Computes the id of content that comes in parts.
#[derive(Debug, Clone, Default)]
pub struct BlobHasher(blake3::Hasher);

impl BlobHasher {
    /// Takes the next part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of all parts together.
    pub fn id(&self) -> BlobId {
        BlobId(*self.0.finalize().as_bytes())
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $codec:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The codec every id of this kind has.
            pub const CODEC: Codec = Codec::$codec;

            /// The id of a block with these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// Takes a digest that was computed, or checked, by the caller.
            pub const fn from_digest(digest: [u8; 32]) -> Self {
                Self(digest)
            }

            /// The 32 bytes of the digest.
            pub const fn digest(&self) -> &[u8; 32] {
                &self.0
            }

            /// The same id with its codec beside it.
            pub const fn link(self) -> Link {
                Link { codec: Codec::$codec, digest: self.0 }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.link(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl From<$name> for Link {
            fn from(id: $name) -> Link {
                id.link()
            }
        }

        impl TryFrom<Link> for $name {
            type Error = CidError;

            fn try_from(link: Link) -> Result<Self, CidError> {
                if link.codec != Self::CODEC {
                    return Err(CidError::WrongCodec {
                        text: link.to_string(),
                        found: link.codec.code(),
                        expected: Self::CODEC.code(),
                    });
                }
                Ok(Self(link.digest))
            }
        }

        impl FromStr for $name {
            type Err = CidError;

            fn from_str(text: &str) -> Result<Self, CidError> {
                text.parse::<Link>()?.try_into()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.link().serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Link::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
            }
        }
    )*};
}

ids! {
    /// Id of a file's content.
    BlobId: Raw;
    /// Id of a directory node.
    TreeId: DagCbor;
    /// Id of a task: known before anything runs.
    TaskId: DagCbor;
    /// Id of an invocation: a task with every promise replaced by its value.
    InvocationId: DagCbor;
    /// Id of a signed receipt.
    ReceiptId: DagCbor;
    /// Id of what a receipt claims came out: equal claims have equal ids, whoever made them.
    OutputId: DagCbor;
}

/// The beginning of an id as a person types it: the whole text form, its first characters, or the first
/// characters behind the constant `bafkr4i` / `bafyr4i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPrefix {
    text: String,
}

/// Characters of the text form that every id shares.
const CONSTANT: [&str; 2] = ["bafkr4i", "bafyr4i"];

impl IdPrefix {
    /// Checks that `text` can begin an id.
    pub fn new(text: &str) -> Result<Self, CidError> {
        let good = !text.is_empty()
            && text.len() <= 59
            && text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b));
        if good {
            Ok(Self { text: text.to_owned() })
        } else {
            Err(CidError::Malformed(text.chars().take(120).collect()))
        }
    }

    /// Whether `id` begins so.
    pub fn matches(&self, id: Link) -> bool {
        let full = id.to_string();
        full.starts_with(&self.text)
            || CONSTANT.iter().any(|c| full.strip_prefix(c).is_some_and(|rest| rest.starts_with(&self.text)))
    }

    /// The range of digests that can match when the constant part was given or left out: inclusive bounds
    /// for a scan of a sorted table. Wider than the prefix, never narrower; filter with [`IdPrefix::matches`].
    pub fn digest_range(&self) -> ([u8; 32], [u8; 32]) {
        let rest = CONSTANT.iter().find_map(|c| self.text.strip_prefix(c)).unwrap_or(&self.text);
        let mut low = [0_u8; 32];
        let mut high = [0xff_u8; 32];
        if CONSTANT.iter().any(|c| c.starts_with(&self.text)) {
            return (low, high);
        }
        // The constant part ends 2 bits before the digest begins: the next character holds both.
        let bits = rest.bytes().flat_map(|c| {
            let value = if c.is_ascii_lowercase() { c - b'a' } else { c - b'2' + 26 };
            (0..5).rev().map(move |k| value >> k & 1 == 1)
        });
        for (bit, set) in bits.skip(2).take(256).enumerate() {
            let mask = 0x80_u8 >> (bit % 8);
            if set { low[bit / 8] |= mask } else { high[bit / 8] &= !mask }
        }
        (low, high)
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_canonical_and_round_trips() {
        let id = BlobId::of(b"hello");
        let text = id.to_string();
        assert!(text.starts_with("bafkr4i"), "{text}");
        assert_eq!(text.parse::<BlobId>(), Ok(id));
        assert_eq!(Link::from_bytes(&id.link().to_bytes()), Some(id.link()));
        assert!(matches!(text.to_uppercase().parse::<BlobId>(), Err(CidError::NotCanonical { .. })));
        assert!(matches!(format!("/ipfs/{text}").parse::<BlobId>(), Err(CidError::NotCanonical { .. })));
        assert!(matches!(text.parse::<TreeId>(), Err(CidError::WrongCodec { .. })));
        assert!(matches!("bafy".parse::<TreeId>(), Err(CidError::Malformed(_))));
        let mut long = id.link().to_bytes().to_vec();
        long.push(0);
        assert_eq!(Link::from_bytes(&long), None);
    }

    #[test]
    fn every_prefix_matches_and_its_range_holds_the_digest() {
        for seed in 0_u32..64 {
            let id = TaskId::of(&seed.to_le_bytes());
            let text = id.to_string();
            for n in 1..=text.len() {
                for part in [&text[..n], text.get(7..n).unwrap_or_default()] {
                    let Ok(prefix) = IdPrefix::new(part) else { continue };
                    let (low, high) = prefix.digest_range();
                    assert!(prefix.matches(id.link()), "{part} of {text}");
                    assert!(low <= *id.digest() && *id.digest() <= high, "{part} of {text}");
                }
            }
            let other = TaskId::of(&(seed + 1000).to_le_bytes());
            assert!(!IdPrefix::new(&text).expect("own text").matches(other.link()));
        }
        assert!(IdPrefix::new("BAFY").is_err() && IdPrefix::new("").is_err() && IdPrefix::new("bafy1").is_err());
    }
}
