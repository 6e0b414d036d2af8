//! Words as bash itself makes them of the same texts.

use std::fmt::Write as _;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::workfile::braces::words;

/// A word of pieces that together are a brace expression now and then; all quotes in it are closed.
fn word() -> impl Strategy<Value = String> {
    let number = prop_oneof!["-?[0-9]{1,2}", "-?0[0-9]{1,2}", "[+]?[0-9]"];
    let sequence = (number.clone(), number, proptest::option::of("-?[0-9]{1,2}"))
        .prop_map(|(a, b, step)| format!("{{{a}..{b}{}}}", step.map(|s| format!("..{s}")).unwrap_or_default()));
    let letters = ("[a-z]", "[a-z]", proptest::option::of("-?[0-9]"))
        .prop_map(|(a, b, step)| format!("{{{a}..{b}{}}}", step.map(|s| format!("..{s}")).unwrap_or_default()));
    let leaf = prop_oneof![
        4 => "[ab.1]{0,3}",
        3 => sequence,
        2 => letters,
        1 => Just(r"\{".to_owned()),
        1 => Just(r"\,".to_owned()),
        1 => Just(r"\}".to_owned()),
        1 => "'[a,{} ]{0,3}'",
        1 => "\"[a,{} ]{0,3}\"",
        1 => Just("{".to_owned()),
        1 => Just("}".to_owned()),
        1 => Just(",".to_owned()),
        1 => Just("..".to_owned()),
        1 => Just("{}".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let row = proptest::collection::vec(inner, 1..4);
        prop_oneof![row.clone().prop_map(|r| format!("{{{}}}", r.join(","))), row.prop_map(|r| r.concat())]
    })
}

/// What people write, and what they get wrong.
const USUAL: &str = r#"
{a,b} a{b,c}d {a,{b,c}d,e}f {{a,b},{c,d}} {a,b}{1,2}{x,y} {,x} {a,} {a} {} a{}b {a,b x{a,b
{1..5} {5..1} {-3..3} {3..-3} {1..10..3} {10..1..3} {1..10..-3} {1..5..0} {1..1} {-0..2} {+1..3}
{01..10} {1..010} {001..3} {-01..02} {-1..010} {00..3} {08..12..2} {1..03..1}
{a..e} {e..a} {a..e..2} {e..a..2} {a..z..5} {A..C} {x..C} {Y..b} {a..1} {1..a} {a..aa} {a..e..-2} {a..e..x}
3.9.{0..21} 3.{9..11}.{0..2} v{1,2}.{0..1}{,-rc{1..2}} {1..3}{a..b} {{1..2},{a..b}} {1..{2,3}} {{1,2}..3}
{1..2..3..4} {1...3} {1..} {..3} {1.5..3} {1,2..4} {a,b\,c} {a,b\}} \{a,b} {a\{,b} '{a,b}' "{a,b}" {'a,b',c} {"x y",z}
{9223372036854775806..9223372036854775807} {99999999999999999999..3} {1..3..99999999999999999999}
"#;

#[test]
fn words_are_those_that_bash_makes() {
    let mut runner = TestRunner::new(Config::default());
    let mut made: Vec<String> = USUAL.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert!(made.iter().all(|text| words(text, 2000).is_ok()), "all of these are words");
    for _ in 0..3000 {
        let text = word().new_tree(&mut runner).expect("makes one").current();
        if words(&text, 2000).is_ok() {
            made.push(text);
        }
    }
    assert!(made.len() > 2000, "{}", made.len());
    let mut script = "f() { for w; do printf '<%s>' \"$w\"; done; echo; }\n".to_owned();
    for text in &made {
        writeln!(script, "f {text}").expect("writes");
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("words.sh");
    std::fs::write(&path, script).expect("a fresh file");
    let said = Command::new("bash").args(["--norc", "-f"]).arg(&path).env("LC_ALL", "C").output();
    let said = said.expect("bash is there");
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).expect("is text");
    let mut lines = said.lines();
    for text in &made {
        let ours = words(text, 2000).expect("did before");
        let ours: String = ours.iter().map(|w| format!("<{w}>")).collect();
        assert_eq!(Some(&*ours), lines.next(), "of `{text}`");
    }
}
