//! Settings: the command line, the environment and the platform's directories as plain values.
//!
//! The only reader of the environment, but for the passwords of remotes, whose names their tables say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quipu_runtime::exec::sandbox;
use quipu_runtime::process::Tier;
use quipu_runtime::workfile::DEFAULT_TIER;
use quipu_store::sign::Signer;
use quipu_store::spaces::{self, Reads, SpaceName};
use quipu_store::{OpenError, Options, SignerSource, Store};

use crate::commands::note;
use crate::config_file;
use crate::diagnose::Diagnosis;
use crate::render::{Fold, harmless};
use crate::secret;

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// The name space of it that is worked in; none is `default`, the store itself.
    pub(crate) space: Option<SpaceName>,
    /// What that sees.
    pub(crate) reads: Reads,
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
    /// From `--store`, else `$QUIPU_STORE`, else the platform's cache directory; the name space from `--namespace`, else
    /// `$QUIPU_NAMESPACE`, else `config.toml`.
    pub(crate) fn read(store: Option<PathBuf>, named: Option<&str>, only: bool) -> Result<Self, Diagnosis> {
        let home = || {
            var_path("HOME").ok_or_else(|| {
                Diagnosis::usage("neither HOME nor QUIPU_STORE is set")
                    .hint("set QUIPU_STORE to the directory of the store")
            })
        };
        let store = match store.or_else(|| var_path("QUIPU_STORE")) {
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
        let space = space(named, &config)?;
        if only && space.is_none() {
            return Err(Diagnosis::usage("`--only-namespace` is of a name space, and none is named")
                .hint(format!("name one with `--namespace` or {NAMESPACE}")));
        }
        let reads = if only { Reads::Own } else { Reads::OwnAndDefault };
        Ok(Self { store: absolute(store), space, reads, key, trust, given_key: given_key()?, config })
    }

    /// Opens the store, or the name space of it that is worked in. One that is not there yet is made by the first write.
    pub(crate) fn open_store(&self) -> Result<Store, Diagnosis> {
        match &self.space {
            None => Ok(self.open_own()?),
            Some(space) => Ok(spaces::open(&self.store, space, self.reads, self.options())?),
        }
    }

    /// Opens what is written by itself, to look after it: which is no use of a name space.
    pub(crate) fn open_own(&self) -> Result<Store, OpenError> {
        Store::open(&self.own_dir(), self.options())
    }

    /// The directory of what is written: the store's, or the name space's.
    pub(crate) fn own_dir(&self) -> PathBuf {
        self.space.as_ref().map_or_else(|| self.store.clone(), |space| spaces::dir(&self.store, space))
    }

    /// The directory of what is read and not written, if there is any.
    pub(crate) fn behind(&self) -> Option<&Path> {
        (self.space.is_some() && self.reads == Reads::OwnAndDefault).then_some(&*self.store)
    }

    /// The same of another name space, or of `default`.
    pub(crate) fn within(&self, space: Option<SpaceName>) -> Self {
        Self { space, ..self.clone() }
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

/// The name space to work in.
const NAMESPACE: &str = "QUIPU_NAMESPACE";

/// The name space that was named: on the command line, else in the environment, else in `config.toml`.
fn space(named: Option<&str>, config: &Path) -> Result<Option<SpaceName>, Diagnosis> {
    let (name, place) = match (named, std::env::var_os(NAMESPACE).filter(|v| !v.is_empty())) {
        (Some(name), _) => (Some(name.to_owned()), "--namespace".to_owned()),
        (None, Some(name)) => (Some(name.to_string_lossy().into_owned()), NAMESPACE.to_owned()),
        (None, None) => (config_file::read(config)?.namespace, format!("`{}`", config.display())),
    };
    let named = name.filter(|name| name != spaces::DEFAULT);
    named.map(|name| space_name(&name).map_err(|wrong| wrong.hint(format!("it stands in {place}")))).transpose()
}

/// A name space as somebody has named it.
pub(crate) fn space_name(text: &str) -> Result<SpaceName, Diagnosis> {
    text.parse().map_err(|error: spaces::SpaceNameError| Diagnosis::usage(format!("`{}`: {error}", harmless(text))))
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
