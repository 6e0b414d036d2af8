//! Blobs on their way, compressed with zstd: never to more bytes than the blob has, whatever somebody sends.
//!
//! Unaware of calls and of servers.

use std::io::Read as _;

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::api;

/// Below this nothing is gained.
const LEAST_BYTES: u64 = 512;
/// Larger ones go as they are: both forms are in memory on their way.
const MOST_BYTES: u64 = 16 << 20;
/// Memory that a frame may ask for; the format's own advice.
const MAX_WINDOW_BYTES: u64 = 8 << 20;
/// What the protocol calls it.
pub(crate) const ZSTD: i32 = api::compressor::Value::Zstd as i32;

/// Whether a blob of this size is worth it.
pub(crate) fn pays(size: u64) -> bool {
    (LEAST_BYTES..=MOST_BYTES).contains(&size)
}

/// Most bytes that a blob of this size has in any sensible compressed form.
pub(crate) fn most(size: u64) -> u64 {
    size + size / 64 + 1024
}

/// The compressed form, where that is shorter.
pub(crate) fn deflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let shorter = compress_to_vec(bytes, CompressionLevel::Fastest);
    (shorter.len() < bytes.len()).then_some(shorter)
}

/// Work on large blobs, beside the threads that answers are waited for on.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

/// The blob of this size that was compressed; `None` when it is none, or another size.
pub(crate) fn inflate(mut compressed: &[u8], size: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![];
    while !compressed.is_empty() {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        let frame = StreamingDecoder::new_with_decoder(&mut compressed, decoder).ok()?;
        // One byte more than there may be, to see that there is more.
        let left = size - bytes.len() as u64;
        frame.take(left + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > size {
            return None;
        }
    }
    (bytes.len() as u64 == size).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back_and_nothing_larger_does() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|i| (i / 9).to_string().into_bytes()).collect();
        let short = deflate(&text).expect("is shorter");
        let size = text.len() as u64;
        assert!(short.len() * 2 < text.len() && (short.len() as u64) < most(size));
        assert_eq!(inflate(&short, size).as_ref(), Some(&text));
        assert_eq!((inflate(&short, size - 1), inflate(&short, size + 1)), (None, None));
        // Frames one after the other are one blob.
        assert_eq!(inflate(&[short.clone(), short.clone()].concat(), 2 * size), Some(text.repeat(2)));
        // What has no shorter form is left alone.
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(deflate(&noise), None);
        assert!(pays(1000) && !pays(10) && !pays(1 << 30));
    }

    #[test]
    fn hostile_bytes_are_refused_in_little_memory() {
        // A block that repeats one byte, 128 KiB for four, as often as one likes: many gigabytes in all.
        let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
        for _ in 0..100_000 {
            bomb.extend([0x02, 0x00, 0x10, 0x00]);
        }
        assert_eq!(inflate(&bomb, 1 << 20), None);
        // A frame that wants a window of gigabytes.
        assert_eq!(inflate(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00], 10), None);
        let good = deflate(&[7; 5000]).expect("is shorter");
        for cut in 0..good.len() {
            assert_eq!(inflate(&good[..cut], 5000), None, "{cut}");
            let mut flipped = good.clone();
            flipped[cut] ^= 0x10;
            assert!(inflate(&flipped, 5000).is_none_or(|bytes| bytes.len() == 5000), "{cut}");
        }
        assert_eq!(inflate(&[0xff; 1000], 1000), None);
    }
}
