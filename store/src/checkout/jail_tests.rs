//! Checkouts of what would lead elsewhere: nothing is made or changed outside the root.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::tests::{dir, file, files, names, temp};
use super::*;
use crate::test_dirs::{Shape, make, memory, read, shapes};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Names that can be decoded at all are checked ones; links are all that can lead out.
    #[test]
    fn nothing_is_made_outside_the_root(
        rounds in prop::collection::vec((shapes(), prop::collection::vec("[a-c]", 1..4), 0..6_usize, "[a-c]{1,2}"), 1..5)
    ) {
        let (store, jail) = (memory(), temp());
        let (root, outside) = (jail.path().join("root"), jail.path().join("outside"));
        make(&root, &files(&[]));
        make(&outside, &files(&[("keep", "x")]));
        let targets = ["/", "..", "../outside", "../../outside", outside.to_str().expect("text"), "a"];
        for (mut shape, at, target, name) in rounds {
            shape.insert(name, Shape::Link(targets[target].to_owned()));
            let source = temp();
            make(&source.path().join("d"), &Shape::Dir(shape));
            let any = IngestOptions { links: Links::Any, ..IngestOptions::default() };
            let entry = ingest_at(&store, source.path(), "d", &any).expect("kept").expect("there").entry;
            let limits = Limits { links: Links::Any, ..Limits::default() };
            // It may be refused: what was placed before may be in the way.
            let _ = checkout_with(&store, &entry, &root, &at.join("/"), &CheckoutOptions { limits, ..Default::default() });
            prop_assert_eq!(names(jail.path()), ["outside", "root"]);
            prop_assert_eq!(read(&outside), files(&[("keep", "x")]));
        }
    }
}

#[test]
fn links_that_may_lead_out_of_a_tree_are_refused() {
    let (store, root) = (memory(), temp());
    for (target, good) in [("x", true), ("../x", true), ("../../x", false), ("/x", false), ("y/../../x", false)] {
        let link = Entry::Symlink { target: target.into() };
        let entry = dir(&store, &[("d", dir(&store, &[("l", link)]))]);
        let done = checkout(&store, &entry, root.path(), "out");
        assert_eq!(done.is_ok(), good, "{target}");
        assert!(good || matches!(done, Err(CheckoutError::Link { path, .. }) if path == "out/d/l"));
    }
}

#[test]
fn what_is_placed_first_cannot_lead_the_second_outside() {
    let (store, root, outside) = (memory(), temp(), temp());
    let link = Entry::Symlink { target: outside.path().to_str().expect("text").into() };
    let content = file(&store, b"evil");
    checkout(&store, &link, root.path(), "a").expect("a link by itself is made");
    for rel in ["a/x", "a/b/x"] {
        assert!(matches!(checkout(&store, &content, root.path(), rel), Err(CheckoutError::Way { .. })));
    }
    for rel in ["../x", "/x", "", "a//x", "a/./x", "b/../../x", "a\0"] {
        assert!(matches!(checkout(&store, &content, root.path(), rel), Err(CheckoutError::Path { .. })), "{rel:?}");
    }
    std::fs::write(outside.path().join("target"), "x").expect("written");
    symlink(outside.path().join("target"), root.path().join("l")).expect("made");
    checkout(&store, &content, root.path(), "l").expect("the link itself is replaced");
    assert_eq!(read(outside.path()), files(&[("target", "x")]));
    assert_eq!(names(root.path()), ["a", "l"]);
}

#[test]
fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    let (store, jail) = (memory(), temp());
    let (root, outside) = (jail.path().join("root"), jail.path().join("outside"));
    make(&root, &files(&[]));
    make(&outside, &files(&[]));
    let leaves: Vec<_> = (0..8).map(|n| file(&store, &[n; 9])).collect();
    let named: Vec<(String, Entry)> =
        leaves.iter().enumerate().map(|(n, leaf)| (format!("f{n}"), leaf.clone())).collect();
    let named: Vec<(&str, Entry)> = named.iter().map(|(name, leaf)| (name.as_str(), leaf.clone())).collect();
    let tree = dir(&store, &[("s", dir(&store, &named)), ("t", dir(&store, &[("s", dir(&store, &named))]))]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Errors are the other side getting there first.
            while !stop.load(Ordering::Relaxed) {
                let _ = std::fs::rename(root.join("d"), root.join("aside"));
                let _ = symlink(&outside, root.join("d"));
                std::thread::yield_now();
                let _ = std::fs::remove_file(root.join("d"));
                let _ = std::fs::rename(root.join("aside"), root.join("d"));
                for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
                    if entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMP_PREFIX)) {
                        let _ = std::fs::rename(entry.path().join("s"), entry.path().join("aside"));
                        let _ = symlink(&outside, entry.path().join("s"));
                    }
                }
            }
        });
        let mut done = 0;
        for round in 0..600 {
            done += usize::from(checkout(&store, &leaves[round % 8], &root, "d/f").is_ok());
            done += usize::from(checkout(&store, &tree, &root, "tree").is_ok());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(done > 0, "some got through");
    });
    assert!(names(&outside).is_empty(), "{:?}", names(&outside));
    assert_eq!(names(jail.path()), ["outside", "root"]);
}
