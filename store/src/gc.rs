//! Collection: what may go, least recently used first, and what roots keep.
//!
//! Decides from rows and links; unaware of files (the backend forgets and deletes).

use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::cid::{Codec, Link, ReceiptId};
use crate::error::StoreError;
use crate::links::links;
use crate::receipt::{Failure, Receipt};

/// What to collect.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Receipts not used for this long go.
    pub max_age: Option<Duration>,
    /// Receipts go, least recently used first, until what they keep is at most this.
    pub max_bytes: Option<u64>,
    /// Only says what would go.
    pub dry_run: bool,
    /// The present, in seconds since 1970.
    pub now: u64,
    /// How long to wait for other processes to end their writing.
    pub wait: Duration,
    /// Files younger than this are left alone, whoever made them.
    pub grace: Duration,
}

impl GcOptions {
    /// Collects what nothing refers to any more, at this time.
    pub fn new(now: u64) -> Self {
        Self {
            max_age: None,
            max_bytes: None,
            dry_run: false,
            now,
            wait: Duration::from_secs(10),
            grace: Duration::from_secs(3600),
        }
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GcStats {
    /// Receipts that stay.
    pub kept_receipts: u64,
    /// Blocks that stay.
    pub kept_blocks: u64,
    /// Bytes of those.
    pub kept_bytes: u64,
    /// Receipts that went.
    pub deleted_receipts: u64,
    /// Blocks that went.
    pub deleted_blocks: u64,
    /// Bytes of those.
    pub deleted_bytes: u64,
    /// Files and directories that processes left behind and that went.
    pub deleted_leftovers: u64,
}

impl GcStats {
    /// Counts what another collection did.
    pub fn add(&mut self, other: &Self) {
        self.kept_receipts += other.kept_receipts;
        self.kept_blocks += other.kept_blocks;
        self.kept_bytes += other.kept_bytes;
        self.deleted_receipts += other.deleted_receipts;
        self.deleted_blocks += other.deleted_blocks;
        self.deleted_bytes += other.deleted_bytes;
        self.deleted_leftovers += other.deleted_leftovers;
    }
}

/// A receipt as a collection sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Days since 1970.
    pub(crate) last_used_day: u32,
    pub(crate) size_bytes: u64,
    /// What it reaches at first hand.
    pub(crate) links: Vec<Link>,
}

/// Everything a receipt names: what ran, what it settles, what came out.
pub(crate) fn links_of(receipt: &Receipt) -> Vec<Link> {
    let mut links = vec![receipt.ran.link()];
    links.extend(receipt.meta.settles.keys().map(|task| task.link()));
    links.extend(outputs_of(receipt));
    links
}

/// What came out of it: its files, directories and logs.
pub(crate) fn outputs_of(receipt: &Receipt) -> Vec<Link> {
    match &receipt.out {
        Ok(output) => output.links().collect(),
        Err(Failure { stdout, stderr, .. }) => [stdout, stderr].into_iter().flatten().map(|id| id.link()).collect(),
    }
}

/// What there is to decide on.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) receipts: FxHashMap<ReceiptId, Candidate>,
    /// Every block with its size.
    pub(crate) blocks: FxHashMap<Link, u64>,
    /// What roots name, receipts among them.
    pub(crate) roots: Vec<Link>,
}

/// What stays. Everything else in the inventory goes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) receipts: FxHashSet<ReceiptId>,
    pub(crate) blocks: FxHashSet<Link>,
    pub(crate) stats: GcStats,
}

