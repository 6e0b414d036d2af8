//! Order among recipes: rings of tasks that wait for one another, and groups replaced by what they stand for.
//!
//! Knows edges; unaware of what made them beyond a word for messages.

use std::collections::VecDeque;

use super::edges::{Edge, MAX_EDGES, Why};
use super::errors::{ErrorKind, WorkfileError};
use super::recipe::Recipe;
use crate::value::Text;

/// Rings beyond this many are not reported.
const MAX_RINGS: usize = 20;

/// A ring is told whole up to this many tasks; of a longer one the middle is left out.
const MAX_RING_TOLD: usize = 40;

/// Every recipe after those it waits for, or an error for each knot of rings.
pub(crate) fn sort(recipes: &[Recipe], edges: &[Vec<Edge>]) -> Result<Vec<u32>, Vec<WorkfileError>> {
    let mut missing: Vec<u32> = edges.iter().map(|row| row.len() as u32).collect();
    let mut starts = vec![0_u32; edges.len() + 1];
    edges.iter().flatten().for_each(|edge| starts[edge.to as usize + 1] += 1);
    for i in 0..edges.len() {
        starts[i + 1] += starts[i];
    }
    let (mut next, mut waiting) = (starts.clone(), vec![0_u32; starts[edges.len()] as usize]);
    for (from, row) in edges.iter().enumerate() {
        for edge in row {
            waiting[next[edge.to as usize] as usize] = from as u32;
            next[edge.to as usize] += 1;
        }
    }
    let mut order: Vec<u32> = (0..edges.len() as u32).filter(|i| missing[*i as usize] == 0).collect();
    let mut head = 0;
    while let Some(done) = order.get(head).copied() {
        head += 1;
        let row = starts[done as usize] as usize..starts[done as usize + 1] as usize;
        for from in &waiting[row] {
            missing[*from as usize] -= 1;
            if missing[*from as usize] == 0 {
                order.push(*from);
            }
        }
    }
    if order.len() == edges.len() {
        return Ok(order);
    }
    let knots = knots(edges, &missing);
    Err(knots.iter().take(MAX_RINGS).map(|knot| ring_error(recipes, &shortest_ring(edges, knot))).collect())
}

/// Sets of recipes that all reach one another, each ascending (Tarjan's algorithm without recursion).
fn knots(edges: &[Vec<Edge>], missing: &[u32]) -> Vec<Vec<u32>> {
    const NEW: u32 = u32::MAX;
    let mut number = vec![NEW; edges.len()];
    let mut low = vec![0_u32; edges.len()];
    let mut on_stack = vec![false; edges.len()];
    let (mut stack, mut count, mut out) = (vec![], 0_u32, vec![]);
    for root in 0..edges.len() as u32 {
        if number[root as usize] != NEW || missing[root as usize] == 0 {
            continue;
        }
        let mut calls: Vec<(u32, usize)> = vec![(root, 0)];
        while let Some((at, next)) = calls.pop() {
            let i = at as usize;
            if next == 0 {
                (number[i], low[i], on_stack[i]) = (count, count, true);
                count += 1;
                stack.push(at);
            }
            if let Some(edge) = edges[i].get(next) {
                let to = edge.to as usize;
                calls.push((at, next + 1));
                if missing[to] > 0 && number[to] == NEW {
                    calls.push((edge.to, 0));
                } else if on_stack[to] {
                    low[i] = low[i].min(number[to]);
                }
                continue;
            }
            if let Some((above, _)) = calls.last() {
                low[*above as usize] = low[*above as usize].min(low[i]);
            }
            if low[i] == number[i] {
                let from =
                    stack.iter().rposition(|s| *s == at).expect("a recipe is on the stack until its knot is done");
                let mut knot = stack.split_off(from);
                knot.iter().for_each(|k| on_stack[*k as usize] = false);
                if knot.len() > 1 || edges[i].iter().any(|edge| edge.to == at) {
                    knot.sort_unstable();
                    out.push(knot);
                }
            }
        }
    }
    out.sort();
    out
}

/// A shortest way from the first recipe of a knot back to itself, as who waits and by which edge.
fn shortest_ring(edges: &[Vec<Edge>], knot: &[u32]) -> Vec<(u32, Edge)> {
    let first = knot[0];
    let mut came: Vec<Option<(u32, Edge)>> = vec![None; knot.len()];
    let place = |i: u32| knot.binary_search(&i).ok();
    let mut queue = VecDeque::from([first]);
    while let Some(at) = queue.pop_front() {
        for edge in &edges[at as usize] {
            let Some(to) = place(edge.to) else { continue };
            if came[to].is_none() {
                came[to] = Some((at, *edge));
                queue.push_back(edge.to);
            }
        }
        if came[0].is_some() {
            break;
        }
    }
    let mut ring: Vec<(u32, Edge)> = vec![];
    let mut at = first;
    while let Some(step) = place(at).and_then(|i| came[i]) {
        ring.push(step);
        at = step.0;
        if at == first {
            break;
        }
    }
    ring.reverse();
    ring
}

