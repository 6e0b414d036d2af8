//! What items of DAG-CBOR begin with, one head after the other, and the bytes between them.
//!
//! Takes the shortest form of a head and no other; builds nothing. Unaware of what items make together.

use crate::dag::DagError;

/// A reader of heads.
#[derive(Debug)]
pub struct Heads<'a> {
    rest: &'a [u8],
}

impl<'a> Heads<'a> {
    /// From the beginning of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// So many bytes as they stand.
    pub fn take(&mut self, n: u64) -> Result<&'a [u8], DagError> {
        let n = usize::try_from(n).map_err(|_| DagError::shape("length beyond the end"))?;
        let taken = self.rest.split_at_checked(n);
        let (taken, rest) = taken.ok_or_else(|| DagError::shape("ends in the middle of a value"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Major type and argument, in the shortest form only.
    pub fn head(&mut self) -> Result<(u8, u64), DagError> {
        let first = self.take(1)?[0];
        let (major, short) = (first >> 5, first & 0x1f);
        let width = match short {
            0..=23 => return Ok((major, u64::from(short))),
            24..=27 => 1 << (short - 24),
            _ => return Err(DagError::shape("a length that is not given")),
        };
        let n = self.take(width)?.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let least = if width == 1 { 24 } else { 1 << (4 * width) };
        // A float, or a simple value in two bytes, is never in short form either: major 7 ends with 22.
        if n < least || major == 7 { Err(DagError::NotCanonical) } else { Ok((major, n)) }
    }
}
