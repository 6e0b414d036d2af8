//! `quipu verify`: checks the store, and repairs it when asked to; the way on when its index cannot be read.

use std::fmt::Write as _;
use std::time::Duration;

use quipu_store::spaces::{Space, SpaceName};
use quipu_store::{Finding, OpenError, RebuildReport, Store, StoreError, VerifyOptions, VerifyReport};
use serde_json::json;

use super::{Context, namespace, print, print_json, shown};
use crate::cli::VerifyArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::render::count;
use crate::settings::Settings;

/// How long other processes get to end before an index is rebuilt.
const WAIT: Duration = Duration::from_secs(10);

/// What came of it all.
#[derive(Default)]
struct Outcome {
    report: VerifyReport,
    rebuilt: Option<RebuildReport>,
    /// Damage that is still there.
    left: usize,
}

/// Verifies.
pub(super) fn verify(context: &Context, args: &VerifyArgs) -> Result<Exit, Diagnosis> {
    let settings = context.settings()?;
    let outcome = check(&settings, args)?;
    let mut of_spaces = vec![];
    if settings.space.is_none() {
        for Space { name, .. } in namespace::all(&settings)? {
            let outcome = check(&settings.within(Some(name.clone())), args)?;
            of_spaces.push((name, outcome));
        }
    }
    let left = outcome.left + of_spaces.iter().map(|(_, outcome)| outcome.left).sum::<usize>();
    if args.json {
        let mut json = as_json(&outcome);
        let named = |(name, outcome): &(SpaceName, Outcome)| (name.to_string(), as_json(outcome));
        json["namespaces"] = serde_json::Map::from_iter(of_spaces.iter().map(named)).into();
        print_json(&json)?;
    } else {
        let mut out = text(&outcome, args.repair);
        for (name, outcome) in &of_spaces {
            let _ = write!(out, "name space {name}\n{}", text(outcome, args.repair));
        }
        print(&out)?;
    }
    Ok(if left == 0 { Exit::Ok } else { Exit::Findings })
}

fn check(settings: &Settings, args: &VerifyArgs) -> Result<Outcome, Diagnosis> {
    let options = VerifyOptions { repair: args.repair, rehash: !args.quick };
    let why = match settings.open_own() {
        Ok(store) => match store.verify(&options) {
            Ok(report) => return judge(&store, report, args.repair),
            Err(StoreError::Index { why, .. }) => why,
            Err(error) => return Err(error.into()),
        },
        Err(OpenError::Index { why, .. }) => why,
        Err(error) => return Err(error.into()),
    };
    if !args.repair {
        let mut report = VerifyReport::default();
        report.findings.push(Finding::Index { why });
        return Ok(Outcome { report, left: 1, ..Outcome::default() });
    }
    let (store, rebuilt) = Store::rebuild(&settings.own_dir(), settings.options(), WAIT)
        .map_err(|error| Diagnosis::system("cannot rebuild the index", &error))?;
    store.flush()?;
    let mut outcome = judge(&store, store.verify(&options)?, true)?;
    outcome.report.findings.insert(0, Finding::Index { why });
    outcome.report.repaired += 1;
    outcome.rebuilt = Some(rebuilt);
    Ok(outcome)
}

/// After a repair, what counts is what is still wrong: looked at once more, without reading all files again.
fn judge(store: &Store, report: VerifyReport, repaired: bool) -> Result<Outcome, Diagnosis> {
    let damage = |report: &VerifyReport| report.findings.iter().filter(|f| f.is_damage()).count();
    let left = match damage(&report) {
        0 => 0,
        _ if repaired => damage(&store.verify(&VerifyOptions::default())?),
        n => n,
    };
    Ok(Outcome { report, rebuilt: None, left })
}

fn text(outcome: &Outcome, repair: bool) -> String {
    let report = &outcome.report;
    let mut out = String::new();
    for finding in &report.findings {
        let _ = writeln!(out, "{finding}");
    }
    if let Some(rebuilt) = &outcome.rebuilt {
        let (receipts, files) = (count(rebuilt.receipts as usize, "receipt"), count(rebuilt.files as usize, "file"));
        let _ = writeln!(out, "the index was rebuilt: {receipts}, {files}");
        if let Some(old) = &rebuilt.old_index {
            let _ = writeln!(out, "the old one is `{}`", shown(old));
        }
    }
    let looked = [
        count(report.receipts as usize, "receipt"),
        count(report.blocks as usize, "block"),
        count(report.files as usize, "file"),
    ];
    let damage = report.findings.iter().filter(|f| f.is_damage()).count();
    let verdict = match (damage, outcome.left) {
        (0, _) => "sound".to_owned(),
        (_, 0) if repair => {
            format!("{} repaired; what was lost runs again when it is needed", count(damage, "finding"))
        }
        (_, left) if repair => format!("{} could not be repaired", count(left, "finding")),
        _ => format!("{}; `quipu verify --repair` mends what can be mended", count(damage, "finding")),
    };
    let _ = writeln!(out, "{}: {verdict}", looked.join(", "));
    out
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    let report = &outcome.report;
    let finding = |f: &Finding| json!({ "message": f.to_string(), "damage": f.is_damage() });
    json!({
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "receipts": report.receipts,
        "blocks": report.blocks,
        "files": report.files,
        "repaired": report.repaired,
        "left": outcome.left,
        "rebuilt": outcome.rebuilt.as_ref().map(|r| json!({
            "receipts": r.receipts, "files": r.files, "quarantined_files": r.quarantined_files,
            "damaged_segments": r.damaged_segments, "old_index": r.old_index.as_ref().map(|p| p.display().to_string()),
        })),
    })
}
