//! Relative paths as texts, with slashes between names: which holds which.
//!
//! Lexical only; unaware of disks and of symbolic links.

/// Whether `path` is `dir` or lies below it. All lie below the empty path.
pub fn is_within(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The directory that `path` is in; empty when that has no name.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_cut() {
        assert!(is_within("a/b", "a/b") && is_within("a/b/c", "a/b") && is_within("a", ""));
        assert!(!is_within("a/bc", "a/b") && !is_within("a", "a/b"));
        assert_eq!([parent("a/b/c"), parent("a")], ["a/b", ""]);
    }
}
