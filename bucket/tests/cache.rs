//! One bucket, several machines with nothing else in common.

use std::collections::HashMap;
use std::sync::Arc;

use quipu_store::cid::{Codec, Link};
use quipu_store::remote::{Fetched, Remote, Subject, Want};

use crate::double::Double;
use crate::kit::{
    Machine, Writer, alone, certificate, config, edited, open, receipt_of, secure_server, server, store, workflow,
};

const NOBODY: [&str; 0] = [];

#[test]
fn a_second_machine_executes_nothing_and_has_the_outputs() {
    let Some(server) = server() else { return };
    let (both, wanted) = (config(server.port), workflow("second"));
    let first = Machine::new(1, &[], &[&both]).run(&wanted);
    assert_eq!((first.ran.len(), &first.warnings), (4, &vec![]));
    let mut reads = both.clone();
    reads.push = false;
    let machine = Machine::new(2, &[1], &[&reads]);
    let second = machine.run(&wanted);
    assert_eq!((&second.ran[..], &second.warnings, &second.placed), (&[][..], &vec![], &first.placed));
    // The goal's file and nothing else: what it was made of is not needed here.
    assert_eq!(second.report.summary.fetched, 1);
    // What changed runs on bytes that others made: the large file; two directories with two files in them.
    let changed = edited("second", "header", "app2");
    let third = machine.run(&changed);
    assert_eq!((&third.ran[..], third.report.summary.fetched), (&["app".to_owned()][..], 5));
    assert_eq!(third.placed, alone(&changed).placed);
    // From now on it needs nobody, and who only reads wrote nothing.
    let writer = Writer::of(&server);
    let before = writer.keys("");
    drop(server);
    let fourth = machine.run(&changed);
    assert_eq!((&fourth.ran[..], &fourth.warnings, fourth.report.summary.fetched), (&[][..], &vec![], 0));
    assert!(before.iter().all(|key| key.starts_with("work/blocks-1/") || key.starts_with("work/receipts-1/")));
    assert_eq!(before.iter().filter(|key| key.contains("receipts-1")).count(), 6, "two tasks are their invocations");
}

/// Sends without looking.
fn blind(key: u8, port: u16, wanted: &Arc<quipu_runtime::run::Subject>) {
    let mut blind = config(port);
    blind.read = false;
    let outcome = Machine::new(key, &[], &[&blind]).run(wanted);
    assert_eq!((outcome.ran.len(), outcome.warnings), (4, vec![]), "{key}");
}

#[test]
fn machines_that_send_the_same_keep_what_others_said() {
    let Some(server) = server() else { return };
    let (both, wanted) = (config(server.port), workflow("two"));
    let counts = |key: u8| Machine::new(10 + key, &[key], &[&both]).run(&wanted).ran.is_empty();
    (1..=4).for_each(|key| blind(key, server.port, &wanted));
    assert!((1..=4).all(counts));
    // There is room for so many and no more, and whoever comes last is not turned away.
    blind(5, server.port, &wanted);
    assert!(counts(5));
}

#[test]
fn who_writes_at_the_same_moment_is_not_overwritten() {
    let Some(server) = server() else { return };
    let (writer, wanted) = (Writer::of(&server), workflow("moment"));
    blind(1, server.port, &wanted);
    let theirs: HashMap<String, Vec<u8>> =
        writer.keys("receipts-1").into_iter().map(|key| (key.clone(), writer.get(&key))).collect();
    for there_before in [false, true] {
        // As if the first had been about to write: what it writes comes just before what we write.
        theirs.keys().for_each(|key| writer.delete(key));
        if there_before {
            blind(3, server.port, &wanted);
        }
        let double = Double::overtaken(server.port, theirs.clone());
        blind(2, double.port, &wanted);
        assert!(double.overtakes() >= theirs.len(), "{} of {}", double.overtakes(), theirs.len());
        for key in [1, 2] {
            let outcome = Machine::new(10 + key, &[key], &[&config(server.port)]).run(&wanted);
            assert_eq!(outcome.ran, NOBODY, "{key} {there_before}");
        }
    }
}

