//! A span that one thread decodes and others wait for: at the frontier and before it.

use std::sync::Arc;

use super::{Core, state::State};
use crate::{
    Error, Span,
    sync::{Condvar, Mutex},
};

/// A span on its way. Whoever waits gets it from here, so that it need not stay in any cache.
pub(crate) struct Flight {
    landing: Mutex<Option<Landing>>,
    landed: Condvar,
}

/// How a flight ends. `None` says that it brought nothing, and that whoever waited looks again: the
/// thread that worked on it panicked, or found the end of the stream.
pub(crate) type Landing = Result<Option<Span>, Error>;

impl Flight {
    pub(crate) fn new() -> Self {
        Self { landing: Mutex::new(None), landed: Condvar::new() }
    }

    /// Waits for the end.
    pub(crate) fn wait(&self) -> Landing {
        let mut landing = self.landing.lock();
        loop {
            if let Some(landing) = &*landing {
                return landing.clone();
            }
            landing = self.landed.wait(landing);
        }
    }

    /// Ends it, unless it has ended.
    fn land(&self, landing: Landing) {
        self.landing.lock().get_or_insert(landing);
        self.landed.notify_all();
    }
}

/// The right to decode a span. However it ends, nobody is left waiting.
pub(crate) struct Turn<'a> {
    core: &'a Arc<Core>,
    number: usize,
    flight: Arc<Flight>,
}

impl<'a> Turn<'a> {
    /// Takes the right to decode span `number`; `Err` has the flight to wait for if another thread
    /// has it. `state` is that of `core`.
    pub(crate) fn take(
        core: &'a Arc<Core>,
        state: &mut State,
        number: usize,
    ) -> Result<Self, Arc<Flight>> {
        let flight = state.take_off(number)?;
        Ok(Self { core, number, flight })
    }

    /// Gives all who wait the result.
    pub(crate) fn land(self, result: Landing) {
        self.flight.land(result);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let is_awaited = self.core.lock().end_flight(self.number);
        // Only after a panic is there no result yet.
        self.flight.land(Ok(None));
        if is_awaited {
            self.core.take_over_adopted();
        }
    }
}
