//! Everything that a service or a network can do wrong, at every kind of question: the same outputs as without a bucket,
//! one warning, and nothing kept of a bad answer.

use std::time::Duration;

use quipu_bucket::Config;

use crate::double::{Double, Ill, Verb};
use crate::kit::{Machine, alone, config, each, edited, server, workflow};
use crate::program::free_port;
use crate::proxy::{Fault, Proxy};

const ILLS: [Ill; 17] = [
    Ill::Status(400),
    Ill::Status(401),
    Ill::Status(403),
    Ill::Status(404),
    Ill::Status(412),
    Ill::Status(500),
    Ill::Status(501),
    Ill::Busy(0),
    Ill::Busy(900),
    Ill::Silent,
    Ill::Flip,
    Ill::Short,
    Ill::Long,
    Ill::Mixed,
    Ill::Break,
    Ill::Nonsense,
    Ill::Huge,
];

fn cells(verbs: &[Verb]) -> Vec<(Verb, Ill)> {
    verbs.iter().flat_map(|verb| ILLS.map(|ill| (*verb, ill))).collect()
}

/// Somebody who does not wait long.
fn impatient(port: u16) -> Config {
    let mut config = config(port);
    config.timeout = 0.4;
    config.push_wait = 1.0;
    config
}

/// A service that says nothing is waited for shortly; elsewhere nothing depends on how busy this machine is.
fn waiting(port: u16, ill: Ill) -> Config {
    if matches!(ill, Ill::Silent | Ill::Busy(900)) { impatient(port) } else { config(port) }
}

#[test]
fn a_bucket_that_goes_wrong_costs_one_warning_and_nothing_else() {
    let Some(server) = server() else { return };
    each(&cells(&[Verb::Lookup, Verb::Fetch]), |(verb, ill)| {
        let cell = format!("{verb:?} {ill:?}");
        let made = Machine::new(1, &[], &[&config(server.port)]).run(&workflow(&cell));
        assert_eq!(made.warnings, [] as [&str; 0], "{cell}");
        let wanted = edited(&cell, "header", "another app");
        let right = alone(&wanted);
        let double = Double::start(server.port, *verb, *ill);
        let mut read_only = waiting(double.port, *ill);
        read_only.push = false;
        let mut machine = Machine::new(2, &[1], &[&read_only]);
        let outcome = machine.run(&wanted);
        assert_eq!(outcome.placed, right.placed, "{cell}");
        assert!(outcome.warnings.len() <= 1, "{cell}: {:?}", outcome.warnings);
        // What did not come from there was made here, and that is said, unless it was only not there.
        let helped = outcome.ran == ["app"];
        // An object of another size than receipts have is none, like one that is not there.
        let absent = *ill == Ill::Status(404) || (*verb, *ill) == (Verb::Lookup, Ill::Huge);
        assert!(helped || absent || outcome.warnings.len() == 1, "{cell}: {:?}", outcome.ran);
        assert!(helped || *ill != Ill::Busy(0), "{cell}: {:?}", outcome.warnings);
        if *ill == Ill::Silent || *ill == Ill::Status(403) || *ill == Ill::Status(401) {
            // Those that were asked at once.
            assert!(double.asked() <= 4, "{cell}: it was asked again");
        }
        machine.kept_nothing_bad(&outcome, &wanted, &cell);
    });
}

#[test]
fn a_bucket_that_takes_badly_harms_nobody() {
    let Some(server) = server() else { return };
    each(&cells(&[Verb::Push]), |(verb, ill)| {
        let cell = format!("{verb:?} {ill:?}");
        let double = Double::start(server.port, *verb, *ill);
        let (sending, wanted) = (waiting(double.port, *ill), workflow(&cell));
        let right = alone(&wanted);
        let mut machine = Machine::new(1, &[], &[&sending]);
        let outcome = machine.run(&wanted);
        assert_eq!((outcome.ran.len(), &outcome.placed), (4, &right.placed), "{cell}");
        // What went wrong, and that something was not sent.
        assert!(outcome.warnings.len() <= 2, "{cell}: {:?}", outcome.warnings);
        machine.kept_nothing_bad(&outcome, &wanted, &cell);
        // Whatever got there is whole, or is not used.
        let mut second = Machine::new(2, &[1], &[&config(server.port)]);
        let outcome = second.run(&wanted);
        assert_eq!(outcome.placed, right.placed, "{cell}");
        assert!(outcome.warnings.len() <= 1, "{cell}: {:?}", outcome.warnings);
        second.kept_nothing_bad(&outcome, &wanted, &cell);
    });
}

#[test]
fn a_bad_network_costs_a_deadline_and_one_warning() {
    let Some(server) = server() else { return };
    let salt = "network";
    Machine::new(1, &[], &[&config(server.port)]).run(&workflow(salt));
    let wanted = edited(salt, "header", "another app");
    let right = alone(&wanted);
    let mut faults = vec![Fault::Blackhole, Fault::Drip];
    let places = [0, 20, 200, 700, 3_000, 10_000, 100_000, 2_000_000];
    faults.extend(places.iter().flat_map(|k| [Fault::Stall(*k), Fault::Cut(*k), Fault::Flip(*k)]));
    faults.extend([0, 300, 2_000].map(Fault::CutUpload));
    each(&faults, |fault| {
        let proxy = Proxy::start(server.port, *fault);
        let mut reads = impatient(proxy.port);
        reads.push = false;
        let mut machine = Machine::new(2, &[1], &[&reads]);
        let outcome = machine.run(&wanted);
        drop(proxy);
        assert_eq!(outcome.placed, right.placed, "{fault:?}");
        assert!(outcome.warnings.len() <= 1, "{fault:?}: {:?}", outcome.warnings);
        assert!(outcome.ran.len() == 1 || outcome.warnings.len() == 1, "{fault:?}: {:?}", outcome.ran);
        // A deadline of this test is 0.4 s, and one for five million bytes 76 s more: what stalls is not waited for so long.
        assert!(outcome.took < right.took + Duration::from_secs(60), "{fault:?}: {:?}", outcome.took);
        machine.kept_nothing_bad(&outcome, &wanted, &format!("{fault:?}"));
    });
}

#[test]
fn an_upload_that_breaks_harms_nobody() {
    let Some(server) = server() else { return };
    each(&[0, 400, 3_000, 20_000, 1_000_000, 5_000_000], |k| {
        let wanted = workflow(&format!("upload {k}"));
        let right = alone(&wanted);
        let proxy = Proxy::start(server.port, Fault::CutUpload(*k));
        let outcome = Machine::new(1, &[], &[&impatient(proxy.port)]).run(&wanted);
        drop(proxy);
        assert_eq!((outcome.ran.len(), &outcome.placed), (4, &right.placed), "{k}");
        assert!((1..=2).contains(&outcome.warnings.len()), "{k}: {:?}", outcome.warnings);
        let second = Machine::new(2, &[1], &[&config(server.port)]).run(&wanted);
        assert_eq!((&second.placed, second.warnings.len()), (&right.placed, 0), "{k}: {:?}", second.warnings);
    });
}

#[test]
fn a_service_that_is_not_there_is_said_once() {
    let wanted = workflow("refused");
    let outcome = Machine::new(2, &[1], &[&impatient(free_port())]).run(&wanted);
    assert_eq!(outcome.placed, alone(&wanted).placed);
    assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
}
