//! What holds for any workfile.

use std::path::Path;

use proptest::prelude::*;

use super::show;
use crate::graph::Graph;
use crate::workfile::{Surroundings, load_text};

/// Lines that make sense together now and then.
fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("[task.a]".to_owned()),
        Just("[task.b]".to_owned()),
        Just("[vars]".to_owned()),
        Just("[workspace]".to_owned()),
        Just("v = \"{{v}}\"".to_owned()),
        Just("matrix = { v = [\"x\", 2], w = [\"{{v}}\"] }".to_owned()),
        Just("env.X = 1".to_owned()),
        "(run|steps|inputs|outputs|needs|after|stdin|stdout|dir|shell|timeout|slots|tags|members|default) = [\\[\\]{}\"'a-b*?!/.,:= ]{0,16}",
        "(run|inputs|outputs|needs|after|members) = \\[\"[\\[\\]{}a-b*?!/.,:]{0,8}\"\\]",
        ".{0,24}",
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

/// Tables that load, in which outputs of some are inputs of later ones.
fn tables() -> impl Strategy<Value = Vec<String>> {
    let table = |i: usize| {
        let needs = proptest::collection::vec((0..i.max(1), 0..5_usize), 0..4);
        needs.prop_map(move |uses| {
            let uses: Vec<_> = uses.into_iter().filter(|_| i > 0).collect();
            let list = |kinds: &[usize], text: fn(usize) -> String| {
                let texts = uses.iter().filter(|(_, k)| kinds.contains(k)).map(|(j, _)| format!("'{}'", text(*j)));
                texts.collect::<Vec<_>>().join(", ")
            };
            let inputs = uses.iter().filter(|(_, k)| *k < 3).map(|(j, k)| match k {
                0 => format!("'out{j}/sub/x'"),
                1 => format!("'f{j}.h'"),
                _ => format!("'f{j}.?'"),
            });
            let inputs = inputs.collect::<Vec<_>>().join(", ");
            let needs = list(&[3], |j| format!("t{j}"));
            let after = list(&[4], |j| format!("t{j}[a]"));
            format!(
                "[task.t{i}]\nrun = 'x {{{{u}}}} {i}'\nmatrix = {{ u = ['a', 'b'] }}\ninputs = [{inputs}]\nneeds = [{needs}]\nafter = [{after}]\noutputs = ['f{i}.{{{{u}}}}', 'out{i}/{{{{u}}}}/']\n"
            )
        })
    };
    (2..8_usize).prop_flat_map(move |n| (0..n).map(table).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn any_text_loads_or_has_errors_with_places(text in prop_oneof![lines(), ".{0,200}"]) {
        if let Err(error) = load_text(Path::new("/nonexistent"), &text) {
            let crate::workfile::LoadError::Faults(faults) = error else { panic!("{error}") };
            prop_assert!(!faults.errors.is_empty());
            prop_assert!(faults.errors.iter().all(|e| e.place.start <= e.place.end && e.place.end as usize <= text.len()));
            prop_assert!(!faults.render(true).is_empty() && !faults.to_string().is_empty());
        }
    }

    #[test]
    fn the_order_of_tables_does_not_matter(tables in tables(), seed in any::<u64>()) {
        let shown = |tables: &[String]| {
            let loaded = load_text(Path::new("/nonexistent"), &tables.concat()).unwrap_or_else(|e| panic!("{e}\n{}", tables.concat()));
            let text = show(&loaded).replace("\n  ", "\t");
            // Names of needed tasks stand in the order of tables.
            let mut lines: Vec<Vec<String>> = text.lines().map(|line| {
                line.split('\t').map(|part| {
                    let mut words: Vec<&str> = part.split(' ').collect();
                    words.sort_unstable();
                    words.join(" ")
                }).collect()
            }).collect();
            lines.sort();
            let trees = vec![None; loaded.recipes.len()];
            let workflow = loaded.workflow(&trees, &Surroundings::default()).expect("tools are not named");
            let graph = Graph::build(&workflow).expect("no rings");
            (lines, graph.edges())
        };
        let mut other = tables.clone();
        for i in (1..other.len()).rev() {
            other.swap(i, (seed >> (i * 7)) as usize % (i + 1));
        }
        prop_assert_eq!(shown(&tables), shown(&other));
    }
}

#[test]
fn ten_thousand_tasks_load() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for i in 0..10_000 {
        let before = i / 2;
        writeln!(
            text,
            "[task.t{i}]\nrun = 'cc -c src/f{i}.c -o obj/f{i}.o'\ninputs = ['src/f{i}.c', 'include/**/*.h', 'obj/f{before}.d']\noutputs = ['obj/f{i}.o', 'obj/f{}.d']\nneeds = ['t{}']",
            if i == 0 { "x".to_owned() } else { (i + 10_000).to_string() },
            if i == 0 { 1 } else { 0 },
        )
        .expect("writes");
    }
    // The first needs the second and the other way round: one ring among very many tasks is found too.
    let error = load_text(Path::new("/nonexistent"), &text).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("tasks wait for one another: `t0` -> `t1` -> `t0`"), "{error}");
    let text = text.replacen("needs = ['t1']", "", 1);
    let loaded = load_text(Path::new("/nonexistent"), &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.recipes.len(), 10_000);
}
