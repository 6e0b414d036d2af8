//! The story of `examples/build-plans`: many components, one graph, published when all is well.

use std::collections::BTreeMap;
use std::fs;

use crate::kit::web::{Page, Web};
use crate::kit::{TestSpace, needs_ns};

/// What is published: the files below `platform` and each component's `dist`, by path.
fn published(space: &TestSpace) -> BTreeMap<String, Vec<u8>> {
    let components = fs::read_dir(space.path("components")).expect("is there").flatten();
    let names = components.map(|c| c.file_name().into_string().expect("is text"));
    let folders = names.map(|name| format!("components/{name}/dist")).chain(["platform".to_owned()]);
    let mut files = BTreeMap::new();
    for folder in folders {
        for file in fs::read_dir(space.path(&folder)).into_iter().flatten().flatten() {
            let path = format!("{folder}/{}", file.file_name().display());
            files.insert(path, fs::read(file.path()).expect("can be read"));
        }
    }
    files
}

#[test]
fn ten_components_are_one_graph_and_come_out_the_same_however_they_are_made() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::example("build-plans");
    let tools = fs::read(space.path("mirror/toolkit-1.2.tar.gz")).expect("is there");
    let web = Web::start([("/toolkit-1.2.tar.gz", Page::new(tools))]);
    let mirror = format!("mirror={}", web.url(""));
    let first = space.build_twice(&["-j8", "--set", &mirror]);
    assert_eq!(first.count("ran"), 64);
    assert_eq!(web.asked().len(), 1, "ten tasks, one fetch");
    assert!(space.read("platform/calls.txt").contains("\n3. GET /users/<id>\n    gives one\n"));
    let all = published(&space);
    assert_eq!(all.len(), 22);
    // From another place, with one job, from nothing.
    let alone = TestSpace::example("build-plans");
    assert_eq!(alone.build_twice(&["-j1"]).count("ran"), 64);
    assert_eq!(published(&alone), all);
    // On top of what is there, and back.
    alone.edit("components/mail/calls.tsv", "sends one", "sends a letter");
    let warm = alone.build_twice(&["-j8"]);
    let expected =
        "complete mail:bundle mail:expand mail:generate mail:number mail:validate platform policy:names policy:secrets";
    assert_eq!(warm.ran(), expected);
    assert_ne!(published(&alone), all);
    alone.edit("components/mail/calls.tsv", "sends a letter", "sends one");
    assert_eq!(alone.build_twice(&["-j1"]).ran(), "");
    assert_eq!(published(&alone), all);
    // Another mirror is no other work.
    space.remove("mirror");
    space.nothing_to_do(&["--set", &mirror]);
    assert_eq!(space.build(&["--set", "mirror=https://mirror.invalid"]).ran(), "");
}

#[test]
fn a_component_that_is_wrong_is_not_published_and_neither_is_what_is_made_of_it() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::example("build-plans");
    space.build_twice(&[]);
    let before = published(&space);
    space.edit("components/users/calls.tsv", "GET\t/users/{id}\tgives one", "FETCH\t/users/{id}\tgives one");
    space.edit("components/search/calls.tsv", "lists what fits", "lists what is alike");
    let ran = space.build(&["-k"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str()), (1, "users:validate"), "{}", ran.output.stderr);
    let after = published(&space);
    let changed: Vec<&str> = before.keys().filter(|path| before[*path] != after[*path]).map(String::as_str).collect();
    // The policy reads the platform, which was not made: nothing of what it holds for is published.
    assert_eq!(changed, Vec::<&str>::new());
    space.edit("components/users/calls.tsv", "FETCH\t", "GET\t");
    space.build_twice(&[]);
    let after = published(&space);
    let changed: Vec<&str> = before.keys().filter(|path| before[*path] != after[*path]).map(String::as_str).collect();
    assert_eq!(changed, ["components/search/dist/calls.txt", "platform/calls.txt"]);
}

#[test]
fn the_policy_holds_all_of_it_back() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::example("build-plans");
    space.build_twice(&[]);
    let before = published(&space);
    space.edit("components/auth/about.txt", "Who somebody is.", "Who somebody is: the password is 1234.");
    space.edit("components/mail/calls.tsv", "sends one", "sends a letter");
    let ran = space.build(&["-k"]);
    assert_eq!((ran.output.status, ran.ended("failed").as_str()), (1, "policy:secrets"));
    assert_eq!(published(&space), before);
    assert_eq!(ran.output.stderr.matches("is not published: `policy:secrets` has not passed").count(), 11);
}
