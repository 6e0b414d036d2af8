//! A directory's entries as the bytes of a block, written straight in their canonical form.
//!
//! Unaware of reading: whoever reads a node writes it again, and compares.

use crate::cid::Link;
use crate::tree::{Entry, Name};

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const TRUE: u8 = 0xf5;

/// The tag of links, before their bytes as a CID behind a zero.
const LINK_TAG: u64 = 42;

/// The node of these entries, which are in order: `{"e": [...]}`.
pub(crate) fn encode(entries: &[(Name, Entry)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + entries.iter().map(|(name, _)| name.as_str().len() + 64).sum::<usize>());
    head(&mut out, MAP, 1);
    text(&mut out, "e");
    head(&mut out, LIST, entries.len() as u64);
    for (name, entry) in entries {
        // Keys in the order of their bytes.
        match entry {
            Entry::File { blob, size, exec } => {
                head(&mut out, MAP, if *exec { 4 } else { 3 });
                text(&mut out, "f");
                link(&mut out, blob.link());
                text(&mut out, "n");
                text(&mut out, name.as_str());
                text(&mut out, "s");
                head(&mut out, UNSIGNED, *size);
                if *exec {
                    text(&mut out, "x");
                    out.push(TRUE);
                }
            }
            Entry::Dir { tree } => {
                head(&mut out, MAP, 2);
                text(&mut out, "d");
                link(&mut out, tree.link());
                text(&mut out, "n");
                text(&mut out, name.as_str());
            }
            Entry::Symlink { target } => {
                head(&mut out, MAP, 2);
                text(&mut out, "l");
                text(&mut out, target);
                text(&mut out, "n");
                text(&mut out, name.as_str());
            }
        }
    }
    out
}

/// What an item begins with, in the shortest form.
fn head(out: &mut Vec<u8>, major: u8, n: u64) {
    let major = major << 5;
    let bytes = n.to_be_bytes();
    let (short, width) = match n {
        0..=23 => return out.push(major | bytes[7]),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(major | short);
    out.extend_from_slice(&bytes[8 - width..]);
}

fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn link(out: &mut Vec<u8>, link: Link) {
    head(out, TAG, LINK_TAG);
    let cid = link.to_bytes();
    head(out, BYTES, 1 + cid.len() as u64);
    out.push(0);
    out.extend_from_slice(&cid);
}
