//! Hashing content as it comes, by whichever hash it is known by. Unaware of where it comes from.

use quipu_runtime::fetch::Sum;
use quipu_store::cid::BlobHasher;
use sha2::{Digest, Sha256};

/// A hash that is not finished.
pub(crate) enum Hasher {
    Blake3(Box<BlobHasher>),
    Sha256(Box<Sha256>),
}

impl Hasher {
    /// Begins the kind of hash that `sum` is.
    pub(crate) fn of(sum: &Sum) -> Self {
        match sum {
            Sum::Blake3(_) => Self::Blake3(Box::default()),
            Sum::Sha256(_) => Self::Sha256(Box::default()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all so far.
    pub(crate) fn sum(&self) -> Sum {
        match self {
            Self::Blake3(hasher) => Sum::Blake3(*hasher.id().digest()),
            Self::Sha256(hasher) => Sum::Sha256(hasher.clone().finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hashes_are_what_others_say_they_are() {
        for (known, text) in [
            ("blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85", "abc"),
            ("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc"),
        ] {
            let known: Sum = known.parse().expect("is one");
            let mut hasher = Hasher::of(&known);
            text.bytes().for_each(|byte| hasher.update(&[byte]));
            assert_eq!(hasher.sum(), known);
        }
    }
}
