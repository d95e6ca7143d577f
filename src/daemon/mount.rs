//! One mount, from the checks before it to the end of its server.

use std::{
    ffi::OsStr,
    fmt, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, mpsc::Sender},
    thread,
    time::{Duration, Instant},
};

use fuser::{Config, Session, SessionACL};
use rustix::fs::Dev;

use super::{
    Error, Event, Options, answering,
    detach::{self, Mode},
    fusermount,
    kernel::{self, Detached},
    mountpoint::Mountpoint,
    options::Access,
    place::{self, Place},
    processes,
    source::Source,
};
use crate::{
    fuse::{Npzfs, Relief, Watched},
    mounts::{self, MountInfo},
    saved::{Copies, Indexes},
    serve,
    tree::Tree,
};

/// How long a new mount may take to answer. A source on a slow network is worth waiting for.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// How long the server goes on for those who still use a mount that is out of sight.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How long a server may take to save its indexes once nobody uses the mount any more. Most take
/// a fraction of a second.
const SAVING: Duration = Duration::from_secs(60);

/// Descriptors that the kernel has room for from the start: 256 KiB of its memory.
const TABLE: u64 = (32 << 10) - 1;

/// Between two looks at something that tells no news by itself.
const POLL: Duration = Duration::from_millis(5);

/// A mount, and the threads that serve it. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    source: PathBuf,
    /// Set while it is in the file tree.
    device: Option<Dev>,
    /// Set while it is served.
    tree: Option<Arc<Tree>>,
    /// Set when the session has ended, to whether it was the kernel that let go of the filesystem.
    /// If so, its device number is free, and the next mount may get it.
    ended: Arc<OnceLock<bool>>,
}

