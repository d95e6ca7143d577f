//! One mount, from the checks before mounting to the end of its server.

use std::{
    ffi::OsStr,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, mpsc::Sender},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::Dev;

use super::{
    Error, Event, Options,
    detach::{self, Mode},
    fusermount,
    kernel::{self, Detached},
    mountpoint::Mountpoint,
    options::Access,
    place::{self, Place},
    prepare::Prepared,
    processes, session,
};
use crate::{
    mounts::{self, MountInfo},
    tree::Tree,
};

/// Time that a new mount may take to answer. The source may be on a slow network filesystem.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// Time for which the server still answers programs that use a detached mount.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Time between two checks whether the session has ended.
const POLL: Duration = Duration::from_millis(5);

/// A mount, and the threads that serve it. Dropping this value unmounts.
pub(crate) struct Mount {
    path: PathBuf,
    source: PathBuf,
    /// The device number of the filesystem, while the mount is in the file tree.
    device: Option<Dev>,
    tree: Arc<Tree>,
    /// Whether the caller has mounted the filesystem. It is then not for us to unmount.
    is_given: bool,
    /// Set when the session has ended. `true` if the kernel has released the filesystem: its device
    /// number is then free, and the next mount may get that number.
    ended: Arc<OnceLock<bool>>,
}

impl Mount {
    /// Mounts with `options`, and returns when the mount answers. When the session ends, for
    /// whatever reason, `events` receives an [`Event::Ended`].
    ///
    /// # Errors
    /// When the source or the mountpoint cannot be used, or mounting is refused. Then nothing stays
    /// mounted.
    pub(crate) fn start(options: &Options, events: Sender<Event>) -> Result<Self, Error> {
        // The mountpoint comes first: `find` removes a dead mount, which may cover the source.
        let mountpoint = Mountpoint::find(&options.mountpoint)?;
        let prepared = Prepared::open(options, |source| mountpoint.check(source))?;
        let mut mount = Self::new(mountpoint.path().into(), &prepared);
        let name = options.fs_name.clone().unwrap_or_else(|| prepared.source.clone().into());
        let detached = match kernel::open_device() {
            Ok(device) => Detached::new(&device, &mount.path, &name, options)?
                .map(|detached| (device, detached))
                .ok_or(None),
            Err(error) => Err(Some(error)),
        };
        match detached {
            Ok((device, detached)) => {
                mount.serve(device, options.access, events)?;
                mount.show(detached, &mountpoint, options)?;
            }
            Err(refused) => {
                // The open descriptor would keep the mount busy if the mount had to be undone.
                drop(mountpoint);
                mount.with_fusermount(&name, options, events).map_err(|error| match refused {
                    // fusermount3 may open a device that this process may not open.
                    Some(refused) if error.is_about_the_device() => refused,
                    _ => error,
                })?;
            }
        }
        prepared.log_warnings();
        Ok(mount)
    }

    /// Serves a filesystem that the caller has mounted. `device` is its /dev/fuse, and `path` is
    /// what the caller calls it.
    ///
    /// # Errors
    /// When the source cannot be used, or the session cannot be started.
    pub(crate) fn serve_given(
        device: OwnedFd,
        path: &Path,
        options: &Options,
        events: Sender<Event>,
    ) -> Result<Self, Error> {
        let prepared = Prepared::open(options, |_| Ok(()))?;
        let mut mount = Self::new(path.into(), &prepared);
        mount.is_given = true;
        // The mount options of the caller say who may use it.
        mount.serve(device, Access::Everybody, events)?;
        prepared.log_warnings();
        Ok(mount)
    }

    fn new(path: PathBuf, prepared: &Prepared) -> Self {
        Self {
            path,
            source: prepared.source.clone(),
            device: None,
            tree: prepared.tree.clone(),
            is_given: false,
            ended: Arc::new(OnceLock::new()),
        }
    }

    /// The path of the mountpoint.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the source.
    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// Unmounts the filesystem, or detaches it if it is in use. The server of a detached filesystem
    /// then has `GRACE` to answer open requests. A filesystem that the caller has mounted stays,
    /// and gives errors from then on.
    ///
    /// # Errors
    /// When unmounting is refused.
    pub(crate) fn unmount(mut self) -> Result<(), Error> {
        if self.is_given {
            let tree = self.tree.clone();
            let _ = place::within(GRACE, move || tree.save_indexes());
            session::let_go_of_device();
            return Ok(());
        }
        let end = self.take_away()?;
        let limit = match end {
            // The session gives up saving before that.
            Mode::Ordinary => session::SAVING + GRACE,
            Mode::Lazy => GRACE,
        };
        if !self.ends_within(limit) {
            if end == Mode::Lazy {
                log::warn!(
                    "{} is still used after {} s; programs that use it will get errors",
                    self.path.display(),
                    limit.as_secs()
                );
                let tree = self.tree.clone();
                // A thread that is stuck in the source may hold a lock that saving needs.
                let _ = place::within(GRACE, move || tree.save_indexes());
            }
            session::let_go_of_device();
        }
        Ok(())
    }

