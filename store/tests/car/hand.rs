//! A hand that writes CAR files byte by byte, good ones and bad ones.

use quipu_store::Store;
use quipu_store::cid::{BlobId, Codec, Link};
use quipu_store::tree::{Entry, Name};

/// A file in the making.
pub(crate) struct Hand {
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn varint(mut n: u64) -> Vec<u8> {
    let mut out = vec![];
    while n > 0x7f {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

pub(crate) fn head(major: u8, n: usize) -> Vec<u8> {
    match n {
        0..=23 => vec![major << 5 | n as u8],
        24..=255 => vec![major << 5 | 24, n as u8],
        _ => [&[major << 5 | 25][..], &(n as u16).to_be_bytes()].concat(),
    }
}

pub(crate) fn link_cbor(link: Link) -> Vec<u8> {
    [&[0xd8, 42, 0x58, 37, 0][..], &link.to_bytes()].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.as_bytes().to_vec()].concat()
}

impl Hand {
    pub(crate) fn new(roots: &[Link]) -> Self {
        let roots: Vec<u8> = roots.iter().flat_map(|r| link_cbor(*r)).collect::<Vec<_>>();
        let count = roots.len() / 41;
        let header = [b"\xa2\x65roots".to_vec(), head(4, count), roots, b"\x67version\x01".to_vec()].concat();
        Self { bytes: [varint(header.len() as u64), header].concat() }
    }

    pub(crate) fn block(mut self, codec: Codec, bytes: &[u8]) -> Self {
        let link = Link::of(codec, bytes);
        self.bytes.extend(varint(36 + bytes.len() as u64));
        self.bytes.extend(link.to_bytes());
        self.bytes.extend(bytes);
        self
    }
}

pub(crate) fn name(n: &str) -> Name {
    Name::new(n).expect("valid")
}

pub(crate) fn file_of(store: &Store, bytes: &[u8]) -> Entry {
    let blob = BlobId::try_from(store.put(Codec::Raw, bytes.to_vec()).expect("is put")).expect("raw");
    Entry::File { blob, size: bytes.len() as u64, exec: false }
}
