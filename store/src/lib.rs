//! Blocks, trees and signed receipts in one content-addressed store.
//!
//! From the bottom: [`cid`] names bytes, [`dag`] is the one encoding of what has structure, [`tree`] and
//! [`receipt`] are what is encoded, [`sign`] says who says so, and [`Store`] keeps it all: in a directory that any
//! number of processes share, or in memory. The crate knows nothing of tasks being run and nothing of the terminal.
//! What a store promises, and against what, is in `docs/design/store.md`.
//!
//! ```
//! use quipu_store::cid::{BlobId, Codec, InvocationId, TaskId};
//! use quipu_store::receipt::{Meta, Output, Receipt, Via};
//! use quipu_store::sign::Signer;
//! use quipu_store::tree::Entry;
//! use quipu_store::{Options, Record, SignerSource, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let store = Store::open(dir, Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32]))))?;
//! let blob = BlobId::try_from(store.put(Codec::Raw, b"hello".to_vec())?)?;
//!
//! let task = TaskId::of(b"what a task's block is, another crate knows");
//! let file = Entry::File { blob, size: 5, exec: false };
//! let out = Output { artifacts: [("greeting".into(), file)].into(), ..Output::default() };
//! let receipt = Receipt {
//!     ran: InvocationId::of(b"and so for invocations"),
//!     out: Ok(out),
//!     issued_at: 1_700_000_000,
//!     expires_at: None,
//!     meta: Meta { settles: [(task, Via::new())].into(), tier: "none".to_owned(), ..Meta::default() },
//! };
//! store.record(Record { receipt, blocks: vec![], done: Box::new(|durable| assert!(durable.is_ok())) })?;
//!
//! // Found at once; durable when `flush` returns.
//! let found = store.find_tasks(&[task])?.remove(0);
//! assert_eq!(found.receipts[0].signed.receipt.ran, InvocationId::of(b"and so for invocations"));
//! store.flush()?;
//! # Ok(())
//! # }
//! ```

mod backend;
mod beneath;
pub mod car;
mod car_read;
mod car_write;
pub mod checkout;
pub mod cid;
mod counters;
pub mod dag;
mod donor;
mod error;
pub mod fenced;
mod finding;
pub mod flat;
mod gc;
pub mod glance;
mod hash_file;
mod heads;
pub mod ingest;
pub mod key_file;
mod layered;
mod links;
mod local;
mod look;
mod materialise;
pub mod medium;
mod memory;
mod parallel;
pub mod promote;
pub mod receipt;
pub mod remote;
mod rows;
pub mod sign;
pub mod spaces;
pub mod stamp;
mod stat_chunk;
pub mod stat_index;
mod store;
mod strict;
mod swap;
mod terms;
#[cfg(test)]
mod test_dirs;
pub mod tree;
pub mod tree_build;
pub mod tree_diff;
mod tree_node;
pub mod trust;
mod verify;

pub use counters::Counters;
pub use error::{CommitError, GcError, OpenError, StoreError};
pub use finding::Finding;
pub use gc::{GcOptions, GcStats};
pub use local::is_guarded;
pub use store::{MAX_RESOLVED, Store};
pub use terms::{Blob, Done, Found, FoundTask, Hold, Kind, Lease, Options, Record, Root, SignerSource, Take};
pub use verify::{RebuildReport, VerifyOptions, VerifyReport};
