//! Observers that people and programs read: lines, a live terminal, JSON.
//!
//! All made of the one stream of events; unaware of how work is done.

mod json;
mod live;
mod plain;

use std::sync::Arc;

use quipu_runtime::observe::{Observer, Observers, RunEvent};

use crate::cli::RunArgs;
use crate::settings;

/// The observer that fits where the output goes.
pub(crate) fn of(args: &RunArgs) -> Arc<dyn Observer> {
    if args.json {
        Arc::new(json::Json)
    } else if !args.quiet && settings::stderr_is_live() {
        Arc::new(live::Live::new())
    } else {
        Arc::new(plain::Plain::new(args.quiet))
    }
}

/// Says that a file which was in the way is kept in the store.
pub(crate) fn kept(observers: &Observers, kept: &[(String, quipu_store::tree::Entry)]) {
    for (path, entry) in kept {
        let cid = match entry {
            quipu_store::tree::Entry::File { blob, .. } => blob.to_string(),
            quipu_store::tree::Entry::Dir { tree } => tree.to_string(),
            quipu_store::tree::Entry::Symlink { target } => format!("a link to {target}"),
        };
        observers.on(0, &RunEvent::Kept { path: path.clone(), cid });
    }
}

/// A duration as people say it.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=59_999 => format!("{}.{:01} s", ms / 1000, ms % 1000 / 100),
        60_000..=3_599_999 => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {:02} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Text for a terminal or log: control characters that could move the cursor or recolour what follows are
/// shown, not sent.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c {
            '\n' | '\t' => vec![c],
            '\r' => vec![],
            c if c.is_control() => c.escape_default().collect(),
            c => vec![c],
        })
        .collect()
}
