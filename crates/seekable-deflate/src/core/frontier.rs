//! The first pass over a stream: it makes the checkpoints and checksums, and gives the verdict.

use std::{sync::Arc, time::Instant};

use super::{
    Core,
    state::{Frontier, PassEnd, StreamVerdict, Trust},
};
use crate::{
    BitOffset, Error, Format, ReadAt, Span,
    crc::{Crc, SpanCrcs, SpanSum, Sums},
    gzip::Trailer,
    index::Checkpoint,
    inflate::{Fault, HISTORY, MAX_MATCH, MAX_RATIO, Output, Place},
    speculation::{Plan, Settled},
    stream::{Pause, Stream},
    windows::{Reach, Window},
};

/// The right to decode at the frontier.
struct Turn<'a>(&'a Arc<Core>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.0.lock().give_back() {
            self.0.take_over_adopted();
        }
    }
}

/// The result of decoding from the checkpoint at the frontier: a span, and what follows it.
struct Pass {
    /// The decoded bytes, if there are any, and their checksums.
    span: Option<(Span, SpanCrcs)>,
    /// The bytes of the window before the span that the span refers to, if they are known.
    reach: Option<Reach>,
    sums: Sums,
    end: PassEnd,
}

impl Core {
    /// Decodes the span at the frontier. `None` if there is none, because the stream ends there or
    /// is damaged, or if another thread decodes there.
    pub(crate) fn advance(self: &Arc<Self>, source: &dyn ReadAt) -> Result<Option<Span>, Error> {
        let Some(frontier) = self.lock().take_frontier(self.spacing) else { return Ok(None) };
        let _turn = Turn(self);
        let began = Instant::now();
        let Frontier { start, number, end, sums, live } = frontier;
        let pass = match self.made_pass(source, &start, number, end, sums) {
            Some(pass) => Ok(pass),
            None => self.pass(source, live, &start, number, end, sums),
        };
        let mut pass = self.unless_stale(pass)?;
        self.report(&pass, began);
        if let Some(reach) = pass.reach.take() {
            self.keep_reach(number, &start, reach);
        }
        self.pack_if_tight(source);
        Ok(self.publish(number, pass))
    }

    /// Turns a verdict of damage into `StaleIndex` if a wrong saved index may be its reason. Then
    /// not even the bytes before a fault are known to be right.
    fn unless_stale(&self, pass: Result<Pass, Error>) -> Result<Pass, Error> {
        match pass {
            Ok(Pass {
                end: PassEnd::Final(StreamVerdict::Stopped(error) | StreamVerdict::Damaged(error)),
                ..
            }) if self.lock().trust() == Trust::Relied => Err(self.or_stale(error)),
            pass => pass.map_err(|error| self.or_stale(error)),
        }
    }

    /// The span from checkpoint `start`, if it was decoded speculatively.
    fn made_pass(
        &self,
        source: &dyn ReadAt,
        start: &Checkpoint,
        number: usize,
        end: u64,
        mut sums: Sums,
    ) -> Option<Pass> {
        let made = self.speculation.take(source, number, end)?;
        if made.span.start() != start.decoded {
            return None;
        }
        sums.add(Crc::new(made.crcs.whole(), made.span.bytes().len() as u64));
        let span = Some((made.span, made.crcs));
        Some(Pass { span, reach: made.reach, sums, end: PassEnd::Next(made.next, None) })
    }

