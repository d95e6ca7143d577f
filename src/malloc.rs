//! The allocator of the process.

/// Blocks of this many bytes and more are pages of their own, which the system has again when they
/// are freed: decoded spans and large replies. It is where glibc begins; but each such block that
/// is freed raises its limit to the size of that block, up to 32 MiB. Spans then lie between what
/// is small and stays, in an arena for each thread, and what they leave is lost: 106 to 176 MiB
/// where random rows of hundreds of archives are read, against 78, at the same speed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 128 << 10;

/// Arenas at most. Each takes 64 MiB of address space from its first block on, and glibc would make
/// eight of them for each core; under a limit of address space (ulimit -v) that is what is spent
/// first. What is large has pages of its own, and is not allocated in an arena.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 3;

/// Has freed spans go back to the system, and bounds the address space that small blocks take.
#[cfg(target_env = "gnu")]
pub fn give_back_spans() {
    // SAFETY: mallopt(3) takes two numbers, and no other thread has been started that allocates.
    let _is_set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES) & libc::mallopt(libc::M_ARENA_MAX, ARENAS)
    };
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_spans() {}

/// Gives back what is free in the middle of the heap. Takes a millisecond for some ten MiB.
#[cfg(target_env = "gnu")]
pub fn give_back_rest() {
    // SAFETY: malloc_trim(3) takes a number, and is safe to call from any thread.
    let _gave_some = unsafe { libc::malloc_trim(0) };
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_rest() {}
