//! A real server for a test: buildbox-casd, or BuildGrid with a worker.

use std::path::PathBuf;

use quipu_remote::{Config, GrpcRemote};
use quipu_store::cid::TaskId;
use quipu_store::remote::Remote;

use crate::kit;
use crate::program::Program;
pub(crate) use crate::program::free_port;

/// A running server. Ends with the test.
pub(crate) struct Server {
    program: Program,
    pub(crate) port: u16,
}

impl Server {
    /// Starts one; says why where there is none to be had, and then the test has nothing to say.
    pub(crate) fn start(exec: bool) -> Option<Self> {
        Self::run("casd", exec.then_some("--exec"))
    }

    /// One that schedules work for a worker.
    pub(crate) fn start_buildgrid() -> Option<Self> {
        Self::run("buildgrid", None)
    }

    fn run(name: &str, option: Option<&str>) -> Option<Self> {
        let store = kit::store(0);
        let ask = |port| {
            let probe = GrpcRemote::new("probe", &kit::config(port), &|_| None).expect("a good address");
            probe.find_tasks(&store, true, &[TaskId::of(b"probe")]).map(drop).map_err(|e| e.to_string())
        };
        let program = Program::start(name, option, ask)?;
        let port = program.port;
        Some(Self { program, port })
    }

    /// How to reach it.
    pub(crate) fn config(&self) -> Config {
        kit::config(self.port)
    }

    /// The file of a blob, to be damaged.
    pub(crate) fn object(&self, sha256: &str) -> Option<PathBuf> {
        let mut dirs = vec![self.program.dir.path().join("data")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.to_string_lossy().replace('/', "").contains(sha256) {
                    return Some(path);
                }
            }
        }
        None
    }
}
