//! The decoded spans, in order of last use.

use std::collections::{BTreeSet, HashMap};

use lru::LruCache;

use super::ReaderId;
use crate::Span;

/// How many of the oldest spans are checked for a buffer of the needed size. If streams of several
/// spacings are read, the very oldest span often has another size.
pub(super) const OLDEST: usize = 16;

/// The decoded spans of all readers.
pub(super) struct Cache {
    spans: LruCache<(ReaderId, usize), Span>,
    /// The span numbers of each reader that has spans. Without this index, dropping a reader went
    /// through all spans, which took most of the time of a walk over many small members.
    numbers: HashMap<ReaderId, BTreeSet<usize>>,
    /// Bytes that the spans take.
    bytes: u64,
    /// How often in a row a newer span was dropped instead of the oldest.
    passed_over: usize,
}

impl Default for Cache {
    fn default() -> Self {
        let (spans, numbers) = (LruCache::unbounded(), HashMap::new());
        Self { spans, numbers, bytes: 0, passed_over: 0 }
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
        self.numbers.entry(reader).or_default().insert(number);
        let replaced = self.spans.put((reader, number), span);
        self.bytes -= replaced.as_ref().map_or(0, Span::memory);
        replaced
    }

    /// Removes a span. Its memory no longer counts.
    pub(super) fn remove(&mut self, reader: ReaderId, number: usize) -> Option<Span> {
        let span = self.spans.pop(&(reader, number))?;
        self.forget((reader, number), &span);
        Some(span)
    }

    /// Removes all spans of a reader.
    pub(super) fn remove_reader(&mut self, reader: ReaderId) -> Vec<Span> {
        let numbers = self.numbers.remove(&reader).unwrap_or_default();
        let spans = numbers.into_iter().filter_map(|number| self.spans.pop(&(reader, number)));
        let dropped: Vec<_> = spans.collect();
        self.bytes -= dropped.iter().map(Span::memory).sum::<u64>();
        dropped
    }

    /// Removes the least recently used span.
    pub(super) fn pop_oldest(&mut self) -> Option<Span> {
        let (key, span) = self.spans.pop_lru()?;
        self.forget(key, &span);
        Some(span)
    }

    /// Notes that a span has been taken out.
    fn forget(&mut self, (reader, number): (ReaderId, usize), span: &Span) {
        self.bytes -= span.memory();
        if let Some(numbers) = self.numbers.get_mut(&reader) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.numbers.remove(&reader);
            }
        }
    }

    /// Takes out one of the oldest spans: one whose buffer length `serves`, or else the very
    /// oldest. If more than `OLDEST` times in a row the oldest was passed over, drops it as well:
    /// otherwise unread spans would stay for as long as spans of another size come and go.
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
                self.forget(key, &span);
                self.passed_over += 1;
                if self.passed_over > OLDEST {
                    drop(self.pop_oldest());
                }
                Some(span)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agrees with a cache that goes through all its spans.
    #[test]
    fn the_spans_of_a_reader_go_with_it_and_no_others() {
        let span = || Span::new(0, vec![1; 10], 0..10);
        let mut cache = Cache::default();
        let mut left = BTreeSet::new();
        let mut number = 1u64;
        for _ in 0..2000 {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (reader, at) = (ReaderId(number >> 61), (number >> 40) as usize % 8);
            match number >> 33 & 7 {
                0 => {
                    let of_reader = left.iter().filter(|(of, _)| *of == reader.0).count();
                    assert_eq!(cache.remove_reader(reader).len(), of_reader);
                    left.retain(|(of, _)| *of != reader.0);
                }
                1 => {
                    let oldest = cache.spans.peek_lru().map(|(key, _)| *key);
                    assert_eq!(cache.pop_oldest().is_some(), oldest.is_some());
                    left.retain(|key| oldest.is_none_or(|(of, at)| *key != (of.0, at)));
                }
                2 => {
                    assert_eq!(cache.remove(reader, at).is_some(), left.remove(&(reader.0, at)));
                }
                _ => {
                    assert_eq!(
                        cache.insert(reader, at, span()).is_some(),
                        !left.insert((reader.0, at))
                    );
                }
            }
            let kept: BTreeSet<_> = cache.spans.iter().map(|((of, at), _)| (of.0, *at)).collect();
            assert_eq!(kept, left);
            let numbers =
                cache.numbers.iter().flat_map(|(of, all)| all.iter().map(|at| (of.0, *at)));
            assert_eq!(numbers.collect::<BTreeSet<_>>(), left);
            assert!(cache.numbers.values().all(|numbers| !numbers.is_empty()));
            assert_eq!(cache.bytes(), left.len() as u64 * span().memory());
        }
    }
}
