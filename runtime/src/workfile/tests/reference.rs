//! The schema, the reference and the reader say the same.

use std::path::Path;

use crate::workfile::parse::{FILE_KEYS, MEMBER_KEYS, WORKSPACE_KEYS};
use crate::workfile::read_params::{INCLUDE_KEYS, PARAM_KEYS};
use crate::workfile::read_task::TASK_KEYS;
use crate::workfile::schema::schema;
use crate::workfile::{load, load_text};

fn is_valid(text: &str) -> bool {
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    let Ok(value) = toml::from_str::<serde_json::Value>(text) else { return false };
    validator.is_valid(&value)
}

#[test]
fn the_schema_knows_exactly_the_keys_that_are_read() {
    let schema = schema();
    let keys = |at: &str| {
        let properties = schema.pointer(at).and_then(|p| p.as_object()).expect(at);
        let mut keys: Vec<String> = properties.keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |keys: &[&str]| {
        let mut keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("/properties"), sorted(&FILE_KEYS));
    assert_eq!(keys("/$defs/Workspace/properties"), sorted(&WORKSPACE_KEYS));
    assert_eq!(keys("/$defs/Task/properties"), sorted(&TASK_KEYS));
    assert_eq!(keys("/$defs/MemberTable/properties"), sorted(&MEMBER_KEYS));
    assert_eq!(keys("/$defs/ParamTable/properties"), sorted(&PARAM_KEYS));
    assert_eq!(keys("/$defs/IncludeTable/properties"), sorted(&INCLUDE_KEYS));
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    for text in [
        "[task.a]\nrum = 'x'",
        "[task.a]\nrun = 1",
        "[task.a]\nrun = []",
        "[task.a]\nrun = ''",
        "[task.a]\nsteps = []",
        "[task.a]\ninputs = 'x'",
        "[task.a]\nrun = 'x'\noutputs = [{ optional = true }]",
        "[task.a]\nrun = 'x'\nmatrix = {}",
        "[task.a]\nrun = 'x'\nmatrix = { u = [] }",
        "[task.a]\nrun = 'x'\nmatrix = { u = [1.5] }",
        "[task.a]\nrun = 'x'\nmatrix = { u = '' }",
        "[task.a]\nrun = 'x'\nversions = 3",
        "[task.a]\nrun = 'x'\nversions = '1 2'\nexclude = [{}]",
        "[task.a]\nrun = 'x'\nversions = '1 2'\nonly = '1'",
        "[task.a]\nrun = 'x'\nwhen = 3",
        "[task.a]\nawait = 3",
        "[task.a]\nawait = { never = 'x' }",
        "[task.a]\nrun = 'x'\nextends = [1]",
        "[task.a]\nrun = 'x'\nparams = { p = { type = 'text' } }",
        "[params]\np = { dfault = 1 }",
        "[template.a]\nrum = 'x'",
        "include = 'x.toml'",
        "include = [{ pth = 'x.toml' }]",
        "[workspace]\nmembers = [{ tags = ['x'] }]",
        "[task.a]\nrun = 'x'\ntimeout = 'soon'",
        "[task.a]\nrun = 'x'\ntimeout = 0",
        "[task.a]\nrun = 'x'\nretries = -1",
        "[task.a]\nrun = 'x'\nslots = 0",
        "[task.a]\nrun = 'x'\nslots = { x = 0 }",
        "[task.a]\nrun = 'x'\nsandbox = 'docker'",
        "[task.a]\nrun = 'x'\nenv = { A = true }",
        "[task.a]\nrun = 'x'\nshell = []",
        "[task.'a:b']\nrun = 'x'",
        "[vars]\n'1' = 'x'",
        "[vars]\na = []",
        "[workspace]\nsubject = 'x'",
        "[workspace]\nmembers = 'x'",
        "[member]\nname = 'a b'",
        "run = 'x'",
    ] {
        assert!(!is_valid(text), "the schema takes\n{text}");
        assert!(load_text(Path::new("/nonexistent"), text).is_err(), "the reader takes\n{text}");
    }
}

/// Workfiles in the `toml` blocks of a page; a first line `# name` says which file of a workspace a block is.
fn snippets(page: &str) -> Vec<&str> {
    page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn page(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_snippet_of_the_reference_is_valid() {
    let page = page("docs/workfile.md");
    let snippets = snippets(&page);
    assert!(snippets.len() >= 40, "{}", snippets.len());
    for text in snippets {
        assert!(is_valid(text), "not valid:\n{text}");
    }
}

#[test]
fn the_reference_names_every_key() {
    let page = page("docs/workfile.md");
    let more = MEMBER_KEYS.iter().chain(&PARAM_KEYS).chain(&INCLUDE_KEYS);
    for key in FILE_KEYS.iter().chain(&WORKSPACE_KEYS).chain(&TASK_KEYS).chain(more) {
        assert!(page.contains(&format!("`{key}`")) || page.contains(&format!("`[{key}]`")), "`{key}` is not described");
    }
}

#[test]
fn every_example_loads_and_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut folders = vec![examples];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if entry.file_name() == crate::workfile::FILE_NAME {
                let text = std::fs::read_to_string(entry.path()).expect("an example can be read");
                assert!(is_valid(&text), "{}", entry.path().display());
                load(&folder).unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
            }
        }
    }
}
