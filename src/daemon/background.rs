//! The server goes to the background when its mount answers.
//!
//! A process with threads must not fork, so the program runs itself a second time. The second one
//! writes a line to its standard output when the mount answers; errors
//! it writes to standard error, which it shares with the first until then.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus, Stdio},
};

use super::Error;

/// What the server writes when the mount answers.
const READY: &[u8] = b"ready\n";

/// How the attempt to start a server in the background ended.
#[derive(Debug)]
pub enum Launch {
    /// Its mount answers.
    Ready,
    /// It ended with this code, and has said why on standard error.
    Failed(u8),
    /// It ended without a word.
    Died(ExitStatus),
}

/// Runs this program again with `arguments`, and returns when that one is ready or has failed.
///
/// # Errors
/// When it cannot be started.
pub fn launch(arguments: Vec<OsString>) -> Result<Launch, Error> {
    let setup = |cause| Error::Setup("the server in the background", cause);
    let mut child = Command::new("/proc/self/exe")
        .arg0("npzfs")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(setup)?;
    let mut said = Vec::new();
    let mut stdout = child.stdout.take().expect("it was asked to be a pipe");
    // A server that is ready closes its standard output.
    stdout.read_to_end(&mut said).map_err(setup)?;
    if said == READY {
        return Ok(Launch::Ready);
    }
    let status = child.wait().map_err(setup)?;
    Ok(match status.code() {
        Some(code @ 1..=2) => Launch::Failed(u8::try_from(code).unwrap_or(1)),
        _ => Launch::Died(status),
    })
}

/// One line on how the server ended that did not say so itself.
#[must_use]
pub fn obituary(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            format!("the server was killed by signal {signal} before its mount answered")
        }
        None => format!("the server ended before its mount answered ({status})"),
    }
}

/// The name in ps(1) and top(1), which would be that of the file, "exe". For the second process, at
/// its start.
pub fn take_name() {
    // Without it, only the looks suffer.
    let _ = rustix::thread::set_name(c"npzfs");
}

/// Says that the mount answers, and lets go of the terminal and the working directory.
///
/// Not before: systemd, when it mounts an automount point, has its own process group pass through
/// that and everybody else wait for the mount.
///
/// # Errors
/// When nobody listens: whoever started the server has given up.
pub fn ready() -> Result<(), Error> {
    let setup = |cause| Error::Setup("the server in the background", cause);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(setup)?;
    std::env::set_current_dir("/").map_err(setup)?;
    // Fails only in the leader of a process group, which the second process is not.
    let _ = rustix::process::setsid();
    let mut stdout = io::stdout();
    stdout.write_all(READY).and_then(|()| stdout.flush()).map_err(setup)?;
    rustix::stdio::dup2_stderr(&null).map_err(|errno| setup(errno.into()))?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| setup(errno.into()))
}
