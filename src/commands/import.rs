//! `quipu import`: takes over what another machine has done.

use std::collections::BTreeMap;

use quipu_store::car::{self, CarError, ImportOptions, Imported};
use quipu_store::trust::Policy;

use super::workflow::{self, Begins};
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
    let from = workflow::open(context, &args.file)?;
    let store = settings.open_store()?;
    let from = match workflow::begins(from)? {
        Begins::Workflow(from) => return workflow::import(&store, &name.to_string(), from, args.max_bytes),
        Begins::Other(from) => from,
    };
    let mut options = ImportOptions::new(SOURCE);
    options.max_bytes = args.max_bytes.unwrap_or(u64::MAX);
    let imported = car::import(&store, from, &options).map_err(|error| refused(&name.to_string(), error))?;
    tell(&imported, &trust);
    for link in &imported.workflows {
        workflow::pin(&store, *link)?;
        print(&format!("{link}\n"))?;
    }
    if imported.receipts.is_empty() && imported.known_receipts == 0 {
        let what = [count(imported.workflows.len(), "workflow"), count(imported.blocks as usize, "block")].join(", ");
        note(&format!("imported {what}, {}", size(imported.bytes)));
        return Ok(Exit::Ok);
    }
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
