//! What every command has in common: help, mistakes on the command line, closed pipes, no home.

use std::fmt::Write as _;
use std::io::Read;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::kit::TestSpace;

const TASKS: &str = "[task.a]\nrun = \"echo a\"\ninputs = []\n";

#[test]
fn mistakes_name_the_thing_and_a_way_on() {
    let space = TestSpace::new(TASKS);
    assert_snapshot!(space.run(&["run", "b"]).shown(), @r#"
    exit 2
    --- stderr
    error: asked for `b`, which is not defined
    help: `quipu list` lists the tasks there are
    "#);
    assert_snapshot!(space.run(&["run", "tag:x"]).shown(), @r#"
    exit 2
    --- stderr
    error: asked for `tag:x`, but no task has that tag
    help: `quipu list` lists the tasks there are
    "#);
    assert_snapshot!(space.run(&["-C", "nowhere", "list"]).shown(), @r#"
    exit 2
    --- stderr
    error: `nowhere` is not a directory
    "#);
    assert_snapshot!(space.run(&["gc", "--max-age", "soon"]).shown(), @r#"
    exit 2
    --- stderr
    error: invalid value 'soon' for '--max-age <AGE>': an age is a whole number with s, m, h, d or w behind it: `30d`

    For more information, try '--help'.
    "#);
    space.remove("quipu.toml");
    assert_snapshot!(space.run(&["run"]).shown(), @r#"
    exit 2
    --- stderr
    error: no quipu.toml in `[dir]/ws` or above it
    help: `quipu init` writes one to begin with
    "#);
}

#[test]
fn help_goes_to_standard_output_and_no_command_to_standard_error() {
    let space = TestSpace::new(TASKS);
    let help = space.ok(&["--help"]);
    assert!(help.stdout.contains("Usage: quipu") && help.stderr.is_empty());
    let none = space.run(&[]);
    assert!(none.status == 2 && none.stdout.is_empty() && none.stderr.contains("Usage: quipu"));
}

#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_word() {
    let mut workfile = "[workspace]\n".to_owned();
    for n in 0..4000 {
        let _ = write!(workfile, "[task.a-task-with-a-long-name-{n}]\nrun = \"echo\"\ninputs = []\n");
    }
    let space = TestSpace::new(&workfile);
    for args in [&["list"][..], &["list", "--json"], &["graph"], &["plan"], &["plan", "--json"]] {
        let mut child = space.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut first = [0; 1];
        let mut stdout = child.stdout.take().expect("is piped");
        stdout.read_exact(&mut first).expect("has a first byte");
        drop(stdout);
        let mut said = String::new();
        child.stderr.take().expect("is piped").read_to_string(&mut said).expect("is read");
        let status = child.wait().expect("ends").code();
        assert_eq!((status, said.as_str()), (Some(141), ""), "{args:?}");
    }
}

#[test]
fn what_needs_no_store_needs_no_home() {
    let space = TestSpace::new(TASKS);
    for (args, status) in
        [(&["list"][..], 0), (&["graph"], 0), (&["schema"], 0), (&["completions", "fish"], 0), (&["run"], 2)]
    {
        let mut command = space.command(args);
        command.env_remove("HOME").env_remove("QUIPU_STORE").env_remove("QUIPU_CONFIG");
        assert_eq!(command.output().expect("starts").status.code(), Some(status), "{args:?}");
    }
}

#[test]
fn a_member_is_worked_in_as_well_as_its_root() {
    let space = TestSpace::new("[workspace]\nmembers = [\"lib\"]\n[task.top]\nrun = \"echo top\"\ninputs = []\n");
    space.write(
        "lib/quipu.toml",
        "[task.part]\nrun = \"echo part > part.out\"\ninputs = []\noutputs = [\"part.out\"]\n",
    );
    assert_eq!(space.ok(&["list"]).stdout, "top\nlib:part\n");
    assert_eq!(space.ok(&["-C", "lib", "run", "part"]).status, 0);
    assert_eq!(space.read("lib/part.out"), "part\n");
    assert_eq!(space.build(&["lib:part"]).ran(), "");
}

#[test]
fn events_that_get_lost_are_an_error_and_the_work_is_done() {
    let space = TestSpace::new(TASKS);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("is there");
    let output = space.finish(space.command(&["run", "--json"]).stdout(full));
    assert_eq!(output.status, 3);
    assert!(output.stderr.contains("error: cannot write the result: No space left"), "{}", output.stderr);
    assert_eq!(space.ok(&["log", "a"]).stdout, "a\n");
    // Whether there is anything to do or not.
    for workfile in [TASKS.replace("echo a", "echo b"), TASKS.to_owned()] {
        space.write("quipu.toml", &workfile);
        let (reader, writer) = std::io::pipe().expect("is made");
        drop(reader);
        let output = space.finish(space.command(&["run", "--json"]).stdout(writer));
        assert_eq!((output.status, &*output.stderr), (141, ""));
    }
}

#[test]
fn what_is_named_is_looked_for_where_the_command_works() {
    let space = TestSpace::new(TASKS);
    space.write("part/file", "");
    space.ok(&["-C", "part", "run", "--store", "kept"]);
    assert!(space.exists("part/kept") && !space.exists("kept"));
    // A directory is no token.
    let output = space.run(&["-C", "part", "serve", "--listen", "127.0.0.1:0", "--token-file", "kept"]);
    assert!(output.status == 3 && output.stderr.contains("cannot use `part/kept`"), "{}", output.stderr);
}

#[test]
fn a_slip_in_the_users_own_files_is_named_with_its_line() {
    let space = TestSpace::new(TASKS);
    for name in ["config.toml", "trust.toml"] {
        let path = space.beside("config").join(name);
        std::fs::write(&path, "# Mine.\n[remote.a\nurl = 1\n").expect("is written");
        let output = space.run(&["run"]);
        let expected = format!("error: `{}`: line 2: ", path.display());
        let one_line = output.stderr.trim_end().lines().count() == 1;
        assert!(output.status == 2 && output.stderr.starts_with(&expected) && one_line, "{}", output.stderr);
        std::fs::remove_file(path).expect("is removed");
    }
}
