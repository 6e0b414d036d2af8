//! How a task of a workflow is handled: what its `meta` says.
//!
//! What has a default and is not said is left out. Unaware of the other tasks.

use std::time::Duration;

use super::map;
use crate::task::{Policy, When};
use crate::value::{Text, Value};

/// How a task is handled.
#[derive(Debug, Default)]
pub(super) struct Meta {
    pub(super) policy: Policy,
    /// What ends before it starts, by name.
    pub(super) after: Vec<Text>,
    /// What must have passed before its outputs are placed, by name.
    pub(super) checks: Vec<Text>,
    /// Where what it fetches is found.
    pub(super) urls: Vec<Text>,
}

/// What there is to say of it, if there is anything.
pub(super) fn meta(said: Meta) -> Option<Value> {
    let Meta { policy, after, checks, urls } = said;
    let Policy { timeout, retries, backoff, when, cache, slots, mute } = policy;
    let ms = |d: &Duration| Value::Int(i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let mut pairs = vec![];
    for (key, mut names) in [("after", after), ("checks", checks)] {
        names.sort_unstable();
        names.dedup();
        pairs.extend((!names.is_empty()).then(|| (key, Value::list(names.into_iter().map(Value::Text)))));
    }
    // Best first.
    pairs.extend((!urls.is_empty()).then(|| ("urls", Value::list(urls.into_iter().map(Value::Text)))));
    pairs.extend(timeout.as_ref().map(|d| ("timeout_ms", ms(d))));
    if retries > 0 {
        pairs.push(("retries", Value::Int(retries.into())));
    }
    pairs.extend(backoff.as_ref().map(|d| ("backoff_ms", ms(d))));
    if when != When::Success {
        pairs.push(("when", when.name().into()));
    }
    if !cache {
        pairs.push(("cache", Value::Bool(false)));
    }
    if !slots.is_empty() {
        let slots = slots.into_iter().map(|(name, n)| (name, Value::Int(n.into())));
        pairs.push(("slots", Value::map(slots).expect("names of a map are distinct")));
    }
    if mute {
        pairs.push(("mute", Value::Bool(true)));
    }
    (!pairs.is_empty()).then(|| map(pairs))
}

/// What was said of how a task is handled; fields that nobody knows are found when it is written again.
pub(super) fn read_meta(meta: &Value) -> Option<Meta> {
    let Value::Map(pairs) = meta else { return None };
    let ms = |v: &Value| match v {
        Value::Int(n) => u64::try_from(*n).ok().map(Duration::from_millis),
        _ => None,
    };
    let small = |v: &Value| match v {
        Value::Int(n) => u32::try_from(*n).ok(),
        _ => None,
    };
    let texts = |list: &[Value]| list.iter().map(|n| n.as_text().map(Text::from)).collect::<Option<Vec<_>>>();
    let Meta { mut policy, mut after, mut checks, mut urls } = Meta::default();
    for (key, value) in pairs.iter() {
        match (&**key, value) {
            ("after", Value::List(list)) => after = texts(list)?,
            ("checks", Value::List(list)) => checks = texts(list)?,
            ("urls", Value::List(list)) => urls = texts(list)?,
            ("timeout_ms", n) => policy.timeout = Some(ms(n)?),
            ("retries", n) => policy.retries = small(n)?,
            ("backoff_ms", n) => policy.backoff = Some(ms(n)?),
            ("when", Value::Text(name)) => {
                policy.when = [When::Failure, When::Always, When::Changed].into_iter().find(|w| *w.name() == **name)?;
            }
            ("cache", Value::Bool(false)) => policy.cache = false,
            ("slots", Value::Map(slots)) => {
                policy.slots = slots.iter().map(|(name, n)| Some((name.clone(), small(n)?))).collect::<Option<_>>()?;
            }
            ("mute", Value::Bool(true)) => policy.mute = true,
            _ => return None,
        }
    }
    Some(Meta { policy, after, checks, urls })
}
