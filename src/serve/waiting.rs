//! Keeps the reads of one member that wait for spans, and gives them the spans.

use std::{collections::HashMap, ops::Range};

use seekable_deflate::Span;

use super::{Error, Reply};
use crate::sync::Mutex;

/// A read, a read-ahead or a pass that waits for spans.
pub(super) struct Waiter {
    /// The decoded bytes that are still missing.
    pub missing: Range<u64>,
    want: Want,
}

enum Want {
    Read {
        /// The bytes from the start of the read to `missing`, if the read began in an earlier span.
        got: Vec<u8>,
        reply: Reply,
    },
    /// Read-ahead: the range is only decoded. There is no reply.
    ReadAhead,
    /// The first pass continues to the end of `missing`, to compare the member with its CRC-32. The
    /// bytes are not returned.
    Pass {
        /// Whether the spans stay cached for a read that is expected soon.
        keep: bool,
        reply: Reply,
    },
}

/// Buffers for replies that are collected from several spans. Page faults for fresh buffers took a
/// fifth of a first pass over noise, whose spans are small. All threads share the buffers, since
/// one thread collects a reply and another sends it.
static SPARES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Most buffers that are kept. Each has at most 1 MiB, the longest read of the kernel.
const MOST_SPARES: usize = 4;

fn take_spare() -> Vec<u8> {
    let spare = SPARES.lock().pop();
    let mut spare = spare.unwrap_or_default();
    spare.clear();
    spare
}

fn keep_spare(buffer: Vec<u8>) {
    let mut spares = SPARES.lock();
    if spares.len() < MOST_SPARES {
        spares.push(buffer);
    }
}

/// A waiter that has got all its bytes, or an error, and can be answered.
pub(super) struct Served {
    reply: Reply,
    bytes: Bytes,
}

enum Bytes {
    InSpan(Span, Range<usize>),
    Collected(Vec<u8>),
    Passed,
    Failed(Error),
}

impl Waiter {
    /// A read of `range`, which must not be empty.
    pub(super) fn read(range: Range<u64>, reply: Reply) -> Self {
        Self { missing: range, want: Want::Read { got: Vec::new(), reply } }
    }

    /// Read-ahead of `range`, which must not be empty.
    pub(super) fn read_ahead(range: Range<u64>) -> Self {
        Self { missing: range, want: Want::ReadAhead }
    }

    /// A first pass over `range`, which must not be empty. `reply` gets no bytes.
    pub(super) fn pass(range: Range<u64>, keep: bool, reply: Reply) -> Self {
        Self { missing: range, want: Want::Pass { keep, reply } }
    }

    /// Takes missing bytes from `span`. Returns `Err(self)` if the waiter has to go on waiting.
    fn feed(mut self, span: &Span) -> Result<Option<Served>, Self> {
        let end = span.start() + span.bytes().len() as u64;
        if !(span.start()..end).contains(&self.missing.start) {
            return Err(self);
        }
        let from = (self.missing.start - span.start()) as usize;
        let to = (self.missing.end.min(end) - span.start()) as usize;
        let whole = self.missing.end <= end;
        match self.want {
            Want::Read { got, reply } if whole && got.is_empty() => {
                Ok(Some(Served { reply, bytes: Bytes::InSpan(span.clone(), from..to) }))
            }
            Want::Read { mut got, reply } => {
                if got.is_empty() {
                    got = take_spare();
                }
                got.reserve_exact((self.missing.end - self.missing.start) as usize);
                got.extend_from_slice(&span.bytes()[from..to]);
                if whole {
                    return Ok(Some(Served { reply, bytes: Bytes::Collected(got) }));
                }
                self.missing.start = end;
                self.want = Want::Read { got, reply };
                Err(self)
            }
            Want::ReadAhead if whole => Ok(None),
            Want::Pass { reply, .. } if whole => Ok(Some(Served { reply, bytes: Bytes::Passed })),
            Want::ReadAhead | Want::Pass { .. } => {
                self.missing.start = end;
                Err(self)
            }
        }
    }

