//! Receipts as entries of a server's ActionCache: under which keys, and what an entry says.
//!
//! Takes values and returns values. An entry holds signed receipts, which count by their signatures, and names
//! every block they reach, so that a server which checks that entries are complete keeps them. What it says of
//! blocks is a hint: bytes are checked when they come.

use std::collections::BTreeMap;

use prost::Message;
use quipu_store::cid::Link;
use quipu_store::receipt::MAX_RECEIPT_BYTES;
use quipu_store::remote::{MAX_ISSUERS, Subject};

use crate::api;
use crate::digests::Function;

/// Receipts up to this size stand in the entry itself.
const INLINE_BYTES: usize = 64 << 10;
/// Blocks up to this number are named one by one; more are named in a directory of their own.
const MAX_FILES: usize = 500;
/// Name of that directory.
const DIRECTORY: &str = "blocks";
/// Nobody's receipts reach more blocks than this.
const MAX_BLOCKS: usize = 4_000_000;

/// The messages whose digest is the key of an entry, as a server may want to see them.
pub(crate) struct Key {
    /// Digest of the action: the key.
    pub(crate) digest: api::Digest,
    /// The action.
    pub(crate) action: Vec<u8>,
}

/// The command that the actions of all keys name; nobody executes it.
pub(crate) fn key_command() -> Vec<u8> {
    let arguments = vec!["quipu-receipt".to_owned(), "1".to_owned()];
    api::Command { arguments, ..api::Command::default() }.encode_to_vec()
}

/// Under which key the receipts of a subject are found.
pub(crate) fn key(subject: Subject, function: Function) -> Key {
    let kind = match subject {
        Subject::Task(_) => "task",
        Subject::Invocation(_) => "invocation",
    };
    let mut salt = format!("quipu/receipt/1/{kind}/").into_bytes();
    salt.extend_from_slice(&subject.link().digest);
    let action = api::Action {
        command_digest: Some(function.of(&key_command())),
        input_root_digest: Some(function.of(b"")),
        salt,
        ..api::Action::default()
    };
    let action = action.encode_to_vec();
    Key { digest: function.of(&action), action }
}

#[derive(Clone, PartialEq, Message)]
struct Envelopes {
    #[prost(bytes = "vec", repeated, tag = "1")]
    receipts: Vec<Vec<u8>>,
}

/// Receipts with the blocks they reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Entry {
    /// Signed envelopes, unverified.
    pub(crate) receipts: Vec<Vec<u8>>,
    /// What the server calls each block.
    pub(crate) blocks: BTreeMap<Link, api::Digest>,
}

/// An entry in the server's form, with the blobs it needs beside it.
pub(crate) struct Encoded {
    pub(crate) result: api::ActionResult,
    pub(crate) blobs: Vec<(api::Digest, Vec<u8>)>,
}

/// An entry as it came, with what has to be read before it is whole.
pub(crate) struct Partial {
    entry: Entry,
    /// Where the receipts are, when they do not stand in it.
    pub(crate) receipts: Option<api::Digest>,
    /// Where the blocks are named, when they do not stand in it.
    pub(crate) blocks: Option<api::Digest>,
}

impl Entry {
    /// The server's form.
    pub(crate) fn encode(&self, function: Function) -> Encoded {
        let receipts = Envelopes { receipts: self.receipts.clone() }.encode_to_vec();
        let mut blobs = vec![];
        let mut result = api::ActionResult { stdout_digest: Some(function.of(&receipts)), ..Default::default() };
        if receipts.len() <= INLINE_BYTES {
            result.stdout_raw.clone_from(&receipts);
        }
        blobs.push((function.of(&receipts), receipts));
        let names = self.blocks.iter().map(|(link, digest)| (link.to_string(), Some(digest.clone())));
        if self.blocks.len() <= MAX_FILES {
            let file = |(path, digest)| api::OutputFile { path, digest, ..Default::default() };
            result.output_files = names.map(file).collect();
        } else {
            // Nodes are sorted by name, as the protocol wants them.
            let mut names: Vec<_> = names.collect();
            names.sort_by(|a: &(String, _), b| a.0.cmp(&b.0));
            let file = |(name, digest)| api::FileNode { name, digest, ..Default::default() };
            let root = api::Directory { files: names.into_iter().map(file).collect(), ..Default::default() };
            let tree = api::Tree { root: Some(root), children: vec![] }.encode_to_vec();
            let tree_digest = Some(function.of(&tree));
            blobs.push((function.of(&tree), tree));
            result.output_directories =
                vec![api::OutputDirectory { path: DIRECTORY.to_owned(), tree_digest, ..Default::default() }];
        }
        Encoded { result, blobs }
    }

    /// Reads what a server sent; what does not look like ours is left out.
    pub(crate) fn decode(result: api::ActionResult) -> Partial {
        let mut entry = Self::default();
        for file in result.output_files {
            if let (Ok(link), Some(digest)) = (file.path.parse::<Link>(), file.digest) {
                entry.blocks.insert(link, digest);
            }
        }
        let mut directories = result.output_directories.into_iter().filter(|d| d.path == DIRECTORY);
        let mut partial = Partial { entry, receipts: None, blocks: directories.next().and_then(|d| d.tree_digest) };
        if result.stdout_raw.is_empty() {
            partial.receipts = result.stdout_digest;
        } else {
            partial.add_receipts(&result.stdout_raw);
        }
        partial
    }

