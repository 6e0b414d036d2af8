//! `quipu show`: what an id identifies, in a form for people, as JSON, or as the bytes it is.

use std::fmt::Write as _;
use std::fs::File;
use std::io;

use quipu_runtime::canon;
use quipu_runtime::identity::{Listing, decode_task, feed};
use quipu_runtime::value::On;
use quipu_store::checkout::checkout;
use quipu_store::cid::{BlobId, IdPrefix, Link, ReceiptId, TaskId, TreeId};
use quipu_store::receipt::Receipt;
use quipu_store::sign::SignedReceipt;
use quipu_store::tree::{Entry, Tree};
use quipu_store::{Blob, Kind, Store};
use serde_json::{Value as Json, json};

use super::{Context, print, print_json, unwritten};
use crate::cli::ShowArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::quantity::{moment, size};
use crate::render::{duration, harmless};

/// Largest structured block that is read, in bytes.
const MAX_BLOCK_BYTES: u64 = 64 << 20;

/// Shows.
pub(super) fn show(context: &Context, args: &ShowArgs) -> Result<Exit, Diagnosis> {
    let store = context.settings()?.open_store()?;
    let (link, kind) = resolve(&store, &args.id)?;
    let gone = || Diagnosis::usage(format!("{link} is damaged or gone")).hint("`quipu verify` says what else is");
    match kind {
        Kind::Receipt => {
            let found = store.receipt(ReceiptId::from_digest(link.digest))?.ok_or_else(gone)?;
            if args.json { print_json(&receipt_json(&found.signed)) } else { done(print(&receipt_text(&found.signed))) }
        }
        Kind::Blob => {
            let id = BlobId::from_digest(link.digest);
            if args.json {
                let size = match store.blob(id)?.ok_or_else(gone)? {
                    Blob::Inline(bytes) => bytes.len() as u64,
                    Blob::File { size, .. } => size,
                };
                return print_json(&json!({ "kind": "blob", "id": id.to_string(), "size": size }));
            }
            raw(&store, id)?.ok_or_else(gone)
        }
        Kind::Tree => {
            let id = TreeId::from_digest(link.digest);
            let tree = store.tree(id)?.ok_or_else(gone)?;
            if args.json { print_json(&tree_json(id, &tree)) } else { done(print(&tree_text(&tree))) }
        }
        Kind::Task | Kind::Invocation | Kind::Block => {
            let no_block = || {
                Diagnosis::usage(format!(
                    "the block of {} {link} is not in the store, only receipts that name it",
                    kind.name()
                ))
            };
            let bytes = store.get(link, MAX_BLOCK_BYTES)?.ok_or_else(no_block)?;
            let listing = listing(&bytes).ok_or_else(gone)?;
            if args.json {
                let ingredients: Vec<Json> = listing
                    .lines
                    .iter()
                    .map(|(path, leaf)| json!({ "path": path, "value": leaf.to_string() }))
                    .collect();
                let receipts: Vec<String> = receipts_of(&store, link, kind)?.iter().map(ToString::to_string).collect();
                let id = link.to_string();
                return print_json(
                    &json!({ "kind": kind.name(), "id": id, "ingredients": ingredients, "receipts": receipts }),
                );
            }
            let mut text = format!("{} {link}\n", kind.name());
            for (path, leaf) in &listing.lines {
                let _ = writeln!(text, "  {} = {}", harmless(path), one_line(&leaf.to_string()));
            }
            for receipt in receipts_of(&store, link, kind)? {
                let _ = writeln!(text, "receipt {receipt}");
            }
            done(print(&text))
        }
    }
}

fn done(printed: Result<(), Diagnosis>) -> Result<Exit, Diagnosis> {
    printed.map(|()| Exit::Ok)
}

