//! Remotes against a real server, and against a bad network.

mod buildgrid;
mod cache;
mod differences;
mod double;
mod double_exec;
mod execute;
mod faults;
mod kit;
mod machine;
mod matrix;
mod program;
mod proxy;
mod server;
mod tls;