impl Mount {
    /// Mounts as `options` say, and returns when the mount answers. When it is over, however that
    /// came, `events` gets an [`Event::Ended`].
    ///
    /// # Errors
    /// When the source or the mountpoint cannot be used, or mounting is refused. Nothing is left
    /// mounted then.
    pub fn start(options: &Options, events: Sender<Event>) -> Result<Self, Error> {
        let few_threads = few_threads(options.settings.serve.threads)?;
        raise_file_limit();
        // First the mountpoint: a dead mount on it may cover the source.
        let mountpoint = Mountpoint::find(&options.mountpoint)?;
        // Before mounting, too: it may lie where the mount will be.
        let mut warnings = Vec::new();
        let mut warn = |warning| warnings.push(warning);
        let indexes =
            open_kept(&options.index_dir, Indexes::open, "no indexes are saved", &mut warn);
        let copies =
            open_kept(&options.disk_cache, Copies::open, "no decoded copies are kept", &mut warn);
        let source = Source::open(&options.source)?;
        mountpoint.check(&source)?;
        let device = kernel::open_device()?;

        let mut mount = Self {
            path: mountpoint.path().into(),
            source: source.path.clone(),
            device: None,
            tree: None,
            ended: Arc::new(OnceLock::new()),
        };
        let mut settings = options.settings.clone();
        settings.serve = serve::Settings { indexes, copies, few_threads, ..settings.serve };
        if few_threads {
            settings.serve.threads = 1;
        }
        let tree = source
            .into_tree()
            .and_then(|source| Tree::new(source, settings))
            .map(Arc::new)
            .map_err(|cause| Error::Tree(options.source.clone(), cause))?;
        mount.tree = Some(tree.clone());
        let path = mount.source.clone();
        let name = options.fs_name.as_deref().unwrap_or(path.as_os_str());
        match Detached::new(&device, &mount.path, name, options)? {
            Some(detached) => {
                mount.serve(tree, device, options, events)?;
                mount.show(detached, &mountpoint, options)?;
            }
            None => {
                drop(device);
                // It would keep fusermount3's mount busy, should that have to be undone.
                drop(mountpoint);
                mount.with_fusermount(tree, name, options, events)?;
            }
        }
        // Without it everything works, only slower after the next mount. What keeps a mount from
        // being made is to be the one line that is said.
        for warning in warnings {
            log::warn!("{warning}");
        }
        Ok(mount)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is mounted.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Takes the mount away: out of sight if it is in use. Then its server has a few seconds to
    /// finish what is asked of it.
    ///
    /// # Errors
    /// When unmounting is refused.
    pub fn unmount(mut self) -> Result<(), Error> {
        let end = self.take_away()?;
        let limit = match end {
            Mode::Ordinary => SAVING,
            Mode::Lazy => GRACE,
        };
        if !self.ends_within(limit) {
            let (path, seconds) = (self.path.display(), limit.as_secs());
            match end {
                Mode::Ordinary => {
                    log::warn!("{path}: saving its indexes takes over {seconds} s: given up")
                }
                Mode::Lazy => log::warn!(
                    "{path} is still used after {seconds} s; those who use it will get errors"
                ),
            }
            if let (Mode::Lazy, Some(tree)) = (end, self.tree.clone()) {
                // What hangs in the source may hold what saving needs.
                let _ = place::within(GRACE, move || tree.save_indexes());
            }
            if let Err(cause) = answering::let_go() {
                log::debug!("the device was not let go of: {cause}");
            }
        }
        Ok(())
    }

    /// Starts the threads that answer the kernel.
    fn serve(
        &self,
        tree: Arc<Tree>,
        device: OwnedFd,
        options: &Options,
        events: Sender<Event>,
    ) -> Result<(), Error> {
        let duplicate = || {
            device
                .try_clone()
                .map_err(|cause| Error::Setup("another descriptor of the device", cause))
        };
        let mut config = Config::default();
        let threads = if tree.settings().serve.few_threads { 1 } else { threads() };
        config.n_threads = Some(threads);
        // Requests read through a cloned descriptor are aborted when it is closed, so that a
        // server could not be replaced under a mount (docs/architecture.md).
        config.clone_fd = false;
        let acl = match options.access {
            Access::Owner => SessionACL::Owner,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Everybody => SessionACL::All,
        };
        let filesystem = Npzfs::new(tree, duplicate()?);
        let (cache, requests) = (filesystem.cache(), filesystem.requests());
        let first = Watched::new(filesystem);
        let (joined, ending) = (first.joined(), first.joined());
        let (watched, relieving) = (duplicate()?, duplicate()?);
        let session = Session::from_fd(first, device, acl, config).map_err(Error::Session)?;
        cache
            .start(session.notifier())
            .map_err(|cause| Error::Setup("the thread that drops listings", cause))?;
        let more = More {
            filesystem: joined,
            device: relieving,
            acl,
            ended: self.ended.clone(),
            events: events.clone(),
            is_refused: false,
        };
        requests
            .watch(watched, threads, more)
            .map_err(|cause| Error::Setup("the thread that looks after requests", cause))?;
        let ended = Arc::clone(&self.ended);
        let run = move || {
            let result = session.run();
            ending.end();
            // Other descriptors of the device are open, and nobody is to wait for an answer.
            if result.is_err()
                && let Err(cause) = answering::let_go()
            {
                log::debug!("the device was not let go of: {cause}");
            }
            let _ = ended.set(result.is_ok()); // or the mount was given up meanwhile
            // Whoever started the mount may have lost interest.
            let _ = events.send(Event::Ended(result));
        };
        thread::Builder::new()
            .name("session".into())
            .spawn(run)
            .map_err(|cause| Error::Setup("the thread that serves the mount", cause))?;
        Ok(())
    }

    /// Moves a mount to its mountpoint when it has answered.
    fn show(
        &mut self,
        detached: Detached,
        mountpoint: &Mountpoint,
        options: &Options,
    ) -> Result<(), Error> {
        let root = Arc::new(detached.mount(&self.path, options)?);
        let device = self.first_answer(Arc::clone(&root))?;
        kernel::attach(&root, mountpoint.fd(), &self.path)?;
        self.device = Some(device);
        Ok(())
    }

    /// Mounts through fusermount3, which can only mount where all see it.
    fn with_fusermount(
        &mut self,
        tree: Arc<Tree>,
        name: &OsStr,
        options: &Options,
        events: Sender<Event>,
    ) -> Result<(), Error> {
        let device = fusermount::mount(&self.path, name, options)?;
        let place = match Place::open(&self.path) {
            Ok(place) if place.mount().is_npzfs() => place,
            strange => {
                detach::unmount(&self.path, Mode::Lazy)?;
                let lost = || io::Error::other("the mount is not where fusermount3 made it");
                let cause = strange.err().unwrap_or_else(lost);
                return Err(Error::Mountpoint(self.path.clone(), cause));
            }
        };
        self.device = Some(place.mount().device);
        self.serve(tree, device, options, events)?;
        self.first_answer(place.into_fd())?;
        Ok(())
    }

    /// Waits for an answer to STATFS and GETATTR of the root, and says which device it is.
    fn first_answer(&self, root: Arc<OwnedFd>) -> Result<Dev, Error> {
        let ask = move || {
            rustix::fs::fstatfs(&root)?;
            rustix::fs::fstat(&root)
        };
        match place::within(FIRST_ANSWER, ask) {
            Some(Ok(stat)) => Ok(stat.st_dev),
            Some(Err(errno)) => Err(Error::Mountpoint(self.path.clone(), errno.into())),
            None => Err(Error::NoAnswer(self.path.clone(), FIRST_ANSWER)),
        }
    }

    /// Unmounts wherever this filesystem is mounted: it may have been moved, or bound elsewhere.
    /// Lazily, it says, if somebody uses it.
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
            .filter(|mount| mount.device == device && mount.is_npzfs());
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

/// Threads that answer at most, all of them together.
const MOST_THREADS: usize = 64;

/// Threads that are added at a time: an address space of 16 MiB each.
const MORE_THREADS: usize = 8;

/// Helps a mount whose requests are stuck in the source.
struct More {
    filesystem: Watched,
    device: OwnedFd,
    acl: SessionACL,
    ended: Arc<OnceLock<bool>>,
    events: Sender<Event>,
    /// Whether there were no more threads to be had.
    is_refused: bool,
}

impl Relief for More {
    fn answer(&mut self, threads: usize) -> usize {
        let more = MORE_THREADS.min(MOST_THREADS.saturating_sub(threads));
        if more == 0 || self.is_refused {
            return 0;
        }
        match answering::join(self.filesystem.joined(), &self.device, self.acl, more) {
            Ok(()) => {
                log::info!("all {threads} threads wait for the source: {more} more answer");
                more
            }
            Err(cause) => {
                self.is_refused = true;
                log::warn!("all {threads} threads wait for the source, and no more start: {cause}");
                0
            }
        }
    }

    fn serve(&mut self, is_old: bool) {
        self.filesystem.relieve(is_old);
    }

    fn give_up(&mut self) {
        log::warn!("the mount is gone, and requests still wait for the source: they are given up");
        let filesystem = self.filesystem.joined();
        let _ = place::within(GRACE, move || filesystem.end());
        let _ = self.ended.set(true); // it is empty: the session waits for its threads
        // Whoever started the mount may have lost interest.
        let _ = self.events.send(Event::Ended(Ok(())));
    }
}

/// Unmounts one mount of ours, lazily if it is in use.
fn take_away(mount: &MountInfo) -> Result<Mode, Error> {
    let path = &mount.mount_point;
    // A path leads to the mount on top: that may be another one by now.
    match Place::open(path) {
        Ok(place) if place.mount().id != mount.id => {
            let said = format!("{} is mounted on top of it", place.mount().fs_type);
            return Err(Error::UnmountRefused { path: path.clone(), said });
        }
        // What is wrong with the path, unmounting it will tell.
        _ => {}
    }
    match detach::unmount(path, Mode::Ordinary) {
        // Somebody else was faster.
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

/// Opens a directory of files that are kept from one mount to the next, if there is to be one. If
/// it cannot be used, `warn` gets the reason, which begins with `failure`.
fn open_kept<T, E: fmt::Display>(
    directory: &Option<(PathBuf, u64)>,
    open: impl FnOnce(&Path, u64) -> Result<T, E>,
    failure: &str,
    warn: &mut impl FnMut(String),
) -> Option<Arc<T>> {
    let (path, size) = directory.as_ref().filter(|(_, size)| *size > 0)?;
    open(path, *size)
        .map_err(|error| warn(format!("{failure} in {}: {error}", path.display())))
        .ok()
        .map(Arc::new)
}

/// Every archive in use is an open file, and 1024, the usual limit, is for programs that call
/// select(2).
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files stays: {errno}");
    }
    // The table of descriptors doubles when it is full, and in a program with several threads the
    // kernel waits some 10 ms each time until none of them can see the old one. So it gets the
    // size that it will have once: opening 2,000 archives took 75 ms, and takes 30.
    let last = TABLE.min(limit.current.unwrap_or(TABLE).saturating_sub(1)) as i32;
    if let Err(errno) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), last) {
        log::debug!("the table of descriptors stays as small as it is: {errno}");
    }
}

