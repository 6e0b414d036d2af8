//! The integration tests: one binary, so that one link serves them all. Each module is one subject.

mod cli;
mod flows;
mod kit;
