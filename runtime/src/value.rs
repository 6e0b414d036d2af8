//! Values: what a task's arguments are made of, with promises at any depth.
//!
//! Knows shapes, canonical order and bounds; unaware of which task a promise means and of how values are kept.

use std::sync::Arc;

use quipu_store::cid::{Link, TaskId};
use quipu_store::dag::MAX_INT;

use crate::graph::TaskIdx;

/// Deepest nesting of lists and maps in a value.
pub const MAX_DEPTH: usize = 64;

/// Immutable text, cheap to clone: most of a workflow's texts are the same few.
pub type Text = Arc<str>;

/// Which part of an output: keys of maps, then names in directories. Empty for the whole.
pub type At = Arc<[Text]>;

/// One value of a task's arguments. A workflow holds very many: what is large, or rare, is behind a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer within ±(2^53-1).
    Int(i64),
    /// Text.
    Text(Text),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// Values in order.
    List(Arc<[Self]>),
    /// Values by key, in canonical order: shorter keys first, then by bytes. Make one with [`Value::map`].
    Map(Arc<[(Text, Self)]>),
    /// A link to a block. Never looked up as a promise, whatever it points to.
    Link(Arc<Link>),
    /// The output of a task of the same workflow, or a part of it. See [`Value::as_promise`].
    AwaitHere(Branch, TaskIdx, At),
    /// The output of any task, by its id, or a part of it. See [`Value::as_promise`].
    AwaitId(Arc<(Branch, TaskId, At)>),
}

/// Which branch of a task's result a promise takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Branch {
    /// The output of a task that succeeded.
    Ok,
    /// The error of a task that failed.
    Error,
    /// Whichever it was, as `{"ok": ...}` or `{"error": ...}`.
    Any,
}

impl Branch {
    /// The key a promise on this branch is written with.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Ok => "await/ok",
            Self::Error => "await/error",
            Self::Any => "await/*",
        }
    }
}

/// The task a promise waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum On {
    /// A task of the same workflow, by its place in it.
    Here(TaskIdx),
    /// Any task, by its id.
    Id(TaskId),
}

/// A promise: `{"await/ok": task}`, or `{"quipu/at": [promise, "path", ...]}` for a part of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Await<'a> {
    /// The branch it takes.
    pub branch: Branch,
    /// Whose output.
    pub on: On,
    /// Which part of it.
    pub at: &'a At,
}

/// Why something is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Nested too deeply.
    #[error("value is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// An integer other implementations cannot hold.
    #[error("integer {0} is outside ±(2^53-1)")]
    IntRange(i64),
    /// The same key twice in one map.
    #[error("key `{0}` stands twice in one map")]
    DuplicateKey(String),
    /// Looks like a promise and is none.
    #[error("`{0}` is not a well-formed promise")]
    Promise(String),
}

impl Value {
    /// Text.
    pub fn text(text: impl Into<Text>) -> Self {
        Self::Text(text.into())
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A map from pairs in any order.
    pub fn map<K: Into<Text>>(pairs: impl IntoIterator<Item = (K, Self)>) -> Result<Self, ValueError> {
        let mut pairs: Vec<(Text, Self)> = pairs.into_iter().map(|(k, v)| (k.into(), v)).collect();
        pairs.sort_unstable_by(|a, b| canonical(&a.0, &b.0));
        if let Some(w) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(ValueError::DuplicateKey(w[0].0.to_string()));
        }
        Ok(Self::Map(pairs.into()))
    }

    /// A promise.
    pub fn promise(branch: Branch, on: On, at: impl IntoIterator<Item = impl Into<Text>>) -> Self {
        Self::promise_at(branch, on, at.into_iter().map(Into::into).collect())
    }

    /// A promise on a part that others may await, too.
    pub fn promise_at(branch: Branch, on: On, at: At) -> Self {
        match on {
            On::Here(task) => Self::AwaitHere(branch, task, at),
            On::Id(id) => Self::AwaitId(Arc::new((branch, id, at))),
        }
    }

