//! One durable change of the index, in progress.
//!
//! Unaware of when it is committed and of who waits for it.

use std::cell::Cell;

use redb::{ReadableTable, StorageError, TableDefinition, Value, WriteTransaction};

use super::tables::*;
use crate::cid::{InvocationId, ReceiptId, TaskId};
use crate::rows::{Op, Table};

/// A row by its table and the bytes of its key.
pub(crate) type RowKey = (&'static str, Vec<u8>);

/// A write transaction in progress.
pub(crate) struct Change<'a> {
    txn: &'a WriteTransaction,
    rewrites: Cell<bool>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(txn: &'a WriteTransaction) -> Self {
        Self { txn, rewrites: Cell::new(false) }
    }

    /// Whether it says something else of what was known before: of a task that had a receipt, or by leaving something out.
    pub(crate) fn rewrites(&self) -> bool {
        self.rewrites.get()
    }

    /// More than new things are said.
    fn rewrite(&self) {
        self.rewrites.set(true);
    }
}

impl Change<'_> {
    pub(crate) fn apply<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), redb::Error> {
        let mut receipts = self.txn.open_table(RECEIPTS)?;
        let mut by_task = self.txn.open_table(BY_TASK)?;
        let mut by_invocation = self.txn.open_table(BY_INVOCATION)?;
        let mut accepted = self.txn.open_table(ACCEPTED)?;
        let mut blocks = self.txn.open_table(BLOCKS)?;
        let mut stat = self.txn.open_table(STAT)?;
        let mut notes = self.txn.open_table(NOTES)?;
        let mut roots = self.txn.open_table(ROOTS)?;
        for op in ops {
            match op {
                Op::Block(link, bytes) => {
                    let mut value = Vec::with_capacity(1 + bytes.len());
                    value.push(INLINE);
                    value.extend_from_slice(bytes);
                    blocks.insert(&flat_block_key(*link), value.as_slice())?;
                }
                Op::Large(link, size) => {
                    let key = flat_block_key(*link);
                    let mut value = vec![LARGE];
                    value.extend(seal("blocks-0", &key, &size.to_le_bytes()));
                    blocks.insert(&key, value.as_slice())?;
                }
                Op::Forget(link) => {
                    self.rewrite();
                    blocks.remove(&flat_block_key(*link))?;
                }
                Op::Receipt(kept) => {
                    let signed = &kept.signed;
                    let known = receipts.get(signed.id.digest())?.map(|v| v.value().first() == Some(&1));
                    if known == Some(false) && kept.own {
                        self.rewrite();
                    }
                    let known = known.unwrap_or(false);
                    let mut value = Vec::with_capacity(1 + signed.bytes.len());
                    value.push(u8::from(kept.own || known));
                    value.extend_from_slice(&signed.bytes);
                    receipts.insert(signed.id.digest(), value.as_slice())?;
                    by_invocation.insert(&pair(signed.receipt.ran.digest(), signed.id.digest()), ())?;
                }
                Op::Task(task, receipt, row) => {
                    let key = pair(task.digest(), receipt.digest());
                    // What this store made or accepted stays so, whatever is imported later.
                    let known = by_task.get(&key)?.and_then(|v| read_task(&key, v.value()));
                    let all = pair(task.digest(), &[0; 32])..=pair(task.digest(), &[0xff; 32]);
                    let has_others = by_task.range::<&[u8; 64]>(all.start()..=all.end())?.next().transpose()?.is_some();
                    if has_others && known.as_ref() != Some(row) {
                        self.rewrite();
                    }
                    if row.own || !known.is_some_and(|known| known.own) {
                        by_task.insert(&key, seal("by-task-0", &key, &pack_task(row)).as_slice())?;
                    }
                }
                Op::Accept(task, receipt, output) => {
                    let value = seal("accepted-0", task.digest(), &pair(receipt.digest(), output.digest()));
                    if accepted.get(task.digest())?.is_some_and(|known| known.value() != value) {
                        self.rewrite();
                    }
                    accepted.insert(task.digest(), value.as_slice())?;
                }
                Op::Value(of, key, value) => {
                    let table = match of {
                        Table::Stat => &mut stat,
                        Table::Note => &mut notes,
                        Table::Root => &mut roots,
                    };
                    match value {
                        Some(value) => {
                            table.insert(key.as_slice(), seal(name_of(*of), key, value).as_slice())?;
                        }
                        None => {
                            table.remove(key.as_slice())?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes that receipts were used on a day, where that is later than what is known.
    pub(crate) fn touch(&self, ids: impl IntoIterator<Item = ReceiptId>, day: u32) -> Result<(), redb::Error> {
        let mut used = self.txn.open_table(USED)?;
        for id in ids {
            let known = used.get(id.digest())?.map(|d| d.value());
            if known.is_none_or(|known| known < day) {
                used.insert(id.digest(), day)?;
            }
        }
        Ok(())
    }

    /// Drops a receipt with all rows that lead to it.
    pub(crate) fn drop_receipt(
        &self,
        id: ReceiptId,
        tasks: &[TaskId],
        ran: Option<InvocationId>,
    ) -> Result<(), redb::Error> {
        self.rewrite();
        self.txn.open_table(RECEIPTS)?.remove(id.digest())?;
        self.txn.open_table(USED)?.remove(id.digest())?;
        if let Some(ran) = ran {
            self.txn.open_table(BY_INVOCATION)?.remove(&pair(ran.digest(), id.digest()))?;
        }
        let mut by_task = self.txn.open_table(BY_TASK)?;
        let mut accepted = self.txn.open_table(ACCEPTED)?;
        for task in tasks {
            by_task.remove(&pair(task.digest(), id.digest()))?;
            let is_it = accepted
                .get(task.digest())?
                .is_some_and(|v| read_accepted(task.digest(), v.value()).is_none_or(|(receipt, _)| receipt == id));
            if is_it {
                accepted.remove(task.digest())?;
            }
        }
        Ok(())
    }

    /// Removes a row of any table.
    pub(crate) fn drop_row(&self, (table, key): &RowKey) -> Result<(), redb::Error> {
        self.rewrite();
        match *table {
            "receipts-0" => self.drop_fixed(RECEIPTS, key),
            "accepted-0" => self.drop_fixed(ACCEPTED, key),
            "used-0" => self.drop_fixed(USED, key),
            "by-task-0" => self.drop_fixed(BY_TASK, key),
            "by-invocation-0" => self.drop_fixed(BY_INVOCATION, key),
            "blocks-0" => self.drop_fixed(BLOCKS, key),
            "stat-0" => self.drop_free(STAT, key),
            "notes-0" => self.drop_free(NOTES, key),
            _ => self.drop_free(ROOTS, key),
        }
    }

    fn drop_fixed<const N: usize, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, &'static [u8; N], V>,
        key: &[u8],
    ) -> Result<(), redb::Error> {
        let odd = |_| StorageError::Corrupted(format!("key of {} bytes in a table of {N}", key.len()));
        let key: &[u8; N] = key.try_into().map_err(odd)?;
        self.txn.open_table(table)?.remove(key)?;
        Ok(())
    }

    fn drop_free(&self, table: TableDefinition<'_, Bytes, Bytes>, key: &[u8]) -> Result<(), redb::Error> {
        self.txn.open_table(table)?.remove(key)?;
        Ok(())
    }
}
