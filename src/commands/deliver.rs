//! `quipu deliver`: what came out of a task that is done elsewhere, as a signed receipt that runs go on with.

use quipu_runtime::deliver;
use quipu_runtime::run::Rules;
use quipu_runtime::task::DEFAULT_SUBJECT;
use quipu_runtime::workfile::Sources;
use quipu_store::Take;
use quipu_store::receipt::Output;
use quipu_store::tree::Entry;

use super::{Context, note};
use crate::cli::DeliverArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::harmless;

/// Most bytes of an error's text.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// Delivers.
pub(super) fn deliver(context: &Context, args: &DeliverArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let task = opened.only(&args.task)?;
    let result = match (&args.ok, &args.error) {
        (Some(file), _) => {
            let path = context.file(file);
            if !path.is_file() {
                return Err(Diagnosis::usage(format!("`{}` is not a file", file.display())));
            }
            let (blob, size) = opened.store.put_file(&path, Take::Copy)?;
            Ok(match opened.project.recipe(task).outputs.first() {
                Some(output) => {
                    let artifact = (Box::from(&*output.path), Entry::File { blob, size, exec: false });
                    Output { artifacts: [artifact].into(), ..Output::default() }
                }
                None => Output { stdout: Some(blob), ..Output::default() },
            })
        }
        (None, Some(error)) if error.len() > MAX_ERROR_BYTES => {
            let message = format!("the error has {} bytes, more than {MAX_ERROR_BYTES}", error.len());
            return Err(Diagnosis::usage(message));
        }
        (None, error) => Err(error.clone().unwrap_or_default()),
    };
    let name = harmless(&opened.project.recipe(task).name);
    if opened.project.is_external(task) {
        // A success ends it: whatever came later would be lost.
        let run = opened.look(vec![task], Rules::default())?;
        if let (Some(Ok(before)), Some(receipt)) = (run.outcome(task), run.receipt(task)) {
            if result.is_ok_and(|output| output == *before) {
                note(&format!("{name} was delivered before, just so: {receipt}"));
                return Ok(Exit::Ok);
            }
            let message = format!("a success of `{name}` was delivered already, and holds for it with these inputs");
            return Err(Diagnosis::usage(message)
                .hint(format!("`quipu show {receipt}` prints it"))
                .hint("give it an input that says what is decided: when that changes, it is to be delivered anew"));
        }
    }
    // Whatever was delivered before: what counts is what it is asked to be now.
    let run = opened.look(vec![task], Rules { force: vec![task], ..Rules::default() })?;
    if run.awaited(task).is_none() {
        let message = match opened.project.is_external(task) {
            true => format!("what `{name}` needs is not there yet: run `quipu run {name}` first"),
            false => format!("task `{name}` is not done elsewhere: it has no `external = true`"),
        };
        return Err(Diagnosis::usage(message));
    }
    let receipt = deliver::deliver(&opened.engine(), &run, task, result)?;
    note(&format!("delivered {name}: {receipt}"));
    let loaded = &opened.project.loaded;
    let recipe = opened.project.recipe(task);
    if recipe.sources == Sources::default() && recipe.reads().next().is_none() && &*loaded.subject == DEFAULT_SUBJECT {
        note(&format!(
            "warning: `{name}` has no inputs: this counts in every workspace with this store that has such a task"
        ));
        note("help: give it inputs, or `[workspace]` a `subject` of its own");
    }
    Ok(Exit::Ok)
}
