//! The life of a server, from the mount to its end.

use std::sync::mpsc;

use sd_notify::NotifyState;

use super::{Error, Event, Hangup, Mount, Options, background, signals};

/// Where the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// In the foreground: of a terminal, or of a service manager.
    Fore,
    /// In the background, started by [`super::launch`].
    Back,
}

/// Mounts, and serves until the mount is taken away or a signal comes.
///
/// # Errors
/// When the mount cannot be made or taken away, or the conversation with the kernel fails.
pub fn serve(options: &Options, ground: Ground) -> Result<(), Error> {
    let hangup = match ground {
        Ground::Fore => Hangup::Ends,
        Ground::Back => {
            background::take_name();
            Hangup::Ignored
        }
    };
    let (sender, events) = mpsc::channel();
    signals::forward(sender.clone(), hangup)?;
    let mount = Mount::start(options, sender)?;
    if ground == Ground::Back {
        background::ready()?;
    }
    let status = format!("{} on {}", mount.source().display(), mount.path().display());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    log::info!("serving {status}");

    // The sender lives as long as the threads that hold it, which do not end before they send.
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

/// Tells a service manager, if there is one.
fn tell(states: &[NotifyState]) {
    if let Err(cause) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager: {cause}");
    }
}
