//! `quipu attest`: provenance that other tools understand. An in-toto statement with SLSA's predicate, in a DSSE
//! envelope signed by our key; SHA-256 of artifacts is computed here, since others do not go by BLAKE3.

use std::fs::File;
use std::io::{self, Read};

use quipu_runtime::base64;
use quipu_runtime::dag_json::of_value;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::identity::decode_task;
use quipu_runtime::value::Value;
use quipu_store::cid::{BlobHasher, BlobId, Link};
use quipu_store::key_file;
use quipu_store::sign::{SignedReceipt, Signer};
use quipu_store::tree::Entry;
use quipu_store::{Blob, Store};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::{Context, accepted, note, print};
use crate::cli::AttestArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::quantity::moment;
use crate::settings::Settings;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE: &str = "https://quipu.build/provenance/invocation/v1";
const PAYLOAD: &str = "application/vnd.in-toto+json";
/// Files that one statement names at most.
const MAX_SUBJECTS: usize = 100_000;

/// Attests.
pub(super) fn attest(context: &Context, args: &AttestArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let signer = signer(&context.settings()?)?;
    let goals = opened.asked(context, &args.goals)?;
    opened.tell_left_out(&args.goals.goals);
    let mut exit = Exit::Ok;
    for (task, found) in accepted::of(&opened, &goals)? {
        let name = accepted::name(&opened, task);
        let Some(found) = found else {
            note(&format!("warning: `{name}` has no receipt here; `quipu run {name}` makes one"));
            exit = Exit::Failed;
            continue;
        };
        let subjects = subjects(&opened.store, &name, &found.signed)?;
        if subjects.is_empty() {
            note(&format!("note: `{name}` makes no files, so there is nothing to attest"));
            continue;
        }
        let statement = statement(&opened, task, &found.signed, subjects)?;
        print(&format!("{}\n", envelope(&signer, statement.to_string().as_bytes())))?;
    }
    Ok(exit)
}

fn signer(settings: &Settings) -> Result<Signer, Diagnosis> {
    match &settings.given_key {
        Some(signer) => Ok(signer.clone()),
        None => {
            key_file::read_or_create(&settings.key).map_err(|e| Diagnosis::system("cannot use the signing key", &e))
        }
    }
}

/// DSSE: what is signed is the type and the bytes, each with its length, and never the JSON around them.
fn envelope(signer: &Signer, payload: &[u8]) -> Json {
    let signed = [format!("DSSEv1 {} {PAYLOAD} {} ", PAYLOAD.len(), payload.len()).as_bytes(), payload].concat();
    let signature = json!({ "keyid": signer.public().to_string(), "sig": base64::encode(&signer.sign_bytes(&signed)) });
    json!({ "payloadType": PAYLOAD, "payload": base64::encode(payload), "signatures": [signature] })
}

fn statement(opened: &Opened, task: TaskIdx, signed: &SignedReceipt, subjects: Vec<Json>) -> Result<Json, Diagnosis> {
    let receipt = &signed.receipt;
    let bytes = opened.store.get(receipt.ran.link(), quipu_store::car::MAX_DAG_BYTES)?;
    let invocation = bytes.and_then(|bytes| decode_task(&bytes).ok());
    let args = invocation.as_ref().map_or(Json::Null, |i| of_value(&i.args));
    let mut inputs = vec![];
    if let Some(invocation) = &invocation {
        links_of(&invocation.args, &mut inputs);
    }
    inputs.sort_unstable();
    inputs.dedup();
    let started = receipt.issued_at.saturating_sub(receipt.meta.wall_ms.div_ceil(1000));
    let rfc3339 = |seconds| moment(seconds).replace(' ', "T");
    Ok(json!({
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "task": accepted::name(opened, task),
                    "taskId": opened.project.subject.ids.of(task).to_string(),
                    "invocation": receipt.ran.to_string(),
                    "command": invocation.as_ref().map(|i| i.cmd.to_string()),
                    "args": args,
                },
                "internalParameters": { "isolation": receipt.meta.tier },
                "resolvedDependencies": inputs.iter().map(|l| json!({ "uri": format!("ipfs://{l}") })).collect::<Vec<_>>(),
            },
            "runDetails": {
                "builder": { "id": signed.issuer.to_string() },
                "metadata": {
                    "invocationId": format!("ipfs://{}", signed.id),
                    "startedOn": rfc3339(started),
                    "finishedOn": rfc3339(receipt.issued_at),
                },
            },
        },
    }))
}

