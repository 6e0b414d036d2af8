//! A proxy on loopback that does to connections what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What happens to bytes on their way; counted over all connections, from the server's side unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Connections are taken and nothing ever comes.
    Blackhole,
    /// One byte a second.
    Drip,
    /// After so many bytes nothing comes any more.
    Stall(u64),
    /// After so many bytes every connection is closed.
    Cut(u64),
    /// The byte at this place is another one.
    Flip(u64),
    /// After so many bytes from the client every connection is closed.
    CutUpload(u64),
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    over: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn start(server: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = listener.local_addr().expect("it is bound").port();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let (down, up) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let both = |s: &TcpStream| s.try_clone().expect("a descriptor");
                let upload = if let Fault::CutUpload(n) = fault { Fault::Cut(n) } else { Fault::None };
                let upload = if fault == Fault::Blackhole { fault } else { upload };
                let (c, s, count, over) = (both(&client), both(&server), Arc::clone(&up), Arc::clone(&ended));
                std::thread::spawn(move || copy(c, s, upload, &count, &over));
                let (count, over) = (Arc::clone(&down), Arc::clone(&ended));
                std::thread::spawn(move || copy(server, client, fault, &count, &over));
            }
        });
        Self { port, over }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the listener up to see it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, fault: Fault, count: &AtomicU64, over: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    let hang = || {
        while !over.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let before = count.fetch_add(n as u64, Ordering::AcqRel);
        let until = |k: u64| usize::try_from(k.saturating_sub(before)).map_or(n, |k| k.min(n));
        let bytes = &mut buffer[..n];
        let sent = match fault {
            Fault::None | Fault::CutUpload(_) => to.write_all(bytes),
            Fault::Blackhole => {
                hang();
                break;
            }
            Fault::Drip => bytes.iter().try_for_each(|byte| {
                std::thread::sleep(Duration::from_secs(1));
                if over.load(Ordering::Acquire) {
                    Err(std::io::ErrorKind::Other.into())
                } else {
                    to.write_all(&[*byte])
                }
            }),
            Fault::Stall(k) => {
                let sent = to.write_all(&bytes[..until(k)]);
                if until(k) < n {
                    hang();
                    break;
                }
                sent
            }
            Fault::Cut(k) => {
                let sent = to.write_all(&bytes[..until(k)]);
                if until(k) < n {
                    break;
                }
                sent
            }
            Fault::Flip(k) => {
                if (before..before + n as u64).contains(&k) {
                    bytes[until(k)] ^= 0x20;
                }
                to.write_all(bytes)
            }
        };
        if sent.is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
