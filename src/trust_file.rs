//! `trust.toml`: whose receipts count, as a person has decided. Read strictly, changed a line at a time.
//!
//! Beside the signing key in the user's own configuration; no workfile and no repository can name a key. Unaware of
//! receipts.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use quipu_store::sign::PublicKey;
use quipu_store::trust::{Policies, Policy};

use crate::diagnose::{Diagnosis, not_toml};

/// Longest name of a key.
const MAX_NAME_BYTES: usize = 64;
/// Largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The entry of `[policy]` for sources that have none of their own.
const DEFAULT: &str = "default";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Trust {
    /// Keys by name, best first.
    pub(crate) named: Vec<(String, PublicKey)>,
    /// What is asked of receipts, by where they come from.
    pub(crate) policies: Policies,
}

impl Trust {
    /// Reads the file; where there is none, nobody else is trusted.
    pub(crate) fn read(path: &Path) -> Result<Self, Diagnosis> {
        match text_of(path)? {
            Some(text) => Self::parse(&text).map_err(|why| wrong(path, &why)),
            None => Ok(Self::default()),
        }
    }

    /// The keys, best first.
    pub(crate) fn keys(&self) -> Vec<PublicKey> {
        self.named.iter().map(|(_, key)| *key).collect()
    }

    /// What this key's owner is called.
    pub(crate) fn name_of(&self, key: PublicKey) -> Option<&str> {
        self.named.iter().find(|(_, k)| *k == key).map(|(name, _)| name.as_str())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|e| not_toml(text, &e))?;
        let mut trust = Self::default();
        for (part, value) in table {
            let toml::Value::Table(entries) = value else { return Err(format!("`{part}` is no table")) };
            for (name, value) in entries {
                let toml::Value::String(value) = value else { return Err(format!("`{part}.{name}` is no text")) };
                if !is_name(&name) {
                    return Err(format!("`{}` is no name", name.escape_debug()));
                }
                match part.as_str() {
                    "keys" => {
                        let key = value.parse().map_err(|e| format!("`{name}`: {e}"))?;
                        if let Some(other) = trust.name_of(key) {
                            return Err(format!("`{name}` is the same key as `{other}`"));
                        }
                        trust.named.push((name, key));
                    }
                    "policy" => {
                        let policy: Policy = value.parse().map_err(|e| format!("`{name}`: {e}"))?;
                        match name.as_str() {
                            DEFAULT => trust.policies.default = policy,
                            _ => drop(trust.policies.by_source.insert(name, policy)),
                        }
                    }
                    other => return Err(format!("`{other}` is neither `keys` nor `policy`")),
                }
            }
        }
        Ok(trust)
    }
}

/// Whether `name` can stand for a key: letters, digits, `-` and `_`.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(good)
}

/// Adds a key behind those that are there. What else the file says stays as it is, comments included.
pub(crate) fn add(path: &Path, name: &str, key: PublicKey) -> Result<(), Diagnosis> {
    change(path, |text, trust| {
        trust.named.push((name.to_owned(), key));
        let line = format!("{name} = \"{key}\"");
        let mut lines: Vec<&str> = text.lines().collect();
        match keys_table(&lines) {
            Some(table) => lines.insert(table.end, &line),
            None => lines.extend(["[keys]", &line]),
        }
        lines.join("\n")
    })
}

/// Takes a key out; the line it was in goes, and nothing else.
pub(crate) fn remove(path: &Path, name: &str) -> Result<(), Diagnosis> {
    change(path, |text, trust| {
        trust.named.retain(|(n, _)| n != name);
        let mut lines: Vec<&str> = text.lines().collect();
        if let Some(table) = keys_table(&lines) {
            let is_it = |line: &&str| line.split_once('=').is_some_and(|(n, _)| n.trim().trim_matches('"') == name);
            let at = lines[table.clone()].iter().position(is_it);
            at.map(|at| lines.remove(table.start + at));
        }
        lines.join("\n")
    })
}

/// Lines of the table of keys: from behind its head to behind its last entry.
fn keys_table(lines: &[&str]) -> Option<std::ops::Range<usize>> {
    let head = lines.iter().position(|line| line.split('#').next().unwrap_or_default().trim() == "[keys]")?;
    let rest = &lines[head + 1..];
    let next = rest.iter().position(|line| line.trim_start().starts_with('[')).unwrap_or(rest.len());
    let last = rest[..next].iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
    Some(head + 1..head + 1 + last)
}

