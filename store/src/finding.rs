//! What may be found wrong in a store: each with the thing, and what is or can be done about it.
//!
//! Knows the text; unaware of how a finding is come by (see [`crate::Store::verify`]).

use std::fmt;
use std::path::PathBuf;

use crate::cid::{Link, ReceiptId, TaskId};

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A block's bytes are not those of its id.
    CorruptBlock {
        /// The block.
        link: Link,
        /// Where its bytes were put, when they were in a file.
        moved_to: Option<PathBuf>,
    },
    /// The index names a file that is not there.
    MissingFile {
        /// The block.
        link: Link,
    },
    /// A file has another size than the index says.
    WrongSize {
        /// The block.
        link: Link,
        /// What the index says.
        expected_bytes: u64,
        /// What the file has.
        found_bytes: u64,
    },
    /// A receipt's bytes are not those of its id, or its signature does not verify.
    CorruptReceipt {
        /// The receipt.
        id: ReceiptId,
        /// What is wrong.
        why: String,
    },
    /// A row names a receipt that is not here.
    DanglingRow {
        /// Which table.
        table: &'static str,
        /// The receipt it names.
        receipt: ReceiptId,
    },
    /// A receipt lacks a row by which it would be found.
    MissingRow {
        /// Which table.
        table: &'static str,
        /// The receipt.
        receipt: ReceiptId,
    },
    /// A row's checksum is wrong.
    BadRow {
        /// Which table.
        table: &'static str,
        /// Its key, the first bytes in hexadecimal.
        key: String,
    },
    /// The accepted receipt of a task is no receipt that settles it with that output.
    BadAccepted {
        /// The task.
        task: TaskId,
        /// The receipt.
        receipt: ReceiptId,
    },
    /// Some of what a receipt names is not here. Not damage: it runs again when its bytes are needed.
    Hollow {
        /// The receipt.
        receipt: ReceiptId,
        /// How many blocks are missing.
        missing: usize,
        /// One of them.
        first: Link,
    },
    /// Receipts made elsewhere came with all they name but what was printed, which is shared by choice. Not damage.
    WithoutLogs {
        /// How many.
        receipts: usize,
        /// One of them.
        first: ReceiptId,
    },
    /// A file in `blobs/` that the index does not know.
    Orphan {
        /// The file.
        path: PathBuf,
    },
    /// A temporary file or directory of a process that is gone.
    Leftover {
        /// The file or directory.
        path: PathBuf,
    },
    /// A journal segment is damaged before its end: the index could not be rebuilt entirely from it.
    BadSegment {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset_bytes: u64,
    },
    /// Something is in the index and in no journal segment: rebuilding would lose it.
    NotInJournal {
        /// What it is.
        what: String,
    },
    /// The store is on a file system whose locks and syncs may promise less than it relies on.
    Network {
        /// Its kind.
        kind: &'static str,
        /// The store.
        dir: PathBuf,
    },
    /// The index's own structure is damaged.
    Index {
        /// What is wrong.
        why: String,
    },
}

impl Finding {
    /// Whether it is damage. The others are states a sound store may be in.
    pub fn is_damage(&self) -> bool {
        !matches!(
            self,
            Self::Hollow { .. }
                | Self::WithoutLogs { .. }
                | Self::Orphan { .. }
                | Self::Leftover { .. }
                | Self::Network { .. }
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CorruptBlock { link, moved_to: Some(path) } => {
                write!(f, "{link}: bytes do not match the id; set aside as `{}`, it counts as absent", path.display())
            }
            Self::CorruptBlock { link, moved_to: None } => {
                write!(
                    f,
                    "{link}: bytes do not match the id; it counts as absent, and what made it runs again when needed"
                )
            }
            Self::MissingFile { link } => write!(f, "{link}: its file is gone; `--repair` forgets it"),
            Self::WrongSize { link, expected_bytes, found_bytes } => {
                write!(
                    f,
                    "{link}: its file has {found_bytes} bytes instead of {expected_bytes}; `--repair` sets it aside"
                )
            }
            Self::CorruptReceipt { id, why } => write!(f, "receipt {id}: {why}; `--repair` drops it"),
            Self::DanglingRow { table, receipt } => {
                write!(f, "a row of `{table}` names receipt {receipt}, which is not here; `--repair` drops the row")
            }
            Self::MissingRow { table, receipt } => {
                write!(f, "receipt {receipt} has no row in `{table}`; `--repair` adds it")
            }
            Self::BadRow { table, key } => write!(f, "row {key} of `{table}` is damaged; `--repair` drops it"),
            Self::BadAccepted { task, receipt } => {
                write!(
                    f,
                    "task {task} is settled by receipt {receipt}, which does not say so; `--repair` drops the row"
                )
            }
            Self::Hollow { receipt, missing, first } => match missing {
                1 => write!(f, "receipt {receipt} is hollow: block {first} is not here"),
                _ => write!(f, "receipt {receipt} is hollow: {missing} blocks are not here, {first} among them"),
            },
            Self::WithoutLogs { receipts, first } => {
                let receipts = if *receipts == 1 { "1 receipt".to_owned() } else { format!("{receipts} receipts") };
                write!(f, "{receipts} made elsewhere came without logs, {first} among them; nothing else is missing")
            }
            Self::Orphan { path } => write!(f, "`{}` is in no index; `quipu gc` deletes it", path.display()),
            Self::Leftover { path } => {
                write!(f, "`{}` was left by a process that is gone; `quipu gc` deletes it", path.display())
            }
            Self::BadSegment { path, offset_bytes } => {
                write!(f, "`{}` is damaged at byte {offset_bytes}; `--repair` writes the journal anew", path.display())
            }
            Self::NotInJournal { what } => {
                write!(f, "{what} is in no journal segment; `--repair` writes the journal anew")
            }
            Self::Network { kind, dir } => {
                write!(
                    f,
                    "the store `{}` is on a network file system ({kind}), where locks and syncs promise less; \
                     name a local directory with `QUIPU_STORE`",
                    dir.display()
                )
            }
            Self::Index { why } => {
                write!(f, "the index cannot be read ({why}); `--repair` moves it aside and rebuilds it")
            }
        }
    }
}