/// The one thing whose id begins so.
pub(crate) fn resolve(store: &Store, text: &str) -> Result<(Link, Kind), Diagnosis> {
    let prefix = IdPrefix::new(text).map_err(|_| {
        Diagnosis::usage(format!("`{}` begins no id", harmless(text)))
            .hint("ids are made of the letters a to z and the digits 2 to 7, like `bafyr4i...`")
    })?;
    let found = store.resolve(&prefix)?;
    match found[..] {
        [one] => Ok(one),
        [] => Err(Diagnosis::usage(format!("nothing in the store has an id that begins with `{prefix}`"))),
        _ => {
            let lines = found.iter().map(|(link, kind)| format!("{link}  {}", kind.name()));
            let more = if found.len() == quipu_store::MAX_RESOLVED { ", among others" } else { "" };
            Err(Diagnosis::ambiguous(format!("`{prefix}` begins several ids{more}"), lines).hint("give more of it"))
        }
    }
}

/// What a structured block is made of.
fn listing(bytes: &[u8]) -> Option<Listing> {
    if let Ok(task) = decode_task(bytes) {
        return Some(Listing::of(&task));
    }
    let mut listing = Listing::default();
    feed(&canon::decode(bytes).ok()?, &mut listing, &|on| match on {
        On::Id(id) => id,
        On::Here(_) => unreachable!("a decoded block names tasks by id"),
    });
    Some(listing)
}

fn receipts_of(store: &Store, link: Link, kind: Kind) -> Result<Vec<ReceiptId>, Diagnosis> {
    let found = match kind {
        Kind::Task => {
            store.find_tasks(&[TaskId::from_digest(link.digest)])?.into_iter().flat_map(|t| t.receipts).collect()
        }
        Kind::Invocation => {
            let id = quipu_store::cid::InvocationId::from_digest(link.digest);
            store.find_invocations(&[id])?.into_iter().flatten().collect()
        }
        _ => vec![],
    };
    Ok(found.iter().map(|f| f.signed.id).collect())
}

/// Prints a blob as it is. A large one goes through a file of its own, so that nothing unchecked is printed.
pub(super) fn raw(store: &Store, id: BlobId) -> Result<Option<Exit>, Diagnosis> {
    let size = match store.blob(id)? {
        None => return Ok(None),
        Some(Blob::Inline(bytes)) => return super::print_bytes(&bytes).map(|()| Some(Exit::Ok)),
        Some(Blob::File { size, .. }) => size,
    };
    let failed = |e: io::Error| Diagnosis::system("cannot read the blob", &e);
    let dir = store.scratch_dir().map_err(failed)?;
    let copied = checkout(store, &Entry::File { blob: id, size, exec: false }, &dir, "blob");
    let printed = match copied {
        Err(_) => Ok(None),
        Ok(_) => {
            let mut file = File::open(dir.join("blob")).map_err(failed)?;
            io::copy(&mut file, &mut io::stdout().lock()).map(|_| Some(Exit::Ok)).map_err(|e| unwritten(&e))
        }
    };
    let _ = std::fs::remove_dir_all(&dir);
    printed
}

fn entry_json(entry: &Entry) -> Json {
    match entry {
        Entry::File { blob, size, exec } => {
            json!({ "kind": "file", "id": blob.to_string(), "size": size, "exec": exec })
        }
        Entry::Dir { tree } => json!({ "kind": "dir", "id": tree.to_string() }),
        Entry::Symlink { target } => json!({ "kind": "symlink", "target": target }),
    }
}

fn tree_json(id: TreeId, tree: &Tree) -> Json {
    let entries: serde_json::Map<String, Json> =
        tree.entries().iter().map(|(name, entry)| (name.to_string(), entry_json(entry))).collect();
    json!({ "kind": "tree", "id": id.to_string(), "entries": entries })
}

fn entry_text(name: &str, entry: &Entry) -> String {
    let name = one_line(name);
    match entry {
        Entry::File { blob, size: bytes, exec } => {
            format!("{}  {:>10}  {blob}  {name}", if *exec { "exec" } else { "file" }, size(*bytes))
        }
        Entry::Dir { tree } => format!("dir   {:>10}  {tree}  {name}/", ""),
        Entry::Symlink { target } => format!("link  {:>10}  {name} -> {}", "", one_line(target)),
    }
}

