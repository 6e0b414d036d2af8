//! `quipu audit`: runs again what others say they have done, and compares. Changes nothing of what is settled.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use quipu_runtime::exec::{Begin, Done, Job, Stop, Unusable};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::identity::decode_task;
use quipu_runtime::task::Invocation;
use quipu_store::cid::{Codec, Link};
use quipu_store::receipt::{Output, Receipt};
use quipu_store::{Found, Store};
use tokio::sync::watch;

use super::{Context, accepted, compare, note, print};
use crate::cli::AuditArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::{count, harmless};

/// Paths that are named of what differs.
const MAX_NAMED: usize = 8;
/// Where the store keeps what nobody else can foresee the sample by.
const SECRET: &str = "audit:secret";

/// What a repetition says of a receipt.
enum Finding {
    Same,
    Differs(Vec<String>),
    /// It could not be repeated here.
    Unknown(String),
}

/// Audits.
pub(super) fn audit(context: &Context, args: &AuditArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let goals = opened.asked(context, &args.goals)?;
    opened.tell_left_out(&args.goals.goals);
    let below = accepted::below(&opened.project.subject, &goals);
    let found = accepted::of(&opened, &below)?;
    let foreign: Vec<(TaskIdx, Found)> =
        found.into_iter().filter_map(|(task, f)| Some((task, f?))).filter(|(_, f)| !f.made_here).collect();
    let secret = secret(&opened.store)?;
    let mut chosen = foreign.clone();
    chosen.retain(|(_, f)| is_chosen(&secret, &f.signed.receipt, args.sample));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Diagnosis::system("cannot start the runtime", &e))?;
    let (mut differing, mut unknown) = (BTreeSet::new(), 0);
    for (task, found) in &chosen {
        let name = accepted::name(&opened, *task);
        let issuer = found.signed.issuer;
        let by = opened.trust.name_of(issuer).map_or_else(|| issuer.to_string(), str::to_owned);
        let mut text = String::new();
        match repeat(&opened, &runtime, *task, &found.signed.receipt)? {
            Finding::Same => {
                let _ = writeln!(text, "same     {name}  (by {by})");
            }
            Finding::Differs(what) => {
                differing.insert(issuer);
                let _ = writeln!(text, "differs  {name}  (by {by}, receipt {})", found.signed.id);
                for line in what {
                    let _ = writeln!(text, "         {}", harmless(&line));
                }
            }
            Finding::Unknown(why) => {
                unknown += 1;
                let _ = writeln!(text, "unknown  {name}  ({})", harmless(&why));
            }
        }
        print(&text)?;
    }
    note(&format!("{} of {} made elsewhere repeated", chosen.len() - unknown, count(foreign.len(), "receipt")));
    if differing.is_empty() {
        return Ok(if unknown > 0 { Exit::Failed } else { Exit::Ok });
    }
    for issuer in differing {
        let name = opened.trust.name_of(issuer).map_or_else(|| issuer.to_string(), str::to_owned);
        note(&format!("warning: what `{name}` says differs from what happens here"));
        note("help: a task that comes out differently each time does this too: `quipu run --force` twice tells");
        note(&format!("help: `quipu trust remove {name}` lets none of its receipts count"));
    }
    Ok(Exit::Findings)
}

/// Drawn once for each store: who makes receipts must not know which will be looked at.
fn secret(store: &Store) -> Result<Vec<u8>, Diagnosis> {
    if let Some(secret) = store.note(SECRET)?.filter(|s| s.len() == 32) {
        return Ok(secret);
    }
    let mut secret = vec![0; 32];
    getrandom::fill(&mut secret).map_err(|e| Diagnosis::usage(format!("the system gives no random numbers: {e}")))?;
    store.set_note(SECRET, Some(secret.clone()))?;
    store.flush()?;
    Ok(secret)
}

/// By what is claimed, so that a claim that was not chosen is not chosen when it comes again under another key.
fn is_chosen(secret: &[u8], receipt: &Receipt, share: f64) -> bool {
    let out = receipt.out.as_ref().map_or_else(|f| f.id(), Output::id);
    let keyed = [secret, receipt.ran.digest(), out.digest()].concat();
    let digest = Link::of(Codec::Raw, &keyed).digest;
    let drawn = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    f64::from(drawn) < share * (f64::from(u32::MAX) + 1.0)
}

