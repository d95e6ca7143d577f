//! A span that one thread decodes while others wait for it, at or before the frontier.

use std::sync::Arc;

use super::{Core, state::State};
use crate::{
    Error, Span,
    sync::{Condvar, Mutex},
};

/// A span that is being decoded. Waiting threads get the span from here, so it need not stay in a
/// cache.
pub(crate) struct Flight {
    landing: Mutex<Option<Landing>>,
    landed: Condvar,
}

/// The result of a flight. `None` means that there is no span, and that waiting threads must look
/// again: the thread with the turn panicked, gave its turn back, or found the end of the stream.
pub(crate) type Landing = Result<Option<Span>, Error>;

impl Flight {
    pub(crate) fn new() -> Self {
        Self { landing: Mutex::new(None), landed: Condvar::new() }
    }

    /// Waits for the result.
    pub(crate) fn wait(&self) -> Landing {
        let mut landing = self.landing.lock();
        loop {
            if let Some(landing) = &*landing {
                return landing.clone();
            }
            landing = self.landed.wait(landing);
        }
    }

    /// Ends the flight with this result, unless the flight has a result already.
    fn land(&self, landing: Landing) {
        self.landing.lock().get_or_insert(landing);
        self.landed.notify_all();
    }
}

/// The right to decode a span. When it is dropped, no thread is left waiting.
pub(crate) struct Turn<'a> {
    core: &'a Arc<Core>,
    number: usize,
    flight: Arc<Flight>,
}

impl<'a> Turn<'a> {
    /// Takes the right to decode span `number`. If another thread has it, `Err` has the flight to
    /// wait for. `state` is the state of `core`.
    pub(crate) fn take(
        core: &'a Arc<Core>,
        state: &mut State,
        number: usize,
    ) -> Result<Self, Arc<Flight>> {
        let flight = state.take_off(number)?;
        Ok(Self { core, number, flight })
    }

    /// Gives the result to all threads that wait.
    pub(crate) fn land(self, result: Landing) {
        self.flight.land(result);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let is_awaited = self.core.lock().end_flight(self.number);
        // There is a result already, unless the thread panicked or gave its turn back.
        self.flight.land(Ok(None));
        if is_awaited {
            self.core.take_over_adopted();
        }
    }
}
