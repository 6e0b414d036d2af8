//! Values as canonical DAG-CBOR, both ways: the encoder behind every id, and a reader that takes nothing else.
//!
//! Knows bytes and values; unaware of what a value means. The reader is bounded in size and depth and
//! accepts exactly the bytes the writer makes, so that one value has one id.

use quipu_store::cid::Link;
use quipu_store::dag::{DagError, Heads, MAX_INT};

use crate::identity::Ingredients;
use crate::value::{At, Branch, MAX_DEPTH, On, Text, Value, canonical};

/// Largest encoded task or invocation, in bytes: a task that awaits 20,000 others fits.
pub const MAX_TASK_BYTES: usize = 4 << 20;

/// Writes ingredients as canonical DAG-CBOR.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// The bytes written so far, leaving the encoder empty for the next value.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    fn head(&mut self, major: u8, n: u64) {
        let major = major << 5;
        match n {
            0..=23 => self.bytes.push(major | n as u8),
            24..=0xff => self.bytes.extend([major | 24, n as u8]),
            0x100..=0xffff => {
                self.bytes.push(major | 25);
                self.bytes.extend((n as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                self.bytes.push(major | 26);
                self.bytes.extend((n as u32).to_be_bytes());
            }
            _ => {
                self.bytes.push(major | 27);
                self.bytes.extend(n.to_be_bytes());
            }
        }
    }
}

impl Ingredients for Encoder {
    fn null(&mut self) {
        self.bytes.push(0xf6);
    }

    fn bool(&mut self, value: bool) {
        self.bytes.push(if value { 0xf5 } else { 0xf4 });
    }

    fn int(&mut self, value: i64) {
        if value < 0 { self.head(1, !value as u64) } else { self.head(0, value as u64) }
    }

    fn text(&mut self, value: &str) {
        self.head(3, value.len() as u64);
        self.bytes.extend(value.as_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.head(2, value.len() as u64);
        self.bytes.extend(value);
    }

    fn link(&mut self, value: Link) {
        // Tag 42 around a byte string: a zero byte (the identity multibase), then the CID.
        self.bytes.extend([0xd8, 42, 0x58, 37, 0]);
        self.bytes.extend(value.to_bytes());
    }

    fn list(&mut self, len: usize) {
        self.head(4, len as u64);
    }

    fn map(&mut self, len: usize) {
        self.head(5, len as u64);
    }

    fn key(&mut self, key: &str) {
        self.text(key);
    }

    fn end(&mut self) {}
}

/// Decodes a value from bytes that may come from anywhere. Maps in the shape of a promise become promises.
pub fn decode(bytes: &[u8]) -> Result<Value, DagError> {
    if bytes.len() > MAX_TASK_BYTES {
        return Err(DagError::TooLarge { found_bytes: bytes.len() as u64, limit_bytes: MAX_TASK_BYTES as u64 });
    }
    let mut reader = Reader(Heads::new(bytes));
    let value = reader.value(0)?;
    if reader.0.left() == 0 { Ok(value) } else { Err(DagError::shape("bytes after the value")) }
}

struct Reader<'a>(Heads<'a>);

impl Reader<'_> {
    fn text(&mut self, n: u64) -> Result<Text, DagError> {
        std::str::from_utf8(self.0.take(n)?).map(Text::from).map_err(|_| DagError::shape("text is not UTF-8"))
    }

    fn value(&mut self, depth: usize) -> Result<Value, DagError> {
        // A promise with a path is a map in a list in a map: leave room to say that it is malformed.
        if depth > MAX_DEPTH + 3 {
            return Err(DagError::shape("nested too deeply"));
        }
        let in_range = |n: u64| {
            i64::try_from(n).ok().filter(|n| *n <= MAX_INT).ok_or_else(|| DagError::shape("integer out of range"))
        };
        match self.0.head()? {
            (0, n) => Ok(Value::Int(in_range(n)?)),
            (1, n) => Ok(Value::Int(
                -1 - in_range(n)
                    .and_then(|n| if n < MAX_INT { Ok(n) } else { Err(DagError::shape("integer out of range")) })?,
            )),
            (2, n) => Ok(Value::Bytes(self.0.take(n)?.into())),
            (3, n) => Ok(Value::Text(self.text(n)?)),
            (4, n) => {
                let mut items = vec![];
                for _ in 0..n {
                    items.push(self.value(depth + 1)?);
                }
                Ok(Value::List(items.into()))
            }
            (5, n) => {
                let mut pairs: Vec<(Text, Value)> = vec![];
                for _ in 0..n {
                    let (3, len) = self.0.head()? else { return Err(DagError::shape("key is not text")) };
                    let key = self.text(len)?;
                    if pairs.last().is_some_and(|(last, _)| canonical(last, &key).is_ge()) {
                        return Err(DagError::NotCanonical);
                    }
                    pairs.push((key, self.value(depth + 1)?));
                }
                promise_or_map(pairs)
            }
            (6, 42) => match self.0.head()? {
                (2, 37) => match self.0.take(37)? {
                    [0, cid @ ..] => {
                        Link::from_bytes(cid).map(Value::from).ok_or_else(|| DagError::shape("link of another kind"))
                    }
                    _ => Err(DagError::shape("link without its leading zero")),
                },
                _ => Err(DagError::shape("link of another length")),
            },
            (7, 20) => Ok(Value::Bool(false)),
            (7, 21) => Ok(Value::Bool(true)),
            (7, 22) => Ok(Value::Null),
            _ => Err(DagError::shape("a kind of value that has no place here")),
        }
    }
}

