//! Workflows as files: `quipu export --workflow`, and what `quipu import` takes that is no CAR file.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use quipu_runtime::dag_json;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::workflow_block::{self, Beside};
use quipu_store::car::{Below, CarError};
use quipu_store::cid::{Codec, IdPrefix, Link};
use quipu_store::tree::Entry;
use quipu_store::{Root, Store, Take};

use super::export::whole_file;
use super::{Context, note, print};
use crate::cli::{ExportArgs, WorkflowFormat};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::quantity::{now, size};
use crate::render::{count, harmless};

/// A task may be called anything; what begins like an id and is long enough is one.
pub(super) fn is_id(text: &str) -> bool {
    text.len() >= 12 && (text.starts_with("bafyr4i") || text.starts_with("bafkr4i")) && IdPrefix::new(text).is_ok()
}

/// Exports the workflow of the tasks that were asked for, or one that the store has.
pub(super) fn export(context: &Context, args: &ExportArgs, format: WorkflowFormat) -> Result<Exit, Diagnosis> {
    let (store, bytes) = match &args.what[..] {
        [id] if is_id(id) => {
            let store = context.settings()?.open_store()?;
            let (link, _) = super::show::resolve(&store, id)?;
            let bytes = store.get(link, quipu_store::car::MAX_DAG_BYTES)?;
            (store, bytes.ok_or_else(|| Diagnosis::usage(format!("{link} is not in the store")))?)
        }
        selectors => {
            let opened = Opened::open(context)?;
            let goals = opened.project.with_checks(opened.goals(selectors)?);
            let beside = beside(&opened);
            let (_, bytes) = workflow_block::encode(&opened.project.subject, &goals, &beside).map_err(|e| {
                Diagnosis::usage(format!("these tasks make no workflow: {e}")).hint("name fewer of them")
            })?;
            if format == WorkflowFormat::Car {
                keep_sources(&opened)?;
            }
            (opened.store, bytes)
        }
    };
    let tasks = workflow_block::decode(&bytes).map_err(|e| Diagnosis::usage(format!("that is no workflow: {e}")))?;
    let link = keep(&store, bytes.clone())?;
    let stdout = args.output == Path::new("-");
    let to = if stdout { args.output.clone() } else { context.file(&args.output) };
    let write = |file: &mut dyn Write| -> Result<u64, Diagnosis> {
        let unwritten = |e: io::Error| Diagnosis::system(&format!("cannot write `{}`", to.display()), &e);
        let all =
            |file: &mut dyn Write, bytes: &[u8]| file.write_all(bytes).map(|()| bytes.len() as u64).map_err(unwritten);
        match format {
            WorkflowFormat::DagCbor => all(file, &bytes),
            WorkflowFormat::DagJson => {
                let text = workflow_block::to_json(&bytes).map_err(|e| Diagnosis::usage(e.to_string()))?;
                all(file, text.as_bytes())
            }
            WorkflowFormat::Car => {
                let failed = |e: CarError| Diagnosis::system("cannot export", &e);
                let _held = store.hold()?;
                let below = Below::find(&store, link, true).map_err(failed)?;
                below.ok_or_else(|| Diagnosis::usage(format!("{link} is damaged")))?.write(&store, file).map_err(failed)
            }
        }
    };
    let bytes =
        if stdout { write(&mut BufWriter::new(io::stdout().lock()))? } else { whole_file(&to, |file| write(file))? };
    note(&format!("exported a workflow of {}, {}", count(tasks.subject.workflow.len(), "task"), size(bytes)));
    if stdout {
        note(&link.to_string());
        return Ok(Exit::Ok);
    }
    print(&format!("{link}\n")).map(|()| Exit::Ok)
}

/// Which files are in the trees that tasks read, where what is fetched is found, and who checks what is published.
fn beside(opened: &Opened) -> Beside {
    let subject = &opened.project.subject;
    let mut beside = Beside::default();
    let name = |task: TaskIdx| subject.workflow.node(task).name.clone();
    for (task, checks) in opened.project.gates(&subject.workflow.indices().collect::<Vec<_>>()) {
        beside.checks.insert(name(task), checks.into_iter().map(name).collect());
    }
    for task in subject.workflow.indices() {
        let node = subject.workflow.node(task);
        beside.urls.insert(node.name.clone(), opened.project.recipe(task).urls.to_vec());
        let Some(tree) = workflow_block::tree_of(&node.work) else { continue };
        let paths = || opened.project.sources(task).into_iter().map(|(path, _)| path.into()).collect();
        beside.sources.entry(tree).or_insert_with(paths);
    }
    beside
}

