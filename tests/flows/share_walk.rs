//! The walk-through of `docs/sharing.md`, done as it is written: each block by the person it names.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::share_serve::Serving;
use crate::kit::{TestSpace, binary, needs_programs};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Blocks of the page with what stands behind their fence.
pub(super) fn blocks(page: &str) -> Vec<(String, String)> {
    let fenced = page.split("\n```").collect::<Vec<_>>();
    let inside = fenced.into_iter().skip(1).step_by(2);
    inside.filter_map(|block| block.split_once('\n')).map(|(head, body)| (head.to_owned(), body.to_owned())).collect()
}

/// A shell in place of the command, with the environment that the command would get.
fn started_by_shell(space: &TestSpace, script: &str) -> Command {
    let binary = binary();
    let bin = binary.parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("is set"));
    let like = space.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(space.path("")).env_clear();
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("PATH", path);
    command
}

pub(super) fn shell(space: &TestSpace, script: &str) -> Output {
    started_by_shell(space, script).output().expect("sh is there")
}

/// What a script says, which must succeed.
fn say(space: &TestSpace, script: &str) -> String {
    let Output { status, stdout, stderr } = shell(space, script);
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{script}\n{text}");
    text
}

/// The blocks of the page, and somebody who has its workspace.
fn page() -> (Vec<(String, String)>, impl Fn(u8) -> TestSpace) {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/sharing.md")).expect("the page is there");
    let blocks = blocks(&page);
    let workfile = blocks.iter().find(|(head, _)| head == "toml quipu.toml").expect("has a workfile").1.clone();
    let person = move |number: u8| {
        let space = TestSpace::new(&workfile);
        space.use_key(number);
        space.write("text", "what one has done another need not do again\n");
        space
    };
    (blocks, person)
}

#[test]
fn the_walk_through_of_the_page_does_what_it_says() {
    let (blocks, person) = page();
    let (anna, ben) = (person(1), person(2));
    let mut said = vec![];
    let mut handed_over = false;
    for (head, script) in &blocks {
        let space = match head.as_str() {
            "sh anna" => &anna,
            "sh ben" => &ben,
            _ => continue,
        };
        if head == "sh ben" && !std::mem::replace(&mut handed_over, true) {
            for file in ["work.car", "anna.key"] {
                fs::copy(anna.path(file), ben.path(file)).expect("she has made it");
            }
        }
        said.push(say(space, script));
    }
    let all = said.join("\n---\n");
    assert_eq!(said.len(), 6, "{all}");
    // Two tasks ran at Anna's; none at Ben's until he trusted her no more.
    assert!(said[0].contains("2 ran"), "{all}");
    assert!(said[1].contains("imported 2 receipts") && !said[1].contains(" ran"), "{all}");
    assert!(said[3].contains("same     count  (by anna)\nsame     report  (by anna)\n"), "{all}");
    assert!(said[4].contains("2 ran"), "{all}");
    assert_eq!(anna.read("report.intoto.jsonl").lines().count(), 1);
}

#[test]
fn the_walk_through_by_asking_does_what_it_says() {
    let (blocks, person) = page();
    let block = |head: &str| blocks.iter().find(|(h, _)| h == head).unwrap_or_else(|| panic!("has `{head}`")).1.clone();
    let (cleo, dan) = (person(1), person(2));
    assert!(say(&cleo, &block("sh cleo")).contains("2 ran"));
    // On a port that is free, where the page has the one that is asked for when nothing is said.
    let command = block("sh cleo serves");
    let serving = Serving::of(started_by_shell(&cleo, &format!("exec {} --listen 127.0.0.1:0", command.trim())));
    let here = |text: String| text.replace("http://127.0.0.1:4610", &serving.url);
    for file in ["token", "cleo.key"] {
        fs::copy(cleo.path(file), dan.path(file)).expect("she has made it");
    }
    fs::write(dan.beside("config/config.toml"), here(block("toml dan config.toml"))).expect("is written");
    let ran = say(&dan, &block("sh dan"));
    assert!(!ran.contains(" ran") && !ran.contains("warning"), "{ran}");
    // Without the token the peer is left out, and all is done here.
    let ran = say(&dan, &block("sh dan later"));
    assert!(ran.contains("remote `cleo` is left out") && ran.contains("2 ran"), "{ran}");
    if needs_programs(&["curl"]) {
        assert!(say(&dan, &here(block("sh dan looks"))).contains("/ipfs/ID?format=raw"));
    }
}
