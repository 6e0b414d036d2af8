//! `quipu gc`: deletes from the store what is old or too much, logs of runs and name spaces included.

use std::time::Duration;

use quipu_store::spaces::{self, Space, SpaceName};
use quipu_store::{GcError, GcOptions, GcStats};
use serde_json::json;

use super::{Context, namespace, note, print, print_json, runs};
use crate::cli::GcArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::quantity::now;
use crate::quantity::size;
use crate::render::count;
use crate::settings::Settings;

/// What went and what stays, of the store and its name spaces together.
#[derive(Default)]
struct Collected {
    stats: GcStats,
    logs: usize,
    log_bytes: u64,
    /// Name spaces that went whole.
    spaces: Vec<SpaceName>,
}

/// Collects: one name space, or the store with all it has.
pub(super) fn gc(context: &Context, args: &GcArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let now = now();
    let options =
        GcOptions { max_age: args.max_age, max_bytes: args.max_size, dry_run: args.dry_run, ..GcOptions::new(now) };
    let mut all = Collected::default();
    if settings.space.is_none()
        && let Some(age) = args.max_age
    {
        // First: what they keep of the store goes with them.
        all.spaces = spaces::remove_unused(&settings.store, age, args.dry_run)?;
    }
    all.add(&settings.open_own()?.gc(&options)?, &settings, &options)?;
    if settings.space.is_none() {
        for Space { name, .. } in namespace::all(&settings)? {
            if all.spaces.contains(&name) {
                continue;
            }
            let there = settings.within(Some(name.clone()));
            match there.open_own()?.gc(&GcOptions { wait: Duration::ZERO, ..options.clone() }) {
                Err(error @ GcError::Busy { .. }) => note(&format!("name space `{name}` is left alone: {error}")),
                stats => all.add(&stats?, &there, &options)?,
            }
        }
    }
    if args.json {
        let stats = &all.stats;
        return print_json(&json!({
            "dry_run": args.dry_run,
            "deleted": { "receipts": stats.deleted_receipts, "blocks": stats.deleted_blocks,
                "bytes": stats.deleted_bytes, "leftovers": stats.deleted_leftovers,
                "logs": all.logs, "log_bytes": all.log_bytes,
                "namespaces": all.spaces.iter().map(SpaceName::as_str).collect::<Vec<_>>() },
            "kept": { "receipts": stats.kept_receipts, "blocks": stats.kept_blocks, "bytes": stats.kept_bytes },
        }));
    }
    print(&text(&all, args.dry_run)).map(|()| Exit::Ok)
}

impl Collected {
    /// Counts what a collection did, and prunes the logs of runs there.
    fn add(&mut self, stats: &GcStats, settings: &Settings, options: &GcOptions) -> Result<(), Diagnosis> {
        let (logs, log_bytes) = runs::prune(&settings.own_dir().join("runs"), options.max_age, options.dry_run)?;
        self.stats.add(stats);
        self.logs += logs;
        self.log_bytes += log_bytes;
        Ok(())
    }
}

fn text(Collected { stats, logs, spaces, .. }: &Collected, dry_run: bool) -> String {
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
    let logs = match *logs {
        0 => String::new(),
        n => format!("{verb} {} of runs\n", count(n, "log")),
    };
    let spaces: String = spaces.iter().map(|name| format!("{verb} name space {name}\n")).collect();
    format!("{verb} {deleted}\n{leftovers}{logs}{spaces}{} {kept}\n", if dry_run { "would keep" } else { "kept" })
}
