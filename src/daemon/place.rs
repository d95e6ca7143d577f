//! Opens a path and finds its mount, without a request to the filesystem at that path.
//!
//! The server of a FUSE mount may be dead or stuck; stat(2) then fails or hangs. Opening an
//! `O_PATH` descriptor and reading about it in /proc send no request to a server. Only
//! [`Place::ask`] asks the filesystem, and it gives up after 5 s.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, OFlags, Stat},
    io::Errno,
};

use super::Error;
use crate::mounts::{self, MountInfo};

/// Time that a filesystem may take to answer one simple request.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open `O_PATH` descriptor of a path. It keeps the mount of that path busy.
#[derive(Debug)]
pub(super) struct Place {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    mount: MountInfo,
}

/// The answer of a filesystem to one question.
#[derive(Debug)]
pub(super) enum Answer<T> {
    /// The filesystem answered.
    Given(T),
    /// The server of the filesystem is gone: `ENOTCONN` or `ECONNABORTED`.
    Dead,
    /// The filesystem did not answer in time.
    Hung,
    /// The filesystem answered with an error.
    Refused(io::Error),
}

impl Place {
    /// Opens `path`, following symbolic links.
    ///
    /// # Errors
    /// When open(2) fails, for example with `ENOTCONN` if a parent directory is a dead mount.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // O_DIRECTORY is not set, since it would trigger an automount at this path: the kernel
        // would wait for the very mount that is being made.
        let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let canonical = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let mount = mounts::of(&fd)?;
        Ok(Self { fd: Arc::new(fd), path: canonical, mount })
    }

    /// The absolute path, without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The mount that the path lies in.
    pub(super) fn mount(&self) -> &MountInfo {
        &self.mount
    }

    /// The `O_PATH` descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The `O_PATH` descriptor, in a form that threads can share.
    pub(super) fn into_fd(self) -> Arc<OwnedFd> {
        self.fd
    }

    /// Whether the path is the mountpoint of its mount.
    pub(super) fn is_mount_root(&self) -> bool {
        self.path == self.mount.mount_point
    }

    /// stat(2) of the path, if its filesystem answers.
    pub(super) fn stat(&self) -> Answer<Stat> {
        self.ask(|fd| {
            // The kernel caches attributes of a dead FUSE mount, but never the answer to statfs(2).
            rustix::fs::fstatfs(fd)?;
            rustix::fs::fstat(fd)
        })
    }

    /// Asks the filesystem about the path, on a separate thread. If there is no answer within 5 s,
    /// returns [`Answer::Hung`], and the thread goes on waiting alone.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&OwnedFd) -> rustix::io::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let fd = Arc::clone(&self.fd);
        match within(PATIENCE, move || question(&fd)) {
            Some(Ok(answer)) => Answer::Given(answer),
            Some(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Answer::Dead,
            Some(Err(errno)) => Answer::Refused(errno.into()),
            None => Answer::Hung,
        }
    }
}

/// The error for a path that cannot be opened. If the path lies under a dead mount, the error names
/// that mount.
pub(super) fn unreachable(path: &Path, cause: io::Error) -> Error {
    if matches!(Errno::from_io_error(&cause), Some(Errno::NOTCONN | Errno::CONNABORTED)) {
        // The root of a dead mount can be opened, but no path below that root.
        let above = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        if let Some(place) = above.into_iter().find_map(|above| Place::open(above).ok()) {
            let MountInfo { mount_point, fs_type, .. } = place.mount;
            return Error::Dead { path: mount_point, fs_type };
        }
    }
    Error::Mountpoint(path.into(), cause)
}

/// Runs `work` on a separate thread and returns its result. Returns `None` if that takes longer
/// than `limit`; the thread then goes on alone. If no thread can be started, `work` runs on the
/// current thread, without a limit.
pub(super) fn within<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
    limit: Duration,
    work: W,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let (task, tasks) = mpsc::channel::<W>();
    let started = thread::Builder::new().spawn(move || {
        if let Ok(work) = tasks.recv() {
            // Sending fails if the limit has passed: no thread waits for the result any more.
            let _ = sender.send(work());
        }
    });
    if let Err(error) = started {
        log::debug!("no thread to wait with: {error}");
        return Some(work());
    }
    task.send(work).ok()?;
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_is_followed_to_its_canonical_path() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = dir.path().canonicalize().expect("it exists");
        std::fs::create_dir(base.join("real")).expect("mkdir");
        std::os::unix::fs::symlink("real", base.join("link")).expect("symlink");
        let place = Place::open(&base.join("link/../link/.")).expect("it exists");
        assert_eq!(place.path(), base.join("real"));
        assert!(!place.is_mount_root());
    }

    #[test]
    fn the_root_of_a_mount_is_known_without_stat() {
        let place = Place::open(Path::new("/proc")).expect("/proc is there");
        assert!(place.is_mount_root());
        assert_eq!(place.mount().fs_type, "proc");
    }

    #[test]
    fn a_question_without_an_answer_is_given_up() {
        let (_sender, receiver) = mpsc::channel::<()>();
        assert!(within(Duration::from_millis(20), move || receiver.recv()).is_none());
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }
}
