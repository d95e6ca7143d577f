//! Turns the signals that end the server into events.

use std::{process, sync::mpsc::Sender, thread};

use signal_hook::{
    consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    iterator::Signals,
};

use super::{Error, Event, ServerKind};

/// Sends an [`Event::Signal`] for the first signal that asks the server to end. A second signal
/// ends the process at once. A server in the background ignores SIGHUP, and that of a command all
/// of them.
///
/// # Errors
/// When the handlers cannot be set up.
pub(crate) fn forward_signals(events: Sender<Event>, kind: ServerKind) -> Result<(), Error> {
    let setup = |cause| Error::Setup("the signal handlers", cause);
    // With a handler for SIGXFSZ, a write beyond the limit of file sizes (ulimit -f) fails like a
    // write to a full disk. Without a handler, it would end the server.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ]).map_err(setup)?;
    let forward = move || {
        let mut ending = false;
        for signal in signals.forever() {
            if signal == SIGXFSZ {
                continue;
            }
            if signal == SIGHUP && kind == ServerKind::Background {
                log::info!("SIGHUP: there is no terminal to hang up");
                continue;
            }
            if kind == ServerKind::OfCommand {
                log::info!("{}: the server waits for the end of its command", name(signal));
                continue;
            }
            if ending {
                process::exit(128 + signal);
            }
            ending = true;
            // If the receiver is gone, the process is ending anyway.
            let _ = events.send(Event::Signal(signal));
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map_err(setup)?;
    Ok(())
}

/// The name of a signal that ends the server.
pub(super) fn name(signal: i32) -> &'static str {
    match signal {
        SIGHUP => "SIGHUP",
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        _ => "a signal",
    }
}
