//! Errors of mounting and unmounting. Each message is one line, and most messages include advice.

use std::{
    ffi::OsString,
    fmt, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

pub(super) use crate::archive::plain;

/// Why a mount could not be made or taken away.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The source could not be opened.
    Source(PathBuf, io::Error),
    /// The source is a device, a socket or the like.
    SourceKind(PathBuf),
    /// The source was opened, but no tree can be made from it.
    Tree(PathBuf, io::Error),
    /// The file of `--while-locked` could not be opened or locked.
    LockFile(PathBuf, io::Error),
    /// The mountpoint is /dev/fd/N, but this is no descriptor of /dev/fuse.
    GivenDevice(PathBuf),
    /// The mountpoint does not exist, and neither does the directory that it would lie in.
    MountpointMissing(PathBuf),
    /// The mountpoint is not a directory.
    MountpointNotDirectory(PathBuf),
    /// The mountpoint holds files that the mount would hide.
    MountpointNotEmpty(PathBuf),
    /// The mountpoint cannot be used for a reason other than those above.
    Mountpoint(PathBuf, io::Error),
    /// A filesystem is already mounted on the mountpoint.
    MountpointBusy {
        /// The mountpoint.
        path: PathBuf,
        /// Type of the mounted filesystem.
        fs_type: String,
        /// Source of the mounted filesystem.
        source: String,
    },
    /// The mount at `path` is dead: its server has ended.
    Dead {
        /// Mountpoint of the dead mount, or a path in it.
        path: PathBuf,
        /// Type of the mounted filesystem.
        fs_type: String,
    },
    /// The server of the mount at `path` does not answer.
    Hung {
        /// Mountpoint of that mount, or a path in it.
        path: PathBuf,
        /// Type of the mounted filesystem.
        fs_type: String,
    },
    /// The mountpoint lies inside the source.
    Inside {
        /// The directory that lies inside `source`.
        mountpoint: PathBuf,
        source: PathBuf,
    },
    /// The server in the background ended before its mount answered, and wrote no error.
    ServerDied(ExitStatus),
    /// /dev/fuse could not be opened.
    FuseDevice(io::Error),
    /// There is no fusermount3, and mounting without it is not permitted.
    NoFusermount,
    /// fusermount3 could not be run.
    Fusermount(io::Error),
    /// fusermount3 refused allow_other or allow_root.
    AllowOtherRefused,
    /// fusermount3 or the kernel refused to mount.
    Refused {
        mountpoint: PathBuf,
        /// Message of fusermount3 or of the kernel.
        said: String,
    },
    /// The filesystem was mounted on this path, but did not answer within this time.
    NoAnswer(PathBuf, Duration),
    /// The FUSE session with the kernel failed.
    Session(io::Error),
    /// A thread, a signal handler or the like could not be set up.
    Setup(&'static str, io::Error),
    /// Fewer threads can be started than a mount needs.
    Threads {
        /// Number of threads that can be started.
        allowed: usize,
        /// Number of threads that a mount needs.
        least: usize,
    },
    /// The log file could not be opened.
    LogFile(PathBuf, io::Error),
    /// Nothing is mounted at the path that is to be unmounted.
    NotMounted(PathBuf),
    /// The path that is to be unmounted lies inside a mount.
    NotMountRoot {
        /// The path that is to be unmounted.
        path: PathBuf,
        /// Mountpoint of the mount that contains the path.
        mount_point: PathBuf,
    },
    /// The filesystem that is mounted at `path` is not npzfs.
    NotNpzfs {
        /// The mountpoint.
        path: PathBuf,
        /// Type of the mounted filesystem.
        fs_type: String,
    },
    /// The mount is in use.
    InUse {
        /// The mountpoint.
        path: PathBuf,
        /// Processes that use the mount, if they are known.
        holders: Vec<String>,
    },
    /// Unmounting was refused.
    UnmountRefused {
        /// The mountpoint.
        path: PathBuf,
        /// The reason, in most cases the message of the kernel or of fusermount3.
        said: String,
    },
    /// The mount is gone, but its server still runs.
    ServerStays {
        /// Path at which the filesystem was mounted.
        path: PathBuf,
        /// Process number of the server.
        pid: u32,
    },
    /// `npzfs run` cannot cover this source: it is a file, or the root directory.
    RunSource(PathBuf),
    /// `npzfs run` gets no private namespace; the line says why.
    Namespace(String),
    /// The directory of `--writable` cannot take writes. The line says why, and what to do.
    Writable(PathBuf, String),
    /// The server of `npzfs run` reported this error.
    RunServer(String),
    /// The server of `npzfs run` ended without a report.
    RunServerDied,
    /// The working directory of the command cannot be entered through the mount.
    Directory(PathBuf, io::Error),
    /// The command of `npzfs run` could not be run.
    Command(OsString, io::Error),
}

/// Displays a path on one line, with its control characters escaped.
pub(super) struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        if text.chars().any(char::is_control) { write!(f, "{text:?}") } else { f.write_str(&text) }
    }
}

