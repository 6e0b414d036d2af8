//! The writer: what is queued, its one thread, and the order in which a batch becomes durable.
//!
//! Order: files are in `blobs/` before they are queued; journal; `syncfs` when a file was added; one index
//! transaction; only then is anybody told. A receipt is signed, and goes to the journal so that it outlives the process, in
//! the thread that records it; the rest waits for the commit. Unaware of who reads, except that what is queued can be read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashSet;

use super::broken::is_broken;
use super::core::Core;
use super::journal::Payload;
use crate::cid::ReceiptId;
use crate::error::{CommitError, StoreError};
use crate::memory::ops_of;
use crate::receipt::Receipt;
use crate::rows::{Kept, Op, Rows};
use crate::sign::{SignedReceipt, Signer};
use crate::terms::{Done, Record};

/// Beyond this, who puts or records waits for a commit.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// How long a view of the index is kept that nobody asks for, at least; at most twice that.
const VIEW_IDLE: Duration = Duration::from_millis(100);
/// From here on a commit does not wait for company.
const LARGE_BATCH_BYTES: usize = 8 << 20;

/// What waits for one commit: readable as rows, written as operations.
#[derive(Default)]
pub(crate) struct Layer {
    pub(crate) rows: Rows,
    ops: Vec<Op>,
    /// How many of these the journal has.
    journaled: usize,
    bytes: usize,
    /// A file went into `blobs/` since the last `syncfs`.
    has_files: bool,
}

impl Layer {
    fn push(&mut self, op: Op) {
        self.rows.apply(&op);
        self.bytes += op.weight_bytes();
        self.has_files |= matches!(op, Op::Large(..));
        self.ops.push(op);
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) queue: Layer,
    pub(crate) committing: Option<Arc<Layer>>,
    /// Whom to tell of the receipts in the queue.
    done: Vec<(ReceiptId, Done)>,
    /// A receipt came while a commit was under way: the journal does not have it.
    unjournaled: bool,
    /// Numbers of changes: queued so far, and of those settled one way or the other.
    pushed: u64,
    settled: u64,
    /// A flush wants everything up to here settled.
    wanted: u64,
    /// When the oldest change came that is not in a commit yet.
    since: Option<Instant>,
    /// The last failure that no flush has reported.
    failed: Option<CommitError>,
    /// The last commit failed: what it held beside receipts waits for the next.
    failing: bool,
    used: FxHashSet<ReceiptId>,
    stop: bool,
}

impl State {
    /// The layers that lie over the index, latest first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Rows> {
        [Some(&self.queue.rows), self.committing.as_deref().map(|layer| &layer.rows)].into_iter().flatten()
    }
}

#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something to do for the thread.
    work: Condvar,
    /// Something was settled.
    news: Condvar,
}

