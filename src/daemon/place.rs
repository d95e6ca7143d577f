//! What lies at a path, learned without asking the filesystem that lies there.
//!
//! The server of a FUSE mount may be dead or stuck, and then stat(2) fails or hangs. An `O_PATH`
//! descriptor and what /proc tells of it need no answer from it. The filesystem is asked only by
//! [`Place::ask`], which gives up after a while.

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

/// How long a filesystem may take to answer one simple request.
const PATIENCE: Duration = Duration::from_secs(5);

/// A path that exists, pinned.
///
/// While one is held, the mount that it lies in is busy.
#[derive(Debug)]
pub struct Place {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    mount: MountInfo,
}

/// What a filesystem did when it was asked something.
#[derive(Debug)]
pub enum Answer<T> {
    /// It answered.
    Given(T),
    /// Its server is gone: `ENOTCONN` or `ECONNABORTED`.
    Dead,
    /// It did not answer in time.
    Hung,
    /// It answered with an error.
    Refused(io::Error),
}

impl Place {
    /// Pins `path`, following symbolic links.
    ///
    /// # Errors
    /// What open(2) says: for one, `ENOTCONN` if a directory above is a dead mount.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Without O_DIRECTORY: with it, the kernel would trigger the automount that lies here, and
        // wait for the very mount that we are about to make.
        let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let canonical = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let mount = mounts::of(&fd)?;
        Ok(Self { fd: Arc::new(fd), path: canonical, mount })
    }

    /// Its absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mount that it lies in.
    #[must_use]
    pub fn mount(&self) -> &MountInfo {
        &self.mount
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The descriptor, to be shared with a thread.
    #[must_use]
    pub fn into_fd(self) -> Arc<OwnedFd> {
        self.fd
    }

    /// Whether something is mounted right here.
    #[must_use]
    pub fn is_mount_root(&self) -> bool {
        self.path == self.mount.mount_point
    }

    /// What stat(2) says, from a filesystem that is alive.
    #[must_use]
    pub fn stat(&self) -> Answer<Stat> {
        self.ask(|fd| {
            // The kernel remembers attributes of a dead FUSE mount, but nothing of statfs(2).
            rustix::fs::fstatfs(fd)?;
            rustix::fs::fstat(fd)
        })
    }

    /// Asks the filesystem something about this place, on a thread that is left behind if no
    /// answer comes in time.
    pub fn ask<T: Send + 'static>(
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

/// The error for a path that cannot be opened: if it lies under a dead mount, which one.
#[must_use]
pub fn unreachable(path: &Path, cause: io::Error) -> Error {
    if matches!(Errno::from_io_error(&cause), Some(Errno::NOTCONN | Errno::CONNABORTED)) {
        // The root of the dead mount can be opened, but nothing below it.
        let above = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        if let Some(place) = above.into_iter().find_map(|above| Place::open(above).ok()) {
            let MountInfo { mount_point, fs_type, .. } = place.mount;
            return Error::Dead { path: mount_point, fs_type };
        }
    }
    Error::Mountpoint(path.into(), cause)
}

/// What `work` returns, or `None` if it takes longer than `limit`; it goes on all the same.
/// Where no thread can be started for it, it takes as long as it takes.
pub fn within<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
    limit: Duration,
    work: W,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let (task, tasks) = mpsc::channel::<W>();
    let started = thread::Builder::new().spawn(move || {
        if let Ok(work) = tasks.recv() {
            // Nobody listens any more when the limit has passed.
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
