//! Every snippet of `docs/workfile.md` is a workfile that runs, and every key of workfiles is in one.
//!
//! Each is put into a copy of `tests/reference` and tried: by default it is run twice, and the second run executes nothing. An HTML
//! comment before the block, which readers don't see, says otherwise, a command a line:
//!
//!     <!-- tried:
//!     in libs/core
//!     with NAME=value run ci, exit 1, ran a b
//!     -->
//!
//! `in` says that the block is a member's, which stands in that folder.
//!
//! What stands at `https://example.org/` in the page is at a server of the test, and so are the servers that are waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use crate::kit::web::{Page, Web};
use crate::kit::{TestSpace, copy, needs_ns, needs_programs};

/// A snippet and how it is tried.
struct Snippet {
    text: String,
    line: usize,
    tried: Vec<String>,
}

/// The snippets of the page, in its order.
fn snippets() -> Vec<Snippet> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/workfile.md")).expect("is there");
    let (mut all, mut tried, mut lines) = (vec![], vec![], page.lines().enumerate());
    while let Some((line, text)) = lines.next() {
        let mut rest =
            |end: &str| lines.by_ref().map(|(_, text)| text).take_while(|text| *text != end).collect::<Vec<_>>();
        match text {
            "<!-- tried:" => tried = rest("-->").into_iter().map(str::to_owned).collect(),
            "```toml" => {
                let text = format!("{}\n", rest("```").join("\n"));
                all.push(Snippet { text, line: line + 1, tried: std::mem::take(&mut tried) });
            }
            "" => {}
            _ => assert!(tried.is_empty(), "line {line}: what is tried stands before no block"),
        }
    }
    all
}

/// Does what a line says, and says what is not as it expects.
fn try_one(space: &TestSpace, folder: &str, said: &str) -> Option<String> {
    let mut parts = said.split(", ");
    let mut words: Vec<&str> = parts.next().expect("a command").split(' ').collect();
    let (mut exit, mut ran) = (0, None);
    for expected in parts {
        match expected.split_once(' ') {
            Some(("exit", code)) => exit = code.parse().expect("a number"),
            Some(("ran", "nothing")) => ran = Some(""),
            Some(("ran", names)) => ran = Some(names),
            _ => return Some(format!("`{expected}` is nothing to be expected")),
        }
    }
    let given = (words[0] == "with").then(|| words.drain(..2).nth(1)?.split_once('=')).flatten();
    words.splice(1..1, ["-C", folder]);
    if words[0] == "run" {
        words.push("--json");
    }
    let output = space.finish(space.command(&words).envs(given));
    let events = output.stdout.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let mut names: Vec<String> = events
        .filter(|event| event["event"] == "task-ended" && event["end"] == "ran")
        .filter_map(|event| event["task"].as_str().map(str::to_owned))
        .collect();
    names.sort_unstable();
    let names = names.join(" ");
    (output.status != exit || ran.is_some_and(|ran| ran != names))
        .then(|| format!("exit {}, ran {names}: {}{}", output.status, output.stdout, output.stderr))
}

#[test]
fn every_snippet_of_the_reference_runs() {
    if !needs_ns() || !needs_programs(&["cc", "make", "python3", "curl", "tar", "bash"]) {
        return;
    }
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let page = |name: &str| Page::new(fs::read(files.join("web").join(name)).expect("is there"));
    let web = Web::start([
        ("/ci.toml", page("ci.toml")),
        ("/data.csv", page("data.csv")),
        ("/words", Page::new("taken")),
        ("/words.txt", page("words.txt")),
        ("/zlib-1.3.tar.gz", page("zlib-1.3.tar.gz")),
        ("/health", Page { failures: (u32::MAX, 204), ..Page::default() }),
    ]);
    let here = web.url("");
    let port = here.trim_start_matches("http://");
    let space = TestSpace::new("");
    let snippets = snippets();
    assert!(snippets.len() > 40, "{}", snippets.len());
    let mut wrong = vec![];
    for Snippet { text, line, tried } in snippets {
        let folder = format!("../{line}");
        copy(&files, &space.path(&folder));
        let text = text
            .replace("https://mirror.example.org", &format!("{here}/none"))
            .replace("https://example.org", &here)
            .replace("http://localhost:8080", &here)
            .replace("localhost:5432", port);
        let usual = ["run".to_owned(), "run, ran nothing".to_owned()];
        let mut tried = if tried.is_empty() { &usual[..] } else { &tried };
        match tried.split_first().and_then(|(first, rest)| Some((first.strip_prefix("in ")?, rest))) {
            Some((member, rest)) => {
                space.write(&format!("{folder}/quipu.toml"), &format!("[workspace]\nmembers = ['{member}']\n"));
                copy(&files, &space.path(&format!("{folder}/{member}")));
                space.write(&format!("{folder}/{member}/quipu.toml"), &text);
                tried = rest;
            }
            None => space.write(&format!("{folder}/quipu.toml"), &text),
        }
        for said in tried {
            let found = try_one(&space, &folder, said);
            wrong.extend(found.map(|found| format!("docs/workfile.md:{line}: `{said}`: {found}\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

/// The keys of each kind of table, with the paths at which they may stand: `*` is for names that people choose.
type Keys = BTreeMap<(String, String), BTreeSet<String>>;

fn keys(root: &Json, schema: &Json, kind: &str, path: &str, out: &mut Keys) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return keys(root, &root["$defs"][name], name, path, out);
    }
    for part in ["anyOf", "oneOf", "allOf"] {
        schema[part].as_array().into_iter().flatten().for_each(|one| keys(root, one, kind, path, out));
    }
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        keys(root, below, kind, &path, out);
        out.entry((kind.to_owned(), key.clone())).or_default().insert(path);
    }
    for part in ["additionalProperties", "items"] {
        if schema[part].is_object() {
            keys(root, &schema[part], kind, &format!("{path}.*"), out);
        }
    }
}

/// Paths of all that a workfile says.
fn said(value: &toml::Value, path: &str, out: &mut BTreeSet<String>) {
    out.insert(path.to_owned());
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| said(value, &format!("{path}.{key}"), out)),
        toml::Value::Array(list) => list.iter().for_each(|value| said(value, &format!("{path}.-"), out)),
        _ => {}
    }
}

#[test]
fn every_key_of_workfiles_is_in_a_snippet() {
    let schema = TestSpace::new("").json(&["schema"]);
    let mut known = Keys::new();
    keys(&schema, &schema, "file", "", &mut known);
    let paths_of =
        |kind: &str, key: &str| known[&(kind.to_owned(), key.to_owned())].iter().cloned().collect::<Vec<_>>();
    assert_eq!(
        paths_of("Wait", "tcp"),
        [".task.*.service.tcp", ".task.*.wait.tcp", ".template.*.service.tcp", ".template.*.wait.tcp"]
    );
    let mut found = BTreeSet::new();
    for snippet in snippets() {
        said(&toml::from_str(&snippet.text).expect("is TOML"), "", &mut found);
    }
    let is_said = |path: &String| {
        let fits = |found: &String| {
            found.split('.').count() == path.split('.').count()
                && found.split('.').zip(path.split('.')).all(|(name, wanted)| wanted == "*" || name == wanted)
        };
        found.iter().any(fits)
    };
    let missing = known.iter().filter(|(_, paths)| !paths.iter().any(is_said));
    assert_eq!(missing.map(|(key, _)| key).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
}