    /// Decodes the span from checkpoint `start` to the first boundary of symbols at or after
    /// decoded offset `end`. Fails only with errors that are not remembered: damage is a verdict in
    /// the `Pass`.
    fn pass(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        live: Option<Box<Stream>>,
        start: &Checkpoint,
        number: usize,
        end: u64,
        mut sums: Sums,
    ) -> Result<Pass, Error> {
        let window = &self.window_at_frontier(source, start, number, sums.member)?[..];
        let promised = self.options.decoded_len;
        let plan = Plan { number, end, spacing: self.spacing, promised };
        // If this span can reach the promised length, it decodes up to there: to the end of the
        // final block, or to one byte more, which is enough to know that the stream is too long.
        let reach = end.saturating_add(MAX_MATCH as u64);
        let end = promised.filter(|len| reach >= *len).map_or(end, |len| len.saturating_add(1));
        let limit = self.limit(start, end);
        // The buffer always has room for a full window, so that the buffer of the first span can be
        // used again.
        let (buffer, _lent) = self.memory.buffer(Output::room(HISTORY, limit));
        let mut out = Output::new(buffer, window).with_crc().with_matches(HISTORY);
        let mut head = match live {
            Some(stream) => Head::Decoder(stream),
            None => Head::At(start.encoded, start.place),
        };

        let mut sum = SpanSum::default();
        let end = loop {
            let pause = match self.speculation.settled_at(start.decoded + sum.len()) {
                Some(settled) => {
                    match take_over(source, &settled, &mut out, start.decoded, limit) {
                        Ok((at, place, pause)) => {
                            head = Head::At(at, Some(place));
                            Ok(pause)
                        }
                        // The source has changed or fails. The decoder decodes the same bytes and
                        // judges them.
                        Err(_) => {
                            self.speculation.clear();
                            continue;
                        }
                    }
                }
                None => {
                    let stream = self.decoder(source, &mut head, start)?;
                    stream.halt_at(self.speculation.next_start());
                    stream.decode(source, &mut out, limit)
                }
            };
            let piece = out.take_crc();
            sums.add(piece.whole);
            sum.add(piece);
            let decoded = start.decoded + sum.len();
            match pause {
                Ok(Pause::Member(trailer)) => {
                    if let Some(error) = judge_member(sums.member, trailer, decoded) {
                        break PassEnd::Final(StreamVerdict::Damaged(error));
                    }
                    sums.member = Crc::default();
                }
                Ok(Pause::Block) => {
                    if let Head::Decoder(stream) = &head {
                        self.speculation.meet(stream.position(), decoded, out.window(), plan);
                    }
                }
                Ok(Pause::Limit) => {
                    let verdict = match promised.filter(|len| decoded > *len) {
                        None => break head.end_of_pass(&out, decoded),
                        // In a gzip file, the bytes after the promised length belong to something
                        // else, such as a second array.
                        Some(_) if self.options.format == Format::Gzip => StreamVerdict::Ended,
                        Some(expected) => {
                            StreamVerdict::Damaged(Error::Length { expected, found: decoded })
                        }
                    };
                    break PassEnd::Final(verdict);
                }
                Ok(Pause::End) => break PassEnd::Final(StreamVerdict::Ended),
                Err(Fault::Source(error)) => return Err(Error::Source(Arc::new(error))),
                Err(fault) => break PassEnd::Final(StreamVerdict::Stopped(fault.at(decoded))),
            }
        };
        let end = match end {
            PassEnd::Final(verdict) => PassEnd::Final(self.judge(verdict, sums)),
            next @ PassEnd::Next(..) => next,
        };
        let reach = out.take_matches().and_then(|matches| {
            let mut reach = Reach::default();
            let back = (out.len() >= HISTORY).then(|| matches.reaching_back(0..HISTORY, 0))??;
            back.for_each(|(back, len)| reach.add(back, len));
            Some(reach)
        });
        let span = (out.len() > 0).then(|| {
            let (buffer, range) = out.into_parts();
            (Span::new(start.decoded, buffer, range), sum.finish())
        });
        Ok(Pass { span, reach, sums, end })
    }

    /// The window at checkpoint `start`, which is at the frontier.
    fn window_at_frontier(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        start: &Checkpoint,
        number: usize,
        member: Crc,
    ) -> Result<Arc<[u8]>, Error> {
        if let Some(Window::Raw(window)) = &start.window {
            return Ok(Arc::clone(window));
        }
        // The window is saved, and may be damaged. A damaged window is rebuilt from the spans
        // before it, and may then be too long: no match may reach further back than the start of
        // its gzip member.
        let window = self.window(source, number)?;
        let len = member.len().min(window.len() as u64) as usize;
        Ok(window[window.len() - len..].into())
    }

    /// Reports the new position of the frontier to speculative decoding, or ends it.
    fn report(&self, pass: &Pass, began: Instant) {
        match (&pass.end, &pass.span) {
            (PassEnd::Next(next, _), Some((span, _))) => {
                let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let bytes = span.bytes().len() as u64;
                self.speculation.advanced(next.encoded, next.decoded, bytes, nanos);
            }
            _ => self.speculation.clear(),
        }
    }

