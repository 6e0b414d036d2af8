//! Sends receipts on, in the background: after they are on disk, and without anybody waiting but, for a while,
//! the end of the run.
//!
//! Knows which receipts may leave the machine; unaware of protocols.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use quipu_store::Store;
use quipu_store::cid::ReceiptId;
use tokio::sync::mpsc::UnboundedSender;

use super::Engine;
use super::remotes::Remotes;
use super::work::Message;
use crate::process::is_closed;
use crate::task::{Node, Work};

/// Receipts that are sent side by side.
const SENDERS: usize = 4;

/// Receipts on their way.
pub(super) struct Pusher {
    remotes: Remotes,
    queue: Option<Sender<ReceiptId>>,
    ended: Option<Receiver<()>>,
    waiting: Arc<AtomicUsize>,
}

impl Pusher {
    pub(super) fn new(remotes: Remotes) -> Self {
        Self { remotes, queue: None, ended: None, waiting: Arc::default() }
    }

    /// Sends a receipt that is on disk. Threads are started for the first.
    pub(super) fn push(&mut self, store: &Store, receipt: ReceiptId, warnings: &UnboundedSender<Message>) {
        if self.remotes.writable().next().is_none() {
            return;
        }
        let queue = self.queue.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel();
            let (end, ended) = mpsc::channel();
            self.ended = Some(ended);
            let receiver = Arc::new(Mutex::new(receiver));
            for _ in 0..SENDERS {
                let worker = Worker {
                    store: store.clone(),
                    remotes: self.remotes.clone(),
                    queue: Arc::clone(&receiver),
                    waiting: Arc::clone(&self.waiting),
                    warnings: warnings.clone(),
                    _end: end.clone(),
                };
                std::thread::spawn(move || worker.work());
            }
            sender
        });
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // Workers end only when this end is dropped.
        let _ = queue.send(receipt);
    }

    /// Waits for what is on its way, as long as its user lets it; says how many did not make it.
    pub(super) fn finish(&mut self) -> usize {
        let Some(ended) = self.ended.take() else { return 0 };
        self.queue = None;
        let longest = self.remotes.writable().map(|w| w.remote.policy().push_wait).max().unwrap_or_default();
        let _ = ended.recv_timeout(longest);
        self.waiting.load(Ordering::Acquire)
    }
}

struct Worker {
    store: Store,
    remotes: Remotes,
    queue: Arc<Mutex<Receiver<ReceiptId>>>,
    waiting: Arc<AtomicUsize>,
    warnings: UnboundedSender<Message>,
    /// All gone: the work is done.
    _end: Sender<()>,
}

impl Worker {
    fn work(&self) {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(receipt) = next else { return };
            self.send(receipt);
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn send(&self, receipt: ReceiptId) {
        let found = match self.store.receipt(receipt) {
            Ok(Some(found)) if found.signed.receipt.out.is_ok() => found.signed,
            _ => return,
        };
        let mut warnings = vec![];
        for watched in self.remotes.writable() {
            if watched.remote.policy().tiers.contains(&found.receipt.meta.tier) {
                watched.ask(&mut warnings, |remote| remote.push(&self.store, &found).map(drop));
            }
        }
        for message in warnings {
            let _ = self.warnings.send(Message::Warning(message));
        }
    }
}

/// Sends receipts that are on disk to those who take them; says how many did not make it, and what there is to say.
pub fn send(engine: &Engine, receipts: &[ReceiptId]) -> (usize, Vec<String>) {
    let (sender, mut said) = tokio::sync::mpsc::unbounded_channel();
    let mut pusher = Pusher::new(Remotes::new(engine));
    for receipt in receipts {
        pusher.push(&engine.store, *receipt, &sender);
    }
    let left = pusher.finish();
    drop(sender);
    let mut warnings = vec![];
    while let Ok(message) = said.try_recv() {
        if let Message::Warning(message) = message {
            warnings.push(message);
        }
    }
    (left, warnings)
}

/// Whether a task's receipts may leave the machine at all: work that is pure, and meant to be cached.
pub fn may_leave(node: &Node) -> bool {
    let Work::Task(task) = &node.work else { return false };
    // What a secret was for is nobody else's business, even where it stands in no output.
    node.policy.cache && task.nonce.is_empty() && is_closed(&task.args)
}
