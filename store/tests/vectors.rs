//! The published test vectors: what the code makes now must be what `tests/vectors/` says, and every negative
//! vector must be refused.
//!
//! `QUIPU_BLESS=1 cargo test -p quipu-store --test vectors` writes the files anew; a diff there is a change of a
//! format, and wants a line in `docs/formats/`. Other implementations check the same files: see `tests/independent/`.

mod made;

use std::collections::BTreeSet;
use std::path::PathBuf;

use quipu_store::cid::{BlobId, CidError, IdPrefix, Link, TreeId};
use quipu_store::dag::DagError;
use quipu_store::receipt::{Failure, Output, ReceiptError};
use quipu_store::sign::SignedReceipt;
use quipu_store::tree::{Node, Tree, TreeError};
use serde_json::Value;

fn committed(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors")).join(name)
}

/// Compares with the committed file, or writes it when `QUIPU_BLESS` is set. Values are compared, not text: the
/// order of keys in JSON says nothing.
fn check(name: &str, made: &Value) {
    let path = committed(name);
    if std::env::var_os("QUIPU_BLESS").is_some() {
        let text = serde_json::to_string_pretty(made).expect("vectors are JSON") + "\n";
        std::fs::write(&path, text).expect("vectors can be written");
        return;
    }
    let text = std::fs::read_to_string(&path).expect("vectors are committed");
    let there: Value = serde_json::from_str(&text).expect("committed vectors are JSON");
    if let Some(place) = first_difference(&there, made, String::new()) {
        panic!("tests/vectors/{name} differs from what the code makes at {place}; QUIPU_BLESS=1 writes it anew");
    }
}

fn first_difference(a: &Value, b: &Value, at: String) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            keys.into_iter().find_map(|key| match (x.get(key), y.get(key)) {
                (Some(v), Some(w)) => first_difference(v, w, format!("{at}/{key}")),
                _ => Some(format!("{at}/{key}")),
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(i, (v, w))| first_difference(v, w, format!("{at}/{i}")))
        }
        _ => (a != b).then_some(at),
    }
}

/// The items of a list in a vector file; never none of them, or a loop over them would prove nothing.
fn items<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    let items = file[key].as_array().expect("a list");
    assert!(!items.is_empty(), "{key}");
    items
}

fn text<'a>(item: &'a Value, key: &str) -> &'a str {
    item[key].as_str().unwrap_or_else(|| panic!("`{key}` is text in {item}"))
}

/// Bytes as written in a vector: hex, or a rule where they would be long.
fn bytes(item: &Value) -> Vec<u8> {
    let number = |rule: &Value, key: &str| rule[key].as_u64().expect("a number");
    match (item.get("repeat"), item.get("links")) {
        (Some(rule), _) => made::unhex(text(rule, "bytes")).repeat(number(rule, "times") as usize),
        (_, Some(rule)) => made::links(number(rule, "from")..number(rule, "to")),
        _ => made::unhex(text(item, "bytes")),
    }
}

fn dag_class(e: &DagError) -> &'static str {
    match e {
        DagError::TooLarge { .. } => "too-large",
        // Which of the two says so is up to the decoder.
        DagError::Shape(_) | DagError::NotCanonical => "form",
        other => panic!("{other:?}"),
    }
}

fn cid_class(e: &CidError) -> &'static str {
    match e {
        CidError::Malformed(_) => "malformed",
        CidError::NotCanonical { .. } => "not-canonical",
        CidError::Unsupported(_) => "unsupported",
        CidError::WrongCodec { .. } => "wrong-codec",
        other => panic!("{other:?}"),
    }
}

fn tree_class(e: &TreeError) -> &'static str {
    match e {
        TreeError::Dag(e) => dag_class(e),
        TreeError::Order(_) => "order",
        TreeError::Target(_) => "target",
        TreeError::Parts => "parts",
        other => panic!("{other:?}"),
    }
}

fn receipt_class(e: &ReceiptError) -> &'static str {
    match e {
        ReceiptError::Dag(e) => dag_class(e),
        ReceiptError::Unexpected(_) => "unexpected",
        ReceiptError::Signature => "signature",
        ReceiptError::Version(_) => "version",
        other => panic!("{other:?}"),
    }
}

