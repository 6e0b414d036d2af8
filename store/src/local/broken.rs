//! Ways to break the store's promises on purpose, for tests that see the harnesses catch it.
//!
//! Compiled in by the feature `test-util` alone; unaware of what the promises are.

/// Whether the promise of that name is to be broken.
#[cfg(not(feature = "test-util"))]
#[inline]
pub(crate) const fn is_broken(_promise: &str) -> bool {
    false
}

/// Whether the promise of that name is to be broken: `QUIPU_TEST_BREAK` says so.
#[cfg(feature = "test-util")]
pub(crate) fn is_broken(promise: &str) -> bool {
    static BROKEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    BROKEN.get_or_init(|| std::env::var("QUIPU_TEST_BREAK").ok()).as_deref() == Some(promise)
}
