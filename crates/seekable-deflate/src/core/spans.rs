//! Decodes spans before the frontier again when reads need them.

use std::{borrow::Cow, sync::Arc};

use super::Core;
use crate::{
    Error, ReadAt, Span,
    crc::BLOCK,
    index::Known,
    inflate::{Fault, HISTORY, Output},
    memory::Lent,
    span::Rest,
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
        let wanted = (number, until);
        let span = match self.held(wanted) {
            Held::Enough(span) => return Ok(span),
            Held::Part(part, rest) => self.decode(source, wanted, Begin::Part(part, rest)),
            Held::Nothing => self
                .window(source, number)
                .and_then(|window| self.decode(source, wanted, Begin::Checkpoint(window.into()))),
        };
        span.map_err(|error| self.or_stale(error))
    }

    fn decode(
        &self,
        source: &dyn ReadAt,
        wanted: (usize, u64),
        begin: Begin<'_>,
    ) -> Result<Span, Error> {
        SpanDecode::start(self, source, wanted, begin).finish(source)
    }

    /// What the cache holds of a span, of which the bytes before decoded offset `until` are wanted.
    fn held(&self, (number, until): (usize, u64)) -> Held {
        let end = self.lock().index().range(number).end;
        match self.memory.span(self.id, number) {
            Some(span) if span.range().end >= until.min(end) => Held::Enough(span),
            Some(part) => part.rest().map_or(Held::Nothing, |rest| Held::Part(part, rest)),
            None => Held::Nothing,
        }
    }

    /// Whether the bytes of span `number`, which must exist, before decoded offset `until` are
    /// cached.
    pub(crate) fn has(&self, number: usize, until: u64) -> bool {
        let end = self.lock().index().range(number).end;
        let span = self.memory.peek(self.id, number);
        span.is_some_and(|span| span.range().end >= until.min(end))
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
            let whole = (at, u64::MAX);
            let span = match self.held(whole) {
                Held::Enough(span) => span,
                Held::Part(part, rest) => self.decode(source, whole, Begin::Part(part, rest))?,
                Held::Nothing => self.decode(source, whole, Begin::Checkpoint((&window).into()))?,
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

    /// Decodes two different spans in this thread, interleaved. Both must exist. Each is decoded at
    /// least to the decoded offset that is given with it. `None` if one of them cannot be decoded
    /// without the spans before it.
    pub(crate) fn span_pair(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        spans: [(usize, u64); 2],
    ) -> Option<[Result<Span, Error>; 2]> {
        let [first, second] = spans.map(|span| match self.held(span) {
            Held::Part(part, rest) => Some(Begin::Part(part, rest)),
            Held::Enough(_) | Held::Nothing => {
                let (at, window) = self.nearest_start(span.0);
                (at == span.0).then_some(Begin::Checkpoint(window.into()))
            }
        });
        let (first, second) = (first?, second?);
        let mut first = SpanDecode::start(self, source, spans[0], first);
        let mut second = SpanDecode::start(self, source, spans[1], second);
        first.go_on_with(&mut second, source);
        let pair = [first.finish(source), second.finish(source)];
        Some(pair.map(|span| span.map_err(|error| self.or_stale(error))))
    }
}

/// What the cache holds of the bytes that are wanted of a span.
enum Held {
    /// All of them.
    Enough(Span),
    /// Some, and where the others begin.
    Part(Span, Rest),
    Nothing,
}

/// Where the decoding of a span begins.
enum Begin<'a> {
    /// At its checkpoint, with the window before it.
    Checkpoint(Cow<'a, [u8]>),
    /// Where the decoding of this part of it has stopped.
    Part(Span, Rest),
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
    /// Starts to decode a span. `wanted` is its number, and the decoded offset before which its
    /// bytes are wanted.
    fn start(
        core: &'a Core,
        source: &dyn ReadAt,
        (number, until): (usize, u64),
        begin: Begin<'_>,
    ) -> Self {
        let known = core.lock().index().span(number);
        let start = &known.start;
        // The length fits in memory: the span was decoded here, or `adopt` has checked that the
        // index has no span that is too long.
        let whole = (known.end - start.decoded) as usize;
        let needed = (until.min(known.end).saturating_sub(start.decoded) as usize).max(1);
        let len = needed.next_multiple_of(BLOCK).min(whole);

        // The buffer has room for the whole span, so that any other span can use it later.
        let window = match &begin {
            Begin::Checkpoint(window) => window,
            // The part itself is longer than a window.
            Begin::Part(..) => &[][..],
        };
        let (buffer, lent) = core.memory.buffer(Output::room(window.len(), whole));
        let mut out = Output::new(buffer, window).with_crc();
        let (encoded, place) = match &begin {
            Begin::Checkpoint(_) => (start.encoded, start.place),
            Begin::Part(part, rest) => {
                let sums = known.crcs.piece(part.bytes().len() / BLOCK);
                out.go_on_after(part.bytes_before(*rest), sums);
                (rest.encoded, Some(rest.place))
            }
        };

        let mut stream = Stream::new(core.options.format, core.encoded.clone());
        let resumed = match place {
            None => Ok(()),
            Some(place) => {
                let wanted = known.encoded_end.map_or(u64::MAX, |end| {
                    let in_span = (end.0 - start.encoded.0) / 8 + 1;
                    // The part of the bytes that this part of the span takes, as an estimate.
                    let left = (len.saturating_sub(out.len()) as u128) * u128::from(in_span);
                    encoded.0 / 8 + (left / whole as u128) as u64 + 1
                });
                stream.resume(source, encoded, place, wanted)
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
        let (encoded, place) = (stream.position(), stream.place());
        let (buffer, range) = out.into_parts();
        let span = match end < known.end {
            true => {
                let rest = place.map(|place| Rest { encoded, place, filled: range.end });
                Span::part(start, buffer, range.start..range.start + len, rest)
            }
            false => Span::new(start, buffer, range),
        };
        drop(lent);
        core.memory.insert(core.id, number, &span);
        Ok(span)
    }
}
