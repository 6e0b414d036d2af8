//! A bucket as a remote of a store: receipts by task and invocation, blocks by id.
//!
//! Checks every block before it is kept; leaves it to others whose receipts count and when to give up.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quipu_store::Store;
use quipu_store::car;
use quipu_store::cid::{BlobHasher, BlobId, Link};
use quipu_store::receipt::MAX_RECEIPT_BYTES;
use quipu_store::remote::{
    Bytes, Envelopes, Fetched, Incoming, MAX_ISSUERS, Pushed, Remote, RemoteError, RemotePolicy, Subject, Want,
    reached, workers,
};
use quipu_store::sign::SignedReceipt;

use crate::config::{Config, ConfigError};
use crate::objects::{Got, If, Objects};
use crate::wire::CALLS;

/// Kinds of objects. A change of what stands in them changes their names.
const BLOCKS: &str = "blocks-1";
const RECEIPTS: &str = "receipts-1";
/// Receipts of one subject.
const MAX_RECEIPTS_BYTES: u64 = (MAX_ISSUERS * (MAX_RECEIPT_BYTES + 1024)) as u64;
/// Blobs up to this size are sent without asking whether they are there: the answer would take as long.
const SMALL_BYTES: u64 = 32 << 10;
/// How often somebody else may come first before we give up.
const ATTEMPTS: usize = 8;

/// A bucket as a remote.
pub struct BucketRemote {
    name: String,
    policy: RemotePolicy,
    logs: bool,
    objects: Objects,
    known: Mutex<Known>,
}

/// What this process found out about blocks in the bucket.
#[derive(Default)]
struct Known {
    there: HashSet<Link>,
    /// Other bytes stand under its id: they are replaced when it is sent.
    bad: HashSet<Link>,
}