#[test]
fn who_can_write_to_the_bucket_cannot_forge() {
    let Some(server) = server() else { return };
    let (both, wanted) = (config(server.port), workflow("forge"));
    let right = alone(&wanted);
    // Results of other work by somebody trusted, replayed under every key of this one; and nonsense.
    Machine::new(1, &[], &[&both]).run(&workflow("something else"));
    let writer = Writer::of(&server);
    let loot: Vec<Vec<u8>> = writer.keys("receipts-1").iter().map(|key| writer.get(key)).collect();
    for (i, task) in wanted.workflow.indices().enumerate() {
        let link = Subject::Task(wanted.ids.of(task)).link();
        writer.put(&format!("work/receipts-1/{link}"), if i == 3 { b"what?" } else { &loot[i] });
    }
    let second = Machine::new(2, &[1], &[&both]).run(&wanted);
    assert_eq!((second.ran.len(), &second.placed), (4, &right.placed));
    assert!(second.warnings.iter().all(|w| w.contains("does not count")), "{:?}", second.warnings);
    // Somebody whose key counts nowhere says what he likes.
    let stranger = Machine::new(3, &[9], &[&both]).run(&wanted);
    assert_eq!((stranger.ran.len(), &stranger.placed), (4, &right.placed));
    assert!(stranger.warnings.iter().any(|w| w.contains("not trusted")), "{:?}", stranger.warnings);
    // What the second sent replaced what was no receipt of this.
    assert_eq!(Machine::new(4, &[2], &[&both]).run(&wanted).ran, NOBODY);
}

#[test]
fn what_is_gone_or_is_not_what_its_id_says_is_made_again_in_the_same_run_and_put_right() {
    let Some(server) = server() else { return };
    let writer = Writer::of(&server);
    for (case, wanted) in [("gone", workflow("gone")), ("other", workflow("other")), ("short", workflow("short"))] {
        let both = config(server.port);
        let first = Machine::new(1, &[], &[&both]);
        let made = first.run(&wanted);
        let app = made.placed.values().next().expect("one file");
        let key = format!("work/blocks-1/{}", Link::of(Codec::Raw, app));
        match case {
            "gone" => writer.delete(&key),
            "other" => writer.put(&key, &app.iter().map(|b| b ^ 1).collect::<Vec<_>>()),
            _ => writer.put(&key, &app[1..]),
        }
        let second = Machine::new(2, &[1], &[&both]).run(&wanted);
        assert_eq!((&second.ran[..], &second.placed), (&["app".to_owned()][..], &made.placed), "{case}");
        assert_eq!(second.warnings.len(), usize::from(case != "gone"), "{case}: {:?}", second.warnings);
        // Who made it again has sent it again.
        assert_eq!(&writer.get(&key), app, "{case}");
        let third = Machine::new(3, &[1, 2], &[&both]).run(&wanted);
        assert_eq!((&third.ran[..], &third.warnings), (&[][..], &vec![]), "{case}");
    }
}

