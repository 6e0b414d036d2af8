//! Many outputs put in place at once: each comes out as if it had been put there alone.

use std::fs;

use quipu_store::checkout::CheckoutError;
use quipu_store::cid::BlobId;
use quipu_store::tree::{Entry, Name, Tree};

use super::test_place::Place;

fn all(wanted: &[(String, Entry)]) -> Vec<(&str, &Entry)> {
    wanted.iter().map(|(path, entry)| (&**path, entry)).collect()
}

#[test]
fn each_of_many_comes_out_as_if_it_were_alone() {
    let place = Place::new();
    let mut wanted: Vec<(String, Entry)> =
        (0..200).map(|n| (format!("out/{}/{n}", n % 3), place.file(&format!("content {n}"), n % 2 == 0))).collect();
    let tree = Tree::new(vec![(Name::new("f").expect("valid"), place.file("in a directory", false))]).expect("valid");
    wanted.push(("out/dir".to_owned(), Entry::Dir { tree: place.store.put_tree(&tree).expect("kept") }));
    let gone = wanted.len();
    wanted.push(("out/gone".to_owned(), Entry::File { blob: BlobId::of(b"gone"), size: 4, exec: false }));
    // What is there already, what was put there and is old, what is a person's.
    place.write("out/1/1", "content 1");
    place.workspace.place("out/2/2", &place.file("of before", false)).expect("is placed");
    place.write("out/0/3", "a person's");

    let placed = place.workspace.place_all(&all(&wanted));
    for (n, ((path, _), placed)) in wanted.iter().zip(&placed).enumerate() {
        match placed {
            Ok(wrote) => assert_eq!(*wrote, path != "out/1/1", "{path}"),
            Err(CheckoutError::Missing { .. }) => assert_eq!(n, gone),
            Err(error) => panic!("{path}: {error}"),
        }
        if n < 200 {
            assert_eq!(fs::read_to_string(place.path(path)).expect("there"), format!("content {n}"));
        }
    }
    assert_eq!(fs::read_to_string(place.path("out/dir/f")).expect("there"), "in a directory");
    assert!(!place.path("out/gone").exists());
    let kept: Vec<_> = place.workspace.take_kept();
    assert!(matches!(&kept[..], [(path, entry)] if path == "out/0/3" && place.read(entry) == "a person's"), "{kept:?}");

    let before = place.store.counters().gets;
    let again = place.workspace.place_all(&all(&wanted[..200]));
    assert!(again.iter().all(|placed| matches!(placed, Ok(false))), "nothing is put there twice");
    assert_eq!(place.store.counters().gets, before, "nor read from the store");
    assert!(wanted[..200].iter().all(|(path, entry)| place.workspace.holds(path, entry)));
}

#[test]
fn two_who_want_the_same_places_in_another_order_do_not_wait_for_each_other() {
    let place = Place::new();
    for round in 0..100 {
        let entry = place.file(&format!("{round}"), false);
        let wanted: Vec<(String, Entry)> = (0..20).map(|n| (format!("out/{n}"), entry.clone())).collect();
        let backwards: Vec<(String, Entry)> = wanted.iter().rev().cloned().collect();
        let put = |wanted: &[(String, Entry)]| {
            let placed = place.workspace.place_all(&all(wanted));
            placed.into_iter().filter(|placed| *placed.as_ref().expect("is placed")).count()
        };
        let wrote = std::thread::scope(|scope| {
            let other = scope.spawn(|| put(&backwards));
            put(&wanted) + other.join().expect("no panic")
        });
        assert_eq!(wrote, 20, "one of them puts it there");
    }
}

#[test]
fn a_source_that_changed_right_after_it_was_read_is_told_although_it_looks_the_same() {
    let place = Place::new();
    for path in ["old", "young"] {
        place.write(path, "text");
    }
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(place.path("young")).expect("opens");
    // As young as can be, however long it takes until it is read.
    file.set_modified(ahead).expect("is set");
    place.stamps(&["old", "young"]);
    place.write("young", "edit");
    // How it looks now, as if the clock had not moved in between.
    let now = quipu_store::stamp::Stamp::of(&rustix::fs::lstat(place.path("young")).expect("is there"));
    assert_eq!(place.workspace.sources_changed(&[("young".into(), now)]), ["young"]);
}
