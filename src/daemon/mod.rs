//! Mounting, readiness, signals, unmounting.
//!
//! [`serve()`] is the whole life of a server. [`Mount`] is a mount alone, for the demo, which does
//! other things while it is served. Nothing here looks into archives or knows how the tree is made.
#![deny(unsafe_code)]

// Unsafe, since it replaces a descriptor that fuser owns.
#[allow(unsafe_code)]
mod answering;
mod background;
mod detach;
mod error;
mod fusermount;
mod kernel;
mod limits;
mod logging;
mod mount;
mod mountpoint;
mod options;
mod place;
mod processes;
mod relief;
mod serve;
mod signals;
mod source;
mod unmount;

use std::io;

pub use self::{
    background::launch,
    error::Error,
    logging::{Log, start as start_log, stderr_is_the_journal},
    mount::Mount,
    options::{Access, Options},
    serve::{ServerKind, serve},
    signals::forward as forward_signals,
    unmount::unmount,
};

/// What can end a mount.
#[derive(Debug)]
pub enum Event {
    /// This signal asks the server to end.
    Signal(i32),
    /// The mount was taken away by others, or the conversation with the kernel failed.
    Ended(io::Result<()>),
}
