//! A server in front of a real one that goes wrong at one kind of question, in one way.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Receipts are read.
    Lookup,
    /// Blocks are read.
    Fetch,
    /// Something is looked at or put.
    Push,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ill {
    Status(u16),
    /// 503, for so many seconds as it says, and in truth only once.
    Busy(u64),
    Silent,
    Flip,
    Short,
    Long,
    Mixed,
    Break,
    Nonsense,
    /// An answer of many gigabytes, as it says.
    Huge,
}

/// A running server. Ends with the test.
pub(crate) struct Double {
    pub(crate) port: u16,
    state: Arc<State>,
}

/// What all connections know.
#[derive(Default)]
struct State {
    over: AtomicBool,
    /// What goes wrong, if anything does.
    wrong: Option<(Verb, Ill)>,
    /// Questions of that kind.
    asked: AtomicUsize,
    /// What somebody else writes the moment before we write under the same key.
    others: Mutex<HashMap<String, Vec<u8>>>,
    /// How often that made the server refuse what we write.
    overtakes: AtomicUsize,
}

impl Double {
    pub(crate) fn start(server: u16, verb: Verb, ill: Ill) -> Self {
        Self::with(server, State { wrong: Some((verb, ill)), ..State::default() })
    }

    /// One where others write first, once under each of their keys.
    pub(crate) fn overtaken(server: u16, others: HashMap<String, Vec<u8>>) -> Self {
        Self::with(server, State { others: Mutex::new(others), ..State::default() })
    }

    fn with(server: u16, state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = listener.local_addr().expect("it is bound").port();
        let double = Self { port, state: Arc::new(state) };
        let state = Arc::clone(&double.state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.over.load(Ordering::Acquire) {
                    return;
                }
                let state = Arc::clone(&state);
                std::thread::spawn(move || drop(serve(client, server, &state)));
            }
        });
        double
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn overtakes(&self) -> usize {
        self.state.overtakes.load(Ordering::SeqCst)
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Release);
        // Wakes the listener up to see it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Reads up to the end of a head; says where that is.
fn head(from: &mut TcpStream, all: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut part = [0; 4096];
    loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            return Ok(end + 4);
        }
        match from.read(&mut part)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => all.extend_from_slice(&part[..n]),
        }
    }
}

fn length(head: &str) -> usize {
    let line = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// One question on each connection.
fn serve(mut client: TcpStream, server: u16, state: &State) -> std::io::Result<()> {
    let mut request = vec![];
    let end = head(&mut client, &mut request)?;
    let text = String::from_utf8_lossy(&request[..end]).into_owned();
    let body = end + length(&text);
    while request.len() < body {
        let mut part = vec![0; 64 << 10];
        match client.read(&mut part)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&part[..n]),
        }
    }
    let of = match (text.starts_with("GET"), text.contains("/receipts-1/")) {
        (true, true) => Verb::Lookup,
        (true, false) => Verb::Fetch,
        (false, _) => Verb::Push,
    };
    let wrong = state.wrong.filter(|(verb, _)| *verb == of);
    let before = if wrong.is_some() { state.asked.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let ill = wrong.map(|(_, ill)| ill).filter(|ill| !(matches!(ill, Ill::Busy(_)) && before > 0));
    let error = |status: u16, more: &str| {
        let body = "<Error><Code>Ill</Code><Message>so it is</Message></Error>";
        format!("HTTP/1.1 {status} Ill\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n{body}", body.len())
    };
    match ill {
        Some(Ill::Status(status)) => return client.write_all(error(status, "").as_bytes()),
        Some(Ill::Busy(seconds)) => {
            return client.write_all(error(503, &format!("Retry-After: {seconds}\r\n")).as_bytes());
        }
        Some(Ill::Silent) => {
            while !state.over.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(20));
            }
            return Ok(());
        }
        Some(Ill::Nonsense) => return client.write_all(b"\x16\x03\x01 what?\r\n\r\n"),
        Some(Ill::Huge) => {
            let head = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nLast-Modified: Sun, 22 Nov 2026 12:00:00 GMT\r\n\
                        Content-Length: 99999999999\r\nConnection: close\r\n\r\n";
            client.write_all(head.as_bytes())?;
            return client.write_all(&vec![b'x'; 3 << 20]);
        }
        _ => {}
    }
    let key = text.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.split_once('/')).map(|(_, key)| key);
    let first = key
        .filter(|_| text.starts_with("PUT"))
        .and_then(|key| state.others.lock().unwrap_or_else(PoisonError::into_inner).remove(key));
    if let Some(theirs) = &first {
        // Without a condition.
        let heads = text.lines().filter(|l| {
            let line = l.to_ascii_lowercase();
            !line.is_empty() && !line.starts_with("if-") && !line.starts_with("content-length:")
        });
        let head = heads.collect::<Vec<_>>().join("\r\n");
        forward(server, &[format!("{head}\r\nContent-Length: {}\r\n\r\n", theirs.len()).as_bytes(), theirs].concat())?;
    }
    let mut answer = forward(server, &request)?;
    if first.is_some() && answer.get(9..12) == Some(b"412") {
        state.overtakes.fetch_add(1, Ordering::SeqCst);
    }
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let ok = answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.0 200");
    let last = answer.len().saturating_sub(1);
    match ill.filter(|_| ok) {
        Some(Ill::Flip) if at <= last => answer[(at + last) / 2] ^= 0x20,
        Some(Ill::Short) => answer.truncate(last.max(at)),
        Some(Ill::Long | Ill::Mixed) => {
            let more = if ill == Some(Ill::Long) { &b"more"[..] } else { b"" };
            let body: Vec<u8> = answer[at..].iter().rev().chain(more).copied().collect();
            let head = String::from_utf8_lossy(&answer[..at]).into_owned();
            let keep = head.trim_end().lines().filter(|l| !l.to_ascii_lowercase().starts_with("content-length:"));
            let keep = keep.collect::<Vec<_>>().join("\r\n");
            answer = format!("{keep}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            answer.extend(body);
        }
        Some(Ill::Break) => answer.truncate(at / 2),
        _ => {}
    }
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Both)
}

/// What the real one says; it ends the connection then.
fn forward(server: u16, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    upstream.write_all(request)?;
    let mut answer = vec![];
    upstream.read_to_end(&mut answer)?;
    Ok(answer)
}
