//! One look at a server: whether it takes connections, and what it answers.
//!
//! Knows addresses and sockets; unaware of how often one looks and of what for.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::wait::http_parts;

/// Bytes of an answer that are read: its first line is enough.
const ANSWER_BYTES: usize = 64;

/// Makes sockets for an address, in the network one looks from.
pub(super) type Sockets<'a> = &'a (dyn Fn(&SocketAddr) -> io::Result<TcpSocket> + Send + Sync);

/// Sockets in the network of the machine.
pub(super) fn of_machine(address: &SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// A connection to `host:port`, by the first of its addresses that takes one.
pub(super) async fn connect(address: &str, sockets: Sockets<'_>) -> Option<TcpStream> {
    for address in tokio::net::lookup_host(address).await.ok()? {
        let Ok(socket) = sockets(&address) else { continue };
        if let Ok(stream) = socket.connect(address).await {
            return Some(stream);
        }
    }
    None
}

/// The status code of the answer to a request.
pub(super) async fn status(url: &str, sockets: Sockets<'_>) -> Option<u16> {
    let (host, port, path) = http_parts(url)?;
    let mut stream = connect(&format!("{host}:{port}"), sockets).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    stream.take(ANSWER_BYTES as u64).read_to_end(&mut answer).await.ok()?;
    let line = answer.split(|b| *b == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}
