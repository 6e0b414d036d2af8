//! Collection: what may go, least recently used first, and what roots keep.
//!
//! Decides from rows and links; unaware of files (the backend forgets and deletes).

use std::time::Duration;

/// What to collect.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Receipts not used for this long go.
    pub max_age: Option<Duration>,
    /// Receipts go, least recently used first, until what they keep is at most this.
    pub max_bytes: Option<u64>,
    /// Only says what would go.
    pub dry_run: bool,
    /// The present, in seconds since 1970.
    pub now: u64,
    /// How long to wait for other processes to end their writing.
    pub wait: Duration,
    /// Files younger than this are left alone, whoever made them.
    pub grace: Duration,
}

impl GcOptions {
    /// Collects what nothing refers to any more, at this time.
    pub fn new(now: u64) -> Self {
        Self {
            max_age: None,
            max_bytes: None,
            dry_run: false,
            now,
            wait: Duration::from_secs(10),
            grace: Duration::from_secs(3600),
        }
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GcStats {
    /// Receipts that stay.
    pub kept_receipts: u64,
    /// Blocks that stay.
    pub kept_blocks: u64,
    /// Bytes of those.
    pub kept_bytes: u64,
    /// Receipts that went.
    pub deleted_receipts: u64,
    /// Blocks that went.
    pub deleted_blocks: u64,
    /// Bytes of those.
    pub deleted_bytes: u64,
    /// Files and directories that processes left behind and that went.
    pub deleted_leftovers: u64,
}
