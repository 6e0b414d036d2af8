//! What the store and the run must survive, each in a file of its own.

mod attacks;
mod child;
mod crowd;
mod damage;
mod inject;
mod kill_matrix;
#[allow(clippy::unwrap_used, reason = "shared with the fuzz targets")]
mod oracles;
mod powercut;
mod space;
mod twins;
