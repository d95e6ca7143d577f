//! The one file that names the `zip` crate: its decoders for methods that we have none for.
//!
//! The crate hands out its decoders only for members that it found itself. Its reader for
//! unseekable streams needs no more for that than a local file header, so one is made up and put
//! before the encoded bytes. See `central.rs` for why it does not read archives for us.

use std::{
    cell::Cell,
    io::{self, Read},
};

use zip::{
    read::{ZipReadOptions, read_zipfile_from_stream_with_options},
    result::ZipError,
};

use super::{Error, Method};

/// Sizes and CRC-32 follow the data (APPNOTE 4.4.4, bit 3), so the header need not tell them.
const DATA_DESCRIPTOR: u16 = 1 << 3;

/// Calls `read` with the decoder for `method` over the bytes of `encoded`.
///
/// # Errors
/// What `read` says, and `Corrupt` if the decoder cannot be made.
pub(super) fn with_decoder(
    method: Method,
    encoded: impl Read,
    read: impl FnOnce(&mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let done = Cell::new(false);
    let header = local_header(method);
    let mut stream = UntilDone { inner: header.chain(encoded), done: &done };
    // The encoded bytes end where they end; size and CRC-32 are checked by the caller.
    let options = ZipReadOptions::new()
        .ignore_crc32(true)
        .override_compressed_size(u64::MAX)
        .override_uncompressed_size(u64::MAX);
    match read_zipfile_from_stream_with_options(&mut stream, options) {
        Ok(Some(mut decoder)) => {
            let result = read(&mut decoder);
            // The crate reads the stream to its end when it drops the decoder.
            done.set(true);
            result
        }
        Ok(None) => unreachable!("the stream starts with a local file header"),
        Err(ZipError::CompressionMethodNotSupported(method)) => {
            Err(Error::UnsupportedMethod(method))
        }
        Err(error) => Err(Error::Corrupt(format!("{method}: {error}"))),
    }
}

/// A local file header without name and extra field (APPNOTE 4.3.7).
fn local_header(method: Method) -> [u8; 30] {
    let mut header = [0; 30];
    header[..4].copy_from_slice(b"PK\x03\x04");
    header[4] = 63; // Version 6.3, which has all methods.
    header[6..8].copy_from_slice(&DATA_DESCRIPTOR.to_le_bytes());
    header[8..10].copy_from_slice(&method.number().to_le_bytes());
    header
}

/// A reader that ends when `done` is set.
struct UntilDone<'a, R> {
    inner: R,
    done: &'a Cell<bool>,
}

impl<R: Read> Read for UntilDone<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.done.get() { Ok(0) } else { self.inner.read(buf) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_is_given_up_reads_no_further() {
        for method in [Method::Deflate64, Method::Bzip2, Method::Zstd] {
            let endless = Cell::new(0_u64);
            let encoded = Endless(&endless);
            let result = with_decoder(method, encoded, |decoder| {
                let error = decoder.read(&mut [0; 10]).unwrap_err();
                Err(Error::Corrupt(error.to_string()))
            });
            assert!(matches!(result, Err(Error::Corrupt(_))));
            assert!((1..1 << 20).contains(&endless.get()), "{} bytes", endless.get());
        }
    }

    /// A reader of bytes that are no stream of any method; counts them, and ends late.
    struct Endless<'a>(&'a Cell<u64>);

    impl Read for Endless<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            buf.fill(0xFF);
            self.0.set(self.0.get() + buf.len() as u64);
            Ok(if self.0.get() > 1 << 24 { 0 } else { buf.len() })
        }
    }
}
