//! Those who wait for decoded bytes, and the answers that they get.

use std::{fmt, ops::Range, sync::Arc};

use super::table::Ticket;
use crate::{Error, Memory, Span, sync::mpsc::Sender};

/// Called with the bytes that were asked for. There are fewer only at the end of the stream.
type OnBytes = Box<dyn FnOnce(Result<&[u8], Error>) + Send>;

/// Called when all bytes have been decoded.
type OnPassed = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What a thread that is blocked in `span_at` receives.
pub(super) enum Event {
    /// The span; `None` at the end of the stream.
    Answer(Result<Option<Span>, Error>),
    /// A work that no other thread runs. The blocked thread has to run it.
    Work(Ticket),
}

/// One who waits for decoded bytes.
pub(super) struct Asker {
    asked: Range<u64>,
    /// The asker has got, or has no use for, the bytes before this decoded offset.
    next: u64,
    want: Want,
}

enum Want {
    /// The bytes. `got` has the bytes before `next`, if the asker has got some.
    Bytes { got: Vec<u8>, done: OnBytes },
    /// The span that holds the first byte, for a thread that is blocked.
    Span(Sender<Event>),
    /// Nothing: the bytes are only decoded, since they are expected to be asked for later.
    Nothing,
    /// Nothing yet: an asker needs the bytes once it has the bytes before them.
    Later,
    /// To know when all bytes are decoded. With `keep`, the spans stay cached.
    Pass { keep: bool, done: OnPassed },
}

impl Asker {
    pub(super) fn for_bytes(range: Range<u64>, done: OnBytes) -> Self {
        Self::new(range, Want::Bytes { got: Vec::new(), done })
    }

    pub(super) fn for_span(offset: u64, blocked: Sender<Event>) -> Self {
        Self::new(offset..offset.saturating_add(1), Want::Span(blocked))
    }

    pub(super) fn for_nothing(range: Range<u64>) -> Self {
        Self::new(range, Want::Nothing)
    }

    pub(super) fn for_later(range: Range<u64>) -> Self {
        Self::new(range, Want::Later)
    }

    pub(super) fn for_pass(range: Range<u64>, keep: bool, done: OnPassed) -> Self {
        Self::new(range, Want::Pass { keep, done })
    }

    fn new(asked: Range<u64>, want: Want) -> Self {
        Self { next: asked.start, asked, want }
    }

    /// The decoded bytes that the asker still waits for.
    pub(super) fn missing(&self) -> Range<u64> {
        self.next..self.asked.end
    }

    /// The decoded offset before which this asker needs the bytes of its span. Whole spans are
    /// decoded for those who are likely to need more.
    pub(super) fn until(&self) -> u64 {
        match self.want {
            Want::Bytes { .. } | Want::Later => self.asked.end,
            Want::Span(_) | Want::Nothing | Want::Pass { .. } => u64::MAX,
        }
    }

    /// Whether a span of missing bytes should stay cached until the asker has got them.
    pub(super) fn keeps_spans(&self) -> bool {
        !matches!(self.want, Want::Pass { keep: false, .. })
    }

    /// Makes the blocked thread run the work of `ticket`. Returns whether this asker is such a
    /// thread.
    pub(super) fn take_work(&self, ticket: Ticket) -> bool {
        match &self.want {
            // The receiver lives as long as the asker: its thread waits for the answer.
            Want::Span(blocked) => blocked.send(Event::Work(ticket)).is_ok(),
            _ => false,
        }
    }

    /// Whether the asker is answered by a call.
    pub(super) fn has_call(&self) -> bool {
        matches!(self.want, Want::Bytes { .. } | Want::Pass { .. })
    }

