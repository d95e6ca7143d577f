//! The server goes to the background when its mount answers.
//!
//! A process with threads must not fork, so the program runs itself a second time. The second
//! process is the server. It writes a line to its standard output when the mount answers. Until
//! then both have one standard error, to which the server writes what goes wrong.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use super::Error;

/// What the server writes when the mount answers.
const READY: &[u8] = b"ready\n";

/// Runs this program again with `arguments`, and returns when that server is ready or has ended. The
/// result is the exit code of the first process: 0 if the server is ready, else the server's own,
/// which has written an error.
///
/// # Errors
/// When the server cannot be started, or ends without an error of its own.
pub fn launch(arguments: Vec<OsString>) -> Result<u8, Error> {
    let setup = |cause| Error::Setup("the server in the background", cause);
    let mut child = Command::new("/proc/self/exe")
        .arg0("npzfs")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(setup)?;
    let mut written = Vec::new();
    let mut stdout = child.stdout.take().expect("it was asked to be a pipe");
    // A server that is ready closes its standard output.
    stdout.read_to_end(&mut written).map_err(setup)?;
    if written == READY {
        return Ok(0);
    }
    let status = child.wait().map_err(setup)?;
    match status.code() {
        Some(code @ 1..=2) => Ok(code as u8),
        _ => Err(Error::ServerDied(status)),
    }
}

/// Sets the name that ps(1) and top(1) show, which would be that of the file, "exe". To be called by
/// the second process when it starts.
pub fn take_name() {
    // A failure leaves the name "exe", and nothing depends on that.
    let _ = rustix::thread::set_name(c"npzfs");
}

/// Tells the first process that the mount answers, and lets go of the terminal, the process group and
/// the working directory.
///
/// The server keeps its process group until then: while systemd mounts an automount point, only its
/// own process group may pass through it, and everybody else waits for the mount.
///
/// # Errors
/// When the first process has ended, which is how a user gives up.
pub fn ready() -> Result<(), Error> {
    let setup = |cause| Error::Setup("the server in the background", cause);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(setup)?;
    std::env::set_current_dir("/").map_err(setup)?;
    // It fails only in the leader of a process group, which the second process is not.
    let _ = rustix::process::setsid();
    let mut stdout = io::stdout();
    stdout.write_all(READY).and_then(|()| stdout.flush()).map_err(setup)?;
    rustix::stdio::dup2_stderr(&null).map_err(|errno| setup(errno.into()))?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| setup(errno.into()))
}
