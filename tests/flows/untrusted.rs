//! Receipts of keys that nobody here trusts count as absent (T12).

use quipu_store::cid::ReceiptId;
use quipu_store::sign::{SignedReceipt, Signer};
use quipu_store::{Options, SignerSource, Store};

use crate::kit::TestSpace;

const TASKS: &str = r#"
[workspace]
sandbox = "none"
[task.a]
run = "cat in > a.out; echo a >> ../ran"
inputs = ["in"]
outputs = ["a.out"]
[task.b]
run = "cat a.out > b.out; echo b >> ../ran"
inputs = ["a.out"]
outputs = ["b.out"]
"#;

fn open(space: &TestSpace) -> Store {
    let signer = SignerSource::Fixed(Signer::from_secret(&[9; 32]));
    Store::open(&space.store(), Options::new(signer)).expect("opens")
}

fn receipts(space: &TestSpace) -> Vec<SignedReceipt> {
    let plan = space.json(&["plan", "--json"]);
    let store = open(space);
    let tasks = plan["tasks"].as_array().expect("list").iter();
    let ids = tasks.map(|t| t["receipt"].as_str().expect("has one").parse::<ReceiptId>().expect("is an id"));
    ids.map(|id| (*store.receipt(id).expect("reads").expect("is there").signed).clone()).collect()
}

#[test]
fn t12_a_foreign_receipt_settles_nothing_and_is_warned_of_once() {
    let theirs = TestSpace::new(TASKS);
    theirs.use_key(2);
    theirs.write("in", "text\n");
    theirs.build_twice(&[]);
    let foreign = receipts(&theirs);
    assert_eq!(foreign.len(), 2);

    let ours = TestSpace::new(TASKS);
    ours.write("in", "text\n");
    let store = open(&ours);
    for receipt in foreign {
        store.import(receipt).expect("is taken");
    }
    store.flush().expect("is written");
    drop(store);
    let ran = ours.build(&[]);
    assert_eq!((ran.output.status, ran.ran().as_str()), (0, "a b"));
    let warned = ran.warnings().iter().filter(|w| w.contains("is not trusted")).count();
    assert_eq!(warned, 1, "{:?}", ran.warnings());
    // Now there are receipts of ours beside them.
    let again = ours.build(&[]);
    assert_eq!((again.output.status, again.ran().as_str()), (0, ""));
}
