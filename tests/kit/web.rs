//! A small HTTP server on loopback that tests tell what to answer, and that says what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
#[cfg(feature = "https")]
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long an answer is held back at most: then it is an error, and the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is answered at a path.
#[derive(Clone, Default)]
pub(crate) struct Page {
    /// The content.
    pub(crate) body: Vec<u8>,
    /// This many answers have this status, and no content.
    pub(crate) failures: (u32, u16),
    /// This many answers end in the middle of the content.
    pub(crate) cuts: u32,
    /// No answer before this many requests, for whatever, are open at once.
    pub(crate) open: usize,
    /// No answer before the server is told to.
    pub(crate) held: bool,
}

impl Page {
    pub(crate) fn new(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }
}

#[derive(Default)]
struct State {
    pages: BTreeMap<String, Page>,
    asked: Vec<String>,
    open: usize,
    most_open: usize,
    released: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
    /// With what it says who it is, if it does.
    #[cfg(feature = "https")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Shared {
    fn new<const N: usize>(pages: [(&str, Page); N]) -> Self {
        let state = State { pages: pages.map(|(path, page)| (path.to_owned(), page)).into(), ..State::default() };
        Self { state: state.into(), ..Self::default() }
    }

    /// Answers who is at the other end.
    fn greet(&self, mut stream: TcpStream) {
        #[cfg(feature = "https")]
        if let Some(tls) = &self.tls {
            let connection = rustls::ServerConnection::new(Arc::clone(tls)).expect("a good configuration");
            let mut stream = rustls::StreamOwned::new(connection, stream);
            answer(self, &mut stream);
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = stream.sock.shutdown(Shutdown::Both);
            return;
        }
        answer(self, &mut stream);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Ends with the test.
pub(crate) struct Web {
    port: u16,
    shared: Arc<Shared>,
}

impl Web {
    /// A server with these pages.
    pub(crate) fn start<const N: usize>(pages: [(&str, Page); N]) -> Self {
        Self::serve(Shared::new(pages))
    }

    /// One that speaks TLS, with this certificate of those that the tests of servers have.
    #[cfg(feature = "https")]
    pub(crate) fn secure<const N: usize>(certificate: &str, pages: [(&str, Page); N]) -> Self {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let chain = CertificateDer::pem_file_iter(self::certificate(certificate)).expect("is there");
        let chain = chain.map(|one| one.expect("is one")).collect();
        let key = PrivateKeyDer::from_pem_file(self::certificate("key")).expect("is one");
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions();
        let config = config.expect("are known").with_no_client_auth().with_single_cert(chain, key).expect("is its key");
        Self::serve(Shared { tls: Some(Arc::new(config)), ..Shared::new(pages) })
    }

    fn serve(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = listener.local_addr().expect("it has one").port();
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || shared.greet(stream));
            }
        });
        Self { port, shared }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Requests in the order in which they came, each as path and, after a blank, the part that was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.state().asked.clone()
    }

    /// How many requests were open at once.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.state().most_open
    }

    /// Answers what was held back.
    pub(crate) fn release(&self) {
        self.shared.state().released = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.release();
        // So that it looks.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Where a certificate of the tests of servers is, or the key of all of them.
#[cfg(feature = "https")]
pub(crate) fn certificate(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("remote/tests/tls/{name}.pem"))
}

fn answer(shared: &Shared, stream: &mut (impl Read + Write)) {
    let mut from = BufReader::new(&mut *stream);
    let mut lines = from.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let head: Vec<String> = lines.map(|line| line.to_lowercase()).collect();
    let field = |name: &str| head.iter().rev().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let sent: u64 = field("content-length: ").and_then(|n| n.parse().ok()).unwrap_or(0);
    // What is sent is read: a connection that is closed before is broken for the other side.
    let _ = std::io::copy(&mut from.take(sent), &mut std::io::sink());
    let range = field("range: ");
    let from = range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let page = {
        let mut state = shared.state();
        state.asked.push(range.map_or(path.clone(), |range| format!("{path} {range}")));
        state.open += 1;
        state.most_open = state.most_open.max(state.open);
        shared.changed.notify_all();
        let page = state.pages.get(&path).cloned();
        if let Some(known) = state.pages.get_mut(&path) {
            known.failures.0 = known.failures.0.saturating_sub(1);
            if known.failures.0 == 0 && page.as_ref().is_some_and(|p| p.failures.0 == 0) {
                known.cuts = known.cuts.saturating_sub(1);
            }
        }
        let (open, held) = page.as_ref().map_or((0, false), |p| (p.open, p.held));
        let waits = |state: &mut State| state.most_open < open || (held && !state.released);
        let (_state, late) =
            shared.changed.wait_timeout_while(state, PATIENCE, waits).unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() { None } else { page }
    };
    let mut say = |status: u16, more: &str, body: &[u8], whole: usize| {
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {whole}\r\nConnection: close\r\n{more}\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    match page {
        None => say(404, "", b"", 0),
        Some(Page { failures: (1.., status), .. }) => say(status, "", b"", 0),
        Some(page) => {
            let from = from.filter(|from| *from < page.body.len());
            let body = &page.body[from.unwrap_or(0)..];
            let sent = if page.cuts > 0 { body.len() / 2 } else { body.len() };
            let total = page.body.len();
            let part = from.map(|from| format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1));
            say(if part.is_some() { 206 } else { 200 }, &part.unwrap_or_default(), &body[..sent], body.len());
        }
    }
    shared.state().open -= 1;
}
