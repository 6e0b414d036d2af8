//! A matrix: one variant of a task for each combination of its lists' values.
//!
//! Unaware of what tasks do with the values.

use rustc_hash::FxHashMap;

use super::errors::{ErrorKind, WorkfileError};
use super::model::TaskTable;
use super::vars::{Scope, is_name};
use crate::value::Text;

/// Most tasks a file may make.
pub const MAX_TASKS: usize = 100_000;

/// One combination: the lists' names and values, in the order they are written in.
pub(crate) type Variant = Vec<(Text, Text)>;

/// All combinations, the last list's values changing fastest; one empty one without a matrix. `left` is how
/// many tasks the file may still make. `None` when the matrix has an error.
pub(crate) fn expand(
    table: &TaskTable<'_>,
    scope: &Scope<'_>,
    left: usize,
    errors: &mut Vec<WorkfileError>,
) -> Option<Vec<Variant>> {
    let errors_before = errors.len();
    let task = &table.name;
    let mut axes: Vec<(Text, Vec<Text>)> = Vec::with_capacity(table.matrix.len());
    for axis in &table.matrix {
        if !is_name(&axis.name.text) {
            let message = format!("`{}` cannot name a list of a matrix", axis.name.text);
            let error = WorkfileError::new(ErrorKind::BadName, axis.name.place, message);
            errors.push(error.hint("a letter or `_`, then letters, digits, `_` and `-`"));
        }
        let mut values: Vec<Text> = Vec::with_capacity(axis.values.len());
        let mut places = FxHashMap::default();
        for value in &axis.values {
            let Some(text) = scope.expand(value, errors) else { continue };
            let text = Text::from(&*text);
            if text.is_empty() || text.chars().any(char::is_control) {
                let why = if text.is_empty() { "is empty" } else { "has a control character in it" };
                let message = format!("a value of `{}` of task `{task}` {why}", axis.name.text);
                let error = WorkfileError::new(ErrorKind::Matrix, value.place, message);
                errors.push(error.hint("values stand in task names"));
            } else if let Some(first) = places.insert(text.clone(), value.place) {
                let message = format!("`{}` of task `{task}` has the value `{text}` twice", axis.name.text);
                errors.push(WorkfileError::new(ErrorKind::Matrix, value.place, message).see(first, "first here"));
            } else {
                values.push(text);
            }
        }
        // An empty list was reported when it was read.
        if values.is_empty() {
            return None;
        }
        axes.push((Text::from(&*axis.name.text), values));
    }
    if errors.len() > errors_before || (axes.is_empty() && table.has("matrix")) {
        return None;
    }
    let product = axes.iter().fold(1_u128, |n, axis| n.saturating_mul(axis.1.len() as u128));
    if product > left as u128 {
        let sizes: Vec<String> = axes.iter().map(|axis| axis.1.len().to_string()).collect();
        let many = if sizes.len() > 1 { format!("{} = {product}", sizes.join(" x ")) } else { product.to_string() };
        let message = format!("task `{task}` makes {many} tasks; a workfile makes at most {MAX_TASKS}");
        let place = table.key_place(if axes.is_empty() { "" } else { "matrix" });
        errors.push(WorkfileError::new(ErrorKind::Matrix, place, message));
        return None;
    }
    let mut out: Vec<Variant> = vec![vec![]];
    for (name, values) in &axes {
        let mut next = Vec::with_capacity(out.len() * values.len());
        for variant in &out {
            for value in values {
                let mut longer = Vec::with_capacity(axes.len());
                longer.extend_from_slice(variant);
                longer.push((name.clone(), value.clone()));
                next.push(longer);
            }
        }
        out = next;
    }
    Some(out)
}
