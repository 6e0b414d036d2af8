//! Selectors: `compile`, `compile[main]`, `app:compile`, `*:test`, `tag:slow` to the recipes they mean.
//!
//! Knows names, variants and tags; unaware of what tasks do.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::errors::near;
use super::wild::Wild;
use crate::value::Text;

/// Why a selector selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectError {
    /// What is wrong, starting with the selector in backticks: "`x`, which is not defined".
    pub message: String,
    /// A way on.
    pub hint: Option<String>,
}

/// The names of a workspace.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Names of members; the root's is empty.
    members: Vec<Text>,
    tables: Vec<Table>,
    by_table: FxHashMap<Text, u32>,
    by_recipe: FxHashMap<Text, u32>,
    by_tag: FxHashMap<Text, Vec<u32>>,
    recipes: Vec<Text>,
}

#[derive(Debug)]
struct Table {
    /// With its member.
    name: Text,
    member: usize,
    recipes: Range<u32>,
}

impl Table {
    /// Its name within its member.
    fn bare(&self) -> &str {
        self.name.rsplit(':').next().unwrap_or_default()
    }
}

impl Names {
    pub(crate) fn new(members: Vec<Text>) -> Self {
        Self { members, ..Self::default() }
    }

    /// Adds a table and the names of its recipes, which follow those of the tables before.
    pub(crate) fn add(&mut self, name: Text, member: usize, tags: &[Text], recipes: impl Iterator<Item = Text>) {
        let first = self.recipes.len() as u32;
        for recipe in recipes {
            self.by_recipe.insert(recipe.clone(), self.recipes.len() as u32);
            self.recipes.push(recipe);
        }
        let table = self.tables.len() as u32;
        for tag in tags {
            self.by_tag.entry(tag.clone()).or_default().push(table);
        }
        self.by_table.insert(name.clone(), table);
        self.tables.push(Table { name, member, recipes: first..self.recipes.len() as u32 });
    }

    /// The recipe of exactly that name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_recipe.get(name).map(|i| *i as usize)
    }

    /// The recipes that `selector`, written in `member`, means. None at all only when what it means has an
    /// error of its own. Similar names are looked for only when there is reason to `explain`.
    pub(crate) fn select(&self, member: usize, selector: &str, explain: bool) -> Result<Vec<Range<u32>>, SelectError> {
        if selector.starts_with('+') || selector.ends_with('+') {
            let message = format!("`{selector}`, but `+` is for the command line");
            let hint = Some("`needs` takes all that a task needs anyway".to_owned());
            return Err(SelectError { message, hint });
        }
        let no = |message: String| Err(SelectError { message: format!("`{selector}`, {message}"), hint: None });
        let hint = |find: &dyn Fn() -> Option<String>| if explain { find() } else { None };
        if let Some(tag) = selector.strip_prefix("tag:") {
            let Some(tagged) = self.by_tag.get(tag) else {
                let message = format!("`{selector}`, but no task has that tag");
                return Err(SelectError { message, hint: hint(&|| near(tag, self.by_tag.keys().map(|t| &**t))) });
            };
            return Ok(tagged.iter().map(|t| self.tables[*t as usize].recipes.clone()).collect());
        }
        let (path, variant) = match selector.split_once('[') {
            None => (selector, None),
            Some((path, rest)) => match rest.strip_suffix(']') {
                Some(variant) => (path, Some(variant)),
                None => return no("in which `[` is never closed".into()),
            },
        };
        let (of, bare) = path.split_once(':').map_or((None, path), |(of, bare)| (Some(of), bare));
        if bare.is_empty() {
            return no("which names no task".into());
        }
        if by_form(bare) || of.is_some_and(by_form) {
            let of_form = of.map(Wild::simple);
            let form = Wild::simple(bare);
            let mut found = vec![];
            for table in &self.tables {
                let here = of_form.as_ref().map_or(table.member == member, |f| f.matches(&self.members[table.member]));
                if here && form.matches(table.bare()) {
                    self.variants(table, variant, &mut found);
                }
            }
            return if found.is_empty() { no("which matches no task".into()) } else { Ok(found) };
        }
        let full = match of {
            None if self.members[member].is_empty() => None,
            None => Some(format!("{}:{bare}", self.members[member])),
            Some("") => None,
            Some(of) if !self.members.iter().any(|m| **m == *of) => {
                let hint = hint(&|| near(of, self.members.iter().map(|m| &**m).filter(|m| !m.is_empty())));
                let message = format!("`{selector}`, but there is no member `{of}`");
                return Err(SelectError { message, hint });
            }
            Some(_) => Some(path.to_owned()),
        };
        let Some(table) = self.by_table.get(full.as_deref().unwrap_or(bare)) else {
            let hint = hint(&|| self.near_task(member, path, bare));
            return Err(SelectError { message: format!("`{selector}`, which is not defined"), hint });
        };
        let table = &self.tables[*table as usize];
        let mut found = vec![];
        self.variants(table, variant, &mut found);
        if !found.is_empty() {
            return Ok(found);
        }
        if table.recipes.is_empty() {
            // It is there, and has an error of its own.
            return Ok(vec![]);
        }
        let names: Vec<&str> = self.variant_names(table).map(|(name, _)| name).take(1000).collect();
        if names.iter().all(|n| n.is_empty()) {
            return no(format!("but `{path}` has no variants"));
        }
        let hint = near(variant.unwrap_or_default(), names.iter().copied());
        let hint = hint.unwrap_or_else(|| {
            let some: Vec<String> = names.iter().take(5).map(|n| format!("`{n}`")).collect();
            format!("its variants are {}{}", some.join(", "), if names.len() > 5 { ", ..." } else { "" })
        });
        let message = format!("`{selector}`, but `{path}` has no such variant");
        Err(SelectError { message, hint: Some(hint) })
    }

    fn variants(&self, table: &Table, variant: Option<&str>, found: &mut Vec<Range<u32>>) {
        let Some(variant) = variant else {
            if !table.recipes.is_empty() {
                found.push(table.recipes.clone());
            }
            return;
        };
        if let Some(i) = self.by_recipe.get(&*format!("{}[{variant}]", table.name)) {
            found.push(*i..*i + 1);
        } else if variant.contains(['*', '?']) {
            let form = Wild::simple(variant);
            let ones = self.variant_names(table).filter(|(n, _)| form.matches(n));
            found.extend(ones.map(|(_, i)| i..i + 1));
        }
    }

    /// A table's variants without name and brackets.
    fn variant_names<'n>(&'n self, table: &'n Table) -> impl Iterator<Item = (&'n str, u32)> {
        table.recipes.clone().map(|i| {
            let rest = self.recipes[i as usize].strip_prefix(&*table.name).unwrap_or_default();
            (rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or_default(), i)
        })
    }

    fn near_task(&self, member: usize, path: &str, bare: &str) -> Option<String> {
        // As somebody in that member writes it.
        let written = |table: &Table| match table.member {
            m if m == member => table.bare().to_owned(),
            0 => format!(":{}", table.name),
            _ => table.name.to_string(),
        };
        // The same name elsewhere is more likely meant than a similar one here.
        let mut elsewhere = self.tables.iter().filter(|t| t.bare() == bare).map(written);
        if let Some(name) = elsewhere.next() {
            return Some(format!("did you mean `{name}`?"));
        }
        let names: Vec<String> = self.tables.iter().map(written).collect();
        near(path, names.iter().map(String::as_str))
    }
}

