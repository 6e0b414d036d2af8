//! What archives are compressed by, each as a stream that takes no more memory than there may be for it.
//!
//! Unaware of what is in the stream.

use std::io::{self, BufRead, BufReader, Read};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use quipu_runtime::fetch::Unpack;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What a decoder may remember of what it gave: four times what `xz -9` wants.
const MAX_XZ_KIB: u32 = 256 << 10;
/// The same for zstd: what its own command takes.
const MAX_ZSTD_WINDOW_BYTES: u64 = 128 << 20;

/// The stream of files in an archive; an archive that is none is handed back.
pub(super) fn decoder<'a, R: Read + 'a>(how: Unpack, from: R) -> Result<Box<dyn Read + 'a>, R> {
    Ok(match how {
        Unpack::Tar => Box::new(from),
        Unpack::TarGz => Box::new(MultiGzDecoder::new(from)),
        Unpack::TarBz2 => Box::new(MultiBzDecoder::new(from)),
        Unpack::TarXz => Box::new(XzReader::new_mem_limit(BufReader::new(from), true, MAX_XZ_KIB)),
        Unpack::TarZst => Box::new(Frames::new(BufReader::new(from))),
        Unpack::Zip => return Err(from),
    })
}

/// Frames of zstd, one after the other.
struct Frames<R> {
    from: R,
    decoder: FrameDecoder,
    /// Whether a frame was begun and not all of it given.
    within: bool,
    /// Whether there was any.
    any: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(from: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        Self { from, decoder, within: false, any: false }
    }

    /// Begins the next frame; false when there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.from.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            if !self.within {
                self.within = self.begin()?;
                if !self.within {
                    return if self.any { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
                self.any = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(into.len());
                self.decoder.decode_blocks(&mut self.from, some).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(into)?;
            if read > 0 {
                return Ok(read);
            }
            self.within = false;
        }
        Ok(0)
    }
}
