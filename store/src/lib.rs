//! Blocks, trees and signed receipts in one content-addressed store.

pub mod cid;
pub mod dag;
pub mod receipt;
pub mod sign;
pub mod tree;
