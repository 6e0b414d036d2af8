//! Servers of the Bazel Remote Execution API as remotes of a store and as executors.
//!
//! ```text
//!   config -> client (channel, headers, limits) -> cas (blobs) -> cache   receipts as ActionCache entries
//!                                                       \-------> execute invocations as Actions
//! ```
//!
//! The one place that speaks protobuf. Bytes that come from a server are hashed before they are kept, and a
//! receipt counts by its signature alone: who can write to a server can withhold work, and not forge it. How
//! things stand on a server, and why so: `docs/design/remote.md`.

mod action;
mod cache;
mod cas;
mod client;
mod collect;
mod compressed;
mod config;
mod digests;
mod entry;
mod execute;

pub use cache::GrpcRemote;
pub use config::{Config, ConfigError};
pub use execute::{RemoteExecutor, TIER, Warn};

/// The key of a task's entry in the ActionCache of a server that names blobs by SHA-256: for tests that play
/// another writer.
#[doc(hidden)]
pub fn key_of_task(id: quipu_store::cid::TaskId) -> api::Digest {
    entry::key(quipu_store::remote::Subject::Task(id), digests::Function::Sha256).digest
}

/// The protocol's messages, under shorter names.
mod api {
    pub(crate) use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_client::ActionCacheClient;
    pub(crate) use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_client::CapabilitiesClient;
    pub(crate) use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_client::ContentAddressableStorageClient;
    pub(crate) use bazel_remote_apis::build::bazel::remote::execution::v2::execution_client::ExecutionClient;
    pub(crate) use bazel_remote_apis::build::bazel::remote::execution::v2::*;
    pub(crate) use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
    pub(crate) use bazel_remote_apis::google::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
}