pub(crate) struct Writer {
    core: Arc<Core>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    signer: Mutex<Option<Arc<Signer>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, shared: Arc::default(), thread: Mutex::default(), signer: Mutex::default() }
    }

    /// What is queued, for reading.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn start(&self) -> Result<(), StoreError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (core, shared) = (self.core.clone(), self.shared.clone());
            let builder = std::thread::Builder::new().name("quipu-store".to_owned());
            let started = builder.spawn(move || run(&core, &shared));
            *thread = Some(started.map_err(|e| StoreError::io(self.core.layout.dir(), e))?);
            // Over a network, how a file looks may be remembered from earlier.
            if crate::medium::network(self.core.layout.dir()).is_none() {
                self.core.index.keep_views();
            }
        }
        Ok(())
    }

    /// The state once there is room in the queue: who is faster than the disk waits for it.
    fn state_with_room(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state();
        while state.queue.bytes > MAX_QUEUED_BYTES {
            if state.failing {
                let why = state.failed.clone();
                return Err(why.unwrap_or_else(|| self.core.full()).into());
            }
            state.wanted = state.pushed;
            self.shared.work.notify_one();
            state = self.shared.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }

    pub(crate) fn push(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let _writable = self.core.ensure_writable()?;
        self.start()?;
        let mut state = self.state_with_room()?;
        let first = state.since.is_none();
        state.pushed += 1;
        state.since.get_or_insert_with(Instant::now);
        ops.into_iter().for_each(|op| state.queue.push(op));
        if first || state.queue.bytes > LARGE_BATCH_BYTES {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Signs a receipt and appends it to the journal, with what was queued before it. It can be read from then on.
    pub(crate) fn record(&self, record: Record) -> Result<(), StoreError> {
        let _writable = self.core.ensure_writable()?;
        self.start()?;
        let Record { receipt, blocks, done } = record;
        let signed = self.sign(&receipt);
        let mut state = self.state_with_room()?;
        let first = state.since.is_none();
        state.pushed += 1;
        state.since.get_or_insert_with(Instant::now);
        for (link, bytes) in blocks {
            state.queue.push(Op::Block(link, bytes.into()));
        }
        let failed = match signed {
            Ok(signed) => {
                state.done.push((signed.id, done));
                ops_of(Kept { signed: Arc::new(signed), own: true }).into_iter().for_each(|op| state.queue.push(op));
                // A commit under way appends what it is about first, and says then that the index has all of the journal.
                state.unjournaled = true;
                if state.committing.is_none() {
                    journal(&self.core, &mut state);
                }
                None
            }
            Err(error) => {
                state.failed = Some(error.clone());
                Some((done, error))
            }
        };
        if first || state.done.len() >= self.core.options.batch_receipts {
            self.shared.work.notify_one();
        }
        drop(state);
        if let Some((done, error)) = failed {
            tell(done, Err(error));
        }
        Ok(())
    }

    fn sign(&self, receipt: &Receipt) -> Result<SignedReceipt, CommitError> {
        let signer = {
            let mut signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
            match &*signer {
                Some(signer) => Arc::clone(signer),
                // A key that cannot be had now is asked for again by the next record.
                None => Arc::clone(signer.insert(Arc::new(self.core.options.signer.signer()?))),
            }
        };
        let signed = signer.sign(receipt)?;
        self.core.counting.signatures.fetch_add(1, Relaxed);
        Ok(signed)
    }

    /// The index keeps a view: the thread sees to it that it does not keep it for long.
    pub(crate) fn keeps_view(&self) {
        self.shared.work.notify_one();
    }

    /// Remembered until something is written anyway.
    pub(crate) fn used(&self, ids: &mut dyn Iterator<Item = ReceiptId>) {
        self.state().used.extend(ids);
    }

    pub(crate) fn flush(&self) -> Result<(), CommitError> {
        let mut state = self.state();
        let target = state.pushed;
        if target > 0 {
            state.wanted = state.wanted.max(target);
            self.shared.work.notify_one();
            // What a failed commit left behind is tried again, once.
            while state.settled < target || (state.wanted >= target && !state.queue.ops.is_empty()) {
                state = self.shared.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Writer {
    /// What is queued is committed before the store is gone.
    fn drop(&mut self) {
        self.state().stop = true;
        self.shared.work.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback, in the thread itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(core: &Core, shared: &Shared) {
    let window = Duration::from_millis(core.options.batch_ms);
    let mut state = shared.state();
    loop {
        if state.unjournaled {
            journal(core, &mut state);
        }
        let waiting = state.since.map(|since| since.elapsed());
        let due = state.stop
            || state.wanted > 0
            || state.done.len() >= core.options.batch_receipts
            || (state.queue.bytes > LARGE_BATCH_BYTES && !state.failing)
            || waiting.is_some_and(|age| age >= window);
        if due && (state.since.is_some() || !state.queue.ops.is_empty()) {
            state = commit(core, shared, state);
            if state.stop && state.failing {
                // What could not be written when the store ends is lost, and everybody is told.
                let error = state.failed.clone().unwrap_or_else(|| core.full());
                let left = std::mem::take(&mut state.done);
                drop(state);
                left.into_iter().for_each(|(_, done)| tell(done, Err(error.clone())));
                return;
            }
            continue;
        }
        if state.settled < state.pushed && state.since.is_none() || state.wanted > 0 {
            state.settled = state.pushed;
            state.wanted = 0;
            shared.news.notify_all();
        }
        if state.stop {
            return;
        }
        state = match waiting {
            Some(age) => {
                shared.work.wait_timeout(state, window.saturating_sub(age)).unwrap_or_else(PoisonError::into_inner).0
            }
            None if core.index.keeps_view() => {
                let (state, waited) =
                    shared.work.wait_timeout(state, VIEW_IDLE).unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() {
                    core.index.let_go();
                }
                state
            }
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Appends what is queued to the journal, ahead of its commit: should this process be killed, the next one enters it.
///
/// Invariant: no commit is under way, so that the journal has everything in the order in which it was queued.
fn journal(core: &Core, state: &mut State) {
    state.unjournaled = false;
    if is_broken("ack-first") {
        return;
    }
    let frame = Payload::of(&state.queue.ops[state.queue.journaled..]);
    // What cannot be appended now is, or is refused, with the commit.
    if append(core, frame).is_ok() {
        state.queue.journaled = state.queue.ops.len();
    }
}

fn append(core: &Core, payload: Payload) -> Result<(), CommitError> {
    let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = journal.append(payload).map_err(|e| CommitError::io(&core.layout.segments(), e))?;
    core.counting.journal_bytes.fetch_add(bytes, Relaxed);
    Ok(())
}

/// A callback that panics is its owner's affair, and the store goes on.
fn tell(done: Done, result: Result<ReceiptId, CommitError>) {
    let _ = catch_unwind(AssertUnwindSafe(|| done(result)));
}

fn commit<'a>(core: &Core, shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let layer = Arc::new(std::mem::take(&mut state.queue));
    let done = std::mem::take(&mut state.done);
    let used = std::mem::take(&mut state.used);
    let up_to = state.pushed;
    state.committing = Some(layer.clone());
    state.since = None;
    drop(state);

    let mut done = done;
    if is_broken("ack-first") {
        done.drain(..).for_each(|(id, done)| tell(done, Ok(id)));
        std::thread::sleep(Duration::from_millis(50));
    }
    let result = write(core, &layer, &used);

    let mut state = shared.state();
    state.committing = None;
    state.failing = result.is_err();
    if let Err(error) = &result {
        state.failed = Some(error.clone());
        // Blocks stay readable and are tried again with the next commit, so that what is recorded later never
        // lacks them. Receipts were promised durable and are not: they are gone, and their owners are told.
        let newer = std::mem::take(&mut state.queue);
        let kept = layer.ops.iter().filter(|op| !matches!(op, Op::Receipt(_) | Op::Task(..) | Op::Accept(..)));
        for op in kept.cloned().chain(newer.ops) {
            state.queue.push(op);
        }
        state.queue.has_files |= layer.has_files;
        state.used.extend(used);
    }
    drop(state);
    drop(layer);
    for (id, done) in done {
        tell(done, result.clone().map(|()| id));
    }
    // Who flushes goes on only when everybody was told.
    let mut state = shared.state();
    state.settled = state.settled.max(up_to);
    if state.wanted <= state.settled {
        state.wanted = 0;
    }
    shared.news.notify_all();
    state
}

fn write(core: &Core, layer: &Layer, used: &FxHashSet<ReceiptId>) -> Result<(), CommitError> {
    let ops = fresh(core, &layer.ops)?;
    if ops.is_empty() {
        return Ok(());
    }
    let root = core.layout.dir();
    append(core, Payload::of(ops.iter().filter(|(at, _)| *at >= layer.journaled).map(|(_, op)| *op)))?;
    if layer.has_files && !is_broken("blob-sync") && !is_broken("blobs-first") {
        core.faults.check("syncfs").map_err(|e| CommitError::io(root, e))?;
        let dir = core.root.get().expect("opened by the first write, and this is one");
        rustix::fs::syncfs(dir).map_err(|e| CommitError::io(root, e.into()))?;
        core.counting.syncs.fetch_add(1, Relaxed);
    }
    let new = ops.iter().filter_map(|(_, op)| if let Op::Receipt(kept) = op { Some(kept.signed.id) } else { None });
    let today = today();
    let changed = core.index.change(|change| {
        change.apply(ops.iter().map(|(_, op)| *op))?;
        change.touch(used.iter().copied().chain(new), today)
    });
    if changed.is_ok() {
        core.journal.lock().unwrap_or_else(PoisonError::into_inner).settle();
    }
    changed.map_err(|e| match e {
        StoreError::Io { path, source } => CommitError::io(&path, source),
        StoreError::Index { path, why } => CommitError::Index { path, why },
        other => CommitError::Index { path: core.layout.index(), why: other.to_string() },
    })
}

/// The changes, each with its place, without the blocks that are there already.
fn fresh<'a>(core: &Core, ops: &'a [Op]) -> Result<Vec<(usize, &'a Op)>, CommitError> {
    let failed = |e: StoreError| match e {
        StoreError::Io { path, source } => CommitError::io(&path, source),
        other => CommitError::Index { path: core.layout.index(), why: other.to_string() },
    };
    let Some(view) = core.index.view().map_err(failed)? else { return Ok(ops.iter().enumerate().collect()) };
    let mut touched = FxHashSet::default();
    let mut fresh = Vec::with_capacity(ops.len());
    for (at, op) in ops.iter().enumerate() {
        match op {
            // Only the first of several in a batch, and only where nothing in it speaks of the block before.
            Op::Block(link, _) if touched.insert(*link) && view.has_block_row(*link).map_err(failed)? => {}
            Op::Large(link, _) | Op::Forget(link) => {
                touched.insert(*link);
                fresh.push((at, op));
            }
            _ => fresh.push((at, op)),
        }
    }
    Ok(fresh)
}

/// Days since 1970.
pub(crate) fn today() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    u32::try_from(seconds / 86_400).unwrap_or(u32::MAX)
}