/// Does what the receipt says was done, beside the store's receipts.
fn repeat(
    opened: &Opened,
    runtime: &tokio::runtime::Runtime,
    task: TaskIdx,
    receipt: &Receipt,
) -> Result<Finding, Diagnosis> {
    let (store, project) = (&opened.store, &opened.project);
    let unknown = |why: &str| Ok(Finding::Unknown(why.to_owned()));
    let Some(bytes) = store.get(receipt.ran.link(), quipu_store::car::MAX_DAG_BYTES)? else {
        return unknown("its invocation is not here");
    };
    let Ok(decoded) = decode_task(&bytes) else { return unknown("its invocation is none that this quipu understands") };
    let Some(executor) = opened.engine().executors.find(&decoded.cmd).cloned() else {
        return unknown("nothing here carries it out");
    };
    let invocation = Invocation { sub: decoded.sub, cmd: decoded.cmd, args: decoded.args, nonce: decoded.nonce };
    project.keep_tree(store, task)?;
    let (_alive, stop) = watch::channel(Stop::No);
    let job = Job {
        name: accepted::name(opened, task).as_str().into(),
        id: receipt.ran,
        invocation: Arc::new(invocation),
        sources: project.seen(task),
        urls: Arc::clone(&project.recipe(task).urls),
        timeout: project.policy(task).timeout,
        forced: true,
        store: store.clone(),
        sink: Arc::new(|_, _| {}),
        stop,
        company: None,
        ready: Arc::new(|| {}),
        begin: Begin::at_once(),
    };
    let done: Done = runtime.block_on(async { executor.execute(job).await });
    let expected = receipt.out.as_ref().expect("only what succeeded was accepted");
    if project.recipe(task).works_in_the_workspace() {
        // It ran in the workspace itself: what is accepted goes back there.
        for (path, entry) in &expected.artifacts {
            let _ = opened.workspace.place(path, entry);
        }
        opened.workspace.index().save()?;
    }
    match (done.unusable, done.result) {
        (Some(Unusable::InputsGone(paths)), _) => unknown(&format!("`{}` is not here", paths.join("`, `"))),
        (Some(Unusable::InputsChanged(paths)), _) => unknown(&format!("`{}` changed meanwhile", paths.join("`, `"))),
        (Some(_), _) => unknown("it was stopped"),
        (None, Err(failure)) => Ok(Finding::Differs(vec![format!("failed here: {}", failure.kind)])),
        (None, Ok(output)) if output.id() == expected.id() => Ok(Finding::Same),
        (None, Ok(output)) => Ok(Finding::Differs(differences(store, expected, &output)?)),
    }
}

/// In what the receipt and what happened here differ, in words; not of all that, when it is much.
fn differences(store: &Store, said: &Output, found: &Output) -> Result<Vec<String>, Diagnosis> {
    let mut all = compare::outputs(store, said, found)?;
    // What goes to standard error is nothing that anybody relies on.
    all.retain(|differing| differing.output != compare::STDERR);
    let mut lines: Vec<String> =
        all.iter().take(MAX_NAMED).map(|differing| differing.text(["there", "here"])).collect();
    if all.len() > MAX_NAMED {
        lines.push(format!("and {} more", all.len() - MAX_NAMED));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::InvocationId;
    use quipu_store::receipt::Meta;

    #[test]
    fn the_sample_has_its_share_and_grows_with_it() {
        let receipt = |n: u32| Receipt {
            ran: InvocationId::of(&n.to_le_bytes()),
            out: Ok(Output::default()),
            issued_at: 0,
            expires_at: None,
            meta: Meta::default(),
        };
        let chosen = |share: f64| (0..2000).filter(|n| is_chosen(b"secret", &receipt(*n), share)).collect::<Vec<_>>();
        assert_eq!((chosen(0.0).len(), chosen(1.0).len()), (0, 2000));
        let (some, more) = (chosen(0.05), chosen(0.5));
        assert!((50..150).contains(&some.len()) && (900..1100).contains(&more.len()));
        assert!(some.iter().all(|n| more.contains(n)));
        let other = (0..2000).filter(|n| is_chosen(b"another", &receipt(*n), 0.05)).collect::<Vec<_>>();
        assert_ne!(some, other, "who does not know the secret cannot foresee the sample");
    }
}
