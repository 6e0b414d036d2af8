//! How this house is kept: rules about the sources that the compiler does not know.
//!
//! Reads text, not syntax trees: comments and texts are blanked, and what stands under `#[cfg(test)]` is left out
//! where a rule is about what ships. Each rule is seen to fail on a bad snippet below.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Takes values and returns values: no clock, file, process, network or thread in it.
const PURE: [&str; 25] = [
    "store/src/cid.rs",
    "store/src/dag.rs",
    "store/src/tree.rs",
    "store/src/tree_diff.rs",
    "store/src/receipt.rs",
    "store/src/sign.rs",
    "store/src/heads.rs",
    "store/src/strict.rs",
    "store/src/trust.rs",
    "peer/src/ask.rs",
    "runtime/src/value.rs",
    "runtime/src/task.rs",
    "runtime/src/process.rs",
    "runtime/src/fetch.rs",
    "runtime/src/workflow.rs",
    "runtime/src/graph.rs",
    "runtime/src/identity.rs",
    "runtime/src/plan.rs",
    "runtime/src/order.rs",
    "runtime/src/path.rs",
    "runtime/src/dag_json.rs",
    "runtime/src/workflow_block.rs",
    "runtime/src/explain.rs",
    "runtime/src/learn.rs",
    "runtime/src/run/",
];
const IMPURE: [&str; 8] =
    ["tokio", "std::fs", "std::net", "std::process", "std::env", "Instant::now", "SystemTime", "thread::spawn"];

/// Who may not name whom.
const ARROWS: [(&str, &[&str]); 7] = [
    ("store/", &["quipu_runtime"]),
    ("peer/", &["quipu_runtime"]),
    ("runtime/src/graph.rs", &["crate::exec", "crate::drive", "crate::workfile"]),
    ("runtime/src/identity.rs", &["crate::exec", "crate::drive", "crate::workfile"]),
    ("runtime/src/plan.rs", &["crate::exec", "crate::drive", "crate::workfile"]),
    ("runtime/src/run/", &["crate::exec", "crate::drive", "crate::workfile"]),
    ("runtime/src/workfile/", &["crate::run", "crate::drive", "crate::exec"]),
];

/// The libraries do not talk to the terminal.
const SILENT: [&str; 6] = ["store/src/", "runtime/src/", "peer/src/", "fetch/src/", "remote/src/", "bucket/src/"];
const PRINTING: [&str; 7] = ["print!", "println!", "eprint!", "eprintln!", "dbg!", "io::stdout", "io::stderr"];

/// At this length there is a noun hiding in a file.
const LONG_LINES: usize = 550;

/// Files that hold more than ASCII, with the characters they may hold.
const BEYOND_ASCII: [(&str, &str); 4] = [
    ("runtime/src/value.rs", "\u{b1}"),
    ("store/src/beneath.rs", "\u{e9}"),
    ("store/src/stat_chunk.rs", "\u{e9}"),
    ("store/src/test_dirs.rs", "\u{e9}"),
];

/// The text with comments, texts and characters blanked out; lines stay where they are.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => at + find(&bytes[at..], b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment(bytes, at),
            b'"' => quoted(bytes, at),
            b'r' if !is_word(at.checked_sub(1).map_or(b' ', |i| bytes[i])) || bytes[at - 1] == b'b' => raw(bytes, at),
            b'\'' => character(text, at),
            _ => at,
        };
        out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters are blanked")
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Where `part` begins in `bytes`, or their end.
fn find(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|w| w == part).unwrap_or(bytes.len())
}

