//! Values that a task is handed and that are written down nowhere: what is shown and kept has a mask in their place.
//!
//! Knows names, values and bytes; unaware of processes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use quipu_store::receipt::FailureKind;

use crate::value::Text;

/// What stands for a value.
const MASK: &[u8] = b"***";
/// A shorter value is part of too much to be told apart.
pub(crate) const MIN_BYTES: usize = 4;
/// How much of a file is looked at at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// The values a task is handed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    /// Names and values, longest values first: one may be part of another.
    values: Vec<(String, String)>,
}

impl Secrets {
    /// Finds the values of `names` in `surroundings`.
    pub(crate) fn find(names: &[Text], surroundings: &BTreeMap<String, String>) -> Result<Self, FailureKind> {
        let failed = |name: &str, what: &str| FailureKind::Executor { why: format!("secret `{name}` {what}") };
        let mut values = Vec::with_capacity(names.len());
        for name in names {
            let value = surroundings.get(&**name).ok_or_else(|| failed(name, "is not set in the environment"))?;
            if value.len() < MIN_BYTES {
                return Err(failed(name, "has fewer than 4 bytes: it could not be masked in what is shown"));
            }
            values.push((name.to_string(), value.clone()));
        }
        values.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.cmp(b)));
        Ok(Self { values })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Names and values for a process's environment.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.values.iter().cloned()
    }

    /// What takes the values out of a stream.
    pub(crate) fn masker(&self) -> Masker {
        Masker { needles: self.values.iter().map(|(_, value)| value.clone().into_bytes()).collect(), held: Vec::new() }
    }

    /// A text without the values.
    fn masked(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (_, value)| text.replace(value, "***"))
    }

    /// What went wrong, told without the values.
    pub(crate) fn tell(&self, kind: FailureKind) -> FailureKind {
        match kind {
            FailureKind::MissingOutput { path } => FailureKind::MissingOutput { path: self.masked(&path) },
            FailureKind::UndeclaredOutput { path } => FailureKind::UndeclaredOutput { path: self.masked(&path) },
            FailureKind::BadOutput { path, why } => {
                FailureKind::BadOutput { path: self.masked(&path), why: self.masked(&why) }
            }
            FailureKind::Spawn { why } => FailureKind::Spawn { why: self.masked(&why) },
            FailureKind::Executor { why } => FailureKind::Executor { why: self.masked(&why) },
            other => other,
        }
    }

    /// Whether a value stands in what is at `path`: in a file's content, a link's target, or a name.
    pub(crate) fn are_below(&self, path: &Path) -> io::Result<bool> {
        let mut left = vec![path.to_owned()];
        while let Some(path) = left.pop() {
            let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
            let in_name = path.file_name().map_or(Ok(false), |name| self.are_in(&mut name.as_encoded_bytes()))?;
            let inside = if found.is_symlink() {
                self.are_in(&mut std::fs::read_link(&path)?.as_os_str().as_encoded_bytes())?
            } else if found.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
                false
            } else {
                // Whatever is no file cannot be kept anyhow.
                found.is_file() && self.are_in(&mut File::open(&path)?)?
            };
            if in_name || inside {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn are_in(&self, from: &mut dyn Read) -> io::Result<bool> {
        let longest = self.values.first().map_or(0, |(_, value)| value.len());
        let mut buffer = Vec::new();
        loop {
            if from.take(CHUNK_BYTES as u64).read_to_end(&mut buffer)? == 0 {
                return Ok(false);
            }
            if self.values.iter().any(|(_, value)| holds(&buffer, value.as_bytes())) {
                return Ok(true);
            }
            // The end of this piece may be the beginning of a value.
            buffer.drain(..buffer.len().saturating_sub(longest));
        }
    }
}

/// Takes values out of a stream that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Masker {
    needles: Vec<Vec<u8>>,
    /// What may be the beginning of a value.
    held: Vec<u8>,
}

impl Masker {
    /// Whether it lets everything through.
    pub(crate) fn is_idle(&self) -> bool {
        self.needles.is_empty()
    }

