//! Remotes against a real server, and against a bad network.

mod cache;
mod execute;
mod faults;
mod kit;
mod proxy;
mod server;
