//! The store's format version: written once, checked at every open, refused when it is not ours.
//!
//! Unaware of what the versions differ in.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::fault::Faults;
use super::layout::{Layout, SPACES};
use crate::error::OpenError;

/// The format this program writes, and the latest it reads.
pub(crate) const VERSION: u64 = 1;

const PREFIX: &str = "quipu store ";

/// Whether there is a store. Refuses a directory that holds something else, and formats of the future.
pub(crate) fn check(layout: &Layout) -> Result<bool, OpenError> {
    match look(layout) {
        // Somebody may have made it between two looks. The version is the first thing to appear, and stays.
        Err(OpenError::Foreign(_)) => look(layout),
        other => other,
    }
}

fn look(layout: &Layout) -> Result<bool, OpenError> {
    let path = layout.version();
    match fs::read(&path) {
        Ok(bytes) => {
            let text = bytes.get(..64.min(bytes.len())).and_then(|b| std::str::from_utf8(b).ok());
            let found = text.and_then(|t| t.strip_prefix(PREFIX)?.strip_suffix('\n')?.parse::<u64>().ok());
            match found {
                Some(VERSION) => Ok(true),
                Some(found) if found > VERSION => {
                    Err(OpenError::Newer { dir: layout.dir().to_owned(), found, known: VERSION })
                }
                _ => Err(OpenError::Version(path)),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => match is_vacant(layout.dir()) {
            Ok(true) => Ok(false),
            Ok(false) => Err(OpenError::Foreign(layout.dir().to_owned())),
            Err(source) => Err(OpenError::Io { path: layout.dir().to_owned(), source }),
        },
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

/// A directory that is not there, is empty, has name spaces and nothing else, or where the making of a store was cut off
/// at once.
fn is_vacant(dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let name = entry?.file_name();
        if name != SPACES && !name.as_encoded_bytes().starts_with(b"version.") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the directory and says what it is. Others may do the same at the same time.
pub(crate) fn create(layout: &Layout, faults: &Faults) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    faults.check("create")?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(layout.dir())?;
    let temp = layout.dir().join(format!("version.{}", std::process::id()));
    let mut file = fs::File::create(&temp)?;
    file.write_all(format!("{PREFIX}{VERSION}\n").as_bytes())?;
    // The name becomes durable with the index, which is made after it in the same directory.
    file.sync_all()?;
    faults.check("rename")?;
    fs::rename(&temp, layout.version())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_store_is_never_foreign_while_it_is_made() {
        let shared = Path::new("/dev/shm");
        let temp = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
        let temp = temp.expect("a temporary directory");
        for n in 0..200 {
            let layout = Layout::new(&temp.path().join(n.to_string()));
            let made = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    create(&layout, &Faults::default()).expect("is made");
                    fs::create_dir(layout.blobs()).expect("is made");
                    made.store(true, Ordering::Release);
                });
                while !made.load(Ordering::Acquire) {
                    check(&layout).expect("is a store, or nothing yet");
                }
            });
        }
    }
}
