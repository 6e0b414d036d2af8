//! Small values of a store: roots, notes and chunks of the stat index.
//!
//! Unaware of what they mean, but for roots: what they name stays.

use super::Store;
use crate::dag;
use crate::error::StoreError;
use crate::rows::{Op, Table};
use crate::terms::Root;

/// Largest encoded [`Root`], in bytes.
const MAX_ROOT_BYTES: usize = 64 << 20;

impl Store {
    /// Sets what must not be collected under `name`. Writes nothing when only the time differs.
    pub fn set_root(&self, name: &str, root: &Root) -> Result<(), StoreError> {
        if let Some(known) = self.root(name)?
            && (Root { at: root.at, ..known }) == *root
        {
            return Ok(());
        }
        let value = Some(dag::encode(root)?);
        self.inner.backend.push(vec![Op::Value(Table::Root, name.as_bytes().to_vec(), value)])
    }

    /// Lets go of what `name` kept.
    pub fn remove_root(&self, name: &str) -> Result<(), StoreError> {
        self.set_value(Table::Root, name.as_bytes(), None)
    }

    /// What is kept under `name`.
    pub fn root(&self, name: &str) -> Result<Option<Root>, StoreError> {
        let value = self.inner.backend.value(Table::Root, name.as_bytes())?;
        Ok(value.map(|bytes| dag::decode_own(&bytes, MAX_ROOT_BYTES)).transpose()?)
    }

    /// Everything that is kept, by name.
    pub fn roots(&self) -> Result<Vec<(String, Root)>, StoreError> {
        let mut roots = Vec::new();
        for (name, bytes) in self.inner.backend.values(Table::Root)? {
            roots.push((String::from_utf8_lossy(&name).into_owned(), dag::decode_own(&bytes, MAX_ROOT_BYTES)?));
        }
        Ok(roots)
    }

    /// A chunk of the stat index.
    pub fn stat_chunk(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.backend.value(Table::Stat, key)
    }

    /// Keeps a chunk of the stat index.
    pub fn put_stat_chunk(&self, key: &[u8], chunk: Vec<u8>) -> Result<(), StoreError> {
        self.inner.backend.push(vec![Op::Value(Table::Stat, key.to_vec(), Some(chunk))])
    }

    /// A small named value.
    pub fn note(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.backend.value(Table::Note, key.as_bytes())
    }

    /// Keeps or, with `None`, drops a small named value. Writes nothing when it is the same.
    pub fn set_note(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.set_value(Table::Note, key.as_bytes(), value)
    }

    fn set_value(&self, table: Table, key: &[u8], value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if self.inner.backend.value(table, key)? == value {
            return Ok(());
        }
        self.inner.backend.push(vec![Op::Value(table, key.to_vec(), value)])
    }
}
