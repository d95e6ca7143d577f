//! Settings of glibc's allocator. Other allocators are left as they are.

/// Blocks of this size and larger, in bytes, are mapped by themselves, and go back to the system when
/// they are freed: decoded spans and large replies. glibc starts with the same limit, but raises it to
/// the size of each such block that is freed, up to 32 MiB. Later spans then lie among small blocks
/// that stay, and their memory is lost when they are freed: the process took 106 to 176 MiB where
/// random rows of hundreds of archives were read, and takes 78 with this limit, at the same speed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 128 << 10;

/// The most arenas. Each takes 64 MiB of address space from its first block on, and glibc would make up
/// to eight for each core, which a limit of address space (ulimit -v) does not leave room for. Large
/// blocks are mapped by themselves, outside of arenas.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 3;

/// Makes freed spans go back to the system, and bounds the address space of small blocks.
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

/// Gives free pages in the middle of the heap back to the system. Takes 1 ms for some ten MiB.
#[cfg(target_env = "gnu")]
pub fn give_back_rest() {
    // SAFETY: malloc_trim(3) takes a number, and is safe to call from any thread.
    let _gave_some = unsafe { libc::malloc_trim(0) };
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_rest() {}
