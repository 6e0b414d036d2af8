//! What opening a store and looking up costs when it has many receipts.
//!
//! `cargo run --release -p quipu-store --example store_scale DIR [receipts...]`: fills a store in DIR up to each size in turn,
//! and looks up a thousand tasks, half of which are there, in a handle of its own.

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use quipu_store::cid::{InvocationId, TaskId};
use quipu_store::receipt::{Meta, Output, Receipt, Via};
use quipu_store::sign::Signer;
use quipu_store::{Options, Record, SignerSource, Store};

const ROUNDS: usize = 9;
const ASKED: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("no directory was named")?;
    let mut sizes: Vec<u64> = args.map(|n| n.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![10, 1000, 100_000];
    }
    println!(
        "| receipts | filled at, a second | open, ms | {ASKED} look-ups, ms (least-most) | index, MB |\n|---|---|---|---|---|"
    );
    let mut there = 0;
    for size in sizes {
        let began = Instant::now();
        fill(Path::new(&dir), there..size)?;
        let rate = size.saturating_sub(there) as f64 / began.elapsed().as_secs_f64();
        there = there.max(size);
        let mut took: Vec<(Duration, Duration)> =
            (0..ROUNDS).map(|n| look(Path::new(&dir), there, n as u64)).collect::<Result<_, _>>()?;
        took.sort_unstable_by_key(|t| t.1);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let (open, found) = took[ROUNDS / 2];
        let index = std::fs::metadata(Path::new(&dir).join("index.redb"))?.len() as f64 / 1e6;
        println!(
            "| {there} | {rate:.0} | {:.2} | {:.2} ({:.2}-{:.2}) | {index:.1} |",
            ms(open),
            ms(found),
            ms(took[0].1),
            ms(took[ROUNDS - 1].1)
        );
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Store, Box<dyn Error>> {
    Ok(Store::open(dir, Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))?)
}

fn task(n: u64) -> TaskId {
    TaskId::of(&n.to_le_bytes())
}

fn fill(dir: &Path, numbers: std::ops::Range<u64>) -> Result<(), Box<dyn Error>> {
    let store = open(dir)?;
    for n in numbers {
        let receipt = Receipt {
            ran: InvocationId::of(&n.to_le_bytes()),
            out: Ok(Output::default()),
            issued_at: 1_700_000_000,
            expires_at: None,
            meta: Meta { settles: [(task(n), Via::new())].into(), tier: "none".to_owned(), ..Meta::default() },
        };
        store.record(Record { receipt, blocks: vec![], done: Box::new(|_| {}) })?;
        // As far ahead as a run may be, and not all of it in memory.
        if n % 10_000 == 9999 {
            store.flush()?;
        }
    }
    Ok(store.flush()?)
}

fn look(dir: &Path, there: u64, round: u64) -> Result<(Duration, Duration), Box<dyn Error>> {
    let began = Instant::now();
    let store = open(dir)?;
    let opened = began.elapsed();
    // Spread over all of them, other ones each time, and as many that are not there.
    let step = (2 * there / ASKED).max(1);
    let ids: Vec<TaskId> =
        (0..ASKED).map(|n| task(if n % 2 == 0 { (n / 2 * step + round) % there } else { u64::MAX - n })).collect();
    let began = Instant::now();
    let found = store.find_tasks(&ids)?;
    let took = began.elapsed();
    let hits = found.iter().filter(|f| !f.receipts.is_empty()).count() as u64;
    if hits == ASKED / 2 { Ok((opened, took)) } else { Err(format!("{hits} of {ASKED} were found").into()) }
}