fn change(path: &Path, edit: impl FnOnce(&str, &mut Trust) -> String) -> Result<(), Diagnosis> {
    let old = text_of(path)?.unwrap_or_else(|| "# Whose receipts count: see `quipu trust --help`.\n".to_owned());
    let mut expected = Trust::parse(&old).map_err(|why| wrong(path, &why))?;
    let new = edit(&old, &mut expected) + "\n";
    // A file written in a way that a change of one line does not fit is its owner's to change.
    if Trust::parse(&new).as_ref() != Ok(&expected) {
        let message = format!("`{}` is written in a way that cannot be changed line by line", path.display());
        return Err(Diagnosis::usage(message).hint("change it in an editor"));
    }
    write(path, &new).map_err(|e| Diagnosis::system(&format!("cannot write `{}`", path.display()), &e))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temp = path.with_extension(format!("toml.{}", std::process::id()));
    let written = (|| {
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o644).open(&temp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written
}

fn text_of(path: &Path) -> Result<Option<String>, Diagnosis> {
    let failed = |e: io::Error| Diagnosis::system(&format!("cannot read `{}`", path.display()), &e);
    let meta = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    if meta.mode() & 0o022 != 0 {
        let message =
            format!("`{}` may be written by others than its owner (mode {:o})", path.display(), meta.mode() & 0o777);
        return Err(
            Diagnosis::usage(message).hint(format!("look who is in it, then run `chmod 644 {}`", path.display()))
        );
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(wrong(path, "it is too large"));
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

fn wrong(path: &Path, why: &str) -> Diagnosis {
    Diagnosis::usage(format!("`{}`: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::sign::Signer;

    fn key(n: u8) -> PublicKey {
        Signer::from_secret(&[n; 32]).public()
    }

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("config/trust.toml");
        fs::create_dir(dir.path().join("config")).expect("temp");
        fs::write(&path, text).expect("temp");
        (dir, path)
    }

    #[test]
    fn keys_come_and_go_by_the_line_and_the_rest_stays() {
        let text =
            format!("# mine\n[keys] # best first\nci = \"{}\" # since May\n\n[policy]\nfiles = \"2-of-n\"\n", key(1));
        let (_dir, path) = file(&text);
        add(&path, "anna", key(2)).expect("fits");
        let trust = Trust::read(&path).expect("reads");
        assert_eq!(trust.keys(), [key(1), key(2)], "in the order they were given");
        assert_eq!(trust.policies.of("files"), Policy::Agreed(2));
        assert_eq!(trust.policies.of("main"), Policy::Signed);
        remove(&path, "anna").expect("fits");
        assert_eq!(fs::read_to_string(&path).expect("reads"), text);
        remove(&path, "ci").expect("fits");
        assert_eq!(Trust::read(&path).expect("reads").keys(), []);
        add(&path, "ci", key(3)).expect("fits");
        assert_eq!(Trust::read(&path).expect("reads").keys(), [key(3)]);
    }

    #[test]
    fn a_file_is_made_with_its_directory_and_odd_ones_are_left_alone() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("deep/trust.toml");
        assert_eq!(Trust::read(&path).expect("reads"), Trust::default());
        add(&path, "ci", key(1)).expect("is made");
        assert_eq!(Trust::read(&path).expect("reads").name_of(key(1)), Some("ci"));
        let inline = format!("keys = {{ ci = \"{}\" }}\n", key(1));
        let (_dir, path) = file(&inline);
        assert!(add(&path, "anna", key(2)).is_err() && remove(&path, "ci").is_err());
        assert_eq!(fs::read_to_string(&path).expect("reads"), inline);
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_skipped() {
        let one = key(1);
        for bad in [
            "[keys]\nci = \"did:key:z6Mk\"",
            "[keys]\nci = 1",
            "[keys]\n\"a b\" = \"x\"",
            "[policy]\nfiles = \"none\"",
            "[policy]\nfiles = \"1-of-n\"",
            "[kyes]\n",
            "keys = 1",
            "not toml",
            &format!("[keys]\na = \"{one}\"\nb = \"{one}\""),
            &format!("[keys]\na = \"{one}\"\na = \"{one}\""),
        ] {
            let bad = if bad == "[kyes]\n" { "[kyes]\na = \"x\"" } else { bad };
            assert!(Trust::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, path) = file(&format!("[keys]\nci = \"{}\"\n", key(1)));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("own file");
        assert!(Trust::read(&path).is_err());
    }
}
