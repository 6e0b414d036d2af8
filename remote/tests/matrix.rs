//! Everything that a server can do wrong, at every kind of question: the same outputs as without a server, one warning,
//! a bounded number of questions, and nothing kept of a bad answer.

use quipu_runtime::process::OutputKind;
use quipu_store::cid::Codec;
use quipu_store::receipt::Output;
use quipu_store::tree::Entry;
use tonic::Code;

use crate::double::{Double, Ill, Setup, Verb};
use crate::execute::{Farm, output, spec};
use crate::faults::impatient;
use crate::kit::{Machine, alone, config, each, edited, workflow};
use crate::proxy::{Fault, Proxy};

const ILLS: [Ill; 16] = [
    Ill::Refuse(Code::Unauthenticated),
    Ill::Refuse(Code::PermissionDenied),
    Ill::Refuse(Code::Unavailable),
    Ill::Refuse(Code::Internal),
    Ill::Refuse(Code::Unimplemented),
    Ill::Refuse(Code::NotFound),
    Ill::Busy(20),
    Ill::Busy(900),
    Ill::Silent,
    Ill::Flip,
    Ill::Short,
    Ill::Long,
    Ill::Gone,
    Ill::Mixed,
    Ill::Break,
    Ill::Nonsense,
];

fn each_cell(verbs: &[Verb], check: impl Fn(Verb, Ill) + Sync) {
    let cells: Vec<(Verb, Ill)> = verbs.iter().flat_map(|verb| ILLS.map(|ill| (*verb, ill))).collect();
    each(&cells, |(verb, ill)| check(*verb, *ill));
}

/// A server that says nothing is waited for shortly; elsewhere nothing depends on how busy this machine is.
fn waiting(port: u16, ill: Ill) -> quipu_remote::Config {
    if matches!(ill, Ill::Silent | Ill::Busy(900)) { impatient(port) } else { config(port) }
}

#[test]
fn a_cache_that_goes_wrong_costs_one_warning_and_nothing_else() {
    each_cell(&[Verb::Lookup, Verb::Fetch], |verb, ill| {
        let cell = format!("{verb:?} {ill:?}");
        let double = Double::start(Setup::default());
        let made = Machine::new(1, &[], &[&config(double.port)]).run(&workflow(&cell));
        assert_eq!(made.warnings, [] as [&str; 0], "{cell}");
        let wanted = edited(&cell, "header", "another app");
        let right = alone(&wanted);
        double.fall_ill(verb, ill);
        let mut read_only = waiting(double.port, ill);
        read_only.push = false;
        let mut machine = Machine::new(2, &[1], &[&read_only]);
        let outcome = machine.run(&wanted);
        assert_eq!(outcome.placed, right.placed, "{cell}");
        assert!(outcome.warnings.len() <= 1, "{cell}: {:?}", outcome.warnings);
        // What did not come from there was made here.
        let helped = outcome.ran == ["app"];
        let harmless = (verb, ill) == (Verb::Lookup, Ill::Mixed);
        assert!(helped || !harmless, "{cell}: {:?} {:?}", outcome.ran, outcome.warnings);
        // That something is not there is no fault, and what is no entry is not there; all else is said.
        let no_entry = verb == Verb::Lookup && matches!(ill, Ill::Short | Ill::Nonsense);
        let absent = no_entry || matches!(ill, Ill::Refuse(Code::NotFound) | Ill::Gone);
        assert!(helped || absent || outcome.warnings.len() == 1, "{cell}: {:?}", outcome.ran);
        machine.kept_nothing_bad(&outcome, &wanted, &cell);
    });
}

