//! Strict DAG-CBOR: the one encoding of every hashed block that has structure.
//!
//! Knows bytes and typed values; unaware of what the types mean. Hostile bytes are never decoded into a
//! generic value: size cap first, typed decode, encode again, compare.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::heads::Heads;

/// Integers beyond this lose precision in other implementations and are refused.
pub const MAX_INT: i64 = (1 << 53) - 1;

/// Bytes that are not the one canonical encoding of a value of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DagError {
    /// Larger than any block of this kind may be.
    #[error("block of {found_bytes} bytes exceeds the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Size of what was given.
        found_bytes: u64,
        /// The cap for this kind of block.
        limit_bytes: u64,
    },
    /// Not DAG-CBOR, or not of the expected shape.
    #[error("block does not decode: {0}")]
    Shape(String),
    /// Decodes, but other bytes mean the same value.
    #[error("block is not in canonical form")]
    NotCanonical,
    /// A value that has no canonical form (too deep, an integer out of range, and the like).
    #[error("value cannot be encoded: {0}")]
    Unencodable(String),
}

impl DagError {
    /// Bytes of another shape than was expected, and what is wrong with it.
    pub fn shape(what: &str) -> Self {
        Self::Shape(what.to_owned())
    }
}

/// Encodes a value in its canonical form.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DagError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|e| DagError::Unencodable(e.to_string()))
}

/// Decodes bytes from outside: at most `limit` bytes, and only the canonical form.
pub fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8], limit: usize) -> Result<T, DagError> {
    let value: T = decode_own(bytes, limit)?;
    if encode(&value)? != bytes {
        return Err(DagError::NotCanonical);
    }
    Ok(value)
}

/// Decodes bytes whose hash was checked against an id we computed ourselves: canonical by construction.
pub fn decode_own<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DagError> {
    if bytes.len() > limit {
        return Err(DagError::TooLarge { found_bytes: bytes.len() as u64, limit_bytes: limit as u64 });
    }
    serde_ipld_dagcbor::from_slice(bytes).map_err(|e| DagError::Shape(e.to_string()))
}

/// Whether `bytes` are one value in canonical form, of any shape. For checks of small blocks we made: it
/// decodes into a generic value, which hostile bytes must never reach.
pub fn is_canonical(bytes: &[u8]) -> bool {
    decode_own::<libipld::ipld::Ipld>(bytes, bytes.len())
        .is_ok_and(|value| encode(&value).is_ok_and(|again| again == bytes))
}
