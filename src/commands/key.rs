//! `quipu key`: the key that receipts are signed with.

use std::fmt::Write as _;
use std::fs;

use quipu_store::key_file::{self, KeyFileError};

use super::{Context, note, print};
use crate::cli::KeyCommand;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::settings::Settings;

/// Makes, shows or lists.
pub(super) fn key(context: &Context, command: &KeyCommand) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    match command {
        KeyCommand::New => new(&settings),
        KeyCommand::Show => show(&settings),
        KeyCommand::List => list(&settings),
    }
}

fn unusable(error: &KeyFileError) -> Diagnosis {
    Diagnosis::system("cannot use the signing key", error)
}

fn new(settings: &Settings) -> Result<Exit, Diagnosis> {
    if fs::symlink_metadata(&settings.key).is_ok() {
        return Err(Diagnosis::usage(format!("there is a key already, in `{}`", settings.key.display()))
            .hint("`quipu key show` prints its public half")
            .hint("to begin anew, move the file away: receipts signed with it stay valid where it is trusted"));
    }
    let signer = key_file::read_or_create(&settings.key).map_err(|e| unusable(&e))?;
    note(&format!("the key is in {}, for your eyes only", settings.key.display()));
    print(&format!("{}\n", signer.public())).map(|()| Exit::Ok)
}

fn show(settings: &Settings) -> Result<Exit, Diagnosis> {
    let public = match &settings.given_key {
        Some(signer) => signer.public(),
        None if fs::symlink_metadata(&settings.key).is_ok() => {
            key_file::read(&settings.key).map_err(|e| unusable(&e))?.public()
        }
        None => {
            return Err(Diagnosis::usage("there is no key yet")
                .hint("`quipu key new` makes one; so does the first run that records something"));
        }
    };
    print(&format!("{public}\n")).map(|()| Exit::Ok)
}

fn list(settings: &Settings) -> Result<Exit, Diagnosis> {
    let mut text = String::new();
    if let Some(signer) = &settings.given_key {
        let _ = writeln!(text, "{}  QUIPU_KEY (in use)", signer.public());
    }
    if fs::symlink_metadata(&settings.key).is_ok() {
        let public = key_file::read(&settings.key).map_err(|e| unusable(&e))?.public();
        let in_use = if settings.given_key.is_none() { " (in use)" } else { "" };
        let _ = writeln!(text, "{public}  {}{in_use}", settings.key.display());
    }
    if text.is_empty() {
        note("there is no key yet");
    }
    print(&text).map(|()| Exit::Ok)
}
