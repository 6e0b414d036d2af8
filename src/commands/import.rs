//! `quipu import`: takes over what another machine has done.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use quipu_store::car::{self, CarError, ImportOptions, Imported};
use quipu_store::trust::Policy;

use super::{Context, note, print};
use crate::cli::ImportArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::quantity::size;
use crate::render::count;
use crate::trust_file::Trust;

/// What receipts out of files are said to come from; `[policy]` in `trust.toml` goes by it.
const SOURCE: &str = "files";

/// Imports.
pub(super) fn import(context: &Context, args: &ImportArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let trust = Trust::read(&settings.trust)?;
    let name = args.file.display();
    let from: Box<dyn Read> = if args.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let failed = |e| Diagnosis::system(&format!("cannot read `{name}`"), &e).exit(Exit::Usage);
        let file = context.file(&args.file);
        if file.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        Box::new(File::open(file).map_err(failed)?)
    };
    let store = settings.open_store()?;
    let mut options = ImportOptions::new(SOURCE);
    options.max_bytes = args.max_bytes.unwrap_or(u64::MAX);
    let imported = car::import(&store, from, &options).map_err(|error| refused(&name.to_string(), error))?;
    tell(&imported, &trust);
    let known = match imported.known_receipts {
        0 => String::new(),
        n => format!(" ({n} were here already)"),
    };
    print(&format!(
        "imported {}{known}, {}, {}\n",
        count(imported.receipts.len(), "receipt"),
        count(imported.blocks as usize, "block"),
        size(imported.bytes)
    ))
    .map(|()| Exit::Ok)
}

fn refused(name: &str, error: CarError) -> Diagnosis {
    match error {
        CarError::Store(error) => error.into(),
        CarError::Commit(error) => error.into(),
        error if error.is_bad_file() => {
            Diagnosis::system(&format!("`{name}` is refused, and nothing of it is kept"), &error).exit(Exit::Findings)
        }
        error => Diagnosis::system(&format!("cannot import `{name}`"), &error),
    }
}

/// What a person should know of it.
fn tell(imported: &Imported, trust: &Trust) {
    let mut strangers = BTreeMap::<_, usize>::new();
    for (_, issuer) in &imported.receipts {
        if trust.name_of(*issuer).is_none() {
            *strangers.entry(*issuer).or_default() += 1;
        }
    }
    for (issuer, n) in strangers {
        if trust.policies.of(SOURCE) == Policy::Any {
            note(&format!(
                "warning: {} by {issuer} count although that key is not trusted (`any`)",
                count(n, "receipt")
            ));
        } else {
            note(&format!("warning: {} by {issuer} do not count: that key is not trusted", count(n, "receipt")));
            note(&format!("help: `quipu trust add NAME {issuer}`, if you know whose it is"));
        }
    }
    if !imported.incomplete.is_empty() {
        let n = count(imported.incomplete.len(), "receipt");
        note(&format!("warning: {n} without all outputs: their tasks run again where those are needed"));
    }
    if imported.strays > 0 {
        note(&format!("note: {} that no receipt reaches left out", count(imported.strays as usize, "block")));
    }
}
