//! The way between the short and the long one: of a workspace in which a few files changed, what follows from these.
//!
//! Decides when that is as good as all of it. Unaware of how an excerpt is made.

use std::sync::Arc;

use quipu_runtime::exec::workspace::Workspace;
use quipu_runtime::project::excerpt::Excerpt;
use quipu_runtime::run::step::{End, State};
use quipu_runtime::run::{Rules, Run};

use crate::cli::RunArgs;
use crate::commands::Context;
use crate::commands::glance::Changed;
use crate::diagnose::Diagnosis;
use crate::project::Opened;

/// Opens what follows from a change in `workspace`, if something is to run for that and nothing but its own tasks decides about
/// it.
pub(super) fn open(
    context: &Context,
    args: &RunArgs,
    workspace: &Arc<Workspace>,
    changed: &Changed,
) -> Result<Option<(Opened, Excerpt)>, Diagnosis> {
    if args.remote.is_some() {
        return Ok(None);
    }
    let Some((opened, excerpt)) = Opened::excerpt(context, Arc::clone(workspace), changed)? else { return Ok(None) };
    // What others say of a task may depend on what they say of tasks above it.
    let mut engine = opened.engine();
    opened.attach_remotes(&mut engine)?;
    if !engine.trusted.is_empty() || !engine.remotes.is_empty() {
        return Ok(None);
    }
    let run = opened.look(excerpt.tasks(), Rules::default())?;
    // Where nothing is to run, the next look had better see all of it.
    let runs = excerpt.tasks().into_iter().any(|task| run.state(task) != State::Ended(End::Cached));
    let whole = runs && excerpt.stands(&run) && is_there(&opened, &excerpt, &run)?;
    Ok(whole.then_some((opened, excerpt)))
}

/// Whether what stands above is in the store, with all its bytes: nobody here could make it again.
fn is_there(opened: &Opened, excerpt: &Excerpt, run: &Run) -> Result<bool, Diagnosis> {
    let store = &opened.store;
    let unseen = excerpt.unseen(run);
    let ids: Vec<_> = unseen.iter().map(|(id, _)| *id).collect();
    for (found, (_, receipt)) in store.find_tasks(&ids)?.iter().zip(&unseen) {
        if !found.receipts.iter().any(|found| found.signed.id == *receipt) {
            return Ok(false);
        }
    }
    let subject = run.subject();
    for task in subject.workflow.indices().filter(|task| opened.project.is_awaited_only(*task)) {
        let Some(Ok(output)) = run.outcome(task) else { continue };
        if !store.holds_output(&output)? {
            return Ok(false);
        }
    }
    Ok(true)
}
