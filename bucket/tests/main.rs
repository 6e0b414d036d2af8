//! Buckets against a real server, one that goes wrong, and a bad network.

mod cache;
mod double;
mod faults;
mod kit;
// What they share with tests of other remotes.
#[path = "../../remote/tests/machine.rs"]
mod machine;
#[path = "../../remote/tests/program.rs"]
mod program;
#[path = "../../remote/tests/proxy.rs"]
mod proxy;
