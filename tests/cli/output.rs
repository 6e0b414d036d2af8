//! `quipu run --output`, `--replay`, and what CI services fold.

use crate::kit::TestSpace;

/// Two tasks that print at once, in pieces of lines, and one that fails.
const TASKS: &str = "
[workspace]
sandbox = 'none'
[task.a]
run = 'for i in 1 2 3 4 5 6 7 8; do printf a; sleep 0.01; printf \"a$i\\n\"; done; printf end'
inputs = []
[task.b]
run = 'for i in 1 2 3 4 5 6 7 8; do printf b; sleep 0.01; printf \"b$i\\n\" >&2; printf \"\\n\"; done'
inputs = []
[task.bad]
run = 'echo 100%; echo why >&2; exit 3'
inputs = []
[task.mum]
run = 'echo secret'
inputs = []
mute = true
";

fn lines(text: &str, starts: &str) -> Vec<String> {
    text.lines().filter(|l| l.starts_with(starts)).map(str::to_owned).collect()
}

#[test]
fn lines_come_whole_however_tasks_print_them() {
    let expected: Vec<String> = (1..=8).map(|i| format!("aa{i}")).chain(["end".to_owned()]).collect();
    let space = TestSpace::new(TASKS);
    let prefixed = space.ok(&["run", "-j2", "--output=prefixed", "a", "b"]).stderr;
    let with: Vec<String> = expected.iter().map(|l| format!("a | {l}")).collect();
    assert_eq!(lines(&prefixed, "a | "), with);
    let b = lines(&prefixed, "b | ");
    assert_eq!(b.iter().filter(|l| *l == "b | b").count(), 8, "{b:?}");
    assert_eq!(b.len(), 16, "{b:?}");
    assert!(prefixed.contains("\nran a (") && !prefixed.contains("    aa1"), "{prefixed}");

    let space = TestSpace::new(TASKS);
    let stream = space.ok(&["run", "-j2", "--output=stream", "a", "b", "mum"]).stderr;
    assert_eq!(stream.lines().filter(|l| expected.contains(&(*l).to_owned())).count(), 9, "{stream}");
    assert!(!stream.contains("secret"), "{stream}");

    let space = TestSpace::new(TASKS);
    let grouped = space.ok(&["run", "-j2", "--output=grouped", "a", "b"]).stderr;
    let block: String = expected.iter().map(|l| format!("    {l}\n")).collect();
    assert!(grouped.contains(&block), "{grouped}");

    let space = TestSpace::new(TASKS);
    let quiet = space.run(&["run", "-j1", "-k", "--output=quiet", "a", "bad"]);
    assert_eq!(quiet.status, 1);
    assert!(!quiet.stderr.contains("aa1") && quiet.stderr.contains("failed bad"), "{}", quiet.stderr);
    assert!(quiet.stderr.contains("    why\n"), "{}", quiet.stderr);
    assert_eq!(space.run(&["run", "-q", "--output=stream"]).status, 2);
}

#[test]
fn cached_tasks_tell_again_what_they_printed_when_asked() {
    let space = TestSpace::new(TASKS);
    space.ok(&["run", "a"]);
    let silent = space.ok(&["run", "a"]).stderr;
    assert_eq!(silent, "nothing to do: 1 task is up to date\n");
    let again = space.ok(&["run", "a", "--replay"]).stderr;
    let block: String = (1..=8).map(|i| format!("    aa{i}\n")).collect();
    assert_eq!(again, format!("cached a\n{block}    end\nnothing to do: 1 task is up to date\n"));
    let again = space.ok(&["run", "a", "--replay", "--output=prefixed"]).stderr;
    assert!(again.starts_with("a | aa1\n") && again.contains("a | end\ncached a\n"), "{again}");
    space.ok(&["run", "mum"]);
    assert!(!space.ok(&["run", "mum", "--replay"]).stderr.contains("secret"));
    let events = space.build(&["a", "--replay"]).events;
    let text: String =
        events.iter().filter(|e| e["event"] == "task-output").filter_map(|e| e["text"].as_str()).collect();
    assert_eq!(text, space.ok(&["log", "a"]).stdout, "byte for byte");
}

#[test]
fn services_of_continuous_integration_get_their_marks() {
    let run = |service: &str, args: &[&str]| {
        let space = TestSpace::new(TASKS);
        let out = space.command(&[&["run", "-k", "-j1"], args].concat()).env(service, "true").output().expect("starts");
        String::from_utf8(out.stderr).expect("is text")
    };
    let hub = run("GITHUB_ACTIONS", &["a", "bad", "mum"]);
    assert!(hub.contains("::group::ran a (") && hub.contains("    end\n::endgroup::\n"), "{hub}");
    assert!(hub.contains("::error title=task bad failed::exit code 3\n"), "{hub}");
    assert_eq!(hub.matches("::group::").count(), 1, "nothing to fold elsewhere, and failures stay open: {hub}");
    let lab = run("GITLAB_CI", &["a", "bad"]);
    assert!(lab.contains("[collapsed=true]\r\u{1b}[0Kran a (") && lab.matches("section_end:").count() == 1, "{lab:?}");
    assert!(!run("CI", &["a", "bad"]).contains("::"));
}
