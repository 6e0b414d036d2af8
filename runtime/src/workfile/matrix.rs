//! A matrix: one variant of a task for each combination of its lists' values, but for those filtered out.
//!
//! Unaware of what tasks do with the values.

use rustc_hash::FxHashMap;

use super::braces::{self, BraceError};
use super::errors::{ErrorKind, Place, WorkfileError, near};
use super::model::{Axis, Filter, Str, TaskTable, Values};
use super::vars::{Scope, is_name};
use super::wild::Wild;
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
    for axis in table.versions.iter().chain(&table.matrix) {
        let values = list(task, axis, table.versions.as_ref(), scope, errors);
        axes.push((Text::from(&*axis.name.text), values));
    }
    let wanted = table.has("matrix") || table.has("versions");
    let is_empty = axes.is_empty() && wanted || axes.iter().any(|(_, values)| values.is_empty());
    if errors.len() > errors_before || is_empty {
        return None;
    }
    let product = axes.iter().fold(1_u128, |n, axis| n.saturating_mul(axis.1.len() as u128));
    if product > left as u128 {
        let sizes: Vec<String> = axes.iter().map(|axis| axis.1.len().to_string()).collect();
        let many = if sizes.len() > 1 { format!("{} = {product}", sizes.join(" x ")) } else { product.to_string() };
        let message = format!("task `{task}` makes {many} tasks; a workfile makes at most {MAX_TASKS}");
        let key = if table.has("matrix") { "matrix" } else { "versions" };
        errors.push(WorkfileError::new(ErrorKind::Matrix, table.key_place(key), message));
        return None;
    }
    let only = filters(table, "only", &table.only, &axes, scope, errors);
    let exclude = filters(table, "exclude", &table.exclude, &axes, scope, errors);
    if errors.len() > errors_before {
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
    let any = |filters: &[Vec<Option<Vec<Wild>>>], variant: &Variant| filters.iter().any(|f| is_meant(f, variant));
    out.retain(|v| (only.is_empty() || any(&only, v)) && !any(&exclude, v));
    if out.is_empty() {
        let key = if table.has("exclude") { "exclude" } else { "only" };
        let message = format!("no variant of task `{task}` is left");
        errors.push(WorkfileError::new(ErrorKind::Matrix, table.key_place(key), message));
        return None;
    }
    Some(out)
}

/// The values of one list; none when something is wrong with it.
fn list(
    task: &str,
    axis: &Axis<'_>,
    versions: Option<&Axis<'_>>,
    scope: &Scope<'_>,
    errors: &mut Vec<WorkfileError>,
) -> Vec<Text> {
    let name = &axis.name.text;
    if !is_name(name) {
        let message = format!("`{name}` cannot name a list of a matrix");
        let error = WorkfileError::new(ErrorKind::BadName, axis.name.place, message);
        errors.push(error.hint("a letter or `_`, then letters, digits, `_` and `-`"));
    }
    if let Some(versions) = versions.filter(|v| v.name.text == *name && v.name.place != axis.name.place) {
        let message = format!("`versions` of task `{task}` makes a list called `version` already");
        let error = WorkfileError::new(ErrorKind::Matrix, axis.name.place, message);
        errors.push(error.see(versions.name.place, "`versions` is here"));
    }
    let before = errors.len();
    let mut values: Vec<Text> = vec![];
    let mut places = FxHashMap::default();
    for (text, place) in values_of(task, name, &axis.values, scope, errors) {
        if text.is_empty() || text.chars().any(char::is_control) {
            let why = if text.is_empty() { "is empty" } else { "has a control character in it" };
            let message = format!("a value of `{name}` of task `{task}` {why}");
            errors.push(WorkfileError::new(ErrorKind::Matrix, place, message).hint("values stand in task names"));
        } else if let Some(first) = places.insert(text.clone(), place) {
            let message = format!("`{name}` of task `{task}` has the value `{text}` twice");
            let error = WorkfileError::new(ErrorKind::Matrix, place, message);
            if first != place {
                errors.push(error.see(first, "first here"));
            } else if errors.last().is_none_or(|last| last.place != place) {
                // What one text makes twice is told once.
                errors.push(error);
            }
        } else {
            values.push(text);
        }
    }
    if let (Values::Words(text), true) = (&axis.values, values.is_empty() && errors.len() == before) {
        let message = format!("`{name}` of task `{task}` has no value");
        errors.push(
            WorkfileError::new(ErrorKind::Matrix, text.place, message).hint("without a value there is no task at all"),
        );
    }
    values
}

