//! The life of a server, from the mount to its end.

use std::sync::mpsc;

use sd_notify::NotifyState;

use super::{Error, Event, Mount, Options, background, signals};

/// Who has started the server, and what it owes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// A terminal or a service manager: the end of the terminal (SIGHUP) ends the mount.
    Foreground,
    /// [`super::launch`], which waits until the mount answers. There is no terminal after that.
    Background,
}

/// Mounts, and serves until the mount is taken away or a signal comes.
///
/// # Errors
/// When the mount cannot be made or taken away, or the conversation with the kernel fails.
pub fn serve(options: &Options, kind: ServerKind) -> Result<(), Error> {
    if kind == ServerKind::Background {
        background::take_name();
    }
    let (sender, events) = mpsc::channel();
    signals::forward(sender.clone(), kind)?;
    let mount = Mount::start(options, sender)?;
    if kind == ServerKind::Background {
        background::ready()?;
    }
    let status = format!("{} on {}", mount.source().display(), mount.path().display());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    log::info!("serving {status}");

    // The threads that hold the senders send before they end, so there is an event.
    let result = match events.recv() {
        Ok(Event::Signal(signal)) => {
            log::info!("{}: unmounting {}", signals::name(signal), mount.path().display());
            tell(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
            return mount.unmount();
        }
        Ok(Event::Ended(Err(cause))) => Err(Error::Session(cause)),
        Ok(Event::Ended(Ok(()))) | Err(mpsc::RecvError) => {
            log::info!("{} was unmounted", mount.path().display());
            Ok(())
        }
    };
    tell(&[NotifyState::Stopping]);
    result
}

/// Tells the service manager, if one has started the server.
fn tell(states: &[NotifyState]) {
    if let Err(cause) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager: {cause}");
    }
}
