//! The names a server has for blobs, and what is known here of them: the side index from BLAKE3 ids to SHA-256.
//!
//! What was computed here is true; what a server said is kept as said, and checked when bytes come. Unaware of
//! connections.

use std::fs::File;
use std::io::Read;

use quipu_store::cid::Link;
use quipu_store::remote::Bytes;
use quipu_store::{Store, StoreError};
use sha2::{Digest as _, Sha256};

use crate::api::Digest;

/// How a server names blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Sha256,
    Blake3,
}

impl Function {
    /// Its number in the protocol.
    pub(crate) fn number(self) -> i32 {
        use crate::api::digest_function::Value;
        match self {
            Self::Sha256 => Value::Sha256 as i32,
            Self::Blake3 => Value::Blake3 as i32,
        }
    }

    /// The digest of bytes at hand.
    pub(crate) fn of(self, bytes: &[u8]) -> Digest {
        let hash: [u8; 32] = match self {
            Self::Sha256 => Sha256::digest(bytes).into(),
            Self::Blake3 => *blake3::hash(bytes).as_bytes(),
        };
        digest(&hash, bytes.len() as u64)
    }

    /// Part of a ByteStream name that stands before the hash.
    pub(crate) fn infix(self) -> &'static str {
        match self {
            Self::Sha256 => "",
            Self::Blake3 => "blake3/",
        }
    }
}

/// A digest in the protocol's form.
pub(crate) fn digest(hash: &[u8; 32], size: u64) -> Digest {
    Digest { hash: hex(hash), size_bytes: i64::try_from(size).unwrap_or(i64::MAX) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

/// The 32 bytes and the size of a digest that has the right form.
pub(crate) fn parts(digest: &Digest) -> Option<([u8; 32], u64)> {
    let text = digest.hash.as_bytes();
    let mut hash = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some((hash, u64::try_from(digest.size_bytes).ok()?))
}

/// What is known of a block's other name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// Computed here from its bytes; otherwise somebody said so.
    computed: bool,
    size: u64,
    sha256: Option<[u8; 32]>,
}

impl Known {
    fn to_note(self) -> Vec<u8> {
        let mut note = vec![u8::from(self.computed)];
        note.extend_from_slice(&self.size.to_le_bytes());
        note.extend(self.sha256.into_iter().flatten());
        note
    }

    fn from_note(note: &[u8]) -> Option<Self> {
        let (computed, rest) = note.split_first()?;
        let (size, hash) = rest.split_first_chunk::<8>()?;
        let sha256 = match hash {
            [] => None,
            hash => Some(hash.try_into().ok()?),
        };
        Some(Self { computed: *computed == 1, size: u64::from_le_bytes(*size), sha256 })
    }
}

fn key(link: Link) -> String {
    format!("sha256:{link}")
}

fn known(store: &Store, link: Link) -> Result<Option<Known>, StoreError> {
    Ok(store.note(&key(link))?.and_then(|note| Known::from_note(&note)))
}

/// What a server may call this block, from what is known without its bytes.
pub(crate) fn find(store: &Store, function: Function, link: Link) -> Result<Option<Digest>, StoreError> {
    let Some(known) = known(store, link)? else { return Ok(None) };
    let hash = match function {
        Function::Blake3 => Some(link.digest),
        Function::Sha256 => known.sha256,
    };
    Ok(hash.map(|hash| digest(&hash, known.size)))
}

/// Keeps what a server said a block is called. What was computed here is never replaced.
pub(crate) fn learn(store: &Store, function: Function, link: Link, said: &Digest) -> Result<(), StoreError> {
    let Some((hash, size)) = parts(said) else { return Ok(()) };
    let sha256 = match function {
        Function::Blake3 if hash != link.digest => return Ok(()),
        Function::Blake3 => None,
        Function::Sha256 => Some(hash),
    };
    match known(store, link)? {
        Some(known) if known.computed => Ok(()),
        Some(known) => {
            let learned = Known { computed: false, size, sha256: sha256.or(known.sha256) };
            store.set_note(&key(link), Some(learned.to_note()))
        }
        None => store.set_note(&key(link), Some(Known { computed: false, size, sha256 }.to_note())),
    }
}

/// Forgets what was said of a block and turned out false.
pub(crate) fn forget(store: &Store, link: Link) -> Result<(), StoreError> {
    match known(store, link)? {
        Some(known) if !known.computed => store.set_note(&key(link), None),
        _ => Ok(()),
    }
}

/// What a server calls a block of this store; both hashes in one pass over its bytes, once. `None` when it is
/// not here, or not what its id says.
pub(crate) fn compute(store: &Store, function: Function, link: Link) -> Result<Option<Digest>, StoreError> {
    if let Some(known) = known(store, link)?.filter(|k| k.computed && k.sha256.is_some())
        && store.has(link)?
    {
        let hash = match function {
            Function::Blake3 => Some(link.digest),
            Function::Sha256 => known.sha256,
        };
        return Ok(hash.map(|hash| digest(&hash, known.size)));
    }
    let Some((sha256, size)) = hash_both(store, link)? else { return Ok(None) };
    store.set_note(&key(link), Some(Known { computed: true, size, sha256: Some(sha256) }.to_note()))?;
    Ok(Some(digest(if function == Function::Blake3 { &link.digest } else { &sha256 }, size)))
}

/// The same for a file outside of the store. `None` when it is not what the id says, or cannot be read.
pub(crate) fn compute_file(
    store: &Store,
    function: Function,
    link: Link,
    path: &std::path::Path,
) -> Result<Option<Digest>, StoreError> {
    let name = |sha256: [u8; 32], size| digest(if function == Function::Blake3 { &link.digest } else { &sha256 }, size);
    if let Some(Known { computed: true, size, sha256: Some(sha256) }) = known(store, link)? {
        // Known from before: whether the file is still the same is seen when the work is over.
        return Ok(Some(name(sha256, size)));
    }
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    let Some((sha256, own, size)) = read_both(&mut file) else { return Ok(None) };
    if own != link.digest {
        return Ok(None);
    }
    store.set_note(&key(link), Some(Known { computed: true, size, sha256: Some(sha256) }.to_note()))?;
    Ok(Some(name(sha256, size)))
}

/// Both hashes of all that is left to read, in one pass. What cannot be read counts as absent, like everything the
/// store cannot vouch for.
fn read_both(file: &mut File) -> Option<([u8; 32], [u8; 32], u64)> {
    let (mut sha256, mut own) = (Sha256::new(), blake3::Hasher::new());
    let mut buffer = vec![0; 256 << 10];
    let mut read_bytes = 0_u64;
    loop {
        let n = file.read(&mut buffer).ok()?;
        if n == 0 {
            return Some((sha256.finalize().into(), *own.finalize().as_bytes(), read_bytes));
        }
        read_bytes += n as u64;
        sha256.update(&buffer[..n]);
        own.update(&buffer[..n]);
    }
}

/// A digest of bytes that come piece by piece.
pub(crate) enum Hasher {
    Sha256(Sha256, u64),
    Blake3(Box<blake3::Hasher>, u64),
}

impl Hasher {
    pub(crate) fn new(function: Function) -> Self {
        match function {
            Function::Sha256 => Self::Sha256(Sha256::new(), 0),
            Function::Blake3 => Self::Blake3(Box::default(), 0),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let size = match self {
            Self::Sha256(hasher, size) => {
                hasher.update(bytes);
                size
            }
            Self::Blake3(hasher, size) => {
                hasher.update(bytes);
                size
            }
        };
        *size += bytes.len() as u64;
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher, size) => digest(&hasher.finalize().into(), size),
            Self::Blake3(hasher, size) => digest(hasher.finalize().as_bytes(), size),
        }
    }
}