    /// How many bytes to decode from `start` to reach decoded offset `end`: at most one more than
    /// the remaining encoded bytes can yield, so that the buffer of a short stream stays small.
    fn limit(&self, start: &Checkpoint, end: u64) -> usize {
        let encoded = self.encoded.end - self.encoded.start - start.encoded.0 / 8;
        let limit = (end - start.decoded).min(encoded.saturating_mul(MAX_RATIO).saturating_add(1));
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// The decoder of `head`. Starts one if there is none yet.
    fn decoder<'a>(
        &self,
        source: &dyn ReadAt,
        head: &'a mut Head,
        start: &Checkpoint,
    ) -> Result<&'a mut Stream, Error> {
        if let Head::At(at, place) = *head {
            let mut stream = Box::new(Stream::new(self.options.format, self.encoded.clone()));
            if let Some(place) = place {
                stream
                    .resume(source, at, place, u64::MAX)
                    .map_err(|fault| fault.at(start.decoded))?;
            }
            *head = Head::Decoder(stream);
        }
        match head {
            Head::Decoder(stream) => Ok(stream),
            Head::At(..) => unreachable!("it has just been replaced"),
        }
    }

    /// Records the result of the pass over span `number` and caches the span. Returns the span, if
    /// there is one.
    fn publish(self: &Arc<Self>, number: usize, pass: Pass) -> Option<Span> {
        let is_damaged = matches!(pass.end, PassEnd::Final(StreamVerdict::Damaged(_)));
        let span = pass.span.filter(|_| !is_damaged);
        if let Some((span, _)) = &span {
            // The span is cached before the frontier passes it, so no reader decodes it again in
            // between.
            self.memory.insert(self.id, number, span);
        }
        let mut state = self.lock();
        state.advance(span.as_ref(), pass.sums, pass.end);
        let bytes = state.bytes();
        drop(state);
        if is_damaged {
            self.memory.remove_spans(self.id);
        }
        self.memory.set_index(self.id, self, bytes);
        span.map(|(span, _)| span)
    }

    /// Compares the sums with the promised length and checksum, and returns the final verdict on a
    /// stream whose decoding ended with `verdict`.
    fn judge(&self, verdict: StreamVerdict, sums: Sums) -> StreamVerdict {
        match verdict {
            StreamVerdict::Ended => match self.judge_whole(sums.whole) {
                None => StreamVerdict::Ended,
                // The stream is shorter than promised, but its bytes have passed every check there
                // is: they stay readable.
                Some(error @ Error::Length { expected, found })
                    if found < expected && self.options.crc32.is_none() =>
                {
                    StreamVerdict::Stopped(error)
                }
                Some(error) => StreamVerdict::Damaged(error),
            },
            // All promised bytes are decoded, and the fault comes after them. The fault is ignored
            // if a checksum has confirmed the bytes: gzip(1) also ignores garbage after a member.
            StreamVerdict::Stopped(error) if self.options.decoded_len == Some(sums.whole.len()) => {
                let member_ended =
                    self.options.format == Format::Gzip && sums.member == Crc::default();
                match self.judge_whole(sums.whole) {
                    Some(damage) => StreamVerdict::Damaged(damage),
                    None if self.options.crc32.is_some() || member_ended => StreamVerdict::Ended,
                    None => StreamVerdict::Stopped(error),
                }
            }
            verdict => verdict,
        }
    }

    /// Compares the whole stream with its promised length and checksum. Returns the difference.
    pub(crate) fn judge_whole(&self, whole: Crc) -> Option<Error> {
        if let Some(expected) = self.options.decoded_len
            && expected != whole.len()
            && !(self.options.format == Format::Gzip && expected < whole.len())
        {
            return Some(Error::Length { expected, found: whole.len() });
        }
        let expected = self.options.crc32.filter(|crc| *crc != whole.value())?;
        Some(Error::Checksum { start: 0, end: whole.len(), expected, found: whole.value() })
    }
}

/// Where a pass continues: with a paused decoder, or with a new one.
enum Head {
    /// A decoder that is paused where the pass continues.
    Decoder(Box<Stream>),
    /// A place where a decoder can start.
    At(BitOffset, Option<Place>),
}

impl Head {
    /// Ends a span with a checkpoint at the end of `out`.
    fn end_of_pass(self, out: &Output, decoded: u64) -> PassEnd {
        let (encoded, place) = match &self {
            Self::Decoder(stream) => (stream.position(), stream.place()),
            Self::At(at, place) => (*at, *place),
        };
        let window = Some(out.window().into());
        let live = match self {
            Self::Decoder(stream) => Some(stream),
            Self::At(..) => None,
        };
        PassEnd::Next(Checkpoint { encoded, decoded, place, window }, live)
    }
}

/// Appends the bytes of a settled chunk to `out`, which begins at decoded offset `start`, up to
/// `limit` bytes in `out`. Returns where the appended bytes end, and why they end there.
fn take_over(
    source: &dyn ReadAt,
    settled: &Settled,
    out: &mut Output,
    start: u64,
    limit: usize,
) -> Result<(BitOffset, Place, Pause), Fault> {
    let at = start + out.len() as u64;
    let wanted = start + limit as u64;
    let (end, pause) = match wanted <= settled.range().end {
        true => (settled.boundary(source, wanted)?, Pause::Limit),
        false => (settled.end(), Pause::Block),
    };
    let room = out.append((end.decoded - at) as usize);
    settled.resolve(at, room);
    Ok((end.encoded, end.place, pause))
}

/// Compares a gzip member that ends at decoded offset `decoded` with its trailer. Returns the
/// difference.
fn judge_member(member: Crc, trailer: Trailer, decoded: u64) -> Option<Error> {
    let start = decoded - member.len();
    if member.value() != trailer.crc32 {
        return Some(Error::Checksum {
            start,
            end: decoded,
            expected: trailer.crc32,
            found: member.value(),
        });
    }
    let found = member.len() & u64::from(u32::MAX);
    let expected = u64::from(trailer.isize);
    (found != expected).then_some(Error::Length { expected, found })
}