/// Decides. `read` gives the bytes of a block that may hold links.
pub(crate) fn plan(
    inventory: &Inventory,
    options: &GcOptions,
    mut read: impl FnMut(Link) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Plan, StoreError> {
    let mut plan = Plan::default();
    let mut bytes = 0;
    for link in &inventory.roots {
        let added = reach(inventory, &mut plan, *link, &mut read)?;
        bytes += added.bytes;
    }
    let mut rest: Vec<_> = inventory.receipts.iter().filter(|(id, _)| !plan.receipts.contains(id)).collect();
    // Latest first; the id decides among equals, so that a dry run says what the next run does.
    rest.sort_unstable_by_key(|(id, c)| (std::cmp::Reverse(c.last_used_day), **id));
    let today = u32::try_from(options.now / 86_400).unwrap_or(u32::MAX);
    for (id, candidate) in rest {
        let unused = Duration::from_secs(u64::from(today.saturating_sub(candidate.last_used_day)) * 86_400);
        if options.max_age.is_some_and(|max| unused >= max) {
            break;
        }
        let added = reach(inventory, &mut plan, id.link(), &mut read)?;
        if options.max_bytes.is_some_and(|max| bytes + added.bytes > max) {
            plan.receipts.retain(|id| !added.receipts.contains(id));
            plan.blocks.retain(|link| !added.blocks.contains(link));
            break;
        }
        bytes += added.bytes;
    }
    let stats = &mut plan.stats;
    stats.kept_receipts = plan.receipts.len() as u64;
    stats.kept_blocks = plan.blocks.len() as u64;
    stats.kept_bytes = bytes;
    stats.deleted_receipts = (inventory.receipts.len() - plan.receipts.len()) as u64;
    stats.deleted_blocks = (inventory.blocks.len() - plan.blocks.len()) as u64;
    let all = inventory.blocks.values().chain(inventory.receipts.values().map(|c| &c.size_bytes)).sum::<u64>();
    stats.deleted_bytes = all - bytes;
    Ok(plan)
}

/// What one step added to the plan.
#[derive(Default)]
struct Added {
    receipts: FxHashSet<ReceiptId>,
    blocks: FxHashSet<Link>,
    bytes: u64,
}

fn reach(
    inventory: &Inventory,
    plan: &mut Plan,
    from: Link,
    read: &mut impl FnMut(Link) -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Added, StoreError> {
    let mut added = Added::default();
    let mut todo = vec![from];
    while let Some(link) = todo.pop() {
        let receipt = ReceiptId::from_digest(link.digest);
        if link.codec == Codec::DagCbor
            && let Some(candidate) = inventory.receipts.get(&receipt)
            && plan.receipts.insert(receipt)
        {
            added.receipts.insert(receipt);
            added.bytes += candidate.size_bytes;
            todo.extend(&candidate.links);
        }
        if let Some(size) = inventory.blocks.get(&link)
            && plan.blocks.insert(link)
        {
            added.blocks.insert(link);
            added.bytes += size;
            if link.codec == Codec::DagCbor {
                todo.extend(read(link)?.map(|bytes| links(&bytes)).unwrap_or_default());
            }
        }
    }
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::BlobId;

    const DAY: u64 = 86_400;

    fn blob(n: u8) -> Link {
        BlobId::of(&[n]).link()
    }

    fn receipt(n: u8) -> ReceiptId {
        ReceiptId::of(&[n])
    }

    /// Receipts 1, 2, 3 used on days 91, 92, 93, of 10 bytes, each with a blob of 100 bytes of its own and
    /// blob 0, of 1000 bytes, in common; blob 9 is nobody's.
    fn inventory(rooted: &[u8]) -> Inventory {
        let mut inventory = Inventory::default();
        for n in 1..=3_u8 {
            let candidate =
                Candidate { last_used_day: 90 + u32::from(n), size_bytes: 10, links: vec![blob(n), blob(0)] };
            inventory.receipts.insert(receipt(n), candidate);
            inventory.blocks.insert(blob(n), 100);
        }
        inventory.blocks.insert(blob(0), 1000);
        inventory.blocks.insert(blob(9), 5);
        inventory.roots = rooted.iter().map(|n| receipt(*n).link()).collect();
        inventory
    }

    fn kept(rooted: &[u8], change: impl FnOnce(&mut GcOptions)) -> (Vec<u8>, u64, u64) {
        let mut options = GcOptions::new(93 * DAY);
        change(&mut options);
        let plan = plan(&inventory(rooted), &options, |_| Ok(None)).expect("reads nothing");
        let receipts = (1..=3).filter(|n| plan.receipts.contains(&receipt(*n))).collect();
        assert!(!plan.blocks.contains(&blob(9)), "nobody's");
        (receipts, plan.stats.kept_bytes, plan.stats.deleted_bytes)
    }

    #[test]
    fn least_recently_used_goes_first_and_roots_never() {
        assert_eq!(kept(&[], |_| ()), (vec![1, 2, 3], 1330, 5));
        assert_eq!(kept(&[], |o| o.max_age = Some(Duration::from_secs(2 * DAY))), (vec![2, 3], 1220, 115));
        assert_eq!(kept(&[1], |o| o.max_age = Some(Duration::from_secs(DAY))), (vec![1, 3], 1220, 115));
        assert_eq!(kept(&[], |o| o.max_age = Some(Duration::ZERO)), (vec![], 0, 1335));
        assert_eq!(kept(&[], |o| o.max_bytes = Some(1220)), (vec![2, 3], 1220, 115));
        assert_eq!(kept(&[], |o| o.max_bytes = Some(1219)), (vec![3], 1110, 225));
        assert_eq!(kept(&[1], |o| o.max_bytes = Some(0)), (vec![1], 1110, 225));
    }
}