fn hash_both(store: &Store, link: Link) -> Result<Option<([u8; 32], u64)>, StoreError> {
    match Bytes::open(store, link)? {
        None => Ok(None),
        Some(Bytes::Here(bytes)) => Ok(Some((Sha256::digest(&bytes).into(), bytes.len() as u64))),
        Some(Bytes::File(mut file, size)) => {
            let Some((sha256, own, read_bytes)) = read_both(&mut file) else { return Ok(None) };
            if own != link.digest || read_bytes != size {
                store.corrupt(link);
                return Ok(None);
            }
            Ok(Some((sha256, size)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::{BlobId, Codec};
    use quipu_store::sign::Signer;
    use quipu_store::{Blob, Options, SignerSource};

    #[test]
    fn what_was_said_is_replaced_and_what_was_computed_is_not() {
        let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))));
        let link = store.put(Codec::Raw, b"hello".to_vec()).expect("stored");
        let (lie, truth) = (Function::Sha256.of(b"other"), Function::Sha256.of(b"hello"));
        assert_eq!(find(&store, Function::Sha256, link).expect("read"), None);
        learn(&store, Function::Sha256, link, &lie).expect("kept");
        assert_eq!(find(&store, Function::Sha256, link).expect("read"), Some(lie.clone()));
        forget(&store, link).expect("dropped");
        assert_eq!(find(&store, Function::Sha256, link).expect("read"), None);
        assert_eq!(compute(&store, Function::Sha256, link).expect("read"), Some(truth.clone()));
        learn(&store, Function::Sha256, link, &lie).expect("kept");
        forget(&store, link).expect("dropped");
        assert_eq!(find(&store, Function::Sha256, link).expect("read"), Some(truth));
        assert_eq!(find(&store, Function::Blake3, link).expect("read"), Some(Function::Blake3.of(b"hello")));
    }

    #[test]
    fn both_names_of_a_large_block_come_from_one_pass_and_a_damaged_one_has_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32])));
        let store = Store::open(dir.path(), options).expect("opened");
        let bytes = vec![5; 600_000];
        let link = store.put(Codec::Raw, bytes.clone()).expect("stored");
        assert_eq!(compute(&store, Function::Sha256, link).expect("read"), Some(Function::Sha256.of(&bytes)));
        assert_eq!(compute(&store, Function::Blake3, link).expect("read"), Some(Function::Blake3.of(&bytes)));
        let other = store.put(Codec::Raw, vec![6; 600_000]).expect("stored");
        let Some(Blob::File { path, .. }) = store.blob(BlobId::from_digest(other.digest)).expect("read") else {
            panic!("large blobs are files");
        };
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, vec![7; 600_000]).expect("written");
        assert_eq!(compute(&store, Function::Sha256, other).expect("read"), None);
    }

    #[test]
    fn digests_of_another_form_are_none() {
        let good = Function::Sha256.of(b"x");
        assert_eq!(parts(&good).map(|(hash, size)| digest(&hash, size)), Some(good.clone()));
        for bad in ["", "00", &good.hash.to_uppercase(), &good.hash[1..], &format!("{}g", &good.hash[1..])] {
            assert_eq!(parts(&Digest { hash: bad.to_owned(), size_bytes: 1 }), None, "{bad}");
        }
        assert_eq!(parts(&Digest { size_bytes: -1, ..good }), None);
    }
}
