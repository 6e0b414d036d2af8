//! Object storage as a remote of a store: a bucket that speaks S3's protocol, for teams without a server.
//!
//! ```text
//!   config -> wire (HTTP, deadlines) -> objects (read, look, put, in parts) -> remote   receipts by id, blocks by id
//! ```
//!
//! The one place that knows of buckets. Bytes that come from one are hashed before they are kept, and a receipt counts
//! by its signature alone: who can write to a bucket can withhold work, and not forge it. What stands in a bucket:
//! `docs/formats/bucket.md`.

mod config;
mod objects;
mod remote;
mod wire;

pub use config::{Config, ConfigError};
pub use remote::BucketRemote;
