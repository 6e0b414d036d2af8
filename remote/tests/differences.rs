//! How real servers differ, row by row, on servers that are so: see `docs/design/remote.md`.

use quipu_runtime::process::OutputKind;
use quipu_store::cid::{Codec, Link};
use quipu_store::receipt::FailureKind;
use quipu_store::remote::Want;
use quipu_store::tree::Entry;

use crate::double::{Double, Ill, Setup, Verb};
use crate::execute::{Farm, output, spec};
use crate::kit::{Description as _, Machine, alone, config, edited, receipt_of, store, workflow};

#[test]
fn limits_of_a_batch_are_kept_whatever_they_are() {
    for batch_bytes in [2_000, 65_536, 4_193_280, 0] {
        // None stated is not none: messages have a limit of their own.
        let served = if batch_bytes == 0 { 4 << 20 } else { batch_bytes };
        let double = Double::start(Setup { batch_bytes: served, ..Setup::default() });
        let wanted = workflow("batches");
        let first = Machine::new(1, &[], &[&config(double.port)]).run(&wanted);
        assert_eq!((first.ran.len(), &first.warnings), (4, &vec![]), "{batch_bytes}");
        let second = Machine::new(2, &[1], &[&config(double.port)]).run(&wanted);
        assert_eq!((second.ran.len(), second.warnings), (0, vec![]), "{batch_bytes}");
    }
}

#[test]
fn what_failed_before_is_done_again_and_what_worked_is_not() {
    let double = Double::start(Setup { remembers: true, ..Setup::default() });
    let farm = Farm::new(&config(double.port));
    let failing = spec(&["/bin/sh", "-c", "exit 7"]);
    for calls in [1, 2] {
        let done = farm.run(&failing, |_| ());
        assert_eq!(done.result.expect_err("it fails").kind, FailureKind::Exit { code: 7 });
        // It remembers the failure, and would answer with it: the second time it is told not to look.
        assert!(double.calls("Execute") >= calls);
    }
    assert!(double.calls("Execute") <= 3);
    let mut lacking = spec(&["/bin/true"]);
    lacking.outputs = vec![output("nothing", OutputKind::File)];
    for _ in 0..2 {
        let done = farm.run(&lacking, |_| ());
        assert_eq!(done.result.expect_err("it lacks").kind, FailureKind::MissingOutput { path: "nothing".into() });
    }
    let mut good = spec(&["/bin/sh", "-c", "echo > o"]);
    good.outputs = vec![output("o", OutputKind::File)];
    assert!(farm.run(&good, |_| ()).result.is_ok());
    let before = double.calls("Execute");
    assert!(farm.run(&good, |_| ()).result.is_ok());
    assert_eq!(double.calls("Execute"), before, "GetActionResult was asked first");
    assert_eq!(farm.here(), 0);
}

#[test]
fn a_remembered_result_whose_outputs_are_gone_is_made_again() {
    let double = Double::start(Setup::default());
    let farm = Farm::new(&config(double.port));
    let mut work = spec(&["/bin/sh", "-c", "date +%N > o"]);
    work.outputs = vec![output("o", OutputKind::File)];
    let first = farm.run(&work, |_| ());
    let Entry::File { blob, .. } = &first.result.as_ref().expect("it worked").artifacts["o"] else { panic!("a file") };
    let bytes = crate::kit::bytes(&farm.store, *blob).expect("here");
    let digest = double.state.digest(&bytes);
    double.state.blobs.lock().expect("nobody panics here").remove(&digest.hash);
    let second = farm.run(&work, |_| ());
    assert!(second.result.is_ok() && second.result != first.result);
    assert_eq!((double.calls("Execute"), farm.here()), (2, 0));
}

#[test]
fn links_as_outputs_and_the_workers_name_arrive() {
    let double = Double::start(Setup::default());
    let farm = Farm::new(&config(double.port));
    let mut link = spec(&["/bin/ln", "-s", "x", "l"]);
    link.outputs = vec![output("l", OutputKind::File)];
    let done = farm.run(&link, |_| ());
    assert_eq!(done.result.expect("it worked").artifacts["l"], Entry::Symlink { target: "x".into() });
    assert_eq!(done.host.as_deref(), Some("farm: hand-1"));
}

