//! Mounting, readiness, signals, unmounting.
//!
//! [`serve()`] is the whole life of a server; [`Mount`] is a mount for those who do something
//! beside it. Nothing here looks into archives or knows how the tree is made.
#![deny(unsafe_code)]

// A descriptor that fuser owns is replaced there.
#[allow(unsafe_code)]
mod answering;
mod background;
mod detach;
mod error;
mod fusermount;
mod kernel;
mod logging;
mod mount;
mod mountpoint;
mod options;
mod place;
mod processes;
mod serve;
mod signals;
mod source;
mod unmount;

use std::io;

pub use self::{
    background::{Launch, launch, obituary},
    error::Error,
    logging::{Log, start as start_log, stderr_is_the_journal},
    mount::Mount,
    options::{Access, Options},
    serve::{Ground, serve},
    signals::{Hangup, forward as forward_signals},
    unmount::unmount,
};

/// What can end a mount.
#[derive(Debug)]
pub enum Event {
    /// A signal asks for it.
    Signal(i32),
    /// It is over: unmounted from outside, or the conversation with the kernel failed.
    Ended(io::Result<()>),
}
