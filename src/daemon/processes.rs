//! Finds the processes that serve a mount and those that use it, as far as /proc shows them.

use std::{
    ffi::OsString,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Dev, major, minor},
    process::{Pid, PidfdFlags},
};

use crate::mounts::MountInfo;

/// The most processes that a message names.
const MOST_NAMED: usize = 5;

/// The processes that serve a filesystem, as far as /proc shows them. Linux before 6.18 shows none,
/// and only root sees the processes of other users.
pub(super) fn servers(device: Dev) -> Vec<u32> {
    // The kernel's internal form of a device number, also the N in /sys/fs/fuse/connections/N.
    let connection = u64::from(major(device)) << 20 | u64::from(minor(device));
    all().filter(|&pid| serves(pid, connection)).collect()
}

fn serves(pid: u32, connection: u64) -> bool {
    entries(format!("/proc/{pid}/fd")).any(|fd| {
        let is_fuse = |path: PathBuf| path == Path::new("/dev/fuse");
        let Ok(true) = fs::read_link(format!("/proc/{pid}/fd/{}", fd.display())).map(is_fuse)
        else {
            return false;
        };
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.display()));
        info.unwrap_or_default().lines().any(|line| {
            line.strip_prefix("fuse_connection:")
                .is_some_and(|number| number.trim().parse() == Ok(connection))
        })
    })
}

/// The processes that keep a mount busy, each as "name (pid)". If there are more than five, the
/// last item is "and N more".
pub(super) fn users(mount: &MountInfo) -> Vec<String> {
    let mapped = format!(" {:02x}:{:02x} ", major(mount.device), minor(mount.device));
    let uses = |pid: u32| {
        let below = |link: String| {
            fs::read_link(link).is_ok_and(|target| target.starts_with(&mount.mount_point))
        };
        below(format!("/proc/{pid}/cwd"))
            || below(format!("/proc/{pid}/root"))
            || below(format!("/proc/{pid}/exe"))
            || entries(format!("/proc/{pid}/fd"))
                .any(|fd| below(format!("/proc/{pid}/fd/{}", fd.display())))
            || fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| {
                String::from_utf8_lossy(&maps).lines().any(|line| line.contains(&mapped))
            })
    };
    let mut users: Vec<String> = all()
        .filter(|&pid| uses(pid))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} ({pid})", name.trim().escape_debug())
        })
        .collect();
    if users.len() > MOST_NAMED {
        let more = users.len() - MOST_NAMED;
        users.truncate(MOST_NAMED);
        users.push(format!("and {more} more"));
    }
    users
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub(super) struct Process {
    pub pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// The process with the number `pid`, if it exists.
    pub(super) fn open(pid: u32) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let fd = rustix::process::pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    /// Waits for the end of the process. Returns whether it ended before `deadline`.
    pub(super) fn ends_before(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return true,
                // poll(2) failed, and there is no other way to wait.
                Err(_) => return false,
            }
        }
    }
}

/// The numbers of all processes.
fn all() -> impl Iterator<Item = u32> {
    entries("/proc".into()).filter_map(|name| name.to_str()?.parse().ok())
}

/// The names in a directory of /proc; none if the process has ended or the user may not read it.
fn entries(path: String) -> impl Iterator<Item = OsString> {
    fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()))
}
