//! A result that one thread works on and others wait for.

use crate::{
    Error, Span,
    sync::{Condvar, Mutex},
};

/// A span on its way. Whoever waits gets it from here, so that it need not stay in any cache.
pub(crate) struct Flight {
    landing: Mutex<Option<Landing>>,
    landed: Condvar,
}

/// How a flight ends.
#[derive(Clone)]
pub(crate) enum Landing {
    /// With this.
    Arrived(Result<Span, Error>),
    /// Without a result, because whoever worked on it left. Try again yourself.
    Abandoned,
}

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
    pub(crate) fn land(&self, landing: Landing) {
        self.landing.lock().get_or_insert(landing);
        self.landed.notify_all();
    }
}