/// Every file that came out, those in directories included.
fn subjects(store: &Store, task: &str, signed: &SignedReceipt) -> Result<Vec<Json>, Diagnosis> {
    let output = signed.receipt.out.as_ref().expect("only what succeeded settles a task");
    let mut todo: Vec<(String, Entry)> =
        output.artifacts.iter().map(|(path, entry)| (path.to_string(), entry.clone())).collect();
    todo.reverse();
    let gone = |path: &str| {
        Diagnosis::usage(format!("`{path}` is not in the store any more"))
            .hint(format!("`quipu run {task}` makes it again"))
            .exit(Exit::Failed)
    };
    let mut subjects = vec![];
    while let Some((path, entry)) = todo.pop() {
        match entry {
            Entry::Symlink { .. } => {}
            Entry::File { blob, .. } => {
                let sha256 = sha256(store, blob)?.ok_or_else(|| gone(&path))?;
                subjects.push(json!({ "name": path, "digest": { "sha256": sha256 } }));
            }
            Entry::Dir { tree } => {
                let tree = store.tree(tree)?.ok_or_else(|| gone(&path))?;
                let below = tree.entries().iter().rev();
                todo.extend(below.map(|(name, entry)| (format!("{path}/{name}"), entry.clone())));
            }
        }
        if subjects.len() + todo.len() > MAX_SUBJECTS {
            return Err(Diagnosis::usage(format!("`{task}` makes more than {MAX_SUBJECTS} files")));
        }
    }
    Ok(subjects)
}

/// Of what is in the store under that id, which is checked by its id once more on the way.
fn sha256(store: &Store, id: BlobId) -> Result<Option<String>, Diagnosis> {
    let mut hasher = Sha256::new();
    match store.blob(id)? {
        None => return Ok(None),
        Some(Blob::Inline(bytes)) => hasher.update(&bytes),
        Some(Blob::File { path, .. }) => {
            let failed = |e: io::Error| Diagnosis::system("cannot read from the store", &e);
            let mut file = File::open(path).map_err(failed)?;
            let (mut check, mut buffer) = (BlobHasher::default(), vec![0; 128 << 10]);
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    n => {
                        hasher.update(&buffer[..n]);
                        check.update(&buffer[..n]);
                    }
                }
            }
            if check.id() != id {
                store.corrupt(id.link());
                return Ok(None);
            }
        }
    }
    Ok(Some(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

fn links_of(value: &Value, found: &mut Vec<Link>) {
    match value {
        Value::Link(link) => found.push(**link),
        Value::List(items) => items.iter().for_each(|v| links_of(v, found)),
        Value::Map(pairs) => pairs.iter().for_each(|(_, v)| links_of(v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_text_is_that_of_the_specification() {
        // The example of DSSE's protocol page, with a signature that a verifier of ed25519 checks.
        let signer = Signer::from_secret(&[7; 32]);
        let made = envelope(&signer, b"hello world");
        assert_eq!(made["payload"], "aGVsbG8gd29ybGQ=");
        let signed = b"DSSEv1 28 application/vnd.in-toto+json 11 hello world";
        assert_eq!(made["signatures"][0]["sig"], base64::encode(&signer.sign_bytes(signed)));
        assert_eq!(made["signatures"][0]["keyid"], signer.public().to_string());
    }
}
