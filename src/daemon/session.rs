//! The threads that answer the requests of one FUSE device.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock, mpsc::Sender},
    thread,
    time::Duration,
};

use fuser::{Config, Session, SessionACL};

use super::{Error, Event, answering, limits, options::Access, place, relief::MountRelief};
use crate::{
    fuse::{Npzfs, Watched},
    tree::Tree,
};

/// Time that a server may take to save its indexes when no program uses the mount any more. Most
/// servers take a fraction of a second. The source may hang.
pub(super) const SAVING: Duration = Duration::from_secs(60);

/// Starts the threads that answer the requests of `device`. When the session ends, `ended` is set,
/// to `true` if the kernel has released the filesystem, and `events` receives [`Event::Ended`].
///
/// # Errors
/// When the session or a thread cannot be started.
pub(super) fn start(
    tree: Arc<Tree>,
    device: OwnedFd,
    access: Access,
    ended: Arc<OnceLock<bool>>,
    events: Sender<Event>,
) -> Result<(), Error> {
    let duplicate = || {
        device.try_clone().map_err(|cause| Error::Setup("another descriptor of the device", cause))
    };
    let few_threads = tree.settings().serve.few_threads;
    let threads = if few_threads { 1 } else { limits::answering_threads() };
    let mut config = Config::default();
    config.n_threads = Some(threads);
    // When a cloned descriptor is closed, the kernel aborts the requests that were read through it.
    // Further sessions (`answering`) also need one descriptor that returns all requests.
    config.clone_fd = false;
    let acl = match access {
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    let filesystem = Npzfs::new(tree, duplicate()?);
    let (cache, requests) = (filesystem.cache(), filesystem.requests());
    let watched = Watched::new(filesystem);
    let ending = watched.joined();
    let relief = MountRelief {
        filesystem: watched.joined(),
        device: duplicate()?,
        acl,
        ended: ended.clone(),
        events: events.clone(),
        is_refused: false,
    };
    let watched_device = duplicate()?;
    let session = Session::from_fd(watched, device, acl, config).map_err(Error::Session)?;
    cache
        .start(session.notifier())
        .map_err(|cause| Error::Setup("the thread that drops listings", cause))?;
    requests
        .watch(watched_device, threads, relief)
        .map_err(|cause| Error::Setup("the thread that watches requests", cause))?;
    run(session, ending, ended, events)
        .map_err(|cause| Error::Setup("the thread that serves the mount", cause))
}

/// Starts the thread that waits for the end of the session and then sends [`Event::Ended`].
fn run(
    session: Session<Watched>,
    filesystem: Watched,
    ended: Arc<OnceLock<bool>>,
    events: Sender<Event>,
) -> io::Result<()> {
    let run = move || {
        let result = session.run();
        if place::within(SAVING, move || filesystem.end()).is_none() {
            log::warn!("saving indexes takes more than {} s and is given up", SAVING.as_secs());
        }
        // Other descriptors of the device are open, but no thread answers their requests.
        if result.is_err() {
            let_go_of_device();
        }
        let _ = ended.set(result.is_ok()); // fails if `give_up` has set it
        // If the receiver is gone, the process is ending anyway.
        let _ = events.send(Event::Ended(result));
    };
    thread::Builder::new().name("session".into()).spawn(run).map(drop)
}

/// Closes the device, so that everybody who waits for an answer gets an error.
pub(super) fn let_go_of_device() {
    if let Err(cause) = answering::let_go() {
        log::debug!("the device is still open: {cause}");
    }
}
