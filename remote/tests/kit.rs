//! What tests of servers begin with: machines that have some as remotes.

use std::sync::Arc;

use quipu_remote::{Config, GrpcRemote};
use quipu_store::remote::Remote;

pub(crate) use crate::machine::*;

impl Description for Config {
    fn remote(&self, name: &str) -> Arc<dyn Remote> {
        Arc::new(GrpcRemote::new(name, self, &|_| None).expect("a good description"))
    }
}

/// A server that is read and written, with results of any isolation.
pub(crate) fn config(port: u16) -> Config {
    let mut config = Config::new(format!("grpc://127.0.0.1:{port}"));
    config.push = true;
    config.share.push("native".to_owned());
    config
}
