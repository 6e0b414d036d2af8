//! Verification: every invariant of `docs/design/store.md`, checked; findings as values.
//!
//! Unaware of how findings are shown.

use std::path::PathBuf;

use crate::finding::Finding;

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Set aside what is corrupt and drop rows that lead nowhere.
    pub repair: bool,
    /// Read every file and compare it with its id; otherwise presence and size.
    pub rehash: bool,
}

/// What was checked, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// Receipts looked at.
    pub receipts: u64,
    /// Blocks in the index looked at.
    pub blocks: u64,
    /// Files looked at.
    pub files: u64,
    /// Findings that were repaired.
    pub repaired: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged (hollow receipts and leftovers are no damage).
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(Finding::is_damage)
    }
}

/// What rebuilding an index found to build it from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RebuildReport {
    /// Where the old index is now.
    pub old_index: Option<PathBuf>,
    /// Receipts in the new one.
    pub receipts: u64,
    /// Files in the new one.
    pub files: u64,
    /// Files that were not what their names say, and were set aside.
    pub quarantined_files: u64,
    /// Journal segments that were damaged; what could be read of them was taken over.
    pub damaged_segments: u64,
}
