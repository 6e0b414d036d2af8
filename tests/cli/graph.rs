//! `quipu graph`.

use insta::assert_snapshot;

use crate::kit::TestSpace;

const TASKS: &str = r#"
[task.gen]
run = "echo > gen.h"
inputs = []
outputs = ["gen.h"]
[task.cc]
matrix = { unit = ["a", "b"] }
run = "cat gen.h"
inputs = ["gen.h"]
[task.all]
needs = ["cc"]
[task.test]
run = "echo"
inputs = []
needs = ["all"]
after = ["lint"]
[task.lint]
run = "echo"
inputs = []
"#;

#[test]
fn the_graph_is_drawn_in_each_language() {
    let space = TestSpace::new(TASKS);
    assert_snapshot!(space.ok(&["graph"]).shown(), @r#"
    digraph quipu {
        rankdir = LR
        node [shape = box]
        "gen"
        "cc[a]"
        "cc[b]"
        "test"
        "lint"
        "gen" -> "cc[a]"
        "gen" -> "cc[b]"
        "cc[a]" -> "test"
        "cc[b]" -> "test"
        "lint" -> "test" [style = dashed]
    }
    "#);
    assert_snapshot!(space.ok(&["graph", "--format=mermaid", "cc[a]"]).shown(), @r#"
    graph LR
        t0["gen"]
        t1["cc#91;a#93;"]
        t0 --> t1
    "#);
    assert_snapshot!(space.ok(&["graph", "--format=json", "cc[a]"]).shown(), @r#"
    {
      "nodes": [
        "gen",
        "cc[a]"
      ],
      "edges": [
        {
          "from": "gen",
          "to": "cc[a]",
          "kind": "data"
        }
      ]
    }
    "#);
}

#[test]
fn dot_that_graphviz_reads() {
    let space = TestSpace::new(TASKS);
    let dot = space.ok(&["graph"]).stdout;
    assert_eq!((dot.matches('{').count(), dot.matches('}').count()), (1, 1));
    assert!(dot.lines().all(|line| line.matches('"').count() % 2 == 0), "{dot}");
}
