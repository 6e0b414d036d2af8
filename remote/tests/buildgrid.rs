//! BuildGrid with PostgreSQL and a worker: a server that schedules, by `just buildgrid`.

use std::time::Duration;

use quipu_remote::TIER;
use quipu_runtime::process::OutputKind;
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;

use crate::execute::{Farm, output, spec};
use crate::kit::{Machine, say, workflow};
use crate::server::Server;

#[test]
#[ignore = "takes minutes and a database: `just buildgrid`"]
fn buildgrid_caches_and_its_worker_works() {
    let Some(server) = Server::start_buildgrid() else { return };
    let (config, wanted) = (server.config(), workflow("grid"));
    let first = Machine::new(1, &[], &[&config]).run(&wanted);
    assert_eq!((first.ran.len(), &first.warnings), (4, &vec![]));
    let second = Machine::new(2, &[1], &[&config]).run(&wanted);
    assert_eq!((second.ran.len(), &second.warnings, &second.placed), (0, &vec![], &first.placed));

    let farm = Farm::new(&config);
    let script = "set -e; tr a-z A-Z < in > out/up; mkdir out/deep; ln -s ../up out/deep/link; \
                  head -c 3000000 /dev/zero > out/large; echo said; echo complained >&2";
    let mut work = spec(&["/bin/sh", "-c", &format!("mkdir -p out; {script}")]);
    work.inputs.insert("in".into(), farm.file("text"));
    work.outputs = vec![output("out", OutputKind::Dir)];
    let done = farm.run(&work, |_| ());
    assert_eq!(done.tier, TIER, "{:?} {:?}", done.result, farm.warnings);
    let out = done.result.as_ref().expect("it worked");
    let Entry::Dir { tree } = &out.artifacts["out"] else { panic!("a directory") };
    let names = farm.store.tree(*tree).expect("readable").expect("here");
    assert_eq!(names.entries().iter().map(|(n, _)| n.to_string()).collect::<Vec<_>>(), ["deep", "large", "up"]);
    assert!(out.stdout.is_some() && out.stderr.is_some());
    assert!(done.host.as_ref().is_some_and(|host| host.contains("quipu-bot")), "{:?}", done.host);
    assert_eq!(farm.run(&work, |_| ()).result, done.result);
    for _ in 0..2 {
        let failed = farm.run(&spec(&["/bin/sh", "-c", "exit 7"]), |_| ());
        assert_eq!(failed.result.expect_err("it fails").kind, FailureKind::Exit { code: 7 });
    }
    assert_eq!(farm.here(), 0, "{:?}", farm.warnings);
    // What this server and its worker make of a link as an output, and of a limit.
    let mut link = spec(&["/bin/ln", "-s", "x", "l"]);
    link.outputs = vec![output("l", OutputKind::File)];
    say(&format!("a link as an output: {:?}", farm.run(&link, |_| ()).tier));
    let limited = farm.run(&spec(&["/bin/sleep", "30"]), |job| job.timeout = Some(Duration::from_secs(1)));
    say(&format!("a limit of one second: {} {:?}", limited.tier, limited.result.map_err(|f| f.kind)));
}