fn block_comment(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < bytes.len() {
        let step = match &bytes[at..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => {
                at += 1;
                continue;
            }
        };
        (at, depth) = (at + 2, depth + step);
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of the raw text that begins at `from`, or `from` when none does.
fn raw(bytes: &[u8], from: usize) -> usize {
    let hashes = bytes[from + 1..].iter().take_while(|b| **b == b'#').count();
    let start = from + 1 + hashes;
    if bytes.get(start) != Some(&b'"') {
        return from;
    }
    let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
    (start + 1 + find(&bytes[start + 1..], &close) + close.len()).min(bytes.len())
}

/// The end of the character that begins at `from`, or `from` when it is a lifetime.
fn character(text: &str, from: usize) -> usize {
    let mut rest = text[from + 1..].chars();
    match rest.next() {
        // The character behind the backslash may be a quote itself.
        Some('\\') => rest.as_str().get(1..).and_then(|r| r.find('\'')).map_or(text.len(), |end| from + 3 + end + 1),
        Some(c) if rest.next() == Some('\'') => from + c.len_utf8() + 2,
        _ => from,
    }
}

/// The code without the items that stand under `#[cfg(test)]`, and the modules among these that are files.
fn shipped(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut files, mut rest) = (String::new(), vec![], code);
    while let Some(start) = rest.find(MARK) {
        out.push_str(&rest[..start]);
        let item = &rest[start..];
        // An item ends with its block, or with a semicolon before any block.
        let mut depth = 0;
        let end = item.char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && matches!(c, ';' | '}')).then_some(i + 1)
        });
        let (item, after) = item.split_at(end.unwrap_or(item.len()));
        if let Some(name) = item[MARK.len()..].trim().strip_prefix("mod ").and_then(|m| m.strip_suffix(';')) {
            files.push(name.trim().to_owned());
        }
        out.extend(item.chars().filter(|c| *c == '\n'));
        rest = after;
    }
    (out + rest, files)
}

/// `use a::{b, c::{d, e}};` as `a::b`, `a::c::d`, `a::c::e`.
fn uses(code: &str) -> Vec<String> {
    let mut out = vec![];
    for (start, _) in code.match_indices("use ") {
        if start > 0 && is_word(code.as_bytes()[start - 1]) {
            continue;
        }
        let tree = &code[start + 4..];
        let tree = tree[..tree.find(';').unwrap_or(tree.len())].split_whitespace().collect::<Vec<_>>().join(" ");
        let (mut stack, mut part) = (vec![String::new()], String::new());
        for c in tree.chars().chain([',']) {
            let above = stack.last().cloned().unwrap_or_default();
            match c {
                '{' => stack.push(above + &std::mem::take(&mut part)),
                '}' | ',' => {
                    // `a as b` is `a` by another name.
                    let path = std::mem::take(&mut part);
                    let path = path.split(" as ").next().unwrap_or_default();
                    if !path.is_empty() {
                        out.push(above + path);
                    }
                    if c == '}' {
                        stack.pop();
                    }
                }
                ' ' if part.is_empty() || part.ends_with(':') => {}
                c => part.push(c),
            }
        }
    }
    out
}

/// Whether `word` stands in `code` as a path of its own, and not as a part of a longer name.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map_or(b' ', |i| code.as_bytes()[i]);
        let after = code.as_bytes().get(at + word.len()).copied().unwrap_or(b' ');
        !is_word(before) && (word.ends_with('!') || !is_word(after))
    })
}

fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples" | "fuzz" | "tests.rs"))
}