#[test]
fn inputs_that_were_lost_meanwhile_are_sent_once_more() {
    let double = Double::start(Setup::default());
    let farm = Farm::new(&config(double.port));
    // It says that it took them, and did not.
    double.fall_ill(Verb::Push, Ill::Gone);
    let done = farm.run(&spec(&["/bin/true"]), |_| ());
    assert_eq!((done.tier, double.calls("Execute")), ("here", 2));
    double.recover();
    assert_eq!(farm.run(&spec(&["/bin/true"]), |_| ()).tier, quipu_remote::TIER);
}

#[test]
fn long_quiet_work_is_waited_for_as_long_as_the_server_is_there() {
    let double = Double::start(Setup::default());
    let mut patient = config(double.port);
    patient.timeout = 1.0;
    let farm = Farm::new(&patient);
    let done = farm.run(&spec(&["/bin/sh", "-c", "sleep 4"]), |_| ());
    assert!(done.result.is_ok() && done.tier == quipu_remote::TIER, "{:?} {:?}", done.result, farm.warnings);
    // It was quiet for longer than one waits without a look, and executed once.
    assert!(double.calls("GetCapabilities") > 1);
    assert_eq!((double.calls("Execute"), farm.here()), (1, 0));
}

#[test]
fn what_a_server_offers_to_compress_goes_compressed_both_ways() {
    // One that goes in a batch, one that goes alone, one that is not worth it, and one that has no shorter form.
    let text = |n: u32| (0..n).flat_map(|i| (i / 9).to_string().into_bytes()).collect::<Vec<u8>>();
    let mut noise = vec![0; 4_300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let blobs = [text(1_000), text(1_000_000), b"short".to_vec(), noise];
    for zstd in [true, false] {
        let double = Double::start(Setup { zstd, ..Setup::default() });
        let (ours, theirs) = (store(1), store(2));
        let signed = receipt_of(&ours, &blobs);
        let remote = config(double.port).remote("r0");
        let sent = remote.push(&ours, &signed).expect("it takes them");
        assert!(sent.blobs >= 4);
        let id = signed.receipt.ran;
        assert_eq!(remote.find_invocations(&theirs, true, &[id]).expect("it answers"), [vec![signed.bytes.clone()]]);
        let wants: Vec<Want> = blobs
            .iter()
            .map(|bytes| Want { link: Link::of(Codec::Raw, bytes), size: Some(bytes.len() as u64) })
            .collect();
        let fetched = remote.fetch(&theirs, &wants).expect("they are there");
        assert_eq!((fetched.blobs, fetched.false_blobs), (4, 0));
        for (want, bytes) in wants.iter().zip(&blobs) {
            assert!(theirs.get(want.link, u64::MAX).expect("readable").as_ref() == Some(bytes));
        }
        // Both, at the least; other blobs of an entry may be, too.
        assert_eq!((double.calls("took compressed") >= 2, double.calls("sent compressed") >= 2), (zstd, zstd));
    }
}

#[test]
fn compressed_bytes_that_are_wrong_are_found_out() {
    for ill in [Ill::Flip, Ill::Short, Ill::Long, Ill::Nonsense, Ill::Mixed, Ill::Gone, Ill::Break] {
        let double = Double::start(Setup { zstd: true, ..Setup::default() });
        let wanted = workflow(&format!("compressed {ill:?}"));
        let made = Machine::new(1, &[], &[&config(double.port)]).run(&wanted);
        assert_eq!(made.warnings, [] as [&str; 0]);
        for verb in [Verb::Fetch, Verb::Push] {
            let cell = format!("{verb:?} {ill:?}");
            double.fall_ill(verb, ill);
            let changed = edited(&format!("compressed {ill:?}"), "header", &format!("app {verb:?}"));
            let mut machine = Machine::new(2, &[1], &[&config(double.port)]);
            let outcome = machine.run(&changed);
            assert_eq!(outcome.placed, alone(&changed).placed, "{cell}");
            assert!(outcome.warnings.len() <= 2, "{cell}: {:?}", outcome.warnings);
            machine.kept_nothing_bad(&outcome, &changed, &cell);
            double.recover();
        }
    }
}
