//! Lists of values and what filters them, out of TOML.
//!
//! Knows shapes; what values mean is for [`super::matrix`].

use toml::de::DeValue;

use super::errors::ErrorKind;
use super::model::{Axis, Filter, Str, Values};
use super::reader::{Owner, Reader, Value};

impl Reader {
    pub(super) fn matrix<'a>(
        &mut self,
        owner: Owner<'_>,
        value: Value<'a>,
        removed: &mut Vec<(&'static str, Str<'a>)>,
    ) -> Vec<Axis<'a>> {
        let place = self.place(value.span());
        let Some(table) = self.table(owner, "matrix", value) else { return vec![] };
        if table.is_empty() {
            self.error(ErrorKind::Matrix, place, format!("`matrix` of {owner} is empty"));
        }
        let mut out = Vec::with_capacity(table.len());
        for (key, value) in table {
            let name = self.key(key);
            if matches!(value.get_ref(), DeValue::Boolean(false)) {
                removed.push(("matrix", name));
                continue;
            }
            let what = format!("matrix.{}", name.text);
            out.extend(self.values(owner, &what, value).map(|values| Axis { name, values }));
        }
        out
    }

    pub(super) fn values<'a>(&mut self, owner: Owner<'_>, what: &str, value: Value<'a>) -> Option<Values<'a>> {
        let takes = "a string of words, or a list of strings or integers";
        if matches!(value.get_ref(), DeValue::String(_)) {
            return self.text_as(owner, what, takes, value).map(Values::Words);
        }
        let place = self.place(value.span());
        let items = self.list(owner, what, takes, value)?;
        if items.is_empty() {
            let error = self.error(ErrorKind::Matrix, place, format!("`{what}` of {owner} is an empty list"));
            error.hints.push("without a value there is no task at all".into());
        }
        Some(Values::List(items.into_iter().filter_map(|item| self.scalar(owner, what, item)).collect()))
    }

    pub(super) fn filters<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Vec<Filter<'a>> {
        let takes = "a table of values by list, or a list of such tables";
        let items = match value.get_ref() {
            DeValue::Table(_) => vec![value],
            _ => self.list(owner, key, takes, value).unwrap_or_default(),
        };
        let mut out = vec![];
        for item in items {
            let place = self.place(item.span());
            let Some(table) = self.table(owner, key, item) else { continue };
            if table.is_empty() {
                self.error(ErrorKind::Matrix, place, format!("a table in `{key}` of {owner} is empty"));
            }
            let mut lists = vec![];
            for (list, value) in table {
                let name = self.key(list);
                let what = format!("{key}.{}", name.text);
                let values = match value.get_ref() {
                    DeValue::Integer(_) => self.scalar(owner, &what, value).map(|one| Values::List(vec![one])),
                    _ => self.values(owner, &what, value),
                };
                lists.extend(values.map(|values| Axis { name, values }));
            }
            out.push(Filter { place, lists });
        }
        out
    }
}
