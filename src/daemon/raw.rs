//! System calls on descriptors and namespaces that have no safe wrapper.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::thread::UnshareFlags;

/// Closes those descriptors above 2 that this process was started with and for which `is_to_close`
/// returns `true`. To be called before anything else in the process opens a descriptor.
pub(super) fn close_inherited(is_to_close: impl Fn(RawFd) -> bool) {
    let numbers = |entries: std::fs::ReadDir| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        names.filter(|&number| number > 2).collect::<Vec<RawFd>>()
    };
    for number in std::fs::read_dir("/proc/self/fd").map(numbers).unwrap_or_default() {
        // One number is that of the list itself, which is closed by now.
        let is_open = std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
        if is_open && is_to_close(number) {
            // SAFETY: the descriptor is open, and by the contract of this function no value in this
            // process owns it.
            unsafe { rustix::io::close(number) };
        }
    }
}

/// Takes the descriptor `number` of /dev/fuse, with which this process was started. `None` if the
/// process has no such descriptor. To be called once.
pub(super) fn take_fuse_device(number: RawFd) -> Option<OwnedFd> {
    let to = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    if !to.ends_with("dev/fuse") {
        return None;
    }
    // SAFETY: the descriptor is open. No value in this process owns it: the process opens /dev/fuse
    // only to mount, and does not mount if it was started with a device.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves this process, which must have one thread only, into new namespaces.
///
/// # Errors
/// When unshare(2) fails.
pub(super) fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only the flag FILES is dangerous: threads would have different descriptors under one
    // number. Callers pass the flags of namespaces.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}
