//! The format pages: every example in them stands in the published vectors, which the code is held against.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PAGES: [&str; 5] = ["ids.md", "task.md", "receipt.md", "tree.md", "workflow.md"];

fn vectors(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join("tests/vectors").join(file)).unwrap_or_default()
}

/// Examples as `vector file`, `vector name`, hex; what follows a `;` explains.
fn examples(page: &str) -> Vec<(String, String, String)> {
    let blocks = page.split("\n```hex ").skip(1).filter_map(|rest| rest.split_once('\n'));
    let blocks = blocks.filter_map(|(title, rest)| {
        let (file, name) = title.split_once(": ")?;
        let lines = rest.split("\n```").next()?.lines();
        let hex: String =
            lines.flat_map(|line| line.split(';').next().unwrap_or_default().split_whitespace()).collect();
        Some((file.to_owned(), name.to_owned(), hex))
    });
    blocks.collect()
}

/// Whether the vector of that name has these bytes, as its block or in binary form.
fn stands_in(file: &Value, name: &str, hex: &str) -> bool {
    let items = file["accept"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |item: &Value| item["binary"] == hex || item["bytes"] == hex || item["nodes"][0]["bytes"] == hex;
    items.iter().any(|item| item["name"] == name && has(item))
}

/// Words in the text form of an id.
fn ids(page: &str) -> BTreeSet<&str> {
    let words = page.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|w| w.len() == 59 && (w.starts_with("bafkr4i") || w.starts_with("bafyr4i"))).collect()
}

#[test]
fn every_example_in_the_format_pages_is_a_vector() {
    for page in PAGES {
        let text = fs::read_to_string(Path::new(ROOT).join("docs/formats").join(page)).expect("the page is there");
        let examples = examples(&text);
        assert!(!examples.is_empty() && !ids(&text).is_empty(), "{page} has no example");
        for (file, name, hex) in examples {
            let file: Value = serde_json::from_str(&vectors(&file)).expect("vectors are JSON");
            assert!(stands_in(&file, &name, &hex), "{page}: `{name}` has other bytes in the vectors than {hex}");
        }
        let all = ["ids.json", "trees.json", "receipts.json", "tasks.json", "workflows.json"].map(vectors).concat();
        for id in ids(&text) {
            assert!(all.contains(id), "{page}: {id} is the id of no vector");
        }
    }
}

#[test]
fn a_wrong_example_is_noticed() {
    let page = "Text\n```hex x.json: one\na1 00 ; map\n  61  ; text; more\n```\nmore";
    assert_eq!(examples(page), [("x.json".to_owned(), "one".to_owned(), "a10061".to_owned())]);
    let file = serde_json::json!({"accept": [{"name": "one", "bytes": "a10061"}]});
    assert!(stands_in(&file, "one", "a10061"));
    assert!(!stands_in(&file, "one", "a10062") && !stands_in(&file, "two", "a10061"));
    assert!(!stands_in(&serde_json::json!({}), "one", "a10061"));
}
