//! One cache server, several machines with nothing else in common.

use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::run::Subject;
use quipu_store::cid::BlobId;
use quipu_store::tree::Entry;
use sha2::{Digest, Sha256};

use crate::kit::{Machine, Outcome, alone, edited, say, workflow};
use crate::server::Server;

const NOBODY: [&str; 0] = [];

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The file a task made.
fn blob_of(outcome: &Outcome, subject: &Arc<Subject>, task: &str) -> BlobId {
    let task: TaskIdx = subject.workflow.find(task).expect("it is there");
    let settled = outcome.report.run.outcome(task).expect("settled");
    match settled.expect("ok").artifacts["o"] {
        Entry::File { blob, .. } => blob,
        _ => panic!("not a file"),
    }
}

#[test]
fn a_second_machine_executes_nothing_and_has_the_outputs() {
    let Some(server) = Server::start(false) else { return };
    let subject = workflow("second");
    let config = server.config();
    let first = Machine::new(1, &[], &[&config]).run(&subject);
    assert_eq!((first.ran.len(), first.warnings.len()), (4, 0), "{:?}", first.warnings);
    let mut read_only = server.config();
    read_only.push = false;
    let machine = Machine::new(2, &[1], &[&read_only]);
    let second = machine.run(&subject);
    assert_eq!(second.ran, NOBODY);
    assert_eq!((second.placed, second.warnings), (first.placed, vec![]));
    // The goal's file and nothing else: what it was made of is not needed here.
    assert_eq!(second.report.summary.fetched, 1);
    // From now on it needs nobody.
    drop(server);
    let third = machine.run(&subject);
    assert_eq!((third.ran, third.warnings, third.report.summary.fetched), (vec![], vec![], 0));
    say(&format!("cold {:?} with push, second machine {:?}, then alone {:?}", first.took, second.took, third.took));
}

#[test]
fn what_changed_runs_on_bytes_that_others_made() {
    let Some(server) = Server::start(false) else { return };
    let config = server.config();
    Machine::new(1, &[], &[&config]).run(&workflow("bytes"));
    let subject = edited("bytes", "header", "app2");
    let second = Machine::new(2, &[1], &[&config]).run(&subject);
    assert_eq!(second.ran, ["app"]);
    assert_eq!(second.placed, alone(&subject).placed);
    // The large file; two directories with two files in them.
    assert_eq!(second.report.summary.fetched, 5);
}

#[test]
fn nobody_counts_who_is_not_trusted() {
    let Some(server) = Server::start(false) else { return };
    let (config, subject) = (server.config(), workflow("trust"));
    Machine::new(1, &[], &[&config]).run(&subject);
    let second = Machine::new(2, &[3], &[&config]).run(&subject);
    assert_eq!(second.ran.len(), 4);
    assert_eq!(second.warnings.len(), 1, "{:?}", second.warnings);
    assert!(second.warnings[0].contains("not trusted"), "{:?}", second.warnings);
    // What the second sent did not displace what the first said.
    for (key, trusted) in [(4, 1), (5, 2)] {
        assert_eq!(Machine::new(key, &[trusted], &[&config]).run(&subject).ran, NOBODY, "{trusted}");
    }
}

#[test]
fn a_blob_evicted_after_it_was_promised_is_made_again_in_the_same_run() {
    let Some(server) = Server::start(false) else { return };
    let (config, subject) = (server.config(), workflow("evicted"));
    let first = Machine::new(1, &[], &[&config]);
    let made = first.run(&subject);
    let machine = Machine::new(2, &[1], &[&config]);
    // Settled by what the server says; no byte is needed yet.
    let known = machine.go(&subject, false);
    assert_eq!((known.ran, known.report.summary.fetched), (vec![], 0));
    let app = crate::kit::bytes(&first.engine.store, blob_of(&made, &subject, "app")).expect("it is here");
    let object = server.object(&sha256(&app)).expect("it is there");
    std::fs::remove_file(object).expect("removed");
    let second = machine.run(&subject);
    assert_eq!(second.ran, ["app"], "{:?}", second.warnings);
    assert_eq!(second.placed, made.placed);
    // On a third machine the entry is incomplete: a miss, and only for what is lost.
    let third = Machine::new(3, &[1], &[&config]).run(&subject);
    assert_eq!(third.placed, made.placed);
}

#[test]
fn a_false_blob_is_never_used() {
    for large in [false, true] {
        let Some(server) = Server::start(false) else { return };
        let (config, subject) = (server.config(), workflow("false"));
        let first = Machine::new(1, &[], &[&config]);
        let made = first.run(&subject);
        let victim = if large { "large" } else { "app" };
        let bytes = crate::kit::bytes(&first.engine.store, blob_of(&made, &subject, victim)).expect("it is here");
        let object = server.object(&sha256(&bytes)).expect("it is there");
        let mut lie = bytes.clone();
        lie[bytes.len() / 2] ^= 1;
        std::fs::remove_file(&object).expect("removed");
        std::fs::write(&object, lie).expect("written");
        let wanted = if large { edited("false", "header", "app2") } else { subject };
        let second = Machine::new(2, &[1], &[&config]).run(&wanted);
        assert_eq!(second.placed, alone(&wanted).placed);
        assert!(second.ran.contains(&victim.to_owned()), "{:?} {:?}", second.ran, second.warnings);
    }
}

#[test]
fn who_can_write_to_the_cache_cannot_forge() {
    let Some(server) = Server::start(false) else { return };
    let (config, subject) = (server.config(), workflow("forge"));
    let right = alone(&subject);
    // Everything a writer without a trusted key can do: results of other work, replayed under every key of this.
    let other = edited("forge", "another header", "another app");
    Machine::new(1, &[], &[&config]).run(&other);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let replayed = runtime.block_on(replay(server.port));
    assert!(replayed > 0);
    let second = Machine::new(2, &[1], &[&config]).run(&subject);
    assert_eq!(second.placed, right.placed);
    assert!(second.ran.contains(&"app".to_owned()));
}

/// Puts the entry of one key under another, and garbage under a third; says how many the server took.
async fn replay(port: u16) -> usize {
    use api::action_cache_client::ActionCacheClient;
    let mut cache = ActionCacheClient::connect(format!("http://127.0.0.1:{port}")).await.expect("it is there");
    let (from, to) = (workflow("forge"), edited("forge", "another header", "another app"));
    let mut taken = 0;
    for task in to.workflow.indices() {
        let source = quipu_remote::key_of_task(to.ids.of(task));
        let request = api::GetActionResultRequest { action_digest: Some(source), ..Default::default() };
        let Ok(answer) = cache.get_action_result(request).await else { continue };
        let mut result = answer.into_inner();
        let target = quipu_remote::key_of_task(from.ids.of(task));
        for garbage in [false, true] {
            if garbage && task.index() % 2 == 1 {
                result.stdout_raw = vec![0x0a, 0x03, 1, 2, 3];
            }
            let request = api::UpdateActionResultRequest {
                action_digest: Some(target.clone()),
                action_result: Some(result.clone()),
                ..Default::default()
            };
            taken += usize::from(cache.update_action_result(request).await.is_ok());
        }
    }
    taken
}
