//! Decodes spans before the frontier again when reads need them.

use std::sync::Arc;

use super::Core;
use crate::{
    Error, ReadAt, Span,
    crc::BLOCK,
    index::Known,
    inflate::{Fault, HISTORY, Output},
    memory::Lent,
    stream::{self, Pause, Stream},
    windows::Window,
};

impl Core {
    /// Span `number`, which must exist, or its first blocks: at least its bytes before decoded
    /// offset `until`. From the cache, or decoded.
    pub(crate) fn span_to(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        number: usize,
        until: u64,
    ) -> Result<Span, Error> {
        let until = match self.held(number, until) {
            Held::Enough(span) => return Ok(span),
            Held::Less => u64::MAX,
            Held::Nothing => until,
        };
        let span = self.window(source, number).and_then(|window| {
            SpanDecode::start(self, source, (number, until), &window).finish(source)
        });
        span.map_err(|error| self.or_stale(error))
    }

    /// Whether the bytes of span `number` before decoded offset `until` are cached.
    fn held(&self, number: usize, until: u64) -> Held {
        let end = self.lock().index().range(number).end;
        match self.memory.span(self.id, number) {
            None => Held::Nothing,
            Some(span) if span.range().end >= until.min(end) => Held::Enough(span),
            Some(_) => Held::Less,
        }
    }

    /// Span `number`, which must exist, if all of it is cached.
    fn peek_whole(&self, number: usize) -> Option<Span> {
        let end = self.lock().index().range(number).end;
        self.memory.peek(self.id, number).filter(|span| span.range().end == end)
    }

    /// The window before checkpoint `number`; bytes that nothing refers to may be wrong. Fills in
    /// missing windows of the checkpoints on the way, as a first pass does.
    pub(crate) fn window(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        number: usize,
    ) -> Result<Vec<u8>, Error> {
        let (mut at, mut window) = self.nearest_start(number);
        let mut bytes = None;
        while at < number {
            let span = match self.held(at, u64::MAX) {
                Held::Enough(span) => span,
                Held::Less | Held::Nothing => {
                    SpanDecode::start(self, source, (at, u64::MAX), &window).finish(source)?
                }
            };
            let keep = HISTORY.saturating_sub(span.bytes().len()).min(window.len());
            window.drain(..window.len() - keep);
            window.extend_from_slice(&span.bytes()[span.bytes().len().saturating_sub(HISTORY)..]);
            at += 1;
            let mut state = self.lock();
            if state.put_missing(at, &window) {
                bytes = Some(state.bytes());
            }
        }
        if let Some(bytes) = bytes {
            self.memory.set_index(self.id, self, bytes);
        }
        Ok(window)
    }

    /// The last checkpoint up to `number` whose window is held, saved or cached, and that window.
    fn nearest_start(&self, number: usize) -> (usize, Vec<u8>) {
        loop {
            let (anchor, window) = self.lock().index().anchor(number);
            // Copying the end of a cached span takes a tenth of the time of unpacking a window.
            let is_raw = matches!(window, Window::Raw(_));
            let first = if is_raw { anchor } else { anchor.saturating_sub(1) };
            let cached = (first..number).rev().find_map(|before| {
                let span = self.peek_whole(before)?;
                let window = span.bytes().last_chunk::<HISTORY>()?;
                Some((before + 1, window.to_vec()))
            });
            if let Some(start) = cached.or_else(|| Some((anchor, window.unpack()?))) {
                return start;
            }
            // Only a saved window can be damaged: windows packed by this process can be unpacked.
            self.lock().drop_damaged_window(anchor);
        }
    }

    /// Whether a span is decoded only as far as it is needed.
    pub(crate) fn decodes_parts(&self) -> bool {
        self.lock().index().frontier() / SPARSE > self.memory.limit()
    }

    /// Whether two different spans are decoded faster at once than one after the other.
    pub(crate) fn is_faster_as_pair(&self, numbers: [usize; 2]) -> bool {
        numbers[0] != numbers[1] && numbers.iter().all(|number| self.is_dense(*number))
    }

    /// Whether span `number` exists and is likely to be almost all literals, as noise is.
    pub(crate) fn is_dense(&self, number: usize) -> bool {
        let state = self.lock();
        let encoded_len = self.encoded.end - self.encoded.start;
        number < state.index().len() && state.index().is_dense(number, encoded_len)
    }

    /// Two different spans, which must exist, decoded at once by this thread: of each at least the
    /// bytes before a decoded offset. `None` if one of them cannot be decoded without the spans
    /// before it.
    pub(crate) fn span_pair(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        spans: [(usize, u64); 2],
    ) -> Option<[Result<Span, Error>; 2]> {
        let [first, second] = spans.map(|(number, _)| {
            let (at, window) = self.nearest_start(number);
            (at == number).then_some(window)
        });
        let windows = [first?, second?];
        let [mut first, mut second] =
            [0, 1].map(|side| SpanDecode::start(self, source, spans[side], &windows[side]));
        first.go_on_with(&mut second, source);
        let pair = [first.finish(source), second.finish(source)];
        Some(pair.map(|span| span.map_err(|error| self.or_stale(error))))
    }
}