impl Error {
    /// Whether fusermount3 failed for want of /dev/fuse, or is missing.
    pub(super) fn is_about_the_device(&self) -> bool {
        match self {
            Error::NoFusermount => true,
            // The texts of libfuse 3 and 2.
            Error::Refused { said, .. } => {
                said.contains("device not found") || said.contains("/dev/fuse")
            }
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Source(path, cause) => source_line(f, path, cause),
            Error::SourceKind(path) => write!(
                f,
                "the source {} is neither a directory nor a file; give a directory or one .npz \
                 file",
                Shown(path)
            ),
            Error::Tree(path, cause) => write!(
                f,
                "cannot use the source {}: {}; give a directory or one .npz file",
                Shown(path),
                plain(cause)
            ),
            Error::LockFile(path, cause) => {
                write!(f, "cannot lock {} (--while-locked): {}", Shown(path), plain(cause))
            }
            Error::GivenDevice(path) => write!(
                f,
                "{} is no open descriptor of /dev/fuse; start npzfs with the one that is mounted",
                Shown(path)
            ),
            Error::MountpointMissing(path) => write!(
                f,
                "the mountpoint {0} does not exist, nor does its directory; create it with: mkdir -p \
                 {0}",
                Shown(path)
            ),
            Error::MountpointNotDirectory(path) => {
                write!(f, "the mountpoint {} is not a directory; give an empty one", Shown(path))
            }
            Error::MountpointNotEmpty(path) => write!(
                f,
                "the mountpoint {} is not empty; mount on an empty directory, or over the source \
                 itself",
                Shown(path)
            ),
            Error::Mountpoint(path, cause) => write!(
                f,
                "cannot use the mountpoint {}: {}; check its path and permissions",
                Shown(path),
                plain(cause)
            ),
            Error::MountpointBusy { path, fs_type, source } => write!(
                f,
                "the mountpoint {0} is busy: {fs_type} of {source} is mounted there; unmount it \
                 first, with: {1} {0}",
                Shown(path),
                if fs_type == crate::mounts::FS_TYPE { "npzfs unmount" } else { "umount" }
            ),
            Error::Dead { path, fs_type } => write!(
                f,
                "{0} is a dead mount of type {fs_type} (Transport endpoint is not connected); \
                 clear it with: {1} {0}",
                Shown(path),
                if fs_type == crate::mounts::FS_TYPE {
                    "npzfs unmount --lazy"
                } else {
                    "fusermount3 -u -z"
                }
            ),
            Error::Hung { path, fs_type } => write!(
                f,
                "{0} is a mount of type {fs_type} that does not answer; wait for its server, or \
                 clear it with: {1} --lazy {0}",
                Shown(path),
                if fs_type == crate::mounts::FS_TYPE { "npzfs unmount" } else { "umount" }
            ),
            Error::Inside { mountpoint, source } => write!(
                f,
                "the mountpoint {} lies inside the source {}, and the mount would contain itself; \
                 mount outside of it, or over the source itself",
                Shown(mountpoint),
                Shown(source)
            ),
            Error::ServerDied(status) => match status.signal() {
                Some(signal) => {
                    write!(f, "the server was killed by signal {signal} before its mount answered")
                }
                None => write!(f, "the server ended before its mount answered ({status})"),
            },
            Error::FuseDevice(cause) => fuse_device_line(f, cause),
            Error::NoFusermount => f.write_str(
                "fusermount3 is not in PATH, and only root may do without it; install the package \
                 fuse3, or mount as root, in a container with --cap-add SYS_ADMIN",
            ),
            Error::Fusermount(cause) => {
                write!(f, "cannot run fusermount3: {}; reinstall the package fuse3", plain(cause))
            }
            Error::AllowOtherRefused => f.write_str(
                "allow_other and allow_root are refused to users here; add the line \
                 user_allow_other to /etc/fuse.conf as root, or mount without them",
            ),
            Error::Refused { mountpoint, said } => refused_line(f, mountpoint, said),
            Error::NoAnswer(path, waited) => write!(
                f,
                "mounted on {}, but the mount did not answer within {} s and was taken away; see \
                 whether the source answers",
                Shown(path),
                waited.as_secs()
            ),
            Error::Session(cause) => {
                write!(f, "the conversation with the kernel failed: {}", plain(cause))
            }
            Error::Threads { allowed, least } => write!(
                f,
                "only {allowed} more threads can be started, and {least} are needed; raise TasksMax= of \
                 the service, pids.max of the container, or ulimit -u"
            ),
            Error::Setup(what, cause) => write!(f, "cannot set up {what}: {}", plain(cause)),
            Error::LogFile(path, cause) => write!(
                f,
                "cannot write the log file {}: {}; give another --log-file",
                Shown(path),
                plain(cause)
            ),
            Error::NotMounted(path) => {
                write!(f, "nothing is mounted at {}; see: findmnt -t fuse.npzfs", Shown(path))
            }
            Error::NotMountRoot { path, mount_point } => write!(
                f,
                "{} is no mountpoint, it lies in the mount at {1}; to unmount that: npzfs unmount \
                 {1}",
                Shown(path),
                Shown(mount_point)
            ),
            Error::NotNpzfs { path, fs_type } => write!(
                f,
                "what is mounted at {0} is not npzfs but {fs_type}; to unmount it: umount {0}",
                Shown(path)
            ),
            Error::InUse { path, holders } => {
                write!(f, "{} is in use", Shown(path))?;
                if !holders.is_empty() {
                    write!(f, " by {}", holders.join(", "))?;
                }
                write!(f, "; end that, or detach it with: npzfs unmount --lazy {}", Shown(path))
            }
            Error::UnmountRefused { path, said } => write!(
                f,
                "cannot unmount {}: {said}; unmount as the user who mounted it, or as root",
                Shown(path)
            ),
            Error::RunSource(path) => write!(
                f,
                "{} cannot be covered by a mount of itself; give the directory with the archives",
                Shown(path)
            ),
            Error::Namespace(line) | Error::RunServer(line) => f.write_str(line),
            Error::Writable(path, said) => write!(f, "writes cannot go to {}: {said}", Shown(path)),
            Error::RunServerDied => f.write_str(
                "the server of the command ended before its mount answered; see dmesg for whether \
                 it was killed for want of memory",
            ),
            Error::Directory(path, cause) => write!(
                f,
                "the working directory {} cannot be entered through the mount: {}",
                Shown(path),
                plain(cause)
            ),
            Error::Command(name, cause) => {
                write!(f, "cannot run {}: {}", Shown(Path::new(name)), plain(cause))
            }
            Error::ServerStays { path, pid } => write!(
                f,
                "{} is unmounted here, but its server (process {pid}) still runs: it is stuck, or \
                 another mount namespace holds the mount; to end it: kill {pid}",
                Shown(path)
            ),
        }
    }
}

