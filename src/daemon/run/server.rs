//! The server of `npzfs run`. It stays in the namespaces of its caller, where nothing covers the
//! source, and ends when the kernel releases the filesystem: when the last process in the private
//! namespace has ended and no file of the mount is open any more.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use log::LevelFilter;
use rustix::event::{PollFd, PollFlags};

use super::{
    channel::{Channel, Message},
    namespace,
    writable::Writable,
};
use crate::daemon::{
    Access, Error, Event, Log, Options, ServerKind, background, logging, prepare::Prepared, raw,
    session, signals, source::Source,
};

/// Starts a process that starts the server, and returns the channel to the server. The process in
/// between ends at once, so the server is no child of this process: the command, which this process
/// becomes, would wonder about a child that it did not start.
///
/// `arguments` make this program call [`serve`] in a process that it starts by [`launch`].
///
/// # Errors
/// When no process can be started.
pub(super) fn start(arguments: &[OsString]) -> Result<Channel, Error> {
    let setup = |cause| Error::Setup("the server", cause);
    let (ours, theirs) = Channel::pair().map_err(setup)?;
    // The temporary value holds a copy of the server's end, which must not stay open here.
    let mut between = npzfs(arguments).stdin(theirs).spawn().map_err(setup)?;
    // If SIGCHLD is ignored, there is no status to fetch: the call waits all the same and fails.
    let _ = between.wait();
    Ok(ours)
}

/// Starts the server with the standard input and the standard error of this process. If that fails,
/// the process that started this one gets the error through the standard input, as from the server.
pub(crate) fn launch(arguments: &[OsString]) {
    if let Err(cause) = npzfs(arguments).spawn()
        && let Ok(channel) = channel()
    {
        // If this fails, the other process has ended, or reports that the server has.
        let _ = channel.send(&Message::Failed(Error::Setup("the server", cause).to_string()));
    }
}

/// This program, under the name that ps(1) shows.
fn npzfs(arguments: &[OsString]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("npzfs").args(arguments).stdout(Stdio::null());
    command
}

/// Serves until the mount is released. Errors before that go to the process that started it all.
pub(crate) fn serve(options: Options, writable: Option<&Path>, log: &Log, level: LevelFilter) {
    // Descriptors of the caller belong to the command alone. A pipe that stays open here would
    // never come to its end for its reader, and a file would keep its lock.
    raw::close_inherited(|_| true);
    background::take_name();
    // So the keys of the terminal send no signal to the server. setsid(2) fails only in the leader
    // of a process group, and this process is not one.
    let _ = rustix::process::setsid();
    let Ok(channel) = channel() else { return };
    if let Err(error) = serve_through(&channel, options, writable, log, level) {
        // If this fails, the caller has ended, and no process needs the server.
        let _ = channel.send(&Message::Failed(error.to_string()));
    }
}

/// Takes the standard input, which is the channel, and puts /dev/null in its place.
fn channel() -> io::Result<Channel> {
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(&null()?)?;
    Ok(Channel::of_server(channel))
}

fn null() -> io::Result<std::fs::File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

fn serve_through(
    channel: &Channel,
    mut options: Options,
    writable: Option<&Path>,
    log: &Log,
    level: LevelFilter,
) -> Result<(), Error> {
    let setup = |cause| Error::Setup("the server", cause);
    logging::start_log(log, level)?;
    let (sender, events) = mpsc::channel();
    signals::forward_signals(sender.clone(), ServerKind::OfCommand)?;
    if writable.is_some() {
        options.settings.write_bits = true;
        options.settings.owner = namespace::only_user().map_err(setup)?;
    }
    let prepared = Prepared::open(&options, Source::check_coverable)?;
    let shows_owners = options.settings.owner.is_none();
    let open = |path| Writable::open(path, &prepared.source, shows_owners);
    let _writable = writable.map(open).transpose()?;
    std::env::set_current_dir("/").map_err(setup)?;
    channel.send(&Message::Source(prepared.source.clone())).map_err(setup)?;
    let Some((device, command)) = channel.receive_device().map_err(setup)? else {
        return Ok(()); // the other process could make no mount, and has said so
    };
    // The kernel checks who may use the mount. It has no `allow_root`: fuser checks that.
    let access = match options.access {
        Access::OwnerAndRoot => Access::OwnerAndRoot,
        Access::Owner | Access::Everybody => Access::Everybody,
    };
    session::start(prepared.tree.clone(), device, access, Arc::new(OnceLock::new()), sender)?;
    leave_stderr_after(command, log).map_err(setup)?;
    prepared.log_warnings();
    channel.send(&Message::Serving).map_err(setup)?;
    loop {
        match events.recv() {
            Ok(Event::Signal(_) | Event::Unlocked) => continue,
            Ok(Event::Ended(Err(cause))) => log::error!("{}", Error::Session(cause)),
            Ok(Event::Ended(Ok(()))) | Err(mpsc::RecvError) => {}
        }
        return Ok(());
    }
}

/// Closes the standard error when the command has ended. Its background processes may still
/// use the mount, but a reader of the standard error of the command would wait for its end.
fn leave_stderr_after(command: OwnedFd, log: &Log) -> io::Result<()> {
    if *log != Log::Stderr {
        return Ok(rustix::stdio::dup2_stderr(&null()?)?);
    }
    let null = null()?;
    let wait = move || {
        let mut fds = [PollFd::new(&command, PollFlags::IN)];
        let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None));
        match ended.and_then(|_| rustix::stdio::dup2_stderr(&null)) {
            Ok(()) => {}
            Err(errno) => log::debug!("the standard error stays open: {errno}"),
        }
    };
    thread::Builder::new().name("command".into()).spawn(wait).map(drop)
}