/// Every vector in the list is refused for the reason it gives. All that are not are named at once.
fn refused(file: &Value, list: &str, read: impl Fn(&Value) -> Result<(), &'static str>) {
    let wrong = items(file, list).iter().filter_map(|item| {
        let (found, expected) = (read(item), text(item, "why"));
        (found != Err(expected)).then(|| format!("{}: {found:?}, expected {expected}", text(item, "name")))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new(), "{list}");
}

#[test]
fn ids_are_as_published() {
    let file = made::ids();
    for item in items(&file, "accept") {
        let link: Link = text(item, "cid").parse().expect("accepted");
        assert_eq!(Link::from_bytes(&made::unhex(text(item, "binary"))), Some(link));
    }
    refused(&file, "reject", |item| {
        let given = text(item, "text");
        let found = match text(item, "as") {
            "blob" => given.parse::<BlobId>().map(drop),
            "tree" => given.parse::<TreeId>().map(drop),
            "prefix" => IdPrefix::new(given).map(drop),
            _ => given.parse::<Link>().map(drop),
        };
        found.map_err(|e| cid_class(&e))
    });
    refused(&file, "reject_binary", |item| Link::from_bytes(&bytes(item)).map(drop).ok_or("malformed"));
    for item in items(&file, "prefixes") {
        let prefix = IdPrefix::new(text(item, "prefix")).expect("accepted");
        let link: Link = text(item, "cid").parse().expect("accepted");
        assert_eq!(Some(prefix.matches(link)), item["matches"].as_bool(), "{item}");
    }
    check("ids.json", &file);
}

#[test]
fn trees_are_as_published() {
    let file = made::trees();
    for item in items(&file, "accept") {
        let nodes = items(item, "nodes").iter().filter(|node| node.get("bytes").is_some());
        for node in nodes {
            let bytes = bytes(node);
            assert_eq!(TreeId::of(&bytes).to_string(), text(node, "id"));
            assert!(Node::decode(&bytes).is_ok(), "{}", text(item, "name"));
        }
    }
    refused(&file, "reject", |item| Node::decode(&bytes(item)).map(drop).map_err(|e| tree_class(&e)));
    refused(&file, "reject_join", |item| {
        let part = |p: &Value| match Node::decode(&bytes(p)) {
            Ok(Node::Whole(part)) => part,
            other => panic!("each part is good by itself: {other:?}"),
        };
        Tree::join(items(item, "parts").iter().map(part).collect()).map(drop).map_err(|e| tree_class(&e))
    });
    check("trees.json", &file);
}

#[test]
fn receipts_are_as_published() {
    let file = made::receipts();
    for item in items(&file, "accept") {
        let signed = SignedReceipt::verify(&bytes(item)).expect("accepted");
        assert_eq!(signed.id.to_string(), text(item, "id"), "{}", text(item, "name"));
        assert_eq!(signed.issuer.to_string(), text(&item["payload"], "iss"));
        assert_eq!(
            made::payload(&signed.receipt, &signed.issuer.to_string()),
            item["payload"],
            "{}",
            text(item, "name")
        );
        let output = signed.receipt.out.as_ref().map_or_else(Failure::id, Output::id);
        assert_eq!(output.to_string(), text(item, "output_id"), "{}", text(item, "name"));
    }
    refused(&file, "reject", |item| SignedReceipt::verify(&bytes(item)).map(drop).map_err(|e| receipt_class(&e)));
    check("receipts.json", &file);
}

#[test]
fn the_first_difference_is_named() {
    let a = serde_json::json!({"x": [1, {"y": 2}], "z": 0});
    assert_eq!(first_difference(&a, &a, String::new()), None);
    let b = serde_json::json!({"x": [1, {"y": 3}], "z": 0});
    assert_eq!(first_difference(&a, &b, String::new()).as_deref(), Some("/x/1/y"));
    assert_eq!(first_difference(&a, &serde_json::json!({"x": [1, {"y": 2}]}), String::new()).as_deref(), Some("/z"));
}
