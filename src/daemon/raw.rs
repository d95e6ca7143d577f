//! System calls on descriptors and namespaces that have no safe wrapper.

use std::os::fd::RawFd;

use rustix::thread::UnshareFlags;

/// Closes every descriptor above 2 that this process was started with. To be called before anything
/// else in the process opens a descriptor.
pub(super) fn close_inherited() {
    let numbers = |entries: std::fs::ReadDir| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        names.filter(|&number| number > 2).collect::<Vec<RawFd>>()
    };
    for number in std::fs::read_dir("/proc/self/fd").map(numbers).unwrap_or_default() {
        // One number is that of the list itself, which is closed by now.
        let is_open = std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
        if is_open {
            // SAFETY: the descriptor is open, and by the contract of this function no value in this
            // process owns it.
            unsafe { rustix::io::close(number) };
        }
    }
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
