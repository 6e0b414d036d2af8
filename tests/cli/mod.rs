//! Tests of the whole: the command, the repository it comes from, and the formats others read.

mod formats;
mod independent;
mod tidy;
