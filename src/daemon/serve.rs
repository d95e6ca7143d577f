//! Runs a server, from mounting to its end.

use std::{os::fd::RawFd, path::Path, sync::mpsc};

use sd_notify::NotifyState;

use super::{Error, Event, Mount, Options, background, lock::LockFile, raw, signals};

/// How the server was started. This decides how it treats signals and how it reports readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// By a terminal or a service manager. SIGHUP, at the end of the terminal, ends the mount.
    Foreground,
    /// By [`super::launch`], which waits until the mount answers. SIGHUP is ignored: a server in
    /// the background has no terminal.
    Background,
    /// By `npzfs run`. The server ends when nobody can use the mount any more; signals that ask it
    /// to end are ignored, since its command may need the mount to end in order.
    OfCommand,
}

/// Mounts, and serves until the filesystem is unmounted or a signal asks the server to end.
///
/// # Errors
/// When mounting or unmounting fails, or the FUSE session fails.
pub(crate) fn serve(options: &Options, kind: ServerKind) -> Result<(), Error> {
    if kind == ServerKind::Background {
        background::take_name();
    }
    let (sender, events) = mpsc::channel();
    signals::forward_signals(sender.clone(), kind)?;
    // The lock is held until the mount is gone.
    let lock_file = options.while_locked.as_deref().map(LockFile::open).transpose()?;
    let mount = match given_number(&options.mountpoint) {
        None => Mount::start(options, sender.clone())?,
        Some(number) => {
            let device = raw::take_fuse_device(number)
                .ok_or_else(|| Error::GivenDevice(options.mountpoint.clone()))?;
            Mount::serve_given(device, &options.mountpoint, options, sender.clone())?
        }
    };
    if let Some(lock_file) = &lock_file {
        lock_file.watch(sender)?;
    }
    if kind == ServerKind::Background {
        background::ready()?;
    }
    let status = format!("{} on {}", mount.source().display(), mount.path().display());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    log::info!("serving {status}");

    // Each thread that holds a sender sends an event before it ends, so there is an event.
    let result = match events.recv() {
        Ok(Event::Signal(signal)) => {
            log::info!("{}: unmounting {}", signals::name(signal), mount.path().display());
            tell(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
            return mount.unmount();
        }
        Ok(Event::Unlocked) => {
            log::info!("nobody holds the lock: unmounting {}", mount.path().display());
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

/// The N of a mountpoint /dev/fd/N: a descriptor of /dev/fuse that the caller has mounted.
/// apptainer does so for its --fusemount.
pub(super) fn given_number(mountpoint: &Path) -> Option<RawFd> {
    mountpoint.strip_prefix("/dev/fd").ok()?.to_str()?.parse().ok()
}

/// Notifies the service manager, if one has started the server.
fn tell(states: &[NotifyState]) {
    if let Err(cause) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_given_by_its_path_in_dev_fd_alone() {
        let number = |path| given_number(Path::new(path));
        assert_eq!((number("/dev/fd/7"), number("/dev/fd//12/")), (Some(7), Some(12)));
        for path in
            ["/dev/fd", "/dev/fd/", "/dev/fd/x", "/dev/fd/7/a", "/dev/fdx/7", "7", "dev/fd/7"]
        {
            assert_eq!(number(path), None, "{path}");
        }
    }
}
