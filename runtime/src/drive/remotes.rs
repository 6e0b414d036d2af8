//! Stores elsewhere, layered behind the local one: asked once for what is not here, and never waited for longer
//! than they are worth.
//!
//! Knows whose receipts count and when to give a remote up; unaware of protocols and of the state machine.
//! Everything here blocks: the driver calls it from threads that may wait.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use quipu_store::cid::{InvocationId, Link, ReceiptId, TaskId, TreeId};
use quipu_store::receipt::Via;
use quipu_store::remote::{Envelopes, Remote, RemoteError, Want};
use quipu_store::sign::{PublicKey, SignedReceipt};
use quipu_store::tree::{Entry, MAX_NODE_BYTES, Node};
use quipu_store::trust::{Policies, Policy};
use quipu_store::{Found, Store, StoreError};

use super::Engine;
use crate::run::step::{Need, Part};

/// After so many failures in a row a remote is not asked again in this run.
const MAX_FAILURES: u32 = 3;

type Missing = BTreeMap<Link, Want>;

/// A remote that is asked as long as it answers.
pub(super) struct Watched {
    pub(super) remote: Arc<dyn Remote>,
    failures: AtomicU32,
    given_up: AtomicBool,
    warned: AtomicBool,
}

impl Watched {
    /// Asks, unless that has proved useless. What went wrong is said once.
    pub(super) fn ask<T>(
        &self,
        warnings: &mut Vec<String>,
        question: impl FnOnce(&dyn Remote) -> Result<T, RemoteError>,
    ) -> Option<T> {
        if self.given_up.load(Ordering::Acquire) {
            return None;
        }
        // What a remote holds is its own: nobody here looks at it after a panic, since it is given up.
        let asked = catch_unwind(AssertUnwindSafe(|| question(&*self.remote)));
        let panicked = asked.is_err();
        match asked.unwrap_or_else(|panic| Err(RemoteError::Odd(format!("it panicked: {}", panic_text(&*panic))))) {
            Ok(answer) => {
                self.failures.store(0, Ordering::Release);
                Some(answer)
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
                if panicked || error.is_final() || failures >= MAX_FAILURES {
                    self.given_up.store(true, Ordering::Release);
                }
                if !self.warned.swap(true, Ordering::AcqRel) {
                    warnings.push(format!("remote `{}`: {error}; the run goes on without it", self.remote.name()));
                }
                None
            }
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}

/// All remotes of a run. Cheap to clone.
#[derive(Clone)]
pub(super) struct Remotes {
    store: Store,
    /// Whether what is found is kept: a plan writes nothing.
    pub(super) keep: bool,
    all: Arc<[Watched]>,
    sends: bool,
    trusted: Arc<[PublicKey]>,
    policies: Arc<Policies>,
    /// Where receipts came from in this run.
    sources: Arc<Mutex<HashMap<ReceiptId, Arc<str>>>>,
    claims: Arc<Claims>,
    fetched: Arc<AtomicUsize>,
}

impl Remotes {
    pub(super) fn new(engine: &Engine) -> Self {
        let watched = engine.remotes.iter().map(|remote| Watched {
            remote: Arc::clone(remote),
            failures: AtomicU32::new(0),
            given_up: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        });
        let (store, trusted) = (engine.store.clone(), engine.trusted.clone().into());
        let policies = Arc::new(engine.policies.clone());
        let (sources, claims, fetched) = Default::default();
        let (all, sends) = (watched.collect(), engine.sends);
        Self { store, keep: true, all, sends, trusted, policies, sources, claims, fetched }
    }

    /// Blocks that came from elsewhere so far.
    pub(super) fn fetched(&self) -> usize {
        self.fetched.load(Ordering::Acquire)
    }

    /// Which remote a receipt came from in this run.
    pub(super) fn source_of(&self, id: ReceiptId) -> Option<String> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(&id).map(|name| name.to_string())
    }

    fn readable(&self) -> impl Iterator<Item = &Watched> {
        self.all.iter().filter(|w| w.remote.policy().read && !w.is_given_up())
    }

    pub(super) fn writable(&self) -> impl Iterator<Item = &Watched> {
        self.all.iter().filter(|w| self.sends && w.remote.policy().write)
    }

    /// Whether there is anybody to ask.
    pub(super) fn can_read(&self) -> bool {
        self.readable().next().is_some()
    }

    /// Receipts that settle tasks, for each in the order asked.
    pub(super) fn find_tasks(&self, ids: &[TaskId], warnings: &mut Vec<String>) -> Vec<Vec<Found>> {
        let ask = |r: &dyn Remote, ids: &[TaskId]| r.find_tasks(&self.store, self.keep, ids);
        self.find(ids, warnings, ask, |signed, id| signed.receipt.meta.settles.get(id).cloned())
    }

    /// Receipts of invocations, likewise.
    pub(super) fn find_invocations(&self, ids: &[InvocationId], warnings: &mut Vec<String>) -> Vec<Vec<Found>> {
        let ask = |r: &dyn Remote, ids: &[InvocationId]| r.find_invocations(&self.store, self.keep, ids);
        self.find(ids, warnings, ask, |signed, id| (signed.receipt.ran == *id).then(Via::new))
    }

    /// One batch to each remote for what the ones before it did not have. What is found is verified; whether it
    /// counts is for others to judge.
    fn find<Id: Copy + Eq + Hash>(
        &self,
        ids: &[Id],
        warnings: &mut Vec<String>,
        ask: impl Fn(&dyn Remote, &[Id]) -> Result<Vec<Envelopes>, RemoteError>,
        about: impl Fn(&SignedReceipt, &Id) -> Option<Via>,
    ) -> Vec<Vec<Found>> {
        let mut all: Vec<Vec<Found>> = vec![vec![]; ids.len()];
        for watched in self.readable() {
            let open: Vec<usize> = (0..ids.len()).filter(|i| all[*i].is_empty()).collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<Id> = open.iter().map(|i| ids[*i]).collect();
            let Some(answers) = watched.ask(warnings, |remote| ask(remote, &asked)) else { continue };
            for (i, envelopes) in open.into_iter().zip(answers) {
                for bytes in envelopes {
                    match self.admit(watched.remote.name(), &bytes, |signed| about(signed, &ids[i])) {
                        Ok(found) => all[i].push(found),
                        Err(Some(why)) => warnings.push(format!("remote `{}`: {why}", watched.remote.name())),
                        Err(None) => {}
                    }
                }
            }
        }
        all
    }

    /// Checks an envelope from elsewhere, and keeps it where it may come to count. An error without text is a receipt
    /// of something else.
    fn admit(
        &self,
        remote: &str,
        bytes: &[u8],
        about: impl Fn(&SignedReceipt) -> Option<Via>,
    ) -> Result<Found, Option<String>> {
        let signed = SignedReceipt::verify(bytes).map_err(|e| Some(format!("a receipt does not count: {e}")))?;
        let via = about(&signed).ok_or(None)?;
        if signed.receipt.out.is_err() {
            // Failures are everybody's own.
            return Err(None);
        }
        // Nobody fills this store with what never counts.
        let may_count = self.trusted.contains(&signed.issuer) || self.policies.of(remote) == Policy::Any;
        if self.keep && may_count {
            self.store.import_all(vec![signed.clone()], remote).map_err(|e| Some(e.to_string()))?;
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(signed.id, remote.into());
        Ok(Found { signed: Arc::new(signed), via, own: false, made_here: false })
    }

    /// Brings what is missing of these outputs into the store, as far as somebody has it.
    pub(super) fn fetch(&self, needs: &[Need], warnings: &mut Vec<String>) -> Result<(), StoreError> {
        self.fetch_all(warnings, &|| self.missing(needs))
    }

    /// Brings the directory nodes that these parts are looked up in: not what is in the directories.
    pub(super) fn fetch_nodes(&self, parts: &[Part], warnings: &mut Vec<String>) -> Result<(), StoreError> {
        self.fetch_all(warnings, &|| self.missing_nodes(parts))
    }

    /// Fetches what is missing until nothing is, or nobody has the rest.
    fn fetch_all(
        &self,
        warnings: &mut Vec<String>,
        missing: &dyn Fn() -> Result<Missing, StoreError>,
    ) -> Result<(), StoreError> {
        let mut lost = HashSet::new();
        loop {
            let mut missing = missing()?;
            missing.retain(|link, _| !lost.contains(link));
            if missing.is_empty() {
                return Ok(());
            }
            let Some(mine) = self.claims.take_or_wait(missing.values()) else { continue };
            let mut left: Vec<Want> = mine.links.iter().map(|link| missing[link]).collect();
            for watched in self.readable() {
                if let Some(fetched) = watched.ask(warnings, |remote| remote.fetch(&self.store, &left)) {
                    self.fetched.fetch_add(fetched.blobs, Ordering::AcqRel);
                    if fetched.false_blobs > 0 {
                        let name = watched.remote.name();
                        warnings.push(format!("remote `{name}` has content that is not what its id says; not used"));
                    }
                }
                let mut still = vec![];
                for want in left {
                    if !self.store.has(want.link)? {
                        still.push(want);
                    }
                }
                left = still;
                if left.is_empty() {
                    break;
                }
            }
            lost.extend(left.into_iter().map(|want| want.link));
        }
    }

    /// Directory nodes on the way to these parts that are not here.
    fn missing_nodes(&self, parts: &[Part]) -> Result<Missing, StoreError> {
        let mut missing = Missing::new();
        for part in parts {
            let mut at = part.tree;
            for name in &part.path {
                let Some(tree) = self.store.directory(at)? else {
                    let links = if self.store.has(at.link())? { self.parts(at)? } else { vec![at.link()] };
                    missing.extend(links.into_iter().map(|link| (link, Want { link, size: None })));
                    break;
                };
                let Some(Entry::Dir { tree }) = tree.get(name) else { break };
                at = *tree;
            }
        }
        Ok(missing)
    }

    /// Blocks of these outputs that are not here, as deep as directories that are here let see.
    fn missing(&self, needs: &[Need]) -> Result<Missing, StoreError> {
        let mut missing = Missing::new();
        let mut seen = HashSet::new();
        let mut todo: Vec<Entry> = needs.iter().flat_map(|n| n.entries.iter().cloned()).collect();
        let streams = needs.iter().flat_map(|n| n.streams.iter());
        for want in streams.map(|blob| Want { link: blob.link(), size: None }) {
            if !self.store.has(want.link)? {
                missing.insert(want.link, want);
            }
        }
        while let Some(entry) = todo.pop() {
            let (want, tree) = match entry {
                Entry::Symlink { .. } => continue,
                Entry::File { blob, size, .. } => (Want { link: blob.link(), size: Some(size) }, None),
                Entry::Dir { tree } => (Want { link: tree.link(), size: None }, Some(tree)),
            };
            if !seen.insert(want.link) {
                continue;
            }
            if !self.store.has(want.link)? {
                missing.insert(want.link, want);
                continue;
            }
            let Some(tree) = tree else { continue };
            match self.store.directory(tree)? {
                Some(tree) => todo.extend(tree.entries().iter().map(|(_, entry)| entry.clone())),
                // A large directory whose parts are not all here, or something that is no directory.
                None => missing.extend(self.parts(tree)?.into_iter().map(|link| (link, Want { link, size: None }))),
            }
        }
        Ok(missing)
    }

    fn parts(&self, tree: TreeId) -> Result<Vec<Link>, StoreError> {
        let Some(bytes) = self.store.get(tree.link(), MAX_NODE_BYTES as u64)? else { return Ok(vec![]) };
        let Ok(Node::Parts(parts)) = Node::decode(&bytes) else { return Ok(vec![]) };
        let mut missing = vec![];
        for part in parts {
            if !self.store.has(part.link())? {
                missing.push(part.link());
            }
        }
        Ok(missing)
    }
}

/// Blocks on their way: each is fetched once, however many tasks want it.
#[derive(Default)]
struct Claims {
    taken: Mutex<BTreeSet<Link>>,
    freed: Condvar,
}

impl Claims {
    /// Those that nobody fetches yet; when somebody fetches all of them, none, after one of them came.
    fn take_or_wait<'w>(&self, wants: impl Iterator<Item = &'w Want>) -> Option<Claimed<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let links: Vec<Link> = wants.map(|want| want.link).filter(|link| !taken.contains(link)).collect();
        if links.is_empty() {
            drop(self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner));
            return None;
        }
        taken.extend(&links);
        Some(Claimed { claims: self, links })
    }
}

/// Blocks that one thread fetches. Others may again when it is dropped, however that comes.
struct Claimed<'a> {
    claims: &'a Claims,
    links: Vec<Link>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut taken = self.claims.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|link| !self.links.contains(link));
        self.claims.freed.notify_all();
    }
}
