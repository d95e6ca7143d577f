//! The decoded spans, in order of last use.

use lru::LruCache;

use super::ReaderId;
use crate::Span;

/// How many of the oldest spans are checked for a buffer of the needed size. If streams of several
/// spacings are read, the very oldest span often has another size.
pub(super) const OLDEST: usize = 16;

/// The decoded spans of all readers.
pub(super) struct Cache {
    spans: LruCache<(ReaderId, usize), Span>,
    /// Bytes that the spans take.
    bytes: u64,
    /// How often in a row a newer span was dropped instead of the oldest.
    passed_over: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { spans: LruCache::unbounded(), bytes: 0, passed_over: 0 }
    }
}

impl Cache {
    /// Bytes that the spans take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A span, which becomes the most recently used.
    pub(super) fn get(&mut self, reader: ReaderId, number: usize) -> Option<Span> {
        self.spans.get(&(reader, number)).cloned()
    }

    /// A span. Its place in the order of use stays the same.
    pub(super) fn peek(&self, reader: ReaderId, number: usize) -> Option<Span> {
        self.spans.peek(&(reader, number)).cloned()
    }

    /// Inserts a span. Returns the span that it replaces.
    pub(super) fn insert(&mut self, reader: ReaderId, number: usize, span: Span) -> Option<Span> {
        self.bytes += span.memory();
        let replaced = self.spans.put((reader, number), span);
        self.bytes -= replaced.as_ref().map_or(0, Span::memory);
        replaced
    }

    /// Removes a span. Its memory no longer counts.
    pub(super) fn remove(&mut self, reader: ReaderId, number: usize) -> Option<Span> {
        let span = self.spans.pop(&(reader, number))?;
        self.bytes -= span.memory();
        Some(span)
    }

    /// Removes all spans of a reader.
    pub(super) fn remove_reader(&mut self, reader: ReaderId) -> Vec<Span> {
        let keys = self.spans.iter().map(|(key, _)| *key).filter(|(of, _)| *of == reader);
        let keys: Vec<_> = keys.collect();
        let dropped: Vec<_> = keys.iter().filter_map(|key| self.spans.pop(key)).collect();
        self.bytes -= dropped.iter().map(Span::memory).sum::<u64>();
        dropped
    }

    /// Removes the least recently used span.
    pub(super) fn pop_oldest(&mut self) -> Option<Span> {
        let (_, span) = self.spans.pop_lru()?;
        self.bytes -= span.memory();
        Some(span)
    }

    /// Takes out one of the oldest spans: one whose buffer length `serves`, or else the oldest.
    /// After more than `OLDEST` newer spans in a row it also drops the oldest: otherwise unread
    /// spans would stay for as long as spans of another size come and go.
    pub(super) fn pop_like(&mut self, serves: impl Fn(usize) -> bool) -> Option<Span> {
        let is_like = |span: &Span| span.buffer_len().is_some_and(&serves);
        let mut oldest = self.spans.iter().rev().take(OLDEST).enumerate();
        match oldest.find(|(_, (_, span))| is_like(span)).map(|(at, (key, _))| (at, *key)) {
            None | Some((0, _)) => {
                self.passed_over = 0;
                self.pop_oldest()
            }
            Some((_, key)) => {
                let span = self.spans.pop(&key)?;
                self.bytes -= span.memory();
                self.passed_over += 1;
                if self.passed_over > OLDEST {
                    drop(self.pop_oldest());
                }
                Some(span)
            }
        }
    }
}
