//! Matrices through the command: how many tasks there are, and which of them run again.

use crate::kit::TestSpace;

const WORKFILE: &str = "[task.build]
versions = '3.9.{0..21}'
run = 'echo {{version}} > out-{{version}}'
inputs = []
outputs = ['out-{{version}}']
sandbox = 'none'
";

#[test]
fn one_more_version_is_one_more_task_and_none_runs_again() {
    let space = TestSpace::new(WORKFILE);
    let first = space.build_twice(&[]);
    assert_eq!(first.count("ran"), 22);
    assert_eq!(space.read("out-3.9.21"), "3.9.21\n");
    space.edit("quipu.toml", "{0..21}", "{0..22}");
    let second = space.build(&[]);
    assert_eq!((second.ran().as_str(), second.count("ran")), ("build[3.9.22]", 1));
    space.nothing_to_do(&[]);
    // Fewer of them, in another order and with another list beside: those that are left are what they were.
    space.edit("quipu.toml", "'3.9.{0..22}'", "['3.9.{22,7}', '3.10.0']\nexclude = { version = '3.10.*' }");
    let third = space.build(&[]);
    assert_eq!((third.ran().as_str(), third.count("cached")), ("", 2));
}

#[test]
fn a_range_without_end_is_an_error_and_nothing_is_waited_for() {
    let space = TestSpace::new("[task.a]\nrun = 'true'\nversions = '{0..1000000000}'\n");
    let said = space.run(&["run"]);
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("`version` of task `a` makes more than 100000 values"), "{}", said.stderr);
}
