//! Settings of glibc's allocator. Other allocators keep their settings.

/// Block size in bytes from which glibc maps each block separately. Such blocks (decoded spans and
/// large replies) return to the system when they are freed. glibc starts with the same size, but
/// raises it to the size of each such block that is freed, up to 32 MiB. Later spans then lie among
/// small blocks that stay allocated, and do not return to the system when they are freed.
/// While random rows of hundreds of archives were read, the process took 106 to 176 MiB without
/// this setting, and takes 78 with it, at the same speed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 128 << 10;

/// The most arenas. Each takes 64 MiB of address space from its first block on. glibc would make up
/// to eight arenas for each core, and a limit of address space (ulimit -v) may not leave room for
/// them. Large blocks are mapped separately, outside of arenas.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 3;

/// Makes freed spans return to the system, and bounds the address space of small blocks.
#[cfg(target_env = "gnu")]
pub fn give_back_spans() {
    // SAFETY: mallopt(3) takes two numbers, and no other thread that allocates has been started.
    let _is_set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES) & libc::mallopt(libc::M_ARENA_MAX, ARENAS)
    };
}

/// Does nothing: other allocators keep their settings.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_spans() {}

/// Returns free pages in the middle of the heap to the system. Takes about 1 ms for 10 MiB.
#[cfg(target_env = "gnu")]
pub fn give_back_rest() {
    // SAFETY: malloc_trim(3) takes a number, and is safe to call from any thread.
    let _gave_some = unsafe { libc::malloc_trim(0) };
}

/// Does nothing: other allocators keep their settings.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_rest() {}
