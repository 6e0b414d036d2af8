//! Values as DAG-JSON, both ways: what a block of DAG-CBOR says, in a form that people and programs of all languages read.
//!
//! A link is `{"/": "bafy..."}`, bytes are `{"/": {"bytes": "base64"}}`. A map with the one key `/` has no such form and is
//! refused. Bounded in size and depth; unaware of what a value means.

use std::fmt;

use quipu_store::cid::{Link, TaskId};
use quipu_store::dag::MAX_INT;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use crate::base64;
use crate::canon::promise_or_map;
use crate::identity::{Ingredients, feed, feed_task};
use crate::task::Task;
use crate::value::{On, Text, Value, ValueError};

/// Largest text that is read, in bytes.
pub const MAX_JSON_BYTES: usize = 32 << 20;

/// Why a text is no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DagJsonError {
    /// It is too long.
    #[error("it has {0} bytes, more than {MAX_JSON_BYTES}")]
    TooLarge(usize),
    /// It is not JSON, or holds what has no place in a value.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Nested too deeply, or something in the shape of a promise that is none.
    #[error("{0}")]
    Value(#[from] ValueError),
}

/// Makes JSON of the parts of a value.
#[derive(Debug, Default)]
pub struct Writer {
    open: Vec<Open>,
    made: Option<Json>,
}

#[derive(Debug)]
enum Open {
    List(Vec<Json>),
    Map(serde_json::Map<String, Json>, String),
}

impl Writer {
    /// What was made of the value that was fed; `null` when none was.
    pub fn finish(self) -> Json {
        self.made.unwrap_or_default()
    }

    fn put(&mut self, json: Json) {
        match self.open.last_mut() {
            None => self.made = Some(json),
            Some(Open::List(items)) => items.push(json),
            Some(Open::Map(pairs, key)) => drop(pairs.insert(std::mem::take(key), json)),
        }
    }
}

impl Ingredients for Writer {
    fn null(&mut self) {
        self.put(Json::Null);
    }

    fn bool(&mut self, value: bool) {
        self.put(value.into());
    }

    fn int(&mut self, value: i64) {
        self.put(value.into());
    }

    fn text(&mut self, value: &str) {
        self.put(value.into());
    }

    fn bytes(&mut self, value: &[u8]) {
        let text = base64::encode(value);
        self.put(serde_json::json!({ "/": { "bytes": text.trim_end_matches('=') } }));
    }

    fn link(&mut self, value: Link) {
        self.put(serde_json::json!({ "/": value.to_string() }));
    }

    fn list(&mut self, _: usize) {
        self.open.push(Open::List(vec![]));
    }

    fn map(&mut self, _: usize) {
        self.open.push(Open::Map(serde_json::Map::new(), String::new()));
    }

    fn key(&mut self, key: &str) {
        if let Some(Open::Map(_, next)) = self.open.last_mut() {
            key.clone_into(next);
        }
    }

    fn end(&mut self) {
        match self.open.pop() {
            Some(Open::List(items)) => self.put(items.into()),
            Some(Open::Map(pairs, _)) => self.put(pairs.into()),
            None => {}
        }
    }
}

/// A value whose promises name tasks by id, as those of invocations and of decoded blocks do.
pub fn of_value(value: &Value) -> Json {
    let mut writer = Writer::default();
    feed(value, &mut writer, &by_id);
    writer.finish()
}

/// A task whose promises name tasks by id.
pub fn of_task(task: &Task) -> Json {
    let mut writer = Writer::default();
    feed_task(task, &mut writer, &by_id);
    writer.finish()
}

fn by_id(on: On) -> TaskId {
    match on {
        On::Id(id) => id,
        On::Here(_) => unreachable!("what is no task of a workflow names tasks by id"),
    }
}

/// Reads a value from a text that may come from anywhere. Maps in the shape of a promise become promises.
pub fn read(text: &[u8]) -> Result<Value, DagJsonError> {
    if text.len() > MAX_JSON_BYTES {
        return Err(DagJsonError::TooLarge(text.len()));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Any.deserialize(&mut reader)?;
    reader.end()?;
    value.check()?;
    Ok(value)
}

/// Any value. How deep it may be nested is up to the reader of the JSON (128) and to [`Value::check`].
struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without fractions")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if (-MAX_INT..=MAX_INT).contains(&value) {
            Ok(Value::Int(value))
        } else {
            Err(E::custom(ValueError::IntRange(value)))
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = vec![];
        while let Some(item) = items.next_element_seed(Self)? {
            out.push(item);
        }
        Ok(Value::List(out.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut pairs: Vec<(Text, Value)> = vec![];
        while let Some(key) = entries.next_key::<String>()? {
            pairs.push((key.into(), entries.next_value_seed(Self)?));
        }
        let map = Value::map(pairs).map_err(A::Error::custom)?;
        let Value::Map(pairs) = &map else { unreachable!("a map is made of pairs") };
        match &pairs[..] {
            [(key, inner)] if &**key == "/" => {
                slashed(inner).ok_or_else(|| A::Error::custom("`/` holds neither a link nor bytes"))
            }
            _ => promise_or_map(pairs.to_vec()).map_err(A::Error::custom),
        }
    }
}

/// What a map with the one key `/` stands for.
fn slashed(inner: &Value) -> Option<Value> {
    match inner {
        Value::Text(text) => text.parse::<Link>().ok().map(Value::from),
        Value::Map(pairs) => match &pairs[..] {
            [(key, Value::Text(text))] if &**key == "bytes" && !text.ends_with('=') => {
                base64::decode(text).map(|bytes| Value::Bytes(bytes.into()))
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::canon::tests::values;

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in values()) {
            let json = of_value(&value);
            let text = serde_json::to_string(&json).expect("JSON has text for keys");
            prop_assert_eq!(read(text.as_bytes()).expect("reads"), value.clone());
            let pretty = serde_json::to_string_pretty(&json).expect("JSON has text for keys");
            prop_assert_eq!(read(pretty.as_bytes()).expect("reads"), value);
        }

        #[test]
        fn any_text_is_refused_or_a_value(text in "[\\[\\]{}\",:/a-z0-9 .-]{0,80}") {
            if let Ok(value) = read(text.as_bytes()) {
                prop_assert!(value.check().is_ok());
            }
        }
    }

    #[test]
    fn keys_are_in_the_order_of_their_bytes_and_there_is_no_white_space() {
        let value = Value::map([("b", Value::Int(1)), ("aa", Value::Bytes([255, 254].into()))]).expect("keys differ");
        let text = serde_json::to_string(&of_value(&value)).expect("JSON has text for keys");
        assert_eq!(text, r#"{"aa":{"/":{"bytes":"//4"}},"b":1}"#);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let deep = format!("{}null{}", "[".repeat(70), "]".repeat(70));
        let deeper = "[".repeat(1_000_000);
        for bad in [
            r#"{"a":1,"a":2}"#,
            "1.5",
            "1e3",
            "9007199254740992",
            "18446744073709551615",
            r#"{"/":"bafy"}"#,
            r#"{"/":{"bytes":"//4="}}"#,
            r#"{"/":{"bytes":"/"}}"#,
            r#"{"/":1}"#,
            r#"{"await/ok":1}"#,
            r#"{"quipu/at":[]}"#,
            "1 2",
            "",
            deep.as_str(),
            deeper.as_str(),
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{}", bad.get(..40).unwrap_or(bad));
        }
    }
}
