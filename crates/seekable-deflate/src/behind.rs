//! Spans behind the frontier, decoded again when they are wanted.

use std::sync::Arc;

use crate::{
    Error, ReadAt, Span,
    core::Core,
    flight::{Flight, Landing},
    frontier::error_at,
    inflate::{HISTORY, Output},
    stream::{Pause, Stream},
};

impl Core {
    /// Span `number`, which must exist: from the cache, from who decodes it now, or decoded here.
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

    /// What stands before checkpoint `number`, as far as what follows refers to it. Windows that
    /// are missing on the way are left there, as by a first pass.
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
            if state.index.put_missing(at, &window) {
                bytes = Some(state.bytes());
            }
        }
        if let Some(bytes) = bytes {
            self.memory.set_index(self.id, self, bytes);
        }
        Ok(window)
    }

    /// The last checkpoint up to `number` whose window can be had, and that window.
    fn nearest_start(&self, number: usize) -> (usize, Vec<u8>) {
        loop {
            let (anchor, window) = self.lock().index.anchor(number);
            let cached = (anchor..number).rev().find_map(|before| {
                let span = self.memory.peek(self.id, before)?;
                let window = span.bytes().last_chunk::<HISTORY>()?;
                Some((before + 1, window.to_vec()))
            });
            if let Some(start) = cached.or_else(|| Some((anchor, window.unpack()?))) {
                return start;
            }
            // What was packed here can be unpacked.
            let mut state = self.lock();
            state.saved_is_damaged |= state.index.drop_saved(anchor);
        }
    }

    /// Decodes span `number`, or waits for who does.
    fn decode_once(
        &self,
        source: &dyn ReadAt,
        number: usize,
        window: &[u8],
    ) -> Result<Span, Error> {
        loop {
            let mut state = self.lock();
            if let Some(flight) = state.behind.get(&number) {
                let flight = Arc::clone(flight);
                drop(state);
                match flight.wait() {
                    Landing::Arrived(result) => return result,
                    Landing::Abandoned => continue,
                }
            }
            let flight = Arc::new(Flight::new());
            state.behind.insert(number, Arc::clone(&flight));
            drop(state);

            let turn = Turn { core: self, number, flight };
            // It may have arrived between the look into the cache and the lock.
            let result = match self.memory.span(self.id, number) {
                Some(span) => Ok(span),
                None => self.decode_again(source, number, window),
            };
            turn.flight.land(Landing::Arrived(result.clone()));
            return result;
        }
    }

    fn decode_again(
        &self,
        source: &dyn ReadAt,
        number: usize,
        window: &[u8],
    ) -> Result<Span, Error> {
        let known = self.lock().index.span(number);
        let start = &known.start;
        // A span was in memory once, or its index was refused if it is too long: its length fits.
        let len = (known.end - start.decoded) as usize;
        let buffer = self.memory.buffer(Output::room(window.len(), len));
        let mut out = Output::new(buffer, window).with_crc();

        let mut stream = Stream::new(self.options.format, self.encoded.clone());
        let resumed = match start.place {
            None => Ok(()),
            Some(place) => {
                let wanted = known.encoded_end.map_or(u64::MAX, |end| end.0 / 8 + 1);
                stream.resume(source, start.encoded, place, wanted)
            }
        };
        // What comes after the last byte was judged when the frontier passed it.
        let mut result = resumed.map(|()| Pause::Limit);
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
            return Err(error_at(fault, start.decoded + out.len() as u64));
        }
        if crc.value() != known.crc32 || out.len() != len {
            return Err(Error::Checksum {
                start: start.decoded,
                end: known.end,
                expected: known.crc32,
                found: crc.value(),
            });
        }
        let (buffer, range) = out.into_parts();
        let span = Span::new(start.decoded, buffer, range);
        self.memory.insert(self.id, number, &span);
        Ok(span)
    }
}

/// The right to decode a span. However it ends, nobody is left waiting.
struct Turn<'a> {
    core: &'a Core,
    number: usize,
    flight: Arc<Flight>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.core.lock().behind.remove(&self.number);
        // Only after a panic is there no result yet.
        self.flight.land(Landing::Abandoned);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Condvar, Mutex},
        thread,
        time::{Duration, Instant},
    };

    use crate::{Format, Memory, Options, ReadAt, core::Core};

    /// Holds reads back while it is closed.
    struct Gated {
        encoded: Vec<u8>,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl ReadAt for Gated {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
            self.encoded.read_exact_at(buf, offset)
        }
    }

    #[test]
    fn all_who_want_a_span_get_one_decode_of_it_though_no_memory_keeps_it() {
        // Stored blocks of five bytes of header and 1000 of data.
        let encoded: Vec<u8> = (0..50)
            .flat_map(|block| {
                let header = [u8::from(block == 49), 0xe8, 3, 0x17, 0xfc];
                header.into_iter().chain([block; 1000])
            })
            .collect();
        let options = Options {
            format: Format::Deflate,
            spacing: 10_000,
            decoded_len: Some(50_000),
            crc32: None,
        };
        let core = Core::new(0..encoded.len() as u64, options, Memory::new(0));
        let source = Gated { encoded, open: Mutex::new(true), opened: Condvar::new() };
        core.span_at(&source, 49_999).unwrap();

        *source.open.lock().unwrap() = false;
        let spans: Vec<_> = thread::scope(|scope| {
            let readers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| core.span_at(&source, 5000))).collect();
            // The map, the one who decodes, and seven who wait.
            let all_wait =
                || core.lock().behind.get(&0).is_some_and(|flight| Arc::strong_count(flight) == 9);
            let start = Instant::now();
            while !all_wait() && start.elapsed() < Duration::from_secs(30) {
                thread::yield_now();
            }
            *source.open.lock().unwrap() = true;
            source.opened.notify_all();
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        let first = spans[0].as_ref().unwrap().as_ref().unwrap().bytes();
        assert_eq!(first[5000..5003], [5; 3]);
        for span in &spans {
            assert_eq!(span.as_ref().unwrap().as_ref().unwrap().bytes().as_ptr(), first.as_ptr());
        }
        assert!(core.lock().behind.is_empty());
    }
}
