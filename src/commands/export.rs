//! `quipu export`: receipts with all they reach, in one file for another machine.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use quipu_runtime::identity::decode_task;
use quipu_runtime::process;
use quipu_store::car::{self, CarError, ExportOptions, Exported};
use quipu_store::cid::{BlobId, ReceiptId, TaskId};
use quipu_store::receipt::Receipt;
use quipu_store::remote::CLOSED_TIERS;
use quipu_store::tree::Entry;
use quipu_store::{Kind, Store, StoreError};

use super::{Context, accepted, note, print, show, workflow};
use crate::cli::ExportArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::quantity::size;
use crate::render::count;

/// What goes into the file, and how many were left out since nobody can tell what they depended on.
#[derive(Default)]
struct Chosen {
    receipts: Vec<ReceiptId>,
    open: Vec<String>,
    /// Whether all that was asked for is no part of the workflow now.
    left_out: bool,
}

/// Exports.
pub(super) fn export(context: &Context, args: &ExportArgs) -> Result<Exit, Diagnosis> {
    if let Some(format) = args.workflow {
        return workflow::export(context, args, format);
    }
    let by_id = !args.what.is_empty() && args.what.iter().all(|text| workflow::is_id(text));
    let opened = if by_id { None } else { Some(Opened::open(context)?) };
    let store = match &opened {
        Some(opened) => opened.store.clone(),
        None => context.settings()?.open_store()?,
    };
    let mut chosen = match &opened {
        None => of_ids(&store, &args.what)?,
        Some(opened) => of_goals(opened, args)?,
    };
    if chosen.receipts.is_empty() {
        return Err(nothing(&chosen));
    }
    if let Some(first) = chosen.open.first().filter(|_| !args.all) {
        let (n, first) = (count(chosen.open.len(), "task"), first.clone());
        note(&format!(
            "warning: {n} left out that ran without a sandbox, with the network or with a secret, `{first}` among them"
        ));
        note("help: `--all` takes them along: nobody can tell what else they depended on");
    }
    chosen.receipts.sort_unstable();
    let files = opened.as_ref().filter(|_| args.sources).map(sources).transpose()?.unwrap_or_default();
    let find = |id: BlobId| files.get(&id).cloned();
    let options = ExportOptions { logs: args.logs, sources: args.sources.then_some(&find) };
    let stdout = args.output == Path::new("-");
    let to = if stdout { args.output.clone() } else { context.file(&args.output) };
    let done = write(&store, &chosen.receipts, options, &to)?;
    if !done.missing.is_empty() {
        let n = count(done.missing.len(), "part");
        note(&format!("warning: {n} of outputs not in this store: where they are needed their tasks will run"));
    }
    let said = format!(
        "exported {}, {}, {}\n",
        count(done.receipts.len(), "receipt"),
        count(done.blocks as usize, "block"),
        size(done.bytes)
    );
    if stdout {
        note(said.trim_end());
        return Ok(Exit::Ok);
    }
    print(&said).map(|()| Exit::Ok)
}

fn nothing(chosen: &Chosen) -> Diagnosis {
    let nothing = Diagnosis::usage("there is nothing to export").exit(Exit::Failed);
    if chosen.left_out {
        nothing.hint("a condition leaves out what was asked for: `--set` may change that")
    } else if chosen.open.is_empty() {
        nothing.hint("`quipu run` first: what has no receipt cannot be shared")
    } else {
        let n = count(chosen.open.len(), "task");
        nothing.hint(format!("{n} ran without a sandbox, with the network or with a secret; `--all` exports that too"))
    }
}

fn of_ids(store: &Store, ids: &[String]) -> Result<Chosen, Diagnosis> {
    let mut chosen = Chosen::default();
    for text in ids {
        let (link, kind) = show::resolve(store, text)?;
        match kind {
            Kind::Receipt => chosen.receipts.push(ReceiptId::from_digest(link.digest)),
            Kind::Task => {
                let found = store.find_tasks(&[TaskId::from_digest(link.digest)])?.remove(0);
                let ok = found.receipts.iter().find(|f| f.signed.receipt.out.is_ok()).map(|f| f.signed.id);
                let id = found.accepted.map(|(id, _)| id).or(ok);
                chosen.receipts.push(id.ok_or_else(|| Diagnosis::usage(format!("nothing settles task {link}")))?);
            }
            other => {
                let message = format!("{link} is a {}: receipts and tasks can be exported", other.name());
                return Err(Diagnosis::usage(message));
            }
        }
    }
    Ok(chosen)
}