    /// Keeps what others said beside what we say of the same subject.
    pub(crate) fn merge(&mut self, subject: Subject, other: Self) {
        if subject.merge(&mut self.receipts, other.receipts) {
            for (link, digest) in other.blocks {
                self.blocks.entry(link).or_insert(digest);
            }
        }
    }
}

impl Partial {
    /// Takes what `receipts` names.
    pub(crate) fn add_receipts(&mut self, bytes: &[u8]) {
        if let Ok(envelopes) = Envelopes::decode(bytes) {
            let fits = |r: &Vec<u8>| r.len() <= MAX_RECEIPT_BYTES;
            self.entry.receipts = envelopes.receipts.into_iter().filter(fits).take(2 * MAX_ISSUERS).collect();
        }
    }

    /// Takes what `blocks` names.
    pub(crate) fn add_blocks(&mut self, bytes: &[u8]) {
        let root = api::Tree::decode(bytes).ok().and_then(|tree| tree.root).unwrap_or_default();
        for file in root.files.into_iter().take(MAX_BLOCKS) {
            if let (Ok(link), Some(digest)) = (file.name.parse::<Link>(), file.digest) {
                self.entry.blocks.insert(link, digest);
            }
        }
    }

    /// The entry, once it is whole; `None` when nobody says anything in it.
    pub(crate) fn finish(self) -> Option<Entry> {
        Some(self.entry).filter(|e| !e.receipts.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::{InvocationId, TaskId};
    use quipu_store::receipt::{Meta, Output, Receipt};
    use quipu_store::sign::Signer;

    fn receipt(key: u8, task: TaskId) -> Vec<u8> {
        let receipt = Receipt {
            ran: InvocationId::of(b"i"),
            out: Ok(Output::default()),
            issued_at: 1,
            expires_at: None,
            meta: Meta { settles: [(task, Default::default())].into(), tier: "ns".into(), ..Meta::default() },
        };
        Signer::from_secret(&[key; 32]).sign(&receipt).expect("fits").bytes
    }

    fn entry(receipts: Vec<Vec<u8>>, blocks: usize) -> Entry {
        let block = |i: usize| {
            let bytes = i.to_string();
            (Link::of(quipu_store::cid::Codec::Raw, bytes.as_bytes()), Function::Sha256.of(bytes.as_bytes()))
        };
        Entry { receipts, blocks: (0..blocks).map(block).collect() }
    }

    fn read_back(encoded: Encoded) -> Option<Entry> {
        let blob = |digest: &api::Digest| encoded.blobs.iter().find(|(d, _)| d == digest).map(|(_, b)| b.clone());
        let mut partial = Entry::decode(encoded.result.clone());
        if let Some(digest) = partial.receipts.clone() {
            partial.add_receipts(&blob(&digest)?);
        }
        if let Some(digest) = partial.blocks.clone() {
            partial.add_blocks(&blob(&digest)?);
        }
        partial.finish()
    }

    #[test]
    fn entries_of_any_size_read_back() {
        let task = TaskId::of(b"t");
        for blocks in [0, 1, MAX_FILES, MAX_FILES + 1, 3000] {
            let entry = entry(vec![receipt(1, task), receipt(2, task)], blocks);
            let encoded = entry.encode(Function::Sha256);
            assert_eq!(encoded.result.output_files.len(), if blocks > MAX_FILES { 0 } else { blocks });
            assert_eq!(read_back(encoded), Some(entry), "{blocks}");
        }
        let long = entry(vec![vec![1; INLINE_BYTES + 1]], 1);
        assert!(long.encode(Function::Sha256).result.stdout_raw.is_empty());
        assert_eq!(read_back(long.encode(Function::Sha256)), Some(long));
    }

    #[test]
    fn blocks_of_others_are_named_as_long_as_their_receipts_stay() {
        let task = TaskId::of(b"t");
        let mut ours = entry(vec![receipt(1, task)], 1);
        ours.merge(Subject::Task(task), entry(vec![receipt(1, task), b"no receipt".to_vec()], 5));
        assert_eq!((ours.receipts.len(), ours.blocks.len()), (1, 1));
        ours.merge(Subject::Task(task), entry(vec![receipt(3, task)], 3));
        assert_eq!((ours.receipts.len(), ours.blocks.len()), (2, 3));
    }

    #[test]
    fn what_others_put_there_is_no_entry() {
        for result in [
            api::ActionResult::default(),
            api::ActionResult { stdout_raw: b"hello\n".to_vec(), ..Default::default() },
            api::ActionResult { stdout_raw: vec![0xff; 100], exit_code: 1, ..Default::default() },
        ] {
            assert_eq!(Entry::decode(result).finish(), None);
        }
    }

    #[test]
    fn keys_tell_tasks_from_invocations() {
        let digest = |subject: Subject| key(subject, Function::Sha256).digest;
        let (task, invocation) = (TaskId::of(b"x"), InvocationId::of(b"x"));
        assert_ne!(digest(Subject::Task(task)), digest(Subject::Invocation(invocation)));
        assert_eq!(digest(Subject::Task(task)), digest(Subject::Task(TaskId::of(b"x"))));
    }
}