    /// The value under `key`, when this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        pairs.binary_search_by(|(k, _)| canonical(k, key)).ok().map(|i| &pairs[i].1)
    }

    /// The text, when this is text.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The promise, when this is one.
    pub fn as_promise(&self) -> Option<Await<'_>> {
        match self {
            Self::AwaitHere(branch, task, at) => Some(Await { branch: *branch, on: On::Here(*task), at }),
            Self::AwaitId(promise) => {
                let (branch, id, at) = &**promise;
                Some(Await { branch: *branch, on: On::Id(*id), at })
            }
            _ => None,
        }
    }

    /// Calls `each` with every promise within, in canonical order.
    pub fn promises<'a>(&'a self, each: &mut impl FnMut(Await<'a>)) {
        match self {
            Self::List(items) => items.iter().for_each(|v| v.promises(each)),
            Self::Map(pairs) => pairs.iter().for_each(|(_, v)| v.promises(each)),
            other => other.as_promise().into_iter().for_each(each),
        }
    }

    /// Checks depth, integers and that no plain map poses as a promise.
    pub fn check(&self) -> Result<(), ValueError> {
        self.check_at(0)
    }

    fn check_at(&self, depth: usize) -> Result<(), ValueError> {
        if depth > MAX_DEPTH {
            return Err(ValueError::TooDeep);
        }
        match self {
            Self::Int(n) if !(-MAX_INT..=MAX_INT).contains(n) => Err(ValueError::IntRange(*n)),
            Self::List(items) => items.iter().try_for_each(|v| v.check_at(depth + 1)),
            Self::Map(pairs) => {
                if let [(key, _)] = &pairs[..]
                    && (key.starts_with("await/") || &**key == "quipu/at")
                {
                    return Err(ValueError::Promise(key.to_string()));
                }
                pairs.iter().try_for_each(|(_, v)| v.check_at(depth + 1))
            }
            _ => Ok(()),
        }
    }

    /// The same value with each promise replaced by what `resolve` gives for it.
    pub fn resolved<E>(&self, resolve: &mut impl FnMut(Await<'_>) -> Result<Self, E>) -> Result<Self, E> {
        Ok(match self {
            Self::List(items) => Self::List(items.iter().map(|v| v.resolved(resolve)).collect::<Result<_, E>>()?),
            Self::Map(pairs) => {
                let pairs = pairs.iter().map(|(k, v)| Ok((k.clone(), v.resolved(resolve)?)));
                Self::Map(pairs.collect::<Result<_, E>>()?)
            }
            other => match other.as_promise() {
                Some(promise) => resolve(promise)?,
                None => other.clone(),
            },
        })
    }

    /// The same value; what stands at the same place in `other`, too, is kept once for both.
    #[must_use]
    pub fn sharing(&self, other: &Self) -> Self {
        match (self, other) {
            _ if self == other => other.clone(),
            (Self::List(own), Self::List(others)) => {
                let others = others.iter().map(Some).chain(std::iter::repeat(None));
                Self::List(own.iter().zip(others).map(|(v, o)| o.map_or_else(|| v.clone(), |o| v.sharing(o))).collect())
            }
            (Self::Map(own), Self::Map(others)) => {
                let pairs = own.iter().map(|(key, v)| match others.binary_search_by(|(k, _)| canonical(k, key)) {
                    Ok(i) => (others[i].0.clone(), v.sharing(&others[i].1)),
                    Err(_) => (key.clone(), v.clone()),
                });
                Self::Map(pairs.collect())
            }
            _ => self.clone(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<Link> for Value {
    fn from(link: Link) -> Self {
        Self::Link(Arc::new(link))
    }
}

/// The order of map keys in DAG-CBOR: by length, then by bytes.
pub fn canonical(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::tests::values;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_shared_stays_what_it_was(own in values(), other in values()) {
            prop_assert_eq!(own.sharing(&other), own);
        }
    }

    #[test]
    fn what_stands_at_the_same_place_is_kept_once() {
        let value = |name: &str| {
            let argv = Value::list([Value::from("cc"), Value::from(name)]);
            Value::map([("argv", argv), ("env", Value::map([("HOME", "/home".into())]).expect("one key"))])
        };
        let (a, b) = (value("a").expect("two keys"), value("b").expect("two keys"));
        let shared = b.sharing(&a);
        assert_eq!(shared, b);
        let (Value::Map(a), Value::Map(shared)) = (&a, &shared) else { panic!("maps") };
        assert!(Arc::ptr_eq(&a[0].0, &shared[0].0), "a key");
        let (Value::Map(env), Value::Map(shared_env)) = (&a[0].1, &shared[0].1) else { panic!("maps") };
        assert!(Arc::ptr_eq(env, shared_env), "all of an equal map");
        let (Value::List(argv), Value::List(shared_argv)) = (&a[1].1, &shared[1].1) else { panic!("lists") };
        let (Value::Text(program), Value::Text(shared_program)) = (&argv[0], &shared_argv[0]) else { panic!("texts") };
        assert!(Arc::ptr_eq(program, shared_program), "the same text in a list that differs");
    }

    #[test]
    fn what_there_are_very_many_of_stays_small() {
        assert!(size_of::<Value>() <= 24, "{}", size_of::<Value>());
        assert!(size_of::<crate::task::Node>() <= 112, "{}", size_of::<crate::task::Node>());
    }
}