fn ring_error(recipes: &[Recipe], ring: &[(u32, Edge)]) -> WorkfileError {
    let name = |i: u32| &recipes[i as usize].name;
    let (first, edge) = ring[0];
    let message = if ring.len() == 1 {
        format!("task `{}` waits for itself", name(first))
    } else {
        let mut names: Vec<String> = ring.iter().map(|(from, _)| format!("`{}`", name(*from))).collect();
        if let Some(middle) = untold(ring.len()) {
            let left_out = format!("... {} more ...", middle.len());
            names.splice(middle, [left_out]);
        }
        format!("tasks wait for one another: {} -> `{}`", names.join(" -> "), name(first))
    };
    let mut error = WorkfileError::new(ErrorKind::Cycle, edge.place, message);
    let middle = untold(ring.len()).unwrap_or(0..0);
    for (_, (from, edge)) in ring.iter().enumerate().filter(|(i, _)| !middle.contains(i)) {
        let verb = match edge.why {
            Why::Needs => "needs",
            Why::After => "comes after",
            Why::Prints => "takes what is printed by",
            Why::Input => "reads what is made by",
        };
        error = error.see(edge.place, format!("`{}` {verb} `{}`", name(*from), name(edge.to)));
    }
    if ring.iter().any(|(_, edge)| edge.why == Why::Input) {
        error = error.hint("inputs that another task makes can be left out of a glob or folder: `\"!path\"`");
    }
    error
}

/// The part of a long ring that is left out of a message.
fn untold(length: usize) -> Option<std::ops::Range<usize>> {
    (length > MAX_RING_TOLD).then(|| MAX_RING_TOLD / 2..length - MAX_RING_TOLD / 2)
}

/// Leaves out what needs something that is left out. Groups stand for the rest of what they need, and what comes
/// after something that is left out comes after nothing. `order` has every recipe after those it waits for.
pub(crate) fn leave_out(recipes: &mut [Recipe], order: &[u32]) {
    if recipes.iter().all(|recipe| recipe.left_out.is_none()) {
        return;
    }
    for i in order.iter().map(|i| *i as usize) {
        let recipe = &recipes[i];
        let is_out = |to: &usize| recipes[*to].left_out.is_some();
        let stays = recipe.is_group() && recipe.needs.iter().any(|to| !is_out(to));
        let cause = recipe.reads().find(is_out).filter(|_| !stays);
        let why = cause.map(|to| Text::from(format!("it needs `{}`, which is left out", recipes[to].name)));
        let (without, needs) = recipe.needs.iter().copied().partition(is_out);
        let (later, after): (Vec<usize>, _) = recipe.after.iter().copied().partition(is_out);
        let recipe = &mut recipes[i];
        (recipe.needs, recipe.after, recipe.without) = (needs, after, without);
        recipe.without.extend(later);
        recipe.left_out = recipe.left_out.take().or(why);
    }
}

/// Replaces groups in `needs` and `after` by what they stand for. `order` has every recipe after those it
/// waits for. The answer is the recipe with which there are too many edges, if there are.
pub(crate) fn flatten(recipes: &mut [Recipe], order: &[u32]) -> Option<usize> {
    let mut total = 0;
    for i in order.iter().map(|i| *i as usize) {
        let needs = std::mem::take(&mut recipes[i].needs);
        recipes[i].needs = stand_for(recipes, needs);
        let after = std::mem::take(&mut recipes[i].after);
        recipes[i].after = stand_for(recipes, after);
        total += recipes[i].needs.len() + recipes[i].after.len();
        if total > MAX_EDGES {
            return Some(i);
        }
    }
    None
}

/// Recipes that run, for recipes of which some are groups: each once, ascending. Groups among what groups need
/// were replaced before.
pub(crate) fn stand_for(recipes: &[Recipe], row: Vec<usize>) -> Vec<usize> {
    let mut out = Vec::with_capacity(row.len());
    for to in row {
        if recipes[to].is_group() {
            out.extend_from_slice(&recipes[to].needs);
        } else {
            out.push(to);
        }
        // Many groups may name the same many tasks again and again.
        if out.len() > 2 * MAX_EDGES {
            out.sort_unstable();
            out.dedup();
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}