/// What is wrong with one file. `test_only` says that it is compiled for tests alone.
fn problems(path: &str, text: &str, test_only: bool) -> Vec<String> {
    let mut out = vec![];
    let mut say = |what: String| out.push(format!("{path}: {what}"));
    if !text.starts_with("//! ") {
        say("does not open with `//! what it does`".to_owned());
    }
    let allowed = BEYOND_ASCII.iter().find(|(p, _)| *p == path).map_or("", |(_, chars)| chars);
    for (n, line) in text.lines().enumerate() {
        if let Some(c) = line.chars().find(|c| !c.is_ascii() && !allowed.contains(*c)) {
            say(format!("line {}: `{c}` is not ASCII; name the exception in `BEYOND_ASCII`", n + 1));
        }
    }
    let lines = text.lines().count();
    if lines > LONG_LINES {
        say(format!("{lines} lines; look for the noun hiding in it"));
    }
    let all = code(text);
    if all.contains("#[ignore]") {
        say("a test is ignored without a reason".to_owned());
    }
    if test_only || is_test_file(path) {
        return out;
    }
    let mut say = |what: String| out.push(format!("{path}: {what}"));
    let (code, _) = shipped(&all);
    let used = uses(&code).join("\n");
    let finds = |word: &str| names(&code, word) || names(&used, word);
    if code.contains(".unwrap()") {
        say("`.unwrap()` outside tests; say `expect(\"why this holds\")` or return the error".to_owned());
    }
    let covers = |place: &&str| path == *place || (place.ends_with('/') && path.starts_with(*place));
    if PURE.iter().any(covers) {
        for word in IMPURE.into_iter().filter(|w| finds(w)) {
            say(format!("names `{word}`, and is one of the pure modules"));
        }
    }
    for (_, targets) in ARROWS.iter().filter(|(from, _)| covers(from)) {
        for word in targets.iter().filter(|w| finds(w)) {
            say(format!("names `{word}`, which is downstream of it"));
        }
    }
    if SILENT.iter().any(covers) {
        for word in PRINTING.into_iter().filter(|w| finds(w)) {
            say(format!("names `{word}`, and belongs to a library"));
        }
    }
    out
}

/// Every Rust file of the repository, by path from its root.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).expect("the repository can be listed") {
            let entry = entry.expect("the repository can be listed");
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if name != "target" && name != "node_modules" && !name.starts_with('.') {
                    walk(&path, out);
                }
            } else if name.ends_with(".rs") {
                let inner = path.strip_prefix(ROOT).expect("below the root").to_string_lossy().into_owned();
                out.insert(inner, fs::read_to_string(&path).expect("sources are UTF-8"));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(Path::new(ROOT), &mut out);
    out
}

/// Files that are compiled for tests alone, because their `mod` says so.
fn test_only(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (path, text) in sources {
        let stem = path.trim_end_matches(".rs");
        let dir = match stem.rsplit_once('/') {
            Some((dir, "mod" | "lib" | "main")) => dir,
            _ => stem,
        };
        for name in shipped(&code(text)).1 {
            out.extend([format!("{dir}/{name}.rs"), format!("{dir}/{name}/mod.rs")]);
        }
    }
    out
}