    /// What of the stream is safe to be seen, once `bytes` have come.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.give(false)
    }

    /// What was held back, at the stream's end.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.give(true)
    }

    fn give(&mut self, at_end: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            let may_be = |needle: &Vec<u8>| needle.len() > rest.len() && needle.starts_with(rest);
            if !at_end && self.needles.iter().any(may_be) {
                self.held = rest.to_vec();
                return out;
            } else if let Some(needle) = self.needles.iter().find(|needle| rest.starts_with(needle)) {
                out.extend_from_slice(MASK);
                at += needle.len();
            } else {
                out.push(held[at]);
                at += 1;
            }
        }
        out
    }
}

fn holds(hay: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = hay;
    while let Some(at) = rest.iter().position(|b| b == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let pairs = values.iter().enumerate().map(|(i, value)| (format!("S{i}"), (*value).to_owned()));
        let names: Vec<Text> = (0..values.len()).map(|i| format!("S{i}").into()).collect();
        Secrets::find(&names, &pairs.collect()).expect("they are there")
    }

    #[test]
    fn values_are_masked_however_the_stream_is_cut() {
        let secrets = secrets(&["hush-hush", "hush", "\u{e4}\u{e4}\u{e4}\n!"]);
        let text = "hush-hushhush hush-hus hus \u{e4}\u{e4}\u{e4}\n! h\nhushhush-hu".as_bytes();
        for size in 1..=text.len() {
            let mut masker = secrets.masker();
            let mut out = Vec::new();
            for piece in text.chunks(size) {
                out.extend(masker.pass(piece));
            }
            out.extend(masker.finish());
            assert_eq!(String::from_utf8_lossy(&out), "****** ***-hus hus *** h\n******-hu", "pieces of {size}");
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_handed_on_at_once() {
        let mut masker = secrets(&["secret"]).masker();
        assert_eq!(masker.pass(b"Password: "), b"Password: ");
        assert_eq!((masker.pass(b"> sec"), masker.pass(b"ond")), (b"> ".to_vec(), b"second".to_vec()));
        assert!(Secrets::default().masker().is_idle());
    }

    #[test]
    fn values_are_found_in_files_names_and_links_across_pieces() {
        let dir = tempfile::tempdir().expect("space left");
        let secrets = secrets(&["hush-hush"]);
        let path = dir.path().join("out");
        let mut bytes = vec![b'u'; 2 * CHUNK_BYTES + 100];
        std::fs::write(&path, &bytes).expect("written");
        assert!(!secrets.are_below(dir.path()).expect("readable"));
        for at in [0, CHUNK_BYTES - 9, CHUNK_BYTES - 4, CHUNK_BYTES, 2 * CHUNK_BYTES - 1] {
            bytes.fill(b'u');
            bytes[at..at + 9].copy_from_slice(b"hush-hush");
            std::fs::write(&path, &bytes).expect("written");
            assert!(secrets.are_below(dir.path()).expect("readable"), "{at}");
        }
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("a/hush-hush", &path).expect("linked");
        assert!(secrets.are_below(dir.path()).expect("readable"));
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(dir.path().join("x-hush-hush"), "").expect("written");
        assert!(secrets.are_below(dir.path()).expect("readable"));
    }

    #[test]
    fn a_value_that_is_missing_or_too_short_is_named_and_not_shown() {
        let surroundings = BTreeMap::from([("SHORT".to_owned(), "abc".to_owned())]);
        for (name, said) in [("MISSING", "is not set"), ("SHORT", "fewer than 4 bytes")] {
            let error = Secrets::find(&[name.into()], &surroundings).expect_err("it is no use");
            let why = error.to_string();
            assert!(why.contains(name) && why.contains(said) && !why.contains("abc"), "{why}");
        }
        let kind = FailureKind::BadOutput { path: "x/hush-hush".into(), why: "hush-hush leads out".into() };
        let told = FailureKind::BadOutput { path: "x/***".into(), why: "*** leads out".into() };
        assert_eq!(secrets(&["hush-hush"]).tell(kind), told);
    }
}
