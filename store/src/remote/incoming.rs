//! A block on its way into the store, piece by piece: it is kept when it turns out to be what its id says.
//!
//! Small ones wait in memory, large ones in a file beside the store's. Unaware of where they come from.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::RemoteError;
use crate::cid::{Codec, Link};
use crate::store::Store;
use crate::terms::Take;

/// More than this waits in a file.
const MEMORY_BYTES: usize = 1 << 20;

/// A block that is not all here yet. Dropped before its end, it leaves nothing behind.
pub struct Incoming<'s> {
    store: &'s Store,
    link: Link,
    hasher: blake3::Hasher,
    size: u64,
    memory: Vec<u8>,
    file: Option<(Scratch, File)>,
}

impl<'s> Incoming<'s> {
    /// Begins to take a block in. How much of it may come is for the caller to watch.
    pub fn new(store: &'s Store, link: Link) -> Self {
        Self { store, link, hasher: blake3::Hasher::new(), size: 0, memory: vec![], file: None }
    }

    /// Which block it is to be.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Bytes that came so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes what comes next.
    pub fn write(&mut self, part: &[u8]) -> Result<(), RemoteError> {
        self.hasher.update(part);
        self.size += part.len() as u64;
        // Structured blocks are read whole when they are kept.
        if self.file.is_none() && (self.link.codec != Codec::Raw || self.memory.len() + part.len() <= MEMORY_BYTES) {
            self.memory.extend_from_slice(part);
            return Ok(());
        }
        self.spill(part).map_err(|e| RemoteError::Store(e.to_string()))
    }

    fn spill(&mut self, part: &[u8]) -> io::Result<()> {
        let (_, file) = match &mut self.file {
            Some(open) => open,
            none => {
                let dir = Scratch(self.store.scratch_dir()?);
                let file = File::create_new(dir.0.join("blob"))?;
                let open = none.insert((dir, file));
                open.1.write_all(&std::mem::take(&mut self.memory))?;
                open
            }
        };
        file.write_all(part)
    }

    /// Keeps it, and says how large it is. `None` when its bytes are not those of its id: then nothing was kept.
    pub fn finish(self) -> Result<Option<u64>, RemoteError> {
        if *self.hasher.finalize().as_bytes() != self.link.digest {
            return Ok(None);
        }
        match self.file {
            None => drop(self.store.put(self.link.codec, self.memory)?),
            Some((dir, file)) => {
                drop(file);
                self.store.put_file(&dir.0.join("blob"), Take::Move)?;
            }
        }
        Ok(Some(self.size))
    }
}

/// A directory that goes when it is not needed any more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::Signer;
    use crate::{Options, SignerSource};

    #[test]
    fn what_its_id_says_is_kept_and_nothing_else_whatever_its_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32])));
        let store = Store::open(dir.path(), options).expect("opened");
        for size in [0, 1, MEMORY_BYTES - 1, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES + 7] {
            for codec in [Codec::Raw, Codec::DagCbor] {
                let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
                let link = Link::of(codec, &bytes);
                let send = |link: Link, bytes: &[u8]| {
                    let mut incoming = Incoming::new(&store, link);
                    bytes.chunks(300_000).for_each(|part| incoming.write(part).expect("there is room"));
                    assert_eq!(incoming.size(), bytes.len() as u64);
                    incoming.finish().expect("the store works")
                };
                let mut other = bytes.clone();
                other.push(1);
                assert_eq!((send(link, &other), store.has(link).expect("readable")), (None, false), "{size}");
                assert_eq!(send(link, &bytes), Some(size as u64));
                assert_eq!(store.get(link, u64::MAX).expect("readable"), Some(bytes), "{size}");
            }
        }
        // One that never ended.
        let mut incoming = Incoming::new(&store, Link::of(Codec::Raw, b"never"));
        incoming.write(&vec![0; 2 * MEMORY_BYTES]).expect("there is room");
        drop(incoming);
        store.flush().expect("written");
        let left = std::fs::read_dir(store.scratch_dir().expect("made").parent().expect("is in one"));
        assert_eq!(left.expect("readable").count(), 1, "the one just made");
    }
}
