//! `quipu serve`: a store read over HTTP, by a client that is nothing but text and by one that shares no code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::cli::independent;
use crate::kit::TestSpace;

const TASKS: &str = r#"
[task.gen]
run = "mkdir -p gen/deep && cat in > gen/deep/a && head -c 300000 /dev/zero > gen/b && ln -s deep/a gen/l"
inputs = ["in"]
outputs = ["gen/"]
sandbox = "none"
"#;

/// A server of a space's store, until it is dropped.
pub(crate) struct Serving {
    child: Child,
    pub(crate) url: String,
}

impl Serving {
    pub(crate) fn start(space: &TestSpace, args: &[&str]) -> Self {
        Self::of(space.command(&[&["serve", "--listen", "127.0.0.1:0"], args].concat()))
    }

    /// What a command starts that says where it listens.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("is piped")).read_line(&mut line).expect("is told");
        let url = line.trim().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self { child, url }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("fits")).expect("is one");
        kill_process(pid, signal).expect("is there");
    }

    /// The status and the body of what is at this path.
    pub(crate) fn get(&self, path: &str, headers: &str) -> (u16, Vec<u8>) {
        let host = self.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("can be set");
        // Of version 1.0, so that nothing comes in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n").expect("is taken");
        let mut bytes = vec![];
        stream.read_to_end(&mut bytes).expect("is answered");
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("has a head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"), bytes[end + 4..].to_vec())
    }

    fn json(&self, path: &str) -> Json {
        let (status, body) = self.get(path, "");
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice(&body).expect("is JSON")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have been ended by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The task's id and what it made.
fn settled(space: &TestSpace) -> (String, String) {
    let plan = space.json(&["plan", "--json"]);
    let receipt = space.json(&["show", "--json", plan["tasks"][0]["receipt"].as_str().expect("settled")]);
    let output = receipt["outcome"]["ok"]["outputs"]["gen"]["id"].as_str().expect("a directory");
    let task = receipt["settles"].as_object().and_then(|all| all.keys().next()).expect("settles one");
    (task.to_owned(), output.to_owned())
}

#[test]
fn who_knows_a_task_finds_its_receipt_and_its_files_with_a_plain_client() {
    let space = TestSpace::new(TASKS);
    space.use_key(1);
    space.write("in", "text\n");
    space.build_twice(&[]);
    let (task, output) = settled(&space);
    let serving = Serving::start(&space, &["--all"]);
    let found = serving.json(&format!("/quipu/v1/receipts/{task}"));
    let receipt = found["receipts"][0]["id"].as_str().expect("is there");
    assert_eq!(found["receipts"][0]["issuer"].as_str(), Some(space.ok(&["key", "show"]).stdout.trim()));
    let (status, bytes) = serving.get(&format!("/ipfs/{receipt}"), "Accept: application/vnd.ipld.raw\r\n");
    assert_eq!(status, 200);
    assert!(quipu_store::sign::SignedReceipt::verify(&bytes).is_ok());
    let (status, car) = serving.get(&format!("/ipfs/{output}?format=car"), "");
    let blocks = quipu_store::car::unpack(&car[..], u64::MAX).expect("is one");
    assert_eq!((status, blocks.len(), blocks.iter().any(|b| b == b"text\n")), (200, 4, true));
    // Work that is done while it serves is there at once.
    space.write("in", "other\n");
    space.build(&[]);
    let (task, _) = settled(&space);
    assert_eq!(serving.json(&format!("/quipu/v1/receipts/{task}"))["receipts"].as_array().map(Vec::len), Some(1));
    // It keeps nobody from collecting, and what is collected is gone.
    space.ok(&["gc", "--max-size", "0"]);

    // What nobody can tell the dependencies of is given when that is asked for.
    let closed = Serving::start(&space, &[]);
    assert_eq!(closed.json(&format!("/quipu/v1/receipts/{task}"))["receipts"].as_array().map(Vec::len), Some(0));
}

#[test]
fn it_ends_in_order_when_it_is_told_to() {
    let space = TestSpace::new(TASKS);
    for signal in [Signal::INT, Signal::TERM] {
        let mut serving = Serving::start(&space, &[]);
        assert_eq!(serving.get("/", "").0, 200);
        serving.signal(signal);
        assert_eq!(serving.child.wait().expect("ends").code(), Some(0), "{signal:?}");
    }
}

#[test]
fn beyond_this_machine_a_token_is_needed_and_made() {
    let space = TestSpace::new(TASKS);
    let open = space.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(open.status == 2 && open.stderr.contains("a token is needed"), "{}", open.stderr);
    let short = space.command(&["serve", "--listen", "127.0.0.1:0"]).env("QUIPU_TOKEN", "short").output();
    let said = String::from_utf8_lossy(&short.expect("starts").stderr).into_owned();
    assert!(said.contains("16 to 1024") && !said.contains("short"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("has one").to_string();
    assert_eq!(space.run(&["serve", "--listen", &address]).status, 3);

    let serving = Serving::start(&space, &["--token-file", "../token"]);
    let token = std::fs::read_to_string(space.beside("token")).expect("is made");
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(space.beside("token")).expect("there")) & 0o777,
        0o600
    );
    assert_eq!(serving.get("/", "").0, 401);
    assert_eq!(serving.get("/", &format!("Authorization: Bearer {}\r\n", token.trim())).0, 200);
    let again = Serving::start(&space, &["--token-file", "../token"]);
    assert_eq!(again.get("/", &format!("Authorization: Bearer {}\r\n", token.trim())).0, 200, "the same one");
}

#[test]
fn a_client_of_gateways_that_shares_no_code_reads_blocks_and_files() {
    let Some(dir) = independent::prepared_or_skip() else { return };
    let space = TestSpace::new(TASKS);
    space.write("in", "text\n");
    space.build_twice(&[]);
    let (_, output) = settled(&space);
    let serving = Serving::start(&space, &["--all"]);
    let args = ["share.mjs", "gateway", &serving.url, &output].map(std::ffi::OsStr::new);
    let read = independent::run(&dir, "node", &args).expect("node was there a moment ago");
    assert!(read.status.success(), "{}", independent::shown(&read));
    let read: Json = serde_json::from_slice(&read.stdout).expect("JSON");
    assert_eq!(read, serde_json::json!({ "blocks": 4, "entries": ["b", "deep", "l"], "probe": ["bafkqaaa"] }));
}
