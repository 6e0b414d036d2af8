//! What the fuzz targets share with the tests of every change: the oracles.

#[path = "../../tests/crash/oracles.rs"]
pub mod oracles;