#[test]
fn a_cache_that_takes_badly_harms_nobody() {
    each_cell(&[Verb::Push], |verb, ill| {
        let cell = format!("{verb:?} {ill:?}");
        let double = Double::start(Setup { credulous: true, ..Setup::default() });
        double.fall_ill(verb, ill);
        let (sending, wanted) = (waiting(double.port, ill), workflow(&cell));
        let right = alone(&wanted);
        let mut machine = Machine::new(1, &[], &[&sending]);
        let outcome = machine.run(&wanted);
        assert_eq!((outcome.ran.len(), &outcome.placed), (4, &right.placed), "{cell}");
        // What went wrong, and that something was not sent.
        assert!(outcome.warnings.len() <= 2, "{cell}: {:?}", outcome.warnings);
        machine.kept_nothing_bad(&outcome, &wanted, &cell);
        // Whatever got there is whole, or is not used.
        double.recover();
        let mut second = Machine::new(2, &[1], &[&config(double.port)]);
        let outcome = second.run(&wanted);
        assert_eq!(outcome.placed, right.placed, "{cell}");
        assert!(outcome.warnings.len() <= 1, "{cell}: {:?}", outcome.warnings);
        second.kept_nothing_bad(&outcome, &wanted, &cell);
    });
}

/// Four pieces of work one after the other, on a server of which something goes wrong; says where each was done.
fn four(farm: &Farm, cell: &str) -> Vec<&'static str> {
    let pieces = (0..4).map(|n| {
        let mut work = spec(&["/bin/sh", "-c", "tr a-z A-Z < in > o"]);
        work.inputs.insert("in".into(), farm.file(&format!("piece {n} of {cell}")));
        work.outputs = vec![output("o", OutputKind::File)];
        let bytes = format!("piece {n} of {cell}").to_ascii_uppercase().into_bytes();
        let size = bytes.len() as u64;
        let blob = farm.store.put(Codec::Raw, bytes).expect("stored").try_into().expect("raw");
        let artifacts = [("o".into(), Entry::File { blob, size, exec: false })].into();
        let right = Output { artifacts, ..Output::default() };
        *farm.here.makes.lock().expect("nobody panics here") = right.clone();
        let done = farm.run(&work, |_| ());
        assert_eq!((done.result, done.unusable), (Ok(right), None), "{cell}");
        done.tier
    });
    pieces.collect()
}

#[test]
fn a_server_that_executes_badly_costs_one_warning_and_the_work_is_done_here() {
    each_cell(&[Verb::Lookup, Verb::Push, Verb::Execute, Verb::Fetch], |verb, ill| {
        let cell = format!("{verb:?} {ill:?}");
        let double = Double::start(Setup::default());
        let farm = Farm::new(&waiting(double.port, ill));
        double.fall_ill(verb, ill);
        let tiers = four(&farm, &cell);
        let warnings = farm.warnings.lock().expect("nobody panics here").clone();
        let here = tiers.iter().filter(|t| **t == "here").count();
        assert_eq!(warnings.len(), usize::from(here > 0), "{cell}: {tiers:?} {warnings:?}");
        // Twice for each piece where something was lost, and no more.
        assert!(double.calls("Execute") <= 8 && double.calls("WaitExecution") <= 8 * 5, "{cell}");
        if matches!(ill, Ill::Silent | Ill::Refuse(Code::Unauthenticated | Code::PermissionDenied)) {
            assert!(double.calls("Execute") <= 1, "{cell}: it was asked again");
        }
        if ill == Ill::Mixed {
            assert_eq!(here, 0, "{cell}: {warnings:?}");
        }
    });
}

#[test]
fn a_bad_network_to_a_server_that_executes_is_waited_for_once() {
    let mut faults = vec![Fault::Blackhole, Fault::Drip];
    let places = [0, 20, 60, 150, 400, 800, 1_500];
    faults.extend(places.iter().flat_map(|k| [Fault::Stall(*k), Fault::Cut(*k), Fault::Flip(*k)]));
    faults.extend([0, 100, 600, 1_500].map(Fault::CutUpload));
    each(&faults, |fault| {
        let double = Double::start(Setup::default());
        let proxy = Proxy::start(double.port, *fault);
        let farm = Farm::new(&impatient(proxy.port));
        let tiers = four(&farm, &format!("{fault:?}"));
        let warnings = farm.warnings.lock().expect("nobody panics here").clone();
        let here = tiers.iter().filter(|t| **t == "here").count();
        assert_eq!(warnings.len(), usize::from(here > 0), "{fault:?}: {tiers:?} {warnings:?}");
    });
}
