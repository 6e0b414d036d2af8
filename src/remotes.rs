//! Remotes that a person has described in `config.toml`, beside their key.
//!
//! Makes remotes of what stands there; connects to nobody. Where this program was built without them, it says so
//! and goes on.

use quipu_runtime::drive::Engine;
use quipu_runtime::observe::{Observer, RunEvent};
use quipu_store::spaces::Reads;

use crate::config_file;
use crate::diagnose::Diagnosis;
use crate::settings::Settings;

/// Gives an engine the remotes of its user, in the order they stand in: to be read and no more by a name space, and not at
/// all by one that goes by itself.
pub(crate) fn attach(engine: &mut Engine, settings: &Settings) -> Result<(), Diagnosis> {
    engine.sends = settings.space.is_none();
    if settings.reads == Reads::Own {
        return Ok(());
    }
    let tables = config_file::read(&settings.config)?.remotes;
    if tables.is_empty() {
        return Ok(());
    }
    // What one's own key has signed counts wherever it was in between.
    let own = match &settings.given_key {
        Some(signer) => Some(signer.public()),
        None => quipu_store::key_file::read(&settings.key).ok().map(|signer| signer.public()),
    };
    if let Some(own) = own.filter(|own| !engine.trusted.contains(own)) {
        engine.trusted.insert(0, own);
    }
    for (name, table) in tables {
        let wrong = |why: &dyn std::fmt::Display| {
            Diagnosis::usage(format!("`{}`: remote `{name}`: {why}", settings.config.display()))
        };
        if let Some(message) = add(engine, &name, table, &wrong)? {
            engine.observers.on(0, &RunEvent::Warning { message });
        }
    }
    Ok(())
}

/// Lets the remote of this name carry out processes, beside this machine; says how many there at once.
#[cfg(feature = "remote")]
pub(crate) fn execute_on(
    engine: &mut Engine,
    settings: &Settings,
    name: &str,
    workspace: &std::sync::Arc<quipu_runtime::exec::workspace::Workspace>,
    jobs: u32,
) -> Result<u32, Diagnosis> {
    use quipu_runtime::task::PROCESS;
    let tables = config_file::read(&settings.config)?.remotes;
    let wrong = |why: &dyn std::fmt::Display| {
        Diagnosis::usage(format!("`{}`: remote `{name}`: {why}", settings.config.display()))
    };
    let Some((_, table)) = tables.into_iter().find(|(n, _)| n == name) else {
        return Err(wrong(&"there is none of that name"));
    };
    let config: quipu_remote::Config = described(table, &wrong)?;
    let local = engine.executors.find(PROCESS).cloned().ok_or_else(|| wrong(&"there are no processes to send"))?;
    let workspace = std::sync::Arc::clone(workspace);
    let observers = engine.observers.clone();
    let warn: quipu_remote::Warn = std::sync::Arc::new(move |message| observers.on(0, &RunEvent::Warning { message }));
    let executor = quipu_remote::RemoteExecutor::new(name, &config, &variable, workspace, local, jobs, warn);
    engine.executors.register(PROCESS, executor.map_err(|e| wrong(&e))?);
    Ok(config.slots)
}

/// There are none to execute on.
#[cfg(not(feature = "remote"))]
pub(crate) fn execute_on(
    _: &mut Engine,
    _: &Settings,
    name: &str,
    _: &std::sync::Arc<quipu_runtime::exec::workspace::Workspace>,
    _: u32,
) -> Result<u32, Diagnosis> {
    Err(Diagnosis::usage(format!("remote `{name}`: this quipu was built without the feature `remote`"))
        .hint("build it without `--no-default-features`"))
}

type Wrong<'w> = dyn Fn(&dyn std::fmt::Display) -> Diagnosis + 'w;
/// Nothing, or why a remote was left out.
type Added = Result<Option<String>, Diagnosis>;

/// Adds what the table describes, by its address: a peer, a bucket, or else a server. A text is why it was left out.
fn add(engine: &mut Engine, name: &str, table: toml::Table, wrong: &Wrong<'_>) -> Added {
    let url = table.get("url").and_then(toml::Value::as_str).unwrap_or_default();
    let added = match url.split_once("://") {
        Some(("http" | "https", _)) => add_peer(engine, name, table, wrong),
        Some(("s3", _)) => add_bucket(engine, name, table, wrong),
        _ => add_server(engine, name, table, wrong),
    };
    // A machine without the password, such as one that builds a stranger's change, builds without the remote.
    Ok(added?.map(|why| format!("remote `{name}` is left out: {why}")))
}

/// What a table says, in the words of one kind of remote.
fn described<T: serde::de::DeserializeOwned>(table: toml::Table, wrong: &Wrong<'_>) -> Result<T, Diagnosis> {
    toml::Value::Table(table).try_into().map_err(|e: toml::de::Error| wrong(&e.message()))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn add_peer(engine: &mut Engine, name: &str, table: toml::Table, wrong: &Wrong<'_>) -> Added {
    use quipu_peer::{ConfigError, PeerRemote};
    match PeerRemote::new(name, &described(table, wrong)?, &variable) {
        Ok(remote) => engine.remotes.push(std::sync::Arc::new(remote)),
        Err(ConfigError::Token(why)) => return Ok(Some(why)),
        Err(error) => return Err(wrong(&error)),
    }
    Ok(None)
}

#[cfg(feature = "remote")]
fn add_server(engine: &mut Engine, name: &str, table: toml::Table, wrong: &Wrong<'_>) -> Added {
    use quipu_remote::{ConfigError, GrpcRemote};
    match GrpcRemote::new(name, &described(table, wrong)?, &variable) {
        Ok(remote) => engine.remotes.push(std::sync::Arc::new(remote)),
        Err(ConfigError::Token(why)) => return Ok(Some(why)),
        Err(error) => return Err(wrong(&error)),
    }
    Ok(None)
}

#[cfg(not(feature = "remote"))]
fn add_server(_: &mut Engine, _: &str, _: toml::Table, _: &Wrong<'_>) -> Added {
    Ok(Some("this quipu was built without the feature `remote`".to_owned()))
}

#[cfg(feature = "bucket")]
fn add_bucket(engine: &mut Engine, name: &str, table: toml::Table, wrong: &Wrong<'_>) -> Added {
    use quipu_bucket::{BucketRemote, ConfigError};
    match BucketRemote::new(name, &described(table, wrong)?, &variable) {
        Ok(remote) => engine.remotes.push(std::sync::Arc::new(remote)),
        Err(ConfigError::Credentials(why)) => return Ok(Some(why)),
        Err(error) => return Err(wrong(&error)),
    }
    Ok(None)
}

#[cfg(not(feature = "bucket"))]
fn add_bucket(_: &mut Engine, _: &str, _: toml::Table, _: &Wrong<'_>) -> Added {
    Ok(Some("this quipu was built without the feature `bucket`".to_owned()))
}
