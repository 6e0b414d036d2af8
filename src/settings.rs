//! Settings: the command line, the environment and the platform's directories as plain values.
//!
//! The only reader of the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quipu_runtime::exec::sandbox;
use quipu_runtime::process::Tier;
use quipu_runtime::workfile::DEFAULT_TIER;
use quipu_store::sign::Signer;
use quipu_store::{Options, SignerSource, Store};

use crate::commands::note;
use crate::diagnose::Diagnosis;
use crate::render::Fold;
use crate::secret;

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// The file of the signing key.
    pub(crate) key: PathBuf,
    /// The file that says whose receipts count. Beside the key: no workspace can say so.
    pub(crate) trust: PathBuf,
    /// The key that `QUIPU_KEY` gives in place of the file.
    pub(crate) given_key: Option<Signer>,
    /// The file that says which remotes there are. Beside the key: no workspace can name a server or a password.
    pub(crate) config: PathBuf,
}

impl Settings {
    /// From `--store`, else `$QUIPU_STORE`, else the platform's cache directory.
    pub(crate) fn read(store: Option<&Path>) -> Result<Self, Diagnosis> {
        let home = || {
            var_path("HOME").ok_or_else(|| {
                Diagnosis::usage("neither HOME nor QUIPU_STORE is set")
                    .hint("set QUIPU_STORE to the directory of the store")
            })
        };
        let store = match store.map(Path::to_owned).or_else(|| var_path("QUIPU_STORE")) {
            Some(store) => store,
            None => var_path("XDG_CACHE_HOME").map_or_else(|| home().map(|h| h.join(".cache")), Ok)?.join("quipu"),
        };
        let config = match var_path("QUIPU_CONFIG").or_else(|| var_path("XDG_CONFIG_HOME").map(|c| c.join("quipu"))) {
            Some(config) => config,
            None => var_path("HOME").map_or_else(|| store.join("config"), |h| h.join(".config/quipu")),
        };
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let config = absolute(config);
        let (key, trust, config) = (config.join("key"), config.join("trust.toml"), config.join("config.toml"));
        Ok(Self { store: absolute(store), key, trust, given_key: given_key()?, config })
    }

    /// Opens the store. One that is not there yet is made by the first write.
    pub(crate) fn open_store(&self) -> Result<Store, Diagnosis> {
        Ok(Store::open(&self.store, self.options())?)
    }

    /// The directory of what the user decides.
    pub(crate) fn config_dir(&self) -> &Path {
        self.key.parent().unwrap_or(&self.key)
    }

    /// How the store behaves.
    pub(crate) fn options(&self) -> Options {
        Options::new(match &self.given_key {
            Some(signer) => SignerSource::Fixed(signer.clone()),
            None => SignerSource::File(self.key.clone()),
        })
    }
}

/// The secret half of the signing key, for machines whose files do not last.
const KEY: &str = "QUIPU_KEY";

/// The key in `QUIPU_KEY`: its 32 bytes in hexadecimal or base64, or the path of a file that `quipu key new` made.
fn given_key() -> Result<Option<Signer>, Diagnosis> {
    let Some(value) = std::env::var_os(KEY).filter(|v| !v.is_empty()) else { return Ok(None) };
    if let Some(bytes) = value.to_str().and_then(|text| secret::read(text.trim())) {
        return Ok(Some(Signer::from_secret(&bytes)));
    }
    // What it says is not repeated: it may be a key with a letter missing.
    let path = Path::new(&value);
    if !path.is_file() {
        let message = format!("{KEY} is neither 32 bytes in hexadecimal or base64 nor the path of a key file");
        return Err(Diagnosis::usage(message));
    }
    let read = quipu_store::key_file::read(path);
    Ok(Some(read.map_err(|e| Diagnosis::system(&format!("cannot read the key that {KEY} names"), &e))?))
}

/// How tasks are isolated when neither they nor the workspace say: `$QUIPU_SANDBOX`, else in namespaces.
pub(crate) fn isolation() -> Result<Tier, Diagnosis> {
    match std::env::var_os("QUIPU_SANDBOX").filter(|v| !v.is_empty()) {
        None => Ok(DEFAULT_TIER),
        Some(name) if name == "best" => Ok(best()),
        Some(name) => name.to_str().and_then(Tier::from_name).ok_or_else(|| {
            Diagnosis::usage(format!("QUIPU_SANDBOX is `{}`, which is no kind of isolation", name.display()))
                .hint("one of `ns`, `landlock`, `none`, or `best`: the first of them that works here")
        }),
    }
}

/// The strictest isolation that this machine allows, for who asked for that. Anything less than the default is told.
fn best() -> Tier {
    let Err(why) = sandbox::ns() else { return Tier::Ns };
    let tier = if sandbox::landlock().is_ok() { Tier::Landlock } else { Tier::None };
    note(&format!("note: the best isolation here is `{}`: {why}", tier.name()));
    tier
}

fn var_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// What who reads a served store has to show.
const TOKEN: &str = "QUIPU_TOKEN";

/// The token in `QUIPU_TOKEN`.
pub(crate) fn given_token() -> Result<Option<String>, Diagnosis> {
    let Some(value) = std::env::var_os(TOKEN).filter(|v| !v.is_empty()) else { return Ok(None) };
    value.into_string().map(Some).map_err(|_| Diagnosis::usage(format!("{TOKEN} is no text")))
}

/// The environment, of which tasks see what they name. Keys and tokens are not theirs to name.
pub(crate) fn environment() -> BTreeMap<String, String> {
    let all = std::env::vars_os().filter(|(name, _)| name != KEY && name != TOKEN);
    all.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// The command line as it was given, without the program's name.
pub(crate) fn arguments() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::args_os().skip(1)
}

/// Whether a run may be short when all looks as it did: not with `QUIPU_GLANCE=0`.
pub(crate) fn may_glance() -> bool {
    std::env::var_os("QUIPU_GLANCE").is_none_or(|value| value != "0")
}

/// Whether errors may be coloured.
pub(crate) fn stderr_has_colour() -> bool {
    use std::io::IsTerminal;
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
}

/// Whether progress may be drawn over.
pub(crate) fn stderr_is_live() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal()
        && std::env::var_os("TERM").is_some_and(|t| t != "dumb")
        && std::env::var_os("CI").is_none()
}

/// What folds output where it is shown.
pub(crate) fn fold() -> Fold {
    let is = |name: &str| std::env::var_os(name).is_some_and(|v| v == "true");
    match (is("GITHUB_ACTIONS"), is("GITLAB_CI")) {
        (true, _) => Fold::GitHub,
        (_, true) => Fold::GitLab,
        _ => Fold::None,
    }
}

/// How many tasks run at once when nobody says.
pub(crate) fn default_jobs() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}
