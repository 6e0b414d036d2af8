//! How often a store did what: tests assert on these where others would measure time.
//!
//! Counts only; unaware of what is counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a store did since it was opened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counting {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counting {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Questions whether a block is here.
    has,
    /// Blocks read.
    gets,
    /// Bytes of blocks read.
    get_bytes,
    /// Blocks that were new and taken.
    puts,
    /// Bytes of those.
    put_bytes,
    /// Tasks, invocations and receipts looked up.
    lookups,
    /// Read transactions of the index.
    reads,
    /// Files moved into `blobs/`.
    files_written,
    /// Receipts signed.
    signatures,
    /// Durable commits of the index.
    commits,
    /// `syncfs` calls.
    syncs,
    /// Bytes appended to the journal.
    journal_bytes,
    /// Times the index was opened for writing.
    writer_opens,
}

impl Counting {
    pub(crate) fn has(&self) {
        self.has.fetch_add(1, Relaxed);
    }

    pub(crate) fn get(&self, bytes: u64) {
        self.gets.fetch_add(1, Relaxed);
        self.get_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn put(&self, bytes: u64) {
        self.puts.fetch_add(1, Relaxed);
        self.put_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn lookups(&self, count: u64) {
        self.lookups.fetch_add(count, Relaxed);
    }
}

impl Counters {
    /// Whether anything was written to disk.
    pub const fn wrote(&self) -> bool {
        self.files_written + self.commits + self.syncs + self.journal_bytes + self.writer_opens > 0
    }
}