/// Blocks of every size come and go.
#[test]
fn large_blobs_go_in_parts() {
    let Some(server) = server() else { return };
    let both = config(server.port);
    let (mine, theirs) = (Machine::new(1, &[], &[]), store(2));
    let sizes: [usize; 6] = [0, 1, 32 << 10, (32 << 10) + 1, 8 << 20, (20 << 20) + 3];
    let bytes: Vec<Vec<u8>> = sizes.iter().map(|n| (0..*n).map(|i| (i * 7 % 251) as u8).collect()).collect();
    let signed = receipt_of(&mine.engine.store, &bytes);
    let sender = open("sender", &both);
    let sent = sender.push(&mine.engine.store, &signed).expect("it takes them");
    assert_eq!((sent.blobs, sent.bytes), (6, sizes.iter().sum::<usize>() as u64));
    // Once more: all is there, for this process and for another, and nothing is written.
    let writer = Writer::of(&server);
    writer.keys("receipts-1").iter().for_each(|key| writer.put(&format!("copy/{}", &key[5..]), &writer.get(key)));
    let receipts = |part: &str| writer.keys(part).iter().map(|key| writer.get(key)).collect::<Vec<_>>();
    for again in [&sender, &open("another", &both)] {
        let sent = again.push(&mine.engine.store, &signed).expect("it takes them");
        assert_eq!((sent.blobs, sent.bytes), (0, 0));
        assert!(receipts("work/receipts-1") == receipts("copy/receipts-1"));
    }
    let wants: Vec<Want> =
        bytes.iter().map(|bytes| Want { link: Link::of(Codec::Raw, bytes), size: Some(bytes.len() as u64) }).collect();
    let fetched = open("reader", &both).fetch(&theirs, &wants).expect("they are there");
    assert_eq!((fetched.blobs, fetched.bytes, fetched.false_blobs), (6, sent_bytes(&sizes), 0));
    for (want, bytes) in wants.iter().zip(&bytes) {
        assert_eq!(theirs.get(want.link, u64::MAX).expect("readable").as_ref(), Some(bytes));
    }
    // A size that cannot be true is not read; what is not there is left out.
    let lie = Want { size: Some(7), ..wants[5] };
    let nothing = Want { link: Link::of(Codec::Raw, b"nothing"), size: None };
    let fetched = open("reader", &both).fetch(&store(3), &[lie, nothing]).expect("it answers");
    assert_eq!(fetched, Fetched { false_blobs: 1, ..Fetched::default() });
    let found = open("reader", &both).find_tasks(&theirs, true, &[]).expect("nothing is asked");
    assert!(found.is_empty());
}

fn sent_bytes(sizes: &[usize]) -> u64 {
    sizes.iter().sum::<usize>() as u64
}

#[test]
fn a_bucket_that_is_not_there_is_said_once() {
    let Some(server) = server() else { return };
    let mut elsewhere = config(server.port);
    elsewhere.url = "s3://no-such-bucket".to_owned();
    let outcome = Machine::new(2, &[1], &[&elsewhere]).run(&workflow("nowhere"));
    assert_eq!((outcome.ran.len(), outcome.warnings.len()), (4, 1), "{:?}", outcome.warnings);
    assert!(outcome.warnings[0].contains("there is no bucket `no-such-bucket`"), "{:?}", outcome.warnings);
    // One that knows nothing is no fault.
    let mut reads = config(server.port);
    reads.push = false;
    let outcome = Machine::new(2, &[1], &[&reads]).run(&workflow("nothing"));
    assert_eq!((outcome.ran.len(), outcome.warnings), (4, vec![]));
    // One that does not want to be read by everybody says so.
    let mut anybody = reads;
    anybody.anonymous = true;
    blind(1, server.port, &workflow("nothing"));
    let outcome = Machine::new(3, &[1], &[&anybody]).run(&workflow("nothing"));
    assert_eq!((outcome.ran.len(), outcome.warnings.len()), (4, 1), "{:?}", outcome.warnings);
    assert!(outcome.warnings[0].contains("access denied"), "{:?}", outcome.warnings);
}

#[test]
fn a_service_says_who_it_is_or_is_not_used() {
    let Some(server) = secure_server() else { return };
    let secure = |ca: Option<&str>| {
        let mut config = config(server.port);
        config.endpoint = Some(format!("https://localhost:{}", server.port));
        config.ca = ca.map(certificate);
        config
    };
    let wanted = workflow("secure");
    let first = Machine::new(1, &[], &[&secure(Some("ca.pem"))]).run(&wanted);
    assert_eq!((first.ran.len(), first.warnings), (4, vec![]));
    let second = Machine::new(2, &[1], &[&secure(Some("ca.pem"))]).run(&wanted);
    assert_eq!((&second.ran[..], second.warnings, &second.placed), (&[][..], vec![], &first.placed));
    // Certified by somebody else than it should be, or by nobody whom this machine knows.
    for ca in [Some("stranger.pem"), None] {
        let third = Machine::new(3, &[1], &[&secure(ca)]).run(&wanted);
        assert_eq!(
            (third.ran.len(), third.warnings.len(), &third.placed),
            (4, 1, &first.placed),
            "{:?}",
            third.warnings
        );
    }
}
