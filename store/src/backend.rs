//! The seam between the handle and what keeps its rows and bytes.
//!
//! Private: there are two backends, and the conformance suite holds them alike.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::cid::{BlobId, InvocationId, Link, ReceiptId, TaskId};
use crate::error::{CommitError, GcError, StoreError};
use crate::gc::{GcOptions, GcStats};
use crate::rows::{Kept, Op, Stored, Table};
use crate::terms::{FoundTask, Hold, Kind, Lease, Record, Take};
use crate::verify::{VerifyOptions, VerifyReport};

/// A key with its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// What keeps the rows and the bytes.
pub(crate) trait Backend: Send + Sync {
    /// What is written to: who asks before writing whether something is there asks this.
    fn written(&self) -> &dyn Backend;
    fn block(&self, link: Link) -> Result<Option<Stored>, StoreError>;
    /// The same for many, in the order of `links`; where there is an index, in one read of it.
    fn blocks(&self, links: &[Link]) -> Result<Vec<Option<Stored>>, StoreError> {
        links.iter().map(|link| self.block(*link)).collect()
    }
    /// Path of a large block's file.
    fn file(&self, link: Link) -> PathBuf;
    /// Reads a large block's file, at most `limit_bytes` of it; `None` when it is gone.
    fn read_file(&self, link: Link, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError>;
    /// Size of a large block's file; `None` when it is gone.
    fn file_size(&self, link: Link) -> Result<Option<u64>, StoreError>;
    fn receipts(&self, ids: &[ReceiptId]) -> Result<Vec<Option<Kept>>, StoreError>;
    fn tasks(&self, ids: &[TaskId]) -> Result<Vec<FoundTask>, StoreError>;
    fn invocations(&self, ids: &[InvocationId]) -> Result<Vec<Vec<Kept>>, StoreError>;
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    fn values(&self, table: Table) -> Result<Vec<Pair>, StoreError>;
    fn scan(&self, low: [u8; 32], high: [u8; 32], limit: usize) -> Result<Vec<(Link, Kind)>, StoreError>;

    fn push(&self, ops: Vec<Op>) -> Result<(), StoreError>;
    fn record(&self, record: Record) -> Result<(), StoreError>;
    fn flush(&self) -> Result<(), CommitError>;
    /// Stores bytes too large for the index.
    fn put_large(&self, link: Link, bytes: &[u8]) -> Result<(), StoreError>;
    /// Keeps the content of the file that was opened at `path`.
    fn put_file(&self, path: &Path, source: File, take: Take) -> Result<(BlobId, u64), StoreError>;
    /// Takes a block out of use whose bytes are not what they should be; says where they went.
    fn set_aside(&self, link: Link) -> Result<Option<PathBuf>, StoreError>;
    /// Receipts that were looked at today.
    fn used(&self, ids: &mut dyn Iterator<Item = ReceiptId>);

    fn lease(&self, id: InvocationId) -> Result<Option<Lease>, StoreError>;
    fn hold(&self) -> Result<Hold, StoreError>;
    /// The same where there is something to collect and this process may keep others from it. Makes nothing a store.
    fn hold_if_there(&self) -> Option<Hold>;
    /// Remembers, beyond this process's end, that something is put in `dir` under a name of the moment.
    fn placing(&self, dir: &Path) -> Result<(), StoreError>;
    /// Something of the kind is still there, and is to be dealt with as if this process had been killed.
    fn unplaced(&self);
    /// Calls `deal` with the number of each process that ended without cleaning up, and each directory it named; what
    /// it says no to is asked again another time.
    fn abandoned(&self, deal: &mut dyn FnMut(u32, &Path) -> bool);
    /// Whether this process may write where the store is.
    fn can_be_written(&self) -> bool;
    /// The kind of network file system the store is on, if it is on one.
    fn medium(&self) -> Option<&'static str>;
    fn scratch_dir(&self) -> io::Result<PathBuf>;
    fn runs_dir(&self) -> Option<PathBuf>;

    fn gc(&self, options: &GcOptions) -> Result<GcStats, GcError>;
    fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, StoreError>;
}