impl BucketRemote {
    /// A remote that its user calls `name`. Connects to nobody before it is asked something; `env` looks up an
    /// environment variable.
    pub fn new(name: &str, config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (policy, objects) = (config.policy()?, Objects::new(config, env)?);
        Ok(Self { name: name.to_owned(), policy, logs: config.logs, objects, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receipts that stand under a subject, with the version of the object. Content that is none of ours is
    /// handed on as it is, so that it is told of.
    fn receipts(&self, subject: Subject, ends: Instant) -> Result<(Envelopes, Option<Option<String>>), RemoteError> {
        let most = workers::time_left(self.objects.deadline, MAX_RECEIPTS_BYTES, ends)?;
        let key = self.objects.key(RECEIPTS, &subject.link().to_string());
        let mut bytes = vec![];
        let mut take = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        match self.objects.read(&key, None, MAX_RECEIPTS_BYTES, most, &mut take)? {
            Got::Nothing => Ok((vec![], None)),
            Got::OtherSize(version) => Ok((vec![], Some(version))),
            Got::Whole(version) => {
                let mut envelopes = car::unpack(&bytes[..], MAX_RECEIPTS_BYTES).unwrap_or_else(|_| vec![bytes]);
                envelopes.truncate(2 * MAX_ISSUERS);
                Ok((envelopes, Some(version)))
            }
        }
    }

    fn fetch_one(&self, store: &Store, want: Want, ends: Instant) -> Result<Fetched, RemoteError> {
        let link = want.link;
        let limit = want.limit();
        let most = workers::time_left(self.objects.deadline, limit, ends)?;
        let mut incoming = Incoming::new(store, link);
        let key = self.objects.key(BLOCKS, &link.to_string());
        let fetched = match self.objects.read(&key, want.size, limit, most, &mut |part| incoming.write(part))? {
            Got::Nothing => return Ok(Fetched::default()),
            Got::OtherSize(_) => Fetched::one(None),
            Got::Whole(_) => Fetched::one(incoming.finish()?),
        };
        if fetched.false_blobs > 0 {
            self.known().bad.insert(link);
        }
        Ok(fetched)
    }

    /// Sends a block that is not there. One that went away here counts as false: nobody could use the receipt.
    fn send(&self, store: &Store, link: Link) -> Result<Fetched, RemoteError> {
        let is_bad = {
            let known = self.known();
            if known.there.contains(&link) {
                return Ok(Fetched::default());
            }
            known.bad.contains(&link)
        };
        let Some(bytes) = Bytes::open(store, link)? else { return Ok(Fetched::one(None)) };
        let (key, size) = (self.objects.key(BLOCKS, &link.to_string()), bytes.size());
        let is_there = size > SMALL_BYTES && !is_bad && self.objects.size(&key)? == Some(size);
        let mut sent = Fetched::default();
        if !is_there {
            let condition = if size > SMALL_BYTES || is_bad { If::Always } else { If::Absent };
            match self.put_block(store, link, bytes, condition)? {
                None => return Ok(Fetched::one(None)),
                Some(true) => sent = Fetched::one(Some(size)),
                Some(false) => {}
            }
        }
        let mut known = self.known();
        known.bad.remove(&link);
        known.there.insert(link);
        Ok(sent)
    }

    /// Whether it was put; `None` when it is damaged here, which is told to the store.
    fn put_block(
        &self,
        store: &Store,
        link: Link,
        bytes: Bytes,
        condition: If<'_>,
    ) -> Result<Option<bool>, RemoteError> {
        let (key, size) = (self.objects.key(BLOCKS, &link.to_string()), bytes.size());
        let own = |e: std::io::Error| RemoteError::Store(e.to_string());
        let sent = if Objects::is_large(size) {
            // Large ones are files.
            let hasher = std::cell::RefCell::new(BlobHasher::default());
            let see = |part: &[u8]| hasher.borrow_mut().update(part);
            let is_good = || hasher.take().id() == BlobId::from_digest(link.digest);
            self.objects.put_parts(&key, size, bytes.reader(), see, is_good)?.then_some(true)
        } else {
            let mut all = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            std::io::Read::read_to_end(&mut bytes.reader(), &mut all).map_err(own)?;
            if Link::of(link.codec, &all) == link { Some(self.objects.put(&key, all, condition)?) } else { None }
        };
        if sent.is_none() {
            store.corrupt(link);
        }
        Ok(sent)
    }

    /// Adds a receipt to those of a subject, however many others do the same.
    fn say(&self, subject: Subject, signed: &Arc<SignedReceipt>) -> Result<(), RemoteError> {
        let key = self.objects.key(RECEIPTS, &subject.link().to_string());
        let ends = workers::ends(self.objects.deadline, 2 * ATTEMPTS, 0);
        for _ in 0..ATTEMPTS {
            let (theirs, version) = self.receipts(subject, ends)?;
            if theirs.contains(&signed.bytes) {
                return Ok(());
            }
            let mut all = vec![signed.bytes.clone()];
            subject.merge(&mut all, theirs);
            let all: Vec<Arc<SignedReceipt>> =
                all.iter().filter_map(|bytes| SignedReceipt::verify(bytes).ok()).map(Arc::new).collect();
            let mut file = vec![];
            car::pack(&all, &mut file).map_err(|e| RemoteError::Store(e.to_string()))?;
            let condition = match &version {
                None => If::Absent,
                Some(Some(version)) => If::Still(version),
                Some(None) => If::Always,
            };
            if self.objects.put(&key, file, condition)? {
                return Ok(());
            }
        }
        Err(RemoteError::Odd(format!("others wrote `{key}` {ATTEMPTS} times before us")))
    }
}

impl Remote for BucketRemote {
    fn name(&self) -> &str {
        &self.name
    }

    fn policy(&self) -> &RemotePolicy {
        &self.policy
    }

    /// A bucket is not asked whether all blocks are there: that would be a request for each. One that is gone is found
    /// out when it is needed, and its task runs again.
    fn find(&self, _: &Store, _: bool, subjects: &[Subject]) -> Result<Vec<Envelopes>, RemoteError> {
        let all = Mutex::new(vec![vec![]; subjects.len()]);
        let ends = workers::ends(self.objects.deadline, subjects.len(), 0);
        let places: Vec<usize> = (0..subjects.len()).collect();
        workers::each(CALLS, &places, |i| {
            let (found, _) = self.receipts(subjects[*i], ends)?;
            all.lock().unwrap_or_else(PoisonError::into_inner)[*i] = found;
            Ok(Fetched::default())
        })?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn fetch(&self, store: &Store, wants: &[Want]) -> Result<Fetched, RemoteError> {
        let bytes = wants.iter().filter_map(|want| want.size).fold(0, u64::saturating_add);
        let ends = workers::ends(self.objects.deadline, wants.len(), bytes);
        workers::each(CALLS, wants, |want| self.fetch_one(store, *want, ends))
    }

    fn push(&self, store: &Store, receipt: &SignedReceipt) -> Result<Pushed, RemoteError> {
        let Some(links) = reached(store, receipt, self.logs)? else { return Ok(Pushed::default()) };
        let sent = workers::each(CALLS, &links, |link| self.send(store, *link))?;
        if sent.false_blobs > 0 {
            return Ok(Pushed::default());
        }
        let signed = Arc::new(receipt.clone());
        for subject in Subject::all_of(receipt) {
            self.say(subject, &signed)?;
        }
        Ok(Pushed { blobs: sent.blobs, bytes: sent.bytes })
    }
}
