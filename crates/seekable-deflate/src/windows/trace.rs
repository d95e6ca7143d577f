//! Finds the bytes of a window that later bytes refer to.
//!
//! A match reaches back 32 KiB at most, so only the first 32 KiB after a checkpoint can refer to
//! its window; later bytes refer to copies. The tracer decodes those 32 KiB after a window of
//! marks, in which each mark stands for its own place. The marks in the result show which bytes of
//! the window are referred to.

use std::ops::Range;

use crate::{
    BitOffset, Format, ReadAt,
    inflate::{Fault, HISTORY, Output, Place},
    stream::{Pause, Stream},
};

/// The checkpoint of a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TraceStart {
    pub(crate) at: BitOffset,
    pub(crate) place: Place,
    /// Length of the window in bytes.
    pub(crate) window: usize,
}

/// The first mark. Smaller units stand for bytes.
const FIRST_MARK: usize = 1 << 8;

/// Traces windows, all with the same buffers.
pub(crate) struct Tracer {
    stream: Stream,
    units: Vec<u16>,
    needed: Vec<bool>,
}

impl Tracer {
    /// A tracer for the windows of one stream.
    pub(crate) fn new(format: Format, encoded: Range<u64>) -> Self {
        let stream = Stream::new(format, encoded);
        Self { stream, units: Vec::new(), needed: Vec::new() }
    }

    /// Prepares the tracer for the windows of another stream.
    pub(crate) fn turn_to(&mut self, format: Format, encoded: Range<u64>) {
        self.stream = Stream::new(format, encoded);
    }

    /// For each byte of the window at `start`: do the `len` bytes after the checkpoint refer to it?
    /// Bytes more than 32 KiB after the checkpoint never do. If the stream has changed, every byte
    /// counts as referred to.
    ///
    /// # Errors
    /// Only [`Fault::Source`].
    pub(crate) fn needed(
        &mut self,
        source: &dyn ReadAt,
        start: TraceStart,
        len: usize,
    ) -> Result<&[bool], Fault> {
        let marks: [u16; HISTORY] = std::array::from_fn(|at| (FIRST_MARK + at) as u16);
        let marks = &marks[..start.window];
        self.units.resize(Output::room(marks.len(), len), 0);
        let mut out = Output::new(std::mem::take(&mut self.units), marks);
        let decoded = decode(&mut self.stream, source, start, &mut out, len);
        let is_whole = out.len() >= len;
        let (units, range) = out.into_parts();
        self.units = units;
        self.needed.clear();
        match decoded {
            Err(Fault::Source(error)) => return Err(Fault::Source(error)),
            Ok(()) if is_whole => self.needed.resize(FIRST_MARK + start.window, false),
            Ok(()) | Err(_) => {
                self.needed.resize(start.window, true);
                return Ok(&self.needed);
            }
        }
        for unit in &self.units[range] {
            self.needed[usize::from(*unit)] = true;
        }
        Ok(&self.needed[FIRST_MARK..])
    }
}

fn decode(
    stream: &mut Stream,
    source: &dyn ReadAt,
    start: TraceStart,
    out: &mut Output<u16>,
    len: usize,
) -> Result<(), Fault> {
    // At nearly all ratios, 32 KiB of input are enough. Otherwise the decoder reads a little more.
    let wanted = start.at.0 / 8 + HISTORY as u64;
    stream.resume(source, start.at, start.place, wanted)?;
    while out.len() < len {
        if let Pause::End = stream.decode(source, out, len)? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::inflate::tests::slow;

    /// For each of the `window` bytes before `at`: is one of the `len` bytes from `at` on a copy of
    /// it? `origins` has the place that each byte was copied from.
    fn followed(origins: &[usize], at: usize, window: usize, len: usize) -> Vec<bool> {
        let mut needed = vec![false; window];
        for mut byte in at..at + len {
            while byte >= at && origins[byte] != byte {
                byte = origins[byte];
            }
            if byte < at {
                needed[byte + window - at] = true;
            }
        }
        needed
    }

    #[test]
    fn bytes_that_are_needed_are_those_that_copies_go_back_to() {
        let mut seed = 1u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for level in [0, 1, 6, 9] {
            // The words differ in frequency, so matches are near and far.
            let mut plain = Vec::new();
            while plain.len() < 150_000 {
                let words = 2 << random(12);
                let word = random(words);
                plain.extend(word.to_string().bytes());
            }
            let level = flate2::Compression::new(level);
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(&plain).unwrap();
            let encoded = encoder.finish().unwrap();
            let origins = slow::origins(&encoded);

            let range = 0..encoded.len() as u64;
            let mut tracer = Tracer::new(Format::Deflate, range.clone());
            let mut stream = Stream::new(Format::Deflate, range.clone());
            let mut out = Output::<u8>::new(vec![0; Output::room(0, plain.len())], &[]);
            while out.len() < plain.len() - 10_000 {
                let limit = out.len() + 1 + random(20_000) as usize;
                assert!(matches!(stream.decode(&encoded, &mut out, limit), Ok(Pause::Limit)));
                let (at, window) = (out.len(), out.window().len());
                let place = stream.place().unwrap();
                let start = TraceStart { at: stream.position(), place, window };
                for len in [0, 1000, HISTORY] {
                    let len = len.min(plain.len() - at);
                    let found = tracer.needed(&encoded, start, len).unwrap();
                    // The tracer decodes a match to its end even if only its first bytes belong to
                    // the `len` bytes.
                    let followed_to = followed(&origins, at, window, len);
                    let longer = (len + 258).min(plain.len() - at);
                    let followed_on = followed(&origins, at, window, longer);
                    for (byte, found) in found.iter().enumerate() {
                        assert!(*found >= followed_to[byte] && *found <= followed_on[byte]);
                    }
                    if len == HISTORY {
                        assert!(found == followed_to, "nothing further on is in the window");
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_is_needed_if_the_stream_has_changed() {
        // A stored block of 20 bytes, followed by a block of invalid type or by nothing.
        let bad = [&[0, 20, 0, 235, 255][..], &[7; 20], &[7]].concat();
        let ended = [&[1, 20, 0, 235, 255][..], &[7; 20]].concat();
        for (encoded, last) in [(bad, false), (ended, true)] {
            let place = Place::Stored { left: 20, last };
            let start = TraceStart { at: BitOffset(8 * 5), place, window: 3 };
            let needed = |len| {
                let range = 0..encoded.len() as u64;
                let mut tracer = Tracer::new(Format::Deflate, range);
                tracer.needed(&encoded, start, len).unwrap().to_vec()
            };
            assert_eq!(needed(20), [false; 3]);
            assert_eq!(needed(21), [true; 3]);
        }
    }
}
