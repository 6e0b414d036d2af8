//! `quipu gc`: deletes from the store what is old or too much, logs of runs included.

use std::time::{SystemTime, UNIX_EPOCH};

use quipu_store::{GcOptions, GcStats};
use serde_json::json;

use super::{Context, print, print_json, runs};
use crate::cli::GcArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::quantity::size;
use crate::render::count;

/// Collects.
pub(super) fn gc(context: &Context, args: &GcArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let options =
        GcOptions { max_age: args.max_age, max_bytes: args.max_size, dry_run: args.dry_run, ..GcOptions::new(now) };
    let stats = settings.open_store()?.gc(&options)?;
    let (logs, log_bytes) = runs::prune(&settings.store.join("runs"), args.max_age, args.dry_run)?;
    if args.json {
        return print_json(&json!({
            "dry_run": args.dry_run,
            "deleted": { "receipts": stats.deleted_receipts, "blocks": stats.deleted_blocks,
                "bytes": stats.deleted_bytes, "leftovers": stats.deleted_leftovers,
                "logs": logs, "log_bytes": log_bytes },
            "kept": { "receipts": stats.kept_receipts, "blocks": stats.kept_blocks, "bytes": stats.kept_bytes },
        }));
    }
    print(&text(&stats, logs, args.dry_run)).map(|()| Exit::Ok)
}

fn text(stats: &GcStats, logs: usize, dry_run: bool) -> String {
    let of = |receipts: u64, blocks: u64, bytes: u64| {
        format!("{}, {}, {}", count(receipts as usize, "receipt"), count(blocks as usize, "block"), size(bytes))
    };
    let deleted = of(stats.deleted_receipts, stats.deleted_blocks, stats.deleted_bytes);
    let kept = of(stats.kept_receipts, stats.kept_blocks, stats.kept_bytes);
    let verb = if dry_run { "would delete" } else { "deleted" };
    let leftovers = match stats.deleted_leftovers {
        0 => String::new(),
        n => format!("{verb} {} of processes that are gone\n", count(n as usize, "leftover")),
    };
    let logs = match logs {
        0 => String::new(),
        n => format!("{verb} {} of runs\n", count(n, "log")),
    };
    format!("{verb} {deleted}\n{leftovers}{logs}{} {kept}\n", if dry_run { "would keep" } else { "kept" })
}
