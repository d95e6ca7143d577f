//! Signals that end the server, as events.

use std::{process, sync::mpsc::Sender, thread};

use signal_hook::{
    consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    iterator::Signals,
};

use super::{Error, Event};

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The terminal is gone, and the mount with it.
    Ends,
    /// Nothing: there is no terminal.
    Ignored,
}

/// Sends an [`Event::Signal`] for the first signal that ends the server. The second one ends the
/// process at once.
///
/// # Errors
/// When the handlers cannot be set up.
pub fn forward(events: Sender<Event>, hangup: Hangup) -> Result<(), Error> {
    let setup = |cause| Error::Setup("the signal handlers", cause);
    // With a handler for SIGXFSZ, a write beyond the size that files may have (ulimit -f) fails
    // like one on a full disk, and does not end the server.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ]).map_err(setup)?;
    let forward = move || {
        let mut ending = false;
        for signal in signals.forever() {
            if signal == SIGXFSZ {
                continue;
            }
            if signal == SIGHUP && hangup == Hangup::Ignored {
                log::info!("SIGHUP: there is no terminal to hang up");
                continue;
            }
            if ending {
                process::exit(128 + signal);
            }
            ending = true;
            // Without a listener the process is ending anyway.
            let _ = events.send(Event::Signal(signal));
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map_err(setup)?;
    Ok(())
}

/// The name of one of the signals above.
#[must_use]
pub fn name(signal: i32) -> &'static str {
    match signal {
        SIGHUP => "SIGHUP",
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        _ => "a signal",
    }
}
