//! Mounts, reports readiness, handles signals, unmounts.
//!
//! [`serve()`] runs a server from start to end. [`Mount`] is only the mount, for the demo, which
//! does other work while the mount is served. This module does not read archives, and does not know
//! how the tree is built.
#![deny(unsafe_code)]

// This module needs unsafe code to replace a descriptor that fuser owns.
#[allow(unsafe_code)]
mod answering;
mod background;
mod detach;
mod error;
mod fusermount;
mod kernel;
mod limits;
mod lock;
mod logging;
mod mount;
mod mountpoint;
mod options;
mod place;
mod prepare;
mod processes;
// This module needs unsafe code for system calls without a safe wrapper.
#[allow(unsafe_code)]
mod raw;
mod relief;
mod run;
mod serve;
mod session;
mod signals;
mod source;
mod unmount;

use std::io;

pub(crate) use self::{
    background::launch,
    error::Error,
    lock::close_inherited_locks,
    logging::{Log, start_log, stderr_is_the_journal},
    mount::Mount,
    mountpoint::MadeMountpoint,
    options::{Access, Options},
    run::{launch_server, run, serve_command},
    serve::{ServerKind, serve},
    signals::forward_signals,
    unmount::unmount,
};

/// An event that ends a mount.
#[derive(Debug)]
pub(crate) enum Event {
    /// A signal, by its number, that asks the server to end.
    Signal(i32),
    /// No other process has a lock on the file of `--while-locked`.
    Unlocked,
    /// The FUSE session ended: the filesystem was unmounted, or the session failed.
    Ended(io::Result<()>),
}