/// A map, or the promise that it has the shape of. Keys are in canonical order.
pub(crate) fn promise_or_map(pairs: Vec<(Text, Value)>) -> Result<Value, DagError> {
    let malformed = || DagError::shape("malformed promise");
    let [(key, inner)] = &pairs[..] else { return Ok(Value::Map(pairs.into())) };
    if &**key == "quipu/at" {
        let Value::List(items) = inner else { return Err(malformed()) };
        let Some((promise, path)) = items.split_first() else { return Err(malformed()) };
        let promise = promise.as_promise().ok_or_else(malformed)?;
        let path = path.iter().map(|v| if let Value::Text(text) = v { Some(text.clone()) } else { None });
        let path = path.collect::<Option<At>>().ok_or_else(malformed)?;
        if path.is_empty() || !promise.at.is_empty() {
            return Err(malformed());
        }
        return Ok(Value::promise_at(promise.branch, promise.on, path));
    }
    if !key.starts_with("await/") {
        return Ok(Value::Map(pairs.into()));
    }
    let branch =
        [Branch::Ok, Branch::Error, Branch::Any].into_iter().find(|b| b.key() == &**key).ok_or_else(malformed)?;
    let Value::Link(link) = inner else { return Err(malformed()) };
    let on = On::Id((**link).try_into().map_err(|_| malformed())?);
    Ok(Value::promise_at(branch, on, At::default()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::identity::feed;
    use proptest::prelude::*;
    use quipu_store::cid::{Codec, TaskId};

    fn encode(value: &Value) -> Vec<u8> {
        let mut encoder = Encoder::default();
        feed(value, &mut encoder, &|on| match on {
            On::Id(id) => id,
            On::Here(_) => unreachable!("tests use ids"),
        });
        encoder.take()
    }

    pub(crate) fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-MAX_INT..=MAX_INT).prop_map(Value::Int),
            (-300_i64..300).prop_map(Value::Int),
            ".{0,30}".prop_map(Value::text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|b| Value::Bytes(b.into())),
            any::<(u64, bool)>().prop_map(|(n, raw)| {
                Link::of(if raw { Codec::Raw } else { Codec::DagCbor }, &n.to_be_bytes()).into()
            }),
            (any::<u64>(), proptest::collection::vec("[a-z]{0,4}", 0..3)).prop_map(|(n, at)| Value::promise(
                Branch::Any,
                On::Id(TaskId::of(&n.to_be_bytes())),
                at
            )),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::list),
                proptest::collection::btree_map("[a-z]{0,3}", inner, 0..6)
                    .prop_map(|m| Value::map(m).expect("distinct keys")),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in values()) {
            prop_assert_eq!(decode(&encode(&value)), Ok(value));
        }

        #[test]
        fn the_encoding_is_that_of_the_library(value in values()) {
            // serde_ipld_dagcbor decodes ours into its own generic value and writes the same bytes again.
            let ours = encode(&value);
            prop_assert!(quipu_store::dag::is_canonical(&ours));
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(encode(&value), bytes);
            }
        }

        #[test]
        fn a_flipped_byte_is_refused_or_another_value(value in values(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let mut bytes = encode(&value);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = decode(&bytes) {
                prop_assert_ne!(&other, &value);
                prop_assert_eq!(encode(&other), bytes);
            }
        }
    }

    #[test]
    fn deep_nesting_and_false_promises_are_refused() {
        let mut deep = vec![0x81_u8; 100_000];
        deep.push(0xf6);
        assert!(decode(&deep).is_err());
        for bad in [
            &b"\xa1\x68await/ok\x01"[..],
            b"\xa1\x67await/x\xf6",
            b"\xa1\x68quipu/at\x80",
            b"\xa1\x68quipu/at\x81\x01",
            b"\x18\x01",
            b"\xf8\x15",
            b"\x9f\xff",
            b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00",
            b"\xa2\x61b\x01\x61a\x01",
            b"\x1b\x00\x20\x00\x00\x00\x00\x00\x00",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(decode(bad).is_err(), "{bad:x?}");
        }
    }
}