    /// Starts the threads that answer the kernel.
    fn serve(&self, device: OwnedFd, access: Access, events: Sender<Event>) -> Result<(), Error> {
        session::start(self.tree.clone(), device, access, self.ended.clone(), events)
    }

    /// Waits until the mount answers, then moves it to its mountpoint.
    fn show(
        &mut self,
        detached: Detached,
        mountpoint: &Mountpoint,
        options: &Options,
    ) -> Result<(), Error> {
        let root = Arc::new(detached.mount(&self.path, options)?);
        let device = first_answer(&self.path, Arc::clone(&root))?;
        kernel::attach(&root, mountpoint.fd(), &self.path)?;
        self.device = Some(device);
        Ok(())
    }

    /// Mounts through fusermount3. The mount is then in the file tree before the server can answer.
    fn with_fusermount(
        &mut self,
        name: &OsStr,
        options: &Options,
        events: Sender<Event>,
    ) -> Result<(), Error> {
        let device = fusermount::mount(&self.path, name, options)?;
        let place = match Place::open(&self.path) {
            // A stand-in for fusermount3 in a pod may have made a mount without a subtype.
            Ok(place) if place.is_mount_root() && place.mount().is_fuse() => place,
            strange => {
                detach::unmount(&self.path, Mode::Lazy)?;
                let lost = || io::Error::other("the mount is not where fusermount3 made it");
                let cause = strange.err().unwrap_or_else(lost);
                return Err(Error::Mountpoint(self.path.clone(), cause));
            }
        };
        self.device = Some(place.mount().device);
        self.serve(device, options.access, events)?;
        first_answer(&self.path, place.into_fd())?;
        Ok(())
    }

    /// Unmounts this filesystem from all its mountpoints: it may have been moved, or bound to other
    /// places. Returns `Lazy` if one of its mounts was in use.
    fn take_away(&mut self) -> Result<Mode, Error> {
        let mut end = Mode::Ordinary;
        let Some(device) = self.device.take() else { return Ok(end) };
        if self.ended.get() == Some(&true) {
            return Ok(end);
        }
        let mounts = mounts::all()
            .map_err(|cause| Error::UnmountRefused {
                path: self.path.clone(),
                said: super::error::plain(&cause),
            })?
            .into_iter()
            .filter(|mount| mount.device == device && mount.is_fuse());
        for mount in mounts.collect::<Vec<_>>().into_iter().rev() {
            if let Mode::Lazy = take_away(&mount)? {
                end = Mode::Lazy;
            }
        }
        Ok(end)
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.ended.get().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            log::error!("{error}");
        }
    }
}

/// Waits until the root directory of a mount on `path` answers STATFS and GETATTR. Returns the
/// device number.
///
/// # Errors
/// When it answers with an error, or not within 30 s.
pub(super) fn first_answer(path: &Path, root: Arc<OwnedFd>) -> Result<Dev, Error> {
    let ask = move || {
        rustix::fs::fstatfs(&root)?;
        rustix::fs::fstat(&root)
    };
    match place::within(FIRST_ANSWER, ask) {
        Some(Ok(stat)) => Ok(stat.st_dev),
        Some(Err(errno)) => Err(Error::Mountpoint(path.into(), errno.into())),
        None => Err(Error::NoAnswer(path.into(), FIRST_ANSWER)),
    }
}

/// Unmounts one mount of this filesystem, lazily if it is in use.
fn take_away(mount: &MountInfo) -> Result<Mode, Error> {
    let path = &mount.mount_point;
    // The path leads to the topmost mount, which may be a different mount by now.
    match Place::open(path) {
        Ok(place) if place.mount().id != mount.id => {
            let said = format!("{} is mounted on top of it", place.mount().fs_type);
            return Err(Error::UnmountRefused { path: path.clone(), said });
        }
        // If the path cannot be opened, the unmount below reports why.
        _ => {}
    }
    match detach::unmount(path, Mode::Ordinary) {
        // Another process may have unmounted the filesystem in the meantime.
        Ok(()) | Err(Error::NotMounted(_)) => Ok(Mode::Ordinary),
        Err(Error::InUse { .. }) => {
            let mut users = processes::users(mount).join(", ");
            if !users.is_empty() {
                users = format!(" by {users}");
            }
            log::warn!("{} is in use{users}: detaching it", path.display());
            detach::unmount(path, Mode::Lazy).map(|()| Mode::Lazy)
        }
        Err(error) => Err(error),
    }
}