/// Puts all source files of the workspace into the store, as they are now.
fn keep_sources(opened: &Opened) -> Result<(), Diagnosis> {
    for task in opened.project.subject.workflow.indices() {
        opened.project.keep_tree(&opened.store, task)?;
        for (path, entry) in opened.project.sources(task) {
            let Entry::File { blob, .. } = entry else { continue };
            if opened.store.has(blob.link())? {
                continue;
            }
            let (found, _) = opened.store.put_file(&opened.workspace.root().join(&path), Take::Copy)?;
            if found != blob {
                return Err(Diagnosis::usage(format!("`{}` changed while it was exported", harmless(&path))));
            }
        }
    }
    Ok(opened.store.flush()?)
}

/// Puts a workflow into the store, to stay there.
fn keep(store: &Store, bytes: Vec<u8>) -> Result<Link, Diagnosis> {
    let link = store.put(Codec::DagCbor, bytes)?;
    pin(store, link)?;
    Ok(link)
}

/// Keeps a workflow from being collected, with the sources that it names.
pub(super) fn pin(store: &Store, link: Link) -> Result<(), Diagnosis> {
    let key = format!("workflow {link}");
    if store.root(&key)?.is_none() {
        store.set_root(&key, &Root { path: key.clone(), receipts: vec![], links: vec![link], at: now() })?;
    }
    Ok(store.flush()?)
}

/// What a file may be that is no CAR file.
pub(super) enum Begins<R> {
    /// A workflow in DAG-JSON or DAG-CBOR.
    Workflow(R),
    /// Something else, from its beginning.
    Other(R),
}

/// Looks how a file begins.
pub(super) fn begins(mut from: Box<dyn Read>) -> Result<Begins<Box<dyn Read>>, Diagnosis> {
    let mut head = vec![];
    let unread = |e: io::Error| Diagnosis::system("cannot read the file", &e);
    from.by_ref().take(quipu_store::car::WORKFLOW_HEAD.len() as u64).read_to_end(&mut head).map_err(unread)?;
    let is_json = head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let is_workflow = is_json || workflow_block::looks_like_one(&head);
    let whole: Box<dyn Read> = Box::new(io::Cursor::new(head).chain(from));
    Ok(if is_workflow { Begins::Workflow(whole) } else { Begins::Other(whole) })
}

/// Imports a workflow in DAG-JSON or DAG-CBOR.
pub(super) fn import(
    store: &Store,
    name: &str,
    from: Box<dyn Read>,
    max_bytes: Option<u64>,
) -> Result<Exit, Diagnosis> {
    let refused = |why: String| {
        Diagnosis::usage(format!("`{name}` is refused, and nothing of it is kept: {why}")).exit(Exit::Findings)
    };
    let most = max_bytes.unwrap_or(u64::MAX).min(dag_json::MAX_JSON_BYTES as u64);
    let mut bytes = vec![];
    let unread = |e: io::Error| Diagnosis::system(&format!("cannot read `{name}`"), &e);
    from.take(most + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > most {
        return Err(refused(format!("it is larger than {most} bytes")));
    }
    let block = if workflow_block::looks_like_one(&bytes) {
        workflow_block::decode(&bytes).map(|_| bytes)
    } else {
        workflow_block::from_json(&bytes)
    };
    let link = keep(store, block.map_err(|e| refused(e.to_string()))?)?;
    note("imported a workflow, without what its tasks read: run it where that is");
    print(&format!("{link}\n")).map(|()| Exit::Ok)
}

/// Opens what was named on the command line.
pub(super) fn open(context: &Context, named: &Path) -> Result<Box<dyn Read>, Diagnosis> {
    if named == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let failed = |e| Diagnosis::system(&format!("cannot read `{}`", named.display()), &e).exit(Exit::Usage);
    let file = context.file(named);
    if file.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok(Box::new(File::open(file).map_err(failed)?))
}
