//! A server for a test, on loopback: installed and started by a script of `tests/servers`, ended by its process id.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::machine::say;

/// A running server. Ends with the test.
pub(crate) struct Program {
    child: Child,
    pub(crate) port: u16,
    /// Where it keeps what it has, in `data`.
    pub(crate) dir: TempDir,
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

impl Program {
    /// Starts the server of this name, and waits until it answers; says why where there is none to be had, and then the
    /// test has nothing to say.
    pub(crate) fn start(name: &str, option: Option<&str>, ask: impl Fn(u16) -> Result<(), String>) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/servers/{name}.sh"));
        let installed = Command::new(&script).arg("install").arg(home(name)).output().expect("bash is there");
        if !installed.status.success() {
            let why = String::from_utf8_lossy(&installed.stderr).into_owned();
            assert_eq!(installed.status.code(), Some(77), "{why}");
            assert!(std::env::var_os("QUIPU_REQUIRE_SERVERS").is_none(), "a server was asked for: {why}");
            say(&why);
            return None;
        }
        let data = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut command = Command::new(script);
        command.arg("serve").arg(home(name)).arg(port.to_string()).arg(data.path().join("data")).args(option);
        let log = std::fs::File::create(data.path().join("log")).expect("a file");
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("bash is there");
        let server = Self { child, port, dir: data };
        let start = Instant::now();
        while let Err(e) = ask(port) {
            let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not answer: {e}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // `timeout` hands the wish on; it ends the server itself should this program be killed first.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