#[test]
fn the_house_is_kept() {
    let sources = sources();
    assert!(sources.len() > 10 && sources.contains_key("tests/cli/tidy.rs"), "sources were found");
    let tests = test_only(&sources);
    let found = sources.iter().flat_map(|(path, text)| problems(path, text, tests.contains(path)));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_exception_outlives_its_reason() {
    let sources = sources();
    for (path, chars) in BEYOND_ASCII {
        let text = sources.get(path).map_or("", |text| text);
        assert!(chars.chars().all(|c| text.contains(c)), "{path} holds not all of `{chars}`: take them out");
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let listed = fs::read_to_string(Path::new(ROOT).join("tests/cli/mod.rs")).expect("is there");
    for path in sources().keys() {
        let Some(name) = path.strip_prefix("tests/cli/").and_then(|p| p.strip_suffix(".rs")) else { continue };
        let listed = name == "mod" || name.contains('/') || listed.contains(&format!("mod {name};"));
        assert!(listed, "{path} is in no module list and never runs");
    }
}

/// What is said of `text` at `path`, without the path.
fn said(path: &str, text: &str) -> Vec<String> {
    let prefix = format!("{path}: ");
    problems(path, &format!("//! A file.\n{text}"), false).iter().map(|p| p.replacen(&prefix, "", 1)).collect()
}

fn one(path: &str, text: &str, about: &str) {
    let said = said(path, text);
    assert!(said.len() == 1 && said[0].contains(about), "{path}: {text}: {said:?}");
}

#[test]
fn every_rule_is_seen_to_fail() {
    let graph = "runtime/src/graph.rs";
    for word in IMPURE {
        one(graph, &format!("fn f() {{ {word}(); }}"), word);
        one("runtime/src/run/step.rs", &format!("use {word};"), word);
    }
    one(graph, "use std::{collections::BTreeMap, fs};", "std::fs");
    one(graph, "use std::{\n    collections::{BTreeMap, HashMap},\n    env as e,\n};", "std::env");
    one("store/src/cid.rs", "use std::fs::File;", "std::fs");
    one("store/src/store.rs", "use quipu_runtime::graph;", "quipu_runtime");
    one(graph, "use crate::exec::Job;", "crate::exec");
    one(graph, "use crate::{value, drive::Driver};", "crate::drive");
    one("runtime/src/plan.rs", "fn f() { crate::workfile::load() }", "crate::workfile");
    one("runtime/src/workfile/lower.rs", "use crate::run;", "crate::run");
    for word in PRINTING {
        one("runtime/src/drive.rs", &format!("fn f() {{ {word}(x) }}"), word);
    }
    one("src/main.rs", "fn f() { g().unwrap() }", ".unwrap()");
    one("src/main.rs", "// \u{2192}", "line 2");
    one("src/main.rs", &"\n".repeat(LONG_LINES), "551 lines");
    one("tests/cli/x.rs", "#[test]\n#[ignore]\nfn f() {}", "ignored");
    assert!(problems("src/x.rs", "// No head.\n", false)[0].contains("open with"));
    assert!(problems("src/x.rs", "", true)[0].contains("open with"));
}

#[test]
fn what_is_allowed_is_left_alone() {
    for (path, text) in [
        (
            "runtime/src/graph.rs",
            "// std::fs, tokio\n/* std::env /* nested */ std::net */\nconst A: &str = \"std::fs\";",
        ),
        (
            "runtime/src/graph.rs",
            "const A: &str = r#\"a \" std::fs\"#; const B: &[u8] = br\"tokio\"; const C: char = '\"';",
        ),
        ("runtime/src/graph.rs", "fn f<'a>(x: &'a str) -> &'a str { x } // tokio\nconst Q: char = '\\''; // tokio"),
        ("runtime/src/graph.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { g().unwrap() }\n}\n"),
        ("runtime/src/graph.rs", "#[cfg(test)]\nuse std::fs;\nfn f() {}"),
        ("runtime/src/graph.rs", "use crate::executors::X; fn tokio_free() {} fn f() { mystd::fsx() }"),
        ("runtime/src/drive.rs", "use std::fs; use crate::exec::Job;"),
        ("runtime/src/drive.rs", "fn f() { my_println!(x); Stream::Stderr }"),
        ("runtime/src/value.rs", "// \u{b1}1"),
        ("store/src/local/index.rs", "fn f() { g().unwrap_or(1) }"),
        ("tests/cli/x.rs", "fn f() { g().unwrap() }\n#[ignore = \"needs a network\"]\nfn g() {}"),
    ] {
        assert_eq!(said(path, text), Vec::<String>::new(), "{path}: {text}");
    }
    // What follows a test module counts again.
    one("runtime/src/graph.rs", "#[cfg(test)]\nmod tests { fn f() { std::fs::x() } }\nuse std::fs;", "std::fs");
}

#[test]
fn files_for_tests_alone_are_known_by_their_parents() {
    let at = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let found = test_only(&BTreeMap::from([
        at("runtime/src/run/mod.rs", "#[cfg(test)]\nmod oracle;\nmod step;"),
        at("runtime/src/drive.rs", "#[cfg(test)] mod slow;"),
    ]));
    for path in ["runtime/src/run/oracle.rs", "runtime/src/drive/slow.rs"] {
        assert!(found.contains(path), "{path}: {found:?}");
    }
    assert!(!found.contains("runtime/src/run/step.rs"));
}