/// Whether a selector means tasks by form or tag: never the one it is written in.
pub(crate) fn is_broad(selector: &str) -> bool {
    selector.starts_with("tag:") || selector.split('[').next().is_some_and(by_form)
}

fn by_form(text: &str) -> bool {
    text.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::new(vec!["".into(), "app".into(), "lib".into()]);
        for (member, name, tags, variants) in [
            (0, "build", &["ci"][..], &[][..]),
            (0, "cc", &[], &["main,x", "util,y"]),
            (1, "app:build", &["ci", "slow"], &[]),
            (1, "app:test", &[], &[]),
            (2, "lib:test", &["slow"], &["a[1]", "b"]),
        ] {
            let tags: Vec<Text> = tags.iter().map(|t| Text::from(*t)).collect();
            let recipes: Vec<Text> = match variants {
                [] => vec![name.into()],
                _ => variants.iter().map(|v| format!("{name}[{v}]").into()).collect(),
            };
            names.add(name.into(), member, &tags, recipes.into_iter());
        }
        names
    }

    fn check(member: usize, selector: &str, expected: &str) {
        let names = names();
        let found = match names.select(member, selector, true) {
            Ok(ranges) => {
                let found: Vec<&str> = ranges.into_iter().flatten().map(|i| &*names.recipes[i as usize]).collect();
                found.join(" ")
            }
            Err(error) => format!("! {error}{}", error.hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default()),
        };
        assert_eq!(found, expected, "{selector} in {member}");
    }

    #[test]
    fn selectors_select() {
        check(0, "build", "build");
        check(0, "cc", "cc[main,x] cc[util,y]");
        check(0, "cc[main,x]", "cc[main,x]");
        check(0, "cc[*,y]", "cc[util,y]");
        check(1, "build", "app:build");
        check(1, ":build", "build");
        check(1, "lib:test", "lib:test[a[1]] lib:test[b]");
        check(2, "test[a[1]]", "lib:test[a[1]]");
        check(0, "*:test", "app:test lib:test[a[1]] lib:test[b]");
        check(0, "*:*[b]", "lib:test[b]");
        check(1, "*", "app:build app:test");
        check(0, "c?", "cc[main,x] cc[util,y]");
        check(0, "tag:ci", "build app:build");
        check(0, "tag:slow", "app:build lib:test[a[1]] lib:test[b]");
    }

    #[test]
    fn what_selects_nothing_says_why() {
        check(0, "biuld", "! `biuld`, which is not defined; did you mean `build`?");
        check(0, "test", "! `test`, which is not defined; did you mean `app:test`?");
        check(1, "cc", "! `cc`, which is not defined; did you mean `:cc`?");
        check(0, "apq:test", "! `apq:test`, but there is no member `apq`; did you mean `app`?");
        check(0, "x*", "! `x*`, which matches no task");
        check(0, "tag:slwo", "! `tag:slwo`, but no task has that tag; did you mean `slow`?");
        check(0, "build[x]", "! `build[x]`, but `build` has no variants");
        check(0, "cc[main,y]", "! `cc[main,y]`, but `cc` has no such variant; did you mean `main,x`?");
        check(0, "cc[main", "! `cc[main`, in which `[` is never closed");
        check(0, "app:", "! `app:`, which names no task");
    }
}