/// Spans are decoded in part in streams that decode to more than this many times the budget. Random
/// rows then seldom find the span of an earlier row, which takes as much of the cache if only a
/// part of it is decoded. At 8 times, parts take 0.8 of the time; at 4 times, as long; at twice,
/// 1.35 times as long, since a span that is needed again is decoded again.
const SPARSE: u64 = 6;

/// What the cache holds of the bytes that are needed of a span.
enum Held {
    /// All of them.
    Enough(Span),
    /// Some. Then the whole span is decoded, since more of it is likely to be needed.
    Less,
    Nothing,
}

/// A span that is being decoded again, or its first blocks.
struct SpanDecode<'a> {
    core: &'a Core,
    number: usize,
    known: Known,
    /// Number of bytes to decode: of the whole span, or of its first blocks.
    len: usize,
    stream: Stream,
    out: Output,
    lent: Lent<'a>,
    result: Result<Pause, Fault>,
}

impl<'a> SpanDecode<'a> {
    /// Starts to decode a span from its checkpoint. `span` is its number, and the decoded offset
    /// before which its bytes are needed.
    fn start(core: &'a Core, source: &dyn ReadAt, span: (usize, u64), window: &[u8]) -> Self {
        let (number, until) = span;
        let known = core.lock().index().span(number);
        let start = &known.start;
        // The length fits in memory: the span was decoded here, or `adopt` has checked that the
        // index has no span that is too long.
        let whole = (known.end - start.decoded) as usize;
        let needed = (until.min(known.end).saturating_sub(start.decoded) as usize).max(1);
        let len = needed.next_multiple_of(BLOCK).min(whole);
        // The buffer has room for the whole span, so that any other span can use it later.
        let (buffer, lent) = core.memory.buffer(Output::room(window.len(), whole));
        let out = Output::new(buffer, window).with_crc();

        let mut stream = Stream::new(core.options.format, core.encoded.clone());
        let resumed = match start.place {
            None => Ok(()),
            Some(place) => {
                let wanted = known.encoded_end.map_or(u64::MAX, |end| {
                    let encoded = (end.0 - start.encoded.0) / 8 + 1;
                    // The part of the bytes that this part of the span takes, as an estimate.
                    let part = u128::from(encoded) * len as u128 / whole as u128;
                    start.encoded.0 / 8 + part as u64 + 1
                });
                stream.resume(source, start.encoded, place, wanted)
            }
        };
        let result = resumed.map(|()| Pause::Limit);
        Self { core, number, known, len, stream, out, lent, result }
    }

    /// Decodes both spans at once, as far as that is faster.
    fn go_on_with(&mut self, other: &mut Self, source: &dyn ReadAt) {
        if self.result.is_err() || other.result.is_err() {
            return;
        }
        let both = [&mut *self, &mut *other];
        let streams = both.map(|decode| (&mut decode.stream, &mut decode.out, decode.len));
        let results = stream::decode_pair(source, streams);
        let [mine, its] = results.map(|result| result.map(|()| Pause::Limit));
        (self.result, other.result) = (mine, its);
    }

    fn finish(self, source: &dyn ReadAt) -> Result<Span, Error> {
        let Self { core, number, known, len, mut stream, mut out, lent, mut result } = self;
        let start = known.start.decoded;
        // The first pass has already judged the bytes after the last byte of this span.
        while result.is_ok() && out.len() < len {
            result = stream.decode(source, &mut out, len);
            if let Ok(Pause::End) = result {
                break;
            }
        }
        if out.len() < len
            && let Err(fault) = result
        {
            return Err(fault.at(start + out.len() as u64));
        }
        let end = start + len as u64;
        let piece = out.take_crc();
        // A part of a span ends with a block, and its last symbol may go on after that.
        let (found, is_long_enough) = match piece.block_ends.get((len / BLOCK).wrapping_sub(1)) {
            Some(part) if end < known.end => (*part, true),
            _ => (piece.whole, out.len() == len && end == known.end),
        };
        let expected = known.crcs.first(len.div_ceil(BLOCK));
        if found.value() != expected || !is_long_enough {
            return Err(Error::Checksum { start, end, expected, found: found.value() });
        }
        let (buffer, range) = out.into_parts();
        let span = match end < known.end {
            true => Span::in_buffer(start, buffer, range.start..range.start + len),
            false => Span::new(start, buffer, range),
        };
        drop(lent);
        core.memory.insert(core.id, number, &span);
        Ok(span)
    }
}
