//! `config.toml`, beside the key: what a person has decided for all their workspaces.
//!
//! Reads the file; unaware of what remotes are made of it.

use std::io::{self, Read};
use std::path::Path;

use crate::diagnose::{Diagnosis, not_toml};

/// Largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What stands in the file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// The name space to work in.
    pub(crate) namespace: Option<String>,
    /// The tables of `[remote.NAME]`, in their order.
    pub(crate) remotes: Vec<(String, toml::Table)>,
}

/// Reads it; nothing stands in one that is not there.
pub(crate) fn read(path: &Path) -> Result<Config, Diagnosis> {
    let system = |e: io::Error| Diagnosis::system(&format!("cannot read `{}`", path.display()), &e);
    let wrong = |why: &str| Diagnosis::usage(format!("`{}`: {why}", path.display()));
    let mut text = String::new();
    match std::fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(e) => return Err(system(e)),
        Ok(file) => file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(system)?,
    };
    let mut file: toml::Table = text.parse().map_err(|e| wrong(&not_toml(&text, &e)))?;
    let (namespace, remotes) = (file.remove("namespace"), file.remove("remote"));
    if let Some((other, _)) = file.iter().next() {
        return Err(wrong(&format!("`{other}` means nothing here; there are `namespace` and `[remote.NAME]`")));
    }
    let namespace = match namespace {
        None => None,
        Some(toml::Value::String(name)) => Some(name),
        Some(_) => return Err(wrong("`namespace` is not a text")),
    };
    let mut config = Config { namespace, remotes: vec![] };
    let Some(remotes) = remotes else { return Ok(config) };
    let toml::Value::Table(remotes) = remotes else { return Err(wrong("`remote` is not a table")) };
    for (name, value) in remotes {
        let toml::Value::Table(table) = value else { return Err(wrong(&format!("`remote.{name}` is not a table"))) };
        config.remotes.push((name, table));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_space_and_remotes_in_order_and_nothing_else_stands_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.toml");
        assert_eq!(read(&path).expect("no file"), Config::default());
        let said = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let names = |config: Config| config.remotes.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            read(&path).map(|config| (config.namespace.clone(), names(config))).map_err(|e| e.to_string())
        };
        assert_eq!(
            said("[remote.b]\nurl = 'grpc://b'\n[remote.a]\nurl = 'grpc://a'"),
            Ok((None, vec!["b".into(), "a".into()]))
        );
        assert_eq!(said("namespace = 'mine'"), Ok((Some("mine".to_owned()), vec![])));
        for bad in ["remote = 1", "[remote]\na = 1", "[trust]\nkeys = []", "[remote.a", "x = 1", "namespace = 1"] {
            assert!(said(bad).is_err(), "{bad}");
        }
    }
}
