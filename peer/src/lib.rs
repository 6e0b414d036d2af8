//! A store read over HTTP: the server that `quipu serve` runs, and its client, a remote for other stores.
//!
//! Blocks are given in the form of an IPFS trustless gateway, as they are or as CAR files, and receipts by the task or
//! invocation they are of. Everything is named by its content or signed, so whoever reads can check it, and has to:
//! the server promises nothing. The protocol is in `docs/formats/http.md`. The crate knows nothing of tasks.

mod answer;
mod ask;
mod body;
mod config;
mod patience;
mod remote;
mod serve;
mod shelf;

pub use config::{Config, ConfigError};
pub use remote::PeerRemote;
pub use serve::{ServeError, ServeOptions, Server, Share};
