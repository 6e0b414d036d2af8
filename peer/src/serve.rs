//! The server: connections, how many, how long, and who may ask.
//!
//! Unaware of what is answered.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use quipu_store::Store;
use quipu_store::cid::BlobId;
use quipu_store::sign::SignedReceipt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::answer::{Desk, REQUEST_TIME, answer};
use crate::patience::Patient;
use crate::shelf::Shelf;

/// Connections at once; others wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take nothing of what it asked for.
const STALL: Duration = Duration::from_secs(30);
/// How long a connection may last, whatever happens on it.
const LIFE: Duration = Duration::from_secs(3600);
/// How long answers on their way are waited for at the end.
const GRACE: Duration = Duration::from_secs(5);
/// A line of a request with its headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Says whether a receipt may leave the store.
pub type Share = Arc<dyn Fn(&Store, &SignedReceipt) -> bool + Send + Sync>;

/// Who may ask, and for what.
pub struct ServeOptions {
    /// What has to be shown by who asks. Without one only this machine is listened to.
    pub token: Option<String>,
    /// Which receipts are given.
    pub share: Share,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address that others reach.
    #[error("`{0}` can be reached from other machines: a token is needed")]
    Open(SocketAddr),
    /// A token that no header takes, or that is guessed too easily.
    #[error("a token has 16 to 1024 letters, digits or signs, and no blanks")]
    Token,
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What who asks has to show. Kept and compared as a hash: how long a comparison takes tells nothing.
pub(crate) struct Token(BlobId);

impl Token {
    fn new(text: &str) -> Result<Self, ServeError> {
        let good = (16..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if good { Ok(Self(BlobId::of(text.as_bytes()))) } else { Err(ServeError::Token) }
    }

    /// Whether an `Authorization` header shows it.
    pub(crate) fn is_shown_by(&self, header: &str) -> bool {
        let Some((scheme, text)) = header.split_once(' ') else { return false };
        scheme.eq_ignore_ascii_case("bearer") && BlobId::of(text.trim().as_bytes()) == self.0
    }
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    desk: Arc<Desk>,
}

impl Server {
    /// Listens on an address; port 0 is any that is free.
    pub fn bind(store: Store, address: SocketAddr, options: ServeOptions) -> Result<Self, ServeError> {
        let token = options.token.as_deref().map(Token::new).transpose()?;
        if token.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::Open(address));
        }
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let desk = Arc::new(Desk { shelf: Shelf { store, share: options.share }, token });
        Ok(Self { listener, address, desk })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` ends, and a moment longer what was asked before.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (end, ended) = tokio::sync::watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let place = tokio::select! {
                () = &mut stop => break,
                place = Arc::clone(&places).acquire_owned() => place.expect("never closed"),
            };
            let stream = tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Too many files, or a client that went away: neither is a reason to end.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            while connections.try_join_next().is_some() {}
            let (desk, mut ended) = (Arc::clone(&self.desk), ended.clone());
            connections.spawn(async move {
                let _place = place;
                let _ = stream.set_nodelay(true);
                let io = TokioIo::new(Patient::new(stream, STALL));
                let service = service_fn(move |request| answer(Arc::clone(&desk), request));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_TIME)
                    .max_buf_size(MAX_HEAD_BYTES)
                    .serve_connection(io, service);
                tokio::pin!(connection);
                // What goes wrong on a connection is its client's to notice.
                let served = tokio::time::timeout(LIFE, async {
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        _ = ended.changed() => connection.as_mut().graceful_shutdown(),
                    }
                    let _ = connection.await;
                });
                let _ = served.await;
            });
        }
        let _ = end.send(true);
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_shown_in_one_way() {
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcd\n0", &"x".repeat(2000)] {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
        let token = Token::new("0123456789abcdef").expect("is good");
        assert!(token.is_shown_by("Bearer 0123456789abcdef") && token.is_shown_by("bearer  0123456789abcdef"));
        for bad in ["", "0123456789abcdef", "Basic 0123456789abcdef", "Bearer 0123456789abcdeF", "Bearer"] {
            assert!(!token.is_shown_by(bad), "{bad}");
        }
    }
}
