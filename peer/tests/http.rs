//! The server, asked over a socket by a client that is nothing but text.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use quipu_peer::{ServeError, ServeOptions, Server};
use quipu_store::cid::{BlobId, Codec, InvocationId, Link, TaskId};
use quipu_store::receipt::{Meta, Output, Receipt, Via};
use quipu_store::sign::{SignedReceipt, Signer};
use quipu_store::tree::{Entry, Name, Tree};
use quipu_store::{Blob, Options, Record, SignerSource, Store, Take, car};

const TOKEN: &str = "0123456789abcdef0123";
const RAW: &str = "Accept: application/vnd.ipld.raw\r\n";

/// A server on a thread of its own, until it is dropped.
struct Serving {
    address: SocketAddr,
    store: Store,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    fn new(store: Store, token: Option<&str>) -> Self {
        let share = Arc::new(|_: &Store, signed: &SignedReceipt| signed.receipt.meta.tier == "ns");
        let options = ServeOptions { token: token.map(str::to_owned), share };
        let any = "127.0.0.1:0".parse().expect("is an address");
        let server = Server::bind(store.clone(), any, options).expect("a port is free");
        let address = server.address();
        let (end, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("starts");
            runtime.block_on(server.run(async move { drop(ended.await) })).expect("serves");
            runtime.shutdown_background();
        });
        Self { address, store, end: Some(end), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("can be set");
        stream
    }

    /// Sends text as it is, and reads to the end.
    fn say(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that has refused already does not read on.
        let _ = stream.write_all(request);
        let mut bytes = vec![];
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let host = self.address;
        self.say(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    fn post(&self, body: &str) -> Answer {
        let head = format!("Host: {}\r\nConnection: close\r\nContent-Length: {}", self.address, body.len());
        self.say(format!("POST /quipu/v1/receipts HTTP/1.1\r\n{head}\r\n\r\n{body}").as_bytes())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().expect("is ended once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// All that was announced is there.
    is_whole: bool,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Self {
                status: 0,
                head: String::from_utf8_lossy(bytes).into_owned(),
                body: vec![],
                is_whole: false,
            };
        };
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head is text");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut answer = Self { status, head, body: bytes[end + 4..].to_vec(), is_whole: true };
        if answer.header("transfer-encoding") == Some("chunked") {
            (answer.body, answer.is_whole) = joined(&answer.body);
        } else if let Some(len) = answer.header("content-length") {
            answer.is_whole = len == answer.body.len().to_string();
        }
        for line in answer.head.lines() {
            assert!(!line.to_lowercase().starts_with("access-control-"), "{line}");
        }
        answer
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A body that came in chunks, and whether the last one came.
fn joined(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut all = vec![];
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|t| usize::from_str_radix(t, 16).ok());
        let size = size.expect("a size");
        if size == 0 {
            return (all, true);
        }
        let chunk = &rest[end + 2..];
        all.extend_from_slice(&chunk[..size.min(chunk.len())]);
        rest = chunk.get(size + 2..).unwrap_or_default();
    }
    (all, false)
}

fn memory() -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32]))))
}

/// A directory with a small and a large file.
fn tree(store: &Store) -> (Link, Vec<Link>) {
    let large = vec![7_u8; 700_000];
    let files =
        [&b"small"[..], &large].map(|bytes| (store.put(Codec::Raw, bytes.to_vec()).expect("fits"), bytes.len()));
    let entries = files.iter().enumerate().map(|(i, (link, size))| {
        let blob = BlobId::try_from(*link).expect("raw");
        (Name::new(&format!("f{i}")).expect("a name"), Entry::File { blob, size: *size as u64, exec: false })
    });
    let tree = Tree::new(entries.collect()).expect("is one");
    let root = store.put_tree(&tree).expect("fits").link();
    (root, files.iter().map(|(link, _)| *link).collect())
}