/// Values with variables and braces expanded, each with its place.
fn values_of(
    task: &str,
    name: &str,
    values: &Values<'_>,
    scope: &Scope<'_>,
    errors: &mut Vec<WorkfileError>,
) -> Vec<(Text, Place)> {
    let mut out: Vec<(Text, Place)> = vec![];
    let mut add = |text: &Str<'_>, are_words: bool, errors: &mut Vec<WorkfileError>| {
        let Some(expanded) = scope.expand_names(text, errors) else { return };
        let left = MAX_TASKS.saturating_sub(out.len());
        let made = match (are_words, expanded.contains('{')) {
            (true, _) => braces::words(&expanded, left),
            (false, true) => braces::word(&expanded, left),
            (false, false) => Ok(vec![expanded.into_owned()]),
        };
        match made {
            Ok(made) => out.extend(made.into_iter().map(|value| (value.into(), text.place))),
            Err(why) => {
                let why = if let BraceError::TooMany(_) = why { BraceError::TooMany(MAX_TASKS) } else { why };
                let message = format!("`{name}` of task `{task}` {why}");
                let error = WorkfileError::new(ErrorKind::Matrix, text.place, message);
                errors.push(match why {
                    BraceError::OpenQuote(q) => error.hint(format!("write `\\{q}` for one that means nothing")),
                    _ => error,
                });
            }
        }
    };
    match values {
        Values::Words(text) => add(text, true, errors),
        Values::List(texts) => texts.iter().for_each(|text| add(text, false, errors)),
    }
    out
}

/// For each filter, what it says of each list.
fn filters(
    table: &TaskTable<'_>,
    key: &str,
    filters: &[Filter<'_>],
    axes: &[(Text, Vec<Text>)],
    scope: &Scope<'_>,
    errors: &mut Vec<WorkfileError>,
) -> Vec<Vec<Option<Vec<Wild>>>> {
    let task = &table.name;
    let mut out = vec![];
    if let (true, Some(filter)) = (axes.is_empty(), filters.first()) {
        let message = format!("task `{task}` has `{key}` but no matrix");
        errors.push(WorkfileError::new(ErrorKind::Matrix, filter.place, message));
        return out;
    }
    for filter in filters {
        let mut row: Vec<Option<Vec<Wild>>> = vec![None; axes.len()];
        for list in &filter.lists {
            let name = &list.name.text;
            let Some(at) = axes.iter().position(|(axis, _)| **axis == **name) else {
                let message = format!("`{key}` of task `{task}` names `{name}`, which is no list of its matrix");
                let hint = near(name, axes.iter().map(|(axis, _)| &**axis));
                errors.push(WorkfileError::new(ErrorKind::Matrix, list.name.place, message).maybe_hint(hint));
                continue;
            };
            let mut forms = vec![];
            for (text, place) in values_of(task, name, &list.values, scope, errors) {
                let form = Wild::simple(&text);
                if !axes[at].1.iter().any(|value| form.matches(value)) {
                    let message = format!("`{key}` of task `{task}` has `{text}`, which is no value of `{name}`");
                    let hint = near(&text, axes[at].1.iter().map(|v| &**v));
                    errors.push(WorkfileError::new(ErrorKind::Matrix, place, message).maybe_hint(hint));
                }
                forms.push(form);
            }
            row[at] = Some(forms);
        }
        out.push(row);
    }
    out
}

/// Whether a variant has one of the values for each list that a filter names.
fn is_meant(filter: &[Option<Vec<Wild>>], variant: &Variant) -> bool {
    filter
        .iter()
        .zip(variant)
        .all(|(forms, (_, value))| forms.as_ref().is_none_or(|forms| forms.iter().any(|form| form.matches(value))))
}
