//! A real server for a test: buildbox-casd, or BuildGrid with a worker, on loopback, ended by its process id.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use quipu_remote::{Config, GrpcRemote};
use quipu_store::cid::TaskId;
use quipu_store::remote::Remote;
use tempfile::TempDir;

use crate::kit;

/// A running server. Ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    data: TempDir,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/servers/{name}.sh"))
}

/// Where the server is installed: beside what is built.
fn home(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("servers").join(name)
}

/// A port that nobody has just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    listener.local_addr().expect("it is bound").port()
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
        let (script, home) = (script(name), home(name));
        let installed = Command::new(&script).arg("install").arg(&home).output().expect("bash is there");
        if !installed.status.success() {
            let why = String::from_utf8_lossy(&installed.stderr).into_owned();
            assert_eq!(installed.status.code(), Some(77), "{why}");
            assert!(std::env::var_os("QUIPU_REQUIRE_SERVERS").is_none(), "a server was asked for: {why}");
            kit::say(&why);
            return None;
        }
        let data = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut command = Command::new(script);
        command.arg("serve").arg(home).arg(port.to_string()).arg(data.path().join("data")).args(option);
        let log = std::fs::File::create(data.path().join("log")).expect("a file");
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("bash is there");
        let server = Self { child, port, data };
        let store = kit::store(0);
        let start = Instant::now();
        loop {
            let probe = GrpcRemote::new("probe", &server.config(), &|_| None).expect("a good address");
            match probe.find_tasks(&store, true, &[TaskId::of(b"probe")]) {
                Ok(_) => return Some(server),
                Err(e) => {
                    let log = std::fs::read_to_string(server.data.path().join("log")).unwrap_or_default();
                    assert!(start.elapsed() < Duration::from_secs(60), "the server does not answer: {e}\n{log}");
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How to reach it.
    pub(crate) fn config(&self) -> Config {
        kit::config(self.port)
    }

    /// The file of a blob, to be damaged.
    pub(crate) fn object(&self, sha256: &str) -> Option<PathBuf> {
        let mut dirs = vec![self.data.path().join("data")];
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

impl Drop for Server {
    fn drop(&mut self) {
        // `timeout` hands the wish on; it ends the server itself should this program be killed first.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