fn of_goals(opened: &Opened, args: &ExportArgs) -> Result<Chosen, Diagnosis> {
    let mut chosen = Chosen::default();
    let (ids, names): (Vec<String>, Vec<String>) = args.what.iter().cloned().partition(|text| workflow::is_id(text));
    chosen.receipts = of_ids(&opened.store, &ids)?.receipts;
    let goals = opened.goals(&names)?;
    opened.tell_left_out(&names);
    chosen.left_out = goals.is_empty();
    let below = accepted::below(&opened.project.subject, &goals);
    for (task, found) in accepted::of(opened, &below)? {
        let (name, is_goal) = (accepted::name(opened, task), goals.contains(&task));
        let Some(found) = found else {
            if is_goal {
                note(&format!("warning: `{name}` has no receipt here"));
            }
            continue;
        };
        if accepted::is_private(opened, task) {
            continue;
        }
        if !is_closed(&opened.store, &found.signed.receipt)? {
            chosen.open.push(name);
            if !args.all {
                continue;
            }
        }
        chosen.receipts.push(found.signed.id);
    }
    Ok(chosen)
}

/// Whether what it depended on is all in its id: in a sandbox, without the network and without secrets.
pub(super) fn is_closed(store: &Store, receipt: &Receipt) -> Result<bool, StoreError> {
    if !CLOSED_TIERS.contains(&receipt.meta.tier.as_str()) {
        return Ok(false);
    }
    let bytes = store.get(receipt.ran.link(), car::MAX_DAG_BYTES)?;
    let task = bytes.and_then(|bytes| decode_task(&bytes).ok());
    Ok(task.is_some_and(|task| process::is_closed(&task.args)))
}

/// Files of the workspace by content, as they were found just now.
fn sources(opened: &Opened) -> Result<HashMap<BlobId, PathBuf>, Diagnosis> {
    let project = &opened.project;
    let mut paths: Vec<String> = vec![];
    for task in project.subject.workflow.indices() {
        project.keep_tree(&opened.store, task)?;
        paths.extend(project.seen(task).iter().map(|(path, _)| path.to_string()));
    }
    paths.sort_unstable();
    paths.dedup();
    let asked: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut files = HashMap::new();
    for scanned in opened.workspace.index().scan(&asked) {
        if let Ok(Some((Entry::File { blob, .. }, _))) = scanned.result {
            files.insert(blob, opened.workspace.root().join(scanned.path));
        }
    }
    Ok(files)
}

fn write(store: &Store, receipts: &[ReceiptId], options: ExportOptions<'_>, to: &Path) -> Result<Exported, Diagnosis> {
    let failed = |e: CarError| match e {
        CarError::Store(error) => error.into(),
        CarError::Damaged(_) => Diagnosis::system("cannot export", &e).hint("`quipu run` makes what is damaged again"),
        _ => Diagnosis::system("cannot export", &e),
    };
    if to == Path::new("-") {
        return car::export(store, receipts, options, &mut BufWriter::new(io::stdout().lock())).map_err(failed);
    }
    whole_file(to, |file| car::export(store, receipts, options, file).map_err(failed))
}

/// Writes a file under another name until it is whole, and says what was written.
pub(super) fn whole_file<T>(
    to: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, Diagnosis>,
) -> Result<T, Diagnosis> {
    // Under another name until it is whole: nobody takes half a file for all of it.
    let mut name = to.file_name().ok_or_else(|| Diagnosis::usage(format!("`{}` is no file", to.display())))?.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = to.with_file_name(name);
    let unwritten = |e: io::Error| Diagnosis::system(&format!("cannot write `{}`", to.display()), &e);
    let written = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(&part).map_err(unwritten)?);
        let done = write(&mut file)?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(unwritten)?;
        fs::rename(&part, to).map_err(unwritten)?;
        Ok(done)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
