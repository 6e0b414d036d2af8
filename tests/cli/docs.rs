//! The pages that are held by the code: `docs/cli.md` by the definitions of the command line.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::kit::TestSpace;

/// The commands, in the order they are listed.
const COMMANDS: [&str; 28] = [
    "run",
    "plan",
    "ready",
    "explain",
    "learn",
    "diff",
    "check",
    "list",
    "affected",
    "graph",
    "deliver",
    "log",
    "show",
    "verify",
    "gc",
    "promote",
    "namespace",
    "key",
    "trust",
    "export",
    "import",
    "audit",
    "attest",
    "serve",
    "doctor",
    "init",
    "schema",
    "completions",
];

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).expect("is there")
}

#[test]
fn the_reference_is_made_of_the_definitions() {
    let space = TestSpace::new("");
    let mut text =
        "<!-- Made of the definitions in src/cli.rs: QUIPU_BLESS=1 cargo test --test main docs -->\n".to_owned();
    let help = |args: &[&str]| {
        let help = space.ok(args).stdout;
        help.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>()
    };
    let top = help(&["--help"]);
    for command in COMMANDS {
        assert!(top.contains(&format!("\n  {command} ")), "{command} in {top}");
        let _ = write!(text, "\n## quipu {command}\n\n```text\n{}```\n", help(&[command, "--help"]));
    }
    let listed = top.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty()).count();
    assert_eq!(listed, COMMANDS.len() + 1, "all but `help` stand in the page");
    let marker = "<!-- Made of";
    let (head, old) =
        page("cli.md").split_once(marker).map(|(h, o)| (h.to_owned(), format!("{marker}{o}"))).expect("has one");
    if std::env::var_os("QUIPU_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
        fs::write(path, format!("{head}{text}")).expect("is written");
        return;
    }
    assert_eq!(old, text, "write it anew with QUIPU_BLESS=1");
}

#[test]
fn every_exit_code_is_documented() {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/exit.rs")).expect("is there");
    let page = page("cli.md");
    let codes: Vec<&str> =
        source.lines().filter_map(|l| l.trim().strip_suffix(',')?.split_once(" = ").map(|c| c.1)).collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        assert!(page.contains(&format!("\n| {code} | ")), "{code}");
    }
}

#[test]
fn every_kind_of_failure_is_documented() {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("store/src/receipt.rs")).expect("is there");
    let names = source.split("pub fn name(&self)").nth(1).and_then(|s| s.split("\n    }").next()).expect("is there");
    let names: Vec<&str> = names.lines().filter_map(|l| l.split('"').nth(1)).collect();
    assert!(names.len() >= 11, "{names:?}");
    let page = page("errors.md");
    for name in names {
        assert!(page.contains(&format!("\n| `{name}` | ")), "{name}");
    }
}

#[test]
fn every_event_is_documented() {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/src/observe.rs")).expect("is there");
    let body = source.split("pub enum RunEvent {").nth(1).and_then(|s| s.split("\n}").next()).expect("is there");
    let page = page("formats/events.md");
    let mut seen = 0;
    for line in body
        .lines()
        .filter(|l| l.starts_with("    ") && !l.starts_with("     ") && !l.trim().starts_with(['/', '#', '}']))
    {
        let name: String = line.trim().chars().take_while(char::is_ascii_alphabetic).collect();
        let kebab: String = name
            .chars()
            .enumerate()
            .map(|(i, c)| match c {
                c if c.is_ascii_uppercase() && i > 0 => format!("-{}", c.to_ascii_lowercase()),
                c => c.to_ascii_lowercase().to_string(),
            })
            .collect();
        assert!(page.contains(&format!("\n### {kebab}\n")), "{kebab}");
        seen += 1;
    }
    assert!(seen >= 12, "{seen} events were found");
}
