//! A real server on loopback, of the Remote Execution API or of S3, for as long as a test needs it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A running server. Ends with the test, by its process id.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    data: tempfile::TempDir,
}

impl Server {
    /// A cache, or one that executes as well, where there is one to be had; `None` is said why.
    pub(crate) fn start(exec: bool) -> Option<Self> {
        Self::run("casd", exec.then_some("--exec"))
    }

    /// Object storage without a bucket in it, where there is one to be had.
    #[cfg(feature = "bucket")]
    pub(crate) fn start_storage() -> Option<Self> {
        Self::run("moto", None)
    }

    fn run(name: &str, option: Option<&str>) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/servers/{name}.sh"));
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../servers").join(name);
        let installed = Command::new(&script).arg("install").arg(&home).output().expect("bash is there");
        if !installed.status.success() {
            let why = String::from_utf8_lossy(&installed.stderr).into_owned();
            assert_eq!(installed.status.code(), Some(77), "{why}");
            assert!(std::env::var_os("QUIPU_REQUIRE_SERVERS").is_none(), "a server was asked for: {why}");
            super::say(&why);
            return None;
        }
        let data = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback is there").port();
        let log = fs::File::create(data.path().join("log")).expect("a file");
        let mut command = Command::new(script);
        command.arg("serve").arg(home).arg(port.to_string()).arg(data.path().join("data"));
        command.args(option).stdout(log.try_clone().expect("a file")).stderr(log);
        let server = Self { child: command.spawn().expect("bash is there"), port, data };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(server.data.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not answer: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Files it keeps that hold these bytes.
    pub(crate) fn holding(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let (mut dirs, mut found) = (vec![self.data.path().join("data")], vec![]);
        while let Some(dir) = dirs.pop() {
            for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
                if path.is_dir() {
                    dirs.push(path);
                } else if fs::read(&path).is_ok_and(|all| all.windows(bytes.len()).any(|w| w == bytes)) {
                    found.push(path);
                }
            }
        }
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
