//! A bad network between a machine and a good server: the same outputs as without a server, in bounded time, with
//! one warning, and nothing kept of a bad reply.

use std::time::Duration;

use quipu_remote::Config;

use crate::kit::{Machine, alone, config, edited, say, workflow};
use crate::proxy::{Fault, Proxy};
use crate::server::{Server, free_port};

/// What one answer may take here.
const DEADLINE: Duration = Duration::from_millis(400);

pub(crate) fn impatient(port: u16) -> Config {
    let mut config = config(port);
    config.timeout = DEADLINE.as_secs_f64();
    config.push_wait = 1.0;
    config
}

#[test]
fn a_bad_network_costs_a_deadline_and_one_warning() {
    let Some(server) = Server::start(false) else { return };
    let salt = "network";
    Machine::new(1, &[], &[&server.config()]).run(&workflow(salt));
    let wanted = edited(salt, "header", "another app");
    let right = alone(&wanted);
    // Look-ups are a few kilobytes, the large file is five million bytes.
    let mut faults = vec![Fault::Blackhole, Fault::Drip];
    let places = [0, 9, 40, 100, 300, 1_000, 3_000, 10_000, 100_000, 2_000_000];
    faults.extend(places.iter().flat_map(|k| [Fault::Stall(*k), Fault::Cut(*k), Fault::Flip(*k)]));
    faults.extend([0, 30, 500, 5_000].map(Fault::CutUpload));
    let mut longest = Duration::ZERO;
    for fault in faults {
        let proxy = Proxy::start(server.port, fault);
        let mut config = impatient(proxy.port);
        config.push = false;
        let mut machine = Machine::new(2, &[1], &[&config]);
        let outcome = machine.run(&wanted);
        drop(proxy);
        assert_eq!(outcome.placed, right.placed, "{fault:?}");
        assert!(outcome.warnings.len() <= 1, "{fault:?}: {:?}", outcome.warnings);
        // What did not come from there was made here, and said.
        assert!(outcome.ran.len() == 1 || outcome.warnings.len() == 1, "{fault:?}: {:?}", outcome.ran);
        longest = longest.max(outcome.took);
        machine.kept_nothing_bad(&outcome, &wanted, &format!("{fault:?}"));
    }
    say(&format!("alone {:?}, longest with a bad network {longest:?}", right.took));
    // A deadline of this test is 0.4 s, and one for five million bytes 76 s more: none of that may add up.
    assert!(longest < right.took + Duration::from_secs(60), "{longest:?}");
}

#[test]
fn a_server_that_is_not_there_is_said_once() {
    let wanted = workflow("refused");
    let outcome = Machine::new(2, &[1], &[&impatient(free_port())]).run(&wanted);
    assert_eq!(outcome.placed, alone(&wanted).placed);
    assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
}

#[test]
fn an_upload_that_breaks_harms_nobody() {
    let Some(server) = Server::start(false) else { return };
    let mut sent = 0;
    for k in [0, 100, 2_000, 20_000, 1_000_000, 4_000_000] {
        let wanted = workflow(&format!("upload {k}"));
        let right = alone(&wanted);
        let proxy = Proxy::start(server.port, Fault::CutUpload(k));
        let outcome = Machine::new(1, &[], &[&impatient(proxy.port)]).run(&wanted);
        drop(proxy);
        assert_eq!((outcome.ran.len(), &outcome.placed), (4, &right.placed), "{k}");
        assert!((1..=2).contains(&outcome.warnings.len()), "{k}: {:?}", outcome.warnings);
        // Whatever got there is whole, or as if it were not there.
        let second = Machine::new(2, &[1], &[&server.config()]).run(&wanted);
        assert_eq!((&second.placed, second.warnings.len()), (&right.placed, 0), "{k}: {:?}", second.warnings);
        sent += 4 - second.ran.len();
    }
    say(&format!("{sent} results of 24 got through uploads that broke"));
}

#[test]
fn a_server_that_knows_nothing_is_no_fault() {
    let Some(server) = Server::start(false) else { return };
    let wanted = workflow("empty");
    let mut config = server.config();
    config.push = false;
    let outcome = Machine::new(2, &[1], &[&config]).run(&wanted);
    assert_eq!((outcome.ran.len(), outcome.warnings), (4, vec![]));
}
