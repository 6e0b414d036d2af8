//! `quipu trust`: whose receipts count beside one's own.

use std::fmt::Write as _;

use quipu_store::sign::{KeyError, PublicKey};
use quipu_store::trust::Policy;

use super::{Context, note, print};
use crate::cli::TrustCommand;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::render::harmless;
use crate::trust_file::{self, Trust};

/// Adds, removes or lists.
pub(super) fn trust(context: &Context, command: &TrustCommand) -> Result<Exit, Diagnosis> {
    let path = context.settings()?.trust;
    let trust = Trust::read(&path)?;
    let holds = |name: &str| trust.named.iter().find(|(n, _)| n == name).map(|(_, key)| *key);
    match command {
        TrustCommand::Add { name, key } => {
            if !trust_file::is_name(name) {
                let message = format!("`{}` cannot be a name here", harmless(name));
                return Err(Diagnosis::usage(message).hint("letters, digits, `-` and `_`, at most 64"));
            }
            let key: PublicKey = key.parse().map_err(|e: KeyError| {
                Diagnosis::usage(harmless(&e.to_string()))
                    .hint("`quipu key show` prints it, on the machine it belongs to")
            })?;
            match (holds(name), trust.name_of(key)) {
                (Some(known), _) if known == key => {}
                (Some(known), _) => {
                    return Err(Diagnosis::usage(format!("`{name}` is {known} already"))
                        .hint(format!("`quipu trust remove {name}` first, if that key is to count no more")));
                }
                (None, Some(other)) => return Err(Diagnosis::usage(format!("that key is `{other}` already"))),
                (None, None) => trust_file::add(&path, name, key)?,
            }
        }
        TrustCommand::Remove { name } => {
            if holds(name).is_none() {
                let message = format!("nobody called `{}` is trusted", harmless(name));
                return Err(Diagnosis::usage(message).hint("`quipu trust list` says who is"));
            }
            trust_file::remove(&path, name)?;
        }
        TrustCommand::List => return list(&trust),
    }
    Ok(Exit::Ok)
}

fn list(trust: &Trust) -> Result<Exit, Diagnosis> {
    let mut text = String::new();
    let width = trust.named.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, key) in &trust.named {
        let _ = writeln!(text, "{name:width$}  {key}");
    }
    if trust.named.is_empty() {
        note("no key but your own is trusted");
    }
    let policies = &trust.policies;
    if policies.default != Policy::Signed {
        let _ = writeln!(text, "policy: {}", policies.default);
    }
    for (source, policy) in &policies.by_source {
        let _ = writeln!(text, "policy for {source}: {policy}");
    }
    print(&text).map(|()| Exit::Ok)
}
