//! Params and includes, out of TOML.
//!
//! Knows shapes; what values mean is for [`super::params`] and [`super::include`].

use toml::de::{DeTable, DeValue};

use super::errors::ErrorKind;
use super::model::{Include, ParamKind, ParamTable, Str};
use super::reader::{Owner, Reader, Value};

/// Keys of one param.
pub(super) const PARAM_KEYS: [&str; 8] =
    ["type", "default", "required", "pattern", "choices", "from-env", "deprecated", "description"];
/// Keys of an entry of `include`.
pub(super) const INCLUDE_KEYS: [&str; 5] = ["path", "url", "blake3", "name", "dir"];
/// Types of params.
const KINDS: [(&str, ParamKind); 4] =
    [("string", ParamKind::String), ("int", ParamKind::Int), ("bool", ParamKind::Bool), ("list", ParamKind::List)];

impl Reader {
    /// The params of a table.
    pub(super) fn params<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Vec<ParamTable<'a>> {
        let mut out = vec![];
        for (name, value) in self.table(owner, "params", value).into_iter().flatten() {
            let name = self.key(name);
            match value.get_ref() {
                DeValue::Table(_) => {
                    let DeValue::Table(table) = value.into_inner() else { continue };
                    out.push(self.param(name, table));
                }
                _ => {
                    let owned = name.text.clone();
                    let (kind, default) = self.default(Owner::Param(&owned), value);
                    out.extend(
                        default.map(|default| ParamTable { default: Some(default), ..ParamTable::new(name, kind) }),
                    );
                }
            }
        }
        out
    }

    fn param<'a>(&mut self, name: Str<'a>, table: DeTable<'a>) -> ParamTable<'a> {
        let owned = name.text.clone();
        let owner = Owner::Param(&owned);
        let mut kind = None;
        let mut out = ParamTable::new(name, ParamKind::String);
        for (key, value) in table {
            let key = self.key(key);
            match &*key.text {
                "type" => {
                    let Some(text) = self.text(owner, "type", value) else { continue };
                    kind = KINDS.iter().find(|(name, _)| *name == text.text).map(|(_, kind)| *kind);
                    if kind.is_none() {
                        let message = format!("`type` of {owner} is `{}`, which is none", text.text);
                        let hint = "one of `string`, `int`, `bool`, `list`".to_owned();
                        self.error(ErrorKind::BadValue, text.place, message).hints.push(hint);
                        kind = Some(ParamKind::String);
                    }
                }
                "default" => {
                    let (found, default) = self.default(owner, value);
                    out.kind = found;
                    out.default = default;
                }
                "required" => out.required = self.bool(owner, "required", value),
                "pattern" => out.pattern = self.text(owner, "pattern", value),
                "choices" => out.choices = self.scalars(owner, "choices", value),
                "from-env" => out.from_env = self.text(owner, "from-env", value),
                "deprecated" => out.deprecated = self.text(owner, "deprecated", value),
                "description" => out.description = self.text(owner, "description", value),
                _ => self.unknown(owner, &key, &PARAM_KEYS),
            }
        }
        out.kind = kind.unwrap_or(out.kind);
        out
    }

    /// A default, and the type that it shows.
    fn default<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> (ParamKind, Option<Vec<Str<'a>>>) {
        let place = self.place(value.span());
        match value.get_ref() {
            DeValue::Boolean(b) => {
                (ParamKind::Bool, Some(vec![Str { text: if *b { "true" } else { "false" }.into(), place }]))
            }
            DeValue::Integer(_) => (ParamKind::Int, self.scalar(owner, "default", value).map(|one| vec![one])),
            DeValue::Array(_) => (ParamKind::List, Some(self.scalars(owner, "default", value))),
            _ => {
                let takes = "a string, an integer, a boolean or a list";
                (ParamKind::String, self.text_as(owner, "default", takes, value).map(|one| vec![one]))
            }
        }
    }

    fn scalars<'a>(&mut self, owner: Owner<'_>, key: &str, value: Value<'a>) -> Vec<Str<'a>> {
        let items = self.list(owner, key, "a list of strings or integers", value).unwrap_or_default();
        items.into_iter().filter_map(|item| self.scalar(owner, key, item)).collect()
    }

    /// What a workfile includes.
    pub(super) fn includes<'a>(&mut self, value: Value<'a>) -> Vec<Include<'a>> {
        let takes = "a list of paths or tables";
        let mut out = vec![];
        for item in self.list(Owner::File, "include", takes, value).into_iter().flatten() {
            let place = self.place(item.span());
            let mut one = Include { place, path: None, url: None, blake3: None, name: None, dir: None };
            if !matches!(item.get_ref(), DeValue::Table(_)) {
                one.path = self.text_as(Owner::File, "include", takes, item);
                out.extend(one.path.is_some().then_some(one));
                continue;
            }
            let errors = self.errors.len();
            for (key, value) in self.table(Owner::File, "include", item).into_iter().flatten() {
                let key = self.key(key);
                let owner = Owner::Include;
                match &*key.text {
                    "path" => one.path = self.text(owner, "path", value),
                    "url" => one.url = self.text(owner, "url", value),
                    "blake3" => one.blake3 = self.text(owner, "blake3", value),
                    "name" => one.name = self.text(owner, "name", value),
                    "dir" => one.dir = self.text(owner, "dir", value),
                    _ => self.unknown(owner, &key, &INCLUDE_KEYS),
                }
            }
            if self.errors.len() > errors {
                continue;
            }
            let wrong = match (&one.path, &one.url, &one.blake3) {
                (None, None, _) => Some("has neither `path` nor `url`"),
                (Some(_), Some(_), _) => Some("has both `path` and `url`"),
                (None, Some(_), None) => Some("has a `url` but no `blake3`"),
                _ => None,
            };
            match wrong {
                Some(wrong) => {
                    self.error(ErrorKind::BadValue, place, format!("an entry of `include` {wrong}"));
                }
                None => out.push(one),
            }
        }
        out
    }
}

impl<'a> ParamTable<'a> {
    fn new(name: Str<'a>, kind: ParamKind) -> Self {
        Self {
            name,
            kind,
            default: None,
            required: None,
            pattern: None,
            choices: vec![],
            from_env: None,
            deprecated: None,
            description: None,
        }
    }
}
