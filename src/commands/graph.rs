//! `quipu graph`: tasks and edges in languages that draw or read graphs.
//!
//! Made of recipes: needs no store, and no source file has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use quipu_runtime::workfile::Loaded;
use serde::Serialize;

use super::{Context, print, print_json};
use crate::cli::{GraphArgs, GraphFormat};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project;

/// Recipes by index, and edges from what comes first; `true` where it gives something, `false` where it only
/// comes first.
struct Picture {
    nodes: BTreeSet<usize>,
    edges: BTreeMap<(usize, usize), bool>,
}

#[derive(Serialize)]
struct Json<'a> {
    nodes: Vec<&'a str>,
    edges: Vec<Edge<'a>>,
}

#[derive(Serialize)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    kind: &'static str,
}

/// Prints the graph.
pub(super) fn graph(context: &Context, args: &GraphArgs) -> Result<Exit, Diagnosis> {
    let loaded = project::load(context)?;
    let goals = project::select(&loaded, &args.tasks.tasks)?;
    let picture = Picture::of(&loaded, goals);
    match args.format {
        GraphFormat::Dot => print(&picture.dot(&loaded)).map(|()| Exit::Ok),
        GraphFormat::Mermaid => print(&picture.mermaid(&loaded)).map(|()| Exit::Ok),
        GraphFormat::Json => {
            let name = |i: usize| &*loaded.recipes[i].name;
            let edge = |((from, to), data): (&(usize, usize), &bool)| {
                let kind = if *data { "data" } else { "order" };
                Edge { from: name(*from), to: name(*to), kind }
            };
            let nodes = picture.nodes.iter().map(|i| name(*i)).collect();
            print_json(&Json { nodes, edges: picture.edges.iter().map(edge).collect() })
        }
    }
}

impl Picture {
    fn of(loaded: &Loaded, goals: Vec<usize>) -> Self {
        let mut picture = Self { nodes: BTreeSet::new(), edges: BTreeMap::new() };
        let mut stack = goals;
        while let Some(to) = stack.pop() {
            let recipe = &loaded.recipes[to];
            if recipe.left_out.is_some() {
                continue;
            }
            // A group stands for what it needs, which its users are connected to already.
            let fresh = recipe.is_group() || picture.nodes.insert(to);
            if !fresh {
                continue;
            }
            for (from, is_data) in recipe.reads().map(|d| (d, true)).chain(recipe.after.iter().map(|a| (*a, false))) {
                if !recipe.is_group() {
                    *picture.edges.entry((from, to)).or_insert(false) |= is_data;
                }
                stack.push(from);
            }
        }
        picture
    }

    fn dot(&self, loaded: &Loaded) -> String {
        let name = |i: usize| quote(&loaded.recipes[i].name);
        let mut out = "digraph quipu {\n    rankdir = LR\n    node [shape = box]\n".to_owned();
        for node in &self.nodes {
            let _ = writeln!(out, "    {}", name(*node));
        }
        for ((from, to), data) in &self.edges {
            let style = if *data { "" } else { " [style = dashed]" };
            let _ = writeln!(out, "    {} -> {}{style}", name(*from), name(*to));
        }
        out.push_str("}\n");
        out
    }

    fn mermaid(&self, loaded: &Loaded) -> String {
        let mut out = "graph LR\n".to_owned();
        for node in &self.nodes {
            // Everything but letters and digits may mean something to it.
            let escape = |c: char| if c.is_alphanumeric() { c.to_string() } else { format!("#{};", c as u32) };
            let label: String = loaded.recipes[*node].name.chars().map(escape).collect();
            let _ = writeln!(out, "    t{node}[\"{label}\"]");
        }
        for ((from, to), data) in &self.edges {
            let _ = writeln!(out, "    t{from} {} t{to}", if *data { "-->" } else { "-.->" });
        }
        out
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
