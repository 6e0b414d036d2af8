//! The executor of `/quipu/wait`: looks again and again until what it waits for is ready.
//!
//! Time and the wish to stop are seen to by [`native`]; unaware of what comes after.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use quipu_store::receipt::{FailureKind, Output};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::Executor;
use super::native::native;
use super::probe::{connect, of_machine, status};
use crate::wait::{WaitFor, WaitSpec};

/// How long one look may take before the next.
pub(super) const ONE_LOOK: Duration = Duration::from_secs(10);

/// An executor that waits, with files and commands looked up from `root`.
pub fn wait(root: PathBuf) -> impl Executor {
    native(move |job| {
        let root = root.clone();
        async move {
            let Some(spec) = WaitSpec::from_args(&job.invocation.args) else {
                let why = "its arguments say nothing to wait for".to_owned();
                return Err(FailureKind::Executor { why }.into());
            };
            loop {
                if tokio::time::timeout(ONE_LOOK, is_ready(&root, &spec.what)).await == Ok(true) {
                    return Ok(Output::default());
                }
                tokio::time::sleep(spec.every).await;
            }
        }
    })
}

async fn is_ready(root: &Path, what: &WaitFor) -> bool {
    match what {
        WaitFor::Tcp(address) => connect(address, &of_machine).await.is_some(),
        WaitFor::Http { url, code } => status(url, &of_machine).await == Some(*code),
        WaitFor::File(path) => root.join(&**path).exists(),
        WaitFor::Command(argv) => succeeds(root, argv.iter().map(|arg| &**arg)).await,
    }
}

async fn succeeds(root: &Path, mut argv: impl Iterator<Item = &str>) -> bool {
    let Some(program) = argv.next() else { return false };
    let mut command = Command::new(program);
    command.args(argv).current_dir(root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.process_group(0).kill_on_drop(true).spawn() else { return false };
    let _group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).map(Group);
    child.wait().await.is_ok_and(|status| status.success())
}

/// The processes of one look: none outlives it.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // The leader may be gone already, and the rest with it.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::tests::{job, runtime};
    use crate::task::Invocation;
    use std::sync::Arc;

    fn run(root: &Path, what: WaitFor, timeout: Option<Duration>) -> Result<Output, FailureKind> {
        let (mut job, _stop) = job("wait");
        let args = WaitSpec { what, every: Duration::from_millis(1) }.to_args();
        job.invocation = Arc::new(Invocation { args, ..(*job.invocation).clone() });
        job.timeout = timeout;
        runtime().block_on(wait(root.to_owned()).execute(job)).result.map_err(|f| f.kind)
    }

    #[test]
    fn it_waits_until_what_it_waits_for_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let marks = dir.path().join("looks");
        // Not at the first look, and not at the second.
        let script = format!("echo >> {m}; test $(wc -l < {m}) -ge 3", m = marks.display());
        let command = ["sh", "-c", &script].map(Into::into).to_vec();
        assert_eq!(run(dir.path(), WaitFor::Command(command), None), Ok(Output::default()));
        assert_eq!(std::fs::read_to_string(&marks).expect("is there").lines().count(), 3);
        assert_eq!(run(dir.path(), WaitFor::File("looks".into()), None), Ok(Output::default()));
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("has one").to_string();
        assert_eq!(run(dir.path(), WaitFor::Tcp(address.as_str().into()), None), Ok(Output::default()));
    }

    #[test]
    fn an_answer_must_have_the_code_that_is_waited_for() {
        use std::io::{Read, Write};
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("has one");
        let serve = std::thread::spawn(move || {
            for code in ["503 Busy", "404 No", "200 OK"] {
                let (mut stream, _) = server.accept().expect("somebody asks");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = write!(stream, "HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let url = format!("http://{address}/ready").into();
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(run(dir.path(), WaitFor::Http { url, code: 200 }, None), Ok(Output::default()));
        serve.join().expect("all three were asked for");
    }

    #[test]
    fn it_gives_up_when_its_time_is_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let limit = Duration::from_millis(20);
        let result = run(dir.path(), WaitFor::File("never".into()), Some(limit));
        assert_eq!(result, Err(FailureKind::Timeout { limit_ms: 20 }));
    }
}
