//! The walk-through of `docs/sharing.md`, done as it is written: each block by the person it names.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::kit::TestSpace;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Blocks of the page with what stands behind their fence.
pub(super) fn blocks(page: &str) -> Vec<(String, String)> {
    let fenced = page.split("\n```").collect::<Vec<_>>();
    let inside = fenced.into_iter().skip(1).step_by(2);
    inside.filter_map(|block| block.split_once('\n')).map(|(head, body)| (head.to_owned(), body.to_owned())).collect()
}

pub(super) fn shell(space: &TestSpace, script: &str) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_quipu")).parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("is set"));
    // The environment that the command would get, and a shell in place of the command.
    let like = space.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(space.path("")).env_clear();
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("PATH", path).output().expect("sh is there")
}

#[test]
fn the_walk_through_of_the_page_does_what_it_says() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/sharing.md")).expect("the page is there");
    let blocks = blocks(&page);
    let workfile = blocks.iter().find(|(head, _)| head == "toml quipu.toml").expect("has a workfile").1.clone();
    let person = |number: u8| {
        let space = TestSpace::new(&workfile);
        space.use_key(number);
        space.write("text", "what one has done another need not do again\n");
        space
    };
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
        let output = shell(space, script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{text}");
        said.push(text);
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
