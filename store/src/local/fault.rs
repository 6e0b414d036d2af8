//! Stopping at the Nth change to the disk, for tests: the hook under everything that writes.
//!
//! In a store opened for use it is empty and costs a branch.

use std::io;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
#[cfg(test)]
use std::sync::{Arc, Mutex};

/// Asked before each change to the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    plan: Option<Arc<Plan>>,
}

impl Faults {
    /// Lets the change happen, or fails in its place.
    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "tests put a plan behind it")]
    pub(crate) fn check(&self, _operation: &'static str) -> io::Result<()> {
        Ok(())
    }

    /// The pieces in which to write, with a [`Faults::check`] before each: in tests what is written may be torn.
    #[inline]
    pub(crate) fn parts<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
        #[cfg(test)]
        let at = if self.plan.is_some() { bytes.len() / 2 } else { 0 };
        #[cfg(not(test))]
        let at = 0;
        let (first, second) = bytes.split_at(at);
        [first, second].into_iter().filter(|part| !part.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn check(&self, operation: &'static str) -> io::Result<()> {
        self.plan.as_ref().map_or(Ok(()), |plan| plan.check(operation))
    }
}

/// At which change to fail, and whether what follows fails too.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Plan {
    at: u64,
    /// As if the process had been killed: nothing reaches the disk any more.
    for_good: bool,
    done: AtomicU64,
    log: Mutex<Vec<&'static str>>,
}

#[cfg(test)]
impl Plan {
    pub(crate) fn new(at: u64, for_good: bool) -> Arc<Self> {
        Arc::new(Self { at, for_good, done: AtomicU64::new(0), log: Mutex::default() })
    }

    pub(crate) fn faults(self: &Arc<Self>) -> Faults {
        Faults { plan: Some(self.clone()) }
    }

    fn check(&self, operation: &'static str) -> io::Result<()> {
        let n = self.done.fetch_add(1, SeqCst);
        self.log.lock().expect("no panic holds it").push(operation);
        if n == self.at || (self.for_good && n > self.at) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("injected at {operation} {n}")));
        }
        Ok(())
    }

    /// How many changes there were.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }

    /// Their names, in order.
    pub(crate) fn log(&self) -> Vec<&'static str> {
        self.log.lock().expect("no panic holds it").clone()
    }
}