fn source_line(f: &mut fmt::Formatter<'_>, path: &Path, cause: &io::Error) -> fmt::Result {
    let path = Shown(path);
    match cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT) => {
            write!(f, "the source {path} does not exist; check the path")
        }
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => write!(
            f,
            "the source {path} is not readable by this user; change its permissions, or mount as \
             a user who may read it"
        ),
        Some(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED) => write!(
            f,
            "the source {path} lies on a dead mount (Transport endpoint is not connected); clear \
             that with fusermount3 -u -z, and mount it again"
        ),
        _ => write!(f, "cannot open the source {path}: {}; check the path", plain(cause)),
    }
}

fn fuse_device_line(f: &mut fmt::Formatter<'_>, cause: &io::Error) -> fmt::Result {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => f.write_str(
            "/dev/fuse may not be opened by this user; as root: chmod 666 /dev/fuse, or in a \
             container: run it with --device /dev/fuse",
        ),
        _ => write!(
            f,
            "/dev/fuse cannot be opened ({}); as root: modprobe fuse, or in a container: run it \
             with --device /dev/fuse",
            plain(cause)
        ),
    }
}

fn refused_line(f: &mut fmt::Formatter<'_>, mountpoint: &Path, said: &str) -> fmt::Result {
    let advice = if said.contains("write access") || said.contains("not owned") {
        "; mount on a directory of your own"
    } else if said.contains("too many FUSE") {
        "; unmount some, or raise mount_max in /etc/fuse.conf as root"
    } else if said.contains("Operation not permitted") {
        "; mount as root, and in a container run it with --cap-add SYS_ADMIN --device /dev/fuse"
    } else {
        ""
    };
    write!(f, "cannot mount on {}: {said}{advice}", Shown(mountpoint))
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Source(_, cause)
            | Error::Tree(_, cause)
            | Error::LockFile(_, cause)
            | Error::Mountpoint(_, cause)
            | Error::FuseDevice(cause)
            | Error::Fusermount(cause)
            | Error::Session(cause)
            | Error::Setup(_, cause)
            | Error::Directory(_, cause)
            | Error::Command(_, cause)
            | Error::LogFile(_, cause) => Some(cause),
            _ => None,
        }
    }
}