    fn fail(self, error: Error) -> Option<Served> {
        match self.want {
            Want::Read { reply, .. } | Want::Pass { reply, .. } => {
                Some(Served { reply, bytes: Bytes::Failed(error) })
            }
            Want::ReadAhead => None,
        }
    }
}

impl Served {
    /// Calls the reply. Not to be called under a lock, because the reply writes to the kernel.
    pub(super) fn reply(self) {
        match self.bytes {
            Bytes::InSpan(span, range) => (self.reply)(Ok(&span.bytes()[range])),
            Bytes::Collected(bytes) => {
                (self.reply)(Ok(&bytes));
                keep_spare(bytes);
            }
            Bytes::Passed => (self.reply)(Ok(&[])),
            Bytes::Failed(error) => (self.reply)(Err(error)),
        }
    }
}

/// The waiters of one member, and the tasks that decode for them.
#[derive(Default)]
pub(super) struct Waiting {
    pub list: Vec<Waiter>,
    /// Whether a task is about to decode the span at the frontier.
    pub advancing: bool,
    /// Whether a handle was closed and no waiter has come since.
    pub resting: bool,
    /// Spans before the frontier that tasks decode. The key is the decoded offset at which the span
    /// begins.
    pub decoding: HashMap<u64, Stage>,
}

/// The progress of a task that decodes a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The task waits for a thread. Another task may decode this span along with its own.
    Queued,
    /// A thread is decoding the span.
    Running,
}

impl Waiting {
    /// Whether a waiter wants a byte of `range`. A pass that does not keep spans does not count.
    pub(super) fn want(&self, range: &Range<u64>) -> bool {
        let wants = |waiter: &&Waiter| !matches!(waiter.want, Want::Pass { keep: false, .. });
        let mut missing = self.list.iter().filter(wants).map(|waiter| &waiter.missing);
        missing.any(|missing| missing.start < range.end && range.start < missing.end)
    }

    /// Gives every waiter the bytes of `span` that it misses. Returns the waiters that have all
    /// their bytes.
    pub(super) fn deliver(&mut self, span: &Span) -> Vec<Served> {
        let mut done = Vec::new();
        for waiter in std::mem::take(&mut self.list) {
            match waiter.feed(span) {
                Ok(served) => done.extend(served),
                Err(waiter) => self.list.push(waiter),
            }
        }
        done
    }

    /// Ends the waiters whose next missing byte is in `range`. Returns them with `error`.
    pub(super) fn fail(&mut self, range: &Range<u64>, error: &Error) -> Vec<Served> {
        let mut done = Vec::new();
        for waiter in std::mem::take(&mut self.list) {
            if range.contains(&waiter.missing.start) {
                done.extend(waiter.fail(error.clone()));
            } else {
                self.list.push(waiter);
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_on_the_way_to_what_is_asked_for_is_wanted_by_nobody() {
        let reply = || -> Reply { Box::new(|_| ()) };
        let list = vec![
            Waiter::read(1000..1100, reply()),
            Waiter::read_ahead(1500..1600),
            Waiter::pass(1500..9000, false, reply()),
            Waiter::pass(9000..9100, true, reply()),
        ];
        let waiting = Waiting { list, ..Waiting::default() };
        for (range, wanted) in [
            (0..1000, false),
            (0..1001, true),
            (1099..1300, true),
            (1100..1500, false),
            (1500..1501, true),
            (1600..9000, false),
            (8999..9001, true),
        ] {
            assert_eq!(waiting.want(&range), wanted, "{range:?}");
        }
    }

    #[test]
    fn a_few_buffers_of_replies_are_kept() {
        (0..10).for_each(|_| keep_spare(vec![0; 1 << 20]));
        assert!((1..=4).contains(&SPARES.lock().len()));
        let spare = take_spare();
        assert!(spare.is_empty() && spare.capacity() >= 1 << 20);
    }
}
