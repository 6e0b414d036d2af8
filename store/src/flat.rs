//! Numbers, bytes and texts of a flat file, written one after the other and read back within bounds.
//!
//! Unaware of what they mean.

use std::ffi::CStr;

/// What was written so far.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// The low bytes of a number, the least first.
    pub fn number(&mut self, number: impl Into<u64>, bytes: usize) {
        self.0.extend_from_slice(&number.into().to_le_bytes()[..bytes]);
    }

    /// Bytes, after how many there are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64, 4);
        self.0.extend_from_slice(bytes);
    }

    /// With a NUL, for the kernel.
    pub fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64, 2);
        self.0.extend_from_slice(text);
        self.0.push(0);
    }
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'b>(pub &'b [u8]);

impl<'b> Reader<'b> {
    /// So many bytes.
    pub fn take(&mut self, bytes: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    pub fn number(&mut self, bytes: usize) -> Option<u64> {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(self.take(bytes)?);
        Some(u64::from_le_bytes(number))
    }

    /// Bytes, as many as it says in front of them.
    pub fn bytes(&mut self) -> Option<&'b [u8]> {
        let bytes = usize::try_from(self.number(4)?).ok()?;
        self.take(bytes)
    }

    /// A text for the kernel.
    pub fn text(&mut self) -> Option<&'b CStr> {
        let bytes = usize::try_from(self.number(2)?).ok()?;
        CStr::from_bytes_with_nul(self.take(bytes + 1)?).ok()
    }
}
