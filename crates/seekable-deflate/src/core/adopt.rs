//! Adopts a saved index, so that decoding continues from it.

use std::sync::Arc;

use super::{Core, state::Adopted};
use crate::{
    IndexError, SavedIndex,
    crc::SpanCrcs,
    index::{Checkpoint, Index},
    saved::Record,
    windows::Window,
};

impl Core {
    /// See `DeflateReader::adopt_index`.
    pub(crate) fn adopt(self: &Arc<Self>, saved: &SavedIndex) -> Result<(), IndexError> {
        let adopted = self.adopted(saved)?;
        self.lock().offer(adopted)?;
        self.take_over_adopted();
        Ok(())
    }

    /// Lets an adopted index take effect, unless it moves the frontier while a thread decodes
    /// there. In that case this function is called again when that thread has finished.
    pub(crate) fn take_over_adopted(self: &Arc<Self>) {
        let mut state = self.lock();
        let Some(moves) = state.take_over() else { return };
        let bytes = state.bytes();
        drop(state);
        if moves {
            self.speculation.clear();
        }
        self.memory.set_index(self.id, self, bytes);
    }

    /// Converts a saved index, after comparing it with what is known of the stream.
    fn adopted(&self, saved: &SavedIndex) -> Result<Adopted, IndexError> {
        let header = saved.header();
        let (mine, theirs) = (&self.options, &header.options);
        for (differs, what) in [
            (mine.format != theirs.format, "format"),
            (self.encoded.end - self.encoded.start != header.encoded_len, "encoded length"),
            (mine.decoded_len != theirs.decoded_len, "promised length"),
            (mine.crc32 != theirs.crc32, "promised checksum"),
        ] {
            if differs {
                return Err(IndexError::OtherStream(what));
            }
        }
        let adopted = Adopted { index: index(saved), sums: header.sums, ended: header.complete };
        let most = self.spacing.longest_span();
        let spans = (0..adopted.index.len()).map(|number| adopted.index.span(number));
        let longest = spans.map(|span| span.end - span.start.decoded).max().unwrap_or(0);
        if longest > most {
            return Err(IndexError::SpanTooLong { len: longest, most });
        }
        let frontier = adopted.index.frontier();
        let fits = match adopted.ended {
            true => self.judge_whole(adopted.sums.whole).is_none(),
            false => mine.decoded_len.is_none_or(|len| frontier < len),
        };
        if fits { Ok(adopted) } else { Err(IndexError::Corrupt("the frontier")) }
    }
}

/// The checkpoints of a saved index.
fn index(saved: &SavedIndex) -> Index {
    let records = saved.records();
    let ends = saved.records().skip(1).map(|(record, _)| record.decoded).chain([saved.frontier()]);
    let mut block_crcs = saved.block_crcs();
    let mut checkpoints = Vec::with_capacity(records.len());
    let mut crcs = Vec::with_capacity(records.len());
    for (number, ((record, window), end)) in records.zip(ends).enumerate() {
        let Record { encoded, decoded, place, crc32, .. } = *record;
        let window = window.map(Window::Saved).or((number == 0).then(Window::default));
        checkpoints.push(Checkpoint { encoded, decoded, place, window });
        if decoded < end {
            // `SavedIndex::new` has compared the number of checksums with the lengths of the spans.
            let (inner, rest) = block_crcs.split_at(SpanCrcs::inner_of(end - decoded) as usize);
            crcs.push(SpanCrcs::new(inner, crc32));
            block_crcs = rest;
        }
    }
    Index::from_parts(checkpoints, crcs, saved.frontier())
}
