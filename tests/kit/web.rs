//! A small HTTP server on loopback that tests tell what to answer, and that says what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
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

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

impl Shared {
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
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = listener.local_addr().expect("it has one").port();
        let state = State { pages: pages.map(|(path, page)| (path.to_owned(), page)).into(), ..State::default() };
        let shared = Arc::new(Shared { state: state.into(), changed: Condvar::new(), ended: false.into() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || answer(&shared, &stream));
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

fn answer(shared: &Shared, stream: &TcpStream) {
    let mut from = BufReader::new(stream);
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
    let mut stream = stream;
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
    let _ = stream.shutdown(Shutdown::Both);
    shared.state().open -= 1;
}
