//! Decodes spans before the frontier again when reads need them.

use std::sync::Arc;

use super::{Core, flight::Turn};
use crate::{
    Error, ReadAt, Span,
    index::Known,
    inflate::{Fault, HISTORY, Output},
    memory::Lent,
    stream::{self, Pause, Stream},
};

impl Core {
    /// Span `number`, which must exist: from the cache, from the thread that decodes it now, or
    /// decoded by the calling thread.
    pub(crate) fn span(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        number: usize,
    ) -> Result<Span, Error> {
        if let Some(span) = self.memory.span(self.id, number) {
            return Ok(span);
        }
        let window = self.window(source, number)?;
        self.decode_once(source, number, &window)
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
            let span = self.decode_once(source, at, &window)?;
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
            let cached = (anchor..number).rev().find_map(|before| {
                let span = self.memory.peek(self.id, before)?;
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

    /// Decodes span `number`, or waits for the thread that decodes it.
    fn decode_once(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        number: usize,
        window: &[u8],
    ) -> Result<Span, Error> {
        loop {
            let taken = Turn::take(self, &mut self.lock(), number);
            match taken {
                Ok(turn) => {
                    // Another thread may have cached the span after this thread last looked.
                    let result = match self.memory.span(self.id, number) {
                        Some(span) => Ok(span),
                        None => SpanDecode::start(self, source, number, window).finish(source),
                    };
                    turn.land(result.clone().map(Some));
                    return result;
                }
                Err(flight) => {
                    if let Some(span) = flight.wait()? {
                        return Ok(span);
                    }
                }
            }
        }
    }

    /// See `DeflateReader::span_pair_at`.
    pub(crate) fn span_pair_at(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        offsets: [u64; 2],
    ) -> Option<[Result<Span, Error>; 2]> {
        let pair = self.span_pair(source, self.pair(offsets)?)?;
        Some(pair.map(|span| span.map_err(|error| self.or_stale(error))))
    }

    /// The numbers of the two spans that hold these decoded offsets, if decoding both at once is
    /// faster than one after the other.
    pub(crate) fn pair(&self, offsets: [u64; 2]) -> Option<[usize; 2]> {
        let state = self.lock();
        if state.verdict().damage().is_some() {
            return None;
        }
        let [first, second] = offsets.map(|offset| state.index().find(offset));
        let numbers = [first?, second?];
        let encoded_len = self.encoded.end - self.encoded.start;
        let are_dense = numbers.iter().all(|number| state.index().is_dense(*number, encoded_len));
        (numbers[0] != numbers[1] && are_dense).then_some(numbers)
    }

    /// Two different spans, which must exist, decoded at once by this thread. `None` if one of them
    /// is cached, is being decoded, or cannot be decoded without the spans before it.
    fn span_pair(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        numbers: [usize; 2],
    ) -> Option<[Result<Span, Error>; 2]> {
        let are_at_hand = || numbers.iter().any(|n| self.memory.peek(self.id, *n).is_some());
        if are_at_hand() {
            return None;
        }
        let [first, second] = numbers.map(|number| {
            let (at, window) = self.nearest_start(number);
            (at == number).then_some(window)
        });
        let windows = [first?, second?];

        // A thread that has a turn must not wait for another turn: two threads could wait for each
        // other.
        let mut state = self.lock();
        let turns = numbers.map(|number| Turn::take(self, &mut state, number));
        drop(state);
        let [Ok(first_turn), Ok(second_turn)] = turns else { return None };
        if are_at_hand() {
            return None;
        }
        let [mut first, mut second] =
            [0, 1].map(|side| SpanDecode::start(self, source, numbers[side], &windows[side]));
        first.go_on_with(&mut second, source);
        let first = first.finish(source);
        first_turn.land(first.clone().map(Some));
        let second = second.finish(source);
        second_turn.land(second.clone().map(Some));
        Some([first, second])
    }
}

/// A span that is being decoded again.
struct SpanDecode<'a> {
    core: &'a Core,
    number: usize,
    known: Known,
    len: usize,
    stream: Stream,
    out: Output,
    lent: Lent<'a>,
    result: Result<Pause, Fault>,
}

impl<'a> SpanDecode<'a> {
    fn start(core: &'a Core, source: &dyn ReadAt, number: usize, window: &[u8]) -> Self {
        let known = core.lock().index().span(number);
        let start = &known.start;
        // The length fits in memory: the span was decoded here, or `adopt` has checked that the
        // index has no span that is too long.
        let len = (known.end - start.decoded) as usize;
        let (buffer, lent) = core.memory.buffer(Output::room(window.len(), len));
        let out = Output::new(buffer, window).with_crc();

        let mut stream = Stream::new(core.options.format, core.encoded.clone());
        let resumed = match start.place {
            None => Ok(()),
            Some(place) => {
                let wanted = known.encoded_end.map_or(u64::MAX, |end| end.0 / 8 + 1);
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
        let crc = out.take_crc();
        if out.len() != len
            && let Err(fault) = result
        {
            return Err(fault.at(start + out.len() as u64));
        }
        if crc.value() != known.crc32 || out.len() != len {
            return Err(Error::Checksum {
                start,
                end: known.end,
                expected: known.crc32,
                found: crc.value(),
            });
        }
        let (buffer, range) = out.into_parts();
        let span = Span::new(start, buffer, range);
        drop(lent);
        core.memory.insert(core.id, number, &span);
        Ok(span)
    }
}
