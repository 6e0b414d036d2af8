//! What can go wrong with a fetch, and whether another attempt is worth it.

use std::io;

use quipu_runtime::fetch::Sum;
use quipu_store::{CommitError, StoreError};

use crate::unpack::UnpackError;

/// Why one place did not give the content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It gave something else.
    #[error("its content is {got}, and {expected} was expected")]
    Wrong {
        /// What was asked for.
        expected: Sum,
        /// What came.
        got: Sum,
    },
    /// It answered with a status that is no success.
    #[error("the answer has status {0}")]
    Status(u16),
    /// It sends more than there may be.
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    /// The answer ended early, or came to a standstill.
    #[error("{0}")]
    Cut(io::Error),
    /// It cannot be reached, or its answer makes no sense.
    #[error("{0}")]
    Http(String),
    /// It is not who it should be, or nobody we believe says so.
    #[error("its certificate is refused: {0}; `SSL_CERT_FILE` names a file of those to believe")]
    Certificate(String),
    /// Nothing that can be read from.
    #[error("{0}")]
    File(io::Error),
    /// Not a kind of address there is.
    #[error("{0}")]
    Address(&'static str),
}

impl Problem {
    /// Whether asking again may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Cut(_) | Self::Http(_) => true,
            Self::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Wrong { .. } | Self::TooLarge(_) | Self::Certificate(_) | Self::File(_) | Self::Address(_) => false,
        }
    }
}

/// Why content is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody said where it is.
    #[error("{0} is not in the store, and nobody says where it is to be had")]
    Nowhere(Sum),
    /// None of the places gave it.
    #[error("{}", listed(.0))]
    Failed(Vec<(String, Problem)>),
    /// It was not waited for.
    #[error("it was stopped")]
    Stopped,
    /// It cannot be written down on its way.
    #[error("it cannot be written to the store: {0}")]
    Io(#[from] io::Error),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not keep it.
    #[error("it was not kept: {0}")]
    Commit(#[from] CommitError),
    /// It cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

fn listed(problems: &[(String, Problem)]) -> String {
    let all: Vec<String> = problems.iter().map(|(url, problem)| format!("`{url}`: {problem}")).collect();
    all.join("; ")
}