fn tree_text(tree: &Tree) -> String {
    tree.entries().iter().map(|(name, entry)| format!("{}\n", entry_text(name.as_str(), entry))).collect()
}

fn receipt_text(signed: &SignedReceipt) -> String {
    let Receipt { ran, out, issued_at, expires_at, meta } = &signed.receipt;
    let mut lines = vec![format!("receipt     {}", signed.id)];
    lines.extend(meta.settles.keys().map(|task| format!("task        {task}")));
    lines.push(format!("invocation  {ran}"));
    lines.push(format!("issuer      {}", signed.issuer));
    lines.push(format!("issued      {}", moment(*issued_at)));
    lines.extend(expires_at.map(|at| format!("expires     {}", moment(at))));
    lines.extend(meta.host.as_ref().map(|host| format!("host        {}", one_line(host))));
    lines.push(format!("isolation   {}", one_line(&meta.tier)));
    let cpu = if meta.cpu_ms > 0 { format!(", {} of processor time", duration(meta.cpu_ms)) } else { String::new() };
    let rss = if meta.rss_bytes > 0 { format!(", {} of memory", size(meta.rss_bytes)) } else { String::new() };
    lines.push(format!("took        {}{cpu}{rss}", duration(meta.wall_ms)));
    let (stdout, stderr) = match out {
        Ok(output) => {
            lines.push("outcome     ok".to_owned());
            lines.extend(output.artifacts.iter().map(|(path, entry)| format!("  {}", entry_text(path, entry))));
            (output.stdout, output.stderr)
        }
        Err(failure) => {
            lines.push(format!("outcome     {}: {}", failure.kind.name(), one_line(&failure.kind.to_string())));
            (failure.stdout, failure.stderr)
        }
    };
    lines.extend(stdout.map(|id| format!("stdout      {id}")));
    lines.extend(stderr.map(|id| format!("stderr      {id}")));
    lines.extend(meta.ins.iter().map(|id| format!("input       {id}")));
    lines.push(String::new());
    lines.join("\n")
}

fn receipt_json(signed: &SignedReceipt) -> Json {
    let Receipt { ran, out, issued_at, expires_at, meta } = &signed.receipt;
    let text = |id: Option<BlobId>| id.map(|id| id.to_string());
    let outcome = match out {
        Ok(output) => {
            let artifacts: serde_json::Map<String, Json> =
                output.artifacts.iter().map(|(path, entry)| (path.to_string(), entry_json(entry))).collect();
            json!({ "ok": { "outputs": artifacts, "stdout": text(output.stdout), "stderr": text(output.stderr) } })
        }
        Err(failure) => json!({ "error": { "kind": failure.kind.name(), "message": failure.kind.to_string(),
            "stdout": text(failure.stdout), "stderr": text(failure.stderr) } }),
    };
    let via = |(task, via): (&TaskId, &quipu_store::receipt::Via)| {
        let awaited: serde_json::Map<String, Json> =
            via.iter().map(|(task, out)| (task.to_string(), json!(out.to_string()))).collect();
        (task.to_string(), Json::Object(awaited))
    };
    json!({
        "kind": "receipt",
        "id": signed.id.to_string(),
        "invocation": ran.to_string(),
        "settles": meta.settles.iter().map(via).collect::<serde_json::Map<_, _>>(),
        "issuer": signed.issuer.to_string(),
        "issued_at": issued_at,
        "expires_at": expires_at,
        "isolation": meta.tier,
        "host": meta.host,
        "wall_ms": meta.wall_ms,
        "cpu_ms": meta.cpu_ms,
        "rss_bytes": meta.rss_bytes,
        "outcome": outcome,
        "inputs": meta.ins.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Text from elsewhere on a line of its own.
fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n")
}
