//! Blocks, trees and signed receipts in one content-addressed store.

mod beneath;
pub mod checkout;
pub mod cid;
mod counters;
pub mod dag;
mod error;
mod finding;
mod gc;
mod hash_file;
pub mod ingest;
pub mod key_file;
mod links;
mod local;
mod look;
mod materialise;
mod memory;
mod parallel;
pub mod receipt;
mod rows;
pub mod sign;
pub mod stamp;
mod stat_chunk;
pub mod stat_index;
mod store;
mod swap;
#[cfg(test)]
mod test_dirs;
pub mod tree;
pub mod tree_build;
pub mod tree_diff;
mod verify;

pub use counters::Counters;
pub use error::{CommitError, GcError, OpenError, StoreError};
pub use finding::Finding;
pub use gc::{GcOptions, GcStats};
pub use store::{
    Blob, Done, Found, FoundTask, Hold, Kind, Lease, MAX_RESOLVED, Options, Record, Root, SignerSource, Store, Take,
};
pub use verify::{RebuildReport, VerifyOptions, VerifyReport};
