//! The tables of threats and of what the language promises: every row says how it is tested, and every test it names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Rows as number and test column.
fn rows(page: &str) -> Vec<(u32, &str)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let cells = lines.map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>());
    cells.filter_map(|c| Some((c.first()?.parse().ok()?, *c.last()?))).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Everything said of tests in a row that is not so.
fn wrong(row: u32, said: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = vec![];
    if said.is_empty()
        || (quoted(said).next().is_none() && !said.starts_with("not yet") && !said.contains("out of scope"))
    {
        wrong.push(format!("row {row} says neither a test nor `not yet`: {said}"));
    }
    for name in quoted(said) {
        let there = if name.contains('/') { Path::new(ROOT).join(name).exists() } else { functions.contains(name) };
        if !there {
            wrong.push(format!("row {row} names `{name}`, which is not there"));
        }
    }
    wrong
}

fn functions(dir: &Path, out: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the repository can be listed") {
        let path = entry.expect("the repository can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != "node_modules" && !name.starts_with('.') {
                functions(&path, out);
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            let names = text.lines().filter_map(|l| l.trim_start().strip_prefix("fn ")?.split(['(', '<']).next());
            out.extend(names.map(str::to_owned));
        }
    }
}

/// Every row of this page says how it is tested.
fn check(page: &str, last: u32) {
    let page = fs::read_to_string(Path::new(ROOT).join(page)).expect("the page is there");
    let mut all = BTreeSet::new();
    functions(Path::new(ROOT), &mut all);
    let rows = rows(&page);
    assert_eq!(rows.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    let wrong: Vec<_> = rows.iter().flat_map(|(n, said)| wrong(*n, said, &all)).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_threat_has_a_test_or_says_that_it_has_none() {
    check("docs/design/trust.md", 34);
}

#[test]
fn everything_the_language_promises_has_a_test() {
    check("docs/design/language.md", 33);
}

#[test]
fn a_row_that_says_nothing_or_too_much_is_noticed() {
    let all = BTreeSet::from(["there".to_owned()]);
    assert_eq!(rows("| 7 | a | b | `there` |\n| # | x |\ntext"), [(7, "`there`")]);
    for good in ["`there`", "not yet", "`there`; not yet (more)", "`tests/cli/threats.rs`: `there`", "out of scope"] {
        assert!(wrong(1, good, &all).is_empty(), "{good}");
    }
    for bad in ["", "soon", "`gone`", "`tests/cli/gone.rs`"] {
        assert_eq!(wrong(1, bad, &all).len(), 1, "{bad}");
    }
}
