//! Bodies of answers: bytes at hand, or parts as a thread reads them. A part that turns out false ends the connection.
//!
//! Unaware of what is sent.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes in a part.
pub(crate) const PART_BYTES: usize = 128 << 10;
/// Parts that are read ahead of the wire.
const AHEAD: usize = 4;

/// The body could not be sent to its end.
#[derive(Debug, thiserror::Error)]
#[error("the answer could not be given to its end")]
pub(crate) struct Cut;

/// A body.
pub(crate) enum Body {
    /// At hand.
    Whole(Bytes),
    /// On its way; with the bytes that are left, where that is known.
    Parts { parts: mpsc::Receiver<Result<Bytes, Cut>>, left: Option<u64> },
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// A body that `fill` writes, on a thread that may wait.
    pub(crate) fn written(
        len: Option<u64>,
        fill: impl FnOnce(&mut Sender) -> Result<(), Cut> + Send + 'static,
    ) -> Self {
        let (sender, parts) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut to = Sender { to: sender, part: Vec::with_capacity(PART_BYTES) };
            let filled = fill(&mut to).and_then(|()| to.flush().map_err(|_| Cut));
            if let Err(cut) = filled {
                // A reader that is gone does not mind.
                let _ = to.to.blocking_send(Err(cut));
            }
        });
        Self::Parts { parts, left: len }
    }
}

/// Where a thread writes a body to. What is in its last part is sent with `flush` and not before.
pub(crate) struct Sender {
    to: mpsc::Sender<Result<Bytes, Cut>>,
    part: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full part waits for the next byte: so a sender can still take back the last one.
        if self.part.len() == PART_BYTES {
            self.flush()?;
        }
        let n = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.to.blocking_send(Ok(part.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Parts { parts, left } => parts.poll_recv(context).map(|part| match part {
                Some(Ok(bytes)) => {
                    *left = left.map(|n| n.saturating_sub(bytes.len() as u64));
                    Some(Ok(Frame::data(bytes)))
                }
                Some(Err(cut)) => Some(Err(cut)),
                None if left.is_some_and(|n| n > 0) => Some(Err(Cut)),
                None => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Parts { left: Some(n), .. } => SizeHint::with_exact(*n),
            Self::Parts { .. } => SizeHint::default(),
        }
    }
}
