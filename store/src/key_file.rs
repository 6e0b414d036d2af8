//! Signing keys on disk: read, or made at first use, for their owner's eyes only.
//!
//! Knows one file's form; unaware of where it is and of what is signed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::sign::Signer;

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file system said no.
    #[error("key file `{}`: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not 64 hexadecimal digits.
    #[error("key file `{}` does not hold 64 hexadecimal digits", .0.display())]
    Malformed(PathBuf),
    /// Others than its owner may read it.
    #[error("key file `{path}` may be read by others (mode {mode:o}); run `chmod 600 {path}`", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a new key: {0}")]
    Random(String),
}

/// Reads the key, or makes one when there is none. Two processes that do so at once get the same key.
pub fn read_or_create(path: &Path) -> Result<Signer, KeyFileError> {
    match read(path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(path)?;
            read(path)
        }
        other => other,
    }
}

/// Reads a key that must be there.
pub fn read(path: &Path) -> Result<Signer, KeyFileError> {
    let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let text = fs::read(path).map_err(failed)?;
    parse(text.trim_ascii()).ok_or_else(|| KeyFileError::Malformed(path.to_owned()))
}

fn parse(digits: &[u8]) -> Option<Signer> {
    let mut secret = [0_u8; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(Signer::from_secret(&secret))
}

fn create(path: &Path) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(|e| KeyFileError::Random(e.to_string()))?;
    let mut text: String =
        secret.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(u32::from(d), 16)).collect();
    text.push('\n');
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temp = path.with_file_name(name);
    let _ = fs::remove_file(&temp);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link, unlike a rename, never replaces the key another process has just made.
        match fs::hard_link(&temp, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let _ = fs::remove_file(&temp);
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("deep/key");
        let first = read_or_create(&path).expect("made");
        assert_eq!(read_or_create(&path).expect("read").public(), first.public());
        assert_eq!(fs::read_dir(dir.path().join("deep")).expect("there").count(), 1, "no temporary file stays");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("own file");
        assert!(matches!(read_or_create(&path), Err(KeyFileError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
        fs::write(&path, "short").expect("own file");
        assert!(matches!(read_or_create(&path), Err(KeyFileError::Malformed(_))));
    }
}
