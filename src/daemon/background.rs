//! Moves the server to the background as soon as its mount answers.
//!
//! A process with threads must not fork, so the program runs itself a second time. The second
//! process is the server. It writes a line to its standard output when the mount answers. Until
//! then, both processes share one standard error, to which the server writes its errors.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use super::Error;

/// The line that the server writes when its mount answers.
const READY: &[u8] = b"ready\n";

/// Runs this program again with `arguments`, and returns when the new server is ready or has ended.
/// Returns the exit code for the first process: 0 if the server is ready, else the exit code of the
/// server, which has then written an error.
///
/// # Errors
/// When the server cannot be started, or is killed, or ends with an exit code other than 1 and 2.
pub(crate) fn launch(arguments: Vec<OsString>) -> Result<u8, Error> {
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

/// Sets the process name that ps(1) and top(1) show. Without this call they show "exe", the end of
/// /proc/self/exe. The second process must call this function when it starts.
pub(super) fn take_name() {
    // If this fails, the name stays "exe". Nothing depends on the name.
    let _ = rustix::thread::set_name(c"npzfs");
}

/// Reports to the first process that the mount answers, and leaves the terminal, the process group
/// and the working directory.
///
/// The server stays in its process group until the mount answers: while systemd mounts an automount
/// point, only processes in systemd's process group may pass through that point. All others wait
/// for the mount.
///
/// # Errors
/// When the first process has already ended, because its user has given up waiting.
pub(super) fn ready() -> Result<(), Error> {
    let setup = |cause| Error::Setup("the server in the background", cause);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(setup)?;
    std::env::set_current_dir("/").map_err(setup)?;
    // setsid(2) fails only in the leader of a process group, and the second process is not one.
    let _ = rustix::process::setsid();
    let mut stdout = io::stdout();
    stdout.write_all(READY).and_then(|()| stdout.flush()).map_err(setup)?;
    rustix::stdio::dup2_stderr(&null).map_err(|errno| setup(errno.into()))?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| setup(errno.into()))
}
