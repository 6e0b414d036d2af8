//! An explanation as people read it: at most 80 columns wide, but for ids and paths.
//!
//! Knows what is to be said; unaware of how it was found out.

use std::fmt::Write as _;

use super::super::ingredients::{self, fold, short};
use super::{Against, Explained};
use crate::quantity::moment;
use crate::render::{duration, harmless};

/// The whole of it.
pub(super) fn text(explained: &Explained) -> String {
    let mut out = String::new();
    let Explained { name, place, status, because, outlook, missing, lost, .. } = explained;
    fold(&mut out, 0, &format!("{name}: {status}: {because} ({place})"));
    if let Some(settled) = &explained.settled {
        let (by, when) = (settled.by.as_deref().map(|by| format!("by {by}")), moment(settled.issued_at));
        fold(&mut out, 2, &format!("receipt {}", settled.receipt));
        fold(&mut out, 2, &format!("made {}, {when}", by.as_deref().unwrap_or("here")));
    }
    let colon = if outlook.conditions.is_empty() { "" } else { ":" };
    fold(&mut out, 0, &format!("{}{colon}", outlook.heading));
    outlook.conditions.iter().for_each(|condition| fold(&mut out, 2, condition));
    let mut absent = |what: String, paths: Vec<&String>| {
        if !paths.is_empty() {
            let paths = paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
            fold(&mut out, 0, &format!("not in the workspace as made, {what}: {paths}"));
        }
    };
    let kept = missing.iter().filter(|path| !lost.contains(path)).collect();
    absent(format!("and put there by `quipu run {name}`"), kept);
    let again = format!("nor in the store, and made again by `quipu run {name}` unless a remote has it");
    absent(again, lost.iter().collect());
    if let Some(last) = &explained.last {
        let when = moment(last.began_ms / 1000);
        fold(&mut out, 0, &format!("the last time it {}", last.text()));
        let took = last.wall_ms.map(|ms| format!(", took {}", duration(ms))).unwrap_or_default();
        fold(&mut out, 2, &format!("run {}, {when}{took}", last.run));
        if let (Some(since), Some(all)) = (&last.since, &last.differences) {
            fold(&mut out, 2, &format!("what differed from run {since}:"));
            ingredients::text(&mut out, all, 4);
        }
    }
    if explained.task.is_some() {
        compared(&mut out, explained);
    }
    made_of(&mut out, explained);
    out
}

fn compared(out: &mut String, explained: &Explained) {
    let Some(against) = &explained.against else {
        out.push_str("nothing is known of an earlier task of this name\n");
        return;
    };
    let then = then(against);
    match &explained.differences {
        None => fold(out, 0, &format!("what it was made of {then} is not in the store any more")),
        Some(all) if all.is_empty() => fold(out, 0, &format!("nothing differs from what it was {then}")),
        Some(all) => {
            fold(out, 0, &format!("what differs from what it was {then}:"));
            ingredients::text(out, all, 2);
        }
    }
    if !explained.outputs.is_empty() {
        fold(out, 0, "it came out in another way then:");
        explained.outputs.iter().for_each(|output| fold(out, 2, &output.text(["then", "now"])));
    }
}

fn then(against: &Against) -> String {
    match (against.kind, &against.run, &against.receipt) {
        ("run", Some(run), _) => {
            format!("in run {run} ({})", against.end.as_deref().unwrap_or_default())
        }
        ("receipt", _, Some(receipt)) => format!("when receipt {receipt} was made"),
        ("task", _, _) => "as that task".to_owned(),
        _ => "when it was last settled".to_owned(),
    }
}

fn made_of(out: &mut String, explained: &Explained) {
    let Some(task) = &explained.task else { return };
    let _ = writeln!(out, "\ntask {task}");
    if let Some(against) = &explained.against {
        if against.task != *task {
            let _ = writeln!(out, "earlier {}", against.task);
        }
        if let Some(receipt) = &against.receipt {
            let last = if against.kind == "settled" { "last" } else { "earlier" };
            let _ = writeln!(out, "{last} receipt {receipt}");
        }
    }
    out.push_str("made of\n");
    for ingredient in &explained.ingredients {
        let origin = ingredient.origin.as_ref().map(|origin| format!(" {}", origin.text())).unwrap_or_default();
        fold(out, 2, &format!("{} = {}{origin}", harmless(&ingredient.path), short(&ingredient.value)));
    }
}