/// Threads beside those that decode and answer: two that decode whole members, two that open archives
/// of many members, one each that
/// replies, saves, copies, compares, drops listings, looks after requests, waits for the session, and
/// waits for what may hang; and two to spare.
const OTHER_THREADS: usize = 14;

/// Threads that a mount cannot do without: one that decodes, one that answers, one each that drops
/// listings, looks after requests, waits for the session, and waits for what may hang; and one to
/// spare, for the kernel counts a thread for a moment after its end.
const LEAST_THREADS: usize = 7;

/// Whether as many threads as a mount likes to have cannot be started (TasksMax=, pids.max, ulimit
/// -u), by starting them. What comes later has no error of its own to tell: fuser, half started, serves.
fn few_threads(decoders: usize) -> Result<bool, Error> {
    let wanted = decoders + threads() + OTHER_THREADS;
    let gate = Mutex::new(());
    let allowed = thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || drop(gate.lock());
        let start = |_| thread::Builder::new().spawn_scoped(scope, wait).ok();
        let started: Vec<_> = (0..wanted).map_while(start).collect();
        drop(closed);
        let allowed = started.len();
        // The scope waits for the closures alone, and the threads are counted until they end.
        for thread in started {
            let _ = thread.join(); // it cannot panic
        }
        allowed
    });
    if allowed < LEAST_THREADS {
        return Err(Error::Threads { allowed, least: LEAST_THREADS });
    }
    if allowed < wanted {
        log::warn!(
            "only {allowed} more threads can be started, and {wanted} are wanted: it is slower"
        );
    }
    Ok(allowed < wanted)
}

/// How many threads read requests from the kernel. Decoding is not their work, but copying is: out
/// of the page cache, on two cores, one of them moved 1.6 GB/s, two 2.4 and four 3.0. More than
/// eight is for machines that have shown to need it.
fn threads() -> usize {
    thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 8))
}

#[cfg(test)]
mod tests;