    /// Takes missing bytes from `span`, which must hold the next one. Returns `Err(self)` if the
    /// asker goes on waiting.
    pub(super) fn feed(mut self, span: &Span, memory: &Memory) -> Result<Answer, Self> {
        let bytes = span.bytes_from(self.next).expect("the span holds the next byte");
        let len = (bytes.len() as u64).min(self.asked.end - self.next) as usize;
        let from = span.bytes().len() - bytes.len();
        self.next += len as u64;
        let has_all = self.next == self.asked.end;
        match self.want {
            Want::Span(blocked) => Ok(Answer::Span(Ok(Some(span.clone())), blocked)),
            Want::Bytes { got, done } if has_all && got.is_empty() => {
                Ok(Answer::InSpan(span.clone(), from..from + len, done))
            }
            Want::Bytes { mut got, done } => {
                if got.is_empty() {
                    got = memory.reply_buffer((self.asked.end - self.asked.start) as usize);
                }
                got.extend_from_slice(&bytes[..len]);
                if has_all {
                    return Ok(Answer::Collected(got, done));
                }
                Err(Self { want: Want::Bytes { got, done }, ..self })
            }
            Want::Nothing | Want::Later if has_all => Ok(Answer::Nothing),
            Want::Pass { done, .. } if has_all => Ok(Answer::Passed(Ok(()), done)),
            Want::Nothing | Want::Later | Want::Pass { .. } => Err(self),
        }
    }

    /// The answer at the end of the stream.
    pub(super) fn end(self) -> Answer {
        match self.want {
            Want::Bytes { got, done } => Answer::Collected(got, done),
            Want::Span(blocked) => Answer::Span(Ok(None), blocked),
            Want::Nothing | Want::Later => Answer::Nothing,
            Want::Pass { done, .. } => Answer::Passed(Ok(()), done),
        }
    }

    pub(super) fn fail(self, error: Error) -> Answer {
        match self.want {
            Want::Bytes { done, .. } => Answer::Failed(error, done),
            Want::Span(blocked) => Answer::Span(Err(error), blocked),
            Want::Nothing | Want::Later => Answer::Nothing,
            Want::Pass { done, .. } => Answer::Passed(Err(error), done),
        }
    }

    /// Forgets the bytes that were decoded by a wrong saved index. A blocked thread gets an error
    /// instead, since it may have got earlier spans by that index.
    pub(super) fn start_again(mut self) -> Result<Self, Answer> {
        self.next = self.asked.start;
        match &mut self.want {
            Want::Span(_) => return Err(self.fail(Error::StaleIndex)),
            Want::Bytes { got, .. } => got.clear(),
            Want::Nothing | Want::Later | Want::Pass { .. } => {}
        }
        Ok(self)
    }
}

/// The answer to one asker.
pub(super) enum Answer {
    /// All bytes, in one span.
    InSpan(Span, Range<usize>, OnBytes),
    /// All bytes, from several spans.
    Collected(Vec<u8>, OnBytes),
    Failed(Error, OnBytes),
    Passed(Result<(), Error>, OnPassed),
    Span(Result<Option<Span>, Error>, Sender<Event>),
    Nothing,
}

impl Answer {
    fn send(self, memory: &Memory) {
        match self {
            Self::InSpan(span, range, done) => done(Ok(&span.bytes()[range])),
            Self::Collected(bytes, done) => {
                done(Ok(&bytes));
                memory.keep_reply_buffer(bytes);
            }
            Self::Failed(error, done) => done(Err(error)),
            Self::Passed(result, done) => done(result),
            // The blocked thread may have panicked, and takes no answer then.
            Self::Span(result, blocked) => _ = blocked.send(Event::Answer(result)),
            Self::Nothing => {}
        }
    }
}

/// Answers that are due, for any thread to send.
#[must_use = "those who wait get their answers from `send`"]
pub struct Answers {
    answers: Vec<Answer>,
    memory: Arc<Memory>,
}

impl Answers {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { answers: Vec::new(), memory: Arc::clone(memory) }
    }

    pub(super) fn push(&mut self, answer: Answer) {
        if !matches!(answer, Answer::Nothing) {
            self.answers.push(answer);
        }
    }

    /// Whether nobody gets an answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Calls back all who get an answer. Not to be called under a lock that the callbacks take.
    pub fn send(self) {
        let Self { answers, memory } = self;
        answers.into_iter().for_each(|answer| answer.send(&memory));
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answers({})", self.answers.len())
    }
}
