//! The oracles of the fuzz targets on random bytes, and on every seed of their corpora.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::oracles;

fn corpus(target: &str, oracle: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let seeds: Vec<_> = fs::read_dir(&dir).expect("there are seeds").flatten().map(|e| e.path()).collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    for seed in seeds {
        oracle(&fs::read(seed).expect("is read"));
    }
}

macro_rules! twins {
    ($($name:ident: $cases:literal of $length:literal,)*) => {$(
        #[test]
        fn $name() {
            corpus(stringify!($name), oracles::$name);
            let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases($cases) };
            proptest!(config, |(bytes in proptest::collection::vec(any::<u8>(), 0..$length))| oracles::$name(&bytes));
        }
    )*};
}

twins! {
    receipt_canon: 256 of 64,
    tree_canon: 256 of 64,
    store_open: 48 of 40,
    tree_checkout: 256 of 120,
    plan_model: 128 of 60,
    car_read: 256 of 40,
    workflow: 256 of 40,
    archive: 256 of 60,
}

#[test]
fn workfile() {
    corpus("workfile", oracles::workfile);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) };
    let word = prop::sample::select(vec![
        "[workspace]",
        "[task.a]",
        "[task.b]",
        "run = ",
        "\"{{x}}\"",
        "\"true\"",
        "inputs = ",
        "outputs = ",
        "[\"a\"]",
        "[\"../a\"]",
        "[\"**/*\"]",
        "matrix = ",
        "{ x = [\"1\", \"2\"] }",
        "needs = ",
        "[\"b\"]",
        "[\"a\"]",
        "\n",
        "=",
        "[",
        "]",
        "sandbox = ",
        "\"ns\"",
        "[vars]",
        "x = ",
        "\"{{y}}\"",
        "timeout = ",
        "\"1s\"",
        "'''",
        "#",
        "\u{e9}",
    ]);
    let text = proptest::collection::vec((word, any::<bool>()), 0..40).prop_map(|words| {
        words.into_iter().map(|(word, line)| format!("{word}{}", if line { "\n" } else { " " })).collect::<String>()
    });
    proptest!(config, |(text in text)| oracles::workfile(text.as_bytes()));
}

/// Each target has its twin here, and its seeds.
#[test]
fn no_target_is_without_a_twin() {
    let listed = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets")).expect("is listed");
    let mut names: Vec<_> = listed.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let here = [
        "archive",
        "car_read",
        "plan_model",
        "receipt_canon",
        "store_open",
        "tree_canon",
        "tree_checkout",
        "workfile",
        "workflow",
    ];
    assert_eq!(names, here.map(|name| format!("{name}.rs")));
}