/// A receipt of this task, with a directory as its output.
fn record(store: &Store, task: TaskId, tier: &str, output: Entry) {
    let receipt = Receipt {
        ran: InvocationId::of(task.digest()),
        out: Ok(Output { artifacts: [("out".into(), output)].into(), ..Output::default() }),
        issued_at: 1_700_000_000,
        expires_at: None,
        meta: Meta { settles: [(task, Via::new())].into(), tier: tier.to_owned(), ..Meta::default() },
    };
    store.record(Record { receipt, blocks: vec![], done: Box::new(|_| {}) }).expect("is kept");
    store.flush().expect("is kept");
}

#[test]
fn blocks_come_as_they_are_with_what_the_gateway_form_asks_for() {
    let serving = Serving::new(memory(), None);
    let (root, files) = tree(&serving.store);
    for (link, kind) in [(files[0], "small"), (files[1], "large"), (root, "directory")] {
        let path = format!("/ipfs/{link}?format=raw");
        let got = serving.get(&path);
        assert_eq!((got.status, got.is_whole), (200, true), "{kind}: {}", got.head);
        assert_eq!(Link::of(link.codec, &got.body), link, "{kind}");
        assert_eq!(got.header("content-type"), Some("application/vnd.ipld.raw"), "{kind}");
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(got.header("content-length"), Some(&*got.body.len().to_string()), "{kind}");
        assert_eq!(got.header("etag"), Some(&*format!("\"{link}.raw\"")));
        assert_eq!(got.header("cache-control"), Some("max-age=29030400, immutable"));
        let attachment = format!("attachment; filename=\"{link}.bin\"");
        assert_eq!(got.header("content-disposition"), Some(&*attachment));
        assert_eq!(got.header("x-ipfs-roots"), Some(&*link.to_string()));
        // By header, by HEAD, and once more with what is known.
        assert_eq!(serving.ask("GET", &format!("/ipfs/{link}"), RAW).body, got.body);
        let head = serving.ask("HEAD", &path, "");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(
            (head.header("content-length"), head.header("etag")),
            (got.header("content-length"), got.header("etag"))
        );
        let known = serving.ask("GET", &path, &format!("If-None-Match: \"{link}.raw\"\r\n"));
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
    for (path, status) in [
        (format!("/ipfs/{}?format=raw", BlobId::of(b"not here").link()), 404),
        (format!("/ipfs/{}?format=car", TaskId::of(b"not here").link()), 404),
        (format!("/ipfs/{root}"), 400),
        (format!("/ipfs/{root}?format=tar"), 406),
        ("/ipfs/nonsense?format=raw".into(), 400),
        ("/nowhere".into(), 404),
    ] {
        let got = serving.get(&path);
        assert_eq!((got.status, got.header("cache-control")), (status, Some("no-store")), "{path}");
        assert_eq!(serving.ask("HEAD", &path, "").status, status, "{path}");
    }
    assert_eq!(serving.ask("GET", &format!("/ipfs/{root}"), "Accept: */*\r\n").status, 406);
    assert_eq!((serving.get("/ipfs/bafkqaaa?format=raw").status, serving.get("/").status), (200, 200));
}

#[test]
fn a_car_file_has_the_block_and_all_below_it() {
    let serving = Serving::new(memory(), None);
    let (root, files) = tree(&serving.store);
    let got = serving.get(&format!("/ipfs/{root}?format=car"));
    assert_eq!((got.status, got.is_whole), (200, true), "{}", got.head);
    assert_eq!(got.header("content-type"), Some("application/vnd.ipld.car; version=1; order=dfs; dups=n"));
    let blocks = car::unpack(&got.body[..], u64::MAX).expect("is one");
    let links = [(Codec::DagCbor, 0), (Codec::Raw, 1), (Codec::Raw, 2)].map(|(codec, i)| Link::of(codec, &blocks[i]));
    assert_eq!((links.to_vec(), blocks.len()), (vec![root, files[0], files[1]], 3));
    let alone = serving.get(&format!("/ipfs/{root}?format=car&dag-scope=block"));
    assert_eq!(car::unpack(&alone.body[..], u64::MAX).expect("is one").len(), 1);
    assert_ne!(alone.header("etag"), got.header("etag"));
    let etag = got.header("etag").expect("there").to_owned();
    let known = serving.ask("GET", &format!("/ipfs/{root}?format=car"), &format!("If-None-Match: {etag}\r\n"));
    assert_eq!(known.status, 304);

    // Where something below is not here, what is may not be taken for all of it for ever.
    let blob = BlobId::of(b"elsewhere");
    let entry = Entry::File { blob, size: 9, exec: false };
    let lacking = Tree::new([(Name::new("f").expect("a name"), entry)].into()).expect("is one");
    let lacking = serving.store.put_tree(&lacking).expect("fits").link();
    let path = format!("/ipfs/{lacking}?format=car");
    let got = serving.get(&path);
    assert_eq!((got.status, got.header("cache-control")), (200, Some("no-cache")));
    serving.store.put(Codec::Raw, b"elsewhere".to_vec()).expect("fits");
    let then = serving.ask("GET", &path, &format!("If-None-Match: {}\r\n", got.header("etag").expect("there")));
    assert_eq!((then.status, car::unpack(&then.body[..], u64::MAX).expect("is one").len()), (200, 2));

    let probe = serving.get("/ipfs/bafkqaaa?format=car");
    assert_eq!((probe.status, probe.body.len()), (200, 26));
}

#[test]
fn receipts_are_found_by_task_and_invocation_as_far_as_they_may_leave() {
    let serving = Serving::new(memory(), None);
    let (root, _) = tree(&serving.store);
    let out = Entry::Dir { tree: root.try_into().expect("a directory") };
    let [good, open, hollow, unknown] = [b"good", b"open", b"holl", b"unkn"].map(|n| TaskId::of(n));
    record(&serving.store, good, "ns", out.clone());
    record(&serving.store, open, "none", out);
    record(&serving.store, hollow, "ns", Entry::File { blob: BlobId::of(b"gone"), size: 4, exec: false });
    let receipts = |path: String| -> serde_json::Value {
        let got = serving.get(&path);
        assert_eq!((got.status, got.header("content-type")), (200, Some("application/json")));
        serde_json::from_slice::<serde_json::Value>(&got.body).expect("is JSON")["receipts"].clone()
    };
    let ran = InvocationId::of(good.digest());
    for id in [good.link(), ran.link()] {
        let found = receipts(format!("/quipu/v1/receipts/{id}"));
        assert_eq!(found[0]["tasks"], serde_json::json!([good.to_string()]), "{found}");
        assert_eq!(found.as_array().map(Vec::len), Some(1));
    }
    for id in [open, hollow, unknown] {
        assert_eq!(receipts(format!("/quipu/v1/receipts/{id}")), serde_json::json!([]), "{id}");
    }
    let many = serving.post(&format!("{good}\n{open}\n{hollow}\n{unknown}\n{ran}\n"));
    assert_eq!(many.status, 200, "{}", many.head);
    let envelopes = car::unpack(&many.body[..], u64::MAX).expect("is one");
    let signed = SignedReceipt::verify(&envelopes[0]).expect("is signed");
    assert_eq!((envelopes.len(), signed.receipt.ran), (1, ran), "once, although asked for in two ways");
    assert_eq!(serving.get(&format!("/quipu/v1/receipts/{good}?format=car")).body, many.body);
    assert_eq!((serving.post(&format!("{unknown}\n")).status, serving.post("").status), (204, 204));
    assert_eq!((serving.post("what\n").status, serving.post(&"x\n".repeat(99_999)).status), (400, 413));
}

#[test]
fn a_token_is_asked_for_and_without_one_other_names_of_this_machine_are_refused() {
    assert!(matches!(
        Server::bind(
            memory(),
            "0.0.0.0:0".parse().expect("an address"),
            ServeOptions { token: None, share: Arc::new(|_, _| true) }
        ),
        Err(ServeError::Open(_))
    ));
    let serving = Serving::new(memory(), Some(TOKEN));
    let (root, _) = tree(&serving.store);
    let path = format!("/ipfs/{root}?format=raw");
    for (said, status) in [
        (String::new(), 401),
        ("Authorization: Bearer wrong-wrong-wrong-wrong\r\n".into(), 401),
        (format!("Authorization: Basic {TOKEN}\r\n"), 401),
        (format!("Authorization: Bearer {TOKEN}\r\n"), 200),
    ] {
        let got = serving.ask("GET", &path, &said);
        assert_eq!(got.status, status, "{said}");
        if status == 401 {
            assert_eq!((got.header("www-authenticate"), got.body.len() < 100), (Some("Bearer"), true));
            // Whether something is here is not told either.
            assert_eq!(serving.ask("GET", "/ipfs/nonsense", &said).status, 401);
        } else {
            assert_eq!(got.header("cache-control"), Some("private, max-age=29030400, immutable"));
        }
    }
    assert_eq!(serving.post("").status, 401);

    // A page whose owner has pointed a name at this machine.
    let open = Serving::new(memory(), None);
    for host in ["evil.example.com", "evil.example.com:4610", "127.0.0.1.evil.example.com", ""] {
        let got = open.say(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(got.status, 421, "{host}");
    }
    assert_eq!(open.say(b"GET / HTTP/1.0\r\n\r\n").status, 421);
    // What a page of somebody else asks for is answered, but not in a way that the page may read: see `Answer::parse`.
    assert_eq!(open.ask("GET", "/", "Origin: https://evil.example.com\r\n").status, 200);
    assert_eq!(open.ask("OPTIONS", "/", "Origin: https://evil.example.com\r\n").status, 405);
    assert_eq!(open.ask("DELETE", "/", "").header("allow"), Some("GET, HEAD"));
}

#[test]
fn damaged_content_is_not_given_to_its_end_and_is_gone_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new(SignerSource::Fixed(Signer::from_secret(&[1; 32])));
    let store = Store::open(&dir.path().join("store"), options).expect("opens");
    let from = dir.path().join("file");
    std::fs::write(&from, vec![3; 500_000]).expect("is written");
    let (id, size) = store.put_file(&from, Take::Copy).expect("is kept");
    store.flush().expect("is kept");
    let Some(Blob::File { path, .. }) = store.blob(id).expect("reads") else { panic!("is a file") };
    let mut damaged = std::fs::read(&path).expect("reads");
    damaged[10] ^= 1;
    let mut permissions = std::fs::metadata(&path).expect("is there").permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file of this test")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).expect("own file");
    std::fs::write(&path, damaged).expect("own file");
    let serving = Serving::new(store, None);
    let asked = format!("/ipfs/{id}?format=raw");
    let got = serving.get(&asked);
    assert_eq!((got.status, got.header("content-length")), (200, Some(&*size.to_string())));
    assert!(!got.is_whole && (got.body.len() as u64) < size, "{} bytes", got.body.len());
    assert_eq!(serving.get(&asked).status, 404);
}

#[test]
fn rubbish_and_idle_clients_keep_nobody_from_being_answered() {
    let serving = Serving::new(memory(), None);
    let (_, files) = tree(&serving.store);
    // Some say nothing, some begin and stop, some take nothing of what they asked for.
    let mut idle = vec![];
    for text in ["", "GET / HT", "POST /quipu/v1/receipts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"] {
        for _ in 0..8 {
            let mut stream = serving.connect();
            stream.write_all(text.as_bytes()).expect("is taken");
            idle.push(stream);
        }
    }
    for _ in 0..8 {
        let mut stream = serving.connect();
        let request = format!("GET /ipfs/{}?format=raw HTTP/1.1\r\nHost: localhost\r\n\r\n", files[1]);
        stream.write_all(request.as_bytes()).expect("is taken");
        idle.push(stream);
    }
    for rubbish in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /quipu/v1/receipts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /quipu/v1/receipts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let got =
            serving.say(&[rubbish, b"GET /gone HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"].concat());
        assert!(got.status == 0 || (400..600).contains(&got.status), "{}", got.head);
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    assert!(matches!(serving.say(long.as_bytes()).status, 0 | 414 | 431));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(5_000));
    assert!(matches!(serving.say(many.as_bytes()).status, 0 | 431));
    assert_eq!(serving.get("/").status, 200);
    drop(idle);
}
