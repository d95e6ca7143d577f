//! Packed windows.
//!
//! The bytes that nothing refers to (`trace`) are set to zero. Then the window is deflated, from 32
//! KiB to a tenth of that or less. A packed window has no checksum: the checksum of the span after
//! it reveals damage.

use std::ops::Range;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::trace::{TraceStart, Tracer};
use crate::{
    Format, ReadAt,
    inflate::{Fault, Output},
    stream::{Pause, Stream},
};

/// A deflated window.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) deflated: Box<[u8]>,
    /// Length of the window in bytes.
    pub(crate) len: usize,
}

/// Packs windows, all with the same half MiB of memory. Allocated for each window, this memory left
/// holes between the packed windows: 100 MiB after 2,000 windows.
pub(crate) struct Packer {
    pub(crate) tracer: Tracer,
    encoder: Compress,
    bytes: Vec<u8>,
    deflated: Vec<u8>,
}

impl Packer {
    /// The zlib level.
    const LEVEL: u32 = 6;

    /// A packer for the windows of one stream.
    pub(crate) fn new(format: Format, encoded: Range<u64>) -> Self {
        let tracer = Tracer::new(format, encoded);
        let encoder = Compress::new(Compression::new(Self::LEVEL), false);
        Self { tracer, encoder, bytes: Vec::new(), deflated: Vec::new() }
    }

    /// Prepares the packer for the windows of another stream.
    pub(crate) fn turn_to(&mut self, format: Format, encoded: Range<u64>) {
        self.tracer.turn_to(format, encoded);
    }

    /// Packs a window with all of its bytes.
    pub(crate) fn pack(&mut self, window: &[u8]) -> Packed {
        self.bytes.clear();
        self.bytes.extend_from_slice(window);
        self.deflate()
    }

    /// Packs a window. Bytes that the `len` bytes after the window do not refer to become zeros.
    ///
    /// # Errors
    /// Only [`Fault::Source`].
    pub(crate) fn pack_needed(
        &mut self,
        window: &[u8],
        source: &dyn ReadAt,
        start: TraceStart,
        len: usize,
    ) -> Result<Packed, Fault> {
        let needed = self.tracer.needed(source, start, len)?;
        self.bytes.clear();
        let kept = window.iter().zip(needed).map(|(byte, needed)| if *needed { *byte } else { 0 });
        self.bytes.extend(kept);
        Ok(self.deflate())
    }

    fn deflate(&mut self) -> Packed {
        self.encoder.reset();
        self.deflated.clear();
        // Room for the most that deflating can add.
        self.deflated.reserve(self.bytes.len() + self.bytes.len() / 8 + 64);
        let finish = FlushCompress::Finish;
        let status = self.encoder.compress_vec(&self.bytes, &mut self.deflated, finish);
        assert!(matches!(status, Ok(Status::StreamEnd)), "there is room for all");
        Packed { deflated: self.deflated.as_slice().into(), len: self.bytes.len() }
    }
}

/// The `len` bytes that `deflated` decodes to. `None` if it decodes to something else.
pub(crate) fn inflate(deflated: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut stream = Stream::new(Format::Deflate, 0..deflated.len() as u64);
    // The limit is one byte longer, to see that the stream ends after `len` bytes.
    let limit = len + 1;
    let mut out = Output::new(vec![0; Output::room(0, limit)], &[]);
    match stream.decode(&deflated, &mut out, limit) {
        Ok(Pause::End) if out.len() == len => {
            let (mut bytes, range) = out.into_parts();
            bytes.truncate(range.end);
            Some(bytes)
        }
        _ => None,
    }
}
