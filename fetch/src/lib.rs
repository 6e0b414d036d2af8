//! The executor of tasks that fetch: content by its hash, from any of several places, once for all who want it.
//!
//! What is here is asked for nowhere. What comes is kept once its hash is what was asked for, and unpacked without
//! anything in it being put on the disk under a name of its own. Unaware of workfiles and of who wants the content.

mod agent;
mod content;
mod error;
mod executor;
mod flight;
mod sum;
mod transfer;
mod unpack;

pub use error::{FetchError, Problem};
pub use executor::{FetchExecutor, FetchOptions};
pub use transfer::read;
pub use unpack::{Bounds, UnpackError, unpack};
